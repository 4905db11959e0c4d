"""What other processes ask of the daemon by signals."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class Signals:
    """SIGTERM and SIGINT ask for an orderly end, SIGHUP for the configuration to be read again.

    The descriptor `fileno()` becomes readable with each of them, so that a wait for input ends at
    once and no read is cut in half.
    """

    def __init__(self) -> None:
        self.stop = False
        self.reload = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        else:
            self.stop = True
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._write, b"x")
        except BlockingIOError:  # full of signals that nobody has looked at yet: it is readable
            return

    @property
    def asked(self) -> bool:
        """Whether whoever waits for readings shall stop doing so."""
        return self.stop or self.reload

    def reloaded(self) -> None:
        """The configuration was read again."""
        self.reload = False
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            return
        if self.stop:
            self._wake()

    def fileno(self) -> int:
        return self._read

    def wait(self, seconds: float, *handles: int) -> list[int]:
        """Those of the descriptors that are readable, after at most so many seconds; none where a signal came."""
        ready, _, _ = select.select([*handles, self._read], [], [], max(0.0, seconds))
        return [] if self.asked else [handle for handle in ready if handle != self._read]
