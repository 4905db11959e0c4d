"""What a vehicle's daemon does beside scoring: it remembers, proves a release, changes it, and answers questions."""

from __future__ import annotations

import difflib
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import msgspec

from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Say
from axlebox.runtime.config import Config
from axlebox.runtime.daemon import Change
from axlebox.runtime.days import Days
from axlebox.runtime.detector import Monitor
from axlebox.runtime.figures import (
    SCORE_BOUNDS,
    Buckets,
    Counted,
    Figures,
    KindFigures,
    ReleaseFigures,
    SensorFigures,
    SinkFigures,
    SourceFigures,
    StoreFigures,
)
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.health import Health
from axlebox.runtime.log import Sampler
from axlebox.runtime.memory import Memory
from axlebox.runtime.notify import Notifier
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.probation import Probation
from axlebox.runtime.readings import BadLine, Replaced, format_time
from axlebox.runtime.sinks.base import Outlet
from axlebox.runtime.sinks.displays import Board
from axlebox.runtime.sketches import Histogram
from axlebox.runtime.snapshots import Revived
from axlebox.runtime.sources.base import Item, Position, Source
from axlebox.runtime.statuses import INVALID, OK, STALE
from axlebox.runtime.store import UNBOUNDED, Store
from axlebox.runtime.succession import Succession, hand_over
from axlebox.runtime.version import VERSION

SHOWN_SENSORS = 64
"""Sensors in the answer to a question, those that were silent longest last."""
_MAX_TOLD = 64
DAYS_S = 6 * 3600.0
"""How often what was counted of the days is handed to the store: a power cut loses as much."""
WORDS_S = 1.0
"""How often it is put into words how things are."""
TRUST_S = 1.0
"""How often the box's clock is looked at."""
_FLUSH_LOOK_S, _FLUSH_LOOKS = 0.02, 75
"""How often, and how many times, whoever asked for a flush looks whether it is done."""
_DAY_S = 86400.0
_QUANTILES = (0.05, 0.5, 0.95)


def unknown_sensor(sensor: str, known: Sequence[str]) -> str:
    """What to say of an id that never had a reading here."""
    close = difflib.get_close_matches(sensor, known, n=1)
    which = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known)[:5])}"
    return f"no reading ever came from a sensor {sensor!r}; {which}"


