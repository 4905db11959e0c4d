"""Slots: immutable folders, one for each installed release, named by its digest.

Needs neither tuf nor cryptography: what was verified at installation is recorded as sha256 in the
slot's slot.json, and `open_slot` compares with it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import AxleboxError, BoxDamaged
from axlebox.firmware_bundle.manifest import Golden, Manifest, Sha256, decode, decode_manifest, encode

RECORD = "slot.json"
NEWEST_ROOT = "root.json"
_MAX_RECORD_BYTES = 64 * 1024


class SlotRecord(Struct, frozen=True, forbid_unknown_fields=True):
    digest: Sha256
    released: datetime
    root_version: int
    members: dict[str, Sha256]


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release, ready to score: what the daemon is handed, and nothing less."""

    digest: str
    released: datetime
    root_version: int
    manifest: Manifest
    golden: Golden
    models: Mapping[str, bytes]
    """Model bytes by member name."""

    @property
    def label(self) -> str:
        return f"{self.manifest.name} {self.manifest.version}"


class _Guarded(Struct, frozen=True, forbid_unknown_fields=True):
    """slot.json: nothing else covers the record, so it carries a checksum of itself."""

    record: SlotRecord
    crc32: int


def _encode_record(record: SlotRecord) -> bytes:
    return encode(_Guarded(record, zlib.crc32(encode(record))))


def _decode_record(data: bytes) -> SlotRecord:
    record = decode(data, _Guarded, RECORD).record
    if _encode_record(record) != data:
        raise BoxDamaged(f"{RECORD} differs from what was installed")
    return record


def make_release(digest: str, released: datetime, root_version: int, members: Mapping[str, bytes]) -> Release:
    """A Release from members whose origin the caller has proved."""
    manifest = decode_manifest(members["manifest.json"])
    return Release(
        digest=digest,
        released=released,
        root_version=root_version,
        manifest=manifest,
        golden=decode(members["golden.json"], Golden, "golden.json"),
        models={detector.model: members[detector.model] for detector in manifest.detectors},
    )


def write_slot(
    folder: Path, digest: str, released: datetime, root: bytes, root_version: int, members: Mapping[str, bytes]
) -> None:
    """Fill a new folder, durably, all but its own name."""
    disk.create_folder(folder)
    contents = {**members, NEWEST_ROOT: root}
    record = SlotRecord(
        digest=digest,
        released=released,
        root_version=root_version,
        members={name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())},
    )
    for name, data in contents.items():
        disk.write_durable(folder / name, data)
    disk.write_durable(folder / RECORD, _encode_record(record))
    disk.sync_folder(folder)


def read_slot(folder: Path) -> tuple[SlotRecord, dict[str, bytes]]:
    """The slot's record and its members, each compared with the recorded sha256."""
    try:
        record = _decode_record(disk.read_bounded(folder / RECORD, _MAX_RECORD_BYTES))
        members = {name: disk.read_bounded(folder / name, MAX_CONTAINER_BYTES) for name in record.members}
    except AxleboxError as error:
        raise BoxDamaged(f"slot {folder.name[:8]} is damaged: {error}") from error
    for name, data in members.items():
        if hashlib.sha256(data).hexdigest() != record.members[name]:
            raise BoxDamaged(f"slot {folder.name[:8]} is damaged: {name} differs from what was installed")
    return record, members


def open_slot(folder: Path) -> Release:
    """The release in a slot. Raises BoxDamaged where any byte differs from what was installed."""
    record, members = read_slot(folder)
    return make_release(record.digest, record.released, record.root_version, members)
