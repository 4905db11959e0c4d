"""`./scripts/bench train`: where the seconds of `axlebox train` go, on a file of readings or on simulated ones.

bench_train.py [READINGS.csv]. First the command itself, as a user calls it, in a new workspace; then the same training
once more in a process that takes the time of every import, of every node, and of every dataset that is read or
written. What a node imports first counts as import and not as the node's work. In parentheses the seconds that the
processor worked: on a machine that does other things too, they are nearer to the truth. Goals: 20 s in all, 3 s of our
own.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import resource
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
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Without byte code on disk every import compiles, which a user sees once."""
LEAST_S = 0.02
"""What takes less is not listed by itself."""


class Clock:
    """Seconds of the wall's clock and of the processor by what was done; within something else the inner one's only."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._open: list[str] = []
        self._since = now()

    def begin(self, what: str) -> None:
        self._turn()
        self._open.append(what)

    def end(self) -> None:
        self._turn()
        self._open.pop()

    def _turn(self) -> None:
        one, moment = self.seconds[self._open[-1] if self._open else "start"], now()
        for number, (before, after) in enumerate(zip(self._since, moment, strict=True)):
            one[number] += after - before
        self._since = moment

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


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


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


def timed(words: list[str], fleet: Path) -> tuple[float, float, str]:
    """Seconds, those of the processor, and output of a training that finds no run."""
    for run in (fleet / "runs").iterdir():
        if run.is_dir():
            shutil.rmtree(run)
    started, worked = time.perf_counter(), children()
    done = subprocess.run(words, cwd=fleet, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return time.perf_counter() - started, children() - worked, done.stdout


def children() -> float:
    """Seconds that the processor worked for the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else None
    axlebox = str(Path(sys.executable).parent / "axlebox")
    with tempfile.TemporaryDirectory(prefix="axlebox-bench-") as scratch:
        fleet = workspace(axlebox, Path(scratch), given)
        timed([axlebox, "train"], fleet)  # unmeasured: files come into memory, byte code is written
        wall, worked, _ = min(timed([axlebox, "train"], fleet) for _ in range(RUNS))
        *whole, printed = timed([sys.executable, __file__, INSIDE, str(fleet)], fleet)
    print(f"\naxlebox train, whole command: {wall:.2f} s ({worked:.2f}), best of {RUNS}, goal {GOAL_S:g}")
    tell(json.loads(printed), whole)


def tell(seconds: dict[str, list[float]], whole: list[float]) -> None:
    """The inside of one training."""
    imports = {name: own for name, own in seconds.items() if name.startswith("import ")}
    steps = {name: own for name, own in seconds.items() if name.partition(" ")[0] in ("step", "load", "save")}
    print(f"inside one training of {shown(whole)}:")
    for title, group in (("imports", imports), (f"our own work, goal {GOAL_OWN_S:g}", steps)):
        print(f"  {title}: {shown(total(group))}")
        for name, own in sorted(group.items(), key=lambda one: -one[1][1]):
            if own[1] >= LEAST_S:
                print(f"    {shown(own)}  {name.removeprefix('import ') or 'relative ones'}")
    kedro = seconds.get("Kedro and settings", [0.0, 0.0])
    known = total({"imports": total(imports), "steps": total(steps), "kedro": kedro})
    print(f"  Kedro around them: {shown(kedro)}")
    print(f"  Python's start and end: {shown([all_ - part for all_, part in zip(whole, known, strict=True)])}")


def total(group: dict[str, list[float]]) -> list[float]:
    return [sum(one[number] for one in group.values()) for number in (0, 1)]


def shown(pair: list[float]) -> str:
    return f"{pair[0]:.2f} s ({pair[1]:.2f})"


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        inside(Path(sys.argv[2]))
    else:
        main()
