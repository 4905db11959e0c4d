"""`./scripts/bench daemon`: the whole daemon as a process of its own, beside the goals of the design.

bench_daemon.py [VEHICLE_BIN] [--quick] [PART...]. The parts are those of PARTS, by default all, some ten
minutes; --quick makes every run so short that its figures mean little. The daemon is held on one processor core, and
what feeds it stays on the others where there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
from daemon_world import (
    SENSORS,
    Fleet,
    Garage,
    Running,
    each_second,
    percentiles,
    piped,
    program,
    readings_of,
    to_lines,
    wait_for_readings,
    write_all,
)

from axlebox.firmware_bundle.trial import Starter, boot_id
from axlebox.firmware_bundle.vehicle import DETECTOR_STATE, Occasion, Vehicle
from axlebox.runtime import daemon, store, watch
from axlebox.runtime.config import Config, HealthSettings
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.machine import this_runtime
from axlebox.runtime.memory import SNAPSHOT_READINGS
from axlebox.runtime.readings import Reading
from axlebox.runtime.selftest import run_apart
from axlebox.runtime.snapshots import Revived

PARTS = ("throughput", "others", "latency", "processor", "memory", "start", "writes")
RUNS = 3
STARTS = 7
PERIOD_S = 300
DAY_S = 86_400
JITTER_S = 0.001
IMPORTS = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import numpy, onnxruntime, msgspec, click, sqlite3;"
OWN_MEMORY = "print(open('/proc/self/status').read())"


ROOMY = Config(health=HealthSettings(max_memory_mib=65_536))
"""For a daemon in this process, which holds scikit-learn and much else."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    throughput: int = 400_000
    alone: int = 200_000
    sklearn: int = 300
    river: int = 20_000
    latency_s: float = 30.0
    processor_s: float = 60.0
    memory: int = 1_000_000
    kept: int = 40_000
    behind: int = SNAPSHOT_READINGS - 10_000
    hours: float = 6.0


QUICK = Size(4000, 2000, 20, 500, 1.0, 1.0, 4000, 2000, 20_000, 0.05)


@dataclass(frozen=True)
class Bench:
    axleboxd: Sequence[str]
    folder: Path
    size: Size
    streaming: Garage
    value: Garage
    core: int


def tell(what: str, found: str, goal: str = "", met: bool | None = None) -> None:
    verdict = "" if met is None else f"  goal {goal}: {'met' if met else 'MISSED'}"
    print(f"{what:66}{found:>22}{verdict}", flush=True)


# -- throughput ------------------------------------------------------------------------------------


def throughput(bench: Bench) -> None:
    """CSV file in, events out, from ready to ended."""
    many = bench.folder / "many.csv"
    one = bench.folder / "one.csv"
    days = bench.size.throughput // SENSORS * PERIOD_S // DAY_S + 1
    many.write_bytes(b"".join(to_lines(readings_of(Fleet(25, 4, days, PERIOD_S, faults=0, seed=1)))))
    days = bench.size.throughput * PERIOD_S // DAY_S + 1
    one.write_bytes(b"".join(to_lines(readings_of(Fleet(1, 1, days, PERIOD_S, faults=0, seed=1)))))
    for garage, goal in ((bench.streaming, 40_000), (bench.value, 100_000)):
        for words, source in (("1 sensor", one), (f"{SENSORS} sensors", many)):
            wall, busy = zip(*(replay(bench, garage, source) for _ in range(RUNS)), strict=True)
            what = f"readings/s, {words}, {garage.name}: best of {RUNS}"
            tell(what, f"{max(wall):,.0f}", f"{goal:,}", max(wall) >= goal)
            tell("  by processor time: median, best", f"{statistics.median(busy):,.0f}, {max(busy):,.0f}")


def replay(bench: Bench, garage: Garage, source: Path) -> tuple[float, float]:
    """Readings a second, and a second of processor time."""
    with open(bench.folder / "events", "wb") as events:
        words = ("--source", f"file:{source}")
        running = Running(bench.axleboxd, garage.vehicle(), *words, core=bench.core, stdout=events)
        running.wait_until_ready()
        used = running.wait(every_s=0.01)
    count = source.read_bytes().count(b"\n")
    busy = used.ru_utime + used.ru_stime - running.cpu_at_ready
    return count / (running.ended - running.ready), count / busy


