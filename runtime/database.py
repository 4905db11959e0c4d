"""The file store.db: its tables, how it is opened for writing or reading, and its write-ahead log."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, BoxDamaged
from axlebox.firmware_bundle.vehicle import STORE, STORE_SET_ASIDE

NAME, SET_ASIDE = STORE, STORE_SET_ASIDE
FORMAT = 2
"""Stands in the database as its user_version."""

_PAGE_BYTES = 1024
"""Every flush changes a few rows of a few tables, and writes each of their pages whole."""
_WAL_HEADER, _FRAME_HEADER = 32, 24  # https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_CACHE_KIB = 256
_WRITER_BUSY_MS = 100
_READER_BUSY_S = 2.0
_SCHEMA = (
    "CREATE TABLE about (session INTEGER NOT NULL)",
    "INSERT INTO about VALUES (0)",
    "CREATE TABLE blocks (id INTEGER PRIMARY KEY, session INTEGER NOT NULL, items INTEGER NOT NULL,"
    " body BLOB NOT NULL)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, body TEXT NOT NULL)",
    "CREATE TABLE marks (id INTEGER PRIMARY KEY, time REAL NOT NULL, sensor TEXT NOT NULL)",
    "CREATE TABLE sensors (sensor TEXT PRIMARY KEY, time REAL, value REAL, status TEXT NOT NULL,"
    " session INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE counts (digest TEXT PRIMARY KEY, session INTEGER NOT NULL, readings INTEGER NOT NULL,"
    " flags INTEGER NOT NULL, anomalies INTEGER NOT NULL, faults INTEGER NOT NULL, invalid INTEGER NOT NULL)"
    " WITHOUT ROWID",
)
_SINCE_2 = (
    "CREATE TABLE source (position BLOB)",
    "INSERT INTO source VALUES (NULL)",
    "CREATE TABLE acks (event TEXT PRIMARY KEY, verdict TEXT NOT NULL, note TEXT NOT NULL, time REAL NOT NULL,"
    " user TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE sketches (day INTEGER NOT NULL, sensor TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (day, sensor))"
    " WITHOUT ROWID",
    "CREATE TABLE capsules (id INTEGER PRIMARY KEY, event TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)


class Unfit(Exception):
    """A file that cannot be the store; its text says why."""


def open_for_writing(data: Path) -> sqlite3.Connection:
    """The database of a data folder, made where there is none. Raises Unfit, sqlite3.Error and OSError."""
    db = sqlite3.connect(data / NAME, timeout=_WRITER_BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    try:
        with _unfit_if_damaged():
            _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    db.execute("PRAGMA temp_store = MEMORY")
    found = _format(db)
    if found > FORMAT:
        raise Unfit(f"of format {found}, and this runtime knows format {FORMAT}")
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise Unfit("damaged")
    if found == 0 and db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise Unfit("another program's")
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # Store does it, and counts what it writes
    db.execute("PRAGMA secure_delete = OFF")  # Debian builds it in, and every deleted block would be written once more
    if found < FORMAT:
        with transaction(db):
            for statement in (*_SCHEMA, *_SINCE_2) if found == 0 else _SINCE_2:
                db.execute(statement)
            if found == 1:
                _number_by_items(db)


def _number_by_items(db: sqlite3.Connection) -> None:
    """Until format 1 blocks were numbered one by one; since then, by how many items there were up to their end."""
    rows = db.execute("SELECT id, items FROM blocks ORDER BY id").fetchall()
    ends = accumulate(items for _, items in rows)
    for (number, _), end in reversed(list(zip(rows, ends, strict=True))):
        db.execute("UPDATE blocks SET id = ? WHERE id = ?", (end, number))


def _format(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def _unfit_if_damaged() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise Unfit("damaged") from error
        raise


def is_damage(error: Exception) -> bool:
    """Whether SQLite found that the file itself is wrong."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def set_aside(data: Path) -> None:
    """Keep an unfit database as store.damaged.db, in place of an older one."""
    # The log goes first: one that is left behind would be played into the new database.
    for end in ("-wal", "-shm"):
        data.joinpath(NAME + end).unlink(missing_ok=True)
    disk.rename_durable(data / NAME, data / SET_ASIDE)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, durable: bool = True) -> Iterator[None]:
    """All or nothing. One that is not durable may be lost, whole, in a power cut soon after it."""
    # NORMAL syncs the log before it is copied into the database, so old and new are never mixed.
    db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def reading(data: Path, since: int = 1) -> Iterator[sqlite3.Connection | None]:
    """A read-only connection of one's own; None where nothing is kept yet, or in a format before `since`.

    Raises BoxDamaged, and AxleboxError where the file cannot be read now.
    """
    path = data / NAME
    try:
        if not path.exists():
            yield None
            return
        with contextlib.closing(sqlite3.connect(_uri(path), _READER_BUSY_S, isolation_level=None, uri=True)) as db:
            found = _format(db)
            if found > FORMAT:
                raise BoxDamaged(f"{path} is of format {found}, and this runtime knows format {FORMAT}")
            yield db if found >= since else None
    except (sqlite3.Error, OSError) as error:
        if is_damage(error):
            raise BoxDamaged(f"{path} is damaged: {error}") from error
        raise AxleboxError(f"{path} cannot be read: {error}") from error


def _uri(path: Path) -> str:
    """A database without a log in a folder that is not ours to write: SQLite could not make its -shm there."""
    resting = not path.with_name(NAME + "-wal").exists() and not os.access(path.parent, os.W_OK)
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if resting else ''}"


def files(data: Path) -> list[tuple[int, int] | None]:
    """Device and inode of the database and its log; None for one that is missing."""
    found: list[tuple[int, int] | None] = []
    for end in ("", "-wal"):
        try:
            status = data.joinpath(NAME + end).stat()
            found.append((status.st_dev, status.st_ino))
        except FileNotFoundError:
            found.append(None)
    return found


# -- the write-ahead log ------------------------------------------------------------------------------


def log_bytes(data: Path) -> int:
    try:
        return data.joinpath(NAME + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def cut_log(db: sqlite3.Connection, data: Path) -> int:
    """Copy the log into the database and cut it to nothing, unless a reader is at work in it. Returns bytes copied."""
    pages = _pages_in_log(data)
    db.execute("PRAGMA busy_timeout = 0")  # there will be another flush, and readings are waiting
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute(f"PRAGMA busy_timeout = {_WRITER_BUSY_MS}")
    return 0 if busy else pages * _PAGE_BYTES


def _pages_in_log(data: Path) -> int:
    """How many different pages the log holds."""
    frame = np.dtype([("page", ">u4"), ("rest", f"V{_FRAME_HEADER - 4 + _PAGE_BYTES}")])
    count = max(0, log_bytes(data) - _WAL_HEADER) // frame.itemsize
    if count == 0:
        return 0
    frames = np.memmap(data / (NAME + "-wal"), frame, "r", _WAL_HEADER, (count,))
    return len(np.unique(frames["page"]))
