"""The commands of axleboxd about one event: what a person knows of it, its capsule, its replay."""

from __future__ import annotations

import difflib
from pathlib import Path
from time import time
from typing import Any

import click

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import UsageError, WrongTarget
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.vehicle import Vehicle
from axlebox.runtime import capsule as capsules
from axlebox.runtime import stored
from axlebox.runtime.capsule import Capsule, Replayed
from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.options import data_option
from axlebox.runtime.privilege import become_owner, user_name
from axlebox.runtime.store import Ack, acknowledge

VERDICTS = ("true", "false", "sensor")
_MAX_NOTE_CHARS = 400


@click.command()
@click.argument("event")
@click.argument("verdict", type=click.Choice(VERDICTS))
@click.option("--note", default="", help=f"What was found, at most {_MAX_NOTE_CHARS} characters.")
@data_option
@json_option
def ack(event: str, verdict: str, note: str, data: Path, as_json: bool) -> None:
    """Say what EVENT was: true (it was hot), false (nothing was wrong) or sensor (the sensor was at fault).

    It is kept beside the event, and comes back with it to training. Said again, it takes the place of what was said.
    """
    if len(note) > _MAX_NOTE_CHARS or not note.isprintable():
        raise UsageError(f"--note has {len(note)} characters, expected at most {_MAX_NOTE_CHARS} that can be printed")
    user = user_name()
    become_owner(data)
    vehicle = Vehicle.open(data)
    known_event(vehicle.data, event)
    before = stored.acks(vehicle.data).get(event)
    acknowledge(vehicle.data, event, Ack(verdict, note, time(), user))
    record = {"event": event, "verdict": verdict, "note": note, "user": user, "before": before and before.verdict}
    instead = f", instead of {before.verdict}" if before else ""
    show(record, as_json, f"{event}: {verdict}{instead}{f' ({note})' if note else ''}")


def known_event(data: Path, event: str) -> dict[str, Any]:
    """The newest that the store knows of an event. Raises UsageError naming those it may stand for."""
    found = stored.event(data, event)
    if found is None:
        recent = [str(one["id"]) for one in stored.last_events(data, 1000) if one.get("id")]
        close = difflib.get_close_matches(event, recent, n=1)
        known = ", ".join(dict.fromkeys(recent[:3]))
        hint = f"did you mean {close[0]}?" if close else f"the newest are {known}" if known else "it has none"
        raise UsageError(f"the store knows no event {event!r}; {hint}")
    return found


@click.command()
@click.argument("event")
@click.argument("output", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@data_option
@json_option
def capsule(event: str, output: Path, data: Path, as_json: bool) -> None:
    """Write what reproduces EVENT to FILE, signed with the vehicle's key: `axlebox replay` reads it anywhere."""
    from axlebox.firmware_bundle.vehicle_key import sign

    if output.exists():
        raise UsageError(f"{output} exists; nothing was written")
    handle = output.open("xb")  # with the caller's rights, which are given up next
    try:
        become_owner(data)
        vehicle = Vehicle.open(data)
        body = _kept(vehicle, event)
        found = capsules.decode(body)
        document = capsules.to_file(body, sign(vehicle.data, body), vehicle.identity.vehicle)
        with handle:
            handle.write(document)
    except BaseException:
        handle.close()
        output.unlink(missing_ok=True)
        raise
    show(
        {"event": event, "output": str(output), "release": found.release, "digest": found.digest},
        as_json,
        f"{output}: event {event} of {found.release}, {len(document)} bytes, signed by {vehicle.identity.vehicle}",
    )


def _kept(vehicle: Vehicle, event: str) -> bytes:
    body = stored.capsule(vehicle.data, event)
    if body is None:
        known_event(vehicle.data, event)
        raise UsageError(
            f"no capsule of event {event} is kept: those of the last {capsules.KEPT} anomalies are, one of a sensor in "
            "an hour"
        )
    return body


@click.command()
@click.argument("what", metavar="CAPSULE")
@data_option
@json_option
def replay(what: str, data: Path, as_json: bool) -> None:
    """Replay an event from its CAPSULE: a file, or an event's id; 50 where score or reasons come out different.

    The release that it is of must be installed. A file must bear this vehicle's signature.
    """
    become_owner(data)
    vehicle = Vehicle.open(data)
    body = _checked(Path(what), vehicle) if Path(what).exists() else _kept(vehicle, what)
    found = capsules.decode(body)
    show_replay(found, capsules.replay(found, _release_of(found, vehicle)), as_json)


def _checked(path: Path, vehicle: Vehicle) -> bytes:
    from axlebox.firmware_bundle.vehicle_key import check, read_public

    body, signed = capsules.from_file(disk.read_bounded(path, capsules.MAX_FILE_BYTES))
    check(read_public(vehicle.data), body, signed.signature)
    return body


def _release_of(found: Capsule, vehicle: Vehicle) -> Release:
    if found.digest not in vehicle.state().slots():
        raise WrongTarget(
            f"event {found.event} is of {found.release} ({found.digest[:8]}), which is not installed here"
        )
    return vehicle.release(found.digest)


def show_replay(found: Capsule, replayed: Replayed, as_json: bool) -> None:
    """A replay that came out equal."""
    raised = replayed.events[0]
    reasons = [f"  {one['feature']} {one['value']:g}" + _tails(one) for one in raised["why"]]
    record = {
        "event": found.event,
        "vehicle": found.vehicle,
        "release": found.release,
        "digest": found.digest,
        "readings": replayed.readings,
        "told": replayed.events,
        "largest_score_difference": replayed.largest_score_difference,
    }
    show(
        record,
        as_json,
        f"{found.event}: {found.release} on {found.vehicle} ({found.machine}), {replayed.readings} readings replayed",
        f"equal, told {len(replayed.events)} times; largest difference of a score "
        f"{replayed.largest_score_difference:g}",
        f"raised {raised['time']}, value {raised['value']:g}, score {raised['score']:.4f}, because of",
        *reasons,
    )


def _tails(reason: dict[str, Any]) -> str:
    return f", {reason['tails']:.1f} tails out" if "tails" in reason else ""
