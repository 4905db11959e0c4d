"""`axleboxd run`. Loads neither tuf nor cryptography: the release was verified when it was installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import click

from axlebox.firmware_bundle.errors import NoData, PreflightFailed, UsageError
from axlebox.firmware_bundle.install import Vehicle
from axlebox.runtime.commands import data_option
from axlebox.runtime.daemon import Daemon, Totals, summary
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.readings import LineReader
from axlebox.runtime.sinks import Sink, open_sink
from axlebox.runtime.sources import LineSource, StopSignal, open_source


@click.command()
@click.option("--source", default="stdin:", show_default=True, help="stdin: or file:PATH (replayed to its end).")
@click.option(
    "--sink", "sinks", multiple=True, default=("stdout:",), show_default=True, help="stdout: or file:PATH; repeatable."
)
@click.option("--readings", "with_readings", is_flag=True, help="Also write one line for every reading.")
@data_option
def run(source: str, sinks: tuple[str, ...], with_readings: bool, data: Path) -> None:
    """Score every reading of SOURCE and write events as JSON lines.

    Ends with the source, or on SIGTERM once everything that was read is answered. A summary goes
    to stderr. Readings are CSV (time,value or time,sensor,value) or JSON lines.
    """
    stop = StopSignal()
    vehicle = Vehicle.open(data)
    handle = open_source(source)
    for uri in sinks:
        if _is_file(handle, uri):
            raise UsageError(f"source {source} and sink {uri} are one file: it would never end")
        if uri.startswith("file:") and vehicle.owns(Path(uri.removeprefix("file:"))):
            raise UsageError(f"sink {uri} is one of the vehicle's own files. DO: name another file")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(open_sink(uri))) for uri in sinks]
        totals = _run(vehicle, LineSource(handle, stop), opened, with_readings)
    for line in summary(totals):
        click.echo(f"axleboxd: {line}", err=True)
    if totals.readings == totals.invalid and not stop.asked:
        raise NoData(f"source {source} ended without one good reading")


def _run(vehicle: Vehicle, source: LineSource, sinks: Sequence[Sink], with_readings: bool) -> Totals:
    release = vehicle.start(say=lambda line: click.echo(f"axleboxd: {line}", err=True))

    def healthy() -> bool:
        try:
            vehicle.healthy(release)
        except PreflightFailed:  # an installation holds the lock; a try less is no reason to stop
            return False
        return True

    monitor = monitor_release(release)
    reader = LineReader(release.manifest.contract.only_sensor())
    return Daemon(monitor, reader, sinks, with_readings, healthy).run(source)


def _is_file(handle: int, uri: str) -> bool:
    """Whether a sink's URI names the regular file that is open as the source."""
    path = Path(uri.removeprefix("file:"))
    return uri.startswith("file:") and path.is_file() and os.path.samestat(os.fstat(handle), path.stat())
