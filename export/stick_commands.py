"""The commands of `axlebox stick`; thin doors to stick."""

from __future__ import annotations

from pathlib import Path

import click

from axlebox.export.key_commands import BUNDLE_FILE, trust_option
from axlebox.runtime.commandline import json_option, show

_FOLDER = click.Path(path_type=Path)


@click.group()
def stick() -> None:
    """Fill a stick with bundles for vehicles, and check one."""


@stick.command(short_help="Copy bundles to a stick, read them back, list them.")
@click.argument("folder", type=_FOLDER)
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=BUNDLE_FILE)
@click.option("--replace", is_flag=True, help="Then remove what the stick has of the same names for the same vehicles.")
@trust_option
@json_option
def prepare(folder: Path, bundles: tuple[Path, ...], replace: bool, trust: Path | None, as_json: bool) -> None:
    """Verify each BUNDLE, copy it to the stick mounted on FOLDER, read it back, and write CONTENTS.txt there.

    Nothing is written where a vehicle would refuse a bundle, or would find two that are for it.
    """
    from axlebox.export.signing import release_time
    from axlebox.export.stick import CONTENTS, hints
    from axlebox.export.stick import prepare as fill

    done = fill(folder, bundles, trust, release_time(), replace)
    notes = hints(folder, done.carried)
    record = {
        "folder": str(folder),
        "contents": str(folder / CONTENTS),
        "written": [one.facts() for one in done.written],
        "kept": [one.facts() for one in done.kept],
        "removed": done.removed,
        "notes": notes,
    }
    show(
        record,
        as_json,
        *(f"written   {one.verdict}, read back equal" for one in done.written),
        *(f"kept      {one.verdict}, there already" for one in done.kept),
        *(f"removed   {name}" for name in done.removed),
        f"listed    in {folder / CONTENTS}",
        *(f"note      {one}" for one in notes),
        "All of it is on the stick. Unmount the stick, then pull it.",
    )


@stick.command(short_help="Read a stick as a vehicle will; list every problem.")
@click.argument("folder", type=_FOLDER)
@trust_option
@json_option
def check(folder: Path, trust: Path | None, as_json: bool) -> None:
    """Read the stick mounted on FOLDER: its files against CONTENTS.txt, its bundles as a vehicle would.

    Every problem is listed; the exit code is the first one's.
    """
    from axlebox.export.stick import check as look

    found = look(folder, trust)
    record = {
        "folder": str(folder),
        "good": [one.facts() for one in found.good],
        "problems": [{"code": one.exit_code, "problem": str(one)} for one in found.problems],
        "notes": found.notes,
        "receipts": found.receipts,
    }
    count = len(found.receipts)
    show(
        record,
        as_json,
        *(f"good      {one.verdict}" for one in found.good),
        *(f"PROBLEM   {one} ({one.exit_code})" for one in found.problems),
        *(f"note      {one}" for one in found.notes),
        f"receipts  {count}{': ' if count else ''}{', '.join(found.receipts)}",
    )
    if found.problems:
        first, *others = found.problems
        raise type(first)(f"{first}{f'; {len(others)} more, all listed above' if others else ''}") from first
