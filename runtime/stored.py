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
from axlebox.runtime.store import Counts


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
    """Blocks of the ring with their ids, oldest first: those of a session and later ones, behind a block.

    One block is in memory at a time. No transaction stays open between two of them, so a slow
    reader holds nobody up; blocks that are deleted or added meanwhile are left out or included.
    """
    with database.reading(data) as db:
        while db is not None:
            row = db.execute(
                "SELECT id, body FROM blocks WHERE id > ? AND session >= ? ORDER BY id LIMIT 1", (after, since_session)
            ).fetchall()
            if not row:
                return
            after, body = row[0]
            yield after, ring.decode(body)


def before_the_last(data: Path, items: int) -> int:
    """Id of the newest block such that those behind it hold at least so many readings, where the ring does."""
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


def counts(data: Path, digest: str) -> Counts:
    """What a release has seen on this vehicle; zeros for one that never ran."""
    with database.reading(data) as db:
        select = "SELECT readings, flags, anomalies, faults, invalid FROM counts WHERE digest = ?"
        row = db.execute(select, (digest,)).fetchone() if db else None
    return Counts(*row) if row else Counts()
