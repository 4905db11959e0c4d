"""What the Kedro nodes call: thin functions from catalog entries to the steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.training import evaluation, steps
from axlebox.training.checked import Checked
from axlebox.training.fit import FeatureRows, fit_detector, make_rows
from axlebox.training.parameters import check
from axlebox.training.progress import on_terminal
from axlebox.training.runs import DetectorFile, Trained
from axlebox.training.trials import Held, run_trials

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest


def check_contract(temperature_database: Checked, parameters: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    steps.refuse_bad_data(temperature_database, check(parameters).most_held_back)
    return temperature_database.columns.frame(), steps.data_quality(temperature_database)


def train_test_split(readings: pd.DataFrame, parameters: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    return steps.split_by_time(readings, check(parameters).train_fraction)


def make_feature_rows(
    train_readings: pd.DataFrame, contract: Contract, parameters: dict[str, Any]
) -> tuple[FeatureRows, ...]:
    return make_rows(train_readings, contract, check(parameters), on_terminal())


def train_model(
    features: tuple[FeatureRows, ...], parameters: dict[str, Any]
) -> tuple[dict[str, IsolationForest], tuple[DetectorSpec, ...]]:
    fitted = [fit_detector(one, check(parameters)) for one in features]
    return {one.spec.model: one.forest for one in fitted}, tuple(one.spec for one in fitted)


def predict(
    forests: dict[str, IsolationForest],
    detectors: tuple[DetectorSpec, ...],
    contract: Contract,
    test_readings: pd.DataFrame,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    return steps.predict_with_events(forests, detectors, contract, test_readings, on_terminal())


def evaluate(  # noqa: PLR0913  the catalog's entries, one by one
    predictions: pd.DataFrame,
    train_readings: pd.DataFrame,
    contract: Contract,
    features: tuple[FeatureRows, ...],
    forests: dict[str, IsolationForest],
    detectors: tuple[DetectorSpec, ...],
    parameters: dict[str, Any],
) -> dict[str, Any]:
    settings, held = check(parameters), Held(predictions, train_readings, contract)
    facts = evaluation.evaluate(predictions, train_readings, features, detectors)
    facts["kinds_without_detector"] = sorted(set(contract.kinds) - {spec.kind for spec in detectors})
    for spec in detectors:
        if spec.events is not None:
            score = partial(steps.predict, forests, [spec], contract)
            chosen = facts["detectors"][spec.kind]
            chosen["trials"] = run_trials(held, spec, chosen, score, settings.faults_per_kind, on_terminal())
    return facts


def record_run(  # noqa: PLR0913  a run is made of all that the pipelines made
    forests: dict[str, IsolationForest],
    detectors: tuple[DetectorSpec, ...],
    contract: Contract,
    features: tuple[FeatureRows, ...],
    predictions: pd.DataFrame,
    events: list[dict[str, Any]],
    figures: dict[str, Any],
    quality: dict[str, Any],
    raw_parameters: dict[str, Any],
) -> Trained:
    rows = {one.spec.model: one.rows for one in features}
    file = DetectorFile(detectors, contract)
    return Trained(forests, file, rows, predictions, events, figures, quality, check(raw_parameters))
