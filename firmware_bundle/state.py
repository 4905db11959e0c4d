"""The installation record: which slot runs, which is on trial, and how far back one may go.

Two files take turns, each guarded by a CRC: a write that a power cut tears leaves the other one,
and the newest valid one counts.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Damaged, Malformed
from axlebox.firmware_bundle.manifest import Count, Sha256, decode

TRIES = 3
_MAX_STATE_BYTES = 4096
_CRC_DIGITS = 8


class State(Struct, frozen=True, forbid_unknown_fields=True):
    generation: Count = 0
    active: Sha256 | None = None
    previous: Sha256 | None = None
    trial: Sha256 | None = None
    tries: Annotated[int, Meta(ge=0, le=TRIES)] = 0
    """Starts that the release on trial still has."""
    floor: Count = 0
    """Lowest version that may be installed; rises only when a release is confirmed."""
    min_sequence: Count = 0
    """Lowest version that may run at all, as the confirmed releases demanded."""
    root: Count = 0
    """Version of the trusted root."""
    time_floor: datetime | None = None
    """Latest signed time seen: it is surely past."""

    @property
    def running(self) -> str | None:
        """The slot that a start would open: the one on trial while it has tries."""
        return self.trial if self.trial is not None and self.tries > 0 else self.active

    def slots(self) -> set[str]:
        return {slot for slot in (self.active, self.previous, self.trial) if slot is not None}


def read_state(data: Path) -> State:
    """The newest valid state of a data folder; the empty one where nothing was installed yet."""
    found = []
    present = [path for path in _files(data) if path.exists()]
    for path in present:
        try:
            found.append(_decode(disk.read_bounded(path, _MAX_STATE_BYTES)))
        except Malformed:
            continue  # torn by a power cut; the other file counts
    if present and not found:
        raise Damaged(f"{data}: no state file is readable. DO: move it away, then provision and install")
    return max(found, key=lambda state: state.generation, default=State())


def write_state(data: Path, state: State) -> State:
    """Make a state the current one, durably: the commit point of every change. Returns it."""
    following = msgspec.structs.replace(state, generation=state.generation + 1)
    disk.replace_durable(_files(data)[following.generation % 2], _encode(following))
    return following


def _files(data: Path) -> tuple[Path, Path]:
    return data / "state.0", data / "state.1"


def _encode(state: State) -> bytes:
    text = msgspec.json.encode(state)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(data: bytes) -> State:
    text = data[_CRC_DIGITS + 1 : -1]
    if data != b"%08x %s\n" % (zlib.crc32(text), text):
        raise Malformed("the state file's CRC is wrong")
    return decode(text, State, "state")
