"""Counts of a day: exact, small, the same whatever is merged in which order."""

from __future__ import annotations

import math
import random
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlebox.runtime.days import Days
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.sketches import MAX_BINS, Histogram, Sketch
from axlebox.runtime.statuses import INVALID, OK

numbers = st.lists(st.floats(-1e9, 1e9), max_size=300)


def made(values: list[float], width: float = 2.0**-3) -> Histogram:
    histogram = Histogram(width, {})
    histogram.add(values)
    return histogram


@given(numbers, numbers)
@settings(deadline=None)
def test_merging_is_counting_together(one: list[float], two: list[float]) -> None:
    merged = made(one)
    merged.merge(made(two))
    together = made([*one, *two])
    assert merged.count == together.count == len(one) + len(two)
    assert len(merged.bins) <= MAX_BINS and len(together.bins) <= MAX_BINS
    wide = max(merged.width, together.width)
    for histogram in (merged, together):
        while histogram.width < wide:
            histogram._double()
    assert merged == together


@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=500), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_a_quantile_is_within_a_bin_of_numpy_s(values: list[float], share: float) -> None:
    histogram = made(values)
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert abs(histogram.quantile(share) - exact) <= histogram.width


def test_a_bin_holds_its_values_to_the_edge() -> None:
    assert made([0.0, 0.124, 0.125, -0.001]).bins == {0: 2, 1: 1, -1: 1}


def test_infinities_are_counted_and_nan_is_not() -> None:
    assert made([math.inf, -math.inf, math.nan, 1e300]).count == 3
    assert math.isnan(made([]).quantile(0.5))


def test_a_wide_day_stays_small() -> None:
    dice = random.Random(1)
    sketch = Sketch.empty()
    for _ in range(50):
        sketch.values.add([dice.gauss(40, 25) for _ in range(1000)])
        sketch.scores.add([dice.uniform(0.3, 0.8) for _ in range(1000)])
    assert sketch.values.width == 2.0, "degrees"
    assert len(sketch.encode()) < 1500
    assert Sketch.decode(sketch.encode()) == sketch


def outcome(sensor: str, time: float | None, value: float | None, **more: object) -> Outcome:
    return Outcome(0, sensor, time, value, OK, **more)  # type: ignore[arg-type]


def test_outcomes_are_counted_by_their_own_day_and_sensor() -> None:
    days = Days()
    days.saw([outcome("a", 86400.0 * 3 - 1, 20.0, score=0.5), outcome("a", 86400.0 * 3, 21.0, score=0.6, flag=True)])
    days.saw([outcome("b", 86400.0 * 3, 50.0), outcome("b", 86400.0 * 3, math.nan), outcome("", None, None)])
    assert {sensor: values.count for sensor, values in days.latest().items()} == {"a": 1, "b": 1}
    found = {(day, sensor): sketch for day, sensor, sketch in days.take()}
    assert {place: (one.readings, one.flags, one.scores.count) for place, one in found.items()} == {
        (2, "a"): (1, 0, 1),
        (3, "a"): (1, 1, 1),
        (3, "b"): (1, 0, 0),
    }
    assert list(days.take()) == []


def test_ids_and_days_from_anywhere_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("axlebox.runtime.days._MOST", 20)
    days = Days()
    days.saw([outcome(f"s{at}", 86400.0 * at, 1.0) for at in range(5000)])
    days.saw([Outcome(0, "x", None, 1.0, INVALID)])
    assert len(list(days.take())) == 20


def test_who_asks_from_another_thread_counts_nothing_twice() -> None:
    days, ends, failures = Days(), threading.Event(), []

    def ask() -> None:
        while not ends.is_set():
            try:
                for values in days.latest().values():
                    Histogram(values.width, {}).merge(values)
            except RuntimeError as error:
                failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for batch in range(1000):
            value = float(batch * 7 % 400)
            days.saw([outcome(f"s{n}", 86400.0, value + n * 13 % 400) for n in range(64)])
    finally:
        ends.set()
        asker.join()
        sys.setswitchinterval(before)
    assert failures == []
    assert sum(sketch.readings for _, _, sketch in days.take()) == 64_000
