"""Verification: whole bundles in, a Bundle or one class of refusal out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Delegations, Metadata, Root, Signed

from axlebox.firmware_bundle.container import pack, unpack
from axlebox.firmware_bundle.errors import (
    AxleboxError,
    BadSignature,
    Damaged,
    Malformed,
    RuntimeTooOld,
    TooFewSignatures,
    TooOld,
    WrongTarget,
)
from axlebox.firmware_bundle.manifest import Golden, GoldenRow, encode
from axlebox.firmware_bundle.trust import Bundle, examine, verify
from axlebox.firmware_bundle.tuf_client import MAX_METADATA_BYTES, parse_root, serialise

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = RELEASED + timedelta(days=30)
ROLE_FILES = ("targets.json", "snapshot.json", "timestamp.json")


@pytest.fixture
def fleet(world: Any) -> Fleet:
    return Fleet(world)


GOLDEN = encode(Golden((GoldenRow("2026-03-01T00:00:00Z", "temperature", 100.0, 0.5, False),)))


class Fleet:
    """Small bundles of the world (no real model), changed members, and the vehicle's check."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.root: bytes = world.root()

    def files(self, version: int = 1, **manifest_changes: Any) -> dict[str, bytes]:
        manifest = self.world.manifest(version, **manifest_changes)
        return {"manifest.json": encode(manifest), "golden.json": GOLDEN, "model.onnx": self.world.tiny_model}

    def bundle(self, version: int = 1, **how: Any) -> bytes:
        changes = how.pop("manifest", {})
        return bytes(self.world.bundle(version, **{"files": self.files(version, **changes), **how}))

    def members(self, version: int = 1, **how: Any) -> dict[str, bytes]:
        return unpack(self.bundle(version, **how))

    def check(self, data: bytes | dict[str, bytes], **how: Any) -> Bundle:
        plain = {"trust": self.root, "reference_time": NOW, "floor": 0, "hardware": "any", "vehicle": None}
        return verify(pack(data) if isinstance(data, dict) else data, **{**plain, **how})

    def sign(self, metadata: Metadata[Any], keys: Iterable[str]) -> bytes:
        """The metadata with signatures of these keys and no others."""
        metadata.signatures.clear()
        for key in keys:
            metadata.sign(self.world.signer(key), append=True)
        return serialise(metadata)

    def edit(self, members: dict[str, bytes], name: str, change: Callable[[Any], None]) -> dict[str, bytes]:
        """Members with a change in the signed part of one metadata file, signed again by the role's key."""
        metadata: Metadata[Signed] = Metadata.from_bytes(members[name])
        change(metadata.signed)
        return {**members, name: self.sign(metadata, ["targets" if name == "targets.json" else "build"])}

    def two_needed(self, signed_by: Iterable[str]) -> tuple[bytes, dict[str, bytes]]:
        """A root that asks for two of two signatures on targets.json, and members signed by these keys."""
        root = self.world.root(root_keys=("root", "root2"), targets_keys=("targets", "targets2"), threshold=2)
        members = self.members(roots={"1.root.json": root})
        metadata: Metadata[Signed] = Metadata.from_bytes(members["targets.json"])
        return root, {**members, "targets.json": self.sign(metadata, signed_by)}


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]


def accepted(fleet: Fleet, changed: Iterable[bytes]) -> list[int]:
    """Which of these files are accepted; an error that is not ours ends the test."""
    found = []
    for number, data in enumerate(changed):
        try:
            fleet.check(data)
        except AxleboxError:
            continue
        found.append(number)
    return found


# What is good


def test_a_good_bundle_passes_and_says_what_it_is(fleet: Fleet) -> None:
    bundle = fleet.check(fleet.bundle(version=7))
    assert bundle.label == "bearing-temp 7"
    assert bundle.members == fleet.files(7)
    assert bundle.signed_by == (fleet.world.signer("targets").public_key.keyid,)
    assert (bundle.signatures_needed, bundle.root_version, bundle.root) == (1, 1, fleet.root)
    assert (bundle.released, bundle.warnings) == (RELEASED, ())
    assert bundle.verdict().startswith("bearing-temp 7: good, signed 1 of 1 needed, built 2026-03-01 by axlebox 0.1.0")
    assert json.loads(json.dumps(bundle.facts()))["digest"] == bundle.digest


def test_a_bundle_cannot_be_made_by_hand(fleet: Fleet) -> None:
    good = fleet.check(fleet.bundle())
    facts = {field.name: getattr(good, field.name, None) for field in dataclasses.fields(good)}
    with pytest.raises(TypeError, match="verify"):
        Bundle(**{**facts, "_proof": object()})


