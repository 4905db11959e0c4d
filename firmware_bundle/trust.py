"""Verification: bytes and a reference time in, a Bundle out. Reads no file, opens no connection.

The metadata is that of The Update Framework (specification 1.0, sections 5.3 to 5.6), all of it
inside the bundle. Stricter than the specification in three places: every file must be in our one
spelling, every signature present must verify under a listed key (else a flipped bit in a surplus
signature goes unseen), and delegations are refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.api.serialization.json import JSONSerializer

from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.errors import (
    BadSignature,
    Damaged,
    Malformed,
    TooFewSignatures,
    TooOld,
    WrongTarget,
)
from axlebox.firmware_bundle.manifest import ANY_HARDWARE, Golden, Manifest, Sha256, decode, decode_manifest
from axlebox.firmware_bundle.slots import NEWEST_ROOT, RECORD

MANIFEST: Final = "manifest.json"
GOLDEN: Final = "golden.json"
RELEASE_FIELD: Final = "x-axlebox"
"""The member of the signed part of targets.json that holds our own `ReleaseRecord`."""

MAX_METADATA_BYTES = 512 * 1024
_ROOT_NAME = re.compile(r"([1-9][0-9]{0,4})\.root\.json")
_METADATA_NAMES = frozenset({"timestamp.json", "snapshot.json", "targets.json"})
_SLOT_NAMES = frozenset({RECORD, NEWEST_ROOT})
"""What an installation itself writes beside the signed files."""
_SIGNATURE = re.compile(r"[0-9a-f]+")

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


class ReleaseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What we sign beside TUF's own fields."""

    released: datetime
    roots: dict[str, Sha256]
    """The digest of every root file in the bundle; old ones are covered by nothing else."""


