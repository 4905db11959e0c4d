"""The detectors' state on disk: detector.state in the data folder, written whole or not at all.

It is written rarely, since flash wears: what came after it is in the store's ring, and is replayed.
A snapshot of another release or runtime, a damaged one, or none, is no failure: then the state is
built from the ring alone.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, BoxDamaged
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.vehicle import DETECTOR_STATE as NAME
from axlebox.runtime import stored
from axlebox.runtime.detector import Monitor, monitor_release
from axlebox.runtime.remembering import State
from axlebox.runtime.ring import Item
from axlebox.runtime.sources.base import Position
from axlebox.runtime.version import VERSION

MAX_BYTES = 64 * 1024 * 1024
MAX_REPLAYED = 500_000
"""Readings of the ring, a few seconds: the more, the more is learnt of every sensor."""
SPARE = 64
"""Readings of each sensor that a release which takes over from a running one is shown beyond its warm-up."""
_CHUNK = 4096
_Number = Annotated[int, Meta(ge=0, le=2**53)]
"""Far beyond all that are ever counted, and small enough for SQLite."""


class Snapshot(Struct, frozen=True):
    digest: str
    """Of the release that the state belongs to."""
    taken: _Number
    """Number of the last item that is in it (Store.taken)."""
    since_session: _Number
    """Where the ring's readings begin to belong to it."""
    position: Position | None
    """How far the source had been read."""
    state: State
    """Monitor.state."""
    runtime: str = VERSION


def encode(snapshot: Snapshot) -> bytes:
    body = zlib.compress(msgspec.msgpack.encode(snapshot), 1)
    return zlib.crc32(body).to_bytes(4, "little") + body


def read(data: Path) -> Snapshot | None:
    """None where there is none. Raises AxleboxError where it is no snapshot of this runtime."""
    path = data / NAME
    if not path.exists():
        return None
    raw = disk.read_bounded(path, MAX_BYTES)
    body = memoryview(raw)[4:]
    if zlib.crc32(body).to_bytes(4, "little") != raw[:4]:
        raise BoxDamaged(f"{NAME} is damaged")
    try:
        packer = zlib.decompressobj()
        plain = packer.decompress(body, MAX_BYTES)
        snapshot = msgspec.msgpack.decode(plain, type=Snapshot)
    except (zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise BoxDamaged(f"{NAME} is damaged: {error}") from error
    if snapshot.runtime != VERSION:
        raise AxleboxError(f"{NAME} is of runtime {snapshot.runtime}, this is {VERSION}")
    return snapshot


class Revived(Struct):
    """A monitor with the state that a vehicle's daemon had."""

    monitor: Monitor
    position: Position | None = None
    """Where its source is to go on."""
    taken: int = 0
    since_session: int = 0
    replayed: int = 0
    """Readings and marks of the ring that were replayed."""
    from_snapshot: bool = False


def revive(data: Path, release: Release, say: Callable[[str], None]) -> Revived:
    """The state that the release has on this vehicle: the snapshot's and what came after it, else the ring's."""
    found = _restored(data, release, say) or Revived(monitor_release(release))
    try:
        after = max(found.taken, stored.before_the_last(data, MAX_REPLAYED))
        for number, items in stored.blocks(data, found.since_session, after):
            replay(found.monitor, items, _CHUNK)
            found.replayed += len(items)
            found.taken = number
        if found.replayed and (position := stored.position(data)) is not None:
            with contextlib.suppress(msgspec.DecodeError):
                found.position = msgspec.msgpack.decode(position, type=Position)
    except AxleboxError as error:
        say(f"{error}; what can be read of it is used")
    return found


def _restored(data: Path, release: Release, say: Callable[[str], None]) -> Revived | None:
    try:
        snapshot = read(data)
        if snapshot is None or snapshot.digest != release.digest:
            return None
        monitor = monitor_release(release)
        monitor.restore(snapshot.state)
        monitor.state()  # values of another shape show here, not with the first reading
    except AxleboxError as error:
        say(f"{error}; the state is built from recent readings")
        return None
    except (LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RecursionError) as error:
        say(f"{NAME} does not fit: {type(error).__name__}; the state is built from recent readings")
        return None
    return Revived(monitor, snapshot.position, snapshot.taken, snapshot.since_session, from_snapshot=True)


def readings_to_warm_up(release: Release, sensors: int) -> int:
    warmup = max(detector.warmup for detector in release.manifest.detectors)
    return min((warmup + SPARE) * sensors, MAX_REPLAYED)


def replay(monitor: Monitor, items: list[Item], at_once: int) -> None:
    """Bring a monitor behind items that were scored before; what it says of them was said then."""
    for start in range(0, len(items), at_once):
        monitor.process(items[start : start + at_once])
