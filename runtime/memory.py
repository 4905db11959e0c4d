"""When the detectors' state is kept: in memory for the next alarm, on disk for the next start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle.slots import Release
from axlebox.runtime import capsule, ring, snapshots
from axlebox.runtime.capsule import Capsule
from axlebox.runtime.detector import Monitor, restricted
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.sources.base import Position
from axlebox.runtime.store import Store

CHECK_S = 60.0
"""At least so long between two checkpoints, unless readings come fast."""
CHECK_READINGS = 20
"""Readings of each sensor that a checkpoint is old, at least: so many stand before an event in its capsule."""
_FAST_READINGS, _FAST_S = 8192, 0.5
MAX_READINGS = 32_768
"""Readings kept since the older checkpoint; where more came meanwhile, an event gets no capsule."""
AFTER_READINGS = 50
"""Readings of the sensor and its siblings behind an event, after which its capsule is complete."""
SAME_SENSOR_S = 3600.0
"""One capsule of a sensor in so long."""
MAX_OPEN = 64
SNAPSHOT_READINGS = 200_000
"""So many readings are replayed in a second or two: then a snapshot is worth its bytes."""
SNAPSHOT_S = 6 * 3600.0
"""The longest time between two snapshots."""
SNAPSHOT_BYTES_PER_DAY = 2 * 1024 * 1024
_DAY_S = 86400.0


class _Checkpoint(Struct, frozen=True):
    state: bytes
    """Monitor.state, as msgpack."""
    at: int
    """Place of the first item behind it in `_items`, counted over all."""


class _Draft(Struct):
    """A capsule that still grows."""

    event: dict[str, Any]
    members: frozenset[str]
    checkpoint: _Checkpoint
    told: list[dict[str, Any]]
    missing: int = AFTER_READINGS


class Memory:
    """Checkpoints of the running monitor. Times are seconds of the monotonic clock."""

    def __init__(self, store: Store, release: Release, monitor: Monitor, vehicle: str, now: float) -> None:
        self._store = store
        self._release = release
        self._monitor = monitor
        self._vehicle = vehicle
        self._items: list[ring.Item] = []
        self._first = 0
        """Place of the first of `_items`, counted over all."""
        self._drafts: list[_Draft] = []
        self._last_capsule: dict[str, float] = {}
        self._snapshot_at = now
        self._snapshot_taken = store.taken
        self._snapshot_bytes = 0
        self._older = self._newer = self._look(now)

    def _look(self, now: float) -> _Checkpoint:
        self._looked_at = now
        return _Checkpoint(msgspec.msgpack.encode(self._monitor.state()), self._first + len(self._items))

    def saw(self, items: Sequence[ring.Item], events: Sequence[Mapping[str, Any]], now: float) -> None:
        """What was scored, and the events of it."""
        self._items += items
        for draft in self._drafts:
            draft.missing -= sum(item.sensor in draft.members for item in items)
            draft.told += [dict(event) for event in events if event.get("id") == draft.event["id"]]
        for event in events:
            if event["type"] == "anomaly" and event["state"] == "raised":
                self._begin(dict(event), events, now)
        self._finish()
        if len(self._items) > MAX_READINGS:
            self._forget_old(now)

    def _begin(self, event: dict[str, Any], events: Sequence[Mapping[str, Any]], now: float) -> None:
        sensor = event["sensor"]
        if len(self._drafts) >= MAX_OPEN or now - self._last_capsule.get(sensor, float("-inf")) < SAME_SENSOR_S:
            return
        if len(self._last_capsule) >= MAX_SENSORS:
            self._last_capsule.clear()
        self._last_capsule[sensor] = now
        members = frozenset(self._release.manifest.contract.members(sensor))
        told = [dict(one) for one in events if one.get("id") == event["id"]]
        draft = _Draft(event, members, self._older, told)
        self._keep(draft)  # at once: a power cut may come before it is complete
        self._drafts.append(draft)

    def _finish(self, every: bool = False) -> None:
        """Keep the drafts that have all they wait for."""
        for draft in self._drafts:
            if every or draft.missing <= 0:
                self._keep(draft)
        self._drafts = [] if every else [draft for draft in self._drafts if draft.missing > 0]

    def _keep(self, draft: _Draft) -> None:
        place = draft.checkpoint.at - self._first
        state = restricted(msgspec.msgpack.decode(draft.checkpoint.state), draft.members)
        found = Capsule(
            event=draft.event["id"],
            sensor=draft.event["sensor"],
            digest=self._release.digest,
            release=self._release.label,
            vehicle=self._vehicle,
            state=state,
            readings=ring.encode([item for item in self._items[place:] if item.sensor in draft.members]),
            events=draft.told,
        )
        self._store.capsule(found.event, capsule.encode(found))

    def _forget_old(self, now: float) -> None:
        """Readings came faster than checkpoints are taken."""
        self._finish(every=True)
        self._first += len(self._items)
        self._items = []
        self._older = self._newer = self._look(now)

    def turn(self, now: float, position: Callable[[], Position | None]) -> None:
        """Take a checkpoint, or a snapshot, where one is due."""
        behind = self._first + len(self._items) - self._newer.at
        waited = now - self._looked_at
        slow = waited >= CHECK_S and behind >= CHECK_READINGS * max(1, self._monitor.sensors())
        if slow or (behind >= _FAST_READINGS and waited >= _FAST_S):
            self._older, self._newer = self._newer, self._look(now)
            first = min([self._older.at, *(draft.checkpoint.at for draft in self._drafts)])
            del self._items[: first - self._first]
            self._first = first
        if self._snapshot_is_due(now):
            self.snapshot(now, position())

    def _snapshot_is_due(self, now: float) -> bool:
        taken = self._store.taken - self._snapshot_taken
        waited = now - self._snapshot_at
        if not taken or waited < self._snapshot_bytes / SNAPSHOT_BYTES_PER_DAY * _DAY_S:
            return False
        return taken >= SNAPSHOT_READINGS or waited >= SNAPSHOT_S

    def snapshot(self, now: float, position: Position | None) -> None:
        """Have the state written to disk with the next flush."""
        if self._store.session == 0:  # items have no numbers that would last
            return
        taken, since = self._store.taken, self._store.since_session
        found = snapshots.Snapshot(self._release.digest, taken, since, position, self._monitor.state())
        encoded = snapshots.encode(found)
        self._store.snapshot(encoded)
        self._snapshot_at, self._snapshot_taken, self._snapshot_bytes = now, taken, len(encoded)

    def end(self, now: float, position: Position | None) -> None:
        """Keep everything: the run ends in order."""
        self._finish(every=True)
        self.snapshot(now, position)
