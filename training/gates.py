"""The quality gates: what a run must reach before it is exported, each with its verdict and the reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, GateFailed, UsageError
from axlebox.firmware_bundle.manifest import decode
from axlebox.training.champion import champion
from axlebox.training.evaluation import target_problems
from axlebox.training.judging import Judgement, KindJudgement, judge
from axlebox.training.parameters import GateParameters
from axlebox.training.runs import Run, open_run
from axlebox.training.summary import caught
from axlebox.training.workspace import Workspace

PASSED: Literal["passed"] = "passed"
FAILED: Literal["failed"] = "failed"
NOT_ASKED: Literal["not asked"] = "not asked"
CANNOT_BE_JUDGED: Literal["cannot be judged"] = "cannot be judged"
Verdict = Literal["passed", "failed", "not asked", "cannot be judged"]

PARITY, TARGET, FALSE_ALARMS, CAUGHT, CHAMPION = (
    "parity",
    "target",
    "most_false_alarms_per_day",
    "least_caught",
    "no_worse_than_champion",
)
NAMES = (PARITY, TARGET, FALSE_ALARMS, CAUGHT, CHAMPION)
ACCEPTABLE = (TARGET, FALSE_ALARMS, CAUGHT, CHAMPION)
"""Gates that a person may overrule. A model that is not equal to what was trained is nobody's to accept."""

_FILE = "gates.json"
_MAX_BYTES = 1024 * 1024
_CHANCE = 0.05
"""More events alone than this chance explains are more false alarms."""


