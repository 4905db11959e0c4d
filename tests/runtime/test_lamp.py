"""The driver's lamp, and the thread between the daemon and each display."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.runtime.config import LampSettings
from axlebox.runtime.figures import (
    LATENCY_BOUNDS_S,
    Buckets,
    Figures,
    ReleaseFigures,
    SensorFigures,
    StoreFigures,
)
from axlebox.runtime.sinks.displays import Board, replace_file
from axlebox.runtime.sinks.lamp import Lamp, sentence

NOT_WATCHING = "axlebox does not watch. DO: tell maintenance\n"
WAIT_S = 10.0


def figures(**differs: Any) -> Figures:
    """Those of a vehicle on which all is well."""
    usual: dict[str, Any] = {
        "pid": 1,
        "vehicle": "T204",
        "runtime": "0.1.0",
        "up_s": 1.0,
        "release": ReleaseFigures("bearings", 1, "0a1b", 1.0),
        "readings": 0,
        "scored": 0,
        "flags": 0,
        "statuses": {},
        "events": {},
        "sensors": [sensor("A", "ok"), sensor("B", "warming"), sensor("C", "replaced")],
        "more_sensors": 0,
        "kinds": {},
        "source": None,
        "sinks": [],
        "store": StoreFigures(None, 0, 0),
        "bytes_written": 0,
        "bytes_per_day": 0.0,
        "latency": Buckets.of(LATENCY_BOUNDS_S),
        "memory_bytes": 1,
        "clock_trusted": True,
        "health": [],
        "open_events": [],
        "refused": None,
    }
    return Figures(**{**usual, **differs})


def sensor(name: str, status: str) -> SensorFigures:
    return SensorFigures(name, "bearing", 61.0, "°C", None, 0.0, status, "", None, None, None, None)


def event(name: str, severity: str = "extreme", kind: str = "anomaly", **more: Any) -> dict[str, Any]:
    usual = {"id": f"1-{name}", "type": kind, "sensor": name, "severity": severity, "value": 91.6, "action": "stop"}
    return {**usual, **more}


HOT = figures(open_events=[event("A")])


@pytest.fixture
def led(tmp_path: Path) -> Path:
    path = tmp_path / "brightness"
    path.write_text("255\n")
    return path


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return tmp_path / "lamp.txt"


# -- the words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "on", "line"),
    [
        (figures(), False, "OK"),
        (HOT, True, "AT ONCE: A is hot or unusual (92). DO: stop"),
        (
            figures(open_events=[event("A", "mild", action="look at the bearing")]),
            True,
            "SOON: A is hot or unusual (92). DO: look at the bearing",
        ),
        (figures(open_events=[event("A", kind="limit")]), True, "AT ONCE: A is hot (92). DO: stop"),
        (
            figures(open_events=[event("A", kind="sensor", state="hot-or-sensor")]),
            True,
            "AT ONCE: A is hot, or at fault itself (92). DO: stop",
        ),
        (
            figures(open_events=[event("A", "mild"), event("B"), event("B", "mild"), event("C")]),
            True,
            "AT ONCE: B is hot or unusual (92), and 2 more. DO: stop",
        ),
        (
            figures(open_events=[event("A", value=None, action=None)], health=["no reading for 61 s"]),
            True,
            "AT ONCE: A is hot or unusual. DO: look at it",
        ),
        (figures(open_events=[event("A", severity=None)]), True, "SOON: A is hot or unusual (92). DO: stop"),
        (
            figures(health=["no reading for 61 s"]),
            True,
            "axlebox does not watch: no reading for 61 s. DO: tell maintenance",
        ),
        (figures(sensors=[sensor("A", "ok"), sensor("B", "stuck")]), False, "OK, but B is at fault"),
        (
            figures(sensors=[sensor("A", "stale"), sensor("B", "stuck")]),
            False,
            "OK, but A is at fault and others are",
        ),
        (
            figures(open_events=[event("A\nB\x1b[2J", action="stop\n\nnow")]),
            True,
            "AT ONCE: A B?[2J is hot or unusual (92). DO: stop now",
        ),
    ],
)
def test_what_the_driver_is_told(picture: Figures, on: bool, line: str) -> None:
    assert sentence(picture) == (on, line)


# -- the lamp ---------------------------------------------------------------------------------------


def test_the_lamp_is_on_before_the_first_picture_and_after_the_end_and_off_while_all_is_well(
    led: Path, words: Path
) -> None:
    lamp = Lamp(led, LampSettings(status_file=str(words)))
    assert (led.read_text(), words.read_text()) == ("1\n", NOT_WATCHING)
    lamp.show(figures())
    assert (led.read_text(), words.read_text()) == ("0\n", "OK\n")
    lamp.show(HOT)
    assert (led.read_text(), words.read_text()) == ("1\n", "AT ONCE: A is hot or unusual (92). DO: stop\n")
    lamp.show(figures())
    assert (led.read_text(), words.read_text()) == ("0\n", "OK\n")
    lamp.close()
    assert (led.read_text(), words.read_text()) == ("1\n", NOT_WATCHING)
    assert lamp.bytes_written == 0


def test_a_pin_that_is_lit_by_zero(led: Path) -> None:
    lamp = Lamp(led, LampSettings(on="0", off="1"))
    assert led.read_text() == "0\n"
    lamp.show(figures())
    assert led.read_text() == "1\n"


def test_of_a_longer_word_before_nothing_is_left(led: Path) -> None:
    lamp = Lamp(led, LampSettings(on="255", off="0"))
    lamp.show(figures())
    assert led.read_text() == "0\n"


def test_a_lamp_that_something_else_switched_is_switched_back_also_where_nothing_changed(led: Path) -> None:
    lamp = Lamp(led, LampSettings())
    lamp.show(HOT)
    led.write_text("0\n")  # its driver was loaded again
    lamp.show(HOT)
    assert led.read_text() == "1\n"


def test_the_words_are_written_only_where_they_changed_and_anyone_may_read_them(led: Path, words: Path) -> None:
    before = os.umask(0o077)
    try:
        lamp = Lamp(led, LampSettings(status_file=str(words)))
        lamp.show(figures())
    finally:
        os.umask(before)
    first = words.stat()
    assert first.st_mode & 0o777 == 0o644
    lamp.show(figures())
    assert words.stat().st_ino == first.st_ino and words.stat().st_mtime_ns == first.st_mtime_ns


def test_a_lamp_that_is_not_there_is_a_usage_error_and_no_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "brightness"
    with pytest.raises(UsageError) as caught:
        Lamp(path, LampSettings())
    assert str(caught.value) == f"sink lamp:{path}: {path}: No such file or directory"
    assert not path.exists()


def test_words_that_cannot_be_written_are_a_usage_error_that_names_their_file(led: Path, tmp_path: Path) -> None:
    place = tmp_path / "none" / "lamp.txt"
    with pytest.raises(UsageError, match=r"none/lamp\.txt\.part: No such file"):
        Lamp(led, LampSettings(status_file=str(place)))
    assert led.read_text() == "1\n"


def test_a_fifo_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="No such device or address"):
        Lamp(tmp_path / "fifo", LampSettings())


def test_where_the_words_cannot_be_written_the_lamp_is_switched_all_the_same(led: Path, words: Path) -> None:
    lamp = Lamp(led, LampSettings(status_file=str(words)))
    words.unlink()
    words.mkdir()
    for picture, shown in ((figures(), "0\n"), (HOT, "1\n")):
        with pytest.raises(IsADirectoryError):
            lamp.show(picture)
        assert led.read_text() == shown
    words.rmdir()
    lamp.show(HOT)
    assert words.read_text().startswith("AT ONCE")


def test_a_full_disk_leaves_the_file_as_it_was_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lamp.txt"
    replace_file(path, "before\n")
    monkeypatch.setattr("axlebox.runtime.sinks.displays.os.fchmod", _no_space)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, "after\n")
    assert path.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [path]


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


# -- the thread -------------------------------------------------------------------------------------


class Screen:
    """A display that keeps what it was shown, and does as it is told."""

    uri = "screen:"
    bytes_written = 0
    period_s = 5.0

    def __init__(self) -> None:
        self.shown: list[Figures] = []
        self.closed = threading.Event()
        self.busy = threading.Event()
        """It has begun to show a picture."""
        self.free = threading.Event()
        """It may end to do so."""
        self.free.set()
        self.fails: Exception | None = None

    def show(self, figures: Figures) -> None:
        self.busy.set()
        assert self.free.wait(WAIT_S)
        if self.fails is not None:
            raise self.fails
        self.shown.append(figures)

    def close(self) -> None:
        self.closed.set()


class Told(list[str]):
    """What was said, and somebody who waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self.append(line)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self) >= count, WAIT_S), list(self)


