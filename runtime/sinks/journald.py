"""Events to systemd's journal, by its native protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from axlebox.runtime.sinks.base import Message

SOCKET = "/run/systemd/journal/socket"
_PRIORITY = {"extreme": 2, "mild": 4}
_NOTICE, _INFO = 5, 6
_FIELDS = ("type", "state", "id", "sensor", "severity")


class Journald:
    """One entry for each message: a sentence, the JSON, and AXLEBOX_ fields to search by."""

    uri = "journald:"
    bytes_written = 0

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._sent = 0
        """Of the messages that come again, since a later one of them failed."""

    def write(self, messages: Sequence[Message]) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.connect(self._path)
            for message in messages[self._sent :]:
                self._socket.send(entry(message))
                self._sent += 1
            self._sent = 0
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def entry(message: Message) -> bytes:
    """A message in the protocol's form."""
    event: Mapping[str, Any] = message.event or {"type": "reading"}
    priority = _INFO if message.event is None else _PRIORITY.get(event.get("severity", ""), _NOTICE)
    fields = {
        "MESSAGE": sentence(event),
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "axleboxd",
        "AXLEBOX_JSON": message.body.decode(),
        **{f"AXLEBOX_{name.upper()}": str(event[name]) for name in _FIELDS if event.get(name) is not None},
    }
    return b"".join(_field(name, text.encode()) for name, text in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def sentence(one: Mapping[str, Any]) -> str:
    """An event in a few words."""
    words = [str(one[name]) for name in ("type", "state", "sensor") if one.get(name) is not None]
    if one.get("value") is not None:
        words.append(str(one["value"]))
    if one.get("severity") is not None:
        words.append(f"({one['severity']})")
    if one.get("action"):
        words.append(f"DO: {one['action']}")
    return " ".join(words)
