"""`axleboxd run` and `check-config`. Loads neither tuf nor cryptography: the release was verified when installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from axlebox.firmware_bundle.errors import AxleboxError, NoData
from axlebox.firmware_bundle.vehicle import Vehicle
from axlebox.runtime import log
from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.config import Config, load_config, parse_settings
from axlebox.runtime.daemon import summary
from axlebox.runtime.options import config_option, data_option
from axlebox.runtime.privilege import become_owner, user_name
from axlebox.runtime.service import check, serve
from axlebox.runtime.signals import Signals
from axlebox.runtime.sinks import KNOWN as SINKS
from axlebox.runtime.sources import KNOWN as SOURCES

source_option = click.option("--source", help=f"One of {SOURCES}; by default the configuration's, stdin:.")
sink_option = click.option(
    "--sink", "sinks", multiple=True, help=f"{SINKS}; repeatable; by default the configuration's, stdout:."
)
readings_option = click.option(
    "--readings", "with_readings", is_flag=True, help="Also write one line for every reading."
)
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting, as in can.channel=can1; repeatable."
)


def _overrides(
    source: str | None, sinks: tuple[str, ...], with_readings: bool, settings: tuple[str, ...]
) -> dict[str, Any]:
    found = parse_settings(settings)
    if source is not None:
        found["source"] = source
    if sinks:
        found["sinks"] = list(sinks)
    if with_readings:
        found["readings"] = True
    return found


@click.command()
@source_option
@sink_option
@readings_option
@set_option
@click.option("--fresh", is_flag=True, help="Begin with empty state, as if no reading had ever come.")
@config_option
@data_option
def run(  # noqa: PLR0913
    source: str | None,
    sinks: tuple[str, ...],
    with_readings: bool,
    settings: tuple[str, ...],
    fresh: bool,
    config: Path | None,
    data: Path,
) -> None:
    """Score every reading of a source and write events as JSON lines.

    Ends with the source, or on SIGTERM once everything that was read is answered; SIGHUP reads the
    configuration again. A summary goes to stderr. Readings are CSV (time,value or time,sensor,value)
    or JSON lines. What is known of the sensors is kept across restarts. A release that is installed
    meanwhile is taken over between two readings.
    """
    signals = Signals()
    user = user_name()
    vehicle = Vehicle.open(data)
    become_owner(data)
    overrides = _overrides(source, sinks, with_readings, settings)

    def reread() -> Config:
        return load_config(data, config, overrides)

    found = reread()
    log.set_up(found.log)
    totals = serve(vehicle, found, reread, signals, user, fresh)
    for line in summary(totals):
        log.info(line)
    if totals.lost:
        raise AxleboxError("; ".join(totals.lost))
    if totals.readings == totals.invalid and not signals.stop:
        hint = ". DO: --fresh, if they are of an earlier time than what came before" if totals.restored else ""
        raise NoData(f"source {found.source} ended without one good reading{hint}")


@click.command(name="check-config")
@source_option
@sink_option
@readings_option
@set_option
@config_option
@data_option
@json_option
def check_config(  # noqa: PLR0913
    source: str | None,
    sinks: tuple[str, ...],
    with_readings: bool,
    settings: tuple[str, ...],
    config: Path | None,
    data: Path,
    as_json: bool,
) -> None:
    """Check the configuration as `run` would, and change nothing: 0 where it can be used, else 2."""
    found = load_config(data, config, _overrides(source, sinks, with_readings, settings))
    check(Vehicle.open(data), found, Signals())
    words = f"good: source {found.source}, sinks {', '.join(found.sinks)}"
    show({"config": msgspec.to_builtins(found)}, as_json, words)
