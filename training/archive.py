"""Runs in one file, to be carried between machines: `axlebox runs export` and `import`.

The file is a tar with one way to write each content, so that equal runs give equal bytes and any `tar` lists it. Its
first member, contents.json, names every other one in order with size and sha256; nothing is written before all of
them were read and compared. That finds damage. It does not say who made a run: there is no signature.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Damaged, Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Count, Sha256, decode, encode
from axlebox.training.files import sha256_of
from axlebox.training.runs import FILES, Run, RunRecord, open_run, run_id
from axlebox.training.workspace import Workspace

FORMAT = 1
_CONTENTS = "contents.json"
_MAX_CONTENTS_BYTES = 16 * 1024 * 1024
_MAX_FILE_BYTES = 8 * 1024**3 - 1
"""What a tar header of this kind can say."""
_MAX_FILES = 100_000
_CHUNK = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_RUN = re.compile(r"[0-9a-f]{12}")
_FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")
_RECORDS = ("/run.json", "/detector.json")
_DATA = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,10}){0,2}")


class Member(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the archive: runs/RUN/NAME, or data/SHA256.SUFFIX."""

    name: str
    size: Count
    sha256: Sha256


class Contents(Struct, frozen=True, forbid_unknown_fields=True):
    """contents.json."""

    format: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    runs: tuple[str, ...]
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an import found."""

    new: tuple[str, ...]
    """Runs that were written."""
    known: tuple[str, ...]
    """Runs that were here already, just so."""
    data: tuple[str, ...]
    """Copies of data that were written to data/01_raw."""


def export_runs(workspace: Workspace, runs: Sequence[str], out: Path, with_data: bool) -> Packed:
    """Write runs into one file, with the copies of their data where asked for.

    Raises UsageError where a run, or a copy, is not there, or `out` exists.
    """
    if out.exists():
        raise UsageError(f"{out} exists; nothing was written")
    with workspace.locked(), disk.explained():
        found = {run.folder.name: run for run in (open_run(workspace.runs, name) for name in runs)}
        files: dict[str, Path] = {}
        for name, run in sorted(found.items()):
            _check_id(name, (run.folder / "run.json").read_bytes(), (run.folder / "detector.json").read_bytes())
            files |= {f"runs/{name}/{path.name}": path for path in _kept(run)}
            if with_data:
                files |= {f"data/{path.name}": path for path in _copies(workspace, run)}
        ordered = dict(sorted(files.items()))
        members = tuple(_describe(name, path) for name, path in ordered.items())
        part = out.with_name(f"{out.name}.part")
        try:
            with open(part, "wb") as file:
                _write(file, encode(Contents(FORMAT, members)), members, ordered)
                file.flush()
                os.fsync(file.fileno())
            disk.rename_durable(part, out)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Packed(tuple(found), len(members), out.stat().st_size)


def import_runs(workspace: Workspace, path: Path) -> Unpacked:
    """Take runs out of a file, each whole or not at all.

    Raises Damaged or Malformed where the file is not what `export_runs` writes, UsageError where a run of that name
    with other content is here already, and then nothing is written. Repeating it changes nothing.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    with workspace.locked(), disk.explained():
        contents, records = _verify(path)
        wanted: dict[str, list[Member]] = {}
        for member in contents.members:
            folder = member.name.rpartition("/")[0]
            wanted.setdefault(folder, []).append(member)
        data = [one for one in wanted.pop("data", []) if not _here(workspace.raw / one.name.rpartition("/")[2], one)]
        runs = {folder.rpartition("/")[2]: members for folder, members in wanted.items()}
        for run, members in runs.items():
            _check_id(run, records[f"runs/{run}/run.json"], records[f"runs/{run}/detector.json"])
            _refuse_other(workspace.runs / run, members)
        new = [run for run in runs if not (workspace.runs / run).exists()]
        _check_space(workspace.root, sum(one.size for run in new for one in runs[run]) + sum(one.size for one in data))
        chosen = {one.name for run in new for one in runs[run]} | {one.name for one in data}
        _extract(workspace, path, contents, chosen, new)
        known = tuple(run for run in runs if run not in new)
        return Unpacked(tuple(new), known, tuple(one.name.rpartition("/")[2] for one in data))


# -- writing ---------------------------------------------------------------------------------------