_PROOF: Final = object()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed `verify`; nothing else can make one."""

    digest: str
    """sha256 of the signed part of targets.json, in hex: it names slots."""
    manifest: Manifest
    members: Mapping[str, bytes]
    """The signed files, without the metadata."""
    root: bytes
    """The newest root that the bundle leads to."""
    root_version: int
    released: datetime
    signed_by: tuple[str, ...]
    """Ids of the keys that signed in the targets role."""
    signatures_needed: int
    warnings: tuple[str, ...]
    _proof: InitVar[object]
    """Only `verify` has it; it is not kept, so that no copy with other content can be made."""

    def __post_init__(self, _proof: object) -> None:
        if _proof is not _PROOF:
            raise TypeError("a Bundle comes from verify() only")

    @property
    def label(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"

    def facts(self) -> dict[str, Any]:
        """What a verification reports, as plain data."""
        lineage = self.manifest.lineage
        return {
            "name": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "signed_by": self.signed_by,
            "signatures_needed": self.signatures_needed,
            "released": self.released.isoformat(),
            "run": lineage.run,
            "data": {one.name: one.sha256 for one in lineage.data},
            "code": msgspec.to_builtins(lineage.code),
            "warnings": self.warnings,
        }

    def verdict(self) -> str:
        """The same in one line."""
        lineage = self.manifest.lineage
        data = ", ".join(f"{one.name} {one.sha256[:8]}" for one in lineage.data)
        return (
            f"{self.label}: good, signed {len(self.signed_by)} of {self.signatures_needed} needed, "
            f"built {self.released:%Y-%m-%d} by axlebox {lineage.code.axlebox} from run {lineage.run}, "
            f"data {data}, commit {lineage.code.commit or 'none'}"
        )


def serialise(metadata: Metadata[Any]) -> bytes:
    """The one spelling of a metadata file."""
    return metadata.to_bytes(JSONSerializer(compact=False))


def verify(
    data: bytes,
    trust: bytes,
    reference_time: datetime,
    floor: int,
    hardware: str,
    vehicle: str | None,
) -> Bundle:
    """Check a whole bundle file as the vehicle does; see the module's text for the rules.

    `trust` is the root file that the caller already trusts, `reference_time` the latest time that
    the caller knows to be past, `floor` the lowest version that may still be installed. A bundle
    for particular vehicles needs `vehicle`; None skips that check.

    Raises one class of `errors` for each reason, before any other work is done on the content.
    """
    members = unpack(data)
    root, root_bytes = _newest_root(trust, members)
    targets, others = _chain(members, root)
    record = _release_record(targets.signed)
    warnings = _check_time(reference_time, record.released, {"root": root, **others, "targets.json": targets.signed})
    files = _check_members(members, targets.signed, record)
    manifest = _manifest(files, targets.signed.version)
    _check_aim(manifest, hardware, vehicle)
    if manifest.version < floor:
        raise TooOld(
            f"{manifest.name} {manifest.version} is older than release {floor}, the oldest that is allowed here"
        )
    return Bundle(
        digest=hashlib.sha256(targets.signed_bytes).hexdigest(),
        manifest=manifest,
        members=files,
        root=root_bytes,
        root_version=root.version,
        released=record.released,
        signed_by=tuple(sorted(targets.signatures)),
        signatures_needed=root.roles["targets"].threshold,
        warnings=warnings,
        _proof=_PROOF,
    )


def parse_root(data: bytes) -> Metadata[Root]:
    """A root of trust that signs itself; it may carry the signatures of the root before it as well."""
    root = _parse(data, Root, "root")
    known = root.signed.roles["root"].keyids
    for key_id in [one for one in root.signatures if one not in known]:
        del root.signatures[key_id]
    _check_signatures(root, "root", root.signed)
    return root


def _newest_root(trust: bytes, members: Mapping[str, bytes]) -> tuple[Root, bytes]:
    """Walk from the trusted root to the newest in the bundle, each signed by the one before."""
    root, root_bytes = parse_root(trust).signed, trust
    while (name := f"{root.version + 1}.root.json") in members:
        newer = _parse(members[name], Root, name)
        # Signed by both: each signature counts for the root that lists its key.
        _check_signatures(newer, name, root, newer.signed)
        if newer.signed.version != root.version + 1:
            raise Malformed(f"{name} says that it is version {newer.signed.version}")
        root, root_bytes = newer.signed, members[name]
    return root, root_bytes


def _chain(members: Mapping[str, bytes], root: Root) -> tuple[Metadata[Targets], dict[str, Signed]]:
    """targets.json as pinned by timestamp.json and snapshot.json, and those two."""
    timestamp = _parse_member(members, Timestamp, "timestamp.json", root)
    snapshot = _parse_member(members, Snapshot, "snapshot.json", root)
    targets = _parse_member(members, Targets, "targets.json", root)
    if snapshot.signed.version != timestamp.signed.snapshot_meta.version:
        raise Damaged("timestamp.json and snapshot.json belong to different releases")
    if set(snapshot.signed.meta) != {"targets.json"}:
        raise Malformed("snapshot.json must list targets.json and nothing else")
    if targets.signed.version != snapshot.signed.meta["targets.json"].version:
        raise Damaged("snapshot.json and targets.json belong to different releases")
    if targets.signed.delegations is not None:
        raise Malformed("targets.json delegates; bundles do not")
    return targets, {"timestamp.json": timestamp.signed, "snapshot.json": snapshot.signed}


def _parse(data: bytes, kind: type[S], name: str) -> Metadata[S]:
    if len(data) > MAX_METADATA_BYTES:
        raise Malformed(f"{name} has {len(data)} bytes, at most {MAX_METADATA_BYTES} are allowed")
    try:
        metadata: Metadata[S] = Metadata.from_bytes(data)
        canonical = serialise(metadata)
        _ = metadata.signed_bytes  # floats and half surrogates have no canonical bytes to sign
    except (DeserializationError, SerializationError) as error:
        raise Malformed(f"{name} is not TUF metadata") from error
    if not isinstance(metadata.signed, kind):
        raise Malformed(f"{name} is of type {metadata.signed.type}, expected {kind.type}")
    if canonical != data:
        raise Malformed(f"{name} is not in its canonical spelling")
    if metadata.unrecognized_fields:
        raise Malformed(f"{name} has a field that no signature covers")
    for signature in metadata.signatures.values():
        if signature.unrecognized_fields or not _SIGNATURE.fullmatch(signature.signature):
            raise Malformed(f"{name} has a signature that is not plain lower-case hex")
    return metadata


def _parse_member(members: Mapping[str, bytes], kind: type[S], name: str, root: Root) -> Metadata[S]:
    if name not in members:
        raise Damaged(f"{name} is missing")
    metadata = _parse(members[name], kind, name)
    _check_signatures(metadata, name, root)
    return metadata


def _check_signatures(metadata: Metadata[Any], name: str, *roots: Root) -> None:
    """Every signature must verify under a key that one of the roots lists, and enough keys of each must have signed."""
    role = metadata.signed.type
    signed_by: list[set[str]] = [set() for _ in roots]
    for key_id, signature in metadata.signatures.items():
        listing = [number for number, root in enumerate(roots) if key_id in root.roles[role].keyids]
        if not listing:
            raise TooFewSignatures(f"{name} is signed by key {key_id[:8]}, unknown to role {role}")
        for number in listing:
            key = roots[number].keys.get(key_id)
            if key is None:
                raise Malformed(f"the root names key {key_id[:8]} for role {role} and does not hold it")
            try:
                key.verify_signature(signature, metadata.signed_bytes)
            except (UnverifiedSignatureError, VerificationError) as error:
                raise BadSignature(f"the signature of {name} by key {key_id[:8]} is wrong") from error
            # One key listed under two ids, or in two spellings, counts once.
            signed_by[number].add(str(key.keyval.get("public")).strip().lower())
    for root, publics in zip(roots, signed_by, strict=True):
        needed = root.roles[role].threshold
        if len(publics) < needed:
            raise TooFewSignatures(f"{name} has {len(publics)} of {needed} signatures that role {role} needs")


def _release_record(targets: Targets) -> ReleaseRecord:
    try:
        record = msgspec.convert(targets.unrecognized_fields.get(RELEASE_FIELD), ReleaseRecord)
    except msgspec.ValidationError as error:
        raise Malformed(f"targets.json, {RELEASE_FIELD}: {error}") from error
    if record.released.tzinfo is None:
        raise Malformed(f"targets.json, {RELEASE_FIELD}: the time has no zone")
    return record


def _check_time(now: datetime, released: datetime, signed: Mapping[str, Signed]) -> tuple[str, ...]:
    """Refuse what has expired. A clock before the release is surely wrong, and not a reason to refuse."""
    behind = now < released
    reference = max(now, released)
    for name, metadata in signed.items():
        if metadata.is_expired(reference):
            raise TooOld(
                f"{name} expired on {metadata.expires:%Y-%m-%d}, and the clock says {now:%Y-%m-%d}: "
                "if the clock is wrong, set it; if not, a newer bundle is needed"
            )
    if behind:
        return (f"the clock says {now:%Y-%m-%d}, before the release of {released:%Y-%m-%d}; it is not trusted",)
    return ()


def _check_members(members: Mapping[str, bytes], targets: Targets, record: ReleaseRecord) -> dict[str, bytes]:
    """Exactly the signed files are there, each with its signed digest; returns those of targets.json."""
    roots = {name for name in members if _ROOT_NAME.fullmatch(name)}
    listed = roots | _METADATA_NAMES | set(targets.targets)
    for name in members:
        if name not in listed:
            raise Malformed(f"{name} is signed by nobody")
    _check_roots(members, roots, record)
    files = {}
    for name, target in targets.targets.items():
        if name in _METADATA_NAMES or name in _SLOT_NAMES or name in roots:
            raise Malformed(f"targets.json lists {name}, a name that is taken")
        if name not in members:
            raise Damaged(f"{name} is missing")
        if set(target.hashes) != {"sha256"}:
            raise Malformed(f"targets.json must give the sha256 of {name} and no other hash")
        try:
            target.verify_length_and_hashes(members[name])
        except LengthOrHashMismatchError as error:
            raise Damaged(f"{name} differs from what was signed") from error
        files[name] = members[name]
    return files


def _check_roots(members: Mapping[str, bytes], names: Set[str], record: ReleaseRecord) -> None:
    """The chain's old roots are signed by nobody in this release: their digests are."""
    if names != set(record.roots):
        raise Damaged("the root files differ from those that targets.json lists")
    for name in names:
        if hashlib.sha256(members[name]).hexdigest() != record.roots[name]:
            raise Damaged(f"{name} differs from what was signed")


def _manifest(files: Mapping[str, bytes], version: int) -> Manifest:
    if MANIFEST not in files or GOLDEN not in files:
        raise Malformed(f"{MANIFEST} or {GOLDEN} is missing")
    manifest = decode_manifest(files[MANIFEST])
    decode(files[GOLDEN], Golden, GOLDEN)
    if manifest.version != version:
        raise Damaged(f"{MANIFEST} is of release {manifest.version}, targets.json of {version}")
    for detector in manifest.detectors:
        if detector.model not in files:
            raise Malformed(f"{MANIFEST} names {detector.model}, which is missing")
    return manifest


def _check_aim(manifest: Manifest, hardware: str, vehicle: str | None) -> None:
    if hardware not in manifest.hardware and ANY_HARDWARE not in (hardware, *manifest.hardware):
        raise WrongTarget(
            f"{manifest.name} {manifest.version} is for hardware {', '.join(manifest.hardware)}; this is {hardware}"
        )
    if vehicle is not None and manifest.vehicles and vehicle not in manifest.vehicles:
        raise WrongTarget(
            f"{manifest.name} {manifest.version} is for {', '.join(manifest.vehicles)}; this is {vehicle}"
        )
