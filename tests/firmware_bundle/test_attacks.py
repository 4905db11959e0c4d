"""Whole hostile bundles against a vehicle: each attack by its name, its refusal, its exit code, and nothing changed."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata

from axlebox.firmware_bundle import errors, receipts
from axlebox.firmware_bundle.container import pack, unpack
from axlebox.firmware_bundle.manifest import encode
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.trust import examine, verify
from axlebox.firmware_bundle.tuf_client import serialise
from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = RELEASED + timedelta(days=30)
RUNTIME = Runtime("0.1.0", frozenset({("value", 1)}))
AXLEBOXD = [sys.executable, "-P", "-c", "from axlebox.runtime.cli import main; main()"]


class Yard:
    """A vehicle that runs release 5 under a root of 2 of 3, and everything that an attacker may know."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.root = world.root(root_keys=("r1", "r2", "r3"), targets_keys=("t1", "t2", "t3"), threshold=2)
        self.vehicle = Vehicle.provision(folder / "data", self.root, Identity("T204", "rail-box-a"))
        world.install(self.vehicle, self.bundle(5, min_sequence=3))
        world.confirm(self.vehicle)

    def bundle(self, version: int = 6, signed_by: tuple[str, ...] = ("t1", "t2"), **how: Any) -> bytes:
        """A good bundle but for what is asked for: keys, roots, files, fields of the manifest, times."""
        model = how.pop("model", self.world.tiny_model)
        more = how.pop("more", {})
        times = {name: how.pop(name) for name in ("released", "expires") if name in how}
        roots = how.pop("roots", {"1.root.json": self.root})
        files = {**self.world.files(self.world.manifest(version, **how)), "model.onnx": model, **more}
        return bytes(self.world.bundle(version, roots=roots, files=files, targets_keys=signed_by, **times))

    def rewritten(self, name: str, change: Callable[[bytes], bytes]) -> bytes:
        members = unpack(self.bundle())
        return pack({**members, name: change(members[name])})

    def resigned(self, change: Callable[[Any], None], *keys: str, name: str = "targets.json") -> bytes:
        """A metadata file changed and signed again with real keys: the attacker sits at the build machine."""
        members = unpack(self.bundle())
        metadata: Metadata[Any] = Metadata.from_bytes(members[name])
        change(metadata)
        if keys:
            metadata.signatures.clear()
        for key in keys:
            metadata.sign(self.world.signer(key), append=True)
        return pack({**members, name: serialise(metadata)})

    def write(self, data: bytes) -> Path:
        path = self.folder / "stick.axb"
        path.write_bytes(data)
        return path

    def picture(self) -> dict[str, bytes | None]:
        """Every file, folder and link, the data folder's and those around it, but the lock and the receipts."""
        found = (path for path in self.folder.rglob("*") if path.name not in ("lock", "receipts.log"))
        return {str(path): path.read_bytes() if path.is_file() else None for path in found}

    def receipts(self) -> list[receipts.Receipt]:
        """The vehicle's receipts, each with its signature checked."""
        return list(receipts.read(self.vehicle.data, read_public(self.vehicle.data)))


def _passed(slot: Path) -> str:
    return "passed"


def _never(slot: Path) -> str:
    raise AssertionError("work was done on a bundle that is refused")


def _tar(*entries: tuple[str, bytes, bytes]) -> bytes:
    """What an ordinary tar program would write: (name, type, data)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.mode = kind, len(data), 0o644
            entry.linkname = "/etc/passwd" if entry.islnk() or entry.issym() else ""
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"x") -> Callable[[Yard], bytes]:
    return lambda yard: _tar((name, kind, data if kind == tarfile.REGTYPE else b""))


def _same_key_twice(yard: Yard) -> bytes:
    def repeat(data: bytes) -> bytes:
        plain = json.loads(data)
        plain["signatures"] = [plain["signatures"][0]] * 2
        return json.dumps(plain, indent=1, sort_keys=True, separators=(",", ": ")).encode()

    return yard.rewritten("targets.json", repeat)


def _one_key_under_two_ids(yard: Yard) -> bytes:
    """The root lists t1 a second time, under an id of the attacker's; both signatures are right."""
    root = yard.world.root_metadata(root_keys=("r1", "r2", "r3"), targets_keys=("t1", "t2"), threshold=2, version=2)
    key = yard.world.signer("t1").public_key
    root.signed.add_key(SSlibKey("f" * 64, key.keytype, key.scheme, key.keyval), "targets")
    root.signatures.clear()
    for name in ("r1", "r2"):
        root.sign(yard.world.signer(name), append=True)
    data = yard.bundle(roots={"1.root.json": yard.root, "2.root.json": serialise(root)}, signed_by=("t1",))
    members = unpack(data)
    plain = json.loads(members["targets.json"])
    plain["signatures"].append({**plain["signatures"][0], "keyid": "f" * 64})
    return pack({**members, "targets.json": serialise(Metadata.from_dict(plain))})


