"""`axleboxd status`: what runs, how well, and what to do, in one screen."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from axlebox.firmware_bundle import receipts
from axlebox.firmware_bundle.errors import (
    AxleboxError,
    BoxDamaged,
    DaemonNotRunning,
    NoData,
    PreflightFailed,
    SensorFault,
)
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.state import State
from axlebox.firmware_bundle.vehicle import Vehicle
from axlebox.runtime import stored
from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.control import ask_status
from axlebox.runtime.health import patience_s
from axlebox.runtime.options import data_option
from axlebox.runtime.privilege import become_owner
from axlebox.runtime.readings import format_time
from axlebox.runtime.screen import wrapped
from axlebox.runtime.statuses import HOT_OR_SENSOR, SENSOR_FAULTS
from axlebox.runtime.version import VERSION

LINES = 23
"""A console has 24, and the prompt takes one."""
_SHOWN = ((6, 4), (6, 2), (5, 2), (4, 2), (4, 1), (3, 1), (2, 1), (1, 1), (1, 0))
"""Sensors and events on a screen: the first of these that fits."""
_ENTRY_LINES, _HEALTH_LINES = 2, 3


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that a status shows."""

    vehicle: Vehicle
    state: State
    """The empty one where the record cannot be read."""
    release: Release | None
    damage: str | None
    """What is wrong with the installation record or the release that would start now."""
    daemon: dict[str, Any] | None
    """The running daemon's answer."""
    sensors: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    receipt: receipts.Entry | None
    store_error: str | None
    """What is wrong with the store, or else with the receipts."""

    @property
    def known(self) -> bool:
        """Whether the installation record can be read."""
        return self.damage is None or self.state.generation > 0


@click.command()
@data_option
@json_option
def status(data: Path, as_json: bool) -> None:
    """What runs on this vehicle, its last readings and events, and its health.

    0 where all is well, 12 damaged, 20 no release, 40 the daemon does not run, 41 no readings
    come, 42 a sensor is at fault.
    """
    become_owner(data)
    picture = look(data)
    trouble = judge(picture)
    show(record(picture, trouble), as_json, *screenful(picture, trouble, datetime.now(UTC)))
    if trouble is not None:
        sys.exit(trouble.exit_code)


def look(data: Path) -> Picture:
    """The vehicle as it is now, by its files and by the daemon where one runs."""
    vehicle = Vehicle.open(data)
    state, release, damage = State(), None, None
    try:
        state = vehicle.state()
        release = None if state.running is None else vehicle.release(state.running)
    except BoxDamaged as error:
        damage = str(error)
    daemon = ask_status(data)
    try:
        events, store_error = stored.last_events(data, _SHOWN[0][1]), None
        sensors = daemon["sensors"] if daemon else list(_stored_sensors(data))
    except AxleboxError as error:
        events, sensors, store_error = [], daemon["sensors"] if daemon else [], str(error)
    if daemon and daemon["store"]["error"]:
        store_error = daemon["store"]["error"]
    try:
        receipt = receipts.latest(data)
    except AxleboxError as error:
        receipt, store_error = None, store_error or str(error)
    return Picture(vehicle, state, release, damage, daemon, sensors, events, receipt, store_error)


def _stored_sensors(data: Path) -> Iterator[dict[str, Any]]:
    """The last readings that the store holds, newest first, in the daemon's words."""
    last = sorted(stored.last_readings(data).items(), key=lambda one: -one[1].time)
    for name, one in last:
        yield {
            "sensor": name,
            "value": one.value if math.isfinite(one.value) else None,
            "unit": "",
            "time": format_time(one.time) if math.isfinite(one.time) else None,
            "status": one.status,
        }


