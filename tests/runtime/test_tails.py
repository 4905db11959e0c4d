"""Tails: how far outside normal, and what of it the forest is shown."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from axlebox.runtime.streaming_constants import Constants, Tail
from axlebox.runtime.tails import RunningTails, Tails

Measured = tuple[float, list[float], list[float]]


def measure(tails: Tails, *values: float | None) -> Measured:
    beyond, row = [0.0] * 6, [0.0] * 6
    return tails.measure((*values, *[None] * (6 - len(values))), beyond, row), beyond, row


@pytest.fixture
def constants(bearing_constants: Constants) -> Constants:
    sides = ((Tail(2.0, 1.5, 0.5), Tail(4.0, 1.0, 0.25)), *[(Tail(1.0, 1.0, 1.0), Tail(1.0, 1.0, 1.0))] * 5)
    return replace(bearing_constants, sides=sides, absent=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))


def test_up_and_down_are_measured_by_tails_of_their_own(constants: Constants) -> None:
    """By hand: (7 / 2 - 1.5) / 0.5 = 4 up, (7 / 4 - 1) / 0.25 = 3 down."""
    assert measure(Tails(constants), 7.0)[:2] == (4.0, [4.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert measure(Tails(constants), -7.0)[0] == 3.0


def test_only_what_is_outside_normal_counts_in_the_sum(constants: Constants) -> None:
    total, beyond, _ = measure(Tails(constants), 7.0, 0.5, 3.0)
    assert (total, beyond[1], beyond[2]) == (6.0, -0.5, 2.0)


def test_the_sum_has_no_bound_where_the_row_has_one(constants: Constants) -> None:
    far, farther = measure(Tails(constants), 1e6), measure(Tails(constants), 1e7)
    assert farther[0] > 9 * far[0] and far[2][0] == farther[2][0] == measure(Tails(constants), 2 * (50.0 + 1.5))[2][0]


def test_a_feature_without_a_number_is_neutral(constants: Constants) -> None:
    total, beyond, row = measure(Tails(constants), None)
    assert (total, beyond, row) == (0.0, [0.0] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_a_row_rises_with_what_it_shows(constants: Constants) -> None:
    rows = [measure(Tails(constants), value / 10)[2][0] for value in range(260)]
    assert rows == sorted(rows) and len(set(rows)) > 200


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_running_tails_find_the_quantile_and_mean_excess_of_what_they_see(constants: Constants, side: float) -> None:
    """On exponential values the level that 2 % of the readings pass is known: ln(50) means, with an excess of one."""
    constants = replace(constants, sides=((Tail(1.0, 1.0, 1.0), Tail(1.0, 1.0, 1.0)), *constants.sides[1:]))
    constants = replace(constants, tail_s=6000.0)
    running, random = RunningTails(constants), np.random.default_rng(0)
    levels = []
    for number, value in enumerate(random.exponential(1.0, 60_000).tolist()):
        values = (side * value, None, None, None, None, None)
        beyond, row = [0.0] * 6, [0.0] * 6
        running.measure(values, beyond, row)
        running.learn(values, beyond, 1.0)
        if number > 30_000:
            levels.append(-measure(running, 0.0 if side > 0 else -1e-12)[1][0])
    # A reading at zero is level / excess below its level.
    assert np.mean(levels) == pytest.approx(math.log(50), rel=0.15)


def test_a_reading_far_out_moves_a_running_tail_by_a_bounded_step(constants: Constants) -> None:
    running = RunningTails(constants)
    before = measure(running, 7.0)[0]
    values, beyond, row = (1e9, None, None, None, None, None), [0.0] * 6, [0.0] * 6
    running.measure(values, beyond, row)
    running.learn(values, beyond, 300.0)
    assert measure(running, 7.0)[0] > 0.8 * before


def test_trained_tails_never_move(constants: Constants) -> None:
    tails = Tails(constants)
    first = measure(tails, 7.0)
    for _ in range(1000):
        measure(tails, 1e9)
    assert measure(tails, 7.0) == first