def _under_another_id(yard: Yard) -> bytes:
    def change(metadata: Any) -> None:
        first, second = list(metadata.signatures)
        metadata.signatures[second].signature = metadata.signatures[first].signature

    return yard.resigned(change)


def _many_signatures(yard: Yard) -> bytes:
    def change(metadata: Any) -> None:
        (one, *_) = metadata.signatures.values()
        for number in range(2000):
            metadata.signatures[f"{number:064x}"] = type(one)(f"{number:064x}", one.signature)

    return yard.resigned(change)


def _flipped(name: str) -> Callable[[Yard], bytes]:
    """One bit in the middle of a member."""

    def flip(data: bytes) -> bytes:
        at = len(data) // 2
        return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]

    return lambda yard: yard.rewritten(name, flip)


def _huge_size(yard: Yard) -> bytes:
    """The largest size that a header can say, with a right checksum."""
    data = yard.bundle()
    header = data[:124] + b"7" * 11 + b"\0" + data[136:512]
    total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:] + data[512:]


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Yard], bytes]:
    """A hostile manifest, signed by a real quorum."""

    def make(yard: Yard) -> bytes:
        plain = json.loads(encode(yard.world.manifest(6)))
        change(plain)
        return yard.bundle(more={"manifest.json": json.dumps(plain).encode()})

    return make


def _signed(name: str, data: bytes) -> Callable[[Yard], bytes]:
    """Any bytes as a member, signed by a real quorum."""
    return lambda yard: yard.bundle(more={name: data})


def _mixed(yard: Yard) -> bytes:
    return pack({**unpack(yard.bundle(7)), "manifest.json": unpack(yard.bundle(6))["manifest.json"]})


def _rotated(yard: Yard, *keys: str) -> bytes:
    """Root 2 has taken role targets from t1 and t2."""
    root = yard.world.root_metadata(
        version=2, root_keys=("r1", "r2", "r3"), targets_keys=("t3", "t4", "t5"), threshold=2
    )
    return yard.bundle(roots={"1.root.json": yard.root, "2.root.json": serialise(root)}, signed_by=keys)


def _seized(yard: Yard) -> bytes:
    """A root of the attacker's own, signed by themselves and one stolen root key."""
    root = yard.world.root_metadata(
        version=2, root_keys=("x1", "x2"), targets_keys=("x3", "x4"), threshold=2, signed_by=("r1", "x1", "x2")
    )
    return yard.bundle(roots={"1.root.json": yard.root, "2.root.json": serialise(root)}, signed_by=("x3", "x4"))


def _foreign_root(yard: Yard) -> bytes:
    names = {"root_keys": ("x1", "x2"), "targets_keys": ("x3", "x4")}
    return yard.bundle(roots={"1.root.json": yard.world.root(**names, threshold=2)}, signed_by=("x3", "x4"))


def _model(change: Callable[[onnx.ModelProto], None]) -> Callable[[Yard], bytes]:
    """A changed model, signed by a real quorum."""

    def make(yard: Yard) -> bytes:
        model = onnx.load_from_string(yard.world.tiny_model)
        change(model)
        return yard.bundle(model=model.SerializeToString(deterministic=True))

    return make


def _external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[-1]
        tensor.ClearField("double_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def _one_more(*node: Any, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.node.append(helper.make_node(*node, **attributes))


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))