def test_a_verified_bundle_cannot_be_copied_with_other_content(fleet: Fleet) -> None:
    good = fleet.check(fleet.bundle())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(good, members={"model.onnx": b"other"})


def test_the_digest_is_that_of_the_signed_part_and_not_of_the_signatures(fleet: Fleet) -> None:
    _, once = fleet.two_needed(["targets"])
    root, twice = fleet.two_needed(["targets", "targets2"])
    first, second = examine(pack(once), root, NOW), fleet.check(twice, trust=root)
    assert first.digest == second.digest
    assert (len(first.signed_by), len(second.signed_by)) == (1, 2)


# Damage


def test_one_flipped_bit_at_any_byte_is_refused(fleet: Fleet) -> None:
    good = fleet.bundle()
    assert accepted(fleet, (flipped(good, at, 1 << at % 8) for at in range(len(good)))) == []


def test_a_letter_of_metadata_in_the_other_case_is_refused(fleet: Fleet) -> None:
    """Flipping 0x20 writes a hex digit of a signature in upper case, which stands for the same bytes."""
    good = fleet.bundle()
    for name in ROLE_FILES:
        begin = good.index(unpack(good)[name])
        letters = [at for at in range(begin, begin + len(unpack(good)[name])) if good[at : at + 1].isalpha()]
        wrong = accepted(fleet, (flipped(good, at, 0x20) for at in letters))
        assert [good[letters[number] - 8 : letters[number] + 8] for number in wrong] == []


def test_a_file_cut_short_is_refused(fleet: Fleet) -> None:
    good = fleet.bundle()
    assert accepted(fleet, (good[:length] for length in range(0, len(good), 7))) == []


@pytest.mark.parametrize("change", [{"sig": 5}, {"sig": None}, {"sig": ["00"]}, {"keyid": 5}, {"keyid": None}])
def test_a_signature_that_is_not_text_is_malformed(fleet: Fleet, change: dict[str, Any]) -> None:
    """Found by scripts/fuzz: python-tuf takes what stands in the file, and a number was a TypeError."""
    members = fleet.members()
    document = json.loads(members["timestamp.json"])
    document["signatures"][0] |= change
    changed = json.dumps(document, indent=1, separators=(",", ": "), sort_keys=True).encode()
    with pytest.raises(Malformed):
        fleet.check({**members, "timestamp.json": changed})


@pytest.mark.parametrize("name", ["manifest.json", "golden.json", "model.onnx"])
def test_a_changed_member_is_damaged(fleet: Fleet, name: str) -> None:
    members = fleet.members()
    with pytest.raises(Damaged, match=f"{name} differs from what was signed"):
        fleet.check({**members, name: flipped(members[name], 0, 1)})


@pytest.mark.parametrize("name", ["manifest.json", "golden.json", "model.onnx", "1.root.json", *ROLE_FILES])
def test_a_missing_member_is_refused(fleet: Fleet, name: str) -> None:
    members = fleet.members()
    del members[name]
    with pytest.raises(Damaged):
        fleet.check(members)


@pytest.mark.parametrize("name", ["a", "model2.onnx", "root.json", "0.root.json", "01.root.json", "timestamp.json.sig"])
def test_a_member_that_nobody_signed_is_refused(fleet: Fleet, name: str) -> None:
    with pytest.raises(Malformed, match="signed by nobody"):
        fleet.check({**fleet.members(), name: b"x"})


def test_a_root_file_that_the_release_does_not_list_is_refused(fleet: Fleet) -> None:
    with pytest.raises(Damaged, match="root files"):
        fleet.check({**fleet.members(), "2.root.json": fleet.world.root(version=2)})
    with pytest.raises(Damaged, match=r"2\.root\.json is missing"):
        fleet.check({**fleet.members(), "9.root.json": fleet.root})


@pytest.mark.parametrize("name", ["manifest.json", "golden.json", "model.onnx", *ROLE_FILES])
def test_a_member_of_another_release_is_refused(fleet: Fleet, name: str) -> None:
    """Both releases are good; only their mixture is not."""
    old = fleet.members(1)
    other = fleet.members(
        2, files={**fleet.files(2), "golden.json": GOLDEN + b"\n", "model.onnx": fleet.world.model_like(2.0)}
    )
    fleet.check(old)
    fleet.check(other)
    with pytest.raises(Damaged):
        fleet.check({**other, name: old[name]})


