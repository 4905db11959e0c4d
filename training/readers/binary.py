"""Records of a fixed size, as recorders write them, by a description of their fields."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Label
from axlebox.runtime.readings import BadLine, check_sensor_id
from axlebox.training.readers.base import ROWS, Batch, Job, Reader, to_batch

_ORDERS = {"little": "<", "big": ">"}
_CODES = {
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
Type = Literal[
    "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "bytes", "text"
]
_TIME, _SENSOR, _VALUE = "time", "sensor", "value"


class Field(Struct, frozen=True, forbid_unknown_fields=True):
    """One field of a record. `time`, `sensor` and `value` are read, those of any other name are passed over."""

    name: Label
    type: Type
    size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """Bytes, of `bytes` and `text` only."""
    byte_order: Literal["little", "big"] | None = None
    """Where it is not the record's."""
    scale: float = 1.0
    offset: float = 0.0
    """What is meant is raw * scale + offset: POSIX seconds for `time`, the kind's unit for `value`."""
    missing: int | float | None = None
    """The raw value that says that there is none."""
    names: dict[str, Label] = {}
    """Of `sensor`: sensor ids by raw value. Without it the raw value itself is the id."""
    sensor: Label | None = None
    """Of `value`: whose it is, where a record has one value for each of several sensors."""

    def __post_init__(self) -> None:
        if (self.size is not None) != (self.type in ("bytes", "text")):
            raise ValueError(f"field {self.name}: bytes and text need a size, and nothing else has one")
        if not (math.isfinite(self.offset) and math.isfinite(self.scale) and self.scale):
            raise ValueError(f"field {self.name}: scale {self.scale} and offset {self.offset} are no numbers to use")
        allowed = {_TIME: (), _SENSOR: ("names",), _VALUE: ("missing", "sensor")}
        if self.name in (_TIME, _VALUE) and self.type in ("bytes", "text"):
            raise ValueError(f"field {self.name} is {self.type}, expected a number")
        if self.name == _SENSOR and self.type in ("bytes", "float32", "float64"):
            raise ValueError(f"field sensor is {self.type}, expected a whole number or text")
        if self.name == _SENSOR and (self.scale, self.offset) != (1.0, 0.0):
            raise ValueError("field sensor: a number of a sensor has neither scale nor offset")
        for setting in ("names", "missing", "sensor"):
            if setting not in allowed.get(self.name, ()) and getattr(self, setting) not in ({}, None):
                raise ValueError(f"field {self.name}: {setting} has no meaning here")
        for name in (*self.names.values(), *([self.sensor] if self.sensor is not None else [])):
            check_sensor_id(name)

    def code(self, byte_order: str) -> str:
        """As numpy names it."""
        if self.type == "bytes":
            return f"V{self.size}"
        if self.type == "text":
            return f"S{self.size}"
        return _ORDERS[self.byte_order or byte_order] + _CODES[self.type]


