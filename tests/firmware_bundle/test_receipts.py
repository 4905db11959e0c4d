"""Receipts and the vehicle's own key: what was done to a vehicle can be told afterwards, and not rewritten."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle import receipts
from axlebox.firmware_bundle.errors import AxleboxError, BadSignature, Damaged, Malformed, TooFewSignatures, UsageError
from axlebox.firmware_bundle.install import confirm, fallback
from axlebox.firmware_bundle.receipts import Draft, Receipt
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import check, fingerprint, make_key, read_public, sign

NOW = datetime(2026, 4, 1, tzinfo=UTC)


class Box:
    """A provisioned vehicle, and small bundles for it."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world, self.folder, self.data = world, folder, folder / "data"
        self.vehicle = Vehicle.provision(self.data, world.root(), Identity("T204", "rail-box-a"))

    def install(self, version: int, now: datetime = NOW, **how: Any) -> None:
        files = {**self.world.files(self.world.manifest(version)), "model.onnx": self.world.tiny_model}
        self.world.install(self.vehicle, self.world.bundle(version, files=files, **how), now=now)

    @property
    def log(self) -> Path:
        return self.data / "receipts.log"

    def read(self) -> list[Receipt]:
        return list(receipts.read(self.data, read_public(self.data)))


@pytest.fixture
def box(world: Any, tmp_path: Path) -> Box:
    return Box(world, tmp_path)


def test_every_change_and_every_refusal_leaves_one_signed_receipt(box: Box) -> None:
    box.install(1)
    confirm(box.vehicle, Occasion(NOW, print))
    with pytest.raises(TooFewSignatures):
        box.install(2, targets_keys=["stranger"])
    box.install(2)
    fallback(box.vehicle, Occasion(NOW, print))
    with pytest.raises(UsageError):
        confirm(box.vehicle, Occasion(NOW, print))
    found = box.read()
    assert [(one.action, one.code) for one in found] == [
        ("install", 0), ("confirm", 0), ("install", 11), ("install", 0), ("fallback", 0), ("confirm", 2),
    ]  # fmt: skip
    assert [one.number for one in found] == [1, 2, 3, 4, 5, 6]
    assert {(one.vehicle, one.hardware, one.time) for one in found} == {("T204", "rail-box-a", NOW)}
    assert (found[0].release, found[0].before) == ("bearing-temp 1", None)
    assert "unknown to role targets" in found[2].reason and found[2].release is None
    assert found[3].before == found[0].digest and found[4].digest == found[0].digest
    assert b'"signature":null' not in box.log.read_bytes()


def test_a_clock_behind_the_stored_time_floor_is_not_called_trusted(box: Box) -> None:
    box.install(1)
    confirm(box.vehicle, Occasion(NOW, print))
    box.install(2, now=datetime(1970, 1, 2, tzinfo=UTC))
    assert [one.clock_trusted for one in box.read()] == [True, True, False]


def unsigned(line: bytes) -> bytes:
    return line.partition(b'"signature":')[0] + b'"signature":null}'


def respelled_signature(line: bytes) -> bytes:
    plain = json.loads(line)
    return line.replace(plain["signature"].encode(), plain["signature"].upper().encode())


def rewritten(lines: list[bytes]) -> list[bytes]:
    """The log that somebody without the key would write: another story in a sound chain, and no signatures."""
    written: list[bytes] = []
    for line in lines:
        plain = json.loads(line)
        plain["signature"] = None
        if written:
            plain["receipt"]["previous"] = hashlib.sha256(written[-1]).hexdigest()
        plain["receipt"]["reason"] = "nothing happened"
        written.append(json.dumps(plain, separators=(",", ":")).encode())
    return written


TAMPERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "changed": lambda lines: [lines[0], lines[1].replace(b'"code":0', b'"code":3'), lines[2]],
    "removed": lambda lines: [lines[0], lines[2]],
    "put elsewhere": lambda lines: [lines[1], lines[0], lines[2]],
    "repeated": lambda lines: [lines[0], lines[1], lines[1], lines[2]],
    "beginning renumbered": lambda lines: [lines[0].replace(b'"number":1', b'"number":9'), *lines[1:]],
    "beginning removed": lambda lines: lines[1:],
    "all but the last removed": lambda lines: lines[2:],
    "no receipt": lambda lines: [lines[0], b"{}", lines[2]],
    "last changed": lambda lines: [*lines[:2], lines[2].replace(b'"code":0', b'"code":3')],
    "last spelled otherwise": lambda lines: [*lines[:2], lines[2].replace(b'":', b'": ')],
    "last signature spelled otherwise": lambda lines: [*lines[:2], respelled_signature(lines[2])],
    "signature of the last removed": lambda lines: [*lines[:2], unsigned(lines[2])],
    "written anew without signatures": rewritten,
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_a_log_that_was_tampered_with_is_found_out(box: Box, tamper: Callable[[list[bytes]], list[bytes]]) -> None:
    for version in (1, 2, 3):
        box.install(version)
    lines = box.log.read_bytes().splitlines()
    assert len(lines) == 3
    box.log.write_bytes(b"\n".join(tamper(lines)) + b"\n")
    with pytest.raises((Damaged, BadSignature, Malformed)):
        box.read()


def test_a_beginning_that_was_cut_off_is_not_passed_off_as_one_that_was_given_up(box: Box) -> None:
    """Only a full log is set aside; a short one in its place hides what was removed."""
    for version in (1, 2, 3):
        box.install(version)
    lines = box.log.read_bytes().splitlines(keepends=True)
    (box.data / "receipts.old.log").write_bytes(lines[1])
    box.log.write_bytes(lines[2])
    with pytest.raises(Damaged, match="begins with receipt 2"):
        box.read()


def test_what_the_daemon_did_is_unsigned_and_covered_by_the_next_receipt(box: Box) -> None:
    box.install(1)
    Draft("drop", NOW, True, "T204", "rail-box-a", None, reason="ended early").write(box.data, signed=False)
    assert [one.action for one in box.read()] == ["install", "drop"]
    box.install(2)
    assert [one.action for one in box.read()] == ["install", "drop", "install"]
    box.log.write_bytes(box.log.read_bytes().replace(b"ended early", b"ended earls"))
    with pytest.raises(Damaged, match="receipt 3 does not follow"):
        box.read()


def test_the_receipts_of_a_vehicle_are_not_another_ones(box: Box, tmp_path: Path) -> None:
    box.install(1)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BadSignature, match="not this vehicle's"):
        list(receipts.read(box.data, make_key(other)))


def test_a_line_that_a_power_cut_tore_is_cut_off_and_the_next_receipt_follows(box: Box) -> None:
    box.install(1)
    with open(box.log, "ab") as log:
        log.write(b'{"receipt":{"number":2,"ti')
    assert len(box.read()) == 1
    box.install(2)
    assert [one.number for one in box.read()] == [1, 2]
    assert box.log.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("worn", [(1,), (2,), (1, 2)], ids=["first", "last", "both"])
def test_a_worn_line_is_damage_and_does_not_end_all_receipts(box: Box, worn: tuple[int, ...]) -> None:
    box.install(1)
    box.install(2)
    lines = box.log.read_bytes().splitlines()
    box.log.write_bytes(
        b"".join(b"\xff" + raw[1:] + b"\n" if number in worn else raw + b"\n" for number, raw in enumerate(lines, 1))
    )
    box.install(3)
    last = json.loads(box.log.read_bytes().splitlines()[-1])["receipt"]
    assert (last["number"], last["release"]) == (3, "bearing-temp 3")
    with pytest.raises(Malformed):
        box.read()