def judge(picture: Picture) -> AxleboxError | None:
    """The worst that is wrong, as the error whose exit code `status` ends with."""
    if picture.damage is not None:
        way_out = "" if "DO:" in picture.damage else ". DO: axleboxd install, from the stick"
        return BoxDamaged(picture.damage + way_out)
    if picture.release is None:
        return PreflightFailed("no release is installed. DO: axleboxd install")
    daemon = picture.daemon
    if daemon is None:
        return DaemonNotRunning("the daemon does not run. DO: start it (axleboxd run, or its service)")
    fault = _fault(daemon["sensors"])
    if fault is not None:
        return fault
    silence = min((one["age_s"] for one in daemon["sensors"]), default=daemon["up_s"])
    if silence > patience_s(picture.release.manifest.contract):
        return NoData(f"no reading for {_span(silence)}. DO: check the source of the readings")
    return None


def _fault(sensors: Sequence[Mapping[str, Any]]) -> SensorFault | None:
    hot = [one["sensor"] for one in sensors if one["status"] == HOT_OR_SENSOR]
    if hot:  # never called a broken wire, and never hidden behind one
        return SensorFault(f"hot, or a sensor at fault: {_some(hot)}. DO: treat it as hot; then check the sensor")
    faulty = [one["sensor"] for one in sensors if one["status"] in SENSOR_FAULTS]
    if faulty:
        return SensorFault(f"at fault: {_some(faulty)}. DO: check the sensor and its cable")
    return None


def record(picture: Picture, trouble: AxleboxError | None) -> dict[str, Any]:
    """The picture as one JSON object."""
    state, release = picture.state, picture.release
    return {
        "vehicle": picture.vehicle.identity.vehicle,
        "hardware": picture.vehicle.identity.hardware,
        "runtime": VERSION,
        "release": None
        if release is None
        else {
            "name": release.manifest.name,
            "version": release.manifest.version,
            "digest": release.digest,
            "released": release.released.isoformat(),
        },
        "damaged": picture.damage,
        "trial": state.trial is not None if picture.known else None,
        "tries": state.tries if picture.known else None,
        "floor": state.floor if picture.known else None,
        "min_sequence": state.min_sequence if picture.known else None,
        "time_floor": None if state.time_floor is None else state.time_floor.isoformat(),
        "fallback": None if (after := state.fallen_back()) is None else after.running,
        "daemon": picture.daemon,
        "sensors": list(picture.sensors),
        "events": list(picture.events),
        "store_error": picture.store_error,
        "receipt": None if picture.receipt is None else picture.receipt.id,
        "code": 0 if trouble is None else trouble.exit_code,
        "trouble": None if trouble is None else str(trouble),
    }


def screenful(picture: Picture, trouble: AxleboxError | None, now: datetime) -> list[str]:
    """The picture in lines for people, as much of it as fits on one screen."""
    lines: list[str] = []
    for sensors, events in _SHOWN:
        entries = list(_describe(picture, trouble, now, sensors, events))
        blocks = [wrapped(entries[0], 10, _HEALTH_LINES), *(wrapped(one, 10, _ENTRY_LINES) for one in entries[1:])]
        lines = "\n".join(blocks).split("\n")
        if len(lines) <= LINES:
            break
    return lines


def _describe(
    picture: Picture, trouble: AxleboxError | None, now: datetime, sensors: int, events: int
) -> Iterator[str]:
    state, identity = picture.state, picture.vehicle.identity
    doubt = " (not trusted)" if state.time_floor and now < state.time_floor else ""
    yield f"HEALTH    {'OK' if trouble is None else f'{trouble.exit_code}  {trouble}'}"
    clock = f"clock {now:%Y-%m-%d %H:%M}{doubt}"
    yield f"VEHICLE   {identity.vehicle}, hardware {identity.hardware}, runtime {VERSION}, {clock}"
    yield f"RELEASE   {_release(picture, now)}"
    if state.trial is not None and picture.release is not None:
        yield "          DO: axleboxd confirm, once its readings look right; the daemon does so by itself in time"
    yield f"FALLBACK  {_other(picture)}"
    yield f"FLOOR     {_floor(picture)}"
    yield f"DAEMON    {_daemon(picture)}"
    for name, trouble_of_it in _ends_in_trouble(picture.daemon or {}):
        yield f"{name:<8}  {trouble_of_it}"
    for number, one in enumerate(picture.sensors[:sensors]):
        yield f"{'' if number else 'READINGS':<8}  {_reading(one)}"
    more = max(0, len(picture.sensors) - sensors) + (picture.daemon or {}).get("more_sensors", 0)
    if more > 0:
        yield f"          and {more} sensor{'' if more == 1 else 's'} more"
    for number, event in enumerate(picture.events[:events]):
        yield f"{'' if number else 'EVENTS':<8}  {_event(event)}"
    if picture.store_error:
        yield f"STORE     {picture.store_error}"
    if picture.receipt is not None:
        yield f"RECEIPT   {_receipt(picture.receipt)}"


