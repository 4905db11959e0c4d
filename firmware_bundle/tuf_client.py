"""The client's side of The Update Framework (specification 1.0, sections 5.3 to 5.6), on bytes alone.

Reads no file and opens no connection: whoever has the bytes, from a bundle or from a server,
hands them over in order. Stricter than the specification in three places: every file must be in
our one spelling, every signature present must verify under a listed key (else a flipped bit in a
surplus signature goes unseen), and delegations are refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.api.serialization.json import JSONSerializer

from axlebox.firmware_bundle.errors import BadSignature, Damaged, Expired, Malformed, Rollback, TooFewSignatures

MAX_METADATA_BYTES = 512 * 1024
MAX_ROOT_KEYS = 64
KEY_SCHEMES = (("ed25519", "ed25519"), ("ecdsa", "ecdsa-sha2-nistp256"))
"""(keytype, scheme) of the keys that a root may list: for files and for PKCS#11 tokens."""

_SIGNATURE = re.compile(r"[0-9a-f]+")
_ED25519_PUBLIC = re.compile(r"[0-9a-fA-F]{64}")

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def serialise(metadata: Metadata[Any]) -> bytes:
    """The one spelling of a metadata file."""
    return metadata.to_bytes(JSONSerializer(compact=False))


class TufClient:
    """What is trusted so far; every `update_` takes one file or raises and leaves all as it was.

    Versions never go back while the object lives. Whether something has expired is asked for by
    `check_expiry`: a bundle's own release time, the latest time that is surely past, is known
    only when all of it has been read.
    """

    def __init__(self, root: bytes) -> None:
        """Begin with a root that the caller trusts. Raises where it does not sign itself."""
        self.root: Metadata[Root] = parse_root(root)
        self.timestamp: Metadata[Timestamp] | None = None
        self.snapshot: Metadata[Snapshot] | None = None
        self.targets: Metadata[Targets] | None = None
        self.targets_signed_by: tuple[str, ...] = ()
        """Ids of the keys that signed targets.json, one for each different key."""

    def update_root(self, data: bytes) -> None:
        """The root of the next version, signed by the one before and by itself (5.3.4, 5.3.5)."""
        version = self.root.signed.version + 1
        name = f"{version}.root.json"
        newer = parse(data, Root, name)
        # Signed by both: each signature counts for the root that lists its key.
        check_signatures(newer, name, [self.root.signed, newer.signed])
        if newer.signed.version != version:
            raise Malformed(f"{name} says that it is version {newer.signed.version}")
        self.root = newer

    def update_timestamp(self, data: bytes) -> None:
        """timestamp.json (5.4); one of the version that is held already changes nothing."""
        newer = self._signed(data, Timestamp)
        if self.timestamp is not None:
            held = self.timestamp.signed
            _check_not_older("timestamp.json", newer.signed.version, held.version)
            if newer.signed.version == held.version:
                return
            pinned, was_pinned = newer.signed.snapshot_meta.version, held.snapshot_meta.version
            _check_not_older("the snapshot that timestamp.json names", pinned, was_pinned)
        self.timestamp = newer

    def update_snapshot(self, data: bytes, cached: bool = False) -> None:
        """snapshot.json as timestamp.json pins it (5.5); a `cached` one, held from before, may be older."""
        if self.timestamp is None:
            raise Malformed("snapshot.json comes before timestamp.json")
        pinned = self.timestamp.signed.snapshot_meta
        if not cached:
            _check_pinned_bytes("snapshot.json", data, pinned)
        newer = self._signed(data, Snapshot)
        if self.snapshot is not None:
            for name, held in self.snapshot.signed.meta.items():
                listed = newer.signed.meta.get(name)
                if listed is None:
                    raise Rollback(f"snapshot.json no longer lists {name}")
                _check_not_older(f"the {name} that snapshot.json names", listed.version, held.version)
        if not cached and newer.signed.version != pinned.version:
            raise Damaged("timestamp.json and snapshot.json belong to different releases")
        self.snapshot = newer

    def update_targets(self, data: bytes, complete: bool = True) -> Metadata[Targets]:
        """targets.json as snapshot.json pins it (5.6), returned; where not `complete`, it may lack signatures."""
        if self.timestamp is None or self.snapshot is None:
            raise Malformed("targets.json comes before snapshot.json")
        if self.snapshot.signed.version != self.timestamp.signed.snapshot_meta.version:
            raise Damaged("timestamp.json and snapshot.json belong to different releases")
        pinned = self.snapshot.signed.meta.get("targets.json")
        if pinned is None:
            raise Malformed("snapshot.json does not list targets.json")
        _check_pinned_bytes("targets.json", data, pinned)
        newer = parse(data, Targets, "targets.json")
        (signed_by,) = check_signatures(newer, "targets.json", [self.root.signed], complete)
        if newer.signed.version != pinned.version:
            raise Damaged("snapshot.json and targets.json belong to different releases")
        if newer.signed.delegations is not None:
            raise Malformed("targets.json delegates; bundles do not")
        self.targets, self.targets_signed_by = newer, signed_by
        return newer

    def check_expiry(self, reference_time: datetime, clock: datetime | None = None) -> None:
        """Raise Expired where anything held expired before `reference_time`; `clock` is what the box's clock says."""
        held: tuple[Metadata[Any] | None, ...] = (self.root, self.timestamp, self.snapshot, self.targets)
        for metadata in held:
            if metadata is not None and metadata.signed.is_expired(reference_time):
                name = "the root" if metadata is self.root else f"{metadata.signed.type}.json"
                says = clock or reference_time
                past = f" ({reference_time:%Y-%m-%d} is surely past)" if says < reference_time else ""
                raise Expired(
                    f"{name} expired on {metadata.signed.expires:%Y-%m-%d}, and the clock says {says:%Y-%m-%d}{past}: "
                    "if the clock is wrong, set it; if not, a newer bundle is needed"
                )

    def _signed(self, data: bytes, kind: type[S]) -> Metadata[S]:
        name = f"{kind.type}.json"
        metadata = parse(data, kind, name)
        check_signatures(metadata, name, [self.root.signed])
        return metadata


