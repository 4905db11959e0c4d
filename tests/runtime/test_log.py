"""What is said on stderr: levels, forms, and few of many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from axlebox.runtime import log
from axlebox.runtime.config import LogSettings
from axlebox.runtime.log import Sampler


@pytest.fixture(autouse=True)
def plain() -> Iterator[None]:
    yield
    log.set_up(LogSettings())


def test_words_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(LogSettings())
    log.say("the disk\x1b[2J is full", sensor="a")
    log.info("hello")
    assert capsys.readouterr().err == "axleboxd: the disk?[2J is full\naxleboxd: hello\n"


def test_json_has_level_time_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up(LogSettings(format="json"))
    log.say("invalid reading", sensor="axle-7")
    found = json.loads(capsys.readouterr().err)
    assert (found["level"], found["message"], found["sensor"]) == ("warning", "invalid reading", "axle-7")
    assert found["time"].endswith("+00:00")


@pytest.mark.parametrize(("level", "said"), [("info", 2), ("warning", 1), ("error", 0)])
def test_only_what_is_as_urgent_as_asked_for_is_said(capsys: pytest.CaptureFixture[str], level: str, said: int) -> None:
    log.set_up(LogSettings(level=level))  # type: ignore[arg-type]
    log.info("one")
    log.say("two")
    assert len(capsys.readouterr().err.splitlines()) == said


def test_the_journal_gets_the_level_of_each_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    log.set_up(LogSettings())
    log.say("one")
    log.info("two")
    assert capfd.readouterr().err == "<4>axleboxd: one\n<6>axleboxd: two\n"


def test_of_many_lines_a_few_are_said_and_the_others_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(log, "monotonic", lambda: now[0])
    log.set_up(LogSettings())
    sampler = Sampler(at_most=2, period_s=60.0)
    for number in range(100):
        sampler.say(f"bad {number}")
    now[0] = 60.0
    sampler.say("bad 100")
    sampler.tell_rest()
    assert capsys.readouterr().err.splitlines() == [
        "axleboxd: bad 0",
        "axleboxd: bad 1",
        "axleboxd: and 98 more like these",
        "axleboxd: bad 100",
    ]
