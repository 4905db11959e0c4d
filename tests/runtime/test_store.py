"""What the store keeps comes back exactly, is bounded, and never stops the daemon."""

from __future__ import annotations

import math
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from axlebox.firmware_bundle.errors import AxleboxError, BoxDamaged
from axlebox.runtime import database, ring, store, stored
from axlebox.runtime.outcomes import NO_SENSOR, Outcome
from axlebox.runtime.readings import REPLACED, Reading, Replaced
from axlebox.runtime.sketches import Sketch
from axlebox.runtime.statuses import INVALID, OK
from axlebox.runtime.store import Ack, Counts, Store, acknowledge

START = 1_700_000_000.0


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def kept(tmp_path: Path, said: list[str]) -> Iterator[Store]:
    opened = Store.open(tmp_path, said.append)
    yield opened
    opened.close()


def bits(items: list[ring.Item]) -> list[tuple[Any, ...]]:
    """What must come back: kind, sensor and the 64 bits of each number, for NaN just that it is one."""

    def number(value: float) -> bytes:
        return b"nan" if math.isnan(value) else struct.pack("<d", value)

    return [
        (type(one), one.sensor, number(one.time), number(one.value) if isinstance(one, Reading) else None)
        for one in items
    ]


def fleet(seconds: int, sensors: int = 100, start: float = START, seed: int = 0) -> list[ring.Item]:
    """Sensors scanned once a second: slow drift, 0.2 degrees of noise, rounded to a tenth."""
    random = np.random.default_rng(seed)
    base = random.uniform(40, 110, sensors) + np.cumsum(random.normal(0, 0.01, (seconds, sensors)), 0)
    values = (base + random.normal(0, 0.2, (seconds, sensors))).round(1)
    return [
        Reading(start + second, f"axle-{sensor}", value)
        for second, row in enumerate(values.tolist())
        for sensor, value in enumerate(row)
    ]


ODD = [
    math.nan,
    math.inf,
    -math.inf,
    -0.0,
    0.0,
    5e-324,
    1.7976931348623157e308,
    2.0**53,
    2.0**53 + 2,
    0.1,
    1 / 3,
    -40.0,
]


