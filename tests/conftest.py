"""A world in memory: a small forest, keys made here, and bundles of any shape."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import pytest
from securesystemslib.signer import CryptoSigner
from sklearn.ensemble import IsolationForest
from tuf.api.metadata import Metadata, Root

from axlebox.export.forest_onnx import convert, with_cut
from axlebox.export.signing import ReleaseTime, Signers, build_bundle
from axlebox.firmware_bundle.install import confirm, install
from axlebox.firmware_bundle.manifest import (
    Code,
    Contract,
    DataFile,
    DetectorSpec,
    FeatureSet,
    Golden,
    GoldenRow,
    Kind,
    Lineage,
    Manifest,
    ParityProof,
    encode,
)
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.stick import Candidate
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.trust import Bundle
from axlebox.firmware_bundle.tuf_client import serialise
from axlebox.firmware_bundle.vehicle import Occasion, Vehicle
from axlebox.runtime import features
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.scorer import Scorer
from axlebox.training.runs import RunRecord, run_id

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
"""When the world's bundles were released."""
NOW = RELEASED + timedelta(days=30)
"""When they are installed."""
RUNTIME = Runtime("0.1.0", frozenset({("value", 1)}), "this runtime on this machine")

READINGS = Path(os.environ.get("AXLEBOX_TEST_READINGS", Path(__file__).resolve().parents[2] / "shared/data/temps.csv"))


@pytest.fixture(scope="session")
def talks_readings() -> Path | None:
    """The talk's readings, where they are there."""
    return READINGS if READINGS.exists() else None


@pytest.fixture(scope="session")
def temps_csv(talks_readings: Path | None) -> Path:
    """The talk's readings; tests that use them are skipped where they are not there."""
    if talks_readings is None:
        pytest.skip("the talk's readings (temps.csv) are not here; AXLEBOX_TEST_READINGS may name them")
    return talks_readings


@dataclass
class World:
    """One fleet's keys, and what they sign."""

    forest: IsolationForest
    model: bytes
    tiny_model: bytes
    """A model of one small tree, for tests in which a bundle's size is time."""
    spec: DetectorSpec
    contract: Contract
    signers: dict[str, CryptoSigner] = field(default_factory=dict)

    def signer(self, name: str) -> CryptoSigner:
        """A key by name, made when it is first asked for."""
        if name not in self.signers:
            self.signers[name] = CryptoSigner.generate_ed25519()
        return self.signers[name]

    def root_metadata(
        self,
        version: int = 1,
        root_keys: Sequence[str] = ("root",),
        targets_keys: Sequence[str] = ("targets",),
        threshold: int = 1,
        signed_by: Sequence[str] | None = None,
        expires: datetime = RELEASED + timedelta(days=36500),
    ) -> Metadata[Root]:
        root = Root(version=version, expires=expires, consistent_snapshot=False)
        for role, names in {
            "root": root_keys,
            "targets": targets_keys,
            "timestamp": ["build"],
            "snapshot": ["build"],
        }.items():
            for name in names:
                root.add_key(self.signer(name).public_key, role)
            root.roles[role].threshold = threshold if role in ("root", "targets") else 1
        metadata = Metadata(root)
        for name in root_keys if signed_by is None else signed_by:
            metadata.sign(self.signer(name), append=True)
        return metadata

    def root(self, **how: Any) -> bytes:
        """A root file; see `root_metadata` for what can be asked for."""
        return serialise(self.root_metadata(**how))

    def manifest(self, version: int = 1, **changes: Any) -> Manifest:
        plain: dict[str, Any] = {
            "format": 1,
            "name": "bearing-temp",
            "version": version,
            "hardware": ("any",),
            "vehicles": (),
            "min_sequence": 0,
            "min_runtime": "0.1.0",
            "proved_on": {"axlebox": "0.1.0"},
            "contract": self.contract,
            "detectors": (self.spec,),
            "parity": {"model.onnx": ParityProof(1, 1, 1, 1, 1, 1, 1, 0, 0.0)},
            "lineage": Lineage(
                run="0123456789ab",
                data=(DataFile("a.csv", "0" * 64, 10, 0),),
                parameters={},
                code=Code("0.1.0", "0" * 64),
                versions={},
            ),
        }
        return Manifest(**{**plain, **changes})

    def model_like(self, cut: float) -> bytes:
        """The tiny model with another cut: another member of the same size."""
        return with_cut(onnx.load_from_string(self.tiny_model), cut)

    def golden(self) -> Golden:
        """Twenty readings, every second one flagged, with the model's answers."""
        values = [100.0 + number % 5 if number % 2 else 170.0 + number for number in range(20)]
        readings = [Reading(1.7e9 + 60 * number, "temperature", value) for number, value in enumerate(values)]
        monitor = Monitor(
            self.contract, {"temperature": Detector(self.spec, Scorer(self.model).score_rows)}, Origin("x", 0, "0" * 64)
        )
        return Golden(
            tuple(
                GoldenRow(format_time(one.time), one.sensor, one.value, float(outcome.score or 0), outcome.flag)
                for one, outcome in zip(readings, monitor.process(readings), strict=True)
            )
        )

    def files(self, manifest: Manifest) -> dict[str, bytes]:
        return {"manifest.json": encode(manifest), "golden.json": encode(self.golden()), "model.onnx": self.model}

    def bundle(
        self,
        version: int = 1,
        roots: dict[str, bytes] | None = None,
        files: dict[str, bytes] | None = None,
        targets_keys: Sequence[str] = ("targets",),
        released: datetime = RELEASED,
        expires: datetime = RELEASED + timedelta(days=7300),
        **manifest_changes: Any,
    ) -> bytes:
        """The bytes of a bundle file."""
        return build_bundle(
            files if files is not None else self.files(self.manifest(version, **manifest_changes)),
            {"1.root.json": self.root()} if roots is None else roots,
            version,
            ReleaseTime(released, expires),
            Signers(self.signer("build"), tuple(self.signer(key) for key in targets_keys)),
        )

    runtime, now = RUNTIME, NOW

    def install(self, vehicle: Vehicle, data: bytes, **how: Any) -> Bundle:
        """Install the bytes of a bundle file; `how` may name self_test, runtime, name, now, say."""
        self_test, runtime = how.pop("self_test", _passed), how.pop("runtime", RUNTIME)
        candidate = Candidate(how.pop("name", "bundle.axb"), data)
        return install(vehicle, candidate, self_test, runtime, Occasion(**{"now": NOW, "say": print, **how}))

    def confirm(self, vehicle: Vehicle) -> Release:
        return confirm(vehicle, Occasion(NOW, print))

    def start(self, vehicle: Vehicle, boot: str = "this boot") -> Release:
        return Starter(vehicle, boot, RUNTIME, _passed).start(Occasion(NOW, print))