def test_the_log_is_bounded_and_its_chain_goes_on(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MAX_LOG_BYTES", 1500)
    for version in range(1, 12):
        box.install(version)
    kept = box.read()
    assert [one.number for one in kept] == list(range(kept[0].number, 12)) and kept[0].number > 1
    sizes = [path.stat().st_size for path in box.data.glob("receipts*.log")]
    assert len(sizes) == 2 and max(sizes) < 1500 + 1000


def test_a_long_reason_is_cut_and_stays_one_line(box: Box) -> None:
    with pytest.raises(AxleboxError):
        box.world.install(box.vehicle, b"PK" * 999, name="x\n" * 300)
    (one,) = box.read()
    assert len(one.reason) <= 400 and "\n" not in one.reason


def test_a_receipt_that_cannot_be_written_undoes_nothing_and_is_told(box: Box) -> None:
    box.log.mkdir()
    said: list[str] = []
    bundle = box.world.install(box.vehicle, box.world.bundle(1), say=said.append)
    assert box.vehicle.state().trial == bundle.digest
    assert "no receipt could be written" in said[-1]


def test_the_vehicle_s_private_key_is_its_own_and_private(box: Box) -> None:
    path = box.data / "vehicle.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.stat().st_size == 32
    others = [one.read_bytes() for one in box.data.rglob("*") if one.is_file() and one != path]
    assert all(path.read_bytes() not in other and path.read_bytes().hex().encode() not in other for other in others)
    assert box.vehicle.key_fingerprint() == fingerprint(read_public(box.data))


@pytest.mark.parametrize("mask", [0o000, 0o077], ids=["open", "strict"])
def test_no_output_of_the_program_holds_the_private_key(axleboxd: Any, world: Any, tmp_path: Path, mask: int) -> None:
    (tmp_path / "root.json").write_bytes(world.root())
    (tmp_path / "1.axb").write_bytes(world.bundle(1))
    (tmp_path / "2.axb").write_bytes(b"PK" * 999)
    said = ""
    for words in (
        ("provision", "--trust", tmp_path / "root.json", "--vehicle", "T204", "--hardware", "rail-box-a", "--json"),
        ("install", tmp_path / "1.axb", "--yes", "--debug"),
        ("install", tmp_path / "2.axb", "--yes", "--debug"),
        ("status", "--json"),
    ):
        done = axleboxd(*words, "--data", tmp_path / "data", umask=mask)
        said += done.stdout + done.stderr
    path = tmp_path / "data" / "vehicle.key"
    key = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    spellings = {key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]}
    assert not any(one in said for one in spellings) and "Traceback" in said
    files = [one for one in (tmp_path / "data").rglob("*") if one.is_file() and one != path]
    assert not any(key in one.read_bytes() or key.hex().encode() in one.read_bytes() for one in files)


@pytest.mark.parametrize("content", [b"", b"zz", b"00" * 31, b"00" * 33, b"\xff" * 20])
def test_a_public_key_that_is_none_is_malformed(box: Box, content: bytes) -> None:
    (box.data / "vehicle.pub").write_bytes(content)
    with pytest.raises(Malformed):
        read_public(box.data)


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64, "00" * 63])
def test_a_signature_that_is_none_is_a_bad_signature(box: Box, signature: str) -> None:
    public = read_public(box.data)
    check(public, b"payload", sign(box.data, b"payload"))
    with pytest.raises(BadSignature):
        check(public, b"payload", signature)


@pytest.mark.parametrize("respell", [str.upper, lambda sig: sig + "\n", lambda sig: f"{sig[:2]} {sig[2:]}"])
def test_a_signature_has_one_spelling(box: Box, respell: Callable[[str], str]) -> None:
    with pytest.raises(BadSignature):
        check(read_public(box.data), b"payload", respell(sign(box.data, b"payload")))


@pytest.mark.parametrize("content", [b"", b"x" * 31])
def test_a_private_key_that_is_none_is_refused_without_being_quoted(box: Box, content: bytes) -> None:
    (box.data / "vehicle.key").write_bytes(content)
    with pytest.raises(Malformed, match=r"is not a vehicle's private key$"):
        sign(box.data, b"payload")
