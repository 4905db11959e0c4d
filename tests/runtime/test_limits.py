"""Limits alarm without a model, and a real fire is never filed as a broken wire."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Kind, Sensor
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin, Outcome
from axlebox.runtime.readings import LATEST, REPLACED, BadLine, Reading, Replaced, parse_time
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, OK, RANGE, RATE, STALE, STUCK, WARMING

NOON = parse_time("2026-04-01T12:00:00Z")
DIGEST = "0a1b2c3d" + "4" * 56
ORIGIN = Origin("bearing-temp", 7, DIGEST)
YEAR = 365 * 86400.0
NAN = math.nan

BEARING = Kind(
    period_s=1.0, range=(-40.0, 140.0), max_rate_per_s=5.0, stuck_after_s=600.0, stale_after_s=30.0, warn=110.0,
    critical=130.0, action="stop the train",
)  # fmt: skip
PLAIN_LIMITS = Kind(warn=110.0, critical=130.0, action="stop the train")
OPEN = 150.0
"""What an open circuit reads."""


def a_monitor(kind: Kind = BEARING, siblings: Sequence[str] = (), warmup: int = 0) -> Monitor:
    sensors = {name: Sensor("bearing", group="T204") for name in siblings}
    spec = DetectorSpec("bearing", "model.onnx", FeatureSet("value", 1), threshold=0.5, warmup=warmup)

    def cool(rows: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        assert np.isfinite(rows).all()
        return rows[:, 0].astype(np.float64) / 1000, np.zeros(len(rows), dtype=bool)

    return Monitor(Contract({"bearing": kind}, sensors), {"bearing": Detector(spec, cool)}, ORIGIN)


def live(seconds: int, value: float = 80.0) -> list[float]:
    """A sensor that lives: a little noise around a value."""
    return [value + 0.1 * (number % 7) for number in range(seconds)]


def ramp(start: float, end: float, per_s: float) -> list[float]:
    return np.arange(start, end, per_s if end > start else -per_s).round(3).tolist()


class Line:
    """Readings at 1 Hz to one monitor; what was told of each sensor."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.second = 0.0
        self.outcomes: list[Outcome] = []

    def give(self, **values: Sequence[float]) -> list[Outcome]:
        """A column of values for each sensor, moment by moment."""
        items = []
        for moment in zip(*values.values(), strict=True):
            items += [Reading(NOON + self.second, name, value) for name, value in zip(values, moment, strict=True)]
            self.second += 1
        found = self.monitor.process(items)
        self.outcomes += found
        return found

    def told(self, sensor: str = "a") -> list[tuple[str, str]]:
        """Type (of limits also the severity) and state of all events of a sensor."""
        return [
            (event["type"] if event["type"] != "limit" else event["severity"], event["state"])
            for outcome in self.outcomes
            for event in outcome.events
            if event["sensor"] == sensor
        ]


