"""Hot, or a broken sensor? What history and siblings say of readings that cannot be true.

A reading above its range, or one that rose faster than anything real, is either heat that outruns the
contract or a wire. It counts as heat until it is found to be the wire, and where there is doubt it
stays heat: docs/decisions/0011-hot-or-sensor.md has the reasons for every number here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from axlebox.runtime.remembering import State, kept, put_back
from axlebox.runtime.statuses import HOT_OR_SENSOR

MARGIN = 2.0
"""Degrees: smaller moves are noise."""
SIBLING_RISE = 5.0
"""Degrees that one sibling rises by from the episode's beginning, when it is heat."""
CLIMBED = 10.0
"""Degrees that the sensor rose by shortly before the episode, when it is not found to be a wire."""
STEP_SHARE = 0.2
"""A step of at most this share of the range passed through the values between."""
IMPOSSIBLE_PER_S = 20.0
"""Degrees a second that no heat rises by. The contract's max_rate_per_s is no such bound: a bearing that burns off
may well outrun it between two readings, and the end of the sensor's scale is as constant as a broken wire."""
FROZEN_S = 60.0
FROZEN_READINGS = 5
"""So long, and so many readings, the very same value is seen before it is a wire."""
RISES = 3
"""New highest values, MARGIN together, that are a climb."""
REVISED_S = 900.0
"""So long after its beginning, siblings that rise still turn a wire into heat again."""


class Cause(Enum):
    """What an episode is found to be."""

    DOUBT = 0
    HEAT = 1
    SENSOR = 2


class Episode:
    """Readings of one sensor that cannot be true, from the first one until one can be."""

    __slots__ = (
        "_away",
        "_frozen_since",
        "_may_be_sensor",
        "_peak",
        "_rises",
        "_same",
        "_siblings",
        "began",
        "cause",
        "entry",
        "hot",
        "limit",
        "status",
        "value",
    )

    def __init__(self, status: str, limit: float, time: float, value: float, hot: bool) -> None:
        """`status` is RANGE or RATE; `limit` the end of the range, or what could have been reached, in degrees."""
        self.status = status
        self.limit = limit
        self.hot = hot
        self.cause = Cause.DOUBT if hot else Cause.SENSOR
        self.began = self._frozen_since = time
        self.entry = self.value = self._peak = value
        self._same = 1
        self._away = self._rises = 0
        self._may_be_sensor = False
        self._siblings: Mapping[str, float] = {}

    def state(self) -> State:
        return [self.cause.value, *kept(self, _KEPT)]

    @classmethod
    def restored(cls, state: State) -> Episode:
        cause, *rest = state
        episode = cls("", 0.0, 0.0, 0.0, False)
        put_back(episode, _KEPT, rest)
        episode.cause = Cause(cause)
        return episode

    def weigh(self, climbed: bool, impossible: bool, siblings: Mapping[str, float]) -> None:
        """What is known at the beginning: `climbed` through the values between at a rate that can be, or came by an
        `impossible` jump from a level that was normal; and where the siblings were."""
        self._siblings = siblings
        self._may_be_sensor = impossible
        if climbed and self.hot:
            self.cause = Cause.HEAT

    @property
    def shown(self) -> str:
        """The status of its readings."""
        return self.status if self.cause is Cause.SENSOR else HOT_OR_SENSOR

    def frozen_at(self, value: float) -> bool:
        """Whether a value came by an impossible jump and never moved: no temperature, however long it waits."""
        return self._may_be_sensor and value == self.entry == self._peak == self.value

    def go_on(self, time: float, value: float, siblings: Mapping[str, float]) -> None:
        """Take the next reading that cannot be true; `siblings` are their present values."""
        self._follow(time, value)
        if not self.hot or self.cause is Cause.HEAT:
            return
        climbs = self._rises >= RISES and self._peak - self.entry >= MARGIN
        if climbs or (time - self.began <= REVISED_S and self._siblings_rose(siblings)):
            self.cause = Cause.HEAT
        elif self.cause is Cause.DOUBT:
            frozen = self._same >= FROZEN_READINGS and time - self._frozen_since >= FROZEN_S
            if frozen and self._may_be_sensor and self._peak - self.entry <= MARGIN:
                self.cause = Cause.SENSOR
        elif self._away > 1:  # one stray value is not a move
            self.cause = Cause.DOUBT

    def _follow(self, time: float, value: float) -> None:
        if value == self.value:
            self._same += 1
            self._away = 0
            return
        self._away += 1
        if value > self._peak:
            self._peak = value
            self._rises += 1
        if self.cause is Cause.SENSOR and self._away == 1:
            return
        self.value, self._same, self._frozen_since = value, 1, time

    def _siblings_rose(self, now: Mapping[str, float]) -> bool:
        return any(value - self._siblings.get(name, value) >= SIBLING_RISE for name, value in now.items())


_KEPT = tuple(name for name in Episode.__slots__ if name != "cause")
