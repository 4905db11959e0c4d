"""Events as people think of them, and their reasons in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from axlebox.export.score import replay
from axlebox.firmware_bundle.errors import Damaged
from axlebox.firmware_bundle.trust import examine
from axlebox.runtime.readings import format_time
from axlebox.runtime.streaming_constants import FEATURES
from axlebox.training.episodes import episodes
from axlebox.training.reasons import WHAT, in_words
from axlebox.training.runs import Run, open_run

NONE = pd.DataFrame({"event_id": [None], "tail_sum": [0.0], "score": [0.1], "value": [1.0]})


def event(time: float, kind: str = "anomaly", state: str = "raised", **more: Any) -> dict[str, Any]:
    own = {"anomaly": {"id": "a", "severity": "mild", "value": 1.0, "why": []}}.get(kind, {})
    return {"type": kind, "state": state, "sensor": "s", "time": format_time(time), **own, **more}


def why(tails: float) -> list[dict[str, Any]]:
    return [{"feature": "jump", "value": 1.0, "tails": tails}]


def test_an_event_lasts_from_raised_to_cleared_with_its_worst_severity_and_its_farthest_reasons() -> None:
    found = episodes(
        [
            event(0, why=why(2.0)),
            event(5, "limit", id="l", severity="extreme", value=90.0, action="stop"),
            event(10, state="peak", severity="extreme", why=why(9.0)),
            event(20, state="peak", severity="extreme", why=why(4.0)),
            event(30, state="cleared", severity="extreme"),
            event(40, id="b"),
        ],
        pd.DataFrame({"event_id": ["a", "a", None], "tail_sum": [3.0, 8.0, 99.0], "score": 0.5, "value": [1, 2, 3.0]}),
    )
    first, limit, second = found
    assert (first.start, first.end, first.about, first.why) == (0.0, 30.0, "extreme", why(9.0))
    assert (first.peak, first.peak_sum) == (2.0, 8.0)
    assert (limit.start, limit.end, limit.about, limit.action) == (5.0, None, "extreme", "stop")
    assert (second.id, second.start, second.end, second.peak) == ("b", 40.0, None, None)


def test_without_sums_of_tails_the_score_says_where_the_peak_is() -> None:
    frame = pd.DataFrame({"event_id": ["a", "a"], "tail_sum": None, "score": [0.5, 0.7], "value": [1.0, 2.0]})
    (found,) = episodes([event(0)], frame.astype({"tail_sum": float}))
    assert (found.peak, found.peak_sum) == (2.0, None)


def test_a_sensor_event_that_changes_ends_the_one_before_it() -> None:
    states = [("stuck", 0), ("range", 10), ("ok", 20), ("stale", 30)]
    found = episodes([event(time, "sensor", state) for state, time in states], NONE)
    assert [(one.about, one.start, one.end) for one in found] == [
        ("stuck", 0.0, 10.0),
        ("range", 10.0, 20.0),
        ("stale", 30.0, None),
    ]


def test_drifts_of_two_baselines_are_two_events_and_lines_that_name_no_sensor_are_shown_too() -> None:
    found = episodes(
        [
            event(0, "drift", baseline="level"),
            event(1, "drift", baseline="distance from siblings"),
            event(2, "drift", "cleared", baseline="level"),
            event(3, "sensor", "invalid") | {"sensor": None, "time": None},
        ],
        NONE,
    )
    assert [(one.about, one.end) for one in found[:2]] == [("level", 2.0), ("distance from siblings", None)]
    assert (found[2].sensor, found[2].start) == ("", None)


def test_reasons_are_told_in_words() -> None:
    assert (
        in_words({"feature": "sibling", "value": 4.0, "tails": 6.9}, "C") == "4 C hotter than its siblings (6.9 tails)"
    )
    assert in_words({"feature": "jump", "value": -2.31, "tails": 0.94}, "F").startswith("fell by 2.31 F")
    assert in_words({"feature": "value", "value": 153.0}, "C") == "value 153 C"
    assert in_words({"feature": "new one", "value": 1.0, "tails": 3.0}, "C") == "new one 1 C"
    for feature in FEATURES:
        assert feature not in in_words({"feature": feature, "value": 1.0, "tails": 1.0}, "C").split()[:1]
    assert set(WHAT) == set(FEATURES)


def test_a_run_keeps_the_events_that_the_vehicle_s_own_code_tells_of_held_out_time(exported: Path) -> None:
    """From the exported model in the bundle, by the Scorer; the run's are from scikit-learn."""
    (path,) = (exported / "dist").glob("*.axb")
    root = (exported / "trust/root.json").read_bytes()
    run = open_run(exported / "runs", None)
    bundle = examine(path.read_bytes(), root, pd.Timestamp.now("UTC").to_pydatetime())
    told = [one for outcome in replay(bundle, run.folder / "held_out.csv") for one in outcome.events]
    kept = run.events()
    assert len(told) == len(kept) > 2
    for theirs, ours in zip(told, kept, strict=True):
        del theirs["bundle"]
        assert theirs.pop("id").split("-", 1)[1] == ours.pop("id").split("-", 1)[1]
        assert theirs.pop("score", None) == pytest.approx(ours.pop("score", None), abs=1e-12)
        assert theirs == ours


def test_a_run_without_events_has_none_and_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    assert Run(tmp_path).events() == []
    (tmp_path / "events.jsonl").write_text('{"type": ')
    with pytest.raises(Damaged, match=r"events\.jsonl is damaged.*DO: "):
        Run(tmp_path).events()
