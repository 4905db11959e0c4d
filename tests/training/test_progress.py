"""Progress: a line on a terminal after two seconds, and nothing anywhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Time goes on by a second at each look at the clock.
SLOW = """
import itertools, sys
from axlebox.training import progress
progress.monotonic = itertools.count().__next__
tell = progress.on_terminal()
for number in range(1, 11):
    tell("sums of tails", number, 10)
tell("reading", 20000, 0)
print("done", file=sys.stderr)
"""


def told(program: str, terminal: bool, *words: str) -> str:
    """What a program writes to stderr, which is a terminal or a pipe."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    done = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 65536):
            text += data
    except OSError:
        assert terminal, "a terminal whose other end is closed says so in this way"
    os.close(ours)
    assert done.wait() == 0, text
    return text.decode()


def test_a_terminal_sees_a_line_that_renews_itself_and_is_gone_at_the_end() -> None:
    text = told(SLOW, terminal=True)
    assert "sums of tails:  30%" in text and "10%" not in text, "only after two seconds"
    assert "20,000 readings\r" in text, "where the end is not known"
    cleared = text.index("\r\x1b[K\r\x1b[K  reading")
    assert text.index("90%") < cleared
    assert text.endswith("\rdone\r\n"), "what comes next takes the line's place"


def test_a_pipe_sees_nothing() -> None:
    assert told(SLOW, terminal=False) == "done\n"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("score", "BUNDLE", "READINGS", "-o", "OUT"), r"scoring readings\.csv: [\d,]+ readings"),
        (("diff", "BUNDLE", "BUNDLE", "--readings", "READINGS"), r"scoring readings\.csv: [\d,]+ readings"),
        (("simulate", "OUT"), "simulated readings: "),
        (("export",), "parity, row by row: "),
    ],
)
def test_long_commands_show_how_far_they_are(copied: Path, tmp_path: Path, words: tuple[str, ...], shown: str) -> None:
    (bundle,) = (copied / "dist").glob("*.axb")
    places = {"BUNDLE": bundle, "READINGS": tmp_path / "readings.csv", "OUT": tmp_path / "out.csv"}
    run = copied / "runs" / (copied / "runs/latest").read_text().strip()
    places["READINGS"].write_bytes((run / "held_out.csv").read_bytes())
    program = (
        "import itertools, os, sys\n"
        f"os.chdir({str(copied)!r})\n"
        "from axlebox.training import progress\n"
        "progress.monotonic = itertools.count(step=3).__next__\n"
        "from axlebox.export.cli import main; main()\n"
    )
    chosen = [str(places.get(word, word)) for word in words]
    assert re.search(shown, told(program, True, *chosen))
    places["OUT"].unlink(missing_ok=True)
    places["OUT"].with_suffix(".labels.csv").unlink(missing_ok=True)
    assert told(program, False, *chosen) == ""