def hostile(seed: int) -> list[ring.Item]:
    """Any number in any place: random bits, the odd ones, decimals; marks among them; times that jump."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 500))
    raw = random.integers(0, 2**64, 2 * count, dtype=np.uint64).view(np.float64).tolist()
    names = ["a", "ü\u4e2d", "x" * 64, *(f"s{number}" for number in range(int(random.integers(1, 300))))]
    items: list[ring.Item] = []
    for number in range(count):
        kind = random.integers(0, 6)
        value = [raw[number], ODD[number % len(ODD)], 21.5, float(random.integers(0, 2000)) / 10, 1e22, -0.0][kind]
        time = raw[count + number] if kind == 0 else START + round(float(random.normal(0, 1e6)), int(kind))
        sensor = names[int(random.integers(0, len(names)))]
        items.append(Replaced(time, sensor) if kind == 5 else Reading(time, sensor, value))
    return items


# -- the ring's blocks ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_any_readings_and_marks_come_back_to_the_bit(seed: int) -> None:
    items = hostile(seed)
    assert bits(ring.decode(ring.encode(items))) == bits(items)


@pytest.mark.parametrize("value", ODD)
def test_one_odd_value_comes_back_alone_and_in_company(value: float) -> None:
    alone: list[ring.Item] = [Reading(value, "a", value)]
    among = [*fleet(3), Reading(START + 3, "axle-0", value), *fleet(3, start=START + 4)]
    for items in (alone, among):
        assert bits(ring.decode(ring.encode(items))) == bits(items)


def test_two_minutes_of_a_hundred_sensors_take_little_more_than_half_a_byte_for_each_reading() -> None:
    items = fleet(120)
    assert len(ring.encode(items)) / len(items) < 0.6
    assert bits(ring.decode(ring.encode(items))) == bits(items)


def test_a_missing_value_now_and_then_costs_its_own_bytes_only() -> None:
    whole = fleet(120)
    gaps = [Reading(one.time, one.sensor, math.nan) if n % 100 == 7 else one for n, one in enumerate(whole)]
    assert len(ring.encode(gaps)) - len(ring.encode(whole)) < 9 * len(whole) / 100


def test_every_flipped_byte_of_a_block_is_noticed() -> None:
    block = ring.encode(fleet(2, sensors=3))
    for place in range(len(block)):
        damaged = bytearray(block)
        damaged[place] ^= 4
        with pytest.raises(BoxDamaged):
            ring.decode(bytes(damaged))


# -- what is kept ---------------------------------------------------------------------------------


def test_the_flushed_and_the_pending_readings_are_all_readings_in_order(kept: Store, tmp_path: Path) -> None:
    items = [*fleet(3), Replaced(START + 3, "axle-7"), *fleet(4, start=START + 4)]
    kept.add(items[:250])
    kept.flush()
    kept.add(items[250:500])
    kept.flush()
    kept.add(items[500:])
    before, waiting = kept.pending()
    assert bits([*stored.recent(tmp_path), *waiting]) == bits(items)
    assert before == 500 and kept.pending()[1] is not waiting
    assert stored.marks(tmp_path) == [Replaced(START + 3, "axle-7")]


def test_more_than_a_blocks_readings_become_several_blocks(kept: Store, tmp_path: Path) -> None:
    items = fleet(2 * store.BLOCK_READINGS // 100)
    kept.add(items)
    kept.flush()
    found = list(stored.blocks(tmp_path))
    assert [number for number, _ in found] == [store.BLOCK_READINGS, len(items)] and kept.taken == len(items)
    assert [one for _, block in found for one in block] == items
    assert list(stored.blocks(tmp_path, after=store.BLOCK_READINGS)) == found[1:]
    ((number, rest),) = stored.blocks(tmp_path, after=len(items) - 3)
    assert (number, rest) == (len(items), items[-3:])


def test_each_start_is_a_session_and_recent_can_leave_out_earlier_ones(tmp_path: Path, said: list[str]) -> None:
    for number in (1, 2, 3):
        opened = Store.open(tmp_path, said.append)
        assert opened.session == number
        opened.add(fleet(1, start=START + number))
        opened.close()
        assert stored.session(tmp_path) == number
    assert [one.time - START for one in stored.recent(tmp_path)] == [1.0] * 100 + [2.0] * 100 + [3.0] * 100
    assert {one.time - START for one in stored.recent(tmp_path, since_session=3)} == {3.0}
    assert list(stored.recent(tmp_path, since_session=4)) == []
    assert said == []


def test_events_come_back_newest_first(kept: Store, tmp_path: Path) -> None:
    events = [{"type": "anomaly", "state": "raised", "value": 170.5, "why": [{"n": n}]} for n in range(5)]
    for event in events:
        kept.event(event)
    kept.flush()
    assert stored.last_events(tmp_path, 3) == events[:1:-1]


def test_the_last_outcome_of_a_sensor_is_kept(kept: Store, tmp_path: Path) -> None:
    kept.note("d", [Outcome(1, "a", 1.0, 10.0, OK), Outcome(2, "b", 2.0, 20.0, OK), Outcome(3, "a", 3.0, 30.0, OK)])
    kept.flush()
    kept.note("d", [Outcome(4, "b", 4.0, math.nan, INVALID, "its value is nan")])
    kept.note("d", [Outcome(5, NO_SENSOR, None, None, INVALID, "not a number")])
    kept.flush()
    found = stored.last_readings(tmp_path)
    assert list(found) == ["a", "b"]
    assert found["a"] == stored.LastReading(3.0, 30.0, OK, 1)
    assert found["b"].status == INVALID and found["b"].time == 4.0 and math.isnan(found["b"].value)


def test_counts_are_kept_by_release_and_add_up_over_sessions(tmp_path: Path, said: list[str]) -> None:
    raised = {"type": "anomaly", "state": "raised"}
    outcomes = [
        Outcome(1, "a", 1.0, 1.0, OK),
        Outcome(2, "a", 2.0, 99.0, OK, flag=True, event="x", events=(raised,)),
        Outcome(3, "a", 3.0, 98.0, OK, flag=True, event="x"),
        Outcome(4, "a", 4.0, 1.0, OK, events=({"type": "anomaly", "state": "cleared"},)),
        Outcome(5, "a", 5.0, 1.0, OK, events=({"type": "sensor", "state": "stuck"},)),
        Outcome(6, "a", 5.0, 1.0, INVALID, "its time repeats", events=({"type": "sensor", "state": INVALID},)),
        Outcome(7, "a", 6.0, 1.0, OK, events=({"type": "sensor", "state": OK},)),
    ]
    for _ in range(2):
        opened = Store.open(tmp_path, said.append)
        opened.note("one", outcomes)
        opened.flush()
        opened.note("one", outcomes)
        opened.note("two", outcomes[:1])
        opened.close()
    assert stored.counts(tmp_path, "one") == Counts(readings=28, flags=8, anomalies=4, faults=4, invalid=4)
    assert stored.counts(tmp_path, "two") == Counts(readings=2)
    assert stored.counts(tmp_path, "never ran") == Counts()


# -- bounds ---------------------------------------------------------------------------------------


def test_the_ring_and_the_file_stay_bounded_over_thousands_of_flushes(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RING_BYTES", 128 * 1024)
    monkeypatch.setattr(store, "WAL_BYTES", 64 * 1024)
    monkeypatch.setattr(store, "MAX_EVENTS", 50)
    random = np.random.default_rng(1)
    values = random.normal(80, 1, 100_000).tolist()
    sizes = []
    for number in range(2500):
        count = 1 + number * 7 % 211
        kept.add([Reading(START + 300 * number + n, "a", values[number * 31 + n]) for n in range(count)])
        if number % 5 == 0:
            kept.event({"number": number})
        kept.flush()
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert max(sizes) < (128 + 2 * 64 + 64) * 1024
    assert max(sizes[1500:]) <= max(sizes[:1500])
    times = [one.time for one in stored.recent(tmp_path)]
    assert times == sorted(times) and len(times) > 10_000 and times[-1] >= START + 300 * 2499
    assert [event["number"] for event in stored.last_events(tmp_path, 1000)] == list(range(2495, 2245, -5))
    assert {path.name for path in tmp_path.iterdir()} == {"store.db", "store.db-wal", "store.db-shm"}


@pytest.mark.parametrize("status", [INVALID, REPLACED])
def test_marks_digests_and_sensors_are_bounded(
    status: str, kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_MARKS", 10)
    monkeypatch.setattr(store, "MAX_SENSORS", 20)
    kept.note("first", [Outcome(1, "good", 1.0, 1.0, OK)])
    for number in range(15):
        kept.session += 1  # as a later start would
        kept.add([Replaced(START + number, "a")])
        strangers = [Outcome(1, f"stranger {number}.{n}", 1.0, 1.0, status, "unknown") for n in range(15)]
        kept.note(f"digest {number}", [*strangers, Outcome(2, "good", 2.0, 2.0, OK)])
        kept.flush()
    kept.note("d", [Outcome(1, f"more {n}", 1.0, 1.0, status, "unknown") for n in range(50)])
    assert len(kept._waiting.last) <= 20
    assert kept.last_error is None
    assert [mark.time - START for mark in stored.marks(tmp_path)] == list(range(5, 15))
    assert stored.counts(tmp_path, "first") == Counts() == stored.counts(tmp_path, "digest 6")
    assert stored.counts(tmp_path, "digest 7").readings == 16
    assert len(stored.last_readings(tmp_path)) <= 20 and "good" in stored.last_readings(tmp_path)


def test_what_waits_is_bounded_and_the_oldest_is_dropped_and_counted(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_WAITING", 1000)
    monkeypatch.setattr(store, "MAX_WAITING_EVENTS", 10)
    opened = Store.open(tmp_path / "missing", said.append)
    items = fleet(13)
    for start in range(0, 1300, 100):
        opened.add(items[start : start + 100])
        opened.event({"start": start})
        opened.flush()
    assert opened.pending()[1] == items[300:] and opened.dropped == 303
    assert opened.failures == 14 and opened.last_error == "unable to open database file" and opened.session == 0
    assert said == ["store.db cannot be written: unable to open database file; scoring goes on"]
    (tmp_path / "missing").mkdir()
    opened.flush()
    assert opened.last_error is None and opened.session == 1 and opened.pending() == (1300, [])
    assert list(stored.recent(tmp_path / "missing")) == items[300:]
    assert len(stored.last_events(tmp_path / "missing", 100)) == 10
    assert said[1:] == ["store.db is written again"]
    opened.close()


def test_a_hundred_sensors_at_1_hz_write_at_most_20_mb_a_day(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of it, with a full ring; twelve events an hour; the log's copying is part of it."""
    monkeypatch.setattr(store, "RING_BYTES", 32 * 1024)
    monkeypatch.setattr(store, "WAL_BYTES", 256 * 1024)
    before = written()
    for number in range(30):
        items = fleet(120, start=START + 120 * number, seed=number)
        kept.add(items)
        kept.note("d" * 64, [Outcome(0, one.sensor, one.time, one.value, OK) for one in items])
        if number % 3 == 0:
            kept.event({"type": "anomaly", "id": "x" * 40, "why": [{"feature": "value", "value": 1.0}] * 4})
        kept.flush()
    kept.close()
    assert kept.last_error is None
    assert kept.bytes_written * 24 < 16e6
    assert 0.97 < kept.bytes_written / (written() - before) < 1.03