class BinaryFormat(Struct, frozen=True, forbid_unknown_fields=True):
    """What can be said of such files."""

    byte_order: Literal["little", "big"]
    fields: Annotated[tuple[Field, ...], Meta(min_length=1, max_length=256)]
    header_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    """Before the first record."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.fields]
        values = [one for one in self.fields if one.name == _VALUE]
        own = [one.sensor for one in values if one.sensor is not None]
        if names.count(_TIME) != 1 or not values or names.count(_SENSOR) > 1:
            raise ValueError("fields: expected one time, one value or more, and at most one sensor")
        if _SENSOR in names and (len(values) > 1 or own):
            raise ValueError("fields: a record with a field sensor has one value, and that no sensor of its own")
        if len(values) > 1 and len(set(own)) < len(values):
            raise ValueError("fields: each of several values needs a sensor of its own")


class _Record:
    """A description, ready for use."""

    def __init__(self, settings: BinaryFormat) -> None:
        codes = [one.code(settings.byte_order) for one in settings.fields]
        self.dtype = np.dtype([(f"{number}", code) for number, code in enumerate(codes)])
        fields = {f"{number}": one for number, one in enumerate(settings.fields)}
        self._time = next((place, one) for place, one in fields.items() if one.name == _TIME)
        self._sensor = next(((place, one) for place, one in fields.items() if one.name == _SENSOR), None)
        self._values = [(place, one) for place, one in fields.items() if one.name == _VALUE]
        self.missing = 0
        """Values that said that there is none."""

    def items(self, rows: NDArray[np.void], first: int, default_sensor: str) -> Batch:
        place, field = self._time
        times = _meant(rows[place], field)
        bad: dict[int, str] = {}
        sensors = None if self._sensor is None else _sensor_ids(rows[self._sensor[0]], self._sensor[1], bad)
        found: list[Batch] = []
        absent = np.zeros((len(rows), len(self._values)), dtype=np.bool_)
        for number, (place, field) in enumerate(self._values):
            names = sensors or [field.sensor or default_sensor] * len(rows)
            found.append(to_batch(times, names, _meant(rows[place], field), first, bad))
            if field.missing is not None:
                absent[:, number] = rows[place] == field.missing
        items = found[0] if len(found) == 1 else list(chain.from_iterable(zip(*found, strict=True)))
        if len(found) > 1:  # a record without a time is one bad line
            items = [one for at, one in enumerate(items) if not isinstance(one, BadLine) or at % len(found) == 0]
        if not absent.any():
            return items
        return self._without(items, absent, first)

    def _without(self, items: Batch, absent: NDArray[np.bool_], first: int) -> Batch:
        """The items without those values; what is bad of a record stays."""
        kept: Batch = []
        column = 0
        before = 0
        for item in items:
            column = column + 1 if item.line == before else 0
            before = item.line
            if isinstance(item, BadLine) or not absent[item.line - first, column]:
                kept.append(item)
        self.missing += len(items) - len(kept)
        return kept


def _meant(raw: NDArray[np.void], field: Field) -> NDArray[np.float64]:
    """raw * scale + offset, as exactly as people mean it: with a scale of 0.001, raw / 1000."""
    numbers = raw.astype(np.float64)
    whole = round(1 / field.scale)
    if whole and 1 / whole == field.scale and float(field.offset * whole).is_integer():
        return np.asarray((numbers + field.offset * whole) / whole)
    return np.asarray(numbers * field.scale + field.offset)


def _sensor_ids(raw: NDArray[np.void], field: Field, bad: dict[int, str]) -> list[str]:
    distinct, codes = np.unique(raw, return_inverse=True)
    names: list[str] = []
    for number, one in enumerate(distinct.tolist()):
        text = one.decode("utf-8", "replace").strip() if isinstance(one, bytes) else str(one)
        try:
            if field.names and text not in field.names:
                raise ValueError(f"sensor {text[:40]!r} is none of the names of field sensor")
            names.append(check_sensor_id(field.names.get(text, text)))
        except ValueError as error:
            names.append("")
            bad.update(dict.fromkeys(np.flatnonzero(codes == number).tolist(), str(error)))
    return [names[code] for code in codes.tolist()]


def _read(job: Job) -> Iterator[Batch]:
    settings: BinaryFormat = job.settings
    record = _Record(settings)
    size, job.total = record.dtype.itemsize, job.path.stat().st_size
    job.format = f"binary, {size} bytes a record"
    if job.total < settings.header_bytes:
        raise Malformed(f"{job.name}: {job.total} bytes, expected a header of {settings.header_bytes} bytes first")
    with open(job.path, "rb") as file:
        file.seek(settings.header_bytes)
        number, job.done = 1, settings.header_bytes
        while chunk := file.read(max(1, ROWS // len(settings.fields)) * size):
            whole, rest = divmod(len(chunk), size)
            yield record.items(np.frombuffer(chunk, dtype=record.dtype, count=whole), number, job.default_sensor)
            number += whole
            job.done += len(chunk)
            if rest:
                yield [BadLine(number, f"{rest} bytes, expected a record of {size}: the file was cut")]
    if record.missing:
        job.guessed.append(f"{record.missing} values missing, so no readings")


BINARY = Reader("binary", _read, settings=BinaryFormat)
