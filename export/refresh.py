"""`axlebox refresh`: new readings in, a challenger trained, compared and proposed. Safe to run unattended.

It never exports, signs or promotes. What training reads (data/01_raw/current.json) and the latest run stay
as they are until the proposal is written, so that a refresh that fails or is killed changes nothing for
the people who work here, and the next one begins again with the same files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from axlebox.export import pages
from axlebox.export.compare import NO_CHAMPION, Comparison, blocks, compare, open_named, prove
from axlebox.export.pages import Block, Bullets, Commands, Heading, Table, Text
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Contract, encode
from axlebox.runtime.readings import format_time
from axlebox.training import tracking
from axlebox.training.champion import champion
from axlebox.training.contract import load_contract
from axlebox.training.files import sha256_of
from axlebox.training.gates import NOT_ASKED, GateResult, write_gates
from axlebox.training.parameters import GateParameters
from axlebox.training.raw_data import Current, StoredFile, ingested_files, write_current
from axlebox.training.readings import FileFacts, first_time, take_in
from axlebox.training.run import load_parameters, train
from axlebox.training.runs import Run, write_report
from axlebox.training.series import Progress, silent
from axlebox.training.workspace import Workspace

TAKEN = "taken"
"""The folder in the inbox for what was taken in."""
_UNFINISHED = (".part", ".tmp")
"""Suffixes of files that somebody is still copying into the inbox."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a refresh wrote for people to look at."""

    run: Run
    page: Path
    """proposals/RUN.md; .html and .json lie beside it."""
    comparison: Comparison
    files: tuple[FileFacts, ...]
    """The new ones."""
    not_indexed: tracking.NotIndexed | None = None
    """Why MLflow's index is not up to date, where it is not."""

    @property
    def stopping(self) -> list[GateResult]:
        return [one for one in self.comparison.gates if one.stops]

    def line(self) -> str:
        run = self.run.folder.name
        if self.stopping:
            return f"{self.page}: run {run} should not be promoted; {'; '.join(map(str, self.stopping))}"
        new = f"{len(self.files)} new file{'' if len(self.files) == 1 else 's'}"
        return f"{self.page}: run {run}, with {new}, passes every gate. DO: look at it, then axlebox export {run}"

    def plain(self) -> dict[str, Any]:
        return {
            "run": self.run.folder.name,
            "champion": self.comparison.champion,
            "recommended": not self.stopping,
            "reasons": _reasons(self.comparison.gates),
            "files": [msgspec.to_builtins(one) for one in self.files],
            "next": _next(self.run.folder.name),
            "comparison": self.comparison.plain(),
        }


def refresh(workspace: Workspace, files: Sequence[Path] = (), progress: Progress = silent) -> Proposal | None:
    """Take in files, by default those in the workspace's inbox, and propose what training makes of them.

    None where nothing is new. Raises PreflightFailed where another refresh or training is at work, or
    readings were ingested meanwhile; Malformed for a file that holds no new reading, and whatever
    training raises.
    """
    parameters = load_parameters(workspace)
    contract = load_contract(workspace.contract_path)
    with disk.explained(), _alone(workspace):
        paths = _in_order(workspace, contract, [*files] or _waiting(workspace))
        if not paths:
            return None
        with workspace.locked():
            base = ingested_files(workspace)
            challenging, found = take_in(workspace, contract, paths, base, progress=progress)
        if challenging == base:
            _put_away(workspace, paths, base)
            return None
        with tracking.paused():  # until the proposal is written
            run = _train(workspace, challenging)
        comparison = _compare(workspace, run, parameters.gates, progress)
        proposal = Proposal(run, _page_of(workspace, run), comparison, tuple(facts for facts, _ in found))
        with workspace.locked():
            if ingested_files(workspace) != base:
                raise PreflightFailed(
                    "readings were ingested while this ran; nothing was proposed, and new files stay where they are. "
                    "DO: axlebox refresh"
                )
            _write(proposal)
            write_current(workspace, challenging)
            _put_away(workspace, paths, challenging)
            try:
                tracking.record(workspace, parameters, run)
            except tracking.NotIndexed as error:
                return replace(proposal, not_indexed=error)
    return proposal


