"""A target of false alarms from what they cost, and what a missed fault costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from axlebox.runtime.streaming_constants import Constants
from axlebox.training.faults import FAULTS, Fault
from axlebox.training.parameters import CostParameters
from axlebox.training.series import Series, replay, silent

Numbers = NDArray[np.float64]

_KINDS = ("spike", "step", "ramp-5", "ramp-20", "rise")
"""Faults whose share of misses is weighed; each as often as the others."""
_SCALES = (0.1, 0.2, 0.4, 0.7, 1.0)
"""In these shares of their usual size: what is missed are small ones."""
_EACH = 2
_BEFORE, _AFTER = 500, 900
"""Readings of a series that are replayed about an onset."""
_TARGETS = np.geomspace(1e-4, 10.0, 51)
"""False alarms in a vehicle-day that are compared."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The target with the least expected cost."""

    per_vehicle_day: float
    missed_share: float
    """Of the injected faults."""
    cost_per_year: float
    """Of a vehicle, in the currency of the costs."""


def per_year(costs: CostParameters, per_vehicle_day: float, missed_share: float) -> float:
    """Expected cost of a vehicle in a year; raises ValueError where costs are not stated."""
    if costs.false_alarm is None or costs.missed_fault is None or costs.faults_per_year is None:
        raise ValueError("costs are not stated")
    return costs.false_alarm * 365 * per_vehicle_day + costs.missed_fault * costs.faults_per_year * missed_share


def cheapest(costs: CostParameters, peaks: Numbers, level: Callable[[float], float]) -> Choice:
    """Compare targets: false_alarm * 365 t + missed_fault * faults_per_year * missed(t).

    `peaks` are the highest sums of tails that faults reach, `level` the extreme level at a target in
    false alarms of a vehicle-day.
    """
    missed = np.array([float(np.mean(peaks < level(target))) for target in _TARGETS.tolist()])
    cost = np.array([per_year(costs, *one) for one in zip(_TARGETS.tolist(), missed.tolist(), strict=True)])
    best = int(np.argmin(cost))
    return Choice(float(_TARGETS[best]), float(missed[best]), float(cost[best]))


def fault_peaks(series: Sequence[Series], constants: Constants, warmup: int) -> Numbers:
    """Highest sum of tails within each of many faults, injected into training readings; `constants` suspect nothing."""
    random = np.random.default_rng(len(series))
    long = [one for one in series if len(one) > 2 * warmup + _EACH] or list(series)
    peaks = []
    for name in _KINDS:
        for scale in _SCALES:
            for _ in range(_EACH):
                one = long[int(random.integers(len(long)))]
                faulty, mask = _with_fault(one, FAULTS[name], scale, random)
                (replayed,) = replay([faulty], constants, [0], "faults", silent)
                peaks.append(float(replayed.tail_sum[mask].max()) if mask.any() else 0.0)
    return np.array(peaks)


def _with_fault(
    series: Series, fault: Fault, scale: float, random: np.random.Generator
) -> tuple[Series, NDArray[np.bool_]]:
    """Part of a series with a fault in it, and where that is."""
    at = int(random.integers(len(series) // 3, max(len(series) // 3 + 1, len(series) - _AFTER // 3)))
    first, last = max(0, at - _BEFORE), min(len(series), at + _AFTER)
    restarts = {one - first for one in series.restarts if first <= one < last}
    part = Series(series.sensor, series.readings[first:last], series.deviations[first:last], restarts)
    times, values = part.times(), part.values()
    hot, mask = fault.apply(times, values, times[at - first], random, scale)
    heat_before = 0.0  # a deviation is that of the reading before (siblings.py)
    for number, (deviation, value) in enumerate(zip(part.deviations, hot.tolist(), strict=True)):
        part.readings[number] = structs.replace(part.readings[number], value=value)
        part.deviations[number] = None if deviation is None else deviation + heat_before
        heat_before = value - float(values[number])
    return part, mask
