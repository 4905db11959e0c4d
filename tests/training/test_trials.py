"""Faults injected into held-out time, and who sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.training import steps
from axlebox.training.evaluation import evaluate
from axlebox.training.experiment import TrainedDetector, train_detector
from axlebox.training.faults import FAULTS
from axlebox.training.parameters import BundleParameters, Parameters, StreamingParameters
from axlebox.training.series import silent
from axlebox.training.summary import evaluation_rows, trial_rows, winners
from axlebox.training.trials import TAILS, Answer, Held, Trial, _answer, _delays, make_trials, run_trials

PARAMETERS = Parameters(BundleParameters("x"), streaming=StreamingParameters(warmup=100))
CONTRACT = Contract({"bearing": Kind(range=(-30.0, 200.0), stuck_after_s=7200.0)})


def readings(days: int, seed: int) -> pd.DataFrame:
    """One lone sensor: a daily cycle and noise, every five minutes."""
    times = 1_700_000_000.0 + 300.0 * np.arange(days * 288)
    noise = np.random.default_rng(seed).normal(0, 0.5, len(times))
    values = 60 + 6 * np.sin(2 * np.pi * times / 86400) + noise
    return pd.DataFrame({"time": times, "sensor": "axle", "value": values.round(1), "era": 0})


@pytest.fixture(scope="module")
def trained() -> TrainedDetector:
    return train_detector(readings(20, 1), CONTRACT, PARAMETERS)


@pytest.fixture(scope="module")
def figures(trained: TrainedDetector) -> dict[str, Any]:
    fitted = trained.fitted["bearing"]

    def score(frame: pd.DataFrame) -> pd.DataFrame:
        return steps.predict({fitted.spec.model: fitted.forest}, [fitted.spec], CONTRACT, frame)

    out = score(readings(12, 2))
    facts = evaluate(out, readings(20, 1), [fitted.features], [fitted.spec])
    held = Held(out, readings(20, 1), CONTRACT)
    facts["detectors"]["bearing"]["trials"] = run_trials(
        held, fitted.spec, facts["detectors"]["bearing"], score, 2, silent
    )
    return facts


def test_every_kind_of_fault_is_tried_and_large_ones_are_seen(figures: dict[str, Any]) -> None:
    faults = figures["detectors"]["bearing"]["trials"]["faults"]
    assert list(faults) == list(FAULTS)
    for name in ("spike", "step", "rise", "repeated"):
        answer = faults[name]["answers"]["detector"]
        assert answer["raised"] == 2 and answer["delay_s"] < 3600, name
    assert faults["step"]["answers"]["detector"]["share"] >= 0.95
    assert faults["stuck"]["gate"] == faults["dropout"]["gate"] == 2


def test_the_figures_are_the_same_each_time(trained: TrainedDetector) -> None:
    frame = readings(12, 2).assign(kind="bearing", status="ok")
    spec = trained.fitted["bearing"].spec
    first, second = ([one.readings["value"].sum() for one in make_trials(frame, CONTRACT, spec, 1)] for _ in range(2))
    assert first == second and len(first) == len(FAULTS)


def test_held_out_time_that_is_shorter_than_the_warm_up_has_no_trials(trained: TrainedDetector) -> None:
    frame = readings(12, 2).iloc[:150].assign(kind="bearing", status="ok")
    assert not list(make_trials(frame, CONTRACT, trained.fitted["bearing"].spec, 2))


def trial(faulty: list[int]) -> Trial:
    mask = np.isin(np.arange(10), faulty)
    return Trial(FAULTS["step"], "axle", 3.0, pd.DataFrame(), pd.DataFrame(), mask)


def bits(*numbers: int) -> np.ndarray:
    return np.isin(np.arange(10), numbers)


def test_an_alarm_that_is_there_without_the_fault_proves_nothing() -> None:
    times = np.arange(10.0)
    faulty = trial([3, 4, 5, 6])
    assert _answer(bits(4, 5), bits(), times, faulty) == Answer(True, 1.0, 2 / 3)
    assert _answer(bits(4, 5), bits(4), times, faulty) == Answer(True, 2.0, 1 / 2)
    assert _answer(bits(4, 5), bits(4, 5), times, faulty) == Answer(False, None, None)
    assert _answer(bits(1, 8), bits(), times, faulty) == Answer(False, None, None), "before and after it"


def test_other_levels_catch_ever_less_and_the_chosen_one_what_the_sum_alone_catches(figures: dict[str, Any]) -> None:
    facts = figures["detectors"]["bearing"]
    curve, tried = facts["curve"], facts["trials"]["at_levels"]
    alarming = [one for one in facts["trials"]["faults"].values() if one["alarms"]]
    assert tried["trials"] == sum(one["trials"] for one in alarming) == 18
    alone = sum(one["answers"][TAILS]["raised"] for one in alarming)
    assert tried["caught"][curve["chosen"]] == alone > 0
    above = tried["caught"][curve["chosen"] :]
    assert above == sorted(above, reverse=True)
    assert [one is None for one in tried["delay_s"]] == [not one for one in tried["caught"]]


def test_an_outlier_that_is_there_anyway_catches_no_fault_at_a_level_that_only_both_reach() -> None:
    frame = pd.DataFrame({"time": np.arange(10.0), "sensor": "axle"})
    healthy = frame.assign(tail_sum=[0, 0, 0, 0, 9.0, 0, 0, 0, 0, 0])
    scored = frame.assign(tail_sum=[0, 0, 0, 1, 12.0, 2, 6, 0, 0, 0])
    tried = Trial(FAULTS["step"], "axle", 3.0, healthy, frame, bits(3, 4, 5, 6))
    assert _delays(tried, scored, [1.5, 5.0, 7.0, 10.0], chosen=5.0) == [2.0, 3.0, None, None]


def test_what_simple_detectors_do_better_is_said_in_words(figures: dict[str, Any]) -> None:
    trials = figures["detectors"]["bearing"]["trials"]
    rows = trial_rows(trials)
    assert {len(row) for row in rows} == {len(rows[0])} and "raw forest" in rows[0]
    told = {"step": {**trials["faults"]["step"], "wins": ["limit"]}}
    assert winners({**trials, "faults": told}) == ["step: limit raised it earlier or more often than the detector"]
    assert trial_rows(None) == [] and winners(None) == []


def test_a_detector_that_cries_wolf_wins_nothing(figures: dict[str, Any]) -> None:
    trials = figures["detectors"]["bearing"]["trials"]
    assert trials["alarms_without_faults"]["raw forest"] > 20
    assert not any("raw forest" in one["wins"] for one in trials["faults"].values())


def test_a_target_that_held_out_time_refutes_is_said(trained: TrainedDetector) -> None:
    fitted = trained.fitted["bearing"]
    out = steps.predict({fitted.spec.model: fitted.forest}, [fitted.spec], CONTRACT, readings(12, 2))
    near = out.copy()
    times = near.index[300::400]
    near.loc[times, "event_id"] = [f"e{number}" for number in range(len(times))]
    near.loc[times, "tail_sum"] = fitted.features.threshold["extreme_at"] + 0.1
    for frame, expected in ((out, False), (near, True)):
        facts = evaluate(frame, readings(20, 1), [fitted.features], [fitted.spec])
        problem = facts["detectors"]["bearing"]["target_problem"]
        assert (problem is not None) == expected, problem
        assert any(name.startswith("TARGET NOT REACHED") for name, _ in evaluation_rows(facts)) == expected
    far = near.assign(tail_sum=1e4)
    assert evaluate(far, readings(20, 1), [fitted.features], [fitted.spec])["detectors"]["bearing"]["far_events"] > 5


def test_too_few_excursions_to_extrapolate_from_are_a_missed_target(trained: TrainedDetector) -> None:
    fitted = trained.fitted["bearing"]
    few = replace(
        fitted.features, threshold={**fitted.features.threshold, "clusters": 3, "target_per_sensor_day": 0.001}
    )
    out = steps.predict({fitted.spec.model: fitted.forest}, [fitted.spec], CONTRACT, readings(3, 2))
    problem = evaluate(out, readings(20, 1), [few], [fitted.spec])["detectors"]["bearing"]["target_problem"]
    assert "only 3 excursions" in problem
