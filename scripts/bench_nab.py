"""`./scripts/bench nab --data ROOT --out DIR`: the streaming detector on a corpus laid out like NAB's.

ROOT/data/<category>/<file>.csv has the columns timestamp and value. Each file is one sensor: the detector is
trained on its first 15 %, at most 750 rows, with one setting for all files, and then replays the whole file as a
vehicle would that had it from the first row on. DIR/<category>/<file>.csv gets one row for each, in order, with
the column anomaly_score. Labels are never read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.manifest import Contract, Kind

PROBATION = 0.15
LONGEST_PROBATION = 750
SHORTEST_PROBATION = 40
"""Rows below which nothing is trained."""
SENSOR = "metric"
CONTRACT = Contract(kinds={SENSOR: Kind()})
"""No checks: what such a file may report is not known."""

Scores = NDArray[np.float64]


def settings(seed: int, trees: int) -> dict[str, Any]:
    """The one setting for every file: the defaults."""
    return {
        "bundle": {"name": "bench"},
        "feature_set": "streaming",
        "forest": {"n_estimators": trees, "random_state": seed},
    }


def find_files(root: Path) -> list[Path]:
    """The corpus's files, relative to ROOT/data. Raises FileNotFoundError where there are none."""
    data = root / "data"
    files = sorted(path.relative_to(data) for path in data.glob("*/*.csv"))
    if not files:
        raise FileNotFoundError(f"{data} has no <category>/<file>.csv")
    return files


def probation(rows: int) -> int:
    """How many of a file's first rows are for training."""
    return min(int(rows * PROBATION), LONGEST_PROBATION)


def read_table(path: Path) -> pd.DataFrame:
    """A file as it is. Raises ValueError where it is no table, or has no timestamp or no value."""
    table = pd.read_csv(path)
    if missing := {"timestamp", "value"} - set(table):
        raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    return table


def to_readings(table: pd.DataFrame) -> pd.DataFrame:
    """Readings of one sensor, one for each row of a file; a value or a time that is none is NaN."""
    times = pd.to_datetime(table["timestamp"], utc=True, errors="coerce")
    seconds = (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    values = pd.to_numeric(table["value"], errors="coerce").astype(float)
    return pd.DataFrame({"time": seconds.astype(float), "sensor": SENSOR, "value": values, "era": 0})


def why_not(training: pd.DataFrame) -> str | None:
    """Why nothing can be trained on a file's probation, or None."""
    good = training["value"].dropna()
    if len(good) < SHORTEST_PROBATION:
        return f"its probation has {len(good)} readings, and {SHORTEST_PROBATION} are needed"
    return f"its probation is constant, {good.iloc[0]}" if good.nunique() == 1 else None


def row_scores(scored: pd.DataFrame) -> Scores:
    """The model's score of each row; where it saw none, that of the row before, 0 at the beginning."""
    return scored["score"].ffill().fillna(0.0).to_numpy(dtype=float)


def event_scores(scored: pd.DataFrame) -> Scores:
    """What the vehicle tells: an event's score in the row that raises it, a peak's in the row that tells it; else 0."""
    raised = scored["event"].notna() & ~scored["event"].duplicated()
    return scored["score"].where(raised).fillna(scored["peak"]).fillna(0.0).to_numpy(dtype=float)


SCORES = {"rows": row_scores, "events": event_scores}
"""What the column anomaly_score says."""


def score_file(readings: pd.DataFrame, parameters: Any) -> pd.DataFrame:
    """Train on the probation, replay everything. Rows without a time or value stay without a score."""
    from axlebox.training.experiment import train_detector

    training = readings.iloc[: probation(len(readings))]
    timed = readings.dropna(subset=["time"])
    scored = train_detector(training.dropna(), CONTRACT, parameters).score(timed)
    return scored.reindex(readings.index)


def run(root: Path, out: Path, parameters: Any, told: str) -> tuple[int, float, list[str]]:
    """Score every file; rows, seconds and what could not be trained."""
    rows, seconds, untrained = 0, 0.0, []
    files = find_files(root)
    for number, name in enumerate(files, 1):
        started = perf_counter()
        try:
            table = read_table(root / "data" / name)
        except ValueError as error:  # pandas' own are among them
            untrained.append(f"{name}: {error}; left out")
            continue
        readings = to_readings(table)
        scores = np.zeros(len(table))
        why = why_not(readings.iloc[: probation(len(readings))])
        if why is None:
            try:
                scores = SCORES[told](score_file(readings, parameters))
            except AxleboxError as error:
                why = str(error)
        if why is not None:
            untrained.append(f"{name}: {why}; its scores are 0")
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        table[["timestamp", "value"]].assign(anomaly_score=scores).to_csv(out / name, index=False)
        took = perf_counter() - started
        rows, seconds = rows + len(table), seconds + took
        print(f"[{number}/{len(files)}] {name}: {len(table)} rows, {took:.1f} s", file=sys.stderr, flush=True)
    return rows, seconds, untrained


def main() -> None:
    parser = argparse.ArgumentParser(prog="./scripts/bench nab", description="Score a corpus laid out like NAB's.")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT", help="has data/<category>/<file>.csv")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets <category>/<file>.csv")
    parser.add_argument("--seed", type=int, default=0, help="of the forest (default 0)")
    parser.add_argument("--trees", type=int, default=300, help="of the forest (default 300)")
    parser.add_argument("--told", choices=list(SCORES), default="rows", help="what anomaly_score says (default rows)")
    words = parser.parse_args()
    from axlebox.training.parameters import check

    try:
        rows, seconds, untrained = run(words.data, words.out, check(settings(words.seed, words.trees)), words.told)
    except FileNotFoundError as error:
        parser.error(str(error))
    for line in untrained:
        print(line)
    print(f"{rows} rows in {seconds:.0f} s, {rows / seconds:.0f} rows/s, training included; results in {words.out}")
    print("To judge them: NAB's own scorer (v1.1, profile standard), which takes one threshold for the whole corpus,")
    print(
        f"the best one, and leaves out each file's probation; labels are in {words.data / 'labels'} where it has any."
    )


if __name__ == "__main__":
    main()