@contextlib.contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One refresh at a time. The workspace's own lock is free in between: people may work."""
    disk.make_folder(workspace.inbox)
    with open(workspace.inbox / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreflightFailed(f"another axlebox refresh is at work in {workspace.root}") from error
        yield


def _waiting(workspace: Workspace) -> list[Path]:
    return [
        path
        for path in workspace.inbox.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _UNFINISHED
    ]


def _in_order(workspace: Workspace, contract: Contract, paths: Sequence[Path]) -> list[Path]:
    """Oldest reading first; of files with the same content the first by name."""
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path} is not a file")
    different = {sha256_of(path): path for path in sorted(paths, reverse=True)}
    return sorted(different.values(), key=lambda path: (first_time(workspace, contract, path), path.name))


def _train(workspace: Workspace, files: tuple[StoredFile, ...]) -> Run:
    """A training on readings that current.json does not name yet."""
    path = workspace.root / "data" / "02_intermediate" / "challenger.json"
    disk.make_folder(path.parent)
    disk.replace_durable(path, encode(Current(files)))
    return train(workspace, {}, path)


def _compare(workspace: Workspace, run: Run, settings: GateParameters, progress: Progress) -> Comparison:
    unequal = prove(workspace, run)
    if champion(workspace) is not None:
        # A champion that cannot be read is a gate that cannot be judged, and no reason to lose the training.
        with contextlib.suppress(AxleboxError):
            return compare(workspace, open_named(workspace, "champion"), run, settings, unequal, progress)
    return compare(workspace, None, run, settings, unequal, progress)


def _put_away(workspace: Workspace, paths: Sequence[Path], files: tuple[StoredFile, ...]) -> None:
    """Move what was taken in out of the inbox; a file that has grown since, or lies elsewhere, stays."""
    taken = {one.sha256 for one in files}
    for path in paths:
        if path.parent.resolve() == workspace.inbox.resolve() and (digest := sha256_of(path)) in taken:
            target = workspace.inbox / TAKEN / path.name
            disk.make_folder(target.parent)
            if target.exists():
                target = target.with_name(f"{digest[:12]}-{path.name}")
            os.replace(path, target)


def _page_of(workspace: Workspace, run: Run) -> Path:
    return workspace.proposals / f"{run.folder.name}.md"


def _write(proposal: Proposal) -> None:
    page = [*_beginning(proposal), *blocks(proposal.comparison)]
    write_gates(proposal.run, proposal.comparison.gates)
    write_report(proposal.run.folder)  # with the gates' verdicts
    disk.make_folder(proposal.page.parent)
    told = msgspec.json.format(msgspec.json.encode(proposal.plain()), indent=1)
    title = f"axlebox: proposal {proposal.run.folder.name}"
    disk.replace_durable(proposal.page.with_suffix(".json"), told)
    disk.replace_durable(proposal.page.with_suffix(".html"), pages.html(title, page).encode())
    disk.replace_durable(proposal.page, pages.markdown(page).encode())


def _beginning(proposal: Proposal) -> Iterator[Block]:
    name, found = proposal.run.folder.name, proposal.comparison
    place = NO_CHAMPION if found.champion is None else f"the champion is {found.champion}"
    yield Heading(f"Proposal: run {name}", 1)
    if proposal.stopping:
        yield Text(f"It should NOT be promoted, for the reasons below; {place}.")
    else:
        yield Text(f"It may be promoted by a person who has looked at it; {place}.")
    yield Heading("Reasons")
    yield Bullets(tuple(_reasons(found.gates)))
    yield Heading("New readings")
    yield Table(
        ("file", "readings", "not used", "from", "to"),
        tuple(
            (one.name, f"{one.rows:,}", f"{_unused(one):,}", format_time(one.first), format_time(one.last))
            for one in proposal.files
        ),
    )
    yield Heading("What a person does next")
    yield Text(f"Look at this page and at runs/{name}/report.html. Nothing was exported, signed or promoted.")
    if proposal.stopping:
        yield Text(
            "axlebox export refuses this run with 50. Train on other readings or settings, or, where you know better, "
            "overrule a gate: axlebox export --accept-gate NAME"
        )
    yield Commands(tuple(_next(name)))


def _reasons(gates: Sequence[GateResult]) -> list[str]:
    return [str(one) for one in gates if one.verdict != NOT_ASKED]


def _unused(facts: FileFacts) -> int:
    return facts.invalid + sum(facts.held_back.values())


def _next(run: str) -> list[str]:
    return [
        f"axlebox compare champion {run}",
        f"axlebox export {run}",
        "axlebox approve dist/NAME-VERSION.axb --key KEY",
        f"axlebox runs promote {run}",
    ]
