"""`axlebox approve`: one more signature on a bundle, and nothing else touched."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root

from axlebox.export.keys import SHOWN_ID, add_signature, name_of
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES, pack, unpack
from axlebox.firmware_bundle.errors import Damaged, TooFewSignatures, UsageError
from axlebox.firmware_bundle.trust import Proposal, examine
from axlebox.firmware_bundle.tuf_client import parse_root, serialise

CLOCK_MARGIN = timedelta(days=1)
"""How far ahead of our clock a release may say that it was made."""


def approve(path: Path, trust: bytes, signer: Signer, now: datetime, digest: str) -> Proposal:
    """Add a signature in role targets to a bundle that is in order; returns what it is then.

    `digest` is the beginning of the one that the signer has looked at, perhaps none of it. Raises
    Damaged where the bundle's is another, TooFewSignatures where the key has no such role, and
    UsageError where it signed already or the release time lies in the future.
    """
    data = disk.read_bounded(path, MAX_CONTAINER_BYTES)
    found = examine(data, trust, now)
    if not found.digest.startswith(digest):
        raise Damaged(f"{path} has the digest {found.digest[:16]}, expected {digest}; nothing was signed")
    if found.released > now + CLOCK_MARGIN:
        raise UsageError(
            f"{path} says that it was released on {found.released:%Y-%m-%d}, and the clock here says {now:%Y-%m-%d}: "
            "a vehicle that confirms it would refuse what is released before. Nothing was signed"
        )
    root = parse_root(found.root).signed
    key_id = signer.public_key.keyid
    if key_id not in root.roles["targets"].keyids:
        raise TooFewSignatures(
            f"key {key_id[:SHOWN_ID]} has no role targets under root {root.version}; nothing was signed"
        )
    if key_id in found.signed_by:
        raise UsageError(f"{name_of(root.keys[key_id])} has signed {path} already; nothing changed")
    members = unpack(data)
    metadata: Metadata[Any] = Metadata.from_bytes(members["targets.json"])
    add_signature(metadata, signer)
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
