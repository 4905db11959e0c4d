"""Everything together to runs/RUN. Runs only with all the other pipelines: else scratch of another run
would be recorded under this run's settings."""

from kedro.pipeline import Pipeline, node, pipeline

from axlebox.training import nodes

NODE = "node_record_run"


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                nodes.record_run,
                inputs={
                    "forests": "forests",
                    "detectors": "detectors",
                    "contract": "contract",
                    "features": "features",
                    "predictions": "predictions",
                    "events": "events",
                    "figures": "evaluation",
                    "quality": "data_quality",
                    "raw_parameters": "parameters",
                },
                outputs="run",
                name=NODE,
            ),
        ]
    )
