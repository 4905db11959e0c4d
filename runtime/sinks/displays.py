"""Sinks that show how things are now, not what happened: each gets the newest picture, older ones are dropped."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.runtime.figures import Figures

_PATIENCE_S = 2.0
"""So long an orderly end waits for a display that hangs."""


class Display(Protocol):
    """Used by one thread only."""

    uri: str
    bytes_written: int
    """To this box's disk."""
    period_s: float
    """How old a picture may be; one with another set of open events comes at once."""

    def show(self, figures: Figures) -> None:
        """Raises AxleboxError or OSError where that is not possible now."""

    def close(self) -> None:
        """Show that nobody watches any more."""


class Board:
    """A display with its thread."""

    def __init__(self, display: Display, say: Callable[[str], None]) -> None:
        self.uri = display.uri
        self.error: str | None = None
        self.shown = 0
        self.missed = 0
        """Pictures that were never shown, since a newer one came first."""
        self._display = display
        self._say = say
        self._changed = threading.Condition()
        self._next: Figures | None = None
        self._closing = False
        self._due = float("-inf")
        self._open: list[str] | None = None
        self._thread = threading.Thread(target=self._run, name=f"sink {display.uri}", daemon=True)
        self._thread.start()

    @property
    def bytes_written(self) -> int:
        return self._display.bytes_written

    def due(self, now: float, open_events: list[str]) -> bool:
        """Whether a picture is to be put at this moment of the monotonic clock; `open_events` by their ids."""
        if now < self._due and open_events == self._open:
            return False
        self._due, self._open = now + self._display.period_s, open_events
        return True

    def put(self, figures: Figures) -> None:
        with self._changed:
            self.missed += self._next is not None
            self._next = figures
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        try:
            while (figures := self._take()) is not None:
                self.shown += self._try(partial(self._display.show, figures))
        finally:  # also where a bug ends this thread: a lamp must not stay off for ever
            self._try(self._display.close)

    def _take(self) -> Figures | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._next is not None)
            figures, self._next = self._next, None
            return figures

    def _try(self, act: Callable[[], None]) -> bool:
        """Whether it could be done; where not, and where it can again, that is said once."""
        try:
            act()
        except (AxleboxError, OSError) as error:
            if self.error is None:
                self._say(f"sink {self.uri}: {getattr(error, 'strerror', None) or error}; scoring goes on")
            self.error = str(error)
            return False
        if self.error is not None:
            self._say(f"sink {self.uri} works again")
        self.error = None
        return True


def replace_file(path: Path, text: str) -> int:
    """Put a new file in the place of the one before, for anyone to read; how many bytes it has.

    Not made durable: what it shows is old after a power cut. Raises OSError, and leaves the file as it was.
    """
    data = text.encode("utf-8", "replace")
    part = path.with_name(path.name + ".part")
    # A leftover part may belong to somebody else, or be a link to another file.
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # whatever the service's umask is: the reader is another user
            file.write(data)
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return len(data)
