"""Readings that a driver's own thread hands to the daemon."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator

from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import IDLE_S, Health, Item

MAX_WAITING = 65_536
"""Readings; of more that arrive before they are scored, the oldest are lost, and counted."""


class Inbox:
    """A bounded queue between one thread that puts and the one that scores."""

    def __init__(self, health: Health, at_most: int = MAX_WAITING) -> None:
        self._health = health
        self._at_most = at_most
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.failure: BaseException | None = None
        """What ended the thread that puts; told to whoever takes."""

    def put(self, items: Iterable[Item]) -> None:
        with self._lock:
            self._items.extend(items)
            excess = len(self._items) - self._at_most
            for _ in range(excess):
                self._items.popleft()
            self._health.lost += max(0, excess)
        os.eventfd_write(self._wake, 1)

    def fail(self, error: BaseException) -> None:
        """The thread that puts ends by a mistake; the daemon must not go on as if there were only silence."""
        self.failure = error
        os.eventfd_write(self._wake, 1)

    def batches(self, signals: Signals) -> Iterator[list[Item]]:
        """As Source.batches."""
        while not signals.asked:
            if signals.wait(IDLE_S, self._wake):
                os.eventfd_read(self._wake)
            yield self._take()
            if self.failure is not None:
                raise self.failure
        if rest := self._take():  # what came before the signal
            yield rest

    def _take(self) -> list[Item]:
        with self._lock:
            items = list(self._items)
            self._items.clear()
        return items

    def close(self) -> None:
        os.close(self._wake)
