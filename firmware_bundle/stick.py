"""A stick: which of its files is the bundle meant for this vehicle, its serial number, and where receipts go.

Everything is opened and read once, at the beginning: whoever runs as root gives that right up
right afterwards, and a stick that changes later has no effect.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES, unpack
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, Malformed, StickLost, UsageError, WrongVehicle
from axlebox.firmware_bundle.manifest import ANY_HARDWARE, decode

SUFFIX = ".axb"
RECEIPTS = "axlebox-receipts"
"""Folder of a stick that vehicles write their receipts to."""
MAX_BUNDLES = 64

_SYSFS = Path("/sys")
_MAX_SERIAL_BYTES = 128


class _Aim(Struct, frozen=True):
    """Whom a bundle says that it is for; nobody has verified it yet."""

    hardware: tuple[str, ...]
    vehicles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that could be a bundle, read whole."""

    name: str
    data: bytes

    def is_for(self, vehicle: str, hardware: str) -> bool:
        """Whether it says so. Raises Damaged or Malformed where that cannot be read."""
        members = unpack(self.data)
        if "manifest.json" not in members:
            raise Malformed("there is no manifest.json in it")
        aim = decode(members["manifest.json"], _Aim, "manifest.json")
        fits = hardware == ANY_HARDWARE or bool({hardware, ANY_HARDWARE} & set(aim.hardware))
        return fits and (not aim.vehicles or vehicle in aim.vehicles)


@dataclass(frozen=True, slots=True)
class Choice:
    candidate: Candidate
    notes: tuple[str, ...]
    """Other files on the stick, and why they were not meant."""


class Stick:
    """A folder that is taken for a stick, with all its bundles open."""

    def __init__(self, place: Path) -> None:
        """`place` is the stick's folder, or one bundle file. Raises UsageError, StickLost."""
        self.place = place
        self._alone = not place.is_dir()
        self._files = [(place.name, _open(place))] if self._alone else list(_open_all(place))
        self.folder = place.parent if self._alone else place
        self.serial = read_serial(self.folder)

    def close(self) -> None:
        """Let go of the stick: an open file would keep it busy."""
        for _, handle in self._files:
            os.close(handle)
        self._files = []

    def takes_receipts(self, data: Path) -> bool:
        """Whether receipts belong here: a folder was named, or the file lies on another file system than the data."""
        return not self._alone or (data.exists() and self.folder.stat().st_dev != data.stat().st_dev)

    def choose(self, vehicle: str, hardware: str) -> Choice:
        """The one bundle that is meant for this vehicle.

        Files that say they are for others, or that cannot be read, stand back where exactly one
        fits. Raises UsageError naming both where two do.
        """
        if not self._files:
            raise UsageError(f"no bundle (*{SUFFIX}) in {self.place}")
        if len(self._files) == 1:  # verifying it says exactly what is wrong with it
            return Choice(self._read(*self._files[0]), ())
        fitting: list[Candidate] = []
        others: list[str] = []
        unreadable: list[tuple[Candidate, AxleboxError]] = []
        for name, handle in self._files:
            candidate = self._read(name, handle)
            try:
                fits = candidate.is_for(vehicle, hardware)
            except (Damaged, Malformed) as error:
                unreadable.append((candidate, error))
                continue
            if fits:
                fitting.append(candidate)
            else:
                others.append(name)
            if len(fitting) > 1:
                names = " and ".join(one.name for one in fitting)
                raise UsageError(f"{names} are both for {vehicle}. DO: name the file that is meant")
        return Choice(
            self._only(fitting, others, [one for one, _ in unreadable], vehicle),
            (
                *(f"{name} is for others" for name in others),
                *(f"{one.name} cannot be read: {error}" for one, error in unreadable if fitting),
            ),
        )

    def _only(
        self, fitting: Sequence[Candidate], others: Sequence[str], unreadable: Sequence[Candidate], vehicle: str
    ) -> Candidate:
        if fitting:
            return fitting[0]
        if len(unreadable) == 1:
            return unreadable[0]
        if unreadable:
            raise Damaged(f"none of {', '.join(one.name for one in unreadable)} can be read")
        raise WrongVehicle(f"nothing on the stick is for {vehicle}: {', '.join(others)}")

    def _read(self, name: str, handle: int) -> Candidate:
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            with open(os.dup(handle), "rb") as file:
                data = file.read(MAX_CONTAINER_BYTES + 1)  # one byte more is enough to be refused
        except OSError as error:
            raise StickLost(f"{name}: {error.strerror}") from error
        return Candidate(name, data)

    def keep(self, name: str, document: bytes) -> None:
        """Write one receipt file to the stick, durably. Raises OSError."""
        folder = self.folder / RECEIPTS
        disk.make_folder(folder)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, f"{RECEIPTS} leads elsewhere")
        disk.replace_durable(folder / name, document)


def bundles_in(folder: Path) -> list[Path]:
    """The bundles of a folder by name, in whatever letters FAT shows the suffix.

    Names that begin with a dot (`._*` of macOS) and unfinished copies do not count. Raises StickLost.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.casefold() == SUFFIX and path.is_file())
    except OSError as error:
        raise StickLost(f"{folder}: {error.strerror}") from error
    return [path for path in found if not path.name.startswith(".")]


def _open_all(folder: Path) -> Iterator[tuple[str, int]]:
    found = bundles_in(folder)
    if len(found) > MAX_BUNDLES:  # each is kept open, and may be read whole
        raise UsageError(
            f"{folder} holds {len(found)} bundles, more than {MAX_BUNDLES}. DO: name the one that is meant"
        )
    for path in found:
        check_shown(path.name)
    for path in found:
        yield path.name, _open(path)


def _open(path: Path) -> int:
    """A descriptor of a regular file; a FIFO could keep its reader for ever. Raises UsageError, StickLost."""
    check_shown(path.name)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StickLost(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UsageError(f"{path} is not a regular file")
    return handle


def check_shown(name: str) -> None:
    """Whoever fills a stick chooses its names, and they are shown: one that would move the terminal's
    cursor could write a PASS there."""
    if not name.isprintable():
        raise UsageError(f"the file name {name!a} holds what no name needs. DO: do not use this file")


def read_serial(folder: Path, sysfs: Path = _SYSFS) -> str:
    """Serial number of the device that a folder lies on; empty where there is none that can be read."""
    try:
        device = folder.stat().st_dev
        place = (sysfs / f"dev/block/{os.major(device)}:{os.minor(device)}").resolve(strict=True)
        for parent in (place, *place.parents):
            for name in ("serial", "device/serial"):
                if parent.is_relative_to(sysfs.resolve()) and (parent / name).is_file():
                    found = disk.read_bounded(parent / name, _MAX_SERIAL_BYTES).decode("ascii", "replace").strip()
                    return found if found.isprintable() else ""
    except (OSError, AxleboxError):
        pass
    return ""
