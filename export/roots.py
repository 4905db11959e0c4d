"""The root of trust of a workspace: who may sign what, and how many must.

A new root is a draft (trust/draft.root.json) until the keys of the root before it and its own
have signed, one holder at a time; then it becomes trust/root.json and joins trust/chain, which
every bundle carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root

from axlebox.export.keys import (
    SHOWN_ID,
    NamedKey,
    add_signature,
    check_key,
    make_key_file,
    name_of,
    private_file,
    write_public,
)
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.tuf_client import MAX_METADATA_BYTES, check_signatures, parse, parse_root, serialise
from axlebox.training.workspace import Workspace

ROLES: Mapping[str, tuple[str, ...]] = {"root": ("root",), "targets": ("targets",), "build": ("timestamp", "snapshot")}
"""Our roles, and TUF's: one build key signs timestamp and snapshot."""

_ROOT_YEARS = 40
_DAYS_PER_YEAR = 365.25


def expiry(released: datetime, years: int) -> datetime:
    return (released + timedelta(days=years * _DAYS_PER_YEAR)).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One key that the workspace's root lists."""

    role: str
    name: str
    key_id: str
    scheme: str
    needed: int
    """How many keys of the role must sign."""
    file: Path | None
    """Where its private half lies in this workspace, if it does."""


@dataclass(frozen=True, slots=True)
class RootState:
    """A root after a change: in force, or a draft that waits for signatures."""

    version: int
    path: Path
    missing: tuple[str, ...]
    """What the draft still lacks, in words; empty where it is in force."""


@dataclass(frozen=True, slots=True)
class NewRoot:
    """Who shall hold which role, and how many must sign; each role's keys by TUF's names."""

    keys: Mapping[str, Sequence[NamedKey]]
    needed: Mapping[str, int]


def init_single(workspace: Workspace, now: datetime) -> RootState:
    """Make one key for each role, all in keys/, and a root that needs one signature a role: for a first try.

    Raises UsageError, and writes nothing, where keys or a root exist.
    """
    check_new(workspace)
    if workspace.keys.exists():
        raise UsageError(
            f"{workspace.keys} exists; nothing was written. To begin anew, move keys/ and trust/ away first"
        )
    part = workspace.keys.with_name("keys.part")
    disk.remove_tree(part)
    signers = {role: make_key_file(part / f"{role}.pem", None) for role in ROLES}
    with disk.explained():
        disk.rename_durable(part, workspace.keys)
    keys = {role: [NamedKey(role, write_public(workspace, role, one.public_key), one)] for role, one in signers.items()}
    return init(workspace, NewRoot(keys, dict.fromkeys(ROLES, 1)), now)


def init(workspace: Workspace, wanted: NewRoot, now: datetime) -> RootState:
    """Draft root 1, signed by those of its root keys that are at hand."""
    check_new(workspace)
    root = Root(version=1, expires=expiry(now, _ROOT_YEARS), consistent_snapshot=False)
    for role, keys in wanted.keys.items():
        if len({key.public.keyid for key in keys}) < len(keys):
            raise UsageError(f"role {role} was given one key under two names; nothing was written")
        for tuf_role in ROLES[role]:
            for key in keys:
                root.add_key(key.public, tuf_role)
            root.roles[tuf_role].threshold = wanted.needed[role]
        _check_quorum(root, role)
    return _propose(workspace, root, [key.signer for key in wanted.keys["root"] if key.signer])


def rotate(
    workspace: Workspace, role: str, out: str, into: NamedKey, signers: Sequence[Signer], now: datetime
) -> RootState:
    """Draft the next root, in which one key of a role has taken another's place."""
    key_id = check_change(workspace, out, (role,))
    root = _next_root(workspace, now)
    for tuf_role in ROLES[role]:
        if into.public.keyid in root.roles[tuf_role].keyids:
            raise UsageError(f"{into.name} has role {role} already; nothing was changed")
        root.revoke_key(key_id, tuf_role)
        root.add_key(into.public, tuf_role)
    _check_quorum(root, role)
    return _propose(workspace, root, signers)


def revoke(
    workspace: Workspace, out: str, into: NamedKey | None, signers: Sequence[Signer], now: datetime
) -> RootState:
    """Draft the next root, in which a key has no role any more; `into` takes its place."""
    key_id = check_change(workspace, out)
    root = _next_root(workspace, now)
    for role, tuf_roles in ROLES.items():
        for tuf_role in [one for one in tuf_roles if key_id in root.roles[one].keyids]:
            root.revoke_key(key_id, tuf_role)
            if into is not None:
                root.add_key(into.public, tuf_role)
        _check_quorum(root, role)
    return _propose(workspace, root, signers)


