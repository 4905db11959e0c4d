"""The daemon's loop: lines in, outcomes through the Monitor, events out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.runtime.detector import Monitor
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.readings import REPLACED, BadLine, LineReader, Reading, Replaced, format_time
from axlebox.runtime.sinks import Sink
from axlebox.runtime.sources import LineSource
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, OK, STALE, WARMING

_SHOWN_LINES = 5


class Totals(Struct):
    """What a run of the daemon has seen."""

    readings: int = 0
    flags: int = 0
    events: int = 0
    invalid: int = 0
    invalid_lines: list[str] = []
    """The first few invalid lines, each as "number: reason"."""
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
    if more:
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

    def saw(self, items: Sequence[Reading | BadLine | Replaced], outcomes: Sequence[Outcome]) -> None:
        """What came, and what became of each."""

    def noticed(self, events: Sequence[dict[str, Any]]) -> None:
        """Events that no reading caused, but the time that passed without one."""

    def turn(self) -> Change | None:
        """Do what is due; the release that scores from the next reading on, where another one shall."""

    def end(self) -> None:
        """The run ends in order, or by no fault of the release."""


@dataclass(frozen=True, slots=True)
class Change:
    """Another release, with the events of the change."""

    monitor: Monitor
    events: Sequence[dict[str, Any]]


class Daemon:
    """Scores everything a source gives; every whole line that was read is answered before the end."""

    def __init__(
        self, monitor: Monitor, reader: LineReader, sinks: Sequence[Sink], with_readings: bool, watch: Watch
    ) -> None:
        self._monitor = monitor
        self._reader = reader
        self._sinks = sinks
        self._with_readings = with_readings
        self._watch = watch
        self._encode = msgspec.json.Encoder().encode
        self.totals = Totals()

    def run(self, source: LineSource) -> Totals:
        """Until the source ends or a stop is asked for."""
        try:
            for lines in source.batches():
                self.step(lines)
        except AxleboxError:
            self._watch.end()  # a sink that failed is not the release's fault
            raise
        self.totals.cut_bytes = source.cut_bytes
        self._watch.end()
        return self.totals

    def step(self, lines: list[bytes]) -> None:
        """Answer what came, perhaps nothing, then let the Watch have its turn."""
        items = [*self._watch.told(), *self._reader.read(lines)]
        outcomes = self._monitor.process(items)
        out: list[bytes] = []
        for outcome in outcomes:
            self.totals.count(outcome)
            out += [self._encode(event) for event in outcome.events]
            if self._with_readings:
                out.append(self._encode(_reading_line(outcome)))
        late = self._monitor.tick(monotonic())
        self.totals.count_events(late)
        self._write([*out, *map(self._encode, late)])
        self._watch.saw(items, outcomes)
        if late:
            self._watch.noticed(late)
        change = self._watch.turn()
        if change is not None:
            self._monitor = change.monitor
            self._write([self._encode(event) for event in change.events])

    def _write(self, lines: Sequence[bytes]) -> None:
        if lines:
            block = b"\n".join(lines) + b"\n"
            for sink in self._sinks:
                sink.write(block)


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