@pytest.mark.parametrize("newer", [("timestamp.json",), ("snapshot.json",), ("timestamp.json", "snapshot.json")])
def test_an_old_release_under_the_timestamp_or_snapshot_of_a_newer_one_is_refused(
    fleet: Fleet, newer: tuple[str, ...]
) -> None:
    new = fleet.members(2)
    with pytest.raises(Damaged, match="belong to different releases"):
        fleet.check({**fleet.members(1), **{name: new[name] for name in newer}})


def test_the_manifest_of_another_release_is_refused_even_when_signed(fleet: Fleet) -> None:
    with pytest.raises(Damaged, match=r"release 1, targets\.json of 2"):
        fleet.check(fleet.bundle(2, files=fleet.files(1)))


@pytest.mark.parametrize("golden", [b"{}", b'{"rows": []}', b"[1]", b"\xff"])
def test_golden_readings_that_cannot_be_read_are_refused(fleet: Fleet, golden: bytes) -> None:
    with pytest.raises(Malformed, match=r"golden\.json"):
        fleet.check(fleet.bundle(files={**fleet.files(), "golden.json": golden}))


@pytest.mark.parametrize("missing", ["manifest.json", "golden.json", "model.onnx"])
def test_a_release_signed_without_a_file_that_it_needs_is_refused(fleet: Fleet, missing: str) -> None:
    files = {name: data for name, data in fleet.files().items() if name != missing}
    with pytest.raises(Malformed, match=missing):
        fleet.check(fleet.bundle(files=files))


# Signatures


@pytest.mark.parametrize("name", ROLE_FILES)
def test_an_unknown_signer_is_refused(fleet: Fleet, name: str) -> None:
    members = fleet.members()
    metadata: Metadata[Signed] = Metadata.from_bytes(members[name])
    with pytest.raises(TooFewSignatures, match="unknown to role"):
        fleet.check({**members, name: fleet.sign(metadata, ["stranger"])})


def test_a_key_of_another_role_is_an_unknown_signer(fleet: Fleet) -> None:
    with pytest.raises(TooFewSignatures, match="unknown to role targets"):
        fleet.check(fleet.bundle(targets_keys=("build",)))


@pytest.mark.parametrize("name", ROLE_FILES)
def test_metadata_without_signatures_is_refused(fleet: Fleet, name: str) -> None:
    members = fleet.members()
    with pytest.raises(TooFewSignatures, match="0 of 1"):
        fleet.check({**members, name: fleet.sign(Metadata.from_bytes(members[name]), [])})


def test_one_of_two_signatures_is_refused_and_two_are_accepted(fleet: Fleet) -> None:
    root, members = fleet.two_needed(["targets"])
    with pytest.raises(TooFewSignatures, match="1 of 2 signatures that role targets needs"):
        fleet.check(members, trust=root)
    root, members = fleet.two_needed(["targets", "targets2"])
    assert fleet.check(members, trust=root).signatures_needed == 2


@pytest.mark.parametrize("spell", [str, str.upper], ids=["same spelling", "upper case"])
def test_one_key_under_two_ids_counts_once(fleet: Fleet, spell: Callable[[str], str]) -> None:
    """The root lists the key twice, and both of its signatures are right."""
    metadata = fleet.world.root_metadata(root_keys=("root", "root2"), threshold=2)
    first = fleet.world.signer("targets").public_key
    keyval = {"public": spell(first.keyval["public"])}
    metadata.signed.add_key(SSlibKey("f" * 64, first.keytype, first.scheme, keyval), "targets")
    root = fleet.sign(metadata, ["root", "root2"])
    members = fleet.members(roots={"1.root.json": root})
    targets = json.loads(members["targets.json"])
    targets["signatures"].append({**targets["signatures"][0], "keyid": "f" * 64})
    twice = serialise(Metadata.from_dict(targets))
    with pytest.raises(TooFewSignatures, match="1 of 2"):
        fleet.check({**members, "targets.json": twice}, trust=root)


def test_one_signature_listed_twice_is_refused(fleet: Fleet) -> None:
    members = fleet.members()
    targets = json.loads(members["targets.json"])
    targets["signatures"] *= 2
    twice = json.dumps(targets, indent=1, sort_keys=True).encode()
    with pytest.raises(Malformed):
        fleet.check({**members, "targets.json": twice})


def test_a_signature_under_the_id_of_another_key_is_refused(fleet: Fleet) -> None:
    root, members = fleet.two_needed(["targets"])
    targets = json.loads(members["targets.json"])
    other = fleet.world.signer("targets2").public_key.keyid
    targets["signatures"].append({**targets["signatures"][0], "keyid": other})
    with pytest.raises(BadSignature, match=other[:8]):
        fleet.check({**members, "targets.json": serialise(Metadata.from_dict(targets))}, trust=root)


