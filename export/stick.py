"""Sticks that carry bundles to vehicles: filled so that a vehicle takes them, and checked as they are read.

A vehicle refuses a stick on which two bundles are for it, so a stick is looked at as a whole: what
is there already counts. Everything on it is read from the device, and not from the page cache.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from axlebox.export.open import aim, check_bundle, find_trust
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import ANY_HARDWARE, Manifest
from axlebox.firmware_bundle.stick import MAX_BUNDLES, RECEIPTS, bundles_in, check_shown
from axlebox.firmware_bundle.trust import Bundle
from axlebox.runtime.version import VERSION

CONTENTS = "CONTENTS.txt"

_PART = ".part"
_SPARE_BYTES = 1024 * 1024
"""For the table of contents, and for what a file system rounds up."""
_SUM = re.compile(r"([0-9a-f]{64}) [ *]([ -~]+)")
"""A line of sha256sum: the name may be any printable ASCII."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A verified bundle, and the file of the stick that holds it, or will."""

    file: str
    data: bytes = field(repr=False)
    bundle: Bundle = field(repr=False)

    @property
    def sha256(self) -> str:
        return _sha256(self.data)

    @property
    def verdict(self) -> str:
        return f"{self.file}: {self.bundle.label} for {aim(self.bundle.manifest)}, {len(self.data)} bytes"

    def facts(self) -> dict[str, Any]:
        manifest = self.bundle.manifest
        return {
            "file": self.file,
            "bytes": len(self.data),
            "sha256": self.sha256,
            "name": manifest.name,
            "version": manifest.version,
            "digest": self.bundle.digest,
            "hardware": manifest.hardware,
            "vehicles": manifest.vehicles,
            "released": _stamp(self.bundle.released),
        }


