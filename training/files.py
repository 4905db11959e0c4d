"""What the workspace's own files have in common: digests, and records of one line each that only ever grow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed

Line = TypeVar("Line", bound=Struct)
_MAX_BYTES = 64 * 1024 * 1024


def sha256_of(path: Path) -> str:
    """Of a file of any size, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path, what: type[Line]) -> list[Line]:
    """The lines of a JSON lines record, oldest first; none where there is no file yet. Raises Malformed."""
    if not path.exists():
        return []
    try:
        return msgspec.json.Decoder(what).decode_lines(disk.read_bounded(path, _MAX_BYTES))
    except msgspec.DecodeError as error:
        raise Malformed(f"{path}: {error}") from error


def append_line(path: Path, line: Struct) -> None:
    """Add a line, durably and without ever losing the earlier ones. The caller holds the workspace's lock."""
    lines = [*read_lines(path, type(line)), line]
    disk.replace_durable(path, msgspec.json.Encoder().encode_lines(lines))
