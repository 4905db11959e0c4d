"""Verification: bytes and a reference time in, a Bundle out. Reads no file, opens no connection.

The signatures are those of The Update Framework (tuf_client.py); all metadata is inside the
bundle. Here are the rules of a bundle: exactly the signed files, the aim, the floors, the time,
and a model that consists of nothing but what our own export writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Set
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Targets

from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.errors import (
    Damaged,
    Malformed,
    Revoked,
    Rollback,
    TooFewSignatures,
    WrongHardware,
    WrongVehicle,
)
from axlebox.firmware_bundle.graph import check_graph
from axlebox.firmware_bundle.manifest import ANY_HARDWARE, Golden, Manifest, Sha256, decode
from axlebox.firmware_bundle.skew import Runtime, check_runtime, read_manifest
from axlebox.firmware_bundle.slots import NEWEST_ROOT, RECORD
from axlebox.firmware_bundle.tuf_client import TufClient, parse_root

MANIFEST: Final = "manifest.json"
GOLDEN: Final = "golden.json"
RELEASE_FIELD: Final = "x-axlebox"
"""The member of the signed part of targets.json that holds our own `ReleaseRecord`."""

MAX_MANIFEST_BYTES = 1024 * 1024
MAX_GOLDEN_BYTES = 2 * 1024 * 1024
"""What is parsed takes many times its size in memory."""

_ROOT_NAME = re.compile(r"([1-9][0-9]{0,4})\.root\.json")
_METADATA_NAMES = frozenset({"timestamp.json", "snapshot.json", "targets.json"})
_SLOT_NAMES = frozenset({RECORD, NEWEST_ROOT})
"""What an installation itself writes beside the signed files."""


class ReleaseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What we sign beside TUF's own fields."""

    released: datetime
    roots: dict[str, Sha256]
    """The digest of every root file in the bundle; old ones are covered by nothing else."""


_PROOF: Final = object()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A bundle file that passed every check, and may still lack signatures in role targets.

    It is what a second person looks at before signing; nothing installs it.
    """

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
    """Only this module has it; it is not kept, so that no copy with other content can be made."""

    def __post_init__(self, _proof: object) -> None:
        if _proof is not _PROOF:
            raise TypeError(f"a {type(self).__name__} comes from verify() or examine() only")

    @property
    def label(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"

    @property
    def signatures_missing(self) -> int:
        return max(0, self.signatures_needed - len(self.signed_by))

    def facts(self) -> dict[str, Any]:
        """Everything that a verification found, as plain data."""
        lineage = self.manifest.lineage
        return {
            "name": self.manifest.name,
            "version": self.manifest.version,
            "digest": self.digest,
            "signed_by": self.signed_by,
            "signatures_needed": self.signatures_needed,
            "signatures_missing": self.signatures_missing,
            "root": self.root_version,
            "released": self.released.isoformat(),
            "run": lineage.run,
            "data": {one.name: one.sha256 for one in lineage.data},
            "code": msgspec.to_builtins(lineage.code),
            "members": {name: len(data) for name, data in sorted(self.members.items())},
            "warnings": self.warnings,
            "manifest": msgspec.to_builtins(self.manifest),
        }

    def verdict(self) -> str:
        """The gist of it in one line."""
        lineage = self.manifest.lineage
        data = ", ".join(f"{one.name} {one.sha256[:8]}" for one in lineage.data)
        missing = self.signatures_missing
        state = f"not approved yet, {missing} missing" if missing else "good"
        return (
            f"{self.label}: {state}, signed {len(self.signed_by)} of {self.signatures_needed} needed, "
            f"built {self.released:%Y-%m-%d} by axlebox {lineage.code.axlebox} from run {lineage.run}, "
            f"data {data}, commit {lineage.code.commit or 'none'}"
        )


@dataclass(frozen=True, slots=True)
class Bundle(Proposal):
    """A bundle that passed `verify`; nothing else can make one, and only a Bundle is installed."""


def verify(  # noqa: PLR0913  the call names everything that a box holds a bundle against
    data: bytes,
    trust: bytes,
    reference_time: datetime,
    floor: int,
    hardware: str,
    vehicle: str | None,
    *,
    min_sequence: int = 0,
    runtime: Runtime | None = None,
    clock: datetime | None = None,
) -> Bundle:
    """Check a whole bundle file as the vehicle does.

    `trust` is the root file that the caller already trusts, `reference_time` the latest time that
    the caller knows to be past, `floor` the lowest version that may still be installed,
    `min_sequence` the lowest that may run at all. A bundle for particular vehicles needs
    `vehicle`, and what a runtime must be able to do needs `runtime`; None skips that check. `clock`
    is what the box's clock says, for the words about it, where that is not `reference_time`.

    Raises one class of `errors` for each reason, before any other work is done on the content.
    """
    signed = _read(data, trust, reference_time, clock or reference_time, complete=True)
    manifest = _manifest(signed, runtime)
    _check_aim(manifest, hardware, vehicle)
    _check_floors(manifest, floor, min_sequence)
    notes = () if runtime is None else check_runtime(manifest, runtime)
    _check_content(manifest, signed.files)
    return Bundle(**signed.facts(), manifest=manifest, warnings=(*signed.warnings, *notes), _proof=_PROOF)


def examine(data: bytes, trust: bytes, reference_time: datetime) -> Proposal:
    """Check a bundle file that may still lack signatures, for whoever is about to sign it."""
    signed = _read(data, trust, reference_time, reference_time, complete=False)
    manifest = _manifest(signed, None)
    _check_content(manifest, signed.files)
    return Proposal(**signed.facts(), manifest=manifest, warnings=signed.warnings, _proof=_PROOF)


@dataclass(frozen=True, slots=True)
class _Signed:
    """A bundle's signed files, each with its signed digest, of which none has been looked into yet."""

    client: TufClient
    targets: Metadata[Targets]
    root: bytes
    released: datetime
    files: dict[str, bytes]
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """The fields of a Proposal that the metadata settles."""
        root = self.client.root.signed
        return {
            "digest": hashlib.sha256(self.targets.signed_bytes).hexdigest(),
            "members": self.files,
            "root": self.root,
            "root_version": root.version,
            "released": self.released,
            "signed_by": self.client.targets_signed_by,
            "signatures_needed": root.roles["targets"].threshold,
        }


