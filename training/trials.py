"""Faults injected into held-out time: what the detector makes of them, beside simple baselines with the same target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec
from axlebox.runtime.statuses import HOT_OR_SENSOR, SENSOR_FAULTS
from axlebox.training import baselines
from axlebox.training.baselines import Baseline
from axlebox.training.faults import FAULTS, Fault
from axlebox.training.frames import used
from axlebox.training.series import Progress
from axlebox.training.tradeoff import caught_at

Score = Callable[[pd.DataFrame], pd.DataFrame]
"""Readings to the same with status, event_id and tail_sum, from an empty state on (steps.predict)."""

_BEFORE = 600
"""Readings of the sensor before a fault, past its warm-up, at most;"""
_AFTER = 2016
"""and at most so many after its onset: a week, at one in five minutes."""
_ROOM = 50
"""Fewer readings past the warm-up leave no room for a fault."""
_MORE_ALARMS = 2
_NO_TARGET = 0.1
"""A sensor-day, for the baselines of a detector with contamination."""
TAILS = "sum of tails alone"


@dataclass(frozen=True, slots=True)
class Held:
    """Predictions of held-out time, and the readings before it."""

    out: pd.DataFrame
    train: pd.DataFrame
    contract: Contract


@dataclass(frozen=True, slots=True)
class Trial:
    """Readings of one sensor and its siblings with a fault in one of them."""

    fault: Fault
    sensor: str
    onset: float
    healthy: pd.DataFrame
    """The predictions for these readings as they are."""
    readings: pd.DataFrame
    faulty: NDArray[np.bool_]
    """For each of the sensor's own readings."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one detector made of one trial."""

    raised: bool
    delay_s: float | None
    share: float | None
    """Of the faulty readings from the first raise on, the share inside an alarm."""


def run_trials(
    held: Held,
    spec: DetectorSpec,
    facts: Mapping[str, Any],
    score: Score,
    per_fault: int,
    progress: Progress,
) -> dict[str, Any] | None:
    """Every kind of fault `per_fault` times; None where held-out time is too short.

    `facts` are those of the detector's thresholds; the baselines are calibrated to the same target. `at_levels`
    says what other extreme levels would have caught of what should alarm, by the same replays: where a suspicion
    begins, which decides what is learnt, stays as it was chosen.
    """
    trials = list(make_trials(held.out, held.contract, spec, per_fault))
    if not trials:
        return None
    target = facts["target_per_sensor_day"] or _NO_TARGET
    kind = held.train["sensor"].map(held.contract.kind_of) == spec.kind
    fitted = baselines.fit_all(used(held.train[kind]).reset_index(drop=True), held.contract, target)
    found: dict[str, list[dict[str, Any]]] = {fault: [] for fault in FAULTS}
    levels, reached = facts["curve"]["levels"], []
    for number, trial in enumerate(trials):
        scored = score(trial.readings)
        found[trial.fault.name].append(_answers(trial, scored, fitted, float(facts["extreme_at"])))
        if trial.fault.alarms:
            reached.append(_delays(trial, scored, levels, float(facts["extreme_at"])))
        progress("injected faults", number + 1, len(trials))
    healthy = used(held.out[held.out["kind"] == spec.kind]).reset_index(drop=True)
    alarms = {"detector": int(healthy["event"].sum())}
    alarms |= {name: baselines.count_alarms(one.alarm(healthy), healthy) for name, one in fitted.items()}
    # What cries wolf has no say in who was earlier.
    calm = [TAILS, *(name for name in fitted if alarms[name] <= alarms["detector"] + _MORE_ALARMS)]
    return {
        "per_fault": per_fault,
        "faults": {name: _summary(FAULTS[name], answers, calm) for name, answers in found.items() if answers},
        "alarms_without_faults": alarms,
        "at_levels": caught_at(reached, levels),
    }


def make_trials(held_out: pd.DataFrame, contract: Contract, spec: DetectorSpec, per_fault: int) -> Iterator[Trial]:
    """Trials at sensors and moments drawn at random, the same for the same readings."""
    random = np.random.default_rng(len(held_out))
    readings = used(held_out[held_out["kind"] == spec.kind])
    readings = readings[readings["era"] == readings.groupby("sensor")["era"].transform("max")]
    sizes = readings.groupby("sensor", sort=False).size()
    candidates = [str(name) for name, size in sizes.items() if size >= spec.warmup + 2 * _ROOM]
    if not candidates:
        return
    for fault in FAULTS.values():
        for _ in range(per_fault):
            sensor = candidates[int(random.integers(len(candidates)))]
            yield _make_trial(readings, contract, spec, fault, sensor, random)


