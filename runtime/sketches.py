"""What one sensor showed on one day: counts of its values and scores, small and mergeable.

A histogram's bins are as wide as a power of two; where more than MAX_BINS are needed, the width
doubles and neighbours are added up. So counts are exact, and values to within a bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct

MAX_BINS = 128
_VALUE_WIDTH, _SCORE_WIDTH = 2.0**-3, 2.0**-8
_LARGEST = 2.0**60
"""Values beyond are counted at this one."""


class Histogram(Struct):
    width: float
    """Of a bin; bin n holds n * width up to (n + 1) * width."""
    bins: dict[int, int] = {}

    @property
    def count(self) -> int:
        return sum(self.bins.values())

    def add(self, numbers: Sequence[float]) -> None:
        """Finite numbers and infinities; NaN is left out."""
        array = np.asarray(numbers, dtype=np.float64)
        array = np.clip(array[~np.isnan(array)], -_LARGEST, _LARGEST)
        places, counts = np.unique(np.floor(array / self.width), return_counts=True)
        for place, count in zip(places.tolist(), counts.tolist(), strict=True):
            self.bins[int(place)] = self.bins.get(int(place), 0) + count
        self._shrink()

    def merge(self, other: Histogram) -> None:
        while self.width < other.width:
            self._double()
        for place, count in other.bins.items():
            wide = math.floor(place * other.width / self.width)
            self.bins[wide] = self.bins.get(wide, 0) + count
        self._shrink()

    def quantile(self, share: float) -> float:
        """The middle of the bin in which so much of all lies below; NaN where there is nothing."""
        left = share * self.count
        for place in sorted(self.bins):
            left -= self.bins[place]
            if left <= 0:
                return (place + 0.5) * self.width
        return math.nan

    def _shrink(self) -> None:
        while len(self.bins) > MAX_BINS:
            self._double()

    def _double(self) -> None:
        self.width *= 2
        wide: dict[int, int] = {}
        for place, count in self.bins.items():
            wide[place >> 1] = wide.get(place >> 1, 0) + count
        self.bins = wide


class Sketch(Struct):
    values: Histogram
    scores: Histogram
    readings: int = 0
    """With a value, whatever their status."""
    flags: int = 0

    @classmethod
    def empty(cls) -> Sketch:
        return cls(Histogram(_VALUE_WIDTH, {}), Histogram(_SCORE_WIDTH, {}))

    def merge(self, other: Sketch) -> None:
        self.values.merge(other.values)
        self.scores.merge(other.scores)
        self.readings += other.readings
        self.flags += other.flags

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Sketch:
        """Raises msgspec.DecodeError."""
        return msgspec.msgpack.decode(data, type=cls)
