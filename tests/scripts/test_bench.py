"""What the measurements of ./scripts/bench nab and trips count, on tables made by hand."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NAB: dict[str, Any] = runpy.run_path(str(SCRIPTS / "bench_nab.py"))
TRIPS: dict[str, Any] = runpy.run_path(str(SCRIPTS / "bench_trips.py"))


def scored(events: list[str | None], **columns: Any) -> pd.DataFrame:
    """Rows one second apart, all good and without a score where nothing else is said."""
    number = len(events)
    plain = {"time": np.arange(number, dtype=float), "value": 90.0, "status": "ok", "score": np.nan, "peak": np.nan}
    return pd.DataFrame({**plain, **columns, "event": pd.Series(events, dtype=object)})


# -- nab ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "expected"), [(1000, 150), (5000, 750), (20_000, 750), (7, 1)])
def test_the_probation_is_15_percent_and_at_most_750_rows(rows: int, expected: int) -> None:
    assert NAB["probation"](rows) == expected


def test_a_row_without_a_score_gets_that_of_the_row_before() -> None:
    rows = scored([None] * 4, score=[np.nan, 0.4, np.nan, 0.6])
    assert NAB["row_scores"](rows).tolist() == [0.0, 0.4, 0.4, 0.6]


def test_an_event_counts_where_it_is_raised_and_where_its_peaks_are_told() -> None:
    rows = scored([None, "a", "a", None, "a", "b"], score=[0.3, 0.5, 0.7, np.nan, 0.4, 0.6])
    rows["peak"] = [np.nan, np.nan, np.nan, np.nan, 0.7, np.nan]
    assert NAB["event_scores"](rows).tolist() == [0.0, 0.5, 0.0, 0.0, 0.7, 0.6]


@pytest.mark.parametrize(("values", "words"), [([5.0] * 60, "constant"), ([1.0, 2.0], "2 readings")])
def test_a_probation_that_teaches_nothing_is_told(values: list[float], words: str) -> None:
    assert words in NAB["why_not"](pd.DataFrame({"value": values}))


def test_a_corpus_is_found_and_files_that_cannot_be_trained_get_zeros(tmp_path: Path) -> None:
    (tmp_path / "in/data/kind").mkdir(parents=True)
    table = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=300, freq="5min"), "value": 7.0})
    table.to_csv(tmp_path / "in/data/kind/flat.csv", index=False)
    (tmp_path / "in/data/kind/nothing.csv").touch()
    rows, _, untrained = NAB["run"](tmp_path / "in", tmp_path / "out", None, "events")
    result = pd.read_csv(tmp_path / "out/kind/flat.csv")
    assert rows == 300 and ["constant" in one for one in untrained] == [True, False]
    assert [path.name for path in (tmp_path / "out/kind").iterdir()] == ["flat.csv"]
    assert list(result) == ["timestamp", "value", "anomaly_score"]
    assert len(result) == 300 and (result["anomaly_score"] == 0).all()


# -- trips ----------------------------------------------------------------------------------------


def test_every_trip_is_unseen_exactly_once() -> None:
    folds = TRIPS["deal"](83, 5, 3)
    assert sorted(one for fold in folds for one in fold) == list(range(83))
    assert {len(fold) for fold in folds} == {16, 17}


def test_every_trip_is_an_era_and_time_goes_on() -> None:
    trip = TRIPS["Trip"]("a", np.array([5.0, 6.0]), np.array([20.0, 21.0]))
    frame = TRIPS["to_frame"]([trip, trip])
    assert frame["era"].tolist() == [0, 0, 1, 1]
    assert (np.diff(frame["time"]) > 0).all()


def test_the_bound_is_poisson_s() -> None:
    """No event in 3 times the hours proves a rate below 1, by -ln 0.05 = 2.996; one event, 4.744."""
    assert TRIPS["upper_bound"](0, 75.0) == pytest.approx(25 * 2.9957 / 75, rel=1e-4)
    assert TRIPS["upper_bound"](1, 25.0) == pytest.approx(4.7439, rel=1e-4)


def test_no_false_event_is_called_proved_where_the_hours_are_too_few() -> None:
    few, many = (" ".join(TRIPS["false_alarm_goal"]([0, 0], hours)) for hours in (51.6, 80.0))
    assert "met" in few and "not proved" in few and "1.45" in few
    assert "not proved" not in many


def test_a_fault_is_caught_by_an_event_that_is_raised_after_it_began() -> None:
    fault = TRIPS["FAULTS"]["jump by +25 C"]
    judge = TRIPS["judge"]
    assert not judge(scored(["a", "a", "a", None]), 2, fault).caught
    caught = judge(scored([None, "a", None, None, "b"]), 2, fault)
    assert caught.caught and caught.delay_s == 2.0


def test_an_event_that_readings_interrupt_is_one_event() -> None:
    assert TRIPS["begins"](pd.Series(["a", None, "a", "b"], dtype=object)).tolist() == [0, 3]


def test_overheating_found_at_110_is_too_late() -> None:
    fault = TRIPS["FAULTS"]["overheating, before 110 C"]
    events = [None, None, "a"]
    assert TRIPS["judge"](scored(events, value=[90.0, 105.0, 109.0]), 1, fault).caught
    assert not TRIPS["judge"](scored(events, value=[90.0, 105.0, 110.0]), 1, fault).caught


def test_a_wire_must_be_held_back_at_once_and_raise_no_anomaly() -> None:
    fault, judge = TRIPS["FAULTS"]["open circuit, 215 C"], TRIPS["judge"]
    statuses = ["ok", "hot-or-sensor", "range"]
    assert judge(scored([None] * 3, status=statuses), 1, fault)[::3] == (True, True)
    assert not judge(scored([None] * 3, status=statuses), 0, fault).caught
    assert not judge(scored([None, "a", None], status=statuses), 1, fault).caught


def test_faults_leave_what_came_before_them_alone() -> None:
    values = np.full(600, 90.0)
    for fault in TRIPS["FAULTS"].values():
        made = fault.make(values, 100)
        assert (made[:100] == 90).all() and made[-1] != 90 and len(made) == 600
    assert TRIPS["overheating"](values, 100).max() == 115
    assert 55 < TRIPS["stuck_open"](values, 100)[-1] < 60


@pytest.mark.parametrize(
    ("text", "words"), [("trip,s\na,0\n", "no column coolant_c"), ("trip,s,coolant_c\na,0,1,\na,1,2,\n", "1 trips")]
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    """The second file's rows end with a comma, as those of some loggers do: no column may shift."""
    (tmp_path / "trips.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        TRIPS["read_trips"](tmp_path / "trips.csv")


# -- ./scripts/bench --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["nonsense"], ["scorer", "more"]])
def test_unknown_words_are_refused_with_the_usage(words: list[str]) -> None:
    done = subprocess.run([SCRIPTS / "bench", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ./scripts/bench ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("script", "words"), [("bench_nab.py", ["--out", "x"]), ("bench_trips.py", [])])
def test_missing_files_are_a_usage_error(script: str, words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, SCRIPTS / script, "--data", tmp_path / "none", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "none" in done.stderr


# -- daemon and soak ------------------------------------------------------------------------------


def test_the_daemon_is_measured(tmp_path: Path) -> None:
    """So short that the figures mean nothing; the verdicts may be any."""
    command = [sys.executable, SCRIPTS / "bench_daemon.py", "--quick", "latency", "start"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("from line to answer", "s to ready after kill -9"):
        assert words in done.stdout


def test_a_short_soak_loses_no_reading_and_no_event(tmp_path: Path) -> None:
    """Memory still grows in so short a time; all else must hold."""
    command = [sys.executable, SCRIPTS / "soak.py", "6"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    problems = [line for line in done.stdout.splitlines() if "DOES NOT HOLD" in line and "memory" not in line]
    assert done.returncode in (0, 1) and not problems, done.stdout + done.stderr
    assert "0 of the replay's are missing" in done.stdout
