"""From readings to feature rows: split by time, then the Detector's own features."""

from kedro.pipeline import Pipeline, node, pipeline

from axlebox.training import nodes


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                nodes.train_test_split,
                inputs=["readings", "parameters"],
                outputs=["train_readings", "test_readings"],
                name="node_train_test_split",
            ),
            node(
                nodes.make_feature_rows,
                inputs=["train_readings", "contract", "parameters"],
                outputs="features",
                name="node_feature_rows",
            ),
        ]
    )
