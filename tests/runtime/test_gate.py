"""The gate before the model: duplicate, backward and unphysical readings do not pass."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.runtime.contract import check_contract
from axlebox.runtime.gate import MAX_SENSORS, Gate, Verdict
from axlebox.runtime.readings import Reading, parse_time
from axlebox.runtime.statuses import INVALID, OK, RANGE, RATE, STUCK

NOON = parse_time("2022-09-10T12:00:00Z")
ONE_KIND = Contract(kinds={"temperature": Kind()})
TWO_KINDS = Contract(
    kinds={"bearing": Kind(), "coolant": Kind()}, sensors={"axle-1": Sensor("bearing"), "loop": Sensor("coolant")}
)


def refusal(door: Gate, reading: Reading) -> str | None:
    """Why a reading is not OK."""
    verdict = door.judge(reading)
    return None if verdict is None or verdict.status == OK else verdict.reason


def test_a_reading_that_moves_forward_passes() -> None:
    door = Gate(ONE_KIND)
    assert [refusal(door, Reading(NOON + step, "axle-1", 90.0)) for step in (0, 1e-6, 60)] == [None, None, None]


def test_a_time_that_repeats_is_refused_with_that_time() -> None:
    door = Gate(ONE_KIND)
    refusal(door, Reading(NOON, "axle-1", 90.0))
    assert refusal(door, Reading(NOON, "axle-1", 91.0)) == "its time repeats 2022-09-10T12:00:00Z"


def test_a_time_that_goes_back_is_refused_with_the_time_it_is_behind() -> None:
    door = Gate(ONE_KIND)
    refusal(door, Reading(NOON, "axle-1", 90.0))
    assert refusal(door, Reading(NOON - 1, "axle-1", 90.0)) == "its time goes back behind 2022-09-10T12:00:00Z"


def test_the_time_of_each_sensor_stands_for_itself() -> None:
    door = Gate(ONE_KIND)
    refusal(door, Reading(NOON, "axle-1", 90.0))
    assert refusal(door, Reading(NOON, "axle-2", 90.0)) is None
    assert refusal(door, Reading(NOON - 5, "axle-3", 90.0)) is None
    assert refusal(door, Reading(NOON, "axle-1", 90.0)) is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_finite_number_is_refused_and_its_time_is_not_taken(value: float) -> None:
    door = Gate(ONE_KIND)
    assert refusal(door, Reading(NOON, "axle-1", value)) == f"its value is {value}"
    assert refusal(door, Reading(NOON, "axle-1", 90.0)) is None


def test_a_refused_time_does_not_move_the_sensor_back() -> None:
    door = Gate(ONE_KIND)
    for step in (10, 0):
        refusal(door, Reading(NOON + step, "axle-1", 90.0))
    assert refusal(door, Reading(NOON + 5, "axle-1", 90.0)) is not None


def test_a_sensor_that_was_forgotten_begins_anew_and_the_others_do_not() -> None:
    door = Gate(ONE_KIND)
    for sensor in ("axle-1", "axle-2"):
        refusal(door, Reading(NOON, sensor, 90.0))
    door.forget("axle-1")
    door.forget("never heard of")
    assert refusal(door, Reading(NOON - 60, "axle-1", 90.0)) is None
    assert refusal(door, Reading(NOON - 60, "axle-2", 90.0)) is not None


def test_a_forgotten_sensor_no_longer_counts_towards_the_bound() -> None:
    door = Gate(ONE_KIND)
    for number in range(MAX_SENSORS):
        refusal(door, Reading(NOON, f"axle-{number}", 90.0))
    door.forget("axle-0")
    assert refusal(door, Reading(NOON, "one more", 90.0)) is None


def test_an_unknown_sensor_is_served_where_there_is_one_kind() -> None:
    assert refusal(Gate(ONE_KIND), Reading(NOON, "never heard of", 90.0)) is None


def test_an_unknown_sensor_is_refused_by_name_where_there_are_several_kinds() -> None:
    door = Gate(TWO_KINDS)
    assert refusal(door, Reading(NOON, "axle-1", 90.0)) is None
    assert "'axle-9' is not in the contract" in (refusal(door, Reading(NOON, "axle-9", 90.0)) or "")


def test_the_number_of_sensors_is_bounded_and_those_known_are_still_served() -> None:
    door = Gate(ONE_KIND)
    assert not any(refusal(door, Reading(NOON, f"axle-{number}", 90.0)) for number in range(MAX_SENSORS))
    assert refusal(door, Reading(NOON, "one more", 90.0)) == f"more than {MAX_SENSORS} sensors"
    assert refusal(door, Reading(NOON + 1, "axle-0", 90.0)) is None


@pytest.mark.parametrize("offset", [float("nan"), float("inf")])
def test_an_offset_that_cannot_be_added_is_refused_by_name(offset: float) -> None:
    contract = Contract(kinds={"temperature": Kind()}, sensors={"axle-1": Sensor("temperature", offset=offset)})
    with pytest.raises(Malformed, match=r"sensors\.axle-1\.offset"):
        check_contract(contract)


def test_a_sensor_of_an_unknown_kind_is_refused_by_name() -> None:
    contract = Contract(kinds={"temperature": Kind()}, sensors={"axle-1": Sensor("pressure")})
    with pytest.raises(Malformed, match=r"sensors\.axle-1\.kind: 'pressure'"):
        check_contract(contract)


def test_a_contract_with_every_check_off_is_accepted() -> None:
    check_contract(TWO_KINDS)
    check_contract(Contract(kinds={"temperature": Kind(unit="F", action="stop")}))


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("period_s", {"period_s": float("inf")}),
        ("max_rate_per_s", {"max_rate_per_s": float("nan")}),
        ("max_rate_per_s", {"max_rate_per_s": 0.0}),
        ("stuck_after_s", {"stuck_after_s": -1.0}),
        ("stuck_after_s", {"stuck_after_s": 60.0, "period_s": 60.0}),
        ("stale_after_s", {"stale_after_s": 30.0, "period_s": 60.0}),
        ("range", {"range": (10.0, 10.0)}),
        ("range", {"range": (20.0, 10.0)}),
        ("range", {"range": (float("-inf"), 10.0)}),
        ("range", {"range": (0.0, float("nan"))}),
        ("warn", {"warn": float("nan")}),
        ("critical", {"critical": float("inf")}),
        ("warn", {"warn": 120.0, "critical": 110.0}),
        ("warn", {"warn": 120.0, "critical": 120.0}),
        ("critical", {"critical": 300.0, "range": (-50.0, 250.0)}),
        ("warn", {"warn": -60.0, "range": (-50.0, 250.0)}),
    ],
)
def test_a_check_that_makes_no_sense_is_refused_by_name_wherever_a_contract_is_loaded(
    field: str, settings: dict[str, Any]
) -> None:
    contract = Contract(kinds={"temperature": Kind(), "coolant": Kind(**settings)})
    for load in (check_contract, Gate):
        with pytest.raises(Malformed, match=rf"kinds\.coolant\.{field}: "):
            load(contract)


def test_a_contract_with_every_check_on_is_accepted() -> None:
    check_contract(Contract(kinds={"bearing": EVERYTHING}))


# -- statuses -------------------------------------------------------------------------------------

EVERYTHING = Kind(
    period_s=1.0, range=(-40.0, 140.0), max_rate_per_s=5.0, stuck_after_s=60.0, stale_after_s=30.0, warn=110.0,
    critical=130.0, action="stop",
)  # fmt: skip
NAN = float("nan")


def live(seconds: int, value: float = 80.0) -> list[float]:
    """A sensor that lives: a little noise around a value, 1 Hz."""
    return [value + 0.1 * (number % 7) for number in range(seconds)]


def statuses(door: Gate, values: list[float], start: float = 0.0, period: float = 1.0, sensor: str = "a") -> list[str]:
    verdicts = [door.judge(Reading(NOON + start + period * n, sensor, value)) for n, value in enumerate(values)]
    return [OK if verdict is None else verdict.status for verdict in verdicts]


def a_gate(**settings: Any) -> Gate:
    return Gate(Contract(kinds={"bearing": Kind(**settings)}))


def test_a_short_circuit_is_a_sensor_at_once_and_the_sensor_is_well_again_when_it_is_repaired() -> None:
    door = Gate(Contract(kinds={"bearing": EVERYTHING}))
    assert statuses(door, [*live(30), *[-45.0] * 20, *live(5)]) == [OK] * 30 + [RANGE] * 20 + [OK] * 5


def test_a_short_circuit_to_a_value_inside_the_range_does_not_become_good_by_waiting() -> None:
    """120 degrees at 5 a second would be in reach after 24 s."""
    door = Gate(Contract(kinds={"bearing": EVERYTHING}))
    assert set(statuses(door, [*live(30), *[-40.0] * 200])[30:]) == {RATE}
    assert statuses(door, [-39.0, *live(3, -38.0)], start=230.0)[-1] == OK, (
        "what moves again, in reach, is a temperature"
    )


@pytest.mark.parametrize("value", [4000.0, 1e30])
def test_an_absurd_value_is_a_sensor_on_the_hot_side_too(value: float) -> None:
    assert statuses(a_gate(range=(-40.0, 140.0)), [80.0, value, 80.0]) == [OK, RANGE, OK]


def test_one_outlier_is_held_back_and_the_next_reading_is_compared_with_the_good_one_before() -> None:
    door = a_gate(max_rate_per_s=5.0)
    assert statuses(door, [80.0, 20.0, 80.5, 80.6]) == [OK, RATE, OK, OK]


def test_noise_between_two_readings_in_a_moment_is_no_rate() -> None:
    assert statuses(a_gate(max_rate_per_s=5.0), [80.0, 82.0, 79.0, 83.0], period=0.01) == [OK] * 4


def test_the_ends_of_the_range_are_inside_it() -> None:
    assert statuses(a_gate(range=(-40.0, 140.0)), [-40.0, 140.0]) == [OK] * 2


def test_a_frozen_sensor_is_stuck_until_it_moves() -> None:
    door = a_gate(stuck_after_s=60.0)
    assert statuses(door, [*live(10), *[85.0] * 100]) == [OK] * 70 + [STUCK] * 40
    assert statuses(door, [85.1, 85.2, 85.3], start=110) == [STUCK, OK, OK], "one stray value is not a move"


@pytest.mark.parametrize("dropout", [0.0, NAN, 300.0, 85.1])
@pytest.mark.parametrize("at", [5, 30, 59, 80])
def test_one_dropout_inside_a_stuck_run_does_not_hide_it(dropout: float, at: int) -> None:
    values = [85.0] * 120
    values[at] = dropout
    found = statuses(a_gate(stuck_after_s=60.0, range=(-40.0, 140.0)), values)
    del found[at]
    assert found == [OK] * (60 - (at < 60)) + [STUCK] * (60 - (at >= 60))


def test_a_coarse_sensor_that_flickers_lives() -> None:
    """One degree a bit, as J1939 sends it."""
    values = [90.0 + (number % 23 == 0) for number in range(1000)]
    assert set(statuses(a_gate(stuck_after_s=60.0), values)) == {OK}


def test_silence_is_not_sameness() -> None:
    door = a_gate(stuck_after_s=60.0)
    statuses(door, live(30))
    assert statuses(door, [80.1] * 2, start=8 * 3600.0) == [OK, OK]
    assert statuses(door, [80.1] * 2, start=16 * 3600.0) == [OK, OK]


# -- clocks ---------------------------------------------------------------------------------------

YEAR = 365 * 86400.0


def test_one_reading_dated_a_year_ahead_costs_three_readings_and_not_the_year() -> None:
    door = Gate(ONE_KIND)
    assert statuses(door, live(60)) == [OK] * 60
    assert statuses(door, [80.0], start=YEAR) == [OK]
    assert statuses(door, live(10), start=60.0) == [INVALID] * 3 + [OK] * 7


@pytest.mark.parametrize("ahead", [600.0, 86400.0, YEAR])
def test_a_clock_that_jumps_ahead_for_a_while_and_comes_back_is_followed_both_ways(ahead: float) -> None:
    door = Gate(ONE_KIND)
    statuses(door, live(60))
    assert set(statuses(door, live(100), start=ahead)) == {OK}
    assert statuses(door, live(10), start=160.0) == [INVALID] * 3 + [OK] * 7


def test_a_clock_that_was_years_ahead_from_the_first_reading_is_set_back() -> None:
    door = Gate(ONE_KIND)
    statuses(door, live(60), start=4 * YEAR)
    assert statuses(door, live(10)) == [INVALID] * 3 + [OK] * 7


def test_the_reading_that_is_followed_says_so_and_begins_anew() -> None:
    door = Gate(ONE_KIND)
    for second in (0.0, 1.0, YEAR, 2.0, 3.0, 4.0):
        door.judge(Reading(NOON + second, "a", 80.0))
    verdict = door.judge(Reading(NOON + 5.0, "a", 80.0))
    assert verdict == Verdict(OK, "its clock went back from 2023-09-10T12:00:00Z", anew=True)
    assert door.judge(Reading(NOON + 6.0, "a", 80.0)) is None


def test_readings_that_are_sent_again_are_never_followed() -> None:
    door = Gate(ONE_KIND)
    statuses(door, live(100))
    assert set(statuses(door, live(100))) == {INVALID}
    assert statuses(door, live(2), start=100.0) == [OK, OK]


def test_two_clocks_that_alternate_are_not_followed() -> None:
    door = Gate(ONE_KIND)
    statuses(door, live(10))
    mixed = [NOON + 20 + second + (YEAR if second % 2 == 0 else 0.0) for second in range(40)]
    found = [door.judge(Reading(time, "a", 80.0)) for time in mixed]
    assert [OK if verdict is None else verdict.status for verdict in found] == [OK, INVALID] * 20


def test_a_step_back_within_the_same_clock_is_not_followed() -> None:
    door = Gate(ONE_KIND)
    statuses(door, live(10))
    statuses(door, live(60), start=8 * 3600.0)
    assert set(statuses(door, live(30), start=8 * 3600.0 + 20)) == {INVALID}


def test_a_jump_of_the_clock_is_followed_with_checks_as_well_and_forgets_what_it_compared_with() -> None:
    door = Gate(Contract(kinds={"bearing": EVERYTHING}))
    statuses(door, live(30), start=YEAR)
    assert statuses(door, live(10, 20.0)) == [INVALID] * 3 + [OK] * 7


# -- gaps and silence -----------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "gap"), [({"stale_after_s": 60.0}, 61.0), ({"period_s": 1.0}, 11.0)])
def test_after_a_long_gap_the_state_begins_anew(settings: dict[str, float], gap: float) -> None:
    door = a_gate(**settings)
    statuses(door, live(30))
    assert door.judge(Reading(NOON + 29 + gap - 1, "a", 80.0)) is None
    verdict = door.judge(Reading(NOON + 29 + 2 * gap, "a", 80.0))
    assert verdict is not None and (verdict.status, verdict.anew) == (OK, True)
    assert door.judge(Reading(NOON + 30 + 2 * gap, "a", 80.0)) is None


def test_a_gap_of_good_readings_is_a_gap_whatever_else_came() -> None:
    door = a_gate(stale_after_s=60.0)
    statuses(door, [80.0, *[NAN] * 100])
    verdict = door.judge(Reading(NOON + 101, "a", 80.0))
    assert verdict is not None and verdict.reason == "no good reading for 101 s"


def stale(door: Gate) -> list[str]:
    return [name for name, _, _ in door.newly_stale()]


def test_a_sensor_that_falls_silent_is_found_by_the_readings_of_others() -> None:
    door = a_gate(stale_after_s=30.0)
    for second in range(100):
        for sensor in ("a", "b", "c"):
            if sensor != "b" or second < 10:
                door.judge(Reading(NOON + second, sensor, 80.0 + second % 3))
        assert stale(door) == (["b"] if second == 40 else [])
    door.judge(Reading(NOON + 100, "b", 80.0))
    assert stale(door) == []


def test_a_sensor_that_falls_silent_is_found_by_time_alone_whatever_the_clocks_say() -> None:
    door = a_gate(stale_after_s=30.0)
    for second in range(10):
        door.judge(Reading(NOON + YEAR + second, "a", 80.0))
        door.tick(5000.0 + second)
        door.tick(5000.5 + second)
    assert [number for number in range(60) if door.tick(5010.0 + number) or stale(door)] == [30]


def test_ticks_and_readings_are_not_added_up() -> None:
    """Readings at 1 Hz with two ticks to each of them: after 100 s nobody is silent for more than a moment."""
    door = a_gate(stale_after_s=3.0)
    for second in range(100):
        door.judge(Reading(NOON + second, "a", 80.0))
        for half in (0.0, 0.5):
            door.tick(second + half)
            assert stale(door) == []


def test_a_reading_dated_ahead_makes_nobody_else_stale() -> None:
    door = a_gate(stale_after_s=30.0)
    for sensor in ("a", "b"):
        statuses(door, live(5), sensor=sensor)
    door.judge(Reading(NOON + YEAR, "a", 80.0))
    assert stale(door) == []


def test_a_sensor_that_sends_nonsense_is_not_silent() -> None:
    door = a_gate(stale_after_s=30.0)
    for second in range(100):
        door.judge(Reading(NOON + second, "a", 80.0))
        door.judge(Reading(NOON + second, "b", NAN if second else 80.0))
        assert stale(door) == []


# -- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [(Kind(), 250), (EVERYTHING, 1000)])
def test_the_state_of_a_sensor_is_bounded(kind: Kind, most: int) -> None:
    """Bytes per sensor with its dictionary entries, every field a number of its own, an episode on."""
    door = Gate(Contract(kinds={"temperature": kind}))
    names = [f"axle-{number}" for number in range(1000)]
    tracemalloc.start()
    try:
        for name in names:
            for step in range(30):
                door.judge(Reading(NOON + 1.1 * step, name, 80.3 + 0.1 * step if step < 25 else 170.0 + step))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{size / len(names):.0f} bytes a sensor")
    assert size / len(names) < most


def test_endless_ids_and_endless_trouble_do_not_fill_the_memory() -> None:
    door = Gate(Contract(kinds={"bearing": EVERYTHING}))

    def feed(start: int) -> None:
        for number in range(start, start + 3 * MAX_SENSORS):
            for value in (80.0, 170.0):
                door.judge(Reading(NOON + number, f"sensor {number}", value))
            door.tick(float(number))
            list(door.newly_stale())

    feed(0)
    tracemalloc.start()
    try:
        feed(3 * MAX_SENSORS)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 200_000