def _passed(slot: Path) -> str:
    return "20/20"


@pytest.fixture(scope="session")
def small_forest() -> tuple[IsolationForest, np.ndarray[Any, np.dtype[np.float32]]]:
    """A fitted forest of ten trees on one feature, and its training rows (n, 1)."""
    rows = np.random.default_rng(5).normal(100, 4, (400, 1)).round().astype(np.float32)
    return IsolationForest(n_estimators=10, random_state=1, contamination=0.05).fit(rows), rows


@pytest.fixture(scope="session")
def world(small_forest: tuple[IsolationForest, Any]) -> World:
    forest, _ = small_forest
    return World(
        forest=forest,
        model=convert(forest, 1),
        tiny_model=convert(IsolationForest(n_estimators=1, max_samples=4, random_state=1).fit(small_forest[1]), 1),
        spec=DetectorSpec(
            kind="temperature", model="model.onnx", features=FeatureSet("value", 1), threshold=-float(forest.offset_)
        ),
        contract=Contract(kinds={"temperature": Kind(action="look at the bearing")}),
    )


class Change(features.Value):
    """A feature set with state: the change since the reading before, around 100, which the world's forest knows."""

    names: ClassVar[tuple[str, ...]] = ("change",)

    def __init__(self, constants: Mapping[str, float]) -> None:
        self._before: float | None = None

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        change = 0.0 if self._before is None else reading.value - self._before
        self._before = reading.value
        return (100 + change,)


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> FeatureSet:
    """The name of `Change`, which is known for the length of a test."""
    monkeypatch.setitem(features._SETS, ("change", 1), Change)
    return FeatureSet("change", 1)


