"""Keys and roots as their holders use them: ceremonies, approvals, rotations, revocations, tokens."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from axlebox.export.cli import cli
from axlebox.export.key_commands import ask_secret
from axlebox.export.roots import root_chain
from axlebox.export.signing import ReleaseTime, build_bundle, load_signers
from axlebox.firmware_bundle.container import pack, unpack
from axlebox.firmware_bundle.errors import PreflightFailed, TooFewSignatures, UsageError
from axlebox.firmware_bundle.trust import verify
from axlebox.firmware_bundle.tuf_client import parse_root, serialise
from axlebox.runtime.commandline import run_program
from axlebox.training.workspace import Workspace, init_workspace

NOW = datetime(2027, 1, 1, tzinfo=UTC)
RELEASED = datetime(2026, 3, 1, tzinfo=UTC)


class Fleet:
    """A workspace, the folders of the people who hold its keys, and `axlebox` called in this process."""

    def __init__(self, world: Any, folder: Path, holders: Path) -> None:
        self.world, self.folder, self.holders = world, folder, holders

    def __call__(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        command = ["axlebox", *map(str, words)]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", command)
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                run_program(cli, "axlebox")
        code = ended.value.code
        return subprocess.CompletedProcess(
            command, code if isinstance(code, int) else 1, out.getvalue(), err.getvalue()
        )

    def ok(self, *words: object, **environment: str) -> str:
        done = self(*words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, name: str) -> Path:
        return self.holders / name / "key.pem"

    def named(self, option: str, *names: str) -> list[str]:
        return [word for name in names for word in (option, f"{name}={self.key(name)}")]

    def ceremony(self) -> str:
        roots, targets = self.named("--root", "ann", "bob", "cyd"), self.named("--targets", "dan", "eve", "fay")
        return self.ok("keys", "init", *roots, *targets)

    def draft(self) -> str:
        """A ceremony whose holders have made their keys and taken them away before anybody signs."""
        for name in ("ann", "bob", "cyd", "dan", "eve", "fay"):
            self.ok("keys", "new", name, self.key(name))
        roots = [word for name in ("ann", "bob", "cyd") for word in ("--root", name)]
        return self.ok("keys", "init", *roots, *[w for name in ("dan", "eve", "fay") for w in ("--targets", name)])

    def release(self, *names: str, oldest_root: int = 1, released: datetime = RELEASED) -> Path:
        """A small bundle, signed as `axlebox export` signs, with these keys beside those in keys/."""
        workspace = Workspace(self.folder)
        signers = load_signers(workspace, [str(self.key(name)) for name in names], ask_secret)
        files = {**self.world.files(self.world.manifest()), "model.onnx": self.world.tiny_model}
        time = ReleaseTime(released, released + timedelta(days=3650))
        roots = root_chain(workspace, oldest_root)
        self.bundle.write_bytes(build_bundle(files, roots, 1, time, signers))
        return self.bundle

    @property
    def bundle(self) -> Path:
        return self.folder / "fleet-1.axb"

    @property
    def root(self) -> bytes:
        return (self.folder / "trust" / "root.json").read_bytes()

    def accepted_by(self, root: bytes) -> int:
        """How many signatures a vehicle with this root finds on the bundle; raises its refusal."""
        return len(verify(self.bundle.read_bytes(), root, NOW, 0, "any", None).signed_by)


@pytest.fixture
def fleet(world: Any, tmp_path: Path) -> Fleet:
    """A new workspace, without keys."""
    return Fleet(world, init_workspace(tmp_path / "fleet").root, tmp_path / "holders")


def test_an_export_without_targets_keys_waits_for_approvals(axlebox: Any, copied: Path, tmp_path: Path) -> None:
    for name in ("keys", "trust"):
        shutil.rmtree(copied / name)
    roots = ["--root", f"ann={tmp_path / 'a' / 'k'}", "--root", f"bob={tmp_path / 'b' / 'k'}"]
    targets = ["--targets", f"dan={tmp_path / 'd' / 'k'}", "--targets", f"eve={tmp_path / 'e' / 'k'}"]
    assert "note: role root needs all of its 2 keys" in axlebox.ok("keys", "init", *roots, *targets, cwd=copied)
    said = axlebox.ok("export", "--key", tmp_path / "d" / "k", cwd=copied)
    assert "1 of 2 signatures missing. DO: axlebox approve" in said
    done = axlebox("verify", "dist/fleet-2.axb", cwd=copied)
    assert done.returncode == 11 and "1 missing" in done.stderr
    axlebox.ok("approve", "dist/fleet-2.axb", "--key", tmp_path / "e" / "k", cwd=copied)
    assert "signed 2 of 2 needed" in axlebox.ok("verify", "dist/fleet-2.axb", cwd=copied)


def files_with(mark: bytes, *folders: Path) -> list[Path]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if mark in path.read_bytes())


def test_a_ceremony_makes_two_of_three_in_both_roles(fleet: Fleet) -> None:
    assert "version 1" in fleet.ceremony()
    root = parse_root(fleet.root).signed
    for role in ("root", "targets"):
        assert (root.roles[role].threshold, len(root.roles[role].keyids)) == (2, 3)
    listed = json.loads(fleet.ok("keys", "list", "--json"))["keys"]
    assert [(one["role"], one["name"]) for one in listed] == [
        *(("root", name) for name in ("ann", "bob", "cyd")),
        *(("targets", name) for name in ("dan", "eve", "fay")),
        ("build", "build"),
    ]


def test_private_keys_go_where_their_holders_say_and_nowhere_else(fleet: Fleet) -> None:
    fleet.ceremony()
    private = files_with(b"PRIVATE KEY", fleet.folder, fleet.holders)
    holders = [fleet.key(name) for name in ("ann", "bob", "cyd", "dan", "eve", "fay")]
    assert private == sorted([fleet.folder / "keys" / "build.pem", *holders])
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert len({path.parent for path in private}) == len(private)


def test_two_private_keys_are_never_written_into_one_folder(fleet: Fleet) -> None:
    fleet.ok("keys", "new", "ann", fleet.holders / "usb" / "ann.pem")
    done = fleet("keys", "new", "bob", fleet.holders / "usb" / "bob.pem")
    assert done.returncode == 2 and "a folder of its own" in done.stderr
    assert not (fleet.holders / "usb" / "bob.pem").exists()


def test_a_key_file_is_never_written_over(fleet: Fleet) -> None:
    fleet.ok("keys", "new", "ann", fleet.key("ann"))
    before = fleet.key("ann").read_bytes()
    assert fleet("keys", "new", "other", fleet.key("ann")).returncode == 0  # the same key under another name
    assert fleet.key("ann").read_bytes() == before
    done = fleet("keys", "new", "ann", fleet.key("bob"))
    assert done.returncode == 2 and "belongs to another key" in done.stderr
    assert not fleet.key("bob").exists()


def test_holders_sign_one_at_a_time_and_the_root_waits_for_the_last(fleet: Fleet) -> None:
    said = fleet.draft()
    assert "missing 2 of the 2 signatures that role root needs (ann, bob, cyd)" in said
    with pytest.raises(PreflightFailed, match="a draft that lacks signatures"):
        fleet.release()
    said = fleet.ok("keys", "sign", "--key", fleet.key("ann"))
    assert "missing 1 of the 2 signatures that role root needs (bob, cyd)" in said
    assert not (fleet.folder / "trust" / "root.json").exists()
    assert "root of trust" in fleet.ok("keys", "sign", "--key", fleet.key("cyd"))
    assert len(parse_root(fleet.root).signatures) == 2
    assert not (fleet.folder / "trust" / "draft.root.json").exists()


def test_a_holder_reads_what_the_draft_changes_before_signing(fleet: Fleet) -> None:
    fleet.draft()
    assert "needs 2 of 3" in fleet.ok("keys", "list") and "+ ann " in fleet.ok("keys", "list")
    for name in ("ann", "bob"):
        fleet.ok("keys", "sign", "--key", fleet.key(name))
    fleet.ok("keys", "rotate", "targets", "dan", f"gil={fleet.key('gil')}")
    changes = json.loads(fleet.ok("keys", "list", "--json"))["draft"]
    assert changes[1] == "root     no change; needs 2 of 3" and changes[3] == "build    no change; needs 1 of 1"
    assert changes[2].startswith("targets  + gil ") and ", - dan " in changes[2]
    draft = Metadata.from_file(str(fleet.folder / "trust" / "draft.root.json"))
    draft.signed.roles["targets"].threshold = 1
    (fleet.folder / "trust" / "draft.root.json").write_bytes(serialise(draft))
    assert "needs 1 of 3, before 2" in fleet.ok("keys", "sign", "--key", fleet.key("ann"))


def swap_public(plain: Any, name: str, other: str) -> None:
    """Another key under a known id and name, wherever the plain data holds it."""
    if isinstance(plain, dict):
        if plain.get("x-axlebox-name") == name:
            plain["keyval"]["public"] = other
        for inner in plain.values():
            swap_public(inner, name, other)


def test_another_key_under_a_known_id_is_found_out(fleet: Fleet) -> None:
    """Ids are what people compare: in the draft that a holder signs, and in the public keys of a ceremony."""
    other = "ab" * 32
    fleet.draft()
    draft, dan = fleet.folder / "trust" / "draft.root.json", fleet.folder / "trust" / "keys" / "dan.json"
    for path, words in (
        (draft, ["keys", "sign", "--key", fleet.key("ann")]),
        (draft, ["keys", "list"]),
        (dan, ["keys", "init", *fleet.named("--root", "x", "y"), "--targets", "dan", "--targets", "eve"]),
    ):
        before = path.read_bytes()
        plain = json.loads(before)
        swap_public(plain, "dan", other)
        path.write_text(json.dumps(plain, indent=1, sort_keys=True, separators=(",", ": ")))
        if path == dan:
            draft.unlink()
        done = fleet(*words)
        assert done.returncode == 15 and "not the digest of its key" in done.stderr, done.stderr
        path.write_bytes(before)


def test_a_draft_is_the_next_version_and_its_end_is_shown(fleet: Fleet) -> None:
    fleet.draft()
    path = fleet.folder / "trust" / "draft.root.json"
    draft = Metadata.from_file(str(path))
    assert f"root 1, good until {draft.signed.expires:%Y-%m-%d}" in fleet.ok("keys", "list")
    draft.signed.version = 50
    path.write_bytes(serialise(draft))
    done = fleet("keys", "sign", "--key", fleet.key("ann"))
    assert done.returncode == 15 and "is version 50, expected 1" in done.stderr


def test_one_key_does_not_count_twice_in_a_role(fleet: Fleet) -> None:
    fleet.ok("keys", "new", "bob", fleet.key("bob"))
    fleet.ok("keys", "new", "bobx", fleet.key("bob"))
    twice = ["--root", "bob", "--root", "bobx", *fleet.named("--targets", "dan", "eve")]
    done = fleet("keys", "init", *twice)
    assert done.returncode == 2 and "one key under two names" in done.stderr
    shutil.rmtree(fleet.folder / "trust")
    shutil.rmtree(fleet.holders)
    fleet.ceremony()
    done = fleet("keys", "rotate", "targets", "dan", "eve", "--key", fleet.key("ann"), "--key", fleet.key("bob"))
    assert done.returncode == 2 and "eve has role targets already" in done.stderr


def test_a_key_may_be_named_by_the_id_that_is_shown_and_a_build_key_lies_beside_the_old_one(fleet: Fleet) -> None:
    fleet.ceremony()
    keys = ["--key", fleet.key("ann"), "--key", fleet.key("bob")]
    fleet.ok("keys", "rotate", "build", "build", f"build2={fleet.folder / 'keys' / 'build2.pem'}", *keys)
    shown = next(line.split()[2] for line in fleet.ok("keys", "list").splitlines() if " dan " in line)
    assert len(shown) == 16
    assert "root 1 trusts" in fleet.ok("keys", "revoke", shown, *keys)


def test_only_the_bundle_that_was_looked_at_is_approved(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release()
    digest = json.loads(fleet.ok("inspect", fleet.bundle, "--json"))["digest"]
    before = fleet.bundle.read_bytes()
    done = fleet("approve", fleet.bundle, "--key", fleet.key("dan"), "--digest", "0" * 16)
    assert done.returncode == 12 and fleet.bundle.read_bytes() == before
    said = fleet.ok("approve", fleet.bundle, "--key", fleet.key("dan"), "--digest", digest[:16])
    assert f"signed digest {digest}" in said


def test_a_release_from_the_future_is_not_approved(fleet: Fleet) -> None:
    """A vehicle that confirmed it would take its time for surely past, and refuse what comes next."""
    fleet.ceremony()
    fleet.release(released=datetime(2047, 1, 1, tzinfo=UTC))
    done = fleet("approve", fleet.bundle, "--key", fleet.key("dan"))
    assert done.returncode == 2 and "released on 2047-01-01" in done.stderr


def test_an_older_release_is_compared_under_the_root_of_its_time(fleet: Fleet) -> None:
    fleet.ceremony()
    old = fleet.release("dan", "eve").rename(fleet.folder / "old.axb")
    keys = ["--key", fleet.key("ann"), "--key", fleet.key("bob")]
    fleet.ok("keys", "revoke", "dan", "--replace", f"gil={fleet.key('gil')}", *keys)
    fleet.release("gil", "eve")
    assert "signers    targets: dan, eve -> eve, gil" in fleet.ok("diff", old, fleet.bundle)
    done = fleet("verify", old)
    assert done.returncode == 11 and done.stderr.startswith("axlebox: old.axb: ")


@pytest.mark.parametrize("damage", [lambda data: b"{", lambda data: data.replace(b'"version": 1', b'"version": -1')])
def test_a_draft_that_is_no_root_is_refused(fleet: Fleet, damage: Callable[[bytes], bytes]) -> None:
    fleet.draft()
    path = fleet.folder / "trust" / "draft.root.json"
    path.write_bytes(damage(path.read_bytes()))
    for words in (["keys", "list"], ["keys", "sign", "--key", fleet.key("ann")]):
        done = fleet(*words)
        assert done.returncode == 15 and "draft.root.json is not TUF metadata" in done.stderr


def test_a_stranger_cannot_sign_a_draft(fleet: Fleet) -> None:
    fleet.draft()
    before = (fleet.folder / "trust" / "draft.root.json").read_bytes()
    done = fleet("keys", "sign", "--key", fleet.key("dan"))
    assert done.returncode == 2 and "no role root" in done.stderr
    assert (fleet.folder / "trust" / "draft.root.json").read_bytes() == before


def test_keys_without_enough_holders_are_refused_and_nothing_is_written(fleet: Fleet) -> None:
    done = fleet("keys", "init", *fleet.named("--root", "ann"), *fleet.named("--targets", "dan", "eve"))
    assert done.returncode == 2 and "--single for a first try" in done.stderr
    assert files_with(b"", fleet.folder / "trust", fleet.holders) == []


def test_a_bundle_needs_two_approvals_and_says_which_are_missing(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release()
    done = fleet("verify", fleet.bundle)
    assert done.returncode == 11
    assert "targets.json has 0 of 2 signatures that role targets needs: 2 missing" in done.stderr
    said = fleet.ok("approve", fleet.bundle, "--key", fleet.key("dan"))
    assert "signed by dan; 1 of role targets missing (eve, fay)" in said
    assert fleet("verify", fleet.bundle).returncode == 11
    assert "signed by dan, fay" in fleet.ok("approve", fleet.bundle, "--key", fleet.key("fay"))
    assert "signed 2 of 2 needed" in fleet.ok("verify", fleet.bundle)
    assert fleet.accepted_by(fleet.root) == 2


def test_an_approval_touches_nothing_but_the_signatures_of_targets(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release()
    before = unpack(fleet.bundle.read_bytes())
    fleet.ok("approve", fleet.bundle, "--key", fleet.key("dan"))
    after = unpack(fleet.bundle.read_bytes())
    signed = [Metadata.from_bytes(one.pop("targets.json")).signed_bytes for one in (before, after)]
    assert signed[0] == signed[1] and before == after


def test_the_same_approval_twice_and_a_key_of_another_role_change_nothing(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release("dan")
    before = fleet.bundle.read_bytes()
    for name, code, words in (("dan", 2, "dan has signed"), ("ann", 11, "no role targets")):
        done = fleet("approve", fleet.bundle, "--key", fleet.key(name))
        assert done.returncode == code and words in done.stderr
    assert fleet.bundle.read_bytes() == before


def test_a_damaged_bundle_is_not_approved(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release()
    members = unpack(fleet.bundle.read_bytes())
    damaged = pack({**members, "golden.json": members["golden.json"].replace(b"true", b"fals", 1)})
    fleet.bundle.write_bytes(damaged)
    assert fleet("approve", fleet.bundle, "--key", fleet.key("dan")).returncode == 12
    assert fleet.bundle.read_bytes() == damaged


def test_an_unapproved_bundle_can_be_inspected_and_says_so(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release()
    said = fleet.ok("inspect", fleet.bundle)
    assert "not approved yet, 2 missing" in said and "by nobody in role targets, 2 needed of 3" in said


def test_a_vehicle_that_slept_through_three_rotations_follows(fleet: Fleet) -> None:
    fleet.ceremony()
    asleep = fleet.root
    keys = ["--key", fleet.key("ann"), "--key", fleet.key("bob")]
    for role, old, new in (("targets", "dan", "gil"), ("root", "cyd", "hal"), ("build", "build", "build2")):
        place = fleet.folder / "keys" / "build2.pem" if role == "build" else fleet.key(new)
        if role == "build":
            shutil.move(fleet.folder / "keys" / "build.pem", fleet.holders / "old-build.pem")
        assert "root of trust" in fleet.ok("keys", "rotate", role, old, f"{new}={place}", *keys)
    assert parse_root(fleet.root).signed.version == 4
    fleet.release("gil", "eve")
    assert set(unpack(fleet.bundle.read_bytes())) >= {f"{number}.root.json" for number in (1, 2, 3, 4)}
    assert fleet.accepted_by(asleep) == 2
    assert fleet("approve", fleet.bundle, "--key", fleet.key("dan")).returncode == 11


def test_a_root_key_is_rotated_by_the_old_quorum_and_the_new(fleet: Fleet) -> None:
    fleet.ceremony()
    rotate = ("keys", "rotate", "root", "ann", f"ida={fleet.key('ida')}")
    said = fleet.ok(*rotate, "--key", fleet.key("ann"), "--key", fleet.key("bob"))
    assert "missing 1 of the 2 signatures that role root needs (ida, cyd)" in said or "(cyd, ida)" in said
    assert "root of trust" in fleet.ok("keys", "sign", "--key", fleet.key("ida"))
    assert parse_root(fleet.root).signed.version == 2


def test_a_draft_that_waits_is_not_written_over(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.ok("keys", "rotate", "targets", "dan", f"gil={fleet.key('gil')}", "--key", fleet.key("ann"))
    done = fleet("keys", "revoke", "eve", "--replace", f"ida={fleet.key('ida')}")
    assert done.returncode == 2 and "waits for signatures" in done.stderr
    assert not fleet.key("ida").exists()
    assert fleet("keys", "init", "--single").returncode == 2
    again = fleet.named("--root", "x", "y") + fleet.named("--targets", "z", "w")
    assert fleet("keys", "init", *again).returncode == 2 and not fleet.key("x").exists()


def test_a_revoked_key_is_refused_and_the_roots_that_still_trust_it_are_named(fleet: Fleet) -> None:
    fleet.ceremony()
    keys = ["--key", fleet.key("ann"), "--key", fleet.key("bob")]
    fleet.ok("keys", "rotate", "root", "cyd", f"hal={fleet.key('hal')}", *keys)
    fleet.release("dan", "eve")
    said = fleet.ok("keys", "revoke", "dan", "--replace", f"gil={fleet.key('gil')}", *keys, "--json")
    assert json.loads(said)["trusted_by"] == {"1": ["targets"], "2": ["targets"]}
    with pytest.raises(TooFewSignatures, match="unknown to role targets"):
        fleet.accepted_by(fleet.root)
    with pytest.raises(UsageError, match="no role targets or build"):
        fleet.release("dan")
    done = fleet("keys", "revoke", "dan", *keys)
    assert done.returncode == 2 and "vehicles that hold root 1, 2 still trust dan" in done.stderr
    done = fleet("keys", "rotate", "targets", "nobody", f"new={fleet.key('new')}", *keys)
    assert done.returncode == 2 and not fleet.key("new").exists()


def test_a_revocation_that_leaves_too_few_keys_is_refused(fleet: Fleet) -> None:
    fleet.ceremony()
    keys = ["--key", fleet.key("ann"), "--key", fleet.key("bob")]
    fleet.ok("keys", "revoke", "dan", *keys)
    before = fleet.root
    done = fleet("keys", "revoke", "eve", *keys)
    assert done.returncode == 2 and "would have 1 keys, and 2 must sign" in done.stderr
    assert fleet("keys", "revoke", "nobody", *keys).returncode == 2
    assert fleet.root == before


def test_a_chain_may_begin_at_the_oldest_root_that_a_vehicle_still_holds(fleet: Fleet) -> None:
    fleet.ceremony()
    first = fleet.root
    keys = ["--key", fleet.key("ann"), "--key", fleet.key("bob")]
    second = None
    for old, new in (("dan", "gil"), ("gil", "hal")):
        fleet.ok("keys", "rotate", "targets", old, f"{new}={fleet.key(new)}", *keys)
        second = second or fleet.root
    fleet.release("eve", "fay", oldest_root=3)
    assert fleet.accepted_by(second or b"") == 2
    with pytest.raises(TooFewSignatures, match="from 3 on, this vehicle holds 1: it must be provisioned anew"):
        fleet.accepted_by(first)


# Secrets


def test_an_encrypted_key_opens_with_its_passphrase_alone(fleet: Fleet) -> None:
    fleet.ceremony()
    fleet.release()
    secret = "correct horse battery"
    new = ("keys", "rotate", "targets", "dan", f"gil={fleet.key('gil')}", "--passphrase")
    fleet.ok(*new, "--key", fleet.key("ann"), "--key", fleet.key("bob"), AXLEBOX_PASSPHRASE=secret)
    assert b"ENCRYPTED PRIVATE KEY" in fleet.key("gil").read_bytes()
    fleet.release()
    approve = ("approve", fleet.bundle, "--key", fleet.key("gil"))
    for environment, words in ({}, "set AXLEBOX_PASSPHRASE"), ({"AXLEBOX_PASSPHRASE": "wrong"}, "does not open"):
        done = fleet(*approve, **environment)
        assert done.returncode == 2 and words in done.stderr
        assert "wrong" not in done.stderr.replace("wrong'", "") and secret not in done.stderr
    fleet.ok(*approve, AXLEBOX_PASSPHRASE=secret)
    assert files_with(secret.encode(), fleet.folder, fleet.holders) == []


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_refused_without_being_quoted(fleet: Fleet, content: bytes) -> None:
    fleet.ceremony()
    fleet.release()
    path = fleet.holders / "odd.pem"
    path.write_bytes(content)
    done = fleet("approve", fleet.bundle, "--key", path)
    assert done.returncode == 2 and "is not a private key in PEM" in done.stderr
    assert "AAAA" not in done.stderr


# Tokens


@pytest.fixture
def token(tmp_path: Path) -> dict[str, str]:
    """A software token (SoftHSM) that holds one P-256 key, number 2, behind the PIN 1234."""
    pytest.importorskip("pkcs11", reason="the extra pkcs11 is not installed")
    library = next((path for path in Path("/usr/lib").rglob("libsofthsm2.so")), None)
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not on this machine (Debian: softhsm2)")
    (tmp_path / "tokens").mkdir()
    settings = tmp_path / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    environment = {"SOFTHSM2_CONF": str(settings), "PYKCS11LIB": str(library), "AXLEBOX_PIN": "1234"}
    words = ["softhsm2-util", "--init-token", "--free", "--label", "officer", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(words, env={**os.environ, **environment}, check=True, capture_output=True)
    _make_p256_key(environment)
    return environment


def _make_p256_key(environment: dict[str, str]) -> None:
    """In a process of its own: a PKCS#11 driver reads its settings once."""
    program = """
import os, pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="officer")
with token.open(rw=True, user_pin="1234") as session:
    curve = session.create_domain_parameters(
        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    curve.generate_keypair(store=True, id=b"\\2", label="officer")
"""
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, check=True, capture_output=True)


