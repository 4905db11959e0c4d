"""The streaming detector on the talk's readings: 20.2 days, every 5 minutes, 14 single readings above 150."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.training.experiment import train_detector
from axlebox.training.parameters import check

CONTRACT = Contract(kinds={"temperature": Kind()})
PARAMETERS = {
    "bundle": {"name": "talk"},
    "feature_set": "streaming",
    "threshold": {"target_false_alarms_per_day": 0.1},
}
OUTLIER = 150.0


@pytest.fixture(scope="module")
def scored(temps_csv: Path) -> pd.DataFrame:
    """All readings, by a detector that was trained on the first 80 % of them."""
    raw = pd.read_csv(temps_csv, names=["time", "value"], skipinitialspace=True)
    times = (pd.to_datetime(raw["time"], utc=True) - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    readings = pd.DataFrame({"time": times, "sensor": "temperature", "value": raw["value"].astype(float)})
    return train_detector(readings[: int(0.8 * len(readings))], CONTRACT, check(PARAMETERS)).score(readings)


def test_each_of_the_14_outliers_lies_in_a_raised_event(scored: pd.DataFrame) -> None:
    outliers = scored[scored["value"] > OUTLIER]
    assert len(outliers) == 14
    assert outliers["event"].notna().all()


def test_no_event_is_false_in_20_days(scored: pd.DataFrame) -> None:
    """An event is false where no reading above 150 lies in its time."""
    highest = scored.groupby("event")["value"].max()
    assert len(highest) > 0
    assert (highest > OUTLIER).all(), highest[highest <= OUTLIER]
