"""Kedro hooks: what must hold around every run, however it was started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline

from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.training import tracking
from axlebox.training.parameters import check
from axlebox.training.pipelines import record
from axlebox.training.workspace import find_workspace

_READ_FROM: ContextVar[Path | None] = ContextVar("_READ_FROM", default=None)


@contextlib.contextmanager
def reading_from(current: Path | None) -> Iterator[None]:
    """Within it a Kedro run reads what this file names in current.json's place, and its run is not the latest."""
    token = _READ_FROM.set(current)
    try:
        yield
    finally:
        _READ_FROM.reset(token)


class OneLineError(click.ClickException):
    """An expected error as Kedro's command line shows it: one line and our exit code, no traceback.

    `__cause__` is the error itself.
    """

    def __init__(self, error: AxleboxError | OSError) -> None:
        super().__init__(str(error))
        code = error.exit_code if isinstance(error, AxleboxError) else AxleboxError.exit_code
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance


def _check_whole(pipeline: Pipeline) -> None:
    """Raise UsageError where a run would be recorded from scratch that another run left."""
    names = {node.name for node in pipeline.nodes}
    missing = {node.name for node in pipelines.get("__default__", pipeline).nodes} - names
    if record.NODE in names and missing:
        raise UsageError(f"{record.NODE} needs {', '.join(sorted(missing))} in the same run. DO: kedro run")


def _records(pipeline: Pipeline) -> bool:
    return any(node.name == record.NODE for node in pipeline.nodes)


class WorkspaceHooks:
    """One run at a time in a workspace, parameters checked before anything is done, and MLflow's index after it."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()

    @hook_impl
    def after_catalog_created(self, catalog: Any) -> None:
        current = _READ_FROM.get()
        if current is not None:
            from axlebox.training.datasets import RunDataset, TemperatureDatabase

            catalog["temperature_database"] = TemperatureDatabase(str(current))
            catalog["run"] = RunDataset(str(find_workspace(current.parent).runs), make_latest=False)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        try:
            _check_whole(pipeline)
            workspace = find_workspace(Path(run_params["project_path"]))
            self._held.enter_context(workspace.locked())
            parameters = check(catalog.load("parameters"))
            if _records(pipeline):
                tracking.check_index(workspace, parameters)
        except AxleboxError as error:
            self._held.close()
            raise OneLineError(error) from error

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        with self._held:
            if _records(pipeline):
                workspace = find_workspace(Path(run_params["project_path"]))
                try:
                    tracking.record(workspace, check(catalog.load("parameters")), catalog.load("run"))
                except AxleboxError as error:
                    raise OneLineError(error) from error

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        self._held.close()
        expected: BaseException | None = error
        while expected is not None and not isinstance(expected, AxleboxError | OSError):
            expected = expected.__cause__  # Kedro wraps what a dataset raises
        if expected is not None:
            raise OneLineError(expected) from expected
