"""The systemd unit: systemd accepts it, and its start limit leaves room for the tries of a trial."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.state import write_state
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.runtime.probation import LIVED_S
from axlebox.runtime.unit import unit_text

NOW = datetime(2026, 4, 1, tzinfo=UTC)
DATA = Path("/var/lib/axlebox")
READINGS = Path("/run/readings")
ODD = '/var/lib/a "b" 100%n $HOME \\x'


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(text)
    return unit


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """systemd looks whether it is there and may be executed."""
    path = tmp_path / "axleboxd"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_command_prints_a_unit_for_its_data_folder(run: Any, tmp_path: Path) -> None:
    ended = run("unit", "--input", "/run/readings")
    assert (ended.code, ended.err) == (0, "")
    unit = parsed(ended.out)
    assert unit.sections() == ["Unit", "Service", "Install"]
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "axleboxd" and Path(program).is_absolute()
    assert words == ["run", "--source", "stdin:", "--data", str(tmp_path / "data")]
    assert unit["Service"]["StandardInput"] == "file:/run/readings"
    assert unit["Service"]["ReadWritePaths"] == str(tmp_path / "data")
    assert unit["Service"]["User"] == "axlebox"


def test_a_path_is_one_word_whatever_is_in_it(program: Path) -> None:
    service = parsed(unit_text(program, Path(ODD), Path(ODD)))["Service"]
    words = shlex.split(service["ExecStart"])
    doubled = ODD.replace("%", "%%")
    assert words == [str(program), "run", "--source", "stdin:", "--data", doubled.replace("$", "$$")]
    assert service["StandardInput"] == f"file:{doubled}"
    assert shlex.split(service["ReadWritePaths"]) == [doubled]


def test_a_device_may_be_read_and_no_other_one(program: Path) -> None:
    """systemd opens it when the bounds of DevicePolicy stand already."""
    service = parsed(unit_text(program, DATA, Path("/dev/serial/by-id/axles")))["Service"]
    assert (service["DevicePolicy"], service["DeviceAllow"]) == ("closed", "/dev/serial/by-id/axles r")
    assert "DeviceAllow" not in unit_text(program, DATA, READINGS)


def test_a_path_with_a_line_end_is_refused(program: Path) -> None:
    with pytest.raises(UsageError, match="no path in a unit may"):
        unit_text(program, Path("/var/lib/a\nExecStartPre=/bin/sh"), READINGS)


@pytest.mark.parametrize("words", [["verify", "--man=no"], ["security", "--offline=true", "--threshold=15"]])
@pytest.mark.parametrize(("data", "readings"), [(DATA, Path("/dev/ttyS0")), (Path(ODD), Path(ODD))])
def test_systemd_accepts_it(program: Path, tmp_path: Path, words: list[str], data: Path, readings: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here")
    file = tmp_path / "axleboxd.service"
    file.write_text(unit_text(program, data, readings))
    done = subprocess.run(["systemd-analyze", *words, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "axleboxd" not in done.stderr


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
    text = unit_text(Path("/usr/bin/axleboxd"), DATA, READINGS)
    on_trial = dying.vehicle.state()
    for dies_after_s in range(int(LIVED_S)):
        assert versions_until_1_runs(dying, StartLimit(text), dies_after_s) == [2, 2, 2, 1]
        on_trial = write_state(
            dying.vehicle.data, msgspec.structs.replace(on_trial, generation=dying.vehicle.state().generation)
        )


def test_there_is_room_for_two_trials_in_a_row(world: Any, dying: Starter) -> None:
    """A technician tries once more, in the window that the first trial began."""
    limit = StartLimit(unit_text(Path("/usr/bin/axleboxd"), DATA, READINGS))
    for _ in range(2):
        assert versions_until_1_runs(dying, limit, 0) == [2, 2, 2, 1]
        world.install(dying.vehicle, world.bundle(2))


def test_with_a_smaller_burst_systemd_would_give_up_first(dying: Starter) -> None:
    """So that the model, and with it the test above, can fail."""
    limit = StartLimit(unit_text(Path("/usr/bin/axleboxd"), DATA, READINGS))
    limit.burst = 3
    assert versions_until_1_runs(dying, limit, 0) == [2, 2, 2]


@pytest.mark.parametrize("dies_after_s", [0, LIVED_S - 1])
def test_a_confirmed_release_that_dies_over_and_over_is_stopped_in_the_end(dies_after_s: float) -> None:
    limit = StartLimit(unit_text(Path("/usr/bin/axleboxd"), DATA, READINGS))
    now, starts = 1000.0, 0
    while starts < 1000 and limit.allows(now):
        starts += 1
        now += dies_after_s + limit.restart_s
    assert starts == limit.burst
