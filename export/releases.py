"""releases.jsonl: every version that was ever given out, one line each."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from msgspec import Struct

from axlebox.firmware_bundle.manifest import Sha256
from axlebox.training.files import append_line, read_lines


class ReleaseLine(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    version: int
    digest: Sha256
    run: str
    released: datetime


def read_releases(path: Path) -> list[ReleaseLine]:
    return read_lines(path, ReleaseLine)


def next_version(path: Path) -> int:
    return 1 + max((line.version for line in read_releases(path)), default=0)


def append_release(path: Path, line: ReleaseLine) -> None:
    append_line(path, line)
