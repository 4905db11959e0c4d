"""What conf/base/parameters.yml may say, strictly checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import BundleName, Count, Identifier, Label
from axlebox.runtime import features, own_sets

OWN = "own_"
"""What sections of the workspace's own pipelines begin with."""
_BUILT_IN = {"streaming": ("streaming", 1), "value": ("value", 1)}
"""Feature sets that need no version: they come with axlebox."""


class ForestParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of scikit-learn's IsolationForest, under its own names."""

    n_estimators: Annotated[int, Meta(ge=1, le=10_000)] = 100
    max_samples: Annotated[int, Meta(ge=2)] | Literal["auto"] = "auto"
    bootstrap: bool = True
    random_state: Count = 69
    n_jobs: Annotated[int, Meta(ge=-1)] | None = None
    """Workers; how many changes nothing but the time it takes."""


class BundleParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What export writes into the manifest; it does not change what is trained."""

    name: BundleName
    hardware: Annotated[tuple[Identifier, ...], Meta(min_length=1)] = ("any",)
    vehicles: tuple[Identifier, ...] = ()
    min_sequence: Count = 0
    oldest_root: Annotated[int, Meta(ge=1)] = 1
    """Version of the oldest root of trust that a vehicle may still hold: bundles carry the chain from it."""
    expires_years: Annotated[int, Meta(ge=1, le=100)] = 20


PositiveNumber = Annotated[float, Meta(gt=0)]


class StreamingParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the feature set `streaming`, in multiples of the kind's expected period unless said otherwise.

    What each means on the vehicle: runtime/streaming_constants.py.
    """

    fast: PositiveNumber = 8
    slow: PositiveNumber = 100
    hour: PositiveNumber = 36
    hour_of_day: bool | None = None
    """None: where every sensor's readings cover two days."""
    block: PositiveNumber = 50
    blocks: Annotated[int, Meta(ge=1, le=100)] = 15
    """A number of blocks."""
    sibling: PositiveNumber = 144
    sibling_back: Annotated[float, Meta(ge=1)] = 4
    """A factor."""
    sibling_fresh: PositiveNumber = 0.6
    offset: PositiveNumber = 8640
    gap: PositiveNumber = 20
    restart: PositiveNumber = 50
    calm: PositiveNumber = 12
    shadow: PositiveNumber = 6000
    tail: PositiveNumber = 6000
    warmup: Annotated[int, Meta(ge=2)] = 300
    """Readings."""
    need: Annotated[int, Meta(ge=1, le=62)] = 3
    of: Annotated[int, Meta(ge=1, le=62)] = 5
    """`need` of the last `of` readings must be flagged for a mild event."""
    collect: Annotated[int, Meta(ge=1)] = 3
    """Readings."""
    hold: PositiveNumber = 288


class ThresholdParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """How often a healthy vehicle may call for somebody; exactly one way of saying it is used."""

    target_false_alarms_per_day: PositiveNumber | None = None
    """Per vehicle; 0.1 where nothing else is said."""
    target_false_alarms_per_1000_hours: PositiveNumber | None = None
    """Per 1,000 vehicle-hours."""
    contamination: Annotated[float, Meta(gt=0, le=0.5)] | None = None
    """Share of the training readings beyond the threshold: no extrapolation, no promise."""
    least_cost: bool = False
    """The target with the least expected cost, by `costs`."""
    sensors_per_vehicle: Annotated[int, Meta(ge=1)] | None = None
    """None: as many as the contract's largest group has of the kind, or 1."""

    def __post_init__(self) -> None:
        ways = (
            self.target_false_alarms_per_day,
            self.target_false_alarms_per_1000_hours,
            self.contamination,
            self.least_cost or None,
        )
        if sum(one is not None for one in ways) > 1:
            raise ValueError(
                "a threshold has one target, per day, per 1000 hours, by contamination or by least cost: "
                "set the others to null, or least_cost to false"
            )


class CostParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What alarms and faults cost, in one currency; all three together, or none."""

    currency: Annotated[str, Meta(min_length=1, max_length=10)] = "EUR"
    false_alarm: PositiveNumber | None = None
    missed_fault: PositiveNumber | None = None
    faults_per_year: PositiveNumber | None = None
    """Expected faults of one vehicle."""

    def __post_init__(self) -> None:
        stated = (self.false_alarm, self.missed_fault, self.faults_per_year)
        if None in stated and any(one is not None for one in stated):
            raise ValueError("costs: false_alarm, missed_fault and faults_per_year are only useful together")

    @property
    def stated(self) -> bool:
        return self.false_alarm is not None


class GateParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What a run must reach before it is exported, beside parity and its target of false alarms; None asks nothing."""

    most_false_alarms_per_day: PositiveNumber | None = None
    """Events near the threshold in a held-out sensor-day."""
    least_caught: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Share of the injected faults that should be caught and are."""
    no_worse_than_champion: bool = True
    """On the same held-out time and the same injected faults."""


class FeatureParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Only for a feature set of another package, or of the workspace's own."""

    warmup: Count = 0
    """Readings of a sensor that are not trained on and raise nothing."""
    constants: dict[Label, float] = {}
    """In place of the set's defaults."""

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.constants.values())):
            raise ValueError("constants of a feature set are finite numbers")


