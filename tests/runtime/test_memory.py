"""When state is kept: checkpoints for capsules, snapshots for the next start; both bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle.vehicle import DETECTOR_STATE, Vehicle
from axlebox.runtime import capsule, memory, snapshots, stored
from axlebox.runtime.detector import Monitor, monitor_release
from axlebox.runtime.memory import Memory
from axlebox.runtime.readings import Reading
from axlebox.runtime.store import Store

HOT, QUIET = 900.0, 100.0


class Line:
    """A monitor with its memory, given readings of one sensor a second apart."""

    def __init__(self, world: Any, data: Path) -> None:
        from axlebox.firmware_bundle.vehicle import Identity

        self.vehicle = Vehicle.provision(data, world.root(), Identity("T204", "edge-1"))
        world.install(self.vehicle, world.bundle())
        self.release = world.start(self.vehicle)
        self.said: list[str] = []
        self.store = Store.open(self.vehicle.data, self.said.append)
        self.monitor: Monitor = monitor_release(self.release)
        self.now = 1000.0
        self.second = 0
        self.memory = Memory(self.store, self.release, self.monitor, "T204", self.now)

    def give(self, *values: float, sensor: str = "temperature") -> list[str]:
        """Ids of the anomalies that were raised."""
        items = []
        for value in values:
            items.append(Reading(1.8e9 + self.second, sensor, value))
            self.second += 1
        events = [event for outcome in self.monitor.process(items) for event in outcome.events]
        self.store.add(items)
        self.memory.saw(items, events, self.now)
        self.memory.turn(self.now, lambda: None)
        return [event["id"] for event in events if (event["type"], event["state"]) == ("anomaly", "raised")]

    def capsule(self, event: str) -> capsule.Capsule | None:
        self.store.flush()
        body = stored.capsule(self.vehicle.data, event)
        return None if body is None else capsule.decode(body)

    def close(self) -> None:
        self.store.close()


@pytest.fixture
def line(world: Any, tmp_path: Path) -> Iterator[Line]:
    with closing(Line(world, tmp_path / "data")) as made:
        yield made


def readings_of(found: capsule.Capsule | None) -> int:
    assert found is not None
    from axlebox.runtime import ring

    return len(ring.decode(found.readings))


def test_a_capsule_is_there_at_once_and_complete_after_some_more_readings(line: Line) -> None:
    line.give(*[QUIET] * 30)
    (event,) = line.give(HOT)
    assert readings_of(line.capsule(event)) == 31
    line.give(*[QUIET] * (memory.AFTER_READINGS - 1))
    assert readings_of(line.capsule(event)) == 31
    line.give(QUIET)
    assert readings_of(line.capsule(event)) == 31 + memory.AFTER_READINGS
    found = line.capsule(event)
    assert found is not None and [one["state"] for one in found.events] == ["raised", "cleared"]
    assert capsule.replay(found, line.release).largest_score_difference == 0.0


def test_the_state_before_is_some_readings_old_and_not_all_that_ever_came(line: Line) -> None:
    for _ in range(60):
        line.now += 60.0
        line.give(*[QUIET] * 10)
    (event,) = line.give(HOT)
    assert memory.CHECK_READINGS <= readings_of(line.capsule(event)) - 1 <= 5 * memory.CHECK_READINGS


def test_one_capsule_of_a_sensor_in_an_hour(line: Line) -> None:
    line.give(QUIET)
    (first,) = line.give(HOT)
    (second,) = line.give(QUIET, HOT)
    (other,) = line.give(HOT, sensor="other")
    line.now += memory.SAME_SENSOR_S
    (third,) = line.give(QUIET, HOT)
    assert [line.capsule(event) is not None for event in (first, second, other, third)] == [True, False, True, True]


def test_a_flood_of_readings_is_bounded_and_a_capsule_of_it_is_exact(line: Line) -> None:
    (event,) = line.give(QUIET, HOT)
    for _ in range(40):
        line.give(*[QUIET] * 2000)  # in no time at all, by the monotonic clock
    assert len(line.memory._items) <= memory.MAX_READINGS
    found = line.capsule(event)
    assert found is not None
    assert capsule.replay(found, line.release).events[0]["id"] == event
    line.now += memory.SAME_SENSOR_S
    (late,) = line.give(HOT)
    found = line.capsule(late)
    assert found is not None and capsule.replay(found, line.release).largest_score_difference == 0.0


def test_snapshots_are_rare_and_their_bytes_a_day_bounded(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(line.store, "snapshot", lambda encoded: taken.append(line.now))
    for _ in range(24 * 6):
        line.now += 600.0
        line.give(QUIET)
    assert len(taken) == 4, "every six hours where little comes"
    taken.clear()
    monkeypatch.setattr(memory, "SNAPSHOT_READINGS", 10)
    monkeypatch.setattr(snapshots, "encode", lambda snapshot: b"x" * 100_000)
    for _ in range(24 * 6):
        line.now += 600.0
        line.give(*[QUIET] * 10)
    assert 15 <= len(taken) <= memory.SNAPSHOT_BYTES_PER_DAY / 100_000 + 1


def test_without_new_readings_no_snapshot_is_written(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    monkeypatch.setattr(line.store, "snapshot", taken.append)
    for _ in range(100):
        line.now += 3600.0
        line.memory.turn(line.now, lambda: None)
    assert taken == []


def test_a_snapshot_that_cannot_be_written_is_said_and_costs_no_reading(line: Line) -> None:
    line.give(QUIET)
    (line.vehicle.data / (DETECTOR_STATE + ".part")).mkdir()
    line.memory.end(line.now, None)
    line.store.flush()
    assert any(DETECTOR_STATE in words for words in line.said)
    assert line.store.last_error is None and len(list(stored.recent(line.vehicle.data))) == 1


@pytest.mark.parametrize("cut", [0, 3, 4, 20])
def test_a_snapshot_is_read_back_whole_or_not_at_all(line: Line, cut: int) -> None:
    line.give(QUIET, HOT)
    line.memory.end(line.now, None)
    line.store.flush()
    found = snapshots.read(line.vehicle.data)
    assert found is not None and found.digest == line.release.digest and found.taken == 2
    fresh = monitor_release(line.release)
    fresh.restore(found.state)
    assert fresh.state() == line.monitor.state()
    path = line.vehicle.data / DETECTOR_STATE
    path.write_bytes(path.read_bytes()[:cut])
    refuses: Callable[[], object] = lambda: snapshots.read(line.vehicle.data)  # noqa: E731
    with pytest.raises(Exception, match="is damaged"):
        refuses()
