"""Options that several commands of axleboxd share; apart from them, since the daemon loads only what it needs."""

from __future__ import annotations

from pathlib import Path

import click

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/axlebox"),
    envvar="AXLEBOX_DATA",
    show_default=True,
    help="The data folder; also AXLEBOX_DATA.",
)

config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The vehicle's configuration; by default config.toml in the data folder.",
)
stick_option = click.option(
    "--stick",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A stick that the receipt is laid on too.",
)
