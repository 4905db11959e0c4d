"""`axleboxd run`. Loads neither tuf nor cryptography: the release was verified when it was installed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import NoData, PreflightFailed, UsageError
from axlebox.firmware_bundle.trial import Starter, boot_id
from axlebox.firmware_bundle.vehicle import RUN_LOCK, Occasion, Vehicle
from axlebox.runtime.commandline import warn
from axlebox.runtime.commands import config_option, data_option
from axlebox.runtime.config import Confirm, load_config
from axlebox.runtime.control import Control
from axlebox.runtime.daemon import Daemon, Totals, summary
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.machine import this_runtime
from axlebox.runtime.privilege import become_owner, user_name
from axlebox.runtime.readings import LineReader
from axlebox.runtime.selftest import run_apart
from axlebox.runtime.sinks import Sink, open_sink
from axlebox.runtime.sources import LineSource, StopSignal, open_source
from axlebox.runtime.store import Store
from axlebox.runtime.watch import VehicleWatch


@click.command()
@click.option("--source", default="stdin:", show_default=True, help="stdin: or file:PATH (replayed to its end).")
@click.option(
    "--sink", "sinks", multiple=True, default=("stdout:",), show_default=True, help="stdout: or file:PATH; repeatable."
)
@click.option("--readings", "with_readings", is_flag=True, help="Also write one line for every reading.")
@config_option
@data_option
def run(source: str, sinks: tuple[str, ...], with_readings: bool, config: Path | None, data: Path) -> None:
    """Score every reading of SOURCE and write events as JSON lines.

    Ends with the source, or on SIGTERM once everything that was read is answered. A summary goes
    to stderr. Readings are CSV (time,value or time,sensor,value) or JSON lines. A release that is
    installed meanwhile is taken over between two readings.
    """
    stop = StopSignal()
    user = user_name()
    vehicle = Vehicle.open(data)
    handle = open_source(source)
    for uri in sinks:
        if _is_file(handle, uri):
            raise UsageError(f"source {source} and sink {uri} are one file: it would never end")
        if uri.startswith("file:") and vehicle.owns(Path(uri.removeprefix("file:"))):
            raise UsageError(f"sink {uri} is one of the vehicle's own files. DO: name another file")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(open_sink(uri))) for uri in sinks]
        become_owner(data)
        rule = load_config(data, config).confirm
        stack.enter_context(_only_one(data))
        totals = _run(vehicle, LineSource(handle, stop), opened, with_readings, rule, user)
    for line in summary(totals):
        warn(line)
    if totals.readings == totals.invalid and not stop.asked:
        raise NoData(f"source {source} ended without one good reading")


def _run(
    vehicle: Vehicle, source: LineSource, sinks: Sequence[Sink], with_readings: bool, rule: Confirm, user: str
) -> Totals:
    starter = Starter(vehicle, boot_id(), this_runtime(), run_apart)
    release = starter.start(Occasion(datetime.now(UTC), warn, user))
    monitor = monitor_release(release)
    reader = LineReader(release.manifest.contract.only_sensor())
    with contextlib.closing(Store.open(vehicle.data, warn)) as store:
        watch = VehicleWatch(starter, release, monitor, store, rule, warn)
        with _answering(vehicle.data, watch):
            return Daemon(monitor, reader, sinks, with_readings, watch).run(source)


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Be the only daemon of a data folder. Raises PreflightFailed where one runs."""
    try:
        handle = os.open(data / RUN_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            with disk.explained():
                raise
        yield  # a disk that became read-only must not end the scoring
        return
    with open(handle, "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreflightFailed(f"another axleboxd run scores for {data} already") from error
        yield


@contextlib.contextmanager
def _answering(data: Path, watch: VehicleWatch) -> Iterator[None]:
    """Answer questions on the socket; where there can be none, scoring goes on without."""
    try:
        control = Control(data, watch.answer)
    except OSError as error:
        warn(f"no socket for questions: {error.strerror or error}; scoring goes on")
        yield
        return
    with contextlib.closing(control):
        yield


def _is_file(handle: int, uri: str) -> bool:
    """Whether a sink's URI names the regular file that is open as the source."""
    path = Path(uri.removeprefix("file:"))
    return uri.startswith("file:") and path.is_file() and os.path.samestat(os.fstat(handle), path.stat())
