"""Detectors from a table of readings: the example, what is refused, and several kinds of sensor."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.training import experiment
from axlebox.training.experiment import train_detector
from axlebox.training.parameters import BundleParameters, ForestParameters, Parameters, StreamingParameters
from axlebox.training.streaming_fit import LEAST_READINGS

PAGE = Path(__file__).resolve().parents[2] / "docs/detection.md"
QUICK = Parameters(
    BundleParameters("x"), streaming=StreamingParameters(warmup=60), forest=ForestParameters(n_estimators=20)
)


def readings(count: int, sensor: str = "axle", usual: float = 60.0, seed: int = 0) -> pd.DataFrame:
    """Noise about a daily cycle, every five minutes."""
    times = 1_700_000_000.0 + 300.0 * np.arange(count)
    values = usual + 6 * np.sin(2 * np.pi * times / 86400) + np.random.default_rng(seed).normal(0, 0.5, count)
    return pd.DataFrame({"time": times, "sensor": sensor, "value": values.round(1)})


def in_time(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames).sort_values("time", kind="stable").reset_index(drop=True)


def test_the_module_s_example_says_what_happens() -> None:
    found = doctest.testmod(experiment)
    assert found.attempted >= 8 and not found.failed


def test_the_page_s_example_says_what_happens() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted >= 8 and not found.failed


@pytest.mark.parametrize("column", ["time", "sensor", "value"])
def test_a_table_without_one_of_the_columns_is_refused_by_its_name(column: str) -> None:
    with pytest.raises(Malformed, match=f"; {column} is missing"):
        train_detector(readings(500).drop(columns=column))


def test_too_few_readings_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(Malformed, match=f"40 readings past the warm-up of 1 sensors .* {LEAST_READINGS} are needed"):
        train_detector(readings(70))
    train_detector(readings(80), parameters=QUICK)


def test_a_sensor_that_never_changes_is_refused() -> None:
    with pytest.raises(Malformed, match="all 500 readings are 60: there is nothing to learn from a constant sensor"):
        train_detector(readings(500).assign(value=60.0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_readings_without_a_single_number_are_refused(value: float) -> None:
    with pytest.raises(Malformed, match="none of 500 readings passes the contract's checks"):
        train_detector(readings(500).assign(value=value))


def test_some_readings_without_a_number_are_only_left_out() -> None:
    frame = readings(1000)
    frame.loc[400:420, "value"] = np.nan
    scored = train_detector(frame, parameters=QUICK).score(frame)
    assert (scored.loc[400:420, "status"] == "invalid").all() and scored.loc[400:420, "score"].isna().all()
    assert (scored.loc[421:, "status"] == "ok").all()


TWO_KINDS = Contract(
    {"bearing": Kind(period_s=300.0), "gear": Kind(period_s=300.0), "brake": Kind(period_s=300.0)},
    {"axle": Sensor("bearing"), "box": Sensor("gear"), "disc": Sensor("brake")},
)


def test_each_kind_with_readings_has_a_detector_of_its_own_and_a_kind_without_has_none() -> None:
    both = in_time(readings(2000), readings(2000, "box", usual=90.0, seed=1))
    detector = train_detector(both, TWO_KINDS, QUICK)
    assert list(detector.fitted) == ["bearing", "gear"]
    medians = [one.spec.features.constants["median"] for one in detector.fitted.values()]
    assert medians == pytest.approx([60.0, 90.0], abs=0.5)
    assert len({one.spec.model for one in detector.fitted.values()}) == 2


def test_what_is_usual_for_one_kind_is_not_for_the_other() -> None:
    both = in_time(readings(2000), readings(2000, "box", usual=90.0, seed=1))
    detector = train_detector(both, TWO_KINDS, QUICK)
    swapped = in_time(readings(400, usual=90.0, seed=2), readings(400, "box", usual=90.0, seed=3))
    scored = detector.score(swapped)
    raised = scored[scored["event"].notna()]
    assert set(raised["sensor"]) == {"axle"}


def test_a_sensor_of_a_kind_without_a_detector_passes_without_a_score() -> None:
    detector = train_detector(readings(2000), TWO_KINDS, QUICK)
    scored = detector.score(readings(100, "disc"))
    assert (scored["status"] == "ok").all() and scored["score"].isna().all() and not scored["flag"].any()


def test_the_same_readings_give_the_same_detector_and_scores() -> None:
    first, second = (train_detector(readings(1500), parameters=QUICK) for _ in range(2))
    assert first.fitted["temperature"].spec == second.fitted["temperature"].spec
    pd.testing.assert_frame_equal(first.score(readings(500, seed=5)), second.score(readings(500, seed=5)))