class TrackingParameters(Struct, frozen=True, forbid_unknown_fields=True):
    uri: str | None = None
    """Of a remote MLflow tracking server, http or https; None: the workspace's own store, mlflow/mlflow.db.

    Without credentials: those come from MLflow's own variables, MLFLOW_TRACKING_USERNAME and its like.
    """

    def __post_init__(self) -> None:
        if self.uri is None:
            return
        try:
            parts = urlsplit(self.uri)
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = urlsplit(""), None
        if "@" in self.uri or parts.query or parts.fragment:  # and what is wrong is not repeated: it may be secret
            raise ValueError(
                "tracking.uri must hold no user, password or token. DO: leave them out and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if parts.scheme not in ("http", "https") or not host or not self.uri.isprintable() or " " in self.uri:
            raise ValueError("tracking.uri is not the address of a tracking server, as in http://10.0.0.5:5000")


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    bundle: BundleParameters
    feature_set: str = "streaming"
    """`streaming`, `value`, or NAME-VERSION of another package's (runtime/own_sets.py)."""
    features: FeatureParameters = FeatureParameters()
    contamination_factor: Annotated[float, Meta(gt=0, le=0.5)] | Literal["auto"] = 0.05
    """Share of the training rows that the forest of a feature set other than `streaming` is made to flag."""
    streaming: StreamingParameters = StreamingParameters()
    threshold: ThresholdParameters = ThresholdParameters()
    most_held_back: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    """Share of the readings that may break the contract; more, and nothing is trained."""
    faults_per_kind: Annotated[int, Meta(ge=0, le=1000)] = 2
    """How often each kind of fault is injected into held-out time for the evaluation."""
    train_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.8
    """Share of the readings, first in time, that training sees."""
    forest: ForestParameters = ForestParameters()
    costs: CostParameters = CostParameters()
    gates: GateParameters = GateParameters()
    tracking: TrackingParameters = TrackingParameters()
    own: dict[str, Any] = {}
    """The sections whose names begin with OWN, by their names: parameters of the workspace's own pipelines."""

    def __post_init__(self) -> None:
        if self.threshold.least_cost and not self.costs.stated:
            raise ValueError("threshold.least_cost needs costs: state false_alarm, missed_fault and faults_per_year")

    def training_only(self) -> dict[str, Any]:
        """What decides on the trained forest and its evaluation, as plain data."""
        # Once through the types: a default of 8 and 8 from a file, which is read as 8.0, are one setting.
        plain: dict[str, Any] = msgspec.to_builtins(msgspec.convert(msgspec.to_builtins(self), Parameters))
        del plain["bundle"], plain["gates"], plain["tracking"], plain["forest"]["n_jobs"]
        own: dict[str, Any] = plain.pop("own")
        return plain | own

    @property
    def named_set(self) -> tuple[str, int]:
        """Name and version of the feature set."""
        return _BUILT_IN.get(self.feature_set) or own_sets.parse(self.feature_set) or (self.feature_set, 1)


def check(raw: Mapping[str, Any]) -> Parameters:
    """Parameters from what Kedro loaded. Raises UsageError naming the key that does not fit."""
    own = {name: value for name, value in raw.items() if str(name).startswith(OWN)}
    ours = {name: value for name, value in raw.items() if name not in own}
    known = dict(_fields("", Parameters))
    del known["own"]
    for name in _unknown("", ours, known):
        raise UsageError(f"parameters: there is no {name}{_nearest(name, known)}")
    try:
        found = msgspec.convert({**ours, "own": own}, Parameters)
    except msgspec.ValidationError as error:
        raise UsageError(f"parameters: {error}") from error
    _check_set(found.feature_set)
    return found


def _check_set(name: str) -> None:
    if name in _BUILT_IN:
        return
    known = [*_BUILT_IN, *(f"{one}-{version}" for one, version in sorted(features.known_sets() - features.KNOWN_SETS))]
    if name not in known:
        raise UsageError(
            f"parameters: there is no feature_set {name}{_nearest(name, known) or ';'} known are {', '.join(known)}"
        )


def _fields(prefix: str, what: type[Struct]) -> Iterator[tuple[str, bool]]:
    """The dotted names of all parameters, and whether each is a section of others."""
    for name, kind in get_type_hints(what).items():
        section = isinstance(kind, type) and issubclass(kind, Struct)
        yield prefix + name, section
        if section:
            yield from _fields(f"{prefix}{name}.", kind)


def _unknown(prefix: str, raw: Mapping[str, Any], known: Mapping[str, bool]) -> Iterator[str]:
    for name, value in raw.items():
        dotted = f"{prefix}{name}"
        if dotted not in known:
            yield dotted
        elif known[dotted] and isinstance(value, Mapping):
            yield from _unknown(f"{dotted}.", value, known)


def _nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?`: the nearest name as a whole, or in its last part."""
    close = difflib.get_close_matches(name, known, 1)
    if not close:
        ends = {one.rpartition(".")[2]: one for one in known}
        close = [ends[one] for one in difflib.get_close_matches(name.rpartition(".")[2], ends, 1)]
    return f"; did you mean {close[0]}?" if close else ""
