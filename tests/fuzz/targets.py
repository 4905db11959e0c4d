"""What the fuzzer feeds: each target takes any bytes, and ends with a result or an AxleboxError.

Anything else that leaves a target is a find. A flipped bit in signed content stops at its
signature, so the rules behind the signatures would never be reached: `metadata` and `bundle` check
their bytes as they are, then once more with everything signed anew by this module's own keys.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from axlebox.firmware_bundle.container import pack, unpack
from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.graph import check_graph
from axlebox.firmware_bundle.manifest import Golden, Manifest, decode, encode
from axlebox.firmware_bundle.skew import Runtime, check_runtime, read_manifest
from axlebox.firmware_bundle.trust import RELEASE_FIELD, examine, verify
from axlebox.firmware_bundle.tuf_client import TufClient, parse_root, serialise

EXPIRES = datetime(2120, 1, 1, tzinfo=UTC)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUNTIME = Runtime("0.1.0", frozenset({("value", 1)}))


def _key(number: int) -> CryptoSigner:
    """A key that protects nothing: everyone can make it."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


KEYS = {role: _key(number) for number, role in enumerate(("root", "timestamp", "snapshot", "targets"), 1)}


def make_root(version: int) -> bytes:
    """The root that lists these keys, one for each role."""
    root = Root(version=version, expires=EXPIRES, consistent_snapshot=False)
    for role, key in KEYS.items():
        root.add_key(key.public_key, role)
    metadata = Metadata(root)
    metadata.sign(KEYS["root"])
    return serialise(metadata)


ROOT = make_root(1)


def sign(signed: Any) -> bytes:
    metadata = Metadata(signed)
    metadata.sign(KEYS[signed.type])
    return serialise(metadata)


TIMESTAMP = sign(Timestamp(version=1, expires=EXPIRES, snapshot_meta=MetaFile(1)))
SNAPSHOT = sign(Snapshot(version=1, expires=EXPIRES, meta={"targets.json": MetaFile(1)}))


def _make_clients() -> Iterator[TufClient]:
    """Clients that wait for timestamp.json, snapshot.json and targets.json; an update changes the one object alone."""
    client = TufClient(ROOT)
    yield copy.copy(client)
    client.update_timestamp(TIMESTAMP)
    yield copy.copy(client)
    client.update_snapshot(SNAPSHOT)
    yield client


CLIENTS = tuple(_make_clients())


def container(data: bytes) -> None:
    """What can be read has one spelling: packed again it gives the same bytes."""
    members = unpack(data)
    assert pack(members) == data, "an accepted container is not the canonical one"


def manifest(data: bytes) -> None:
    """manifest.json and golden.json; an accepted manifest survives being written and read."""
    with contextlib.suppress(AxleboxError):
        decode(data, Golden, "golden.json")
    found = read_manifest(data, RUNTIME)
    assert decode(encode(found), Manifest, "manifest.json") == found, "another manifest comes back"
    check_runtime(found, RUNTIME)


def graph(data: bytes) -> None:
    check_graph(data, "model.onnx")


def metadata(data: bytes) -> None:
    """One file in the place of every role's."""
    for one in (data, signed_anew(data)):
        for check in _roles(one):
            with contextlib.suppress(AxleboxError):
                check()


def _roles(data: bytes) -> Iterator[Callable[[], object]]:
    begun, timed, listed = (copy.copy(client) for client in CLIENTS)
    yield lambda: parse_root(data)
    yield lambda: begun.update_timestamp(data)
    yield lambda: timed.update_snapshot(data)
    yield lambda: listed.update_targets(data)
    yield lambda: listed.update_root(data)
    yield lambda: listed.check_expiry(NOW)


def bundle(data: bytes) -> None:
    """A whole verification, as a vehicle does it and as a second person does it before signing."""
    for one in (data, bundle_signed_anew(data)):
        with contextlib.suppress(AxleboxError):
            verify(one, ROOT, NOW, 0, "rail-box-a", "T204", runtime=RUNTIME)
        with contextlib.suppress(AxleboxError):
            proposal = examine(one, ROOT, NOW)
            proposal.facts()
            proposal.verdict()


def signed_anew(data: bytes, change: Callable[[Any], None] = lambda signed: None) -> bytes:
    """A metadata file with a good signature; as it was where it is none."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        change(metadata.signed)
        metadata.sign(KEYS[metadata.signed.type])
        return serialise(metadata)
    except RepositoryError:
        return data


def bundle_signed_anew(data: bytes) -> bytes:
    """The same members, with digests and signatures that fit."""
    try:
        members = unpack(data)
    except AxleboxError:
        return data

    def give_digests(signed: Any) -> None:
        if not isinstance(signed, Targets):
            return
        for name in signed.targets.keys() & members.keys():
            signed.targets[name] = TargetFile.from_data(name, members[name], ["sha256"])
        record = signed.unrecognized_fields.get(RELEASE_FIELD)
        if isinstance(record, dict):
            roots = [name for name in members if name.endswith(".root.json")]
            record["roots"] = {name: TargetFile.from_data(name, members[name]).hashes["sha256"] for name in roots}

    names = [name for name in members if name.endswith((".root.json", "timestamp.json", "snapshot.json"))]
    members |= {name: signed_anew(members[name]) for name in names}
    if "targets.json" in members:
        members["targets.json"] = signed_anew(members["targets.json"], give_digests)
    return pack(members)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "bundle": bundle,
    "container": container,
    "graph": graph,
    "manifest": manifest,
    "metadata": metadata,
}
MAX_BYTES = {"bundle": 16384, "container": 8192, "graph": 8192, "manifest": 8192, "metadata": 16384}
"""Longest input that the fuzzer makes."""


def run(target: str, data: bytes) -> None:
    """Feed one input; only what is a find is raised."""
    with contextlib.suppress(AxleboxError):
        TARGETS[target](data)
