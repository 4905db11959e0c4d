"""releases.jsonl: every version that was ever given out, one line each."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Sha256

_MAX_BYTES = 64 * 1024 * 1024


class ReleaseLine(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: int
    digest: Sha256
    run: str
    released: datetime


def read_releases(path: Path) -> list[ReleaseLine]:
    if not path.exists():
        return []
    try:
        return msgspec.json.Decoder(ReleaseLine).decode_lines(disk.read_bounded(path, _MAX_BYTES))
    except msgspec.DecodeError as error:
        raise Malformed(f"{path}: {error}") from error


def next_version(path: Path) -> int:
    return 1 + max((line.version for line in read_releases(path)), default=0)


def append_release(path: Path, line: ReleaseLine) -> None:
    """Add a line, durably and without ever losing the earlier ones."""
    lines = [*read_releases(path), line]
    disk.replace_durable(path, msgspec.json.Encoder().encode_lines(lines))
