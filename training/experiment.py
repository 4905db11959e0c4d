"""Detectors for experiments: train on one table, score another, with the vehicle's own code and no workspace.

>>> import numpy as np, pandas as pd
>>> def readings(days, seed):
...     times = 1_700_000_000 + 300.0 * np.arange(288 * days)
...     noise = np.random.default_rng(seed).normal(0, 0.5, len(times))
...     values = 60 + 6 * np.sin(2 * np.pi * times / 86400) + noise
...     return pd.DataFrame({"time": times, "sensor": "axle-1", "value": values.round(1)})
>>> detector = train_detector(readings(days=10, seed=0))
>>> later = readings(days=4, seed=1)
>>> later.loc[700:, "value"] += 25
>>> scored = detector.score(later)
>>> raised = scored[scored["event"].notna()]
>>> raised.index[0], raised["event"].nunique(), set(raised["severity"])
(700, 1, {'extreme'})
>>> len(raised) == len(later) - 700  # to the end: a fault is not learnt
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.runtime.contract import check_contract
from axlebox.runtime.detector import Monitor
from axlebox.runtime.outcomes import Outcome
from axlebox.training.fit import Fitted, fit_detector, make_rows
from axlebox.training.parameters import BundleParameters, Parameters
from axlebox.training.series import Progress, silent
from axlebox.training.steps import answer_columns, outcomes_of, sklearn_monitor

ONE_KIND = Contract({"temperature": Kind()})


@dataclass(frozen=True, slots=True)
class TrainedDetector:
    """Detectors by kind of sensor, with the contract that they were trained under."""

    contract: Contract
    fitted: Mapping[str, Fitted]

    def monitor(self) -> Monitor:
        """A Monitor with empty state and scikit-learn in the model's place."""
        forests = {one.spec.model: one.forest for one in self.fitted.values()}
        return sklearn_monitor(forests, [one.spec for one in self.fitted.values()], self.contract)

    def score(self, readings: pd.DataFrame) -> pd.DataFrame:
        """The readings with what a vehicle would make of them, in added columns.

        status (runtime/statuses.py); score, 0..1 and higher is more anomalous, NaN where no model saw it;
        tail_sum, NaN likewise; flag; event, the id of the anomaly event that is raised, else missing (isna);
        severity of that event; peak, the score of an event's peak where one is told, else NaN.
        """
        outcomes = outcomes_of(self.monitor(), readings)
        columns = answer_columns(outcomes)
        columns["event"] = columns.pop("event_id")
        return readings.assign(**columns, **_event_columns(outcomes))


def train_detector(
    readings: pd.DataFrame,
    contract: Contract = ONE_KIND,
    parameters: Parameters | None = None,
    progress: Progress = silent,
) -> TrainedDetector:
    """Train on readings in the columns time (POSIX seconds), sensor and value, in order of arrival.

    A column era, where there is one, counts how often a sensor was replaced. Raises Malformed where
    there are too few readings, or they never change.
    """
    missing = {"time", "sensor", "value"} - set(readings)
    if missing:
        raise Malformed(f"readings need the columns time, sensor and value; {', '.join(sorted(missing))} is missing")
    check_contract(contract)
    parameters = Parameters(BundleParameters("experiment")) if parameters is None else parameters
    fitted = [fit_detector(one, parameters) for one in make_rows(readings, contract, parameters, progress)]
    return TrainedDetector(contract, {one.spec.kind: one for one in fitted})


def _event_columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Severity of the event that is raised at each reading, and the score of the peak that is told with it."""
    severity: dict[str, str] = {}
    peaks = np.full(len(outcomes), np.nan)
    severities = []
    for number, outcome in enumerate(outcomes):
        for event in outcome.events:
            if event["type"] == "anomaly":
                severity[event["id"]] = event["severity"]
                if event["state"] == "peak":
                    peaks[number] = event["score"]
        severities.append(None if outcome.event is None else severity[outcome.event])
    return {"severity": pd.Series(severities, dtype=object).to_numpy(), "peak": peaks}
