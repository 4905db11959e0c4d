"""Whether a data contract can be kept: the same check in training, at export and where a release is loaded."""

from __future__ import annotations

import math

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, Kind

_SPANS = ("period_s", "max_rate_per_s", "stuck_after_s", "stale_after_s")
_LIMITS = ("warn", "critical")


def check_contract(contract: Contract) -> None:
    """Refuse a contract that makes no sense. Raises Malformed naming the field.

    A check that is set and can never do what it says would be worse than none.
    """
    for name, kind in contract.kinds.items():
        problem = _problem(kind)
        if problem is not None:
            raise Malformed(f"contract, kinds.{name}.{problem}")
    for name, sensor in contract.sensors.items():
        if sensor.kind not in contract.kinds:
            raise Malformed(f"contract, sensors.{name}.kind: {sensor.kind!r} is not one of the kinds")
        if not math.isfinite(sensor.offset):
            raise Malformed(f"contract, sensors.{name}.offset: {sensor.offset} is not a number to add")


def _problem(kind: Kind) -> str | None:
    """The first field that makes no sense, and why."""
    numbers = {field: number for field in (*_SPANS, *_LIMITS) if (number := getattr(kind, field)) is not None}
    for field, number in numbers.items():
        if not math.isfinite(number) or (number <= 0 and field in _SPANS):
            return f"{field}: {number} is not {'a number above 0' if field in _SPANS else 'a temperature'}"
    return _problem_of_range(kind, numbers) or _problem_of_order(kind) or _problem_of_drill(kind)


def _problem_of_drill(kind: Kind) -> str | None:
    for number, one in enumerate(kind.must_see):
        if (one.size is not None) != (one.fault in ("step", "ramp")):
            what = "needs a size" if one.size is None else "has no size"
            return f"must_see[{number}].size: a fault {one.fault!r} {what}"
        if not math.isfinite(one.within_s) or not math.isfinite(one.size or 0.0):
            return f"must_see[{number}]: {one.size} within {one.within_s} s are no finite numbers"
    return None


def _problem_of_range(kind: Kind, numbers: dict[str, float]) -> str | None:
    if kind.range is None:
        return None
    low, high = kind.range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"range: [{low}, {high}] is not a lowest and a highest value"
    for field in _LIMITS:
        if not low < numbers.get(field, high) <= high:
            return f"{field}: {numbers[field]} lies outside the range [{low}, {high}], which no sensor would report"
    return None


def _problem_of_order(kind: Kind) -> str | None:
    if kind.warn is not None and kind.critical is not None and kind.warn >= kind.critical:
        return f"warn: {kind.warn} is not below critical, {kind.critical}"
    for field, number in (("stuck_after_s", kind.stuck_after_s), ("stale_after_s", kind.stale_after_s)):
        if number is not None and kind.period_s is not None and number <= kind.period_s:
            return f"{field}: {number} is no longer than period_s, {kind.period_s}: every sensor would be at fault"
    return None
