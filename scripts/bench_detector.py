"""`./scripts/bench detector`: what a reading costs in features, tails, siblings and events, and what a sensor keeps.

Everything but the model, whose answers are constants here: `./scripts/bench scorer` measures that.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from time import process_time

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Kind, Sensor
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import Reading
from axlebox.runtime.streaming import Streaming
from axlebox.training.experiment import train_detector
from axlebox.training.simulate import Fleet, make_readings

GROUP = 8
DAYS = 20
BATCH = 256
ROUNDS = 5
HOT = 25.0


def no_model(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.full(len(rows), 0.5), np.zeros(len(rows), dtype=np.bool_)


def per_reading_us(contract: Contract, spec: DetectorSpec, readings: Sequence[Reading], warm: int) -> float:
    """Best of some rounds through a whole Monitor, past the first `warm` readings."""
    best = np.inf
    for _ in range(ROUNDS):
        monitor = Monitor(contract, {spec.kind: Detector(spec, no_model)}, Origin("bench", 1, "0" * 64))
        monitor.process(readings[:warm])
        began = process_time()
        for start in range(warm, len(readings), BATCH):
            monitor.process(readings[start : start + BATCH])
        best = min(best, (process_time() - began) / (len(readings) - warm))
    return best * 1e6


def main() -> None:
    times, names, values, _ = make_readings(Fleet(1, GROUP, DAYS, faults=0))
    readings = [
        Reading(time, name, value)
        for time, row in zip(times.tolist(), values.tolist(), strict=True)
        for name, value in zip(names, row, strict=True)
    ]
    contract = Contract({"bearing": Kind()}, {name: Sensor("bearing", group="T01") for name in names})
    frame = pd.DataFrame({key: [getattr(one, key) for one in readings] for key in ("time", "sensor", "value")})
    spec = train_detector(frame, contract).fitted["bearing"].spec
    bare = DetectorSpec("bearing", "model.onnx", FeatureSet("value", 1), 0.5)
    warm = GROUP * 2 * spec.warmup
    heated = [
        Reading(one.time, one.sensor, one.value + HOT * (number >= warm) * (1 + names.index(one.sensor) % 2))
        for number, one in enumerate(readings)
    ]
    gate = per_reading_us(contract, bare, readings, warm)
    calm, worst = (per_reading_us(contract, spec, some, warm) - gate for some in (readings, heated))
    print(f"gate and outcome alone                        {gate:6.2f} us a reading")
    print(f"features, tails, siblings of {GROUP}, events, calm    {calm:6.2f} us more")
    print(f"the same, every sensor in a sustained fault   {worst:6.2f} us more (goal: at most 12)")
    sensor = Streaming(spec.features.constants)
    for number, one in enumerate(one for one in heated if one.sensor == names[0]):
        sensor.update(one, HOT if sensor.suspected else 0.0, number < spec.warmup)
    kept = [sensor._reference, *([] if sensor._shadow is None else [sensor._shadow._baselines])]
    numbers = sum(
        len(value) if isinstance(value, list) else 1
        for one in kept
        for value in (getattr(one, name) for name in type(one).__slots__ if name != "_c")
    )
    print(f"a sensor keeps {numbers} numbers during a fault, {8 * numbers:,} bytes as float64,", end=" ")
    print(
        f"{len(pickle.dumps([[getattr(one, n) for n in type(one).__slots__ if n != '_c'] for one in kept])):,} pickled"
    )


if __name__ == "__main__":
    main()
