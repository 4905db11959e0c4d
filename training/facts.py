"""What ingest says of a file: counts, periods, gaps, rests; found in one pass and in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.runtime.readings import REPLACED, BadLine, Reading, Replaced
from axlebox.runtime.statuses import INVALID, OK
from axlebox.training.checked import Judge, held_back
from axlebox.training.readers.base import Job

_FLUSH = 16384
"""Readings that are looked at together."""
_PER_OCTAVE, _OCTAVES, _SHORTEST = 64, 54, 2.0**-20
"""Intervals are counted in classes that are 1.1 % wide, from a microsecond to five centuries."""
_GAP = 3.0
"""A gap is longer than so many periods."""
_CALM_PERIODS = 10
"""Suggested times are no shorter than so many periods."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What was read and guessed about one file."""

    name: str
    format: str
    header: bool
    guessed: tuple[str, ...]
    """What nobody said and was taken to be so, in words."""
    rows: int
    invalid: int
    held_back: dict[str, int]
    """Rows that cannot be true temperatures, by status; invalid ones are counted apart."""
    sensors: int
    first: float
    last: float
    period_s: float | None
    """Median seconds between two readings of one sensor, to 1 %."""
    gaps: int
    """Intervals longer than three periods."""
    longest_stuck: int
    """Most readings in a row of one sensor with the same value."""
    replaced: int
    """Marks. Across one of them there is no interval and no run."""
    lowest: float
    highest: float


class Steps:
    """Seconds between two readings of one sensor, by their length."""

    def __init__(self) -> None:
        self._counts = np.zeros(_PER_OCTAVE * _OCTAVES, dtype=np.int64)
        self._sums = np.zeros(_PER_OCTAVE * _OCTAVES)

    def add(self, steps: NDArray[np.float64]) -> None:
        """Positive ones."""
        classes = np.clip(np.log2(steps / _SHORTEST) * _PER_OCTAVE, 0, len(self._counts) - 1).astype(np.int64)
        self._counts += np.bincount(classes, minlength=len(self._counts))
        self._sums += np.bincount(classes, steps, minlength=len(self._counts))

    def take(self, other: Steps) -> None:
        self._counts += other._counts
        self._sums += other._sums

    def quantile(self, share: float) -> float | None:
        """The mean of the class that so many of the intervals do not go beyond; None where there are none."""
        total = int(self._counts.sum())
        if not total:
            return None
        at = int(np.searchsorted(np.cumsum(self._counts), max(1, math.ceil(share * total))))
        return float(self._sums[at] / self._counts[at])

    def longer_than(self, seconds: float) -> int:
        """How many; a class counts by its mean."""
        means = np.divide(self._sums, self._counts, out=np.zeros_like(self._sums), where=self._counts > 0)
        return int(self._counts[means > seconds].sum())


