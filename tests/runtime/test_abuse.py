"""What a daemon meets in years: garbage, silence, floods, full disks, clocks. None of it ends the scoring."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.runtime import stored
from axlebox.runtime.control import ask_status
from tests.runtime.conftest import AXLEBOXD

PATIENCE_S = 120
GOOD = b"2026-04-01T00:00:00,100\n"


@pytest.fixture
def vehicle(world: Any, tmp_path: Path) -> Vehicle:
    box = Vehicle.provision(tmp_path / "data", world.root(), Identity("TRAIN-204", "edge-1"))
    world.install(box, world.bundle())
    return box


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(vehicle: Vehicle) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str, **how: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([*AXLEBOXD, "run", "--data", str(vehicle.data), *words], **{**pipes, **how})
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        with contextlib.suppress(ValueError):
            process.communicate()


def status(
    vehicle: Vehicle, process: subprocess.Popen[bytes], reached: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The daemon's status once it is so."""
    began = monotonic()
    while True:
        found = ask_status(vehicle.data)
        if found is not None and reached(found):
            return found
        assert process.poll() is None, "it ended"
        assert monotonic() - began < PATIENCE_S, found
        sleep(0.02)


def give(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def time(second: float) -> str:
    return f"2026-04-01T{int(second // 3600):02}:{int(second // 60 % 60):02}:{second % 60:06.3f}"


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a process ever took."""
    (line,) = [one for one in Path(f"/proc/{process.pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_garbage_is_counted_and_sampled_into_the_log_and_good_lines_among_it_are_scored(
    start: Start, vehicle: Vehicle
) -> None:
    dice = random.Random(4)
    process = start()
    good = 0
    for number in range(400):
        noise = dice.randbytes(4000).replace(b"\n", b"")
        give(process, noise + b"\n" + f"{time(number)},100\n".encode() + b'{"time":' + b"\n" * (number % 3))
        good += number % 3 > 0
    found = status(vehicle, process, lambda one: one["statuses"].get("ok", 0) >= good)
    out, err = process.communicate(b"\n" + f"{time(500)},900\n".encode(), timeout=PATIENCE_S)
    assert process.returncode == 0
    assert found["statuses"]["invalid"] >= 400
    assert [json.loads(line)["type"] for line in out.splitlines()].count("anomaly") == 1
    lines = err.decode().splitlines()
    assert sum("invalid reading" in line for line in lines) == 5, "of one minute"
    assert any("more like these" in line for line in lines)


def test_a_line_of_a_hundred_megabytes_costs_no_memory(start: Start, vehicle: Vehicle) -> None:
    process = start()
    give(process, GOOD)
    status(vehicle, process, lambda one: one["readings"] == 1)
    before = peak_bytes(process)
    block = b"x" * 1_000_000
    for _ in range(100):
        give(process, block)
    give(process, b"\n2026-04-01T00:01:00,100\n")
    found = status(vehicle, process, lambda one: one["readings"] == 3)
    assert found["statuses"] == {"ok": 2, "invalid": 1}
    assert peak_bytes(process) - before < 8 * 2**20


def test_a_million_lines_at_once_are_all_answered_and_memory_stays_bounded(start: Start, vehicle: Vehicle) -> None:
    process = start("--sink", "store:")
    give(process, GOOD)
    status(vehicle, process, lambda one: one["readings"] == 1)
    before = peak_bytes(process)
    data = b"".join(b"%s,100.5\n" % time(60 + second / 50).encode() for second in range(1_000_000))
    give(process, data)
    found = status(vehicle, process, lambda one: one["readings"] == 1_000_001)
    assert found["statuses"] == {"ok": 1_000_001}
    assert peak_bytes(process) - before < 24 * 2**20


def test_silence_is_an_event_and_so_is_its_end(start: Start, vehicle: Vehicle) -> None:
    process = start("--set", "health.no_data_after_s=0.7")
    assert process.stdout is not None
    give(process, GOOD)
    raised = json.loads(process.stdout.readline())
    assert (raised["type"], raised["what"], raised["state"]) == ("health", "no-data", "raised")
    assert ask_status(vehicle.data)["health"] == [raised["reason"]]  # type: ignore[index]
    give(process, b"2026-04-01T00:01:00,100\n")
    cleared = json.loads(process.stdout.readline())
    assert (cleared["type"], cleared["what"], cleared["state"]) == ("health", "no-data", "cleared")
    assert [event["state"] for event in _stored(vehicle, process)] == ["cleared", "raised"]


def _stored(vehicle: Vehicle, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    process.communicate(timeout=PATIENCE_S)
    return stored.last_events(vehicle.data, 10)


def test_a_clock_that_goes_to_1970_and_back_stops_nothing(start: Start, vehicle: Vehicle) -> None:
    """A hot reading is seen under each of the three clocks."""
    process = start()
    lines = []
    for era in ("2026-04-01", "1970-01-01", "2026-04-01"):
        hour = 1 if era.startswith("1970") or not lines else 5
        lines += [f"{era}T{hour:02}:{minute:02}:00Z,{900 if minute == 30 else 100}\n" for minute in range(60)]
    out, err = process.communicate("".join(lines).encode(), timeout=PATIENCE_S)
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    raised = [event["time"] for event in events if (event["type"], event["state"]) == ("anomaly", "raised")]
    assert raised == ["2026-04-01T01:30:00Z", "1970-01-01T01:30:00Z", "2026-04-01T05:30:00Z"]
    assert all(event["clock_trusted"] for event in events)


def test_events_under_a_clock_before_the_release_was_made_say_so(world: Any, start: Start, vehicle: Vehicle) -> None:
    from datetime import UTC, datetime

    late = world.bundle(2, released=datetime(2090, 1, 1, tzinfo=UTC), expires=datetime(2099, 1, 1, tzinfo=UTC))
    world.install(vehicle, late)
    out, _ = start().communicate(b"2026-04-01T00:00:00,900\n", timeout=PATIENCE_S)
    assert json.loads(out)["clock_trusted"] is False


def test_a_reader_of_stdout_that_sleeps_holds_nothing_up(start: Start, vehicle: Vehicle) -> None:
    process = start("--readings")
    for block in range(60):
        give(
            process,
            b"".join(b"%s,100\n" % time(second).encode() for second in range(block * 1000, block * 1000 + 1000)),
        )
    found = status(vehicle, process, lambda one: one["readings"] == 60_000)
    (sink,) = found["sinks"]
    assert sink["dropped"] > 0 and sink["queued"] <= 10_000 + 2000
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 30
    assert b"sink stdout: lost" in err
    assert json.loads(out.splitlines()[0])["time"] == "2026-04-01T00:00:00Z"


# -- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_full_stops_no_scoring_and_loses_no_event_once_there_is_room(
    world: Any, small_disk: Path, start: Start
) -> None:
    vehicle = Vehicle.provision(small_disk / "data", world.root(), Identity("TRAIN-204", "edge-1"))
    world.install(vehicle, world.bundle())
    events = small_disk / "events.jsonl"
    words = ["run", "--data", str(vehicle.data), "--sink", f"file:{events}"]
    process = subprocess.Popen([*AXLEBOXD, *words], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        give(process, GOOD)
        status(vehicle, process, lambda one: one["readings"] == 1)
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 512)
        give(process, b"2026-04-01T00:01:00,900\n2026-04-01T00:02:00,100\n")
        found = status(vehicle, process, lambda one: one["store"]["error"] is not None and one["sinks"][0]["error"])
        assert found["readings"] == 3
        filler.unlink()
        status(vehicle, process, lambda one: one["store"]["error"] is None and one["sinks"][0]["error"] is None)
        _, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    states = [json.loads(line)["state"] for line in events.read_bytes().splitlines()]
    assert (
        states == ["raised", "cleared"] == [event["state"] for event in reversed(stored.last_events(vehicle.data, 9))]
    )
    said = err.decode()
    assert said.count("scoring goes on") == 2 and "works again" in said and "is written again" in said
