"""From signed files to the bundle's bytes: TUF metadata around them, all in one container."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from axlebox.firmware_bundle.container import pack
from axlebox.firmware_bundle.trust import RELEASE_FIELD
from axlebox.firmware_bundle.tuf_client import serialise


@dataclass(frozen=True, slots=True)
class ReleaseTime:
    released: datetime
    expires: datetime


def build_bundle(
    files: Mapping[str, bytes],
    roots: Mapping[str, bytes],
    version: int,
    time: ReleaseTime,
    targets_signers: Sequence[Signer],
    build_signer: Signer,
) -> bytes:
    """The bundle of these files; the same inputs give the same bytes (Ed25519 is deterministic).

    timestamp and snapshot pin versions and no hashes, so that `approve` can add the signatures
    that targets.json still lacks and leave them as they are.
    """
    record = {
        "released": time.released.isoformat().replace("+00:00", "Z"),
        "roots": {name: hashlib.sha256(data).hexdigest() for name, data in roots.items()},
    }
    targets = Targets(
        version=version,
        expires=time.expires,
        targets={name: TargetFile.from_data(name, data, ["sha256"]) for name, data in files.items()},
        unrecognized_fields={RELEASE_FIELD: record},
    )
    snapshot = Snapshot(version=version, expires=time.expires, meta={"targets.json": MetaFile(version)})
    timestamp = Timestamp(version=version, expires=time.expires, snapshot_meta=MetaFile(version))
    members = {**files, **roots}
    for name, signed, signers in (
        ("targets.json", targets, targets_signers),
        ("snapshot.json", snapshot, [build_signer]),
        ("timestamp.json", timestamp, [build_signer]),
    ):
        metadata: Metadata[Any] = Metadata(signed)
        for signer in signers:
            metadata.sign(signer, append=True)
        members[name] = serialise(metadata)
    return pack(members)
