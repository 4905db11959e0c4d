"""The commands of axlebox that work on readings and runs; each a thin door to `axlebox.training`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.readings import format_time

if TYPE_CHECKING:
    from axlebox.training.readings import FileFacts, Invalid

_SHOWN_INVALID = 5


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--with-pipelines", is_flag=True, help="With a package for Kedro pipelines and feature sets of your own.")
@json_option
def init(folder: Path, with_pipelines: bool, as_json: bool) -> None:
    """Write a workspace into DIR, which must not exist or be empty."""
    from axlebox.training.workspace import init_workspace

    workspace = init_workspace(folder, with_pipelines)
    show(
        {"workspace": str(workspace.root)},
        as_json,
        f"workspace {workspace.root}",
        f"next: cd {shlex.quote(str(workspace.root))} && axlebox ingest FILE",
    )


@click.command()
@click.argument("out", metavar="OUT.csv", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--vehicles", type=click.IntRange(1, 1000), default=2, show_default=True)
@click.option("--bearings", type=click.IntRange(1, 64), default=4, show_default=True, help="Siblings on each vehicle.")
@click.option("--days", type=click.IntRange(1, 3650), default=14, show_default=True)
@click.option("--period", "period_s", type=click.IntRange(1, 86400), default=300, show_default=True, help="Seconds.")
@click.option("--faults", type=click.IntRange(0, 1000), default=6, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@json_option
def simulate(out: Path, as_json: bool, **settings: int) -> None:
    """Write simulated readings to OUT.csv and the injected faults to OUT.labels.csv."""
    from axlebox.training.progress import on_terminal
    from axlebox.training.simulate import Fleet
    from axlebox.training.simulate import simulate as make

    count, labels = make(out, Fleet(**settings), on_terminal())
    show(
        {"readings": count, "file": str(out), "labels": [asdict(label) for label in labels]},
        as_json,
        f"{count} readings in {out}",
        f"{len(labels)} faults in {out.with_suffix('.labels.csv')}",
    )


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--add", is_flag=True, help="Behind the files that training reads already, not in their place.")
@click.option("--format", "format_", metavar="NAME", help="A description in conf/base/catalog.yml, or a reader.")
@json_option
def ingest(files: tuple[Path, ...], add: bool, format_: str | None, as_json: bool) -> None:
    """Check FILES, keep copies named by their content, and make them what training reads."""
    from axlebox.training.contract import load_contract
    from axlebox.training.progress import on_terminal
    from axlebox.training.readings import ingest as take_in
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    contract = load_contract(workspace.contract_path)
    found = take_in(workspace, contract, files, add=add, format=format_, progress=on_terminal())
    lines = [line for facts, invalid in found for line in _facts_in_words(facts, invalid)]
    lines += [f"{name}: is there already" for name in found.left_out]
    for kind, suggestion in found.suggestions.items():
        lines += _suggestion_in_words(kind, contract.kinds[kind].unit, suggestion)
    record = [{**asdict(facts), "invalid_lines": [(one.line, one.reason) for one in bad]} for facts, bad in found]
    show(
        {"files": record, "left_out": found.left_out, "suggestions": found.suggestions},
        as_json,
        *lines,
    )


def _facts_in_words(facts: FileFacts, invalid: Sequence[Invalid]) -> Iterator[str]:
    period = f"every {facts.period_s:g} s" if facts.period_s else "no period"
    header = f", {'a header' if facts.header else 'no header'}" if facts.format == "csv" else ""
    yield (
        f"{facts.name}: {facts.rows} rows, {facts.format}{header}, "
        f"{facts.sensors} sensor{'s' if facts.sensors > 1 else ''}, {facts.lowest:g} to {facts.highest:g}"
    )
    if facts.guessed:
        yield f"  taken: {'; '.join(facts.guessed)}"
    yield (
        f"  {format_time(facts.first)} to {format_time(facts.last)}, {period}, {facts.gaps} gaps, "
        f"longest stuck run {facts.longest_stuck}, {facts.invalid} invalid, {facts.replaced} replaced"
        + "".join(f", {count} {status}" for status, count in facts.held_back.items())
    )
    for one in invalid[:_SHOWN_INVALID]:
        yield f"  {one.status} line {one.line}: {one.reason}"
    unused = facts.invalid + sum(facts.held_back.values())
    if unused > _SHOWN_INVALID:
        yield f"  and {unused - _SHOWN_INVALID} more lines, not used for training"


def _suggestion_in_words(kind: str, unit: str, suggestion: Mapping[str, Any]) -> Iterator[str]:
    """What a person may write into the contract; nothing where all of it is set."""
    settings = dict(suggestion["set"])
    if settings:
        words = ", ".join(f"{name}: {value:g}" for name, value in settings.items())
        yield f"suggested for kind {kind} in conf/base/contract.yml, and not set: {words}"
    if settings or not suggestion["has_range"]:
        yield (
            f"  seen: {suggestion['lowest']:g} to {suggestion['highest']:g} {unit} (range is the sensor's own, "
            f"from its data sheet), the same value for at most {suggestion['longest_rest_s']:g} s"
        )


@click.command()
@click.option(
    "--params", multiple=True, metavar="K=V[,K=V...]", help="Override parameters.yml, as in forest.n_estimators=50."
)
@json_option
def train(params: tuple[str, ...], as_json: bool) -> None:
    """Run the four pipelines, as `kedro run` does, and record the run."""
    from axlebox.training.run import parse_params
    from axlebox.training.run import train as run_pipelines
    from axlebox.training.summary import detector_rows
    from axlebox.training.tracking import NotIndexed
    from axlebox.training.workspace import find_workspace

    behind = None
    try:
        run = run_pipelines(find_workspace(Path.cwd()), parse_params(params))
    except NotIndexed as error:
        if error.run is None:
            raise
        run, behind = error.run, error
    record = run.record()
    facts = record.evaluation
    rate = facts["flags_per_sensor_day"]
    show(
        {"run": record.lineage.run, "report": str(run.folder / "report.html"), **facts},
        as_json,
        f"run {record.lineage.run}: trained on {facts['train_readings']}, held out {facts['test_readings']} readings",
        f"  {facts['flags']} flagged" + (f" ({rate:.1f} a sensor-day)" if rate else "") + f", {facts['events']} events",
        *(f"  {name}: {text}" for kind, one in facts["detectors"].items() for name, text in detector_rows(kind, one)),
        *(f"  NO READINGS of kind {one}: no detector" for one in facts["kinds_without_detector"]),
        f"  report {run.folder / 'report.html'}",
    )
    if behind is not None:
        raise behind
