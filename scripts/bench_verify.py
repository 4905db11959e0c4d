"""`./scripts/bench verify`: verification of a bundle of 1 MB as whole processes, in seconds and MiB.

bench_verify.py VEHICLE_BIN. Each command runs once unmeasured (its files are in memory then, and its
byte code is written), then in turns with the others, so that a busy machine hits them alike.
"""

from __future__ import annotations

import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RUNS = 9
TREES = 420
GOAL_S = 0.6
GOAL_MIB = 64

# ru_maxrss begins at what the process held that started it, so that one must be small.
METER = """
import os, sys, time
silence = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silence)
_, status, used = os.wait4(child, 0)
print(time.perf_counter() - started, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def large_world(trees: int = TREES) -> Any:
    """The tests' own world with a forest so large that its bundles have 1 MB."""
    import numpy as np
    from sklearn.ensemble import IsolationForest

    from axlebox.export.forest_onnx import convert

    world_of = runpy.run_path(str(Path(__file__).resolve().parent.parent / "tests" / "conftest.py"))
    rows = np.random.default_rng(5).normal(100, 4, (4000, 1)).astype(np.float32)
    forest = IsolationForest(n_estimators=trees, random_state=69, contamination=0.05).fit(rows)
    model = convert(forest, 1)
    spec = world_of["DetectorSpec"]("temperature", "model.onnx", world_of["FeatureSet"]("value", 1), 0.6)
    contract = world_of["Contract"](kinds={"temperature": world_of["Kind"]()})
    return world_of["World"](forest, model, model, spec, contract)


def prepare(folder: Path) -> None:
    """bundle.axb with 3 signatures of 2 needed, and its root.json."""
    world = large_world()
    root = world.root(root_keys=("a", "b", "c"), targets_keys=("d", "e", "f"), threshold=2)
    (folder / "root.json").write_bytes(root)
    (folder / "bundle.axb").write_bytes(world.bundle(roots={"1.root.json": root}, targets_keys=("d", "e", "f")))


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds from start to end of a process that must succeed, and the most MiB that it held."""
    done = subprocess.run([sys.executable, "-ISc", METER, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
    seconds, mib = map(float, done.stdout.split())
    return seconds, mib


def make_commands(vehicle_bin: Path, folder: Path) -> dict[str, list[str]]:
    """What is measured, on a vehicle that is provisioned here."""
    bundle, data = str(folder / "bundle.axb"), str(folder / "vehicle")
    axleboxd, python = str(vehicle_bin / "axleboxd"), str(vehicle_bin / "python")
    axlebox = str(Path(sys.executable).parent / "axlebox")
    trust = ["--trust", str(folder / "root.json")]
    measure([axleboxd, "provision", *trust, "--vehicle", "T204", "--hardware", "rail-box-a", "--data", data])
    return {
        "python -c pass": [python, "-c", "pass"],
        "python -c 'import tuf.api.metadata'": [python, "-c", "import tuf.api.metadata"],
        "axleboxd verify": [axleboxd, "verify", "--data", data, bundle],
        "axlebox verify": [axlebox, "verify", *trust, bundle],
    }


def run_all(commands: dict[str, list[str]]) -> dict[str, list[tuple[float, float]]]:
    for command in commands.values():
        measure(command)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            found[name].append(measure(command))
    return found


def main() -> None:
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "prepare", name], check=True)
        size = (folder / "bundle.axb").stat().st_size
        found = run_all(make_commands(Path(sys.argv[1]), folder))
    print(f"a bundle of {size} bytes, {TREES} trees, 3 signatures of 2 needed; {RUNS} runs in turns")
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors")
    print(f"{'':38}{'median s':>10}{'quickest s':>12}{'peak MiB':>10}  goals: {GOAL_S} s, {GOAL_MIB} MiB")
    for one, runs in found.items():
        seconds, mib = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
        verdict = ("met" if seconds <= GOAL_S and mib <= GOAL_MIB else "MISSED") if one.endswith("verify") else ""
        print(f"{one:38}{seconds:10.3f}{min(run[0] for run in runs):12.3f}{mib:10.1f}  {verdict}")
    print("Whole processes, from start to end; peak is the highest of all runs.")


if __name__ == "__main__":
    main()
