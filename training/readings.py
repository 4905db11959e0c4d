"""Files of readings on the workstation: read by the vehicle's own reader and gate, nothing dropped in silence."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import Malformed, UsageError
from axlebox.firmware_bundle.manifest import Contract, DataFile, FileName, Sha256, decode, encode
from axlebox.runtime.gate import Gate
from axlebox.runtime.lines import read_lines
from axlebox.runtime.readings import REPLACED, BadLine, LineReader, Reading, Replaced
from axlebox.runtime.statuses import INVALID, OK
from axlebox.training.workspace import Workspace

CURRENT = "current.json"
_MAX_CURRENT_BYTES = 1024 * 1024


class StoredFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of data/01_raw, which is named by its content."""

    name: str
    sha256: Sha256
    stored: str


class Current(Struct, frozen=True, forbid_unknown_fields=True):
    """data/01_raw/current.json: what training reads, in this order."""

    files: tuple[StoredFile, ...]


class Invalid(Struct, frozen=True):
    """A line or reading that training does not use, and why."""

    file: str
    line: int
    reason: str
    status: str = INVALID
    """As in statuses.py: the gate's."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What one or more files hold, after the gate."""

    stream: list[Reading | Replaced]
    """Every reading, also those that the gate holds back, and the marks of replaced sensors: what a box would see."""
    statuses: list[str]
    """The gate's status of each of them; REPLACED for a mark."""
    invalid: list[Invalid]
    files: tuple[DataFile, ...]

    @property
    def items(self) -> list[Reading | Replaced]:
        """Readings that training uses, and the marks in their places among them."""
        return [one for one, status in zip(self.stream, self.statuses, strict=True) if status in (OK, REPLACED)]

    @property
    def readings(self) -> list[Reading]:
        return [one for one in self.items if isinstance(one, Reading)]

    def __len__(self) -> int:
        return self.statuses.count(OK)

    def __repr__(self) -> str:
        """For people at a prompt, who do not want every reading on the screen."""
        return f"<{len(self)} readings of {', '.join(one.name for one in self.files)}; {len(self.invalid)} invalid>"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What was read and guessed about one file."""

    name: str
    format: str
    header: bool
    rows: int
    invalid: int
    held_back: dict[str, int]
    """Rows that cannot be true temperatures, by status; invalid ones are counted apart."""
    sensors: int
    first: float
    last: float
    period_s: float | None
    """Median seconds between two readings of one sensor."""
    gaps: int
    """Intervals longer than three periods."""
    longest_stuck: int
    """Most readings in a row of one sensor with the same value."""
    replaced: int
    """Marks. Across one of them there is no interval and no run."""
    lowest: float
    highest: float


def check_items(items: Iterable[Reading | BadLine | Replaced], gate: Gate, file: str) -> Checked:
    """What the gate says of each item, in order."""
    found = Checked([], [], [], ())
    for item in items:
        if isinstance(item, BadLine):
            found.invalid.append(Invalid(file, item.line, item.reason))
            continue
        found.stream.append(item)
        if isinstance(item, Replaced):
            gate.forget(item.sensor)
            found.statuses.append(REPLACED)
            continue
        verdict = gate.judge(gate.corrected(item))
        status = OK if verdict is None else verdict.status
        found.statuses.append(status)
        if verdict is not None and status != OK:
            found.invalid.append(Invalid(file, item.line, verdict.reason, status))
    return found


def held_back(unused: Iterable[Invalid]) -> dict[str, int]:
    """How many readings the gate held back for each status but INVALID, in the order of the words."""
    return dict(sorted(Counter(one.status for one in unused if one.status != INVALID).items()))


def with_eras(items: Iterable[Reading | Replaced]) -> Iterator[tuple[Reading, int]]:
    """Each reading with its era: how many marks of its sensor came before it."""
    marks: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Replaced):
            marks[item.sensor] += 1
        else:
            yield item, marks[item.sensor]


def ingest(workspace: Workspace, contract: Contract, paths: Sequence[Path]) -> list[tuple[FileFacts, list[Invalid]]]:
    """Check files, keep content-addressed copies, and make them what training reads.

    Raises Malformed, and changes nothing, where a file holds no reading at all.
    """
    with workspace.locked():
        current, found = take_in(workspace, contract, paths, Current(()))
        write_current(workspace, current)
    return found


def take_in(
    workspace: Workspace, contract: Contract, paths: Sequence[Path], base: Current
) -> tuple[Current, list[tuple[FileFacts, list[Invalid]]]]:
    """Check files as what comes after `base`, and keep copies of them; the caller holds the workspace's lock.

    Returns base with these files, those that it has already left out, and what was found in each.
    current.json stays as it is. Raises Malformed where a file holds no reading that is new.
    """
    for leaving in workspace.raw.glob("*.part"):
        leaving.unlink()
    found: list[tuple[FileFacts, list[Invalid]]] = []
    stored = list(base.files)
    gate = Gate(contract)
    paths = [path for path in paths if not _is_among(path, stored)]
    for one in stored if paths else ():  # the gate must know what came before
        check_items(LineReader(contract.only_sensor()).read(read_lines(_copy_of(workspace, one))), gate, one.name)
    for path in paths:
        incoming = _take_copy(workspace, path)
        reader = LineReader(contract.only_sensor())
        checked = check_items(reader.read(read_lines(incoming)), gate, path.name)
        invalid = checked.invalid
        if not len(checked):
            why = f"; line {invalid[0].line}: {invalid[0].reason}" if invalid else ""
            incoming.unlink()
            order = ". DO: give the files oldest first" if stored else ""
            raise Malformed(f"{path}: no reading found in {len(invalid)} lines{why}{order}")
        stored.append(_keep(workspace, path, incoming))
        found.append((_facts(path.name, reader, checked.items, invalid), invalid))
    return Current(tuple(stored)), found


def read_current(workspace: Workspace) -> Current:
    """What training reads; no files where nothing was ingested yet."""
    path = workspace.raw / CURRENT
    return decode(disk.read_bounded(path, _MAX_CURRENT_BYTES), Current, str(path)) if path.exists() else Current(())


def write_current(workspace: Workspace, current: Current) -> None:
    """Make these files what training reads; the caller holds the workspace's lock."""
    disk.replace_durable(workspace.raw / CURRENT, encode(current))


