"""The run folder: the hand-over from training to export. run.json is the truth about a run."""

from __future__ import annotations

import csv
import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
import pandas as pd
from msgspec import Struct
from numpy.typing import NDArray

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, UsageError
from axlebox.firmware_bundle.manifest import Contract, DataFile, DetectorSpec, Lineage, ParityProof, decode, encode
from axlebox.runtime.readings import REPLACED, Reading, format_time
from axlebox.training.frames import to_readings
from axlebox.training.parameters import Parameters
from axlebox.training.provenance import code_revision, library_versions, who

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

LATEST = "latest"
T = TypeVar("T")

FILES = (
    "detector.json",
    "events.jsonl",
    "forest.skops",
    "held_out.csv",
    "predictions.parquet",
    "report.html",
    "rows.npz",
    "run.json",
)
"""What every run has."""
_ID_DIGITS = 12
_MAX_RECORD_BYTES = 64 * 1024 * 1024
_FOREST_TYPES = ["sklearn.ensemble._iforest.IsolationForest", "sklearn.tree._tree.Tree"]


class DetectorFile(Struct, frozen=True, forbid_unknown_fields=True):
    """detector.json: all that the manifest needs beside the model."""

    detectors: tuple[DetectorSpec, ...]
    contract: Contract


class RunRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """run.json."""

    lineage: Lineage
    created: datetime
    created_by: str
    data_quality: dict[str, Any]
    evaluation: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training produced, before it is a run on disk."""

    forests: Mapping[str, IsolationForest]
    """By the name of their model."""
    detector: DetectorFile
    rows: Mapping[str, NDArray[np.float32]]
    """The feature rows (n, k) that each was fitted on, by the name of its model."""
    predictions: pd.DataFrame
    events: Sequence[dict[str, Any]]
    """Of held-out time (steps.predict_with_events)."""
    evaluation: dict[str, Any]
    data_quality: dict[str, Any]
    parameters: Parameters


def make_lineage(trained: Trained, workspace: Path) -> Lineage:
    """The lineage with its RUN id: equal inputs give an equal id.

    The commit is not among them: to commit a run's record would change its id.
    """
    lineage = Lineage(
        run="",
        data=tuple(msgspec.convert(one, DataFile) for one in trained.data_quality["files"]),
        parameters=trained.parameters.training_only(),
        code=code_revision(workspace, [one.features for one in trained.detector.detectors]),
        versions=library_versions(),
    )
    return msgspec.structs.replace(lineage, run=run_id(lineage, msgspec.to_builtins(trained.detector)))


def run_id(lineage: Lineage, detector: Mapping[str, Any]) -> str:
    """RUN, from what run.json and detector.json say of the inputs.

    `detector` is detector.json as plain data: what a later axlebox adds to it does not change an earlier run's id.
    """
    inputs = {
        "data": [[one.sha256, one.format] for one in lineage.data],
        "parameters": lineage.parameters,
        "contract": detector["contract"],
        "features": [one["features"] for one in detector["detectors"]],
        "code": [lineage.code.axlebox, lineage.code.source_sha256],
        "versions": lineage.versions,
    }
    return hashlib.sha256(msgspec.json.encode(inputs, order="deterministic")).hexdigest()[:_ID_DIGITS]


def write_run(runs: Path, trained: Trained, make_latest: bool = True) -> str:
    """Write runs/RUN in one piece and make it the latest, unless it is nobody's training; returns RUN.

    A run that is there already and whole is left as it is, since equal inputs made it.
    """
    import skops.io

    lineage = make_lineage(trained, runs.parent)
    folder = runs / lineage.run
    if not all((folder / name).is_file() for name in FILES):
        disk.remove_tree(folder)  # of a run that somebody damaged, nothing is worth keeping
        record = RunRecord(
            lineage=lineage,
            created=datetime.now(UTC),
            created_by=who(),
            data_quality=trained.data_quality,
            evaluation=trained.evaluation,
        )
        with disk.explained():
            part = runs / f"{lineage.run}.part"
            disk.remove_tree(part)
            part.mkdir(parents=True)
            skops.io.dump(dict(trained.forests), part / "forest.skops")
            np.savez(part / "rows.npz", **trained.rows)  # type: ignore[arg-type]
            trained.predictions.to_parquet(part / "predictions.parquet")
            write_readings(part / "held_out.csv", trained.predictions)
            (part / "events.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(trained.events))
            (part / "detector.json").write_bytes(encode(trained.detector))
            (part / "run.json").write_bytes(encode(record))
            write_report(part)
            for path in part.iterdir():
                _sync_file(path)
            disk.sync_folder(part)
            disk.rename_durable(part, folder)
    if make_latest:
        disk.replace_durable(runs / LATEST, f"{lineage.run}\n".encode())
    return lineage.run


def write_readings(path: Path, frame: pd.DataFrame) -> None:
    """Readings and marks of a frame as a file that the vehicle reads: time,sensor,value."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")  # an id may hold a comma
        writer.writerow(("time", "sensor", "value"))
        for item in to_readings(frame):
            value = item.value if isinstance(item, Reading) else REPLACED
            writer.writerow((format_time(item.time), item.sensor, value))


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_report(folder: Path) -> Path:
    """(Re)write report.html of a run folder from what lies in it."""
    from axlebox.training.report import Material, render_report

    run = Run(folder)
    report = folder / "report.html"
    material = Material(run.record(), run.detector(), run.predictions(), run.events(), run.parity())
    disk.replace_durable(report, render_report(material).encode("utf-8", "replace"))
    return report


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk."""

    folder: Path

    def record(self) -> RunRecord:
        return self._read("run.json", RunRecord)

    def detector(self) -> DetectorFile:
        return self._read("detector.json", DetectorFile)

    def parity(self) -> Mapping[str, ParityProof] | None:
        if not (self.folder / "parity.json").exists():
            return None
        return self._read("parity.json", dict[str, ParityProof])

    def models(self) -> dict[str, bytes]:
        """The exported ONNX models by name; none before their parity is proved."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("*.onnx"))}

    def predictions(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "predictions.parquet")

    def events(self) -> list[dict[str, Any]]:
        """Of held-out time, as the vehicle tells them but for their release; none in a run that did not keep them."""
        path = self.folder / "events.jsonl"
        try:
            return msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes()) if path.exists() else []
        except msgspec.DecodeError as error:
            raise Damaged(f"{path} is damaged: {error}. DO: remove the run's folder and train again") from error

    def rows(self) -> dict[str, NDArray[np.float32]]:
        """The rows that each forest was fitted on, by the name of its model."""
        with np.load(self.folder / "rows.npz", allow_pickle=False) as file:
            return dict(file)

    def forests(self) -> dict[str, IsolationForest]:
        """By the name of their model."""
        return load_forests(self.folder / "forest.skops")

    def _read(self, name: str, what: type[T]) -> T:
        return decode(disk.read_bounded(self.folder / name, _MAX_RECORD_BYTES), what, str(self.folder / name))


