"""A running daemon and its vehicle: taking a release over, replaying the ring, answering, telling of a sensor."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from msgspec.structs import replace

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.install import fallback
from axlebox.firmware_bundle.manifest import Contract, FeatureSet, Kind
from axlebox.firmware_bundle.receipts import read
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public
from axlebox.runtime import features, stored, succession
from axlebox.runtime.config import Config
from axlebox.runtime.daemon import Daemon
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.readings import LineReader, Reading, Replaced, format_time
from axlebox.runtime.sinks.base import Message, Outlet
from axlebox.runtime.snapshots import Revived
from axlebox.runtime.status_command import _fault
from axlebox.runtime.store import Store
from axlebox.runtime.watch import VehicleWatch

NOW = datetime(2026, 4, 1, tzinfo=UTC)
DEADLINE_S = 60
QUIET, HOT = 100.0, 300.0


class Rise(features.Value):
    """The difference from the reading before: a feature with a state, in units of its own."""

    names: ClassVar[tuple[str, ...]] = ("rise",)

    def __init__(self, constants: Any) -> None:
        self.last: float | None = None

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        rise = 0.0 if self.last is None else reading.value - self.last
        self.last = reading.value
        return (100.0 + rise,)


class Line:
    """A daemon that reads what the test gives it, in this process, batch by batch."""

    def __init__(self, world: Any, data: Path) -> None:
        self.world = world
        self.vehicle = Vehicle.provision(data, world.root(), Identity("T204", "rail-box-a"))
        self.said: list[str] = []
        self.written: list[bytes] = []
        self.second = 0

    def install(self, version: int, **how: Any) -> None:
        self.world.install(self.vehicle, self.world.bundle(version, **how))

    def starter(self) -> Starter:
        return Starter(self.vehicle, "this boot", self.world.runtime, lambda slot: "20/20")

    def start(self) -> None:
        starter = self.starter()
        release = starter.start(Occasion(NOW, self.said.append))
        revived = Revived(monitor_release(release))
        self.store = Store.open(self.vehicle.data, self.said.append)
        self.store.since_session = self.store.session
        self.watch = VehicleWatch(starter, revived, release, self.store, Config(), self.said.append)
        self.daemon = Daemon(revived.monitor, self.watch, with_readings=True)
        self.daemon.outlets = [cast(Outlet, self)]
        self.reader = LineReader("temperature")

    gone = False

    def put(self, messages: Sequence[Message], patience_s: float, asked: Callable[[], bool]) -> None:
        self.written += [message.body for message in messages]

    def close(self) -> None:
        self.store.close()

    def give(self, *values: float, sensor: str = "temperature") -> None:
        """One batch of readings, a second apart, then a turn."""
        lines = []
        for value in values:
            lines.append(f"{format_time(1.8e9 + self.second)},{sensor},{value}".encode())
            self.second += 1
        self.daemon.step(self.reader.read(lines))

    def turn(self) -> None:
        """Nothing comes."""
        self.daemon.step([])

    def runs(self) -> int:
        answer = self.watch.answer({"what": "status"})
        return int(answer["release"]["version"])

    def until(self, reached: Callable[[], bool]) -> None:
        """Turn, without readings, until something is so."""
        stop = threading.Event()
        for _ in range(DEADLINE_S * 100):
            self.turn()
            if reached():
                return
            stop.wait(0.01)
        pytest.fail("it never came to that")

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written]


@pytest.fixture
def line(world: Any, tmp_path: Path) -> Iterator[Line]:
    made = Line(world, tmp_path / "data")
    made.install(1)
    made.start()
    with closing(made):
        yield made


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "LOOK_S", 0.0)


def test_a_release_that_is_installed_is_taken_over_and_every_reading_is_answered_once(line: Line) -> None:
    line.give(QUIET, HOT)
    line.install(2)
    while line.runs() == 1 and line.second < 20_000:
        line.give(QUIET)
    line.give(QUIET)
    readings = [one for one in line.answers() if one["type"] == "reading"]
    assert [one["time"] for one in readings] == [format_time(1.8e9 + second) for second in range(line.second)]
    assert line.runs() == 2
    assert line.said == ["bearing-temp 2 runs now"]


def test_a_parked_vehicle_takes_over_without_a_reading(line: Line) -> None:
    line.install(2)
    line.until(lambda: line.runs() == 2)


def test_what_is_raised_under_both_is_raised_anew_before_the_old_one_ends(line: Line) -> None:
    line.give(HOT)
    (old,) = [one for one in line.answers() if one["type"] == "anomaly"]
    line.install(2)
    line.until(lambda: line.runs() == 2)
    raised, cleared = [one for one in line.answers() if one["type"] == "anomaly"][1:]
    assert (raised["state"], raised["bundle"]["version"], raised["time"]) == ("raised", 2, old["time"])
    assert (cleared["state"], cleared["id"], cleared["reason"]) == ("cleared", old["id"], "another release runs now")
    assert raised["id"] != old["id"]
    line.store.flush()
    assert stored.last_events(line.vehicle.data, 2) == [cleared, raised]
    line.give(HOT)
    assert line.answers()[-1]["event"] == raised["id"]


def test_the_gate_of_the_new_release_knows_the_last_times(line: Line) -> None:
    line.give(QUIET, QUIET)
    line.install(2)
    line.until(lambda: line.runs() == 2)
    line.second -= 1
    line.give(QUIET)
    assert line.answers()[-1]["status"] == "invalid"


@pytest.fixture
def rising(line: Line, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line whose next release has a feature with a state, and a warm-up of 50 readings."""
    monkeypatch.setitem(features._SETS, ("rise", 1), Rise)
    return line


