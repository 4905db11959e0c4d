"""Whether the vehicle stands in maintenance: only a plain yes in time is a yes."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import NotInMaintenance
from axlebox.runtime.config import Maintenance
from axlebox.runtime.maintenance import check_maintenance

PATIENCE_S = 10.0
"""Only a check that hangs takes this long."""


def script(folder: Path, text: str) -> str:
    path = folder / "vehicle-state"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def refusal(**rule: Any) -> str:
    with pytest.raises(NotInMaintenance) as refused:
        check_maintenance(Maintenance(**rule))
    assert refused.value.exit_code == 21
    return str(refused.value)


def test_without_a_rule_it_always_does() -> None:
    check_maintenance(Maintenance())


def test_the_file_says_so_while_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "in-maintenance"
    assert f"{file} is not there" in refusal(file=str(file))
    file.touch()
    check_maintenance(Maintenance(file=str(file)))


@pytest.mark.parametrize("file", ["/dev/null/x", "/\0"])
def test_a_file_that_cannot_be_looked_at_says_no(file: str) -> None:
    assert "cannot be looked at" in refusal(file=file)


def test_the_command_says_so_by_ending_with_0(tmp_path: Path) -> None:
    check_maintenance(Maintenance(command=(script(tmp_path, 'test "$1" = maintenance'), "maintenance")))
    assert "ended with 1:" in refusal(command=(script(tmp_path, 'test "$1" = maintenance'), "driving"))


def test_file_and_command_must_both_say_yes(tmp_path: Path) -> None:
    yes = ("/bin/true",)
    assert "is not there" in refusal(file=str(tmp_path / "no"), command=yes)
    assert "ended with 1" in refusal(file=str(tmp_path), command=("/bin/false",))
    check_maintenance(Maintenance(file=str(tmp_path), command=yes))


def test_a_command_that_is_ended_by_a_signal_says_no(tmp_path: Path) -> None:
    assert "ended with -9" in refusal(command=(script(tmp_path, "kill -9 $$"),))


def test_a_command_that_cannot_be_called_says_no(tmp_path: Path) -> None:
    assert "cannot be called: No such file" in refusal(command=(str(tmp_path / "missing"),))
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    assert "cannot be called: Permission denied" in refusal(command=(str(plain),))
    plain.chmod(0o755)
    plain.write_bytes(b"\0not a program")
    assert "cannot be called: Exec format error" in refusal(command=(str(plain),))
    assert "cannot be called" in refusal(command=("/bin/true", "\0"))


def test_a_command_that_is_too_slow_is_killed_with_its_children(tmp_path: Path) -> None:
    """The write end of a FIFO stays open as long as one of them lives."""
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    began = monotonic()
    command = (script(tmp_path, f"exec 3>{fifo}; sleep 600 & echo begun >&3; sleep 600"),)
    assert "took longer than 0.5 s" in refusal(command=command, timeout_s=0.5)
    assert monotonic() - began < PATIENCE_S
    assert os.read(reader, 100) == b"begun\n"
    assert select.select([reader], [], [], PATIENCE_S)[0]
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_children_that_keep_its_outputs_open_hold_nobody_up(tmp_path: Path) -> None:
    """They are in a session of their own, where no signal to the command reaches them."""
    pids = tmp_path / "pid"
    began = monotonic()
    check_maintenance(Maintenance(command=(script(tmp_path, f"setsid sleep 600 & echo $! >{pids}"),)))
    assert monotonic() - began < PATIENCE_S
    os.kill(int(pids.read_text()), 9)


def test_the_command_gets_nothing_of_the_caller_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its environment nor its folder nor its input: a stick's folder must not choose what runs."""
    monkeypatch.setenv("LD_PRELOAD_OF_THE_STICK", "x")
    monkeypatch.chdir(tmp_path)
    told = tmp_path / "told"
    asks = f"import os, sys; open({str(told)!r}, 'w').write(repr((sorted(os.environ), os.getcwd(), sys.stdin.read())))"
    check_maintenance(Maintenance(command=(sys.executable, "-I", "-c", asks)))
    names, folder, read = eval(told.read_text())
    assert set(names) <= {"PATH", "LC_CTYPE"}
    assert (folder, read) == ("/", "")


def test_a_program_of_the_caller_s_folder_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "exit 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("vehicle-state", "./vehicle-state"):
        assert "cannot be called: No such file" in refusal(command=(name,))


def test_no_shell_reads_the_words(tmp_path: Path) -> None:
    check_maintenance(Maintenance(command=("/bin/true", f"; touch {tmp_path}/x", f"$(touch {tmp_path}/y)")))
    assert list(tmp_path.iterdir()) == []
