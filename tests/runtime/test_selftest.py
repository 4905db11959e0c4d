"""The self-test in a process of its own: whatever a release does in there, one clear line comes out."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import SelfTestFailed
from axlebox.firmware_bundle.slots import write_slot
from axlebox.runtime import selftest
from axlebox.runtime.selftest import MEMORY_BYTES, TIMEOUT_S, run_apart

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE_S = 100.0
"""Only what hangs takes this long."""

Behave = Callable[[str], None]


@pytest.fixture
def behave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behave:
    """Makes the child run a piece of code where it would open the slot, inside all its bounds."""

    def begin(code: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        indented = "\n".join(f"    {line}" for line in code.splitlines())
        (folder / "sitecustomize.py").write_text(
            "import os, resource, signal, sys\n"
            "from axlebox.firmware_bundle import errors, slots\n"
            f"def misbehave(slot):\n{indented}\n"
            "slots.open_slot = misbehave\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return begin


def failure(slot: Path) -> str:
    began = monotonic()
    with pytest.raises(SelfTestFailed) as failed:
        run_apart(slot)
    assert monotonic() - began < PATIENCE_S
    assert "\n" not in str(failed.value)
    assert failed.value.exit_code == 31
    return str(failed.value)


def test_a_good_release_passes(world: Any, tmp_path: Path) -> None:
    slot = tmp_path / ("d" * 64)
    write_slot(slot, slot.name, RELEASED, world.root(), 1, world.files(world.manifest()))
    assert run_apart(slot) == "20/20"


def test_a_slot_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert failure(tmp_path / "missing").startswith("self-test failed: ")


def test_the_child_is_bounded(behave: Behave, tmp_path: Path) -> None:
    names = ("AS", "CPU", "FSIZE", "CORE")
    behave(
        f"found = [resource.getrlimit(getattr(resource, 'RLIMIT_' + name))[1] for name in {names}]\n"
        "raise errors.AxleboxError(f'{found} {os.nice(0)} {sys.stdin.read()!r}')"
    )
    assert failure(tmp_path) == f"self-test failed: {[MEMORY_BYTES, TIMEOUT_S, 0, 0]} {os.nice(0) + 10} ''"


def test_one_that_takes_too_much_memory_is_told(behave: Behave, tmp_path: Path) -> None:
    behave(f"bytearray({MEMORY_BYTES})")
    assert failure(tmp_path) == "self-test failed: it needs more than 1024 MiB of memory"


def test_one_that_spins_is_ended(behave: Behave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "TIMEOUT_S", 1)
    behave("while True: pass")
    assert failure(tmp_path) == "the self-test took longer than 1 s"


def test_one_that_spins_meets_the_bound_of_its_processor_time(behave: Behave, tmp_path: Path) -> None:
    behave("resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass")
    assert failure(tmp_path) == "self-test failed: it was ended by SIGKILL"


def test_one_that_writes_a_file_is_stopped(behave: Behave, tmp_path: Path) -> None:
    file = tmp_path / "written"
    behave(f"with open({str(file)!r}, 'w') as file: file.write('x')")
    assert failure(tmp_path) == "self-test failed: OSError: [Errno 27] File too large"
    assert file.read_bytes() == b""


@pytest.mark.parametrize(("number", "name"), [("signal.SIGSEGV", "SIGSEGV"), ("40", "signal 40")])
def test_one_that_a_signal_ends_is_told_by_its_name(behave: Behave, tmp_path: Path, number: str, name: str) -> None:
    behave(f"os.kill(os.getpid(), {number})")
    assert failure(tmp_path) == f"self-test failed: it was ended by {name}"


def test_the_last_words_stand_behind_the_signal(behave: Behave, tmp_path: Path) -> None:
    behave("sys.stderr.write('a warning\\nterminate called\\n')\nsys.stderr.flush()\nos.abort()")
    assert failure(tmp_path) == "self-test failed: it was ended by SIGABRT: terminate called"


def test_one_that_ends_without_a_word_is_told(behave: Behave, tmp_path: Path) -> None:
    behave("os._exit(7)")
    assert failure(tmp_path) == "self-test failed: it ended with code 7"


def test_what_is_not_text_is_told_all_the_same(behave: Behave, tmp_path: Path) -> None:
    behave("os.write(2, b'\\xff\\xfe')\nos._exit(1)")
    assert failure(tmp_path) == "self-test failed: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
