"""What systemd is told by a daemon in a process of its own: ready, alive, reloading, stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.runtime.notify import Notifier
from tests.runtime.conftest import AXLEBOXD

PATIENCE_S = 60
"""Only a daemon that hangs takes this long."""
WATCHDOG_S = 0.9
"""A third of it is less than the longest time between two turns of an idle daemon."""
READING = b"2026-04-01T00:00:00,300\n"


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}

    def hears(self, within_s: float = PATIENCE_S) -> list[str] | None:
        """The lines of the next datagram; None where none came in that time."""
        self.socket.settimeout(within_s)
        try:
            return self.socket.recv(4096).decode().split("\n")
        except TimeoutError:
            return None

    def hears_until(self, wanted: str) -> list[str]:
        """All lines up to one that begins so."""
        heard: list[str] = []
        until = monotonic() + PATIENCE_S
        while not any(line.startswith(wanted) for line in heard):
            lines = self.hears(max(0.01, until - monotonic()))
            assert lines is not None, f"{wanted} never came, but {heard}"
            heard += lines
        return heard

    def forget(self) -> None:
        """What was sent and not read yet."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(4096):
                pass
        except BlockingIOError:
            return


@pytest.fixture(params=["a path", "an abstract address"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """By both kinds of address that systemd gives."""
    name = f"axlebox-{os.getpid()}-{os.urandom(4).hex()}"
    listening = Systemd(f"@{name}" if request.param == "an abstract address" else str(tmp_path / "notify"))
    yield listening
    listening.socket.close()


@pytest.fixture
def vehicle(world: Any, tmp_path: Path) -> Vehicle:
    """Release 1 is on trial."""
    box = Vehicle.provision(tmp_path / "data", world.root(), Identity("TRAIN-204", "edge-1"))
    world.install(box, world.bundle())
    return box


@pytest.fixture
def start(vehicle: Vehicle, systemd: Systemd) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `axleboxd run` as a service of `systemd`."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(**variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*AXLEBOXD, "run", "--data", str(vehicle.data), "--readings"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **systemd.variables, **variables},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def answer_to(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    return process.stdout.readline()


def test_it_is_ready_when_readings_are_taken_and_says_how_it_does(start: Any, systemd: Systemd) -> None:
    process = start()
    assert systemd.hears() == ["READY=1"]
    assert b'"raised"' in answer_to(process, READING)
    heard = systemd.hears_until("STATUS=")
    assert "bearing-temp 1" in heard[-1]


def test_what_cannot_start_is_never_ready(start: Any, systemd: Systemd, vehicle: Vehicle) -> None:
    (model,) = vehicle.data.glob("slots/*/model.onnx")
    model.write_bytes(b"")
    assert start().wait(PATIENCE_S) == 32
    assert systemd.hears(within_s=0.01) is None


def test_the_watchdog_is_fed_also_while_no_reading_comes(start: Any, systemd: Systemd) -> None:
    start()
    systemd.hears_until("READY=1")
    for _ in range(4):
        systemd.hears_until("WATCHDOG=1")


def test_a_daemon_that_hangs_feeds_nothing(start: Any, systemd: Systemd) -> None:
    process = start()
    systemd.hears_until("WATCHDOG=1")
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    systemd.forget()
    assert systemd.hears(within_s=2 * WATCHDOG_S) is None
    process.send_signal(signal.SIGCONT)
    systemd.hears_until("WATCHDOG=1")


def test_a_reload_is_told_from_its_beginning_to_its_end(start: Any, systemd: Systemd) -> None:
    process = start()
    systemd.hears_until("READY=1")
    before = monotonic()
    process.send_signal(signal.SIGHUP)
    heard = systemd.hears_until("READY=1")
    assert heard.index("RELOADING=1") < heard.index("READY=1")
    (microseconds,) = (int(line.removeprefix("MONOTONIC_USEC=")) for line in heard if line.startswith("MONOTONIC_USEC"))
    assert before <= microseconds / 1e6 + 1e-6
    assert microseconds / 1e6 <= monotonic()
    assert b'"raised"' in answer_to(process, READING)


def test_a_stop_is_told_before_the_end(start: Any, systemd: Systemd) -> None:
    process = start()
    systemd.hears_until("READY=1")
    process.send_signal(signal.SIGTERM)
    systemd.hears_until("STOPPING=1")
    assert process.wait(PATIENCE_S) == 0


def test_where_another_process_is_watched_nothing_is_fed(start: Any, systemd: Systemd) -> None:
    """WATCHDOG_PID is inherited by children."""
    process = start(WATCHDOG_PID="1")
    heard = systemd.hears_until("STATUS=")
    process.send_signal(signal.SIGTERM)
    assert "WATCHDOG=1" not in [*heard, *systemd.hears_until("STOPPING=1")]


def test_with_nobody_to_tell_it_goes_on(tmp_path: Path) -> None:
    for address in ("", str(tmp_path / "nobody"), "@axlebox-nobody", f"{tmp_path}/{'x' * 200}"):
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "nonsense"})
        notifier.ready()
        notifier.alive(0.0, "good")
        assert notifier.watchdog_s is None
