"""Lines from a FIFO or a UNIX stream socket: whoever gives them comes and goes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from axlebox.runtime.lines import CHUNK_BYTES
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import IDLE_S, Backoff, Health, Intake, Item, open_kind

_LONGEST_SOCKET_PATH = 107


def open_fifo(path: Path) -> int:
    """The reading end, without waiting for a writer. Raises OSError."""
    return open_kind(path, stat.S_ISFIFO, "FIFO")


def connect(path: Path) -> int:
    """Connect to a listening UNIX stream socket. Raises OSError."""
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise OSError(f"{path}: a socket's path has at most {_LONGEST_SOCKET_PATH} bytes")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)  # a listener with a full queue would be waited for, without a turn for anybody
        connection.connect(os.fspath(path))
        return connection.detach()


class Stream:
    """Opened again, after ever longer waits, whenever the other side is gone or not there yet."""

    patience_s = 0.0
    position = None

    def __init__(self, uri: str, reopen: Callable[[], int], default_sensor: str, signals: Signals) -> None:
        """`reopen` gives a readable descriptor, or raises OSError."""
        self.uri = uri
        self.health = Health()
        self._reopen = reopen
        self._default_sensor = default_sensor
        self._signals = signals
        self._handle: int | None = None
        self._intake = Intake(default_sensor)
        self._gave = False
        """Whether anything came since it was opened."""
        self._backoff = Backoff()

    def batches(self) -> Iterator[list[Item]]:
        while not self._signals.asked:
            if self._handle is None and not self._open():
                yield from self._backoff.sleep(self._signals)
            else:
                yield from self._read()

    def _open(self) -> bool:
        try:
            self._handle = self._reopen()
        except OSError as error:
            self.health.down(error.strerror or str(error))
            return False
        self._gave = False
        self.health.up()
        return True

    def _read(self) -> Iterator[list[Item]]:
        """What comes, until the other side is gone."""
        handle = self._handle
        while handle is not None and not self._signals.asked:
            if not self._signals.wait(IDLE_S, handle):
                if not self._signals.asked:
                    yield []
                continue
            try:
                chunk = os.read(handle, CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                yield from self._lose(error.strerror or str(error))
                return
            if not chunk:
                yield from self._lose("the other side closed it")
                return
            self._gave = True
            self._backoff.reset()
            yield self._intake.feed(chunk)

    def _lose(self, why: str) -> Iterator[list[Item]]:
        """Begin anew: another writer begins another stream, perhaps with a header; half a line of this one is lost."""
        self.health.down(why)
        self.health.lost += self._intake.waiting_bytes > 0
        self._intake = Intake(self._default_sensor)
        # Opened before the old end is closed: else what a new writer of a FIFO has written already would be lost.
        gave, old, self._handle = self._gave, self._handle, None
        opened = self._open()
        if old is not None:
            os.close(old)
        if opened and gave:
            yield []
        else:  # a listener that takes everybody and gives nothing would be asked without end
            yield from self._backoff.sleep(self._signals)

    @property
    def cut_bytes(self) -> int:
        return self._intake.waiting_bytes

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