class VehicleWatch:
    """The Watch of a vehicle's daemon."""

    def __init__(self, starter: Starter, revived: Revived, release: Release, store: Store, config: Config, say: Say):
        now = monotonic()
        self._starter = starter
        self._store = store
        self._config = config
        self._say = say
        self._told: deque[Replaced] = deque(maxlen=_MAX_TOLD)
        self._latest: dict[str, tuple[Outcome, float]] = {}
        self._began = now
        self._counted = Counted()
        self._invalid = Sampler()
        self._flush_asked = False
        self._days = Days()
        self._days_due = now + DAYS_S
        self._notifier = Notifier()
        self._words, self._words_due = "", -math.inf
        self.source: Source | None = None
        """What gives the readings, once it is open,"""
        self.outlets: Sequence[Outlet] = ()
        """where events go,"""
        self.boards: Sequence[Board] = ()
        """and where it is shown how things are."""
        self._succession = Succession(starter, store, release.digest, say)
        self._take_up(release, revived.monitor)

    def _take_up(self, release: Release, monitor: Monitor) -> None:
        now = monotonic()
        self._release, self._monitor, self._since = release, monitor, now
        self._proved = 0
        self._probation = Probation(self._starter, release, self._config.confirm, self._say, now)
        self._health = Health(self._config.health, release.manifest.contract, now)
        self._memory = Memory(self._store, release, monitor, self._starter.vehicle.identity.vehicle, now)
        self._scores = {kind: Buckets.of(SCORE_BOUNDS) for kind in release.manifest.contract.kinds}
        self._trusted_at, self._trusted = -math.inf, True

    @property
    def default_sensor(self) -> str:
        """Whose readings are that name no sensor."""
        return self._release.manifest.contract.only_sensor()

    def reloading(self) -> None:
        """No readings are taken until `ready`."""
        self._notifier.reloading()

    def ready(self) -> None:
        """Readings are about to be taken."""
        self._health.heard(monotonic())
        self._notifier.ready()

    def configure(self, config: Config) -> None:
        """Go on by a configuration that was read again."""
        before, self._config = self._config, config
        if config.confirm != before.confirm:
            self._probation.rule = config.confirm
        if config.health != before.health:
            self._health.settings = config.health

    # -- between two batches -----------------------------------------------------------------------

    def told(self) -> list[Replaced]:
        return [self._told.popleft() for _ in range(len(self._told))]

    def clock_trusted(self) -> bool:
        now = monotonic()
        if now - self._trusted_at > TRUST_S:
            self._trusted_at = now
            self._trusted = datetime.now(UTC) >= self._release.released
        return self._trusted

    def saw(self, items: Sequence[Item], outcomes: Sequence[Outcome], began: float) -> None:
        if not items:
            return
        now = monotonic()
        kept = [item for item in items if not isinstance(item, BadLine)]
        scored = [outcome for outcome in outcomes if outcome.score is not None]
        self._proved += sum([outcome.status == OK for outcome in scored])
        self._count_scores(scored)
        self._latest |= {outcome.sensor: (outcome, now) for outcome in outcomes}
        if len(self._latest) > MAX_SENSORS:
            # The gate bounds the sensors of good readings; ids of the others come from anywhere.
            self._latest = {name: one for name, one in self._latest.items() if one[0].status not in UNBOUNDED}
        self._store.add(kept)
        self._store.note(self._release.digest, outcomes)
        events = [event for outcome in outcomes for event in outcome.events]
        for event in events:
            self._store.event(event)
        self._counted.saw(outcomes, events, len(scored))
        self._counted.latency.add(now - began, len(outcomes))
        self._say_invalid(outcomes)
        self._days.saw(outcomes)
        self._memory.saw(kept, events, now)
        self._succession.pass_on(kept)
        if kept:
            self._health.heard(now)

    def _count_scores(self, scored: Sequence[Outcome]) -> None:
        if len(self._scores) == 1:
            (buckets,) = self._scores.values()
            for outcome in scored:
                buckets.add(outcome.score or 0.0)
            return
        kind_of = self._release.manifest.contract.kind_of
        for outcome in scored:
            self._scores[kind_of(outcome.sensor) or ""].add(outcome.score or 0.0)

    def _say_invalid(self, outcomes: Sequence[Outcome]) -> None:
        if self.source is None or self.source.patience_s == math.inf:
            return  # a replay's summary names the first lines
        for outcome in outcomes:
            if outcome.status == INVALID:
                what = f"sensor {outcome.sensor}" if outcome.sensor != NO_SENSOR else f"line {outcome.line}"
                self._invalid.say(f"invalid reading, {what}: {outcome.reason}", sensor=outcome.sensor or None)

    def noticed(self, events: Sequence[dict[str, Any]], counted: bool = True) -> None:
        if counted:
            self._store.note_events(self._release.digest, events)
            self._counted.saw((), events, 0)
        for event in events:
            self._store.event(event)

    def turn(self) -> Change | None:
        now = monotonic()
        self._probation.tick(now, self._proved)
        self._memory.turn(now, self._position)
        if now >= self._days_due:
            self._keep_days(now)
        if self._store.due(now) or (self._flush_asked and not self._store.busy):
            self._flush_asked = False
            self._note_position()
            self._store.flush_soon()
        events = self._health.turn(now, self._latest)
        if now >= self._words_due:
            self._words, self._words_due = self._in_words(), now + WORDS_S
        self._notifier.alive(now, self._words)
        self._show(now)
        self._succession.look(now, self._monitor.sensors)
        successor = self._succession.take(now)
        if successor is None:
            return Change(events) if events else None
        handed_over = hand_over(self._monitor, successor.monitor)
        self._take_up(successor.release, successor.monitor)
        self._say(f"{successor.release.label} runs now")
        return Change(events, successor.monitor, handed_over)

    def _show(self, now: float) -> None:
        """Give the displays a new picture, where theirs is old or something was raised or cleared."""
        if not self.boards:
            return
        now_open = sorted(str(event["id"]) for event in self._monitor.open_events()) + sorted(
            self._health.raised.values()
        )
        due = [board for board in self.boards if board.due(now, now_open)]
        if due:
            figures = self.figures(self._config.metrics.max_sensors)
            for board in due:
                board.put(figures)

    def _position(self) -> Position | None:
        return None if self.source is None else self.source.position

    def _note_position(self) -> None:
        position = self._position()
        self._store.at(None if position is None else msgspec.msgpack.encode(position))

    def _keep_days(self, now: float) -> None:
        self._days_due = now + DAYS_S
        for day, sensor, sketch in self._days.take():
            self._store.sketch(day, sensor, sketch)

    def end(self) -> None:
        now = monotonic()
        self._notifier.stopping()
        self._probation.lived()
        self._invalid.tell_rest()
        self._keep_days(now)
        self._memory.end(now, self._position())
        self._note_position()

    def _in_words(self) -> str:
        raised = sum(1 for _ in self._monitor.open_events())
        troubles = "; ".join(self._health.raised.values())
        return (
            f"{self._release.label}: {self._counted.readings} readings of {self._monitor.sensors()} sensors, "
            f"{raised} raised" + (f"; {troubles}" if troubles else "")
        )

    # -- questions, also from another thread -------------------------------------------------------

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What `axleboxd status`, `install` and `sensor` ask."""
        match question.get("what"):
            case "status":
                answer: dict[str, Any] = msgspec.to_builtins(self.figures(SHOWN_SENSORS))
                return answer
            case "replaced":
                return self._note_replaced(str(question.get("sensor")))
            case "flush":
                return {"flushed": self._flush_now()}
            case other:
                return {"error": f"{other!r} is not status, replaced or flush"}

    def _note_replaced(self, sensor: str) -> dict[str, Any]:
        if self._latest and sensor not in self._latest:
            return {"error": unknown_sensor(sensor, list(self._latest))}
        if len(self._told) == _MAX_TOLD:
            return {"error": "too many sensors were replaced at once; try again"}
        self._told.append(Replaced(datetime.now(UTC).timestamp(), sensor))
        return {"sensor": sensor}

    def _flush_now(self) -> bool:
        """Have everything written to the store; whether it was, within the patience of whoever asks."""
        self._flush_asked = True
        waited = threading.Event()
        for _ in range(_FLUSH_LOOKS):
            if not self._flush_asked and not self._store.pending()[1]:
                return True
            waited.wait(_FLUSH_LOOK_S)
        return False

    def figures(self, at_most: int) -> Figures:
        """Everything, with numbers of their own for at most so many sensors."""
        now = monotonic()
        release, store, counted, source = self._release, self._store, self._counted, self.source
        latest = [one for name, one in dict(self._latest).items() if name != NO_SENSOR]
        latest.sort(key=lambda one: -one[1])
        written = store.bytes_written + sum(outlet.bytes_written for outlet in self.outlets)
        written += sum(board.bytes_written for board in self.boards)
        up_s = now - self._began
        return Figures(
            pid=os.getpid(),
            vehicle=self._starter.vehicle.identity.vehicle,
            runtime=VERSION,
            up_s=up_s,
            release=ReleaseFigures(release.manifest.name, release.manifest.version, release.digest, now - self._since),
            readings=counted.readings,
            scored=counted.scored,
            flags=counted.flags,
            statuses=dict(counted.statuses),
            events=dict(counted.events),
            sensors=[self._describe(outcome, now - arrived) for outcome, arrived in latest[:at_most]],
            more_sensors=max(0, len(latest) - at_most),
            kinds=dict(self._kinds()),
            source=None
            if source is None
            else SourceFigures(
                source.uri, source.health.connected, source.health.reconnects, source.health.lost, source.health.error
            ),
            sinks=[SinkFigures(one.uri, one.queued, one.written, one.dropped, one.error) for one in self.outlets],
            store=StoreFigures(store.last_error, store.dropped, store.bytes_written),
            bytes_written=written,
            bytes_per_day=written / up_s * _DAY_S if up_s > 60 else 0.0,
            latency=counted.latency,
            memory_bytes=self._health.memory_bytes,
            clock_trusted=self.clock_trusted(),
            health=list(self._health.raised.values()),
            open_events=list(self._monitor.open_events()),
            refused=self._succession.failure,
            troubles=dict(Counter(what for what, _ in list(self._health.raised))),
        )

    def _kinds(self) -> Iterator[tuple[str, KindFigures]]:
        """What each kind of sensor shows today."""
        contract = self._release.manifest.contract
        today: dict[str, Histogram] = {}
        for sensor, shown in self._days.latest().items():
            kind = contract.kind_of(sensor)
            if kind is not None:
                today.setdefault(kind, Histogram(shown.width, {})).merge(shown)
        constants = {spec.kind: spec.features.constants for spec in self._release.manifest.detectors}
        for kind, scores in self._scores.items():
            values = today.get(kind)
            quantiles = {} if values is None else {str(share): values.quantile(share) for share in _QUANTILES}
            trained = constants.get(kind, {})
            known = bool(quantiles) and {"median", "scale"} <= trained.keys()
            drift = (quantiles["0.5"] - trained["median"]) / trained["scale"] if known else None
            yield kind, KindFigures(quantiles, drift, scores)

    def _describe(self, outcome: Outcome, age_s: float) -> SensorFigures:
        contract = self._release.manifest.contract
        kind = contract.kind_of(outcome.sensor)
        stale = self._monitor.trouble(outcome.sensor) == STALE
        return SensorFigures(
            sensor=outcome.sensor,
            kind=kind,
            value=outcome.value if outcome.value is None or math.isfinite(outcome.value) else None,
            unit=contract.kinds[kind].unit if kind else "",
            time=None if outcome.time is None else format_time(outcome.time),
            age_s=age_s,
            status=STALE if stale else outcome.status,
            reason="it fell silent" if stale else outcome.reason,
            score=outcome.score,
            tail_sum=outcome.tail_sum,
            raised=outcome.event,
            limit=self._monitor.limit(outcome.sensor),
        )
