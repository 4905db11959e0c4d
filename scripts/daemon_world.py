"""What `./scripts/bench daemon` and `./scripts/soak` share: a vehicle, readings for it, and the process that scores."""

from __future__ import annotations

import contextlib
import os
import resource
import runpy
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from axlebox.export.forest_onnx import convert
from axlebox.firmware_bundle.manifest import Contract, Golden, GoldenRow, Kind, Sensor
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.scorer import Scorer
from axlebox.training.experiment import train_detector
from axlebox.training.parameters import BundleParameters, Parameters
from axlebox.training.simulate import Fleet, make_readings

VEHICLES, BEARINGS = 25, 4
SENSORS = VEHICLES * BEARINGS
TRAINING = Fleet(1, BEARINGS, days=20, faults=0)
_GOLDEN = 40
_PATIENCE_S = 120.0
_WORLD: Any = runpy.run_path(str(Path(__file__).resolve().parent.parent / "tests" / "conftest.py"))["World"]


# -- readings --------------------------------------------------------------------------------------


def readings_of(fleet: Fleet, moments: int | None = None, begin: int = 0) -> list[Reading]:
    """Moment by moment, all sensors of each."""
    times, names, values, _ = make_readings(fleet)
    end = None if moments is None else begin + moments
    return [
        Reading(moment, name, value)
        for moment, row in zip(times[begin:end].tolist(), values[begin:end].tolist(), strict=True)
        for name, value in zip(names, row, strict=True)
    ]


def to_lines(readings: Sequence[Reading]) -> list[bytes]:
    return [f"{format_time(one.time)},{one.sensor},{one.value:.2f}\n".encode() for one in readings]


def each_second(moments: int, seed: int = 1) -> list[Reading]:
    """A hundred sensors at 1 Hz, from ten in the morning on: the vehicles run."""
    return readings_of(Fleet(VEHICLES, BEARINGS, days=1, period_s=1, faults=0, seed=seed), moments, 36_000)


# -- a vehicle -------------------------------------------------------------------------------------


def make_world(feature_set: str) -> Any:
    """The tests' own world with a detector of four sibling bearings, which serves a hundred in groups of four."""
    learnt = pd.DataFrame(
        [(one.time, one.sensor, one.value) for one in readings_of(TRAINING)], columns=["time", "sensor", "value"]
    )
    names = make_readings(Fleet(VEHICLES, BEARINGS, days=1, faults=0))[1]
    contract = Contract({"bearing": Kind()}, {name: Sensor("bearing", group=name.split(".")[0]) for name in names})
    parameters = Parameters(BundleParameters("bearings"), feature_set=feature_set)  # type: ignore[arg-type]
    fitted = train_detector(learnt, contract, parameters).fitted["bearing"]
    model = convert(fitted.forest, fitted.forest.n_features_in_)
    return _WORLD(fitted.forest, model, model, fitted.spec, contract)


def golden_of(world: Any) -> Golden:
    """The first readings of the training, with the model's answers."""
    readings = readings_of(TRAINING)[:_GOLDEN]
    detector = Detector(world.spec, Scorer(world.model).score_rows)
    outcomes = Monitor(world.contract, {"bearing": detector}, Origin("x", 0, "0" * 64)).process(readings)
    return Golden(
        tuple(
            GoldenRow(format_time(one.time), one.sensor, one.value, float(outcome.score or 0), outcome.flag)
            for one, outcome in zip(readings, outcomes, strict=True)
        )
    )