@pytest.mark.parametrize("sig", ["00" * 64, "", "zz", "0", "é", "ab" * 5000])
def test_a_wrong_signature_beside_enough_right_ones_is_refused(fleet: Fleet, sig: str) -> None:
    root = fleet.world.root(targets_keys=("targets", "targets2"))
    members = fleet.members(roots={"1.root.json": root})
    targets = json.loads(members["targets.json"])
    targets["signatures"].append({"keyid": fleet.world.signer("targets2").public_key.keyid, "sig": sig})
    with pytest.raises((BadSignature, Malformed)):
        fleet.check({**members, "targets.json": serialise(Metadata.from_dict(targets))}, trust=root)


@pytest.mark.parametrize(
    "respell",
    [str.upper, lambda sig: sig[:2] + " " + sig[2:], lambda sig: sig + "\n"],
    ids=["upper case", "a space", "a line end"],
)
def test_a_signature_spelled_otherwise_is_refused(fleet: Fleet, respell: Callable[[str], str]) -> None:
    members = fleet.members()
    targets = json.loads(members["targets.json"])
    targets["signatures"][0]["sig"] = respell(targets["signatures"][0]["sig"])
    with pytest.raises((BadSignature, Malformed)):
        fleet.check({**members, "targets.json": serialise(Metadata.from_dict(targets))})


@pytest.mark.parametrize("name", ROLE_FILES)
def test_a_field_that_no_signature_covers_is_refused(fleet: Fleet, name: str) -> None:
    """Beside the signed part, and inside one signature."""
    members = fleet.members()
    for place in (lambda metadata: metadata, lambda metadata: metadata["signatures"][0]):
        metadata = json.loads(members[name])
        place(metadata)["note"] = "nobody signed this"
        with pytest.raises(Malformed):
            fleet.check({**members, name: serialise(Metadata.from_dict(metadata))})


def test_two_thousand_signatures_are_refused(fleet: Fleet) -> None:
    members = fleet.members()
    targets = json.loads(members["targets.json"])
    targets["signatures"] += [{"keyid": f"{number:064x}", "sig": "00" * 64} for number in range(2000)]
    with pytest.raises((TooFewSignatures, Malformed)):
        fleet.check({**members, "targets.json": serialise(Metadata.from_dict(targets))})


# Roots

HANDED_OVER = [
    {"version": 1, "root_keys": ("a",), "targets_keys": ("t1",)},
    {"version": 2, "root_keys": ("b",), "targets_keys": ("t2",), "signed_by": ("a", "b")},
    {"version": 3, "root_keys": ("c",), "targets_keys": ("t3",), "signed_by": ("b", "c")},
]
"""As in the TUF specification 6.1: each root is signed by the keys of the one before and by its own."""

OVERLAPPING = [
    {"version": 1, "root_keys": ("a", "b"), "targets_keys": ("t1",)},
    {"version": 2, "root_keys": ("b", "c"), "targets_keys": ("t2",), "signed_by": ("b",)},
    {"version": 3, "root_keys": ("c", "d"), "targets_keys": ("t3",), "signed_by": ("c",)},
]
"""Neighbours share a key, which signs for both."""

Steps = list[dict[str, Any]]


def chain(fleet: Fleet, steps: Steps) -> dict[str, bytes]:
    """The root files of these steps, by name."""
    roots = {}
    for step in steps:
        metadata = fleet.world.root_metadata(**{**step, "signed_by": ()})
        roots[f"{step['version']}.root.json"] = fleet.sign(metadata, step.get("signed_by", step["root_keys"]))
    return roots


@pytest.mark.parametrize("steps", [HANDED_OVER, OVERLAPPING], ids=["handed over", "overlapping"])
@pytest.mark.parametrize("trusted", [1, 2, 3])
def test_a_rotation_is_followed_from_any_root_to_the_newest(fleet: Fleet, steps: Steps, trusted: int) -> None:
    roots = chain(fleet, steps)
    bundle = fleet.check(fleet.bundle(roots=roots, targets_keys=("t3",)), trust=roots[f"{trusted}.root.json"])
    assert (bundle.root_version, bundle.root) == (3, roots["3.root.json"])


@pytest.mark.parametrize("old", ["t1", "t2"])
def test_an_old_key_after_a_rotation_is_refused(fleet: Fleet, old: str) -> None:
    roots = chain(fleet, OVERLAPPING)
    with pytest.raises(TooFewSignatures, match="unknown to role targets"):
        fleet.check(fleet.bundle(roots=roots, targets_keys=(old,)), trust=roots["1.root.json"])