def parse_root(data: bytes) -> Metadata[Root]:
    """A root of trust that signs itself; it may carry the signatures of the root before it as well."""
    root = parse(data, Root, "root")
    own = Metadata(
        root.signed, {key: one for key, one in root.signatures.items() if key in _listed(root.signed, "root")}
    )
    check_signatures(own, "root", [root.signed])
    return root


def check_signatures(
    metadata: Metadata[Any], name: str, roots: Sequence[Root], complete: bool = True
) -> list[tuple[str, ...]]:
    """Verify every signature under a key that one of the roots lists for the file's role.

    Returns, for each root, the ids of its keys that signed, one id for each different key. Raises
    TooFewSignatures for a key that no root lists and, where it must be `complete`, for fewer
    signatures than a root asks for; BadSignature for a signature that does not verify.
    """
    role = metadata.signed.type
    signed_by: list[dict[bytes, str]] = [{} for _ in roots]
    for key_id, signature in metadata.signatures.items():
        listing = [number for number, root in enumerate(roots) if key_id in _listed(root, role)]
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
            signed_by[number].setdefault(public_bytes(key), key_id)
    for root, found in zip(roots, signed_by, strict=True):
        needed = root.roles[role].threshold
        if complete and len(found) < needed:
            raise TooFewSignatures(
                f"{name} has {len(found)} of {needed} signatures that role {role} needs: {needed - len(found)} missing"
            )
    return [tuple(sorted(found.values())) for found in signed_by]


def public_bytes(key: Key) -> bytes:
    """A public key in its one spelling. Raises Malformed for a key of another kind than KEY_SCHEMES."""
    public = key.keyval.get("public")
    if isinstance(public, str) and (key.keytype, key.scheme) in KEY_SCHEMES:
        if key.keytype == "ed25519" and _ED25519_PUBLIC.fullmatch(public):
            return bytes.fromhex(public)
        if key.keytype == "ecdsa":
            with contextlib.suppress(ValueError, UnsupportedAlgorithm):
                loaded = load_pem_public_key(public.encode())
                if isinstance(loaded, EllipticCurvePublicKey) and isinstance(loaded.curve, SECP256R1):
                    return loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = " or ".join(scheme for _, scheme in KEY_SCHEMES)
    raise Malformed(f"key {key.keyid[:8]} ({key.keytype}, {key.scheme}) is no sound {known} key")


def _listed(root: Root, role: str) -> list[str]:
    return root.roles[role].keyids


def parse(data: bytes, kind: type[S], name: str) -> Metadata[S]:
    """Metadata of a kind in its one spelling; no signature is verified yet. Raises Malformed."""
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
    for key_id, signature in metadata.signatures.items():
        # python-tuf takes what stands in the file, also a number.
        plain = isinstance(key_id, str) and isinstance(signature.signature, str)
        if not plain or signature.unrecognized_fields or not _SIGNATURE.fullmatch(signature.signature):
            raise Malformed(f"{name} has a signature that is not plain lower-case hex")
    if isinstance(metadata.signed, Root) and len(metadata.signed.keys) > MAX_ROOT_KEYS:
        raise Malformed(f"{name} lists {len(metadata.signed.keys)} keys, at most {MAX_ROOT_KEYS} are allowed")
    return metadata


def _check_pinned_bytes(name: str, data: bytes, pinned: MetaFile) -> None:
    """Bundles pin versions only, so that a signature can be added; what is pinned by hash is compared."""
    try:
        pinned.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as error:
        raise Damaged(f"{name} differs from what was signed") from error


def _check_not_older(what: str, found: int, held: int) -> None:
    if found < held:
        raise Rollback(f"{what} is version {found}, older than {held}, which was seen before")
