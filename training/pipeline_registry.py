"""Kedro's registry. Imports by name: find_pipelines() would search the workspace's package only."""

import importlib
import pkgutil

from kedro.pipeline import Pipeline

from axlebox.firmware_bundle.errors import UsageError
from axlebox.training.hooks import OneLineError
from axlebox.training.pipelines import data_engineering, data_science, metrics, pre_processing, record


def register_pipelines() -> dict[str, Pipeline]:
    pipelines = {
        "pre_processing": pre_processing.create_pipeline(),
        "data_engineering": data_engineering.create_pipeline(),
        "data_science": data_science.create_pipeline(),
        "metrics": metrics.create_pipeline(),
        "record": record.create_pipeline(),
    }
    return {**pipelines, "__default__": sum(pipelines.values(), start=Pipeline([]))}


def with_pipelines_of(package: str) -> dict[str, Pipeline]:
    """axlebox's pipelines, and those of a workspace's package: every module of its `pipelines` with
    `create_pipeline()`, as `kedro pipeline create` makes them. `__default__` is axlebox's.

    Kedro's find_pipelines() would look only for what `kedro run --pipelines=...` names, and warn where that is one
    of axlebox's. Raises OneLineError where a name is taken.
    """
    found = register_pipelines()
    folder = importlib.import_module(f"{package}.pipelines")
    for name in sorted(one.name for one in pkgutil.iter_modules(folder.__path__)):
        module = importlib.import_module(f"{folder.__name__}.{name}")
        if hasattr(module, "create_pipeline"):
            if name in found:
                taken = UsageError(f"{module.__name__}: axlebox has a pipeline {name}. DO: rename yours")
                raise OneLineError(taken) from taken
            found[name] = module.create_pipeline()
    return found
