"""What every source of readings is, and what several of them share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from axlebox.runtime.lines import LineSplitter
from axlebox.runtime.readings import BadLine, LineReader, ReaderState, Reading, Replaced
from axlebox.runtime.signals import Signals

Item = Reading | BadLine | Replaced

IDLE_S = 0.5
"""Whoever takes batches is given a turn at least this often."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 30.0
"""Between two tries to connect: doubled from the one to the other."""


class Health(Struct):
    """How a source does, for people and metrics."""

    connected: bool = False
    reconnects: int = 0
    """How often a connection was made after the first."""
    lost: int = 0
    """Readings or lines that surely came and were not scored: a queue was full, a line was cut off."""
    error: str | None = None
    """Why there is no connection now."""

    def up(self) -> None:
        self.reconnects += self._was_connected
        self._was_connected = self.connected = True
        self.error = None

    def down(self, why: str | None) -> None:
        self.connected, self.error = False, why

    _was_connected: bool = False


def open_kind(path: Path, is_kind: Callable[[int], bool], name: str) -> int:
    """Open for reading without waiting for anybody. Raises OSError, also where `is_kind` says no to the file's mode."""
    # To open a FIFO would wait for its writer, and no signal would end the wait.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not is_kind(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"is not a {name}", str(path))
    return handle


class Position(Struct, frozen=True):
    """How far a source was read, where one can go on from there."""

    uri: str
    device: int
    inode: int
    offset: int
    """Bytes behind the last whole line."""
    head: str
    """sha256 of its first bytes, at most HEAD_BYTES and no more than `offset`: an inode is soon used again."""
    reader: ReaderState
    """What its lines look like."""


class Source(Protocol):
    """Where readings come from."""

    uri: str
    health: Health

    def batches(self) -> Iterator[list[Item]]:
        """All that has arrived, again and again; an empty list where nothing came for IDLE_S, or no whole line.

        Ends with the source, or when a signal came; can then be called again.
        """

    @property
    def patience_s(self) -> float:
        """How long a sink that takes nothing may hold it up: not at all where readings would be lost by it."""

    @property
    def position(self) -> Position | None:
        """Behind the batch that was given last; None where there is no going back."""

    @property
    def cut_bytes(self) -> int:
        """Bytes of a line whose end had not arrived when the signal came; not scored."""

    def close(self) -> None: ...


class Backoff:
    """Ever longer waits between tries, until one succeeds."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._next = FIRST_WAIT_S

    def next(self) -> float:
        """Seconds to wait before the next try."""
        wait, self._next = self._next, min(2 * self._next, LONGEST_WAIT_S)
        return wait

    def sleep(self, signals: Signals) -> Iterator[list[Item]]:
        """Wait for the next try, with an empty batch every IDLE_S; ends early with a signal."""
        left = self.next()
        while left > 0 and not signals.asked:
            signals.wait(min(left, IDLE_S))
            left -= IDLE_S
            yield []


class Intake:
    """Chunks of one stream of lines become readings."""

    def __init__(self, default_sensor: str, state: ReaderState | None = None) -> None:
        self._splitter = LineSplitter()
        self.reader = LineReader(default_sensor, state)

    def feed(self, chunk: bytes) -> list[Item]:
        return self.reader.read(self._splitter.feed(chunk))

    def finish(self) -> list[Item]:
        """The last line, where the stream ended without its line end."""
        rest, self._splitter = self._splitter.rest, LineSplitter()
        return self.reader.read([rest]) if rest else []

    @property
    def waiting_bytes(self) -> int:
        """Of a line whose end has not come yet."""
        return self._splitter.rest_bytes
