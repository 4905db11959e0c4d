"""From readings to scores, flags and events, alike on the vehicle and in training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, EventRules
from axlebox.firmware_bundle.slots import Release
from axlebox.runtime import features
from axlebox.runtime.anomalies import Anomalies, Waiting
from axlebox.runtime.gate import LARGEST, MAX_SENSORS, Gate, Verdict
from axlebox.runtime.heat import Cause
from axlebox.runtime.limits import Limits
from axlebox.runtime.outcomes import NO_SENSOR, Origin, Outcome
from axlebox.runtime.readings import LATEST, REPLACED, BadLine, Reading, Replaced, format_time
from axlebox.runtime.remembering import State, by_sensor, kept, of_sensors, put_back
from axlebox.runtime.siblings import Siblings
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, OK, STALE, WARMING

ScoreRows = Callable[[NDArray[np.float32]], tuple[NDArray[np.float64], NDArray[np.bool_]]]
"""Feature rows (n, k) to anomaly scores (n,), 0..1 and higher is more anomalous, and flags (n,)."""


class Detector:
    """One model with its features: rows for the readings of many sensors of one kind.

    Takes any `score_rows`: scikit-learn's in training, `Scorer`'s on the vehicle.
    """

    def __init__(self, spec: DetectorSpec, score_rows: ScoreRows) -> None:
        self.spec = spec
        self.score_rows = score_rows
        self._features = features.find(spec.features)
        self._make = self._features.maker(spec.features.constants)
        self._sensors: dict[str, features.Features] = {}
        self._seen: dict[str, int] = {}
        fresh_s = spec.features.constants.get("sibling_fresh_s")
        self._siblings = None if fresh_s is None else Siblings(fresh_s)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self._features.names

    def take(self, reading: Reading, group: str | None) -> tuple[tuple[float, ...], features.Features]:
        """The feature row of the next reading of its sensor, and what the sensor's features know then.

        `group` names the sensor's siblings, where it has any.
        """
        sensor = self._sensors.get(reading.sensor)
        if sensor is None:
            sensor = self._sensors[reading.sensor] = self._make()
            self._seen[reading.sensor] = 0
        seen = self._seen[reading.sensor] = self._seen[reading.sensor] + 1
        deviation = None
        if group is not None and self._siblings is not None:
            deviation = self._siblings.deviation(group, reading.sensor, reading.time, reading.value)
        row = sensor.update(reading, deviation, seen <= self.spec.warmup)
        if group is not None and self._siblings is not None:
            self._siblings.suspect(group, reading.sensor, sensor.usual_distance if sensor.suspected else None)
        return row, sensor

    def warming(self, sensor: str) -> bool:
        """Whether the latest reading of a sensor still belongs to its warm-up."""
        return self._seen[sensor] <= self.spec.warmup

    def restart(self, sensor: str) -> None:
        """The next reading of a sensor comes after a long gap, or by another clock."""
        known = self._sensors.get(sensor)
        if known is not None and not known.restart():
            self.forget(sensor, None)

    def state(self) -> State:
        features = by_sensor(self._sensors, lambda one: one.state())
        return [features, by_sensor(self._seen, int), self._siblings and self._siblings.state()]

    def restore(self, state: State) -> None:
        sensors, self._seen, siblings = state
        self._sensors = {}
        for name, one in sensors.items():
            self._sensors[name] = self._make()
            self._sensors[name].restore(one)
        if self._siblings is not None:
            self._siblings.restore(siblings)

    def forget(self, sensor: str, group: str | None) -> None:
        """The next reading of a sensor is its first: empty feature state, warm-up from the beginning."""
        self._sensors.pop(sensor, None)
        self._seen.pop(sensor, None)
        if group is not None and self._siblings is not None:
            self._siblings.forget(group, sensor)


class _Trouble:
    """A sensor whose readings do not reach the model, from the first such reading to the next good one."""

    __slots__ = ("dropped", "raised", "status")

    def __init__(self) -> None:
        self.status = OK
        self.dropped = 0
        self.raised: dict[str, Any] | None = None
        """Its hot-or-sensor event while it is raised."""

    def state(self) -> State:
        return kept(self, _Trouble.__slots__)

    @classmethod
    def restored(cls, state: State) -> _Trouble:
        trouble = cls()
        put_back(trouble, cls.__slots__, state)
        return trouble


class Monitor:
    """The way of every reading: gate and limits, detector of its kind, event rules."""

    def __init__(self, contract: Contract, detectors: Mapping[str, Detector], origin: Origin) -> None:
        """`detectors` by kind; sensors of a kind without one are checked by the gate alone."""
        self._contract = contract
        self._gate = Gate(contract)
        self._detectors = detectors
        self._origin = origin
        self._groups = {name: sensor.group for name, sensor in contract.sensors.items() if sensor.group is not None}
        self._anomalies = Anomalies(contract, origin)
        self._limits = Limits(contract, origin.digest, asdict(origin))
        self._troubles: dict[str, _Trouble] = {}
        self._busy = self._gate.watches_silence or self._limits.are_set
        """Whether a reading that passes may have events of its own."""

    def process(self, batch: Sequence[Reading | BadLine | Replaced]) -> list[Outcome]:
        """What became of each of the next readings, in order.

        All rows of a batch for one detector are scored in one call, or in one for each stretch
        between marks; how readings are cut into batches changes nothing about the outcomes.
        """
        outcomes = []
        pending: dict[Detector, list[Waiting]] = {}
        for item in batch:
            if isinstance(item, Reading):
                reading = self._gate.corrected(item) if self._gate.offsets else item
                verdict = self._gate.judge(reading)
                outcome = Outcome(reading.line, reading.sensor, reading.time, reading.value, OK)
                if verdict is not None or self._busy or self._troubles:
                    self._attend(reading, outcome, verdict)
                if outcome.status == OK:
                    self._queue(reading, outcome, pending, verdict is not None and verdict.anew)
            elif isinstance(item, Replaced):
                self._settle(pending)  # what came before the mark may raise the event that it clears
                outcome = self._replace(item)
            else:
                outcome = Outcome(item.line, NO_SENSOR, None, None, INVALID, item.reason)
                self._report_trouble(outcome, None)
            outcomes.append(outcome)
        self._settle(pending)
        return outcomes

    def tick(self, now: float) -> list[dict[str, Any]]:
        """The events of time that passes, also without readings; `now` as in `Gate.tick`."""
        if not self._gate.watches_silence:
            return []
        self._gate.tick(now)
        return list(self._silences())

    def trouble(self, sensor: str) -> str | None:
        """The status that a sensor has now, where it is not good: unlike its last reading's, it may be STALE."""
        trouble = self._troubles.get(sensor)
        return None if trouble is None else trouble.status

    def limit(self, sensor: str) -> str | None:
        """The worst severity of the limit events raised for a sensor: extreme, mild or None."""
        return self._limits.of(sensor)

    def state(self) -> State:
        """All that decides on what becomes of the next readings; `restricted` gives that of some sensors."""
        return [
            self._gate.state(),
            {kind: detector.state() for kind, detector in self._detectors.items()},
            self._anomalies.state(),
            self._limits.state(),
            by_sensor(self._troubles, _Trouble.state),
        ]

    def restore(self, state: State) -> None:
        """Go on as the monitor of the same release that the state is from would. Raises ValueError, KeyError, TypeError
        where it is not; then this monitor is of no use any more."""
        gate, detectors, anomalies, limits, troubles = state
        self._gate.restore(gate)
        for kind, detector in self._detectors.items():
            detector.restore(detectors[kind])
        self._anomalies.restore(anomalies, self._rules_of)
        self._limits.restore(limits)
        self._troubles = {name: _Trouble.restored(one) for name, one in troubles.items()}

    def _rules_of(self, sensor: str) -> EventRules | None:
        detector = self._detector_of(sensor)
        return None if detector is None else detector.spec.events

    def _attend(self, reading: Reading, outcome: Outcome, verdict: Verdict | None) -> None:
        """Sensor and limit events of a reading, where there may be any."""
        if verdict is not None:
            outcome.status = verdict.status
            outcome.reason = "" if verdict.status == OK else verdict.reason
        if self._gate.watches_silence:
            outcome.events = tuple(self._silences())
        if verdict is not None or self._troubles:
            self._report_trouble(outcome, verdict)
        self._look_at_limits(reading, outcome, verdict)

    def _settle(self, pending: dict[Detector, list[Waiting]]) -> None:
        """Score and judge the readings that wait, in their order; then none waits any more."""
        for detector, waiting in pending.items():
            scores, flags = detector.score_rows(np.array([one.row for one in waiting], dtype=np.float32))
            for one, score, flag in zip(waiting, scores.tolist(), flags.tolist(), strict=True):
                one.outcome.score = score
                if one.outcome.status == OK:
                    self._anomalies.judge(one, detector, flag)
        pending.clear()

    def _replace(self, mark: Replaced) -> Outcome:
        """Forget everything about a sensor but its id. A person said so: no time is too early for it."""
        sensor = mark.sensor
        outcome = Outcome(mark.line, sensor, mark.time, None, REPLACED)
        self._gate.forget(sensor)
        detector = self._detector_of(sensor)
        if detector is not None:
            detector.forget(sensor, self._groups.get(sensor))
            outcome.events += self._anomalies.end(sensor, _time_of(outcome), "sensor replaced")
        outcome.events += self._limits.end(sensor, mark.time, None, "sensor replaced")
        trouble = self._troubles.pop(sensor, None)  # which no good reading will end
        outcome.events += (self._sensor_event(outcome, REPLACED, sensor, **_end_of(trouble)),)
        return outcome

    def open_events(self) -> list[dict[str, Any]]:
        """The `raised` or `hot-or-sensor` event of everything that calls for somebody now."""
        return [event for _, event, _ in self._open()]

    def end_events(self, reason: str) -> list[dict[str, Any]]:
        """The end of each of them, at its sensor's last time, where this monitor sees no more readings."""
        ended = []
        for sensor, event, state in self._open():
            last = self._gate.last(sensor)
            time = event["time"] if last is None else format_time(last)
            ended.append({**event, "state": state, "time": time, "reason": reason})
        return ended

    def _open(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Sensor and event of everything that is raised now, and the state that ends it."""
        for sensor, trouble in self._troubles.items():
            if trouble.raised is not None:
                yield sensor, trouble.raised, OK
        for sensor, event in self._limits.open():
            yield sensor, event, "cleared"
        for sensor, event in self._anomalies.open():
            yield sensor, event, "cleared"

    def sensors(self) -> int:
        """How many sensors had a reading that was OK."""
        return len(self._gate)

    def _report_trouble(self, outcome: Outcome, verdict: Verdict | None) -> None:
        """One sensor event when its readings stop to reach the model, when the reason changes, and at the end.

        A bad line belongs to no sensor; its run ends with the next reading that is OK.
        """
        if outcome.status == OK:
            for sensor in (NO_SENSOR, outcome.sensor):
                trouble = self._troubles.pop(sensor, None)
                why = {"reason": verdict.reason} if verdict is not None and sensor else {}
                if trouble is not None or why:
                    outcome.events += (self._sensor_event(outcome, OK, sensor, **_end_of(trouble), **why),)
            return
        # Ids come from outside, as many as somebody likes: beyond the bound they share one count.
        full = len(self._troubles) >= MAX_SENSORS and outcome.sensor not in self._troubles
        trouble = self._troubles.setdefault(NO_SENSOR if full else outcome.sensor, _Trouble())
        trouble.dropped += 1
        # A NaN within a stuck run or a fire changes nothing about it.
        changed = trouble.status in (OK, STALE) if outcome.status == INVALID else outcome.status != trouble.status
        if changed:
            was = {} if trouble.raised is None else {"id": trouble.raised["id"]}
            trouble.status, trouble.raised = outcome.status, None
            details = {"reason": outcome.reason, **was}
            event = self._sensor_event(outcome, outcome.status, outcome.sensor, **details)
            if outcome.status == HOT_OR_SENSOR and verdict is not None and verdict.episode is not None:
                event = trouble.raised = self._hot_or_sensor(event, outcome, verdict.episode.limit)
            outcome.events += (event,)

    def _hot_or_sensor(self, event: dict[str, Any], outcome: Outcome, limit: float) -> dict[str, Any]:
        return {
            **event,
            "id": f"{self._origin.digest[:8]}-{outcome.sensor}-{int(outcome.time or 0)}-{HOT_OR_SENSOR}",
            "severity": "extreme",
            "value": outcome.value,
            "limit": limit,
            "action": self._action_of(outcome.sensor),
            "bundle": asdict(self._origin),
        }

    def _look_at_limits(self, reading: Reading, outcome: Outcome, verdict: Verdict | None) -> None:
        """The limit channel's events; a sensor that was found to be broken has no temperature."""
        episode = None if verdict is None else verdict.episode
        if episode is not None and episode.hot and episode.cause is Cause.SENSOR:
            why = f"found to be no heat: {outcome.reason}"
            outcome.events += self._limits.end(reading.sensor, reading.time, reading.value, why)
        elif abs(reading.value) <= LARGEST:
            outcome.events += self._limits.look(reading, outcome.status == OK)
            if episode is not None and episode.cause is Cause.HEAT:
                outcome.events += self._limits.heat(reading, episode.limit)

    def _silences(self) -> Iterator[dict[str, Any]]:
        """A sensor event for each that has become stale, at the time when it did."""
        for sensor, last, seconds in self._gate.newly_stale():
            trouble = self._troubles.setdefault(sensor, _Trouble())
            if trouble.status != HOT_OR_SENSOR:  # a sensor that burns falls silent; nothing is over
                trouble.status = STALE
            reason = f"no reading for {seconds:g} s"
            time = format_time(min(last + seconds, LATEST))
            yield {"type": "sensor", "state": STALE, "sensor": sensor, "time": time, "reason": reason}

    def _sensor_event(self, outcome: Outcome, state: str, sensor: str, **more: Any) -> dict[str, Any]:
        return {"type": "sensor", "state": state, "sensor": sensor or None, "time": _time_of(outcome), **more}

    def _action_of(self, sensor: str) -> str | None:
        kind = self._contract.kind_of(sensor)
        return None if kind is None else self._contract.kinds[kind].action

    def _detector_of(self, sensor: str) -> Detector | None:
        kind = self._contract.kind_of(sensor)
        return None if kind is None else self._detectors.get(kind)

    def _queue(self, reading: Reading, outcome: Outcome, pending: dict[Detector, list[Waiting]], anew: bool) -> None:
        detector = self._detector_of(reading.sensor)
        if detector is None:
            return
        if anew:
            detector.restart(reading.sensor)
        row, known = detector.take(reading, self._groups.get(reading.sensor))
        pending.setdefault(detector, []).append(Waiting(reading, outcome, row, known.suspicion))
        if detector.warming(reading.sensor):
            outcome.status = WARMING
        outcome.tail_sum = known.tail_sum
        self._anomalies.report_drift(reading, outcome, known.drifted)


def restricted(state: State, sensors: Collection[str]) -> State:
    """What of a Monitor's state decides on the next readings of some sensors, their siblings among them."""
    (now, clocks, quiet), detectors, anomalies, limits, troubles = state
    return [
        [now, of_sensors(clocks, sensors), [name for name in quiet if name in sensors]],
        {
            kind: [
                of_sensors(features, sensors),
                of_sensors(seen, sensors),
                siblings and {group: of_sensors(members, sensors) for group, members in siblings.items()},
            ]
            for kind, (features, seen, siblings) in detectors.items()
        },
        [of_sensors(part, sensors) for part in anomalies],
        of_sensors(limits, sensors),
        of_sensors(troubles, sensors),
    ]


def _end_of(trouble: _Trouble | None) -> dict[str, Any]:
    """What the event says that ends a sensor's trouble."""
    if trouble is None:
        return {}
    raised = {} if trouble.raised is None else {"id": trouble.raised["id"]}
    return {"dropped": trouble.dropped, **raised} if trouble.dropped else raised


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
