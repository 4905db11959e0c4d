"""`axlebox compare`: two runs side by side, on the same readings and the same injected faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from axlebox.export.build import prove_run
from axlebox.export.changes import Change, changed, flat
from axlebox.export.pages import Block, Bullets, Heading, Table, Text
from axlebox.firmware_bundle.errors import GateFailed, UsageError
from axlebox.runtime.readings import format_time
from axlebox.training.champion import CHAMPION, champion
from axlebox.training.faults import FAULTS
from axlebox.training.gates import GateResult, check_gates
from axlebox.training.judging import Figures, Judgement, KindJudgement, judge
from axlebox.training.parameters import GateParameters
from axlebox.training.runs import LATEST, Run, RunRecord, open_run
from axlebox.training.series import Progress, silent
from axlebox.training.summary import span_of_time
from axlebox.training.workspace import Workspace

NO_CHAMPION = "there is no champion yet"
_SHOWN_CHANGES = 40
_SHOWN_FLAGS = 10
_SHOWN_VALUE = 60
_SHOWN_HASH = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run, perhaps beside another that it is measured against."""

    before: Run | None
    """None: there is no champion yet."""
    after: Run
    champion: str | None
    differences: dict[str, tuple[Change, ...]]
    """By what it is that differs: parameters, contract, data, code, versions."""
    judgement: Judgement
    gates: tuple[GateResult, ...]
    """Of `after`."""

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.after,) if self.before is None else (self.before, self.after)

    def plain(self) -> dict[str, Any]:
        return {
            "before": None if self.before is None else self.before.folder.name,
            "after": self.after.folder.name,
            "champion": self.champion,
            "differences": msgspec.to_builtins(self.differences),
            "judgement": msgspec.to_builtins(self.judgement),
            "gates": msgspec.to_builtins(self.gates),
        }


def open_named(workspace: Workspace, name: str) -> Run | None:
    """A run by its id, or `latest` or `champion`; None where there is no champion yet. Raises UsageError."""
    if name != CHAMPION:
        return open_run(workspace.runs, None if name == LATEST else name)
    found = champion(workspace)
    return None if found is None else open_run(workspace.runs, found)


def open_pair(workspace: Workspace, before: str, after: str) -> tuple[Run | None, Run]:
    """Both runs; without a champion there is nothing to stand before the other one. Raises UsageError."""
    one, two = open_named(workspace, before), open_named(workspace, after)
    if two is None:
        one, two = None, one
    if two is None:
        raise UsageError(f"{NO_CHAMPION}. DO: axlebox runs promote RUN")
    return one, two


def prove(workspace: Workspace, run: Run) -> str | None:
    """Prove a run's models equal to scikit-learn, as an export does; returns why they are not."""
    with workspace.locked():
        try:
            prove_run(run, say=lambda line: None)
        except GateFailed as error:
            return str(error)
    return None