def events(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [event for outcome in outcomes for event in outcome.events]


def was_called_a_sensor(line: Line, sensor: str = "a") -> bool:
    return any(what == "sensor" and state in (RANGE, RATE) for what, state in line.told(sensor))


# -- limits ---------------------------------------------------------------------------------------


def test_warn_and_critical_are_raised_once_and_cleared_once() -> None:
    line = Line(a_monitor(PLAIN_LIMITS))
    line.give(a=[100, 110, 112, 109, 111, 130, 135, 129, 131, 127, 120, 107.9, 100])
    assert line.told() == [("mild", "raised"), ("extreme", "raised"), ("extreme", "cleared"), ("mild", "cleared")]


def test_a_reading_at_the_limit_is_above_it() -> None:
    assert len(events(Line(a_monitor(PLAIN_LIMITS)).give(a=[109.9, 110.0]))) == 1


def test_a_limit_event_carries_what_its_reader_needs() -> None:
    (event,) = events(Line(a_monitor(PLAIN_LIMITS)).give(a=[111.0]))
    assert event == {
        "type": "limit",
        "state": "raised",
        "id": f"0a1b2c3d-a-{int(NOON)}-warn",
        "severity": "mild",
        "sensor": "a",
        "time": "2026-04-01T12:00:00Z",
        "value": 111.0,
        "limit": 110.0,
        "action": "stop the train",
        "bundle": {"name": "bearing-temp", "version": 7, "digest": DIGEST},
    }


def test_the_clearing_event_has_the_id_of_the_raised_one_and_its_own_time_and_value() -> None:
    raised, cleared = events(Line(a_monitor(PLAIN_LIMITS)).give(a=[111.0, 100.0]))
    assert cleared == raised | {"state": "cleared", "time": "2026-04-01T12:00:01Z", "value": 100.0}


def test_a_kind_without_a_detector_has_limits() -> None:
    line = Line(Monitor(Contract({"bearing": PLAIN_LIMITS}), {}, ORIGIN))
    line.give(a=[140.0])
    assert line.told() == [("mild", "raised"), ("extreme", "raised")]


def test_limits_do_not_wait_for_the_warm_up() -> None:
    line = Line(a_monitor(PLAIN_LIMITS, warmup=100))
    assert [one.status for one in line.give(a=[115.0])] == [WARMING]
    assert line.told() == [("mild", "raised")]


@pytest.mark.parametrize("back", [0.0, 5.0, 3600.0, YEAR])
def test_a_hot_reading_alarms_whatever_its_time(back: float) -> None:
    monitor = a_monitor(PLAIN_LIMITS)
    monitor.process([Reading(NOON, "a", 80.0)])
    (outcome,) = monitor.process([Reading(NOON - back, "a", 120.0)])
    assert (outcome.status, [event["type"] for event in outcome.events]) == (INVALID, ["sensor", "limit"])


def test_a_clock_that_stands_still_hides_no_heat_and_ends_none() -> None:
    monitor = a_monitor(PLAIN_LIMITS)
    found = events(monitor.process([Reading(NOON, "a", value) for value in (80.0, 120.0, 140.0, 80.0)]))
    assert [(one["type"], one["state"]) for one in found if one["type"] == "limit"] == [("limit", "raised")] * 2


@pytest.mark.parametrize("value", [NAN, math.inf, 1e300])
def test_what_is_no_number_neither_raises_nor_clears(value: float) -> None:
    line = Line(a_monitor(PLAIN_LIMITS))
    line.give(a=[value, 115.0, value, 115.0])
    assert [one for one in line.told() if one[0] != "sensor"] == [("mild", "raised")]


def test_a_limit_is_not_cleared_by_a_wire_that_burns_off() -> None:
    line = Line(a_monitor())
    line.give(a=[*ramp(80, 135, 0.5), *[-45.0] * 300])
    assert [one for one in line.told() if one[0] != "sensor"] == [("mild", "raised"), ("extreme", "raised")]
    line.give(a=ramp(136, 100, 0.5))
    assert [one for one in line.told() if one[0] != "sensor"][2:] == [("extreme", "cleared"), ("mild", "cleared")]


def test_an_absurd_value_above_critical_still_alarms() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(10), 4000.0])
    assert ("extreme", "raised") in line.told()


def test_the_commissioning_offset_counts() -> None:
    contract = Contract({"bearing": PLAIN_LIMITS}, {"a": Sensor("bearing", offset=20.0)})
    assert len(events(Monitor(contract, {}, ORIGIN).process([Reading(NOON, "a", 95.0)]))) == 1


def test_ids_from_anywhere_raise_a_bounded_number_of_limit_events() -> None:
    monitor = a_monitor(PLAIN_LIMITS)
    for number in range(10_000):
        monitor.process([Reading(NOON, f"sensor {number}", 120.0)])
    assert len(monitor.open_events()) == 4096


# -- hot or sensor --------------------------------------------------------------------------------


def test_a_burning_bearing_that_climbs_beyond_the_range_is_heat_all_the_way() -> None:
    line = Line(a_monitor())
    found = line.give(a=[*live(30), *ramp(80.6, 200.0, 0.2)])
    assert line.told() == [("mild", "raised"), ("extreme", "raised"), ("sensor", HOT_OR_SENSOR)]
    assert found[-1].status == HOT_OR_SENSOR
    line.give(a=[199.9] * 3600)  # and stays there, at the end of the sensor's scale
    line.give(a=ramp(199.9, 80.0, 0.2))
    assert line.told()[3:] == [("sensor", OK), ("extreme", "cleared"), ("mild", "cleared")]


def test_without_limits_a_climb_beyond_the_range_raises_one() -> None:
    line = Line(a_monitor(Kind(range=(-40.0, 140.0), action="stop")))
    line.give(a=ramp(80.0, 200.0, 0.2))
    assert line.told() == [("sensor", HOT_OR_SENSOR), ("extreme", "raised")]
    (limit,) = [one for one in events(line.outcomes) if one["type"] == "limit"]
    assert (limit["limit"], limit["action"], limit["value"]) == (140.0, "stop", 140.2)