class GateResult(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    verdict: Verdict
    reason: str
    accepted: bool = False
    """Whether a person exported the run all the same."""

    @property
    def stops(self) -> bool:
        """A gate that is asked and cannot be judged was not passed."""
        return self.verdict in (FAILED, CANNOT_BE_JUDGED) and not self.accepted

    def __str__(self) -> str:
        return f"{self.name} {self.verdict}{' (accepted)' if self.accepted else ''}: {self.reason}"


def check_gates(
    workspace: Workspace,
    run: Run,
    settings: GateParameters,
    judged: Judgement | None = None,
    unequal: str | None = None,
) -> list[GateResult]:
    """Every gate's verdict on a run.

    `judged` is of the champion and this run, in this order, where somebody has it already; else the
    two are judged here. `unequal` says why a proof of parity has just failed.
    """
    facts = run.record().evaluation
    return [
        GateResult(PARITY, FAILED, unequal) if unequal is not None else parity_gate(run),
        _target(facts),
        _false_alarms(facts, settings.most_false_alarms_per_day),
        _caught(facts, settings.least_caught),
        _champion(workspace, run, settings.no_worse_than_champion, judged),
    ]


def accept(results: Iterable[GateResult], names: Collection[str]) -> list[GateResult]:
    """The results, where a person overrules these gates. Raises UsageError for a name that is no such gate."""
    for name in names:
        if name not in ACCEPTABLE:
            raise UsageError(f"there is no gate {name} to accept; there are {', '.join(ACCEPTABLE)}")
    return [structs.replace(one, accepted=one.stops and one.name in names) for one in results]


def require_gates(results: Iterable[GateResult]) -> None:
    """Raise GateFailed, naming every gate that was not passed."""
    stopping = [one for one in results if one.stops]
    if stopping:
        advice = "look at the report and at axlebox compare champion RUN; train anew, or export --accept-gate NAME"
        if {one.name for one in stopping} == {TARGET}:
            advice = (
                "train on more readings or with another target, or look at those events in the report and export "
                "--accept-missed-target"
            )
        raise GateFailed(f"{'; '.join(map(str, stopping))}; nothing was exported. DO: {advice}")


def judge_before_export(
    workspace: Workspace, run: Run, settings: GateParameters, accepted: Collection[str]
) -> list[GateResult]:
    """Every gate but parity, which the export itself proves; they are written into the run's folder.

    Raises GateFailed, naming every gate that was not passed and is not among the accepted, and
    UsageError for a name that is no gate to accept.
    """
    results = accept(check_gates(workspace, run, settings)[1:], accepted)
    write_gates(run, results)
    require_gates(results)
    return results


def write_gates(run: Run, results: Sequence[GateResult]) -> None:
    """runs/RUN/gates.json: what the gates said of the run when it was last exported or proposed."""
    with disk.explained():
        disk.replace_durable(run.folder / _FILE, msgspec.json.format(msgspec.json.encode(list(results)), indent=1))


def read_gates(run: Run) -> list[GateResult]:
    """None of them before the run's first export or proposal. Raises Malformed."""
    path = run.folder / _FILE
    return decode(disk.read_bounded(path, _MAX_BYTES), list[GateResult], str(path)) if path.exists() else []


def parity_gate(run: Run) -> GateResult:
    """By the proof that the last export or proposal left in the run's folder."""
    proofs = run.parity()
    if proofs is None:
        return GateResult(PARITY, CANNOT_BE_JUDGED, "not proved yet: an export proves it")
    differing = sum(one.flags_differing for one in proofs.values())
    rows = sum(one.rows for one in proofs.values())
    told = f"{differing} flags differ from scikit-learn's on {rows} rows"
    return GateResult(PARITY, FAILED if differing else PASSED, told)


def _target(facts: Mapping[str, Any]) -> GateResult:
    problems = target_problems(facts)
    if problems:
        return GateResult(TARGET, FAILED, "; ".join(problems))
    return GateResult(TARGET, PASSED, "nothing in held-out time refutes the target of false alarms")


def _false_alarms(facts: Mapping[str, Any], most: float | None) -> GateResult:
    if most is None:
        return GateResult(FALSE_ALARMS, NOT_ASKED, "gates.most_false_alarms_per_day is null")
    told, worst, unknown = [], 0.0, False
    for kind, one in facts["detectors"].items():
        # A detector without tails has no events that are far from its threshold.
        days = float(one.get("exposure_sensor_days", facts["exposure_sensor_days"]))
        events = int(one.get("near_events", facts["events"]))
        unknown |= days <= 0
        worst = max(worst, events / days if days > 0 else 0.0)
        told.append(f"{kind} has {events} events near the threshold in {days:.1f} held-out sensor-days")
    verdict = FAILED if worst > most else CANNOT_BE_JUDGED if unknown else PASSED
    return GateResult(FALSE_ALARMS, verdict, f"{', '.join(told)}; at most {most:g} a day are asked for")


def _caught(facts: Mapping[str, Any], least: float | None) -> GateResult:
    if least is None:
        return GateResult(CAUGHT, NOT_ASKED, "gates.least_caught is null")
    told, worst, unknown = [], 1.0, False
    for kind, one in facts["detectors"].items():
        raised, trials = caught(one) or (0, 0)
        unknown |= not trials
        worst = min(worst, raised / trials if trials else 1.0)
        told.append(f"{kind} caught {raised} of {trials} injected faults" if trials else f"{kind} was not tried")
    verdict = FAILED if worst < least else CANNOT_BE_JUDGED if unknown else PASSED
    return GateResult(CAUGHT, verdict, f"{', '.join(told)}; a share of {least:g} is asked for")


def _champion(workspace: Workspace, run: Run, asked: bool, judged: Judgement | None) -> GateResult:
    if not asked:
        return GateResult(CHAMPION, NOT_ASKED, "gates.no_worse_than_champion is false")
    name = champion(workspace)
    if name is None:
        return GateResult(CHAMPION, PASSED, "there is no champion yet")
    if name == run.folder.name:
        return GateResult(CHAMPION, PASSED, "it is the champion")
    if judged is None or judged.runs != (name, run.folder.name):
        try:
            judged = judge([open_run(workspace.runs, name), run])
        except AxleboxError as error:
            return GateResult(CHAMPION, CANNOT_BE_JUDGED, f"champion {name}: {error}")
    return no_worse(judged)


def no_worse(judged: Judgement) -> GateResult:
    """Whether the second run of a judgement is no worse than the first.

    For every kind: no more events that the other does not raise, beyond what chance explains, and no
    fewer of the same injected faults caught. How soon they were caught is told and decides nothing.
    """
    if judged.problem is not None:
        return GateResult(CHAMPION, CANNOT_BE_JUDGED, judged.problem)
    worse = [
        f"it has no detector for {kind}"
        for kind, missing in judged.without_detector.items()
        if missing == judged.runs[1:]
    ]
    told, unknown = [], []
    for one in judged.kinds:
        before, after = one.figures
        words = (
            f"{after.events_alone} events that the champion does not raise, {before.events_alone} the other way "
            f"round, in {one.exposure_sensor_days:.1f} sensor-days; {after.caught} of {after.should_alarm} injected "
            f"faults caught, the champion {before.caught}"
        )
        told.append(f"{one.kind}: {words}")
        if _chance_of(after.events_alone, before.events_alone) < _CHANCE or after.caught < before.caught:
            worse.append(f"{one.kind}: {words}{_lost(one)}")
        elif not one.exposure_sensor_days or not after.should_alarm:
            unknown.append(f"{one.kind}: later than {_day(judged)} too little was held out for it")
    if worse:
        return GateResult(CHAMPION, FAILED, "; ".join(worse))
    if unknown or not told:
        return GateResult(CHAMPION, CANNOT_BE_JUDGED, "; ".join(unknown) or "the two have no kind of sensor in common")
    return GateResult(CHAMPION, PASSED, "; ".join(told))


def _chance_of(ours: int, theirs: int) -> float:
    """How often as many as `ours` of these events, or more, would be ours if either raised each as readily."""
    from scipy.special import bdtrc

    return float(bdtrc(ours - 1, ours + theirs, 0.5)) if ours else 1.0


def _lost(one: KindJudgement) -> str:
    before, after = one.figures
    lost = [name for name, was in before.faults.items() if was.alarms and after.faults[name].raised < was.raised]
    return f" (less often: {', '.join(lost)})" if lost else ""


def _day(judged: Judgement) -> str:
    from axlebox.runtime.readings import format_time

    return format_time(judged.since)
