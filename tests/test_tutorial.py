"""Every command of docs/tutorial.md, in its order, with what it prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest

from axlebox.export.cli import cli as axlebox_cli
from axlebox.runtime.cli import cli as axleboxd_cli

DOCS = Path(__file__).resolve().parents[1] / "docs"
UNTIL_STOPPED = "   # until Ctrl-C"
PATIENCE_S = 120


@dataclass(frozen=True)
class Step:
    """A command of the tutorial, and what it says that the command prints; `...` is anything."""

    command: str
    printed: str


def steps(page: str) -> list[Step]:
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, printed = part.partition("\n")
            found.append(Step(command, printed))
    return found


def matches(expected: str, printed: str) -> bool:
    """As doctest's ELLIPSIS: the pieces between the dots, in order."""
    pattern = ".*".join(re.escape(piece.strip("\n")) for piece in expected.split("..."))
    return re.search(pattern, printed, re.S) is not None


def test_what_a_step_prints_is_compared() -> None:
    assert matches("run ...: trained\n...\n", "x\nrun 12: trained on 5\n  and more\n")
    assert not matches("run ...: trained\n", "run 12: not")


_NO_NETWORK = """
import fcntl, socket, struct, sys
# An empty network namespace has a loopback interface that is down.
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))
print("ready", flush=True)
sys.stdin.read()
"""

_NO_SOCKETS = """
_connect = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the tutorial must not need {address}")
    return _connect(self, address)
socket.socket.connect = connect
def getaddrinfo(host, *rest, _ask=socket.getaddrinfo, **more):
    if host not in (None, "", "127.0.0.1", "::1", "localhost", "0.0.0.0", socket.gethostname()):
        raise OSError(f"the tutorial must not ask for {host}")
    return _ask(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
"""


@dataclass(frozen=True)
class AirGap:
    """What a command is started with so that it has no network but the loopback interface."""

    prefix: tuple[str, ...]
    environment: dict[str, str]


@pytest.fixture
def air_gap(tmp_path: Path) -> Iterator[AirGap]:
    """An empty network namespace where the machine lets us make one, else a Python that refuses to connect."""
    with subprocess.Popen(
        ["unshare", "-rn", sys.executable, "-c", _NO_NETWORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        if holder.stdout.readline() == b"ready\n":
            yield AirGap(("nsenter", "-t", str(holder.pid), "-U", "-n", "--preserve-credentials"), {})
            holder.stdin.close()
            return
    blocked = tmp_path / "no-sockets"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(_NO_SOCKETS)
    path = os.pathsep.join([str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])])
    yield AirGap((), {"PYTHONPATH": path})


class Shell:
    """The reader's terminal: a folder and an environment that commands go on from."""

    def __init__(self, folder: Path, home: Path, gap: AirGap) -> None:
        self.folder = folder
        self._prefix = gap.prefix
        home.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "HOME": str(home), **gap.environment}

    def run(self, step: Step) -> None:
        word, _, rest = step.command.partition(" ")
        if word == "cd":
            self.folder /= rest
        elif word == "export":
            name = rest.partition("=")[0]
            told = self._bash(f'{step.command} && printf %s "${name}"')
            self.environment[name] = told.stdout
        elif step.command.endswith(UNTIL_STOPPED):
            self._serve(step.command.removesuffix(UNTIL_STOPPED))
        else:
            done = self._bash(step.command)
            printed = done.stdout + done.stderr
            assert done.returncode == 0, f"{step.command}: {done.returncode}\n{printed}"
            assert matches(step.printed, printed), f"{step.command} printed\n{printed}"

    def _bash(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._prefix, "bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            text=True,
            check=False,
            capture_output=True,
        )

    def _serve(self, command: str) -> None:
        """Start what ends with Ctrl-C only, wait until its page is there, and end it with all its children."""
        wanted = re.search(r"--port (\d+)", command)
        assert wanted, command
        server = subprocess.Popen(
            [*self._prefix, "bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ask = [*self._prefix, sys.executable, "-c", _ASK, wanted[1]]
        try:
            until = monotonic() + PATIENCE_S
            while subprocess.run(ask, check=False).returncode:
                assert server.poll() is None and monotonic() < until, f"{command}: no page"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


_ASK = """
import sys, time, urllib.request
try:
    sys.exit(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/", timeout=60).status != 200)
except OSError:  # it does not listen yet
    time.sleep(0.2)
    sys.exit(1)
"""


def test_a_command_of_the_tutorial_has_no_network(tmp_path: Path, air_gap: AirGap) -> None:
    """Else the next test would prove nothing. 192.0.2.1 is nobody's (RFC 5737)."""
    shell = Shell(tmp_path, tmp_path / "home", air_gap)
    connect = f"{sys.executable} -c \"import socket; socket.create_connection(('192.0.2.1', 9), timeout=60)\""
    with pytest.raises(AssertionError, match=r"unreachable|must not"):
        shell.run(Step(connect, ""))


def test_every_command_of_the_tutorial_works_without_a_network(
    tmp_path: Path, talks_readings: Path | None, air_gap: AirGap
) -> None:
    for extra in ("kedro_viz", "mlflow.server", "IPython"):
        pytest.importorskip(extra, reason="the tutorial needs the extra ui")
    page = (DOCS / "tutorial.md").read_text()
    shell = Shell(tmp_path, tmp_path / "home", air_gap)
    if talks_readings is not None:
        shutil.copy(talks_readings, tmp_path / "temps.csv")
    else:
        (simulated,) = re.findall(r"^    (axlebox simulate .*)$", page, re.M)
        shell.run(Step(simulated, ""))
    for step in steps(page):
        shell.run(step)
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(axleboxd? [^`]*)`", (DOCS / "talk.md").read_text()))))
def test_every_command_that_answers_a_pain_is_there(command: str) -> None:
    program, *words = command.split()
    group: object = {"axlebox": axlebox_cli, "axleboxd": axleboxd_cli}[program]
    options: set[str] = set()
    for word in words:
        if hasattr(group, "get_command"):
            group = group.get_command(None, word)
            assert group is not None, f"{command}: there is no {word}"
            options = {one for parameter in group.params for one in parameter.opts}
        elif word.startswith("--"):
            assert word in options, f"{command}: there is no {word}"
