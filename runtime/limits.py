"""The limit channel: fixed temperatures that alarm with no forest, no trained state and no clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from axlebox.firmware_bundle.manifest import Contract
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.remembering import State, by_sensor

HYSTERESIS = 2.0
"""Degrees below a limit at which its event is cleared, so that noise around it is one event."""
WARN, CRITICAL, HEAT = "warn", "critical", "heat"
"""Why an event was raised; HEAT is the gate's finding that values beyond the contract are no broken sensor."""
_SEVERITY = {WARN: "mild", CRITICAL: "extreme", HEAT: "extreme"}

Event = dict[str, Any]


class Limits:
    """Which sensors are above which limit: one event when it begins, one when it ends.

    Whether a reading's time is good, and whether its value can be true, is not asked to raise an
    event, but only to clear one: a sensor that burns may fall silent, stick or report nonsense.
    """

    def __init__(self, contract: Contract, digest: str, bundle: dict[str, Any]) -> None:
        self._contract = contract
        self._digest = digest
        self._bundle = bundle
        self._limits = {
            name: tuple((why, at) for why, at in ((WARN, kind.warn), (CRITICAL, kind.critical)) if at is not None)
            for name, kind in contract.kinds.items()
        }
        self.are_set = any(self._limits.values())
        """Whether any kind has a limit: else only `heat` raises anything."""
        self._raised: dict[str, dict[str, Event]] = {}

    def look(self, reading: Reading, good: bool) -> tuple[Event, ...]:
        """The events of a reading with a finite value; `good` where it passed the gate, and may clear."""
        raised = self._raised.get(reading.sensor)
        kind = self._contract.kind_of(reading.sensor)
        limits = () if kind is None else self._limits[kind]
        above = [(why, at) for why, at in limits if reading.value >= at]
        if raised is None:
            return tuple(self._raise(reading, why, at) for why, at in above) if above and self._has_room else ()
        events = [self._raise(reading, why, at) for why, at in above if why not in raised]
        if good:
            ended = [why for why, event in raised.items() if reading.value < event["limit"] - HYSTERESIS]
            events += [self._clear(reading.sensor, why, reading.time, reading.value) for why in ended]
        return tuple(events)

    def heat(self, reading: Reading, limit: float) -> tuple[Event, ...]:
        """The gate found that a reading beyond the contract is heat; nothing where `critical` says so already."""
        raised = self._raised.get(reading.sensor, {})
        if raised.keys() & {CRITICAL, HEAT} or not (raised or self._has_room):
            return ()
        return (self._raise(reading, HEAT, limit),)

    def end(self, sensor: str, time: float | None, value: float | None, reason: str) -> tuple[Event, ...]:
        """Clear everything of a sensor whose readings say nothing of a temperature any more."""
        raised = list(self._raised.get(sensor, ()))
        return tuple({**self._clear(sensor, why, time, value), "reason": reason} for why in raised)

    def open(self) -> Iterator[tuple[str, Event]]:
        """Sensor and `raised` event of every limit event that is raised now."""
        for sensor, raised in self._raised.items():
            for event in raised.values():
                yield sensor, event

    def state(self) -> State:
        return by_sensor(self._raised, dict)

    def restore(self, state: State) -> None:
        self._raised = state

    def of(self, sensor: str) -> str | None:
        """The worst severity that is raised for a sensor: extreme, mild or None."""
        found = {event["severity"] for event in dict(self._raised.get(sensor, {})).values()}
        return "extreme" if "extreme" in found else next(iter(found), None)

    @property
    def _has_room(self) -> bool:
        """Ids of invalid readings come from outside, as many as somebody likes."""
        return len(self._raised) < MAX_SENSORS

    def _raise(self, reading: Reading, why: str, limit: float) -> Event:
        kind = self._contract.kind_of(reading.sensor)
        event = {
            "type": "limit",
            "state": "raised",
            "id": f"{self._digest[:8]}-{reading.sensor}-{int(reading.time)}-{why}",
            "severity": _SEVERITY[why],
            "sensor": reading.sensor,
            "time": format_time(reading.time),
            "value": reading.value,
            "limit": limit,
            "action": None if kind is None else self._contract.kinds[kind].action,
            "bundle": self._bundle,
        }
        self._raised.setdefault(reading.sensor, {})[why] = event
        return event

    def _clear(self, sensor: str, why: str, time: float | None, value: float | None) -> Event:
        raised = self._raised[sensor].pop(why)
        if not self._raised[sensor]:
            del self._raised[sensor]
        return {**raised, "state": "cleared", "time": None if time is None else format_time(time), "value": value}
