"""The same events come of the same readings, however they arrive and however often the daemon is started."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgspec
import pytest

from axlebox.firmware_bundle.vehicle import DETECTOR_STATE, Vehicle
from axlebox.runtime import database, snapshots, stored
from axlebox.runtime.control import ask_status
from tests.runtime.conftest import AXLEBOXD, as_lines, faulty_days

PATIENCE_S = 120
LINES = as_lines(faulty_days())

Event = dict[str, Any]


class Daemon:
    """`axleboxd run` on a vehicle, its events appended to a file."""

    def __init__(self, vehicle: Vehicle, events: Path, source: str, *more: str) -> None:
        self.vehicle = vehicle
        words = ["run", "--data", str(vehicle.data), "--source", source, "--sink", f"file:{events}", *more]
        self.process = subprocess.Popen(
            [*AXLEBOXD, *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
        )

    def give(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def until(self, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until its status is so."""
        began = monotonic()
        while not ((status := ask_status(self.vehicle.data)) and status["pid"] == self.process.pid and reached(status)):
            assert monotonic() - began < PATIENCE_S, status
            assert self.process.poll() is None
            sleep(0.01)

    def until_line(self, number: int) -> None:
        """Wait until it has answered so many of LINES, over all starts."""
        time, sensor, _ = LINES[number - 1].decode().split(",")
        self.until(lambda status: any(one["sensor"] == sensor and one["time"] == time for one in status["sensors"]))

    def end(self) -> str:
        """Its input ends, or it is asked to stop; what it said."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self._finish()

    def stop(self) -> str:
        self.process.terminate()
        return self._finish()

    def _finish(self) -> str:
        self.process.wait(PATIENCE_S)
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        assert self.process.returncode == 0, said
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def start(box: Vehicle, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    started: list[Daemon] = []

    def begin(source: str, *more: str) -> Daemon:
        started.append(Daemon(box, tmp_path / "events.jsonl", source, *more))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()
        for pipe in (one.process.stdin, one.process.stderr):
            if pipe is not None:
                pipe.close()


def told(path: Path) -> list[Event]:
    """All events that were written, without what says when that was."""
    return [plain(json.loads(line)) for line in path.read_bytes().splitlines()]


def plain(event: Event) -> Event:
    """Without the digest, which another vehicle's release may not share."""
    return {name: value for name, value in event.items() if name not in ("clock_trusted", "bundle")}


@pytest.fixture(scope="session")
def expected(fleet: Any) -> list[Event]:
    """By the Monitor alone, all readings at once."""
    from axlebox.runtime.detector import Detector, Monitor
    from axlebox.runtime.outcomes import Origin
    from axlebox.runtime.readings import LineReader
    from axlebox.runtime.scorer import Scorer

    detector = Detector(fleet.spec, Scorer(fleet.model).score_rows)
    monitor = Monitor(fleet.contract, {"bearing": detector}, Origin("bearing-temp", 1, "f" * 64))
    outcomes = monitor.process(LineReader("").read(line.strip() for line in LINES))
    return [plain(msgspec.to_builtins(event)) for one in outcomes for event in one.events]


def same(found: Sequence[Event], expected: Sequence[Event]) -> None:
    """But for the release's digest, with which ids begin."""
    cut = [{**one, "id": one["id"][8:]} if one.get("id") else one for one in found]
    assert cut == [{**one, "id": one["id"][8:]} if one.get("id") else one for one in expected]


def test_there_is_something_to_tell(expected: list[Event]) -> None:
    kinds = {(event["type"], event["state"]) for event in expected}
    assert len(expected) > 20
    assert {("anomaly", "raised"), ("anomaly", "cleared"), ("limit", "raised"), ("sensor", "hot-or-sensor")} <= kinds


def test_a_file_that_is_replayed_at_once(start: Callable[..., Daemon], tmp_path: Path, expected: list[Event]) -> None:
    (tmp_path / "all.csv").write_bytes(b"".join(LINES))
    start(f"file:{tmp_path}/all.csv").end()
    same(told(tmp_path / "events.jsonl"), expected)


