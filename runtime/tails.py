"""Tails: how far outside normal a feature is, in units of its own exponential tail.

Beyond a level that training rarely saw, what a feature exceeds it by is taken to be exponential with
a mean of its own, up and down apart: y = (f / scale - level) / excess. A y of 0 is at the level, and
each unit more is e times rarer. The sum of the positive y of all features is unbounded, unlike the
score of a forest, so that a threshold can be extrapolated on it to any rate of false alarms.

Only + - * / and sqrt are used: the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from axlebox.runtime.remembering import State, kept, put_back
from axlebox.runtime.streaming_constants import Constants

SHARE = 0.02
"""Share of the training rows beyond a level, per side."""
CAP = 100.0
"""Beyond this y, a row shows no difference; the sum of tails does."""
_EXCESS_CAP = 5.0
"""One reading counts at most so many mean excesses when a running tail learns."""
_LEARNT = ("_level", "_excess")
_SMALLEST = 0.05
"""A running mean excess stays above this share of the trained one."""


class Tails:
    """The tails of all features of one sensor, as trained; they never move."""

    __slots__ = ("_absent", "_excess", "_level", "_scale", "_size")

    def __init__(self, constants: Constants) -> None:
        flat = [side for pair in constants.sides for side in pair]
        self._scale = [one.scale for one in flat]
        self._level = [one.level for one in flat]
        self._excess = [one.excess for one in flat]
        self._absent = constants.absent
        self._size = len(constants.sides)

    def measure(self, values: Sequence[float | None], beyond: list[float], row: list[float]) -> float:
        """The sum of tails of one reading's features; None where a feature has no number.

        Fills `beyond` with y for each feature, and `row` with what the forest is shown of it: 0 where it is
        normal, else 2 (sqrt(1 + y) - 1), which is y itself near 0 and ever less beyond.
        """
        level, excess, scale = self._level, self._excess, self._scale
        total = 0.0
        for number in range(self._size):
            value = values[number]
            if value is None:
                beyond[number] = 0.0
                row[number] = self._absent[number]
                continue
            side = number + number
            if value < 0.0:
                side += 1
                value = -value
            y = (value / scale[side] - level[side]) / excess[side]
            beyond[number] = y
            if y > 0.0:
                total += y
                row[number] = 2.0 * (sqrt(1.0 + (y if y < CAP else CAP)) - 1.0)
            else:
                row[number] = 0.0
        return total


class RunningTails(Tails):
    """Tails that follow what they see: the level its quantile, the excess its mean. They decide on no event's end."""

    __slots__ = ("_seconds", "_smallest")

    def __init__(self, constants: Constants) -> None:
        super().__init__(constants)
        self._seconds = constants.tail_s
        self._smallest = [_SMALLEST * one for one in self._excess]

    def state(self) -> State:
        return kept(self, _LEARNT)

    def restore(self, state: State) -> None:
        put_back(self, _LEARNT, state)

    def learn(self, values: Sequence[float | None], beyond: Sequence[float], seconds: float) -> None:
        """Take in a reading that was measured just now, `seconds` after the one before."""
        level, excess = self._level, self._excess
        step = 10.0 * seconds / self._seconds
        weight = seconds / (self._seconds * SHARE)
        for number in range(self._size):
            value = values[number]
            if value is None:
                continue
            side = number + number
            if value < 0.0:
                seen, other = side + 1, side
            else:
                seen, other = side, side + 1
            mean = excess[seen]
            y = beyond[number]
            if y > 0.0:
                level[seen] += step * (1.0 - SHARE) * mean
                mean += ((y if y < _EXCESS_CAP else _EXCESS_CAP) * mean - mean) * weight
            else:
                level[seen] -= step * SHARE * mean
            excess[seen] = mean if mean > self._smallest[seen] else self._smallest[seen]
            level[other] -= step * SHARE * excess[other]
