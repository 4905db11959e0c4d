"""Keys that sign releases: made in files, held in PKCS#11 tokens, known by name.

Private keys in files are PKCS#8 PEM, mode 0600, encrypted where a passphrase is asked for. Public
halves lie in trust/keys/NAME.json, which is committed. Where a key is named on a command line it
is a file's path, or a signer URI of securesystemslib (hsm:KEYID?label=TOKEN).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlparse

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signer, SSlibKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.tuf_client import public_bytes
from axlebox.training.workspace import Workspace

NAME_FIELD = "x-axlebox-name"
"""The field of a key, in a root and in trust/keys, that says by which name people call it."""

SHOWN_ID = 16
"""Digits of a key's id that people are shown, and by which they may name it."""

MAX_KEY_BYTES = 64 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_PRIVATE_MARK = b"PRIVATE KEY-----"
_ENCRYPTED_MARK = b"ENCRYPTED PRIVATE KEY-----"
_HSM = "hsm:"

AskSecret = Callable[[str], str]
"""Asks a person for the secret that the text names."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """`NAME`, or `NAME=PATH-OR-URI`: a key, and where its private half is or shall be."""

    name: str
    place: str | None


@dataclass(frozen=True, slots=True)
class NamedKey:
    """A public key under its name, with a signer where the private half was at hand."""

    name: str
    public: SSlibKey
    signer: Signer | None


def parse_source(text: str) -> KeySource:
    name, equals, place = text.partition("=")
    if not _NAME.fullmatch(name) or (equals and not place):
        raise UsageError(f"{text!r} is no key: expected NAME or NAME=FILE, with a name of a-z 0-9 . _ -")
    return KeySource(name, place or None)


def find_key(workspace: Workspace, source: KeySource, encrypt: bool, ask: AskSecret, alone: bool = True) -> NamedKey:
    """The key that a source means; a file that is not there yet is made.

    Raises UsageError where the name belongs to another key already, or the file's folder holds
    another private key: whoever finds one folder must not find a role's quorum. A build key, of
    which one suffices, need not be `alone`.
    """
    if source.place is None:
        return NamedKey(source.name, read_public(workspace, source.name), None)
    is_file = not source.place.startswith(_HSM)
    if is_file and not Path(source.place).exists():
        if alone:
            _check_alone(Path(source.place))
        if _public_path(workspace, source.name).exists():
            raise UsageError(f"the name {source.name} belongs to another key already; nothing was written")
        signer: Signer = make_key_file(Path(source.place), _new_passphrase(source, ask) if encrypt else None)
    else:
        signer = load_signer(source.place, ask)
    return NamedKey(source.name, write_public(workspace, source.name, signer.public_key), signer)


def make_key_file(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """A new Ed25519 key in a file of its own, never over another."""
    key = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    with disk.explained():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk.create_durable(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
    return CryptoSigner(key)


def load_signer(place: str, ask: AskSecret) -> Signer:
    """The signer in a file or a token; no error text ever quotes a secret."""
    if place.startswith(_HSM):
        return _load_token(place, ask)
    path = Path(place)
    data = disk.read_bounded(path, MAX_KEY_BYTES)
    passphrase = ask(f"passphrase of {path}").encode() if _ENCRYPTED_MARK in data else None
    try:
        key: Any = load_pem_private_key(data, passphrase)
        signer = CryptoSigner(key)
    except (ValueError, TypeError, UnsupportedLibraryError):
        wrong = "does not open with this passphrase" if passphrase else "is not a private key in PEM"
        raise UsageError(f"{path} {wrong}") from None
    public_bytes(signer.public_key)
    return signer


def _load_token(uri: str, ask: AskSecret) -> Signer:
    """A P-256 key in a PKCS#11 token; the token's driver is named by PYKCS11LIB."""
    import pkcs11.exceptions

    parsed = urlparse(uri)
    label = dict(parse_qsl(parsed.query)).get("label")
    try:
        key_id = int(parsed.path) if parsed.path else None
        if "PYKCS11LIB" not in os.environ:
            raise PreflightFailed(
                "a token needs PYKCS11LIB, the path of its PKCS#11 driver. DO: set it, then try again"
            )
        _, public = HSMSigner.import_(key_id, label, lambda _: ask(f"PIN of token {label or uri}"))
        return HSMSigner.from_priv_key_uri(uri, public, lambda _: ask(f"PIN of token {label or uri}"))
    except (ValueError, pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
        raise UsageError(f"{uri}: {error or type(error).__name__}") from error


def add_signature(metadata: Metadata[Any], signer: Signer) -> None:
    """Sign, beside the signatures that are there. Raises UsageError where a token refuses."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        why = str(error.__cause__) or type(error.__cause__).__name__
        raise UsageError(f"key {signer.public_key.keyid[:SHOWN_ID]} cannot sign: {why}; nothing was signed") from error


def read_public(workspace: Workspace, name: str) -> SSlibKey:
    """The public key of a name. Raises UsageError where nobody made it known."""
    path = _public_path(workspace, name)
    if not path.exists():
        raise UsageError(f"no key is called {name} in {path.parent}. DO: axlebox keys new {name} FILE")
    try:
        plain = msgspec.json.decode(disk.read_bounded(path, MAX_KEY_BYTES), type=dict[str, Any])
        key = SSlibKey.from_dict(plain.pop("keyid"), plain)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{path} is not a public key: {error}") from error
    check_key(key)
    return key


def write_public(workspace: Workspace, name: str, public: Any) -> SSlibKey:
    """Make a public key known under a name; the same key under the same name changes nothing."""
    path = _public_path(workspace, name)
    named = SSlibKey(public.keyid, public.keytype, public.scheme, public.keyval, {NAME_FIELD: name})
    public_bytes(named)
    if path.exists():
        if read_public(workspace, name).keyid != named.keyid:
            raise UsageError(f"the name {name} belongs to another key already; nothing was written")
        return named
    record = {"keyid": named.keyid, **named.to_dict()}
    with disk.explained():
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_durable(path, msgspec.json.format(msgspec.json.encode(record, order="deterministic")) + b"\n")
    return named


def check_key(key: Key) -> None:
    """Raise Malformed unless a key's id is the digest of the key itself, and its name is a plain one.

    TUF takes any id, but people compare ids: another key under a known id would go unseen.
    """
    public = public_bytes(key)
    loaded = Ed25519PublicKey.from_public_bytes(public) if key.keytype == "ed25519" else load_der_public_key(public)
    if SSlibKey.from_crypto(loaded, scheme=key.scheme).keyid != key.keyid:
        raise Malformed(
            f"key id {key.keyid[:SHOWN_ID]} is not the digest of its key: somebody has put another key in its place"
        )
    name = key.unrecognized_fields.get(NAME_FIELD)
    if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise Malformed(f"key {key.keyid[:SHOWN_ID]} has a name that is not made of a-z 0-9 . _ -")


def name_of(key: Key) -> str:
    """What people call a key of a root."""
    return str(key.unrecognized_fields.get(NAME_FIELD) or key.keyid[:SHOWN_ID])


def private_file(workspace: Workspace, name: str) -> Path:
    """Where the private half of a key lies that is kept in the workspace."""
    return workspace.keys / f"{name}.pem"


def _public_path(workspace: Workspace, name: str) -> Path:
    return workspace.trust / "keys" / f"{name}.json"


def _check_alone(path: Path) -> None:
    """Raise UsageError where the folder of a new private key holds another one."""
    for other in sorted(path.parent.glob("*")) if path.parent.is_dir() else ():
        if other.is_file() and _PRIVATE_MARK in other.read_bytes()[:MAX_KEY_BYTES]:
            raise UsageError(
                f"{path.parent} holds the private key {other.name} already. DO: give {path.name} a folder of its own"
            )


def _new_passphrase(source: KeySource, ask: AskSecret) -> bytes:
    text = ask(f"new passphrase for key {source.name}")
    if not text.strip():
        raise UsageError(f"the passphrase of key {source.name} is empty; nothing was written")
    return text.encode()
