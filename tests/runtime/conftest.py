"""A vehicle's program called in this process, on a vehicle and a stick in a test's own folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from axlebox.export.forest_onnx import convert
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, Golden, GoldenRow, Kind, Sensor
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.runtime.cli import main
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.features import KNOWN_SETS
from axlebox.runtime.outcomes import Origin, Outcome
from axlebox.runtime.readings import Reading, Replaced, format_time
from axlebox.runtime.scorer import Scorer
from axlebox.runtime.streaming_constants import Constants
from axlebox.training.experiment import TrainedDetector, train_detector
from axlebox.training.parameters import BundleParameters, Parameters, ThresholdParameters
from tests.conftest import World


class Ended:
    """How a command ended, and what it said."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        """What it said, as the one JSON object that it must be."""
        return json.loads(self.out)

    @property
    def words(self) -> str:
        """The words of the screen, however its lines were wrapped."""
        return " ".join(self.out.split())


Run = Callable[..., Ended]

AXLEBOXD = [sys.executable, "-c", "from axlebox.runtime.cli import main; main()"]
"""The program in a process of its own."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """axleboxd in this process, on the vehicle in tmp_path/data; nobody sits at the terminal."""
    monkeypatch.setenv("AXLEBOX_DATA", str(tmp_path / "data"))

    def program(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["axleboxd", *map(str, words)])
        with open(os.devnull) as nobody, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", nobody)
            with pytest.raises(SystemExit) as ended:
                main()
        captured = capfd.readouterr()
        # However a command ends: words for people in lines, failures in one line, no traceback.
        assert "Traceback" not in captured.err
        assert captured.err.count("\n") <= 1
        return Ended(ended.value.code or 0, captured.out, captured.err)

    return program


@pytest.fixture
def trust(world: Any, tmp_path: Path) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(world.root())
    return path


@pytest.fixture
def vehicle(run: Run, trust: Path, tmp_path: Path) -> Path:
    """The data folder of a provisioned vehicle, TRAIN-204 on hardware edge-1."""
    assert run("provision", "--trust", trust, "--vehicle", "TRAIN-204", "--hardware", "edge-1").code == 0
    return tmp_path / "data"


@pytest.fixture
def stick(world: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of the world to the stick and returns its path."""
    (tmp_path / "stick").mkdir()

    def write(version: int = 1, **how: Any) -> Path:
        path = tmp_path / "stick" / f"bearing-temp-{version}.axb"
        path.write_bytes(world.bundle(version, **how))
        return path

    return write


# -- a vehicle with four bearings, and a detector trained on it ------------------------------------

PERIOD = 300.0
BEARINGS = tuple(f"T204.{number}" for number in range(4))
SERVICE_BEGINS = 1_700_000_000.0


