from __future__ import annotations

import numpy as np
import pytest

from axlebox.training.faults import DAY_S, FAULTS, SPELL_S, Fault

TIMES = 1e9 + 300.0 * np.arange(60 * 288)
VALUES = np.round(30 + 10 * np.sin(TIMES / 5000) + np.random.default_rng(0).standard_normal(len(TIMES)), 1)
ONSET = float(TIMES[2000])


def put(name: str, onset: float = ONSET, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return FAULTS[name].apply(TIMES, VALUES, onset, np.random.default_rng(1), scale)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_nothing_changes_before_the_onset_or_where_there_is_no_reading_after_it(fault: Fault) -> None:
    values, faulty = put(fault.name)
    assert np.array_equal(values[:2000], VALUES[:2000]) and not faulty[:2000].any()
    assert np.array_equal(VALUES, np.round(VALUES, 1)), "the values given are not written into"
    values, faulty = put(fault.name, TIMES[-1] + 1)
    assert np.array_equal(values, VALUES) and not faulty.any()
    empty = np.zeros(0)
    assert [len(one) for one in fault.apply(empty, empty, 0.0, np.random.default_rng(0))] == [0, 0]


@pytest.mark.parametrize(
    "fault", [one for one in FAULTS.values() if one.name != "cold-start"], ids=lambda one: one.name
)
def test_a_fault_changes_values_in_its_time_only(fault: Fault) -> None:
    values, faulty = put(fault.name)
    assert faulty.any() and np.array_equal(values[~faulty], VALUES[~faulty])
    assert not np.array_equal(values[faulty], VALUES[faulty])


def test_a_spike_is_one_reading() -> None:
    values, faulty = put("spike", ONSET - 299)
    assert np.flatnonzero(faulty).tolist() == [2000] and values[2000] == pytest.approx(VALUES[2000] + 60)


def test_a_step_stays_and_a_scale_of_a_half_halves_it() -> None:
    assert (put("step")[0] - VALUES)[2000:] == pytest.approx(25)
    assert (put("step", scale=0.5)[0] - VALUES)[2000:] == pytest.approx(12.5)


@pytest.mark.parametrize(("name", "per_day"), [("ramp-1", 1), ("ramp-5", 5), ("ramp-20", 20), ("drift", 0.1)])
def test_a_ramp_has_its_slope_until_its_cap(name: str, per_day: float) -> None:
    rise = (put(name)[0] - VALUES)[2000:]
    days = (TIMES[2000:] - ONSET) / DAY_S
    assert rise == pytest.approx(np.minimum(days * per_day, FAULTS[name].size))


def test_a_quick_rise_is_capped_one_reading_later() -> None:
    assert (put("rise")[0] - VALUES)[2000:2003] == pytest.approx([0, 40, 40])


def test_a_ramp_of_negative_size_falls() -> None:
    assert (put("ramp-20", scale=-1)[0] - VALUES)[-1] == pytest.approx(-40)


def test_a_repeated_fault_is_there_twice_with_a_repair_of_the_same_length_between() -> None:
    faulty = put("repeated")[1]
    edges = np.flatnonzero(np.diff(faulty.astype(int))) + 1
    assert edges.tolist() == [2000, 2300, 2600, 2900] and SPELL_S == 300 * 300


def test_a_stuck_sensor_repeats_its_first_value() -> None:
    assert set(put("stuck")[0][2000:].tolist()) == {VALUES[2000]}


def test_a_dropout_is_error_values_among_good_ones() -> None:
    values, faulty = put("dropout")
    assert set(values[faulty].tolist()) == {-40.0} and 2 < faulty[2000:2024].sum() < 22 and not faulty[2024:].any()


def test_a_noise_burst_has_its_deviation() -> None:
    values, faulty = put("noise", scale=2.0)
    assert faulty.sum() == 72 and (values - VALUES)[faulty].std() == pytest.approx(10, rel=0.3)


def test_a_cold_start_cools_to_the_air_and_comes_back_and_is_no_fault() -> None:
    values, faulty = put("cold-start")
    air = VALUES[2000 - 288 : 2000].min()
    cold = values[2000 + 60 : 2000 + 120]
    assert cold == pytest.approx(air, abs=2) and len(set(cold.tolist())) > 10
    assert values[2300:] == pytest.approx(VALUES[2300:], abs=0.1)
    assert not faulty.any() and not FAULTS["cold-start"].alarms
