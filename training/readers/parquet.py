"""Parquet: columns time, value and, where there are several sensors, sensor; a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.runtime.readings import REPLACED, BadLine, Replaced, check_sensor_id, parse_time
from axlebox.training.readers.base import ROWS, Batch, Job, Reader, one_line, to_batch

_TIME, _SENSOR, _VALUE = "time", "sensor", "value"
_ALIASES = {"timestamp": _TIME}
_KNOWN = (_TIME, _SENSOR, _VALUE, REPLACED)
_PER_SECOND = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_BUFFER_BYTES = 1024 * 1024
"""Of a column at a time: a row group may be as large as the file."""
MAGIC = b"PAR1"


def _read(job: Job) -> Iterator[Batch]:
    job.format = "parquet"
    try:
        with pq.ParquetFile(
            job.path, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        ) as file:
            columns = _columns(job, file.schema_arrow)
            _say(job, columns, file.schema_arrow)
            job.total = file.metadata.num_rows
            for batch in file.iter_batches(ROWS, columns=list(columns.values()), use_threads=False):
                rows = {name: batch.column(column) for name, column in columns.items()}
                yield _items(job, rows)
                job.done += len(batch)
    except (pa.ArrowException, OSError) as error:  # Arrow calls what it stumbles on in a file either of the two
        raise Malformed(f"{job.name}: not a whole Parquet file, or a damaged one: {one_line(error)}") from error


def _columns(job: Job, schema: pa.Schema) -> dict[str, str]:
    """By our own name the file's. Raises Malformed."""
    found: dict[str, str] = {}
    for name in schema.names:
        known = _ALIASES.get(name.lower(), name.lower())
        if known in found:
            raise Malformed(f"{job.name}: columns {found[known]} and {name} are both {known}, expected one of them")
        if known in _KNOWN:
            found[known] = name
    for needed in (_TIME, _VALUE):
        if needed not in found:
            raise Malformed(
                f"{job.name}: no column {needed} among {', '.join(schema.names)[:200] or 'none'}. "
                "DO: name the columns time, sensor (where there are several) and value"
            )
    kinds = {
        _TIME: (pa.types.is_timestamp, _is_text, pa.types.is_integer, pa.types.is_floating),
        _SENSOR: (_is_text, pa.types.is_integer),
        _VALUE: (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal),
        REPLACED: (pa.types.is_boolean,),
    }
    expected = {_TIME: "a timestamp, text or number", _SENSOR: "text", _VALUE: "a number", REPLACED: "a boolean"}
    for known, name in found.items():
        kind = schema.field(name).type
        if not any(fits(kind) for fits in kinds[known]):
            raise Malformed(f"{job.name}: column {name} is {kind}, expected {expected[known]}")
    return found


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _say(job: Job, columns: Mapping[str, str], schema: pa.Schema) -> None:
    time = schema.field(columns[_TIME]).type
    if pa.types.is_timestamp(time):
        zone = "" if time.tz else " without a zone, so UTC"
        job.guessed.append(f"column {columns[_TIME]}: timestamps in {time.unit}{zone}")
    elif _is_text(time):
        job.guessed.append(f"column {columns[_TIME]}: RFC 3339")
    else:
        job.guessed.append(f"column {columns[_TIME]}: numbers, so POSIX seconds")
    if _SENSOR not in columns:
        job.guessed.append(f"every reading is of sensor {job.default_sensor}")
    others = [name for name in schema.names if name not in columns.values()]
    if others:
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        job.guessed.append(f"not read: columns {shown}")


def _items(job: Job, rows: Mapping[str, pa.Array]) -> Batch:
    bad: dict[int, str] = {}
    times = _times(rows[_TIME], bad)
    sensors = _sensors(rows[_SENSOR], bad) if _SENSOR in rows else [job.default_sensor] * len(times)
    values = pc.cast(rows[_VALUE], pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # null becomes NaN
    items = to_batch(times, sensors, values, job.done + 1, bad)
    if REPLACED in rows:
        for row in np.flatnonzero(rows[REPLACED].fill_null(False).to_numpy(zero_copy_only=False)).tolist():
            item = items[row]
            if isinstance(item, BadLine):
                continue
            if rows[_VALUE][row].is_valid:
                items[row] = BadLine(item.line, "it has a value and says replaced, expected one of the two")
            else:
                items[row] = Replaced(item.time, item.sensor, item.line)
    return items


def _times(column: pa.Array, bad: dict[int, str]) -> NDArray[np.float64]:
    """POSIX seconds; NaN, with the reason in `bad`, where there is none."""
    for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
        bad[row] = "it has no time"
    if pa.types.is_timestamp(column.type):
        counts = pc.cast(column, pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        per_second = _PER_SECOND[column.type.unit]
        if per_second <= 1_000_000:
            return np.asarray(counts / per_second)
        # Float64 holds no count of nanoseconds; microseconds it does, and those are divided as datetime does it.
        return np.asarray((counts // 1000) / 1_000_000 + (counts % 1000) / per_second)
    if _is_text(column.type):
        parsed = [_parsed(text) for text in column.to_pylist()]
        bad.update({row: one for row, one in enumerate(parsed) if isinstance(one, str)} | bad)
        return np.array([np.nan if isinstance(one, str) else one for one in parsed])
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False))


@lru_cache(maxsize=4096)
def _parsed(text: str | None) -> float | str:
    """POSIX seconds, or why there are none."""
    try:
        return parse_time((text or "").strip())
    except (ValueError, OverflowError):
        return f"{(text or '')[:40]!r} is not a time (RFC 3339)"


def _sensors(column: pa.Array, bad: dict[int, str]) -> list[str]:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    names, reasons = [""], {0: "it has no sensor"}
    for number, name in enumerate(column.dictionary.to_pylist(), 1):
        names.append("" if name is None else str(name).strip())
        try:
            names[number] = check_sensor_id(names[number])
        except ValueError as error:
            reasons[number] = str(error) if name is not None else reasons[0]
    codes = column.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    for row in np.flatnonzero(np.isin(codes, list(reasons))).tolist():
        bad.setdefault(row, reasons[int(codes[row])])
    return [names[code] for code in codes.tolist()]


def _recognises(path: Path, head: bytes) -> bool:
    return head.startswith(MAGIC)


PARQUET = Reader("parquet", _read, recognises=_recognises)
