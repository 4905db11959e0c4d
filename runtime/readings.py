"""Readings and how lines of text become readings: CSV and JSON lines, on both sides alike."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET, Struct, UnsetType

MAX_LINE_BYTES = 4096
REPLACED = "replaced"
"""The word of a mark: in a CSV line's value column, and as a name in JSON lines."""
_TIME, _SENSOR, _VALUE = "time", "sensor", "value"
_PLAIN_LAYOUTS = {2: (_TIME, _VALUE), 3: (_TIME, _SENSOR, _VALUE)}
_MAX_SENSOR_CHARS = 64
_MOST_KNOWN_IDS = 4096
_ALIASES = {"timestamp": _TIME}
_DATE = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")
# A day inside the years 1 to 9999, so that every time that is read can also be written, in UTC and rounded.
EARLIEST = datetime(1, 1, 2, tzinfo=UTC).timestamp()
LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class Reading(Struct, frozen=True, gc=False):
    time: float
    """POSIX seconds, UTC."""
    sensor: str
    value: float
    """In the unit of the sensor's kind; NaN and infinities may occur and are the gate's business."""
    line: int = 0
    """Number of the line it came from, beginning with 1."""


class Replaced(Struct, frozen=True, gc=False):
    """A mark in the stream: from here on another sensor answers to this id."""

    time: float
    """POSIX seconds, UTC: when it was replaced. It need not lie behind the readings before."""
    sensor: str
    line: int = 0
    """Number of the line it came from, beginning with 1."""


class BadLine(Struct, frozen=True, gc=False):
    """A line that is no reading: it is counted and shown like any other invalid reading."""

    line: int
    reason: str


class ReaderState(Struct, frozen=True):
    """What a LineReader has found out, for one that goes on behind it."""

    format: str | None = None
    """`csv` or `json lines`, once a line has shown it."""
    columns: tuple[str, ...] = ()
    has_header: bool = False
    line: int = 0
    """Lines read."""


class _JsonReading(Struct, frozen=True):
    time: str
    value: float | UnsetType | None = UNSET
    sensor: str | None = None
    replaced: bool = False


