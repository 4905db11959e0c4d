"""`./scripts/bench install`: an installation of a bundle of 1 MB beside a daemon that scores 1,000 readings/s.

bench_install.py VEHICLE_BIN. Readings go in at an even pace, each answer is timed as it comes out.
The gap is the longest wait of a reading for its answer while the release is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

RUNS = 5
PERIOD_S = 0.001
BEFORE_S = 3.0
AFTER_S = 2.0
GOAL_S, GOAL_GAP_S = 3.0, 0.1


class Feed:
    """A daemon with a steady feed; knows how long each reading waited for its answer."""

    def __init__(self, axleboxd: str, data: Path) -> None:
        words = [axleboxd, "run", "--readings", "--data", str(data)]
        ours, self._input = os.pipe()
        self._output, theirs = os.pipe()
        self.process = subprocess.Popen(words, stdin=ours, stdout=theirs, stderr=subprocess.DEVNULL)
        os.close(ours)
        os.close(theirs)
        self.given: list[float] = []
        self.answered: list[float] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._give), threading.Thread(target=self._take)]
        for thread in self._threads:
            thread.start()

    def _give(self) -> None:
        begin = time.perf_counter()
        while not self._stop.is_set():
            due = begin + len(self.given) * PERIOD_S
            time.sleep(max(0.0, due - time.perf_counter()))
            stamp = datetime.fromtimestamp(1.8e9 + len(self.given) * PERIOD_S, UTC).isoformat()
            self.given.append(time.perf_counter())
            os.write(self._input, f"{stamp},100.{len(self.given) % 10}\n".encode())
        os.close(self._input)

    def _take(self) -> None:
        with open(self._output, "rb", buffering=0) as output:
            for line in output:
                if b'"type":"reading"' in line:
                    self.answered.append(time.perf_counter())

    def end(self) -> list[float]:
        """Seconds that each reading waited, in order."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.process.wait()
        if len(self.answered) != len(self.given):
            sys.exit(f"{len(self.given)} readings were given, {len(self.answered)} answered")
        return [after - before for before, after in zip(self.given, self.answered, strict=True)]


def make_bundles(folder: Path) -> None:
    """Two bundles of 1 MB of the same fleet, and its root, by the tests' own world."""
    from bench_verify import large_world

    world = large_world()
    (folder / "root.json").write_bytes(world.root())
    for version in (1, 2):
        (folder / f"{version}.axb").write_bytes(world.bundle(version))


@contextlib.contextmanager
def vehicle(axleboxd: str, folder: Path) -> Iterator[Path]:
    """A data folder that runs release 1, and a stick with release 2 beside it."""
    data, stick = folder / "vehicle", folder / "stick"
    words = ["--trust", str(folder / "root.json"), "--vehicle", "T204", "--hardware", "rail-box-a"]
    call([axleboxd, "provision", *words, "--data", str(data)])
    call([axleboxd, "install", str(folder / "1.axb"), "--yes", "--data", str(data)])
    call([axleboxd, "confirm", "--data", str(data)])
    stick.mkdir()
    shutil.copy(folder / "2.axb", stick)
    yield data
    shutil.rmtree(data)
    shutil.rmtree(stick)


def call(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def run_once(axleboxd: str, folder: Path) -> tuple[float, float, float, float]:
    """Seconds of the installation, longest wait before it, longest and median wait while it runs and right after."""
    with vehicle(axleboxd, folder) as data:
        feed = Feed(axleboxd, data)
        time.sleep(BEFORE_S)
        settled, began = len(feed.given) // 2, len(feed.given)
        started = time.perf_counter()
        call([axleboxd, "install", str(folder / "stick"), "--yes", "--data", str(data)])
        took = time.perf_counter() - started
        time.sleep(AFTER_S)
        waits = feed.end()
    return took, max(waits[settled:began]), max(waits[began:]), statistics.median(waits[began:])


def main() -> None:
    axleboxd = str(Path(sys.argv[1]) / "axleboxd")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_bundles(folder)
        size = (folder / "2.axb").stat().st_size
        runs = [run_once(axleboxd, folder) for _ in range(RUNS)]
    print(f"a bundle of {size} bytes, installed beside a daemon at {1 / PERIOD_S:.0f} readings/s; {RUNS} runs")
    print(f"{os.cpu_count()} processors; no reading was lost in any run")
    took, gap = max(run[0] for run in runs), max(run[2] for run in runs)
    median = statistics.median(run[0] for run in runs)
    print(f"install, stick to PASS: median {median:.2f} s, slowest {took:.2f} s; {verdict(took, GOAL_S)}")
    before = max(run[1] for run in runs)
    print(f"longest wait of a reading: {before:.3f} s before, {gap:.3f} s meanwhile; {verdict(gap, GOAL_GAP_S)}")
    print(f"median wait meanwhile: {1000 * statistics.median(run[3] for run in runs):.2f} ms")


def verdict(found: float, goal: float) -> str:
    return f"goal {goal:g} s {'met' if found < goal else 'MISSED'}"


if __name__ == "__main__":
    main()
