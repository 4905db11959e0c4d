"""From readings to scores, flags and events, alike on the vehicle and in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.firmware_bundle.slots import Release
from axlebox.runtime import features
from axlebox.runtime.gate import MAX_SENSORS, Gate
from axlebox.runtime.readings import REPLACED, BadLine, Reading, Replaced, format_time

ScoreRows = Callable[[NDArray[np.float32]], tuple[NDArray[np.float64], NDArray[np.bool_]]]
"""Feature rows (n, k) to anomaly scores (n,), 0..1 and higher is more anomalous, and flags (n,)."""

OK, INVALID, WARMING = "ok", "invalid", "warming"
NO_SENSOR = ""
"""Stands for the sensor where a line was not even a reading."""


class Origin(Struct, frozen=True):
    """The release that an event comes from."""

    name: str
    version: int
    digest: str


class Outcome(Struct, gc=False):
    """What became of one reading (or one bad line, or one mark)."""

    line: int
    sensor: str
    time: float | None
    value: float | None
    status: str
    """OK, WARMING, INVALID with a reason, or REPLACED for a mark."""
    reason: str = ""
    score: float | None = None
    flag: bool = False
    event: str | None = None
    """Id of the sensor's anomaly event while it is raised."""
    events: tuple[dict[str, Any], ...] = ()


class Detector:
    """One model with its features: rows for the readings of many sensors of one kind.

    Takes any `score_rows`: scikit-learn's in training, `Scorer`'s on the vehicle.
    """

    def __init__(self, spec: DetectorSpec, score_rows: ScoreRows) -> None:
        self.spec = spec
        self.score_rows = score_rows
        self._features = features.find(spec.features)
        self._sensors: dict[str, features.Features] = {}
        self._seen: dict[str, int] = {}

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self._features.names

    def row(self, reading: Reading) -> tuple[float, ...]:
        """The feature row of the next reading of its sensor."""
        sensor = self._sensors.get(reading.sensor)
        if sensor is None:
            sensor = self._sensors[reading.sensor] = self._features(self.spec.features.constants)
            self._seen[reading.sensor] = 0
        self._seen[reading.sensor] += 1
        return sensor.update(reading)

    def warming(self, sensor: str) -> bool:
        """Whether the latest reading of a sensor still belongs to its warm-up."""
        return self._seen[sensor] <= self.spec.warmup

    def forget(self, sensor: str) -> None:
        """The next reading of a sensor is its first: empty feature state, warm-up from the beginning."""
        self._sensors.pop(sensor, None)
        self._seen.pop(sensor, None)


class _Waiting(NamedTuple):
    """A reading that waits for its score."""

    reading: Reading
    outcome: Outcome
    row: tuple[float, ...]


