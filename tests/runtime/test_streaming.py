"""The feature set `streaming`: what it sees, what it never learns, and that it is the same everywhere."""

from __future__ import annotations

import ast
import hashlib
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from axlebox.firmware_bundle.errors import Malformed
from axlebox.runtime import baselines, siblings, streaming, tails
from axlebox.runtime.outcomes import Outcome
from axlebox.runtime.readings import Reading
from axlebox.runtime.statuses import WARMING
from axlebox.runtime.streaming import Streaming
from axlebox.runtime.streaming_constants import NAMES, Constants
from tests.runtime.conftest import BEARINGS, PERIOD, Bearing, bearings, stream

DAY = int(86400 / PERIOD)
HOT = BEARINGS[2]
Sensors = Mapping[str, Sequence[Reading]]


def heated(sensors: Sensors, heat: Callable[[int], float], name: str = HOT) -> dict[str, list[Reading]]:
    """One bearing warmer by so many degrees at each of its readings."""
    made = {other: list(readings) for other, readings in sensors.items()}
    made[name] = [msgspec.structs.replace(one, value=one.value + heat(n)) for n, one in enumerate(sensors[name])]
    return made


def raised(outcomes: Sequence[Outcome]) -> list[bool]:
    return [one.event is not None for one in outcomes]


def anomalies(outcomes: Sequence[Outcome], *states: str) -> list[dict[str, Any]]:
    return [
        event
        for one in outcomes
        for event in one.events
        if event["type"] == "anomaly" and event["state"] in (states or ("raised", "cleared"))
    ]


# -- faults ----------------------------------------------------------------------------------------


def test_healthy_bearings_raise_nothing_in_a_month(bearing: Bearing) -> None:
    found = bearing.outcomes(bearings(30, seed=2))
    assert not any(any(raised(outcomes)) for outcomes in found.values())


def test_a_step_is_raised_at_once_stays_raised_and_is_raised_again_when_it_comes_back(bearing: Bearing) -> None:
    on = [range(5 * DAY, 9 * DAY), range(12 * DAY, 16 * DAY)]
    found = bearing.outcomes(heated(bearings(20, seed=3), lambda n: 25.0 * any(n in one for one in on)))
    up = np.array(raised(found[HOT]))
    for one in on:
        assert up[one.start : one.stop].all()
    assert not up[: on[0].start].any() and not up[11 * DAY : 12 * DAY].any() and not up[18 * DAY :].any()
    assert [event["state"] for event in anomalies(found[HOT])] == ["raised", "cleared"] * 2
    assert len({event["id"] for event in anomalies(found[HOT])}) == 2
    assert not any(any(raised(found[name])) for name in BEARINGS if name != HOT)


@pytest.mark.parametrize(("per_day", "within_days"), [(2.0, 4.0), (10.0, 1.2), (40.0, 0.4)])
def test_a_ramp_is_raised_long_before_a_limit_would_and_stays_raised(
    bearing: Bearing, per_day: float, within_days: float
) -> None:
    found = bearing.outcomes(heated(bearings(25, seed=4), lambda n: min(40.0, per_day * max(0, n - 4 * DAY) / DAY)))
    up = np.array(raised(found[HOT]))
    first = int(np.argmax(up))
    assert 4 * DAY <= first <= (4 + within_days) * DAY
    assert up[first:].mean() >= 0.95


def test_a_sensor_that_training_never_saw_is_served_by_its_kind(bearing: Bearing) -> None:
    strangers = bearings(8, seed=5, ids=tuple(f"T999.{number}" for number in range(4)))
    found = bearing.outcomes(heated(strangers, lambda n: 40.0 * (n >= 6 * DAY), "T999.1"))
    assert all(raised(found["T999.1"])[6 * DAY :]) and not any(raised(found["T999.0"]))