def _kept(run: Run) -> list[Path]:
    return [path for path in sorted(run.folder.iterdir()) if _FILE.fullmatch(path.name) and path.is_file()]


def _copies(workspace: Workspace, run: Run) -> Iterator[Path]:
    """The content-addressed copies of the data that a run was trained on."""
    for one in run.record().lineage.data:
        found = [path for path in workspace.copies_of(one.sha256) if _DATA.fullmatch(path.name)]
        if not found:
            raise UsageError(f"{one.name} ({one.sha256[:12]}) of run {run.folder.name} is not in {workspace.raw}")
        yield found[0]


def _describe(name: str, path: Path) -> Member:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise UsageError(f"{path} has {size} bytes, at most {_MAX_FILE_BYTES} are possible")
    digest = sha256_of(path)
    if name.startswith("data/") and not path.name.startswith(digest):
        raise Damaged(f"{path} is not what its name says. DO: axlebox ingest the file again")
    return Member(name, size, digest)


def _write(file: BinaryIO, contents: bytes, members: Sequence[Member], paths: Mapping[str, Path]) -> None:
    file.write(_header(_CONTENTS, len(contents)) + contents + bytes(-len(contents) % _BLOCK))
    for member in members:
        file.write(_header(member.name, member.size))
        written = hashlib.sha256()
        with open(paths[member.name], "rb") as source:
            while chunk := source.read(_CHUNK):
                written.update(chunk)
                file.write(chunk)
        if written.hexdigest() != member.sha256:
            raise UsageError(f"{paths[member.name]} changed while it was read; nothing was written")
        file.write(bytes(-member.size % _BLOCK))
    file.write(bytes(2 * _BLOCK))


