"""The gate before the model: duplicate, backward and unphysical readings do not pass."""

from __future__ import annotations

import pytest

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.runtime.contract import check_contract
from axlebox.runtime.gate import MAX_SENSORS, Gate
from axlebox.runtime.readings import Reading, parse_time
from axlebox.runtime.statuses import OK

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
