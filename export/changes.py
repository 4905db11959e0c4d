"""What differs between two records, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs; None where one of the two has no such thing."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.before or 'none'} -> {self.after or 'none'}"


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What two records have differently, in order of the names."""
    names = sorted({*before, *after})
    return tuple(
        Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every value of plain data as JSON, by its dotted name."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(f"{prefix}.{name}" if prefix else name, inner)
    elif isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value):
        for number, inner in enumerate(value):
            yield from flat(f"{prefix}.{number}", inner)
    else:
        yield prefix, msgspec.json.encode(value).decode()
