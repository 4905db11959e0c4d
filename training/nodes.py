"""What the Kedro nodes call: thin functions from catalog entries to the steps."""

from __future__ import annotations

from typing import Any

import pandas as pd

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.training import steps
from axlebox.training.forest import train_forest
from axlebox.training.parameters import check
from axlebox.training.readings import Checked
from axlebox.training.runs import DetectorFile, Trained


def check_contract(temperature_database: Checked) -> tuple[pd.DataFrame, dict[str, Any]]:
    return steps.to_frame(temperature_database.stream, temperature_database.statuses), steps.data_quality(
        temperature_database
    )


def train_test_split(readings: pd.DataFrame, parameters: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    return steps.split_by_time(readings, check(parameters).train_fraction)


def make_feature_rows(train_readings: pd.DataFrame, contract: Contract, parameters: dict[str, Any]) -> Any:
    return steps.feature_rows(train_readings, contract, steps.feature_set(check(parameters)))


def train_model(rows: Any, contract: Contract, parameters: dict[str, Any]) -> tuple[Any, DetectorSpec]:
    settings = check(parameters)
    forest = train_forest(rows, settings)
    # scikit-learn flags score_samples < offset_, and the score is the negative of score_samples.
    return forest, steps.make_spec(contract, steps.feature_set(settings), threshold=-float(forest.offset_))


def predict(forest: Any, detector: DetectorSpec, contract: Contract, test_readings: pd.DataFrame) -> pd.DataFrame:
    return steps.predict(forest, detector, contract, test_readings)


def evaluate(predictions: pd.DataFrame, train_readings: pd.DataFrame, detector: DetectorSpec) -> dict[str, Any]:
    return steps.evaluate(predictions, train_readings, detector)


def record_run(  # noqa: PLR0913  a run is made of all that the pipelines made
    forest: Any,
    detector: DetectorSpec,
    contract: Contract,
    rows: Any,
    predictions: pd.DataFrame,
    evaluation: dict[str, Any],
    quality: dict[str, Any],
    raw_parameters: dict[str, Any],
) -> Trained:
    return Trained(
        forest, DetectorFile((detector,), contract), rows, predictions, evaluation, quality, check(raw_parameters)
    )
