"""Slots: what was installed is opened, and nothing else."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle.errors import Damaged, RuntimeTooOld
from axlebox.firmware_bundle.manifest import Golden, GoldenRow, encode
from axlebox.firmware_bundle.slots import RECORD, open_slot, read_slot, write_slot

DIGEST = "d" * 64
RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
MEMBER_NAMES = ("golden.json", "manifest.json", "model.onnx", "root.json")


@pytest.fixture
def members(world: Any) -> dict[str, bytes]:
    golden = Golden((GoldenRow("2026-03-01T00:00:00Z", "temperature", 100.0, 0.5, False),))
    return {"manifest.json": encode(world.manifest()), "golden.json": encode(golden), "model.onnx": b"a model"}


@pytest.fixture
def slot(tmp_path: Path, members: dict[str, bytes]) -> Path:
    folder = tmp_path / DIGEST
    write_slot(folder, DIGEST, RELEASED, b"a root", 2, members)
    return folder


def survivors(slot: Path, name: str, bit: int) -> list[int]:
    """Offsets at which a flipped bit in one file of the slot goes unseen."""
    path = slot / name
    good = path.read_bytes()
    found = []
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes((good[at] ^ bit,)) + good[at + 1 :])
        try:
            open_slot(slot)
        except Damaged:
            continue
        found.append(at)
    path.write_bytes(good)
    return found


def test_a_slot_opens_as_the_release_that_was_written(slot: Path, world: Any) -> None:
    release = open_slot(slot)
    assert (release.digest, release.released, release.root_version) == (DIGEST, RELEASED, 2)
    assert release.manifest == world.manifest()
    assert release.models == {"model.onnx": b"a model"}
    assert release.golden.rows[0].value == 100.0
    assert release.label == "bearing-temp 1"


def test_the_root_of_the_release_is_kept_beside_its_members(slot: Path, members: dict[str, bytes]) -> None:
    assert read_slot(slot)[1] == {**members, "root.json": b"a root"}


@pytest.mark.parametrize("name", MEMBER_NAMES)
def test_any_changed_byte_of_a_member_is_damage(slot: Path, name: str) -> None:
    assert survivors(slot, name, 1) == []
    assert survivors(slot, name, 0x20) == []


@pytest.mark.parametrize("bit", [1, 2, 4, 0x20])
def test_any_changed_byte_of_the_record_is_damage(slot: Path, bit: int) -> None:
    """Else a worn flash cell changes the digest that events carry, or the time floor that confirm sets."""
    good = (slot / RECORD).read_bytes()
    assert [good[max(0, at - 12) : at + 4] for at in survivors(slot, RECORD, bit)] == []


@pytest.mark.parametrize("name", [*MEMBER_NAMES, RECORD])
def test_a_missing_a_cut_and_a_longer_file_are_damage(slot: Path, name: str) -> None:
    path = slot / name
    good = path.read_bytes()
    for changed in (good[:-1], good + b"x", b""):
        path.write_bytes(changed)
        with pytest.raises(Damaged, match="slot dddddddd is damaged"):
            open_slot(slot)
    path.unlink()
    with pytest.raises(Damaged, match=name):
        open_slot(slot)


def test_a_slot_that_is_not_there_is_damage(tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        open_slot(tmp_path / DIGEST)


def test_a_slot_is_written_once(slot: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(FileExistsError):
        write_slot(slot, DIGEST, RELEASED, b"another root", 3, members)
    assert open_slot(slot).root_version == 2


def test_a_slot_of_a_newer_format_asks_for_a_newer_runtime(tmp_path: Path, members: dict[str, bytes]) -> None:
    folder = tmp_path / DIGEST
    write_slot(folder, DIGEST, RELEASED, b"", 1, {**members, "manifest.json": b'{"format": 2}'})
    with pytest.raises(RuntimeTooOld, match="update the runtime"):
        open_slot(folder)


def test_a_release_cannot_be_changed(slot: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        open_slot(slot).digest = "e" * 64  # type: ignore[misc]


@pytest.mark.parametrize("module", ["slots", "state", "manifest", "container", "install"])
def test_starting_a_release_loads_no_code_of_the_trust_side(module: str) -> None:
    listing = (
        f"import sys, axlebox.firmware_bundle.{module}; print(*sorted({{n.partition('.')[0] for n in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "axlebox" in loaded
    assert loaded.isdisjoint({"tuf", "securesystemslib", "cryptography", "numpy", "onnxruntime", "urllib3"})


def test_opening_a_slot_loads_no_code_of_the_trust_side(slot: Path) -> None:
    script = (
        "import sys, pathlib; from axlebox.firmware_bundle.slots import open_slot; "
        "label = open_slot(pathlib.Path(sys.argv[1])).label; "
        "print(label, {'tuf', 'cryptography', 'securesystemslib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, slot], capture_output=True, text=True, check=True)
    assert done.stdout == "bearing-temp 1 set()\n"