def _floor(picture: Picture) -> str:
    state = picture.state
    if not picture.known:
        return "not known"
    words = f"nothing below release {state.floor} can be installed"
    return words + (f", nothing dated before {state.time_floor:%Y-%m-%d} is trusted" if state.time_floor else "")


def _release(picture: Picture, now: datetime) -> str:
    state, release = picture.state, picture.release
    if release is None:
        return picture.damage or "none"
    age = max(0, (now - release.released).days)
    how = f"on trial, {state.tries} tries left" if state.trial is not None else "confirmed"
    return f"{release.label}, {how}, built {release.released:%Y-%m-%d} ({age} days ago), {release.digest[:8]}"


def _other(picture: Picture) -> str:
    state = picture.state
    if not picture.known:
        return "not known"
    after = state.fallen_back()
    digest = None if after is None else after.running
    if digest is None:
        return "not possible, there is no other release"
    try:
        release = picture.vehicle.release(digest)
    except BoxDamaged as error:
        return f"not possible: {error}"
    if release.manifest.version < state.min_sequence:
        return f"not possible: {release.label} was withdrawn"
    return f"{release.label} (axleboxd fallback)"


def _daemon(picture: Picture) -> str:
    daemon = picture.daemon
    if daemon is None:
        return "not running"
    words = f"running for {_span(daemon['up_s'])}, {daemon['readings']} readings"
    if daemon["bytes_per_day"]:
        words += f", writes {daemon['bytes_per_day'] / 1e6:.1f} MB a day"
    runs = daemon["release"]
    if picture.state.running not in (None, runs["digest"]):
        words += f", still with {runs['name']} {runs['version']}"
    if daemon["refused"]:
        words += f"; did not take {daemon['refused']['digest'][:8]} over: {daemon['refused']['reason']}"
    return words


def _ends_in_trouble(daemon: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the daemon's source and sinks."""
    source = daemon.get("source")
    if source and not source["connected"]:
        yield "SOURCE", f"{source['uri']} is not there: {source['error']}"
    if source and source["lost"]:
        yield "SOURCE", f"{source['uri']} lost {source['lost']} readings"
    for sink in daemon.get("sinks", ()):
        if sink["dropped"] or sink["error"]:
            yield "SINK", f"{sink['error'] or sink['uri']}, {sink['dropped']} dropped"


def _reading(one: Mapping[str, Any]) -> str:
    value = "-" if one["value"] is None else f"{one['value']:.1f}"
    when = f"{_span(one['age_s'])} ago" if "age_s" in one else f"at {one['time']}"
    raised = ", ANOMALY" if one.get("raised") else ""
    raised += f", LIMIT ({one['limit']})" if one.get("limit") else ""
    reason = f": {one['reason']}" if one.get("reason") else ""
    return f"{one['sensor']}  {value} {one['unit']}  {when}, {one['status']}{reason}{raised}"


def _event(event: Mapping[str, Any]) -> str:
    what = f"{event.get('type')} {event.get('state')}"
    value = event.get("value")
    shown = f"  {value:.1f}" if isinstance(value, int | float) else ""
    return f"{event.get('time')}  {event.get('sensor') or '-'}  {what}{shown}"


def _receipt(entry: receipts.Entry) -> str:
    done = entry.receipt
    how = "done" if done.code == 0 else f"{done.code}: {done.reason}"
    about = f"{done.action} {done.release or ''}".strip()
    return f"{entry.id}  {done.time:%Y-%m-%d %H:%M}  {about}  {how}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _span(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