def install_rising(line: Line) -> None:
    plain = line.world.runtime
    known = Runtime(plain.version, frozenset({("value", 1), ("rise", 1)}), plain.fingerprint)
    detector = replace(line.world.spec, features=FeatureSet("rise", 1), warmup=50)
    line.world.install(line.vehicle, line.world.bundle(2, detectors=(detector,)), runtime=known)


@pytest.mark.parametrize("flushed", [0, 30, 60])
def test_the_state_of_the_new_release_is_rebuilt_from_the_ring(rising: Line, flushed: int) -> None:
    """Whether the readings are in the database already or still wait: each is replayed once."""
    for number in range(60):
        rising.give(QUIET + 20 * number)
        if number + 1 == flushed:
            rising.store.flush()
    install_rising(rising)
    rising.until(lambda: rising.runs() == 2)
    rising.give(QUIET + 20 * 59)  # no rise from the reading before, which only the replay can know
    last = rising.answers()[-1]
    assert (last["status"], last["flag"]) == ("ok", False)
    rising.give(QUIET + 20 * 59 + HOT)
    assert rising.answers()[-1]["flag"] is True


def test_what_cannot_be_rebuilt_says_warming_and_raises_nothing(rising: Line) -> None:
    rising.give(*[QUIET] * 20)
    install_rising(rising)
    rising.until(lambda: rising.runs() == 2)
    rising.give(*[QUIET, HOT] * 15)
    statuses = [one["status"] for one in rising.answers() if one["type"] == "reading"][20:]
    assert statuses == ["warming"] * 30
    rising.give(QUIET)
    assert rising.answers()[-1]["status"] == "ok"


def test_readings_of_an_earlier_start_are_not_replayed(line: Line) -> None:
    """A file that is replayed twice would else be refused as repeated."""
    line.give(*[QUIET] * 5)
    line.close()
    line.start()
    line.install(2)
    line.until(lambda: line.runs() == 2)
    line.second = 0
    line.give(QUIET)
    assert line.answers()[-1]["status"] == "ok"


