"""Kedro datasets whose files appear whole or not at all, unlike Kedro's own, which write in place."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from kedro.io import AbstractDataset
from msgspec import Struct

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.training.contract import load_contract
from axlebox.training.fit import FeatureRows
from axlebox.training.progress import on_terminal
from axlebox.training.raw_data import check_descriptions, read_current
from axlebox.training.readings import Checked, load_current
from axlebox.training.runs import Run, Trained, load_forests, open_run, write_run
from axlebox.training.workspace import find_workspace


class _OneFile(AbstractDataset[Any, Any]):
    """Scratch between two pipelines: one file, written beside its place and renamed."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> Any:
        if not self._path.exists():
            raise UsageError(f"{self._path} is not there yet. DO: kedro run")
        return self._read(self._path)

    def save(self, data: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"part.{self._path.name}")
        self._write(part, data)
        os.replace(part, self._path)

    @abstractmethod
    def _read(self, path: Path) -> Any:
        """What a file that is there holds."""

    @abstractmethod
    def _write(self, path: Path, data: Any) -> None:
        """Write a file whose name is not its final one yet."""

    def _exists(self) -> bool:
        return self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class FrameDataset(_OneFile):
    """A pandas frame in Parquet."""

    def _read(self, path: Path) -> pd.DataFrame:
        return pd.read_parquet(path)

    def _write(self, path: Path, data: pd.DataFrame) -> None:
        data.to_parquet(path)


class FeaturesDataset(_OneFile):
    """Feature rows of every kind: numpy arrays, and what belongs to them as JSON."""

    def _read(self, path: Path) -> tuple[FeatureRows, ...]:
        with np.load(path, allow_pickle=False) as file:
            about = msgspec.json.decode(file["about"].tobytes(), type=list[_About])
            return tuple(
                FeatureRows(one.spec, file[f"rows{number}"], file[f"suspected{number}"], one.lengths, one.threshold)
                for number, one in enumerate(about)
            )

    def _write(self, path: Path, data: tuple[FeatureRows, ...]) -> None:
        about = msgspec.json.encode([_About(one.spec, one.lengths, one.threshold) for one in data])
        arrays: dict[str, Any] = {f"rows{number}": one.rows for number, one in enumerate(data)}
        arrays |= {f"suspected{number}": one.suspected for number, one in enumerate(data)}
        with open(path, "wb") as file:  # savez would add a suffix to a name
            np.savez(file, about=np.frombuffer(about, dtype=np.uint8), **arrays)


class _About(Struct):
    """What FeatureRows holds beside arrays."""

    spec: DetectorSpec
    lengths: tuple[int, ...]
    threshold: dict[str, Any]


class JsonDataset(_OneFile):
    """Plain data in JSON."""

    def _read(self, path: Path) -> Any:
        return msgspec.json.decode(path.read_bytes())

    def _write(self, path: Path, data: Any) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(data)))


class DetectorsDataset(_OneFile):
    """DetectorSpecs in JSON."""

    def _read(self, path: Path) -> tuple[DetectorSpec, ...]:
        return msgspec.json.decode(path.read_bytes(), type=tuple[DetectorSpec, ...])

    def _write(self, path: Path, data: tuple[DetectorSpec, ...]) -> None:
        path.write_bytes(msgspec.json.encode(data))


class ForestsDataset(_OneFile):
    """Fitted forests by the name of their model, in skops' format, which unlike a pickle runs no code when read."""

    def _read(self, path: Path) -> Any:
        return load_forests(path)

    def _write(self, path: Path, data: Any) -> None:
        import skops.io

        skops.io.dump(data, path)


class ContractDataset(_OneFile):
    """The data contract; read only."""

    def _read(self, path: Path) -> Contract:
        return load_contract(path)

    def _write(self, path: Path, data: Contract) -> None:
        raise UsageError("the contract is written by people")


class TemperatureDatabase(AbstractDataset[Any, Checked]):
    """The ingested readings that data/01_raw/current.json, or a file like it, names; read only.

    `formats` describes files to `axlebox ingest` (docs/readers.md). They are read again by the description that they
    were ingested by, which current.json keeps; one that has changed since is refused.
    """

    def __init__(
        self, filepath: str, formats: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._path = Path(filepath)
        self._formats = formats or {}
        self.metadata = metadata

    def load(self) -> Checked:
        workspace = find_workspace(self._path.parent)
        check_descriptions(read_current(workspace, self._path), self._formats, workspace.root)
        return load_current(workspace, load_contract(workspace.contract_path), on_terminal(), self._path)

    def save(self, data: Any) -> None:
        raise UsageError("readings come in by `axlebox ingest`")

    def _exists(self) -> bool:
        return self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class RunDataset(AbstractDataset[Trained, Run]):
    """runs/RUN: saving a training's outcome writes a run; loading opens it, or else the latest one."""

    def __init__(self, filepath: str, make_latest: bool = True, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self._saved: str | None = None
        self._make_latest = make_latest
        self.metadata = metadata

    def load(self) -> Run:
        return open_run(self._path, self._saved)

    def save(self, data: Trained) -> None:
        self._path.mkdir(exist_ok=True)
        self._saved = write_run(self._path, data, self._make_latest)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
