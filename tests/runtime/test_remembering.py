"""A monitor that is given another one's state goes on exactly as that one does."""

from __future__ import annotations

import itertools
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, EventRules, FeatureSet, Kind, Sensor
from axlebox.runtime.detector import Detector, Monitor, restricted
from axlebox.runtime.outcomes import Origin, Outcome
from axlebox.runtime.readings import BadLine, Reading
from axlebox.training.experiment import TrainedDetector
from tests.runtime.conftest import BEARINGS, Bearing, faulty_days


def moved(monitor: Monitor, fresh: Monitor) -> Monitor:
    """Another monitor with the first one's state, by way of the bytes that are kept."""
    fresh.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(monitor.state())))
    return fresh


def plain(outcomes: list[Outcome]) -> list[Any]:
    return [msgspec.to_builtins(outcome) for outcome in outcomes]


def with_noise() -> list[Any]:
    """And lines that are no readings."""
    return [*faulty_days()[:8000], *[BadLine(0, "no reading")] * 10, *faulty_days()[8000:]]


def make(bearing: Bearing) -> Monitor:
    kind = Kind(
        range=(-40.0, 180.0), max_rate_per_s=1.0, stuck_after_s=14_400.0, stale_after_s=7200.0, warn=60.0, critical=90.0
    )
    contract = Contract({"bearing": kind}, {name: Sensor("bearing", group="T204") for name in BEARINGS})
    return TrainedDetector(contract, bearing.trained.fitted).monitor()


def test_cut_anywhere_the_outcomes_and_events_are_the_same(bearing: Bearing) -> None:
    items = with_noise()
    whole = plain(make(bearing).process(items))
    kinds = {(event["type"], event["state"]) for one in whole for event in one["events"]}
    assert {("anomaly", "raised"), ("limit", "raised"), ("sensor", "stuck"), ("sensor", "hot-or-sensor")} <= kinds
    assert {("sensor", "stale"), ("sensor", "replaced"), ("sensor", "invalid"), ("anomaly", "cleared")} <= kinds
    random = np.random.default_rng(3)
    cuts = [0, *sorted(random.choice(np.arange(1, len(items)), 60, replace=False).tolist()), len(items)]
    monitor, found = make(bearing), []
    for start, end in itertools.pairwise(cuts):
        monitor = moved(monitor, make(bearing))
        found += plain(monitor.process(items[start:end]))
    assert found == whole


def test_the_state_is_small_and_quickly_taken(bearing: Bearing) -> None:
    """In one run: no more time than scoring a hundred readings of each sensor takes."""
    monitor = make(bearing)
    items = with_noise()
    began = time.perf_counter()
    monitor.process(items)
    scored_s = (time.perf_counter() - began) / len(items)
    began = time.perf_counter()
    body = msgspec.msgpack.encode(monitor.state())
    assert len(body) < len(BEARINGS) * 6000
    assert time.perf_counter() - began < 100 * scored_s * len(BEARINGS)


def test_some_sensors_alone_go_on_like_all(bearing: Bearing) -> None:
    """What an alarm's own record holds: the sensors of one group, without those that do not matter to them."""
    items = with_noise()
    others = [msgspec.structs.replace(one, sensor=f"X-{one.sensor}") for one in items if isinstance(one, Reading)]
    mixed = [one for pair in zip(items, others, strict=False) for one in pair]
    monitor = make(bearing)
    monitor.process(mixed[:15_000])
    alone = make(bearing)
    alone.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(restricted(monitor.state(), BEARINGS))))
    rest = mixed[15_000:]
    mine = [one for one in rest if not (isinstance(one, Reading) and one.sensor.startswith("X-"))]
    expected = [one for one in monitor.process(rest) if not one.sensor.startswith("X-")]
    found = alone.process(mine)
    keep = ("score", "tail_sum", "flag", "status", "event")
    assert [[getattr(one, name) for name in keep] for one in found if one.status != "invalid"] == [
        [getattr(one, name) for name in keep] for one in expected if one.status != "invalid"
    ]


def test_a_state_of_another_shape_is_refused(bearing: Bearing) -> None:
    monitor = make(bearing)
    monitor.process(with_noise()[:2000])
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(monitor.state()))
    for broken in (None, [], state[:-1], [state[0], {}, *state[2:]], [[1.0, {"x": []}, []], *state[1:]]):
        with pytest.raises((ValueError, TypeError, KeyError)):
            make(bearing).restore(broken)


@pytest.mark.parametrize("rules", [None, EventRules(extreme_at=5.0, need=2, of=3, collect=2, hold_s=60.0)])
def test_a_detector_of_raw_values_keeps_its_alarms(rules: EventRules | None) -> None:
    def monitor() -> Monitor:
        spec = DetectorSpec("temperature", "m.onnx", FeatureSet("value", 1), 0.5, warmup=3, events=rules)
        detector = Detector(spec, lambda rows: (rows[:, 0].astype(np.float64), rows[:, 0] > 150))
        return Monitor(Contract({"temperature": Kind()}), {"temperature": detector}, Origin("a", 1, "0" * 64))

    values = [100, 200, 100, 300, 310, 100, 100, 200, 90]
    items = [Reading(float(at), "temperature", float(value)) for at, value in enumerate(values)]
    whole = plain(monitor().process(items))
    one, found = monitor(), []
    for item in items:
        one = moved(one, monitor())
        found += plain(one.process([item]))
    assert found == whole
