"""The systemd unit: it fits the configuration, systemd accepts it, and its start limit leaves room for a trial."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.state import write_state
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.runtime.config import Config
from axlebox.runtime.probation import LIVED_S
from axlebox.runtime.unit import PRE_START_S, unit_text

PATIENCE_S = 60
"""Only a process that hangs takes this long."""
NOW = datetime(2026, 4, 1, tzinfo=UTC)
DATA = Path("/var/lib/axlebox")
PROGRAM = Path("/usr/bin/axleboxd")
ODD = '/var/lib/a "b" 100%n $HOME \\x'

CAN = {"dbc": "/etc/axlebox/vehicle.dbc", "signals": {"engine": "ET1.EngCoolantTemp"}}
LAMP = "lamp:/sys/class/leds/axlebox/brightness"
TOPICS = {"vehicle/+/temperature": ""}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hwmon": {"source": "hwmon:", "hwmon": {"sensors": {"gearbox": "/sys/class/hwmon/hwmon*/temp1_input"}}},
    "can": {"source": "can:", "can": CAN},
    "can, serial": {"source": "can:", "can": {**CAN, "interface": "slcan", "channel": "/dev/ttyUSB0"}},
    "mqtt, on this box": {"source": "mqtt:", "mqtt": {"topics": TOPICS}},
    "mqtt, an address": {"source": "mqtt:", "mqtt": {"topics": TOPICS, "host": "192.0.2.7"}},
    "mqtt, remote": {"sinks": ["mqtt:"], "mqtt": {"host": "broker.example"}},
    "prometheus": {"sinks": ["prometheus:9464"]},
    "prometheus, for all": {"sinks": ["prometheus:9464"], "metrics": {"address": "0.0.0.0"}},
    "journald": {"sinks": ["journald:"]},
    "lamp": {"sinks": [LAMP], "lamp": {"status_file": "/run/axlebox/lamp.txt"}},
    "files": {"sinks": ["file:/data/events/all.jsonl", "textfile:/run/axlebox-metrics/axlebox.prom"]},
    "all": {
        "source": "can:",
        "sinks": ["mqtt:", "prometheus:9464", LAMP],
        "can": CAN,
        "mqtt": {"host": "broker.example"},
    },
}


def config(**differs: Any) -> Config:
    """A configuration whose source is a FIFO, where nothing else is said."""
    return msgspec.convert({"source": "fifo:/run/readings", **differs}, Config)


def text(**differs: Any) -> str:
    return unit_text(PROGRAM, DATA, config(**differs))


def service(**differs: Any) -> configparser.SectionProxy:
    return parsed(text(**differs))["Service"]


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(text)
    return unit


def writable(**differs: Any) -> set[str]:
    """What it may write to: a folder that is missing prevents no start."""
    folders = re.findall(r"^ReadWritePaths=-(.*)$", text(**differs), re.M)
    return {*folders, *(f"/run/{name}" for name in service(**differs)["RuntimeDirectory"].split())}


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def print_unit(run: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`axleboxd unit` of a program that is installed, for a configuration in a file; the tests' folder is no trap."""
    monkeypatch.setattr(sys, "executable", "/opt/axlebox/bin/python")
    monkeypatch.setattr("axlebox.runtime.needs._HIDDEN", (Path("/dev"),))
    return lambda *words: run("unit", *words)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo.toml"
    path.write_text('source = "fifo:/run/readings"')
    return path


def test_the_command_prints_a_unit_for_its_configuration(print_unit: Any, fifo: Path, tmp_path: Path) -> None:
    ended = print_unit("--config", fifo)
    assert (ended.code, ended.err) == (0, "")
    unit = parsed(ended.out)
    assert unit.sections() == ["Unit", "Service", "Install"]
    data = str(tmp_path / "data")
    assert shlex.split(unit["Service"]["ExecStart"]) == [
        "/opt/axlebox/bin/axleboxd",
        *("run", "--data", data, "--config", str(fifo)),
    ]
    assert unit["Service"]["ReadWritePaths"] == f"-{data}"
    assert unit["Service"]["User"] == "axlebox"
    assert parsed(print_unit("--config", fifo, "--user", "boxes").out)["Service"]["User"] == "boxes"


