"""From readings to flags and events: the way of every reading through a Monitor."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from axlebox.export.forest_onnx import convert
from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Kind, Sensor
from axlebox.firmware_bundle.slots import Release, make_release
from axlebox.runtime.detector import Detector, Monitor, monitor_release
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.outcomes import Origin, Outcome
from axlebox.runtime.readings import REPLACED, BadLine, Reading, Replaced, parse_time
from axlebox.runtime.scorer import Scorer
from axlebox.runtime.statuses import INVALID, OK, WARMING

NOON = parse_time("2022-09-10T12:00:00Z")
DIGEST = "0a1b2c3d" + "4" * 56
ORIGIN = Origin("bearing-temp", 7, DIGEST)
USUAL, HOT = 100.0, 200.0


def above_150(rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A model that anybody can check by heart: score is a thousandth of the value."""
    return rows[:, 0].astype(np.float64) / 1000, rows[:, 0] > 150


def spec(kind: str = "temperature", warmup: int = 0, features: FeatureSet | None = None) -> DetectorSpec:
    return DetectorSpec(kind, "model.onnx", features or FeatureSet("value", 1), threshold=0.15, warmup=warmup)


def simple(warmup: int = 0, features: FeatureSet | None = None, **sensors: Sensor) -> Monitor:
    contract = Contract(kinds={"temperature": Kind(action="look at the bearing")}, sensors=sensors)
    return Monitor(contract, {"temperature": Detector(spec(warmup=warmup, features=features), above_150)}, ORIGIN)


def minutes(*values: float, sensor: str = "axle-1") -> list[Reading]:
    return [Reading(NOON + 60 * number, sensor, value, number + 1) for number, value in enumerate(values)]


def events(outcomes: Sequence[Outcome]) -> list[tuple[int, str, str]]:
    """Line, type and state of every event."""
    return [(outcome.line, event["type"], event["state"]) for outcome in outcomes for event in outcome.events]


# -- anomaly events -------------------------------------------------------------------------------


def test_an_event_is_raised_with_the_first_flag_and_cleared_with_the_first_unflagged_reading() -> None:
    outcomes = simple().process(minutes(USUAL, HOT, HOT, USUAL, USUAL, HOT))
    assert [outcome.flag for outcome in outcomes] == [False, True, True, False, False, True]
    assert events(outcomes) == [(2, "anomaly", "raised"), (4, "anomaly", "cleared"), (6, "anomaly", "raised")]


def test_an_event_carries_what_its_reader_needs() -> None:
    (event,) = simple().process(minutes(HOT))[0].events
    assert event == {
        "type": "anomaly",
        "state": "raised",
        "id": f"0a1b2c3d-axle-1-{int(datetime(2022, 9, 10, 12, tzinfo=UTC).timestamp())}",
        "severity": "mild",
        "sensor": "axle-1",
        "time": "2022-09-10T12:00:00Z",
        "value": 200.0,
        "score": 0.2,
        "threshold": 0.15,
        "why": [{"feature": "value", "value": 200.0}],
        "action": "look at the bearing",
        "bundle": {"name": "bearing-temp", "version": 7, "digest": DIGEST},
    }


def test_the_clearing_event_has_the_id_of_the_raised_one_and_its_own_time_and_value() -> None:
    raised, _, cleared = simple().process(minutes(HOT, HOT, USUAL))
    assert cleared.events[0]["id"] == raised.events[0]["id"]
    assert cleared.events[0] == raised.events[0] | {
        "state": "cleared",
        "time": "2022-09-10T12:02:00Z",
        "value": USUAL,
        "score": 0.1,
        "why": [{"feature": "value", "value": USUAL}],
    }


def test_every_reading_inside_an_event_names_it() -> None:
    outcomes = simple().process(minutes(USUAL, HOT, HOT, USUAL))
    name = f"0a1b2c3d-axle-1-{int(NOON) + 60}"
    assert [outcome.event for outcome in outcomes] == [None, name, name, None]


