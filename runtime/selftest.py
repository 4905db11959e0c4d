"""The self-test: a release's golden readings through this box's own runtime."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from axlebox.firmware_bundle.errors import AxleboxError, SelfTestFailed
from axlebox.firmware_bundle.slots import Release, open_slot
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.readings import Reading, parse_time

SCORE_TOLERANCE = 1e-12
"""Scores pass through a power function, whose last bits differ between processors; flags must be equal."""

TIMEOUT_S = 120
MEMORY_BYTES = 1024 * 1024 * 1024
"""Address space, of which onnxruntime reserves most and uses little: a model that asks for more is refused."""


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
    """Run `check_golden` on a slot in a process of its own, bounded in memory, time and what it may write.

    A crash in it harms nothing. Raises SelfTestFailed.
    """
    # -P: the folder that a technician stands in, perhaps a stick, must not supply modules.
    command = [sys.executable, "-P", "-m", "axlebox.runtime.selftest", str(slot)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:  # no memory for a process: no fault of the release
        raise AxleboxError(f"the self-test could not be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise SelfTestFailed(f"the self-test took longer than {TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise SelfTestFailed(f"self-test failed: {_how_it_ended(done.returncode, done.stderr)}")
    return done.stdout.strip()


def _how_it_ended(code: int, told: str) -> str:
    """The end and the last words of a process; what a signal ends has often said nothing of it."""
    last = told.strip().splitlines()[-1:]
    if code < 0:
        known = {one.value: one.name for one in signal.Signals}
        return ": ".join([f"it was ended by {known.get(-code, f'signal {-code}')}", *last])
    return last[0] if last else f"it ended with code {code}"


def _confine() -> None:
    """Bound this process, and let the scoring daemon go first."""
    os.nice(10)
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, TIMEOUT_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


if __name__ == "__main__":
    _confine()
    try:
        count = check_golden(open_slot(Path(sys.argv[1])))
    except AxleboxError as failure:
        sys.exit(str(failure))
    except MemoryError:
        sys.exit(f"it needs more than {MEMORY_BYTES // 1024**2} MiB of memory")
    print(f"{count}/{count}")
