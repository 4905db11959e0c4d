"""What systemd is told: sd_notify(3), in datagrams to the socket that it names in the environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from time import monotonic

_FEEDS = 3
"""So often the watchdog is fed in its time."""
_STATUS_S = 10.0
_MAX_STATUS_CHARS = 200


class Notifier:
    """Without NOTIFY_SOCKET it tells nobody. What cannot be told is no reason to stop scoring."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        # WATCHDOG_PID names the process that systemd watches; a child that inherits the variables is another one.
        mine = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 1e6 if mine and usec.isdigit() and int(usec) else None
        """The watchdog's time; None where systemd watches nothing."""
        self._fed_at = self._told_at = float("-inf")

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(monotonic() * 1e6)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self, now: float, status: str) -> None:
        """Called after every batch, also an empty one: by whoever really goes on."""
        if self.watchdog_s is not None and now - self._fed_at >= self.watchdog_s / _FEEDS:
            self._fed_at = now
            self._send("WATCHDOG=1")
        if now - self._told_at >= _STATUS_S:
            self._told_at = now
            self._send(f"STATUS={status[:_MAX_STATUS_CHARS]}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as connection:
                connection.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return
