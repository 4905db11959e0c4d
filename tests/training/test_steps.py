from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace
from sklearn.ensemble import IsolationForest

from axlebox.export.forest_onnx import convert
from axlebox.firmware_bundle.errors import AxleboxError, Malformed, UsageError
from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.runtime.detector import REPLACED, Detector, Monitor
from axlebox.runtime.gate import Gate
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import LineReader, Reading, Replaced
from axlebox.runtime.scorer import Scorer
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, RANGE, STUCK
from axlebox.training import frames, steps
from axlebox.training.evaluation import evaluate
from axlebox.training.fit import Fitted, fit_detector, make_rows
from axlebox.training.parameters import BundleParameters, Parameters, StreamingParameters, check
from axlebox.training.readings import check_items
from axlebox.training.run import parse_params
from axlebox.training.runs import write_readings
from axlebox.training.series import record, silent

CONTRACT = Contract(kinds={"temperature": Kind()})
PARAMETERS = Parameters(bundle=BundleParameters(name="x"), feature_set="value")
STREAMING = Parameters(bundle=BundleParameters(name="x"), streaming=StreamingParameters(warmup=60))


def trained(train: pd.DataFrame, contract: Contract, parameters: Parameters = PARAMETERS) -> list[Fitted]:
    return [fit_detector(one, parameters) for one in make_rows(train, contract, parameters, silent)]


def predicted(fitted: list[Fitted], contract: Contract, readings: pd.DataFrame) -> pd.DataFrame:
    forests = {one.spec.model: one.forest for one in fitted}
    return steps.predict(forests, [one.spec for one in fitted], contract, readings)


def evaluated(predictions: pd.DataFrame, train: pd.DataFrame, fitted: list[Fitted]) -> dict[str, Any]:
    return evaluate(predictions, train, [one.features for one in fitted], [one.spec for one in fitted])


def frame(times: list[float], sensor: str = "temperature") -> pd.DataFrame:
    return pd.DataFrame({"time": times, "sensor": sensor, "value": np.arange(len(times), dtype=float), "era": 0})


def test_the_split_is_in_time_order_and_loses_nothing() -> None:
    readings = frame([float(number) for number in range(10)])
    train, test = steps.split_by_time(readings, 0.8)
    assert train["time"].max() < test["time"].min()
    assert (len(train), len(test)) == (8, 2)


def test_no_moment_of_two_sensors_is_on_both_sides_of_the_split() -> None:
    readings = pd.concat([frame([0, 1, 2, 3, 4], "a"), frame([0, 1, 2, 3, 4], "b")], ignore_index=True)
    train, test = steps.split_by_time(readings, 0.5)
    assert not set(train["time"]) & set(test["time"])
    assert len(train) + len(test) == 10


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0]])
def test_too_few_readings_to_split_are_refused(times: list[float]) -> None:
    with pytest.raises(Malformed, match="too few"):
        steps.split_by_time(frame(times), 0.8)


def test_the_talk_s_detector_flags_exactly_what_scikit_learn_flags(temps_csv: Path) -> None:
    """The talk's own way (pandas and scikit-learn) against the pipeline's steps, on 1,167 held-out readings."""
    raw = pd.read_csv(temps_csv, names=["time", "value"], skipinitialspace=True)
    values = raw[["value"]].to_numpy(dtype=float)
    cut = int(len(values) * 0.8)
    talk = IsolationForest(random_state=69, bootstrap=True, contamination=0.05).fit(values[:cut])
    expected = talk.predict(values[cut:]) == -1

    times = pd.to_datetime(raw["time"], utc=True).astype("int64") / 1e9
    readings = pd.DataFrame({"time": times, "sensor": "temperature", "value": raw["value"].astype(float), "era": 0})
    train, test = steps.split_by_time(readings, PARAMETERS.train_fraction)
    predictions = predicted(trained(train, CONTRACT), CONTRACT, test)
    assert len(predictions) == 1167 and int(expected.sum()) == 56
    assert predictions["flag"].tolist() == expected.tolist()


def test_evaluation_counts_flags_and_events_per_day_of_exposure() -> None:
    predictions = frame([0.0, 43200.0, 86400.0]).assign(
        flag=[True, True, False], event=[True, False, False], score=0.5, status="ok", limit=False, kind="temperature"
    )
    found = evaluated(predictions, frame([0.0]), [])
    assert (found["flags_per_sensor_day"], found["events_per_sensor_day"]) == (2.0, 1.0)


# -- eras -----------------------------------------------------------------------------------------