def compare(
    workspace: Workspace,
    before: Run | None,
    after: Run,
    settings: GateParameters,
    unequal: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Both runs side by side, and the gates of `after`; `unequal` says why its proof of parity has just failed."""
    judgement = judge([after] if before is None else [before, after], progress)
    return Comparison(
        before,
        after,
        champion(workspace),
        {} if before is None else _differences(before, after),
        judgement,
        tuple(check_gates(workspace, after, settings, judgement, unequal)),
    )


def blocks(found: Comparison) -> list[Block]:
    """The comparison as a page."""
    return [
        *_beginning(found),
        *(_changes_of(found) if found.before is not None else []),
        *_figures(found),
        *(_flags(found.judgement) if found.before is not None else []),
        Heading(f"Gates of {_name(found, found.after)}"),
        gates_table(found.gates),
    ]


def gates_table(gates: Sequence[GateResult]) -> Table:
    return Table(
        ("gate", "verdict", "reason"),
        tuple((one.name, one.verdict + (", accepted" if one.accepted else ""), one.reason) for one in gates),
    )


def _name(found: Comparison, run: Run) -> str:
    name = run.folder.name
    return f"{name} ({CHAMPION})" if name == found.champion else name


def _beginning(found: Comparison) -> Iterator[Block]:
    names = [_name(found, run) for run in found.runs]
    yield Heading(f"axlebox: run {' and run '.join(names)}", 1)
    if found.champion is None:
        yield Text(f"{NO_CHAMPION.capitalize()}. A person makes one: axlebox runs promote RUN")
    records = [run.record() for run in found.runs]
    until = found.judgement.trained_until
    yield Table(
        ("", *names),
        (
            ("made", *(f"{one.created:%Y-%m-%d %H:%M} UTC by {one.created_by}" for one in records)),
            ("trained on", *(_trained_on(one) for one in records)),
            ("readings up to", *map(format_time, until)),
            ("detectors", *(_detectors(one) for one in records)),
        ),
    )


def _trained_on(record: RunRecord) -> str:
    files = len(record.lineage.data)
    return f"{record.evaluation['train_readings']:,} readings of {files} file{'' if files == 1 else 's'}"


def _detectors(record: RunRecord) -> str:
    return ", ".join(f"{kind}: {one['feature_set']}" for kind, one in record.evaluation["detectors"].items())


def _differences(before: Run, after: Run) -> dict[str, tuple[Change, ...]]:
    one, two = (run.record().lineage for run in (before, after))
    contracts = [dict(flat("", msgspec.to_builtins(run.detector().contract))) for run in (before, after)]
    codes = [{"axlebox": line.code.axlebox, "source": line.code.source_sha256} for line in (one, two)]
    return {
        "parameters": changed(dict(flat("", one.parameters)), dict(flat("", two.parameters))),
        "contract": changed(*contracts),
        "data": changed(*({file.sha256: file.name for file in line.data} for line in (one, two))),
        "code": changed(*codes),
        "versions": changed(one.versions, two.versions),
    }


def _changes_of(found: Comparison) -> Iterator[Block]:
    yield Heading("What differs")
    rows = [(title, *_told(title, change)) for title, several in found.differences.items() for change in several]
    if rows:
        yield Table(("", "", *(run.folder.name for run in found.runs)), tuple(rows[:_SHOWN_CHANGES]))
        if len(rows) > _SHOWN_CHANGES:
            yield Text(f"and {len(rows) - _SHOWN_CHANGES} more, in --json")
    same = [title for title, several in found.differences.items() if not several]
    if same:
        yield Text(f"No difference in {', '.join(same)}.")


def _told(title: str, change: Change) -> tuple[str, str, str]:
    name = f"sha256 {change.name[:_SHOWN_HASH]}" if title == "data" else change.name
    before, after = ((one or "none")[:_SHOWN_VALUE] for one in (change.before, change.after))
    return name, before, after


def _figures(found: Comparison) -> Iterator[Block]:
    judged = found.judgement
    yield Heading("On the same readings, with the same faults in them")
    if judged.problem is not None:
        yield Text(f"They cannot be compared: {judged.problem}.")
        return
    until = "" if judged.until is None else f" to {format_time(judged.until)}"
    yield Text(
        f"Readings that none was trained on: held out by {judged.readings_of}, later than "
        f"{format_time(judged.since)}{until}. Each run begins with empty state; only time past every warm-up counts."
    )
    for kind, missing in judged.without_detector.items():
        yield Text(f"NO DETECTOR for {kind} in {', '.join(missing)}: this kind cannot be compared.")
    for one in judged.kinds:
        yield _kind_table(found, one)
        if not one.exposure_sensor_days:
            yield Text(f"{one.kind}: NOTHING HELD OUT is past the warm-up, false alarms cannot be compared.")
        if not any(figures.faults for figures in one.figures):
            yield Text(f"{one.kind}: TOO LITTLE WAS HELD OUT to put faults into it.")


def _kind_table(found: Comparison, one: KindJudgement) -> Table:
    figures = one.figures
    rows: list[tuple[str, ...]] = [
        ("watched", *(f"{one.exposure_sensor_days:.1f} sensor-days" for _ in figures)),
        ("flagged readings", *(f"{each.flags:,}" for each in figures)),
        ("events near the threshold", *(str(each.near_events) for each in figures)),
        ("  a sensor-day, with 95 %", *map(_bounds, figures)),
        ("events far beyond it", *(str(each.far_events) for each in figures)),
    ]
    if len(figures) > 1:
        rows.append(("events that only it raises", *(str(each.events_alone) for each in figures)))
    rows += [
        ("injected faults caught", *(f"{each.caught} of {each.should_alarm}" for each in figures)),
        ("  median delay where all caught", *(_delay(each.delay_s) for each in figures)),
    ]
    for name in figures[-1].faults:
        rows.append(
            (
                f"  {name}: {FAULTS[name].what}" if name in FAULTS else f"  {name}",
                *(_fault(each, name) for each in figures),
            )
        )
    return Table((one.kind, *(_name(found, run) for run in found.runs)), tuple(rows))


def _bounds(one: Figures) -> str:
    if one.most_per_sensor_day is None:
        return "nothing to tell from"
    return f"{one.least_per_sensor_day:.3g} to {one.most_per_sensor_day:.3g}"


def _fault(figures: Figures, name: str) -> str:
    one = figures.faults[name]
    if not one.alarms:
        return f"{one.raised} of {one.trials}, none should be"
    return f"{one.raised} of {one.trials}" + (f", {_delay(one.delay_s)}" if one.raised else "")


def _delay(seconds: float | None) -> str:
    return "none" if seconds is None else "at once" if not seconds else f"after {span_of_time(seconds)}"


def _flags(judged: Judgement) -> Iterator[Block]:
    if judged.problem is not None:
        return
    gained, lost = judged.flags_gained, judged.flags_lost
    yield Heading(f"Flags: {len(gained)} gained, {len(lost)} lost from {judged.runs[0]} to {judged.runs[-1]}")
    for title, some in (("gained", gained), ("lost", lost)):
        more = (f"and {len(some) - _SHOWN_FLAGS} more {title}",) if len(some) > _SHOWN_FLAGS else ()
        if some:
            yield Bullets((*(f"{title} {one}" for one in some[:_SHOWN_FLAGS]), *more))
