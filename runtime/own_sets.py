"""Feature sets that other packages bring, by the entry-point group `axlebox.features`:

    [project.entry-points."axlebox.features"]
    rate-1 = "my_fleet.features:Rate"

The entry's name is the set's name and version. Looking for them reads what is installed and imports nothing; the
module is imported when a manifest asks for its set. It is code that whoever built this machine's image installed, and
is trusted like the runtime itself (docs/decisions/0020-own-feature-sets.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from axlebox.firmware_bundle.errors import PreflightFailed

GROUP = "axlebox.features"
Name = tuple[str, int]
"""Of a feature set, with its version."""
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]*(?:-[A-Za-z0-9._]+)*)-([1-9][0-9]{0,8})")
_LONGEST = 64
RESERVED = frozenset({"value", "streaming"})
"""The runtime's own names: no other package may bring a set of them, in whatever version."""
_NEEDED = ("names", "maker", "update", "restart", "state", "restore")
_offered: dict[Name, Callable[[], Any]] = {}


def parse(name: str) -> Name | None:
    """`rate-1` as ("rate", 1); None where an entry is not named like that."""
    found = _NAMED.fullmatch(name)
    return (found[1], int(found[2])) if found and len(name) <= _LONGEST else None


def offer(sets: Mapping[Name, Callable[[], Any]]) -> None:
    """Make the sets of a workspace known, each by what loads its class, in place of those offered before.

    They go before installed ones. Only the workstation does so: there a package need not be installed.
    """
    _offered.clear()
    _offered.update(sets)


def named() -> frozenset[Name]:
    return frozenset(_offered) | frozenset(_installed())


def suppliers() -> list[str]:
    """What is installed here beside the runtime, in words: `rate-1 of my-fleet 0.1.0`."""
    return sorted(f"{entry.name} of {_package(entry)}" for entries in _installed().values() for entry in entries)


def load(key: Name) -> Any:
    """The class of a set that is named here. Raises PreflightFailed where its package is not in order."""
    what = f"feature set {key[0]} {key[1]}"
    loads = _offered.get(key)
    if loads is None:
        entries = _installed()[key]
        if len(entries) > 1:
            raise PreflightFailed(f"{what} comes from {' and '.join(map(_package, entries))}. DO: remove one of them")
        what, loads = f"{what} of {_package(entries[0])}", entries[0].load
    try:
        found = loads()
    except Exception as error:  # whatever somebody else's module raises
        raise PreflightFailed(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error
    missing = [name for name in _NEEDED if not hasattr(found, name)]
    if missing or not isinstance(found, type):
        raise PreflightFailed(
            f"{what} is no feature set: it lacks {', '.join(missing) or 'a class'}. "
            "DO: derive it from axlebox.runtime.features.Plain"
        )
    return found


def _installed() -> dict[Name, list[EntryPoint]]:
    found: dict[Name, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        key = parse(entry.name)
        if key is not None and key[0] not in RESERVED:
            found.setdefault(key, []).append(entry)
    return found


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
