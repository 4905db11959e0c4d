"""Sinks and the queues before them: nothing they do holds the scoring up, and what is lost is counted."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import Config, FileSinkSettings
from axlebox.runtime.sinks import KNOWN, check_sinks, open_sinks
from axlebox.runtime.sinks import base as base_module
from axlebox.runtime.sinks.base import Message, Outlet
from axlebox.runtime.sinks.descriptors import LogFile
from axlebox.runtime.sinks.journald import Journald, entry

DEADLINE_S = 30.0
ANOMALY = {"type": "anomaly", "state": "raised", "sensor": "axle-7", "severity": "extreme", "value": 151.0}
SENSOR = {"type": "sensor", "state": "stuck", "sensor": "axle-7"}


def message(event: dict[str, Any] | None = None, **more: Any) -> Message:
    one = {**(event or {"type": "reading"}), **more}
    return Message(json.dumps(one).encode(), one if event is not None else None)


def waits(reached: Callable[[], bool]) -> None:
    began = monotonic()
    while not reached():
        assert monotonic() - began < DEADLINE_S, "it never came to that"
        sleep(0.005)


class Gate:
    """A sink that takes what it gets when it is let, and fails as often as it is told to."""

    uri = "gate:"
    bytes_written = 0

    def __init__(self, is_open: bool = True, failures: int = 0) -> None:
        self.open = threading.Event()
        if is_open:
            self.open.set()
        self.failures = failures
        self.taken: list[Message] = []
        self.closed = False

    def write(self, messages: Sequence[Message]) -> None:
        self.open.wait()
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.taken += messages

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "_FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(base_module, "_DRAIN_S", 0.3)


@pytest.fixture
def said() -> list[str]:
    return []


# -- the queue ------------------------------------------------------------------------------------


def test_messages_arrive_in_order_and_all_at_the_end(said: list[str]) -> None:
    sink = Gate()
    outlet = Outlet(sink, said.append)
    sent = [message(SENSOR if at % 3 else ANOMALY, at=at) for at in range(5000)]
    for at in range(0, 5000, 100):
        outlet.put(sent[at : at + 100])
        waits(lambda: outlet.queued < 5000)
    outlet.close()
    assert sink.taken == sent and sink.closed
    assert (outlet.written, outlet.dropped, outlet.queued, said) == (5000, 0, 0, [])


def test_a_sink_that_hangs_holds_nobody_up_and_the_anomalies_are_kept(said: list[str]) -> None:
    sink = Gate(is_open=False)
    outlet = Outlet(sink, said.append)
    outlet.put([message()])
    waits(lambda: not outlet._ordinary)  # the sink has it in hand, and hangs
    anomalies = [message(ANOMALY, at=at) for at in range(50)]
    outlet.put(anomalies)
    for at in range(0, 30_000, 100):
        outlet.put([message(at=at + more) for more in range(100)])
    assert outlet.queued == base_module.MAX_QUEUED + 1 and outlet.dropped == 30_050 - base_module.MAX_QUEUED
    sink.open.set()
    waits(lambda: outlet.queued == 0)
    outlet.close()
    assert [one for one in sink.taken if one.urgent] == anomalies
    assert len(sink.taken) == base_module.MAX_QUEUED + 1


def test_the_queue_is_bounded_in_bytes_as_well(said: list[str]) -> None:
    sink = Gate(is_open=False)
    outlet = Outlet(sink, said.append)
    for _ in range(100):
        outlet.put([Message(b"x" * 100_000)])
    assert outlet._bytes <= base_module.MAX_QUEUED_BYTES
    assert outlet.dropped >= 50
    sink.open.set()
    outlet.close()


def test_a_sink_that_fails_gets_the_same_messages_again_and_it_is_said_once(said: list[str]) -> None:
    sink = Gate(failures=4)
    outlet = Outlet(sink, said.append)
    sent = [message(ANOMALY, at=at) for at in range(3)]
    for one in sent:
        outlet.put([one])
    waits(lambda: outlet.written == 3)
    outlet.close()
    assert sink.taken == sent
    assert said == ["sink gate:: No space left on device; scoring goes on", "sink gate: works again"]
    assert outlet.error is None and outlet.dropped == 0


def test_a_sink_that_hangs_at_the_end_is_left_and_what_it_holds_counts_as_lost(said: list[str]) -> None:
    sink = Gate(is_open=False)
    outlet = Outlet(sink, said.append)
    outlet.put([message(), message()])
    outlet.close()
    assert outlet.dropped == 2
    sink.open.set()


def test_who_replays_a_file_waits_for_a_slow_sink_and_loses_nothing(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "MAX_QUEUED", 100)
    sink = Gate()
    outlet = Outlet(sink, said.append)
    for at in range(2000):
        outlet.put([message(at=at)], patience_s=float("inf"))
    outlet.close()
    assert len(sink.taken) == 2000 and outlet.dropped == 0


def test_a_wait_for_a_sink_ends_after_its_patience_and_when_something_else_is_asked(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "MAX_QUEUED", 10)
    sink = Gate(is_open=False)
    outlet = Outlet(sink, said.append)
    for _ in range(20):
        outlet.put([message()], patience_s=0.01)
    for _ in range(20):
        outlet.put([message()], patience_s=float("inf"), asked=lambda: True)
    assert outlet.dropped >= 20
    sink.open.set()
    outlet.close()


# -- files ----------------------------------------------------------------------------------------


def body(*messages: Message) -> bytes:
    return b"".join(one.body + b"\n" for one in messages)


def test_a_file_is_appended_to_and_written_without_delay(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"before\n")
    sink = LogFile(path, 1000, 2)
    sink.write([message(at=1), message(at=2)])
    assert path.read_bytes() == b"before\n" + body(message(at=1), message(at=2))
    sink.close()
    again = LogFile(path, 1000, 2)
    again.write([message(at=3)])
    again.close()
    assert path.read_bytes().endswith(body(message(at=2), message(at=3)))


def test_a_file_that_is_full_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = LogFile(path, 200, 2)
    sent = [message(at=at, filler="x" * 50) for at in range(20)]
    for one in sent:
        sink.write([one])
    sink.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    kept = b"".join((tmp_path / name).read_bytes() for name in ("events.jsonl.2", "events.jsonl.1", "events.jsonl"))
    assert body(*sent).endswith(kept)
    assert all(one.stat().st_size <= 200 for one in tmp_path.iterdir())


def test_with_none_to_keep_a_full_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = LogFile(path, 100, 0)
    for at in range(10):
        sink.write([message(at=at, filler="x" * 40)])
    sink.close()
    assert [one.name for one in tmp_path.iterdir()] == ["events.jsonl"]


def test_a_disk_that_is_full_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    sink = LogFile(path, 10_000, 2)
    sink.write([message(at=1)])
    true_write = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 20:
            return true_write(handle, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            sink.write([message(at=2)])
    assert path.read_bytes() == body(message(at=1))
    sink.write([message(at=2)])
    sink.close()
    assert path.read_bytes() == body(message(at=1), message(at=2))


def test_a_file_that_cannot_be_opened_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path / "no" / "folder.jsonl", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "fifo", "is a FIFO"),
    ):
        with pytest.raises(UsageError) as caught:
            open_sinks(Config(sinks=(f"file:{path}",), file_sink=FileSinkSettings()))
        assert str(caught.value) == f"sink {path}: {why}"


@pytest.mark.parametrize("uri", ["", "stdout:x", "standard output", "file:", "/a/path", "store:x", "lamp:", "journal:"])
def test_what_is_no_sink_is_a_usage_error_that_names_those_there_are(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_sinks(Config(sinks=(uri,)))
    assert str(caught.value) == f"sink {uri!r} is none of {KNOWN}"


@pytest.mark.parametrize("port", ["0", "x", "65536", "-1"])
def test_a_port_is_a_number(port: str) -> None:
    with pytest.raises(UsageError, match="is not a port"):
        check_sinks(Config(sinks=(f"prometheus:{port}",)))


# -- journald -------------------------------------------------------------------------------------


def fields(data: bytes) -> dict[str, str]:
    """As systemd reads an entry: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""
    found = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
        data = rest
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(DEADLINE_S)
        yield path, listener


