"""Feature sets by name: how the readings of one sensor become rows for the model.

One implementation serves training and the vehicle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import FeatureSet
from axlebox.runtime.readings import Reading


class Features(Protocol):
    """The bounded state of one sensor."""

    names: ClassVar[tuple[str, ...]]

    def __init__(self, constants: Mapping[str, float]) -> None: ...

    def update(self, reading: Reading) -> tuple[float, ...]:
        """The feature row of the next reading; one number for each of the set's names."""


class Value:
    """The reading itself: what the talk's detector sees."""

    names: ClassVar[tuple[str, ...]] = ("value",)

    def __init__(self, constants: Mapping[str, float]) -> None:
        if constants:
            raise Malformed(f"feature set value takes no constants, found {', '.join(constants)}")

    def update(self, reading: Reading) -> tuple[float, ...]:
        return (reading.value,)


_SETS: dict[tuple[str, int], type[Features]] = {("value", 1): Value}
KNOWN_SETS = frozenset(_SETS)
"""Name and version of every feature set that this runtime computes."""


def find(spec: FeatureSet) -> type[Features]:
    """The class of a feature set. Raises Malformed where this runtime does not know it."""
    found = _SETS.get((spec.name, spec.version))
    if found is None:
        known = ", ".join(f"{name} {version}" for name, version in _SETS)
        raise Malformed(f"feature set {spec.name} {spec.version} is unknown to this runtime, which has {known}")
    return found