def test_an_old_bundle_is_refused_by_a_vehicle_that_followed_the_rotation(fleet: Fleet) -> None:
    roots = chain(fleet, OVERLAPPING)
    old = fleet.bundle(roots={"1.root.json": roots["1.root.json"]}, targets_keys=("t1",))
    fleet.check(old, trust=roots["1.root.json"])
    with pytest.raises(TooFewSignatures):
        fleet.check(old, trust=roots["3.root.json"])


def test_a_rotation_that_the_old_root_did_not_sign_is_refused(fleet: Fleet) -> None:
    roots = chain(fleet, [OVERLAPPING[0], {**OVERLAPPING[1], "signed_by": ("c",)}])
    with pytest.raises(TooFewSignatures):
        fleet.check(fleet.bundle(roots=roots, targets_keys=("t2",)), trust=roots["1.root.json"])


def test_a_rotation_that_the_new_root_did_not_sign_is_refused(fleet: Fleet) -> None:
    roots = chain(fleet, [OVERLAPPING[0], {**OVERLAPPING[1], "signed_by": ("a",)}])
    with pytest.raises(TooFewSignatures):
        fleet.check(fleet.bundle(roots=roots, targets_keys=("t2",)), trust=roots["1.root.json"])


def test_a_rotation_with_fewer_signatures_than_the_old_root_asks_for_is_refused(fleet: Fleet) -> None:
    steps = [
        {"version": 1, "root_keys": ("a", "b"), "targets_keys": ("t1", "t2"), "threshold": 2},
        {"version": 2, "root_keys": ("a", "b"), "targets_keys": ("t2",), "threshold": 1, "signed_by": ("a",)},
    ]
    roots = chain(fleet, steps)
    with pytest.raises(TooFewSignatures, match="1 of 2"):
        fleet.check(fleet.bundle(roots=roots, targets_keys=("t2",)), trust=roots["1.root.json"])


def test_a_surplus_wrong_signature_on_a_root_is_refused(fleet: Fleet) -> None:
    steps = [OVERLAPPING[0], {**OVERLAPPING[1], "root_keys": ("a", "b"), "signed_by": ("a", "b")}]
    roots = chain(fleet, steps)
    fleet.check(fleet.bundle(roots=roots, targets_keys=("t2",)), trust=roots["1.root.json"])
    newer = json.loads(roots["2.root.json"])
    newer["signatures"][1]["sig"] = newer["signatures"][0]["sig"]
    roots["2.root.json"] = serialise(Metadata.from_dict(newer))
    with pytest.raises(BadSignature):
        fleet.check(fleet.bundle(roots=roots, targets_keys=("t2",)), trust=roots["1.root.json"])


@pytest.mark.parametrize("version", [1, 3])
def test_a_root_under_the_name_of_another_version_is_refused(fleet: Fleet, version: int) -> None:
    roots = chain(fleet, [OVERLAPPING[0], {**OVERLAPPING[1], "version": version}])
    misnamed = {"1.root.json": roots["1.root.json"], "2.root.json": roots[f"{version}.root.json"]}
    with pytest.raises((Malformed, TooFewSignatures)):
        fleet.check(fleet.bundle(roots=misnamed, targets_keys=("t2",)), trust=chain(fleet, OVERLAPPING)["1.root.json"])


def test_another_fleet_s_root_is_refused(fleet: Fleet) -> None:
    other = fleet.world.root(root_keys=("their root",), targets_keys=("their targets",))
    with pytest.raises(TooFewSignatures):
        fleet.check(fleet.bundle(), trust=other)


def test_an_old_root_file_that_was_changed_is_refused(fleet: Fleet) -> None:
    """The vehicle trusts root 3 and needs neither 1 nor 2, yet what they say is signed."""
    roots = chain(fleet, OVERLAPPING)
    members = fleet.members(roots=roots, targets_keys=("t3",))
    for name in ("1.root.json", "2.root.json"):
        with pytest.raises(Damaged, match=name):
            fleet.check({**members, name: flipped(members[name], 100, 1)}, trust=roots["3.root.json"])


def test_a_root_that_does_not_sign_itself_is_no_root_of_trust(fleet: Fleet) -> None:
    with pytest.raises(TooFewSignatures):
        parse_root(fleet.world.root(signed_by=()))
    with pytest.raises(TooFewSignatures):
        parse_root(fleet.world.root(signed_by=("stranger",)))


