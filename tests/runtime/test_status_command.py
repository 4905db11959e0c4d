"""`axleboxd status`: one true screen, whatever is wrong with the box."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle.receipts import MAX_LOG_BYTES
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Occasion, Vehicle
from axlebox.runtime import database, status_command, stored
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.readings import format_time
from axlebox.runtime.status_command import LINES
from axlebox.runtime.store import Store

NOW = datetime(2026, 4, 1, tzinfo=UTC)

Status = Callable[..., Any]


def silent(line: str) -> None:
    """What is said while a vehicle is prepared is none of a status."""


@pytest.fixture
def status(run: Any) -> Status:
    """`axleboxd status`, which always fits a console, and says the same as JSON."""

    def call() -> Any:
        ended = run("status")
        assert ended.err == ""
        lines = ended.out.splitlines()
        assert len(lines) <= LINES == 23
        assert max(map(len, lines)) <= 79
        again = run("status", "--json")
        record = json.loads(again.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert again.code == ended.code == record["code"]
        health, _, _ = squeezed(ended.out).partition("VEHICLE")
        wanted = squeezed(f"HEALTH {ended.code} {record['trouble']}") if ended.code else "HEALTHOK"
        assert health == wanted or (health.endswith("...") and wanted.startswith(health[:-3]))
        ended.record = record
        return ended

    return call


@pytest.fixture
def data(world: Any, vehicle: Path) -> Path:
    """A vehicle with release 1 confirmed and release 2 on trial."""
    box = Vehicle.open(vehicle)
    world.install(box, world.bundle(1), say=silent)
    world.confirm(box)
    world.install(box, world.bundle(2), say=silent)
    return vehicle


def squeezed(text: str) -> str:
    """Without spaces: a long path is broken where a line ends."""
    return "".join(text.split())


def contents(data: Path) -> dict[Path, bytes]:
    """Every file but those by which SQLite keeps readers and a writer apart."""
    return {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and "store.db-" not in path.name}


def sensor(name: str, **changes: Any) -> dict[str, Any]:
    plain = {"value": 98.0, "unit": "C", "time": "2026-04-01T00:00:00Z", "age_s": 3.0, "status": "ok", "reason": ""}
    return {"sensor": name, **plain, "raised": None, **changes}


@pytest.fixture
def daemon(data: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The answer of a daemon that runs release 2 well; a test may change it."""
    release = {"name": "bearing-temp", "version": 2, "digest": Vehicle.open(data).state().running, "runs_s": 90.0}
    answer = {
        **{"pid": 7, "up_s": 90.0, "release": release, "readings": 100, "scored": 100, "refused": None},
        **{"sensors": [sensor("axle-1")], "more_sensors": 0},
        "store": {"error": None, "dropped": 0, "bytes_written": 0},
        **{"source": {"uri": "can:", "connected": True, "reconnects": 0, "lost": 0, "error": None}, "sinks": []},
        "bytes_per_day": 0.0,
    }
    monkeypatch.setattr(status_command, "ask_status", lambda folder: answer)
    return answer


def remember(data: Path, sensors: int = 1, events: int = 0) -> None:
    """Fill the store as a daemon does."""
    with contextlib.closing(Store.open(data, silent)) as store:
        outcomes = [Outcome(0, f"axle-{number}", 1.8e9 + number, 98.0, "ok", score=0.4) for number in range(sensors)]
        store.note("d" * 64, outcomes)
        for number in range(events):
            time = format_time(1.8e9 + number)
            event = {"type": "anomaly", "state": "raised", "time": time, "sensor": f"axle-{number}"}
            store.event({**event, "value": 170.0 + number})


# -- exit codes -----------------------------------------------------------------------------------


def test_all_is_well(status: Status, daemon: dict[str, Any]) -> None:
    ended = status()
    assert ended.code == 0
    assert "DAEMON    running for 90 s, 100 readings\n" in ended.out
    assert "READINGS  axle-1  98.0 C  3 s ago, ok\n" in ended.out
    assert ended.record["trouble"] is None


def test_20_without_a_release(status: Status, vehicle: Path) -> None:
    ended = status()
    assert ended.code == 20
    assert "no release is installed. DO: axleboxd install" in ended.words


def test_40_without_a_daemon(status: Status, data: Path) -> None:
    ended = status()
    assert ended.code == 40
    assert "the daemon does not run. DO: start it" in ended.words
    assert "DAEMON    not running\n" in ended.out
    assert "FALLBACK  bearing-temp 1 (axleboxd fallback)\n" in ended.out


@pytest.mark.parametrize("sensors", [[], [sensor("axle-1", age_s=61.0)]])
def test_41_where_no_readings_come(status: Status, daemon: dict[str, Any], sensors: list[Any]) -> None:
    daemon["sensors"] = sensors
    ended = status()
    assert ended.code == 41
    assert f"no reading for {'61' if sensors else '90'} s. DO: check the source of the readings" in ended.words


