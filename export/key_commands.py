"""The commands of `axlebox keys`, and `axlebox approve`; thin doors to keys, roots and approve."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.commandline import json_option, show

if TYPE_CHECKING:
    from axlebox.export.roots import RootState

_DEFAULT_NEEDED = 2
_PASSPHRASE, _PIN = "AXLEBOX_PASSPHRASE", "AXLEBOX_PIN"

BUNDLE_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
trust_option = click.option(
    "--trust",
    type=BUNDLE_FILE,
    help="The root of trust; by default trust/root.json of the workspace around this folder.",
)
key_option = click.option(
    "--key",
    "places",
    multiple=True,
    metavar="FILE|URI",
    help="A private key to sign with: a file, or hsm:KEYID?label=TOKEN; repeatable.",
)
passphrase_option = click.option(
    "--passphrase", is_flag=True, help="Encrypt new key files; asks, or AXLEBOX_PASSPHRASE."
)


def ask_secret(what: str) -> str:
    """A secret from the environment, or from the person at the terminal; it is never echoed or logged."""
    name = _PIN if what.startswith("PIN") else _PASSPHRASE
    if name in os.environ:
        return os.environ[name]
    if not sys.stdin.isatty():
        raise UsageError(f"nobody to ask here for the {what}. DO: set {name}")
    return str(click.prompt(what, hide_input=True, err=True, confirmation_prompt=what.startswith("new")))


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke the keys that sign releases."""


@keys.command("new")
@click.argument("name")
@click.argument("place", metavar="FILE|URI")
@passphrase_option
@json_option
def keys_new(name: str, place: str, passphrase: bool, as_json: bool) -> None:
    """Make a private key in FILE (or find it in a token), and make its public half known as NAME.

    The public half goes to trust/keys/NAME.json, which is committed. FILE must lie in a folder
    without another private key.
    """
    from axlebox.export.keys import SHOWN_ID, KeySource, find_key, parse_source
    from axlebox.training.workspace import find_workspace

    source = KeySource(parse_source(name).name, place)
    found = find_key(find_workspace(Path.cwd()), source, passphrase, ask_secret)
    show(
        {"name": name, "key": found.public.keyid, "scheme": found.public.scheme, "private": place},
        as_json,
        f"key {name} {found.public.keyid[:SHOWN_ID]} ({found.public.scheme}), private half in {place}",
    )


@keys.command("init")
@click.option("--single", is_flag=True, help="One key for each role, all in keys/: for a first try.")
@click.option("--root", "root_keys", multiple=True, metavar="NAME[=FILE|URI]", help="A key of role root; repeatable.")
@click.option(
    "--targets", "targets_keys", multiple=True, metavar="NAME[=FILE|URI]", help="Of role targets; repeatable."
)
@click.option("--build", "build_key", metavar="NAME[=FILE|URI]", help="Of role build.  [default: build=keys/build.pem]")
@click.option("--root-needs", type=click.IntRange(1), default=_DEFAULT_NEEDED, show_default=True)
@click.option("--targets-needs", type=click.IntRange(1), default=_DEFAULT_NEEDED, show_default=True)
@passphrase_option
@json_option
def keys_init(  # noqa: PLR0913  one option for each thing that a ceremony decides
    single: bool,
    root_keys: tuple[str, ...],
    targets_keys: tuple[str, ...],
    build_key: str | None,
    root_needs: int,
    targets_needs: int,
    passphrase: bool,
    as_json: bool,
) -> None:
    """Make the root of trust (trust/root.json) that vehicles are provisioned with.

    A key is NAME (made known before by `keys new`) or NAME=FILE: a file that is not there yet is
    made. Root keys whose private half is at hand sign at once; the other holders follow with
    `axlebox keys sign`. docs/keys.md has the ceremony step by step.
    """
    from axlebox.export.keys import find_key, parse_source, private_file
    from axlebox.export.roots import NewRoot, check_new, init, init_single
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    if single:
        if root_keys or targets_keys or build_key:
            raise UsageError("--single makes its own keys; leave --root, --targets and --build out")
        state = init_single(workspace, datetime.now(UTC))
        note = "note: one key for each role and all in one folder is for a first try, not for production"
        _show_root(state, as_json, f"keys in {workspace.keys} (private, ignored by git)", note)
        return
    if len(root_keys) < root_needs or len(targets_keys) < targets_needs:
        raise UsageError(
            f"{len(root_keys)} keys for role root and {len(targets_keys)} for targets, of which {root_needs} and "
            f"{targets_needs} must sign. DO: give --root and --targets three times each, or --single for a first try"
        )
    check_new(workspace)  # before any key is made
    words = {
        "root": root_keys,
        "targets": targets_keys,
        "build": (build_key or f"build={private_file(workspace, 'build')}",),
    }
    sources = {role: [parse_source(word) for word in given] for role, given in words.items()}
    found = {
        role: [find_key(workspace, source, passphrase, ask_secret) for source in given]
        for role, given in sources.items()
    }
    state = init(
        workspace, NewRoot(found, {"root": root_needs, "targets": targets_needs, "build": 1}), datetime.now(UTC)
    )
    _show_root(state, as_json, *_lone_quorums(words, {"root": root_needs, "targets": targets_needs}))


def _lone_quorums(words: dict[str, tuple[str, ...]], needed: dict[str, int]) -> list[str]:
    return [
        f"note: role {role} needs all of its {count} keys: one that is lost stops every release"
        for role, count in needed.items()
        if len(words[role]) == count
    ]


