"""Where events go: a URI becomes something that takes lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

from axlebox.firmware_bundle.errors import AxleboxError, UsageError


class Sink(Protocol):
    def write(self, lines: bytes) -> None:
        """Take whole lines; when it returns they are with the operating system."""

    def close(self) -> None:
        """Make durable what can be made durable."""


class _Descriptor:
    """Lines to a file descriptor, written whole, without a buffer that a crash could lose."""

    def __init__(self, handle: int, name: str, durable: bool) -> None:
        self._handle = handle
        self._name = name
        self._durable = durable

    def write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            try:
                left = left[os.write(self._handle, left) :]
            except OSError as error:
                raise AxleboxError(f"sink {self._name}: {error.strerror}") from error

    def close(self) -> None:
        if self._durable:
            os.fsync(self._handle)
        os.close(self._handle)


def open_sink(uri: str) -> Sink:
    """A sink for `stdout:` or `file:PATH` (appended to). Raises UsageError."""
    scheme, _, rest = uri.partition(":")
    if scheme == "stdout" and not rest:
        sys.stdout.flush()
        return _Descriptor(os.dup(1), uri, durable=False)
    if scheme == "file" and rest:
        path = Path(rest)
        if path.is_fifo():
            raise UsageError(f"sink {path}: is a FIFO")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(f"sink {path}: {error.strerror}") from error
        return _Descriptor(handle, uri, durable=path.is_file())
    raise UsageError(f"sink {uri!r} is not stdout: or file:PATH")
