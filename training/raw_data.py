"""data/01_raw: copies of readings files, named by their content, and current.json, which says what training reads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed, UsageError
from axlebox.firmware_bundle.manifest import DataFile, FileFormat, FileName, Label, Sha256, decode, encode
from axlebox.training.files import sha256_of
from axlebox.training.readers.find import Found, described, recorded
from axlebox.training.workspace import Workspace

_MAX_CURRENT_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
CURRENT = "current.json"


class StoredFile(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file of data/01_raw, which is named by its content."""

    name: str
    sha256: Sha256
    stored: str
    format: FileFormat | None = None
    """What it is read by; None: what its content says."""
    described: Label | None = None
    """The name of the description in the catalog that said so."""

    @classmethod
    def of(cls, file: DataFile) -> StoredFile:
        """As a run's lineage names it."""
        return cls(file.name, file.sha256, stored_name(file.name, file.sha256), file.format)


class Current(Struct, frozen=True, forbid_unknown_fields=True):
    """data/01_raw/current.json: what training reads, in this order."""

    files: tuple[StoredFile, ...]


def stored_name(name: str, sha256: str) -> str:
    """A copy's name: its sha256, and the suffix that readers of CAN logs go by."""
    return sha256 + "".join(_suffixes(name))


def _suffixes(name: str) -> list[str]:
    found = [one.lower() for one in Path(name).suffixes if one.isascii() and one.isprintable()]
    return found[-2:] if found[-1:] == [".gz"] else found[-1:]


def read_current(workspace: Workspace, path: Path | None = None) -> tuple[StoredFile, ...]:
    """What current.json, or another file like it, names. Raises UsageError where nothing was ingested yet."""
    path = workspace.raw / CURRENT if path is None else path
    if not path.exists():
        raise UsageError("nothing was ingested yet. DO: axlebox ingest FILE")
    return decode(disk.read_bounded(path, _MAX_CURRENT_BYTES), Current, str(path)).files


def ingested_files(workspace: Workspace) -> tuple[StoredFile, ...]:
    """What training reads; none where nothing was ingested yet."""
    return read_current(workspace) if (workspace.raw / CURRENT).exists() else ()


def write_current(workspace: Workspace, files: tuple[StoredFile, ...]) -> None:
    """Make these files, which are kept, what training reads; the caller holds the workspace's lock."""
    with disk.explained():
        disk.replace_durable(workspace.raw / CURRENT, encode(Current(files)))


def open_stored(workspace: Workspace, stored: StoredFile) -> tuple[Path, Found]:
    """The copy of a file and its reader, after both were compared with what is recorded.

    Raises Malformed where a copy is missing or was changed, PreflightFailed where its reader is not installed.
    """
    copy = workspace.raw / stored.stored
    _compare(copy, stored.sha256, stored.name)
    files = {}
    for setting, sha256 in (stored.format.files if stored.format else {}).items():
        files[setting] = workspace.raw / _needed_name(setting, sha256)
        _compare(files[setting], sha256, stored.name)
    return copy, recorded(stored.format, copy, files)


def _needed_name(setting: str, sha256: str) -> str:
    return f"{sha256}.{setting}"


def _compare(copy: Path, sha256: str, name: str) -> None:
    if not copy.is_file() or sha256_of(copy) != sha256:
        raise Malformed(f"{copy} is missing or was changed. DO: axlebox ingest {name} again")


@dataclass(frozen=True, slots=True)
class Taken:
    """A copy that waits to be kept."""

    path: Path
    name: str
    sha256: str


class Incoming:
    """Copies that have not been kept yet: a folder that goes away unless all is well."""

    def __init__(self, workspace: Workspace) -> None:
        self._raw = workspace.raw
        self._folder = workspace.raw / "incoming.part"
        self._kept: dict[Path, Path] = {}

    def __enter__(self) -> Incoming:
        with disk.explained():
            disk.remove_tree(self._folder)  # of an ingest that was killed
            self._folder.mkdir()
        return self

    def __exit__(self, *about: object) -> None:
        disk.remove_tree(self._folder)

    def take(self, path: Path) -> Taken:
        """Copy a file; only the copy is read from then on. Raises UsageError and DiskRefused."""
        if not path.is_file():
            raise UsageError(f"{path} is not a file")
        try:
            msgspec.convert(path.name, FileName)  # it stands in the manifest of every release made from it
        except msgspec.ValidationError as error:
            raise UsageError(f"{path.name!r} has control characters in it. DO: rename the file") from error
        copy = self._folder / f"{len(list(self._folder.iterdir()))}{''.join(_suffixes(path.name))}"
        with disk.explained():
            return Taken(copy, path.name, _copy(path, copy))

    def take_needed(self, found: Found, root: Path) -> tuple[FileFormat | None, dict[str, Path]]:
        """Copy what a reader needs beside the file: its format for the record, and the copies by setting."""
        digests, copies = {}, {}
        for setting, path in found.files(root).items():
            if not path.is_file():
                raise UsageError(f"{found.place}: {setting}: {path} is not a file")
            taken = self.take(path)
            digests[setting], copies[setting] = taken.sha256, taken.path
            self._kept[taken.path] = self._raw / _needed_name(setting, taken.sha256)
        return found.format(digests), copies

    def keep(self, taken: Taken, format: FileFormat | None, described: str | None) -> StoredFile:  # noqa: A002
        """Have a copy kept under its final name, which is made of its content."""
        stored = StoredFile(taken.name, taken.sha256, stored_name(taken.name, taken.sha256), format, described)
        self._kept[taken.path] = self._raw / stored.stored
        return stored

    def mend(self, taken: Taken, stored: StoredFile) -> None:
        """Have a copy put in the place of one that is there already, which may have been damaged since."""
        self._kept[taken.path] = self._raw / stored.stored

    def finish(self) -> None:
        """Give the copies their names. Until current.json names them too, they count for nothing."""
        with disk.explained():
            for copy, final in self._kept.items():
                os.replace(copy, final)
            disk.sync_folder(self._raw)


def _copy(path: Path, copy: Path) -> str:
    """Copy a file, durably; the sha256 of what was written."""
    digest = hashlib.sha256()
    with open(path, "rb") as source, open(copy, "xb") as target:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def check_descriptions(files: Sequence[StoredFile], formats: Mapping[str, Any], root: Path) -> None:
    """Raise UsageError where the catalog by now describes a format otherwise than files of it were read by."""
    if not any(file.described for file in files):
        return
    known = described(formats)
    for file in files:
        if file.described in known:
            found, _ = known[file.described]
            needed = found.files(root)
            if not all(path.is_file() for path in needed.values()):
                continue  # the copy that was kept is what counts
            if found.format({setting: sha256_of(path) for setting, path in needed.items()}) != file.format:
                raise UsageError(
                    f"{found.place} has changed since {file.name} was ingested. DO: axlebox ingest {file.name} again"
                )
