"""From predictions to figures, and everything together to runs/RUN."""

from kedro.pipeline import Pipeline, node, pipeline

from axlebox.training import nodes


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                nodes.evaluate,
                inputs=["predictions", "train_readings", "detector"],
                outputs="evaluation",
                name="node_evaluate",
            ),
            node(
                nodes.record_run,
                inputs={
                    "forest": "forest",
                    "detector": "detector",
                    "contract": "contract",
                    "rows": "feature_rows",
                    "predictions": "predictions",
                    "evaluation": "evaluation",
                    "quality": "data_quality",
                    "raw_parameters": "parameters",
                },
                outputs="run",
                name="node_record_run",
            ),
        ]
    )