def test_without_config_it_is_the_data_folders_own(print_unit: Any, fifo: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    fifo.rename(tmp_path / "data/config.toml")
    ended = print_unit()
    assert "fifo:/run/readings" in ended.out
    assert "--config" not in ended.out


def test_a_configuration_that_cannot_be_used_is_refused(print_unit: Any, fifo: Path) -> None:
    fifo.write_text('surce = "fifo:/run/readings"')
    ended = print_unit("--config", fifo)
    assert (ended.code, ended.out) == (2, "")
    assert "did you mean source?" in ended.err


def test_a_fifo_as_input_is_refused_since_the_pre_start_would_open_it_too(print_unit: Any) -> None:
    ended = print_unit("--input", "/run/readings")
    assert ended.code == 2
    assert ended.err.endswith('DO: source = "fifo:/run/readings", if it is a FIFO\n')
    assert print_unit("--input", "/dev/ttyS0").code == 0


def test_standard_input_of_a_service_is_no_source(print_unit: Any) -> None:
    ended = print_unit()
    assert ended.code == 2
    assert "--input DEVICE" in ended.err


@pytest.mark.parametrize("name", ["", "a b", "x\nExecStart=/bin/sh", "%n", "-x"])
def test_what_is_no_name_of_a_user_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a user"):
        unit_text(PROGRAM, DATA, config(), user=name)


@pytest.mark.parametrize("place", ["/home/me", "/root", "/run/user/1000", "/tmp", "/var/tmp", "/var/../home/me"])
def test_what_the_service_would_not_see_is_refused_in_words(run: Any, monkeypatch: Any, place: str) -> None:
    for differs in (
        {"source": f"follow:{place}/readings.csv"},
        {"sinks": [f"file:{place}/events.jsonl"]},
        {"sinks": [LAMP], "lamp": {"status_file": f"{place}/lamp.txt"}},
        {"source": "hwmon:", "hwmon": {"sensors": {"a": f"{place}/temp*"}}},
        {"source": "can:", "can": {**CAN, "dbc": f"{place}/vehicle.dbc"}},
        {"sinks": ["mqtt:"], "mqtt": {"ca_file": f"{place}/ca.pem"}},
    ):
        with pytest.raises(UsageError, match="which the service does not see"):
            text(**differs)
    monkeypatch.setattr(sys, "executable", f"{place}/bin/python")
    ended = run("unit", "--input", "/dev/ttyS0", "--data", DATA)
    assert ended.code == 2
    assert ended.err.startswith("axleboxd: the program: ")


def test_what_a_configuration_names_and_does_not_use_is_not_looked_at() -> None:
    text(
        can={**CAN, "dbc": "/home/me/vehicle.dbc"}, mqtt={"ca_file": "/home/me/ca.pem"}, lamp={"status_file": "/tmp/x"}
    )


@pytest.mark.parametrize("uri", ["file:readings.csv", "follow:../readings.csv"])
def test_a_path_that_depends_on_where_one_stands_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="not a whole path"):
        text(source=uri)


@pytest.mark.parametrize("uri", ["stdin", "fifo:", "nonsense:", "can:x"])
def test_a_source_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match="is none of"):
        text(source=uri)


# -- words of the unit ----------------------------------------------------------------------------


def test_a_path_is_one_word_whatever_is_in_it(program: Path) -> None:
    odd = config(
        sinks=[f"lamp:{ODD}/lamp", f"file:{ODD}/events/all.jsonl"],
        lamp={"on": 'a "b"', "status_file": f"{ODD}/l/l.txt"},
    )
    found = parsed(unit_text(program, Path(ODD), odd, Path(ODD), Path(f"/dev{ODD}")))["Service"]
    doubled = ODD.replace("%", "%%")
    word = doubled.replace("$", "$$")
    assert shlex.split(found["ExecStart"]) == [
        str(program),
        *("run", "--source", "stdin:", "--data", word, "--config", word),
    ]
    assert shlex.split(found["ExecStartPre"]) == [f"-{program}", "selftest", "--data", word]
    assert shlex.split(found["ExecStopPost"]) == [
        *(f"-{program}", "lamp-on", f"{word}/lamp", "--on", 'a "b"', "--status-file", f"{word}/l/l.txt")
    ]
    assert found["StandardInput"] == f"file:/dev{doubled}"
    assert shlex.split(found["DeviceAllow"]) == [f"/dev{doubled}", "r"]


def test_a_data_folder_that_systemd_does_not_make_may_be_written(program: Path) -> None:
    found = parsed(unit_text(program, Path(ODD), config()))["Service"]
    assert shlex.split(found["ReadWritePaths"]) == [f"-{ODD}".replace("%", "%%")]
    assert "StateDirectory" not in found
    assert service()["StateDirectory"] == "axlebox"


