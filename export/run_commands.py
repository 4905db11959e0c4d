"""`axlebox runs`: the runs of a workspace, and MLflow's index of them."""

from __future__ import annotations

from pathlib import Path

import click

from axlebox.runtime.commandline import json_option, show

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def runs(ctx: click.Context, as_json: bool) -> None:
    """List the runs, newest last; with a command, look after them and MLflow's index."""
    if ctx.invoked_subcommand is not None:
        return
    import msgspec

    from axlebox.export.run_list import list_rows, table
    from axlebox.training.workspace import find_workspace

    rows, damaged = list_rows(find_workspace(Path.cwd()))
    lines = table(rows, damaged) if rows or damaged else ["no runs yet. DO: axlebox train"]
    show({"runs": msgspec.to_builtins(rows), "damaged": damaged}, as_json, *lines)


@runs.command()
@json_option
def reindex(as_json: bool) -> None:
    """Make MLflow's index anew from the folders in runs/."""
    from axlebox.training.run import load_parameters
    from axlebox.training.tracking import reindex as make_anew
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    done = make_anew(workspace, load_parameters(workspace))
    lines = [f"indexed {done.runs} runs and {done.versions} model versions"]
    lines += [f"  left out, not readable: {name}" for name in done.unreadable]
    lines += [f"  the damaged store is now {done.set_aside}"] if done.set_aside else []
    record = {"runs": done.runs, "versions": done.versions, "unreadable": done.unreadable, "set_aside": done.set_aside}
    show(record, as_json, *lines)


@runs.command()
@click.argument("run")
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept in champions.jsonl.")
@json_option
def promote(run: str, reason: str, as_json: bool) -> None:
    """Make RUN the champion, which others are measured against."""
    from axlebox.training import champion, tracking
    from axlebox.training.run import load_parameters
    from axlebox.training.runs import open_run
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    parameters = load_parameters(workspace)
    with workspace.locked():
        tracking.check_index(workspace, parameters)
    before = champion.champion(workspace)
    made = champion.promote(workspace, run, reason)
    lines = [f"champion {made.run}" + (f", before it {before}" if before not in (None, made.run) else "")]
    if open_run(workspace.runs, made.run).parity() is None:
        lines.append("  its model is not proved yet, so that MLflow has none to show. DO: axlebox export " + made.run)
    show({"champion": made.run, "before": before, "by": made.by, "reason": made.reason}, as_json, *lines)
    with workspace.locked():
        tracking.record(workspace, parameters)


@runs.command("export")
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=_FILE, help="File to write; it must not exist.")
@click.option("--with-data", is_flag=True, help="Also the copies of the data that they were trained on.")
@json_option
def export_(names: tuple[str, ...], output: Path, with_data: bool, as_json: bool) -> None:
    """Write runs into one file for another machine; equal runs give equal bytes."""
    from axlebox.training.archive import export_runs
    from axlebox.training.workspace import find_workspace

    done = export_runs(find_workspace(Path.cwd()), names, output, with_data)
    show(
        {"file": str(output), "runs": done.runs, "files": done.files, "bytes": done.bytes},
        as_json,
        f"{len(done.runs)} runs, {done.files} files in {output} ({done.bytes} bytes)",
    )


@runs.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def import_(file: Path, as_json: bool) -> None:
    """Take runs out of FILE, every byte compared with its sha256 before anything is written."""
    from axlebox.training import tracking
    from axlebox.training.archive import import_runs
    from axlebox.training.run import load_parameters
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    parameters = load_parameters(workspace)
    with workspace.locked():
        tracking.check_index(workspace, parameters)
    done = import_runs(workspace, file)
    lines = [f"run {run} imported" for run in done.new] + [f"run {run} was here already" for run in done.known]
    lines += [f"data {name} imported" for name in done.data]
    show({"new": done.new, "known": done.known, "data": done.data}, as_json, *lines)
    if done.new:
        with workspace.locked():
            tracking.record(workspace, parameters)
