"""The daemon's socket in the data folder: what runs now, and what a person tells it.

One JSON line asked, one answered, then the connection ends. Whoever may write to the data folder
may ask.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from axlebox.firmware_bundle.errors import PreflightFailed
from axlebox.firmware_bundle.vehicle import SOCKET

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_MAX_BYTES = 64 * 1024
_MAX_WAITING = 64
"""Questions that wait; who comes beyond them is turned away at once, as if no daemon ran."""
_PATIENCE_S = 2.0
"""How long whoever asks waits for the answer, from the first byte to the last."""
_QUESTION_S = 0.3
"""How long a question may take to arrive; so long one who says nothing keeps the others waiting."""


@contextlib.contextmanager
def _short(data: Path) -> Any:
    """The socket's path by way of its folder's descriptor: a socket's own may have 107 bytes only."""
    handle = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)


def ask(data: Path, **question: Any) -> dict[str, Any] | None:
    """What the running daemon answers; None where none is running, or none that answers in time.

    Raises PreflightFailed where one may run, and whoever asks may not.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, _short(data) as path:
            until = monotonic() + _PATIENCE_S
            connection.settimeout(_PATIENCE_S)
            connection.connect(path)
            connection.sendall(json.dumps(question).encode() + b"\n")
            answer = json.loads(_receive(connection, until))
    except PermissionError as error:
        raise PreflightFailed(f"{data / SOCKET} answers only to its owner. DO: call axleboxd as root") from error
    except (OSError, ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def ask_status(data: Path) -> dict[str, Any] | None:
    """What the running daemon says of itself; None where none runs that can say it."""
    answer = ask(data, what="status")
    return None if answer is None or "error" in answer else answer


def _receive(connection: socket.socket, until: float) -> bytes:
    """One line of at most _MAX_BYTES, by a moment of the monotonic clock. Raises TimeoutError."""
    received = b""
    while not received.endswith(b"\n") and len(received) <= _MAX_BYTES:
        left = until - monotonic()
        if left <= 0:  # bytes that trickle in would renew a timeout for ever
            raise TimeoutError
        connection.settimeout(left)
        chunk = connection.recv(_MAX_BYTES)
        if not chunk:
            break
        received += chunk
    return received


class Control:
    """Answers on the socket from a thread of its own, one question at a time."""

    def __init__(self, data: Path, answer: Answer) -> None:
        """The caller holds the daemon's lock, so what is left of a socket is nobody's. Raises OSError."""
        self._answer = answer
        self._path = data / SOCKET
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short(data) as path:
            self._socket.bind(path)
        self._path.chmod(0o600)
        self._socket.listen(_MAX_WAITING)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            with connection, contextlib.suppress(OSError):  # whoever asked went away
                question = _receive(connection, monotonic() + _QUESTION_S)
                connection.settimeout(_QUESTION_S)
                connection.sendall(self._reply(question))

    def _reply(self, line: bytes) -> bytes:
        try:
            question = json.loads(line)
        except (ValueError, RecursionError):
            question = None
        try:
            answer = self._answer(question) if isinstance(question, dict) else {"error": "not a JSON object"}
            return json.dumps(answer, default=str).encode() + b"\n"
        except Exception as error:  # a mistake in an answer must not end all answers
            return json.dumps({"error": f"a mistake in axlebox: {error!r}"}).encode() + b"\n"

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(_PATIENCE_S)
