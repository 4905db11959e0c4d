"""When an anomaly event of a sensor is raised, told again, and cleared."""

from __future__ import annotations

from typing import Literal, Protocol

from axlebox.firmware_bundle.manifest import EventRules
from axlebox.runtime.remembering import State, kept, put_back
from axlebox.runtime.streaming import Suspicion

Told = Literal["raised", "peak", "cleared"]
Severity = Literal["extreme", "mild"]
_KEPT = ("_recent", "_raised", "_collected", "best", "_told", "_told_until", "highest", "severity")


class Alarm(Protocol):
    """The anomaly events of one sensor."""

    severity: Severity
    highest: float
    """Highest sum of tails since it was raised."""
    best: float
    """Highest score of the peak that was collected last."""

    def step(self, time: float, suspicion: Suspicion | None, score: float, flag: bool) -> Told | None:
        """Take the next reading's answers (time in seconds); what is to be told of the event, if anything."""

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


class FlagAlarm:
    """Raised with the first flag, cleared with the first reading that has none."""

    severity: Severity = "mild"  # a forest of raw values saturates: it cannot tell a bit outside from far outside

    highest = 0.0
    best = 0.0

    def __init__(self) -> None:
        self._raised = False

    def step(self, time: float, suspicion: Suspicion | None, score: float, flag: bool) -> Told | None:
        was, self._raised = self._raised, flag
        return None if flag == was else "raised" if flag else "cleared"

    def state(self) -> State:
        return self._raised

    def restore(self, state: State) -> None:
        self._raised = state


class RuledAlarm:
    """Raised at once by an extreme reading, by several of the last few when mild; cleared when nothing is suspected.

    A peak follows every raise, and later whatever is news: higher than the last peak, or after its time.
    A mild event that becomes extreme is told at once.
    """

    def __init__(self, rules: EventRules) -> None:
        self._rules = rules
        self._recent = 0
        """Flags of the last readings, one bit each."""
        self._raised = False
        self._collected = 0
        """Readings since a peak began; 0 while none is being collected."""
        self.best = self._told = 0.0
        self._told_until = 0.0
        self.highest = 0.0
        self.severity: Severity = "mild"

    def step(self, time: float, suspicion: Suspicion | None, score: float, flag: bool) -> Told | None:
        if suspicion is None:
            was, self._raised, self._recent = self._raised, False, 0
            return "cleared" if was else None
        rules = self._rules
        extreme = suspicion.tail_sum >= rules.extreme_at
        if not self._raised:
            self._recent = (self._recent << 1 | flag) & ((1 << rules.of) - 1)
            if not extreme and self._recent.bit_count() < rules.need:
                return None
            self._raised, self.severity = True, "extreme" if extreme else "mild"
            self.highest = suspicion.tail_sum
            self._collected, self.best = 1, score
            return "raised"
        self.highest = max(self.highest, suspicion.tail_sum)
        if extreme and self.severity == "mild":
            self.severity = "extreme"
            return self._tell(time, max(score, self.best))
        if self._collected:
            self._collected += 1
            self.best = max(score, self.best)
            return self._tell(time, self.best) if self._collected > rules.collect else None
        if flag and (score > self._told or time > self._told_until):
            self._collected, self.best = 1, score
        return None

    def _tell(self, time: float, score: float) -> Told:
        self._collected, self.best, self._told = 0, score, score
        self._told_until = time + self._rules.hold_s
        return "peak"

    def state(self) -> State:
        return kept(self, _KEPT)

    def restore(self, state: State) -> None:
        put_back(self, _KEPT, state)


def make_alarm(rules: EventRules | None) -> Alarm:
    return FlagAlarm() if rules is None else RuledAlarm(rules)
