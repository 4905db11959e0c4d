"""The feature set `streaming`: what a few hundred numbers of memory know of one sensor.

A sensor keeps two sets of baselines. The *reference* decides what is suspected, raised and cleared;
it stops learning while anything is suspected, and its tails never move. Its *shadow*, a copy made at
the first suspicion, goes on learning, only so that the forest can tell news within an event from more
of the same; it neither ends nor prevents an event, and is thrown away after a calm time. So a fault
teaches the detector nothing that lasts: docs/detection.md.

Times are seconds; `scaled` is (value - median) / scale, of the training's readings of the kind.
Only + - * / and sqrt are used: the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple

from axlebox.runtime.baselines import Baselines, Move
from axlebox.runtime.readings import Reading
from axlebox.runtime.remembering import State, kept, put_back
from axlebox.runtime.streaming_constants import FEATURES, Constants
from axlebox.runtime.tails import RunningTails, Tails

_HOUR_S = 3600.0
_KEPT = ("_time", "_scaled", "_calm_s", "suspected")


class Suspicion(NamedTuple):
    """What the latest reading of a sensor that is suspected of something showed."""

    tail_sum: float
    beyond: tuple[float, ...]
    """For each of FEATURES how far it lies beyond its level, in mean excesses (tails.py); 0 and below is normal."""
    values: tuple[float | None, ...]
    """The features themselves, scaled;"""
    scale: float
    """and what they are to be multiplied with, for the kind's unit."""


class _Shadow:
    """Baselines and tails that go on learning while something is suspected."""

    def __init__(self, constants: Constants, reference: Baselines) -> None:
        self._baselines = reference.copy()
        self._tails = RunningTails(constants)
        self._beyond = [0.0] * len(FEATURES)
        self._row = [0.0] * len(FEATURES)

    def restart(self) -> None:
        self._baselines.restart()

    def state(self) -> State:
        return [self._baselines.state(), self._tails.state()]

    def restore(self, state: State) -> None:
        baselines, tails = state
        self._baselines.restore(baselines)
        self._tails.restore(tails)

    def row(self, move: Move) -> list[float]:
        values = self._baselines.features(move)
        self._tails.measure(values, self._beyond, self._row)
        self._tails.learn(values, self._beyond, move.seconds)
        self._baselines.follow(move, values, learns=True, bounded=False)
        return self._row


class Streaming:
    """Features, tails and suspicion of one sensor. 4 us a reading when calm, 9 us while it suspects."""

    names: ClassVar[tuple[str, ...]] = FEATURES[:-1]
    """Those of the row. `value` is in the sum of tails alone: in the row it would hide what moves."""

    def __init__(self, constants: Mapping[str, float] | Constants) -> None:
        """Raises Malformed where the constants are not those of this feature set."""
        self.constants = c = constants if isinstance(constants, Constants) else Constants.parse(constants)
        self._tails = Tails(c)
        self._reference = Baselines(c)
        self._shadow: _Shadow | None = None
        self._time: float | None = None
        self._scaled = 0.0
        self._calm_s = 0.0
        self._beyond = [0.0] * len(FEATURES)
        self._row = [0.0] * len(FEATURES)
        self.values: tuple[float | None, ...] = ()
        """The reference's features of the latest reading, scaled."""
        self.tail_sum = 0.0
        """The reference's sum of tails at the latest reading."""
        self.suspected = False

    @classmethod
    def maker(cls, constants: Mapping[str, float]) -> Callable[[], Streaming]:
        """For many sensors that share one set of constants. Raises Malformed as above."""
        return partial(cls, Constants.parse(constants))

    def state(self) -> State:
        shadow = None if self._shadow is None else self._shadow.state()
        return [*kept(self, _KEPT), self._reference.state(), shadow]

    def restore(self, state: State) -> None:
        *own, reference, shadow = state
        put_back(self, _KEPT, own)
        self._reference.restore(reference)
        self._shadow = None
        if shadow is not None:
            self._shadow = _Shadow(self.constants, self._reference)
            self._shadow.restore(shadow)

    @property
    def suspicion(self) -> Suspicion | None:
        """What is suspected since the latest reading."""
        if not self.suspected:
            return None
        return Suspicion(self.tail_sum, tuple(self._beyond), self.values, self.constants.scale)

    @property
    def usual_distance(self) -> float:
        """What is learnt of its distance from its siblings, in degrees."""
        return self._reference.usual_distance * self.constants.scale

    @property
    def drifted(self) -> int:
        """Which baselines have reached their bound: a bit for each of baselines.LEARNED."""
        return self._reference.drifted

    def restart(self) -> bool:
        """After a long gap or another clock: filters and window begin anew, what was learnt of the sensor stays."""
        self._time = None
        if not self.suspected:
            self._reference.restart()
        if self._shadow is not None:
            self._shadow.restart()
        return True

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        """The forest's row of the next reading; `deviation` from the siblings' median, in degrees.

        While `warming` everything is learnt and nothing suspected.
        """
        move = self._move(reading.time, reading.value, deviation)
        self.values = values = self._reference.features(move)
        self.tail_sum = total = self._tails.measure(values, self._beyond, self._row)
        suspects = total >= self.constants.suspect_at and not warming
        self._reference.follow(move, values, learns=not (suspects or self.suspected))
        row = self._row if self._shadow is None else self._shadow.row(move)
        if suspects or self._shadow is not None:
            self._suspect(suspects, total, move.seconds)
        return tuple(row[:-1])

    def _move(self, time: float, value: float, deviation: float | None) -> Move:
        c = self.constants
        scaled = (value - c.median) / c.scale
        if self._time is not None and time - self._time > c.restart_s:
            self.restart()
        if self._time is None:
            jump, seconds = 0.0, c.period_s
        else:
            jump, seconds = scaled - self._scaled, time - self._time
            if seconds > c.period_s:  # readings were lost: what passed meanwhile is no jump
                jump *= c.period_s / seconds
                seconds = min(seconds, c.gap_s)
        self._time, self._scaled = time, scaled
        hour = int(time // _HOUR_S % 24.0) if c.hour_of_day and time >= c.clock_from else -1
        return Move(scaled, jump, None if deviation is None or not c.siblings else deviation / c.scale, seconds, hour)

    def _suspect(self, suspects: bool, total: float, seconds: float) -> None:
        """Begin a suspicion, go on with it, or end it and in time its shadow."""
        c = self.constants
        if suspects:
            self._calm_s = 0.0
            self.suspected = True
            if self._shadow is None:
                self._shadow = _Shadow(c, self._reference)
        elif self.suspected:
            self._calm_s = self._calm_s + seconds if total < c.calm_below else 0.0
            self.suspected = self._calm_s < c.calm_s
        else:
            self._calm_s += seconds
            if self._calm_s >= c.shadow_s:
                self._shadow = None
