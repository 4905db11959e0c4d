"""What is known of runs, put into MLflow: one of its runs for each of ours, one model version for each proved model.

Everything goes through MlflowClient, which has no state of a process: whatever tracks experiments of its own in the
same Python goes on undisturbed. Importing this module loads MLflow (about two seconds).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.manifest import ParityProof
from axlebox.training import run_figures
from axlebox.training.champion import CHALLENGER, CHAMPION
from axlebox.training.run_figures import RUN_TAG
from axlebox.training.runs import DetectorFile, Run, RunRecord

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the error that it raises says it too
# A server that does not answer is told of in one line and soon: MLflow's own defaults are 7 retries of 120 s.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# A pooled connection would go on with a file that `axlebox runs reindex` has replaced.
os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

if TYPE_CHECKING:
    from mlflow.entities import Run as Entry

_CONTENT_TAG, _MODEL_TAG = "axlebox.content", "axlebox.model_sha256"
_LAYOUT = "1"
"""Of what is put in; another one, and `reindex` and the next export of a run put it in anew."""
_BATCH, _PAGE = 100, 1000
_LOUD = ("mlflow", "alembic", "sqlalchemy", "urllib3")
_READY = "FINISHED"


@dataclass(frozen=True, slots=True)
class Known:
    """What a run's folder says, read once."""

    run: Run
    record: RunRecord
    detector: DetectorFile
    parity: Mapping[str, ParityProof] | None

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def created_ms(self) -> int:
        return int(self.record.created.timestamp() * 1000)

    def files(self) -> list[Path]:
        """What is kept with the run: not the forest, the rows and the readings, which are large and of no use there."""
        kept = {".html", ".json", ".onnx", ".svg", ".png"}
        return sorted(path for path in self.run.folder.iterdir() if path.suffix in kept and path.is_file())

    def content(self) -> str:
        """Digest of the files that are kept."""
        digest = hashlib.sha256(_LAYOUT.encode())
        for path in self.files():
            digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def models(self) -> dict[str, bytes]:
        """Proved models by the file's name; none before the proof."""
        return self.run.models() if self.parity is not None else {}


def read_run(folder: Path) -> Known:
    """Raises AxleboxError where a file of it is not readable."""
    run = Run(folder)
    return Known(run, run.record(), run.detector(), run.parity())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries below MLflow off the screen."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