def test_each_sensor_has_its_own_events() -> None:
    one, two = minutes(HOT, USUAL, sensor="axle-1"), minutes(USUAL, HOT, sensor="axle-2")
    outcomes = simple().process([one[0], two[0], one[1], two[1]])
    assert [(outcome.sensor, state) for outcome in outcomes for _, _, state in events([outcome])] == [
        ("axle-1", "raised"),
        ("axle-1", "cleared"),
        ("axle-2", "raised"),
    ]


def test_an_invalid_reading_neither_raises_nor_clears() -> None:
    outcomes = simple().process(minutes(HOT, float("nan"), HOT, USUAL))
    assert [state for _, kind, state in events(outcomes) if kind == "anomaly"] == ["raised", "cleared"]
    assert outcomes[1].score is None
    assert not outcomes[1].flag


def test_an_event_still_open_goes_on_in_the_next_batch() -> None:
    monitor = simple()
    monitor.process(minutes(HOT))
    later = monitor.process([Reading(NOON + 60, "axle-1", HOT, 2), Reading(NOON + 120, "axle-1", USUAL, 3)])
    assert events(later) == [(3, "anomaly", "cleared")]


# -- sensor events --------------------------------------------------------------------------------


def test_a_run_of_invalid_readings_gives_one_event_at_its_beginning_and_one_at_its_end() -> None:
    first, *_, last = outcomes = simple().process(minutes(*[float("nan")] * 3, USUAL))
    assert [outcome.status for outcome in outcomes] == [INVALID, INVALID, INVALID, OK]
    assert first.events == (
        {
            "type": "sensor",
            "state": "invalid",
            "sensor": "axle-1",
            "time": "2022-09-10T12:00:00Z",
            "reason": "its value is nan",
        },
    )
    assert last.events == (
        {"type": "sensor", "state": "ok", "sensor": "axle-1", "time": "2022-09-10T12:03:00Z", "dropped": 3},
    )
    assert len(events(outcomes)) == 2


def test_after_a_run_has_ended_the_next_one_counts_anew() -> None:
    nan = float("nan")
    outcomes = simple().process(minutes(nan, nan, USUAL, nan, USUAL))
    assert [event["dropped"] for outcome in outcomes for event in outcome.events if event["state"] == "ok"] == [2, 1]


def test_the_run_of_one_sensor_is_not_ended_by_another() -> None:
    monitor = simple()
    monitor.process(minutes(float("nan"), sensor="axle-1"))
    assert monitor.process(minutes(USUAL, sensor="axle-2"))[0].events == ()


def test_a_run_of_bad_lines_ends_with_the_next_good_reading_of_any_sensor() -> None:
    bad = [BadLine(number, "not text (UTF-8)") for number in (1, 2)]
    first, second, good = simple().process([*bad, Reading(NOON, "axle-1", USUAL, 3)])
    assert (first.status, first.reason, first.line) == (INVALID, "not text (UTF-8)", 1)
    assert [event["state"] for event in first.events] == ["invalid"]
    assert second.events == ()
    (ended,) = good.events
    assert (ended["state"], ended["dropped"]) == ("ok", 2)


def test_a_sensor_that_was_always_valid_gives_no_sensor_event() -> None:
    assert events(simple().process(minutes(USUAL, USUAL, USUAL))) == []


def test_endless_new_sensor_ids_do_not_fill_the_memory() -> None:
    """Refused ids come from outside, as many as somebody likes: what is kept about them is bounded."""
    contract = Contract(kinds={"bearing": Kind(), "coolant": Kind()})
    monitor = Monitor(contract, {}, ORIGIN)

    def feed(start: int, count: int) -> None:
        for number in range(start, start + count):
            assert monitor.process([Reading(NOON, f"sensor {number}", USUAL)])[0].status == INVALID

    feed(0, 2 * MAX_SENSORS)
    tracemalloc.start()
    try:
        feed(2 * MAX_SENSORS, 4 * MAX_SENSORS)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000


# -- kinds, offsets, warm-up ----------------------------------------------------------------------


def test_the_commissioning_offset_is_added_before_everything_else() -> None:
    monitor = simple(**{"axle-1": Sensor("temperature", offset=60.0), "axle-2": Sensor("temperature")})
    shifted, plain = monitor.process([*minutes(USUAL, sensor="axle-1"), *minutes(USUAL, sensor="axle-2")])
    assert (shifted.value, shifted.score, shifted.flag) == (160.0, 0.16, True)
    assert shifted.events[0]["value"] == 160.0
    assert (plain.value, plain.flag) == (100.0, False)


