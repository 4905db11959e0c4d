"""From an operator's target to thresholds: how rare a sum of tails is, extrapolated beyond what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract
from axlebox.training.parameters import ThresholdParameters
from axlebox.training.streaming_fit import robust_mean

Numbers = NDArray[np.float64]

_DEFAULT_PER_DAY = 0.1
_KEEP = 0.02
"""Share of the readings whose clusters are looked at."""
_TOP = 60
"""Of many clusters, at least so many, and the top 5 %, make the slope."""
_GAP = 12
"""Readings apart, two clusters are two events."""
_SPREAD = 2.0
"""Standard deviations of the sensors' own levels that a sensor never seen may be above their mean."""
_SENSORS, _OWN_CLUSTERS = 4, 20
"""So many sensors with so many clusters each tell how much sensors differ."""


@dataclass(frozen=True, slots=True)
class Tailing:
    """The exponential tail of clusters: `rate` a day are above `base`, and `mean` further each is e times rarer."""

    base: float
    mean: float
    rate: float
    clusters: int
    """How many the slope was taken from."""

    def level(self, per_day: float) -> float:
        """The level that clusters pass at this rate."""
        return self.base + self.mean * max(float(np.log(self.rate / per_day)), 0.0) if self.rate else self.base


def clusters(values: Numbers) -> Numbers:
    """The highest of each run of positive values; runs less than 12 readings apart are one."""
    at = np.flatnonzero(values > 0)
    if not len(at):
        return np.empty(0)
    begins = np.flatnonzero(np.diff(at) > _GAP) + 1
    return np.asarray(np.maximum.reduceat(values[at], np.concatenate([[0], begins])))


def fit_tailing(sums: Sequence[Numbers], days: float, expected: float = 0.0) -> Tailing:
    """The tail of any signal that is higher the more suspicious, one array for each series.

    `days` is their exposure, `expected` how many events the target allows in it: so many clusters at
    least are kept. Training readings are contaminated, so the mean is robust.
    """
    base = max(float(np.quantile(np.concatenate(sums), 1 - _KEEP)), 1e-9)
    excesses = np.concatenate([clusters(np.maximum(one - base, 0.0)) for one in sums])
    top = max(_TOP, len(excesses) // 20, int(expected))
    if len(excesses) > max(10 * _TOP, top):  # the slope of the tail's end, not that of its bulk
        cut = float(np.sort(excesses)[-top - 1])
        excesses, base = excesses[excesses > cut] - cut, base + cut
    return Tailing(base, robust_mean(excesses), len(excesses) / days, len(excesses))


def unseen_level(sums: Sequence[Numbers], days: float, per_day: float) -> float:
    """The level for a sensor that training did not see: the sensors' own levels, and how they differ; 0 for few."""
    share = days / len(sums)
    own = [fit_tailing([one], share, per_day * share) for one in sums] if len(sums) >= _SENSORS else []
    levels = [one.level(per_day) for one in own if one.clusters >= _OWN_CLUSTERS]
    if len(levels) < _SENSORS:
        return 0.0
    return float(np.mean(levels) + _SPREAD * np.std(levels, ddof=1))


def sensors_per_vehicle(settings: ThresholdParameters, contract: Contract, kind: str) -> int:
    """How many sensors of a kind share a vehicle's target."""
    groups = [one.group for one in contract.sensors.values() if one.kind == kind and one.group is not None]
    return settings.sensors_per_vehicle or max((groups.count(one) for one in set(groups)), default=1)


def target_per_sensor_day(settings: ThresholdParameters, contract: Contract, kind: str) -> float:
    """Anomaly events that one healthy sensor may have in a day, where costs do not decide."""
    per_day = _DEFAULT_PER_DAY
    if settings.target_false_alarms_per_day is not None:
        per_day = settings.target_false_alarms_per_day
    elif settings.target_false_alarms_per_1000_hours is not None:
        per_day = settings.target_false_alarms_per_1000_hours * 24 / 1000
    return per_day / sensors_per_vehicle(settings, contract, kind)