class Garage:
    """Vehicles that run a release of one feature set; each has a data folder of its own."""

    def __init__(self, axleboxd: Sequence[str], folder: Path, feature_set: str) -> None:
        from axlebox.firmware_bundle.manifest import encode

        self._axleboxd = axleboxd
        self._folder = folder
        self._count = 0
        self.name = feature_set
        world = make_world(feature_set)
        world.golden = lambda: golden_of(world)
        self.model: bytes = world.model
        self.forest = world.forest
        self._root, self._bundle = folder / f"{feature_set}.root.json", folder / f"{feature_set}.axb"
        self._root.write_bytes(world.root())
        files = {**world.files(world.manifest()), "golden.json": encode(golden_of(world))}
        self._bundle.write_bytes(world.bundle(files=files))

    def vehicle(self) -> Path:
        """The data folder of a new vehicle whose release is confirmed."""
        self._count += 1
        data = self._folder / f"{self.name}-{self._count}"
        words = ["--trust", str(self._root), "--vehicle", "T204", "--hardware", "rail-box-a"]
        self._call("provision", *words, "--data", str(data))
        self._call("install", str(self._bundle), "--yes", "--data", str(data))
        self._call("confirm", "--data", str(data))
        return data

    def _call(self, *words: str) -> None:
        done = subprocess.run([*self._axleboxd, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"axleboxd {words[0]} ended with {done.returncode}: {done.stderr}")


def program(folder: str | None) -> list[str]:
    """axleboxd of a vehicle's virtual environment; without one, of this one."""
    if folder is None:
        return [sys.executable, "-c", "from axlebox.runtime.cli import main; main()"]
    return [str(Path(folder) / "axleboxd")]


# -- the process -----------------------------------------------------------------------------------


class Running:
    """An `axleboxd run` from its start on, and what the system knows of it."""

    def __init__(
        self,
        axleboxd: Sequence[str],
        data: Path,
        *words: str,
        core: int | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        log: Path | None = None,
    ) -> None:
        self.data = data
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(f"\0axlebox-bench-{os.getpid()}-{id(self)}")
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + self._told.getsockname()[1:].decode()}
        command = [*axleboxd, "run", *words, "--data", str(data)]
        with open(os.devnull if log is None else log, "wb") as stderr:
            self.began = time.perf_counter()
            self.process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment)
        if core is not None:
            os.sched_setaffinity(self.process.pid, {core})
        self._proc = Path(f"/proc/{self.process.pid}")

    def wait_until_ready(self) -> float:
        """Seconds from the start until it says READY; the time of that is kept as `ready`."""
        until = self.began + _PATIENCE_S
        while select.select([self._told], [], [], max(0.0, until - time.perf_counter()))[0]:
            if b"READY=1" in self._told.recv(4096):
                self.ready = time.perf_counter()
                self.cpu_at_ready = self.cpu_s()
                return self.ready - self.began
        sys.exit("axleboxd run did not become ready")

    def cpu_s(self) -> float:
        """Processor seconds of all its threads, ended ones included."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mib(self, name: str) -> float | None:
        """VmRSS or VmHWM; None once it has ended."""
        with contextlib.suppress(OSError):
            for line in (self._proc / "status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) / 1024
        return None

    def threads(self) -> int:
        return len(list((self._proc / "task").iterdir()))

    def descriptors(self) -> int:
        return len(list((self._proc / "fd").iterdir()))

    def wait(self, look: Callable[[], object] = lambda: None, every_s: float = 0.05) -> resource.struct_rusage:
        """Until it ends, calling `look` meanwhile; what it used. `ended` is when that was."""
        while True:
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                break
            look()
            time.sleep(every_s)
        self.ended = time.perf_counter()
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._told.close()
        return used

    def stop(self, how: int) -> None:
        self.process.send_signal(how)
        self.wait(every_s=0.01)


@contextlib.contextmanager
def piped(axleboxd: Sequence[str], data: Path, *words: str, **how: Any) -> Iterator[tuple[Running, int]]:
    """A daemon that is ready, and the descriptor that its readings are written to; the end of them is its end."""
    theirs, ours = os.pipe()
    running = Running(axleboxd, data, *words, stdin=theirs, **how)
    os.close(theirs)
    running.wait_until_ready()
    try:
        yield running, ours
    finally:
        with contextlib.suppress(OSError):
            os.close(ours)
        if running.process.returncode is None:
            running.wait()


def write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def wait_for_readings(data: Path, count: int) -> dict[str, Any]:
    """Until the daemon has scored so many; its figures then."""
    from axlebox.runtime.control import ask

    until = time.perf_counter() + _PATIENCE_S
    while time.perf_counter() < until:
        found = ask(data, what="status")
        if found is not None and found["readings"] >= count:
            return found
        time.sleep(0.1)
    sys.exit(f"axleboxd run did not score {count} readings in {_PATIENCE_S:.0f} s")


def percentiles(values: Sequence[float], *shares: float) -> list[float]:
    found: list[float] = np.quantile(values, shares).tolist()
    return found
