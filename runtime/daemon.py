"""The daemon's loop: readings in, outcomes through the Monitor, events out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from axlebox.runtime.detector import Monitor
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.readings import REPLACED, Replaced, format_time
from axlebox.runtime.sinks.base import Gone, Message, Outlet
from axlebox.runtime.sources.base import Item, Source
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, OK, STALE, WARMING

_SHOWN_LINES = 5


class Totals(Struct):
    """What a run of the daemon has seen."""

    readings: int = 0
    flags: int = 0
    events: int = 0
    invalid: int = 0
    invalid_lines: list[str] = []
    """The first few invalid lines, each as "number: reason"; empty where the log has said them already."""
    held_back: dict[str, int] = {}
    """Readings that were no readings of a temperature, by status: invalid ones are counted above."""
    stale: int = 0
    """How often a sensor fell silent."""
    limits: int = 0
    """Limit events raised, and hot-or-sensor events."""
    unserved: int = 0
    """Good readings of a kind that the release has no detector for."""
    drifts: int = 0
    """How often what is learnt of a sensor reached its bound."""
    replaced: int = 0
    """Marks, which are no readings."""
    cut_bytes: int = 0
    lost: list[str] = []
    """What sinks did not take, in words."""
    restored: int = 0
    """Sensors that were known from before."""

    def count(self, outcome: Outcome) -> None:
        if outcome.status == REPLACED:
            self.replaced += 1
            return
        self.readings += 1
        self.flags += outcome.flag
        self.count_events(outcome.events)
        if outcome.status == INVALID:
            self.invalid += 1
            if len(self.invalid_lines) < _SHOWN_LINES:
                self.invalid_lines.append(f"{outcome.line}: {outcome.reason}")
        elif outcome.status in (OK, WARMING):
            self.unserved += outcome.score is None
        else:
            self.held_back[outcome.status] = self.held_back.get(outcome.status, 0) + 1

    def count_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            what = event["type"], event["state"]
            self.events += what == ("anomaly", "raised")
            self.limits += what in (("limit", "raised"), ("sensor", HOT_OR_SENSOR))
            self.stale += what == ("sensor", STALE)
            self.drifts += what == ("drift", "raised")


def summary(totals: Totals) -> list[str]:
    """Totals in lines for people."""
    lines = [f"{totals.readings} readings, {totals.flags} flagged, {totals.events} events, {totals.invalid} invalid"]
    lines += [f"  invalid line {line}" for line in totals.invalid_lines]
    more = totals.invalid - len(totals.invalid_lines)
    if more and totals.invalid_lines:
        lines.append(f"  and {more} more")
    if totals.held_back:
        words = ", ".join(f"{count} {status}" for status, count in sorted(totals.held_back.items()))
        lines.append(f"  held back: {words}")
    if totals.limits:
        lines.append(f"  {totals.limits} limit event{'' if totals.limits == 1 else 's'}")
    if totals.unserved:
        lines.append(f"  {totals.unserved} of kinds without a detector: the contract's checks and limits alone apply")
    if totals.drifts:
        lines.append(f"  what is learnt of a sensor reached its bound {_times(totals.drifts)}: docs/detection.md")
    if totals.stale:
        lines.append(f"  sensors fell silent {_times(totals.stale)}")
    if totals.replaced:
        lines.append(f"  {totals.replaced} sensor{'' if totals.replaced == 1 else 's'} replaced")
    if totals.cut_bytes:
        lines.append(f"  the last line had not ended when the stop came: its {totals.cut_bytes} bytes are not scored")
    return lines


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class Watch(Protocol):
    """What goes on around the scoring: between two batches it is told what was seen, and may change the release."""

    def told(self) -> list[Replaced]:
        """What a person said since it was last asked."""

    def clock_trusted(self) -> bool:
        """Whether the box's clock can be right."""

    def saw(self, items: Sequence[Item], outcomes: Sequence[Outcome], began: float) -> None:
        """What came, and what became of each; when that began, in seconds of the monotonic clock."""

    def noticed(self, events: Sequence[dict[str, Any]], counted: bool = True) -> None:
        """Events that no reading caused, but the time that passed without one, or another release."""

    def turn(self) -> Change | None:
        """Do what is due; events of it, and the release that scores from the next reading on, where another shall."""

    def end(self) -> None:
        """The run ends in order, or by no fault of the release."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a turn brought."""

    events: Sequence[dict[str, Any]]
    monitor: Monitor | None = None
    """Of another release,"""
    handed_over: Sequence[dict[str, Any]] = ()
    """with what of the old one's events it goes on with, or ends: told, and no news to be counted."""