@pytest.mark.parametrize("name", ["source", "sinks"])
def test_a_comment_has_no_second_line(name: str) -> None:
    uri = "file:/srv/a\nExecStartPre=/bin/sh"
    with pytest.raises(UsageError, match="no path in a unit may"):
        text(**{name: uri if name == "source" else [uri]})


def test_a_device_may_be_read_and_no_other_one(program: Path) -> None:
    """systemd opens it when the bounds of DevicePolicy stand already."""
    found = parsed(unit_text(program, DATA, config(), device=Path("/dev/serial/by-id/axles")))["Service"]
    assert (found["DevicePolicy"], found["DeviceAllow"]) == ("closed", "/dev/serial/by-id/axles r")
    assert found["PrivateDevices"] == "yes"
    assert "DeviceAllow" not in service()


@pytest.mark.parametrize("end", ["\nExecStartPre=/bin/sh", "\\", " "])
def test_what_would_end_or_prolong_a_line_is_refused(end: str) -> None:
    with pytest.raises(UsageError, match="no path in a unit may"):
        unit_text(PROGRAM, Path(f"/var/lib/a{end}"), config())
    with pytest.raises(UsageError, match="no path in a unit may"):
        unit_text(PROGRAM, DATA, config(), device=Path(f"/dev/a{end}"))


# -- what the configuration needs, and only that --------------------------------------------------

NETWORK = ("PrivateNetwork", "RestrictAddressFamilies", "IPAddressDeny", "IPAddressAllow")
SILENT = ("yes", "AF_UNIX", "any", None)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        *((name, SILENT) for name in ("plain", "hwmon", "journald", "lamp", "files", "can, serial")),
        ("can", ("no", "AF_UNIX AF_CAN", "any", None)),
        ("mqtt, on this box", ("no", "AF_UNIX AF_INET AF_INET6", "any", "localhost")),
        ("mqtt, an address", ("no", "AF_UNIX AF_INET AF_INET6", "any", "192.0.2.7")),
        ("mqtt, remote", ("no", "AF_UNIX AF_INET AF_INET6", None, None)),
        ("prometheus", ("no", "AF_UNIX AF_INET AF_INET6", "any", "localhost")),
        ("prometheus, for all", ("no", "AF_UNIX AF_INET AF_INET6", None, None)),
        ("all", ("no", "AF_UNIX AF_CAN AF_INET AF_INET6", None, None)),
    ],
)
def test_the_network_is_there_for_those_who_need_it(variant: str, expected: tuple[str | None, ...]) -> None:
    found = service(**VARIANTS[variant])
    assert tuple(found.get(name) for name in NETWORK) == expected


@pytest.mark.parametrize(
    ("host", "allowed"),
    [("127.0.0.5", "localhost"), ("::1", "localhost"), ("2001:db8::7", "2001:db8::7"), ("fe80::1%eth0", "fe80::1")],
)
def test_a_broker_by_address_is_the_only_one_that_can_be_reached(host: str, allowed: str) -> None:
    assert service(sinks=["mqtt:"], mqtt={"host": host})["IPAddressAllow"] == allowed


def test_a_broker_elsewhere_does_not_shut_out_who_fetches_here() -> None:
    found = service(sinks=["mqtt:", "prometheus:9464"], mqtt={"host": "192.0.2.7"})
    assert found["IPAddressAllow"] == "192.0.2.7 localhost"


def test_settings_of_what_is_not_used_need_nothing() -> None:
    found = service(can=CAN, mqtt={"host": "broker.example"}, metrics={"address": "0.0.0.0"})
    assert tuple(found.get(name) for name in NETWORK) == SILENT


@pytest.mark.parametrize(
    ("variant", "folders"),
    [
        ("plain", {"/run/axlebox"}),
        ("lamp", {"/run/axlebox", "/sys/class/leds/axlebox/brightness"}),
        ("files", {"/run/axlebox", "/run/axlebox-metrics", "/data/events"}),
    ],
)
def test_beside_the_data_folder_only_the_sinks_folders_can_be_written(variant: str, folders: set[str]) -> None:
    assert writable(**VARIANTS[variant]) == folders


def test_a_folder_of_run_with_an_odd_name_is_left_to_others() -> None:
    """RuntimeDirectory would take a space or a colon for an end of the name."""
    odd = text(sinks=["textfile:/run/a b/axlebox.prom", "file:/run/c:d/all.jsonl"])
    assert 'ReadWritePaths="-/run/a b"\nReadWritePaths=-/run/c:d\n' in odd
    assert "RuntimeDirectory=axlebox\n" in odd


