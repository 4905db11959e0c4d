"""The vehicle's own Ed25519 key: made at provisioning, it signs receipts and the packs that come back.

A trust module: it loads cryptography, so the daemon never imports it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import BadSignature, Malformed

PRIVATE, PUBLIC = "vehicle.key", "vehicle.pub"
"""Files of the data folder: the 32 private bytes (mode 0600), and the public ones in hex."""

_KEY_BYTES = 32


def make_key(folder: Path) -> bytes:
    """Make the vehicle's key in its data folder, durably; returns the public half (32 bytes)."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    disk.replace_durable(folder / PUBLIC, public.hex().encode() + b"\n")
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    disk.replace_durable(folder / PRIVATE, private, mode=0o600)
    return public


def read_public(folder: Path) -> bytes:
    """The public half, from the data folder. Raises Malformed where the file does not hold one."""
    return parse_public(folder / PUBLIC)


def parse_public(path: Path) -> bytes:
    """A public half, from its file in hex. Raises Malformed where it holds none."""
    try:
        public = bytes.fromhex(disk.read_bounded(path, 4 * _KEY_BYTES).decode().strip())
    except ValueError as error:
        raise Malformed(f"{path} is not a public key in hex") from error
    if len(public) != _KEY_BYTES:
        raise Malformed(f"{path} holds {len(public)} bytes, expected {_KEY_BYTES}")
    return public


def fingerprint(public: bytes) -> str:
    """What two people read to each other to see that they mean the same key: 16 hex digits of its sha256."""
    return hashlib.sha256(public).hexdigest()[:16]


def sign(folder: Path, payload: bytes) -> str:
    """The signature of the vehicle whose data folder this is, in hex."""
    path = folder / PRIVATE
    private = disk.read_bounded(path, _KEY_BYTES)
    if len(private) != _KEY_BYTES:
        raise Malformed(f"{path} is not a vehicle's private key")
    return Ed25519PrivateKey.from_private_bytes(private).sign(payload).hex()


def check(public: bytes, payload: bytes, signature: str) -> None:
    """Raise BadSignature unless the vehicle with this public key signed the payload."""
    try:
        raw = bytes.fromhex(signature)
        if raw.hex() != signature:  # fromhex takes capitals and spaces: one signature, many spellings
            raise ValueError("not plain lower-case hex")
        Ed25519PublicKey.from_public_bytes(public).verify(raw, payload)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature("the signature is not this vehicle's") from error
