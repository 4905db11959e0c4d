"""The steps of a training, as plain functions on frames; the Kedro nodes join them.

Frames of readings have the columns time (POSIX seconds, UTC), sensor, value, and era: how many marks
of the sensor came before. A sensor's next era is the readings of another sensor under the same id.
Where a column status says so, they hold readings too that no model sees: the gate that replays a
frame must find what the gate of a box would find. Without it, all are good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet
from axlebox.runtime.detector import Detector, Monitor, Origin
from axlebox.runtime.readings import REPLACED, Reading, Replaced
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, OK, WARMING
from axlebox.training.forest import sklearn_score_rows
from axlebox.training.parameters import Parameters
from axlebox.training.readings import Checked, held_back, with_eras

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

MODEL = "model.onnx"
_SHOWN_INVALID = 20
_UNKNOWN = Origin("in-training", 0, "0" * 64)


def to_frame(items: Sequence[Reading | Replaced], statuses: Sequence[str] | None = None) -> pd.DataFrame:
    """A frame of a stream; `statuses` has one for each item, those of marks are left out."""
    rows = list(with_eras(items))
    frame = pd.DataFrame(
        {
            "time": np.array([one.time for one, _ in rows], dtype=np.float64),
            "sensor": pd.Series([one.sensor for one, _ in rows], dtype=object),
            "value": np.array([one.value for one, _ in rows], dtype=np.float64),
            "era": np.array([era for _, era in rows], dtype=np.int64),
        }
    )
    if statuses is None:
        return frame
    return frame.assign(status=pd.Series([one for one in statuses if one != REPLACED], dtype=object))


def used(frame: pd.DataFrame) -> pd.DataFrame:
    """The readings that a model sees."""
    return frame[frame["status"].isin((OK, WARMING))] if "status" in frame else frame


def to_readings(frame: pd.DataFrame) -> list[Reading | Replaced]:
    """The stream that a frame came from: a mark, at the time of the reading after it, where an era begins.

    None where the frame itself begins with a later era: state is empty there anyway.
    """
    begins = frame.groupby("sensor", sort=False)["era"].diff() > 0
    columns = (frame["time"].tolist(), frame["sensor"].tolist(), frame["value"].tolist(), begins.tolist())
    items: list[Reading | Replaced] = []
    for time, sensor, value, begin in zip(*columns, strict=True):
        if begin:
            items.append(Replaced(time, sensor))
        items.append(Reading(time, sensor, value))
    return items


def data_quality(checked: Checked) -> dict[str, Any]:
    """What the gate let through and what not, for the report."""
    return {
        "files": [msgspec.structs.asdict(one) for one in checked.files],
        "readings": len(checked),
        "replaced": len(checked.items) - len(checked),
        "invalid": sum(one.status == INVALID for one in checked.invalid),
        "held_back": held_back(checked.invalid),
        "first_invalid": [msgspec.structs.asdict(one) for one in checked.invalid[:_SHOWN_INVALID]],
    }


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


def feature_set(parameters: Parameters) -> FeatureSet:
    return FeatureSet(name=parameters.feature_set, version=1)


def make_spec(contract: Contract, features: FeatureSet, threshold: float) -> DetectorSpec:
    """The detector of the contract's one kind."""
    return DetectorSpec(kind=next(iter(contract.kinds)), model=MODEL, features=features, threshold=threshold)


def feature_rows(readings: pd.DataFrame, contract: Contract, features: FeatureSet) -> NDArray[np.float32]:
    """Feature rows (n, k) of a replay through the vehicle's Monitor, as its model would be given them."""
    seen = []

    def note(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        seen.append(rows)
        return np.zeros(len(rows)), np.zeros(len(rows), dtype=np.bool_)

    spec = make_spec(contract, features, 0.0)
    Monitor(contract, {spec.kind: Detector(spec, note)}, _UNKNOWN).process(to_readings(readings))
    if not seen:
        raise Malformed(f"none of {len(readings)} readings passes the contract's checks")
    return np.concatenate(seen)


def predict(forest: IsolationForest, spec: DetectorSpec, contract: Contract, readings: pd.DataFrame) -> pd.DataFrame:
    """Replay readings through the vehicle's Monitor with scikit-learn in the model's place.

    Returns the readings with the columns status, score (NaN where the model did not see one), flag,
    event and limit (True where an anomaly, or a limit or hot-or-sensor event is raised).
    """
    monitor = Monitor(contract, {spec.kind: Detector(spec, sklearn_score_rows(forest))}, _UNKNOWN)
    outcomes = [one for one in monitor.process(to_readings(readings)) if one.status != REPLACED]
    return readings.assign(
        status=[outcome.status for outcome in outcomes],
        score=np.array([outcome.score for outcome in outcomes], dtype=np.float64),
        flag=[outcome.flag for outcome in outcomes],
        event=[any(_is(event, "anomaly", "raised") for event in outcome.events) for outcome in outcomes],
        limit=[
            any(_is(event, "limit", "raised") or _is(event, "sensor", HOT_OR_SENSOR) for event in outcome.events)
            for outcome in outcomes
        ],
    )


def _is(event: Mapping[str, Any], what: str, state: str) -> bool:
    return (event["type"], event["state"]) == (what, state)


def evaluate(predictions: pd.DataFrame, train: pd.DataFrame, spec: DetectorSpec) -> dict[str, Any]:
    """Counts and rates on held-out time, per day of exposure (sensor-days where there are many).

    From one era's last reading to the next one's first, nobody was watched.
    """
    statuses = predictions["status"].value_counts()
    limits = int(predictions["limit"].sum()) if "limit" in predictions else 0
    predictions = used(predictions)
    times = predictions.groupby(["sensor", "era"])["time"]
    exposure = float((times.max() - times.min()).sum()) / 86400
    flags = int(predictions["flag"].sum())
    events = int(predictions["event"].sum())
    return {
        "train_readings": len(used(train)),
        "test_readings": len(predictions),
        "sensors": int(predictions["sensor"].nunique()),
        "exposure_sensor_days": exposure,
        "threshold": spec.threshold,
        "flags": flags,
        "events": events,
        "limit_events": limits,
        "held_back": {
            status: int(statuses[status]) for status in sorted(statuses.index) if status not in (OK, WARMING)
        },
        "flags_per_sensor_day": flags / exposure if exposure else None,
        "events_per_sensor_day": events / exposure if exposure else None,
    }