def test_an_event_says_which_features_and_how_far_outside_normal(bearing: Bearing) -> None:
    found = bearing.outcomes(heated(bearings(6, seed=6), lambda n: 25.0 * (n >= 5 * DAY)))
    (event,) = anomalies(found[HOT], "raised")
    assert event["severity"] == "extreme" and event["action"] == "look at the bearing"
    assert event["tail_sum"] >= event["extreme_at"] == bearing.spec.events.extreme_at  # type: ignore[union-attr]
    first = event["why"][0]
    assert first["feature"] == "jump" and first["value"] == pytest.approx(25, abs=6) and first["tails"] > 5
    assert [one["tails"] for one in event["why"]] == sorted((one["tails"] for one in event["why"]), reverse=True)
    peaks = anomalies(found[HOT], "peak")
    assert peaks and peaks[0]["id"] == event["id"] and peaks[0]["tail_sum"] >= event["tail_sum"]


# -- it does not learn its own fault -----------------------------------------------------------------


def learned(sensor: Streaming) -> dict[str, Any]:
    """All of the reference's memory but its filters, which always move."""
    reference = sensor._reference
    filters = {"_c", "_fast", "_sibling_slow", "_warmed"}
    return {name: getattr(reference, name) for name in type(reference).__slots__ if name not in filters}


def test_nothing_is_learnt_while_something_is_suspected(bearing: Bearing) -> None:
    sensor = Streaming(bearing.spec.features.constants)
    readings = bearings(30, seed=7)[HOT]
    for number, reading in enumerate(readings[: 4 * DAY]):
        sensor.update(reading, 0.2, number < 300)
    before = pickle.dumps(learned(sensor))
    trained = pickle.dumps([getattr(sensor._tails, name) for name in type(sensor._tails).__slots__])
    for reading in readings[4 * DAY :]:
        sensor.update(msgspec.structs.replace(reading, value=reading.value + 25.0), 25.2, warming=False)
        assert sensor.suspected
    assert pickle.dumps(learned(sensor)) == before
    assert pickle.dumps([getattr(sensor._tails, name) for name in type(sensor._tails).__slots__]) == trained


def test_a_fault_leaves_no_trace_once_its_shadow_is_forgotten(bearing: Bearing) -> None:
    constants = replace(bearing.constants, shadow_s=PERIOD).flat()
    readings = bearings(12, seed=8)[HOT]
    sensor = Streaming(constants)
    for number, reading in enumerate(readings):
        hot = 25.0 * (5 * DAY <= number < 6 * DAY)
        sensor.update(msgspec.structs.replace(reading, value=reading.value + hot), hot, number < 300)
        if 5 * DAY <= number < 6 * DAY:
            assert sensor._shadow is not None
    assert sensor._shadow is None


def test_what_a_sensor_learns_stays_within_the_signed_bounds_and_reaching_them_is_an_event(bearing: Bearing) -> None:
    """So slow a drift that no single reading is suspicious, in a kind whose bound is near."""
    constants = replace(bearing.constants, offset_bound=0.05, offset_s=3 * 86400.0, suspect_at=1e300)
    spec = msgspec.structs.replace(
        bearing.spec, features=msgspec.structs.replace(bearing.spec.features, constants=constants.flat())
    )
    fitted = replace(bearing.trained.fitted["bearing"], spec=spec)
    drifting = Bearing(replace(bearing.trained, fitted={"bearing": fitted}))
    found = drifting.outcomes(heated(bearings(30, seed=9), lambda n: 6.0 * n / (30 * DAY)))
    drifts = [event for one in found[HOT] for event in one.events if event["type"] == "drift"]
    assert drifts[-1]["state"] == "raised" and drifts[-1]["baseline"] == "distance from siblings"
    assert drifts[-1]["action"] == "look at the bearing"


# -- time ----------------------------------------------------------------------------------------