def parse_time(text: str) -> float:
    """POSIX seconds of an RFC 3339 time; without a zone it is UTC. Raises ValueError."""
    if not _DATE.match(text):  # fromisoformat also takes 1704067200000 for a day in the year 1704
        raise ValueError(f"{text} is not an RFC 3339 time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp()
    if not EARLIEST <= seconds <= LATEST:
        raise ValueError(f"{text} is at the edge of the calendar")
    return seconds


def format_time(seconds: float) -> str:
    """RFC 3339 text of POSIX seconds, in UTC and to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class LineReader:
    """Turns lines into readings; the first line that says so decides on the format.

    CSV is `time,value` or `time,sensor,value`, with or without a header (which may put the
    columns in another order); JSON lines have the same names. `time,sensor,replaced` and
    `{"time":...,"sensor":...,"replaced":true}` are marks. A line that fits neither the
    format nor its own field types becomes a BadLine, in its place.

    >>> reader = LineReader("temperature")
    >>> reader.read([b"2022-09-10T00:00:46, 108"])
    [Reading(time=1662768046.0, sensor='temperature', value=108.0, line=1)]
    """

    def __init__(self, default_sensor: str, state: ReaderState | None = None) -> None:
        state = state or ReaderState()
        self.format, self.columns, self.has_header, self._line = (
            state.format,
            state.columns,
            state.has_header,
            state.line,
        )
        self._default_sensor = default_sensor
        self._json = msgspec.json.Decoder(_JsonReading)
        self._time_text: str | None = None
        self._moment = math.nan
        """The last time that was read: many sensors report at the same moment."""
        self._known_ids: dict[str, str] = {}

    @property
    def state(self) -> ReaderState:
        return ReaderState(self.format, self.columns, self.has_header, self._line)

    def read(self, lines: Iterable[bytes]) -> list[Reading | BadLine | Replaced]:
        """Readings, marks and bad lines of the next lines, in order; blank lines and a header give nothing."""
        out: list[Reading | BadLine | Replaced] = []
        for raw in lines:
            self._line += 1
            try:
                reading = self._read_line(raw)
            except ValueError as error:
                out.append(BadLine(self._line, str(error)))
                continue
            if reading is not None:
                out.append(reading)
        return out

    def _read_line(self, raw: bytes) -> Reading | Replaced | None:
        if len(raw) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
        try:
            text = raw.decode("utf-8-sig" if self._line == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise ValueError("not text (UTF-8)") from None
        if not text:
            return None
        if self.format is None:
            return self._read_first(text)
        return self._read_csv(text) if self.columns else self._read_json(text)

    def _read_first(self, text: str) -> Reading | Replaced | None:
        """Settle the format by this line, or raise and leave it to a later one."""
        if text.startswith("{"):
            reading = self._read_json(text)
            self.format = "json lines"
            return reading
        cells = [_ALIASES.get(cell.lower(), cell.lower()) for cell in _split(text)]
        if {_TIME, _VALUE} <= set(cells) <= {_TIME, _SENSOR, _VALUE} and len(set(cells)) == len(cells):
            self.format, self.columns, self.has_header = "csv", tuple(cells), True
            return None
        self.columns = _PLAIN_LAYOUTS.get(len(cells), ())
        if not self.columns:
            raise ValueError(f"{_count(cells)}, expected 2 (time,value) or 3 (time,sensor,value)")
        try:
            reading = self._read_csv(text)
        except ValueError:
            self.columns = ()
            raise
        self.format = "csv"
        return reading

    def _read_csv(self, text: str) -> Reading | Replaced:
        cells = _split(text)
        if len(cells) != len(self.columns):
            raise ValueError(f"{_count(cells)}, expected {len(self.columns)} ({','.join(self.columns)})")
        if len(cells) == 3 and not self.has_header:  # the quick ways for the common cases
            time, sensor, value = cells
            sensor = self._sensor(sensor)
        elif len(cells) == 2 and not self.has_header:
            (time, value), sensor = cells, self._default_sensor
        else:
            row = dict(zip(self.columns, cells, strict=True))
            time, value = row[_TIME], row[_VALUE]
            sensor = self._sensor(row[_SENSOR]) if _SENSOR in row else self._default_sensor
        if time == self._time_text:
            moment = self._moment
        else:
            moment = self._moment = _time(time)
            self._time_text = time
        try:
            return Reading(moment, sensor, _number(value), self._line)
        except ValueError:
            if value != REPLACED:  # looked for only here: an ordinary line never pays for it
                raise
            return Replaced(moment, sensor, self._line)

    def _sensor(self, text: str) -> str:
        """The id, always the same object for the same id; raises ValueError where it could not be one."""
        known = self._known_ids.get(text)
        if known is None:
            known = check_sensor_id(text)
            if len(self._known_ids) < _MOST_KNOWN_IDS:  # ids come from outside
                self._known_ids[known] = known
        return known

    def _read_json(self, text: str) -> Reading | Replaced:
        try:
            row = self._json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not a JSON reading: {error}") from None
        sensor = self._default_sensor if row.sensor is None else self._sensor(row.sensor)
        if row.value is UNSET or row.replaced:
            return self._json_mark(row, sensor)
        return Reading(_time(row.time), sensor, float("nan") if row.value is None else row.value, self._line)

    def _json_mark(self, row: _JsonReading, sensor: str) -> Replaced:
        if not row.replaced:
            raise ValueError("not a JSON reading: it has no value")
        if row.value is not UNSET:
            raise ValueError("not a JSON reading: it has a value and says replaced, expected one of the two")
        return Replaced(_time(row.time), sensor, self._line)


def _split(text: str) -> list[str]:
    """The cells of a CSV line, without the spaces around them; a quoted comma is no separator."""
    if '"' in text:
        return [cell.strip() for cell in next(csv.reader([text], skipinitialspace=True))]
    return [cell.strip() for cell in text.split(",")]


def _count(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'' if len(cells) == 1 else 's'}"


def _time(text: str) -> float:
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a time (RFC 3339)") from None


def _number(text: str) -> float:
    """A value; NaN where the cell is empty. float() alone would take 1_0 for 10."""
    if not text:
        return float("nan")
    try:
        if "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None


def check_sensor_id(text: str) -> str:
    """The id, or ValueError where it could not be one."""
    if not text or len(text) > _MAX_SENSOR_CHARS or not text.isprintable():
        raise ValueError(f"{text[:40]!r} is not a sensor id (1 to {_MAX_SENSOR_CHARS} printable characters)")
    return text
