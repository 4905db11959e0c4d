"""`axleboxd lamp-on`: what the service calls at its end, also where the daemon was killed."""

from __future__ import annotations

from pathlib import Path

import click

from axlebox.runtime.config import LampSettings
from axlebox.runtime.sinks.lamp import Lamp


@click.command(name="lamp-on")
@click.argument("lamp", type=click.Path(path_type=Path), metavar="PATH")
@click.option("--on", default="1", show_default=True, help="What is written, as lamp.on of the configuration.")
@click.option("--status-file", type=click.Path(path_type=Path), help="Takes the words, as lamp.status_file does.")
def lamp_on(lamp: Path, on: str, status_file: Path | None) -> None:
    """Switch the lamp PATH on: axlebox does not watch. The service does so at its end (ExecStopPost)."""
    # Everything stands in the words: at such a moment configuration and data folder may be what is broken.
    Lamp(lamp, LampSettings(on=on, status_file=None if status_file is None else str(status_file)))
