"""The daemon's loop: lines in, outcomes through the Monitor, events out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.runtime.detector import INVALID, NO_SENSOR, Monitor, Outcome
from axlebox.runtime.readings import REPLACED, LineReader, format_time
from axlebox.runtime.sinks import Sink
from axlebox.runtime.sources import LineSource

HEALTHY_AFTER_S = 60.0
"""A start that lives this long did not die early."""

_SHOWN_LINES = 5


class Totals(Struct):
    """What a run of the daemon has seen."""

    readings: int = 0
    flags: int = 0
    events: int = 0
    invalid: int = 0
    invalid_lines: list[str] = []
    """The first few invalid lines, each as "number: reason"."""
    replaced: int = 0
    """Marks, which are no readings."""
    cut_bytes: int = 0

    def count(self, outcome: Outcome) -> None:
        if outcome.status == REPLACED:
            self.replaced += 1
            return
        self.readings += 1
        self.flags += outcome.flag
        self.events += sum(event["type"] == "anomaly" and event["state"] == "raised" for event in outcome.events)
        if outcome.status == INVALID:
            self.invalid += 1
            if len(self.invalid_lines) < _SHOWN_LINES:
                self.invalid_lines.append(f"{outcome.line}: {outcome.reason}")


def summary(totals: Totals) -> list[str]:
    """Totals in lines for people."""
    lines = [f"{totals.readings} readings, {totals.flags} flagged, {totals.events} events, {totals.invalid} invalid"]
    lines += [f"  invalid line {line}" for line in totals.invalid_lines]
    more = totals.invalid - len(totals.invalid_lines)
    if more:
        lines.append(f"  and {more} more")
    if totals.replaced:
        lines.append(f"  {totals.replaced} sensor{'' if totals.replaced == 1 else 's'} replaced")
    if totals.cut_bytes:
        lines.append(f"  the last line had not ended when the stop came: its {totals.cut_bytes} bytes are not scored")
    return lines


class Daemon:
    """Scores everything a source gives; every whole line that was read is answered before the end."""

    def __init__(
        self,
        monitor: Monitor,
        reader: LineReader,
        sinks: Sequence[Sink],
        with_readings: bool,
        healthy: Callable[[], bool],
    ) -> None:
        """`healthy` is told that this start has lived for HEALTHY_AFTER_S or ended in order, until it returns True."""
        self._monitor = monitor
        self._reader = reader
        self._sinks = sinks
        self._with_readings = with_readings
        self._healthy: Callable[[], bool] | None = healthy
        self._encode = msgspec.json.Encoder().encode
        self.totals = Totals()

    def run(self, source: LineSource) -> Totals:
        """Until the source ends or a stop is asked for."""
        report_at = monotonic() + HEALTHY_AFTER_S
        try:
            for lines in source.batches():
                self._handle(lines)
                if monotonic() >= report_at:
                    self._report_healthy()
                    report_at = monotonic() + HEALTHY_AFTER_S
        except AxleboxError:
            self._report_healthy()  # a sink that failed is not the release's fault
            raise
        self.totals.cut_bytes = source.cut_bytes
        self._report_healthy()
        return self.totals

    def _report_healthy(self) -> None:
        if self._healthy is not None and self._healthy():
            self._healthy = None

    def _handle(self, lines: list[bytes]) -> None:
        out: list[bytes] = []
        for outcome in self._monitor.process(self._reader.read(lines)):
            self.totals.count(outcome)
            out += [self._encode(event) for event in outcome.events]
            if self._with_readings:
                out.append(self._encode(_reading_line(outcome)))
        if out:
            block = b"\n".join(out) + b"\n"
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