def others(bench: Bench) -> None:
    """Others at the same work in this process, on the daemon's core: lines in, a JSON line where one is flagged."""
    source = bench.folder / "alone.csv"
    days = bench.size.alone * PERIOD_S // DAY_S + 1
    lines = to_lines(readings_of(Fleet(1, 1, days, PERIOD_S, faults=0, seed=1)))
    source.write_bytes(b"".join(lines))
    ours = {}
    for garage in (bench.streaming, bench.value):
        ours[garage.name] = max(replay(bench, garage, source)[1] for _ in range(RUNS))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {bench.core})
    forest, cut = bench.value.forest, -bench.value.forest.offset_
    found = {
        "River HalfSpaceTrees, value": loop(lines[: bench.size.river], river_scorer(("value",)), 0.9),
        "River HalfSpaceTrees, value and hour": loop(lines[: bench.size.river], river_scorer(("value", "hour")), 0.9),
        "scikit-learn IsolationForest.score_samples, value": loop(
            lines[: bench.size.sklearn],
            lambda _, value: -float(forest.score_samples(np.array([[value]], dtype=np.float32))[0]),
            cut,
        ),
    }
    os.sched_setaffinity(0, before)
    for name, rate in ours.items():
        tell(f"readings per processor second, 1 sensor, axleboxd {name}", f"{rate:,.0f}")
    for name, rate in found.items():
        ratios = ", ".join(f"{key} {value / rate:,.1f}x" for key, value in ours.items())
        tell(f"readings per processor second, {name}", f"{rate:,.0f}")
        tell("  axleboxd is quicker by", ratios)


def river_scorer(features: Sequence[str]) -> Callable[[datetime, float], float]:
    """Score, then learn, as River's own documentation does; with its defaults but for the limits of the features."""
    from river.anomaly import HalfSpaceTrees

    limits = {"value": (-40.0, 120.0), "hour": (0.0, 24.0)}
    trees = HalfSpaceTrees(limits={name: limits[name] for name in features}, seed=1)

    def score(moment: datetime, value: float) -> float:
        row = {"value": value, "hour": float(moment.hour)}
        kept = {name: row[name] for name in features}
        found: float = trees.score_one(kept)
        trees.learn_one(kept)
        return found

    return score


def loop(lines: Sequence[bytes], score: Callable[[datetime, float], float], cut: float) -> float:
    """Readings per second of processor time."""
    began = time.process_time()
    with open(os.devnull, "w") as out:
        for line in lines:
            when, sensor, text = line.decode().rstrip().split(",")
            found = score(datetime.fromisoformat(when), float(text))
            if found > cut:
                out.write(json.dumps({"type": "anomaly", "sensor": sensor, "time": when, "score": found}) + "\n")
    return len(lines) / (time.process_time() - began)


# -- latency and processor -------------------------------------------------------------------------


def latency(bench: Bench) -> None:
    """From the write of a line until its answer is read, readings of a hundred sensors evenly spread in time."""
    for rate in (50, 1000):
        waits = paced_through_cat(bench, rate, min(10.0, bench.size.latency_s))
        found = ", ".join(f"{1000 * one:.3f}" for one in percentiles(waits, 0.5, 0.99, 0.999))
        tell(f"ms through cat in its place at {rate:,}/s: p50, p99, p99.9", found)
    for garage in (bench.streaming, bench.value):
        for rate in (50, 1000):
            waits = paced(bench, garage, rate, bench.size.latency_s)
            half, most, nearly = (1000 * one for one in percentiles(waits, 0.5, 0.99, 0.999))
            what = f"ms from line to answer at {rate:,}/s, {garage.name}: p50, p99, p99.9"
            goal = "0.2, 1" if rate == 1000 else ""
            met = half <= 0.2 and most <= 1.0 if goal else None
            tell(what, f"{half:.3f}, {most:.3f}, {nearly:.3f}", goal, met)


