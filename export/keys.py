"""Key files and the root of trust of a workspace.

Private keys are Ed25519 in PKCS#8 PEM files with mode 0600, in keys/, which git ignores.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import PreflightFailed, UsageError
from axlebox.firmware_bundle.trust import parse_root, serialise
from axlebox.training.workspace import Workspace

ROLES = ("root", "targets", "build")
"""Key files of a first try; `build` signs timestamp and snapshot."""

_MAX_KEY_BYTES = 64 * 1024
_ROOT_YEARS = 40
_DAYS_PER_YEAR = 365.25


def expiry(released: datetime, years: int) -> datetime:
    return (released + timedelta(days=years * _DAYS_PER_YEAR)).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key that the workspace's root lists."""

    role: str
    key_id: str
    needed: int
    file: Path | None
    """Where its private half lies in this workspace, if it does."""


def init_single(workspace: Workspace, now: datetime) -> Path:
    """Make one key for each role and a root of trust that needs one signature a role: for a first try.

    Returns the path of trust/root.json. Raises UsageError, and writes nothing, where keys exist.
    """
    root_path = workspace.trust / "root.json"
    for path in (root_path, workspace.keys):
        if path.exists():
            raise UsageError(f"{path} exists; nothing was written. To begin anew, move keys/ and trust/ away first")
    signers = {role: CryptoSigner.generate_ed25519() for role in ROLES}
    root = Root(version=1, expires=expiry(now, _ROOT_YEARS), consistent_snapshot=False)
    for tuf_role, role in {"root": "root", "targets": "targets", "timestamp": "build", "snapshot": "build"}.items():
        root.add_key(signers[role].public_key, tuf_role)
    metadata = Metadata(root)
    metadata.sign(signers["root"])
    data = serialise(metadata)
    parse_root(data)
    with workspace.locked(), disk.explained():
        part = workspace.keys.with_name("keys.part")
        disk.remove_tree(part)
        part.mkdir(mode=0o700)
        for role, signer in signers.items():
            disk.write_durable(part / f"{role}.pem", signer.private_bytes, mode=0o600)
        disk.rename_durable(part, workspace.keys)
        chain = workspace.trust / "chain"
        chain.mkdir(parents=True, exist_ok=True)
        disk.replace_durable(chain / "1.root.json", data)
        disk.replace_durable(root_path, data)
    return root_path


def list_keys(workspace: Workspace) -> list[KeyFacts]:
    """The keys that the workspace's newest root lists, role by role."""
    root = parse_root(read_root(workspace)).signed
    held = {load_signer(path).public_key.keyid: path for role in ROLES if (path := _key_path(workspace, role)).exists()}
    return [
        KeyFacts(role, key_id, root.roles[role].threshold, held.get(key_id))
        for role in sorted(root.roles)
        for key_id in sorted(root.roles[role].keyids)
    ]


def read_root(workspace: Workspace) -> bytes:
    path = workspace.trust / "root.json"
    if not path.exists():
        raise PreflightFailed("this workspace has no keys yet. DO: axlebox keys init --single")
    return disk.read_bounded(path, _MAX_KEY_BYTES)


def root_chain(workspace: Workspace) -> dict[str, bytes]:
    """Every root file of trust/chain by name, oldest first."""
    found = sorted((workspace.trust / "chain").glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
    return {path.name: disk.read_bounded(path, _MAX_KEY_BYTES) for path in found}


def role_signer(workspace: Workspace, role: str) -> CryptoSigner:
    """The signer at hand for a role. Raises PreflightFailed where its key file is not here."""
    path = _key_path(workspace, role)
    if not path.exists():
        raise PreflightFailed(f"{path} is not here, and the bundle needs a signature of role {role}")
    return load_signer(path)


def load_signer(path: Path) -> CryptoSigner:
    """A signer from a private key file; no error text ever quotes the file."""
    try:
        key = load_pem_private_key(disk.read_bounded(path, _MAX_KEY_BYTES), None)
        return CryptoSigner(key)
    except (ValueError, TypeError):
        raise UsageError(f"{path} is not an unencrypted private key in PEM") from None


def _key_path(workspace: Workspace, role: str) -> Path:
    return workspace.keys / f"{role}.pem"
