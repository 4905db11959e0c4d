"""The golden readings of a release: what its model must answer on the vehicle's own runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from axlebox.firmware_bundle.errors import GateFailed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, Golden, GoldenRow
from axlebox.runtime.detector import Detector, Monitor, ScoreRows
from axlebox.runtime.outcomes import Origin, Outcome
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.scorer import Scorer
from axlebox.training.forest import sklearn_score_rows
from axlebox.training.frames import used
from axlebox.training.runs import DetectorFile, Run

ROWS = 200
"""At most so many readings for a detector without state, at least so many in a row for a plain one with state."""
_STREAM_ROWS = 4000
"""And so many in a row for one with state,"""
_FAULT_ROWS = 12
"""with a fault of so many readings at the end, so many spreads high: its answers are what matters."""
_FAULT_HEIGHT = 12.0
_UNSIGNED = Origin("unsigned", 0, "0" * 64)


def make_golden(run: Run, detector_file: DetectorFile, models: Mapping[str, bytes]) -> Golden:
    """Held-out readings with the answers of the exported models. Raises GateFailed where scikit-learn's differ."""
    contract = detector_file.contract
    predictions = used(run.predictions())
    readings = [
        reading
        for spec in detector_file.detectors
        for reading in golden_readings(predictions[predictions["kind"] == spec.kind], spec, contract)
    ]

    def answers(score_rows: Mapping[str, ScoreRows]) -> list[Outcome]:
        detectors = {spec.kind: Detector(spec, score_rows[spec.model]) for spec in detector_file.detectors}
        return Monitor(contract, detectors, _UNSIGNED).process(readings)

    exported = {name: Scorer(model).score_rows for name, model in models.items()}
    # A few readings out of many are another stream: two that were far apart can look stuck side by side.
    while None in (scores := [one.score for one in answers(exported)]):
        readings = [reading for reading, score in zip(readings, scores, strict=True) if score is not None]
    found = answers(exported)
    expected = answers({name: sklearn_score_rows(forest) for name, forest in run.forests().items()})
    if [one.flag for one in found] != [one.flag for one in expected]:
        raise GateFailed("golden readings: the model's flags differ from scikit-learn's; nothing was exported")
    rows = []
    for reading, one in zip(readings, found, strict=True):
        if one.score is None:
            raise GateFailed(f"golden reading {format_time(reading.time)} got no score; nothing was exported")
        rows.append(GoldenRow(format_time(reading.time), reading.sensor, reading.value, one.score, one.flag))
    return Golden(tuple(rows))


def golden_readings(predictions: pd.DataFrame, spec: DetectorSpec, contract: Contract) -> list[Reading]:
    """Readings of held-out time for one detector, in order of time; all have passed the gate."""
    # golden.json has no marks: to the self-test all rows of an id are one sensor, which starts empty. Their answers
    # are computed in the same way, so only the gate must let them through: an era may begin before the last one's end.
    newest = predictions.groupby("sensor")["time"].cummax()
    predictions = predictions[~predictions[["sensor"]].assign(newest=newest).duplicated()]
    if spec.features.name == "value":
        return _to_readings(_picked(predictions))
    return _stretch(predictions, spec, contract)


def _to_readings(frame: pd.DataFrame) -> list[Reading]:
    return [Reading(*row) for row in frame[["time", "sensor", "value"]].itertuples(index=False)]


def _picked(predictions: pd.DataFrame) -> pd.DataFrame:
    """Up to ROWS readings, half of them flagged if so many are."""
    flags = predictions["flag"].to_numpy()
    flagged, plain = np.flatnonzero(flags), np.flatnonzero(~flags)
    from_flagged = min(len(flagged), ROWS // 2)
    picked: set[int] = set()
    for numbers, count in ((flagged, from_flagged), (plain, min(len(plain), ROWS - from_flagged))):
        picked.update(numbers[np.linspace(0, len(numbers) - 1, count).astype(int)].tolist() if count else ())
    return predictions.iloc[sorted(picked)]


def _stretch(predictions: pd.DataFrame, spec: DetectorSpec, contract: Contract) -> list[Reading]:
    """The last readings of one sensor and its siblings, as many as the warm-up needs; then a fault of that sensor."""
    first = str(predictions["sensor"].iloc[-1])
    near = predictions[predictions["sensor"].isin(contract.members(first))]
    rows = (spec.warmup + 2 * _FAULT_ROWS) * near["sensor"].nunique()
    rows = min(_STREAM_ROWS, rows if spec.events is not None else max(rows, ROWS))
    readings = _to_readings(near.iloc[-rows:])
    return [*readings, *_fault(readings, first, spec)]


def _fault(readings: Sequence[Reading], sensor: str, spec: DetectorSpec) -> list[Reading]:
    """The sensor goes on from its last reading, far too warm."""
    own = [one for one in readings if one.sensor == sensor]
    constants, last = spec.features.constants, own[-1]
    scale = constants.get("scale") or float(np.std([one.value for one in own])) or 1.0
    steps = np.diff([one.time for one in own])
    period = constants.get("period_s") or (float(np.median(steps)) if len(steps) else 1.0)
    value = last.value + _FAULT_HEIGHT * scale
    moments = [last.time + period * number for number in range(1, _FAULT_ROWS + 1)]
    return [Reading(moment, sensor, value + 0.01 * number) for number, moment in enumerate(moments)]
