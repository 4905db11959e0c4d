"""A block of the ring: readings and marks in their order of arrival, small, and exact to the bit.

A number is kept as a whole number of a decimal unit (microseconds of time, tenths of a degree)
where that gives back the very same float64; the others ("odd" ones: NaN, -0.0, unrounded values)
keep their 64 bits. Differences of neighbours go into byte planes, and those through zlib. Values
are neighbours of the same sensor, times of the whole stream: sensors that are scanned together
share their times. docs/decisions/0009-store.md has the figures.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from operator import attrgetter

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import BoxDamaged
from axlebox.runtime.readings import Reading, Replaced

Item = Reading | Replaced
_Whole = NDArray[np.int64]

_TIME_UNITS = (1_000_000,)
_VALUE_UNITS = (1, 10, 100, 1000)
_LARGEST_WHOLE = 2.0**53
"""Up to here a float64 holds every whole number, so that a quotient is rounded once only."""

_time, _sensor = attrgetter("time"), attrgetter("sensor")


class _Column(Struct, frozen=True, array_like=True):
    """Float64 numbers."""

    unit: int
    """So many make 1."""
    first: int
    step: int
    """What all differences are multiples of."""
    differences: bytes
    odd: bytes
    """One bit for each number, set where it is kept by its 64 bits; empty if none is."""
    odd_bits: bytes


class _Block(Struct, frozen=True, array_like=True):
    items: int
    sensors: bytes
    """Their ids, as a compressed JSON list."""
    order: bytes
    """For each item its sensor's place in `sensors`, as the difference to the item before."""
    times: _Column
    values: _Column
    """Sorted by sensor; a mark's value is NaN."""
    marks: list[int]
    """Places of the items that are marks."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Block).decode


def encode(items: Sequence[Item]) -> bytes:
    """At least one reading or mark as a block. Lines (`line`) are not kept."""
    places: dict[str, int] = {}
    order = np.array([places.setdefault(name, len(places)) for name in map(_sensor, items)], dtype=np.int64)
    marks = [place for place, item in enumerate(items) if isinstance(item, Replaced)]
    times = np.fromiter(map(_time, items), dtype=np.float64, count=len(items))
    values = np.array([np.nan if isinstance(item, Replaced) else item.value for item in items], dtype=np.float64)
    block = _Block(
        items=len(items),
        sensors=zlib.compress(msgspec.json.encode(list(places))),
        order=_pack(np.diff(order, prepend=0), zlib.Z_DEFAULT_STRATEGY),
        times=_to_column(times, _TIME_UNITS, zlib.Z_DEFAULT_STRATEGY),
        # Noise has no long matches to search for: Z_RLE is smaller there, and several times as fast.
        values=_to_column(values[np.argsort(order, kind="stable")], _VALUE_UNITS, zlib.Z_RLE),
        marks=marks,
    )
    body = _encode(block)
    return zlib.crc32(body).to_bytes(4, "little") + body


def decode(data: bytes) -> list[Item]:
    """The items of a block. Raises BoxDamaged."""
    body = memoryview(data)[4:]
    if zlib.crc32(body).to_bytes(4, "little") != data[:4]:
        raise BoxDamaged("a block of readings in store.db is damaged")
    block = _decode(body)
    order = np.cumsum(_unpack(block.order))
    values = np.empty(block.items)
    values[np.argsort(order, kind="stable")] = _from_column(block.values, block.items)
    times = _from_column(block.times, block.items).tolist()
    sensors = msgspec.json.decode(zlib.decompress(block.sensors), type=list[str])
    names = map(sensors.__getitem__, order.tolist())
    items: list[Item] = list(map(Reading, times, names, values.tolist()))
    for place in block.marks:
        items[place] = Replaced(items[place].time, items[place].sensor)
    return items


def _to_column(numbers: NDArray[np.float64], units: Sequence[int], strategy: int) -> _Column:
    """Numbers in that unit which leaves the fewest odd ones, the coarsest of several."""
    unit, whole, odd = _in_best_unit(numbers, units)
    whole = whole[~odd]
    first = int(whole[0]) if len(whole) else 0
    differences = np.diff(whole, prepend=first)
    step = int(np.gcd.reduce(differences)) or 1
    bits = numbers[odd].view(np.int64)
    return _Column(
        unit=unit,
        first=first,
        step=step,
        differences=_pack(differences // step, strategy),
        odd=zlib.compress(np.packbits(odd).tobytes(), 1) if odd.any() else b"",
        odd_bits=_pack(np.diff(bits, prepend=0), strategy) if odd.any() else b"",
    )


def _in_best_unit(numbers: NDArray[np.float64], units: Sequence[int]) -> tuple[int, _Whole, NDArray[np.bool_]]:
    best = (units[0], *_in_unit(numbers, units[0]))
    for unit in units[1:]:
        if not best[2].any():
            break
        whole, odd = _in_unit(numbers, unit)
        if np.count_nonzero(odd) < np.count_nonzero(best[2]):
            best = (unit, whole, odd)
    return best


def _in_unit(numbers: NDArray[np.float64], unit: int) -> tuple[_Whole, NDArray[np.bool_]]:
    """Numbers as whole ones of a unit, and which of them would not come back to the bit."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(numbers * unit)
    possible = np.abs(scaled) <= _LARGEST_WHOLE  # False for NaN
    whole = np.where(possible, scaled, 0).astype(np.int64)
    return whole, ~possible | ((whole / unit).view(np.int64) != numbers.view(np.int64))


def _from_column(column: _Column, count: int) -> NDArray[np.float64]:
    odd = np.zeros(count, dtype=bool)
    if column.odd:
        odd = np.unpackbits(np.frombuffer(zlib.decompress(column.odd), np.uint8), count=count).astype(bool)
    numbers = np.empty(count)
    numbers[~odd] = (np.cumsum(_unpack(column.differences)) * column.step + column.first) / column.unit
    if column.odd:
        numbers[odd] = np.cumsum(_unpack(column.odd_bits)).view(np.float64)
    return numbers


def _pack(numbers: _Whole, strategy: int) -> bytes:
    """Whole numbers, small ones best: sign in the lowest bit, then all first bytes, all second bytes...

    The first byte of what is compressed is the width.
    """
    folded = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    largest = int(folded.max()) if len(folded) else 0
    width = next(width for width in (1, 2, 4, 8) if largest < 1 << 8 * width)
    planes = folded.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return packer.compress(bytes([width]) + planes.tobytes()) + packer.flush()


def _unpack(data: bytes) -> _Whole:
    raw = zlib.decompress(data)
    width = raw[0]
    planes = np.frombuffer(raw, np.uint8, offset=1).reshape(width, -1)
    folded = np.ascontiguousarray(planes.T).view(f"<u{width}").ravel().astype(np.uint64)
    numbers: _Whole = (folded >> np.uint64(1)).view(np.int64) ^ -(folded & np.uint64(1)).view(np.int64)
    return numbers
