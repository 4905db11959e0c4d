"""Readings of vehicles with sibling axle bearings, from a first-order thermal model, with injected faults.

Each bearing follows tau dT/dt = air + rise * load - T (Newton's law of cooling, with friction heat in
proportion to load). Siblings share their vehicle's load and the air: season, weather, time of day.
Each has its own rise, time constant, offset, share of the sun, and slow and quick noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.readings import format_time
from axlebox.training.series import Progress, silent

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
FAULTS = ("friction", "ramp", "spike", "stuck")

_DAY_S = 86400
_FIRST_FAULT, _LAST_FAULT = 0.42, 0.97
_FAULT_SHARE = _LAST_FAULT - _FIRST_FAULT
_STEPS_PER_FAULT = 5

_FIRST_SERVICE_H, _LAST_SERVICE_H = 5, 23
_IDLE_DAYS = 1 / 12
"""Share of the days that a vehicle stands."""
_TRIP_S, _STOP_S = (1200, 4800), (300, 2400)
_LOAD = (0.4, 1.0)

_WEATHER_C, _WEATHER_S = 4.0, 3 * _DAY_S
"""Standard deviation, and the time after which the weather has forgotten itself."""
_TAU_S, _RISE_C = 2400.0, 28.0
_TAU_SPREAD, _RISE_SPREAD = 0.08, 0.05
_OFFSET_C, _SUN_C = 1.0, 0.6
_DRIFT_C, _DRIFT_S = 0.5, 7200
_NOISE_C = 0.25
_RESOLUTION_C = 0.25


@dataclass(frozen=True, slots=True)
class Fleet:
    vehicles: int = 2
    bearings: int = 4
    days: int = 14
    period_s: int = 300
    faults: int = 6
    seed: int = 0
    start_day: int = 4
    """Days after New Year at which the readings begin."""


@dataclass(frozen=True, slots=True)
class Label:
    sensor: str
    fault: str
    start: float
    end: float


def simulate(out: Path, fleet: Fleet, progress: Progress = silent) -> tuple[int, list[Label]]:
    """Write OUT.csv and OUT.labels.csv; returns how many readings, and the injected faults.

    Raises UsageError, and writes nothing, where a file is there already.
    """
    labels_path = out.with_suffix(".labels.csv")
    for path in (out, labels_path):
        if path.exists():
            raise UsageError(f"{path} exists; nothing was written")
    steps = fleet.days * _DAY_S // fleet.period_s
    if fleet.faults and steps * _FAULT_SHARE / fleet.faults < _STEPS_PER_FAULT:
        raise UsageError(f"{steps} moments are too few for {fleet.faults} faults; nothing was written")
    times, sensors, values, labels = make_readings(fleet)
    rows = []
    for time, row in zip(times.tolist(), values, strict=True):
        stamp = format_time(time)
        rows += [f"{stamp},{sensor},{value:.2f}\n" for sensor, value in zip(sensors, row.tolist(), strict=True)]
        progress("simulated readings", len(rows), values.size)
    lines = [f"{one.sensor},{one.fault},{format_time(one.start)},{format_time(one.end)}\n" for one in labels]
    with disk.explained():
        out.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_durable(labels_path, ("sensor,fault,start,end\n" + "".join(lines)).encode())
        disk.replace_durable(out, ("time,sensor,value\n" + "".join(rows)).encode())
    return len(rows), labels


def make_readings(fleet: Fleet) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64], list[Label]]:
    """Times (n,), sensor ids (m,), values (n, m) in C in steps of 0.25, and the labels of the faults.

    Outside the faults, values do not depend on them; a vehicle's do not depend on how many others there are.
    """
    air_random, fault_random, *randoms = np.random.default_rng(fleet.seed).spawn(2 + fleet.vehicles)
    count = fleet.days * _DAY_S // fleet.period_s
    seconds = fleet.start_day * _DAY_S + fleet.period_s * np.arange(count, dtype=np.float64)
    times = NEW_YEAR.timestamp() + seconds
    sensors = [
        f"T{vehicle:02d}.axle{(bearing + 1) // 2}.{'left' if bearing % 2 else 'right'}"
        for vehicle in range(1, fleet.vehicles + 1)
        for bearing in range(1, fleet.bearings + 1)
    ]
    friction = np.zeros((count, len(sensors)))
    labels, after = _plan_faults(fleet, times, sensors, friction, fault_random)
    air = _air(seconds, fleet.period_s, air_random)
    vehicles = np.split(friction, fleet.vehicles, axis=1)
    values = np.hstack(
        [_bearings(seconds, air, heat, fleet.period_s, random) for heat, random in zip(vehicles, randoms, strict=True)]
    )
    values = np.round(values / _RESOLUTION_C) * _RESOLUTION_C
    for kind, number, span in after:
        if kind == "spike":
            values[span, number] += 60.0
        else:
            values[span, number] = values[span.start, number]
    return times, sensors, values, labels


def _summer(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """-1 in mid January, 1 in mid July; `seconds` since New Year here and below."""
    return np.asarray(np.sin((seconds / _DAY_S - 110) * (2 * np.pi / 365)))


def _air(seconds: NDArray[np.float64], period_s: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Air temperature: season, a daily cycle that is warmest at 15:00, and weather."""
    day = 5 * np.cos((seconds / _DAY_S - 15 / 24) * (2 * np.pi))
    weather = _wandering((len(seconds), 1), _WEATHER_C, period_s / _WEATHER_S, random)[:, 0]
    return np.asarray(10 + 10 * _summer(seconds) + day + weather)