@pytest.mark.parametrize("uri", ["file:/events.jsonl", "textfile:/run/a.prom", "file:/var/lib/a", "file:/etc/../usr/a"])
def test_a_folder_of_the_system_is_not_opened_for_one_file(uri: str) -> None:
    with pytest.raises(UsageError, match="a folder of its own"):
        text(sinks=[uri])


def test_a_serial_can_adapter_is_the_only_device() -> None:
    found = service(**VARIANTS["can, serial"])
    assert (found["DevicePolicy"], found["DeviceAllow"]) == ("closed", "/dev/ttyUSB0 rw")
    assert (found["PrivateDevices"], found["SupplementaryGroups"]) == ("no", "dialout")
    with pytest.raises(UsageError, match=r"DO: use socketcan, or a channel below /dev"):
        text(source="can:", can={**CAN, "interface": "pcan", "channel": "PCAN_USBBUS1"})


@pytest.mark.parametrize(("uri", "restart"), [("file:/srv/a.csv", "on-failure"), ("follow:/srv/a.csv", "always")])
def test_a_replay_that_ended_in_order_does_not_begin_anew(uri: str, restart: str) -> None:
    assert service(source=uri)["Restart"] == restart


def test_memory_is_what_the_daemon_allows_itself_and_room_for_a_self_test() -> None:
    assert service()["MemoryMax"] == "256M"
    assert service(health={"max_memory_mib": 300})["MemoryMax"] == "396M"


def test_a_stop_does_not_end_a_self_test_and_memory_ends_only_one_process() -> None:
    """A self-test that a signal ended has failed: the daemon would drop a good release."""
    assert (service()["KillMode"], service()["OOMPolicy"]) == ("mixed", "continue")


# -- systemd's own opinion ------------------------------------------------------------------------