def until(holds: Callable[[], object]) -> None:
    """What another thread does at once, and for which there is no signal."""
    end, pause = monotonic() + WAIT_S, threading.Event()
    while not holds():
        assert monotonic() < end
        pause.wait(0.005)


def test_a_board_shows_what_it_is_given_and_closes_its_display() -> None:
    screen, told = Screen(), Told()
    board = Board(screen, told)
    board.put(HOT)
    board.close()
    assert screen.shown == [HOT] and screen.closed.is_set()
    assert (board.shown, board.missed, told) == (1, 0, [])


def test_of_pictures_that_wait_only_the_newest_is_shown() -> None:
    screen = Screen()
    screen.free.clear()
    board = Board(screen, Told())
    pictures = [figures(flags=number) for number in range(5)]
    board.put(pictures[0])
    assert screen.busy.wait(WAIT_S)
    for picture in pictures[1:]:
        board.put(picture)
    screen.free.set()
    board.close()
    assert [one.flags for one in screen.shown] == [0, 4]
    assert (board.shown, board.missed) == (2, 3)


def test_a_display_that_hangs_holds_up_neither_a_picture_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axlebox.runtime.sinks.displays._PATIENCE_S", 0.05)
    screen = Screen()
    screen.free.clear()
    board = Board(screen, Told())
    try:
        board.put(HOT)
        assert screen.busy.wait(WAIT_S)
        began = monotonic()
        for _ in range(1000):
            board.put(figures())
        board.close()
        assert monotonic() - began < 2
        assert not screen.closed.is_set()
    finally:
        screen.free.set()


