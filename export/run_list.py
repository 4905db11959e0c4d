"""The runs of a workspace as rows, from their folders alone: MLflow is not asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from axlebox.export.releases import read_releases
from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.training.champion import roles
from axlebox.training.run_figures import caught_share
from axlebox.training.runs import Run, run_folders
from axlebox.training.workspace import Workspace

_HEADINGS = ("RUN", "CREATED", "BY", "DATA", "ROWS", "EVENTS", "CAUGHT", "THRESHOLD", "COMMIT", "")
_WIDTHS = (12, 10, 7, 11, 5, 7, 6, 9, 8, 15)
"""At most so many characters each, 100 with the gaps."""
_RIGHT = {"ROWS", "EVENTS", "CAUGHT", "THRESHOLD"}
_THOUSANDS = ("", "k", "M", "G")


class Row(Struct, frozen=True):
    """What `axlebox runs` says of one run."""

    run: str
    created: datetime
    created_by: str
    data: tuple[str, ...]
    """Names of the files."""
    readings: int
    events: int
    near_events: int
    """Near the threshold, and so perhaps false."""
    far_events: int
    caught_share: float | None
    """Of the injected faults that should be caught."""
    thresholds: dict[str, float]
    """Of the score, by kind."""
    commit: str | None
    proved: bool
    """Whether its exported model was proved equal to the trained one."""
    role: str | None
    """champion or challenger."""
    releases: tuple[str, ...]
    """Versions that were exported from it, as NAME-VERSION."""


def list_rows(workspace: Workspace) -> tuple[list[Row], dict[str, str]]:
    """Every run, oldest first, and of the unreadable ones what is wrong, by name.

    Raises Malformed where releases.jsonl or champions.jsonl is not readable.
    """
    rows, damaged = [], {}
    releases: dict[str, list[str]] = {}
    for line in read_releases(workspace.releases):
        releases.setdefault(line.run, []).append(f"{line.name}-{line.version}")
    for folder in run_folders(workspace.runs):
        try:
            rows.append(_row(Run(folder), tuple(releases.get(folder.name, ()))))
        except (AxleboxError, LookupError, TypeError, AttributeError) as error:  # a record of another shape
            damaged[folder.name] = str(error)
    rows.sort(key=lambda row: (row.created, row.run))
    who = roles(workspace, [row.run for row in rows if row.proved])
    return [msgspec.structs.replace(row, role=who.get(row.run)) for row in rows], damaged


def table(rows: Sequence[Row], damaged: Mapping[str, str]) -> list[str]:
    """Lines for people, at most 100 characters wide, newest last."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    cut = [
        [text if len(text) <= most else text[: most - 1] + "~" for text, most in zip(line, _WIDTHS, strict=True)]
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    shown = [
        " ".join(
            text.rjust(width) if heading in _RIGHT else text.ljust(width)
            for text, width, heading in zip(line, widths, _HEADINGS, strict=True)
        ).rstrip()
        for line in cut
    ]
    return shown + [_damaged_line(name, reason) for name, reason in damaged.items()]


def _row(run: Run, releases: tuple[str, ...]) -> Row:
    record = run.record()
    facts, lineage = record.evaluation, record.lineage
    detectors: Mapping[str, Any] = facts["detectors"]
    return Row(
        run=run.folder.name,
        created=record.created,
        created_by=record.created_by,
        data=tuple(one.name for one in lineage.data),
        readings=int(facts["train_readings"]) + int(facts["test_readings"]),
        events=int(facts["events"]),
        near_events=sum(int(one.get("near_events", 0)) for one in detectors.values()),
        far_events=sum(int(one.get("far_events", 0)) for one in detectors.values()),
        caught_share=caught_share(facts),
        thresholds={kind: float(one["threshold"]) for kind, one in detectors.items()},
        commit=lineage.code.commit,
        proved=(run.folder / "parity.json").is_file() and any(run.folder.glob("*.onnx")),
        role=None,
        releases=releases,
    )


def _cells(row: Row) -> tuple[str, ...]:
    more = f"+{len(row.data) - 1}" if len(row.data) > 1 else ""
    name = row.data[0] if row.data else "-"
    room = _WIDTHS[3] - len(more)
    thresholds = list(row.thresholds.values())
    releases = ""
    if row.releases:
        releases = f"v{row.releases[-1].rpartition('-')[2]}" + ("+" if len(row.releases) > 1 else "")
    return (
        row.run,
        f"{row.created:%Y-%m-%d}",
        row.created_by,
        (name if len(name) <= room else name[: room - 1] + "~") + more,
        _short(row.readings),
        f"{row.near_events}+{row.far_events}" if row.near_events or row.far_events else str(row.events),
        "-" if row.caught_share is None else f"{row.caught_share:.0%}",
        (f"{thresholds[0]:.3f}" if thresholds else "-") + ("+" if len(thresholds) > 1 else ""),
        "-" if row.commit is None else row.commit[:7] + ("*" if row.commit.endswith("-dirty") else ""),
        " ".join(filter(None, (row.role, releases))),
    )


def _short(count: int) -> str:
    """At most five characters."""
    number, unit = float(count), 0
    while number >= 9999.5 if unit == 0 else number >= 999.5:
        number, unit = number / 1000, unit + 1
    return f"{number:.0f}{_THOUSANDS[unit]}" if number >= 100 or unit == 0 else f"{number:.1f}{_THOUSANDS[unit]}"


def _damaged_line(name: str, reason: str) -> str:
    return f"{name} DAMAGED: {' '.join(reason.split())}"
