"""From the readings of each kind of sensor to its detector: feature rows first, then forest and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from msgspec import structs
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, EventRules, FeatureSet
from axlebox.runtime.features import find
from axlebox.runtime.streaming import Streaming
from axlebox.runtime.streaming_constants import Constants
from axlebox.training.costs import cheapest, fault_peaks
from axlebox.training.forest import score_of_level, train_forest, train_on_tails
from axlebox.training.frames import in_order, used
from axlebox.training.parameters import CostParameters, Parameters, StreamingParameters
from axlebox.training.series import Progress, Replayed, Series, record, replay
from axlebox.training.streaming_fit import Prepared, prepare
from axlebox.training.threshold import (
    Tailing,
    clusters,
    fit_tailing,
    sensors_per_vehicle,
    target_per_sensor_day,
    unseen_level,
)

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

MODEL = "model.onnx"
_FRESH = "sibling_fresh_s"
"""The constant of a feature set that is given deviations from siblings (runtime.detector.Detector)."""
_SUSPECT_RATE = 5.0
"""Suspicions are so many times as frequent as extreme events."""
_SUSPECT_SHARE = (0.5, 0.75)
"""But suspicion begins within these shares of the extreme level,"""
_SUSPECT_LEAST = 3.0
"""and never below this sum of tails."""
_CALM_SHARE = 0.4
_MILD_RATE = 0.3
"""Mild events may add so much to the target."""


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """What one kind's forest is trained on."""

    spec: DetectorSpec
    """Its threshold is still to be set."""
    rows: NDArray[np.float32]
    """(n, k), without the warm-ups; series after series, or in order of arrival where no events are fitted."""
    suspected: NDArray[np.bool_]
    """(n,): whether something was suspected of the sensor then."""
    lengths: tuple[int, ...]
    """Rows of each series."""
    threshold: dict[str, Any]
    """How the thresholds came about, for the run's record."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A detector as it was fitted."""

    spec: DetectorSpec
    forest: IsolationForest
    features: FeatureRows


def make_rows(
    readings: pd.DataFrame, contract: Contract, parameters: Parameters, progress: Progress
) -> tuple[FeatureRows, ...]:
    """Rows of each kind that has readings, from a replay through the vehicle's Monitor.

    Raises Malformed where there are too few readings, or they never change.
    """
    periods = _periods(used(readings), contract)
    plain = None if parameters.feature_set == "streaming" else _plain_set(parameters)
    fresh = {kind: parameters.streaming.sibling_fresh * period for kind, period in periods.items()}
    if plain is not None and _FRESH in plain.constants:
        fresh = dict.fromkeys(fresh, plain.constants[_FRESH])
    items = (item for batch in in_order(readings) for item in batch)
    found = {kind: series for kind, series in record(items, contract, fresh, progress).items() if series}
    if not found:
        raise Malformed(f"none of {len(readings)} readings passes the contract's checks")
    made = []
    for number, (kind, series) in enumerate(found.items()):
        model = MODEL if len(found) == 1 else f"model-{number}.onnx"
        if plain is not None:
            warmup = 0 if parameters.feature_set == "value" else parameters.features.warmup
            made.append(_plain_rows(series, DetectorSpec(kind, model, plain, 0.0, warmup), parameters, progress))
        else:
            try:
                prepared = prepare(series, periods[kind], parameters.streaming, progress)
            except Malformed as error:
                raise Malformed(f"sensors of kind {kind}: {error}") from error
            thresholds = _Thresholds(prepared, Target.of(parameters, contract, kind), progress)
            made.append(thresholds.feature_rows(kind, model, parameters.streaming))
    return tuple(made)


def fit_detector(features: FeatureRows, parameters: Parameters) -> Fitted:
    """Forest and threshold of the score."""
    if features.spec.events is None:
        forest = train_forest(features.rows, parameters)
        # scikit-learn flags score_samples < offset_, and the score is the negative of score_samples.
        return Fitted(structs.replace(features.spec, threshold=-float(forest.offset_)), forest, features)
    constants = features.spec.features.constants
    present = np.array([not name.startswith("sibling") or constants["siblings"] > 0 for name in Streaming.names])
    forest = train_on_tails(features.rows, present, parameters.forest)
    facts = features.threshold
    flag_at = max(
        score_of_level(forest, features.rows, present, facts["mild_at"], parameters.forest.random_state),
        _least_frequent(forest, features, features.spec.events, facts["allowed_mild"]),
    )
    forest.offset_ = -flag_at
    return Fitted(structs.replace(features.spec, threshold=flag_at), forest, features)