def test_a_sensor_that_never_had_a_valid_reading_stays_invalid_and_is_never_scored() -> None:
    outcomes = simple().process(minutes(*[float("nan")] * 5))
    assert {outcome.status for outcome in outcomes} == {INVALID}
    assert {outcome.score for outcome in outcomes} == {None}
    assert events(outcomes) == [(1, "sensor", "invalid")]


def test_the_warm_up_scores_without_flags_and_events_and_ends_for_each_sensor_by_itself() -> None:
    outcomes = simple(warmup=2).process([*minutes(HOT, HOT, HOT), *minutes(HOT, sensor="axle-2")])
    assert [outcome.status for outcome in outcomes] == [WARMING, WARMING, OK, WARMING]
    assert [outcome.flag for outcome in outcomes] == [False, False, True, False]
    assert [outcome.score for outcome in outcomes] == [0.2] * 4
    assert events(outcomes) == [(3, "anomaly", "raised")]


def test_an_invalid_reading_does_not_count_towards_the_warm_up() -> None:
    outcomes = simple(warmup=2).process(minutes(USUAL, float("nan"), USUAL, USUAL))
    assert [outcome.status for outcome in outcomes] == [WARMING, INVALID, WARMING, OK]


def test_each_kind_has_its_own_detector_and_a_kind_without_one_meets_the_gate_only() -> None:
    kinds = {name: Kind() for name in ("bearing", "coolant", "cabin")}
    sensors = {"axle": Sensor("bearing"), "loop": Sensor("coolant"), "seat": Sensor("cabin")}
    detectors = {
        "bearing": Detector(spec("bearing"), above_150),
        "coolant": Detector(spec("coolant"), lambda rows: (rows[:, 0].astype(np.float64), rows[:, 0] > 90)),
    }
    monitor = Monitor(Contract(kinds, sensors), detectors, ORIGIN)
    outcomes = monitor.process([Reading(NOON, name, USUAL) for name in ("axle", "loop", "seat")])
    assert [(outcome.status, outcome.score, outcome.flag) for outcome in outcomes] == [
        (OK, 0.1, False),
        (OK, 100.0, True),
        (OK, None, False),
    ]


