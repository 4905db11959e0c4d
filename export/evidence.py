"""The members of a bundle that people and their tools read; the vehicle only checks their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from axlebox.export.card import card
from axlebox.export.provenance_statement import statement
from axlebox.export.sbom import sbom
from axlebox.export.vehicle_lock import vehicle_lock
from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import Manifest, decode
from axlebox.firmware_bundle.trust import MANIFEST

CARD = "card.md"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.json"

SHOWN = {"card": CARD, "sbom": SBOM, "provenance": PROVENANCE, "manifest": MANIFEST}
"""What `axlebox inspect --show` calls a member."""


class _Components(Struct, frozen=True):
    components: tuple[dict[str, Any], ...]


class _Subjects(Struct, frozen=True):
    subject: tuple[dict[str, Any], ...]


def evidence(manifest: Manifest, files: Mapping[str, bytes], evaluation: Mapping[str, Any]) -> dict[str, bytes]:
    """Card, component list and provenance of a release, by member name.

    `files` are its other signed members, `evaluation` is that of run.json. Of a run's record no
    more is taken: the rest names a person and a time.
    """
    made = {CARD: card(manifest, evaluation), SBOM: sbom(manifest, files, evaluation, vehicle_lock())}
    return {**made, PROVENANCE: statement(manifest, {**files, **made})}


def read_member(members: Mapping[str, bytes], what: str) -> bytes:
    """A member that SHOWN lists, as it is. Raises UsageError where the bundle has none."""
    name = SHOWN[what]
    if name not in members:
        raise UsageError(f"there is no {name} in this bundle; it holds {', '.join(sorted(members))}")
    return members[name]


def summarise(members: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
    """What evidence a bundle holds, as plain data and in lines for people."""
    record: dict[str, Any] = {}
    lines = []
    if SBOM in members:
        record["sbom"] = decode(members[SBOM], dict[str, Any], SBOM)
        lines.append(f"sbom      {SBOM}, {len(decode(members[SBOM], _Components, SBOM).components)} components")
    if PROVENANCE in members:
        record["provenance"] = decode(members[PROVENANCE], dict[str, Any], PROVENANCE)
        subjects = decode(members[PROVENANCE], _Subjects, PROVENANCE).subject
        lines.append(f"statement {PROVENANCE}, about {len(subjects)} members")
    if CARD in members:
        record["card"] = members[CARD].decode("ascii", "backslashreplace")
        lines.append(f"card      {CARD}: --show card prints it")
    return record, lines
