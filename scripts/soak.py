"""`./scripts/soak`: the daemon at full speed through a FIFO, and the same readings again from a file.

soak.py [--vehicle-bin FOLDER] SECONDS
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daemon_world import BEARINGS, SENSORS, VEHICLES, Garage, Running, program, wait_for_readings, write_all

from axlebox.runtime.readings import format_time
from axlebox.training.simulate import Fleet, make_readings

CYCLE = Fleet(VEHICLES, BEARINGS, days=30, faults=0, seed=1)
FAULT_EVERY, FAULT_LASTS, FAULT_C = 12, 24, 30.0
"""Moments, and degrees."""
WARM_UP = 0.25
"""Share of the time in which memory may grow."""
MOST_MIB = 2.0
LOOK_S = 0.5
SHOWN = 5


# -- readings --------------------------------------------------------------------------------------


def moments() -> Iterator[bytes]:
    """The lines of one moment after the other, without end: the same weeks again and again, at later times."""
    times, names, values, _ = make_readings(CYCLE)
    for number, begin in enumerate(range(0, len(times), FAULT_EVERY)):
        values[begin : begin + FAULT_LASTS, number * 7 % SENSORS] += FAULT_C
    tails = [[f",{name},{value:.2f}\n" for name, value in zip(names, row, strict=True)] for row in values.tolist()]
    later = 0
    while True:
        for moment, row in zip(times.tolist(), tails, strict=True):
            stamp = format_time(moment + later)
            yield (stamp + stamp.join(row)).encode()
        later += CYCLE.days * 86_400


class Writer:
    """Gives readings to the FIFO as fast as it takes them, and keeps them for the replay."""

    def __init__(self, fifo: Path, kept: Path) -> None:
        self.count = 0
        self.ends = threading.Event()
        self._fifo, self._kept = fifo, kept
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        handle = os.open(self._fifo, os.O_WRONLY)
        with open(self._kept, "wb") as kept:
            for lines in moments():
                write_all(handle, lines)
                kept.write(lines)
                self.count += SENSORS
                if self.ends.is_set():
                    break
        os.close(handle)


# -- what is seen of the process -------------------------------------------------------------------


@dataclass
class Seen:
    """Samples of a daemon that runs."""

    rss: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def look(self, running: Running) -> None:
        self.rss.append(running.mib("VmRSS") or 0.0)
        self.descriptors.append(running.descriptors())
        self.threads.append(running.threads())

    def problems(self) -> Iterator[str]:
        """What did not stay as it was."""
        warm = int(WARM_UP * len(self.rss))
        early, late = self.rss[warm : 2 * warm], self.rss[-warm:]
        grown = statistics.median(late) - statistics.median(early)
        if grown > MOST_MIB:
            yield f"memory grew by {grown:.1f} MiB from the second quarter to the last, {MOST_MIB:g} are allowed"
        if max(late) - max(early) > MOST_MIB:
            yield f"the peak of memory grew from {max(early):.1f} to {max(late):.1f} MiB"
        for name, counts in (("descriptors", self.descriptors[warm:]), ("threads", self.threads[warm:])):
            if statistics.median(counts[-warm:]) != statistics.median(counts[:warm]) or max(counts[-warm:]) > max(
                counts[:warm]
            ):
                yield f"there were {min(counts)} to {max(counts)} {name}, and {counts[-1]} at the end"

    def tell(self) -> None:
        quarter = max(1, len(self.rss) // 4)
        for number in range(4):
            part = self.rss[number * quarter : (number + 1) * quarter]
            print(
                f"MiB, quarter {number + 1}: {min(part):.1f} to {max(part):.1f}, median {statistics.median(part):.1f}"
            )
        print(f"descriptors {dict(Counter(self.descriptors))}, threads {dict(Counter(self.threads))}")


@dataclass(frozen=True)
class Result:
    readings: int
    """As the daemon counts them."""
    events: Counter[tuple[str, ...]]
    dropped: int


def events_of(path: Path) -> Counter[tuple[str, ...]]:
    """Type, state, id, sensor and time of each event but those about the daemon itself."""
    found: Counter[tuple[str, ...]] = Counter()
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if event["type"] != "health":
            found[tuple(str(event.get(name)) for name in ("type", "state", "id", "sensor", "time"))] += 1
    return found


def soak(axleboxd: Sequence[str], data: Path, folder: Path, seconds: float) -> tuple[Result, int, Seen]:
    """The result, how many readings were written, and what was seen meanwhile."""
    fifo, out, seen = folder / "fifo", folder / "soaked", Seen()
    os.mkfifo(fifo)
    with open(out, "wb") as stdout:
        running = Running(axleboxd, data, "--source", f"fifo:{fifo}", stdout=stdout)
    running.wait_until_ready()
    writer = Writer(fifo, folder / "readings.csv")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until and running.mib("VmRSS"):
        seen.look(running)
        time.sleep(LOOK_S)
    writer.ends.set()
    writer.thread.join()
    figures = wait_for_readings(data, writer.count)
    time.sleep(LOOK_S)  # for readings that came twice
    figures = wait_for_readings(data, writer.count)
    running.stop(signal.SIGTERM)
    dropped = sum(sink["dropped"] for sink in figures["sinks"])
    return Result(figures["readings"], events_of(out), dropped), writer.count, seen


def replay(axleboxd: Sequence[str], data: Path, folder: Path) -> Result:
    out, log = folder / "replayed", folder / "log"
    with open(out, "wb") as stdout:
        source = f"file:{folder / 'readings.csv'}"
        running = Running(axleboxd, data, "--source", source, stdout=stdout, log=log)
    running.wait()
    (line,) = (line for line in log.read_text().splitlines() if " flagged, " in line)
    return Result(int(line.removeprefix("axleboxd: ").split()[0]), events_of(out), 0)


def problems(soaked: Result, replayed: Result, written: int, seen: Seen) -> Iterator[str]:
    yield from seen.problems()
    for name, result in (("the daemon", soaked), ("the replay", replayed)):
        if result.readings != written:
            yield f"{written:,} readings were written, {name} counted {result.readings:,}"
    if soaked.dropped:
        yield f"{soaked.dropped} events were dropped"
    for words, some in (
        ("are missing", replayed.events - soaked.events),
        ("are too many", soaked.events - replayed.events),
    ):
        if some:
            yield f"{sum(some.values())} events {words}, as {list(some)[:SHOWN]}"
    if not any(kind == "anomaly" and state == "cleared" for kind, state, *_ in soaked.events):
        yield "no event was raised and cleared: nothing was shown"


def main() -> None:
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--vehicle-bin")
    parser.add_argument("seconds", type=float, nargs="?", default=600.0)
    words = parser.parse_args()
    axleboxd = program(words.vehicle_bin)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        garage = Garage(axleboxd, folder, "streaming")
        soaked, written, seen = soak(axleboxd, garage.vehicle(), folder, words.seconds)
        print(f"{written:,} readings of {SENSORS} sensors in {words.seconds:.0f} s: {written / words.seconds:,.0f}/s")
        seen.tell()
        replayed = replay(axleboxd, garage.vehicle(), folder)
    states = Counter(f"{kind} {state}" for (kind, state, *_), count in soaked.events.items() for _ in range(count))
    print(f"events {dict(states)}; {len(replayed.events - soaked.events)} of the replay's are missing")
    found = list(problems(soaked, replayed, written, seen))
    for problem in found:
        print(f"DOES NOT HOLD: {problem}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