OFFICER = "hsm:2?label=officer"


def with_officer(fleet: Fleet, program: Any, token: dict[str, str]) -> Any:
    """A fleet whose third targets key is the token's; returns `axlebox` in a process of its own, with the token."""
    program = replace(program, environment={**program.environment, **token})
    roots = [*fleet.named("--root", "ann", "bob"), "--root", f"officer={OFFICER}"]
    targets = [*fleet.named("--targets", "dan", "eve"), "--targets", f"signer={OFFICER}"]
    program.ok("keys", "init", *roots, *targets, cwd=fleet.folder)
    fleet.release("dan")
    return program


def test_a_token_signs_a_root_and_a_bundle_with_p_256(fleet: Fleet, axlebox: Any, token: dict[str, str]) -> None:
    program = with_officer(fleet, axlebox, token)
    root = parse_root(fleet.root)
    schemes = {root.signed.keys[key_id].scheme for key_id in root.signatures}
    assert schemes == {"ed25519", "ecdsa-sha2-nistp256"}
    program.ok("approve", fleet.bundle, "--key", OFFICER, cwd=fleet.folder)
    assert fleet.accepted_by(fleet.root) == 2


Change = Callable[[dict[str, str]], None]


@pytest.mark.parametrize(
    ("change", "uri", "code"),
    [
        (lambda settings: settings.update(AXLEBOX_PIN="9999"), OFFICER, 2),
        (lambda settings: None, "hsm:7?label=officer", 2),
        (lambda settings: None, "hsm:2?label=nobody", 2),
        (lambda settings: None, "hsm:two", 2),
        (lambda settings: settings.pop("PYKCS11LIB"), OFFICER, 20),
        (lambda settings: settings.update(PYKCS11LIB="/nowhere.so"), OFFICER, 2),
    ],
    ids=["wrong PIN", "no such key", "no such token", "no number", "no driver named", "no driver there"],
)
def test_a_token_that_cannot_sign_is_refused_in_one_line(
    fleet: Fleet, axlebox: Any, token: dict[str, str], change: Change, uri: str, code: int
) -> None:
    program = with_officer(fleet, axlebox, token)
    before = fleet.bundle.read_bytes()
    change(program.environment)
    done = program("approve", fleet.bundle, "--key", uri, cwd=fleet.folder)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and "9999" not in done.stderr
    assert fleet.bundle.read_bytes() == before
