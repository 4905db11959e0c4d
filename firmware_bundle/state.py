"""The installation record: which slot runs, which is on trial, and how far back one may go.

Every change is a plain function of the record, and becomes real by one `write_state`. Two files
take turns, each guarded by a CRC: a write that a power cut tears leaves the other one, and the
newest valid one counts.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import BoxDamaged, Malformed
from axlebox.firmware_bundle.manifest import Count, Sha256, decode

TRIES = 3
"""Early deaths of the daemon alone that a release on trial survives, less one: the third drops it."""
OUTAGES = 20
"""Early ends together with the whole box: ignition cycles as a rule, so that many are forgiven."""
_MAX_STATE_BYTES = 4096
_CRC_DIGITS = 8


class State(Struct, frozen=True, forbid_unknown_fields=True):
    generation: Count = 0
    active: Sha256 | None = None
    previous: Sha256 | None = None
    trial: Sha256 | None = None
    tries: Annotated[int, Meta(ge=0, le=TRIES)] = 0
    """Early deaths that drop the release on trial."""
    outages: Annotated[int, Meta(ge=0, le=OUTAGES)] = 0
    """The same, where the box went down with it."""
    started: Annotated[str, Meta(max_length=64)] | None = None
    """Boot id of a start of the release on trial that has not lived long enough yet."""
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
        """The slot that a start would open first."""
        return self.trial or self.active

    def slots(self) -> list[str]:
        """The slots that are referred to, in the order in which a start tries them."""
        return [slot for slot in (self.trial, self.active, self.previous) if slot is not None]

    def on_trial(self, digest: str) -> State:
        """A release put on trial, with all its tries, in the place of one that may be there.

        Where nothing was ever confirmed, the one that it replaces is what a fallback goes to.
        """
        kept = self.previous if self.active is not None or self.trial in (None, digest) else self.trial
        return self._without_trial(trial=digest, tries=TRIES, outages=OUTAGES, previous=kept)

    def judged(self, boot: str) -> State:
        """What it means that the last start of the release on trial is still called a young one.

        In the same boot the daemon died early: a try is spent. In another boot the whole box went
        down, which is what ignition cycles look like. Without a try left the trial is over.
        """
        if self.trial is None or self.started is None:
            return self
        tries, outages = (self.tries - 1, self.outages) if self.started == boot else (self.tries, self.outages - 1)
        if min(tries, outages) <= 0:
            return self.without(self.trial)
        return msgspec.structs.replace(self, tries=tries, outages=outages, started=None)

    def young(self, boot: str) -> State:
        """The release on trial is being started."""
        return msgspec.structs.replace(self, started=boot)

    def grown(self) -> State:
        """The start of the release on trial lived: all tries come back."""
        return msgspec.structs.replace(self, tries=TRIES, outages=OUTAGES, started=None)

    def without(self, digest: str) -> State:
        """A slot that cannot run is given up, and the next in order takes its place."""
        if digest == self.trial:
            return self._without_trial()._moved_up()
        if digest == self.active:
            return msgspec.structs.replace(self, active=None)._moved_up()
        return msgspec.structs.replace(self, previous=None) if digest == self.previous else self

    def confirmed(self, version: int, min_sequence: int, root: int, released: datetime) -> State:
        """The release on trial becomes the active one, and only here do the floors rise."""
        return self._without_trial(
            active=self.trial,
            previous=self.active or self.previous,
            floor=max(self.floor, version),
            min_sequence=max(self.min_sequence, min_sequence),
            root=root,
            time_floor=max(self.time_floor, released) if self.time_floor else released,
        )

    def fallen_back(self) -> State | None:
        """Back from trial to active, or from active to previous; None where there is no other slot."""
        if self.trial is not None and self.active is not None:
            return self._without_trial()
        if self.previous is None:
            return None
        return self._without_trial(active=self.previous, previous=self.active)

    def _moved_up(self) -> State:
        """The previous release in the place of an active one that is not there."""
        if self.active is not None:
            return self
        return msgspec.structs.replace(self, active=self.previous, previous=None)

    def _without_trial(self, **changes: object) -> State:
        return msgspec.structs.replace(self, **{"trial": None, "tries": 0, "outages": 0, "started": None, **changes})


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
        raise BoxDamaged(f"{data}: no state file is readable, and nothing can start. DO: axleboxd install")
    return max(found, key=lambda state: state.generation, default=State())


def write_state(data: Path, state: State) -> State:
    """Make a state the current one, durably: the commit point of every change. Returns it."""
    following = msgspec.structs.replace(state, generation=state.generation + 1)
    disk.replace_durable(_files(data)[following.generation % 2], _encode(following))
    return following


def state_signature(data: Path) -> tuple[tuple[int, int] | None, ...]:
    """Something that changes with every `write_state`, cheap enough to look at twice a second."""
    return tuple(_inode(path) for path in _files(data))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


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
