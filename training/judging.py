"""Several runs on the same readings and the same injected faults: the only figures that may be compared.

The figures in run.json are those of each run's own held-out time, with faults drawn for it: they say how
good a run is, and not which of two is better. Times are POSIX seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from msgspec import Struct, structs
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import DetectorSpec
from axlebox.runtime.readings import format_time
from axlebox.runtime.statuses import OK
from axlebox.training import steps
from axlebox.training.evaluation import exposure_days, lower_bound, near_and_far, upper_bound
from axlebox.training.faults import FAULTS
from axlebox.training.runs import DetectorFile, Run
from axlebox.training.series import Progress, silent
from axlebox.training.trials import Answer, Trial, answer_of, make_trials

SAME_EVENT_S = 3600.0
"""Two runs' events of one sensor with no more time between them are one event that both raise."""
_TIME_AND_VALUE = ["time", "sensor", "value", "era"]
_FAULTS_PER_KIND = 2
"""Where a run does not say."""


class FaultFigures(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of injected fault."""

    trials: int
    raised: int
    alarms: bool
    """Whether it should be raised."""
    delay_s: float | None
    """Median over those that were raised."""


class Figures(Struct, frozen=True, forbid_unknown_fields=True):
    """What one run makes of the readings of one kind of sensor."""

    flags: int
    events: int
    near_events: int
    """Near its threshold, by the run's own tails: taken to be false."""
    far_events: int
    """Far beyond it: they look like faults."""
    events_alone: int
    """Events that none of the other runs raises within an hour."""
    least_per_sensor_day: float
    """Near events: the rate that they prove with 95 %,"""
    most_per_sensor_day: float | None
    """and the rate that they leave possible; None without exposure."""
    should_alarm: int
    """Injected faults that should be raised."""
    caught: int
    """How many of them are."""
    delay_s: float | None
    """Median over the faults that every run caught."""
    faults: dict[str, FaultFigures]


class KindJudgement(Struct, frozen=True, forbid_unknown_fields=True):
    """All runs on the sensors of one kind."""

    kind: str
    readings: int
    sensors: int
    exposure_sensor_days: float
    """Past every run's warm-up."""
    figures: tuple[Figures, ...]
    """In the order of the runs."""


class Judgement(Struct, frozen=True, forbid_unknown_fields=True):
    runs: tuple[str, ...]
    trained_until: tuple[float, ...]
    """Of each run: no reading of its training is later."""
    readings_of: str
    """The run whose held-out readings these are."""
    since: float
    """Only readings later than this are looked at."""
    until: float | None
    kinds: tuple[KindJudgement, ...]
    without_detector: dict[str, tuple[str, ...]]
    """The runs that have no detector for a kind that another one has."""
    flags_gained: tuple[str, ...]
    """Readings that only the last run flags and the first does not, as `time sensor value`."""
    flags_lost: tuple[str, ...]
    problem: str | None
    """Why nothing can be compared."""

    def kind(self, name: str) -> KindJudgement | None:
        return next((one for one in self.kinds if one.kind == name), None)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A run with what judging it needs in memory."""

    run: str
    file: DetectorFile
    forests: Mapping[str, Any]
    facts: dict[str, Any]
    until: float

    def spec(self, kind: str) -> DetectorSpec | None:
        return next((one for one in self.file.detectors if one.kind == kind), None)

    def score(self, readings: pd.DataFrame, specs: Sequence[DetectorSpec] | None = None) -> pd.DataFrame:
        specs = self.file.detectors if specs is None else specs
        return steps.predict(self.forests, specs, self.file.contract, readings)


def trained_until(run: Run, held_out: pd.DataFrame) -> float:
    """A time that no reading of the run's training is later than.

    A run from before this was recorded has held-out readings, all of which are later than its training.
    """
    known = run.record().evaluation.get("train_until")
    return float(held_out["time"].min()) - 1e-3 if known is None else float(known)


def judge(runs: Sequence[Run], progress: Progress = silent) -> Judgement:
    """Every run on the readings that none of them was trained on: later than the end of each one's training.

    They are taken from the run that held most of them out, and faults are put into them once, in windows
    that leave room for the longest warm-up. Raises Damaged where a run's files are.
    """
    held_out = [run.predictions() for run in runs]
    judged = [_open(run, frame) for run, frame in zip(runs, held_out, strict=True)]
    since = max(one.until for one in judged)
    later = [frame[frame["time"] > since].reset_index(drop=True) for frame in held_out]
    source = max(range(len(runs)), key=lambda number: (len(later[number]), judged[number].run))
    readings = later[source][_TIME_AND_VALUE]
    outs = [one.score(readings) for one in judged] if len(readings) else []
    kinds = _kinds(judged)
    common = [kind for kind, missing in kinds.items() if not missing]
    found = tuple(_judge_kind(kind, judged, outs, source, progress) for kind in common) if outs else ()
    gained, lost = _flag_changes(judged, outs, common)
    return Judgement(
        runs=tuple(one.run for one in judged),
        trained_until=tuple(one.until for one in judged),
        readings_of=judged[source].run,
        since=since,
        until=float(readings["time"].max()) if len(readings) else None,
        kinds=tuple(one for one in found if one.readings),
        without_detector={kind: missing for kind, missing in kinds.items() if missing},
        flags_gained=gained,
        flags_lost=lost,
        problem=None if len(readings) else _nothing_later(judged, since),
    )


def _open(run: Run, held_out: pd.DataFrame) -> _Judged:
    record = run.record()
    return _Judged(run.folder.name, run.detector(), run.forests(), _facts(record), trained_until(run, held_out))


def _facts(record: Any) -> dict[str, Any]:
    return {**record.evaluation, "faults_per_kind": record.lineage.parameters.get("faults_per_kind", _FAULTS_PER_KIND)}


def _nothing_later(judged: Sequence[_Judged], since: float) -> str:
    last = max(judged, key=lambda one: one.until)
    return (
        f"run {last.run} was trained on readings up to {format_time(since)}, and none of the runs held a later one "
        "out: there is no time that both may be compared on"
    )


def _kinds(judged: Sequence[_Judged]) -> dict[str, tuple[str, ...]]:
    """Every kind that a run has a detector for, and the runs that have none."""
    names = dict.fromkeys(spec.kind for one in judged for spec in one.file.detectors)
    return {kind: tuple(one.run for one in judged if one.spec(kind) is None) for kind in names}


def _judge_kind(
    kind: str, judged: Sequence[_Judged], outs: Sequence[pd.DataFrame], source: int, progress: Progress
) -> KindJudgement:
    # A sensor that is of another kind for one of them is none that they can be compared on.
    rows = np.logical_and.reduce([(out["kind"] == kind).to_numpy() for out in outs])
    frames = [out[rows].reset_index(drop=True) for out in outs]
    watched = np.logical_and.reduce([(frame["status"] == OK).to_numpy() for frame in frames])
    seen = frames[0][watched]
    exposure = exposure_days(seen)
    alone = _alone(frames, watched)
    answers = _trials(kind, judged, frames, source, progress)
    all_caught = [number for number, one in enumerate(zip(*answers, strict=True)) if _all_caught(one)]
    return KindJudgement(
        kind=kind,
        readings=len(frames[0]),
        sensors=int(frames[0]["sensor"].nunique()),
        exposure_sensor_days=exposure,
        figures=tuple(
            _figures(
                frame[watched],
                one.facts["detectors"].get(kind, {}),
                exposure,
                alone[number],
                answers[number],
                all_caught,
            )
            for number, (one, frame) in enumerate(zip(judged, frames, strict=True))
        ),
    )


def _trials(
    kind: str, judged: Sequence[_Judged], frames: Sequence[pd.DataFrame], source: int, progress: Progress
) -> list[list[tuple[Trial, Answer]]]:
    """For each run its answers to the same trials, drawn once from the readings."""
    specs = [spec for one in judged if (spec := one.spec(kind)) is not None]
    longest = structs.replace(specs[0], warmup=max(spec.warmup for spec in specs))
    per_fault = max(int(one.facts["faults_per_kind"]) for one in judged)
    # Where contracts differ, siblings and the gate's verdicts are those of the run whose readings these are.
    numbered = frames[source].assign(row=np.arange(len(frames[source])))
    trials = list(make_trials(numbered, judged[source].file.contract, longest, per_fault)) if len(numbered) else []
    answers: list[list[tuple[Trial, Answer]]] = [[] for _ in judged]
    for done, trial in enumerate(trials):
        rows = trial.healthy["row"].to_numpy()
        for one, spec, frame, own in zip(judged, specs, frames, answers, strict=True):
            mine = replace(trial, healthy=frame.iloc[rows].reset_index(drop=True))
            own.append((mine, answer_of(mine, one.score(mine.readings, [spec]))))
        progress("injected faults", done + 1, len(trials))
    return answers


def _all_caught(one: Sequence[tuple[Trial, Answer]]) -> bool:
    return all(answer.raised and trial.fault.alarms for trial, answer in one)


def _figures(
    seen: pd.DataFrame,
    facts: Mapping[str, Any],
    exposure: float,
    alone: int,
    answers: Sequence[tuple[Trial, Answer]],
    all_caught: Sequence[int],
) -> Figures:
    near, far = near_and_far(seen, facts)
    wanted = [answer for trial, answer in answers if trial.fault.alarms]
    return Figures(
        flags=int(seen["flag"].sum()),
        events=int(seen.loc[seen["event_id"].notna(), "event_id"].nunique()),
        near_events=near,
        far_events=far,
        events_alone=alone,
        least_per_sensor_day=lower_bound(near, exposure),
        most_per_sensor_day=upper_bound(near, exposure),
        should_alarm=len(wanted),
        caught=sum(answer.raised for answer in wanted),
        delay_s=_median([answers[number][1].delay_s for number in all_caught]),
        faults={
            name: FaultFigures(
                trials=len(own),
                raised=sum(answer.raised for answer in own),
                alarms=fault.alarms,
                delay_s=_median([answer.delay_s for answer in own]),
            )
            for name, fault in FAULTS.items()
            if (own := [answer for trial, answer in answers if trial.fault.name == name])
        },
    )


def _median(delays: Sequence[float | None]) -> float | None:
    known = [one for one in delays if one is not None]
    return float(np.median(known)) if known else None


def _alone(frames: Sequence[pd.DataFrame], watched: NDArray[np.bool_]) -> list[int]:
    """For each run, its events that no other run raises; those that begin while another still warms up do not count."""
    spans = [_spans(frame, watched) for frame in frames]
    return [
        sum(
            one.counts
            and not any(one.meets(other) for rest in (*spans[:number], *spans[number + 1 :]) for other in rest)
            for one in mine
        )
        for number, mine in enumerate(spans)
    ]


@dataclass(frozen=True, slots=True)
class _Span:
    """One event."""

    sensor: str
    begin: float
    end: float
    counts: bool
    """Whether every run was watching when it began."""

    def meets(self, other: _Span) -> bool:
        near = self.begin - other.end <= SAME_EVENT_S and other.begin - self.end <= SAME_EVENT_S
        return self.sensor == other.sensor and near


def _spans(frame: pd.DataFrame, watched: NDArray[np.bool_]) -> list[_Span]:
    raised = frame.assign(watched=watched)[frame["event_id"].notna()]
    return [
        _Span(
            str(own["sensor"].iloc[0]),
            float(own["time"].iloc[0]),
            float(own["time"].iloc[-1]),
            bool(own["watched"].iloc[0]),
        )
        for _, own in raised.groupby("event_id", sort=False)
    ]


def _flag_changes(
    judged: Sequence[_Judged], outs: Sequence[pd.DataFrame], kinds: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Readings that the last run flags and the first does not, and the other way round."""
    if len(judged) < 2 or not outs:
        return (), ()
    first, last = outs[0], outs[-1]
    rows = np.logical_and.reduce(
        [out["kind"].isin(kinds).to_numpy() & (out["status"] == OK).to_numpy() for out in outs]
    )
    before, after = first["flag"].to_numpy(dtype=bool) & rows, last["flag"].to_numpy(dtype=bool) & rows
    return _named(first[after & ~before]), _named(first[before & ~after])


def _named(frame: pd.DataFrame) -> tuple[str, ...]:
    return tuple(
        f"{format_time(time)} {sensor} {value:g}"
        for time, sensor, value in zip(frame["time"], frame["sensor"], frame["value"], strict=True)
    )
