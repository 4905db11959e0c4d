"""The drill: what this box would see today if a sensor's temperature went wrong, and after how long.

A copy of the live state goes on with the readings of the last day, moved into the future, first as
they are and then with a fault put into one sensor. Nothing of it reaches the daemon, the store or a
sink.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from axlebox.firmware_bundle.manifest import MustSee
from axlebox.runtime.detector import Monitor, restricted
from axlebox.runtime.readings import Reading, parse_time
from axlebox.runtime.remembering import State
from axlebox.runtime.statuses import HOT_OR_SENSOR, OK

DAY_S = 86400.0
HISTORY_READINGS = 100_000
"""Of the last day, of a sensor and its siblings: the newest."""
BUDGET_READINGS = 600_000
"""So many readings are simulated for one fault, a few seconds of work; then the drill says how far it looked."""
USUAL = (
    MustSee("step", 15.0, 2 * DAY_S),
    MustSee("ramp", 5.0, 7 * DAY_S),
    MustSee("stuck", None, 2 * DAY_S),
    MustSee("silent", None, DAY_S),
)
"""What is tried where nobody asks for anything else; the times are how long it is waited for."""


class Found(Struct, frozen=True):
    """What became of one fault in one sensor."""

    sensor: str
    fault: str
    size: float | None
    """Degrees of a step, degrees a day of a ramp."""
    after_s: float | None
    """From the fault to the first event of this sensor; None where there was none."""
    by: str | None
    """What that event was: anomaly, limit, or a sensor's state."""
    looked_s: float
    """How long it was looked for."""
    asked_s: float | None
    """Within what time the contract asks for it; None where it does not."""

    @property
    def missed(self) -> bool:
        """Whether the contract asked for more."""
        return self.asked_s is not None and not (self.after_s is not None and self.after_s <= self.asked_s)


class Drill:
    """Drills of the sensors of one monitor, in the state that it has."""

    def __init__(self, monitor: Monitor, state: State, history: Sequence[Reading]) -> None:
        """`history` is a day of readings, in their order of arrival, that ends with the newest one."""
        self._monitor = monitor
        self._state = state
        self._history = history
        self._usual: dict[tuple[tuple[str, ...], float], frozenset[_Told]] = {}

    def quiet(self, members: Sequence[str]) -> int:
        """How many anomaly and limit events a day like the last one raises among some sensors by itself."""
        told = self._without_fault(members, DAY_S)
        return sum(kind in ("anomaly", "limit") and state == "raised" for kind, state, _, _ in told)

    def _without_fault(self, members: Sequence[str], seconds: float) -> frozenset[_Told]:
        """What is told of some sensors in so long, where nothing goes wrong."""
        key = (tuple(members), seconds)
        if key not in self._usual:
            found = self._events(members, list(self._future(members, seconds)))
            self._usual[key] = frozenset(_told(event) for events in found for event in events)
        return self._usual[key]

    def run(self, sensor: str, members: Sequence[str], fault: MustSee, asked: bool) -> Found:
        """Put a fault into a sensor whose siblings are `members`, itself among them."""
        readings = list(self._future(members, fault.within_s))
        onset = readings[0].time if readings else 0.0
        faulty = list(_with_fault(readings, sensor, fault, onset))
        looked_s = (readings[-1].time - onset) if readings else 0.0
        usual = self._without_fault(members, fault.within_s)
        after_s, by = next(
            (
                (max(0.0, parse_time(str(event["time"])) - onset), by)
                for events in self._events(members, faulty, looked_s)
                for event in events
                # What is told without the fault as well is no sight of it.
                if event["sensor"] == sensor and _told(event) not in usual and (by := _seen_by(event, fault))
            ),
            (None, None),
        )
        within = fault.within_s if asked else None
        return Found(sensor, fault.fault, fault.size, after_s, by, looked_s, within)

    def _events(
        self, members: Sequence[str], readings: Sequence[Reading], silent_s: float = 0.0
    ) -> Iterator[tuple[Mapping[str, object] | dict[str, object], ...]]:
        """The events of each reading, beginning with the present state, then of the time that passes in silence."""
        self._monitor.restore(restricted(self._state, members))
        for start in range(0, len(readings), 256):
            for outcome in self._monitor.process(readings[start : start + 256]):
                if outcome.events:
                    yield outcome.events
        self._monitor.tick(0.0)
        yield tuple(self._monitor.tick(silent_s))

    def _future(self, members: Sequence[str], seconds: float) -> Iterator[Reading]:
        """The last day of some sensors, again and again, each time later: by whole days where it is one."""
        known = frozenset(members)
        day = [one for one in self._history if one.sensor in known][-HISTORY_READINGS:]
        if not day:
            return
        newest, oldest = max(one.time for one in day), min(one.time for one in day)
        span = newest - oldest
        period = span / max(1, len(day) / len(known))
        shift = DAY_S if span > 0.9 * DAY_S else span + period
        day = [one for one in day if one.time > newest - shift]
        budget = BUDGET_READINGS
        for again in range(1, math.ceil(seconds / shift) + 1):
            for one in day:
                later = one.time + again * shift
                if later - newest > seconds or budget == 0:
                    return
                budget -= 1
                yield replace(one, time=later)


_Told = tuple[object, object, object, object]


def _told(event: Mapping[str, object]) -> _Told:
    """What tells an event from another."""
    return event["type"], event["state"], event["sensor"], event["time"]


def _with_fault(readings: Sequence[Reading], sensor: str, fault: MustSee, onset: float) -> Iterator[Reading]:
    stuck = None
    for one in readings:
        if one.sensor != sensor:
            yield one
            continue
        size = fault.size or 0.0
        match fault.fault:
            case "step":
                yield replace(one, value=one.value + size)
            case "ramp":
                yield replace(one, value=one.value + size * (one.time - onset) / DAY_S)
            case "stuck":
                stuck = one.value if stuck is None else stuck
                yield replace(one, value=stuck)
            case "silent":
                continue


def _seen_by(event: Mapping[str, object], fault: MustSee) -> str | None:
    """What an event says of a fault; None where it is no sight of it."""
    kind, state = event["type"], event["state"]
    if kind == "sensor":
        heat = fault.fault in ("step", "ramp")
        return str(state) if state not in (OK, "replaced") and (not heat or state == HOT_OR_SENSOR) else None
    return str(kind) if kind in ("anomaly", "limit") and state == "raised" else None


def in_words(found: Found, unit: str) -> str:
    """As in "+15 C: anomaly after 20 min"."""
    match found.fault:
        case "step":
            what = f"{found.size:+g} {unit}"
        case "ramp":
            what = f"ramp {found.size:g} {unit} a day"
        case other:
            what = other
    if found.after_s is None:
        return f"{what}: not seen in {span(found.looked_s)}"
    return f"{what}: {found.by} {'at once' if found.after_s == 0 else f'after {span(found.after_s)}'}"


def span(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, length in (("days", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"
