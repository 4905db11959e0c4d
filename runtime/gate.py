"""The gate before the model: only readings that can be readings get through.

A reading that is held back is reported as sensor status, never as an anomaly.
"""

from __future__ import annotations

import math

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract
from axlebox.runtime.readings import Reading, format_time

MAX_SENSORS = 4096
LARGEST = 3.4028234663852886e38
"""The largest float32, which is what models take; NaN and infinities are not below it either."""

_CHECKS = ("period_s", "range", "max_rate_per_s", "stuck_after_s", "stale_after_s", "warn", "critical")


def check_contract(contract: Contract) -> None:
    """Refuse what a contract asks for and this version would not do. Raises Malformed.

    A check that is set and silently not made would be worse than none.
    """
    for name, kind in contract.kinds.items():
        for check in _CHECKS:
            if getattr(kind, check) is not None:
                raise Malformed(f"contract, kinds.{name}.{check}: not supported yet; set it to null")
    for name, sensor in contract.sensors.items():
        if sensor.kind not in contract.kinds:
            raise Malformed(f"contract, sensors.{name}.kind: {sensor.kind!r} is not one of the kinds")
        if not math.isfinite(sensor.offset):
            raise Malformed(f"contract, sensors.{name}.offset: {sensor.offset} is not a number to add")


class Gate:
    """Decides on each reading in order of arrival, with one remembered time for each sensor."""

    def __init__(self, contract: Contract) -> None:
        check_contract(contract)
        self._contract = contract
        self._last: dict[str, float] = {}

    def refuse(self, reading: Reading) -> str | None:
        """Why a reading is INVALID, or None when it is OK."""
        last = self._last.get(reading.sensor)
        if last is None:
            if self._contract.kind_of(reading.sensor) is None:
                return f"sensor {reading.sensor!r} is not in the contract, which has several kinds"
            if len(self._last) >= MAX_SENSORS:
                return f"more than {MAX_SENSORS} sensors"
        elif reading.time <= last:
            how = "repeats" if reading.time == last else "goes back behind"
            return f"its time {how} {format_time(last)}"
        if not abs(reading.value) <= LARGEST:
            return f"its value is {reading.value}"
        self._last[reading.sensor] = reading.time
        return None

    def __len__(self) -> int:
        """How many sensors are known by a reading that got through."""
        return len(self._last)

    def last(self, sensor: str) -> float:
        """Time of a known sensor's last reading that got through."""
        return self._last[sensor]

    def forget(self, sensor: str) -> None:
        """The next reading of a sensor is its first."""
        self._last.pop(sensor, None)
