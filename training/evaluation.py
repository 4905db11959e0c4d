"""How a detector did on held-out time: what it raised, how much of that may be false, and what the data can prove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from axlebox.firmware_bundle.manifest import DetectorSpec
from axlebox.runtime.statuses import OK, WARMING
from axlebox.training.fit import FeatureRows
from axlebox.training.frames import used
from axlebox.training.tradeoff import curve

CONFIDENCE = 0.95
_NEAR = 3.0
"""Mean excesses beyond the threshold that 19 in 20 false alarms stay within, by the tail that it was taken from."""
_LEAST_CLUSTERS = 10
_SEEN = 0.5
"""Fewer clusters make no slope to extrapolate on, where training expects fewer false alarms than this of itself."""


def upper_bound(events: int, exposure: float) -> float | None:
    """The rate that so few events rule out with 95 %, for a Poisson process (Garwood 1936); None without exposure."""
    from scipy.special import gammaincinv

    return float(gammaincinv(events + 1, CONFIDENCE)) / exposure if exposure > 0 else None


def lower_bound(events: int, exposure: float) -> float:
    """The rate that so many events prove with 95 %."""
    from scipy.special import gammaincinv

    return float(gammaincinv(events, 1 - CONFIDENCE)) / exposure if events and exposure > 0 else 0.0


def evaluate(
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    features: Sequence[FeatureRows],
    detectors: Sequence[DetectorSpec],
) -> dict[str, Any]:
    """Counts and rates on held-out time, per day of exposure (sensor-days where there are many)."""
    statuses = predictions["status"].value_counts()
    seen = used(predictions)
    exposure = exposure_days(seen)
    flags, events = int(seen["flag"].sum()), int(seen["event"].sum())
    return {
        "train_readings": len(used(train)),
        "train_until": float(train["time"].max()),
        "test_readings": len(seen),
        "sensors": int(seen["sensor"].nunique()),
        "exposure_sensor_days": exposure,
        "flags": flags,
        "events": events,
        "limit_events": int(predictions["limit"].sum()),
        "held_back": {
            status: int(statuses[status]) for status in sorted(statuses.index) if status not in (OK, WARMING)
        },
        "flags_per_sensor_day": flags / exposure if exposure else None,
        "events_per_sensor_day": events / exposure if exposure else None,
        "detectors": {
            spec.kind: {
                "model": spec.model,
                "feature_set": spec.features.name,
                "threshold": spec.threshold,
                **({} if spec.events is None else _check(seen[seen["kind"] == spec.kind], one.threshold)),
            }
            for spec, one in zip(detectors, features, strict=True)
        },
    }


def target_problems(facts: Mapping[str, Any]) -> list[str]:
    """Why the targets of an evaluation are not reached, a line for each kind; none where all are."""
    return [f"{kind}: {one['target_problem']}" for kind, one in facts["detectors"].items() if one.get("target_problem")]


def exposure_days(seen: pd.DataFrame) -> float:
    """Sensor-days that were watched: past the warm-up, and not from one era's last reading to the next one's first."""
    times = seen[seen["status"] == OK].groupby(["sensor", "era"])["time"]
    return float((times.max() - times.min()).sum()) / 86400


def near_and_far(seen: pd.DataFrame, chosen: Mapping[str, Any]) -> tuple[int, int]:
    """Anomaly events near the threshold, which may be false, and far beyond it, which look like faults.

    `chosen` are the facts of the detector's thresholds. One without tails has no far ones.
    """
    raised = seen[seen["event_id"].notna()]
    if "mean_excess" not in chosen:
        return int(raised["event_id"].nunique()), 0
    highest = raised.groupby("event_id")["tail_sum"].max()
    near = int((highest <= float(chosen["extreme_at"]) + _NEAR * float(chosen["mean_excess"])).sum())
    return near, len(highest) - near


def _check(seen: pd.DataFrame, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The target against held-out time.

    An event whose tails go far beyond the threshold is what a fault looks like, and one in twenty false
    alarms: it is counted apart, for a person to look at. The others are taken to be false.
    """
    near, far = near_and_far(seen, chosen)
    days = exposure_days(seen)
    target = chosen["target_per_sensor_day"]
    problem = None
    if target is not None:
        proved = lower_bound(near, days)
        if proved > target:
            problem = (
                f"{near} events near the threshold in {days:.1f} held-out sensor-days prove more than "
                f"{proved:.3g} a day, the target is {target:.3g}"
            )
        elif chosen["clusters"] < _LEAST_CLUSTERS and target * chosen["training_sensor_days"] < _SEEN:
            problem = (
                f"only {chosen['clusters']} excursions in {chosen['training_sensor_days']:.1f} sensor-days of "
                f"training, at least {_LEAST_CLUSTERS} are needed to extrapolate to {target:.3g} a day"
            )
    return {
        **chosen,
        "far_events": far,
        "near_events": near,
        "exposure_sensor_days": days,
        "bound_per_sensor_day": upper_bound(near, days),
        "target_problem": problem,
        "curve": curve(seen, chosen),
    }