def test_an_era_counts_the_marks_of_its_own_sensor() -> None:
    items = [
        Reading(1.0, "a", 5.0),
        Replaced(2.0, "a"),
        Reading(3.0, "a", 6.0),
        Reading(3.0, "b", 7.0),
        Replaced(4.0, "stranger"),
        Replaced(4.0, "a"),
        Replaced(5.0, "a"),
        Reading(6.0, "a", 8.0),
    ]
    made = frames.to_frame(items)
    assert made["era"].tolist() == [0, 1, 0, 3]
    a, first, b, last = (one for one in items if isinstance(one, Reading))
    again = frames.to_readings(made)
    assert [replace(one, line=0) for one in again] == [a, Replaced(3.0, "a"), first, b, Replaced(6.0, "a"), last]


def test_a_frame_that_begins_with_a_later_era_begins_without_a_mark() -> None:
    assert frames.to_readings(frame([1.0]).assign(era=2)) == [Reading(1.0, "temperature", 0.0, 1)]


def test_series_begin_anew_with_an_era_of_their_sensor_alone() -> None:
    step = [Reading(2.0, "a", 60.0), Reading(2.0, "b", 60.0)]
    items = [Reading(1.0, "a", 50.0), Reading(1.0, "b", 50.0), Replaced(2.0, "a"), *step]
    stream = frames.to_readings(frames.to_frame(items))
    found = record(stream, CONTRACT, {"temperature": 1.0}, silent)["temperature"]
    assert [(one.sensor, one.values().tolist()) for one in found] == [("a", [50.0]), ("b", [50.0, 60.0]), ("a", [60.0])]


def test_the_hours_between_two_eras_are_no_exposure() -> None:
    predictions = frame([0.0, 43200.0, 864000.0, 907200.0]).assign(
        era=[0, 0, 1, 1], flag=True, event=False, score=0.5, status="ok", limit=False, kind="temperature"
    )
    found = evaluated(predictions, frame([0.0]), [])
    assert (found["exposure_sensor_days"], found["sensors"]) == (1.0, 1)


CHECKED = Contract(
    kinds={
        "temperature": Kind(
            period_s=60.0, range=(-40.0, 300.0), max_rate_per_s=3.0, stuck_after_s=600.0, stale_after_s=900.0,
            warn=230.0, critical=260.0,
        )
    }
)  # fmt: skip


def hostile_service() -> list[Reading | Replaced]:
    """What the gate must find: a frozen hour, a short circuit, NaN, a clock a year ahead, a night, an open circuit."""
    random = np.random.default_rng(4)
    items: list[Reading | Replaced] = []
    for minute in range(2000):
        value = float(round(100.0 + random.normal(0, 2), 2))
        time = 60.0 * minute + (36000.0 if minute >= 1700 else 0.0)
        for first, last, other in ((300, 360, 101.0), (1650, 1690, 99.0), (500, 520, -45.0), (1750, 1760, 320.0)):
            value = other if first <= minute < last else value
        value = float("nan") if minute in (310, 700, 1800) else value
        items.append(Reading(time + (3.2e7 if minute in (900, 1850) else 0.0), "a", value))
    return items


def test_a_replay_of_held_out_readings_carries_what_the_gate_of_the_box_needs(tmp_path: Path) -> None:
    """The contract's checks, in training and on the box: equal statuses and flags, only good rows in the model."""
    checked = check_items(hostile_service(), Gate(CHECKED), "x.csv")
    frame = frames.to_frame(checked.stream, checked.statuses)
    train, test = steps.split_by_time(frame, 0.8)
    assert len(train) + len(test) == 2000
    fitted = trained(train, CHECKED)
    rows, forest, spec = fitted[0].features.rows, fitted[0].forest, fitted[0].spec
    assert np.isfinite(rows).all() and rows.min() > 80 and rows.max() < 120
    predictions = predicted(fitted, CHECKED, test)
    write_readings(tmp_path / "held_out.csv", predictions)
    monitor = Monitor(
        CHECKED, {spec.kind: Detector(spec, Scorer(convert(forest, 1)).score_rows)}, Origin("b", 1, "0" * 64)
    )
    outcomes = monitor.process(LineReader("a").read((tmp_path / "held_out.csv").read_bytes().splitlines()))
    assert predictions["status"].tolist() == [one.status for one in outcomes]
    assert predictions["flag"].tolist() == [one.flag for one in outcomes]
    assert {INVALID, STUCK, HOT_OR_SENSOR} <= set(predictions["status"])
    facts = evaluated(predictions, train, fitted)
    assert facts["test_readings"] == sum(one.score is not None for one in outcomes)
    assert facts["held_back"][HOT_OR_SENSOR] == 10 and facts["limit_events"] >= 1
    quality = steps.data_quality(checked)
    assert quality["held_back"][RANGE] == 20 and quality["invalid"] >= 3
    assert quality["readings"] + quality["invalid"] + sum(quality["held_back"].values()) == 2000


