"""Runs on the same readings and the same injected faults."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from axlebox.training import judging
from axlebox.training.judging import Judgement, judge, trained_until
from axlebox.training.runs import Run, open_run


@dataclass(frozen=True)
class Pair:
    """Two runs on the same readings: the streaming detector, and the raw value's, which flags everyday readings."""

    calm: Run
    wolf: Run

    def judged(self) -> Judgement:
        return judge([self.calm, self.wolf])


@pytest.fixture(scope="module")
def pair(axlebox: Any, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("pair") / "fleet")
    calm = open_run(folder / "runs", None)
    axlebox.ok("train", "--params", "forest.n_estimators=20,feature_set=value", cwd=folder)
    return Pair(calm, open_run(folder / "runs", None))


@pytest.fixture(scope="module")
def judged(pair: Pair) -> Judgement:
    return pair.judged()


def changed(run: Run, folder: Path, **facts: Any) -> Run:
    """A copy of a run that says something else of its evaluation; None leaves a fact out."""
    copy = Run(Path(shutil.copytree(run.folder, folder / run.folder.name)))
    path = copy.folder / "run.json"
    record = msgspec.json.decode(path.read_bytes())
    record["evaluation"] = {
        name: value for name, value in {**record["evaluation"], **facts}.items() if value is not None
    }
    path.write_bytes(msgspec.json.encode(record))
    return copy


def test_a_run_is_no_better_and_no_worse_than_itself(pair: Pair) -> None:
    found = judge([pair.calm, pair.calm])
    (kind,) = found.kinds
    first, second = kind.figures
    assert first == second and first.events_alone == 0 and first.events > 0
    assert found.flags_gained == found.flags_lost == ()


def test_who_stands_first_changes_nothing(pair: Pair, judged: Judgement) -> None:
    turned = judge([pair.wolf, pair.calm])
    assert [one.figures[::-1] for one in turned.kinds] == [one.figures for one in judged.kinds]
    assert (turned.flags_gained, turned.flags_lost) == (judged.flags_lost, judged.flags_gained)
    assert turned.since == judged.since and turned.readings_of == judged.readings_of


def test_the_figures_are_those_of_the_readings_that_neither_was_trained_on(pair: Pair, judged: Judgement) -> None:
    """By counting in the predictions that the trainings wrote themselves."""
    calm, wolf = (run.predictions() for run in (pair.calm, pair.wolf))
    both = (calm["status"] == "ok").to_numpy() & (wolf["status"] == "ok").to_numpy()
    (kind,) = judged.kinds
    assert [one.flags for one in kind.figures] == [int(frame["flag"][both].sum()) for frame in (calm, wolf)]
    assert kind.figures[1].events_alone > kind.figures[0].events_alone
    gained = wolf[both & (wolf["flag"].to_numpy() & ~calm["flag"].to_numpy())]
    assert len(judged.flags_gained) == len(gained) > 0
    assert kind.readings == len(calm) and judged.until == calm["time"].max()


def test_only_time_after_the_end_of_every_training_counts(pair: Pair, tmp_path: Path) -> None:
    times = pair.calm.predictions()["time"]
    late = float(times.quantile(0.3))
    found = judge([changed(pair.calm, tmp_path, train_until=late), pair.wolf])
    (kind,) = found.kinds
    assert found.since == late
    assert kind.readings == int((times > late).sum()) < len(times)


def test_without_a_later_time_nothing_is_compared_and_it_is_said(pair: Pair, tmp_path: Path) -> None:
    end = float(pair.calm.predictions()["time"].max())
    found = judge([pair.wolf, changed(pair.calm, tmp_path, train_until=end)])
    assert found.kinds == () and found.flags_gained == ()
    assert pair.calm.folder.name in (found.problem or "") and "no time that both" in (found.problem or "")


def test_an_older_run_that_does_not_tell_its_training_s_end_is_judged_all_the_same(
    pair: Pair, judged: Judgement, tmp_path: Path
) -> None:
    older = changed(pair.calm, tmp_path, train_until=None)
    begin = float(older.predictions()["time"].min())
    train_until = pair.calm.record().evaluation["train_until"]
    assert train_until < trained_until(older, older.predictions()) < begin
    assert judge([older, pair.wolf]).kinds == judged.kinds


def test_the_same_faults_are_put_into_the_same_windows_for_every_run(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[pd.DataFrame] = []
    answer_of = judging.answer_of

    def spy(trial: Any, scored: pd.DataFrame) -> Any:
        seen.append(trial.readings)
        assert len(scored) == len(trial.healthy) == len(trial.readings)
        return answer_of(trial, scored)

    monkeypatch.setattr(judging, "answer_of", spy)
    (kind,) = pair.judged().kinds
    first, second = kind.figures
    assert len(seen) == 2 * sum(one.trials for one in first.faults.values()) > 0
    assert all(one.equals(other) for one, other in zip(seen[0::2], seen[1::2], strict=True))
    assert {name: one.trials for name, one in first.faults.items()} == {
        name: one.trials for name, one in second.faults.items()
    }
    longest = max(spec.warmup for run in (pair.calm, pair.wolf) for spec in run.detector().detectors)
    assert all(len(one[one["sensor"] == name]) > longest for one in seen for name in one["sensor"].unique())


def test_a_kind_that_one_run_has_no_detector_for_is_named_and_not_compared(pair: Pair, tmp_path: Path) -> None:
    poor = Run(Path(shutil.copytree(pair.calm.folder, tmp_path / "poor")))
    file = msgspec.json.decode((poor.folder / "detector.json").read_bytes())
    (poor.folder / "detector.json").write_bytes(msgspec.json.encode({**file, "detectors": []}))
    found = judge([pair.wolf, poor])
    assert found.without_detector == {"temperature": ("poor",)} and found.kinds == ()
