"""The commands of axlebox that lead from a release back to what it was made from."""

from __future__ import annotations

from pathlib import Path

import click

from axlebox.export.key_commands import BUNDLE_FILE, trust_option
from axlebox.firmware_bundle.errors import Damaged
from axlebox.runtime.commandline import json_option, printable, show


@click.command()
@click.argument("what", metavar="EVENT_ID|BUNDLE|RUN")
@trust_option
@json_option
def trace(what: str, trust: Path | None, as_json: bool) -> None:
    """From an event, a bundle or a run back to release, run, data, settings, code and versions.

    Exit 2 where it is unknown here, 12 where a copy of the data, the bundle or the run is not what
    was recorded. What is merely not here any more is told, and no error.
    """
    from axlebox.export.trace import trace as find
    from axlebox.training.workspace import find_workspace

    found = find(find_workspace(Path.cwd()), what, trust)
    show({**found.record, "damaged": found.damaged}, as_json, *found.lines)
    if found.damaged:
        raise Damaged(f"not what was recorded: {', '.join(found.damaged)}")


@click.command()
@click.argument("bundle", type=BUNDLE_FILE)
@trust_option
@json_option
def reproduce(bundle: Path, trust: Path | None, as_json: bool) -> None:
    """Train and export BUNDLE again, from its record and the copies of its data, and compare every byte.

    Exit 50 where one differs, with the input that changed. The workspace is only read.
    """
    from axlebox.export.open import open_proposal
    from axlebox.export.reproduce import describe, require_identical
    from axlebox.export.reproduce import reproduce as make_again
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    found = make_again(
        workspace,
        open_proposal(bundle, trust),
        say=lambda line: None if as_json else click.echo(printable(line)),
    )
    record, lines = describe(found)
    show(record, as_json, *lines)
    require_identical(found)