@dataclass(frozen=True, slots=True)
class Filling:
    """What becomes of the bundles that were asked for, and of those that are on the stick."""

    written: tuple[Carried, ...]
    kept: tuple[Carried, ...]
    removed: tuple[str, ...]
    """Files that a bundle of the same name replaces."""

    @property
    def carried(self) -> list[Carried]:
        """What the stick holds in the end."""
        return sorted((*self.written, *self.kept), key=lambda one: one.file)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a stick found."""

    good: tuple[Carried, ...]
    problems: tuple[AxleboxError, ...]
    """Each names its file."""
    notes: tuple[str, ...]
    receipts: tuple[str, ...]
    """Names of the files that vehicles left."""


def prepare(
    folder: Path, bundles: Sequence[Path], trust: Path | None, made: datetime, replace: bool = False
) -> Filling:
    """Bring bundles to a stick, durably and compared with what the stick reads back; CONTENTS.txt comes last.

    `replace` removes bundles of the same name that the same vehicles would find, once the new ones
    are safely there. Raises, before anything is written, what verification finds in a bundle,
    UsageError where a vehicle would refuse the stick or another file has a name that is needed,
    and PreflightFailed without enough space; Damaged where the stick reads back other bytes.
    """
    filling = _plan(folder, bundles, trust, replace)
    with disk.explained():
        _check_space(folder, sum(len(one.data) for one in filling.written))
        # All copies before the first name: a stick that is pulled holds the old bundles, or the new ones too.
        parts = [_copy(folder / one.file, one.data) for one in filling.written]
        for part in parts:
            disk.rename_durable(part, part.with_suffix(""))
        for name in filling.removed:
            (folder / name).unlink()
        disk.sync_folder(folder)
        part = _copy(folder / CONTENTS, contents(filling.carried, made))
        disk.rename_durable(part, part.with_suffix(""))
    return filling


def check(folder: Path, trust: Path | None) -> Checked:
    """Read a stick as a vehicle will: against its CONTENTS.txt, and every bundle against the root of trust.

    Raises UsageError where there is no such folder or no root of trust, and PreflightFailed where it cannot be listed.
    """
    _check_folder(folder)
    find_trust(trust)  # a root that is missing is no problem of the stick
    problems: list[AxleboxError] = []
    listed = _read_contents(folder, problems)
    bundles = set(bundles_in(folder))
    good, notes = [], []
    for path in _files(folder):
        sha256 = listed.pop(path.name.lower(), ("", ""))[1]
        if path.suffix.lower() == _PART:
            notes.append(f"{_plain(path.name)} is an unfinished copy; vehicles ignore it, and it may be deleted")
        elif not sha256 and path.name.lower() != CONTENTS.lower():
            notes.append(f"{_plain(path.name)} is not listed in {CONTENTS}")
        try:
            if path in bundles:
                check_shown(path.name)
                good.append(_open(path, trust, sha256))
            elif sha256:
                _read(path, sha256)
        except AxleboxError as error:
            problems.append(error)
    problems += [Damaged(f"{name}: is missing; {CONTENTS} lists it") for name, _ in listed.values()]
    problems += _conflicts(good)
    return Checked(tuple(good), tuple(problems), (*notes, *hints(folder, good)), _receipts(folder))


def contents(carried: Sequence[Carried], made: datetime) -> bytes:
    """The table of contents: words for people in comments, and lines that `sha256sum -c` checks."""
    lines = [
        f"# What this stick carries. Made at {_stamp(made)} by axlebox {VERSION}.",
        "# Check all of it: axlebox stick check FOLDER. Check the bytes alone: sha256sum -c CONTENTS.txt",
    ]
    for one in carried:
        manifest = one.bundle.manifest
        lines += [
            "#",
            f"# {one.bundle.label}",
            f"#   version   {manifest.version}",
            *_wrapped("hardware", manifest.hardware),
            *_wrapped("vehicles", manifest.vehicles or ("all",)),
            f"#   digest    {one.bundle.digest} (signed)",
            f"#   built     {_stamp(one.bundle.released)}",
            f"{one.sha256}  {one.file}",
        ]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def hints(folder: Path, carried: Sequence[Carried]) -> list[str]:
    """What whoever carries the stick should know."""
    found = [f"{one.file}: {warning}" for one in carried for warning in one.bundle.warnings]
    if not folder.is_mount():
        found.append(f"{folder} is not where something is mounted: is it the stick?")
    return found


def _plan(folder: Path, bundles: Sequence[Path], trust: Path | None, replace: bool) -> Filling:
    _check_folder(folder)
    given = [_named(path, trust) for path in bundles]
    pending = {one.file: one for one in given}
    if len(pending) < len(given):
        raise UsageError(f"two of the bundles would be {', '.join(pending)} on the stick; nothing was written")
    kept: list[Carried] = []
    written: list[Carried] = []
    removed: list[str] = []
    for path in bundles_in(folder):
        _check_name(path)
        new = pending.pop(path.name.lower(), None)
        if new is None:
            old = _stays(path, trust, given, replace)
            removed += [] if old else [path.name]
            kept += [old] if old else []
        # Under the name that is there: on FAT it is the same file in any case, elsewhere another one.
        elif _read(path) == new.data:
            kept.append(dataclasses.replace(new, file=path.name))
        elif replace:
            written.append(dataclasses.replace(new, file=path.name))
        else:
            raise UsageError(f"{path} is another file; nothing was written. DO: --replace, or remove it")
    filling = Filling((*written, *pending.values()), tuple(kept), tuple(removed))
    if len(filling.carried) > MAX_BUNDLES:
        raise UsageError(f"{len(filling.carried)} bundles, at most {MAX_BUNDLES} go on one stick; nothing was written")
    for conflict in _conflicts(filling.carried):
        raise UsageError(f"{conflict}; nothing was written. DO: use two sticks, or --replace an older release")
    return filling


def _named(path: Path, trust: Path | None) -> Carried:
    """A bundle of the workstation under the name that the stick will give it."""
    data = disk.read_bounded(path, MAX_CONTAINER_BYTES)
    bundle = check_bundle(path, data, trust)
    return Carried(f"{bundle.manifest.name}-{bundle.manifest.version}.axb", data, bundle)


def _stays(path: Path, trust: Path | None, given: Sequence[Carried], replace: bool) -> Carried | None:
    """A bundle that is on the stick already; None where it is to be replaced."""
    names = "|".join(re.escape(one.bundle.manifest.name) for one in given)
    try:
        old = _open(path, trust)
    except AxleboxError as error:
        # Damaged, expired, or signed by a key that was revoked since: only its name tells what it was.
        if replace and re.fullmatch(rf"({names})-[0-9]+\.axb", path.name, re.IGNORECASE):
            return None
        raise type(error)(f"{error}. It is on the stick already; nothing was written. DO: remove it") from error
    if replace and any(
        one.bundle.manifest.name == old.bundle.manifest.name and _meet(one.bundle.manifest, old.bundle.manifest)
        for one in given
    ):
        return None
    return old


def _conflicts(carried: Sequence[Carried]) -> Iterator[UsageError]:
    for one, two in combinations(carried, 2):
        if _meet(one.bundle.manifest, two.bundle.manifest):
            yield UsageError(
                f"{one.file} ({aim(one.bundle.manifest)}) and {two.file} ({aim(two.bundle.manifest)}): "
                "a vehicle refuses a stick with two bundles for it"
            )


def _meet(one: Manifest, two: Manifest) -> bool:
    """Whether some vehicle could take either of two bundles."""
    if set(one.hardware).isdisjoint(two.hardware) and ANY_HARDWARE not in (*one.hardware, *two.hardware):
        return False
    return not one.vehicles or not two.vehicles or not set(one.vehicles).isdisjoint(two.vehicles)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. DO: mount the stick, and name the folder that it is mounted on")


def _check_space(folder: Path, size: int) -> None:
    needed = size + _SPARE_BYTES if size else 0
    usage = shutil.disk_usage(folder)
    if usage.free < needed and usage.total:  # a file system of user space may not tell, and says 0 of 0
        raise PreflightFailed(f"{folder} has {usage.free} bytes free, {needed} are needed; nothing was written")


def _check_name(path: Path) -> None:
    """A name that CONTENTS.txt can list in plain ASCII; sha256sum has a spelling of its own for a backslash."""
    check_shown(path.name)
    if not path.name.isascii() or "\\" in path.name:
        raise UsageError(f"the file name {path.name!a} on the stick is not plain ASCII. DO: rename or remove it")


def _copy(path: Path, data: bytes) -> Path:
    """Write a file's unfinished copy and compare what the device reads back; the name is for the caller to give."""
    part = path.with_name(path.name + _PART)
    part.unlink(missing_ok=True)  # a link of that name would lead the copy off the stick
    try:
        disk.create_durable(part, data)
    except OSError as error:  # a write's own error names no file
        raise PreflightFailed(f"{part}: {error.strerror}. DO: prepare this stick again, or use another") from error
    if _read(part) != data:
        raise Damaged(f"{part} reads back other bytes than were written. DO: use another stick")
    return part


