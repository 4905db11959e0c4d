"""What the daemon remembers on the vehicle: `store.db` in the data folder, an SQLite database.

Events, the last reading of each sensor, counts by release, and the ring: the recent raw readings,
from which the state of a new detector is rebuilt. All of it is bounded, and nothing of it may stop
the daemon: what cannot be written waits in bounded buffers, and what was lost is counted. Readers
are in stored.py; docs/decisions/0009-store.md tells how it came to this shape.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.runtime import database, ring
from axlebox.runtime.database import NAME, SET_ASIDE, Unfit
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.readings import Replaced
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
RING_BYTES = 8 * 1024 * 1024
WAL_BYTES = 1024 * 1024
"""A longer write-ahead log is copied into the database and cut to nothing."""
MAX_WAL_BYTES = 8 * WAL_BYTES
"""Nothing is added to a log of this length: a reader that never ends keeps it from being cut."""

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


class Store:
    """The daemon's side. Used by one thread at a time; readers have connections of their own."""

    def __init__(self, data: Path, say: Callable[[str], None]) -> None:
        self._data = data
        self._say = say
        self._db: sqlite3.Connection | None = None
        self._items: list[ring.Item] = []
        self._events: list[bytes] = []
        self._last: dict[str, Outcome] = {}
        self._counts: dict[str, Counts] = {}
        self._marked = False
        self._flushed_at = monotonic()
        self._soon_s = SOON_S
        self._ring_bytes = 0
        self.session = 0
        """Number of this start of the daemon, from 1; 0 until the database could be opened."""
        self.last_block = 0
        """Id of the newest block: `stored.blocks(after=...)` goes on from there."""
        self.bytes_written = 0
        """Bytes handed to the system for the log and the database, without the file system's own."""
        self.failures = 0
        self.last_error: str | None = None
        """Why the latest flush failed; None once one succeeded."""
        self.dropped = 0
        """Readings, marks and events that never reached the database."""

    @classmethod
    def open(cls, data: Path, say: Callable[[str], None]) -> Store:
        """The store of a data folder, with a new session begun.

        A damaged database, or one of a newer format, is set aside as store.damaged.db. Where none
        can be opened, `say` is told, and every flush tries again.
        """
        store = cls(data, say)
        try:
            store._connected()
        except (Unfit, sqlite3.Error, OSError) as error:
            store._fail(error)
        return store

    def add(self, items: Sequence[ring.Item]) -> None:
        """Take the next readings and marks, in their order of arrival."""
        self._items += items
        if Replaced in set(map(type, items)):
            self._marked = True
        excess = len(self._items) - MAX_WAITING
        if excess > 0:
            del self._items[:excess]
            self.dropped += excess

    def note(self, digest: str, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes for a release, and remember the last one of each sensor."""
        counts = self._counts.setdefault(digest, Counts())
        counts.readings += len(outcomes)
        self._last.update(zip(map(_sensor, outcomes), outcomes, strict=True))
        if len(self._last) > MAX_SENSORS:
            # The gate bounds the sensors of good readings; ids of invalid ones come from anywhere.
            self._last = {name: one for name, one in self._last.items() if one.status != INVALID}
        for outcome in outcomes:
            if outcome.flag or outcome.reason or outcome.events:
                counts.flags += outcome.flag
                counts.invalid += outcome.status == INVALID
                self.note_events(digest, outcome.events)

    def note_events(self, digest: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Count events for a release, also those that no reading caused."""
        counts = self._counts.setdefault(digest, Counts())
        for event in events:
            counts.anomalies += event["type"] == "anomaly" and event["state"] == "raised"
            counts.faults += event["type"] == "sensor" and event["state"] not in (OK, INVALID)

    def event(self, event: dict[str, Any]) -> None:
        """Take an event; it is kept as JSON."""
        self._events.append(msgspec.json.encode(event))
        if len(self._events) > MAX_WAITING_EVENTS:
            del self._events[0]
            self.dropped += 1

    def pending(self) -> list[ring.Item]:
        """A copy of what `add` took and no flush has written: it follows block `last_block`."""
        return list(self._items)

    def due(self, now: float) -> bool:
        """Whether to flush at this moment of the monotonic clock."""
        waited = now - self._flushed_at
        if self.last_error is not None:
            return waited >= SOON_S
        if self._urgent:
            return waited >= self._soon_s or len(self._items) >= BLOCK_READINGS
        return waited >= FLUSH_S or len(self._items) >= BLOCK_READINGS

    def flush(self) -> None:
        """Write all that waits, in one transaction. A failure is counted, and the next flush tries again."""
        # A flapping sensor must not wear the flash out: one quick flush, then ever slower ones.
        self._soon_s = min(2 * self._soon_s, FLUSH_S) if self._urgent else SOON_S
        self._flushed_at = monotonic()
        try:
            self._write(self._connected())
        except (Unfit, sqlite3.Error, OSError) as error:
            self._fail(error)
            return
        if self.last_error is not None:
            self._say(f"{NAME} is written again")
        self._items, self._events, self._last, self._counts, self._marked = [], [], {}, {}, False
        self.last_error = None

    def close(self) -> None:
        """Flush, and close the database; with the last connection its log goes too."""
        self.flush()
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error, OSError):
                self.bytes_written += database.cut_log(self._db, self._data)
        self._disconnect()

    @property
    def _urgent(self) -> bool:
        """Whether something waits that must survive a power cut: readings need not."""
        return bool(self._events) or self._marked

    # -- writing -----------------------------------------------------------------------------------

    def _write(self, db: sqlite3.Connection) -> None:
        if database.log_bytes(self._data) > WAL_BYTES:
            self.bytes_written += database.cut_log(db, self._data)
        before = database.log_bytes(self._data)
        if before > MAX_WAL_BYTES:
            raise sqlite3.OperationalError(f"a reader that does not end holds {NAME}-wal")
        with database.transaction(db, durable=self._urgent):
            self._write_blocks(db)
            self._write_events(db)
            self._write_sensors(db)
            self._write_counts(db)
        self.bytes_written += database.log_bytes(self._data) - before

    def _write_blocks(self, db: sqlite3.Connection) -> None:
        for start in range(0, len(self._items), BLOCK_READINGS):
            items = self._items[start : start + BLOCK_READINGS]
            body = ring.encode(items)
            self.last_block += 1
            row = (self.last_block, self.session, len(items), body)
            db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", row)
            self._ring_bytes += len(body)
        while self._ring_bytes > RING_BYTES:
            oldest, size = db.execute("SELECT id, length(body) FROM blocks ORDER BY id LIMIT 1").fetchone()
            db.execute("DELETE FROM blocks WHERE id = ?", (oldest,))
            self._ring_bytes -= size
        if self._marked:
            marks = [(item.time, item.sensor) for item in self._items if isinstance(item, Replaced)]
            db.executemany("INSERT INTO marks (time, sensor) VALUES (?, ?)", marks)
            db.execute("DELETE FROM marks WHERE id <= (SELECT max(id) FROM marks) - ?", (MAX_MARKS,))

    def _write_events(self, db: sqlite3.Connection) -> None:
        if self._events:
            db.executemany("INSERT INTO events (body) VALUES (?)", [(body.decode(),) for body in self._events])
            db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (MAX_EVENTS,))

    def _write_sensors(self, db: sqlite3.Connection) -> None:
        rows = [
            (one.sensor, one.time, one.value, one.status, self.session)
            for one in self._last.values()
            if one.sensor != NO_SENSOR
        ]
        db.executemany("INSERT OR REPLACE INTO sensors VALUES (?, ?, ?, ?, ?)", rows)
        if db.execute("SELECT count(*) FROM sensors").fetchone()[0] > MAX_SENSORS:
            db.execute("DELETE FROM sensors WHERE session < ? OR status = ?", (self.session, INVALID))

    def _write_counts(self, db: sqlite3.Connection) -> None:
        for digest, seen in self._counts.items():
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

    # -- opening -----------------------------------------------------------------------------------

    def _connected(self) -> sqlite3.Connection:
        """The open database; it is opened where that failed before."""
        if self._db is None:
            try:
                self._db = database.open_for_writing(self._data)
            except Unfit as reason:
                self._set_aside(reason)
                self._db = database.open_for_writing(self._data)
            self._begin(self._db)
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
        self.session = self.session or session
        self.last_block = max(self.last_block, newest or 0)  # a new database goes on with the numbers
        self._ring_bytes = size or 0

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