def test_a_file_that_is_replayed_twice_tells_the_same_twice(
    start: Callable[..., Daemon], tmp_path: Path, expected: list[Event]
) -> None:
    (tmp_path / "all.csv").write_bytes(b"".join(LINES))
    start(f"file:{tmp_path}/all.csv").end()
    start(f"file:{tmp_path}/all.csv").end()
    same(told(tmp_path / "events.jsonl"), [*expected, *expected])


def test_lines_that_are_dribbled_in_pieces_of_any_size(
    start: Callable[..., Daemon], tmp_path: Path, expected: list[Event]
) -> None:
    daemon, data, at = start("stdin:"), b"".join(LINES), 0
    dice = random.Random(8)
    while at < len(data):
        size = dice.choice((1, 7, 50, 51, 400, 5000))
        daemon.give(data[at : at + size])
        at += size
    daemon.end()
    same(told(tmp_path / "events.jsonl"), expected)


def test_starts_that_end_in_order_between_two_lines(
    start: Callable[..., Daemon], tmp_path: Path, expected: list[Event]
) -> None:
    cuts = [0, 5000, 6300, 7321, 9001, len(LINES)]
    for number, (first, last) in enumerate(itertools.pairwise(cuts)):
        daemon = start("stdin:")
        daemon.give(b"".join(LINES[first:last]))
        said = daemon.end()
        assert ("sensors is restored" in said) == (number > 0)
        assert "readings replayed" not in said
    same(told(tmp_path / "events.jsonl"), expected)


def test_a_followed_file_across_stops_and_a_rotation(
    start: Callable[..., Daemon], tmp_path: Path, expected: list[Event]
) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"".join(LINES[:5000]))
    daemon = start(f"follow:{path}")
    daemon.until_line(5000)
    with open(path, "ab") as file:
        file.write(b"".join(LINES[5000:6000]) + LINES[6000][:20])
    daemon.until_line(6000)
    daemon.stop()
    with open(path, "ab") as file:
        file.write(LINES[6000][20:] + b"".join(LINES[6001:7500]))
    path.rename(tmp_path / "log.csv.1")
    path.write_bytes(b"".join(LINES[7500:]))
    daemon = start(f"follow:{path}")
    daemon.until_line(len(LINES))
    daemon.stop()
    same(told(tmp_path / "events.jsonl"), expected)


def test_a_replay_that_was_interrupted_goes_on_where_it_was(
    start: Callable[..., Daemon], tmp_path: Path, expected: list[Event]
) -> None:
    """Stopped over and over, as soon as it has read something."""
    (tmp_path / "all.csv").write_bytes(b"".join(LINES))
    said: list[str] = []
    while "goes on behind" in (said or ["goes on behind"])[-1] and len(said) < 100:
        daemon = start(f"file:{tmp_path}/all.csv")
        with suppress(AssertionError):  # it may have come to its end
            daemon.until(lambda status: status["readings"] > 0)
        said.append(daemon.stop() if said else daemon.stop() + "goes on behind")
    assert len(said) > 2
    found = told(tmp_path / "events.jsonl")
    same(found[: len(expected)], expected)


# -- without an order -----------------------------------------------------------------------------


def stored_events(vehicle: Vehicle) -> list[Event]:
    return [plain(event) for event in reversed(stored.last_events(vehicle.data, 10_000))]


@pytest.mark.parametrize("with_snapshot", [True, False], ids=["with a snapshot", "from the ring alone"])
def test_after_a_kill_the_followed_file_is_read_on_from_what_the_store_holds(
    start: Callable[..., Daemon], box: Vehicle, tmp_path: Path, expected: list[Event], with_snapshot: bool
) -> None:
    """What the store holds is then told once: nothing of it is lost and nothing told twice."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"".join(LINES[:3000]))
    daemon = start(f"follow:{path}")
    daemon.until_line(3000)
    daemon.stop()
    if not with_snapshot:
        (box.data / DETECTOR_STATE).unlink()
    given = 3000
    for end in (6400, 7300, 9500):
        with open(path, "ab") as file:
            file.write(b"".join(LINES[given:end]))
        given, before = end, len(stored_events(box))
        daemon = start(f"follow:{path}")
        daemon.until_line(end)
        daemon.until(lambda status, before=before: len(stored_events(box)) > before)  # type: ignore[misc]
        with open(path, "ab") as file:
            file.write(b"".join(LINES[given : given + 50]))  # answered, and not in the store
        given += 50
        daemon.until_line(given)
        daemon.kill()
    with open(path, "ab") as file:
        file.write(b"".join(LINES[given:]))
    daemon = start(f"follow:{path}")
    daemon.until_line(len(LINES))
    daemon.stop()
    same(stored_events(box), expected)


def _all(state: Any, value: Any) -> Any:
    """A state's shape with another value everywhere."""
    if isinstance(state, dict):
        return {name: _all(one, value) for name, one in state.items()}
    return [_all(one, value) for one in state] if isinstance(state, list | tuple) else value


