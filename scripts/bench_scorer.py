"""`./scripts/bench scorer`: one reading at a time through our Scorer, stock skl2onnx and scikit-learn.

Each contender runs in a process of its own, one after the other, on the same forest and the same
rows in rotation (one repeated row flatters by warm branches). Times are medians of several runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

ROWS = 1024
RUNS = 5
FAST_CALLS = 10 * ROWS
SLOW_CALLS = 512
CONTENDERS = {
    "axlebox Scorer": FAST_CALLS,
    "stock skl2onnx": FAST_CALLS // 2,
    "scikit-learn decision_function": SLOW_CALLS,
    "scikit-learn predict": SLOW_CALLS,
}
GOALS = {"stock skl2onnx": 50, "scikit-learn predict": 500}
"""How many times faster our Scorer shall be, in one run."""


def prepare(folder: Path) -> None:
    """The talk's forest on simulated readings, both ONNX files, and the rows to score."""
    import skops.io
    from skl2onnx import to_onnx
    from sklearn.ensemble import IsolationForest

    from axlebox.export.forest_onnx import convert
    from axlebox.training.simulate import Fleet, make_readings

    _, _, values, _ = make_readings(Fleet(vehicles=1, bearings=1, days=30, faults=4))
    rows = values.astype(np.float32)
    cut = int(len(rows) * 0.8)
    forest = IsolationForest(random_state=69, bootstrap=True, contamination=0.05).fit(rows[:cut])
    # The stock converter first: ours registers itself in its place.
    stock = to_onnx(forest, rows[:1], target_opset={"": 18, "ai.onnx.ml": 3}, options={"score_samples": True})
    (folder / "stock.onnx").write_bytes(stock.SerializeToString())
    (folder / "ours.onnx").write_bytes(convert(forest, 1))
    skops.io.dump(forest, folder / "forest.skops")
    picked = np.random.default_rng(0).permutation(len(rows) - cut)[:ROWS] + cut
    np.save(folder / "rows.npy", rows[picked])


def load(contender: str, folder: Path):  # type: ignore[no-untyped-def]
    """A function of one row (1, 1) that returns whether it is flagged, and the model's file."""
    if contender == "axlebox Scorer":
        from axlebox.runtime.scorer import Scorer

        scorer = Scorer((folder / "ours.onnx").read_bytes())
        return (lambda row: scorer.score_rows(row)[1][0]), folder / "ours.onnx"
    if contender == "stock skl2onnx":
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(folder / "stock.onnx", options, providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_outputs()]
        return (lambda row: session.run(names, {"X": row})[0][0, 0] == -1), folder / "stock.onnx"
    from axlebox.training.runs import load_forest

    forest = load_forest(folder / "forest.skops")
    if contender.endswith("predict"):
        return (lambda row: forest.predict(row)[0] == -1), folder / "forest.skops"
    return (lambda row: forest.decision_function(row)[0] < 0), folder / "forest.skops"


def serve(contender: str, folder: Path) -> None:
    """Load, report, then measure one run for each line on stdin."""
    rows = [row[None, :] for row in np.load(folder / "rows.npy")]
    started = perf_counter()
    flagged, file = load(contender, folder)
    flagged(rows[0])
    load_ms = (perf_counter() - started) * 1e3
    flags = [bool(flagged(row)) for row in rows]
    facts = {"load_ms": load_ms, "kib": file.stat().st_size / 1024, "mib": peak_mib(), "flags": flags}
    print(json.dumps(facts), flush=True)
    calls = CONTENDERS[contender]
    for _ in sys.stdin:
        started = perf_counter()
        for number in range(calls):
            flagged(rows[number % ROWS])
        print((perf_counter() - started) / calls * 1e6, flush=True)


def peak_mib() -> float:
    """Most memory that this process ever held; ru_maxrss would count its parent's too."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def run_all(folder: Path) -> dict[str, dict[str, Any]]:
    """All contenders loaded, then measured in turns, so that a busy machine hits them alike."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        running = {
            contender: stack.enter_context(
                subprocess.Popen([sys.executable, __file__, contender, str(folder)], **pipes)
            )
            for contender in CONTENDERS
        }
        found = {contender: json.loads(child.stdout.readline()) for contender, child in running.items()}
        times: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for _ in range(RUNS):
            for contender, child in running.items():
                child.stdin.write("\n")
                child.stdin.flush()
                times[contender].append(float(child.stdout.readline()))
    for contender, spread in times.items():
        found[contender] |= {"us": statistics.median(spread), "spread": (min(spread), max(spread))}
    return found


def main() -> None:
    if len(sys.argv) == 3:
        serve(sys.argv[1], Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        found = run_all(Path(name))
    ours = found["axlebox Scorer"]
    print(f"one reading at a time, 100 trees, {ROWS} rows in rotation, median of {RUNS} runs, {platform.machine()}")
    print(f"{'':32}{'us':>9}{'(low-high)':>18}{'times':>8}{'size KiB':>10}{'load ms':>9}{'MiB':>7}{'flags differ':>14}")
    reference = found["scikit-learn predict"]["flags"]
    for contender, one in found.items():
        low, high = one["spread"]
        differ = sum(left != right for left, right in zip(one["flags"], reference, strict=True))
        print(
            f"{contender:32}{one['us']:9.1f}{f'({low:.1f}-{high:.1f})':>18}{one['us'] / ours['us']:8.1f}"
            f"{one['kib']:10.0f}{one['load_ms']:9.0f}{one['mib']:7.0f}{differ:14}"
        )
    for contender, goal in GOALS.items():
        times = found[contender]["us"] / ours["us"]
        print(f"goal: {goal} times faster than {contender}: {'met' if times >= goal else 'MISSED'} ({times:.1f})")
    print("MiB is the whole process at its highest; load includes imports and the first reading.")


if __name__ == "__main__":
    main()