@pytest.fixture
def analyze(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`systemd-analyze` about a unit."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")

    def function(text: str, *words: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "axleboxd.service"
        file.write_text(text)
        command = ["systemd-analyze", *words, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    return function


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that runs this axleboxd; systemd looks whether it is there and may be executed."""
    path = tmp_path / "axleboxd"
    path.write_text(f"#!{sys.executable}\nfrom axlebox.runtime.cli import main\n\nmain()\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("device", [None, Path("/dev/ttyS0")])
def test_systemd_has_nothing_to_say_of_it(analyze: Any, program: Path, variant: str, device: Path | None) -> None:
    done = analyze(unit_text(program, DATA, config(**VARIANTS[variant]), device=device), "verify", "--man=no")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_has_nothing_to_say_of_odd_paths(analyze: Any, program: Path) -> None:
    odd = config(sinks=[f"lamp:{ODD}/lamp", f"file:{ODD}/events/all.jsonl"], lamp={"status_file": "/run/a b/lamp.txt"})
    done = analyze(unit_text(program, Path(ODD), odd, Path(ODD), Path(f"/dev{ODD}")), "verify", "--man=no")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_say_something_of_a_misspelt_key(analyze: Any, program: Path) -> None:
    """So that the two tests above can fail."""
    done = analyze(unit_text(program, DATA, config()).replace("WatchdogSec", "WatchdogSecs"), "verify", "--man=no")
    assert "WatchdogSecs" in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exposure_is_at_most_1_5(analyze: Any, program: Path, variant: str) -> None:
    done = analyze(
        unit_text(program, DATA, config(**VARIANTS[variant])), "security", "--offline=true", "--threshold=15"
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


# -- as systemd would start it --------------------------------------------------------------------


@pytest.fixture
def vehicle(world: Any, tmp_path: Path) -> Vehicle:
    """Release 1 is confirmed, release 2 on trial."""
    box = Vehicle.provision(tmp_path / "data", world.root(), Identity("TRAIN-204", "edge-1"))
    world.install(box, world.bundle(1))
    world.confirm(box)
    world.install(box, world.bundle(2))
    return box


Call = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def call(vehicle: Vehicle, program: Path) -> Call:
    """Calls a command of the unit for the vehicle, with two readings on standard input; `before` stands before it."""
    found = parsed(unit_text(program, vehicle.data, config(), device=Path("/dev/null")))["Service"]
    variables = dict(word.split("=", 1) for word in re.findall(r"[A-Z_]+=\S+", found["Environment"]))

    def function(key: str, *before: str) -> subprocess.CompletedProcess[bytes]:
        words = shlex.split(found[key].removeprefix("-"))
        readings = b"2026-04-01T00:00:00,100\n2026-04-01T00:01:00,300\n"
        environment = {**os.environ, **variables}
        return subprocess.run(
            [*before, *words], input=readings, env=environment, capture_output=True, check=False, timeout=PATIENCE_S
        )

    return function


def test_the_pre_start_verifies_the_release_and_costs_no_try(call: Call, vehicle: Vehicle) -> None:
    before = {path: path.stat().st_mtime_ns for path in vehicle.data.rglob("*")}
    done = call("ExecStartPre")
    assert (done.returncode, done.stdout) == (0, b"self-test OK 20/20: bearing-temp 2\n")
    assert {path: path.stat().st_mtime_ns for path in vehicle.data.rglob("*")} == before
    assert vehicle.state().started is None


def test_a_release_that_hangs_in_the_pre_start_is_ended(run: Any, vehicle: Vehicle, monkeypatch: Any) -> None:
    """systemd would end the whole start instead, over and over, and no other release would have its turn."""
    monkeypatch.setattr("axlebox.runtime.selftest.TIMEOUT_S", 0.001)
    ended = run("selftest", "--data", vehicle.data)
    assert ended.code == 31
    assert "took longer than" in ended.err


def test_a_damaged_release_is_told_by_the_pre_start_and_does_not_prevent_the_start(
    call: Call, vehicle: Vehicle, program: Path
) -> None:
    trial = vehicle.state().trial
    assert trial is not None
    model = vehicle.slot(trial) / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    done = call("ExecStartPre")
    assert done.returncode == 12
    assert b"model.onnx differs" in done.stderr
    assert parsed(unit_text(program, DATA, config()))["Service"]["ExecStartPre"].startswith("-")
    done = call("ExecStart")
    assert done.returncode == 0
    assert done.stdout.count(b'"raised"') == 1
    assert vehicle.state().trial is None


def test_where_everything_but_the_data_folder_is_read_only_it_runs(call: Call, vehicle: Vehicle) -> None:
    """As on a box with a read-only root. The data folder is a mount of its own, like that of StateDirectory."""
    data = shlex.quote(str(vehicle.data))
    prepare = f"mount --bind {data} {data} && mount -o remount,bind,ro /"
    shell = [shutil.which("unshare") or "", "--mount", "sh", "-c"]
    refused = not shell[0] or subprocess.run([*shell, prepare], capture_output=True, check=False).returncode
    if refused:
        pytest.skip("no file system may be mounted here")
    probe = subprocess.run([*shell, f"{prepare} && touch {data}/../elsewhere"], capture_output=True, check=False)
    assert b"Read-only" in probe.stderr
    for key in ("ExecStartPre", "ExecStart"):
        done = call(key, *shell, f'{prepare} && exec "$0" "$@"')
        assert done.returncode == 0, done.stderr
        assert b"Read-only" not in done.stderr
    assert b'"raised"' in done.stdout
    assert (vehicle.data / "store.db").exists()


def _filter() -> set[str]:
    """The calls that the unit's SystemCallFilter lets through, by systemd's own lists."""

    def calls(name: str) -> set[str]:
        done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
        words = {line.strip() for line in done.stdout.splitlines()[1:] if not line.strip().startswith("#")}
        return {one for word in words for one in (calls(word) if word.startswith("@") else {word})}

    return calls("@system-service") - calls("@privileged")


@pytest.mark.parametrize("key", ["ExecStartPre", "ExecStart"])
def test_every_system_call_passes_the_filter(call: Call, tmp_path: Path, key: str) -> None:
    strace, log = shutil.which("strace"), tmp_path / "calls.log"
    if strace is None or not shutil.which("systemd-analyze"):
        pytest.skip("strace or systemd-analyze is not here")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    done = call(key, strace, "-f", "-qq", "-o", str(log))
    assert done.returncode == 0, done.stderr
    used = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.M))
    assert {"execve", "mmap", "read"} <= used
    roots_alone = {"fchown"} if os.geteuid() == 0 else set()  # sqlite gives its journal the database's owner
    assert used - roots_alone - _filter() == set()


# -- the lamp at the end --------------------------------------------------------------------------


def test_at_the_end_each_lamp_is_switched_on_without_the_configuration(program: Path, tmp_path: Path) -> None:
    """Where it was killed, and where the configuration or the data folder is what is broken."""
    lamp, words = tmp_path / "brightness", tmp_path / "lamp.txt"
    lamp.write_text("0")
    line = shlex.join([str(program), "lamp-on", str(lamp), "--on", "255", "--status-file", str(words)])
    settings = {"on": "255", "status_file": "/srv/s/lamp.txt"}
    unit = unit_text(program, DATA, config(sinks=["lamp:/srv/l/a", "lamp:/srv/l/b"], lamp=settings))
    for name in "ab":
        end = f"{program} lamp-on /srv/l/{name} --on 255 --status-file /srv/s/lamp.txt"
        assert f"ExecStopPost=-{end}\n" in unit
    done = subprocess.run(shlex.split(line), capture_output=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert lamp.read_text() == "255\n"
    assert words.read_text() == "axlebox does not watch. DO: tell maintenance\n"
    assert "ExecStopPost" not in text()


def test_a_lamp_that_is_not_there_is_told_in_words(run: Any, tmp_path: Path) -> None:
    ended = run("lamp-on", tmp_path / "brightness")
    assert ended.code == 2
    assert "No such file" in ended.err


# -- the start limit ------------------------------------------------------------------------------


class StartLimit:
    """systemd's: at most StartLimitBurst starts in a window that begins with its first (ratelimit.c)."""

    def __init__(self, text: str) -> None:
        unit = parsed(text)
        self.interval_s = float(unit["Unit"]["StartLimitIntervalSec"])
        self.burst = int(unit["Unit"]["StartLimitBurst"])
        self.restart_s = float(unit["Service"]["RestartSec"])
        assert unit["Service"]["Restart"] == "always"
        self._began, self._count = float("-inf"), 0

    def allows(self, now: float) -> bool:
        if now - self._began > self.interval_s:
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= self.burst


@pytest.fixture
def starter(world: Any, tmp_path: Path) -> Starter:
    """A vehicle with release 1 confirmed."""
    vehicle = Vehicle.provision(tmp_path / "data", world.root(), Identity("T204", "rail-box-a"))
    world.install(vehicle, world.bundle(1))
    world.confirm(vehicle)
    return Starter(vehicle, "this boot", world.runtime, lambda slot: "20/20")


def versions_until_1_runs(starter: Starter, limit: StartLimit, dies_after_s: float, at_most: int = 100) -> list[int]:
    """Which releases start, one after the other, until release 1 does or systemd gives up."""
    now, started = 1000.0, []
    while len(started) < at_most and 1 not in started and limit.allows(now):
        started.append(starter.start(Occasion(NOW, lambda line: None)).manifest.version)
        now += dies_after_s + limit.restart_s
    return started


@pytest.fixture
def dying(world: Any, starter: Starter) -> Starter:
    """... and release 2 on trial, which dies."""
    world.install(starter.vehicle, world.bundle(2))
    return starter


def test_a_release_that_dies_early_is_given_up_before_systemd_gives_up(dying: Starter) -> None:
    text_of_unit = text()
    on_trial = dying.vehicle.state()
    for dies_after_s in range(int(LIVED_S)):
        assert versions_until_1_runs(dying, StartLimit(text_of_unit), dies_after_s) == [2, 2, 2, 1]
        on_trial = write_state(
            dying.vehicle.data, msgspec.structs.replace(on_trial, generation=dying.vehicle.state().generation)
        )


def test_there_is_room_for_two_trials_in_a_row(world: Any, dying: Starter) -> None:
    """A technician tries once more, in the window that the first trial began."""
    limit = StartLimit(text())
    for _ in range(2):
        assert versions_until_1_runs(dying, limit, 0) == [2, 2, 2, 1]
        world.install(dying.vehicle, world.bundle(2))


def test_with_a_smaller_burst_systemd_would_give_up_first(dying: Starter) -> None:
    """So that the model, and with it the test above, can fail."""
    limit = StartLimit(text())
    limit.burst = 3
    assert versions_until_1_runs(dying, limit, 0) == [2, 2, 2]


@pytest.mark.parametrize("dies_after_s", [0, LIVED_S - 1])
def test_a_confirmed_release_that_dies_over_and_over_is_stopped_in_the_end(dies_after_s: float) -> None:
    limit = StartLimit(text())
    now, starts = 1000.0, 0
    while starts < 1000 and limit.allows(now):
        starts += 1
        now += PRE_START_S + dies_after_s + limit.restart_s
    assert starts == limit.burst