def test_an_event_is_an_entry_with_a_sentence_its_level_and_its_fields(journal: tuple[str, socket.socket]) -> None:
    path, listener = journal
    sink = Journald(path)
    event = {**ANOMALY, "action": "stop\nthe train", "id": "abc-axle-7-1"}
    sink.write([message(event), message(SENSOR), message()])
    first, second, third = (fields(listener.recv(65_536)) for _ in range(3))
    assert first["MESSAGE"] == "anomaly raised axle-7 151.0 (extreme) DO: stop\nthe train"
    assert (first["PRIORITY"], second["PRIORITY"], third["PRIORITY"]) == ("2", "5", "6")
    assert first["AXLEBOX_ID"] == "abc-axle-7-1" and first["AXLEBOX_SENSOR"] == "axle-7"
    assert json.loads(first["AXLEBOX_JSON"]) == event
    assert first["SYSLOG_IDENTIFIER"] == "axleboxd"
    assert second["AXLEBOX_STATE"] == "stuck"
    sink.close()


def test_a_journal_that_is_started_anew_is_found_again(tmp_path: Path, journal: tuple[str, socket.socket]) -> None:
    sink = Journald(str(tmp_path / "later"))
    with pytest.raises(OSError, match="No such file"):
        sink.write([message()])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "later"))
        sink.write([message()])
        assert fields(listener.recv(65_536))["MESSAGE"] == "reading"
    with pytest.raises(OSError, match="Connection refused"):
        sink.write([message()])


def test_what_a_journal_took_before_it_failed_does_not_come_twice(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    sink, messages = Journald(path), [message({**SENSOR, "sensor": f"s{n}"}) for n in range(3)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        sink.write(messages[:1])
        send, calls = sink._socket.send, []  # type: ignore[union-attr]

        class Fails:
            def send(self, data: bytes) -> int:
                calls.append(data)
                if len(calls) == 2:
                    raise ConnectionRefusedError
                return send(data)

            def close(self) -> None:
                return

        sink._socket = Fails()  # type: ignore[assignment]
        with pytest.raises(ConnectionRefusedError):
            sink.write(messages)
        sink.write(messages)
        got = [fields(listener.recv(65_536))["AXLEBOX_SENSOR"] for _ in range(4)]
        assert got == ["s0", "s0", "s1", "s2"]
        sink.close()


def test_no_text_can_forge_a_field() -> None:
    event = {**SENSOR, "sensor": "a\nPRIORITY=0", "state": "stuck"}
    assert fields(entry(message(event)))["PRIORITY"] == "5"
