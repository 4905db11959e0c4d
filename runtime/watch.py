"""What a vehicle's daemon does beside scoring: it remembers, proves a release, changes it, and answers questions."""

from __future__ import annotations

import difflib
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Say
from axlebox.runtime.config import Confirm
from axlebox.runtime.daemon import Change
from axlebox.runtime.detector import Monitor
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.probation import Probation
from axlebox.runtime.readings import BadLine, Reading, Replaced, format_time
from axlebox.runtime.statuses import INVALID, OK, STALE
from axlebox.runtime.store import Store
from axlebox.runtime.succession import Succession, hand_over

SHOWN_SENSORS = 64
"""Sensors in the answer to a question, those that were silent longest last."""
_MAX_TOLD = 64
_SPARE = 64
"""Readings of each sensor that are replayed beyond its warm-up."""


def unknown_sensor(sensor: str, known: Sequence[str]) -> str:
    """What to say of an id that never had a reading here."""
    close = difflib.get_close_matches(sensor, known, n=1)
    which = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known)[:5])}"
    return f"no reading ever came from a sensor {sensor!r}; {which}"


class VehicleWatch:
    """The Watch of a vehicle's daemon."""

    def __init__(self, starter: Starter, release: Release, monitor: Monitor, store: Store, rule: Confirm, say: Say):
        self._starter = starter
        self._store = store
        self._rule = rule
        self._say = say
        self._told: deque[Replaced] = deque(maxlen=_MAX_TOLD)
        self._latest: dict[str, tuple[Outcome, float]] = {}
        self._began = monotonic()
        self._readings = 0
        self._succession = Succession(starter, store, release.digest, say)
        self._take_up(release, monitor)

    def _take_up(self, release: Release, monitor: Monitor) -> None:
        now = monotonic()
        self._release, self._monitor, self._since = release, monitor, now
        self._scored = self._proved = 0
        self._probation = Probation(self._starter, release, self._rule, self._say, now)

    # -- between two batches -----------------------------------------------------------------------

    def told(self) -> list[Replaced]:
        return [self._told.popleft() for _ in range(len(self._told))]

    def saw(self, items: Sequence[Reading | BadLine | Replaced], outcomes: Sequence[Outcome]) -> None:
        if not items:
            return
        kept = [item for item in items if not isinstance(item, BadLine)]
        now = monotonic()
        self._readings += len(outcomes)
        scored = [outcome.status for outcome in outcomes if outcome.score is not None]
        self._scored += len(scored)
        self._proved += scored.count(OK)
        self._latest.update((outcome.sensor, (outcome, now)) for outcome in outcomes)
        if len(self._latest) > MAX_SENSORS:
            # The gate bounds the sensors of good readings; ids of invalid ones come from anywhere.
            self._latest = {name: one for name, one in self._latest.items() if one[0].status != INVALID}
        self._store.add(kept)
        self._store.note(self._release.digest, outcomes)
        for outcome in outcomes:
            for event in outcome.events:
                self._store.event(event)
        self._succession.pass_on(kept)

    def noticed(self, events: Sequence[dict[str, Any]]) -> None:
        self._store.note_events(self._release.digest, events)
        for event in events:
            self._store.event(event)

    def turn(self) -> Change | None:
        now = monotonic()
        self._probation.tick(now, self._proved)
        if self._store.due(now):
            self._store.flush()
        self._succession.look(now, lambda warmup: (warmup + _SPARE) * self._monitor.sensors())
        successor = self._succession.take(now)
        if successor is None:
            return None
        events = hand_over(self._monitor, successor.monitor)
        for event in events:
            self._store.event(event)
        self._take_up(successor.release, successor.monitor)
        self._say(f"{successor.release.label} runs now")
        return Change(successor.monitor, events)

    def end(self) -> None:
        self._probation.lived()

    # -- questions, from another thread ------------------------------------------------------------

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What `axleboxd status`, `install` and `sensor` ask."""
        match question.get("what"):
            case "status":
                return self._status()
            case "replaced":
                sensor = str(question.get("sensor"))
                if self._latest and sensor not in self._latest:
                    return {"error": unknown_sensor(sensor, list(self._latest))}
                if len(self._told) == _MAX_TOLD:
                    return {"error": "too many sensors were replaced at once; try again"}
                self._told.append(Replaced(datetime.now(UTC).timestamp(), sensor))
                return {"sensor": sensor}
            case other:
                return {"error": f"{other!r} is not status or replaced"}

    def _status(self) -> dict[str, Any]:
        now = monotonic()
        release = self._release
        latest = [one for name, one in dict(self._latest).items() if name != NO_SENSOR]
        latest.sort(key=lambda one: -one[1])
        return {
            "pid": os.getpid(),
            "up_s": now - self._began,
            "release": {
                "name": release.manifest.name,
                "version": release.manifest.version,
                "digest": release.digest,
                "runs_s": now - self._since,
            },
            "readings": self._readings,
            "scored": self._scored,
            "sensors": [self._describe(outcome, now - arrived) for outcome, arrived in latest[:SHOWN_SENSORS]],
            "more_sensors": max(0, len(latest) - SHOWN_SENSORS),
            "refused": self._succession.failure,
            "store": {
                "error": self._store.last_error,
                "dropped": self._store.dropped,
                "bytes_written": self._store.bytes_written,
            },
        }

    def _describe(self, outcome: Outcome, age_s: float) -> dict[str, Any]:
        contract = self._release.manifest.contract
        kind = contract.kind_of(outcome.sensor)
        stale = self._monitor.trouble(outcome.sensor) == STALE
        return {
            "sensor": outcome.sensor,
            "value": outcome.value if outcome.value is None or math.isfinite(outcome.value) else None,
            "unit": contract.kinds[kind].unit if kind else "",
            "time": None if outcome.time is None else format_time(outcome.time),
            "age_s": age_s,
            "status": STALE if stale else outcome.status,
            "reason": "it fell silent" if stale else outcome.reason,
            "raised": outcome.event,
            "limit": self._monitor.limit(outcome.sensor),
        }