def test_a_root_that_names_a_key_without_giving_it_is_refused(fleet: Fleet) -> None:
    metadata: Metadata[Root] = fleet.world.root_metadata()
    metadata.signed.keys.pop(fleet.world.signer("root").public_key.keyid)
    with pytest.raises(AxleboxError):
        parse_root(fleet.sign(metadata, ["root"]))


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_a_release_under_a_root_that_lacks_the_key_of_a_role_is_refused(fleet: Fleet, role: str) -> None:
    metadata: Metadata[Root] = fleet.world.root_metadata()
    metadata.signed.keys = {
        key_id: key for key_id, key in metadata.signed.keys.items() if key_id not in metadata.signed.roles[role].keyids
    }
    root = fleet.sign(metadata, ["root"])
    with pytest.raises(AxleboxError):
        fleet.check(fleet.bundle(roots={"1.root.json": root}), trust=root)


# Time and aim


def test_a_rollback_below_the_floor_is_refused(fleet: Fleet) -> None:
    with pytest.raises(TooOld, match="bearing-temp 5 is older than release 6"):
        fleet.check(fleet.bundle(5), floor=6)
    assert fleet.check(fleet.bundle(6), floor=6).manifest.version == 6


@pytest.mark.parametrize(
    ("made_for", "box"), [(("rail-a",), "rail-b"), (("rail-a", "rail-c"), "rail-b"), ((), "rail-b")]
)
def test_other_hardware_is_refused(fleet: Fleet, made_for: tuple[str, ...], box: str) -> None:
    with pytest.raises(WrongTarget, match="this is rail-b"):
        fleet.check(fleet.bundle(manifest={"hardware": made_for}), hardware=box)


@pytest.mark.parametrize(
    ("made_for", "box"),
    [(("rail-a",), "rail-a"), (("rail-a", "rail-b"), "rail-b"), (("any",), "x"), (("rail-a",), "any")],
)
def test_its_own_hardware_and_any_are_accepted(fleet: Fleet, made_for: tuple[str, ...], box: str) -> None:
    assert fleet.check(fleet.bundle(manifest={"hardware": made_for}), hardware=box).manifest.hardware == made_for


def test_another_vehicle_is_refused(fleet: Fleet) -> None:
    for_two = fleet.bundle(manifest={"vehicles": ("T1", "T2")})
    with pytest.raises(WrongTarget, match="for T1, T2; this is T3"):
        fleet.check(for_two, vehicle="T3")
    assert fleet.check(for_two, vehicle="T2").label == fleet.check(for_two, vehicle=None).label


def test_expired_metadata_is_refused_and_the_refusal_names_the_clock(fleet: Fleet) -> None:
    bundle = fleet.bundle(expires=RELEASED + timedelta(days=10))
    assert fleet.check(bundle, reference_time=RELEASED + timedelta(days=9)).warnings == ()
    with pytest.raises(TooOld, match=r"expired on 2026-03-11, and the clock says 2026-03-31: if the clock is wrong"):
        fleet.check(bundle, reference_time=NOW)


@pytest.mark.parametrize("name", ROLE_FILES)
def test_one_expired_metadata_file_is_enough(fleet: Fleet, name: str) -> None:
    def expire(signed: Signed) -> None:
        signed.expires = RELEASED + timedelta(days=1)

    with pytest.raises(TooOld, match=name):
        fleet.check(fleet.edit(fleet.members(), name, expire))


def test_an_expired_root_is_refused(fleet: Fleet) -> None:
    root = fleet.world.root(expires=RELEASED + timedelta(days=1))
    with pytest.raises(TooOld, match="root expired"):
        fleet.check(fleet.bundle(roots={"1.root.json": root}), trust=root)


def test_a_clock_at_1970_is_accepted_with_a_warning(fleet: Fleet) -> None:
    bundle = fleet.check(fleet.bundle(), reference_time=datetime(1970, 1, 1, tzinfo=UTC))
    assert len(bundle.warnings) == 1
    assert "the clock says 1970-01-01, and 2026-03-01 is surely past" in bundle.warnings[0]


def test_a_clock_at_1970_does_not_revive_what_had_expired_at_its_release(fleet: Fleet) -> None:
    with pytest.raises(TooOld):
        fleet.check(fleet.bundle(expires=RELEASED), reference_time=datetime(1970, 1, 1, tzinfo=UTC))


def test_a_clock_at_2100_is_refused_in_words_that_name_the_clock(fleet: Fleet) -> None:
    with pytest.raises(TooOld, match="the clock says 2100-01-01: if the clock is wrong, set it"):
        fleet.check(fleet.bundle(), reference_time=datetime(2100, 1, 1, tzinfo=UTC))


# Metadata that says what it must not say


