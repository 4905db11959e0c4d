"""From ingested files to readings that fulfil the contract."""

from kedro.pipeline import Pipeline, node, pipeline

from axlebox.training import nodes


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                nodes.check_contract,
                inputs=["temperature_database", "parameters"],
                outputs=["readings", "data_quality"],
                name="node_check_contract",
            )
        ]
    )
