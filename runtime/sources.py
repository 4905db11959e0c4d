"""Where readings come from: a URI becomes chunks of bytes, and chunks become whole lines."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.readings import MAX_LINE_BYTES

IDLE_S = 0.5
"""Whoever takes batches is given a turn at least this often."""

_CHUNK_BYTES = 64 * 1024


class StopSignal:
    """SIGTERM, SIGINT and SIGHUP ask for an orderly end instead of ending the process.

    The descriptor `fileno()` becomes readable with the signal, so that a wait for input ends at
    once and no read is cut in half.
    """

    def __init__(self) -> None:
        self.asked = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        os.write(self._write, b"x")

    def fileno(self) -> int:
        return self._read


def open_source(uri: str) -> int:
    """A readable descriptor for `stdin:` or `file:PATH`. Raises UsageError."""
    scheme, _, rest = uri.partition(":")
    if scheme == "stdin" and not rest:
        if sys.stdin is None:  # closed before we began; descriptor 0 may by now be anything
            raise UsageError("source stdin: is closed")
        return os.dup(0)
    if scheme == "file" and rest:
        path = Path(rest)
        try:
            # O_NONBLOCK: to open a FIFO would wait for its writer, and no signal would end the wait.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"source {path}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise UsageError(f"source {path}: is not a regular file")
        return handle
    raise UsageError(f"source {uri!r} is not stdin: or file:PATH")


class LineSplitter:
    """Whole lines out of chunks of any size; of a line that is too long only its beginning is kept."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of a line whose end has not come yet."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk ends, without their line ends."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = self.rest + lines[0]
            self.rest = rest
        else:
            self.rest += rest
        # One byte over the bound is enough for the reader to call the line too long.
        self.rest = self.rest[: MAX_LINE_BYTES + 1]
        return lines


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, in bounded memory."""
    splitter = LineSplitter()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield from splitter.feed(chunk)
    if splitter.rest:
        yield splitter.rest


class LineSource:
    """Whole lines from a descriptor, as many at once as have arrived, until its end or a stop."""

    def __init__(self, handle: int, stop: StopSignal) -> None:
        self._handle = handle
        self._stop = stop
        self._splitter = LineSplitter()
        self.cut_bytes = 0
        """Bytes of a last line whose end had not arrived when the stop came; never scored."""

    def batches(self) -> Iterator[list[bytes]]:
        """Lists of lines; an empty one where nothing came for IDLE_S."""
        while not self._stop.asked:
            ready, _, _ = select.select([self._handle, self._stop.fileno()], [], [], IDLE_S)
            if not ready:
                yield []
            if self._handle not in ready:
                continue
            chunk = os.read(self._handle, _CHUNK_BYTES)
            if not chunk:
                if self._splitter.rest:
                    yield [self._splitter.rest]
                return
            lines = self._splitter.feed(chunk)
            if lines:
                yield lines
        self.cut_bytes = len(self._splitter.rest)
