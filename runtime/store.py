"""What the daemon remembers on the vehicle: `store.db` in the data folder, an SQLite database.

Events, the last reading of each sensor, counts by release, daily sketches, capsules, and the ring:
the recent raw readings, from which the state of detectors is rebuilt. All of it is bounded, and
nothing of it may stop the daemon: what cannot be written waits in bounded buffers, and what was
lost is counted. Readers are in stored.py; docs/decisions/0009-store.md tells how it came to this
shape, 0013 what the daemon keeps beside it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.vehicle import DETECTOR_STATE
from axlebox.runtime import database, ring
from axlebox.runtime.database import NAME, SET_ASIDE, Unfit
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.readings import REPLACED, Replaced
from axlebox.runtime.sketches import Sketch
from axlebox.runtime.statuses import INVALID, OK

FLUSH_S = 120.0
"""So long readings wait at most; twice as often would write half as much again."""
SOON_S = 5.0
"""So long an event or mark waits at most where none came shortly before; and so long a failed flush."""
BLOCK_READINGS = 16_384
"""So many waiting readings are written at once."""
MAX_WAITING = 2 * BLOCK_READINGS
MAX_WAITING_EVENTS = 1000
MAX_EVENTS = 10_000
MAX_MARKS = 1000
MAX_DIGESTS = 8
MAX_SKETCHES = 20_000
"""Days of sensors: 200 days of 100 sensors."""
MAX_WAITING_SKETCHES = 2 * MAX_SENSORS
MAX_CAPSULES = 64
RING_BYTES = 8 * 1024 * 1024
WAL_BYTES = 1024 * 1024
"""A longer write-ahead log is copied into the database and cut to nothing."""
MAX_WAL_BYTES = 8 * WAL_BYTES
"""Nothing is added to a log of this length: a reader that never ends keeps it from being cut."""
UNBOUNDED = (INVALID, REPLACED)
"""Statuses that an id may have which the gate never took: of bad readings, and of marks."""
CLOSE_S = 10.0
"""So long an orderly end waits for a disk that hangs."""
DAY_S = 86400.0
_PERSON_WAITS_MS = 5000

_sensor = attrgetter("sensor")


class Counts(Struct):
    """What one release has seen on this vehicle."""

    readings: int = 0
    """Bad lines included, as in the daemon's summary."""
    flags: int = 0
    anomalies: int = 0
    """Anomaly events raised."""
    faults: int = 0
    """Sensor events whose state is neither ok nor invalid."""
    invalid: int = 0
    """Readings that could not be readings, and bad lines."""

    def add(self, more: Counts) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(more, name))


class Ack(Struct, frozen=True):
    """What a person said of an event."""

    verdict: str
    """true, false or sensor."""
    note: str
    time: float
    """POSIX seconds, by the box's clock."""
    user: str


class _Waiting(Struct):
    """What was taken and is not written yet."""

    items: list[ring.Item] = []
    taken: int = 0
    """Number of the last of them, counted over all starts."""
    events: list[bytes] = []
    last: dict[str, Outcome] = {}
    counts: dict[str, Counts] = {}
    sketches: dict[tuple[int, str], Sketch] = {}
    capsules: dict[str, bytes] = {}
    position: bytes | None = None
    """How far the source had been read then (sources.base.Position)."""
    snapshot: bytes | None = None
    """The file detector.state."""
    marked: bool = False

    @property
    def urgent(self) -> bool:
        """Whether something must survive a power cut: readings need not."""
        return bool(self.events) or self.marked

    def follow(self, more: _Waiting) -> None:
        """Add what was taken after these."""
        self.items += more.items
        self.taken = max(self.taken, more.taken)
        self.events += more.events
        self.last |= more.last
        for digest, counts in more.counts.items():
            self.counts.setdefault(digest, Counts()).add(counts)
        for place, sketch in more.sketches.items():
            self.add_sketch(place, sketch)
        for event, body in more.capsules.items():
            self.add_capsule(event, body)
        self.position = more.position or self.position
        self.snapshot = more.snapshot or self.snapshot
        self.marked = self.marked or more.marked

    def add_sketch(self, place: tuple[int, str], sketch: Sketch) -> None:
        known = self.sketches.get(place)
        if known is not None:
            known.merge(sketch)
        elif len(self.sketches) < MAX_WAITING_SKETCHES:
            self.sketches[place] = sketch

    def add_capsule(self, event: str, body: bytes) -> None:
        self.capsules[event] = body
        if len(self.capsules) > MAX_CAPSULES:  # the table keeps no more either
            del self.capsules[next(iter(self.capsules))]

    def bound(self) -> int:
        """Give up the oldest of what is too much; how many items and events that were."""
        items, events = max(0, len(self.items) - MAX_WAITING), max(0, len(self.events) - MAX_WAITING_EVENTS)
        del self.items[:items]
        del self.events[:events]
        return items + events


