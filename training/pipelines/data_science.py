"""From feature rows to a fitted forest, its detector, and its answers to held-out readings."""

from kedro.pipeline import Pipeline, node, pipeline

from axlebox.training import nodes


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                nodes.train_model,
                inputs=["features", "parameters"],
                outputs=["forests", "detectors"],
                name="node_train_model",
            ),
            node(
                nodes.predict,
                inputs=["forests", "detectors", "contract", "test_readings"],
                outputs=["predictions", "events"],
                name="node_predict",
            ),
        ]
    )