@dataclass(frozen=True)
class Program:
    """`axlebox` or `axleboxd` as a user calls it, in an environment without anything helpful."""

    command: tuple[str, ...]
    environment: dict[str, str]

    def __call__(self, *words: object, cwd: Path | None = None, **how: Any) -> subprocess.CompletedProcess[str]:
        how = {"capture_output": True, "text": True, "timeout": 300, **how}
        return subprocess.run([*self.command, *map(str, words)], cwd=cwd, env=self.environment, check=False, **how)

    def ok(self, *words: object, cwd: Path | None = None) -> str:
        """The output of a call that must succeed."""
        done = self(*words, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout


def plain_environment(home: Path) -> dict[str, str]:
    """An empty HOME and a plain PATH; PYTHONPATH only where the tests themselves were given one."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8", **kept}


def make_program(name: str, module: str, home: Path, folder: Path) -> Program:
    script = folder / name
    start = [str(script)] if script.exists() else [sys.executable, "-c", f"from {module} import main; main()"]
    return Program(tuple(start), plain_environment(home))


@pytest.fixture(scope="session")
def axlebox(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = Path(sys.executable).parent
    return make_program("axlebox", "axlebox.export.cli", tmp_path_factory.mktemp("home"), folder)


@pytest.fixture(scope="session")
def axleboxd(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The vehicle's program, from an environment with nothing but the vehicle's packages where there is one."""
    folder = Path(os.environ.get("AXLEBOX_TEST_VEHICLE_BIN", Path(sys.executable).parent))
    return make_program("axleboxd", "axlebox.runtime.cli", tmp_path_factory.mktemp("vehicle-home"), folder)


def heat_up(readings: Path) -> None:
    """Two faults in held-out time: two hours 40 degrees too warm, and a single reading 60 too warm."""
    header, *lines = readings.read_text().splitlines()
    sensor = lines[0].split(",")[1]
    own = [number for number, line in enumerate(lines) if line.split(",")[1] == sensor]
    for number, heat in [(own[-150 + n], 40) for n in range(24)] + [(own[-60], 60)]:
        time, name, value = lines[number].split(",")
        lines[number] = f"{time},{name},{float(value) + heat:.1f}"
    readings.write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture(scope="session")
def exported(axlebox: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after init, simulate, ingest, train, keys and export; tests must not change it."""
    folder = tmp_path_factory.mktemp("exported") / "fleet"
    axlebox.ok("init", folder)
    parameters = folder / "conf/base/parameters.yml"
    text = parameters.read_text()
    assert "warmup: 300" in text
    parameters.write_text(text.replace("warmup: 300", "warmup: 60"))  # a day of held-out readings is little
    words = ("--vehicles", 1, "--bearings", 2, "--days", 6, "--faults", 0)
    axlebox.ok("simulate", folder.parent / "readings.csv", *words)
    heat_up(folder.parent / "readings.csv")
    axlebox.ok("ingest", folder.parent / "readings.csv", cwd=folder)
    axlebox.ok("train", "--params", "forest.n_estimators=20", cwd=folder)
    axlebox.ok("keys", "init", "--single", cwd=folder)
    axlebox.ok("export", cwd=folder)
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported workspace that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "fleet"))


def another_run(run: Path, number: int) -> Path:
    """A run like another, made of other parameters and so many hours later, in a folder beside it."""
    record = json.loads((run / "run.json").read_text())
    record["lineage"]["parameters"]["faults_per_kind"] = 100 + number
    lineage = msgspec.convert(record["lineage"], Lineage)
    record["lineage"]["run"] = run_id(lineage, json.loads((run / "detector.json").read_text()))
    record["created"] = (datetime.fromisoformat(record["created"]) + timedelta(hours=number)).isoformat()
    made = Path(shutil.copytree(run, run.with_name(record["lineage"]["run"])))
    (made / "run.json").write_bytes(encode(msgspec.convert(record, RunRecord)))
    return made


@pytest.fixture
def empty_home(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing helpful in it; its HOME is an empty folder."""
    return plain_environment(tmp_path / "home")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The figures of the power-loss sweeps, which workers of pytest-xdist cannot print themselves."""
    told = [one for reports in terminalreporter.stats.values() for report in reports for one in _properties(report)]
    sweeps = [figures for name, figures in told if name == "power loss"]
    mutants = [figures for name, figures in told if name == "broken variant"]
    if not sweeps and not mutants:
        return
    for words, points, failures in sorted([*sweeps, *mutants]):
        terminalreporter.write_line(f"  {words}: {points} points, {failures} failures")
    points, failures = (sum(figures[at] for figures in sweeps) for at in (1, 2))
    found = sum(lost > 0 for _, _, lost in mutants)
    terminalreporter.write_line(
        f"power loss: {points} points, {failures} failures; broken variants found: {found} of {len(mutants)}"
    )


def _properties(report: Any) -> list[tuple[str, Any]]:
    return report.user_properties if getattr(report, "when", None) == "call" else []