def bearings(days: float, seed: int, ids: tuple[str, ...] = BEARINGS) -> dict[str, list[Reading]]:
    """Readings of four sibling bearings every five minutes: air with a daily cycle, load, and noise."""
    random = np.random.default_rng(seed)
    count = int(days * 86400 / PERIOD)
    times = SERVICE_BEGINS + PERIOD * np.arange(count)
    running = np.repeat(random.uniform(0, 1, count // 6 + 1), 6)[:count] * (times % 86400 > 5 * 3600)
    common = 12 + 6 * np.sin(2 * np.pi * times / 86400)
    rise = 0.0
    heat = np.array([rise := rise + 0.12 * (30 * load - rise) for load in running.tolist()])
    found = {}
    for name in ids:
        own = common + heat * (1 + 0.03 * random.standard_normal()) + random.standard_normal()
        values = np.round((own + 0.3 * random.standard_normal(count)) * 4) / 4
        found[name] = [Reading(*one) for one in zip(times.tolist(), [name] * count, values.tolist(), strict=True)]
    return found


def stream(sensors: Mapping[str, Sequence[Reading]]) -> list[Reading]:
    """Moment by moment."""
    return sorted((one for readings in sensors.values() for one in readings), key=lambda one: one.time)


@dataclass(frozen=True)
class Bearing:
    """A trained detector of bearings."""

    trained: TrainedDetector

    @property
    def spec(self) -> DetectorSpec:
        return self.trained.fitted["bearing"].spec

    @property
    def constants(self) -> Constants:
        return Constants.parse(self.spec.features.constants)

    def outcomes(self, sensors: Mapping[str, Sequence[Reading]]) -> dict[str, list[Outcome]]:
        """What became of each sensor's readings, through a Monitor with empty state."""
        found: dict[str, list[Outcome]] = {name: [] for name in sensors}
        for outcome in self.trained.monitor().process(stream(sensors)):
            found[outcome.sensor].append(outcome)
        return found


@pytest.fixture(scope="session")
def bearing() -> Bearing:
    """Trained on 40 days of four bearings, with a target of one false alarm in 100 vehicle-days."""
    readings = stream(bearings(40, seed=1))
    frame = pd.DataFrame(
        {name: [getattr(one, name) for one in readings] for name in ("time", "sensor", "value")},
    )
    contract = Contract(
        {"bearing": Kind(action="look at the bearing")}, {name: Sensor("bearing", group="T204") for name in BEARINGS}
    )
    parameters = Parameters(
        BundleParameters("bearings"), threshold=ThresholdParameters(target_false_alarms_per_day=0.01)
    )
    return Bearing(train_detector(frame, contract, parameters))


@pytest.fixture(scope="session")
def bearing_constants(bearing: Bearing) -> Constants:
    return bearing.constants


# -- that detector in a release, on a box ----------------------------------------------------------

FLEET = Contract(
    {"bearing": Kind(range=(-40.0, 180.0), stuck_after_s=14_400.0, warn=60.0, critical=90.0, action="look at it")},
    {name: Sensor("bearing", group="T204") for name in BEARINGS},
)


@pytest.fixture(scope="session")
def fleet(world: Any, bearing: Bearing) -> World:
    """A world whose releases hold that detector."""
    fitted = bearing.trained.fitted["bearing"]
    spec = msgspec.structs.replace(fitted.spec, model="model.onnx")
    model = convert(fitted.forest, fitted.forest.n_features_in_)

    class Fleet(World):
        def golden(self) -> Golden:
            detector = Detector(spec, Scorer(model).score_rows)
            readings = stream(bearings(0.1, seed=3))
            outcomes = Monitor(FLEET, {"bearing": detector}, Origin("x", 0, "0" * 64)).process(readings)
            return Golden(
                tuple(
                    GoldenRow(format_time(one.time), one.sensor, one.value, float(outcome.score or 0), outcome.flag)
                    for one, outcome in zip(readings, outcomes, strict=True)
                )
            )

    return Fleet(fitted.forest, model, world.tiny_model, spec, FLEET)


@pytest.fixture
def box(fleet: World, tmp_path: Path) -> Vehicle:
    """A provisioned vehicle with a confirmed release of that detector."""
    made = Vehicle.provision(tmp_path / "box", fleet.root(), Identity("TRAIN-204", "edge-1"))
    fleet.install(made, fleet.bundle(), runtime=Runtime("0.1.0", KNOWN_SETS, "another machine"))
    fleet.confirm(made)
    return made


def faulty_days() -> list[Any]:
    """Twelve days of four bearings: one is hot for hours, one stuck, one silent, one beyond its range; and a mark."""
    sensors = bearings(12, seed=5)
    hot, stuck, silent, wild = BEARINGS
    changed = {
        hot: [
            msgspec.structs.replace(one, value=one.value + 25 * (1500 < at < 2400))
            for at, one in enumerate(sensors[hot])
        ],
        stuck: [
            msgspec.structs.replace(one, value=31.25) if 1600 < at < 1700 else one
            for at, one in enumerate(sensors[stuck])
        ],
        silent: [one for at, one in enumerate(sensors[silent]) if not 2000 < at < 2600],
        wild: [
            msgspec.structs.replace(one, value=500.0 + at % 7) if 1800 < at < 1830 else one
            for at, one in enumerate(sensors[wild])
        ],
    }
    items: list[Any] = list(stream(changed))
    items.insert(9000, Replaced(items[9000].time, silent))
    return items


def as_lines(items: Sequence[Any]) -> list[bytes]:
    """Readings and marks as CSV."""
    return [
        f"{format_time(one.time)},{one.sensor},{one.value if isinstance(one, Reading) else 'replaced'}\n".encode()
        for one in items
    ]
