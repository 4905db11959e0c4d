"""CSV and JSON lines, by the vehicle's own reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from axlebox.runtime.lines import LineSplitter
from axlebox.runtime.readings import LineReader, Reading
from axlebox.training.readers.base import Batch, Job, Reader

_CHUNK_BYTES = 256 * 1024
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d(:?\d\d)?)$", re.IGNORECASE)


def _read(job: Job) -> Iterator[Batch]:
    reader, splitter = LineReader(job.default_sensor), LineSplitter()
    job.total = job.path.stat().st_size
    with open(job.path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            job.done += len(chunk)
            yield _batch(job, reader, splitter.feed(chunk))
    if splitter.rest:
        yield _batch(job, reader, [splitter.rest])


def _batch(job: Job, reader: LineReader, lines: Sequence[bytes]) -> Batch:
    before = reader.state.line
    items = reader.read(lines)
    if not job.format and reader.format:
        job.format, job.header = reader.format, reader.has_header
        if reader.columns:
            job.guessed.append(f"columns {','.join(reader.columns)}")
        if "sensor" not in reader.columns and reader.columns:
            job.guessed.append(f"every reading is of sensor {job.default_sensor}")
        first = next((one for one in items if isinstance(one, Reading)), None)
        if first is not None and not _ZONE.search(_time(lines[first.line - before - 1].decode("utf-8-sig"), reader)):
            job.guessed.append("times without a zone are UTC")
    return items


def _time(line: str, reader: LineReader) -> str:
    """The time of a line that was read."""
    if not reader.columns:
        return str(json.loads(line)["time"])
    return line.split(",")[reader.columns.index("time")].strip().strip('"')


TEXT = Reader("text", _read)
