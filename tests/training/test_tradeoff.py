"""What other thresholds would mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from axlebox.training.threshold import Tailing
from axlebox.training.tradeoff import candidate_levels, caught_at, curve, false_alarms

TAILING = Tailing(base=2.0, mean=1.5, rate=0.8, clusters=40)


def facts(**more: Any) -> dict[str, Any]:
    found = {"base": TAILING.base, "mean_excess": TAILING.mean, "clusters_per_sensor_day": TAILING.rate}
    return {**found, "sensors_per_vehicle": 4, "extreme_at": 7.0, **more}


@pytest.mark.parametrize("per_vehicle_day", [1e-4, 0.01, 0.1, 1.0])
def test_the_rate_at_a_level_is_the_inverse_of_the_level_for_a_rate(per_vehicle_day: float) -> None:
    assert false_alarms(facts(), TAILING.level(per_vehicle_day / 4)) == pytest.approx(per_vehicle_day)


def test_below_where_the_tail_begins_nothing_is_extrapolated() -> None:
    assert false_alarms(facts(), 0.5) == false_alarms(facts(), TAILING.base) == pytest.approx(0.8 * 4)


def test_the_chosen_level_is_among_the_candidates_which_are_bounded_and_go_beyond_it() -> None:
    for chosen in (0.5, 2.0, 7.0, 1000.0):
        levels = candidate_levels(facts(extreme_at=chosen))
        assert chosen in levels and levels == sorted(levels) and 40 <= len(levels) <= 41
        assert levels[0] <= TAILING.base and levels[-1] > chosen
    assert false_alarms(facts(), candidate_levels(facts())[-1]) <= 1.001e-4


def test_training_without_any_excursion_has_candidates_too() -> None:
    none = facts(base=1e-9, mean_excess=0.0, clusters_per_sensor_day=0.0, extreme_at=3.0)
    assert 3.0 in candidate_levels(none)
    assert {false_alarms(none, level) for level in candidate_levels(none)} == {0.0}


def test_an_excursion_counts_for_each_level_that_it_reaches_and_each_sensor_has_its_own() -> None:
    sums = np.zeros(100)
    sums[[10, 12, 50]] = [5.0, 9.0, 7.5]  # two readings apart is one excursion, 38 are two
    frame = pd.DataFrame({"sensor": ["a", "b"] * 100, "era": 0, "tail_sum": np.repeat(sums, 2), "status": "ok"})
    frame.loc[frame["sensor"] == "b", "tail_sum"] = 0.0
    frame.loc[99, "tail_sum"] = 8.0
    frame.loc[199, ["tail_sum", "status"]] = [50.0, "warming"]
    found = curve(frame, facts())
    counts = dict(zip(found["levels"], found["held_out_excursions"], strict=True))
    assert counts[7.0] == 3
    assert {count for level, count in counts.items() if 8.0 < level <= 9.0} == {1}
    assert {count for level, count in counts.items() if level > 9.0} == {0}
    assert found["levels"][found["chosen"]] == 7.0


def test_what_is_caught_is_counted_at_each_level_with_the_median_of_its_delays() -> None:
    assert caught_at([[0.0, 60.0, None], [10.0, None, None], [20.0, 120.0, None]], [1.0, 2.0, 3.0]) == {
        "trials": 3,
        "caught": [3, 2, 0],
        "delay_s": [10.0, 90.0, None],
    }
