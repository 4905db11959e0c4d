"""Feature sets by name: how the readings of one sensor become rows for the model.

One implementation serves training and the vehicle. Other packages may bring more (own_sets.py); `Plain` is what such
a set begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Protocol, Self

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import FeatureSet
from axlebox.runtime import own_sets
from axlebox.runtime.own_sets import Name
from axlebox.runtime.readings import Reading
from axlebox.runtime.remembering import State, kept, put_back
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


class Plain:
    """What a feature set of one's own begins with: it suspects nothing, learns nothing within bounds, and its flags
    are its events. Its state is in the attributes that `remembered` names; after a long gap it begins anew.

    >>> class Change(Plain):
    ...     names = ("change",)
    ...     remembered = ("before",)
    ...     before: float | None = None
    ...     def update(self, reading, deviation, warming):
    ...         change = 0.0 if self.before is None else reading.value - self.before
    ...         self.before = reading.value
    ...         return (change,)
    >>> axle = Change({})
    >>> axle.update(Reading(0.0, "axle", 90.5), None, False), axle.update(Reading(60.0, "axle", 92.0), None, False)
    ((0.0,), (1.5,))
    >>> again = Change({})
    >>> again.restore(axle.state())  # as after a restart of the daemon
    >>> again.update(Reading(120.0, "axle", 91.0), None, False)
    (-1.0,)

    Only + - * / and sqrt give the same bits on every processor.
    """

    names: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, float]] = {}
    """The constants that it takes, with what they are where parameters.yml says nothing; times in seconds.

    With one called `sibling_fresh_s`, `deviation` is from siblings that were read in so many seconds, else None.
    """
    remembered: ClassVar[tuple[str, ...]] = ()
    """Its attributes that survive a restart of the daemon: numbers, texts, None, lists and dictionaries of them."""
    suspected = False
    suspicion: Suspicion | None = None
    tail_sum: float | None = None
    usual_distance = 0.0
    drifted = 0

    def __init__(self, constants: Mapping[str, float]) -> None:
        """Raises Malformed where the constants are not those that it takes."""
        if constants.keys() != self.defaults.keys():
            raise Malformed(
                f"feature set {type(self).__name__.lower()} takes {', '.join(self.defaults) or 'no constants'}, "
                f"found {', '.join(constants) or 'none'}"
            )
        self.constants = constants

    @classmethod
    def maker(cls, constants: Mapping[str, float]) -> Callable[[], Self]:
        return partial(cls, constants)

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        raise NotImplementedError

    def restart(self) -> bool:
        return False

    def state(self) -> State:
        return kept(self, self.remembered)

    def restore(self, state: State) -> None:
        put_back(self, self.remembered, state)


class Value(Plain):
    """The reading itself: what the talk's detector sees."""

    names: ClassVar[tuple[str, ...]] = ("value",)

    def update(self, reading: Reading, deviation: float | None, warming: bool) -> tuple[float, ...]:
        return (reading.value,)


_SETS: dict[Name, type[Features]] = {("value", 1): Value, ("streaming", 1): Streaming}
KNOWN_SETS = frozenset(_SETS)
"""Name and version of every feature set that this runtime has itself."""


def known_sets() -> frozenset[Name]:
    """Name and version of every feature set that can be found here, those of other packages included."""
    return KNOWN_SETS | own_sets.named()


def find(spec: FeatureSet) -> type[Features]:
    """The class of a feature set; those of this runtime come first.

    Raises Malformed where it is unknown, PreflightFailed where the package that brings it is not in order.
    """
    key = (spec.name, spec.version)
    found = _SETS.get(key)
    if found is None and key in known_sets():
        found = own_sets.load(key)
    if found is None:
        known = ", ".join(f"{name} {version}" for name, version in [*_SETS, *sorted(known_sets() - KNOWN_SETS)])
        raise Malformed(f"feature set {spec.name} {spec.version} is unknown to this runtime, which has {known}")
    return found