def test_delegations_are_refused(fleet: Fleet) -> None:
    def delegate(signed: Any) -> None:
        signed.delegations = Delegations(keys={}, roles={})

    with pytest.raises(Malformed, match="delegates"):
        fleet.check(fleet.edit(fleet.members(), "targets.json", delegate))


def respelled(how: str, data: bytes) -> bytes:
    """The same JSON value, written otherwise."""
    value = json.loads(data)
    return {
        "compact": json.dumps(value, sort_keys=True, separators=(",", ":")).encode(),
        "indented by two": json.dumps(value, sort_keys=True, indent=2).encode(),
        "keys in another order": json.dumps(dict(reversed(value.items())), indent=1).encode(),
        "a line end": data + b"\n",
        "a byte order mark": b"\xef\xbb\xbf" + data,
        "a duplicate key": data.replace(b'"signatures"', b'"signatures": [],\n "signatures"', 1),
        "an escape": data.replace(b"spec_version", b"spec\\u005fversion", 1),
        "utf-16": data.decode().encode("utf-16"),
    }[how]


SPELLINGS = (
    "compact",
    "indented by two",
    "keys in another order",
    "a line end",
    "a byte order mark",
    "a duplicate key",
    "an escape",
    "utf-16",
)


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("name", ROLE_FILES)
def test_metadata_in_another_spelling_is_refused(fleet: Fleet, name: str, how: str) -> None:
    members = fleet.members()
    changed = respelled(how, members[name])
    assert changed != members[name]
    with pytest.raises(Malformed):
        fleet.check({**members, name: changed})