def written() -> int:
    """Bytes that this process has handed to the system for files."""
    return int(Path("/proc/self/io").read_text().partition("wchar: ")[2].split()[0])


# -- when it writes -------------------------------------------------------------------------------


def test_readings_wait_two_minutes_or_for_a_full_block(kept: Store) -> None:
    now = kept._flushed_at
    kept.add(fleet(1))
    assert not kept.due(now + store.FLUSH_S - 1)
    assert kept.due(now + store.FLUSH_S)
    kept.add(fleet(store.BLOCK_READINGS // 100 + 1))
    assert kept.due(now)


def test_an_event_or_mark_waits_five_seconds_and_a_flapping_one_ever_longer(kept: Store) -> None:
    waits = []
    for number in range(8):
        kept.add([Replaced(START, "a")]) if number % 2 else kept.event({})
        waits.append(next(wait for wait in range(1000) if kept.due(kept._flushed_at + wait)))
        kept.flush()
    assert waits == [5, 10, 20, 40, 80, 120, 120, 120]
    kept.flush()
    kept.event({})
    assert kept.due(kept._flushed_at + 5)


def test_events_and_marks_are_synced_at_once_and_readings_alone_are_not(kept: Store) -> None:
    def level() -> int:
        assert kept._db is not None
        return int(kept._db.execute("PRAGMA synchronous").fetchone()[0])  # that of the last transaction

    normal, full = 1, 2
    for take, expected in ((lambda: kept.event({}), full), (lambda: kept.add(fleet(1)), normal)):
        take()
        kept.flush()
        assert level() == expected
    kept.add([Replaced(START, "a")])
    kept.flush()
    assert level() == full


def test_a_failed_flush_is_not_tried_again_at_once(kept: Store, tmp_path: Path) -> None:
    kept.add(fleet(store.BLOCK_READINGS // 100 + 1))
    with held(tmp_path, "BEGIN IMMEDIATE"):
        kept.flush()
    assert not kept.due(kept._flushed_at + 4.9) and kept.due(kept._flushed_at + 5)


# -- trouble --------------------------------------------------------------------------------------


class held:  # noqa: N801
    """Another connection that has begun something and does not end it."""

    def __init__(self, data: Path, *statements: str) -> None:
        self._db = sqlite3.connect(data / "store.db", isolation_level=None)
        self._statements = statements

    def __enter__(self) -> None:
        for statement in self._statements:
            self._db.execute(statement).fetchall()

    def __exit__(self, *_: object) -> None:
        self._db.close()


def test_a_lock_of_another_process_is_waited_out_over_flushes(kept: Store, tmp_path: Path, said: list[str]) -> None:
    items = fleet(2)
    kept.add(items)
    with held(tmp_path, "BEGIN IMMEDIATE"):
        kept.flush()
        assert (kept.failures, kept.last_error) == (1, "database is locked")
        assert kept.pending()[1] == items
    kept.flush()
    assert kept.last_error is None and list(stored.recent(tmp_path)) == items
    assert kept.session == 1 == stored.session(tmp_path)
    assert said == ["store.db cannot be written: database is locked; scoring goes on", "store.db is written again"]


def test_a_second_daemon_by_mistake_does_not_take_the_session_of_the_first(
    kept: Store, tmp_path: Path, said: list[str]
) -> None:
    second = Store.open(tmp_path, said.append)
    with held(tmp_path, "BEGIN IMMEDIATE"):
        kept.flush()  # fails, and the next one opens the database again
    kept.flush()
    assert (kept.session, second.session, stored.session(tmp_path)) == (1, 2, 2)
    second.close()


def test_a_full_disk_loses_nothing_that_fits_the_buffers(kept: Store, tmp_path: Path) -> None:
    first, second = fleet(120), fleet(60, start=START + 120)
    kept.add(first)
    kept.flush()
    kept.add(second)
    kept.event({"type": "x"})
    kept.note("d", [Outcome(1, "a", 1.0, 1.0, OK)])
    assert kept._db is not None
    kept._db.execute("PRAGMA max_page_count = 1")  # raised to the present size
    kept.flush()
    assert kept.last_error == "database or disk is full"
    assert list(stored.recent(tmp_path)) == first and stored.last_events(tmp_path, 9) == []
    kept.flush()
    assert kept.last_error is None
    assert list(stored.recent(tmp_path)) == first + second
    assert stored.last_events(tmp_path, 9) == [{"type": "x"}] and stored.counts(tmp_path, "d").readings == 1


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), sqlite3.OperationalError("disk I/O error")])
@pytest.mark.parametrize("place", ["log_bytes", "cut_log", "transaction", "open_for_writing"])
def test_an_error_anywhere_never_leaves_flush_or_close(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    items = fleet(1)
    with monkeypatch.context() as broken:
        broken.setattr(database, place, fail)
        broken.setattr(store, "WAL_BYTES", -1)
        opened = Store.open(tmp_path, said.append)
        opened.add(items)
        opened.flush()
        assert opened.failures >= 1 and opened.last_error == str(error)
    opened.flush()
    assert opened.last_error is None and list(stored.recent(tmp_path)) == items
    with monkeypatch.context() as broken:
        broken.setattr(database, place, fail)
        opened.close()


def test_a_reader_that_never_ends_bounds_the_log_and_not_the_scoring(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "WAL_BYTES", 16 * 1024)
    monkeypatch.setattr(store, "MAX_WAL_BYTES", 64 * 1024)
    kept.add(fleet(1))
    kept.flush()
    with held(tmp_path, "BEGIN", "SELECT * FROM about"):
        for number in range(40):
            kept.add(fleet(30, start=START + 100 * number))
            kept.flush()
        assert kept.last_error == "a reader that does not end holds store.db-wal"
        assert database.log_bytes(tmp_path) < 128 * 1024
    kept.flush()
    assert kept.last_error is None and database.log_bytes(tmp_path) < 64 * 1024


_WRITER = """
import sys
import threading
import time
from pathlib import Path
from axlebox.runtime.readings import Reading
from axlebox.runtime.store import Store
kept = Store.open(Path(sys.argv[1]), print)
number = 0
while True:
    kept.add([Reading(float(number + n), "a", (number + n) / 10) for n in range(100)])
    if number % 300 == 0:
        kept.event({"number": number})
    kept.flush()
    number += 100
    print(number, flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-P", "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("flushes", [1, 2, 37, 150])
def test_a_killed_writer_loses_nothing_that_was_flushed(
    tmp_path: Path, said: list[str], writer: subprocess.Popen[str], flushes: int
) -> None:
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(flushes)][-1]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = [one.time for one in stored.recent(tmp_path)]
    assert found == [float(number) for number in range(len(found))] and len(found) >= told
    opened = Store.open(tmp_path, said.append)
    assert opened.session == 2 and said == [] and opened.last_error is None
    assert opened._db is not None
    assert opened._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert [one.time for one in stored.recent(tmp_path)] == found
    opened.close()
    assert {path.name for path in tmp_path.iterdir()} == {"store.db"}


def test_a_reader_sees_whole_blocks_while_another_process_writes(tmp_path: Path, writer: subprocess.Popen[str]) -> None:
    assert writer.stdout is not None
    lengths = []
    for _ in range(30):
        told = int(writer.stdout.readline())
        found = [one.time for one in stored.recent(tmp_path)]
        assert found == [float(number) for number in range(len(found))]
        assert len(found) >= told and len(found) % 100 == 0
        assert stored.last_events(tmp_path, 1)[0]["number"] % 300 == 0
        lengths.append(len(found))
    assert lengths[-1] > lengths[0]


# -- files that are no store ----------------------------------------------------------------------

READERS = [
    lambda data: list(stored.recent(data)),
    lambda data: list(stored.blocks(data)),
    stored.last_readings,
    lambda data: stored.last_events(data, 5),
    stored.marks,
    stored.session,
    lambda data: stored.counts(data, "d") != Counts(),
]


@pytest.mark.parametrize("read", READERS)
def test_without_a_store_there_is_nothing_and_nothing_is_made(tmp_path: Path, read: Any) -> None:
    assert not read(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "store.db").touch()  # a power cut right after the first start
    assert not read(tmp_path)


@pytest.mark.parametrize("read", READERS)
def test_a_reader_tells_a_damaged_box_from_a_damaged_stick(tmp_path: Path, read: Any) -> None:
    (tmp_path / "store.db").write_bytes(b"no database at all " * 200)
    with pytest.raises(BoxDamaged, match=r"store\.db is damaged: file is not a database") as caught:
        read(tmp_path)
    assert caught.value.exit_code == 12 and "call for help" in caught.value.advice


@pytest.mark.parametrize("read", READERS)
def test_a_store_that_cannot_be_read_now_is_no_damage(tmp_path: Path, read: Any) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(AxleboxError, match=r"store\.db cannot be read") as caught:
        read(tmp_path)
    assert type(caught.value) is AxleboxError


def filled(data: Path) -> None:
    opened = Store.open(data, print)
    opened.add(fleet(60))
    for number in range(200):
        opened.event({"number": number})
    opened.close()


def overwritten(path: Path) -> None:
    path.write_bytes(b"\x5a" * 9000)


def torn(path: Path) -> None:
    """The second half of the file reads as zeros."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {database.FORMAT + 1}")
    db.close()


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE events (something TEXT)")
    db.close()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (overwritten, "damaged"),
        (torn, "damaged"),
        (cut, "damaged"),
        (newer, "of format 3, and this runtime knows format 2"),
        (foreign, "another program's"),
    ],
)
def test_what_cannot_be_the_store_is_set_aside_and_a_new_one_begins(
    tmp_path: Path, said: list[str], spoil: Any, reason: str
) -> None:
    filled(tmp_path)
    spoil(tmp_path / "store.db")
    spoiled = (tmp_path / "store.db").read_bytes()
    (tmp_path / "store.damaged.db").write_text("an older one")
    opened = Store.open(tmp_path, said.append)
    opened.add(fleet(1))
    opened.close()
    assert said == [f"store.db is {reason}; it is kept as store.damaged.db, and a new one begins"]
    assert (opened.failures, opened.session) == (0, 1)
    assert (tmp_path / "store.damaged.db").read_bytes() == spoiled
    assert {path.name for path in tmp_path.iterdir()} == {"store.db", "store.damaged.db"}
    assert list(stored.recent(tmp_path)) == fleet(1)


