"""`axlebox score`: a file of readings through a bundle, by the vehicle's own code."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed, UsageError
from axlebox.firmware_bundle.slots import make_release
from axlebox.firmware_bundle.trust import Bundle, Proposal
from axlebox.runtime.daemon import Totals
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.lines import read_lines
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.readings import LineReader, format_time
from axlebox.training.series import Progress, silent

COLUMNS = ("time", "sensor", "value", "status", "score", "flag", "event")
_BATCH_LINES = 8192


def replay(release: Proposal, readings: Path, progress: Progress = silent) -> Iterator[Outcome]:
    """What became of each line of a file, in order, by the vehicle's own code and in bounded memory."""
    opened = make_release(release.digest, release.released, release.root_version, release.members)
    monitor = monitor_release(opened)
    reader = LineReader(opened.manifest.contract.only_sensor())
    lines, done, what = read_lines(readings), 0, f"scoring {readings.name}"
    while batch := list(islice(lines, _BATCH_LINES)):
        yield from monitor.process(reader.read(batch))
        done += len(batch)
        progress(what, done, 0)
    progress(what, done, done)


def score_file(bundle: Bundle, readings: Path, output: Path, progress: Progress = silent) -> Totals:
    """Write one row for every line; raises Malformed, and writes nothing, where no line is a reading."""
    if output.exists():
        raise UsageError(f"{output} exists; nothing was written")
    totals = Totals()
    part = output.with_name(output.name + ".part")
    with disk.explained():
        try:
            with open(part, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                for outcome in replay(bundle, readings, progress):
                    totals.count(outcome)
                    time = "" if outcome.time is None else format_time(outcome.time)
                    cells = (outcome.value, outcome.status, outcome.score, int(outcome.flag), outcome.event)
                    writer.writerow((time, outcome.sensor, *cells))
            if totals.readings == totals.invalid:
                why = f"; line {totals.invalid_lines[0]}" if totals.invalid_lines else ""
                raise Malformed(f"{readings}: no reading found in {totals.readings} lines{why}")
            os.replace(part, output)
        finally:
            part.unlink(missing_ok=True)
    return totals
