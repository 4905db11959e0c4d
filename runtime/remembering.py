"""What the parts of a Monitor remember, as plain values that can be kept and put back, exact to the bit.

A part names its fields in order; `kept` and `put_back` do the rest. States are only put back into
parts made by the same release and the same runtime (snapshots.py), so no form but the present one is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

State = Any
"""Numbers, texts, lists and dictionaries of them: what msgpack holds. Valid until its part takes the next reading."""

V = TypeVar("V")


def kept(part: object, names: Sequence[str]) -> list[Any]:
    return [getattr(part, name) for name in names]


def put_back(part: object, names: Sequence[str], state: State) -> None:
    """Raises ValueError where the state is another part's."""
    for name, value in zip(names, state, strict=True):
        setattr(part, name, value)


def by_sensor(parts: Mapping[str, V], state: Callable[[V], State]) -> dict[str, State]:
    """The states of the sensors' parts."""
    return {name: state(part) for name, part in parts.items()}


def of_sensors(states: Mapping[str, V], sensors: Collection[str]) -> dict[str, V]:
    """Some of what `by_sensor` gave."""
    return {name: state for name, state in states.items() if name in sensors}
