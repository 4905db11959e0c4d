"""The quality gates, one by one."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.firmware_bundle.errors import GateFailed, UsageError
from axlebox.training.champion import promote
from axlebox.training.gates import (
    CANNOT_BE_JUDGED,
    CAUGHT,
    CHAMPION,
    FAILED,
    FALSE_ALARMS,
    NAMES,
    NOT_ASKED,
    PARITY,
    PASSED,
    TARGET,
    GateResult,
    accept,
    check_gates,
    no_worse,
    read_gates,
    require_gates,
)
from axlebox.training.judging import FaultFigures, Figures, Judgement, KindJudgement
from axlebox.training.parameters import GateParameters
from axlebox.training.runs import Run, open_run
from axlebox.training.workspace import Workspace


@pytest.fixture
def run(copied: Path) -> Run:
    return open_run(copied / "runs", None)


def verdicts(run: Run, **settings: Any) -> dict[str, GateResult]:
    """Of all gates, with nothing asked but what is said here."""
    asked = GateParameters(**{"no_worse_than_champion": False, **settings})
    return {one.name: one for one in check_gates(Workspace(run.folder.parents[1]), run, asked)}


def rewrite(run: Run, change: Any) -> None:
    path = run.folder / "run.json"
    record = json.loads(path.read_text())
    change(record["evaluation"])
    path.write_text(json.dumps(record))


def test_every_gate_has_a_verdict_and_what_is_not_asked_is_said(run: Run) -> None:
    found = verdicts(run)
    assert tuple(found) == NAMES
    assert {name for name, one in found.items() if one.verdict == NOT_ASKED} == {FALSE_ALARMS, CAUGHT, CHAMPION}
    assert not any(one.stops for one in found.values())


def test_parity_is_what_the_proof_says(run: Run) -> None:
    assert verdicts(run)[PARITY].verdict == PASSED
    path = run.folder / "parity.json"
    proofs = json.loads(path.read_text())
    proofs["model.onnx"]["flags_differing"] = 1
    path.write_text(json.dumps(proofs))
    assert verdicts(run)[PARITY].verdict == FAILED
    path.unlink()
    assert verdicts(run)[PARITY].verdict == CANNOT_BE_JUDGED
    (failed, *_) = check_gates(Workspace(run.folder.parents[1]), run, GateParameters(), unequal="3 flags differ")
    assert (failed.verdict, failed.reason) == (FAILED, "3 flags differ")


def test_a_missed_target_fails(run: Run) -> None:
    assert verdicts(run)[TARGET].verdict == PASSED
    rewrite(run, lambda facts: facts["detectors"]["temperature"].update(target_problem="too many"))
    found = verdicts(run)[TARGET]
    assert found.verdict == FAILED and "temperature: too many" in found.reason


def test_more_events_near_the_threshold_than_asked_fail(run: Run) -> None:
    rewrite(run, lambda facts: facts["detectors"]["temperature"].update(near_events=3, exposure_sensor_days=2.0))
    assert verdicts(run, most_false_alarms_per_day=1.5)[FALSE_ALARMS].verdict == PASSED
    found = verdicts(run, most_false_alarms_per_day=1.4)[FALSE_ALARMS]
    assert found.verdict == FAILED and "3 events" in found.reason and "1.4" in found.reason
    rewrite(run, lambda facts: facts["detectors"]["temperature"].update(near_events=0, exposure_sensor_days=0.0))
    assert verdicts(run, most_false_alarms_per_day=1.4)[FALSE_ALARMS].verdict == CANNOT_BE_JUDGED


def test_fewer_caught_faults_than_asked_fail_and_faults_that_must_not_alarm_do_not_count(run: Run) -> None:
    def only(facts: dict[str, Any]) -> None:
        faults = facts["detectors"]["temperature"]["trials"]["faults"]
        for name in list(faults):
            if name not in ("step", "rise", "stuck"):
                del faults[name]
        for name, raised in (("step", 2), ("rise", 1), ("stuck", 0)):
            faults[name]["answers"]["detector"]["raised"] = raised

    rewrite(run, only)
    assert verdicts(run, least_caught=0.75)[CAUGHT].verdict == PASSED
    found = verdicts(run, least_caught=0.76)[CAUGHT]
    assert found.verdict == FAILED and "3 of 4" in found.reason
    rewrite(run, lambda facts: facts["detectors"]["temperature"].update(trials=None))
    assert verdicts(run, least_caught=0.1)[CAUGHT].verdict == CANNOT_BE_JUDGED


def test_the_champion_gate_passes_without_a_champion_and_for_the_champion_itself(run: Run) -> None:
    found = verdicts(run, no_worse_than_champion=True)[CHAMPION]
    assert found.verdict == PASSED and "no champion" in found.reason
    promote(Workspace(run.folder.parents[1]), run.folder.name, "first")
    found = verdicts(run, no_worse_than_champion=True)[CHAMPION]
    assert found.verdict == PASSED and "it is the champion" in found.reason


def test_a_champion_whose_run_is_missing_cannot_be_judged_and_stops(run: Run) -> None:
    workspace = Workspace(run.folder.parents[1])
    promote(workspace, run.folder.name, "first")
    line = json.loads(workspace.champions.read_text())
    workspace.champions.write_text(json.dumps({**line, "run": "0123456789ab"}) + "\n")
    found = verdicts(run, no_worse_than_champion=True)[CHAMPION]
    assert found.verdict == CANNOT_BE_JUDGED and found.stops and "0123456789ab" in found.reason


def figures(alone: int = 0, caught: dict[str, int] | None = None) -> Figures:
    faults = {name: FaultFigures(2, raised, True, None) for name, raised in (caught or {"step": 2, "rise": 2}).items()}
    total = sum(one.raised for one in faults.values())
    return Figures(0, alone, alone, 0, alone, 0.0, 1.0, 2 * len(faults), total, None, faults)


def judged(before: Figures, after: Figures, exposure: float = 10.0, **changes: Any) -> Judgement:
    kind = KindJudgement("bearing", 1000, 2, exposure, (before, after))
    plain: dict[str, Any] = {
        "runs": ("a", "b"),
        "trained_until": (0.0, 0.0),
        "readings_of": "b",
        "since": 0.0,
        "until": 1.0,
        "kinds": (kind,),
        "without_detector": {},
        "flags_gained": (),
        "flags_lost": (),
        "problem": None,
    }
    return Judgement(**{**plain, **changes})


@pytest.mark.parametrize(
    ("ours", "theirs"), [(0, 0), (3, 0), (4, 0), (5, 0), (9, 3), (10, 3), (11, 8), (40, 25), (0, 9)]
)
def test_more_events_alone_than_chance_explains_are_worse(ours: int, theirs: int) -> None:
    """By counting the outcomes of so many fair coins."""
    coins = ours + theirs
    chance = sum(comb(coins, heads) for heads in range(ours, coins + 1)) / 2**coins
    found = no_worse(judged(figures(theirs), figures(ours)))
    assert found.verdict == (FAILED if chance < 0.05 else PASSED), chance


def test_one_fault_less_is_worse_and_named_whatever_the_false_alarms(run: Run) -> None:
    found = no_worse(judged(figures(9), figures(0, {"step": 2, "rise": 1})))
    assert found.verdict == FAILED and "less often: rise" in found.reason and "step" not in found.reason
    assert no_worse(judged(figures(caught={"step": 1, "rise": 1}), figures())).verdict == PASSED


def test_a_kind_that_lost_its_detector_is_worse_and_a_new_one_is_not() -> None:
    lost = judged(figures(), figures(), without_detector={"motor": ("b",)})
    assert no_worse(lost).verdict == FAILED and "no detector for motor" in no_worse(lost).reason
    assert no_worse(judged(figures(), figures(), without_detector={"motor": ("a",)})).verdict == PASSED


@pytest.mark.parametrize(
    "unknown",
    [
        judged(figures(), figures(), problem="no later time", kinds=()),
        judged(figures(), figures(), kinds=()),
        judged(figures(), figures(), exposure=0.0),
        judged(
            msgspec.structs.replace(figures(), should_alarm=0, caught=0),
            msgspec.structs.replace(figures(), should_alarm=0, caught=0),
        ),
    ],
)
def test_what_cannot_be_compared_is_never_passed(unknown: Judgement) -> None:
    assert no_worse(unknown).verdict == CANNOT_BE_JUDGED and no_worse(unknown).stops


def test_every_gate_that_stops_is_named_in_one_line_and_people_overrule_them_by_name() -> None:
    results = [
        GateResult(TARGET, FAILED, "x"),
        GateResult(CAUGHT, CANNOT_BE_JUDGED, "y"),
        GateResult(CHAMPION, PASSED, "z"),
    ]
    with pytest.raises(GateFailed, match="target failed: x; least_caught cannot be judged: y") as caught:
        require_gates(results)
    assert "\n" not in str(caught.value) and "champion passed" not in str(caught.value)
    require_gates(accept(results, [TARGET, CAUGHT, CHAMPION]))
    assert [one.accepted for one in accept(results, [TARGET, CHAMPION])] == [True, False, False]


@pytest.mark.parametrize("name", [PARITY, "least_cought"])
def test_a_model_that_is_not_equal_is_nobody_s_to_accept(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        accept([], [name])


def test_an_export_names_all_gates_that_stop_it_and_keeps_the_verdicts(axlebox: Any, copied: Path, run: Run) -> None:
    parameters = copied / "conf/base/parameters.yml"
    text = parameters.read_text()
    assert "least_caught: null" in text
    parameters.write_text(text.replace("least_caught: null", "least_caught: 1.0"))
    rewrite(run, lambda facts: facts["detectors"]["temperature"].update(target_problem="too many"))
    before = sorted((copied / "dist").iterdir())
    done = axlebox("export", cwd=copied)
    assert done.returncode == 50 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "target failed" in done.stderr and "least_caught failed" in done.stderr
    assert sorted((copied / "dist").iterdir()) == before
    assert {one.name for one in read_gates(run) if one.stops} == {TARGET, CAUGHT}
    assert axlebox("export", "--accept-missed-target", cwd=copied).returncode == 50
    assert axlebox("export", "--accept-gate", "parity", cwd=copied).returncode == 2
    axlebox.ok("export", "--accept-missed-target", "--accept-gate", "least_caught", cwd=copied)
    kept = read_gates(run)
    assert tuple(one.name for one in kept) == NAMES
    assert {one.name for one in kept if one.accepted} == {TARGET, CAUGHT}
    assert len(sorted((copied / "dist").iterdir())) == len(before) + 1