class Daemon:
    """Scores everything a source gives; everything that was read is answered before the end."""

    def __init__(self, monitor: Monitor, watch: Watch, with_readings: bool = False) -> None:
        self._monitor = monitor
        self._watch = watch
        self._encode = msgspec.json.Encoder().encode
        self.with_readings = with_readings
        """Sinks get a line for every reading too."""
        self.outlets: Sequence[Outlet] = ()
        self.totals = Totals()

    def run(self, source: Source, asked: Callable[[], bool] = bool) -> None:
        """Until the source ends or stops because something else is `asked`."""
        for items in source.batches():
            self.step(items, source.patience_s, asked)
        self.totals.cut_bytes = source.cut_bytes

    def step(self, arrived: Sequence[Item], patience_s: float = 0.0, asked: Callable[[], bool] = bool) -> None:
        """Answer what came, perhaps nothing, then let the Watch have its turn."""
        began = monotonic()
        items = [*self._watch.told(), *arrived]
        outcomes = self._monitor.process(items)
        messages: list[Message] = []
        for outcome in outcomes:
            self.totals.count(outcome)
            if outcome.events:
                outcome.events = tuple(self._stamped(outcome.events))
                messages += map(self._message, outcome.events)
            if self.with_readings:
                messages.append(Message(self._encode(_reading_line(outcome))))
        late = list(self._stamped(self._monitor.tick(began)))
        self.totals.count_events(late)
        self._put([*messages, *map(self._message, late)], patience_s, asked)
        self._watch.saw(items, outcomes, began)
        if late:
            self._watch.noticed(late)
        change = self._watch.turn()
        if change is not None:
            self._monitor = change.monitor or self._monitor
            events, handed_over = list(self._stamped(change.events)), list(self._stamped(change.handed_over))
            self._watch.noticed(events)
            self._watch.noticed(handed_over, counted=False)
            self._put(list(map(self._message, [*events, *handed_over])), patience_s, asked)

    def _stamped(self, events: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Events that say whether the box's clock, by which some readings are stamped, can be right."""
        if events:
            trusted = self._watch.clock_trusted()
            for event in events:
                yield {**event, "clock_trusted": trusted}

    def _message(self, event: Mapping[str, Any]) -> Message:
        return Message(self._encode(event), event)

    def _put(self, messages: Sequence[Message], patience_s: float, asked: Callable[[], bool]) -> None:
        for outlet in self.outlets:
            if messages:
                outlet.put(messages, patience_s, asked)
            if outlet.gone:
                raise Gone(outlet.error or f"sink {outlet.uri} is gone")
        if messages:
            sleep(0)  # the sinks' threads go first: somebody waits for these, and for nothing that follows


def _reading_line(outcome: Outcome) -> dict[str, object]:
    line: dict[str, object] = {
        "type": "reading",
        "time": None if outcome.time is None else format_time(outcome.time),
        "sensor": None if outcome.sensor == NO_SENSOR else outcome.sensor,
        "value": outcome.value,
        "status": outcome.status,
        "score": outcome.score,
        "flag": outcome.flag,
        "event": outcome.event,
    }
    if outcome.reason:
        line |= {"line": outcome.line, "reason": outcome.reason}
    return line