def test_all_rows_of_a_batch_are_scored_in_one_call() -> None:
    calls: list[tuple[tuple[int, ...], np.dtype[Any]]] = []

    def counting(rows: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        calls.append((rows.shape, rows.dtype))
        return above_150(rows)

    contract = Contract(kinds={"temperature": Kind()})
    Monitor(contract, {"temperature": Detector(spec(), counting)}, ORIGIN).process(minutes(*[USUAL] * 50))
    assert calls == [((50, 1), np.dtype(np.float32))]


def test_a_finite_reading_beyond_float32_is_an_outcome_like_any_other(recwarn: pytest.WarningsRecorder) -> None:
    """It is too large for the model's float32, and must not write a warning to the daemon's stderr."""
    (outcome,) = simple().process(minutes(1e300))
    assert outcome.flag or outcome.status == INVALID
    assert [str(warning.message) for warning in recwarn] == []


def test_an_unknown_feature_set_is_refused_when_the_detector_is_made() -> None:
    with pytest.raises(Malformed, match="feature set value 9"):
        Detector(spec(features=FeatureSet("value", 9)), above_150)


# -- replaced sensors -----------------------------------------------------------------------------


def mark(minute: int, sensor: str = "axle-1") -> Replaced:
    return Replaced(NOON + 60 * minute, sensor, minute + 1)


def test_a_mark_has_an_outcome_and_an_event_of_its_own() -> None:
    *_, outcome = simple().process([*minutes(USUAL), mark(1)])
    replaced = {"type": "sensor", "state": "replaced", "sensor": "axle-1", "time": "2022-09-10T12:01:00Z"}
    assert outcome == Outcome(2, "axle-1", NOON + 60, None, REPLACED, events=(replaced,))


def test_a_mark_empties_the_features_of_its_sensor_alone(change: FeatureSet) -> None:
    monitor = simple(features=change)
    monitor.process([*minutes(USUAL), *minutes(USUAL, sensor="axle-2")])
    jump = [Reading(NOON + 120, sensor, HOT) for sensor in ("axle-1", "axle-2")]
    _, one, two = monitor.process([mark(1), *jump])
    assert (one.score, one.flag) == (0.1, False)
    assert (two.score, two.flag) == (0.2, True)


def test_a_mark_begins_the_warm_up_of_its_sensor_alone_again() -> None:
    monitor = simple(warmup=1)
    monitor.process([*minutes(USUAL), *minutes(USUAL, sensor="axle-2")])
    _, *later = monitor.process([mark(1), *minutes(0, 0, HOT, HOT)[2:], *minutes(0, 0, HOT, sensor="axle-2")[2:]])
    assert [(one.status, one.flag) for one in later] == [(WARMING, False), (OK, True), (OK, True)]


def test_a_mark_clears_the_event_of_its_sensor_alone_and_says_why() -> None:
    monitor = simple()
    raised, other = monitor.process([*minutes(HOT), *minutes(HOT, sensor="axle-2")])
    cleared, replaced = monitor.process([mark(1)])[0].events
    assert cleared == raised.events[0] | {
        "state": "cleared",
        "time": "2022-09-10T12:01:00Z",
        "value": None,
        "score": None,
        "why": [],
        "reason": "sensor replaced",
    }
    assert replaced["state"] == "replaced"
    later = monitor.process([Reading(NOON + 120, sensor, HOT) for sensor in ("axle-1", "axle-2")])
    assert [one.event for one in later] == [f"0a1b2c3d-axle-1-{int(NOON) + 120}", other.event]
    assert events(later) == [(0, "anomaly", "raised")]


def test_what_waits_before_a_mark_is_judged_before_it() -> None:
    outcomes = simple().process([*minutes(HOT), mark(1), *minutes(0, 0, HOT)[2:]])
    assert events(outcomes) == [
        (1, "anomaly", "raised"),
        (2, "anomaly", "cleared"),
        (2, "sensor", "replaced"),
        (3, "anomaly", "raised"),
    ]


def test_the_new_sensor_s_times_begin_anew_and_a_mark_of_an_early_time_is_obeyed() -> None:
    monitor = simple()
    monitor.process([*minutes(USUAL, USUAL), *minutes(USUAL, sensor="axle-2")])
    early = Reading(NOON - 3600, "axle-1", USUAL)
    assert [one.status for one in monitor.process([mark(-120), early, early])] == [REPLACED, OK, INVALID]
    assert monitor.process([Reading(NOON, "axle-2", USUAL)])[0].status == INVALID


def test_a_mark_ends_the_run_of_invalid_readings_and_says_how_many_were_dropped() -> None:
    monitor = simple()
    nan = float("nan")
    monitor.process([*minutes(nan, nan), *minutes(nan, sensor="axle-2")])
    (replaced,) = monitor.process([mark(2)])[0].events
    assert (replaced["state"], replaced["dropped"]) == ("replaced", 2)
    assert monitor.process([Reading(NOON + 180, "axle-1", USUAL)])[0].events == ()
    (ended,) = monitor.process([Reading(NOON + 180, "axle-2", USUAL)])[0].events
    assert (ended["state"], ended["dropped"]) == ("ok", 1)


def test_a_mark_does_not_end_a_run_of_bad_lines() -> None:
    _, replaced, good = simple().process([BadLine(1, "not text (UTF-8)"), mark(0), *minutes(USUAL)])
    assert [event["state"] for event in replaced.events] == ["replaced"]
    assert [event["state"] for event in good.events] == ["ok"]


def test_a_mark_of_an_unknown_sensor_is_harmless() -> None:
    kinds = {"bearing": Kind(), "coolant": Kind()}
    monitor = Monitor(Contract(kinds), {}, ORIGIN)
    assert [one.status for one in monitor.process([mark(0, "stranger"), mark(1, "stranger")])] == [REPLACED] * 2
    assert [one.status for one in simple().process([mark(0), mark(0), *minutes(USUAL)])] == [REPLACED, REPLACED, OK]


# -- batches --------------------------------------------------------------------------------------

values = st.one_of(st.sampled_from([90.0, 100.0, 170.0, float("nan"), float("inf")]), st.floats(80, 130, width=32))
items = st.one_of(
    st.builds(
        Reading,
        time=st.integers(0, 30).map(lambda seconds: NOON + seconds),
        sensor=st.sampled_from(["axle-1", "axle-2", "loop", "stranger"]),
        value=values,
        line=st.integers(1, 99),
    ),
    st.builds(BadLine, line=st.integers(1, 99), reason=st.just("not text (UTF-8)")),
    st.builds(
        Replaced,
        time=st.integers(0, 30).map(lambda seconds: NOON + seconds),
        sensor=st.sampled_from(["axle-1", "axle-2", "loop", "stranger"]),
        line=st.integers(1, 99),
    ),
)


@given(st.lists(items, max_size=40), st.lists(st.integers(0, 40), max_size=8))
@settings(deadline=None)
def test_however_a_stream_is_cut_into_batches_the_outcomes_are_the_same(
    stream: list[Reading | BadLine | Replaced], cuts: list[int]
) -> None:
    monitors = [_two_kinds() for _ in range(3)]
    whole = monitors[0].process(stream)
    edges = [0, *sorted(cuts), len(stream)]
    parts = [monitors[1].process(stream[start:end]) for start, end in pairwise(edges)]
    single = [outcome for item in stream for outcome in monitors[2].process([item])]
    # Compared as text, in which one NaN equals another.
    assert repr([outcome for part in parts for outcome in part]) == repr(whole)
    assert repr(single) == repr(whole)


_SCORER: list[Scorer] = []


@pytest.fixture(autouse=True)
def _one_scorer(world: Any, change: FeatureSet) -> None:
    """The world's model, loaded once for all examples of the property; a feature set with state is known."""
    if not _SCORER:
        _SCORER.append(Scorer(world.model))


def _two_kinds() -> Monitor:
    kinds = {"bearing": Kind(), "coolant": Kind()}
    sensors = {
        "axle-1": Sensor("bearing"),
        "axle-2": Sensor("bearing", offset=-3.5),
        "loop": Sensor("coolant"),
    }
    detectors = {
        "bearing": Detector(spec("bearing", warmup=2, features=FeatureSet("change", 1)), _SCORER[0].score_rows),
        "coolant": Detector(spec("coolant"), _SCORER[0].score_rows),
    }
    return Monitor(Contract(kinds, sensors), detectors, ORIGIN)


# -- a release ------------------------------------------------------------------------------------


def _release(world: Any, **manifest_changes: Any) -> Release:
    files = world.files(world.manifest(**manifest_changes))
    return make_release(DIGEST, datetime(2026, 3, 1, tzinfo=UTC), 1, files)


def test_a_release_is_monitored_with_its_own_model_and_scikit_learns_flags(world: Any) -> None:
    readings = minutes(*np.random.default_rng(8).normal(100, 8, 500).tolist())
    outcomes = monitor_release(_release(world)).process(readings)
    rows = np.array([[reading.value] for reading in readings], dtype=np.float32)
    assert [outcome.flag for outcome in outcomes] == (world.forest.predict(rows) == -1).tolist()
    assert {outcome.flag for outcome in outcomes} == {True, False}


def test_the_events_of_a_release_name_it(world: Any) -> None:
    (event,) = monitor_release(_release(world, version=4)).process(minutes(500.0))[0].events
    assert event["bundle"] == {"name": "bearing-temp", "version": 4, "digest": DIGEST}
    assert event["threshold"] == -world.forest.offset_


def test_a_model_that_takes_another_number_of_features_than_its_feature_set_is_malformed(world: Any) -> None:
    rows = np.random.default_rng(1).normal(100, 4, (50, 2)).astype(np.float32)
    wide = convert(IsolationForest(n_estimators=2, random_state=1).fit(rows), 2)
    files = world.files(world.manifest()) | {"model.onnx": wide}
    release = make_release(DIGEST, datetime(2026, 3, 1, tzinfo=UTC), 1, files)
    with pytest.raises(Malformed, match="feature"):
        monitor_release(release)