def test_just_started_it_waits_for_a_first_reading(status: Status, daemon: dict[str, Any]) -> None:
    daemon |= {"sensors": [], "up_s": 59.0}
    assert status().code == 0


@pytest.mark.parametrize("kept", ["invalid", "stuck"])
def test_42_where_sensors_are_at_fault(status: Status, daemon: dict[str, Any], kept: str) -> None:
    daemon["sensors"] += [sensor(f"axle-{number}", value=None, status=kept, reason="why") for number in range(2, 7)]
    ended = status()
    assert ended.code == 42
    assert "at fault: axle-2, axle-3, axle-4 and 2 more. DO: check the sensor and its cable" in ended.words
    assert f"axle-2  - C  3 s ago, {kept}: why\n" in ended.out


@pytest.mark.parametrize("state", ["warming", "replaced"])
def test_a_sensor_that_begins_is_not_at_fault(status: Status, daemon: dict[str, Any], state: str) -> None:
    daemon["sensors"] = [sensor("axle-1", status=state)]
    assert status().code == 0


def test_an_anomaly_is_shown_and_is_no_trouble_of_the_box(status: Status, daemon: dict[str, Any]) -> None:
    daemon["sensors"] = [sensor("axle-1", raised="an event's id")]
    ended = status()
    assert (ended.code, "98.0 C  3 s ago, ok, ANOMALY\n" in ended.out) == (0, True)


# -- damage ---------------------------------------------------------------------------------------


def test_12_where_the_release_is_damaged(status: Status, data: Path, daemon: dict[str, Any]) -> None:
    digest = Vehicle.open(data).state().running
    (data / "slots" / str(digest) / "model.onnx").write_bytes(b"worn flash")
    ended = status()
    assert ended.code == 12
    assert "is damaged" in ended.words and "DO: axleboxd install, from the stick" in ended.words
    assert "FLOOR     nothing below release 1 can be installed" in ended.out
    assert (ended.record["floor"], ended.record["release"]) == (1, None)


def test_12_where_both_state_files_are_damaged_and_what_is_not_known_is_not_claimed(
    status: Status, data: Path, daemon: dict[str, Any]
) -> None:
    for path in data.glob("state.?"):
        path.write_bytes(b"worn flash")
    ended = status()
    assert ended.code == 12
    health, _, _ = ended.words.partition(" VEHICLE ")
    assert health.count("DO:") == 1
    assert "FLOOR     not known\n" in ended.out
    assert "FALLBACK  not known\n" in ended.out
    assert "DAEMON    running" in ended.out
    assert [ended.record[name] for name in ("trial", "tries", "floor", "min_sequence")] == [None] * 4


def test_a_store_that_is_no_database_is_told(status: Status, data: Path, daemon: dict[str, Any]) -> None:
    (data / "store.db").write_bytes(b"worn flash " * 1000)
    ended = status()
    assert ended.code == 0
    assert squeezed(f"STORE {data}/store.db is damaged") in squeezed(ended.out)
    assert "is damaged" in ended.record["store_error"]
    assert "READINGS  axle-1  98.0 C" in ended.out


@pytest.mark.parametrize("body", [b"{", b"[1]", b'{"value": NaN}', b"\xff"])
def test_an_event_that_cannot_be_read_is_told(status: Status, data: Path, body: bytes) -> None:
    remember(data, events=2)
    with contextlib.closing(sqlite3.connect(data / "store.db")) as db, db:
        db.execute("UPDATE events SET body = ?", (body,))
    ended = status()
    assert ended.code == 40
    assert squeezed(f"STORE {data}/store.db is damaged: an event in it") in squeezed(ended.out)
    assert "an event in it cannot be read" in ended.record["store_error"]


def test_what_the_daemon_says_of_its_store_is_shown(status: Status, daemon: dict[str, Any]) -> None:
    daemon["store"]["error"] = "database or disk is full"
    ended = status()
    assert "STORE     database or disk is full\n" in ended.out
    assert ended.record["store_error"] == "database or disk is full"


def test_a_log_of_receipts_that_cannot_be_read_is_told(status: Status, data: Path) -> None:
    (data / "receipts.log").write_bytes(b"x" * (2 * MAX_LOG_BYTES + 1))
    ended = status()
    assert ended.code == 40
    assert squeezed(f"STORE {data}/receipts.log is larger than") in squeezed(ended.out)
    assert ended.record["receipt"] is None


# -- what is shown --------------------------------------------------------------------------------


def test_without_a_daemon_the_store_s_last_readings_and_events_are_shown(status: Status, data: Path) -> None:
    remember(data, sensors=2, events=2)
    ended = status()
    assert "READINGS  axle-1  98.0" in ended.out
    assert "EVENTS    2027-01-15T08:00:01Z  axle-1  anomaly raised  171.0\n" in ended.out
    assert [one["sensor"] for one in ended.record["events"]] == ["axle-1", "axle-0"]


