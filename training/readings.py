"""Files of readings come into the workspace, and out of it into a training: read in batches, judged by the gate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axlebox.firmware_bundle.errors import Malformed, UsageError
from axlebox.firmware_bundle.manifest import Contract, DataFile, FileFormat
from axlebox.runtime.gate import Gate
from axlebox.runtime.readings import Reading
from axlebox.runtime.statuses import OK
from axlebox.training.checked import Checked, Columns, Invalid, Judge, check_items, held_back, with_eras
from axlebox.training.conf import load_settings
from axlebox.training.facts import FileFacts, KindTally, Tally, suggest
from axlebox.training.raw_data import (
    Current,
    Incoming,
    StoredFile,
    Taken,
    ingested_files,
    open_stored,
    read_current,
    write_current,
)
from axlebox.training.readers.base import Batch, Job
from axlebox.training.readers.find import DESCRIBE, Found, find_reader
from axlebox.training.series import Progress, silent
from axlebox.training.workspace import Workspace

__all__ = [
    "Checked",
    "Current",
    "FileFacts",
    "Ingested",
    "Invalid",
    "StoredFile",
    "check_items",
    "held_back",
    "ingest",
    "load_current",
    "load_files",
    "load_formats",
    "with_eras",
]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What came of an ingest; iterates over the files that were read."""

    files: tuple[tuple[FileFacts, list[Invalid]], ...]
    """Each with the first of what the gate held back."""
    left_out: tuple[str, ...]
    """Files that are there already, by their content."""
    suggestions: dict[str, dict[str, Any]]
    """By kind of sensor, for the contract; nothing of it is set."""

    def __iter__(self) -> Iterator[tuple[FileFacts, list[Invalid]]]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def load_formats(workspace: Workspace) -> dict[str, Any]:
    """`formats` of the catalog's entry temperature_database, as Kedro merges conf/base and conf/local."""
    catalog = load_settings(workspace, "catalog")
    entry = catalog.get("temperature_database")
    found = entry.get("formats") if isinstance(entry, dict) else None
    if found is not None and not isinstance(found, dict):
        raise UsageError("conf/base/catalog.yml, formats: expected descriptions by name")
    return found or {}


def ingest(
    workspace: Workspace,
    contract: Contract,
    paths: Sequence[Path],
    *,
    add: bool = False,
    format: str | None = None,  # noqa: A002  the option's name
    progress: Progress = silent,
) -> Ingested:
    """Check files, keep content-addressed copies, and make them what training reads.

    With `add` they come behind the files that training reads already. What is there by its content is left out.
    `format` is the name of a description in the catalog, or of a reader. Raises Malformed, and changes nothing,
    where a file holds no reading at all.
    """
    with workspace.locked():
        there = ingested_files(workspace) if add else ()
        files, found = take_in(workspace, contract, paths, there, format_=format, progress=progress)
        if found.files:
            write_current(workspace, files)
    return found


def take_in(
    workspace: Workspace,
    contract: Contract,
    paths: Sequence[Path],
    there: tuple[StoredFile, ...],
    *,
    format_: str | None = None,
    progress: Progress = silent,
) -> tuple[tuple[StoredFile, ...], Ingested]:
    """Check files as what comes behind `there`, and keep copies of them; the caller holds the workspace's lock.

    Returns `there` with the new files behind, and what was found in them. current.json stays as it is.
    """
    with Incoming(workspace) as incoming:
        work = _Ingest(workspace, contract, incoming, there, progress)
        found = work.run(paths, format_)
    return work.files, found


def first_time(workspace: Workspace, contract: Contract, path: Path) -> float:
    """POSIX seconds of a file's first reading; infinite where it has none. Raises Malformed."""
    reader = find_reader(path, load_formats(workspace), None, path.name)
    job = Job(path, path.name, contract.only_sensor())
    items = (item for batch in reader.with_files(reader.files(workspace.root)).read(job) for item in batch)
    return next((one.time for one in items if isinstance(one, Reading)), math.inf)