HOSTILE = {
    "deep lists": b"[" * 100_000,
    "deep and closed": b'{"signatures": [], "signed": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep within the limit": b'{"signatures": [], "signed": ' + b"[" * 900 + b"]" * 900 + b"}",
    "bad UTF-8": b'{"signatures": [], "signed": "\xff\xfe"}',
    "nothing": b"",
    "null": b"null",
    "number": b"1",
    "list": b"[]",
    "no signed part": b'{"signatures": []}',
    "a number of many digits": b'{"signatures": [], "signed": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"signatures": [], "signed": NaN}',
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ROLE_FILES)
def test_hostile_json_is_refused(fleet: Fleet, name: str, hostile: bytes) -> None:
    with pytest.raises(Malformed, match=name):
        fleet.check({**fleet.members(), name: hostile})


UNSIGNABLE = {"a fraction": 0.5, "half a surrogate": "\ud800", "depth": 400 * "[" + 400 * "]"}


@pytest.mark.parametrize("value", UNSIGNABLE.values(), ids=UNSIGNABLE)
@pytest.mark.parametrize("name", ROLE_FILES)
def test_a_value_that_canonical_json_cannot_hold_is_refused(fleet: Fleet, name: str, value: Any) -> None:
    """It reads and writes as JSON, and yet nobody can have signed it."""
    members = fleet.members()
    metadata = json.loads(members[name])
    metadata["signed"]["x"] = json.loads(value) if str(value).startswith("[") else value
    with pytest.raises((Malformed, BadSignature)):
        fleet.check({**members, name: json.dumps(metadata, indent=1, sort_keys=True).encode()})


@pytest.mark.parametrize("name", ROLE_FILES)
@pytest.mark.parametrize("other", [*ROLE_FILES, "1.root.json"])
def test_metadata_of_another_type_in_its_place_is_refused(fleet: Fleet, name: str, other: str) -> None:
    if name == other:
        return
    members = fleet.members()
    with pytest.raises(Malformed, match="is of type"):
        fleet.check({**members, name: members[other]})


def test_a_snapshot_in_place_of_the_root_is_refused(fleet: Fleet) -> None:
    with pytest.raises(Malformed, match="expected root"):
        parse_root(fleet.members()["snapshot.json"])


@pytest.mark.parametrize("version", ["1", 0, -1, True, None, [1], 2**70])
@pytest.mark.parametrize("name", ROLE_FILES)
def test_a_version_that_is_no_count_is_refused(fleet: Fleet, name: str, version: Any) -> None:
    members = fleet.members()
    metadata = json.loads(members[name])
    metadata["signed"]["version"] = version
    with pytest.raises(AxleboxError):
        fleet.check({**members, name: json.dumps(metadata, indent=1, sort_keys=True).encode()})


@pytest.mark.parametrize("name", [*ROLE_FILES, "2.root.json"])
def test_metadata_larger_than_the_limit_is_refused_although_signed(fleet: Fleet, name: str) -> None:
    def pad(signed: Signed) -> None:
        signed.unrecognized_fields["x"] = "a" * MAX_METADATA_BYTES

    if name == "2.root.json":
        large: Metadata[Root] = fleet.world.root_metadata(version=2)
        pad(large.signed)
        changed = fleet.members(roots={"1.root.json": fleet.root, name: fleet.sign(large, ["root"])})
    else:
        changed = fleet.edit(fleet.members(), name, pad)
    with pytest.raises(Malformed, match=rf"{name} has \d+ bytes, at most {MAX_METADATA_BYTES}"):
        fleet.check(changed)


RELEASE_RECORDS = {
    "none": None,
    "a list": [],
    "no roots": {"released": "2026-03-01T00:00:00Z"},
    "a time without a zone": {"released": "2026-03-01T00:00:00", "roots": {}},
    "a date": {"released": "2026-03-01", "roots": {}},
    "an unknown field": {"released": "2026-03-01T00:00:00Z", "roots": {}, "x": 1},
    "a short digest": {"released": "2026-03-01T00:00:00Z", "roots": {"1.root.json": "00"}},
}


@pytest.mark.parametrize("record", RELEASE_RECORDS.values(), ids=RELEASE_RECORDS)
def test_a_release_record_of_another_shape_is_refused(fleet: Fleet, record: Any) -> None:
    def change(signed: Signed) -> None:
        signed.unrecognized_fields["x-axlebox"] = record

    with pytest.raises(Malformed, match="x-axlebox"):
        fleet.check(fleet.edit(fleet.members(), "targets.json", change))


def test_a_snapshot_that_lists_more_than_targets_is_refused(fleet: Fleet) -> None:
    def list_more(signed: Any) -> None:
        signed.meta["more.json"] = signed.meta["targets.json"]

    with pytest.raises(Malformed, match="nothing else"):
        fleet.check(fleet.edit(fleet.members(), "snapshot.json", list_more))


@pytest.mark.parametrize("hashes", [{"md5": "0" * 32}, {"sha256": "0" * 64, "md5": "0" * 32}])
def test_a_target_without_exactly_one_sha256_is_refused(fleet: Fleet, hashes: dict[str, str]) -> None:
    def rehash(signed: Any) -> None:
        signed.targets["model.onnx"].hashes = hashes

    with pytest.raises(Malformed, match=r"sha256 of model\.onnx"):
        fleet.check(fleet.edit(fleet.members(), "targets.json", rehash))


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", "slot.json", "root.json"])
def test_a_signed_file_may_not_take_a_name_that_a_vehicle_uses(fleet: Fleet, name: str) -> None:
    """Metadata keeps its names; slot.json and root.json are what a slot adds to the members."""

    def list_one_more(signed: Any) -> None:
        signed.targets[name] = signed.targets["model.onnx"]

    members = fleet.edit(fleet.members(), "targets.json", list_one_more)
    with pytest.raises((Malformed, Damaged)):
        fleet.check({**members, name: members.get(name, members["model.onnx"])})


def test_a_newer_manifest_format_asks_for_a_newer_runtime(fleet: Fleet) -> None:
    newer = json.dumps({"format": 2, "anything": "else"}).encode()
    with pytest.raises(RuntimeTooOld, match="update the runtime"):
        fleet.check(fleet.bundle(files={**fleet.files(), "manifest.json": newer}))


def test_an_unknown_field_of_the_manifest_is_refused(fleet: Fleet) -> None:
    manifest = {**json.loads(fleet.files()["manifest.json"]), "colour": "red"}
    with pytest.raises(Malformed, match="colour"):
        fleet.check(fleet.bundle(files={**fleet.files(), "manifest.json": json.dumps(manifest).encode()}))


# What verification leaves alone

WATCHED = """
    import _strptime  # datetime loads it when it first reads a time
    import sys
    from datetime import UTC, datetime
    from axlebox.firmware_bundle.trust import verify

    root, good = bytes.fromhex(sys.stdin.readline()), bytes.fromhex(sys.stdin.readline())
    seen = []
    sys.addaudithook(lambda event, args: seen.append((event, str(args)[:200])))
    verify(good, root, datetime(2026, 4, 1, tzinfo=UTC), 0, "any", None)
    outside = ("open", "os.", "socket.", "subprocess.", "shutil.", "tempfile.", "urllib.", "ctypes.dlopen")
    found = [(event, args) for event, args in seen if event.startswith(outside)]
    open("/dev/null").close()
    print(found, seen[-1][0])
"""


def test_verify_opens_no_file_no_socket_and_no_process(fleet: Fleet) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WATCHED)],
        input=f"{fleet.root.hex()}\n{fleet.bundle().hex()}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[] open\n"