def load_forests(path: Path) -> dict[str, IsolationForest]:
    """Fitted forests by the name of their model. Raises Damaged where the file holds any type but a forest's own."""
    import skops.io

    try:
        unexpected = set(skops.io.get_untrusted_types(file=path)) - set(_FOREST_TYPES)
        if unexpected:
            raise Damaged(f"{path} holds {', '.join(sorted(unexpected))}, which a forest does not")
        forests = skops.io.load(path, trusted=_FOREST_TYPES)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {error}. DO: remove the run's folder and train again") from error
    from sklearn.ensemble import IsolationForest

    if not isinstance(forests, dict) or not all(isinstance(one, IsolationForest) for one in forests.values()):
        raise Damaged(f"{path} holds a {type(forests).__name__}, expected IsolationForests by name")
    return forests


def run_folders(runs: Path) -> list[Path]:
    """The folders of whole runs, by name."""
    return sorted(one.parent for one in runs.glob("*/run.json") if not one.parent.name.endswith(".part"))


def open_run(runs: Path, name: str | None) -> Run:
    """A run by its id, or the latest training's. Raises UsageError where there is none."""
    if name is None:
        try:
            name = disk.read_bounded(runs / LATEST, 100).decode().strip()
        except AxleboxError as error:
            raise UsageError("there is no run yet. DO: axlebox train") from error
    folder = runs / name
    if name.endswith(".part") or not (folder / "run.json").is_file():
        raise UsageError(f"there is no run {name} in {runs}")
    return Run(folder)