def _periods(readings: pd.DataFrame, contract: Contract) -> dict[str, float]:
    """Expected seconds between two readings of a sensor, by kind: the contract's, else their median; else 1."""
    steps = readings.groupby("sensor", sort=False)["time"].diff()
    kinds = readings["sensor"].map(contract.kind_of)
    found = steps[steps > 0].groupby(kinds).median()
    return {name: kind.period_s or float(found.get(name, 1.0)) for name, kind in contract.kinds.items()}


def _plain_set(parameters: Parameters) -> FeatureSet:
    """A feature set that makes rows and nothing more, with its constants. Raises Malformed where it takes others."""
    bare = FeatureSet(*parameters.named_set)
    if parameters.feature_set == "value":
        return bare
    found = find(bare)
    full = structs.replace(bare, constants={**getattr(found, "defaults", {}), **parameters.features.constants})
    found.maker(full.constants)()
    return full


def _plain_rows(
    series: Sequence[Series], spec: DetectorSpec, parameters: Parameters, progress: Progress
) -> FeatureRows:
    """Rows as the Detector makes them, in order of arrival, which a bootstrap depends on.

    Raises Malformed where the set's rows are not what it says, or not finite.
    """
    found, alone = find(spec.features), _FRESH not in spec.features.constants
    make, width = found.maker(spec.features.constants), len(found.names)
    rows: list[tuple[float, ...]] = []
    lines: list[int] = []
    lengths = []
    total = sum(map(len, series))
    for one in series:
        sensor, seen, before = make(), 0, len(rows)
        for number, (reading, deviation) in enumerate(zip(one.readings, one.deviations, strict=True)):
            if number in one.restarts and not sensor.restart():
                sensor, seen = make(), 0
            seen += 1
            row = sensor.update(reading, None if alone else deviation, seen <= spec.warmup)
            if len(row) != width:
                what = f"feature set {spec.features.name} {spec.features.version}"
                raise Malformed(f"{what} has {width} names ({', '.join(found.names)}), and made a row of {len(row)}")
            if seen > spec.warmup:
                rows.append(row)
                lines.append(reading.line)
                if not len(rows) & 0x3FFF:
                    progress("feature rows", len(rows), total)
        lengths.append(len(rows) - before)
    progress("feature rows", total, total)
    made = np.array(rows, dtype=np.float32).reshape(len(rows), width)[np.argsort(lines, kind="stable")]
    if not np.isfinite(made).all():
        what = f"feature set {spec.features.name} {spec.features.version}"
        raise Malformed(f"{what} made rows with numbers that are not finite or beyond 3.4e38")
    suspected = np.zeros(len(made), dtype=np.bool_)
    return FeatureRows(spec, made, suspected, tuple(lengths), {"contamination": parameters.contamination_factor})


@dataclass(frozen=True, slots=True)
class Target:
    """What a kind's thresholds are chosen for."""

    per_sensor_day: float
    """Where costs do not decide."""
    contamination: float | None
    costs: CostParameters | None
    """Where they decide."""
    sensors: int
    """Of the kind on a vehicle."""

    @classmethod
    def of(cls, parameters: Parameters, contract: Contract, kind: str) -> Target:
        settings = parameters.threshold
        return cls(
            target_per_sensor_day(settings, contract, kind),
            settings.contamination,
            parameters.costs if settings.least_cost else None,
            sensors_per_vehicle(settings, contract, kind),
        )