class Monitor:
    """The way of every reading: gate, detector of its kind, event rules."""

    def __init__(self, contract: Contract, detectors: Mapping[str, Detector], origin: Origin) -> None:
        """`detectors` by kind; sensors of a kind without one are checked by the gate alone."""
        self._contract = contract
        self._gate = Gate(contract)
        self._detectors = detectors
        self._origin = origin
        self._raised: dict[str, dict[str, Any]] = {}
        self._invalid: dict[str, int] = {}
        self._offsets = {name: sensor.offset for name, sensor in contract.sensors.items() if sensor.offset}

    def process(self, batch: Sequence[Reading | BadLine | Replaced]) -> list[Outcome]:
        """What became of each of the next readings, in order.

        All rows of a batch for one detector are scored in one call, or in one for each stretch
        between marks; how readings are cut into batches changes nothing about the outcomes.
        """
        outcomes = []
        pending: dict[Detector, list[_Waiting]] = {}
        for item in batch:
            if isinstance(item, Reading):
                reading = self._corrected(item) if self._offsets else item
                refusal = self._gate.refuse(reading)
                status = OK if refusal is None else INVALID
                outcome = Outcome(reading.line, reading.sensor, reading.time, reading.value, status, refusal or "")
                self._report_status(outcome)
                if refusal is None:
                    self._queue(reading, outcome, pending)
            elif isinstance(item, Replaced):
                self._settle(pending)  # what came before the mark may raise the event that it clears
                outcome = self._replace(item)
            else:
                outcome = Outcome(item.line, NO_SENSOR, None, None, INVALID, item.reason)
                self._report_status(outcome)
            outcomes.append(outcome)
        self._settle(pending)
        return outcomes

    def _settle(self, pending: dict[Detector, list[_Waiting]]) -> None:
        """Score and judge the readings that wait, in their order; then none waits any more."""
        for detector, waiting in pending.items():
            scores, flags = detector.score_rows(np.array([one.row for one in waiting], dtype=np.float32))
            for one, score, flag in zip(waiting, scores.tolist(), flags.tolist(), strict=True):
                one.outcome.score = score
                if one.outcome.status == OK:
                    one.outcome.flag = flag
                    self._judge(one, detector)
        pending.clear()

    def _replace(self, mark: Replaced) -> Outcome:
        """Forget everything about a sensor but its id. A person said so: no time is too early for it."""
        sensor = mark.sensor
        outcome = Outcome(mark.line, sensor, mark.time, None, REPLACED)
        self._gate.forget(sensor)
        detector = self._detector_of(sensor)
        if detector is not None:
            detector.forget(sensor)
            raised = self._raised.pop(sensor, None)
            if raised is not None:
                cleared = self._anomaly("cleared", raised["id"], outcome, detector, ())
                outcome.events += ({**cleared, "reason": "sensor replaced"},)
        dropped = self._invalid.pop(sensor, 0)
        details = {"dropped": dropped} if dropped else {}  # a run of invalid readings that no OK reading will end
        outcome.events += (self._sensor_event(outcome, REPLACED, sensor, **details),)
        return outcome

    def open_events(self) -> list[dict[str, Any]]:
        """The `raised` event of every anomaly that is raised now."""
        return list(self._raised.values())

    def end_events(self, reason: str) -> list[dict[str, Any]]:
        """A `cleared` event for each of them, at its sensor's last time, where this monitor sees no more readings."""
        return [
            {**raised, "state": "cleared", "time": format_time(self._gate.last(sensor)), "reason": reason}
            for sensor, raised in self._raised.items()
        ]

    def sensors(self) -> int:
        """How many sensors had a reading that was OK."""
        return len(self._gate)

    def _corrected(self, reading: Reading) -> Reading:
        """The reading with its sensor's commissioning offset added."""
        return replace(reading, value=reading.value + self._offsets.get(reading.sensor, 0.0))

    def _report_status(self, outcome: Outcome) -> None:
        """One sensor event when a run of invalid readings begins, and one when it ends.

        A bad line belongs to no sensor; its run ends with the next reading that is OK.
        """
        if outcome.status == INVALID:
            # Ids come from outside, as many as somebody likes: beyond the bound they share one count.
            full = len(self._invalid) >= MAX_SENSORS and outcome.sensor not in self._invalid
            sensor = NO_SENSOR if full else outcome.sensor
            count = self._invalid.get(sensor, 0)
            self._invalid[sensor] = count + 1
            if count == 0:
                details = {"line": outcome.line, "reason": outcome.reason}
                outcome.events += (self._sensor_event(outcome, INVALID, outcome.sensor, **details),)
            return
        if self._invalid:
            for sensor in (NO_SENSOR, outcome.sensor):
                dropped = self._invalid.pop(sensor, 0)
                if dropped:
                    outcome.events += (self._sensor_event(outcome, OK, sensor, dropped=dropped),)

    def _sensor_event(self, outcome: Outcome, state: str, sensor: str, **more: Any) -> dict[str, Any]:
        return {"type": "sensor", "state": state, "sensor": sensor or None, "time": _time_of(outcome), **more}

    def _detector_of(self, sensor: str) -> Detector | None:
        kind = self._contract.kind_of(sensor)
        return None if kind is None else self._detectors.get(kind)

    def _queue(self, reading: Reading, outcome: Outcome, pending: dict[Detector, list[_Waiting]]) -> None:
        detector = self._detector_of(reading.sensor)
        if detector is None:
            return
        pending.setdefault(detector, []).append(_Waiting(reading, outcome, detector.row(reading)))
        if detector.warming(reading.sensor):
            outcome.status = WARMING

    def _judge(self, one: _Waiting, detector: Detector) -> None:
        """Raise an event with the first flag, clear it with the first reading that has none."""
        sensor, outcome = one.reading.sensor, one.outcome
        raised = self._raised.get(sensor)
        if outcome.flag and raised is None:
            outcome.event = f"{self._origin.digest[:8]}-{sensor}-{int(one.reading.time)}"
            raised = self._raised[sensor] = self._anomaly("raised", outcome.event, outcome, detector, one.row)
            outcome.events += (raised,)
        elif outcome.flag and raised is not None:
            outcome.event = raised["id"]
        elif raised is not None:
            del self._raised[sensor]
            outcome.events += (self._anomaly("cleared", raised["id"], outcome, detector, one.row),)

    def _anomaly(
        self, state: str, event: str, outcome: Outcome, detector: Detector, row: Sequence[float]
    ) -> dict[str, Any]:
        """An anomaly event; `row` is empty where no reading but a mark is its cause."""
        why = zip(detector.feature_names, row, strict=True) if row else ()
        return {
            "type": "anomaly",
            "state": state,
            "id": event,
            # The raw value's forest saturates: it cannot tell a bit outside from far outside.
            "severity": "mild",
            "sensor": outcome.sensor,
            "time": _time_of(outcome),
            "value": outcome.value,
            "score": outcome.score,
            "threshold": detector.spec.threshold,
            "why": [{"feature": name, "value": number} for name, number in why],
            "action": self._contract.kinds[detector.spec.kind].action,
            "bundle": asdict(self._origin),
        }


def _time_of(outcome: Outcome) -> str | None:
    return None if outcome.time is None else format_time(outcome.time)


def monitor_release(release: Release) -> Monitor:
    """A Monitor with the release's own models in onnxruntime."""
    from axlebox.runtime.scorer import Scorer

    manifest = release.manifest
    detectors = {}
    for spec in manifest.detectors:
        scorer = Scorer(release.models[spec.model])
        detector = detectors[spec.kind] = Detector(spec, scorer.score_rows)
        if scorer.n_features != len(detector.feature_names):
            raise Malformed(
                f"{spec.model} takes {scorer.n_features} features, and feature set {spec.features.name} "
                f"{spec.features.version} has {len(detector.feature_names)}"
            )
    return Monitor(manifest.contract, detectors, Origin(manifest.name, manifest.version, release.digest))