@keys.command("sign")
@click.option("--key", "place", required=True, metavar="FILE|URI", help="A root key: a file, or hsm:KEYID?label=TOKEN.")
@json_option
def keys_sign(place: str, as_json: bool) -> None:
    """Add a signature to the draft of a root; with the last one it is in force.

    Says what the draft changes and asks first, at a terminal; `axlebox keys list` says it too.
    """
    from axlebox.export.keys import load_signer
    from axlebox.export.roots import draft_changes, read_draft, sign_draft
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    draft = read_draft(workspace)  # once: what is shown is what is signed
    changes = draft_changes(workspace, draft)
    if sys.stdin.isatty() and not as_json:
        click.echo("\n".join(("the draft:", *changes)))
        click.confirm("Sign it?", abort=True)
    _show_root(sign_draft(workspace, draft, load_signer(place, ask_secret)), as_json, *changes)


@keys.command("rotate")
@click.argument("role", type=click.Choice(["root", "targets", "build"]))
@click.argument("old")
@click.argument("new", metavar="NEW[=FILE|URI]")
@key_option
@passphrase_option
@json_option
def keys_rotate(role: str, old: str, new: str, places: tuple[str, ...], passphrase: bool, as_json: bool) -> None:
    """Let key NEW take the place of key OLD in ROLE; OLD and NEW are names.

    Makes the next root, signed by the root keys given with --key; the others follow with
    `axlebox keys sign`. Vehicles follow it with the next bundle.
    """
    from axlebox.export.keys import find_key, load_signer, parse_source
    from axlebox.export.roots import check_change, rotate
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    check_change(workspace, old, (role,))  # before any key is made
    signers = [load_signer(place, ask_secret) for place in places]
    into = find_key(workspace, parse_source(new), passphrase, ask_secret, alone=role != "build")
    _show_root(rotate(workspace, role, old, into, signers, datetime.now(UTC)), as_json)


@keys.command("revoke")
@click.argument("key_name", metavar="KEY")
@click.option("--replace", metavar="NEW[=FILE|URI]", help="The key that takes its place.")
@key_option
@passphrase_option
@json_option
def keys_revoke(key_name: str, replace: str | None, places: tuple[str, ...], passphrase: bool, as_json: bool) -> None:
    """Take every role from KEY (a name or an id), and say which vehicles would still trust it."""
    from axlebox.export.keys import find_key, load_signer, parse_source
    from axlebox.export.roots import check_change, revoke, roots_that_trust
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    check_change(workspace, key_name)  # before any key is made
    signers = [load_signer(place, ask_secret) for place in places]
    into = None if replace is None else find_key(workspace, parse_source(replace), passphrase, ask_secret)
    trusting = roots_that_trust(workspace, key_name)
    state = revoke(workspace, key_name, into, signers, datetime.now(UTC))
    lines = [f"root {version} trusts {key_name} for {', '.join(roles)}" for version, roles in trusting.items()]
    lines.append(
        f"vehicles that hold one of these roots trust {key_name} until they confirm a release with root {state.version}"
    )
    _show_root(state, as_json, *lines, trusted_by={str(version): roles for version, roles in trusting.items()})


@keys.command("list")
@json_option
def keys_list(as_json: bool) -> None:
    """The keys that the root of trust lists, which of them are at hand, and what a draft would change."""
    from axlebox.export.keys import SHOWN_ID
    from axlebox.export.roots import draft_changes, has_draft, list_keys, read_draft
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    changes = draft_changes(workspace, read_draft(workspace)) if has_draft(workspace) else ()
    found = list_keys(workspace) if (workspace.trust / "root.json").exists() or not changes else []
    record = [
        {
            "role": one.role,
            "name": one.name,
            "key": one.key_id,
            "scheme": one.scheme,
            "needed": one.needed,
            "file": one.file and str(one.file),
        }
        for one in found
    ]
    lines = [
        f"{one.role:8} {one.name:16} {one.key_id[:SHOWN_ID]}  {one.scheme:22} needs {one.needed}  "
        f"{one.file or 'not here'}"
        for one in found
    ]
    draft = ["the draft, which waits for signatures:", *changes] if changes else []
    show({"keys": record, "draft": changes}, as_json, *lines, *draft)


def _show_root(state: RootState, as_json: bool, *lines: str, **more: object) -> None:
    """A root that is in force, or what its draft still lacks."""
    if state.missing:
        verdict = [f"draft of root {state.version} in {state.path}", *(f"  missing {one}" for one in state.missing)]
        verdict.append("  DO: axlebox keys sign --key FILE, by each holder in turn")
    else:
        verdict = [f"root of trust {state.path}, version {state.version}"]
    record = {"root": str(state.path), "version": state.version, "missing": state.missing, **more}
    show(record, as_json, *verdict, *lines)


@click.command()
@click.argument("bundle", type=BUNDLE_FILE)
@click.option(
    "--key", "place", required=True, metavar="FILE|URI", help="A targets key: a file, or hsm:KEYID?label=TOKEN."
)
@trust_option
@click.option("--digest", help="The digest that `inspect` showed you, or its beginning: another bundle is refused.")
@json_option
def approve(bundle: Path, place: str, trust: Path | None, digest: str | None, as_json: bool) -> None:
    """Check BUNDLE and add one more signature to it, touching nothing else."""
    from axlebox.export.approve import approve as add_signature
    from axlebox.export.approve import signer_names
    from axlebox.export.keys import load_signer
    from axlebox.export.open import find_trust

    signer = load_signer(place, ask_secret)
    found = add_signature(bundle, find_trust(trust), signer, datetime.now(UTC), digest or "")
    signed, others = signer_names(found)
    missing = found.signatures_missing
    show(
        {**found.facts(), "signers": signed},
        as_json,
        found.verdict(),
        f"  signed digest {found.digest}",
        f"  signed by {', '.join(signed)}"
        + (f"; {missing} of role targets missing ({', '.join(others)})" if missing else "; a vehicle would take it"),
    )
