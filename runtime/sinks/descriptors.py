"""Events as JSON lines to stdout, or to a file that is rotated by its size."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.sinks.base import Gone, Message


def _lines(messages: Sequence[Message]) -> bytes:
    return b"".join([message.body + b"\n" for message in messages])


def _write_whole(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


class Stdout:
    """Lines to standard output, without a buffer that a crash could lose."""

    uri = "stdout:"
    bytes_written = 0

    def __init__(self) -> None:
        sys.stdout.flush()
        self._handle = os.dup(1)

    def write(self, messages: Sequence[Message]) -> None:
        try:
            _write_whole(self._handle, _lines(messages))
        except BrokenPipeError as error:
            if stat.S_ISFIFO(os.fstat(self._handle).st_mode):
                raise Gone("sink stdout: nobody reads it any more") from error
            raise

    def close(self) -> None:
        os.close(self._handle)


class LogFile:
    """Appends to a file; one that has grown to its bound becomes PATH.1, and so on."""

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        """Raises UsageError where the file cannot be opened."""
        self.uri = f"file:{path}"
        self.bytes_written = 0
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._handle: int | None = None
        if path.is_fifo():
            raise UsageError(f"sink {path}: is a FIFO")
        try:
            self._open()
        except OSError as error:
            raise UsageError(f"sink {path}: {error.strerror}") from error

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        self._handle = os.open(self._path, flags, 0o644)
        return self._handle

    def write(self, messages: Sequence[Message]) -> None:
        handle = self._open() if self._handle is None else self._handle
        before = os.fstat(handle)
        rotates = stat.S_ISREG(before.st_mode)
        data = _lines(messages)
        if rotates and before.st_size and before.st_size + len(data) > self._max_bytes:
            handle = self._rotate()
            before = os.fstat(handle)
        try:
            _write_whole(handle, data)
        except OSError:
            if rotates:  # the disk is full: no half line stays behind
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, before.st_size)
            self._close()
            raise
        self.bytes_written += len(data)

    def _rotate(self) -> int:
        """PATH to PATH.1, PATH.1 to PATH.2 ..., the oldest removed."""
        self.close()
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        if self._keep:
            os.replace(self._path, f"{self._path}.1")
        else:
            self._path.unlink()
        return self._open()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def close(self) -> None:
        if self._handle is not None:
            try:
                os.fsync(self._handle)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a device, which has no disk behind it
                    raise
            finally:
                self._close()