def _open(path: Path, trust: Path | None, sha256: str = "") -> Carried:
    data = _read(path, sha256)
    return Carried(path.name, data, check_bundle(path, data, trust))


def _read(path: Path, sha256: str = "") -> bytes:
    """A file as the device reads it now. Raises Damaged where it cannot, or has not the digest that is expected."""
    try:
        data = disk.read_bounded(path, MAX_CONTAINER_BYTES, from_device=True)
    except AxleboxError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
            raise Damaged(f"{path.name}: the stick cannot read it back ({error.__cause__.strerror})") from error
        raise
    if sha256 and _sha256(data) != sha256:
        raise Damaged(f"{path.name}: differs from what {CONTENTS} lists")
    return data


def _read_contents(folder: Path, problems: list[AxleboxError]) -> dict[str, tuple[str, str]]:
    """Name and sha256 of every file that CONTENTS.txt lists, by the name in small letters: FAT shows either."""
    path = folder / CONTENTS
    if not path.exists():
        problems.append(Damaged(f"{CONTENTS}: is missing; the stick was never prepared to its end"))
        return {}
    listed: dict[str, tuple[str, str]] = {}
    try:
        lines = _read(path).decode("ascii", "replace").splitlines()
    except AxleboxError as error:
        problems.append(error)
        return {}
    for number, line in enumerate(lines, start=1):
        found = _SUM.fullmatch(line)
        if found and found[2].lower() not in listed:
            listed[found[2].lower()] = (found[2], found[1])
        elif line and not line.startswith("#"):
            problems.append(Malformed(f"{CONTENTS}: line {number} is no sha256 and name, or repeats a name"))
    if not listed:
        problems.append(Malformed(f"{CONTENTS}: lists no file"))
    return listed


def _files(folder: Path) -> list[Path]:
    """The files of a folder without those that begin with a dot, as `._*` of macOS."""
    with disk.explained():
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _receipts(folder: Path) -> tuple[str, ...]:
    place = folder / RECEIPTS
    return tuple(_plain(path.name) for path in _files(place)) if place.is_dir() else ()


def _plain(name: str) -> str:
    return name if name.isprintable() else f"{name!a}"


def _wrapped(title: str, words: Sequence[str]) -> list[str]:
    return textwrap.wrap(
        ", ".join(words),
        width=100,
        initial_indent=f"#   {title:9} ",
        subsequent_indent=f"#   {'':9} ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _stamp(time: datetime) -> str:
    """RFC 3339, in UTC and whole seconds."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