def load_current(workspace: Workspace, contract: Contract, path: Path | None = None) -> Checked:
    """All readings that `current.json`, or another file like it, names; each compared with its sha256."""
    path = workspace.raw / CURRENT if path is None else path
    if not path.exists():
        raise UsageError("nothing was ingested yet. DO: axlebox ingest FILE")
    gate = Gate(contract)
    stream: list[Reading | Replaced] = []
    statuses: list[str] = []
    invalid: list[Invalid] = []
    files = []
    for stored in decode(disk.read_bounded(path, _MAX_CURRENT_BYTES), Current, str(path)).files:
        copy = _copy_of(workspace, stored)
        checked = check_items(LineReader(contract.only_sensor()).read(read_lines(copy)), gate, stored.name)
        stream += checked.stream
        statuses += checked.statuses
        invalid += checked.invalid
        unused = len(checked.invalid)
        files.append(DataFile(stored.name, stored.sha256, len(checked) + unused, unused))
    return Checked(stream, statuses, invalid, tuple(files))


def first_time(path: Path, contract: Contract) -> float:
    """POSIX seconds of a file's first reading; infinite where none is found."""
    items = LineReader(contract.only_sensor()).read(read_lines(path))
    return next((one.time for one in items if isinstance(one, Reading)), math.inf)


def _copy_of(workspace: Workspace, stored: StoredFile) -> Path:
    copy = workspace.raw / stored.stored
    if not copy.is_file() or sha256_of(copy) != stored.sha256:
        raise Malformed(f"{copy} is missing or was changed. DO: axlebox ingest {stored.name} again")
    return copy


def _is_among(path: Path, stored: Sequence[StoredFile]) -> bool:
    return path.is_file() and sha256_of(path) in {one.sha256 for one in stored}


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _take_copy(workspace: Workspace, path: Path) -> Path:
    """Copy a file into the workspace; only the copy is read from then on."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        msgspec.convert(path.name, FileName)  # it stands in the manifest of every release made from it
    except msgspec.ValidationError as error:
        raise UsageError(f"{path.name!r} has control characters in it. DO: rename the file") from error
    incoming = workspace.raw / "incoming.part"
    with disk.explained():
        shutil.copyfile(path, incoming)
    return incoming


def _keep(workspace: Workspace, path: Path, incoming: Path) -> StoredFile:
    """Give the copy of a file its final name, which is made of its content."""
    digest = sha256_of(incoming)
    suffix = path.suffix.lower() if path.suffix.isascii() else ""
    stored = StoredFile(path.name, digest, digest + suffix)
    with disk.explained():
        disk.rename_durable(incoming, workspace.raw / stored.stored)
    return stored


def _facts(name: str, reader: LineReader, good: Sequence[Reading | Replaced], invalid: Sequence[Invalid]) -> FileFacts:
    by_era: dict[tuple[str, int], list[Reading]] = {}
    for reading, era in with_eras(good):
        by_era.setdefault((reading.sensor, era), []).append(reading)
    steps = np.concatenate([np.diff([one.time for one in readings]) for readings in by_era.values()])
    period = float(np.median(steps)) if len(steps) else None
    readings = [one for one in good if isinstance(one, Reading)]
    values = np.array([one.value for one in readings])
    return FileFacts(
        name=name,
        format=reader.format or "",
        header=reader.has_header,
        rows=len(readings) + len(invalid),
        invalid=sum(one.status == INVALID for one in invalid),
        held_back=held_back(invalid),
        sensors=len({sensor for sensor, _ in by_era}),
        first=min(one.time for one in readings),
        last=max(one.time for one in readings),
        period_s=period,
        gaps=int(np.sum(steps > 3 * period)) if period else 0,
        longest_stuck=max(_longest_run([one.value for one in readings]) for readings in by_era.values()),
        replaced=len(good) - len(readings),
        lowest=float(values.min()),
        highest=float(values.max()),
    )


def _longest_run(values: Sequence[float]) -> int:
    longest = run = 0
    previous: float | None = None
    for value in values:
        run = run + 1 if value == previous else 1
        longest = max(longest, run)
        previous = value
    return longest
