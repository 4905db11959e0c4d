"""`./scripts/bench train`: where the seconds of `axlebox train` go, on a file of readings or on simulated ones.

bench_train.py [READINGS.csv]. First the command itself, as a user calls it, in a new workspace; then the same training
once more in a process that takes the time of every import, of every node, and of every dataset that is read or
written. What a node imports first counts as import and not as the node's work. Goals: 20 s in all, 3 s of our own.
"""

from __future__ import annotations

import builtins
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUNS = 3
GOAL_S = 20.0
GOAL_OWN_S = 3.0
INSIDE = "--inside"


class Clock:
    """Seconds by what was done; time within something else counts for the inner one only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def begin(self, what: str) -> None:
        self._turn()
        self._open.append(what)

    def end(self) -> None:
        self._turn()
        self._open.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1] if self._open else "start"] += now - self._since
        self._since = now

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        self.begin(what)
        try:
            yield
        finally:
            self.end()

    def watch_imports(self) -> None:
        """Whatever imports, by whatever way, until the process ends."""
        builtins.__import__ = self._watched(builtins.__import__)
        importlib.import_module = self._watched(importlib.import_module)  # type: ignore[assignment]

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(name: str, *words: Any, **more: Any) -> Any:
            if (self._open and self._open[-1].startswith("import ")) or name in sys.modules:
                return original(name, *words, **more)
            with self.measure(f"import {name.partition('.')[0]}"):
                return original(name, *words, **more)

        return watched


def inside(folder: Path) -> None:
    """Train in a workspace; prints the seconds as JSON. The report and our copies of data count as steps of ours."""
    clock = Clock()
    clock.watch_imports()
    from kedro.framework.hooks import hook_impl

    from axlebox.training import runs, settings
    from axlebox.training.run import train
    from axlebox.training.workspace import find_workspace

    class Watch:
        """Kedro's own hooks around each step."""

        @hook_impl
        def before_node_run(self, node: Any) -> None:
            clock.begin(f"step {node.name}")

        @hook_impl
        def after_node_run(self) -> None:
            clock.end()

        @hook_impl
        def before_dataset_loaded(self, dataset_name: str) -> None:
            clock.begin(f"load {dataset_name}")

        @hook_impl
        def after_dataset_loaded(self) -> None:
            clock.end()

        @hook_impl
        def before_dataset_saved(self, dataset_name: str) -> None:
            clock.begin(f"save {dataset_name}")

        @hook_impl
        def after_dataset_saved(self) -> None:
            clock.end()

    report = runs.write_report

    def write_report(folder: Path) -> Path:
        with clock.measure("step report"):
            return report(folder)

    runs.write_report = write_report
    settings.HOOKS = (*settings.HOOKS, Watch())  # type: ignore[assignment]
    with clock.measure("Kedro and settings"):
        train(find_workspace(folder), {})
    print(json.dumps(clock.seconds))


def workspace(axlebox: str, folder: Path, given: str | None) -> Path:
    """A new workspace with readings in it."""

    def call(*words: object) -> None:
        subprocess.run([axlebox, *map(str, words)], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    call("init", folder / "fleet")
    data = Path(given).resolve() if given else folder / "readings.csv"
    if not given:
        call("simulate", data)
    subprocess.run([axlebox, "ingest", data], cwd=folder / "fleet", check=True)
    return folder / "fleet"


def timed(words: list[str], fleet: Path) -> tuple[float, str]:
    """Seconds and output of a training that finds no run."""
    for run in (fleet / "runs").iterdir():
        if run.is_dir():
            shutil.rmtree(run)
    started = time.perf_counter()
    done = subprocess.run(words, cwd=fleet, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else None
    axlebox = str(Path(sys.executable).parent / "axlebox")
    with tempfile.TemporaryDirectory(prefix="axlebox-bench-") as scratch:
        fleet = workspace(axlebox, Path(scratch), given)
        timed([axlebox, "train"], fleet)  # unmeasured: files come into memory, byte code is written
        walls = [timed([axlebox, "train"], fleet)[0] for _ in range(RUNS)]
        wall, printed = timed([sys.executable, __file__, INSIDE, str(fleet)], fleet)
    print(f"\naxlebox train, whole command: {min(walls):.2f} s (best of {RUNS}, goal {GOAL_S:g})")
    tell(json.loads(printed), wall)


def tell(seconds: dict[str, float], wall: float) -> None:
    """The inside of one training."""
    imports = {name: own for name, own in seconds.items() if name.startswith("import ")}
    steps = {name: own for name, own in seconds.items() if name.partition(" ")[0] in ("step", "load", "save")}
    print(f"inside one training of {wall:.2f} s:")
    groups = (("imports", imports), ("our own work", steps))
    for title, group in groups:
        goal = f" (goal {GOAL_OWN_S:g})" if group is steps else ""
        print(f"  {title}: {sum(group.values()):.2f} s{goal}")
        for name, own in sorted(group.items(), key=lambda one: -one[1]):
            if own >= 0.02:
                print(f"    {own:6.2f}  {name.removeprefix('import ')}")
    kedro = seconds.get("Kedro and settings", 0.0)
    print(f"  Kedro around them: {kedro:.2f} s")
    print(f"  Python's start and end: {wall - kedro - sum(imports.values()) - sum(steps.values()):.2f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        inside(Path(sys.argv[2]))
    else:
        main()
