"""Frames of a CAN bus become readings: signals of a DBC file, SAE J1939, answers of OBD-II."""

from __future__ import annotations

import difflib
import logging
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import can
import cantools.database
from can.typechecking import CanFilter

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.runtime.config import CanSettings
from axlebox.runtime.readings import LATEST, BadLine, Reading
from axlebox.runtime.sources import can_obd
from axlebox.runtime.sources.base import Health, Item

_MAX_DBC_BYTES = 16 * 1024 * 1024
_STANDARD, _EXTENDED = 0x7FF, 0x1FFFFFFF
"""All bits of an id of 11 and of 29 bits."""
_PDU1, _PDU2 = 0x03FF0000, 0x03FFFF00
"""The PGN's bits of a J1939 id. Below PF 240 the next byte is a destination (SAE J1939-21)."""
_FIRST_PDU2_FORMAT = 240
_NO_VALUE = 0xFE
"""Of a J1939 parameter's highest byte: 0xFE is an error, 0xFF is not available (SAE J1939-71)."""
_MAX_J1939_BYTES = 8
_FLOATS = {16: ">e", 32: ">f", 64: ">d"}

for _name in ("can", "cantools"):
    # Both log what they also raise; without a handler, Python prints that to stderr at each try to connect.
    logging.getLogger(_name).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Field:
    """Bits of a frame."""

    start: int
    """The first, counted from the frame's beginning: its least significant one where `little_endian`, else its most."""
    length: int
    little_endian: bool

    @classmethod
    def of(cls, signal: cantools.database.Signal) -> Field:
        if signal.byte_order == "little_endian":
            return cls(signal.start, signal.length, True)
        # DBC counts the bits of each byte from the right, also where a value begins at the left.
        return cls(8 * (signal.start // 8) + 7 - signal.start % 8, signal.length, False)

    def raw(self, data: bytes) -> int:
        """Unsigned. Raises ValueError for a frame that ends before."""
        end, bits = self.start + self.length, 8 * len(data)
        if end > bits:
            raise ValueError(f"{len(data)} bytes, expected at least {(end + 7) // 8}")
        if self.little_endian:
            shifted = int.from_bytes(data, "little") >> self.start
        else:
            shifted = int.from_bytes(data, "big") >> (bits - end)
        return shifted & ((1 << self.length) - 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A signal that is some sensor's."""

    sensor: str
    name: str
    """MESSAGE.SIGNAL"""
    field: Field
    signed: bool
    float_format: str | None
    scale: float
    offset: float
    only_if: tuple[tuple[Field, frozenset[int]], ...] = ()
    """Multiplexers, and with which of their values the signal is in the frame."""
    source_address: int | None = None

    def value(self, raw: int) -> float:
        """In the DBC file's unit."""
        if self.float_format:
            (number,) = struct.unpack(self.float_format, raw.to_bytes(self.field.length // 8, "big"))
        elif self.signed and raw >> (self.field.length - 1):
            number = raw - (1 << self.field.length)
        else:
            number = raw
        return float(number * self.scale + self.offset)

    def is_in(self, data: bytes) -> bool:
        return all(field.raw(data) in values for field, values in self.only_if)

    @property
    def has_j1939_states(self) -> bool:
        return self.field.length % 8 == 0 and not self.float_format

    def says_nothing(self, raw: int) -> bool:
        """Whether a J1939 parameter is an error or not available: 1 byte from 0xFE, 2 bytes from 0xFE00 ..."""
        return self.has_j1939_states and raw >> (self.field.length - 8) >= _NO_VALUE


class FrameDecoder:
    """Readings of the signals and PIDs that the settings name; every other frame gives nothing."""

    def __init__(self, settings: CanSettings, health: Health) -> None:
        """Reads the DBC file. Raises UsageError."""
        _check(settings)
        self.not_available: dict[str, int] = dict.fromkeys(settings.signals, 0)
        """By sensor: J1939 values that were error or not available. No readings: cantools makes 215 C of 0xFF."""
        self._j1939 = settings.j1939
        self._answers = can_obd.Answers(settings.obd_pids, health)
        self._asks = bool(settings.obd_pids)
        self._wanted: dict[tuple[bool, int], list[Wanted]] = defaultdict(list)
        self._masks: dict[tuple[bool, int], int] = {}
        database = _load(settings.dbc) if settings.dbc and settings.signals else None
        for sensor, name in settings.signals.items():
            self._want(sensor, name, database, settings.source_addresses.get(sensor))

    def _want(
        self, sensor: str, name: str, database: cantools.database.Database | None, source_address: int | None
    ) -> None:
        message, signal = _find(database, sensor, name)
        if self._j1939:
            _check_j1939(message, f"can.signals.{sensor} = {name!r}")
        only_if = tuple(_multiplexers(message, signal))
        float_format = _FLOATS[signal.length] if signal.is_float else None
        wanted = Wanted(
            sensor, name, Field.of(signal), signal.is_signed, float_format, signal.scale, signal.offset,
            only_if, source_address,
        )  # fmt: skip
        extended = bool(message.is_extended_frame)
        mask = self._mask(message.frame_id, extended)
        key = extended, message.frame_id & mask
        self._wanted[key].append(wanted)
        self._masks[key] = mask

    def _mask(self, frame_id: int, extended: bool) -> int:
        """The bits of an id that tell messages apart."""
        if not extended:
            return _STANDARD
        if not self._j1939:
            return _EXTENDED
        return _PDU1 if frame_id >> 16 & 0xFF < _FIRST_PDU2_FORMAT else _PDU2

    @property
    def filters(self) -> list[CanFilter]:
        """What an interface need not let through is none of these."""
        found: list[CanFilter] = [
            {"can_id": frame_id, "can_mask": mask, "extended": extended}
            for (extended, frame_id), mask in self._masks.items()
        ]
        if self._asks:
            found.append({"can_id": can_obd.FIRST_ANSWER_ID, "can_mask": can_obd.ANSWER_MASK, "extended": False})
        return found

    def read(self, frame: can.Message) -> list[Item]:
        """Readings at the frame's time; what cannot be decoded becomes a BadLine."""
        if frame.is_error_frame or frame.is_remote_frame:
            return []
        items: list[Item] = []
        frame_id, extended = frame.arbitration_id, frame.is_extended_id
        for wanted in self._wanted.get((extended, frame_id & self._mask(frame_id, extended)), ()):
            try:
                value = self._value(wanted, frame)
            except ValueError as error:
                items.append(BadLine(0, f"CAN {wanted.name}: {error}"))
                continue
            if value is not None:
                items.append(_reading(frame, wanted.sensor, value))
        try:
            items += [_reading(frame, sensor, value) for sensor, value in self._answers.read(frame)]
        except ValueError as error:
            items.append(BadLine(0, str(error)))
        return items

    def _value(self, wanted: Wanted, frame: can.Message) -> float | None:
        """None where the frame says nothing about the sensor. Raises ValueError."""
        if wanted.source_address not in (None, frame.arbitration_id & 0xFF):
            return None
        data = bytes(frame.data)
        if not wanted.is_in(data):
            return None
        raw = wanted.field.raw(data)
        if self._j1939 and wanted.says_nothing(raw):
            self.not_available[wanted.sensor] += 1
            return None
        return wanted.value(raw)


def _reading(frame: can.Message, sensor: str, value: float) -> Reading | BadLine:
    if not 0 <= frame.timestamp <= LATEST:  # a recorded log may hold anything, also NaN
        return BadLine(0, f"CAN {sensor}: {frame.timestamp!r} is no time of a frame")
    return Reading(float(frame.timestamp), sensor, value)


def brief(error: Exception) -> str:
    """What a parser says of a file, in one line; it may quote the whole file."""
    return " ".join(str(error).split())[:200]


def nearest(name: str, known: Iterable[str]) -> str:
    """What somebody may have meant."""
    return (difflib.get_close_matches(name, list(known), n=1, cutoff=0) or ["nothing"])[0]


def _check(settings: CanSettings) -> None:
    """Settings that only make sense together. Raises UsageError."""
    if settings.source_addresses and not settings.j1939:
        raise UsageError("can.source_addresses needs can.j1939 = true: other ids have no source address")
    for sensor in settings.source_addresses:
        if sensor not in settings.signals:
            raise UsageError(f"can.source_addresses.{sensor} is none of can.signals")
    for sensor in settings.signals.keys() & settings.obd_pids.keys():
        raise UsageError(f"sensor {sensor} stands in can.signals and in can.obd_pids, expected in one of them")


def _load(path: str) -> cantools.database.Database:
    try:
        text = disk.read_bounded(Path(path), _MAX_DBC_BYTES).decode("cp1252", errors="replace")
    except AxleboxError as error:
        raise UsageError(f"can.dbc: {error}") from error
    try:
        # strict would refuse files with overlapping signals, which makers do ship.
        return cast(cantools.database.Database, cantools.database.load_string(text, "dbc", strict=False))
    except Exception as error:  # a damaged file raises whatever cantools stumbles on
        raise UsageError(f"can.dbc: {path} is no DBC file: {brief(error)}") from error


def _find(
    database: cantools.database.Database | None, sensor: str, name: str
) -> tuple[cantools.database.Message, cantools.database.Signal]:
    """Message and signal of MESSAGE.SIGNAL. Raises UsageError."""
    known = {
        f"{message.name}.{signal.name}": (message, signal)
        for message in (database.messages if database else ())
        for signal in message.signals
    }
    if name not in known:
        raise UsageError(
            f"can.signals.{sensor} = {name!r} is not in the DBC file; did you mean {nearest(name, known)}?"
        )
    return known[name]


def _check_j1939(message: cantools.database.Message, place: str) -> None:
    if not message.is_extended_frame:
        raise UsageError(f"{place}: its id has 11 bits, and with can.j1939 = true expected are 29")
    if message.length > _MAX_J1939_BYTES:
        raise UsageError(
            f"{place}: {message.length} bytes are sent in several frames (J1939 transport protocol), "
            f"and only single frames are read"
        )


def _multiplexers(
    message: cantools.database.Message, signal: cantools.database.Signal
) -> Iterable[tuple[Field, frozenset[int]]]:
    """The outermost first, so that an inner one is looked at only where it is."""
    if signal.multiplexer_signal is None:
        return
    multiplexer = message.get_signal_by_name(signal.multiplexer_signal)
    yield from _multiplexers(message, multiplexer)
    yield Field.of(multiplexer), frozenset(signal.multiplexer_ids or ())