def _huge_tensor(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("huge", TensorProto.DOUBLE, [1], [0.0])
    tensor.dims[0] = 2**40
    model.graph.initializer.append(tensor)


Attack = tuple[Callable[[Yard], bytes], type[errors.AxleboxError], int, str]
ATTACKS: dict[str, Attack] = {
    # the bundle
    "one flipped bit in targets.json": (_flipped("targets.json"), errors.Malformed, 15, "is not TUF metadata"),
    "one flipped bit in the model": (
        _flipped("model.onnx"),
        errors.Damaged,
        12,
        "model.onnx differs from what was signed",
    ),
    "truncation": (lambda yard: yard.bundle()[:-700], errors.Damaged, 12, "in the middle of a header"),
    "an empty file": (lambda yard: b"", errors.Damaged, 12, "ends at byte 0"),
    "mixed-and-matched members": (_mixed, errors.Damaged, 12, "manifest.json differs from what was signed"),
    "a member nobody signed": (
        lambda yard: pack({**unpack(yard.bundle()), "z": b""}),
        errors.Malformed,
        15,
        "z is signed by nobody",
    ),
    "rollback": (lambda yard: yard.bundle(4), errors.Rollback, 14, "bearing-temp 4 is older than release 5"),
    "below min_sequence": (lambda yard: yard.bundle(2), errors.Revoked, 14, "below release 3"),
    "old keys after a rotation": (
        lambda yard: _rotated(yard, "t1", "t2"),
        errors.TooFewSignatures,
        11,
        "unknown to role targets",
    ),
    "a rotation by one stolen root key": (
        _seized,
        errors.TooFewSignatures,
        11,
        "1 of 2 signatures that role root needs",
    ),
    "1 of 2 signatures": (
        lambda yard: yard.bundle(signed_by=("t1",)),
        errors.TooFewSignatures,
        11,
        "1 of 2 signatures that role targets needs",
    ),
    "no signature": (lambda yard: yard.bundle(signed_by=()), errors.TooFewSignatures, 11, "0 of 2"),
    "one stolen key and a stranger's": (
        lambda yard: yard.bundle(signed_by=("t1", "x")),
        errors.TooFewSignatures,
        11,
        "unknown to role targets",
    ),
    "keys of another role": (
        lambda yard: yard.bundle(signed_by=("r1", "r2")),
        errors.TooFewSignatures,
        11,
        "unknown to role targets",
    ),
    "the same signature twice": (_same_key_twice, errors.Malformed, 15, "is not TUF metadata"),
    "the same key twice": (
        _one_key_under_two_ids,
        errors.TooFewSignatures,
        11,
        "1 of 2 signatures that role targets needs",
    ),
    "the same signature under another key id": (_under_another_id, errors.BadSignature, 10, "is wrong"),
    "wrong root": (_foreign_root, errors.TooFewSignatures, 11, "another fleet's"),
    "type confusion": (
        lambda yard: yard.rewritten("targets.json", lambda _: yard.root),
        errors.Malformed,
        15,
        "of type root, expected targets",
    ),
    "type confusion in a signed manifest": (
        _manifest(lambda plain: plain.update(version="6", vehicles="T204")),
        errors.Malformed,
        15,
        "$.version",
    ),
    "deep JSON": (
        lambda yard: yard.rewritten("targets.json", lambda _: b"[" * 100_000),
        errors.Malformed,
        15,
        "is not TUF metadata",
    ),
    "deep JSON in a signed manifest": (
        _signed("manifest.json", b'{"format":1,"x":' + b"[" * 100_000),
        errors.Malformed,
        15,
        "recursion",
    ),
    "bad UTF-8": (
        lambda yard: yard.rewritten("targets.json", lambda data: data.replace(b"targets", b"targ\xffts", 1)),
        errors.Malformed,
        15,
        "is not TUF metadata",
    ),
    "bad UTF-8 in a signed manifest": (
        _signed("manifest.json", b'{"format": 1, "\xff": 1}'),
        errors.Malformed,
        15,
        "utf-8",
    ),
    "text that moves the cursor": (
        _manifest(lambda plain: plain["contract"]["kinds"]["temperature"].update(action="\x1b[2J")),
        errors.Malformed,
        15,
        ".action",
    ),
    "a signed manifest that names a file elsewhere": (
        _manifest(lambda plain: plain["detectors"][0].update(model="../../vehicle.key")),
        errors.Malformed,
        15,
        "$.detectors[0].model",
    ),
    "wrong hardware": (
        lambda yard: yard.bundle(hardware=("rail-box-b",)),
        errors.WrongHardware,
        13,
        "this is rail-box-a",
    ),
    "wrong vehicle": (lambda yard: yard.bundle(vehicles=("T205",)), errors.WrongVehicle, 13, "this is T204"),
    "a newer runtime": (lambda yard: yard.bundle(min_runtime="0.2.0"), errors.RuntimeTooOld, 20, "needs runtime 0.2.0"),
    "a newer format": (
        _manifest(lambda plain: plain.update(format=2, more="unknown")),
        errors.RuntimeTooOld,
        20,
        "has format 2",
    ),
    "a field of a newer runtime": (
        _manifest(lambda plain: plain.update(min_runtime="0.2.0", more="unknown")),
        errors.RuntimeTooOld,
        20,
        "needs runtime 0.2.0",
    ),
    "a feature set of a newer runtime": (
        _manifest(lambda plain: plain["detectors"][0]["features"].update(version=2)),
        errors.FeatureSetMissing,
        20,
        "needs feature set value 2",
    ),
    "a field that this runtime does not know": (
        _manifest(lambda plain: plain.update(more=1)),
        errors.Malformed,
        15,
        "unknown field `more`",
    ),
    "expired": (
        lambda yard: yard.bundle(released=RELEASED, expires=RELEASED + timedelta(days=1)),
        errors.Expired,
        14,
        "if the clock is wrong, set it",
    ),
    # the container
    "a path with ..": (_entry("../evil"), errors.Malformed, 15, "'../evil'"),
    "an absolute name": (_entry("/etc/evil"), errors.Malformed, 15, "'/etc/evil'"),
    "a symbolic link": (_entry("a", tarfile.SYMTYPE), errors.Malformed, 15, "canonical"),
    "a hard link": (_entry("a", tarfile.LNKTYPE), errors.Malformed, 15, "canonical"),
    "devices": (_entry("a", tarfile.CHRTYPE), errors.Malformed, 15, "canonical"),
    "fifos": (_entry("a", tarfile.FIFOTYPE), errors.Malformed, 15, "canonical"),
    "duplicate aliases": (
        lambda yard: _tar(*[("a", tarfile.REGTYPE, b"x")] * 2),
        errors.Malformed,
        15,
        "names must increase",
    ),
    "case aliases": (_entry("Manifest.json"), errors.Malformed, 15, "'Manifest.json'"),
    "Unicode aliases": (_entry("manifest\uff0ejson"), errors.Malformed, 15, "not plain"),
    "huge size fields": (_huge_size, errors.Malformed, 15, "canonical"),
    "10,000 members": (
        lambda yard: _tar(*[(f"{number:05}", tarfile.REGTYPE, b"") for number in range(10_000)]),
        errors.Malformed,
        15,
        "more than 64 members",
    ),
    "2,000 signatures": (_many_signatures, errors.TooFewSignatures, 11, "unknown to role targets"),
    "trailing data": (lambda yard: yard.bundle() + b"x", errors.Damaged, 12, "nothing after it"),
    "a member under a name that the vehicle uses": (
        _signed("slot.json", b"{}"),
        errors.Malformed,
        15,
        "a name that is taken",
    ),
    # the model, signed by a real quorum
    "a model with external data in ..": (
        _model(_external("../../etc/passwd")),
        errors.Malformed,
        15,
        "allowed: double_data",
    ),
    "a model with external data at an absolute path": (
        _model(_external("/etc/passwd")),
        errors.Malformed,
        15,
        "allowed: double_data",
    ),
    "a model with external data behind a symlink": (
        _model(_external("golden.json")),
        errors.Malformed,
        15,
        "allowed: double_data",
    ),
    "a custom operator": (
        _model(_one_more("Evil", ["X"], ["evil"], domain="com.evil")),
        errors.Malformed,
        15,
        "model.onnx, graph: field 1",
    ),
    "an operator outside our own list": (
        _model(_one_more("Identity", ["X"], ["y"])),
        errors.Malformed,
        15,
        "model.onnx, graph: field 1",
    ),
    "huge tensors": (_model(_huge_tensor), errors.Malformed, 15, "model.onnx, graph: field 5"),
    "a Loop": (_model(_loop), errors.Malformed, 15, "model.onnx, graph: field 1"),
    "a model that is none": (lambda yard: yard.bundle(model=b"model"), errors.Malformed, 15, "allowed: ir_version"),
}
"""By name: how it is made, its class of refusal with its exit code, and words that show that it was refused for
what it is, not for something that its making spoiled on the way. docs/threats.md has a row for each."""


@pytest.fixture
def yard(world: Any, tmp_path: Path) -> Yard:
    return Yard(world, tmp_path)


def test_the_bundle_that_the_attacks_begin_with_is_good(yard: Yard) -> None:
    assert yard.world.install(yard.vehicle, yard.bundle()).manifest.version == 6


@pytest.mark.parametrize(("make", "kind", "code", "words"), ATTACKS.values(), ids=ATTACKS)
def test_attack(
    yard: Yard, make: Callable[[Yard], bytes], kind: type[errors.AxleboxError], code: int, words: str
) -> None:
    """Refused by its own class and code, by the function and by an installation, which changes nothing."""
    data = make(yard)
    with pytest.raises(errors.AxleboxError) as refusal:
        verify(data, yard.root, NOW, 5, "rail-box-a", "T204", min_sequence=3, runtime=RUNTIME)
    assert (type(refusal.value), refusal.value.exit_code) == (kind, code)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400
    with contextlib.suppress(errors.AxleboxError):  # a proposal may lack signatures, or be for another vehicle
        examine(data, yard.root, NOW)
    before, told = yard.picture(), yard.receipts()
    with pytest.raises(errors.AxleboxError) as refusal:
        yard.world.install(yard.vehicle, data, self_test=_never)
    assert type(refusal.value) is kind
    assert yard.picture() == before
    assert [(one.action, one.code) for one in yard.receipts()[len(told) :]] == [("install", code)]
    assert yard.world.start(yard.vehicle).manifest.version == 5


ON_THE_PROGRAM = (
    "1 of 2 signatures",
    "the same signature under another key id",
    "truncation",
    "wrong vehicle",
    "below min_sequence",
    "deep JSON",
    "a Loop",
    "a newer runtime",
)
"""One of each exit code, and the two attacks that ask most of a parser."""


@pytest.mark.parametrize("attack", ON_THE_PROGRAM)
def test_an_attack_on_the_program_is_one_line_and_the_code(yard: Yard, attack: str) -> None:
    make, _, code, said = ATTACKS[attack]
    path, before = yard.write(make(yard)), yard.picture()
    for command in (["verify", path], ["install", path, "--yes"]):
        words = [*AXLEBOXD, *map(str, command), "--data", str(yard.folder / "data")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.startswith("axleboxd: ") and done.stderr.count("\n") == 1
        assert "Traceback" not in done.stdout
    assert yard.picture() == before
    assert yard.receipts()[-1].code == code


def test_a_clock_at_1970_is_accepted_with_a_warning_beside_a_stored_time_floor(yard: Yard) -> None:
    assert yard.vehicle.state().time_floor == RELEASED
    for released, past in ((RELEASED - timedelta(days=9), "2026-03-01"), (RELEASED + timedelta(days=60), "2026-04-30")):
        bundle = yard.vehicle.verify(yard.bundle(released=released), RUNTIME, datetime(1970, 1, 2, tzinfo=UTC))
        expected = f"the clock says 1970-01-02, and {past} is surely past; it is not trusted"
        assert bundle.warnings == (expected,)


def test_a_clock_at_1970_installs_beside_a_stored_time_floor_and_says_so(yard: Yard) -> None:
    said: list[str] = []
    bundle = yard.bundle(released=RELEASED - timedelta(days=9))
    yard.world.install(yard.vehicle, bundle, now=datetime(1970, 1, 2, tzinfo=UTC), say=said.append)
    assert "note: the clock says 1970-01-02, and 2026-03-01 is surely past; it is not trusted" in said
    assert yard.world.start(yard.vehicle).manifest.version == 6
    assert [(one.code, one.clock_trusted) for one in yard.receipts()[-1:]] == [(0, False)]


def test_a_clock_in_2100_is_refused_in_words_that_name_the_clock(yard: Yard) -> None:
    bundle = yard.bundle()
    before = yard.picture()
    with pytest.raises(errors.Expired, match="the clock says 2100-01-01: if the clock is wrong, set it") as refusal:
        yard.world.install(yard.vehicle, bundle, self_test=_never, now=datetime(2100, 1, 1, tzinfo=UTC))
    assert refusal.value.exit_code == 14
    assert yard.picture() == before
    assert yard.world.install(yard.vehicle, bundle).manifest.version == 6


def test_a_model_swapped_in_a_slot_never_starts(yard: Yard) -> None:
    (path,) = (yard.folder / "data" / "slots").glob("*/model.onnx")
    path.write_bytes(yard.world.model_like(float(np.pi)))
    with pytest.raises(errors.FallbackFailed, match=r"model\.onnx differs from what was installed"):
        yard.world.start(yard.vehicle)
