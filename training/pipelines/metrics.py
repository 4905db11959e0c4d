"""From predictions to figures."""

from kedro.pipeline import Pipeline, node, pipeline

from axlebox.training import nodes


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                nodes.evaluate,
                inputs=[
                    "predictions",
                    "train_readings",
                    "contract",
                    "features",
                    "forests",
                    "detectors",
                    "parameters",
                ],
                outputs="evaluation",
                name="node_evaluate",
            ),
        ]
    )