def test_while_the_daemon_writes_what_was_written_before_is_shown(status: Status, data: Path) -> None:
    remember(data, events=1)
    with contextlib.closing(database.open_for_writing(data)) as db, database.transaction(db):
        db.execute("DELETE FROM events")
        ended = status()
    assert "EVENTS    2027-01-15T08:00:00Z  axle-0  anomaly raised  170.0\n" in ended.out
    assert ended.record["store_error"] is None
    assert status().record["events"] == []


def test_a_value_that_is_no_number_is_strict_json(status: Status, data: Path) -> None:
    with contextlib.closing(Store.open(data, silent)) as store:
        store.note("d" * 64, [Outcome(0, "axle-1", 1.8e9, float("nan"), "invalid")])
        store.event({"type": "sensor", "state": "faulty", "value": float("inf"), "sensor": None, "time": None})
    ended = status()
    assert "axle-1  -" in ended.out
    assert ended.record["sensors"][0]["value"] is None


def test_a_release_that_was_dropped_is_told_by_its_receipt(world: Any, status: Status, data: Path) -> None:
    starter = Starter(Vehicle.open(data), "this boot", world.runtime, lambda slot: "20/20")
    digest = str(starter.vehicle.state().trial)
    for _ in range(4):
        starter.start(Occasion(NOW, silent))
    ended = status()
    assert "RELEASE   bearing-temp 1, confirmed" in ended.out
    assert f"2026-04-01 00:00 drop 30: the release on trial ({digest[:8]}) ended early 3 times; it is" in ended.words
    assert ended.record["receipt"] in ended.out


def test_a_daemon_that_still_runs_the_old_release_says_so(status: Status, daemon: dict[str, Any]) -> None:
    daemon["release"] |= {"version": 1, "digest": "e" * 64}
    daemon["refused"] = {"digest": "f" * 64, "reason": "no session"}
    ended = status()
    assert "still with bearing-temp 1; did not take ffffffff over: no session" in ended.words


def test_a_clock_before_the_time_floor_is_not_trusted(
    status: Status, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class At1970(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(1970, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(status_command, "datetime", At1970)
    assert "clock 1970-01-01 00:00 (not trusted)" in status().words


def test_much_of_everything_fits_one_screen(status: Status, data: Path, daemon: dict[str, Any]) -> None:
    remember(data, events=9)
    daemon["sensors"] = [sensor(f"axle-{number}-of-the-left-hand-side") for number in range(9)]
    daemon["more_sensors"] = 3
    ended = status()
    assert "EVENTS    2027-01-15T08:00:08Z" in ended.out
    shown = sum("of-the-left-hand-side  98.0 C" in line for line in ended.out.splitlines())
    assert f"and {12 - shown} sensors more\n" in ended.out
    assert shown >= 4
    assert (len(ended.record["sensors"]), len(ended.record["events"])) == (9, 4)


def test_the_worst_case_fits_one_screen_too(
    run: Any, status: Status, data: Path, daemon: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a reason that goes on and on, " * 20
    remember(data, events=9)
    run("confirm", "--digest", "0" * 64)
    daemon["sensors"] = [
        sensor("s" * 64, value=None, status="invalid", reason=long, time=None, raised="x") for _ in range(64)
    ]
    daemon |= {"more_sensors": 1000, "refused": {"digest": "f" * 64, "reason": long}}
    daemon["store"]["error"] = long
    ended = status()
    assert ended.code == 42
    for word in ("HEALTH", "VEHICLE", "RELEASE", "FALLBACK", "FLOOR", "DAEMON", "READINGS", "STORE", "RECEIPT"):
        assert f"{word:<10}" in ended.out


def test_the_age_of_a_release_is_told_in_days(status: Status, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = Vehicle.open(data).release(str(Vehicle.open(data).state().running)).released

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return released + timedelta(days=61)

    monkeypatch.setattr(status_command, "datetime", Later)
    assert "on trial, 3 tries left, built 2026-03-01 (61 days ago)" in status().words


def test_status_changes_nothing(status: Status, data: Path) -> None:
    remember(data, events=1)
    before = contents(data)
    status()
    assert contents(data) == before
    assert stored.last_events(data, 1)


def test_a_source_that_is_not_there_and_a_sink_that_drops_are_shown(run: Any, daemon: dict[str, Any]) -> None:
    daemon["source"] = {"uri": "can:", "connected": False, "reconnects": 3, "lost": 12, "error": "Network is down"}
    daemon["sinks"] = [
        {"uri": "mqtt:", "queued": 5, "written": 7, "dropped": 4, "error": None},
        {"uri": "file:/x", "queued": 0, "written": 7, "dropped": 0, "error": None},
    ]
    daemon["bytes_per_day"] = 16_500_000.0
    words = run("status").words
    said = ("SOURCE can: is not there: Network is down", "SOURCE can: lost 12 readings", "SINK mqtt:, 4 dropped")
    assert all(line in words for line in (*said, "16.5 MB a day"))
    assert "file:/x" not in words