class Store:
    """The daemon's side: one thread takes, and writes itself or has a thread of the store's own write.

    Readers have connections of their own.
    """

    def __init__(self, data: Path, say: Callable[[str], None], max_bytes_per_day: float = float("inf")) -> None:
        self._data = data
        self._say = say
        self._max_bytes_per_day = max_bytes_per_day
        self._enabled = True
        self._db: sqlite3.Connection | None = None
        self._files: list[tuple[int, int] | None] = []
        self._lock = threading.Lock()
        """Held while `_waiting` and `_in_hand` change places."""
        self._waiting = _Waiting()
        self._in_hand = _Waiting()
        """What a flush is writing."""
        self._flushed_at = monotonic()
        self._soon_s = SOON_S
        self._ring_bytes = 0
        self._day_began = monotonic()
        self._bytes_before_today = 0
        self._work = threading.Event()
        self._worker: threading.Thread | None = None
        self._ends = False
        self.session = 0
        """Number of this start of the daemon, from 1; 0 until the database could be opened."""
        self.since_session = 0
        """The first start whose readings in the ring belong to the present state."""
        self.taken = 0
        """Readings and marks that were ever taken: `stored.blocks(after=...)` goes on from there."""
        self.bytes_written = 0
        """Bytes handed to the system for the log and the database, without the file system's own."""
        self.failures = 0
        self.last_error: str | None = None
        """Why the latest flush failed; None once one succeeded."""
        self.dropped = 0
        """Readings, marks and events that never reached the database."""

    @classmethod
    def open(
        cls,
        data: Path,
        say: Callable[[str], None],
        max_bytes_per_day: float = float("inf"),
        own_thread: bool = False,
        enabled: bool = True,
    ) -> Store:
        """The store of a data folder, with a new session begun.

        A damaged database, or one of a newer format, is set aside as store.damaged.db. Where none
        can be opened, `say` is told, and every flush tries again. With `own_thread`, `flush_soon`
        does not wait for the disk. One that is not `enabled` takes everything and keeps nothing.
        """
        store = cls(data, say, max_bytes_per_day)
        store._enabled = enabled
        try:
            if enabled:
                store._connected()
        except (Unfit, sqlite3.Error, OSError) as error:
            store._fail(error)
        if own_thread:
            store._worker = threading.Thread(target=store._serve, name="store", daemon=True)
            store._worker.start()
        return store

    def add(self, items: Sequence[ring.Item]) -> None:
        """Take the next readings and marks, in their order of arrival."""
        with self._lock:
            self._waiting.items += items
            self.taken += len(items)
            self._waiting.taken = self.taken
            if Replaced in set(map(type, items)):
                self._waiting.marked = True
            if len(self._waiting.items) > MAX_WAITING:
                self.dropped += self._waiting.bound()

    def note(self, digest: str, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes for a release, and remember the last one of each sensor."""
        with self._lock:
            waiting = self._waiting
            counts = waiting.counts.setdefault(digest, Counts())
            counts.readings += len(outcomes)
            waiting.last.update(zip(map(_sensor, outcomes), outcomes, strict=True))
            if len(waiting.last) > MAX_SENSORS:
                # The gate bounds the sensors of good readings; ids of the others come from anywhere.
                waiting.last = {name: one for name, one in waiting.last.items() if one.status not in UNBOUNDED}
        for outcome in outcomes:
            if outcome.flag or outcome.reason or outcome.events:
                counts.flags += outcome.flag
                counts.invalid += outcome.status == INVALID
                self.note_events(digest, outcome.events)

    def note_events(self, digest: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Count events for a release, also those that no reading caused."""
        with self._lock:
            counts = self._waiting.counts.setdefault(digest, Counts())
            for event in events:
                counts.anomalies += event["type"] == "anomaly" and event["state"] == "raised"
                counts.faults += event["type"] == "sensor" and event["state"] not in (OK, INVALID)

    def event(self, event: Mapping[str, Any]) -> None:
        """Take an event; it is kept as JSON."""
        body = msgspec.json.encode(event)
        with self._lock:
            self._waiting.events.append(body)
            if len(self._waiting.events) > MAX_WAITING_EVENTS:
                self.dropped += self._waiting.bound()

    def sketch(self, day: int, sensor: str, sketch: Sketch) -> None:
        """Take what was seen of a sensor on a day, beside what is kept of it."""
        with self._lock:
            self._waiting.add_sketch((day, sensor), sketch)

    def capsule(self, event: str, body: bytes) -> None:
        """Take what reproduces an event (capsule.py), in place of what is kept for it."""
        with self._lock:
            self._waiting.add_capsule(event, body)

    def snapshot(self, encoded: bytes) -> None:
        """Take the detectors' state (snapshots.py), to be written whole beside the database."""
        with self._lock:
            self._waiting.snapshot = encoded

    def at(self, position: bytes | None) -> None:
        """Say how far the source was read when the last items were taken."""
        with self._lock:
            self._waiting.position = position

    def pending(self) -> tuple[int, list[ring.Item]]:
        """A copy of what `add` took and no flush has written, and the number of the item before it."""
        with self._lock:
            items = [*self._in_hand.items, *self._waiting.items]
            return self.taken - len(items), items

    def due(self, now: float) -> bool:
        """Whether to flush at this moment of the monotonic clock."""
        if self.busy:
            return False
        waited = now - self._flushed_at
        if self.last_error is not None:
            return waited >= SOON_S
        if self._waiting.urgent:
            return waited >= self._soon_s or len(self._waiting.items) >= BLOCK_READINGS
        return waited >= FLUSH_S or len(self._waiting.items) >= BLOCK_READINGS

    def flush_soon(self) -> None:
        """As `flush`, in the store's own thread where it has one; nothing while that still writes."""
        if self._worker is None:
            self.flush()
        elif not self.busy:
            self._hand_over()  # now: what is taken from here on is behind the position
            self._work.set()

    @property
    def busy(self) -> bool:
        """Whether the store's own thread has something in hand."""
        return self._work.is_set()

    def flush(self) -> None:
        """Write all that waits, in one transaction. A failure is counted, and the next flush tries again."""
        self._hand_over()
        self._write_out()

    def _hand_over(self) -> None:
        """What waits comes into hand, behind what an end left there."""
        with self._lock:
            self._in_hand.follow(self._waiting)
            self._waiting = _Waiting(taken=self.taken)

    def _write_out(self) -> None:
        """Write what is in hand."""
        waiting = self._in_hand
        # A flapping sensor must not wear the flash out: one quick flush, then ever slower ones.
        self._soon_s = min(2 * self._soon_s, FLUSH_S) if waiting.urgent else SOON_S
        self._flushed_at = monotonic()
        try:
            if self._enabled:
                self._write(self._connected(), waiting)
        except Exception as error:  # a mistake here must not end the store's thread unseen
            with self._lock:
                waiting.follow(self._waiting)
                self.dropped += waiting.bound()
                self._waiting, self._in_hand = waiting, _Waiting()
            self._fail(error)
            return
        with self._lock:
            self._in_hand = _Waiting()
        if waiting.snapshot is not None and self._enabled:
            self._write_snapshot(waiting.snapshot)
        if self.last_error is not None:
            self._say(f"{NAME} is written again")
        self.last_error = None

    def close(self) -> None:
        """Flush, and close the database; with the last connection its log goes too."""
        if self._worker is not None:
            self._ends = True
            self.flush_soon()
            self._work.set()
            self._worker.join(CLOSE_S)
            if self._worker.is_alive():
                self._say(f"{NAME} hangs: what waits for it is lost")
                return
        self.flush()
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error, OSError):
                self.bytes_written += database.cut_log(self._db, self._data)
        self._disconnect()

    def _serve(self) -> None:
        while self._work.wait():
            self._write_out()
            self._work.clear()
            if self._ends:  # `close` may have set `_work` during the flush
                return

    # -- writing -----------------------------------------------------------------------------------

    def _write(self, db: sqlite3.Connection, waiting: _Waiting) -> None:
        if database.log_bytes(self._data) > WAL_BYTES:
            self.bytes_written += database.cut_log(db, self._data)
        before = database.log_bytes(self._data)
        if before > MAX_WAL_BYTES:
            raise sqlite3.OperationalError(f"a reader that does not end holds {NAME}-wal")
        has_budget = self._has_budget()
        with database.transaction(db, durable=waiting.urgent):
            if has_budget:
                self._write_blocks(db, waiting)
            self._write_marks(db, waiting)
            self._write_events(db, waiting)
            self._write_sensors(db, waiting)
            self._write_counts(db, waiting)
            self._write_sketches(db, waiting)
            self._write_capsules(db, waiting)
            if waiting.position is not None:
                db.execute("UPDATE source SET position = ?", (waiting.position,))
        if not has_budget:
            self.dropped += len(waiting.items)
        self.bytes_written += database.log_bytes(self._data) - before

    def _write_snapshot(self, encoded: bytes) -> None:
        try:
            disk.replace_durable(self._data / DETECTOR_STATE, encoded, 0o600)
        except OSError as error:
            self._say(f"{DETECTOR_STATE} cannot be written: {error.strerror}; the next start replays more readings")
            return
        self.bytes_written += len(encoded)

    def _has_budget(self) -> bool:
        """Whether readings may still be written today; a day is 24 hours of the monotonic clock."""
        now = monotonic()
        if now - self._day_began >= DAY_S:
            self._day_began, self._bytes_before_today = now, self.bytes_written
        return self.bytes_written - self._bytes_before_today < self._max_bytes_per_day

    def _write_blocks(self, db: sqlite3.Connection, waiting: _Waiting) -> None:
        end = waiting.taken - len(waiting.items)
        for start in range(0, len(waiting.items), BLOCK_READINGS):
            items = waiting.items[start : start + BLOCK_READINGS]
            body = ring.encode(items)
            end += len(items)
            db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", (end, self.session, len(items), body))
            self._ring_bytes += len(body)
        while self._ring_bytes > RING_BYTES:
            oldest, size = db.execute("SELECT id, length(body) FROM blocks ORDER BY id LIMIT 1").fetchone()
            db.execute("DELETE FROM blocks WHERE id = ?", (oldest,))
            self._ring_bytes -= size

    @staticmethod
    def _write_marks(db: sqlite3.Connection, waiting: _Waiting) -> None:
        if waiting.marked:
            marks = [(item.time, item.sensor) for item in waiting.items if isinstance(item, Replaced)]
            db.executemany("INSERT INTO marks (time, sensor) VALUES (?, ?)", marks)
            db.execute("DELETE FROM marks WHERE id <= (SELECT max(id) FROM marks) - ?", (MAX_MARKS,))

    @staticmethod
    def _write_events(db: sqlite3.Connection, waiting: _Waiting) -> None:
        if waiting.events:
            db.executemany("INSERT INTO events (body) VALUES (?)", [(body.decode(),) for body in waiting.events])
            db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (MAX_EVENTS,))

    def _write_sensors(self, db: sqlite3.Connection, waiting: _Waiting) -> None:
        rows = [
            (one.sensor, one.time, one.value, one.status, self.session)
            for one in waiting.last.values()
            if one.sensor != NO_SENSOR
        ]
        db.executemany("INSERT OR REPLACE INTO sensors VALUES (?, ?, ?, ?, ?)", rows)
        if db.execute("SELECT count(*) FROM sensors").fetchone()[0] > MAX_SENSORS:
            db.execute("DELETE FROM sensors WHERE session < ? OR status IN (?, ?)", (self.session, *UNBOUNDED))

    def _write_counts(self, db: sqlite3.Connection, waiting: _Waiting) -> None:
        for digest, seen in waiting.counts.items():
            numbers = (seen.readings, seen.flags, seen.anomalies, seen.faults, seen.invalid)
            db.execute(
                "INSERT INTO counts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET"
                " session = excluded.session, readings = readings + excluded.readings, flags = flags + excluded.flags,"
                " anomalies = anomalies + excluded.anomalies, faults = faults + excluded.faults,"
                " invalid = invalid + excluded.invalid",
                (digest, self.session, *numbers),
            )
        db.execute(
            "DELETE FROM counts WHERE digest NOT IN (SELECT digest FROM counts ORDER BY session DESC LIMIT ?)",
            (MAX_DIGESTS,),
        )

    @staticmethod
    def _write_sketches(db: sqlite3.Connection, waiting: _Waiting) -> None:
        for place, sketch in waiting.sketches.items():
            row = db.execute("SELECT body FROM sketches WHERE day = ? AND sensor = ?", place).fetchone()
            whole = Sketch.empty() if row is None else Sketch.decode(row[0])
            whole.merge(sketch)
            db.execute("INSERT OR REPLACE INTO sketches VALUES (?, ?, ?)", (*place, whole.encode()))
        if waiting.sketches:
            excess = db.execute("SELECT count(*) FROM sketches").fetchone()[0] - MAX_SKETCHES
            if excess > 0:
                db.execute(
                    "DELETE FROM sketches WHERE (day, sensor) IN"
                    " (SELECT day, sensor FROM sketches ORDER BY day, sensor LIMIT ?)",
                    (excess,),
                )

    @staticmethod
    def _write_capsules(db: sqlite3.Connection, waiting: _Waiting) -> None:
        if waiting.capsules:
            db.executemany(
                "INSERT INTO capsules (event, body) VALUES (?, ?)"
                " ON CONFLICT (event) DO UPDATE SET body = excluded.body",
                waiting.capsules.items(),
            )
            db.execute("DELETE FROM capsules WHERE id <= (SELECT max(id) FROM capsules) - ?", (MAX_CAPSULES,))

    # -- opening -----------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        """The open database; it is opened where that failed before, or where its files were removed."""
        if self._db is not None and database.files(self._data) != self._files:
            self._disconnect()
            self._say(f"{NAME} was removed or replaced while it was open; it is opened anew")
        if self._db is None:
            try:
                self._db = database.open_for_writing(self._data)
            except Unfit as reason:
                self._set_aside(reason)
                self._db = database.open_for_writing(self._data)
            self._begin(self._db)
            self._files = database.files(self._data)
        return self._db

    def _begin(self, db: sqlite3.Connection) -> None:
        """Begin this start's session, or go on with it in a database that was opened again."""
        with database.transaction(db):
            if self.session == 0:
                db.execute("UPDATE about SET session = session + 1")
            else:
                db.execute("UPDATE about SET session = max(session, ?)", (self.session,))
            session = db.execute("SELECT session FROM about").fetchone()[0]
            newest, size = db.execute("SELECT max(id), sum(length(body)) FROM blocks").fetchone()
        if self.session == 0:
            self.go_on_from(newest or 0)
        self.session = self.session or session
        self._ring_bytes = size or 0

    def go_on_from(self, taken: int) -> None:
        """Number the next items behind at least so many: a new database goes on with the numbers of the old one."""
        with self._lock:
            waiting = len(self._in_hand.items) + len(self._waiting.items)
            ahead = max(0, taken - (self.taken - waiting))
            self.taken += ahead
            self._waiting.taken += ahead
            self._in_hand.taken += ahead

    def _set_aside(self, reason: Unfit) -> None:
        database.set_aside(self._data)
        self._say(f"{NAME} is {reason}; it is kept as {SET_ASIDE}, and a new one begins")

    def _fail(self, error: Exception) -> None:
        """Count a failure; the connection is given up, so that the next flush finds what is there then."""
        self._disconnect()
        self.failures += 1
        if self.last_error is None:
            self._say(f"{NAME} cannot be written: {error}; scoring goes on")
        self.last_error = str(error)
        if database.is_damage(error):
            with contextlib.suppress(OSError):
                self._set_aside(Unfit("damaged"))

    def _disconnect(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None


def mark_replaced(data: Path, mark: Replaced) -> None:
    """Keep a mark while no daemon runs. Raises AxleboxError where it cannot be kept."""
    store = Store.open(data, lambda line: None)
    store.add([mark])
    store.close()
    if store.last_error is not None:
        raise AxleboxError(f"{NAME} cannot be written: {store.last_error}")


def acknowledge(data: Path, event: str, ack: Ack) -> None:
    """Keep what a person said of an event, also while the daemon runs. Raises AxleboxError where it cannot be kept."""
    try:
        with contextlib.closing(database.open_for_writing(data)) as db:
            db.execute(f"PRAGMA busy_timeout = {_PERSON_WAITS_MS}")
            with database.transaction(db):
                row = (event, ack.verdict, ack.note, ack.time, ack.user)
                db.execute("INSERT OR REPLACE INTO acks VALUES (?, ?, ?, ?, ?)", row)
                db.execute(
                    "DELETE FROM acks WHERE event IN (SELECT event FROM acks ORDER BY time DESC LIMIT -1 OFFSET ?)",
                    (MAX_EVENTS,),
                )
    except (Unfit, sqlite3.Error, OSError) as error:
        raise AxleboxError(f"{NAME} cannot be written: {error}") from error