def _make_trial(
    readings: pd.DataFrame,
    contract: Contract,
    spec: DetectorSpec,
    fault: Fault,
    sensor: str,
    random: np.random.Generator,
) -> Trial:
    members = contract.members(sensor)
    times = readings.loc[readings["sensor"] == sensor, "time"].to_numpy()
    at = int(random.integers(spec.warmup + _ROOM, max(spec.warmup + _ROOM + 1, int(0.7 * len(times)))))
    begin, end = times[max(0, at - spec.warmup - _BEFORE)], times[min(len(times) - 1, at + _AFTER)]
    onset = float(times[at])
    near = readings[readings["sensor"].isin(members) & readings["time"].between(begin, end)]
    window = near[["time", "sensor", "value", "era"]].reset_index(drop=True)
    faulty = np.zeros(0, dtype=np.bool_)
    for name in members if fault.whole_vehicle else [sensor]:
        own = (window["sensor"] == name).to_numpy()
        if own.any():
            values, mask = fault.apply(
                window["time"].to_numpy()[own], window["value"].to_numpy(dtype=np.float64)[own], onset, random
            )
            window.loc[own, "value"] = values
            faulty = mask if name == sensor else faulty
    return Trial(fault, sensor, onset, near.reset_index(drop=True), window, faulty)


def answer_of(trial: Trial, scored: pd.DataFrame) -> Answer:
    """What the detector that scored a trial's readings made of it; `trial.healthy` must be its own predictions."""
    own = (scored["sensor"] == trial.sensor).to_numpy()
    raised = [frame["event_id"].notna().to_numpy()[own] for frame in (scored, trial.healthy)]
    return _answer(raised[0], raised[1], scored["time"].to_numpy()[own], trial)


def _answers(trial: Trial, scored: pd.DataFrame, fitted: Mapping[str, Baseline], extreme_at: float) -> dict[str, Any]:
    """Of the detector, of its tails without the forest, and of each baseline; and whether the gate saw the sensor."""
    own = (scored["sensor"] == trial.sensor).to_numpy()
    times = scored["time"].to_numpy()[own]
    alarms: dict[str, Callable[[pd.DataFrame], NDArray[np.bool_]]] = {
        "detector": lambda frame: frame["event_id"].notna().to_numpy(),
        TAILS: lambda frame: frame["tail_sum"].fillna(0.0).to_numpy() >= extreme_at,
        **{name: one.alarm for name, one in fitted.items()},
    }
    answers = {
        name: _answer(alarm(scored)[own], alarm(trial.healthy)[own], times, trial) for name, alarm in alarms.items()
    }
    statuses = scored["status"].to_numpy()[own][times >= trial.onset]
    return {**answers, "gate": bool(np.isin(statuses, (*SENSOR_FAULTS, HOT_OR_SENSOR)).any())}


def _answer(alarm: NDArray[np.bool_], without: NDArray[np.bool_], times: NDArray[np.float64], trial: Trial) -> Answer:
    """`without`: the alarm on the readings without the fault, which proves nothing where it is there too."""
    counts = trial.faulty if trial.faulty.any() else times >= trial.onset
    hits = np.flatnonzero(alarm & ~without & counts)
    if not len(hits):
        return Answer(False, None, None)
    first = int(hits[0])
    return Answer(True, float(times[first] - trial.onset), float(alarm[first:][counts[first:]].mean()))


def _delays(trial: Trial, scored: pd.DataFrame, levels: Sequence[float], chosen: float) -> list[float | None]:
    """Seconds from the onset until the sum of tails reaches each level; None where it does not.

    What alarms at the chosen level without the fault proves nothing at a higher one either: a real outlier
    on top of a small fault would reach it.
    """
    own = (scored["sensor"] == trial.sensor).to_numpy()
    times = scored["time"].to_numpy()[own]
    sums, without = (frame["tail_sum"].fillna(0.0).to_numpy()[own] for frame in (scored, trial.healthy))
    return [_answer(sums >= level, without >= min(level, chosen), times, trial).delay_s for level in levels]


def _summary(fault: Fault, answers: list[dict[str, Any]], calm: list[str]) -> dict[str, Any]:
    """Counts and medians of one kind of fault, and who of the `calm` did better than the detector."""
    names = [name for name in answers[0] if name != "gate"]
    told = {name: _counted([one[name] for one in answers]) for name in names}
    return {
        "what": fault.what,
        "alarms": fault.alarms,
        "lasts": fault.lasts,
        "trials": len(answers),
        "gate": sum(one["gate"] for one in answers),
        "answers": told,
        "wins": [name for name in calm if fault.alarms and _beats(told[name], told["detector"])],
    }


def _counted(answers: list[Answer]) -> dict[str, Any]:
    delays = [one.delay_s for one in answers if one.delay_s is not None]
    shares = [one.share for one in answers if one.share is not None]
    return {
        "raised": len(delays),
        "delay_s": float(np.median(delays)) if delays else None,
        "share": float(np.min(shares)) if shares else None,
    }


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Raised more often, or as often and earlier."""
    if one["raised"] != other["raised"]:
        return bool(one["raised"] > other["raised"])
    return one["delay_s"] is not None and other["delay_s"] is not None and one["delay_s"] < other["delay_s"]
