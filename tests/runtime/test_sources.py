"""Sources of readings: what they give, that they come back, and what they count as lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import Config
from axlebox.runtime.readings import BadLine, Reading
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources import KNOWN, Source, open_source
from axlebox.runtime.sources import base as base_module
from axlebox.runtime.sources.base import Backoff, Health, Item
from axlebox.runtime.sources.follow import Follow
from axlebox.runtime.sources.hwmon import Hwmon
from axlebox.runtime.sources.inbox import Inbox
from axlebox.runtime.sources.replay import Descriptor, open_file

DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The process gets its own signal handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals() -> Signals:
    return Signals()


def opened(uri: str, signals: Signals) -> Source:
    return open_source(Config(source=uri), "temperature", signals)


def line(second: int, value: float = 100.0) -> bytes:
    return f"2026-04-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z,{value}\n".encode()


def values(items: list[Item]) -> list[float | str]:
    return [
        item.value if isinstance(item, Reading) else item.reason if isinstance(item, BadLine) else "" for item in items
    ]


def until(batches: Iterator[list[Item]], enough: Callable[[list[Item]], bool]) -> list[Item]:
    """Take batches until they are enough together."""
    found: list[Item] = []
    began = monotonic()
    while not enough(found):
        assert monotonic() - began < DEADLINE_S, f"it never came to that: {found[-3:]}"
        found += next(batches)
    return found


def count(number: int) -> Callable[[list[Item]], bool]:
    return lambda found: len(found) >= number


# -- stdin and files ------------------------------------------------------------------------------


def test_a_file_is_read_to_its_end_and_its_last_line_needs_no_line_end(tmp_path: Path, signals: Signals) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(b"".join(line(second, second) for second in range(40_000)).rstrip())
    with closing(opened(f"file:{path}", signals)) as source:
        batches = list(source.batches())
    assert len(batches) > 3
    assert values([item for batch in batches for item in batch]) == list(range(40_000))
    assert source.patience_s == float("inf")


def test_as_many_lines_as_have_arrived_come_at_once(signals: Signals) -> None:
    read, write = os.pipe()
    with closing(Descriptor("stdin:", read, "temperature", signals)) as source:
        batches = source.batches()
        os.write(write, line(0, 1) + line(1, 2) + line(2, 3)[:-2])
        assert values(next(batches)) == [1, 2]
        os.write(write, line(2, 3)[-2:])
        assert values(next(batches)) == [3]
        os.write(write, b"2026")
        os.kill(os.getpid(), signal.SIGTERM)
        assert list(batches) == [] and source.cut_bytes == 0
        os.close(write)


def test_a_stop_ends_the_wait_and_counts_the_bytes_of_the_line_that_was_cut(signals: Signals) -> None:
    read, write = os.pipe()
    with closing(Descriptor("stdin:", read, "temperature", signals)) as source:
        batches = source.batches()
        os.write(write, line(0) + b"hal")
        assert len(next(batches)) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        assert list(batches) == []
        assert source.cut_bytes == 3
        os.close(write)


def test_a_reload_ends_the_batches_and_nothing_that_was_half_read(signals: Signals) -> None:
    read, write = os.pipe()
    with closing(Descriptor("stdin:", read, "temperature", signals)) as source:
        batches = source.batches()
        os.write(write, line(0, 1) + line(1, 2)[:10])
        assert values(next(batches)) == [1]
        os.kill(os.getpid(), signal.SIGHUP)
        assert list(batches) == []
        signals.reloaded()
        os.write(write, line(1, 2)[10:])
        assert values(next(source.batches())) == [2]
        os.close(write)


@pytest.mark.parametrize(
    "uri", ["", "stdin:x", "standard input", "file:", "/a/path", "FILE:/a", "http://x/", "follow:"]
)
def test_what_is_no_source_is_a_usage_error_that_names_those_there_are(uri: str, signals: Signals) -> None:
    with pytest.raises(UsageError) as caught:
        opened(uri, signals)
    assert str(caught.value) == f"source {uri!r} is none of {KNOWN}"


def test_a_file_that_is_missing_or_none_is_a_usage_error_that_names_it(tmp_path: Path, signals: Signals) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    missing = tmp_path / "missing.csv"
    for path, why in (
        (missing, "No such file or directory"),
        *((one, "is not a regular file") for one in (tmp_path, fifo)),
    ):
        with pytest.raises(UsageError) as caught:
            opened(f"file:{path}", signals)
        assert str(caught.value) == f"source {path}: {why}"


def test_an_interrupted_replay_goes_on_where_it_was_and_a_finished_or_other_one_does_not(
    tmp_path: Path, signals: Signals
) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(b"value,time\n" + b"".join(b"%d," % n + line(n).split(b",")[0] + b"\n" for n in range(9000)))
    with closing(opened(f"file:{path}", signals)) as first:
        assert isinstance(first, Descriptor)
        batches = first.batches()
        begun = values(next(batches))
        position = first.position
        finished = values([item for batch in batches for item in batch])
        end = first.position
    assert position is not None and end is not None
    with closing(opened(f"file:{path}", signals)) as again:
        assert isinstance(again, Descriptor)
        assert again.resume(position)
        assert values([item for batch in again.batches() for item in batch]) == finished
    assert begun + finished == list(range(9000))
    other = tmp_path / "other.csv"
    other.write_bytes(path.read_bytes())
    for place, at in ((path, end), (other, position)):
        with closing(opened(f"file:{place}", signals)) as source:
            assert isinstance(source, Descriptor)
            assert not source.resume(at)


# -- follow ---------------------------------------------------------------------------------------


@pytest.fixture
def followed(tmp_path: Path, signals: Signals) -> Iterator[tuple[Path, Follow]]:
    path = tmp_path / "log.csv"
    with closing(Follow(path, "temperature", signals)) as source:
        yield path, source


def append(path: Path, *lines: bytes) -> None:
    with open(path, "ab") as file:
        for one in lines:
            file.write(one)


def test_a_followed_file_may_come_later_and_grows(followed: tuple[Path, Follow]) -> None:
    path, source = followed
    batches = source.batches()
    assert next(batches) == [] and not source.health.connected and source.health.error == "No such file or directory"
    append(path, line(0, 1), line(1, 2)[:5])
    assert values(until(batches, count(1))) == [1]
    append(path, line(1, 2)[5:])
    assert values(until(batches, count(1))) == [2]
    assert (source.health.connected, source.health.reconnects, source.health.lost) == (True, 0, 0)


def test_a_rotated_file_is_read_to_its_end_before_the_new_one_is_begun(followed: tuple[Path, Follow]) -> None:
    path, source = followed
    append(path, line(0, 1))
    batches = source.batches()
    assert values(until(batches, count(1))) == [1]
    path.rename(f"{path}.1")
    append(Path(f"{path}.1"), line(1, 2))  # whoever writes has not noticed yet
    assert values(until(batches, count(1))) == [2]
    append(Path(f"{path}.1"), line(2, 3))
    append(path, b"value,time\n", b"4," + line(3).split(b",")[0] + b"\n")
    assert values(until(batches, count(2))) == [3, 4]
    assert source.health.lost == 0


def test_a_file_that_was_cut_to_nothing_begins_anew(followed: tuple[Path, Follow]) -> None:
    path, source = followed
    append(path, line(0, 1), line(1, 2))
    batches = source.batches()
    assert values(until(batches, count(2))) == [1, 2]
    path.write_bytes(line(2, 3))
    assert values(until(batches, count(1))) == [3]


def test_a_restart_goes_on_behind_the_last_whole_line_also_where_the_file_was_rotated_meanwhile(
    tmp_path: Path, signals: Signals
) -> None:
    path = tmp_path / "log.csv"
    append(path, line(0, 1), line(1, 2), line(2, 3)[:8])
    with closing(Follow(path, "temperature", signals)) as first:
        assert values(until(first.batches(), count(2))) == [1, 2]
        position = first.position
    assert position is not None
    append(path, line(2, 3)[8:])
    path.rename(f"{path}.2")
    append(path, line(3, 4))
    with closing(Follow(path, "temperature", signals)) as again:
        assert again.resume(position)
        assert values(until(again.batches(), count(2))) == [3, 4]
        assert again.health.lost == 0


def test_where_the_file_of_before_is_gone_the_new_one_is_read_and_a_loss_is_counted(
    tmp_path: Path, signals: Signals
) -> None:
    path = tmp_path / "log.csv"
    append(path, line(0, 1))
    with closing(Follow(path, "temperature", signals)) as first:
        until(first.batches(), count(1))
        position = first.position
    assert position is not None
    path.write_bytes(line(1, 2) + line(2, 3))  # perhaps by the same inode
    with closing(Follow(path, "temperature", signals)) as again:
        assert not again.resume(position)
        assert values(until(again.batches(), count(2))) == [2, 3]
        assert again.health.lost == 1


def test_a_line_that_is_written_across_a_rotation_is_waited_for_and_never_scored_in_half(
    followed: tuple[Path, Follow], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, source = followed
    append(path, line(0, 1), b"2026-04-01T00:00:01Z,-1")
    batches = source.batches()
    assert values(until(batches, count(1))) == [1]
    path.rename(f"{path}.1")
    append(path, line(2, 3), line(3, 4))
    assert next(batches) == []
    append(Path(f"{path}.1"), b"25\n")
    assert values(until(batches, count(3))) == [-125, 3, 4]
    assert source.health.lost == 0
    append(path, b"2026-04-01T00:00:04Z,-1")
    until(batches, lambda _: source._intake.waiting_bytes > 0)
    path.rename(f"{path}.2")
    append(path, line(5, 6))
    assert values(until(batches, count(1))) == [6]
    assert source.health.lost == 1, "nobody ended it"


# -- FIFO and socket ------------------------------------------------------------------------------


def test_writers_of_a_fifo_come_and_go(tmp_path: Path, signals: Signals) -> None:
    path = tmp_path / "fifo"
    with closing(opened(f"fifo:{path}", signals)) as source:
        batches = source.batches()
        assert next(batches) == [] and source.health.error == "No such file or directory"
        os.mkfifo(path)
        until(batches, lambda _: source.health.connected)
        with open(path, "wb", buffering=0) as writer:
            writer.write(line(0, 1) + b"2026-04-01T00:")
            assert values(until(batches, count(1))) == [1]
        until(batches, lambda _: source.health.lost == 1)
        with open(path, "wb", buffering=0) as writer:
            writer.write(b"time,sensor,value\n" + line(1).split(b",")[0] + b",axle,2\n")
        found = until(batches, count(1))
        assert [(one.sensor, one.value) for one in found if isinstance(one, Reading)] == [("axle", 2)]
        assert source.health.lost == 1, "half a line of the first writer"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "LONGEST_WAIT_S", 0.2)


@pytest.mark.usefixtures("quick")
def test_a_socket_is_connected_to_again_whenever_its_listener_is_back(tmp_path: Path, signals: Signals) -> None:
    path = tmp_path / "socket"
    with closing(opened(f"unix:{path}", signals)) as source:
        batches = source.batches()
        assert next(batches) == [] and not source.health.connected
        for number in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(path))
                listener.listen()
                listener.settimeout(DEADLINE_S)
                accepted: list[socket.socket] = []
                thread = threading.Thread(target=lambda one=listener, into=accepted: into.append(one.accept()[0]))
                thread.start()
                until(batches, lambda _: source.health.connected)
                thread.join()
                accepted[0].sendall(line(number, number))
                assert values(until(batches, count(1))) == [number]
                accepted[0].close()
            path.unlink()
            until(batches, lambda _: not source.health.connected)
        assert source.health.reconnects == 2


def test_bytes_without_a_line_end_give_whoever_takes_batches_a_turn(tmp_path: Path, signals: Signals) -> None:
    noise = b"x" * 1000
    path = tmp_path / "noise.csv"
    path.write_bytes(noise)
    read, write = os.pipe()
    os.write(write, noise)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with (
        closing(opened(f"follow:{path}", signals)) as followed,
        closing(Descriptor("stdin:", read, "temperature", signals)) as stdin,
        closing(opened(f"fifo:{fifo}", signals)) as stream,
    ):
        began = monotonic()
        assert next(followed.batches()) == next(stdin.batches()) == []
        assert monotonic() - began < 0.4  # which is no wait for IDLE_S
        batches = stream.batches()
        assert next(batches) == []
        writer = os.open(fifo, os.O_WRONLY)
        os.write(writer, noise)
        began = monotonic()
        assert next(batches) == []
        assert monotonic() - began < 0.4
        os.close(writer)
    os.close(write)


def test_a_listener_that_gives_nothing_is_asked_ever_more_seldom(tmp_path: Path, signals: Signals) -> None:
    path, taken, stop = tmp_path / "socket", [], threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        listener.settimeout(0.1)

        def slam() -> None:
            while not stop.is_set():
                try:
                    listener.accept()[0].close()
                    taken.append(1)
                except TimeoutError:
                    continue

        slammer = threading.Thread(target=slam)
        slammer.start()
        try:
            with closing(opened(f"unix:{path}", signals)) as source:
                batches, began = source.batches(), monotonic()
                while monotonic() - began < 1.0:
                    assert next(batches) == []
        finally:
            stop.set()
            slammer.join()
    assert 2 <= len(taken) < 10


def test_a_listener_with_a_full_queue_is_tried_again(tmp_path: Path, signals: Signals) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(path))
        listener.listen(0)
        other.connect(str(path))
        with closing(opened(f"unix:{path}", signals)) as source:
            assert next(source.batches()) == []
            assert not source.health.connected


def test_a_file_that_is_no_fifo_and_a_path_too_long_for_a_socket_are_said(tmp_path: Path, signals: Signals) -> None:
    path = tmp_path / "file"
    path.touch()
    for uri, says in ((f"fifo:{path}", "is not a FIFO"), (f"unix:/{'x' * 200}", "at most 107 bytes")):
        with closing(opened(uri, signals)) as source:
            assert next(source.batches()) == []
            assert says in (source.health.error or "")


def test_waits_double_from_a_tenth_of_a_second_to_half_a_minute() -> None:
    backoff = Backoff()
    waits = [backoff.next() for _ in range(12)]
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8] and waits[-1] == 30.0
    backoff.reset()
    assert backoff.next() == 0.1


# -- hwmon ----------------------------------------------------------------------------------------


def test_the_kernel_s_files_are_read_every_period_and_found_again(tmp_path: Path, signals: Signals) -> None:
    folder = tmp_path / "hwmon3"
    folder.mkdir()
    (folder / "temp1_input").write_text("45500\n")
    (tmp_path / "zone").write_text("-3250\n")
    sensors = {"gearbox": f"{tmp_path}/hwmon*/temp1_input", "outside": f"{tmp_path}/zone"}
    source = Hwmon(sensors, 0.1, signals)
    batches = source.batches()
    first = until(batches, count(2))
    assert [(one.sensor, one.value) for one in first if isinstance(one, Reading)] == [
        ("gearbox", 45.5),
        ("outside", -3.25),
    ]
    folder.rename(tmp_path / "hwmon5")
    (tmp_path / "zone").write_text("garbage")
    second = until(batches, count(1))
    assert [one.sensor for one in second if isinstance(one, Reading)] == ["gearbox"]
    assert source.health.lost >= 1 and "outside" in (source.health.error or "")
    assert source.health.connected


def test_without_one_sensor_that_can_be_read_it_is_not_connected(tmp_path: Path, signals: Signals) -> None:
    source = Hwmon({"a": f"{tmp_path}/nothing*"}, 0.1, signals)
    batches = source.batches()
    until(batches, lambda _: source.health.lost >= 2)
    assert not source.health.connected and "names 0 files" in (source.health.error or "")


# -- the queue of drivers with threads of their own -------------------------------------------------


def test_what_a_thread_puts_comes_in_order_and_what_is_too_much_is_counted(signals: Signals) -> None:
    health = Health()
    inbox = Inbox(health, at_most=10)
    batches = inbox.batches(signals)
    readings = [Reading(float(at), "a", float(at)) for at in range(25)]
    thread = threading.Thread(target=lambda: [inbox.put([one]) for one in readings])
    thread.start()
    thread.join()
    assert next(batches) == readings[15:]
    assert health.lost == 15
    inbox.put(readings[:2])
    os.kill(os.getpid(), signal.SIGTERM)
    assert [one for batch in batches for one in batch] == readings[:2]
    inbox.close()


def test_a_thread_that_ends_by_a_mistake_ends_the_source(signals: Signals) -> None:
    inbox = Inbox(Health())
    inbox.put([Reading(0.0, "a", 1.0)])
    inbox.fail(ZeroDivisionError("a mistake"))
    batches = inbox.batches(signals)
    assert len(next(batches)) == 1
    with pytest.raises(ZeroDivisionError):
        next(batches)
    inbox.close()


def test_a_regular_file_s_descriptor_is_a_replay_wherever_it_comes_from(tmp_path: Path, signals: Signals) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(line(0))
    any_source: Any = Descriptor("stdin:", open_file(path), "temperature", signals)
    with closing(any_source) as source:
        assert source.patience_s == float("inf") and source.reads(path) and not source.reads(tmp_path)
