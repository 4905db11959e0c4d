"""Bundles of every released version verify for ever, and score as they did when they were signed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, SelfTestFailed
from axlebox.firmware_bundle.manifest import Golden, decode
from axlebox.firmware_bundle.slots import Release, make_release
from axlebox.firmware_bundle.trust import Bundle, verify
from axlebox.runtime.machine import this_runtime
from axlebox.runtime.selftest import check_golden

REFERENCE_TIME = datetime(2030, 1, 1, tzinfo=UTC)
HERE = Path(__file__).resolve().parent
VERSIONS = sorted(folder.name for folder in HERE.iterdir() if (folder / "bundle.axb").exists())


def read(version: str) -> tuple[bytes, bytes]:
    return (HERE / version / "bundle.axb").read_bytes(), (HERE / version / "root.json").read_bytes()


def check(data: bytes, root: bytes) -> Bundle:
    return verify(data, root, REFERENCE_TIME, 1, "rail-box-a", "T204", min_sequence=1, runtime=this_runtime())


def release_of(bundle: Bundle, **changed: bytes) -> Release:
    members = {**bundle.members, **changed}
    return make_release(bundle.digest, bundle.released, bundle.root_version, members)


def test_the_first_version_has_its_folder() -> None:
    assert "0.1.0" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bundle_verifies_and_was_made_by_that_version(version: str) -> None:
    bundle = check(*read(version))
    assert bundle.manifest.lineage.code.axlebox == version
    assert bundle.signatures_missing == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_its_golden_readings_are_answered_as_when_it_was_signed(version: str) -> None:
    release = release_of(check(*read(version)))
    flags = {row.flag for row in release.golden.rows}
    assert check_golden(release) == len(release.golden.rows)
    assert flags == {True, False}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_flipped_byte_is_seen(version: str) -> None:
    """In every member, and in the first header: these tests can fail."""
    data, root = read(version)
    for place in (0, *(data.index(content) + len(content) // 2 for content in unpack(data).values())):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(AxleboxError):
            check(bytes(changed), root)
    changed = bytearray(data)
    changed[data.index(unpack(data)["model.onnx"]) + 5000] ^= 1
    with pytest.raises(Damaged, match=r"model\.onnx"):
        check(bytes(changed), root)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_answer_to_one_golden_reading_is_seen(version: str) -> None:
    bundle = check(*read(version))
    golden = decode(bundle.members["golden.json"], Golden, "golden.json")
    score = repr(golden.rows[-1].score).encode()
    changed = bundle.members["golden.json"].replace(score, repr(golden.rows[-1].score + 1e-9).encode())
    with pytest.raises(SelfTestFailed):
        check_golden(release_of(bundle, **{"golden.json": changed}))