class Index:
    """The experiment and the registered models of one fleet."""

    def __init__(self, uri: str, name: str, artifacts: str | None, scratch: Path) -> None:
        """Open a store, and make the experiment where it is missing.

        `artifacts` is the URI of the folder for its files; None leaves that to a remote server. `scratch` is a
        folder that comes and goes.
        """
        self._scratch = scratch
        self._client = MlflowClient(uri, uri)
        self._name = name
        found = self._client.get_experiment_by_name(name)
        if found is None:
            self._experiment = self._client.create_experiment(name, artifact_location=artifacts)
            found = self._client.get_experiment(self._experiment)
        elif found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        self._experiment = found.experiment_id
        self.artifacts: str = found.artifact_location

    def update(self, runs: Sequence[Known], compare: frozenset[str], roles: Mapping[str, str]) -> int:
        """Put in the runs that are missing or unfinished, and of those to `compare` also the changed ones.

        Then register their models and set the aliases by `roles`. Returns how many model versions there are.
        """
        there = self._entries()
        for one in runs:
            entry = there.get(one.name)
            if entry is None or entry.info.status != _READY or (one.name in compare and _changed(entry, one)):
                there[one.name] = self._put(one, entry)
        return self._register(runs, there, roles)

    def _entries(self) -> dict[str, Entry]:
        """MLflow's runs by RUN; a second one of the same, as after an experiment was restored, is deleted."""
        found: dict[str, Entry] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=_PAGE, page_token=token)
            for one in page:
                name = one.data.tags.get(RUN_TAG)
                if name is not None and found.setdefault(name, one) is not one:
                    self._client.delete_run(one.info.run_id)
            token = page.token
            if not token:
                return found

    def _put(self, one: Known, entry: Entry | None) -> Entry:
        """Write one run; its status is FINISHED only after everything else."""
        parameters, metrics = run_figures.parameters(one.record), run_figures.metrics(one.record, one.parity)
        if entry is not None and _contradicts(entry, parameters, metrics):
            self._client.delete_run(entry.info.run_id)  # MLflow changes no parameter, and only adds to metrics
            entry = None
        if entry is None:
            tags = {RUN_TAG: one.name, "mlflow.user": one.record.created_by}
            entry = self._client.create_run(self._experiment, one.created_ms, tags, run_name=one.name)
        else:
            self._client.update_run(entry.info.run_id, status="RUNNING")
        at = entry.info.run_id
        for some in _batches([Param(*item) for item in parameters.items()]):
            self._client.log_batch(at, params=some)
        for some in _batches([Metric(name, value, one.created_ms, 0) for name, value in metrics.items()]):
            self._client.log_batch(at, metrics=some)
        for some in _batches([RunTag(*item) for item in run_figures.tags(one.record).items()]):
            self._client.log_batch(at, tags=some)
        self._client.log_inputs(at, _datasets(one.record))
        for path in one.files():
            self._client.log_artifact(at, str(path))
        self._client.set_tag(at, _CONTENT_TAG, one.content())
        self._client.set_terminated(at, _READY, one.created_ms)
        return self._client.get_run(at)

    def _register(self, runs: Sequence[Known], there: Mapping[str, Entry], roles: Mapping[str, str]) -> int:
        names = {one.name: registered_names(self._name, one.detector) for one in runs if one.parity is not None}
        versions = {name: self._versions(name) for name in {name for some in names.values() for name in some.values()}}
        for one in runs:
            for file, model in one.models().items():
                name = names[one.name].get(file)
                if name is not None and (one.name, digest := hashlib.sha256(model).hexdigest()) not in versions[name]:
                    made = self._log_model(one, there[one.name], file, model, name)
                    versions[name][one.name, digest] = made
        for name, some in versions.items():
            self._set_aliases(name, {run: version for (run, _), version in some.items()}, roles)
        return sum(map(len, versions.values()))

    def _versions(self, name: str) -> dict[tuple[str, str], str]:
        """Versions of a registered model, which is made where it is missing, by RUN and the model's sha256."""
        if not self._client.search_registered_models(f"name='{name}'", max_results=1):
            self._client.create_registered_model(name, description=f"Detectors of {self._name}, proved by axlebox")
        found: dict[tuple[str, str], str] = {}
        token = None
        while True:
            page = self._client.search_model_versions(f"name='{name}'", max_results=_BATCH, page_token=token)
            for one in page:
                found[one.tags.get(RUN_TAG, ""), one.tags.get(_MODEL_TAG, "")] = str(one.version)
            token = page.token
            if not token:
                return found

    def _log_model(self, one: Known, entry: Entry, file: str, model: bytes, name: str) -> str:
        """Log a model in MLflow's ONNX flavour and register it; its version."""
        import mlflow.onnx
        import onnx
        from mlflow.models import Model

        folder = file.removesuffix(".onnx")
        versions = one.record.lineage.versions
        place = self._scratch / folder
        disk.remove_tree(self._scratch)  # of one that was killed
        try:
            mlflow.onnx.save_model(
                onnx.load_from_string(model),
                str(place),
                mlflow_model=Model(artifact_path=folder, run_id=entry.info.run_id),
                # Said, so that nothing is inferred: that would load the model in a process of its own.
                pip_requirements=[f"{one}=={versions[one]}" for one in ("onnx", "onnxruntime") if one in versions],
                onnx_execution_providers=["CPUExecutionProvider"],
                save_as_external_data=False,
            )
            (place / "model.onnx").write_bytes(model)  # the bytes that were proved, whatever a library makes of them
            self._client.log_artifacts(entry.info.run_id, str(place), folder)
        finally:
            disk.remove_tree(self._scratch)
        tags = {RUN_TAG: one.name, _MODEL_TAG: hashlib.sha256(model).hexdigest(), "axlebox.file": file}
        source = f"{entry.info.artifact_uri}/{folder}"
        made = self._client.create_model_version(name, source, entry.info.run_id, tags, description=f"run {one.name}")
        return str(made.version)

    def _set_aliases(self, name: str, versions: Mapping[str, str], roles: Mapping[str, str]) -> None:
        has = {str(alias): str(at) for alias, at in self._client.get_registered_model(name).aliases.items()}
        for role in (CHAMPION, CHALLENGER):
            should = next((versions[run] for run, found in roles.items() if found == role and run in versions), None)
            if should is None and role in has:
                self._client.delete_registered_model_alias(name, role)
            elif should is not None and has.get(role) != should:
                self._client.set_registered_model_alias(name, role, should)


def registered_names(name: str, detector: DetectorFile) -> dict[str, str]:
    """What each model file of a run is registered as: NAME, or NAME-KIND where the run has several detectors."""
    if len(detector.detectors) == 1:
        return {detector.detectors[0].model: name}
    kinds = {spec.model: re.sub(r"[^A-Za-z0-9_-]+", "_", spec.kind) for spec in detector.detectors}
    if len(set(kinds.values())) < len(kinds):
        kinds = {spec.model: spec.model.removesuffix(".onnx") for spec in detector.detectors}
    return {model: f"{name}-{kind}" for model, kind in kinds.items()}


def _changed(entry: Entry, one: Known) -> bool:
    return bool(entry.data.tags.get(_CONTENT_TAG) != one.content())


def _contradicts(entry: Entry, parameters: Mapping[str, str], metrics: Mapping[str, float]) -> bool:
    """Whether an earlier run of MLflow holds what this one may not overwrite."""
    return any(parameters.get(name) != value for name, value in entry.data.params.items()) or any(
        metrics.get(name) != value for name, value in entry.data.metrics.items()
    )


def _datasets(record: RunRecord) -> list[DatasetInput]:
    """MLflow's column of datasets: its digest has room for 36 characters; the tags have all."""
    return [
        DatasetInput(Dataset(file.name, file.sha256[:36], "axlebox", f'{{"sha256":"{file.sha256}"}}'))
        for file in record.lineage.data[:_BATCH]
    ]


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), _BATCH):
        yield items[at : at + _BATCH]
