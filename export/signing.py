"""From signed files to the bundle's bytes: TUF metadata around them, all in one container."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from axlebox.export.approve import CLOCK_MARGIN
from axlebox.export.keys import SHOWN_ID, AskSecret, add_signature, load_signer
from axlebox.export.roots import keys_at_hand, read_root
from axlebox.firmware_bundle.container import pack
from axlebox.firmware_bundle.errors import PreflightFailed, UsageError
from axlebox.firmware_bundle.trust import RELEASE_FIELD
from axlebox.firmware_bundle.tuf_client import parse_root, serialise
from axlebox.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ReleaseTime:
    released: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys at hand: one for timestamp and snapshot, any number, also none, for targets."""

    build: Signer
    targets: tuple[Signer, ...]


def release_time() -> datetime:
    """SOURCE_DATE_EPOCH where it is set (reproducible-builds.org), else now; whole seconds, UTC.

    Raises UsageError where it is no time, or one in the future.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        released = datetime.fromtimestamp(int(given), UTC) if given else now
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH is {given!r}, expected whole seconds since 1970") from error
    if released > now + CLOCK_MARGIN:
        raise UsageError(f"the release time {released:%Y-%m-%d} lies in the future; nothing was written")
    return released


def load_signers(workspace: Workspace, places: Sequence[str], ask: AskSecret) -> Signers:
    """The keys in keys/ that the root lists, and those in further `places`.

    Raises PreflightFailed without a build key, and UsageError for a key that has no role here.
    """
    files = [*keys_at_hand(workspace, "build"), *keys_at_hand(workspace, "targets")]
    signers = {one.public_key.keyid: one for one in (load_signer(place, ask) for place in (*map(str, files), *places))}
    roles = parse_root(read_root(workspace)).signed.roles
    build = [one for key_id, one in signers.items() if key_id in roles["snapshot"].keyids]
    targets = [one for key_id, one in signers.items() if key_id in roles["targets"].keyids]
    for key_id in set(signers) - {one.public_key.keyid for one in (*build, *targets)}:
        raise UsageError(f"key {key_id[:SHOWN_ID]} has no role targets or build here; nothing was exported")
    if not build:
        raise PreflightFailed("no build key is at hand, in keys/ or by --key; every bundle needs its signature")
    return Signers(build[0], tuple(targets))


def build_bundle(
    files: Mapping[str, bytes],
    roots: Mapping[str, bytes],
    version: int,
    time: ReleaseTime,
    signers: Signers,
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
    for name, signed, role_signers in (
        ("targets.json", targets, signers.targets),
        ("snapshot.json", snapshot, [signers.build]),
        ("timestamp.json", timestamp, [signers.build]),
    ):
        metadata: Metadata[Any] = Metadata(signed)
        for signer in role_signers:
            add_signature(metadata, signer)
        members[name] = serialise(metadata)
    return pack(members)
