"""When an anomaly event is raised, told again and cleared."""

from __future__ import annotations

from axlebox.firmware_bundle.manifest import EventRules
from axlebox.runtime.alarms import RuledAlarm
from axlebox.runtime.streaming import Suspicion

RULES = EventRules(extreme_at=20.0, need=3, of=5, collect=3, hold_s=1000.0)
CALM = None


def at(tail_sum: float) -> Suspicion:
    return Suspicion(tail_sum, (tail_sum,), (1.0,), 1.0)


def told(*readings: tuple[Suspicion | None, float, bool]) -> list[str | None]:
    """What is told of one reading a second: suspicion, score, flag."""
    alarm = RuledAlarm(RULES)
    return [alarm.step(float(second), *reading) for second, reading in enumerate(readings)]


def test_one_extreme_reading_raises_at_once() -> None:
    assert told((at(19.9), 0.5, False), (at(20.0), 0.5, False)) == [None, "raised"]


def test_a_mild_event_takes_three_flags_in_five_readings() -> None:
    mild, plain = (at(15.0), 0.6, True), (at(15.0), 0.5, False)
    assert told(mild, plain, mild, plain, mild) == [None, None, None, None, "raised"]
    assert told(mild, plain, plain, mild, plain, plain, mild) == [None] * 7, "three flags in seven"


def test_flags_without_suspicion_raise_nothing() -> None:
    assert told(*[(CALM, 0.9, True)] * 20) == [None] * 20


def test_an_event_stays_raised_as_long_as_it_is_suspected_and_is_raised_again() -> None:
    hot = (at(30.0), 0.5, False)
    states = told(*[hot] * 100, (CALM, 0.4, False), hot)
    assert [one for one in states if one != "peak"] == ["raised", *[None] * 98, "cleared", "raised"]


def test_every_raise_is_followed_by_one_peak_with_the_best_score() -> None:
    alarm = RuledAlarm(RULES)
    scores = [0.6, 0.7, 0.9, 0.8, 0.5, 0.5, 0.5]
    states = [alarm.step(float(second), at(30.0), score, False) for second, score in enumerate(scores)]
    assert states == ["raised", None, None, "peak", None, None, None]
    assert alarm.best == 0.9


def test_a_later_peak_must_be_higher_or_come_after_the_hold() -> None:
    first = [(at(30.0), 0.7, True)] * 4
    same, higher = [(at(30.0), 0.7, True)] * 10, [(at(30.0), 0.8, True)] * 10
    assert "peak" not in told(*first, *same)[4:]
    assert told(*first, *higher)[4:].count("peak") == 1
    late = told(*first, *[(at(30.0), 0.7, True)] * 1100)[4:]
    assert late.count("peak") == 1 and late.index("peak") > 990


def test_a_mild_event_that_becomes_extreme_is_told_at_once() -> None:
    alarm = RuledAlarm(RULES)
    for second in range(3):
        alarm.step(float(second), at(15.0), 0.6, True)
    assert alarm.severity == "mild"
    assert alarm.step(3.0, at(25.0), 0.6, True) == "peak" and alarm.severity == "extreme"
