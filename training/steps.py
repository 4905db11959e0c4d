"""The steps of a training, as plain functions on frames (frames.py); the Kedro nodes join them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.readings import REPLACED
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID
from axlebox.training.checked import Checked, held_back
from axlebox.training.forest import sklearn_score_rows
from axlebox.training.frames import in_order, used
from axlebox.training.series import UNKNOWN, Progress, silent

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

_SHOWN_INVALID = 20


def data_quality(checked: Checked) -> dict[str, Any]:
    """What the gate let through and what not, for the report."""
    return {
        "files": [msgspec.to_builtins(one) for one in checked.files],
        "readings": len(checked),
        "replaced": checked.replaced,
        "invalid": checked.counts.get(INVALID, 0),
        "held_back": held_back(checked.counts),
        "first_invalid": [msgspec.structs.asdict(one) for one in checked.invalid[:_SHOWN_INVALID]],
    }


def refuse_bad_data(checked: Checked, most_held_back: float) -> None:
    """Raise Malformed where more than this share of the readings break the contract."""
    unused = checked.unused
    share = unused / max(1, unused + len(checked))
    if share > most_held_back:
        held = ", ".join(f"{count} {status}" for status, count in held_back(checked.counts).items())
        first = checked.invalid[0]
        raise Malformed(
            f"{share:.1%} of the readings break the contract, most_held_back is {most_held_back:.1%}"
            f"{f': {held}' if held else ''}; {first.file}, line {first.line}: {first.reason}. "
            "DO: correct the contract or the readings"
        )


def split_by_time(readings: pd.DataFrame, fraction: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first `fraction` of the readings in time, and the rest; no moment is in both.

    Readings that no model sees do not count, and go with their time.
    Raises Malformed where one of the two would be empty.
    """
    good = used(readings)["time"]
    times = np.sort(good.to_numpy())
    number = int(len(times) * fraction)
    if 0 < number < len(times):
        early = readings["time"] < times[number]
        if (good < times[number]).any():
            return readings[early].reset_index(drop=True), readings[~early].reset_index(drop=True)
    raise Malformed(f"{len(times)} readings are too few to split at {fraction}")


def predict(
    forests: Mapping[str, IsolationForest],
    detectors: Sequence[DetectorSpec],
    contract: Contract,
    readings: pd.DataFrame,
) -> pd.DataFrame:
    """Replay readings through the vehicle's Monitor with scikit-learn in the models' places.

    Returns the readings with the columns kind, status, score (NaN where no model saw one), tail_sum, flag,
    event and limit (True where an anomaly, or a limit or hot-or-sensor event is raised), and event_id
    of the anomaly event that is raised then, else None.
    """
    return predict_with_events(forests, detectors, contract, readings)[0]


def predict_with_events(
    forests: Mapping[str, IsolationForest],
    detectors: Sequence[DetectorSpec],
    contract: Contract,
    readings: pd.DataFrame,
    progress: Progress = silent,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """What predict() returns, and the events in their order, as the vehicle tells them but for their release."""
    outcomes = outcomes_of(sklearn_monitor(forests, detectors, contract), readings, progress)
    events = [event for outcome in outcomes for event in outcome.events]
    frame = readings.assign(
        **answer_columns(outcomes),
        kind=readings["sensor"].map(contract.kind_of),
        event=[any(_is(event, "anomaly", "raised") for event in outcome.events) for outcome in outcomes],
        limit=[
            any(_is(event, "limit", "raised") or _is(event, "sensor", HOT_OR_SENSOR) for event in outcome.events)
            for outcome in outcomes
        ],
    )
    return frame, [{name: value for name, value in event.items() if name != "bundle"} for event in events]


def sklearn_monitor(
    forests: Mapping[str, IsolationForest], detectors: Sequence[DetectorSpec], contract: Contract
) -> Monitor:
    """The vehicle's Monitor with empty state, and scikit-learn in the models' places; `forests` by model."""
    made = {spec.kind: Detector(spec, sklearn_score_rows(forests[spec.model])) for spec in detectors}
    return Monitor(contract, made, UNKNOWN)


def outcomes_of(monitor: Monitor, readings: pd.DataFrame, progress: Progress = silent) -> list[Outcome]:
    """What becomes of each reading of a frame, in its order."""
    outcomes: list[Outcome] = []
    for batch in in_order(readings):
        outcomes += [one for one in monitor.process(batch) if one.status != REPLACED]
        progress("held-out readings", len(outcomes), len(readings))
    return outcomes


def answer_columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The answer to each reading: status, score and tail_sum (NaN where no model saw it), flag, event_id."""
    return {
        "status": [one.status for one in outcomes],
        "score": np.array([one.score for one in outcomes], dtype=np.float64),
        "tail_sum": np.array([one.tail_sum for one in outcomes], dtype=np.float64),
        "flag": [one.flag for one in outcomes],
        "event_id": pd.Series([one.event for one in outcomes], dtype=object).to_numpy(),
    }


def _is(event: Mapping[str, Any], what: str, state: str) -> bool:
    return (event["type"], event["state"]) == (what, state)
