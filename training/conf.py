"""What conf/ says, as Kedro merges conf/base and conf/local."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from importlib import resources
from typing import Any

import yaml

from axlebox.firmware_bundle.errors import UsageError
from axlebox.training.workspace import Workspace

_LOGGING = "KEDRO_LOGGING_CONFIG"


@contextlib.contextmanager
def quiet_kedro() -> Iterator[None]:
    """Keep Kedro's log off the screen; it reads this setting once, when it is first imported."""
    before = os.environ.get(_LOGGING)
    with resources.as_file(resources.files("axlebox.training") / "quiet_logging.yml") as path:
        os.environ[_LOGGING] = str(path)
        try:
            yield
        finally:
            os.environ.pop(_LOGGING)
            if before is not None:
                os.environ[_LOGGING] = before


@quiet_kedro()
def load_settings(workspace: Workspace, what: str) -> Any:
    """`parameters` or `catalog`, as plain data. Raises UsageError where they cannot be read."""
    from kedro.config import MissingConfigException, OmegaConfigLoader
    from omegaconf.errors import OmegaConfBaseException

    from axlebox.training.settings import CONFIG_LOADER_ARGS

    arguments: dict[str, Any] = CONFIG_LOADER_ARGS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they would say, the error says
            return OmegaConfigLoader(str(workspace.root / "conf"), **arguments)[what]
    except (MissingConfigException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{workspace.root / 'conf'}, {what}: {error}") from error
