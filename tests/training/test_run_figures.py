"""Names and values that MLflow takes, whatever a person calls a kind of sensor or a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.validation import _validate_batch_log_data

from axlebox.training import run_figures
from axlebox.training.runs import Run, RunRecord


@pytest.fixture
def record(exported: Path) -> RunRecord:
    return Run(exported / "runs" / (exported / "runs/latest").read_text().strip()).record()


def changed(record: RunRecord, **evaluation: Any) -> RunRecord:
    return msgspec.structs.replace(record, evaluation={**record.evaluation, **evaluation})


@pytest.mark.parametrize("kind", ["temperature", "../../etc", "a:b/../c", "Öl 90°", "%s", "x" * 64, "/", "."])
def test_mlflow_takes_every_name_and_value(record: RunRecord, kind: str) -> None:
    odd = changed(record, detectors={kind: record.evaluation["detectors"]["temperature"]})
    odd = msgspec.structs.replace(
        odd, lineage=msgspec.structs.replace(odd.lineage, parameters={kind: {"long": "y" * 10_000, kind: [1, None]}})
    )
    found = run_figures.metrics(odd, None)
    _validate_batch_log_data(
        [Metric(name, value, 0, 0) for name, value in found.items()],
        [Param(*one) for one in run_figures.parameters(odd).items()],
        [RunTag(*one) for one in run_figures.tags(odd).items()],
    )
    assert record.evaluation["detectors"]["temperature"]["threshold"] in found.values()


def test_what_is_no_number_is_no_metric(record: RunRecord) -> None:
    found = run_figures.metrics(changed(record, a=None, b=True, c="1", d=math.nan, e=math.inf, f=[1], g=2), None)
    assert {name for name in found if len(name) == 1} == {"g"} and found["g"] == 2.0


def test_the_share_of_faults_that_were_caught_counts_only_those_that_should_be() -> None:
    faults = {
        "step": {"alarms": True, "trials": 4, "answers": {"detector": {"raised": 3}, "ewma": {"raised": 4}}},
        "ramp": {"alarms": True, "trials": 2, "answers": {"detector": {"raised": 0}}},
        "cold start": {"alarms": False, "trials": 4, "answers": {"detector": {"raised": 4}}},
    }
    kinds = {"a": {"trials": {"faults": faults}}, "b": {"trials": None}, "c": {}}
    assert run_figures.caught_share({"detectors": kinds}) == 3 / 6
    assert run_figures.caught_share({"detectors": {"b": {"trials": None}}}) is None


def test_a_thousand_files_of_data_are_bounded(record: RunRecord) -> None:
    many = msgspec.structs.replace(
        record, lineage=msgspec.structs.replace(record.lineage, data=record.lineage.data * 5000)
    )
    found = run_figures.tags(many)
    assert len(found) <= 900 and found["axlebox.data.files"] == "5000" and "mlflow.user" in found