def _header(name: str, size: int) -> bytes:
    """POSIX ustar header of a regular file, mode 0644, owner 0, time 0."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


# -- reading ---------------------------------------------------------------------------------------


def _read_contents(file: BinaryIO, path: Path) -> Contents:
    header = file.read(_BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        size = info.size
    except (tarfile.HeaderError, UnicodeDecodeError):
        size = -1
    if not 0 <= size <= _MAX_CONTENTS_BYTES or header != _header(_CONTENTS, size):
        raise Malformed(f"{path} is no file of `axlebox runs export`")
    raw = file.read(size + -size % _BLOCK)
    if len(raw) < size + -size % _BLOCK:
        raise Damaged(f"{path} ends in the middle of its contents")
    contents = decode(raw[:size], Contents, f"{path}, {_CONTENTS}")
    if contents.format != FORMAT:
        raise Malformed(f"{path} has format {contents.format}, this axlebox reads {FORMAT}. DO: update axlebox")
    if encode(contents) != raw[:size] or any(raw[size:]):
        raise Malformed(f"{path}: {_CONTENTS} is not written as `axlebox runs export` writes it")
    _check_names(contents, path)
    return contents


def _check_names(contents: Contents, path: Path) -> None:
    """Only runs/RUN/NAME and data/SHA256.SUFFIX, each once and in order: nothing else can come to lie anywhere."""
    names = [one.name for one in contents.members]
    if names != sorted(set(names)) or len(names) > _MAX_FILES:
        raise Malformed(f"{path}: the names in {_CONTENTS} are not in order, or too many")
    runs: dict[str, set[str]] = {}
    for one in contents.members:
        match one.name.split("/"):
            case ["runs", run, name] if _RUN.fullmatch(run) and _FILE.fullmatch(name):
                runs.setdefault(run, set()).add(name)
            case ["data", name] if _DATA.fullmatch(name) and name.startswith(one.sha256):
                pass
            case _:
                raise Malformed(f"{path}: {one.name!r} is no name of a run's or a data file")
        if one.size > _MAX_FILE_BYTES:
            raise Malformed(f"{path}: {one.name} is too large")
    for run, files in runs.items():
        if missing := set(FILES) - files:
            raise Malformed(f"{path}: run {run} lacks {', '.join(sorted(missing))}")


Take = Callable[[Member], BinaryIO | None]
"""Where the bytes of a member go; None: nowhere."""


def _read_members(path: Path, take: Take) -> Contents:
    """Read a whole file and compare every byte of it with what its contents say."""
    with open(path, "rb") as file:
        contents = _read_contents(file, path)
        for member in contents.members:
            if file.read(_BLOCK) != _header(member.name, member.size):
                raise Damaged(f"{path}: the header of {member.name} is damaged, or missing")
            digest, left, out = hashlib.sha256(), member.size, take(member)
            try:
                while left and (chunk := file.read(min(left, _CHUNK))):
                    digest.update(chunk)
                    left -= len(chunk)
                    if out is not None:
                        out.write(chunk)
            finally:
                if out is not None:
                    out.close()
            padding = file.read(-member.size % _BLOCK)
            if left or digest.hexdigest() != member.sha256 or padding != bytes(-member.size % _BLOCK):
                raise Damaged(f"{path}: {member.name} is damaged. DO: copy the file again")
        if file.read(2 * _BLOCK + 1) != bytes(2 * _BLOCK):
            raise Damaged(f"{path}: the end is missing, or something comes after it")
    return contents


class _Memory(io.BytesIO):
    def close(self) -> None:
        """Stays readable."""


def _verify(path: Path) -> tuple[Contents, dict[str, bytes]]:
    """Read all without writing anything; the records of each run come along."""
    records: dict[str, _Memory] = {}

    def take(member: Member) -> BinaryIO | None:
        if not member.name.endswith(_RECORDS):
            return None
        if member.size > _MAX_CONTENTS_BYTES:
            raise Malformed(f"{path}: {member.name} is too large")
        return records.setdefault(member.name, _Memory())

    contents = _read_members(path, take)
    return contents, {name: record.getvalue() for name, record in records.items()}


def _check_id(run: str, record: bytes, detector: bytes) -> None:
    """Raise Malformed unless RUN is what the recorded inputs make it."""
    lineage = decode(record, RunRecord, f"run {run}, run.json").lineage
    plain: dict[str, Any] = decode(detector, dict[str, Any], f"run {run}, detector.json")
    try:
        found = run_id(lineage, plain)
    except (KeyError, TypeError) as error:
        raise Malformed(f"run {run}, detector.json: no contract or no features") from error
    if not run == lineage.run == found:
        raise Malformed(f"run {run} calls itself {lineage.run}, and its inputs make it {found}")


def _refuse_other(folder: Path, members: Sequence[Member]) -> None:
    """Raise UsageError where a run is here with other content."""
    if not folder.exists():
        return
    named = {one.name.rpartition("/")[2]: one for one in members}
    here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    differ = {name for name in here | set(named) if name not in named or not _here(folder / name, named[name])}
    if differ:
        raise UsageError(
            f"run {folder.name} is here already with other content ({', '.join(sorted(differ))}); nothing was imported"
        )


def _here(path: Path, member: Member) -> bool:
    return path.is_file() and path.stat().st_size == member.size and sha256_of(path) == member.sha256


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PreflightFailed(f"{needed} bytes are needed in {folder}, {free} are free; nothing was imported")


def _extract(workspace: Workspace, path: Path, contents: Contents, chosen: set[str], new: Sequence[str]) -> None:
    """Write the chosen members beside their places, comparing them once more, then rename: data first, then runs."""
    parts = {run: workspace.runs / f"{run}.part" for run in new}
    copies = {
        one.name: workspace.raw / f"{one.name.rpartition('/')[2]}.part"
        for one in contents.members
        if one.name in chosen and one.name.startswith("data/")
    }

    def take(member: Member) -> BinaryIO | None:
        if member.name not in chosen:
            return None
        if member.name in copies:
            return open(copies[member.name], "wb")
        _, run, name = member.name.split("/")
        return open(parts[run] / name, "wb")

    try:
        workspace.runs.mkdir(exist_ok=True)
        workspace.raw.mkdir(parents=True, exist_ok=True)
        for part in parts.values():
            disk.remove_tree(part)
            part.mkdir()
        if msgspec.json.encode(_read_members(path, take)) != msgspec.json.encode(contents):
            raise Damaged(f"{path} changed while it was read")
        for file in (*copies.values(), *(file for part in parts.values() for file in part.iterdir())):
            _sync(file)
        for part in copies.values():
            disk.rename_durable(part, part.with_suffix(""))
        for run, part in parts.items():
            disk.sync_folder(part)
            disk.rename_durable(part, workspace.runs / run)
    finally:
        for part in (*copies.values(), *parts.values()):
            disk.remove_tree(part)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