def test_readings_are_checked_with_their_commissioning_offset() -> None:
    kinds = {"temperature": Kind(range=(0.0, 100.0))}
    contract = Contract(kinds, {"a": Sensor("temperature", offset=60.0), "b": Sensor("temperature")})
    checked = check_items([Reading(1.0, "a", 50.0), Reading(1.0, "b", 50.0)], Gate(contract), "x.csv")
    assert checked.statuses == [HOT_OR_SENSOR, "ok"]
    assert [one.value for one in checked.stream] == [50.0, 50.0], "the box adds it once more"


def replaced_in_service() -> list[Reading | Replaced]:
    """Two sensors with everyday noise, spikes, and marks in training time, in held-out time and where a clock goes
    back; each new sensor shows another level, which without its mark would be a jump."""
    random = np.random.default_rng(3)
    items: list[Reading | Replaced] = []
    replaced = {"axle, left": (500, 1800, 1950), "b": (1700,)}
    for minute in range(2000):
        for sensor, minutes in replaced.items():
            if minute in minutes:
                items.append(Replaced(60.0 * minute, sensor))
            level = 100.0 + 40.0 * sum(minute >= one for one in minutes) + 60.0 * (minute % 97 == 0)
            level += 400.0 * (1900 <= minute < 1910)
            late = 7200.0 if sensor != "b" and minute >= 1800 else 0.0
            items.append(Reading(60.0 * minute - late, sensor, float(round(level + random.normal(0, 2), 2))))
    return items


@pytest.mark.parametrize("parameters", [STREAMING, PARAMETERS])
def test_training_and_the_box_agree_on_held_out_readings_with_marks(tmp_path: Path, parameters: Parameters) -> None:
    """scikit-learn on a frame, against lines of text through the vehicle's reader, Monitor and Scorer."""
    train, test = steps.split_by_time(frames.to_frame(replaced_in_service()), 0.8)
    fitted = trained(train, CONTRACT, parameters)
    spec = fitted[0].spec
    predictions = predicted(fitted, CONTRACT, test)
    write_readings(tmp_path / "held_out.csv", predictions)

    scorer = Scorer(convert(fitted[0].forest, fitted[0].features.rows.shape[1]))
    monitor = Monitor(CONTRACT, {spec.kind: Detector(spec, scorer.score_rows)}, Origin("box", 1, "0" * 64))
    items = LineReader("temperature").read((tmp_path / "held_out.csv").read_bytes().splitlines())
    outcomes = monitor.process(items)
    assert [one.sensor for one in outcomes if one.status == REPLACED] == ["b", "axle, left", "axle, left"]
    scored = [one for one in outcomes if one.status != REPLACED]
    raised = [any(event["state"] == "raised" for event in one.events) for one in scored]
    for column, found in {
        "time": [one.time for one in scored],
        "sensor": [one.sensor for one in scored],
        "status": [one.status for one in scored],
        "flag": [one.flag for one in scored],
        "event": raised,
    }.items():
        assert predictions[column].tolist() == found, column
    assert np.allclose(predictions["score"], [one.score for one in scored], rtol=0, atol=1e-12)
    assert 0 < sum(raised) < len(scored) / 4


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"contamination_facter": 0.1}, "contamination_facter"),
        ({"contamination_factor": 0.9}, r"\$.contamination_factor"),
        ({"contamination_factor": 0}, r"\$.contamination_factor"),
        ({"train_fraction": "most"}, r"\$.train_fraction"),
        ({"forest": {"n_estimators": 0}}, r"\$.forest.n_estimators"),
        ({"feature_set": "streeming"}, "feature_set streeming; did you mean streaming"),
        ({"bundle": {"name": "No Spaces"}}, r"\$.bundle.name"),
    ],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        check({"bundle": {"name": "x"}, **wrong})


def test_params_are_nested_by_dots_and_read_as_yaml() -> None:
    assert parse_params(["a.b=1,c=x", "a.d=0.5", "e=true"]) == {"a": {"b": 1, "d": 0.5}, "c": "x", "e": True}


@pytest.mark.parametrize("words", ["a", "=1", "a=[", "a=1,a.b=2"])
def test_params_that_are_no_assignment_are_refused(words: str) -> None:
    with pytest.raises(AxleboxError, match="--params"):
        parse_params([words])


def test_a_commissioning_offset_changes_nothing_but_the_values() -> None:
    """Readings that are 50 too low and an offset of 50 must train and flag as the right readings do."""
    random = np.random.default_rng(2)
    right = frame([float(number) for number in range(300)]).assign(value=random.normal(100, 3, 300).round(1))
    low = right.assign(value=right["value"] - 50)
    offset = Contract(kinds={"temperature": Kind()}, sensors={"temperature": Sensor("temperature", offset=50.0)})
    flags = []
    for readings, contract in ((right, CONTRACT), (low, offset)):
        train, test = steps.split_by_time(readings, 0.8)
        flags.append(predicted(trained(train, contract), contract, test)["flag"].tolist())
    assert flags[0] == flags[1]
    assert any(flags[0])
