"""What is usual for one sensor: the part of its memory that learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from axlebox.runtime.remembering import State, kept, put_back
from axlebox.runtime.streaming_constants import FEATURES, Constants

LEARNED: Final = ("level", "level by hour", "distance from siblings")
"""What is learnt within bounds, in the order of the bits of `Baselines.drifted`."""
_LEVEL, _HOURS, _OFFSET = 1, 2, 4
_SIBLING = FEATURES.index("sibling")
_INSIDE = 0.05
"""A baseline has left its bound again when it is this share of the way between the bounds inside it."""
_SETTLED = 0.1
"""A distance from siblings says something once it was learnt for this share of its time."""


class Move(NamedTuple):
    """One reading, as a step from the one before; all but seconds and hour scaled."""

    scaled: float
    jump: float
    deviation: float | None
    """From the siblings' median."""
    seconds: float
    hour: int
    """Of day; -1 where none is known."""


class Baselines:
    """Filters, the range of the latest readings, and what is learnt: about 2 blocks + 60 numbers, all scaled."""

    __slots__ = (
        "_block_s",
        "_c",
        "_fast",
        "_filled",
        "_high",
        "_highs",
        "_hours",
        "_hours_s",
        "_low",
        "_lows",
        "_now",
        "_offset",
        "_offset_s",
        "_sibling_slow",
        "_slow",
        "_warmed",
        "drifted",
    )

    def __init__(self, constants: Constants) -> None:
        self._c = constants
        blocks = int(constants.blocks)
        self._fast = self._slow = self._sibling_slow = 0.0
        self._hours, self._hours_s = [0.0] * 24, [0.0] * 24
        self._lows, self._highs = [0.0] * blocks, [0.0] * blocks
        self._filled = self._now = 0
        self._block_s = self._low = self._high = 0.0
        self._offset = self._offset_s = 0.0
        self._warmed = False
        self.drifted = 0
        """Bits of what has reached its bound."""

    def state(self) -> State:
        return kept(self, _KEPT)

    def restore(self, state: State) -> None:
        put_back(self, _KEPT, state)

    def copy(self) -> Baselines:
        twin = Baselines(self._c)
        twin.restore([value[:] if type(value) is list else value for value in self.state()])
        return twin

    def restart(self) -> None:
        """Filters and window anew; what is learnt of the sensor stays."""
        self._fast = 0.0
        self._filled = 0
        self._warmed = False

    def features(self, move: Move) -> tuple[float | None, ...]:
        """The features (streaming_constants.FEATURES) of a reading, from what was known before it."""
        scaled, jump, deviation, seconds, _ = move
        outside = 0.0
        if self._filled:
            if scaled > self._high:
                outside = scaled - self._high
            elif scaled < self._low:
                outside = scaled - self._low
        c = self._c
        if scaled >= c.warm_at:
            self._warmed = True
        value = scaled if self._warmed else None
        if deviation is None:
            return jump, self._fast, outside, None, None, value
        deviation -= self._offset
        slow = self._sibling_slow
        error = deviation - slow
        if (error < 0.0) == (slow > 0.0):  # back towards zero
            seconds *= c.sibling_back
        self._sibling_slow = slow = slow + seconds / (c.sibling_s + seconds) * error
        return jump, self._fast, outside, deviation, slow, value

    def follow(self, move: Move, features: Sequence[float | None], learns: bool, bounded: bool = True) -> None:
        """Take the reading in. The filter always moves; what is usual only where it `learns`.

        `bounded`: the range of the latest readings keeps within the bounds too.
        """
        scaled, _, _, seconds, hour = move
        c = self._c
        lowest, highest = c.lowest, c.highest
        level = highest if scaled > highest else lowest if scaled < lowest else scaled
        if learns and not self._filled:
            self._slow = level
        # At an hour that was never seen, nothing is unusual.
        usual = self._slow if hour < 0 else self._hours[hour] if self._hours_s[hour] > 0.0 else scaled
        self._fast += seconds / (c.fast_s + seconds) * (scaled - usual - self._fast)
        if not learns:
            return
        # What is learnt is a mean of values within the bounds, and so within them itself.
        self._slow += seconds / (c.slow_s + seconds) * (level - self._slow)
        inside = _INSIDE * (highest - lowest)
        low, high = lowest + inside, highest - inside
        drifted = _LEVEL if self._filled == len(self._lows) and not low < self._slow < high else 0
        if hour >= 0:
            known = self._hours_s[hour] + seconds
            self._hours_s[hour] = known = known if known < c.hour_s else c.hour_s
            mean = self._hours[hour]
            mean = mean + seconds / known * (level - mean) if seconds < known else level
            self._hours[hour] = mean
            if known == c.hour_s and not low < mean < high:
                drifted |= _HOURS
        if self.drifted & _HOURS and not drifted & _HOURS and self._hours_at_bound(low, high):
            drifted |= _HOURS
        distance = features[_SIBLING]
        if distance is not None:
            known = self._offset_s + seconds
            self._offset_s = known = known if known < c.offset_s else c.offset_s
            bound = c.offset_bound
            distance += self._offset
            distance = bound if distance > bound else -bound if distance < -bound else distance
            mean = self._offset
            mean = mean + seconds / known * (distance - mean) if seconds < known else distance
            self._offset = mean
            if (
                bound
                and known >= _SETTLED * c.offset_s
                and not -bound * (1.0 - _INSIDE) < mean < bound * (1.0 - _INSIDE)
            ):
                drifted |= _OFFSET
        self.drifted = drifted
        self._look_back(level if bounded else scaled, seconds)

    def _hours_at_bound(self, low: float, high: float) -> bool:
        return any(
            known == self._c.hour_s and not low < mean < high
            for mean, known in zip(self._hours, self._hours_s, strict=True)
        )

    @property
    def usual_distance(self) -> float:
        """From the siblings' median."""
        return self._offset

    def _look_back(self, scaled: float, seconds: float) -> None:
        """Lowest and highest reading of the last blocks."""
        if not self._filled:
            self._filled, self._now, self._block_s = 1, 0, 0.0
            self._lows[0] = self._highs[0] = self._low = self._high = scaled
            return
        self._block_s += seconds
        now, lows, highs = self._now, self._lows, self._highs
        if self._block_s < self._c.block_s:
            if scaled < lows[now]:
                lows[now] = scaled
                self._low = min(self._low, scaled)
            elif scaled > highs[now]:
                highs[now] = scaled
                self._high = max(self._high, scaled)
            return
        self._block_s = 0.0
        self._now = now = now + 1 if now + 1 < len(lows) else 0
        if self._filled < len(lows):
            self._filled += 1
        lows[now] = highs[now] = scaled
        self._low, self._high = min(lows[: self._filled]), max(highs[: self._filled])


_KEPT = tuple(name for name in Baselines.__slots__ if name != "_c")
