"""What a data folder's store.db holds, for other threads and programs, also while the daemon writes.

Every function opens a read-only connection of its own. Where there is no store.db they give
nothing; they raise BoxDamaged where the file is no database, and AxleboxError where it cannot be
read now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle.errors import BoxDamaged
from axlebox.runtime import database, ring
from axlebox.runtime.readings import Replaced
from axlebox.runtime.store import Ack, Counts


class LastReading(Struct, frozen=True):
    """The last outcome of a sensor."""

    time: float
    """POSIX seconds."""
    value: float
    status: str
    """As in Outcome."""
    session: int


def session(data: Path) -> int:
    """The newest session: the daemon's present or latest start; 0 before the first."""
    with database.reading(data) as db:
        return db.execute("SELECT session FROM about").fetchone()[0] if db else 0


def blocks(data: Path, since_session: int = 0, after: int = 0) -> Iterator[tuple[int, list[ring.Item]]]:
    """The ring, block by block, oldest first: of a session and later ones, behind the item with a number.

    Each with the number of its last item, counted over all that were ever kept (Store.taken).

    One block is in memory at a time. No transaction stays open between two of them, so a slow
    reader holds nobody up; blocks that are deleted or added meanwhile are left out or included.
    """
    with database.reading(data) as db:
        while db is not None:
            row = db.execute(
                "SELECT id, items, body FROM blocks WHERE id > ? AND session >= ? ORDER BY id LIMIT 1",
                (after, since_session),
            ).fetchall()
            if not row:
                return
            end, count, body = row[0]
            known = max(0, after - (end - count))
            after = end
            yield end, ring.decode(body)[known:]


def before_the_last(data: Path, items: int) -> int:
    """Number of an item behind which the ring has at least so many, and few more; 0 where it has fewer."""
    with database.reading(data) as db:
        rows = db.execute("SELECT id, items FROM blocks ORDER BY id DESC") if db else ()
        for number, count in rows:
            if items <= 0:
                return int(number)
            items -= count
    return 0


def recent(data: Path, since_session: int = 0) -> Iterator[ring.Item]:
    """Readings and marks of the ring in their order of arrival, since a session began."""
    for _, items in blocks(data, since_session):
        yield from items


def last_readings(data: Path) -> dict[str, LastReading]:
    """By sensor, in the order of their ids."""
    with database.reading(data) as db:
        rows = db.execute("SELECT * FROM sensors ORDER BY sensor").fetchall() if db else []
    nan = math.nan  # which SQLite keeps as NULL
    return {
        name: LastReading(nan if time is None else time, nan if value is None else value, status, session)
        for name, time, value, status, session in rows
    }


def last_events(data: Path, count: int) -> list[dict[str, Any]]:
    """At most so many events, newest first."""
    with database.reading(data) as db:
        rows = db.execute("SELECT body FROM events ORDER BY id DESC LIMIT ?", (count,)).fetchall() if db else []
    try:
        return [msgspec.json.decode(body, type=dict[str, Any]) for (body,) in rows]
    except msgspec.DecodeError as error:
        raise BoxDamaged(f"{data / database.NAME} is damaged: an event in it cannot be read: {error}") from error


def marks(data: Path) -> list[Replaced]:
    """The newest marks of replaced sensors, oldest first; they outlive the ring."""
    with database.reading(data) as db:
        rows = db.execute("SELECT time, sensor FROM marks ORDER BY id").fetchall() if db else []
    return [Replaced(time, sensor) for time, sensor in rows]


def position(data: Path) -> bytes | None:
    """How far the source had been read at the end of the ring."""
    with database.reading(data, since=2) as db:
        found: bytes | None = db.execute("SELECT position FROM source").fetchone()[0] if db else None
    return found


def capsule(data: Path, event: str) -> bytes | None:
    """What reproduces an event, where it is kept."""
    with database.reading(data, since=2) as db:
        row = db.execute("SELECT body FROM capsules WHERE event = ?", (event,)).fetchone() if db else None
    return None if row is None else bytes(row[0])


def sketch(data: Path, day: int, sensor: str) -> bytes | None:
    with database.reading(data, since=2) as db:
        select = "SELECT body FROM sketches WHERE day = ? AND sensor = ?"
        row = db.execute(select, (day, sensor)).fetchone() if db else None
    return None if row is None else bytes(row[0])


def event(data: Path, event_id: str) -> dict[str, Any] | None:
    """The newest that was told of an event; None where the store does not know it."""
    with database.reading(data) as db:
        select = "SELECT body FROM events WHERE json_extract(body, '$.id') = ? ORDER BY id DESC LIMIT 1"
        row = db.execute(select, (event_id,)).fetchone() if db else None
    return None if row is None else msgspec.json.decode(row[0], type=dict[str, Any])


def acks(data: Path) -> dict[str, Ack]:
    """What people said of events, by the event's id."""
    with database.reading(data, since=2) as db:
        rows = db.execute("SELECT event, verdict, note, time, user FROM acks").fetchall() if db else []
    return {event: Ack(verdict, note, time, user) for event, verdict, note, time, user in rows}


def counts(data: Path, digest: str) -> Counts:
    """What a release has seen on this vehicle; zeros for one that never ran."""
    with database.reading(data) as db:
        select = "SELECT readings, flags, anomalies, faults, invalid FROM counts WHERE digest = ?"
        row = db.execute(select, (digest,)).fetchone() if db else None
    return Counts(*row) if row else Counts()