def test_an_open_circuit_is_hot_or_sensor_at_once_and_a_sensor_after_a_while() -> None:
    line = Line(a_monitor())
    line.give(a=live(300))
    found = line.give(a=[OPEN] * 300)
    assert {one.status for one in found[:60]} == {HOT_OR_SENSOR}
    assert {one.status for one in found[60:]} == {RANGE}
    assert line.told() == [
        ("sensor", HOT_OR_SENSOR),
        ("mild", "raised"),
        ("extreme", "raised"),
        ("sensor", RANGE),
        ("mild", "cleared"),
        ("extreme", "cleared"),
    ]
    line.give(a=live(10))
    assert line.told()[6:] == [("sensor", OK)]


def test_the_event_of_doubt_has_an_anomaly_s_urgency_and_its_end_names_it() -> None:
    line = Line(a_monitor(replace(BEARING, warn=None, critical=None)))
    line.give(a=[*live(300), *[OPEN] * 100])
    doubt, decided = events(line.outcomes)
    assert doubt == {
        "type": "sensor",
        "state": HOT_OR_SENSOR,
        "sensor": "a",
        "time": "2026-04-01T12:05:00Z",
        "reason": "150.0 lies outside the range -40.0 to 140.0",
        "id": f"0a1b2c3d-a-{int(NOON) + 300}-hot-or-sensor",
        "severity": "extreme",
        "value": OPEN,
        "limit": 140.0,
        "action": "stop the train",
        "bundle": {"name": "bearing-temp", "version": 7, "digest": DIGEST},
    }
    assert (decided["state"], decided["id"]) == (RANGE, doubt["id"])


@pytest.mark.parametrize("value", [215.0, 214.0])
def test_a_protocol_s_error_value_is_found_to_be_one(value: float) -> None:
    """0xFF and 0xFE of J1939, with a range and nothing else set."""
    line = Line(a_monitor(Kind(range=(-40.0, 210.0))))
    line.give(a=[*live(300), *[value] * 100])
    assert line.told() == [("sensor", HOT_OR_SENSOR), ("sensor", RANGE)]


def test_an_open_circuit_inside_the_range_is_found_by_its_rate() -> None:
    line = Line(a_monitor(Kind(range=(-40.0, 250.0), max_rate_per_s=5.0)))
    found = line.give(a=[*live(300), *[OPEN] * 300])
    assert line.told() == [("sensor", HOT_OR_SENSOR), ("sensor", RATE)]
    assert found[-1].status == RATE, "150 degrees would be in reach after 14 s"


def test_an_open_circuit_of_one_sensor_with_quiet_siblings_is_a_sensor() -> None:
    line = Line(a_monitor(siblings=("a", "b", "c")))
    line.give(a=[*live(300), *[OPEN] * 300], b=live(600), c=live(600, 75.0))
    assert was_called_a_sensor(line)


def test_a_jump_with_a_sibling_that_rises_stays_heat() -> None:
    line = Line(a_monitor(siblings=("a", "b", "c")))
    line.give(a=[*live(300), *[OPEN] * 300], b=[*live(300), *ramp(80.6, 110.6, 0.1)], c=live(600))
    assert not was_called_a_sensor(line)
    assert line.outcomes[-3].status == HOT_OR_SENSOR
    assert ("extreme", "cleared") not in line.told()


def test_siblings_that_rise_later_turn_a_broken_wire_into_heat_again() -> None:
    line = Line(a_monitor(siblings=("a", "b")))
    line.give(a=[*live(300), *[OPEN] * 400], b=[*live(500), *ramp(80.6, 100.6, 0.1)])
    states = [state for what, state in line.told() if what == "sensor"]
    assert states == [HOT_OR_SENSOR, RANGE, HOT_OR_SENSOR]
    assert line.monitor.limit("a") == "extreme"


def test_a_sensor_of_another_group_is_no_sibling() -> None:
    monitor = Monitor(
        Contract({"bearing": BEARING}, {"a": Sensor("bearing", "T1"), "b": Sensor("bearing", "T2")}), {}, ORIGIN
    )
    line = Line(monitor)
    line.give(a=[*live(300), *[OPEN] * 300], b=[*live(300), *ramp(80.6, 110.6, 0.1)])
    assert was_called_a_sensor(line)


def test_a_connector_that_comes_off_is_as_many_sensors_and_no_fire() -> None:
    line = Line(a_monitor(siblings=("a", "b", "c")))
    line.give(**{name: [*live(300), *[OPEN] * 300] for name in "abc"})
    assert [one.status for one in line.outcomes[-3:]] == [RANGE] * 3


