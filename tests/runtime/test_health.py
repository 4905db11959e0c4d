"""What the daemon says of itself: a silent source, a score that never changes, memory."""

from __future__ import annotations

from typing import Any

import pytest

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.runtime import health as health_module
from axlebox.runtime.config import HealthSettings
from axlebox.runtime.health import Health, TooMuchMemory, memory_bytes, patience_s
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.statuses import OK

CONTRACT = Contract({"bearing": Kind(period_s=300.0), "oil": Kind(period_s=1.0)})
DAY_S = 86400.0


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process is no daemon."""
    monkeypatch.setattr(health_module, "memory_bytes", lambda: 50 * 2**20)


def answered(value: float, score: float | None, tail_sum: float | None = None) -> dict[str, tuple[Outcome, float]]:
    return {"axle-7": (Outcome(0, "axle-7", 0.0, value, OK, score=score, tail_sum=tail_sum), 0.0)}


def short(events: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return [(event["what"], event["state"], event["sensor"]) for event in events]


def test_a_source_may_be_silent_for_three_of_the_longest_periods_or_a_minute() -> None:
    assert patience_s(CONTRACT) == 900.0
    assert patience_s(Contract({"a": Kind()})) == 60.0 == patience_s(Contract({"a": Kind(period_s=1.0)}))


def test_silence_is_raised_once_and_cleared_with_the_next_reading() -> None:
    health = Health(HealthSettings(), CONTRACT, now=0.0)
    assert health.turn(900.0, {}) == []
    (raised,) = health.turn(900.5, {})
    assert short([raised]) == [("no-data", "raised", None)] and raised["reason"] == "no reading for 900 s"
    assert health.turn(2000.0, {}) == []
    health.heard(2000.0)
    (cleared,) = health.turn(2000.5, {})
    assert short([cleared]) == [("no-data", "cleared", None)] and health.raised == {}


def test_a_score_that_never_changes_while_values_do_is_flat() -> None:
    health = Health(HealthSettings(no_data_after_s=1e7), CONTRACT, now=0.0)
    events = []
    for at in range(1, 8700):
        events += health.turn(10.0 * at, answered(20.0 + at % 7, 0.5, 0.0))
    assert short(events) == [("flat-score", "raised", "axle-7")]
    assert short(health.turn(90_000.0, answered(20.0, 0.5, 0.1))) == [("flat-score", "cleared", "axle-7")]


@pytest.mark.parametrize(
    ("settings", "values", "scores"),
    [
        (HealthSettings(), [20.0], [0.5]),  # a value that never changes either is `stuck`, and the gate's business
        (HealthSettings(), [20.0, 21.0], [0.5, 0.6]),
        (HealthSettings(), [20.0, 21.0], [None]),
        (HealthSettings(flat_score_after_s=0), [20.0, 21.0], [0.5]),
    ],
)
def test_other_scores_are_not_flat(settings: HealthSettings, values: list[float], scores: list[float | None]) -> None:
    health = Health(settings, CONTRACT, now=0.0)
    events = []
    for at in range(1, 9000):
        health.heard(10.0 * at)
        events += health.turn(10.0 * at, answered(values[at % len(values)], scores[at // 3 % len(scores)]))
    assert events == []


def test_memory_beyond_its_bound_ends_the_daemon_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health(HealthSettings(max_memory_mib=100.0), CONTRACT, now=0.0)
    monkeypatch.setattr(health_module, "memory_bytes", lambda: 100 * 2**20)
    assert health.turn(10.0, {}) == []
    monkeypatch.setattr(health_module, "memory_bytes", lambda: 101 * 2**20)
    assert health.turn(15.0, {}) == [], "it is looked at every ten seconds"
    with pytest.raises(
        TooMuchMemory, match=r"takes 101 MiB of memory, at most 100 are allowed \(health.max_memory_mib"
    ):
        health.turn(20.0, {})
    assert TooMuchMemory.exit_code == 70


def test_the_memory_is_the_kernel_s_figure() -> None:
    (line,) = [one for one in open("/proc/self/status") if one.startswith("VmRSS")]  # noqa: SIM115
    assert memory_bytes() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)
