"""Where readings come from: a URI becomes chunks of bytes, and chunks become whole lines."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.readings import MAX_LINE_BYTES

_CHUNK_BYTES = 64 * 1024


class StopSignal:
    """SIGTERM and SIGINT ask for an orderly end instead of ending the process.

    The descriptor `fileno()` becomes readable with the signal, so that a wait for input ends at
    once and no read is cut in half.
    """

    def __init__(self) -> None:
        self.asked = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT):
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
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"source {path}: {error.strerror}") from error
        if path.is_dir():
            os.close(handle)
            raise UsageError(f"source {path}: is a folder")
        return handle
    raise UsageError(f"source {uri!r} is not stdin: or file:PATH")


class LineSource:
    """Whole lines from a descriptor, as many at once as have arrived, until its end or a stop."""

    def __init__(self, handle: int, stop: StopSignal) -> None:
        self._handle = handle
        self._stop = stop
        self._rest = b""
        self.cut_bytes = 0
        """Bytes of a last line whose end had not arrived when the stop came; never scored."""

    def batches(self) -> Iterator[list[bytes]]:
        """Lists of lines, never empty. A line beyond MAX_LINE_BYTES keeps only its beginning."""
        while not self._stop.asked:
            ready, _, _ = select.select([self._handle, self._stop.fileno()], [], [])
            if self._handle not in ready:
                continue
            chunk = os.read(self._handle, _CHUNK_BYTES)
            if not chunk:
                if self._rest:
                    yield [self._rest]
                return
            lines = self._split(chunk)
            if lines:
                yield lines
        self.cut_bytes = len(self._rest)

    def _split(self, chunk: bytes) -> list[bytes]:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = self._rest + lines[0]
            self._rest = rest
        else:
            self._rest += rest
        # One byte over the limit is enough for the reader to call the line too long.
        self._rest = self._rest[: MAX_LINE_BYTES + 1]
        return lines
