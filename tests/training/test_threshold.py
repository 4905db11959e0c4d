"""From a target to a level: how rare a signal is, extrapolated."""

from __future__ import annotations

import numpy as np
import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.training.costs import Choice, cheapest
from axlebox.training.evaluation import lower_bound, upper_bound
from axlebox.training.parameters import CostParameters, ThresholdParameters, check
from axlebox.training.threshold import clusters, fit_tailing, target_per_sensor_day, unseen_level


def test_clusters_are_the_highest_of_runs_that_twelve_readings_part() -> None:
    signal = np.zeros(60)
    signal[[3, 5, 10]] = 2.0, 7.0, 1.0
    signal[[23, 40]] = 4.0, 5.0
    assert clusters(signal).tolist() == [7.0, 4.0, 5.0]
    signal[22] = 9.0
    assert clusters(signal).tolist() == [9.0, 5.0]
    assert clusters(np.zeros(5)).tolist() == []


@pytest.mark.parametrize("target", [2.0, 0.1, 0.01])
def test_an_exponential_signal_passes_its_level_at_about_the_target(target: float) -> None:
    """On other readings than it was fitted on: 2,000 days of one independent exponential value in two hours."""
    days = 2000
    first, second = np.zeros((2, days * 12 * 13))
    random = np.random.default_rng(0)
    for signal in (first, second):  # apart, so that each value is a cluster
        signal[::13] = random.exponential(3.0, days * 12)
    tailing = fit_tailing([first], days, target * days)
    assert tailing.mean == pytest.approx(3.0, rel=0.15)
    found = len(clusters(np.maximum(second - tailing.level(target), 0.0))) / days
    assert target / 2 < found < target * 2


def test_outliers_in_the_training_readings_hardly_raise_the_level() -> None:
    signal = np.zeros(20_000 * 13)
    signal[::13] = np.random.default_rng(0).exponential(1.0, 20_000)
    clean = fit_tailing([signal], 833).level(0.01)
    signal[:: 13 * 5000] = 1e6
    assert fit_tailing([signal], 833).level(0.01) == pytest.approx(clean, rel=0.2)


def test_sensors_that_differ_raise_the_level_for_one_that_nobody_saw() -> None:
    random = np.random.default_rng(0)

    def sensors(spread: float) -> list[np.ndarray]:
        found = []
        for number in range(8):
            signal = np.zeros(3000 * 13)
            signal[::13] = random.exponential(1.0 + spread * number, 3000)
            found.append(signal)
        return found

    alike, different = (unseen_level(sensors(spread), 800, 0.01) for spread in (0.0, 0.3))
    assert 0 < alike < different / 2
    assert unseen_level(sensors(0.3)[:3], 300, 0.01) == 0.0, "three sensors say too little of others"


SIBLINGS = {f"T204.{number}": Sensor("bearing", group="T204") for number in range(8)}


@pytest.mark.parametrize(
    ("settings", "sensors", "expected"),
    [
        ({}, {}, 0.1),
        ({"target_false_alarms_per_day": 0.4}, SIBLINGS, 0.05),
        ({"target_false_alarms_per_1000_hours": 1000 / 24}, SIBLINGS, 0.125),
        ({"target_false_alarms_per_day": 0.4, "sensors_per_vehicle": 2}, SIBLINGS, 0.2),
    ],
)
def test_a_target_is_a_vehicle_s_and_shared_by_its_sensors(
    settings: dict[str, float], sensors: dict[str, Sensor], expected: float
) -> None:
    contract = Contract({"bearing": Kind()}, sensors)
    assert target_per_sensor_day(ThresholdParameters(**settings), contract, "bearing") == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"threshold": {"contamination": 0.1, "target_false_alarms_per_day": 1}}, "set the others to null"),
        ({"threshold": {"least_cost": True, "contamination": 0.1}}, "set the others to null"),
        ({"threshold": {"least_cost": True}}, "needs costs"),
        ({"costs": {"false_alarm": 100}}, "only useful together"),
        ({"threshold": {"target_false_alarms_per_day": 0}}, "target_false_alarms_per_day"),
    ],
)
def test_two_targets_or_half_of_one_are_refused(wrong: dict[str, dict[str, float]], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        check({"bundle": {"name": "x"}, **wrong})


@pytest.mark.parametrize(("events", "upper", "lower"), [(0, 2.996, 0.0), (3, 7.754, 0.818), (10, 16.962, 5.425)])
def test_bounds_are_the_exact_ones_of_a_poisson_count(events: int, upper: float, lower: float) -> None:
    """Tabulated one-sided 95 % bounds: Pearson and Hartley, Biometrika Tables, Table 40."""
    assert upper_bound(events, 2.0) == pytest.approx(upper / 2, abs=1e-3)
    assert lower_bound(events, 2.0) == pytest.approx(lower / 2, abs=1e-3)
    assert upper_bound(events, 0.0) is None


def test_the_cheapest_target_weighs_false_alarms_against_misses() -> None:
    """By hand: a level of 10 - 2 ln(t) a day; half of the faults reach 12, half 20."""
    peaks = np.array([12.0, 20.0])

    def level(per_day: float) -> float:
        return 10.0 - 2.0 * float(np.log(per_day))

    def choose(alarm: float, miss: float, faults: float = 1.0) -> Choice:
        return cheapest(CostParameters("EUR", alarm, miss, faults), peaks, level)

    dear_miss = choose(alarm=1.0, miss=1e6)
    assert dear_miss.missed_share == 0.0 and dear_miss.per_vehicle_day == pytest.approx(np.exp(-1), rel=0.3)
    dear_alarm = choose(alarm=1e4, miss=1e5)
    assert dear_alarm.missed_share == 0.5 and dear_alarm.per_vehicle_day == pytest.approx(np.exp(-5), rel=0.3)
    assert dear_alarm.cost_per_year == pytest.approx(1e4 * 365 * dear_alarm.per_vehicle_day + 0.5e5)
    assert choose(alarm=1e6, miss=1.0).per_vehicle_day == pytest.approx(1e-4), "no fault is worth an alarm"
