"""A training from code: the same Kedro run as `kedro run` in the workspace."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from axlebox.firmware_bundle.errors import UsageError
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
    """
    with _quiet_kedro():
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
    run: Run = outcome["run"].load()
    return run


def load_parameters(workspace: Workspace) -> Parameters:
    """The workspace's parameters, from conf/base and conf/local as Kedro merges them."""
    from kedro.config import MissingConfigException, OmegaConfigLoader
    from omegaconf.errors import OmegaConfBaseException

    from axlebox.training.settings import CONFIG_LOADER_ARGS

    arguments: dict[str, Any] = CONFIG_LOADER_ARGS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they would say, the error says
            found = OmegaConfigLoader(str(workspace.root / "conf"), **arguments)["parameters"]
    except (MissingConfigException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{workspace.root / 'conf'}, parameters: {error}") from error
    return check(found)


@contextlib.contextmanager
def _quiet_kedro() -> Iterator[None]:
    """Keep Kedro's log off the screen; it reads this setting once, when it is imported."""
    with resources.as_file(resources.files("axlebox.training") / "quiet_logging.yml") as path:
        os.environ["KEDRO_LOGGING_CONFIG"] = str(path)
        try:
            yield
        finally:
            os.environ.pop("KEDRO_LOGGING_CONFIG", None)
