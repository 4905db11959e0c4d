"""Anomaly and drift events of all sensors: what is raised, and what is to be told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import asdict

from axlebox.firmware_bundle.manifest import Contract, EventRules
from axlebox.runtime.alarms import Alarm, make_alarm
from axlebox.runtime.baselines import LEARNED
from axlebox.runtime.outcomes import Origin, Outcome
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.remembering import State, by_sensor
from axlebox.runtime.streaming import Suspicion
from axlebox.runtime.streaming_constants import FEATURES

if TYPE_CHECKING:
    from axlebox.runtime.detector import Detector


class Waiting(NamedTuple):
    """A reading that waits for its score."""

    reading: Reading
    outcome: Outcome
    row: tuple[float, ...]
    suspicion: Suspicion | None


class Anomalies:
    """The events of every sensor that a detector serves."""

    def __init__(self, contract: Contract, origin: Origin) -> None:
        self._contract = contract
        self._origin = origin
        self._alarms: dict[str, Alarm] = {}
        """Of the sensors that something is suspected or raised of."""
        self._raised: dict[str, dict[str, Any]] = {}
        self._drifts: dict[str, int] = {}
        """What has drifted to its bound, by sensor: bits as in Features.drifted."""

    def open(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Sensor and `raised` event of everything that is raised now."""
        yield from self._raised.items()

    def state(self) -> State:
        return [
            by_sensor(self._alarms, lambda alarm: alarm.state()),
            by_sensor(self._raised, dict),
            by_sensor(self._drifts, int),
        ]

    def restore(self, state: State, rules_of: Callable[[str], EventRules | None]) -> None:
        """`rules_of` says by which rules a sensor's events are raised."""
        alarms, self._raised, self._drifts = state
        self._alarms = {}
        for sensor, alarm in alarms.items():
            self._alarms[sensor] = make_alarm(rules_of(sensor))
            self._alarms[sensor].restore(alarm)

    def end(self, sensor: str, time: str | None, reason: str) -> tuple[dict[str, Any], ...]:
        """Forget a sensor; the end of its event, where one is raised."""
        self._alarms.pop(sensor, None)
        self._drifts.pop(sensor, None)
        raised = self._raised.pop(sensor, None)
        return () if raised is None else ({**raised, **_ENDED, "time": time, "reason": reason},)

    def report_drift(self, reading: Reading, outcome: Outcome, drifted: int) -> None:
        """An event for each baseline that has reached its bound, and when it has left it again."""
        sensor = reading.sensor
        if not drifted and sensor not in self._drifts:
            return
        kind = self._contract.kind_of(sensor)
        action = None if kind is None else self._contract.kinds[kind].action
        changed = drifted ^ self._drifts.pop(sensor, 0)
        if drifted:
            self._drifts[sensor] = drifted
        for number, name in enumerate(LEARNED):
            if changed >> number & 1:
                event = {
                    "type": "drift",
                    "state": "raised" if drifted >> number & 1 else "cleared",
                    "sensor": sensor,
                    "time": format_time(reading.time),
                    "baseline": name,
                    "action": action,
                    "bundle": asdict(self._origin),
                }
                outcome.events += (event,)

    def judge(self, one: Waiting, detector: Detector, flag: bool) -> None:
        """Flag and anomaly events of a reading, by the detector's rules."""
        sensor, outcome, suspicion, rules = one.reading.sensor, one.outcome, one.suspicion, detector.spec.events
        if rules is not None:
            flag = suspicion is not None and (flag or suspicion.tail_sum >= rules.extreme_at)
        outcome.flag = flag
        alarm = self._alarms.get(sensor)
        if alarm is None:
            if not flag and suspicion is None:
                return
            alarm = self._alarms[sensor] = make_alarm(rules)
        state = alarm.step(one.reading.time, suspicion, outcome.score or 0.0, flag)
        if state == "raised":
            event = self._anomaly(one, detector, alarm)
            self._raised[sensor] = event
            outcome.events += (event,)
        elif state is not None:
            event = {**self._anomaly(one, detector, alarm), "id": self._raised[sensor]["id"], "state": state}
            if state == "peak":
                event["score"] = alarm.best
            outcome.events += (event,)
        if state == "cleared":
            del self._raised[sensor]
        if not flag and suspicion is None:
            del self._alarms[sensor]
        raised = self._raised.get(sensor)
        if raised is not None:
            outcome.event = raised["id"]

    def _anomaly(self, one: Waiting, detector: Detector, alarm: Alarm) -> dict[str, Any]:
        """A raised anomaly event of a reading."""
        outcome, spec = one.outcome, detector.spec
        return {
            "type": "anomaly",
            "state": "raised",
            "id": f"{self._origin.digest[:8]}-{outcome.sensor}-{int(one.reading.time)}",
            "severity": alarm.severity,
            "sensor": outcome.sensor,
            "time": format_time(one.reading.time),
            "value": outcome.value,
            "score": outcome.score,
            "threshold": spec.threshold,
            **({} if spec.events is None else {"tail_sum": alarm.highest, "extreme_at": spec.events.extreme_at}),
            "why": _reasons(one, detector),
            "action": self._contract.kinds[spec.kind].action,
            "bundle": asdict(self._origin),
        }


_ENDED: dict[str, Any] = {"state": "cleared", "value": None, "score": None, "why": []}
"""What an anomaly event says at its end where no reading is its cause."""


def _reasons(one: Waiting, detector: Detector) -> list[dict[str, Any]]:
    """Each feature outside normal, the farthest first: in the kind's unit, and in tails (tails.py)."""
    suspicion = one.suspicion
    if detector.spec.events is None:
        return [
            {"feature": name, "value": number} for name, number in zip(detector.feature_names, one.row, strict=True)
        ]
    if suspicion is None:
        return []
    found = [
        {"feature": name, "value": value * suspicion.scale, "tails": beyond}
        for name, value, beyond in zip(FEATURES, suspicion.values, suspicion.beyond, strict=True)
        if beyond > 0.0 and value is not None
    ]
    return sorted(found, key=lambda one: -float(one["tails"] or 0.0))
