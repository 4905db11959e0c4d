"""What a technician's console shows: short plain lines that no file name can garble."""

from __future__ import annotations

import pytest

from axlebox.runtime.screen import COLUMNS, Screen, wrapped

LONG = " ".join(["word"] * 60)


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_console_has_79_columns() -> None:
    assert COLUMNS == 79


@pytest.mark.parametrize("line", [f"[1/6] {LONG}", f"note: {LONG}", "x" * 500, f"/{'folder-of-a-path/' * 30}"])
def test_no_line_is_longer_than_the_console(capsys: pytest.CaptureFixture[str], line: str) -> None:
    Screen(silent=False).say(line)
    lines = shown(capsys)
    assert len(lines) > 1
    assert max(map(len, lines)) <= COLUMNS
    assert "".join("".join(lines).split()) == "".join(line.split())


def test_what_goes_on_stands_below_its_first_word(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(silent=False)
    screen.say(f"FOUND  {LONG}")
    first, *others = shown(capsys)
    assert first.startswith("FOUND  word")
    assert all(line.startswith("       word") for line in others)
    screen.say(f"note: {LONG}")
    first, *others = shown(capsys)
    assert first.startswith("       note: word")
    assert all(line.startswith("       word") for line in others)
    assert wrapped(LONG, 3).splitlines()[1].startswith("   word")


def test_a_verdict_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(silent=False).verdict("PASS", "It runs.", "", LONG)
    lines = shown(capsys)
    assert lines[0] == ""
    assert lines[1].startswith("PASS   It runs. word")
    assert lines[2].startswith("       word")
    assert max(map(len, lines)) <= COLUMNS


@pytest.mark.parametrize("evil", ["\x1b[2J", "\r", "\b", "\x00", "\x9b1A", "\t", "\u202e"])
def test_nothing_that_moves_the_cursor_is_printed(capsys: pytest.CaptureFixture[str], evil: str) -> None:
    screen = Screen(silent=False)
    screen.say(f"FOUND  a{evil}b")
    screen.verdict("FAIL 12", f"a{evil}b")
    out = capsys.readouterr().out
    assert out.isascii()
    assert "".join(out.split("\n")).isprintable()
    assert "a?" in out


def test_every_name_is_shown_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """A serial console knows no other letters, and printing them there would fail."""
    Screen(silent=False).say("FOUND  Türlager-温度.axb")
    assert shown(capsys) == ["FOUND  T?rlager-??.axb"]


def test_where_a_program_reads_the_answer_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(silent=True)
    screen.say("FOUND  it")
    screen.verdict("PASS", "It runs.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("long", ["x" * 500, LONG, f"{'x' * 75} {'y' * 75} {'z' * 75}"])
def test_what_is_cut_short_says_so_and_loses_nothing_before(long: str) -> None:
    """A word too long for the rest of its line is broken, not left out."""
    lines = wrapped(f"STORE     {long}", 10, at_most=2).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= COLUMNS
    assert lines[-1].endswith(" ...")
    told = "".join("".join(lines).removesuffix(" ...").split())
    assert "".join(f"STORE{long}".split()).startswith(told)
    assert len(told) > COLUMNS


def test_what_fits_is_not_cut_short() -> None:
    assert wrapped("word " * 20, 10, at_most=2) == wrapped("word " * 20, 10)