class KindTally:
    """What was seen of the sensors of one kind."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.lowest, self.highest = math.inf, -math.inf
        self.longest_rest_s = 0.0
        """The longest time that a sensor said the very same value."""

    def add(self, steps: NDArray[np.float64], values: NDArray[np.float64], rests: NDArray[np.float64]) -> None:
        """At least one reading: seconds since the one before (NaN: none), value, how long it has been said."""
        self.steps.add(steps[steps > 0])
        self.lowest, self.highest = min(self.lowest, float(values.min())), max(self.highest, float(values.max()))
        self.longest_rest_s = max(self.longest_rest_s, float(rests.max()))

    def take(self, other: KindTally) -> None:
        self.steps.take(other.steps)
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.longest_rest_s = max(self.longest_rest_s, other.longest_rest_s)


class Tally:
    """The readings of one file that the gate let through, counted as they pass.

    Memory: some 40 bytes a sensor, of which the gate lets 4096 through, 55 kB a kind, and _FLUSH readings.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.kinds: dict[str, KindTally] = {}
        self._names: dict[str, int] = {}
        self._kind_of: list[str] = []
        """The kind of each sensor, by its number; so are the arrays below."""
        self._time, self._value, self._since, self._run = (np.zeros(0) for _ in range(4))
        """Of each sensor's last reading: time and value (NaN: none), since when it says that, for how many readings."""
        self._pending: list[Reading] = []
        self._longest_stuck = 0
        self._first, self._last = math.inf, -math.inf

    def add(self, items: Sequence[Reading | BadLine | Replaced], statuses: Sequence[str]) -> None:
        """Items with a Judge's statuses."""
        for item, status in zip(items, statuses, strict=True):
            if status == OK:
                self._pending.append(item)  # type: ignore[arg-type]  # a Reading, by its status
            elif type(item) is Replaced:
                self._flush()
                if (number := self._names.get(item.sensor)) is not None:
                    self._time[number] = self._value[number] = np.nan
        if len(self._pending) >= _FLUSH:
            self._flush()

    def _numbers(self, readings: Iterable[Reading]) -> NDArray[np.int64]:
        names = self._names
        numbers = np.array([names.setdefault(one.sensor, len(names)) for one in readings], dtype=np.int64)
        new = list(names)[len(self._kind_of) :]
        if new:
            self._kind_of += [self._contract.kind_of(name) or "" for name in new]
            grown = np.full(len(new), np.nan)
            self._time, self._value = np.append(self._time, grown), np.append(self._value, grown)
            self._since, self._run = np.append(self._since, grown), np.append(self._run, grown)
        return numbers

    def _flush(self) -> None:
        readings, self._pending = self._pending, []
        if not readings:
            return
        numbers = self._numbers(readings)
        order = np.argsort(numbers, kind="stable")  # sensor after sensor, each in order of arrival
        numbers = numbers[order]
        times = np.array([one.time for one in readings])[order]
        values = np.array([one.value for one in readings])[order]
        self._first, self._last = min(self._first, float(times.min())), max(self._last, float(times.max()))
        begins = np.append(True, numbers[1:] != numbers[:-1])
        before = np.where(begins, self._time[numbers], np.roll(times, 1))
        changed = np.where(begins, self._value[numbers], np.roll(values, 1)) != values  # also where there was none
        # A run goes on from the last change, or from what was known at the first reading of a sensor here.
        start = np.maximum.accumulate(np.where(begins | changed, np.arange(len(times)), 0))
        since = np.where(changed, times, self._since[numbers])[start]
        run = np.arange(len(times)) - start + 1 + np.where(changed, 0, self._run[numbers])[start]
        self._longest_stuck = max(self._longest_stuck, int(run.max()))
        ends = np.append(begins[1:], True)
        at = numbers[ends]
        self._time[at], self._value[at] = times[ends], values[ends]
        self._since[at], self._run[at] = since[ends], run[ends]
        for kind in {self._kind_of[number] for number in at}:
            own = np.array([one == kind for one in self._kind_of])[numbers]
            tally = self.kinds.setdefault(kind, KindTally())
            tally.add((times - before)[own], values[own], (times - since)[own])

    def facts(self, judge: Judge, job: Job, reader: str) -> FileFacts:
        """Of the whole file, which has one good reading at least."""
        self._flush()
        steps = Steps()
        for tally in self.kinds.values():
            steps.take(tally.steps)
        period = steps.quantile(0.5)
        return FileFacts(
            name=job.name,
            format=job.format or reader,
            header=job.header,
            guessed=tuple(job.guessed),
            rows=judge.rows,
            invalid=judge.counts[INVALID],
            held_back=held_back(judge.counts),
            sensors=len(self._names),
            first=self._first,
            last=self._last,
            period_s=period,
            gaps=steps.longer_than(_GAP * period) if period else 0,
            longest_stuck=self._longest_stuck,
            replaced=judge.counts[REPLACED],
            lowest=min(one.lowest for one in self.kinds.values()),
            highest=max(one.highest for one in self.kinds.values()),
        )


def suggest(kinds: Mapping[str, KindTally], contract: Contract) -> dict[str, dict[str, Any]]:
    """For each kind that was seen, values for the settings of its contract that are null, and what they come from.

    A person decides: what rests, parks or fails in these readings is in them. `range` is the sensor's own and
    nothing that readings can tell.
    """
    found = {}
    for name, tally in sorted(kinds.items()):
        settings = _suggested(tally)
        kind = contract.kinds.get(name, Kind())
        found[name] = {
            "set": {key: value for key, value in settings.items() if getattr(kind, key) is None},
            "lowest": tally.lowest,
            "highest": tally.highest,
            "longest_rest_s": tally.longest_rest_s,
            "has_range": kind.range is not None,
        }
    return found


def _suggested(tally: KindTally) -> dict[str, float]:
    period, usual = tally.steps.quantile(0.5), tally.steps.quantile(0.999)
    if period is None or usual is None:
        return {}
    calm = _CALM_PERIODS * period
    return {
        "period_s": float(f"{period:.3g}"),
        "stuck_after_s": _rounded_up(max(2 * tally.longest_rest_s, calm)),
        "stale_after_s": _rounded_up(max(2 * usual, calm)),
    }


def _rounded_up(seconds: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return float(f"{math.ceil(seconds / unit - 1e-6) * unit:.6g}")