def paced(bench: Bench, garage: Garage, rate: int, seconds: float) -> list[float]:
    """The wait of each reading, but for those of the first tenth of the time."""
    count = int(rate * seconds)
    lines = to_lines(each_second(count // SENSORS + 1))[:count]
    output, theirs = os.pipe()
    with piped(bench.axleboxd, garage.vehicle(), "--readings", core=bench.core, stdout=theirs) as (_, handle):
        os.close(theirs)
        given, answered = exchange(handle, output, lines, 1 / rate)
        os.close(handle)
        while os.read(output, 65_536):
            pass
    os.close(output)
    waits = [after - before for before, after in zip(given, answered, strict=True)]
    return waits[len(waits) // 10 :]


def paced_through_cat(bench: Bench, rate: int, seconds: float) -> list[float]:
    """What pipes, and waking up, take on this machine."""
    lines = to_lines(each_second(int(rate * seconds) // SENSORS + 1))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        if cat.stdin is None or cat.stdout is None:
            raise AssertionError("both are pipes")
        os.sched_setaffinity(cat.pid, {bench.core})
        given, answered = exchange(cat.stdin.fileno(), cat.stdout.fileno(), lines, 1 / rate, b"\n")
    return [after - before for before, after in zip(given, answered, strict=True)]


def exchange(
    handle: int, output: int, lines: Sequence[bytes], period_s: float, mark: bytes = b'{"type":"reading"'
) -> tuple[list[float], list[float]]:
    """When each line was written, and when its answer was read; one thread, so that none waits for the other.

    There is a `mark` in each answer, and in no event.
    """
    given: list[float] = []
    answered: list[float] = []
    begin = time.perf_counter()
    while len(answered) < len(lines):
        due = begin + len(given) * period_s if len(given) < len(lines) else begin + 1e6
        left = due - time.perf_counter()
        if left <= 0:
            given.append(time.perf_counter())
            os.write(handle, lines[len(given) - 1])
        elif select.select([output], [], [], left)[0]:
            chunk = os.read(output, 65_536)
            if not chunk:
                sys.exit(f"axleboxd run ended after {len(answered)} of {len(lines)} answers")
            answered += [time.perf_counter()] * chunk.count(mark)
    return given, answered


def processor(bench: Bench) -> None:
    """Share of one core with a hundred sensors at 1 Hz."""
    seconds = int(bench.size.processor_s)
    lines = to_lines(each_second(seconds))
    for garage in (bench.streaming, bench.value):
        for words, at_once in (("all at once", SENSORS), ("one after the other", 1)):
            share = 100 * share_of_core(bench, garage, lines, at_once)
            tell(f"% of a core, {SENSORS} sensors at 1 Hz, {words}, {garage.name}", f"{share:.2f}", "2", share <= 2)


def share_of_core(bench: Bench, garage: Garage, lines: Sequence[bytes], at_once: int) -> float:
    with piped(bench.axleboxd, garage.vehicle(), core=bench.core) as (running, handle):
        begin, busy = time.perf_counter(), running.cpu_s()
        for number in range(0, len(lines), at_once):
            due = begin + number / SENSORS
            time.sleep(max(0.0, due - time.perf_counter()))
            os.write(handle, b"".join(lines[number : number + at_once]))
        time.sleep(max(0.0, begin + len(lines) / SENSORS - time.perf_counter()))
        return (running.cpu_s() - busy) / (time.perf_counter() - begin)


# -- memory ----------------------------------------------------------------------------------------


def memory(bench: Bench) -> None:
    """Resident MiB over many readings at full speed, and how much of it is there before the first line of ours."""
    python = [str(Path(bench.axleboxd[0]).parent / "python"), "-c"]
    (bench.folder / "model.onnx").write_bytes(bench.streaming.model)
    session = f"\none = onnxruntime.InferenceSession({str(bench.folder / 'model.onnx')!r});"
    for words, code in (
        ("Python alone", ""),
        ("Python with numpy, onnxruntime, msgspec, click, sqlite3", IMPORTS),
        ("the same with the model loaded", IMPORTS + session),
    ):
        status = subprocess.run([*python, f"{code}\n{OWN_MEMORY}"], capture_output=True, text=True, check=True).stdout
        tell(f"MiB: {words}", f"{int(status.split('VmRSS:')[1].split()[0]) / 1024:.1f}")
    for garage in (bench.streaming, bench.value):
        ready, rss, most = memory_of(bench, garage)
        what = f"MiB at ready, last, most; {bench.size.memory:,} readings, {SENSORS} sensors, {garage.name}"
        tell(what, f"{ready:.1f}, {rss:.1f}, {most:.1f}", "70", most <= 70)


def memory_of(bench: Bench, garage: Garage) -> tuple[float, float, float]:
    chunk = to_lines(each_second(min(bench.size.memory // SENSORS, 40_000)))
    with piped(bench.axleboxd, garage.vehicle(), core=bench.core) as (running, handle):
        ready = running.mib("VmRSS") or 0.0
        write_all(handle, b"".join(chunk))
        wait_for_readings(running.data, len(chunk))
        last = running.mib("VmRSS") or 0.0
        os.close(handle)
        seen = [running.mib("VmHWM") or 0.0]
        running.wait(lambda: seen.append(running.mib("VmHWM") or 0.0), 0.005)
    return ready, last, max(seen)


# -- start -----------------------------------------------------------------------------------------


def start(bench: Bench) -> None:
    """From the start of the process until it says READY; its files are in the system's memory."""
    data = bench.streaming.vehicle()
    empty = [started(bench, data, signal.SIGKILL)[0] for _ in range(STARTS)]
    tell("s to ready, no state: median, slowest", f"{statistics.median(empty):.2f}, {max(empty):.2f}")
    with piped(bench.axleboxd, data, core=bench.core) as (_, handle):
        write_all(handle, b"".join(to_lines(readings_of(Fleet(25, 4, 14, PERIOD_S, faults=0)))[: bench.size.kept]))
    warm = [started(bench, data, signal.SIGTERM)[0] for _ in range(STARTS)]
    what = f"s to ready, state of {SENSORS} sensors: median, slowest"
    tell(what, f"{statistics.median(warm):.2f}, {max(warm):.2f}", "0.6", statistics.median(warm) <= 0.6)
    size = (data / DETECTOR_STATE).stat().st_size
    tell("  bytes of the snapshot", f"{size:,}")
    after_kill(bench, bench.size.behind)


def after_kill(bench: Bench, behind: int) -> None:
    """A snapshot first, by an end in order; then so many readings, which only the ring has when the process is killed.

    At 1 Hz no more than SNAPSHOT_READINGS lie between two snapshots of so few bytes.
    """
    data = bench.streaming.vehicle()
    lines = to_lines(each_second((bench.size.kept + behind) // SENSORS))
    with piped(bench.axleboxd, data, core=bench.core) as (_, handle):
        write_all(handle, b"".join(lines[: bench.size.kept]))
    with piped(bench.axleboxd, data, core=bench.core) as (running, handle):
        write_all(handle, b"".join(lines[bench.size.kept :]))
        wait_for_readings(data, len(lines) - bench.size.kept)
        time.sleep(1.0)  # the store's own thread writes the last full block
        running.stop(signal.SIGKILL)
    runs = [started(bench, data, signal.SIGKILL) for _ in range(RUNS)]
    tell(f"s to ready after kill -9, {behind:,} readings behind the snapshot", f"{max(one[0] for one in runs):.2f}")
    print(f"  {runs[0][1]}")


def started(bench: Bench, data: Path, end: int) -> tuple[float, str]:
    """Seconds, and what the log says of the state."""
    log = bench.folder / "log"
    with piped(bench.axleboxd, data, core=bench.core, log=log) as (running, _):
        running.stop(end)
    restored = [line for line in log.read_text().splitlines() if "restored" in line]
    return running.ready - running.began, restored[0] if restored else "no state was restored"


# -- writes ----------------------------------------------------------------------------------------


class Clock:
    """Stands in for the monotonic clock, so that hours pass in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def writes(bench: Bench) -> None:
    """A hundred sensors at 1 Hz for hours of a clock that is made to run, with all that is kept in service.

    The ring is made so short that it is full after an hour: a full one also deletes.
    """
    for garage, words, digits in (
        (bench.streaming, "even times", None),
        (bench.streaming, "times that jitter by 1 ms, in ms", 3),
        (bench.streaming, "times that jitter by 1 ms, in us", 6),
        (bench.value, "even times", None),
    ):
        told, counted, events = day_of_writes(garage.vehicle(), bench.size.hours, digits)
        what = f"MB written a day, {SENSORS} sensors at 1 Hz, {words}, {garage.name}"
        tell(what, f"{counted / 1e6:.1f}", "20", counted <= 20e6)
        tell("  as axleboxd status tells it; events a day", f"{told / 1e6:.1f}; {events:,.0f}")


def day_of_writes(data: Path, hours: float, digits: int | None) -> tuple[float, float, float]:
    """Bytes a day as the store counts them and as the system does, and events a day."""
    clock = Clock()
    with mock.patch.object(store, "RING_BYTES", 256 * 1024):
        for module in (daemon, store, watch):
            module.monotonic = clock  # type: ignore[attr-defined]
        try:
            before = handed_to_the_system()
            told, events = drive(data, clock, hours, digits)
            counted = handed_to_the_system() - before
        finally:
            for module in (daemon, store, watch):
                module.monotonic = time.monotonic  # type: ignore[attr-defined]
    return told * 24 / hours, counted * 24 / hours, events * 24 / hours


def drive(data: Path, clock: Clock, hours: float, digits: int | None) -> tuple[int, int]:
    starter = Starter(Vehicle.open(data), boot_id(), this_runtime(), run_apart)
    release = starter.start(Occasion(datetime.now(UTC), print))
    revived = Revived(monitor_release(release))
    kept = store.Store.open(data, print)
    kept.since_session = kept.session
    around = watch.VehicleWatch(starter, revived, release, kept, ROOMY, print)
    scoring = daemon.Daemon(revived.monitor, around)
    for items in seconds_of(hours, digits):
        clock.now += 1.0
        scoring.step(items)
    around.end()
    kept.close()
    return kept.bytes_written, scoring.totals.events


def seconds_of(hours: float, digits: int | None) -> Iterator[list[Reading]]:
    """A hundred readings each second; with `digits`, at times that jitter by 1 ms and are told with so many digits."""
    shaken = random.Random(1)  # noqa: S311
    readings = each_second(int(hours * 3600))
    for number in range(0, len(readings), SENSORS):
        some = readings[number : number + SENSORS]
        if digits is not None:
            some = [Reading(round(one.time + shaken.gauss(0, JITTER_S), digits), one.sensor, one.value) for one in some]
        yield some


def handed_to_the_system() -> int:
    return int(Path("/proc/self/io").read_text().partition("wchar: ")[2].split()[0])


def main() -> None:
    """A first word that is no part is the folder of the vehicle's programs, which ./scripts/bench puts there."""
    parser = argparse.ArgumentParser(prog="bench daemon")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    words = parser.parse_args()
    folder_of_axleboxd = words.parts.pop(0) if words.parts and words.parts[0] not in PARTS else None
    if not set(words.parts) <= set(PARTS):
        parser.error(f"the parts are {', '.join(PARTS)}")
    axleboxd = program(folder_of_axleboxd)
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        garages = [Garage(axleboxd, folder, feature_set) for feature_set in ("streaming", "value")]
        bench = Bench(axleboxd, folder, QUICK if words.quick else Size(), *garages, core)
        print(f"axleboxd on core {core} of {os.cpu_count()}, others busy: load {os.getloadavg()[0]:.1f}")
        for part in words.parts or PARTS:
            globals()[part](bench)


if __name__ == "__main__":
    main()