class _Thresholds:
    """Extreme level, suspicion, and the forest's rows under it: two replays, since suspicion changes what is learnt."""

    def __init__(self, prepared: Prepared, target: Target, progress: Progress) -> None:
        self._prepared = prepared
        self._per_day = target.per_sensor_day
        self._contamination = target.contamination
        self._sensors = target.sensors
        self._constants = prepared.constants
        spans = self._replayed("sums of tails", progress)
        self._choice = None
        if target.costs is not None:
            peaks = fault_peaks(prepared.series, prepared.constants, prepared.warmup)
            tailing = fit_tailing([one.tail_sum for one in spans], prepared.days)
            self._choice = cheapest(target.costs, peaks, lambda per_day: tailing.level(per_day / target.sensors))
            self._per_day = self._choice.per_vehicle_day / target.sensors
        self._set_level(spans)
        self._spans = self._replayed("suspicion", progress)
        self._set_level(self._spans)

    def _replayed(self, what: str, progress: Progress) -> list[Replayed]:
        """Each series without its warm-up."""
        prepared = self._prepared
        replays = replay(prepared.series, self._constants, prepared.warmups, what, progress)
        return [
            Replayed(one.rows[skip:], one.tail_sum[skip:], one.suspected[skip:], one.values)
            for one, skip in zip(replays, prepared.warmups, strict=True)
        ]

    def _set_level(self, spans: Sequence[Replayed]) -> None:
        sums = [one.tail_sum for one in spans if len(one.tail_sum)]
        days = self._prepared.days
        self._tailing: Tailing = fit_tailing(sums, days, self._per_day * days)
        if self._contamination is not None:
            level = max(float(np.quantile(np.concatenate(sums), 1 - self._contamination)), _SUSPECT_LEAST)
        else:
            level = max(self._tailing.level(self._per_day), unseen_level(sums, days, self._per_day))
        at = min(level - self._tailing.mean * float(np.log(_SUSPECT_RATE)), _SUSPECT_SHARE[1] * level)
        at = max(at, _SUSPECT_SHARE[0] * level, _SUSPECT_LEAST)
        self._extreme_at = level
        self._constants = replace(self._constants, suspect_at=at, calm_below=_CALM_SHARE * at)

    def feature_rows(self, kind: str, model: str, settings: StreamingParameters) -> FeatureRows:
        rows = np.concatenate([one.rows for one in self._spans])
        constants = replace(self._constants, absent=(*np.median(rows, axis=0).tolist(), 0.0))
        rules = EventRules(
            extreme_at=self._extreme_at,
            need=settings.need,
            of=settings.of,
            collect=settings.collect,
            hold_s=settings.hold * constants.period_s,
        )
        features = FeatureSet("streaming", 1, constants.flat())
        return FeatureRows(
            spec=DetectorSpec(kind, model, features, 0.0, settings.warmup, rules),
            rows=rows,
            suspected=np.concatenate([one.suspected for one in self._spans]),
            lengths=tuple(len(one.rows) for one in self._spans),
            threshold=self._facts(constants),
        )

    def _facts(self, constants: Constants) -> dict[str, Any]:
        tailing, days = self._tailing, self._prepared.days
        return {
            "target_per_sensor_day": None if self._contamination is not None else self._per_day,
            "contamination": self._contamination,
            "extreme_at": self._extreme_at,
            "suspect_at": constants.suspect_at,
            "mild_at": max(
                self._extreme_at + tailing.mean * float(np.log(_MILD_RATE)), _SUSPECT_SHARE[0] * self._extreme_at
            ),
            "allowed_mild": self._per_day * days * _MILD_RATE,
            "base": tailing.base,
            "mean_excess": tailing.mean,
            "clusters": tailing.clusters,
            "clusters_per_sensor_day": tailing.rate,
            "training_sensor_days": days,
            "sensors_per_vehicle": self._sensors,
            "cost": None if self._choice is None else asdict(self._choice),
        }


def _least_frequent(forest: IsolationForest, features: FeatureRows, rules: EventRules, allowed: float) -> float:
    """The score that `need` of `of` suspected training readings pass in at most `allowed` clusters; 0 where few do."""
    at = np.flatnonzero(features.suspected)
    if not len(at):
        return 0.0
    scores = np.zeros(len(features.rows))
    scores[at] = -forest.score_samples(features.rows[at])
    peaks = [np.empty(0)]
    for part in np.split(scores, np.cumsum(features.lengths)[:-1]):
        window = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(rules.of - 1), part]), rules.of)
        peaks.append(clusters(np.sort(window, axis=1)[:, -rules.need]))
    found = np.sort(np.concatenate(peaks))[::-1]
    return float(found[int(allowed)]) + 1e-9 if len(found) > allowed else 0.0
