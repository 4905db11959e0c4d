"""Siblings: one sensor against the others of its group, at the same moment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from axlebox.runtime.siblings import Siblings

PERIOD = 300.0


def play(moments: list[dict[str, float]], order: tuple[str, ...]) -> dict[tuple[str, int], float | None]:
    """Deviation by sensor and the number of the moment that it belongs to."""
    siblings, found = Siblings(1.5 * PERIOD), {}
    for number, values in enumerate(moments):
        for name in order:
            if name in values:
                found[name, number - 1] = siblings.deviation("T204", name, number * PERIOD, values[name])
    return found


def table(count: int, names: str, seed: int = 0) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [dict(zip(names, random.normal(50, 20, len(names)).tolist(), strict=True)) for _ in range(count)]


@pytest.mark.parametrize("names", ["abc", "abcd", "abcdefgh"])
def test_the_deviation_is_from_the_median_of_the_others_at_that_moment(names: str) -> None:
    moments = table(30, names)
    found = play(moments, tuple(names))
    for (name, number), deviation in found.items():
        if number >= 0:
            others = [value for other, value in moments[number].items() if other != name]
            assert deviation == moments[number][name] - float(np.median(others))


def test_the_order_of_the_sensors_in_a_moment_changes_nothing() -> None:
    """All bearings rise by 20 degrees at once: none of them stands out, whoever reports first."""
    moments = [dict.fromkeys("abcd", 50.0 + 20.0 * (number > 3)) for number in range(8)]
    for order in itertools.permutations("abcd"):
        found = play(moments, order)
        assert all(deviation == 0.0 for (_, number), deviation in found.items() if number >= 0)


def test_there_is_no_deviation_before_the_second_reading_or_with_one_sibling() -> None:
    assert set(play(table(5, "ab"), ("a", "b")).values()) == {None}
    found = play(table(5, "abc"), ("a", "b", "c"))
    assert {number for (_, number), deviation in found.items() if deviation is None} == {-1}


def test_a_sibling_that_fell_silent_does_not_count() -> None:
    moments = table(10, "abcd")
    for values in moments[4:]:
        del values["d"]
    found = play(moments, tuple("abcd"))
    late = moments[7]
    assert found["a", 7] == late["a"] - float(np.median([late["b"], late["c"]]))


def test_groups_and_what_was_forgotten_do_not_mix() -> None:
    siblings = Siblings(1.5 * PERIOD)
    for number in range(3):
        for name in "abcd":
            siblings.deviation("T204" if name != "d" else "T205", name, number * PERIOD, ord(name))
    siblings.forget("T204", "b")
    siblings.forget("T9", "nobody")
    assert siblings.deviation("T204", "a", 3 * PERIOD, 97.0) is None, "only c is left"


def test_a_sibling_that_is_suspected_counts_where_it_usually_is() -> None:
    siblings = Siblings(1.5 * PERIOD)
    values = {"a": 50.0, "b": 51.0, "c": 53.0, "d": 90.0}

    def moment(number: int) -> list[float | None]:
        return [siblings.deviation("T204", name, number * PERIOD, value) for name, value in values.items()]

    moment(0)
    assert moment(1)[0] == 50.0 - 53.0
    siblings.suspect("T204", "d", -0.5)
    assert moment(2)[0] == 50.0 - 51.5, "half a degree below the middle of b and c, and so between them"
    siblings.suspect("T204", "d", -9.0)
    assert moment(3)[0] == 50.0 - 51.0
    siblings.suspect("T204", "c", 0.0)
    assert moment(4)[0] == 50.0 - 53.0, "with fewer than two others, all count as they are"
    siblings.suspect("T204", "d", None)
    siblings.suspect("T204", "c", None)
    assert moment(5)[0] == 50.0 - 53.0