@pytest.mark.parametrize("period", [0.1, 1.0, 5.0, 60.0, 300.0])
@pytest.mark.parametrize("kind", [BEARING, Kind(range=(-40.0, 140.0)), Kind(max_rate_per_s=1.0)])
def test_a_real_fire_is_never_filed_as_a_broken_wire(kind: Kind, period: float) -> None:
    """It rises at any real rate, then the end of the scale is as constant as a wire; alone, with quiet siblings."""
    kind = replace(kind, period_s=None, stuck_after_s=None, stale_after_s=None)
    for per_s, top in itertools.product((0.05, 0.2, 1.0, 4.0, 6.0, 12.0, 19.0), (139.0, 150.0, 250.0)):
        monitor = a_monitor(kind, siblings=("a", "b"))
        step = per_s * period
        values = [*live(30), *ramp(80.0 + step, max(top, 80.1 + step), step)[:2000], *[top] * 200]
        found = []
        for number, value in enumerate(values):
            moment = NOON + period * number
            quiet = Reading(moment, "b", 80.0 + 0.1 * (number % 3))
            found += monitor.process([Reading(moment, "a", min(value, top)), quiet])
        assert {one.status for one in found} <= {OK, HOT_OR_SENSOR}, (per_s, top)


def test_a_bearing_that_climbs_and_then_burns_its_wire_is_no_broken_wire() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(300), *ramp(80.6, 105.0, 0.2), *[OPEN] * 600])
    assert not was_called_a_sensor(line)


def test_a_warm_bearing_whose_wire_burns_off_is_no_broken_wire_however_slowly_it_warmed() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(2000, 112.0), *[OPEN] * 600])
    assert not was_called_a_sensor(line)


def test_a_jump_that_goes_on_rising_is_heat() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(300), *ramp(145.0, 160.0, 0.3), *[160.0] * 600])
    assert not was_called_a_sensor(line)


def test_a_jump_in_two_steps_passed_through_something() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(300), 145.0, *[OPEN] * 600])
    assert (line.outcomes[-1].status, was_called_a_sensor(line)) == (HOT_OR_SENSOR, False)


def test_what_settles_by_less_than_noise_after_a_jump_is_no_climb() -> None:
    line = Line(a_monitor(replace(BEARING, warn=None, critical=None)))
    line.give(a=[*live(300), 150.0, 150.1, 150.2, 150.3, *[150.4] * 100])
    assert line.told() == [("sensor", HOT_OR_SENSOR), ("sensor", RANGE)]


def test_what_flutters_after_a_jump_stays_in_doubt() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(300), *(OPEN + 0.5 * (number % 3) for number in range(600))])
    assert (line.outcomes[-1].status, was_called_a_sensor(line)) == (HOT_OR_SENSOR, False)


def test_a_sensor_whose_first_reading_is_beyond_its_range_stays_in_doubt() -> None:
    line = Line(a_monitor())
    line.give(a=[OPEN] * 600)
    assert {one.status for one in line.outcomes} == {HOT_OR_SENSOR}


def test_a_broken_wire_that_begins_to_move_is_in_doubt_again_and_one_stray_value_is_no_move() -> None:
    line = Line(a_monitor(replace(BEARING, warn=None, critical=None)))
    line.give(a=[*live(300), *[OPEN] * 100, 151.0, *[OPEN] * 5])
    assert [state for _, state in line.told()] == [HOT_OR_SENSOR, RANGE]
    line.give(a=[149.0, 148.5, 148.0])
    assert [state for _, state in line.told()] == [HOT_OR_SENSOR, RANGE, HOT_OR_SENSOR]


def test_a_fast_rise_that_comes_to_rest_at_a_level_is_good_again_when_it_could_have_got_there() -> None:
    line = Line(a_monitor(Kind(max_rate_per_s=5.0)))
    found = line.give(a=[*live(10), *live(20, 95.0)])
    assert [one.status for one in found].count(HOT_OR_SENSOR) == 2
    assert line.told() == [("sensor", HOT_OR_SENSOR), ("sensor", OK)]


def test_a_fast_fire_without_limits_or_range_is_heat() -> None:
    line = Line(a_monitor(Kind(max_rate_per_s=5.0)))
    line.give(a=[*live(10), *ramp(90.0, 300.0, 10.0)])
    assert line.told() == [("sensor", HOT_OR_SENSOR), ("extreme", "raised")]


