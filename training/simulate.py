"""Readings of vehicles with sibling axle bearings, from a first-order thermal model, with injected faults.

Each bearing follows tau dT/dt = ambient + rise * load - T (Newton's law of cooling, with friction
heat in proportion to load). Siblings share their vehicle's load and ambient.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.readings import format_time

START = datetime(2026, 1, 5, tzinfo=UTC)
FAULTS = ("friction", "ramp", "spike", "stuck")

_DAY_S = 86400
_TAU_S = 2400.0
_RISE_C = 34.0
_FIRST_FAULT, _LAST_FAULT = 0.42, 0.97
_FAULT_SHARE = _LAST_FAULT - _FIRST_FAULT
_STEPS_PER_FAULT = 5
_FIRST_SERVICE_H, _LAST_SERVICE_H = 5, 23


@dataclass(frozen=True, slots=True)
class Fleet:
    vehicles: int = 2
    bearings: int = 4
    days: int = 14
    period_s: int = 300
    faults: int = 6
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    sensor: str
    fault: str
    start: float
    end: float


def simulate(out: Path, fleet: Fleet) -> tuple[int, list[Label]]:
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
    stamps = [format_time(time) for time in times.tolist()]
    rows = [
        f"{stamp},{sensor},{value:.1f}\n"
        for stamp, row in zip(stamps, values, strict=True)
        for sensor, value in zip(sensors, row.tolist(), strict=True)
    ]
    lines = [f"{one.sensor},{one.fault},{format_time(one.start)},{format_time(one.end)}\n" for one in labels]
    with disk.explained():
        out.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_durable(labels_path, ("sensor,fault,start,end\n" + "".join(lines)).encode())
        disk.replace_durable(out, ("time,sensor,value\n" + "".join(rows)).encode())
    return len(rows), labels


def make_readings(fleet: Fleet) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64], list[Label]]:
    """Times (n,), sensor ids (m,), values (n, m) in C rounded to 0.1, and the labels of the faults."""
    random = np.random.default_rng(fleet.seed)
    count = fleet.days * _DAY_S // fleet.period_s
    times = START.timestamp() + fleet.period_s * np.arange(count, dtype=np.float64)
    ambient = _ambient(times, random)
    sensors = []
    columns = []
    for vehicle in range(1, fleet.vehicles + 1):
        load = _load(times, random)
        for bearing in range(1, fleet.bearings + 1):
            sensors.append(f"T{vehicle:02d}.axle{(bearing + 1) // 2}.{'left' if bearing % 2 else 'right'}")
            rise = _RISE_C * (1 + 0.04 * random.standard_normal())
            columns.append((load, rise))
    friction = np.zeros((count, len(sensors)))
    labels, after = _plan_faults(fleet, times, sensors, friction, random)
    values = np.column_stack(
        [_heat(ambient, load, rise, friction[:, number], fleet.period_s) for number, (load, rise) in enumerate(columns)]
    )
    values += 0.4 * random.standard_normal(values.shape)
    for kind, number, span in after:
        if kind == "spike":
            values[span, number] += 60.0
        else:
            values[span, number] = values[span.start, number]
    return times, sensors, values.round(1), labels


def _ambient(times: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Air temperature: a daily cycle, warmest at 15:00, on weather that wanders about its mean from day to day."""
    hours = (times - START.timestamp()) / 3600
    days = np.arange(int(hours[-1] / 24) + 2)
    weather = np.empty(len(days))
    today = 0.0
    for day in days:
        today = 0.8 * today + 0.5 * random.standard_normal()
        weather[day] = today
    return np.asarray(12 + np.interp(hours / 24, days, weather) + 6 * np.cos((hours - 15) * (2 * np.pi / 24)))


def _load(times: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Load 0..1 of one vehicle: trips of half an hour to two hours with short stops, none at night."""
    seconds = times - START.timestamp()
    load = np.zeros(len(times))
    at = 0.0
    while at < seconds[-1]:
        drive, stop = random.uniform(1800, 7200), random.uniform(600, 1800)
        load[(seconds >= at) & (seconds < at + drive)] = random.uniform(0.6, 1.0)
        at += drive + stop
    hour = seconds % _DAY_S / 3600
    load[(hour < _FIRST_SERVICE_H) | (hour >= _LAST_SERVICE_H)] = 0.0
    return load


def _heat(
    ambient: NDArray[np.float64],
    load: NDArray[np.float64],
    rise: float,
    friction: NDArray[np.float64],
    period_s: int,
) -> NDArray[np.float64]:
    """Exact steps of the thermal model over each period, in which its inputs are constant."""
    keep = np.exp(-period_s / _TAU_S)
    goal = ambient + rise * load + friction
    values = np.empty(len(goal))
    value = goal[0]
    for number, target in enumerate(goal):
        value = target + (value - target) * keep
        values[number] = value
    return values


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