def test_the_log_of_a_damaged_store_is_not_played_into_the_new_one(tmp_path: Path, said: list[str]) -> None:
    before, after = tmp_path / "before", tmp_path / "after a power cut"
    before.mkdir()
    filled(before)
    opened = Store.open(before, said.append)
    opened.add(fleet(1))
    opened.flush()
    shutil.copytree(before, after)
    opened.close()
    assert database.log_bytes(after) > 0
    torn(after / "store.db")
    opened = Store.open(after, said.append)
    assert len(said) == 1 and opened.session == 1
    assert list(stored.recent(after)) == [] == stored.last_events(after, 5)
    opened.close()


def test_a_log_that_was_left_behind_goes_with_its_store(tmp_path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"store.db{end}").write_text("x")
    database.set_aside(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["store.damaged.db"]


def test_a_store_that_is_damaged_while_it_runs_begins_anew_with_what_waits(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    opened = Store.open(tmp_path, said.append)
    opened.add(fleet(1))
    before = opened.taken

    def found_damaged(*_: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(opened, "_write_events", found_damaged)
        opened.flush()
    assert opened.failures == 1 and (tmp_path / "store.damaged.db").exists()
    opened.flush()
    assert opened.last_error is None and list(stored.recent(tmp_path)) == fleet(1)
    assert opened.session == 2 == stored.session(tmp_path)
    assert [number for number, _ in stored.blocks(tmp_path)] == [before]  # so whoever goes on behind one misses none
    opened.close()


def test_a_store_can_be_read_from_a_copy_in_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "store.db", copy)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert list(stored.recent(copy)) == fleet(60)
    assert [path.name for path in copy.iterdir()] == ["store.db"]  # nothing was tried beside it


# -- a thread of its own ---------------------------------------------------------------------------


@pytest.fixture
def threaded(tmp_path: Path, said: list[str]) -> Iterator[Store]:
    made = Store.open(tmp_path, said.append, own_thread=True)
    yield made
    made.close()


def written_soon(made: Store) -> None:
    made.flush_soon()
    began = time.monotonic()
    while not made.due(float("inf")):
        assert time.monotonic() - began < 30
        time.sleep(0.001)


def test_what_comes_while_the_store_writes_waits_with_its_own_position(
    threaded: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a followed file would be read on from too early, or too late, after a kill."""
    goes_on = threading.Event()
    true_write = threaded._write

    def slow(*words: Any) -> None:
        assert goes_on.wait(30)
        true_write(*words)

    monkeypatch.setattr(threaded, "_write", slow)
    items = fleet(2)
    threaded.add(items[:100])
    threaded.at(b"behind 100")
    threaded.flush_soon()
    threaded.add(items[100:])
    threaded.at(b"behind 200")
    assert not threaded.due(float("inf")), "one at a time"
    threaded.flush_soon()
    assert threaded.pending() == (0, items)
    goes_on.set()
    while threaded.busy:
        time.sleep(0.001)
    assert (stored.position(tmp_path), len(list(stored.recent(tmp_path)))) == (b"behind 100", 100)
    written_soon(threaded)
    assert (stored.position(tmp_path), list(stored.recent(tmp_path))) == (b"behind 200", items)


def test_a_mistake_in_the_thread_is_said_and_the_next_flush_writes_everything(
    threaded: Store, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threaded.add(fleet(1))
    with monkeypatch.context() as broken:
        broken.setattr(threaded, "_write_events", lambda *_: 1 / 0)
        written_soon(threaded)
    assert said == ["store.db cannot be written: division by zero; scoring goes on"]
    written_soon(threaded)
    assert list(stored.recent(tmp_path)) == fleet(1) and threaded.last_error is None


def test_a_disk_that_hangs_holds_the_end_up_for_a_while_only(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CLOSE_S", 0.1)
    goes_on = threading.Event()
    made = Store.open(tmp_path, said.append, own_thread=True)
    monkeypatch.setattr(made, "_write", lambda *_: goes_on.wait(30))
    made.add(fleet(1))
    made.flush_soon()
    made.close()
    goes_on.set()
    assert said == ["store.db hangs: what waits for it is lost"]


def test_a_store_that_is_switched_off_keeps_nothing(tmp_path: Path, said: list[str]) -> None:
    made = Store.open(tmp_path, said.append, enabled=False)
    made.add(fleet(1))
    made.event({"type": "x"})
    made.flush()
    made.close()
    assert (said, list(tmp_path.iterdir()), made.pending()[1]) == ([], [], [])


def test_beyond_the_bytes_of_a_day_events_are_kept_and_readings_are_not(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Store.open(tmp_path, said.append, max_bytes_per_day=60_000)
    for number in range(40):
        made.add(fleet(20, start=START + 20 * number, seed=number))
        made.event({"type": "x", "number": number})
        made.flush()
    kept = len(list(stored.recent(tmp_path)))
    assert 2000 <= kept < 40 * 2000 and made.dropped == 40 * 2000 - kept
    assert len(stored.last_events(tmp_path, 100)) == 40
    monkeypatch.setattr(made, "_day_began", made._day_began - store.DAY_S)
    made.add(fleet(1, start=START + 9000))
    made.flush()
    assert len(list(stored.recent(tmp_path))) == kept + 100
    made.close()


def test_a_store_of_the_format_before_is_upgraded_with_everything_in_it(tmp_path: Path, said: list[str]) -> None:
    items = fleet(3)
    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        for statement in database._SCHEMA:
            db.execute(statement)
        for number, start in enumerate((0, 100, 200), 1):
            block = items[start : start + 100]
            db.execute("INSERT INTO blocks VALUES (?, 1, ?, ?)", (number, len(block), ring.encode(block)))
        db.execute('INSERT INTO events (body) VALUES (\'{"type":"anomaly","id":"a"}\')')
        db.execute("PRAGMA user_version = 1")
        db.commit()
    assert stored.acks(tmp_path) == {} and stored.position(tmp_path) is None, "before the daemon ever ran"
    made = Store.open(tmp_path, said.append)
    assert [number for number, _ in stored.blocks(tmp_path)] == [100, 200, 300]
    assert list(stored.recent(tmp_path)) == items and made.taken == 300
    acknowledge(tmp_path, "a", Ack("true", "hot", 5.0, "ann"))
    assert stored.acks(tmp_path)["a"] == Ack("true", "hot", 5.0, "ann")
    made.close()
    assert said == [] and stored.last_events(tmp_path, 5) == [{"type": "anomaly", "id": "a"}]


def test_sketches_of_a_day_are_added_up_and_the_oldest_go(
    kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_SKETCHES", 5)
    for _ in range(3):
        one = Sketch.empty()
        one.values.add([20.0, 30.0])
        one.readings = 2
        kept.sketch(9, "a", one)
        kept.flush()
    body = stored.sketch(tmp_path, 9, "a")
    assert body is not None and Sketch.decode(body).readings == 6 and Sketch.decode(body).values.count == 6
    for day in range(10, 20):
        kept.sketch(day, "a", Sketch.empty())
    kept.flush()
    assert stored.sketch(tmp_path, 9, "a") is None and stored.sketch(tmp_path, 19, "a") is not None


def test_an_end_during_a_flush_waits_for_that_flush_alone(tmp_path: Path, said: list[str]) -> None:
    kept = Store.open(tmp_path, said.append, own_thread=True)
    begun, go_on = threading.Event(), threading.Event()
    write = kept._write

    def slow(db: sqlite3.Connection, waiting: Any) -> None:
        begun.set()
        assert go_on.wait(30)
        write(db, waiting)

    kept._write = slow  # type: ignore[method-assign]
    kept.add(fleet(1))
    kept.flush_soon()
    assert begun.wait(30)
    closing = threading.Thread(target=kept.close, daemon=True)
    closing.start()
    while not kept._ends:
        pass
    go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert len(list(stored.recent(tmp_path))) == 100


def test_a_row_that_cannot_be_merged_is_a_failure_that_is_said(tmp_path: Path, said: list[str]) -> None:
    kept = Store.open(tmp_path, said.append, own_thread=True)
    kept.sketch(1, "a", Sketch.empty())
    kept.flush()
    with sqlite3.connect(tmp_path / database.NAME) as db:
        db.execute("UPDATE sketches SET body = x'c1'")
    kept.sketch(1, "a", Sketch.empty())
    kept.flush_soon()
    while kept.busy:
        pass
    assert kept.last_error is not None and len(said) == 1
    kept.close()
    assert kept.last_error is not None


@pytest.mark.parametrize("ends", [("", "-wal", "-shm"), ("",), ("-wal",)])
def test_files_that_are_removed_under_the_daemon_are_made_anew(
    tmp_path: Path, said: list[str], ends: tuple[str, ...]
) -> None:
    kept = Store.open(tmp_path, said.append)
    kept.add(fleet(1))
    kept.flush()
    for end in ends:
        tmp_path.joinpath(database.NAME + end).unlink()
    items = fleet(1, start=START + 1)
    kept.add(items)
    kept.flush()
    assert len(said) == 1 and "was removed" in said[0]
    assert kept.last_error is None
    assert bits(list(stored.recent(tmp_path)))[-100:] == bits(items)
    kept.add(items)
    kept.flush()
    kept.close()
    assert len(said) == 1
    assert bits(list(stored.recent(tmp_path)))[-200:] == bits(items) * 2


def test_capsules_that_cannot_be_written_are_bounded(tmp_path: Path, said: list[str]) -> None:
    tmp_path.joinpath(database.NAME).mkdir()
    kept = Store.open(tmp_path, said.append)
    for number in range(3 * store.MAX_CAPSULES):
        kept.capsule(f"event {number}", b"x")
        if number % 50 == 0:
            kept.flush()
    assert len(kept._waiting.capsules) == store.MAX_CAPSULES
    assert f"event {3 * store.MAX_CAPSULES - 1}" in kept._waiting.capsules
    kept.close()
