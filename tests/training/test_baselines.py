from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.training.baselines import (
    column,
    ewma,
    fit,
    fit_all,
    fit_raw_forest,
    limit,
    others_median,
    sibling,
)

SENSORS = [f"b{number}" for number in range(4)]
CONTRACT = Contract({"bearing": Kind()}, {name: Sensor("bearing", group="T1") for name in SENSORS})


def make_frame(days: int = 40, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    times = 1e9 + 300.0 * np.arange(days * 288)
    shared = 30 + 10 * np.sin(times * (2 * np.pi / 86400)) + random.standard_normal(len(times))
    values = shared[:, None] + 0.5 * random.standard_normal((len(times), len(SENSORS)))
    return pd.DataFrame(
        {"time": np.repeat(times, len(SENSORS)), "sensor": SENSORS * len(times), "value": values.ravel()}
    )


def heated(frame: pd.DataFrame, sensor: str, by: float, after: float) -> pd.DataFrame:
    hot = (frame["sensor"] == sensor) & (frame["time"] >= frame["time"].iloc[0] + after)
    return frame.assign(value=frame["value"] + by * hot)


@pytest.mark.parametrize("width", [3, 4, 7])
def test_the_median_of_the_others_is_numpy_s(width: int) -> None:
    random = np.random.default_rng(width)
    table = random.integers(0, 6, (300, width)).astype(float)
    table[random.random(table.shape) < 0.25] = np.nan
    found = others_median(table)
    for row, answers in zip(table, found, strict=True):
        for number, answer in enumerate(answers):
            others = np.delete(row, number)
            others = others[~np.isnan(others)]
            expected = np.nan if len(others) < 2 or np.isnan(row[number]) else np.median(others)
            assert np.array_equal(answer, expected, equal_nan=True)


def test_a_sibling_deviates_from_its_own_group_at_its_own_moment() -> None:
    frame = pd.DataFrame(
        [(0.0, "b0", 10.0), (0.0, "b1", 20.0), (0.0, "b2", 23.0), (0.0, "lone", 99.0), (300.0, "b0", 1.0)],
        columns=["time", "sensor", "value"],
    )
    assert sibling(frame, CONTRACT).tolist() == [11.5, 3.5, 8.0, 0.0, 0.0]


def test_the_ewma_is_that_of_one_sensor_alone_and_follows_a_step_but_not_a_level() -> None:
    frame = heated(make_frame(), "b1", 25, 20 * 86400)
    signal = ewma(frame, CONTRACT)
    own = (frame["sensor"] == "b1").to_numpy()
    assert np.array_equal(signal[own], ewma(frame[own].reset_index(drop=True), CONTRACT))
    elapsed = frame["time"].to_numpy()[own] - 1e9
    assert not signal[own][elapsed < 86400].any()
    after = (elapsed > 20 * 86400) & (elapsed < 20.3 * 86400)
    assert signal[own][after].max() > signal[~own].max() + 5
    assert signal[own][elapsed > 27 * 86400].max() == pytest.approx(signal[~own].max(), abs=2)


def test_a_signal_without_a_tail_alarms_above_its_highest_value() -> None:
    frame = make_frame(2).assign(value=5.0)
    found = fit(limit, frame, CONTRACT, 0.01)
    assert not found.alarm(frame).any() and found.alarm(frame.assign(value=5.1)).all()


def test_calibrated_baselines_are_calm_on_healthy_days_and_see_a_step_of_25() -> None:
    fitted = fit_all(make_frame(), CONTRACT, 1e-5)
    assert set(fitted) == {"limit", "ewma", "sibling", "raw forest"}
    healthy = make_frame(seed=1)
    faulty = heated(healthy, "b2", 25, 30 * 86400)
    changed = (faulty["value"] != healthy["value"]).to_numpy()
    for name in ("limit", "ewma", "sibling"):
        assert not fitted[name].alarm(healthy).any(), name
        alarm = fitted[name].alarm(faulty)
        assert alarm[changed].any() and not alarm[~changed].any(), name


def test_the_raw_forest_flags_what_scikit_learn_s_own_flags() -> None:
    from sklearn.ensemble import IsolationForest

    frame = make_frame(5).round(1)
    values = frame[["value"]].to_numpy()
    forest = IsolationForest(random_state=69, bootstrap=True, contamination=0.05).fit(values)
    assert np.array_equal(fit_raw_forest(frame).alarm(frame), forest.predict(values) == -1)


def test_sums_that_a_frame_has_already_are_calibrated_like_any_signal() -> None:
    frame = make_frame().assign(tail_sum=lambda one: np.where(one.index < 50, np.nan, one["value"] - 30))
    found = fit(column("tail_sum"), frame, CONTRACT, 0.01)
    assert not found.alarm(frame).any() and found.alarm(frame.assign(tail_sum=30.0)).all()
