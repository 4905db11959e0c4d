"""Every write of an installation goes through here, so that power-loss tests have one place to cut."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from axlebox.firmware_bundle.errors import AxleboxError, DiskRefused, Malformed


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn a refusal by the operating system into one line that names the file and the reason."""
    try:
        yield
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise DiskRefused(f"{place}{error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make sure of a folder, and of those above it that are missing, durably with their names."""
    if not path.is_dir():
        if not path.parent.is_dir():
            make_folder(path.parent)
        path.mkdir()
    sync_folder(path.parent)  # also where it was there: whoever made it may have been cut off before this


def create_folder(path: Path) -> None:
    """Make a new folder; its name becomes durable by `sync_folder`. Raises FileExistsError where there is one."""
    path.mkdir()


def write_durable(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a whole file and make its bytes durable; its name becomes so by `sync_folder`."""
    _write(path, data, os.O_TRUNC, mode)


def create_durable(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a new file, durably with its name. Raises FileExistsError, and writes nothing, where there is one."""
    _write(path, data, os.O_EXCL, mode)
    sync_folder(path.parent)


def _write(path: Path, data: bytes, how: int, mode: int) -> None:
    # A stick could bring a link that leads to a file of this box, or a FIFO that nobody reads.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | how, mode)
    with open(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durable(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put a whole file under its name: after a power cut there is the old one or the new one."""
    part = path.with_name(path.name + ".part")
    write_durable(part, data, mode)
    os.replace(part, path)
    sync_folder(path.parent)


def append_line(path: Path, line: bytes, at_most: int, full: Path) -> None:
    """Add a line to a log, durably; a log of `at_most` bytes is set aside as `full` first.

    What a power cut left behind the last line end is cut off.
    """
    if path.exists() and path.stat().st_size >= at_most:
        os.replace(path, full)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with open(handle, "r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def rename_durable(old: Path, new: Path) -> None:
    os.rename(old, new)
    sync_folder(new.parent)


def remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_bounded(path: Path, at_most: int, from_device: bool = False) -> bytes:
    """A whole regular file of at most so many bytes; a pipe could keep its reader for ever.

    `from_device` asks for what the medium holds now, and not for what the page cache remembers.
    """
    if path.exists() and not path.is_file():
        raise AxleboxError(f"{path} is not a regular file")
    try:
        with open(path, "rb") as file:
            if from_device:
                os.fsync(file.fileno())  # pages that are not written yet would stay in the cache
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            data = file.read(at_most + 1)
    except OSError as error:
        raise AxleboxError(f"{path}: {error.strerror}") from error
    if len(data) > at_most:
        raise Malformed(f"{path} is larger than the {at_most} bytes that are allowed")
    return data
