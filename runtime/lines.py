"""Chunks of bytes become whole lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from axlebox.runtime.readings import MAX_LINE_BYTES

CHUNK_BYTES = 64 * 1024


class LineSplitter:
    """Whole lines out of chunks of any size; of a line that is too long only its beginning is kept."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of a line whose end has not come yet."""
        self.rest_bytes = 0
        """How long that is, with what was not kept."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk ends, without their line ends."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = self.rest + lines[0]
            self.rest, self.rest_bytes = rest, len(rest)
        else:
            self.rest += rest
            self.rest_bytes += len(rest)
        # One byte over the bound is enough for the reader to call the line too long.
        self.rest = self.rest[: MAX_LINE_BYTES + 1]
        return lines


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, in bounded memory."""
    splitter = LineSplitter()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield from splitter.feed(chunk)
    if splitter.rest:
        yield splitter.rest
