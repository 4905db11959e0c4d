"""A training's readings as its detectors meet them, sensor by sensor, and their replay through the vehicle's code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet
from axlebox.runtime import features
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.features import Value
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import BadLine, Reading, Replaced
from axlebox.runtime.siblings import Siblings
from axlebox.runtime.streaming import Streaming
from axlebox.runtime.streaming_constants import FEATURES, Constants

UNKNOWN = Origin("in-training", 0, "0" * 64)
Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""
_CHUNK = 8192


def silent(what: str, done: int, total: int) -> None:
    """A Progress that shows nothing."""


@dataclass(slots=True)
class Series:
    """The readings of one sensor that a model sees, in order, from one empty state on."""

    sensor: str
    readings: list[Reading] = field(default_factory=list)
    deviations: list[float | None] = field(default_factory=list)
    """From the siblings' median, for each reading; None where there was none."""
    restarts: set[int] = field(default_factory=set)
    """Numbers of the readings before which state begins anew."""

    def __len__(self) -> int:
        return len(self.readings)

    def times(self) -> NDArray[np.float64]:
        return np.array([one.time for one in self.readings])

    def values(self) -> NDArray[np.float64]:
        return np.array([one.value for one in self.readings])


class _Recorder(Detector):
    """In the place of a detector: writes down what it is given."""

    def __init__(self, kind: str, fresh_s: float) -> None:
        spec = DetectorSpec(kind, "-", FeatureSet("value", 1), 0.0)
        super().__init__(spec, lambda rows: (np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)))
        self._siblings = Siblings(fresh_s)
        self._nothing = Value({})
        self._open: dict[str, Series] = {}
        self.series: list[Series] = []

    def take(self, reading: Reading, group: str | None) -> tuple[tuple[float, ...], features.Features]:
        series = self._open.get(reading.sensor)
        if series is None:
            series = self._open[reading.sensor] = Series(reading.sensor)
            self.series.append(series)
        series.readings.append(reading)
        deviation = None
        if group is not None and self._siblings is not None:
            deviation = self._siblings.deviation(group, reading.sensor, reading.time, reading.value)
        series.deviations.append(deviation)
        return (0.0,), self._nothing

    def warming(self, sensor: str) -> bool:
        return False

    def restart(self, sensor: str) -> None:
        series = self._open.get(sensor)
        if series is not None:
            series.restarts.add(len(series))

    def forget(self, sensor: str, group: str | None) -> None:
        self._open.pop(sensor, None)
        super().forget(sensor, group)


def record(
    items: Iterable[Reading | BadLine | Replaced], contract: Contract, fresh_s: Mapping[str, float], progress: Progress
) -> dict[str, list[Series]]:
    """What the detector of each kind meets of a stream: past the gate, offsets added, beside its siblings.

    `fresh_s` by kind, as in Siblings.
    """
    recorders = {kind: _Recorder(kind, fresh_s[kind]) for kind in contract.kinds}
    monitor = Monitor(contract, recorders, UNKNOWN)
    stream, done = iter(items), 0
    while batch := list(islice(stream, _CHUNK)):
        monitor.process(batch)
        done += len(batch)
        progress("reading", done, 0)
    progress("reading", done, done)
    return {kind: recorder.series for kind, recorder in recorders.items()}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the feature set `streaming` made of one series, a row for each reading."""

    rows: NDArray[np.float32]
    """The forest's rows (n, 5)."""
    tail_sum: NDArray[np.float64]
    suspected: NDArray[np.bool_]
    values: NDArray[np.float64]
    """Features (n, 6), scaled; NaN where there is none. Empty unless they were asked for."""


def replay(
    series: Sequence[Series],
    constants: Constants,
    warmups: Sequence[int],
    what: str,
    progress: Progress,
    with_values: bool = False,
) -> Iterator[Replayed]:
    """Each series through the vehicle's own Streaming, from an empty state; `warmups` in readings."""
    total, done = sum(map(len, series)), 0
    for one, warmup in zip(series, warmups, strict=True):
        sensor = Streaming(constants)
        values = np.full((len(one) if with_values else 0, len(FEATURES)), np.nan)
        rows = np.empty((len(one), len(Streaming.names)), dtype=np.float32)
        sums, suspected = np.empty(len(one)), np.zeros(len(one), dtype=np.bool_)
        for number, (reading, deviation) in enumerate(zip(one.readings, one.deviations, strict=True)):
            if number in one.restarts:
                sensor.restart()
            rows[number] = sensor.update(reading, deviation, number < warmup)
            if with_values:
                values[number] = sensor.values
            sums[number], suspected[number] = sensor.tail_sum, sensor.suspected
            done += 1
            if not done & 0x3FFF:
                progress(what, done, total)
        yield Replayed(rows, sums, suspected, values)
    progress(what, total, total)
