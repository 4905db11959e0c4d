"""The commands of axlebox that work on readings and runs; each a thin door to `axlebox.training`."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import click

from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.readings import format_time

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
@json_option
def ingest(files: tuple[Path, ...], as_json: bool) -> None:
    """Check FILES, keep copies named by their content, and make them what training reads."""
    from axlebox.training.contract import load_contract
    from axlebox.training.readings import ingest as take_in
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    found = take_in(workspace, load_contract(workspace.contract_path), files)
    lines = []
    for facts, invalid in found:
        period = f"every {facts.period_s:g} s" if facts.period_s else "no period"
        lines += [
            f"{facts.name}: {facts.rows} rows, {facts.format}, {'a header' if facts.header else 'no header'}, "
            f"{facts.sensors} sensor{'s' if facts.sensors > 1 else ''}, {facts.lowest:g} to {facts.highest:g}",
            f"  {format_time(facts.first)} to {format_time(facts.last)}, {period}, {facts.gaps} gaps, "
            f"longest stuck run {facts.longest_stuck}, {facts.invalid} invalid, {facts.replaced} replaced"
            + "".join(f", {count} {status}" for status, count in facts.held_back.items()),
        ]
        lines += [f"  {one.status} line {one.line}: {one.reason}" for one in invalid[:_SHOWN_INVALID]]
        if len(invalid) > _SHOWN_INVALID:
            lines.append(f"  and {len(invalid) - _SHOWN_INVALID} more lines, not used for training")
    record = [{**asdict(facts), "invalid_lines": [(one.line, one.reason) for one in bad]} for facts, bad in found]
    show({"files": record}, as_json, *lines)


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
