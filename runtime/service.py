"""One start of the daemon, from the data folder to the summary, across every reload of its configuration."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, PreflightFailed, UsageError
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.trial import Starter, boot_id
from axlebox.firmware_bundle.vehicle import RUN_LOCK, Occasion, Vehicle
from axlebox.runtime import log
from axlebox.runtime.config import Config
from axlebox.runtime.control import Control
from axlebox.runtime.daemon import Daemon, Totals
from axlebox.runtime.detector import monitor_release
from axlebox.runtime.machine import this_runtime
from axlebox.runtime.selftest import run_apart
from axlebox.runtime.signals import Signals
from axlebox.runtime.sinks import check_sinks, open_displays, open_sinks
from axlebox.runtime.sinks.base import Outlet
from axlebox.runtime.sinks.displays import Board
from axlebox.runtime.snapshots import Revived, revive
from axlebox.runtime.sources import Source, open_source
from axlebox.runtime.sources.base import Position
from axlebox.runtime.sources.follow import Follow
from axlebox.runtime.sources.replay import Descriptor
from axlebox.runtime.store import Store
from axlebox.runtime.watch import VehicleWatch

_MIB = 1024 * 1024
_FILES = ("file", "textfile", "lamp")
"""Sinks that write to a file."""

Reread = Callable[[], Config]


def serve(vehicle: Vehicle, config: Config, reread: Reread, signals: Signals, user: str, fresh: bool = False) -> Totals:
    """Score what the source gives until it ends or a signal comes. `fresh`: as if no reading had ever come.

    `reread` gives the configuration anew at SIGHUP. Raises UsageError, before anything is started,
    where source or sinks cannot be used; NoData where the source ended without one good reading;
    AxleboxError where a sink lost what it was given.
    """
    check(vehicle, config, signals)
    with only_one(vehicle.data):
        ends = _Ends(config)
        starter = Starter(vehicle, boot_id(), this_runtime(), run_apart)
        release = starter.start(Occasion(datetime.now(UTC), log.say, user))
        source = open_source(config, release.manifest.contract.only_sensor(), signals)
        with contextlib.closing(_open_store(vehicle.data, config)) as store:
            revived = _revive(vehicle.data, release, source, store, fresh)
            watch = VehicleWatch(starter, revived, release, store, config, log.say)
            with _answering(vehicle.data, watch):
                daemon = Daemon(revived.monitor, watch)
                daemon.totals.restored = revived.monitor.sensors()
                return _Run(vehicle, watch, daemon, signals).run(config, reread, source, ends)


def check(vehicle: Vehicle, config: Config, signals: Signals) -> None:
    """Refuse a source or sinks that cannot be used. Raises UsageError."""
    check_sinks(config)
    with contextlib.closing(open_source(config, "", signals)) as source:
        for uri in config.sinks:
            scheme, _, rest = uri.partition(":")
            if scheme not in _FILES:
                continue
            needed = Path(rest) if scheme == "lamp" else Path(rest).absolute().parent
            if not needed.exists():
                raise UsageError(f"sink {uri}: there is no {needed}")
            if vehicle.owns(Path(rest)):
                raise UsageError(f"sink {uri} is one of the vehicle's own files. DO: name another file")
            if isinstance(source, Descriptor | Follow) and source.reads(Path(rest)):
                raise UsageError(f"source {config.source} and sink {uri} are one file: it would never end")


def _open_store(data: Path, config: Config) -> Store:
    settings = config.store
    return Store.open(data, log.say, settings.max_mib_per_day * _MIB, own_thread=True, enabled=settings.enabled)


def _revive(data: Path, release: Release, source: Source, store: Store, fresh: bool) -> Revived:
    """The state to begin with, and the source where it is to go on.

    A replay of a file begins with empty state, unless it goes on where it was interrupted.
    """
    revived = None
    if not fresh and store.session:
        revived = revive(data, release, log.say)
        if not _goes_on(source, revived.position) and source.patience_s == math.inf:
            revived = None
    if revived is None:
        revived = Revived(monitor_release(release), since_session=store.session)
    store.go_on_from(revived.taken)
    store.since_session = revived.since_session
    known = revived.monitor.sensors()
    if known:
        log.info(
            f"the state of {known} sensor{'' if known == 1 else 's'} is restored"
            + (f", {revived.replayed} readings replayed" if revived.replayed else "")
        )
    return revived


def _goes_on(source: Source, position: Position | None) -> bool:
    """Have a source go on where it was, where it can."""
    if position is None or not isinstance(source, Descriptor | Follow):
        return False
    if source.resume(position):
        log.info(f"{source.uri} goes on behind byte {position.offset}")
        return True
    if isinstance(source, Follow) and position.uri == source.uri:
        log.say(f"{source.uri}: the file that was read before is gone; what was appended to it since is lost")
    return False


class _Ends:
    """Where events go and how things are shown: opened together, closed together."""

    def __init__(self, config: Config) -> None:
        """Raises UsageError."""
        sinks, displays = open_sinks(config), open_displays(config)
        self.outlets: Sequence[Outlet] = [Outlet(sink, log.say) for sink in sinks]
        self.boards: Sequence[Board] = [Board(display, log.say) for display in displays]

    def close(self) -> list[str]:
        """Write what waits; what was lost, in words."""
        for outlet in self.outlets:
            outlet.close()
        for board in self.boards:
            board.close()
        return [
            f"sink {one.uri} lost {one.dropped} lines" + (f": {one.error}" if one.error else "")
            for one in self.outlets
            if one.dropped
        ]


class _Run:
    """The daemon's loop, and what SIGHUP changes about it."""

    def __init__(self, vehicle: Vehicle, watch: VehicleWatch, daemon: Daemon, signals: Signals) -> None:
        self._vehicle = vehicle
        self._watch = watch
        self._daemon = daemon
        self._signals = signals

    def run(self, config: Config, reread: Reread, source: Source, ends: _Ends) -> Totals:
        lost: list[str] = []
        try:
            while True:
                self._use(config, source, ends)
                self._watch.ready()
                self._daemon.run(source, lambda: self._signals.asked)
                if self._signals.stop or not self._signals.reload:
                    break
                lost += ends.close()
                config, source, ends = self._reload(config, reread, source)
        except AxleboxError:  # what failed is not the release
            self._watch.end()
            ends.close()
            raise
        self._watch.end()
        lost += ends.close()
        totals = self._daemon.totals
        totals.lost = lost
        if source.patience_s != math.inf:
            totals.invalid_lines = []
        source.close()
        return totals

    def _use(self, config: Config, source: Source, ends: _Ends) -> None:
        self._daemon.with_readings = config.readings
        self._daemon.outlets = self._watch.outlets = ends.outlets
        self._watch.boards = ends.boards
        self._watch.source = source

    def _reload(self, config: Config, reread: Reread, source: Source) -> tuple[Config, Source, _Ends]:
        """The configuration that holds from now on: one that cannot be used changes nothing."""
        self._signals.reloaded()
        self._watch.reloading()
        try:
            wanted = reread()
            check(self._vehicle, wanted, self._signals)
            ends = _Ends(wanted)
        except (AxleboxError, ImportError) as error:
            log.say(f"the configuration is not used, the one before goes on: {error}")
            return config, source, _Ends(config)
        log.set_up(wanted.log)
        self._watch.configure(wanted)
        if _source_settings(wanted) != _source_settings(config):
            source.close()
            source = open_source(wanted, self._watch.default_sensor, self._signals)
        log.info("the configuration was read again")
        return wanted, source, ends


def _source_settings(config: Config) -> tuple[object, ...]:
    return config.source, config.hwmon, config.can, config.mqtt


@contextlib.contextmanager
def only_one(data: Path) -> Iterator[None]:
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
        log.say(f"no socket for questions: {error.strerror or error}; scoring goes on")
        yield
        return
    with contextlib.closing(control):
        yield