def read_draft(workspace: Workspace) -> Metadata[Root]:
    """The draft that waits for signatures, checked against the root in force.

    Raises UsageError where there is none, Malformed where it is not a next root of keys that are
    what their ids say: the draft is a file that anybody may have edited.
    """
    path = _draft_path(workspace)
    if not path.exists():
        raise UsageError("there is no draft of a root to sign. DO: axlebox keys init, rotate or revoke")
    draft = parse(disk.read_bounded(path, MAX_METADATA_BYTES), Root, str(path))
    root = draft.signed
    expected = parse_root(read_root(workspace)).signed.version + 1 if (workspace.trust / "root.json").exists() else 1
    if root.version != expected:
        raise Malformed(f"{path} is version {root.version}, expected {expected}")
    for key in root.keys.values():
        check_key(key)
    for role in ROLES:
        _check_quorum(root, role)
    return draft


def sign_draft(workspace: Workspace, draft: Metadata[Root], signer: Signer) -> RootState:
    """Add a signature to a draft, as it was read and shown; with the last one it is in force."""
    return _propose(workspace, draft.signed, [signer], dict(draft.signatures))


def has_draft(workspace: Workspace) -> bool:
    return _draft_path(workspace).exists()


def read_root(workspace: Workspace) -> bytes:
    path = workspace.trust / "root.json"
    if not path.exists():
        if has_draft(workspace):
            raise PreflightFailed("the root of this workspace is a draft that lacks signatures. DO: axlebox keys sign")
        raise PreflightFailed("this workspace has no root of trust yet. DO: axlebox keys init --single")
    return disk.read_bounded(path, MAX_METADATA_BYTES)


def root_chain(workspace: Workspace, oldest: int) -> dict[str, bytes]:
    """Every root file of trust/chain from version `oldest` on, by name."""
    found = {_version(path): path for path in (workspace.trust / "chain").glob("*.root.json")}
    return {
        path.name: disk.read_bounded(path, MAX_METADATA_BYTES)
        for version, path in sorted(found.items())
        if version >= oldest
    }


def list_keys(workspace: Workspace) -> list[KeyFacts]:
    """The keys that the workspace's newest root lists, role by role."""
    root = parse_root(read_root(workspace)).signed
    return [
        KeyFacts(
            role, name_of(key), key.keyid, key.scheme, root.roles[tuf_role].threshold, _held(workspace, name_of(key))
        )
        for role, (tuf_role, *_) in ROLES.items()
        for key in (root.keys[key_id] for key_id in root.roles[tuf_role].keyids)
    ]


def draft_changes(workspace: Workspace, draft: Metadata[Root]) -> tuple[str, ...]:
    """What a draft would change, in words, role by role, for the holder who is about to sign it."""
    before = parse_root(read_root(workspace)).signed if draft.signed.version > 1 else None
    head = f"root {draft.signed.version}, good until {draft.signed.expires:%Y-%m-%d}"
    return (head, *(_role_change(role, draft.signed, before) for role in ROLES))


def _role_change(role: str, after: Root, before: Root | None) -> str:
    words = []
    for tuf_role in ROLES[role]:
        old = {} if before is None else {key_id: before.keys[key_id] for key_id in before.roles[tuf_role].keyids}
        new = {key_id: after.keys[key_id] for key_id in after.roles[tuf_role].keyids}
        came = [f"+ {name_of(key)} {key_id[:SHOWN_ID]}" for key_id, key in new.items() if key_id not in old]
        went = [f"- {name_of(key)} {key_id[:SHOWN_ID]}" for key_id, key in old.items() if key_id not in new]
        quorum = f"needs {after.roles[tuf_role].threshold} of {len(new)}"
        if before is not None and after.roles[tuf_role].threshold != before.roles[tuf_role].threshold:
            quorum += f", before {before.roles[tuf_role].threshold}"
        words.append(f"{role:8} {', '.join((*came, *went)) or 'no change'}; {quorum}")
    return "\n".join(dict.fromkeys(words))


def keys_at_hand(workspace: Workspace, role: str) -> list[Path]:
    """Private key files in keys/ of the keys that the newest root lists for a role."""
    return [one.file for one in list_keys(workspace) if one.role == role and one.file is not None]


def roots_that_trust(workspace: Workspace, key: str) -> dict[int, tuple[str, ...]]:
    """Versions of the chain's roots that list a key (by name or id), each with the roles it has there."""
    found = {}
    for data in root_chain(workspace, 1).values():
        root = parse_root(data).signed
        ids = {one.keyid for one in root.keys.values() if _is_called(one, key)}
        roles = tuple(role for role, (tuf_role, *_) in ROLES.items() if ids & set(root.roles[tuf_role].keyids))
        if roles:
            found[root.version] = roles
    return found


