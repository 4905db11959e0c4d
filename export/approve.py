"""`axlebox approve`: one more signature on a bundle, and nothing else touched."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root

from axlebox.export.keys import name_of
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES, pack, unpack
from axlebox.firmware_bundle.errors import TooFewSignatures, UsageError
from axlebox.firmware_bundle.trust import Proposal, examine
from axlebox.firmware_bundle.tuf_client import parse_root, serialise


def approve(path: Path, trust: bytes, signer: Signer, now: datetime) -> Proposal:
    """Add a signature in role targets to a bundle that is in order; returns what it is then.

    Raises TooFewSignatures where the key has no such role, and UsageError where it signed already.
    """
    data = disk.read_bounded(path, MAX_CONTAINER_BYTES)
    found = examine(data, trust, now)
    root = parse_root(found.root).signed
    key_id = signer.public_key.keyid
    if key_id not in root.roles["targets"].keyids:
        raise TooFewSignatures(f"key {key_id[:16]} has no role targets under root {root.version}; nothing was signed")
    if key_id in found.signed_by:
        raise UsageError(f"{name_of(root.keys[key_id])} has signed {path} already; nothing changed")
    members = unpack(data)
    metadata: Metadata[Any] = Metadata.from_bytes(members["targets.json"])
    metadata.sign(signer, append=True)
    signed = pack({**members, "targets.json": serialise(metadata)})
    after = examine(signed, trust, now)
    with disk.explained():
        disk.replace_durable(path, signed)
    return after


def signer_names(proposal: Proposal) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who signed a bundle in role targets, and who else might, by name."""
    root: Root = parse_root(proposal.root).signed
    listed = {key_id: name_of(root.keys[key_id]) for key_id in root.roles["targets"].keyids}
    signed = tuple(sorted(listed[key_id] for key_id in proposal.signed_by))
    return signed, tuple(sorted(name for key_id, name in listed.items() if key_id not in proposal.signed_by))
