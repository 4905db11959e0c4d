"""The daemon's socket: a question gets its answer, and nobody who asks badly harms the others."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import PreflightFailed
from axlebox.firmware_bundle.vehicle import SOCKET
from axlebox.runtime.control import Control, ask, ask_status

PATIENCE_S = 10.0
"""Only what hangs takes this long."""
ASKER_S = 2.0
"""What whoever asks waits at most."""


def echo(question: Mapping[str, Any]) -> Mapping[str, Any]:
    if question.get("what") == "mistake":
        raise RuntimeError("a mistake")
    return {"asked": dict(question)}


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder in which somebody answers."""
    with contextlib.closing(Control(tmp_path, echo)):
        yield tmp_path


@contextlib.contextmanager
def connected(data: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(data / SOCKET))
        yield connection


def said(data: Path, line: bytes) -> Any:
    with connected(data) as connection:
        with contextlib.suppress(BrokenPipeError):  # it has read enough
            connection.sendall(line)
        with connection.makefile("rb") as answer:
            return json.loads(answer.read())


def test_a_question_gets_its_answer(data: Path) -> None:
    assert ask(data, what="status", sensor="ä") == {"asked": {"what": "status", "sensor": "ä"}}


def test_several_at_once_get_each_their_own(data: Path) -> None:
    answers: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda number=number: answers.update({number: ask(data, n=number)}))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answers == {number: {"asked": {"n": number}} for number in range(20)}


def test_one_who_says_nothing_does_not_keep_the_others_waiting(data: Path) -> None:
    with connected(data), connected(data):
        assert ask(data, n=1) == {"asked": {"n": 1}}


def test_one_whose_question_trickles_in_does_not_either(data: Path) -> None:
    with connected(data) as slow:
        stop = threading.Event()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    slow.sendall(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert ask(data, n=1) == {"asked": {"n": 1}}
        finally:
            stop.set()
            thread.join()


def test_one_who_does_not_take_the_answer_does_not_either(data: Path) -> None:
    with connected(data) as deaf:
        deaf.sendall(b'{"n":"' + b"x" * 60_000 + b'"}\n')
        assert ask(data, n=1) == {"asked": {"n": 1}}


@pytest.mark.parametrize("line", [b"\n", b"nonsense\n", b"[1]\n", b"\xff\xfe\n", b"null\n", b"[" * 60_000 + b"\n"])
def test_nonsense_is_answered_and_harms_nobody(data: Path, line: bytes) -> None:
    assert said(data, line) == {"error": "not a JSON object"}
    assert ask(data, n=1) is not None


def test_a_line_without_an_end_is_cut_off(data: Path) -> None:
    with contextlib.suppress(ConnectionResetError):  # it goes while there is more to be read
        assert said(data, b"x" * 1_000_000) == {"error": "not a JSON object"}
    assert ask(data, n=1) is not None


def test_a_mistake_in_an_answer_is_told_and_the_next_question_is_answered(data: Path) -> None:
    answer = ask(data, what="mistake") or {}
    assert "RuntimeError('a mistake')" in answer["error"]
    assert ask(data, n=1) == {"asked": {"n": 1}}


def test_a_daemon_that_cannot_tell_its_status_counts_as_none(tmp_path: Path) -> None:
    def mistaken(question: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RuntimeError("a mistake")

    with contextlib.closing(Control(tmp_path, mistaken)):
        assert ask_status(tmp_path) is None


def test_only_the_owner_may_ask(data: Path) -> None:
    assert stat.S_IMODE((data / SOCKET).stat().st_mode) == 0o600


def test_who_may_not_ask_is_not_told_that_no_daemon_runs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may always, and is who tests are often called by: hence not by a real refusal."""

    def refused(connection: socket.socket, path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(PreflightFailed, match=r"axleboxd\.sock answers only to its owner\. DO: call axleboxd as root"):
        ask(data, what="status")


def test_what_a_killed_process_left_is_nobody_s(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / SOCKET))
    assert (tmp_path / SOCKET).exists()
    assert ask(tmp_path, n=1) is None
    with contextlib.closing(Control(tmp_path, echo)):
        assert ask(tmp_path, n=1) is not None


def test_a_folder_s_path_may_be_longer_than_a_socket_s(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with contextlib.closing(Control(folder, echo)):
        assert ask(folder, n=1) is not None


def test_after_its_end_nothing_is_left(tmp_path: Path) -> None:
    handles = set(Path("/proc/self/fd").iterdir())
    control = Control(tmp_path, echo)
    assert ask(tmp_path, n=1) is not None
    control.close()
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/proc/self/fd").iterdir()) == handles
    assert not any(thread.name == "control" for thread in threading.enumerate())


def test_without_a_daemon_there_is_no_answer(tmp_path: Path) -> None:
    assert ask(tmp_path, n=1) is None
    assert ask(tmp_path / "missing", n=1) is None
    (tmp_path / SOCKET).write_bytes(b"no socket")
    assert ask(tmp_path, n=1) is None


@contextlib.contextmanager
def listening(data: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        there.bind(str(data / SOCKET))
        there.listen(1)
        yield there


def test_a_daemon_that_hangs_gives_no_answer_within_the_asker_s_patience(tmp_path: Path) -> None:
    with listening(tmp_path):
        began = monotonic()
        assert ask(tmp_path, n=1) is None
        assert ASKER_S - 0.1 < monotonic() - began < PATIENCE_S


def test_an_answer_that_trickles_in_is_not_waited_for(tmp_path: Path) -> None:
    """Every byte would renew a timeout; what counts is when the asking began."""
    with listening(tmp_path) as there:
        stop = threading.Event()

        def trickle() -> None:
            connection, _ = there.accept()
            with connection, contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    connection.sendall(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        asking = threading.Thread(target=ask, args=(tmp_path,), daemon=True)
        asking.start()
        asking.join(ASKER_S + 3)
        stuck = asking.is_alive()
        stop.set()
        thread.join()
        assert not stuck


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[1]\n", b"[" * 60_000 + b"\n"])
def test_an_answer_that_is_none_counts_as_none(tmp_path: Path, answer: bytes) -> None:
    with listening(tmp_path) as there:

        def reply() -> None:
            connection, _ = there.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        assert ask(tmp_path, n=1) is None
        thread.join(PATIENCE_S)
