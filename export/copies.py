"""The workspace's copies of what a release was trained on, found by what the release says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from msgspec import structs

from axlebox.firmware_bundle.errors import Damaged, UsageError
from axlebox.firmware_bundle.manifest import DataFile
from axlebox.training.files import sha256_of
from axlebox.training.raw_data import StoredFile
from axlebox.training.workspace import Workspace

WHOLE: Final = "whole"
CHANGED: Final = "changed"
MISSING: Final = "missing"


@dataclass(frozen=True, slots=True)
class Copy:
    """Where the copy of a recorded file is, or should be."""

    file: DataFile
    path: Path
    state: Literal["whole", "changed", "missing"]
    """Whole: its bytes have the recorded sha256."""


def find_copy(workspace: Workspace, file: DataFile) -> Copy:
    """The copy of a recorded file, read to its end. It may have been ingested under another name since."""
    found = workspace.copies_of(file.sha256)
    for path in found:
        if sha256_of(path) == file.sha256:
            return Copy(file, path, WHOLE)
    if found:
        return Copy(file, found[0], CHANGED)
    return Copy(file, workspace.raw / StoredFile.of(file).stored, MISSING)


def require_whole(copy: Copy) -> None:
    """Raise UsageError where a copy is missing, Damaged where its bytes are not the recorded ones."""
    about = f"{copy.file.name}, sha256 {copy.file.sha256}"
    if copy.state == MISSING:
        raise UsageError(f"data {about}: there is no copy in {copy.path.parent}. DO: axlebox ingest that very file")
    if copy.state == CHANGED:
        raise Damaged(f"data {about}: the bytes of {copy.path} are others. DO: axlebox ingest that very file again")


def stored_file(copy: Copy) -> StoredFile:
    """The line of current.json for a copy: all that the release recorded of the file, under the same names."""
    return structs.replace(StoredFile.of(copy.file), stored=copy.path.name)
