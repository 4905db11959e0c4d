"""Lines that are appended to a file, for ever, also when the file is rotated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from axlebox.runtime.lines import CHUNK_BYTES
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import IDLE_S, Backoff, Health, Intake, Item, Position
from axlebox.runtime.sources.replay import head_of, is_at, open_regular

POLL_S = 0.1
"""How often the file is looked at while nothing is appended."""
_PATIENCE = 20
"""So many looks a file that was renamed is waited for to end its last line; else that is lost, and counted."""
_ROTATED = 9
"""PATH.1 to PATH.9 are looked through for the file that an earlier run was reading."""


class Follow:
    """Every line of a file from its beginning, then those that come, across rotation and restarts.

    A file that is renamed is read to its end before the new one is begun; one that was cut to nothing
    begins anew. A file compressed or removed before it was read to its end is lost, and said so.
    """

    patience_s = 0.0

    def __init__(self, path: Path, default_sensor: str, signals: Signals) -> None:
        self.uri = f"follow:{path}"
        self.health = Health()
        self._path = path
        self._default_sensor = default_sensor
        self._signals = signals
        self._handle: int | None = None
        self._offset = 0
        self._patience = _PATIENCE
        self._intake = Intake(default_sensor)
        self._backoff = Backoff()

    def reads(self, path: Path) -> bool:
        """Whether a path names the file that is followed, also one that is not there yet."""
        return path.resolve() == self._path.resolve()

    def resume(self, position: Position) -> bool:
        """Go on where an earlier run stopped; False where that file is not to be found."""
        if position.uri != self.uri:
            return False
        for path in (self._path, *(Path(f"{self._path}.{number}") for number in range(1, _ROTATED + 1))):
            try:
                handle = open_regular(path)
            except OSError:
                continue
            if is_at(position, handle):
                self._begin(handle, position.offset, Intake(self._default_sensor, position.reader))
                return True
            os.close(handle)
        self.health.lost += 1
        return False

    def batches(self) -> Iterator[list[Item]]:
        idle_s = 0.0
        while not self._signals.asked:
            if self._handle is None:
                if not self._open():
                    yield from self._backoff.sleep(self._signals)
                continue
            chunk = os.read(self._handle, CHUNK_BYTES)
            self._offset += len(chunk)
            if chunk:
                idle_s = 0.0
                yield self._intake.feed(chunk)
            elif self._has_moved(self._handle):
                yield from self._next_file()
            else:
                self._signals.wait(POLL_S)
                idle_s += POLL_S
                if idle_s >= IDLE_S and not self._signals.asked:
                    idle_s = 0.0
                    yield []

    def _has_moved(self, handle: int) -> bool:
        """Whether another file has the path by now, or this one was cut."""
        if os.fstat(handle).st_size < self._offset:
            return True
        try:
            return not os.path.samestat(os.fstat(handle), self._path.stat())
        except OSError:
            return False  # renamed, and the new one is not there yet: whoever writes may still write to this one

    def _next_file(self) -> Iterator[list[Item]]:
        """What is left of this one, then the beginning of the next."""
        handle = self._handle
        if handle is not None and (chunk := os.read(handle, CHUNK_BYTES)):  # appended before it was renamed
            self._offset += len(chunk)
            yield self._intake.feed(chunk)
            return
        half = self._intake.waiting_bytes > 0
        if half and handle is not None and os.fstat(handle).st_size >= self._offset and self._patience > 0:
            self._patience -= 1  # renamed between two writes of one line
            self._signals.wait(POLL_S)
            yield []
            return
        self.health.lost += half
        self.close()

    def _open(self) -> bool:
        try:
            handle = open_regular(self._path)
        except OSError as error:
            self.health.down(error.strerror or str(error))
            return False
        self._begin(handle, 0, Intake(self._default_sensor))
        return True

    def _begin(self, handle: int, offset: int, intake: Intake) -> None:
        self._handle, self._intake, self._patience = handle, intake, _PATIENCE
        self._offset = os.lseek(handle, offset, os.SEEK_SET)
        self._backoff.reset()
        self.health.up()

    @property
    def position(self) -> Position | None:
        if self._handle is None:
            return None
        found = os.fstat(self._handle)
        offset = self._offset - self._intake.waiting_bytes
        head = head_of(self._handle, offset)
        return Position(self.uri, found.st_dev, found.st_ino, offset, head, self._intake.reader.state)

    cut_bytes = 0
    """Half a line stays in the file: the next start reads it whole."""

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
