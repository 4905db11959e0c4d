"""How a running daemon takes over another release without losing a reading.

The release that shall run next is opened and its state rebuilt in a thread of its own, beside the
one that scores: recent readings are replayed through the new detectors, first those of the ring,
then those that arrive meanwhile. When the two are level they change places between two readings.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.state import read_state, state_signature
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Occasion, Say
from axlebox.runtime import stored
from axlebox.runtime.detector import Monitor, monitor_release
from axlebox.runtime.ring import Item
from axlebox.runtime.snapshots import readings_to_warm_up, replay
from axlebox.runtime.store import Store

LOOK_S = 0.5
"""How often the installation record is looked at."""
AGAIN_S = 30.0
"""After a failure the same record is looked at again so much later."""
_LEVEL = 64
"""So few readings behind, the change costs no more than a batch does."""
_CHUNK = 256
"""Readings that the replay takes at once: between two chunks the daemon scores."""


@dataclass(frozen=True, slots=True)
class Successor:
    """The release that runs from now on, with its state."""

    release: Release
    monitor: Monitor


class Succession:
    """Notices that another release shall run, and prepares it."""

    def __init__(self, starter: Starter, store: Store, digest: str, say: Say) -> None:
        """`digest` is the release that runs."""
        self._starter = starter
        self._store = store
        self._digest = digest
        self._say = say
        self._data: Path = starter.vehicle.data
        self._seen: object = None
        self._look_at = 0.0
        self._again_at = math.inf
        self._preparation: _Preparation | None = None
        self.failure: dict[str, str] | None = None
        """Digest and reason of the last release that could not be taken over."""

    def look(self, now: float, sensors: Callable[[], int]) -> None:
        """At most every LOOK_S of the monotonic clock: begin to prepare what shall run next.

        `sensors` says how many there are to be warmed up.
        """
        if now < self._look_at or self._preparation is not None:
            return
        self._look_at = now + LOOK_S
        signature = state_signature(self._data)
        if signature == self._seen and now < self._again_at:
            return
        self._seen, self._again_at = signature, math.inf
        try:
            wanted = read_state(self._data).running
        except AxleboxError as error:
            self._say(f"{error}; the release that runs goes on")
            return
        if wanted not in (self._digest, None):
            self._preparation = _Preparation(wanted, self._starter, self._store, sensors, self._say)

    def pass_on(self, items: Sequence[Item]) -> None:
        """Give what the running release was given to the one that is being prepared too."""
        if self._preparation is not None:
            self._preparation.backlog.extend(items)

    def take(self, now: float) -> Successor | None:
        """The next release once it is level with the present one, to be used from the next reading on."""
        preparation = self._preparation
        if preparation is None or not preparation.done.is_set():
            return None
        self._preparation, self._seen, self.failure = None, None, None
        if preparation.failure is not None:
            self.failure = {"digest": preparation.wanted, "reason": preparation.failure}
            self._seen, self._again_at = state_signature(self._data), now + AGAIN_S
        successor = preparation.successor
        if successor is None or successor.release.digest == self._digest:
            return None
        successor.monitor.process(preparation.backlog)
        self._digest = successor.release.digest
        return successor


class _Preparation:
    """One release being prepared, in a thread."""

    def __init__(self, wanted: str, starter: Starter, store: Store, sensors: Callable[[], int], say: Say) -> None:
        self.wanted = wanted
        self._starter = starter
        self._say = say
        self._sensors = sensors
        # All are taken between two batches, so that what was read by now is in them, and only once.
        self._since_session = store.since_session
        self._flushed, self._pending = store.pending()
        self.backlog: list[Item] = []
        """What the daemon has scored since."""
        self.successor: Successor | None = None
        self.failure: str | None = None
        """Why the wanted release does not run; another one may have taken its place."""
        self.done = threading.Event()
        threading.Thread(target=self._run, name="succession", daemon=True).start()

    def _run(self) -> None:
        occasion = Occasion(datetime.now(UTC), self._note)
        try:
            release = self._starter.start(occasion)
            self.successor = self._prepared(release, occasion)
            if self.successor is not None and release.digest == self.wanted:
                self.failure = None
        except AxleboxError as error:
            self._note(f"no other release was taken over: {error}")
        except Exception as error:
            self._note(f"no other release was taken over, by a mistake in axlebox: {error!r}")
        finally:
            self.done.set()

    def _note(self, line: str) -> None:
        """Say why the wanted release does not run, and keep it for whoever asks."""
        self.failure = line
        self._say(line)

    def _prepared(self, release: Release, occasion: Occasion) -> Successor | None:
        try:
            monitor = monitor_release(release)
            self._replay(release, monitor)
        except Exception as error:
            reason = error if isinstance(error, AxleboxError) else AxleboxError(f"{type(error).__name__}: {error}")
            self._starter.give_up(release.digest, reason, occasion)
            return None
        return Successor(release, monitor)

    def _replay(self, release: Release, monitor: Monitor) -> None:
        """Bring a new monitor to where the present one is, but for at most _LEVEL readings."""
        wanted = readings_to_warm_up(release, self._sensors()) - len(self._pending)
        data = self._starter.vehicle.data
        for number, items in stored.blocks(data, self._since_session, after=stored.before_the_last(data, wanted)):
            if number > self._flushed:
                break
            replay(monitor, items, _CHUNK)
        replay(monitor, self._pending, _CHUNK)
        while len(self.backlog) > _LEVEL:
            ready = len(self.backlog)  # the daemon goes on adding behind it
            replay(monitor, self.backlog[:ready], _CHUNK)
            del self.backlog[:ready]


def hand_over(old: Monitor, new: Monitor) -> list[dict[str, Any]]:
    """The events of a change of release: what the new one holds raised, then the end of the old one's."""
    return [*new.open_events(), *old.end_events("another release runs now")]