def test_a_clock_that_is_not_trusted_has_no_hour_and_teaches_none(bearing: Bearing) -> None:
    constants = bearing.spec.features.constants
    assert constants["hour_of_day"] == 1.0
    answers = []
    for shift in (0.0, 5 * 3600.0):
        sensor = Streaming(constants)
        for number, reading in enumerate(bearings(3, seed=10)[HOT]):
            at_1970 = msgspec.structs.replace(reading, time=number * PERIOD + shift)
            answers.append(sensor.update(at_1970, 0.1, number < 300))
        assert not any(sensor._reference._hours_s)
    assert answers[: len(answers) // 2] == answers[len(answers) // 2 :], "the hour of day was used"


def test_after_a_long_gap_filters_begin_anew_and_what_is_known_of_the_sensor_stays(bearing: Bearing) -> None:
    sensor = Streaming(bearing.spec.features.constants)
    readings = bearings(10, seed=11)[HOT]
    for number, reading in enumerate(readings[: 8 * DAY]):
        sensor.update(reading, 0.4, number < 300)
    hours, offset = list(sensor._reference._hours), sensor._reference._offset
    monday = readings[8 * DAY].time + 3 * 86400
    sensor.update(Reading(monday, HOT, readings[8 * DAY].value - 30.0), 0.4, warming=False)
    assert not sensor.suspected and sensor.values[:3] == (0.0, 0.0, 0.0)
    assert sum(a != b for a, b in zip(hours, sensor._reference._hours, strict=True)) <= 1
    assert sensor._reference._offset == pytest.approx(offset, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_lost_readings_and_late_ones_raise_nothing_and_hide_no_fault(bearing: Bearing, seed: int) -> None:
    random = np.random.default_rng(seed)
    fault = heated(bearings(14, seed=20 + seed), lambda n: 25.0 * (n >= 12 * DAY))
    thinned = {
        name: [
            msgspec.structs.replace(one, time=one.time + random.uniform(0, 0.4 * PERIOD))
            for one in readings
            if random.random() > 0.3
        ]
        for name, readings in fault.items()
    }
    found = bearing.outcomes(thinned)
    begin = fault[HOT][12 * DAY].time
    for name, outcomes in found.items():
        before = [one for one in outcomes if (one.time or 0) < begin]
        assert not any(raised(before)), name
    after = raised([one for one in found[HOT] if (one.time or 0) >= begin])
    assert np.mean(after) > 0.95


# -- the same everywhere -------------------------------------------------------------------------


def digest(outcomes: Sequence[Outcome]) -> str:
    """Sums, statuses and events of every reading, to the last bit."""
    parts = [f"{one.status} {one.event} {one.flag} {struct.pack('<d', one.tail_sum or 0.0).hex()}" for one in outcomes]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def test_a_stream_that_ends_anywhere_has_the_same_answers_up_to_there(bearing: Bearing) -> None:
    readings = stream(heated(bearings(6, seed=12), lambda n: 25.0 * (n >= 4 * DAY)))
    whole = bearing.trained.monitor().process(readings)
    for cut in (1, 77, 1201, 4 * 4 * DAY + 1, len(readings) - 1):
        part = bearing.trained.monitor().process(readings[:cut])
        assert digest(part) == digest(whole[:cut])
        assert [one.score for one in part] == [one.score for one in whole[:cut]]


def test_however_a_stream_is_cut_into_batches_and_after_a_restart_events_are_the_same(bearing: Bearing) -> None:
    readings = stream(heated(bearings(6, seed=12), lambda n: 25.0 * (n >= 4 * DAY)))
    whole = bearing.trained.monitor().process(readings)
    monitor, parts, random = bearing.trained.monitor(), [], np.random.default_rng(1)
    while len(parts) < len(readings):
        size = int(random.integers(1, 400))
        parts += monitor.process(readings[len(parts) : len(parts) + size])
    assert digest(parts) == digest(whole)
    assert [event["id"] for event in anomalies(parts)] == [event["id"] for event in anomalies(whole)]


def test_warming_sensors_raise_nothing(bearing: Bearing) -> None:
    found = bearing.outcomes(heated(bearings(3, seed=13), lambda n: 60.0 * (n == 200)))
    assert found[HOT][200].status == WARMING and not any(raised(found[HOT]))


def test_memory_does_not_grow_with_time(bearing: Bearing) -> None:
    def numbers(sensor: Streaming) -> int:
        parts = [sensor._reference] if sensor._shadow is None else [sensor._reference, sensor._shadow._baselines]
        values = [getattr(part, name) for part in parts for name in type(part).__slots__ if name != "_c"]
        return sum(len(one) if isinstance(one, list) else 1 for one in values)

    sensor = Streaming(bearing.spec.features.constants)
    sizes = []
    for number, reading in enumerate(bearings(60, seed=14)[HOT]):
        hot = 25.0 * (number >= 30 * DAY)
        sensor.update(msgspec.structs.replace(reading, value=reading.value + hot), hot, number < 300)
        sizes.append(numbers(sensor))
    assert max(sizes) <= 2 * 120 and sizes[-1] == sizes[30 * DAY + 1]


CAPABILITIES = ("", "-AVX512F,-AVX512VL,-AVX2,-FMA,-FMA4,-AVX", "-AVX2,-FMA,-AVX,-SSE4_1,-SSE4_2")


@pytest.mark.skipif(sys.platform != "linux", reason="hardware capabilities are glibc's")
def test_every_processor_computes_the_same_bits(bearing: Bearing, tmp_path: Path) -> None:
    """glibc chooses its mathematics by the processor; here it is told that capabilities are missing."""
    (tmp_path / "constants.json").write_bytes(msgspec.json.encode(bearing.spec.features.constants))
    readings = heated(bearings(8, seed=15), lambda n: 25.0 * (n >= 5 * DAY))[HOT]
    (tmp_path / "readings.json").write_bytes(msgspec.json.encode([(one.time, one.value) for one in readings]))
    program = (
        "import hashlib, json, math, struct, sys\n"
        "from axlebox.runtime.readings import Reading\n"
        "from axlebox.runtime.streaming import Streaming\n"
        "sensor = Streaming(json.load(open('constants.json')))\n"
        "seen = hashlib.sha256()\n"
        "for n, (time, value) in enumerate(json.load(open('readings.json'))):\n"
        "    row = sensor.update(Reading(time, 'a', value), 0.1 * (n % 7), n < 300)\n"
        "    seen.update(struct.pack('<6d', *row, sensor.tail_sum))\n"
        "library = hashlib.sha256(b''.join(struct.pack('<d', math.exp(0.001 * n)) for n in range(100000)))\n"
        "print(seen.hexdigest(), library.hexdigest())\n"
    )
    answers = []
    for capabilities in CAPABILITIES:
        environment = {**os.environ, "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={capabilities}"} if capabilities else None
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.split())
    assert len({own for own, _ in answers}) == 1
    if len({library for _, library in answers}) == 1:
        pytest.skip("this processor's capabilities change nothing in glibc's exp: the comparison proves nothing")


@pytest.mark.parametrize("module", [baselines, siblings, streaming, tails])
def test_the_arithmetic_is_plus_minus_times_divided_and_square_roots(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import) and getattr(node, "module", "") in ("math", "numpy", None)
        for alias in node.names
    }
    assert imported <= {"sqrt"}
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.Pow)]
    assert not powers, "a power is a function of the mathematics library"


# -- constants -----------------------------------------------------------------------------------


def test_constants_come_back_from_the_manifest_as_they_were(bearing: Bearing) -> None:
    flat = bearing.spec.features.constants
    again = msgspec.json.decode(msgspec.json.encode(flat))
    assert Constants.parse(again).flat() == flat and flat.keys() == NAMES


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scale": None}, "scale"),
        ({"colour": 1.0}, "colour"),
        ({"scale": 0.0}, "scale is 0"),
        ({"period_s": float("nan")}, "period_s is nan"),
        ({"fast_s": -1.0}, "fast_s is -1"),
        ({"jump.up.excess": 0.0}, "jump.up.excess is 0"),
        ({"blocks": 2.5}, "blocks is 2.5"),
        ({"blocks": 1e6}, "blocks is 1000000.0"),
        ({"lowest": 5.0, "highest": 4.0}, "lowest is above highest"),
    ],
)
def test_constants_that_make_no_sense_are_refused_by_name(
    bearing: Bearing, change: dict[str, float | None], named: str
) -> None:
    constants = {
        name: value for name, value in {**bearing.spec.features.constants, **change}.items() if value is not None
    }
    with pytest.raises(Malformed, match=named.replace(".", r"\.")):
        Streaming(constants)
