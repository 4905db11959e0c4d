"""The vehicle's lock, requirements/vehicle.txt, which travels inside the distribution as axlebox.locks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>.+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """One package in one version; a package may be locked twice, under markers that exclude each other."""

    name: str
    version: str
    marker: str | None
    """Where it is installed, as in `python_full_version < '3.12'` (PEP 508); None: everywhere."""
    sha256: tuple[str, ...]
    """Of every file that this version may be installed from, in hex."""

    @property
    def purl(self) -> str:
        return pypi_purl(self.name, self.version)


def pypi_purl(name: str, version: str) -> str:
    """The package URL of a Python package: it names the package, and no place to get it from."""
    return f"pkg:pypi/{name}@{version}"


def vehicle_lock() -> tuple[Locked, ...]:
    return parse_lock(resources.files("axlebox.locks").joinpath("vehicle.txt").read_text("ascii"))


def parse_lock(text: str) -> tuple[Locked, ...]:
    """Every package of a lock in its order. Raises ValueError at a line of another form than uv writes."""
    found = []
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *_ = entry.partition(" --hash=")
        package = _PACKAGE.fullmatch(requirement.strip())
        hashes = tuple(_HASH.findall(entry))
        if package is None or not hashes:
            raise ValueError(f"a lock does not say {entry[:80]!r}")
        found.append(Locked(package["name"], package["version"], package["marker"], hashes))
    return tuple(found)