def _read(data: bytes, trust: bytes, reference_time: datetime, clock: datetime, complete: bool) -> _Signed:
    """Container, signatures, time and digests; where not `complete`, targets.json may lack signatures."""
    members = unpack(data)
    client, root = _follow_roots(members, trust)
    client.update_timestamp(_member(members, "timestamp.json"))
    client.update_snapshot(_member(members, "snapshot.json"))
    targets = client.update_targets(_member(members, "targets.json"), complete)
    if client.snapshot is not None and set(client.snapshot.signed.meta) != {"targets.json"}:
        raise Malformed("snapshot.json must list targets.json and nothing else")
    record = _release_record(targets.signed)
    # A clock before the release is surely wrong, and not a reason to refuse.
    surely_past = max(reference_time, record.released)
    client.check_expiry(surely_past, clock)
    warnings = _check_clock(clock, surely_past)
    files = _check_members(members, targets.signed, record)
    return _Signed(client, targets, root, record.released, files, warnings)


def _follow_roots(members: Mapping[str, bytes], trust: bytes) -> tuple[TufClient, bytes]:
    """From the trusted root to the newest in the bundle, each signed by the one before."""
    client, root = TufClient(trust), trust
    version = client.root.signed.version
    carried = sorted(int(found[1]) for name in members if (found := _ROOT_NAME.fullmatch(name)))
    if not carried:
        raise Damaged("the root files are missing")
    if version < carried[0] - 1:
        raise TooFewSignatures(
            f"the bundle follows the roots of trust from {carried[0]} on, this vehicle holds {version}: "
            "it must be provisioned anew"
        )
    for following in range(version + 1, carried[-1] + 1):
        root = _member(members, f"{following}.root.json")
        client.update_root(root)
    same = members.get(f"{version}.root.json")
    if same is not None and parse_root(same).signed_bytes != parse_root(trust).signed_bytes:
        raise TooFewSignatures(f"the bundle's root {version} is another fleet's than the root {version} trusted here")
    return client, root


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    if name not in members:
        raise Damaged(f"{name} is missing")
    return members[name]


def _release_record(targets: Targets) -> ReleaseRecord:
    try:
        record = msgspec.convert(targets.unrecognized_fields.get(RELEASE_FIELD), ReleaseRecord)
    except msgspec.ValidationError as error:
        raise Malformed(f"targets.json, {RELEASE_FIELD}: {error}") from error
    if record.released.tzinfo is None:
        raise Malformed(f"targets.json, {RELEASE_FIELD}: the time has no zone")
    return record


def _check_clock(clock: datetime, surely_past: datetime) -> tuple[str, ...]:
    if clock < surely_past:
        return (f"the clock says {clock:%Y-%m-%d}, and {surely_past:%Y-%m-%d} is surely past; it is not trusted",)
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


def _manifest(signed: _Signed, runtime: Runtime | None) -> Manifest:
    if MANIFEST not in signed.files or GOLDEN not in signed.files:
        raise Malformed(f"{MANIFEST} or {GOLDEN} is missing")
    for name, at_most in ((MANIFEST, MAX_MANIFEST_BYTES), (GOLDEN, MAX_GOLDEN_BYTES)):
        if len(signed.files[name]) > at_most:
            raise Malformed(f"{name} has {len(signed.files[name])} bytes, at most {at_most} are allowed")
    manifest = read_manifest(signed.files[MANIFEST], runtime)
    if manifest.version != signed.targets.signed.version:
        raise Damaged(f"{MANIFEST} is of release {manifest.version}, targets.json of {signed.targets.signed.version}")
    return manifest


def _check_content(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """What the runtime will be handed: golden readings, and models of which nothing is taken on trust."""
    decode(files[GOLDEN], Golden, GOLDEN)
    for detector in manifest.detectors:
        if detector.model not in files:
            raise Malformed(f"{MANIFEST} names {detector.model}, which is missing")
        check_graph(files[detector.model], detector.model)


def _check_aim(manifest: Manifest, hardware: str, vehicle: str | None) -> None:
    label = f"{manifest.name} {manifest.version}"
    if hardware not in manifest.hardware and ANY_HARDWARE not in (hardware, *manifest.hardware):
        raise WrongHardware(f"{label} is for hardware {', '.join(manifest.hardware)}; this is {hardware}")
    if vehicle is not None and manifest.vehicles and vehicle not in manifest.vehicles:
        raise WrongVehicle(f"{label} is for {', '.join(manifest.vehicles)}; this is {vehicle}")


def _check_floors(manifest: Manifest, floor: int, min_sequence: int) -> None:
    label = f"{manifest.name} {manifest.version}"
    if manifest.version < min_sequence:
        raise Revoked(f"{label} is below release {min_sequence}, the oldest that may still run here (min_sequence)")
    if manifest.version < floor:
        raise Rollback(f"{label} is older than release {floor}, the oldest that may be installed here")