def test_a_fire_that_falls_silent_or_says_nonsense_is_still_a_fire() -> None:
    line = Line(a_monitor())
    line.give(a=[*ramp(80.0, 150.0, 0.5), *[NAN] * 20])
    assert line.monitor.trouble("a") == HOT_OR_SENSOR
    line.monitor.tick(0.0)
    (silent,) = line.monitor.tick(100.0)
    assert (silent["state"], line.monitor.trouble("a"), line.monitor.limit("a")) == (STALE, HOT_OR_SENSOR, "extreme")


# -- the model sees only good readings ------------------------------------------------------------


def test_the_model_and_its_state_see_only_readings_that_are_ok() -> None:
    seen: list[float] = []

    def note(rows: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        seen.extend(rows[:, 0].tolist())
        return rows[:, 0].astype(np.float64) / 1000, np.zeros(len(rows), dtype=bool)

    spec = DetectorSpec("bearing", "model.onnx", FeatureSet("value", 1), threshold=0.5)
    line = Line(Monitor(Contract({"bearing": BEARING}), {"bearing": Detector(spec, note)}, ORIGIN))
    found = line.give(a=[*live(5), NAN, -45.0, 80.0, 20.0, OPEN, 4000.0, *live(3), *[81.0] * 800])
    assert seen == pytest.approx([one.value for one in found if one.status == OK])
    assert {one.status for one in found} == {OK, INVALID, RANGE, RATE, HOT_OR_SENSOR, STUCK}
    assert all((one.score is None) == (one.status != OK) for one in found)


def test_a_vehicle_that_was_parked_for_a_night_warms_up_again(change: FeatureSet) -> None:
    spec = DetectorSpec("bearing", "model.onnx", change, threshold=0.5, warmup=3)

    def jumps(rows: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        return rows[:, 0].astype(np.float64) / 1000, abs(rows[:, 0] - 100) > 20

    line = Line(Monitor(Contract({"bearing": BEARING}), {"bearing": Detector(spec, jumps)}, ORIGIN))
    line.give(a=live(30))
    line.second += 10 * 3600
    found = line.give(a=live(6, 5.0))
    assert [one.status for one in found] == [WARMING] * 3 + [OK] * 3
    assert not any(one.flag for one in found), "the fall over the night is no jump"
    (again,) = events(found)
    assert (again["state"], again["reason"]) == (OK, "no good reading for 36001 s")


def test_a_burst_of_nan_is_one_event_and_one_end() -> None:
    line = Line(a_monitor())
    line.give(a=[*live(5), *[NAN] * 10, *live(5)])
    assert line.told() == [("sensor", INVALID), ("sensor", OK)]


def test_a_nan_within_a_stuck_run_is_no_event_of_its_own() -> None:
    line = Line(a_monitor(Kind(stuck_after_s=10.0)))
    line.give(a=[*[80.0] * 15, NAN, 80.0, NAN, 80.0])
    assert line.told() == [("sensor", STUCK)]


def test_a_sensor_that_fell_silent_comes_back() -> None:
    line = Line(a_monitor())
    line.give(a=live(5), b=live(5))
    line.give(b=live(60))
    line.give(a=live(5), b=live(5))
    assert line.told() == [("sensor", STALE), ("sensor", OK)]
    stale = next(event for event in events(line.outcomes) if event["state"] == STALE)
    assert (stale["time"], stale["reason"]) == ("2026-04-01T12:00:34Z", "no reading for 30 s")


def test_a_sensor_that_falls_silent_at_the_end_of_the_calendar_harms_nothing() -> None:
    monitor = a_monitor()
    monitor.process([Reading(LATEST, "a", 80.0), Reading(NOON, "b", 80.0)])
    monitor.tick(0.0)
    assert {one["sensor"] for one in monitor.tick(100.0)} == {"a", "b"}


# -- marks and changes of release -----------------------------------------------------------------


def test_a_mark_ends_everything_of_its_sensor_alone() -> None:
    line = Line(a_monitor())
    line.give(a=ramp(80.0, 150.0, 1.0), b=ramp(80.0, 150.0, 1.0))
    (outcome,) = line.monitor.process([Replaced(NOON + 70, "a")])
    assert [(one["type"], one["state"]) for one in outcome.events] == [
        ("limit", "cleared"), ("limit", "cleared"), ("sensor", REPLACED),
    ]  # fmt: skip
    assert (line.monitor.limit("a"), line.monitor.trouble("a")) == (None, None)
    assert (line.monitor.limit("b"), line.monitor.trouble("b")) == ("extreme", HOT_OR_SENSOR)


def test_a_change_of_release_opens_and_ends_limit_and_hot_or_sensor_events() -> None:
    old = Line(a_monitor())
    values = ramp(80.0, 150.0, 1.0)
    old.give(a=values)
    opened = old.monitor.open_events()
    assert [(one["type"], one["state"]) for one in opened] == [
        ("sensor", HOT_OR_SENSOR), ("limit", "raised"), ("limit", "raised"),
    ]  # fmt: skip
    new = Line(a_monitor())
    new.give(a=values)
    assert new.monitor.open_events() == opened
    ended = old.monitor.end_events("another release runs now")
    assert [(one["id"], one["state"]) for one in ended] == [
        (one["id"], OK if one["type"] == "sensor" else "cleared") for one in opened
    ]
    assert {(one["time"], one["reason"]) for one in ended} == {("2026-04-01T12:01:09Z", "another release runs now")}


# -- batches --------------------------------------------------------------------------------------

HOSTILE = Kind(
    period_s=1.0, range=(-40.0, 140.0), max_rate_per_s=5.0, stuck_after_s=8.0, stale_after_s=6.0, warn=110.0,
    critical=130.0,
)  # fmt: skip
temperatures = st.one_of(
    st.sampled_from([80.0, 80.0, 80.5, 85.0, 112.0, 135.0, 150.0, 150.0, 215.0, -45.0, 4000.0, 1e300, NAN, math.inf]),
    st.floats(-50, 160, width=32),
)
names = st.sampled_from(["a", "b", "c", "stranger"])
times = st.one_of(st.integers(0, 60), st.sampled_from([YEAR, YEAR + 1, -YEAR, 3600.0])).map(lambda s: NOON + s)
runs = st.builds(
    lambda start, sensor, values: [Reading(start + n, sensor, value) for n, value in enumerate(values)],
    times,
    names,
    st.one_of(
        st.lists(temperatures, min_size=1, max_size=12), temperatures.map(lambda v: [v] * 15),
        st.floats(0.1, 9).map(lambda rise: [80 + rise * n for n in range(15)]),
    ),
)  # fmt: skip
odd = st.one_of(
    st.builds(BadLine, line=st.integers(1, 99), reason=st.just("not text (UTF-8)")),
    st.builds(Replaced, time=times, sensor=names),
    st.integers(0, 20),  # seconds after which a tick comes
).map(lambda one: [one])


def answers(stream: Sequence[Any], cuts: Sequence[int], change: FeatureSet) -> str:
    """Outcomes and the events of ticks, in order, as text in which one NaN equals another."""
    sensors = {name: Sensor("bearing", group="T204") for name in "ab"}
    sensors["c"] = Sensor("coolant", offset=-2.5)
    spec = DetectorSpec("bearing", "model.onnx", change, threshold=0.5, warmup=2)

    def hot(rows: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        return rows[:, 0].astype(np.float64) / 1000, rows[:, 0] > 103

    monitor = Monitor(
        Contract({"bearing": HOSTILE, "coolant": Kind(warn=100.0)}, sensors), {"bearing": Detector(spec, hot)}, ORIGIN
    )
    found: list[Any] = []
    now = 1000.0
    ticks = [number + side for number, one in enumerate(stream) if isinstance(one, int) for side in (0, 1)]
    for start, end in pairwise(sorted([0, len(stream), *ticks, *cuts])):
        part = stream[start:end]
        if len(part) == 1 and isinstance(part[0], int):
            now += part[0]
            found += monitor.tick(now)
        else:
            found += monitor.process(part)
    return repr([*found, monitor.open_events(), monitor.end_events("over")])


@given(st.lists(st.one_of(runs, runs, odd), max_size=12), st.data())
@settings(deadline=None, max_examples=200)
def test_however_a_hostile_stream_is_cut_the_outcomes_are_the_same(parts: list[list[Any]], data: st.DataObject) -> None:
    stream = [one for part in parts for one in part]
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    whole = answers(stream, (), CHANGE[0])
    assert answers(stream, cuts, CHANGE[0]) == whole
    assert answers(stream, range(len(stream)), CHANGE[0]) == whole


CHANGE: list[FeatureSet] = []


@pytest.fixture(autouse=True)
def _change(change: FeatureSet) -> None:
    """A feature set with state, known to all examples of the property."""
    CHANGE[:] = [change]
