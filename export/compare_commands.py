"""`axlebox compare` and `axlebox refresh`: thin doors to compare and refresh."""

from __future__ import annotations

from pathlib import Path

import click

from axlebox.runtime.commandline import json_option, show

_OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--html", "html_file", type=_OUTPUT, help="Also write the comparison as a page that needs no network.")
@click.option("--markdown", "markdown_file", type=_OUTPUT, help="Also write it in Markdown, for a pull request.")
@click.option("--prove", is_flag=True, help="First prove B's models equal to scikit-learn, as export does.")
@click.option("--require-gates", is_flag=True, help="Exit 50 where B would not pass the gates.")
@json_option
def compare(  # noqa: PLR0913  one for each option
    before: str,
    after: str,
    html_file: Path | None,
    markdown_file: Path | None,
    prove: bool,
    require_gates: bool,
    as_json: bool,
) -> None:
    """Show run B beside run A: what differs, and both on the same readings with the same faults in them.

    A and B are ids of runs, `latest` or `champion`. Without a champion, B is shown alone.
    """
    from axlebox.export import pages
    from axlebox.export.compare import blocks, open_pair
    from axlebox.export.compare import compare as compare_runs
    from axlebox.export.compare import prove as prove_equal
    from axlebox.firmware_bundle import disk
    from axlebox.training.gates import require_gates as require
    from axlebox.training.progress import on_terminal
    from axlebox.training.run import load_parameters
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    settings = load_parameters(workspace).gates
    one, two = open_pair(workspace, before, after)
    unequal = prove_equal(workspace, two) if prove else None
    found = compare_runs(workspace, one, two, settings, unequal, on_terminal())
    page = blocks(found)
    with disk.explained():
        if html_file is not None:
            disk.replace_durable(html_file, pages.html(f"axlebox: run {two.folder.name}", page).encode())
        if markdown_file is not None:
            disk.replace_durable(markdown_file, pages.markdown(page).encode())
    show(found.plain(), as_json, *pages.terminal(page))
    if require_gates:
        require(found.gates)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--quiet", is_flag=True, help="Say nothing where nothing is new.")
@json_option
def refresh(files: tuple[Path, ...], quiet: bool, as_json: bool) -> None:
    """Take in FILES (by default those in data/00_inbox), train a challenger, and write a proposal for people.

    Safe to run from cron: it never exports, signs or promotes. Exit 50 where the challenger does
    not pass a gate; the proposal says why.
    """
    from axlebox.export.refresh import refresh as run_refresh
    from axlebox.firmware_bundle.errors import GateFailed
    from axlebox.training.progress import on_terminal
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    made = run_refresh(workspace, files, on_terminal())
    if made is None:
        if as_json or not quiet:
            show({"run": None}, as_json, f"nothing new{'' if files else f' in {workspace.inbox}'}")
        return
    show(made.plain(), as_json, *([] if made.stopping else [made.line()]))
    if made.not_indexed is not None:
        raise made.not_indexed
    if made.stopping:
        raise GateFailed(made.line())