def _wandering(
    shape: tuple[int, int], deviation: float, step: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Columns of noise about 0 with this standard deviation that forget themselves at exp(-step) each row."""
    keep = np.exp(-step)
    pushes = deviation * np.sqrt(1 - keep * keep) * random.standard_normal(shape)
    pushes[0] = deviation * random.standard_normal(shape[1])
    return np.asarray(lfilter([1.0], [1.0, -keep], pushes, axis=0))


def _load(seconds: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Load 0..1 of one vehicle: trips with stops between them, none at night and on idle days."""
    elapsed = seconds - seconds[0]
    trips = int(elapsed[-1] / (_TRIP_S[0] + _STOP_S[0])) + 1
    lengths = np.column_stack([random.uniform(*_TRIP_S, trips), random.uniform(*_STOP_S, trips)])
    part = np.searchsorted(np.cumsum(lengths), elapsed, side="right")
    load = np.where(part % 2 == 0, random.uniform(*_LOAD, trips)[np.minimum(part // 2, trips - 1)], 0.0)
    hour = seconds % _DAY_S / 3600
    day = (seconds // _DAY_S - seconds[0] // _DAY_S).astype(int)
    idle = random.random(day[-1] + 1) < _IDLE_DAYS
    load[(hour < _FIRST_SERVICE_H) | (hour >= _LAST_SERVICE_H) | idle[day]] = 0.0
    return load


def _bearings(
    seconds: NDArray[np.float64],
    air: NDArray[np.float64],
    friction: NDArray[np.float64],
    period_s: int,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Temperatures (n, m) of one vehicle's bearings; `friction` (n, m) is the further rise that faults strive for."""
    load = _load(seconds, random)
    count = friction.shape[1]
    rises = _RISE_C * (1 + _RISE_SPREAD * np.asarray(random.standard_normal(count)))
    taus = _TAU_S * (1 + _TAU_SPREAD * np.asarray(random.standard_normal(count)))
    offsets = _OFFSET_C * random.standard_normal(count)
    sides = _SUN_C * random.standard_normal(count)
    sun = np.maximum(np.sin((seconds / _DAY_S - 0.25) * (2 * np.pi)), 0) * (1 + 0.5 * _summer(seconds))
    values = offsets + np.outer(sun, sides) + _wandering(friction.shape, _DRIFT_C, period_s / _DRIFT_S, random)
    values += _NOISE_C * random.standard_normal(friction.shape)
    for number, (rise, tau) in enumerate(zip(rises.tolist(), taus.tolist(), strict=True)):
        values[:, number] += _heat(air + rise * load + friction[:, number], np.exp(-period_s / tau))
    return values


def _heat(goal: NDArray[np.float64], keep: float) -> NDArray[np.float64]:
    """Exact steps of the thermal model over each period, in which its inputs are constant."""
    return np.asarray(lfilter([1 - keep], [1.0, -keep], goal, zi=[keep * goal[0]])[0])


def _plan_faults(
    fleet: Fleet,
    times: NDArray[np.float64],
    sensors: list[str],
    friction: NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[list[Label], list[tuple[str, int, slice]]]:
    """Place the faults evenly over the second part of the time, kinds in turn.

    What heats a bearing goes into `friction`; what only its sensor does is returned for later.
    """
    labels = []
    after = []
    steps = np.linspace(_FIRST_FAULT, _LAST_FAULT, fleet.faults + 1) * len(times)
    for order, (begin, end) in enumerate(zip(steps[:-1].astype(int), steps[1:].astype(int), strict=True)):
        kind = FAULTS[order % len(FAULTS)]
        number = int(random.integers(len(sensors)))
        length = 1 if kind == "spike" else max(2, int((end - begin) * random.uniform(0.4, 0.8)))
        span = slice(int(begin), min(int(begin) + length, len(times)))
        if kind == "friction":
            friction[span, number] = 45.0
        elif kind == "ramp":
            friction[span, number] = np.linspace(0, 60, span.stop - span.start)
        else:
            after.append((kind, number, span))
        labels.append(Label(sensors[number], kind, float(times[span.start]), float(times[span.stop - 1])))
    return labels, after
