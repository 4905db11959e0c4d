"""Feature sets by name: how the readings of one sensor become rows for the model.

One implementation serves training and the vehicle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Protocol

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import FeatureSet
from axlebox.runtime.readings import Reading
from axlebox.runtime.remembering import State
from axlebox.runtime.streaming import Streaming, Suspicion


class Features(Protocol):
    """The bounded state of one sensor."""

    names: ClassVar[tuple[str, ...]]
    suspected: bool
    """Whether the set itself suspects something since the latest reading,"""

    def __init__(self, constants: Mapping[str, float]) -> None: ...

    @classmethod
    def maker(cls, constants: Mapping[str, float]) -> Callable[[], Features]:
        """What makes the state of one sensor after the other, with the same constants."""

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        """The feature row of the next reading; one number for each of the set's names.

        `deviation` is the sensor's from its siblings (siblings.py), None where there are none.
        """

    def restart(self) -> bool:
        """The next reading comes after a long gap or by another clock; False where nothing is worth keeping."""

    def state(self) -> State:
        """All that it knows of its sensor, but for what it said of the latest reading."""

    def restore(self, state: State) -> None: ...

    @property
    def suspicion(self) -> Suspicion | None:
        """and what."""

    @property
    def tail_sum(self) -> float | None:
        """How far outside normal the latest reading lies (tails.py), where the set knows tails."""

    @property
    def usual_distance(self) -> float:
        """What is learnt of its distance from its siblings' median, in the kind's unit."""

    @property
    def drifted(self) -> int:
        """What has been learnt up to its bound: a bit for each of baselines.LEARNED."""


class Value:
    """The reading itself: what the talk's detector sees."""

    names: ClassVar[tuple[str, ...]] = ("value",)
    suspected = False
    suspicion = None
    tail_sum = None
    usual_distance = 0.0
    drifted = 0

    def __init__(self, constants: Mapping[str, float]) -> None:
        if constants:
            raise Malformed(f"feature set value takes no constants, found {', '.join(constants)}")

    @classmethod
    def maker(cls, constants: Mapping[str, float]) -> Callable[[], Value]:
        return partial(cls, constants)

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        return (reading.value,)

    def restart(self) -> bool:
        return False

    def state(self) -> State:
        return None

    def restore(self, state: State) -> None:
        pass


_SETS: dict[tuple[str, int], type[Features]] = {("value", 1): Value, ("streaming", 1): Streaming}
KNOWN_SETS = frozenset(_SETS)
"""Name and version of every feature set that this runtime computes."""


def find(spec: FeatureSet) -> type[Features]:
    """The class of a feature set. Raises Malformed where this runtime does not know it."""
    found = _SETS.get((spec.name, spec.version))
    if found is None:
        known = ", ".join(f"{name} {version}" for name, version in _SETS)
        raise Malformed(f"feature set {spec.name} {spec.version} is unknown to this runtime, which has {known}")
    return found