def test_a_picture_is_due_after_the_period_and_at_once_with_other_open_events() -> None:
    board = Board(Screen(), Told())
    asked: list[tuple[float, list[str]]] = [(0, []), (4.9, []), (5, []), (6, ["1"]), (7, ["1"]), (8, []), (12.9, [])]
    assert [board.due(now, found) for now, found in asked] == [True, False, True, True, False, True, False]
    board.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError(28, "No space left on device"), "No space left on device"), (AxleboxError("it is out"), "it is out")],
)
def test_a_display_that_fails_is_said_once_and_when_it_works_again(error: Exception, words: str) -> None:
    screen, told = Screen(), Told()
    board = Board(screen, told)
    screen.fails = error
    for number in range(3):
        screen.busy.clear()
        board.put(figures(flags=number))
        assert screen.busy.wait(WAIT_S)
    told.wait(1)
    assert told == [f"sink screen:: {words}; scoring goes on"]
    assert board.error == str(error)
    until(lambda: board._next is None)
    screen.fails = None
    board.put(HOT)
    told.wait(2)
    assert told == [f"sink screen:: {words}; scoring goes on", "sink screen: works again"]
    board.close()
    assert (board.shown, board.error) == (1, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_display_ends_with_the_lamp_on(led: Path) -> None:
    lamp = Lamp(led, LampSettings())
    board = Board(lamp, Told())
    board.put(figures())
    until(lambda: led.read_text() == "0\n")
    board.put(figures(open_events=[{"severity": "extreme"}]))  # no sensor: a KeyError
    until(lambda: led.read_text() == "1\n")
    board.put(figures())
    board.close()
    assert led.read_text() == "1\n"


def test_a_lamp_without_room_is_said_once_and_the_others_go_on(led: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lamp, full = Lamp(led, LampSettings()), Lamp(led, LampSettings())
    full.uri, full._path = "lamp:/dev/full", Path("/dev/full")
    screen, told = Screen(), Told()
    boards = [Board(full, told), Board(lamp, told), Board(screen, told)]
    for picture in (figures(), HOT, figures(), HOT):
        for board in boards:
            board.put(picture)
    for board in boards:
        board.close()
    assert told == ["sink lamp:/dev/full: No space left on device; scoring goes on"]
    assert boards[0].shown == 0
    assert led.read_text() == "1\n"
    assert screen.shown[-1] is HOT


def test_a_lamp_without_room_is_a_usage_error_at_the_start() -> None:
    with pytest.raises(UsageError, match="No space left on device"):
        Lamp(Path("/dev/full"), LampSettings())


def test_a_lamp_whose_file_is_gone_is_said_and_lit_when_it_is_back(led: Path) -> None:
    told = Told()
    lamp = Lamp(led, LampSettings())
    board = Board(lamp, told)
    led.unlink()
    board.put(HOT)
    told.wait(1)
    assert told == [f"sink lamp:{led}: No such file or directory; scoring goes on"]
    assert not led.exists()
    led.write_text("0\n")
    board.put(HOT)
    told.wait(2)
    assert led.read_text() == "1\n"
    board.close()
    assert told[1:] == [f"sink lamp:{led} works again"]