def test_a_snapshot_that_is_damaged_or_of_another_runtime_is_built_anew_from_the_ring(
    start: Callable[..., Daemon], box: Vehicle, tmp_path: Path
) -> None:
    daemon = start("stdin:")
    daemon.give(b"".join(LINES[:4000]))
    daemon.end()
    path = box.data / DETECTOR_STATE
    whole = path.read_bytes()
    snapshot = snapshots.read(box.data)
    assert snapshot is not None
    older = snapshots.encode(msgspec.structs.replace(snapshot, runtime="0.0.1"))
    nothing = snapshots.encode(msgspec.structs.replace(snapshot, state=_all(snapshot.state, None)))
    nan = snapshots.encode(msgspec.structs.replace(snapshot, state=_all(snapshot.state, math.nan)))
    endless = snapshots.encode(msgspec.structs.replace(snapshot, taken=2**64 - 1))
    plain = msgspec.msgpack.encode(msgspec.structs.replace(snapshot, state=None))
    body = zlib.compress(plain.replace(b"\xa5state\xc0", b"\xa5state" + b"\x91" * 100_000 + b"\xc0"))
    deep = zlib.crc32(body).to_bytes(4, "little") + body
    at = 4000
    for content, says in (
        (nothing, f"{DETECTOR_STATE} does not fit"),
        (nan, f"{DETECTOR_STATE} does not fit"),
        (endless, f"{DETECTOR_STATE} is damaged"),
        (deep, f"{DETECTOR_STATE} is damaged"),
        (whole[: len(whole) // 2], f"{DETECTOR_STATE} is damaged"),
        (older, f"{DETECTOR_STATE} is of runtime 0.0.1"),
        (b"", f"{DETECTOR_STATE} is damaged"),
    ):
        path.write_bytes(content)
        daemon = start("stdin:")
        daemon.give(b"".join(LINES[at : at + 10]))
        said = daemon.end()
        at += 10
        assert says in said
        assert "the state of 4 sensors is restored" in said and "readings replayed" in said
    assert snapshots.read(box.data) is not None


def test_a_store_that_was_lost_leaves_the_state_of_the_snapshot(
    start: Callable[..., Daemon], box: Vehicle, tmp_path: Path, expected: list[Event]
) -> None:
    daemon = start("stdin:")
    daemon.give(b"".join(LINES[:6500]))
    daemon.end()
    (box.data / database.NAME).write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    daemon = start("stdin:")
    daemon.give(b"".join(LINES[6500:]))
    said = daemon.end()
    assert "store.db is damaged; it is kept as store.damaged.db, and a new one begins" in said
    same(told(tmp_path / "events.jsonl"), expected)
    assert len(list(stored.recent(box.data))) == len(LINES) - 6500


def test_fresh_begins_as_if_no_reading_had_ever_come(start: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_bytes(b"".join(LINES[:1000]))
    for more, code, says in (
        ((), 0, ""),
        ((), 41, "DO: --fresh, if they are of an earlier time"),
        (("--fresh",), 0, ""),
    ):
        daemon = start("stdin:", *more)
        daemon.give(b"".join(LINES[:1000]))
        assert daemon.process.stdin is not None
        daemon.process.stdin.close()
        assert daemon.process.wait(PATIENCE_S) == code
        assert daemon.process.stderr is not None
        assert says in daemon.process.stderr.read().decode()
