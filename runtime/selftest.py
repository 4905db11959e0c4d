"""The self-test: a release's golden readings through this box's own runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from axlebox.firmware_bundle.errors import AxleboxError, SelfTestFailed
from axlebox.firmware_bundle.slots import Release, open_slot
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.readings import Reading, parse_time

SCORE_TOLERANCE = 1e-12
"""Scores pass through a power function, whose last bits differ between processors; flags must be equal."""

_TIMEOUT_S = 120


def check_golden(release: Release) -> int:
    """Compare every golden answer, and return how many there were. Raises SelfTestFailed."""
    rows = release.golden.rows
    readings = [Reading(parse_time(row.time), row.sensor, row.value, line) for line, row in enumerate(rows, 1)]
    outcomes = monitor_release(release).process(readings)
    for number, (row, outcome) in enumerate(zip(rows, outcomes, strict=True), 1):
        # Written so that a score that is not a number fails.
        equal = outcome.score is not None and abs(outcome.score - row.score) <= SCORE_TOLERANCE
        if not equal or outcome.flag != row.flag:
            raise SelfTestFailed(
                f"golden reading {number} of {len(rows)}: expected score {row.score} flag {row.flag}, "
                f"found {outcome.score} {outcome.flag} ({outcome.status})"
            )
    return len(rows)


def run_apart(slot: Path) -> str:
    """Run `check_golden` on a slot in a process of its own, so that a crash in it harms nothing."""
    # -P: the folder that a technician stands in, perhaps a stick, must not supply modules.
    command = [sys.executable, "-P", "-m", "axlebox.runtime.selftest", str(slot)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SelfTestFailed(f"the self-test took longer than {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise SelfTestFailed(f"self-test failed: {lines[-1]}")
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        count = check_golden(open_slot(Path(sys.argv[1])))
    except AxleboxError as failure:
        sys.exit(str(failure))
    print(f"{count}/{count}")
