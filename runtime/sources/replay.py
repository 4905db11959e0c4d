"""Readings from a descriptor that is open already: stdin, or a file that is replayed to its end."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.lines import CHUNK_BYTES
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import IDLE_S, Health, Intake, Item, Position, open_kind

HEAD_BYTES = 1024
PIPE_PATIENCE_S = 5.0
"""A pipe carries the wait on to whoever writes to it, who may bear so much."""


def head_of(handle: int, offset: int) -> str:
    """sha256 of a regular file's first bytes, of no more than were read."""
    return hashlib.sha256(os.pread(handle, min(offset, HEAD_BYTES), 0)).hexdigest()


def is_at(position: Position, handle: int) -> bool:
    """Whether a regular file is the one that was read so far."""
    found = os.fstat(handle)
    return (
        (found.st_dev, found.st_ino) == (position.device, position.inode)
        and found.st_size >= position.offset
        and head_of(handle, position.offset) == position.head
    )


class Descriptor:
    """Lines from a descriptor, as many at once as have arrived, until its end."""

    def __init__(self, uri: str, handle: int, default_sensor: str, signals: Signals) -> None:
        self.uri = uri
        self.handle = handle
        self.health = Health()
        self.health.up()
        self._default_sensor = default_sensor
        self._signals = signals
        self._intake = Intake(default_sensor)
        self._regular = stat.S_ISREG(os.fstat(handle).st_mode)
        self._offset = os.lseek(handle, 0, os.SEEK_CUR) if self._regular else 0

    @property
    def patience_s(self) -> float:
        return math.inf if self._regular else PIPE_PATIENCE_S

    def reads(self, path: Path) -> bool:
        """Whether a path names the regular file that is being read."""
        return self._regular and path.is_file() and os.path.samestat(os.fstat(self.handle), path.stat())

    def resume(self, position: Position) -> bool:
        """Go on where an earlier run stopped; False where this is not what it read, or it had come to the end."""
        if not self._regular or position.uri != self.uri or not is_at(position, self.handle):
            return False
        if position.offset >= os.fstat(self.handle).st_size:
            return False
        self._offset = os.lseek(self.handle, position.offset, os.SEEK_SET)
        self._intake = Intake(self._default_sensor, position.reader)
        return True

    def batches(self) -> Iterator[list[Item]]:
        while not self._signals.asked:
            if not self._signals.wait(IDLE_S, self.handle):
                if not self._signals.asked:
                    yield []
                continue
            chunk = os.read(self.handle, CHUNK_BYTES)
            self._offset += len(chunk)
            if not chunk:
                self.health.down("its end was reached")
                yield self._intake.finish()
                return
            yield self._intake.feed(chunk)

    @property
    def position(self) -> Position | None:
        if not self._regular:
            return None
        found = os.fstat(self.handle)
        offset = self._offset - self._intake.waiting_bytes
        head = head_of(self.handle, offset)
        return Position(self.uri, found.st_dev, found.st_ino, offset, head, self._intake.reader.state)

    @property
    def cut_bytes(self) -> int:
        return self._intake.waiting_bytes

    def close(self) -> None:
        os.close(self.handle)


def open_stdin() -> int:
    """Raises UsageError."""
    if sys.stdin is None:  # closed before we began; descriptor 0 may by now be anything
        raise UsageError("source stdin: is closed")
    return os.dup(0)


def open_regular(path: Path) -> int:
    """A regular file. Raises OSError."""
    return open_kind(path, stat.S_ISREG, "regular file")


def open_file(path: Path) -> int:
    """A regular file that somebody named. Raises UsageError."""
    try:
        return open_regular(path)
    except OSError as error:
        raise UsageError(f"source {path}: {error.strerror}") from error
