"""champions.jsonl: the run that others are measured against. Only people write it: nothing promotes itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from axlebox.training.files import append_line, read_lines
from axlebox.training.provenance import who
from axlebox.training.runs import open_run
from axlebox.training.workspace import Workspace

CHAMPION, CHALLENGER = "champion", "challenger"


class Promotion(Struct, frozen=True, forbid_unknown_fields=True):
    """A line of champions.jsonl: from here on this run is the champion."""

    run: str
    promoted: datetime
    by: str
    reason: str


def read_promotions(workspace: Workspace) -> list[Promotion]:
    """Oldest first. Raises Malformed."""
    return read_lines(workspace.champions, Promotion)


def champion(workspace: Workspace) -> str | None:
    """The RUN that is champion now."""
    promotions = read_promotions(workspace)
    return promotions[-1].run if promotions else None


def promote(workspace: Workspace, run: str, reason: str) -> Promotion:
    """Make a run the champion; the earlier ones stay on record. Raises UsageError where there is no such run."""
    with workspace.locked():
        found = open_run(workspace.runs, run)
        made = Promotion(found.folder.name, datetime.now(UTC), who(), reason)
        append_line(workspace.champions, made)
    return made


def roles(workspace: Workspace, proved: Sequence[str]) -> dict[str, str]:
    """Who is `champion` and who `challenger`, by RUN: the newest proved run that is not the champion.

    `proved` are runs with a proved model, oldest first. Raises Malformed.
    """
    best = champion(workspace)
    found = {} if best is None else {best: CHAMPION}
    others = [run for run in proved if run != best]
    return {**found, others[-1]: CHALLENGER} if others else found
