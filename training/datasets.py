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

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.training.contract import load_contract
from axlebox.training.readings import Checked, load_current
from axlebox.training.runs import Run, Trained, load_forest, open_run, write_run
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


class ArrayDataset(_OneFile):
    """A numpy array in .npy."""

    def _read(self, path: Path) -> Any:
        return np.load(path, allow_pickle=False)

    def _write(self, path: Path, data: Any) -> None:
        np.save(path, data, allow_pickle=False)


class JsonDataset(_OneFile):
    """Plain data in JSON."""

    def _read(self, path: Path) -> Any:
        return msgspec.json.decode(path.read_bytes())

    def _write(self, path: Path, data: Any) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(data)))


class DetectorDataset(_OneFile):
    """A DetectorSpec in JSON."""

    def _read(self, path: Path) -> DetectorSpec:
        return msgspec.json.decode(path.read_bytes(), type=DetectorSpec)

    def _write(self, path: Path, data: DetectorSpec) -> None:
        path.write_bytes(msgspec.json.encode(data))


class ForestDataset(_OneFile):
    """A fitted forest in skops' format, which unlike a pickle runs no code when it is read."""

    def _read(self, path: Path) -> Any:
        return load_forest(path)

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
    """The ingested readings that data/01_raw/current.json names; read only."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> Checked:
        workspace = find_workspace(self._path.parent)
        return load_current(workspace, load_contract(workspace.contract_path))

    def save(self, data: Any) -> None:
        raise UsageError("readings come in by `axlebox ingest`")

    def _exists(self) -> bool:
        return self._path.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class RunDataset(AbstractDataset[Trained, Run]):
    """runs/RUN: saving a training's outcome writes a run; loading opens it, or else the latest one."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self._saved: str | None = None
        self.metadata = metadata

    def load(self) -> Run:
        return open_run(self._path, self._saved)

    def save(self, data: Trained) -> None:
        self._path.mkdir(exist_ok=True)
        self._saved = write_run(self._path, data)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
