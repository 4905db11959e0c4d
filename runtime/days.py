"""Sketches of what every sensor shows, by day, on their way from the scoring to the store."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.sketches import Histogram, Sketch

DAY_S = 86400
_AT_ONCE = 4096
"""So many outcomes are counted together."""
_MOST = 2 * MAX_SENSORS
_FEW = 256
"""Up to so many numbers are quicker counted one by one than by numpy."""
_ORDINARY = 2.0**48
"""Numbers below it need no clipping."""


class Days:
    """Counts outcomes by the day of their own time (UTC) and their sensor; several threads may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Outcome] = []
        self._sketches: dict[tuple[int, str], Sketch] = {}
        self._newest: dict[str, int] = {}
        self._past: dict[tuple[int, str], bytes] = {}
        """Days that a sensor left behind, encoded: a replay has many, and a live sketch is twenty times as large."""

    def saw(self, outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            self._waiting += outcomes
            if len(self._waiting) >= _AT_ONCE:
                self._count()

    def _count(self) -> None:
        found: dict[tuple[int, str], list[Outcome]] = defaultdict(list)
        for one in self._waiting:
            if one.time is not None and one.value is not None and math.isfinite(one.value):
                found[int(one.time // DAY_S), one.sensor].append(one)
        self._waiting = []
        for place, ones in found.items():
            sketch = self._sketches.get(place) or self._begin(place)
            if sketch is None:
                continue
            _add(sketch.values, [one.value for one in ones if one.value is not None])
            _add(sketch.scores, [one.score for one in ones if one.score is not None])
            sketch.readings += len(ones)
            sketch.flags += sum([one.flag for one in ones])

    def _begin(self, place: tuple[int, str]) -> Sketch | None:
        """A sketch for a day of a sensor; None where there are too many: ids and days come from outside."""
        if len(self._sketches) + len(self._past) >= _MOST:
            return None
        day, sensor = place
        before = self._newest.get(sensor)
        if before is None or day > before:
            self._newest[sensor] = day
            if before is not None:
                self._past[before, sensor] = self._sketches.pop((before, sensor)).encode()
        sketch = self._sketches[place] = Sketch.empty()
        return sketch

    def latest(self) -> dict[str, Histogram]:
        """Of each sensor the values that were counted of its newest day since `take`, copied."""
        with self._lock:
            self._count()
            newest = {sensor: sketch.values for (_, sensor), sketch in sorted(self._sketches.items())}
            return {sensor: Histogram(values.width, dict(values.bins)) for sensor, values in newest.items()}

    def take(self) -> Iterator[tuple[int, str, Sketch]]:
        """Everything that was counted, some days in two parts; counting begins anew."""
        with self._lock:
            self._count()
            sketches, past = self._sketches, self._past
            self._sketches, self._past, self._newest = {}, {}, {}
        for (day, sensor), body in past.items():
            yield day, sensor, Sketch.decode(body)
        for (day, sensor), sketch in sketches.items():
            yield day, sensor, sketch


def _add(histogram: Histogram, numbers: Sequence[float]) -> None:
    if len(numbers) > _FEW or not all(-_ORDINARY < one < _ORDINARY for one in numbers):
        histogram.add(numbers)
    else:
        width = histogram.width
        histogram.merge(Histogram(width, Counter([math.floor(one / width) for one in numbers])))
