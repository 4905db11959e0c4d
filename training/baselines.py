"""Simple detectors to measure the forest against, each calibrated on training readings to the same target.

Frames have the columns time (POSIX seconds), sensor and value, in order of time; readings of one moment
bear one time. A target is false alarms in a sensor-day. What each detector looks at is a function of its
own, vectorised: a million readings take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract
from axlebox.training.threshold import clusters, fit_tailing

Numbers = NDArray[np.float64]
Signal = Callable[[pd.DataFrame, Contract], Numbers]
"""What a detector looks at: a number for each reading, higher is more suspicious."""

DAY_S = 86400.0
FAST_S, SLOW_S = 2400.0, DAY_S


class Baseline(Protocol):
    def alarm(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether it alarms, for each row of a frame."""
        ...


@dataclass(frozen=True, slots=True)
class TailAlarm:
    """Alarms where its signal is above the level."""

    signal: Signal
    contract: Contract
    level: float

    def alarm(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        return np.asarray(self.signal(frame, self.contract) > self.level)


@dataclass(frozen=True, slots=True)
class RawForest:
    """The isolation forest on the raw value that flags a fixed share of the training readings, whatever the target."""

    score: Callable[[Numbers], Numbers]
    level: float

    def alarm(self, frame: pd.DataFrame) -> NDArray[np.bool_]:
        return np.asarray(self.score(frame["value"].to_numpy(dtype=np.float64)) > self.level)


def fit_all(training: pd.DataFrame, contract: Contract, target_per_day: float) -> dict[str, Baseline]:
    """Every baseline that needs nothing but readings, by name."""
    fitted: dict[str, Baseline] = {
        name: fit(signal, training, contract, target_per_day) for name, signal in SIGNALS.items()
    }
    return fitted | {"raw forest": fit_raw_forest(training)}


def fit(signal: Signal, training: pd.DataFrame, contract: Contract, target_per_day: float) -> TailAlarm:
    """`signal` may also be `column("tail_sum")`: sums that the frame has already, of another detector's tails."""
    return TailAlarm(signal, contract, level_for(signal(training, contract), training, target_per_day))


def fit_raw_forest(training: pd.DataFrame, contamination: float = 0.05, seed: int = 69) -> RawForest:
    """100 trees on the value alone, with bootstrap; flags the share `contamination` of its training readings."""
    from sklearn.ensemble import IsolationForest

    values = training["value"].to_numpy(dtype=np.float64)
    forest = IsolationForest(random_state=seed, bootstrap=True).fit(values[:, None])

    def score(values: Numbers) -> Numbers:
        different, which = np.unique(values, return_inverse=True)  # a sensor's resolution leaves few
        return np.asarray(-forest.score_samples(different[:, None])[which])

    return RawForest(score, float(np.percentile(score(values), 100 * (1 - contamination))))


def limit(frame: pd.DataFrame, contract: Contract) -> Numbers:
    """The value itself: a fixed upper limit."""
    return frame["value"].to_numpy(dtype=np.float64)


def ewma(frame: pd.DataFrame, contract: Contract) -> Numbers:
    """Distance of a fast from a slow exponentially weighted mean, 40 minutes and a day; 0 on a sensor's first day."""
    out = np.zeros(len(frame))
    times, values = frame["time"].to_numpy(), frame[["value"]]
    for index in frame.groupby("sensor").indices.values():
        own = times[index]
        stamps = (own * 1e6).astype(np.int64).astype("datetime64[us]")
        fast, slow = (
            values.iloc[index].ewm(halflife=pd.Timedelta(seconds=tau * np.log(2)), times=stamps).mean().to_numpy()[:, 0]
            for tau in (FAST_S, SLOW_S)
        )
        out[index] = np.where(own - own[0] < SLOW_S, 0.0, np.abs(fast - slow))
    return out


def sibling(frame: pd.DataFrame, contract: Contract) -> Numbers:
    """Distance from the median of the siblings' readings of the moment; 0 with fewer than two of them."""
    out = np.zeros(len(frame))
    groups = frame["sensor"].map({name: one.group for name, one in contract.sensors.items()})
    for index in frame.groupby(groups).indices.values():
        moments, row = np.unique(frame["time"].to_numpy()[index], return_inverse=True)
        column, sensors = pd.factorize(frame["sensor"].iloc[index])
        table = np.full((len(moments), len(sensors)), np.nan)
        table[row, column] = frame["value"].to_numpy()[index]
        deviation = np.abs(table - others_median(table))
        out[index] = np.nan_to_num(deviation)[row, column]
    return out


def others_median(table: Numbers) -> Numbers:
    """For each cell of a table (moments, sensors), the median of its row without itself; NaN stands for no reading.

    NaN where fewer than two others are left, or the cell itself is NaN.
    """
    order = np.argsort(table, axis=1)  # NaN comes last
    rank = np.argsort(order, axis=1)
    ordered = np.take_along_axis(table, order, axis=1)
    others = np.sum(~np.isnan(table), axis=1, keepdims=True) - 1
    halves = []
    for middle in ((others - 1) // 2, others // 2):
        place = np.clip(middle + (middle >= rank), 0, table.shape[1] - 1)
        halves.append(np.take_along_axis(ordered, place, axis=1))
    return np.where((others >= 2) & ~np.isnan(table), (halves[0] + halves[1]) / 2, np.nan)


def column(name: str) -> Signal:
    """A signal that the frame has already; where it is NaN, 0."""
    return lambda frame, contract: np.nan_to_num(frame[name].to_numpy(dtype=np.float64))


SIGNALS: Mapping[str, Signal] = {"limit": limit, "ewma": ewma, "sibling": sibling}


def sensor_days(frame: pd.DataFrame) -> float:
    """Readings times their usual interval, so that time without readings does not count."""
    intervals = frame.groupby("sensor")["time"].diff()
    return float(len(frame) * intervals.median() / DAY_S)


def level_for(signal: Numbers, frame: pd.DataFrame, target_per_day: float) -> float:
    """The level that a signal passes `target_per_day` times in a sensor-day, as the streaming detector's own."""
    days = sensor_days(frame)
    series = [signal[index] for index in frame.groupby("sensor").indices.values()]
    return fit_tailing(series, days, target_per_day * days).level(target_per_day)


def count_alarms(alarm: NDArray[np.bool_], frame: pd.DataFrame) -> int:
    """How often an alarm begins in a frame; what pauses for less than 12 readings of its sensor goes on."""
    return sum(len(clusters(alarm[index].astype(np.float64))) for index in frame.groupby("sensor").indices.values())
