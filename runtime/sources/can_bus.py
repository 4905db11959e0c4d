"""Readings from a CAN bus, through any interface that python-can knows."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from time import monotonic, time
from typing import Any

import can

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import CanSettings
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources import can_obd
from axlebox.runtime.sources.base import Backoff, Health, Item
from axlebox.runtime.sources.can_frames import FrameDecoder, nearest
from axlebox.runtime.sources.inbox import Inbox

_RECEIVE_S = 0.2
"""How long the thread may take to see that it shall end."""
_CLOSE_S = 5.0
_CLOCKS_APART_S = 86_400.0


class CanBus:
    """What arrives on the bus, read in a thread of its own; the bus may go away and come back at any time.

    Nothing is ever sent without `allow_transmit`.
    """

    live = True
    patience_s = 0.0
    position = None
    cut_bytes = 0

    def __init__(self, settings: CanSettings, signals: Signals) -> None:
        """Opens nothing yet. Raises UsageError."""
        if settings.interface not in can.VALID_INTERFACES:
            close = nearest(settings.interface, sorted(can.VALID_INTERFACES))
            raise UsageError(f"can.interface = {settings.interface!r} is not known; did you mean {close}?")
        self.uri = "can:"
        self.health = Health()
        self._settings = settings
        self._signals = signals
        self._decoder = FrameDecoder(settings, self.health)
        self._inbox = Inbox(self.health)
        self._backoff = Backoff()
        pids = sorted(set(settings.obd_pids.values())) if settings.allow_transmit else []
        self._pids = itertools.cycle(pids)
        self._between_s = max(settings.obd_period_s / max(1, len(pids)), can_obd.BETWEEN_QUESTIONS_S)
        self._due = monotonic() if pids else float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="can", daemon=True)

    @property
    def not_available(self) -> dict[str, int]:
        """By sensor: J1939 values that were error or not available, and so no readings."""
        return self._decoder.not_available

    def batches(self) -> Iterator[list[Item]]:
        if self._thread.ident is None:
            self._thread.start()
        yield from self._inbox.batches(self._signals)

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._connection()
                self._ended.wait(self._backoff.next())
        except BaseException as error:  # told to the daemon, which must not take a mistake for silence
            self._inbox.fail(error)

    def _connection(self) -> None:
        """From one opening of the bus to its loss."""
        try:
            with self._open() as bus:
                while not self._ended.is_set():
                    self._take(self._receive(bus))
                    self._ask(bus)
        except (can.CanError, OSError) as error:
            self.health.down(str(error))

    def _open(self) -> can.BusABC:
        settings = self._settings
        speed: dict[str, Any] = {} if settings.bitrate is None else {"bitrate": settings.bitrate}
        try:
            return can.Bus(
                interface=settings.interface,
                channel=settings.channel,
                can_filters=self._decoder.filters,
                ignore_config=True,  # else ~/.canrc and CAN_* of the environment had a say
                **speed,
            )
        except ValueError as error:  # no later try can mend it
            raise UsageError(f"can: interface {settings.interface}, channel {settings.channel}: {error}") from error

    def _receive(self, bus: can.BusABC) -> can.Message | None:
        try:
            return bus.recv(min(_RECEIVE_S, max(0.0, self._due - monotonic())))
        except ValueError as error:  # how python-can's serial interfaces take line noise
            raise can.CanOperationError(f"not a frame: {error}") from error

    def _take(self, frame: can.Message | None) -> None:
        if not self.health.connected:
            # Only now: a socket can be bound to an interface that is down, and fails when it is read first.
            self.health.up()
        if frame is None:
            return
        self._backoff.reset()
        self.health.error = "error frames on the bus" if frame.is_error_frame else None
        now = time()
        if abs(frame.timestamp - now) > _CLOCKS_APART_S:
            frame.timestamp = now  # some interfaces count from when they were switched on
        if items := self._decoder.read(frame):
            self._inbox.put(items)

    def _ask(self, bus: can.BusABC) -> None:
        """The next question, where one is due. Nowhere else is anything sent."""
        if not self._settings.allow_transmit or monotonic() < self._due:
            return
        bus.send(can_obd.question(next(self._pids)), timeout=_RECEIVE_S)
        self._due = monotonic() + self._between_s

    def close(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():  # else a driver hangs, and may yet put something
            self._inbox.close()