def test_a_release_that_cannot_be_run_leaves_the_old_one_scoring(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.world.confirm(line.vehicle)
    line.install(2)

    def broken(release: Any) -> Any:
        raise RuntimeError("no session")

    monkeypatch.setattr(succession, "monitor_release", broken)
    line.until(lambda: line.watch.answer({"what": "status"})["refused"] is not None)
    line.give(QUIET)
    assert line.runs() == 1
    refused = line.watch.answer({"what": "status"})["refused"]
    assert "RuntimeError: no session" in refused["reason"]
    state = line.vehicle.state()
    assert (state.trial, line.vehicle.release(state.active or "").manifest.version) == (None, 1)
    dropped = list(read(line.vehicle.data, read_public(line.vehicle.data)))[-1]
    assert (dropped.action, dropped.digest) == ("drop", refused["digest"])
    monkeypatch.undo()
    monkeypatch.setattr(succession, "LOOK_S", 0.0)
    line.install(2)
    line.until(lambda: line.runs() == 2)


def test_a_slot_that_is_damaged_leaves_the_old_one_scoring(line: Line) -> None:
    line.world.confirm(line.vehicle)
    line.install(2)
    digest = line.vehicle.state().trial or ""
    (line.vehicle.slot(digest) / "model.onnx").write_bytes(b"worn flash")
    line.until(lambda: line.watch.answer({"what": "status"})["refused"] is not None)
    assert line.runs() == 1
    assert "is damaged" in line.watch.answer({"what": "status"})["refused"]["reason"]


def test_a_record_that_is_damaged_while_it_runs_changes_nothing(line: Line) -> None:
    for name in ("state.0", "state.1"):
        (line.vehicle.data / name).write_bytes(b"worn flash")
    line.until(lambda: any("the release that runs goes on" in said for said in line.said))
    line.turn()
    line.give(QUIET)
    assert (line.runs(), len(line.said)) == (1, 1)


def test_a_fallback_is_taken_over_as_well(line: Line) -> None:
    line.world.confirm(line.vehicle)
    line.install(2)
    line.until(lambda: line.runs() == 2)
    fallback(line.vehicle, Occasion(NOW, print))
    line.until(lambda: line.runs() == 1)


def test_another_command_that_holds_the_vehicle_delays_the_takeover_and_no_reading(line: Line) -> None:
    line.install(2)
    with line.vehicle.locked():
        for _ in range(50):
            line.give(QUIET)
        assert line.runs() == 1
    line.until(lambda: line.runs() == 2)
    assert line.daemon.totals.readings == 50


# -- sensors --------------------------------------------------------------------------------------


def test_a_sensor_that_is_replaced_begins_anew_and_the_mark_is_kept(line: Line) -> None:
    line.give(HOT, sensor="a")
    line.give(HOT, sensor="b")
    assert line.watch.answer({"what": "replaced", "sensor": "a"}) == {"sensor": "a"}
    line.give(QUIET, sensor="b")
    cleared, replaced = line.answers()[4:6]
    assert (cleared["type"], cleared["sensor"], cleared["state"], cleared["reason"]) == (
        "anomaly", "a", "cleared", "sensor replaced",
    )  # fmt: skip
    assert (replaced["type"], replaced["state"], replaced["sensor"]) == ("sensor", "replaced", "a")
    assert [one.get("state") for one in line.answers() if one["sensor"] == "b"] == ["raised", None, "cleared", None]
    line.store.flush()
    assert [mark.sensor for mark in stored.marks(line.vehicle.data)] == ["a"]
    kinds = [type(item) for item in stored.recent(line.vehicle.data)]
    assert kinds == [Reading, Reading, Replaced, Reading]


def test_a_sensor_that_never_spoke_is_not_replaced(line: Line) -> None:
    line.give(QUIET, sensor="axle-1")
    answer = line.watch.answer({"what": "replaced", "sensor": "axle-l"})
    assert "did you mean axle-1?" in answer["error"]
    assert line.watch.told() == []


# -- answers --------------------------------------------------------------------------------------


def test_the_answer_names_the_latest_reading_of_each_sensor(line: Line) -> None:
    line.give(QUIET, HOT, sensor="a")
    line.give(float("nan"), sensor="b")
    answer = line.watch.answer({"what": "status"})
    found = {one["sensor"]: one for one in answer["sensors"]}
    assert (found["a"]["value"], found["a"]["status"], found["a"]["unit"]) == (HOT, "ok", "C")
    assert found["a"]["raised"] is not None
    assert (found["b"]["status"], found["b"]["reason"]) == ("invalid", "its value is nan")
    assert (answer["readings"], answer["scored"], answer["release"]["version"]) == (3, 2, 1)
    assert found["b"]["value"] is None  # NaN is no JSON
    assert (answer["store"]["error"], answer["store"]["dropped"]) == (None, 0)
    json.dumps(answer, allow_nan=False)


def test_the_answer_says_what_is_silent_and_what_is_above_a_limit(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("axlebox.runtime.daemon.monotonic", lambda: now[0])
    kind = Kind(stale_after_s=30.0, warn=250.0, action="look")
    line.install(2, contract=Contract({"temperature": kind}))
    line.until(lambda: line.runs() == 2)
    line.give(HOT, sensor="a")
    line.give(QUIET, sensor="b")
    now[0] = 100.0
    line.turn()
    found = {one["sensor"]: one for one in line.watch.answer({"what": "status"})["sensors"]}
    assert (found["a"]["status"], found["a"]["limit"]) == ("stale", "mild")
    assert (found["b"]["status"], found["b"]["limit"]) == ("stale", None)
    fault = _fault([found["a"], found["b"]])
    assert fault is not None and (fault.exit_code, "a, b" in str(fault)) == (42, True)
    line.store.flush()
    digest = line.watch.answer({"what": "status"})["release"]["digest"]
    assert stored.counts(line.vehicle.data, digest).faults == 2


def test_heat_is_told_before_any_broken_sensor() -> None:
    fault = _fault([{"sensor": "a", "status": "range"}, {"sensor": "b", "status": "hot-or-sensor"}])
    assert fault is not None and str(fault).startswith("hot, or a sensor at fault: b. DO: treat it as hot")


def test_ids_from_anywhere_do_not_fill_the_memory(line: Line) -> None:
    lines = [f"2026-04-01T00:00:00Z,s{number}," for number in range(10_000)]
    items = LineReader("temperature").read(text.encode() for text in lines)
    line.daemon.step(items[:5000])
    line.daemon.step(items[5000:])
    assert len(line.watch._latest) <= 5000


def test_a_question_that_is_none_is_answered(line: Line) -> None:
    assert "not status, replaced or flush" in line.watch.answer({"what": "reboot"})["error"]


def test_what_starts_cannot_run_is_an_error_of_the_start(world: Any, tmp_path: Path) -> None:
    empty = Line(world, tmp_path / "empty")
    with pytest.raises(AxleboxError, match="no release installed"):
        empty.start()
