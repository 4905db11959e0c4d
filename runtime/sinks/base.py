"""What every sink is, and the queue between it and the scoring, which no sink may hold up."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import merge
from operator import itemgetter
from time import monotonic
from typing import Any, Protocol

from msgspec import Struct

from axlebox.firmware_bundle.errors import AxleboxError

MAX_QUEUED = 10_000
"""Messages that wait for one sink; of more the oldest are dropped, those that are not urgent first."""
MAX_QUEUED_BYTES = 4 * 1024 * 1024
_MOST_AT_ONCE = 2000
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.5, 30.0
_DRAIN_S = 5.0
"""So long an orderly end waits for a sink that writes nothing any more."""

_number = itemgetter(0)


class Message(Struct, frozen=True, gc=False):
    """One event, or one line about a reading."""

    body: bytes
    """JSON in one line, without its end."""
    event: Mapping[str, Any] | None = None
    """None for a reading."""

    @property
    def urgent(self) -> bool:
        """Whether somebody may have to act: such messages are dropped last."""
        return self.event is not None and (
            self.event["type"] in ("anomaly", "limit") or self.event.get("severity") is not None
        )


class Gone(AxleboxError):
    """Whoever listened has left for good: stdout is a pipe that nobody reads."""


class Sink(Protocol):
    """Used by one thread only, which may wait for it as long as it takes."""

    uri: str
    bytes_written: int
    """To this box's disk."""

    def write(self, messages: Sequence[Message]) -> None:
        """Take them all, and return when they are with the system or the other side; or raise and take none.

        Raises AxleboxError or OSError where that is not possible now, Gone where it never will be.
        """

    def close(self) -> None:
        """Make durable what can be made durable."""


class Outlet:
    """A sink with its queue and its thread: messages go in at once, and out when the sink takes them."""

    def __init__(self, sink: Sink, say: Callable[[str], None]) -> None:
        self.uri = sink.uri
        self.written = 0
        self.dropped = 0
        self.error: str | None = None
        """Why the sink takes nothing now."""
        self.gone = False
        self._sink = sink
        self._say = say
        self._changed = threading.Condition()
        self._urgent: deque[tuple[int, Message]] = deque()
        self._ordinary: deque[tuple[int, Message]] = deque()
        self._in_hand: list[tuple[int, Message]] = []
        self._number = 0
        self._bytes = 0
        self._stalled_at = -1
        """How much was written when a wait for the sink was in vain."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.uri}", daemon=True)
        self._thread.start()

    # -- the side of the daemon --------------------------------------------------------------------

    def put(self, messages: Sequence[Message], patience_s: float = 0.0, asked: Callable[[], bool] = bool) -> None:
        """Queue messages. A full queue is waited for as long as the sink goes on to write, with at most
        `patience_s` in between and until something else is `asked`; then the oldest messages are dropped,
        and nobody waits again before the sink has written something.
        """
        if patience_s > 0.0 and self.written != self._stalled_at:
            self._wait_for_room(patience_s, asked)
        with self._changed:
            for message in messages:
                self._number += 1
                self._bytes += len(message.body)
                (self._urgent if message.urgent else self._ordinary).append((self._number, message))
            while len(self._urgent) + len(self._ordinary) > MAX_QUEUED or self._bytes > MAX_QUEUED_BYTES:
                _, lost = (self._ordinary or self._urgent).popleft()
                self._bytes -= len(lost.body)
                self.dropped += 1
            self._changed.notify()

    def _wait_for_room(self, patience_s: float, asked: Callable[[], bool]) -> None:
        before, since = self.written, monotonic()
        with self._changed:
            while self._is_full and self.error is None and not asked():
                self._changed.wait(0.1)
                if self.written != before:
                    before, since = self.written, monotonic()
                elif monotonic() - since >= patience_s:
                    self._stalled_at = self.written
                    return

    @property
    def _is_full(self) -> bool:
        return self.queued > MAX_QUEUED // 2 or self._bytes > MAX_QUEUED_BYTES // 2

    @property
    def bytes_written(self) -> int:
        return self._sink.bytes_written

    @property
    def queued(self) -> int:
        return len(self._urgent) + len(self._ordinary) + len(self._in_hand)

    def close(self) -> None:
        """Write what waits, as long as the sink goes on to take it; what it does not take is counted as dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        before, since = self.written, monotonic()
        while self._thread.is_alive() and monotonic() - since < _DRAIN_S:
            self._thread.join(0.05)
            if self.written != before:
                before, since = self.written, monotonic()
        self.dropped += self.queued

    # -- the sink's own thread ---------------------------------------------------------------------

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while self._take():
            try:
                self._sink.write([message for _, message in self._in_hand])
            except (AxleboxError, OSError) as error:
                if not self._failed(error, retry_s):
                    break
                retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                continue
            retry_s = _FIRST_RETRY_S
            with self._changed:
                self.written += len(self._in_hand)
                self._in_hand = []
                self._changed.notify_all()
            if self.error is not None:
                self._say(f"sink {self.uri} works again")
                self.error = None
        with contextlib.suppress(AxleboxError, OSError):
            self._sink.close()

    def _take(self) -> bool:
        """Messages in hand, those that failed before first; False at the end."""
        with self._changed:
            while not (self._in_hand or self._urgent or self._ordinary):
                if self._closing:
                    return False
                self._changed.wait()
            if not self._in_hand:
                waiting = list(merge(self._urgent, self._ordinary, key=_number))
                self._in_hand, rest = waiting[:_MOST_AT_ONCE], waiting[_MOST_AT_ONCE:]
                self._bytes = sum(len(message.body) for _, message in rest)
                self._urgent = deque(one for one in rest if one[1].urgent)
                self._ordinary = deque(one for one in rest if not one[1].urgent)
            return True

    def _failed(self, error: Exception, retry_s: float) -> bool:
        """Say so once, and wait for the next try; False where there shall be none."""
        words = f"sink {self.uri}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        if self.error is None and not isinstance(error, Gone):
            self._say(f"{words}; scoring goes on")
        self.error = words
        self.gone = isinstance(error, Gone)
        with self._changed:
            self._changed.notify_all()
            if not self.gone and not self._closing:
                self._changed.wait_for(lambda: self._closing, retry_s)
                return True
        return False
