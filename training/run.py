"""A training from code: the same Kedro run as `kedro run` in the workspace."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from axlebox.firmware_bundle.errors import UsageError
from axlebox.training.conf import load_settings, quiet_kedro
from axlebox.training.parameters import Parameters, check
from axlebox.training.runs import Run
from axlebox.training.workspace import Workspace


def parse_params(words: Sequence[str]) -> dict[str, Any]:
    """`a.b=1,c=x` as nested plain data, values read as YAML. Raises UsageError."""
    found: dict[str, Any] = {}
    for word in [part for given in words for part in given.split(",") if part]:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--params {word!r} is not of the form key=value")
        *above, last = key.split(".")
        inner = found
        for name in above:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--params {word!r}: {name} was given a value of its own before")
        try:
            inner[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"--params {word!r}: the value is not readable") from error
    return found


def train(workspace: Workspace, params: Mapping[str, Any], current: Path | None = None) -> Run:
    """Run all pipelines in a workspace and return the run that they recorded.

    With `current`, a file like current.json, it is trained on the readings that this one names, and
    neither current.json nor the latest run is another one afterwards.
    Raises tracking.NotIndexed, which has the run, where it is recorded and MLflow's index is not up to date.
    """
    with quiet_kedro():
        load_parameters(workspace)  # a mistake in them is told in one line, before Kedro meets it
        from kedro.framework.session import KedroSession
        from kedro.framework.startup import bootstrap_project

        from axlebox.training.hooks import OneLineError, reading_from

        bootstrap_project(workspace.root)
        try:
            with (
                reading_from(current),
                KedroSession.create(project_path=workspace.root, runtime_params=dict(params)) as session,
            ):
                outcome = session.run()
        except OneLineError as error:
            raise error.__cause__ or error from None
        except Exception as error:
            place = _place_in(workspace.own_package, error)
            if place is None:
                raise
            message = f"{place}: {type(error).__name__}: {error}. DO: correct it; kedro run shows the whole traceback"
            raise UsageError(message) from error
    run: Run = outcome["run"].load()
    return run


def _place_in(package: Path | None, error: Exception) -> str | None:
    """File and line of a workspace's own package that an error comes from; None where it comes from elsewhere."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    for file, line in reversed(places):
        if package is not None and Path(file).is_relative_to(package):
            return f"{Path(file).relative_to(package.parent)}, line {line}"
    return None


def load_parameters(workspace: Workspace) -> Parameters:
    """The workspace's parameters, from conf/base and conf/local as Kedro merges them."""
    return check(load_settings(workspace, "parameters"))
