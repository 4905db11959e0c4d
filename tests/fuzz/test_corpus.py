"""Every input that the fuzzer begins with, and every one that it once found, through its target."""

from __future__ import annotations

import runpy
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import AxleboxError

HERE = Path(__file__).resolve().parent
FUZZ: dict[str, Any] = runpy.run_path(str(HERE / "targets.py"))
CORPUS = sorted((HERE / "corpus").glob("*/*"))


def name_of(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


@pytest.mark.parametrize("file", CORPUS, ids=name_of)
def test_any_bytes_give_a_result_or_our_own_error_within_bounds(file: Path) -> None:
    data = file.read_bytes()
    started = time.process_time()
    FUZZ["run"](file.parent.name, data)
    assert time.process_time() - started < 2
    tracemalloc.start()
    FUZZ["run"](file.parent.name, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22 + 64 * len(data)


@pytest.mark.parametrize("target", sorted(FUZZ["TARGETS"]))
def test_each_target_has_inputs_that_are_accepted_and_others(target: str) -> None:
    """Otherwise a target that refuses, or takes, everything would go unseen."""
    answers = set(accepted(target))
    assert answers == {True, False}


def accepted(target: str) -> Iterator[bool]:
    for file in CORPUS:
        if file.parent.name == target:
            try:
                check(target, file.read_bytes())
            except AxleboxError:
                yield False
            else:
                yield True


def check(target: str, data: bytes) -> None:
    """The target's own check, with nothing suppressed."""
    if target == "bundle":
        FUZZ["verify"](data, FUZZ["ROOT"], FUZZ["NOW"], 0, "rail-box-a", "T204", runtime=FUZZ["RUNTIME"])
    elif target == "metadata":
        FUZZ["parse_root"](data)
    else:
        FUZZ["TARGETS"][target](data)
