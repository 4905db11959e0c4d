"""`axlebox diff`: what changes between two releases, for whoever is about to sign the second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.export.approve import signer_names
from axlebox.export.evidence import SBOM
from axlebox.export.score import replay
from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import decode
from axlebox.firmware_bundle.trust import Proposal
from axlebox.runtime.readings import REPLACED, format_time
from axlebox.runtime.statuses import INVALID

_MODEL = "machine-learning-model"
_SHOWN_FLAGS = 10
_CHANGES_EVERY_TIME = ("version", "lineage.run", "lineage.code.commit")
"""Fields that say which release it is, told in the first line and not as differences."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs; None where one of the two has no such thing."""

    name: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.before or 'none'} -> {self.after or 'none'}"


@dataclass(frozen=True, slots=True)
class FlagChanges:
    """The flags of two releases on the same readings."""

    readings: int
    before: int
    after: int
    gained: tuple[str, ...]
    """Readings that only the second release flags, as `time sensor value`."""
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    settings: tuple[Change, ...]
    data: tuple[Change, ...]
    components: tuple[Change, ...]
    members: tuple[Change, ...]
    signers: tuple[Change, ...]
    flags: FlagChanges | None


def diff(before: Proposal, after: Proposal, readings: Path | None = None) -> Differences:
    """Everything that differs. Raises Malformed where `readings` holds no reading."""
    return Differences(
        settings=changes(_settings(before), _settings(after)),
        data=changes(*({one.name: one.sha256 for one in two.manifest.lineage.data} for two in (before, after))),
        components=changes(_components(before), _components(after)),
        members=changes(
            *({name: f"{len(data)} bytes" for name, data in two.members.items()} for two in (before, after))
        ),
        signers=changes({"targets": _signers(before)}, {"targets": _signers(after)}),
        flags=None if readings is None else _flag_changes(before, after, readings),
    )


def describe(before: Proposal, after: Proposal, found: Differences) -> list[str]:
    """Differences in lines for people."""
    lines = [f"{two.label}, {two.digest[:16]}: run {two.manifest.lineage.run}" for two in (before, after)]
    for title in ("settings", "data", "components", "members", "signers"):
        changes: tuple[Change, ...] = getattr(found, title)
        lines += [f"{title:10} {change}" for change in changes] or [f"{title:10} no difference"]
    if found.flags is not None:
        flags = found.flags
        lines.append(
            f"flags      {flags.before} -> {flags.after} of {flags.readings} readings: "
            f"{len(flags.gained)} gained, {len(flags.lost)} lost"
        )
        for title, some in (("gained", flags.gained), ("lost", flags.lost)):
            lines += [f"  {title:8} {one}" for one in some[:_SHOWN_FLAGS]]
            if len(some) > _SHOWN_FLAGS:
                lines.append(f"  and {len(some) - _SHOWN_FLAGS} more {title}")
    return lines


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs between two mappings, in the order of its names."""
    names = sorted({*before, *after})
    return tuple(
        Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def _settings(proposal: Proposal) -> dict[str, str]:
    """Every field of the manifest by its dotted name, but for data, proof and what changes every time."""
    plain = msgspec.to_builtins(proposal.manifest)
    del plain["parity"], plain["lineage"]["data"]
    return {name: value for name, value in flat("", plain) if name not in _CHANGES_EVERY_TIME}


def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Plain data as dotted names with their values in JSON."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(f"{prefix}.{name}" if prefix else name, inner)
    elif isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value):
        for number, inner in enumerate(value):
            yield from flat(f"{prefix}.{number}", inner)
    else:
        yield prefix, msgspec.json.encode(value).decode()


class _Hash(Struct, frozen=True):
    content: str


class _Component(Struct, frozen=True):
    type: str
    name: str
    version: str | None = None
    hashes: tuple[_Hash, ...] = ()


class _Bill(Struct, frozen=True):
    components: tuple[_Component, ...]


def _components(proposal: Proposal) -> dict[str, str]:
    """Components of the bill of materials: software by its version, a model by its digest."""
    if SBOM not in proposal.members:
        return {}
    bill = decode(proposal.members[SBOM], _Bill, f"{SBOM} of {proposal.label}")
    return {
        one.name: ", ".join(f"sha256 {digest.content}" for digest in one.hashes)
        if one.type == _MODEL
        else str(one.version)
        for one in bill.components
        if one.type != "data"  # told by the manifest
    }


def _signers(proposal: Proposal) -> str:
    return ", ".join(signer_names(proposal)[0])


def _flag_changes(before: Proposal, after: Proposal, readings: Path) -> FlagChanges:
    (count, first), (_, second) = _flags(before, readings), _flags(after, readings)
    gained = tuple(second[line] for line in sorted(second.keys() - first.keys()))
    lost = tuple(first[line] for line in sorted(first.keys() - second.keys()))
    return FlagChanges(count, len(first), len(second), gained, lost)


def _flags(proposal: Proposal, readings: Path) -> tuple[int, dict[int, str]]:
    """How many readings a file has, and those that a release flags, by line."""
    count, flagged = 0, {}
    for outcome in replay(proposal, readings):
        count += outcome.status not in (INVALID, REPLACED)
        if outcome.flag and outcome.time is not None:
            flagged[outcome.line] = f"{format_time(outcome.time)} {outcome.sensor} {outcome.value}"
    if not count:
        raise Malformed(f"{readings}: no reading found")
    return count, flagged