class _Ingest:
    """One call of `ingest`."""

    def __init__(
        self,
        workspace: Workspace,
        contract: Contract,
        incoming: Incoming,
        there: tuple[StoredFile, ...],
        progress: Progress,
    ) -> None:
        self._workspace = workspace
        self._contract = contract
        self._incoming = incoming
        self._progress = progress
        self._gate = Gate(contract)
        self._kinds: dict[str, KindTally] = {}
        self._files = list(there)
        self._to_replay = there

    def run(self, paths: Sequence[Path], name: str | None) -> Ingested:
        formats = load_formats(self._workspace)
        found, left_out = [], []
        for path in paths:
            taken = self._incoming.take(path)
            reader = find_reader(taken.path, formats, name, path.name)
            read_as, needed = self._incoming.take_needed(reader, self._workspace.root)
            if (same := self._there(taken, read_as)) is not None:
                self._incoming.mend(taken, same)
                left_out.append(path.name)
                continue
            found.append(self._read(path, taken, reader.with_files(needed)))
            self._files.append(self._incoming.keep(taken, read_as, reader.described))
        self._incoming.finish()
        return Ingested(tuple(found), tuple(left_out), suggest(self._kinds, self._contract))

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """Those that were there, and the new ones behind them."""
        return tuple(self._files)

    def _there(self, taken: Taken, read_as: FileFormat | None) -> StoredFile | None:
        """The file of the same content that is there already. Raises UsageError where it was read otherwise."""
        same = next((one for one in self._files if one.sha256 == taken.sha256), None)
        if same is not None and same.format != read_as:
            raise UsageError(
                f"{taken.name} is there already as {same.name}, read by another description. "
                "DO: axlebox ingest all files again, without --add"
            )
        return same

    def _read(self, path: Path, taken: Taken, reader: Found) -> tuple[FileFacts, list[Invalid]]:
        for stored in self._to_replay:  # the gate must know what came before
            judge = Judge(self._gate, stored.name, [])
            for batch in _stored_batches(self._workspace, self._contract, stored, self._progress):
                judge.statuses(batch)
        self._to_replay = ()
        invalid: list[Invalid] = []
        job = Job(taken.path, taken.name, self._contract.only_sensor())
        judge, tally = Judge(self._gate, taken.name, invalid), Tally(self._contract)
        for batch in _batches(reader, job, self._progress):
            tally.add(batch, judge.statuses(batch))
        if not judge.counts[OK]:
            raise Malformed(f"{path}: no reading found in {judge.rows} lines{self._why(job, invalid)}")
        facts = tally.facts(judge, job, reader.reader.name)
        for kind, seen in tally.kinds.items():
            self._kinds.setdefault(kind, KindTally()).take(seen)
        return facts, invalid

    def _why(self, job: Job, invalid: Sequence[Invalid]) -> str:
        first = f"; line {invalid[0].line}: {invalid[0].reason}" if invalid else ""
        if not job.format:
            return f"{first}{''.join(f'; {note}' for note in job.guessed)}. {DESCRIBE}"
        return first + (". DO: give the files oldest first" if self._files else "")


def _batches(reader: Found, job: Job, progress: Progress) -> Iterator[Batch]:
    what = f"reading {job.name}"
    for batch in reader.read(job):
        yield batch
        progress(what, job.done, job.total)
    progress(what, 1, 1)


def load_current(
    workspace: Workspace, contract: Contract, progress: Progress = silent, path: Path | None = None
) -> Checked:
    """All readings that `current.json`, or another file like it, names; each file compared with its sha256."""
    return load_files(workspace, contract, read_current(workspace, path), progress)


def load_files(
    workspace: Workspace, contract: Contract, files: Sequence[StoredFile], progress: Progress = silent
) -> Checked:
    """All readings of files of data/01_raw in this order, each compared with its sha256.

    Raises Malformed where a copy is missing or was changed, PreflightFailed where its reader is not installed.
    """
    gate, columns = Gate(contract), Columns()
    invalid: list[Invalid] = []
    counts: Counter[str] = Counter()
    facts = []
    for stored in files:
        judge = Judge(gate, stored.name, invalid)
        for batch in _stored_batches(workspace, contract, stored, progress):
            columns.add(batch, judge.statuses(batch))
        counts.update(judge.counts)
        facts.append(DataFile(stored.name, stored.sha256, judge.rows, judge.unused, stored.format))
    return Checked(columns, counts, invalid, tuple(facts))


def _stored_batches(
    workspace: Workspace, contract: Contract, stored: StoredFile, progress: Progress
) -> Iterator[Batch]:
    copy, reader = open_stored(workspace, stored)
    yield from _batches(reader, Job(copy, stored.name, contract.only_sensor()), progress)