def check_new(workspace: Workspace) -> None:
    """Raise UsageError where the workspace has a root already, in force or as a draft."""
    for path in (workspace.trust / "root.json", _draft_path(workspace)):
        if path.exists():
            raise UsageError(f"{path} exists; nothing was written. To begin anew, move keys/ and trust/ away first")


def _next_root(workspace: Workspace, now: datetime) -> Root:
    root = parse_root(read_root(workspace)).signed
    root.version += 1
    root.expires = expiry(now, _ROOT_YEARS)
    return root


def check_change(workspace: Workspace, out: str, roles: Sequence[str] = tuple(ROLES)) -> str:
    """The id of the key that is called `out`, where a next root can be drafted without it in these roles.

    Raises UsageError where a draft waits already, or no such key has one of the roles.
    """
    if has_draft(workspace):  # a second one would take the first one's place
        raise UsageError(
            f"{_draft_path(workspace)} waits for signatures. DO: axlebox keys sign, or remove it to give it up"
        )
    try:
        return _find_listed(parse_root(read_root(workspace)).signed, out, roles)
    except UsageError as error:
        trusting = ", ".join(map(str, roots_that_trust(workspace, out)))
        still = f"; vehicles that hold root {trusting} still trust {out}" if trusting else ""
        raise UsageError(f"{error}{still}") from error


def _find_listed(root: Root, key: str, roles: Sequence[str]) -> str:
    """The id of a key by name or id, among those that some role lists."""
    listed = {key_id for role in roles for tuf_role in ROLES[role] for key_id in root.roles[tuf_role].keyids}
    found = [key_id for key_id in listed if _is_called(root.keys[key_id], key)]
    if len(found) != 1:
        known = ", ".join(sorted(name_of(root.keys[key_id]) for key_id in listed))
        raise UsageError(f"no key {key} in role {' or '.join(roles)}; its keys are {known}")
    return found[0]


def _is_called(key: Key, words: str) -> bool:
    """Whether a person means this key, by its name or by at least the beginning of its id that is shown."""
    return words == name_of(key) or (len(words) >= SHOWN_ID and key.keyid.startswith(words))


def _check_quorum(root: Root, role: str) -> None:
    for tuf_role in ROLES[role]:
        keys, needed = len(root.roles[tuf_role].keyids), root.roles[tuf_role].threshold
        if not 1 <= needed <= keys:
            raise UsageError(
                f"role {role} would have {keys} keys, and {needed} must sign; nothing was written. "
                "DO: name more keys, or a replacement"
            )


def _propose(
    workspace: Workspace, root: Root, signers: Sequence[Signer], signatures: dict[str, object] | None = None
) -> RootState:
    """Sign a root with what is at hand, and put it in force or keep it as the draft."""
    metadata = Metadata(root, signatures)  # type: ignore[arg-type]  # as another Metadata held them
    before = [parse_root(read_root(workspace)).signed] if root.version > 1 else []
    counting = {key_id for one in (*before, root) for key_id in one.roles["root"].keyids}
    for signer in signers:
        if signer.public_key.keyid not in counting:
            raise UsageError(
                f"key {signer.public_key.keyid[:SHOWN_ID]} has no role root, before or after; nothing was signed"
            )
        add_signature(metadata, signer)
    missing = _missing(metadata, [*before, root])
    data = serialise(metadata)
    with workspace.locked(), disk.explained():
        if missing:
            disk.replace_durable(_draft_path(workspace), data)
            return RootState(root.version, _draft_path(workspace), missing)
        chain = workspace.trust / "chain"
        chain.mkdir(parents=True, exist_ok=True)
        disk.replace_durable(chain / f"{root.version}.root.json", data)
        disk.replace_durable(workspace.trust / "root.json", data)
        _draft_path(workspace).unlink(missing_ok=True)
    return RootState(root.version, workspace.trust / "root.json", ())


def _missing(metadata: Metadata[Root], roots: Sequence[Root]) -> tuple[str, ...]:
    """What a root lacks: signatures of the one before it and its own."""
    signed_by = check_signatures(metadata, "the draft", list(roots), complete=False)
    words = []
    for root, found in zip(roots, signed_by, strict=True):
        role = root.roles["root"]
        if len(found) < role.threshold:
            others = ", ".join(name_of(root.keys[key_id]) for key_id in role.keyids if key_id not in found)
            words.append(
                f"{role.threshold - len(found)} of the {role.threshold} signatures that role root needs ({others})"
            )
    return tuple(dict.fromkeys(words))  # the keys before and after are often the same


def _draft_path(workspace: Workspace) -> Path:
    return workspace.trust / "draft.root.json"


def _held(workspace: Workspace, name: str) -> Path | None:
    path = private_file(workspace, name)
    return path if path.exists() else None


def _version(path: Path) -> int:
    number = path.name.partition(".")[0]
    if not number.isdecimal():
        raise Malformed(f"{path} is not named N.root.json")
    return int(number)
