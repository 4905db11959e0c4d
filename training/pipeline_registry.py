"""Kedro's registry. Imports by name: find_pipelines() would search the workspace's package only."""

from kedro.pipeline import Pipeline

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
