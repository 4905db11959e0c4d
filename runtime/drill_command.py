"""`axleboxd drill`: what this box would see today, and after how long."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from axlebox.firmware_bundle.errors import GateFailed, NoData, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Contract, MustSee
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.vehicle import Vehicle
from axlebox.runtime import stored
from axlebox.runtime.commandline import json_option, printable, show, warn
from axlebox.runtime.control import ask
from axlebox.runtime.drill import DAY_S, HISTORY_READINGS, USUAL, Drill, Found, in_words
from axlebox.runtime.options import data_option
from axlebox.runtime.privilege import become_owner
from axlebox.runtime.readings import Reading
from axlebox.runtime.snapshots import revive
from axlebox.runtime.watch import unknown_sensor

MOST_SENSORS = 8
"""Without --sensor so many are drilled, spread over the kinds."""


@click.command()
@click.option(
    "--sensor", "chosen", multiple=True, metavar="ID", help=f"Drill this one; repeatable; else up to {MOST_SENSORS}."
)
@data_option
@json_option
def drill(chosen: tuple[str, ...], data: Path, as_json: bool) -> None:
    """Put faults into a copy of the live state, and say what this box would see of them, and after how long.

    50 where it would miss, or see too late, what the contract asks for (must_see). Nothing changes.
    """
    become_owner(data)
    vehicle = Vehicle.open(data)
    release = _release(vehicle)
    asked = ask(data, what="flush")  # what the daemon has in hand is part of the live state
    revived = revive(data, release, warn)
    monitor, state = revived.monitor, msgspec.msgpack.decode(msgspec.msgpack.encode(revived.monitor.state()))
    history = _last_day(data)
    busy = {str(event["sensor"]) for event in monitor.open_events()}
    sensors = _sensors(chosen, history, release.manifest.contract, busy)
    found, notes = _drill(Drill(monitor, state, history), sensors, release.manifest.contract)
    _show(release, found, notes, busy & set(sensors), as_json, live=asked is not None)


def _release(vehicle: Vehicle) -> Release:
    digest = vehicle.state().running
    if digest is None:
        raise PreflightFailed("no release installed. DO: axleboxd install")
    return vehicle.release(digest)


def _last_day(data: Path) -> list[Reading]:
    """The readings of the last day of the ring, in their order of arrival."""
    last = max((one.time for one in stored.last_readings(data).values()), default=0.0)
    start = stored.before_the_last(data, MOST_SENSORS * HISTORY_READINGS)
    found = [
        item
        for _, items in stored.blocks(data, after=start)
        for item in items
        if isinstance(item, Reading) and last - DAY_S <= item.time <= last
    ]
    if not found:
        raise NoData("the store has no readings of the last day. DO: let the daemon run first")
    return found


def _sensors(chosen: Sequence[str], history: Sequence[Reading], contract: Contract, busy: set[str]) -> list[str]:
    known = list(dict.fromkeys(one.sensor for one in history))
    for name in chosen:
        if name not in known:
            raise UsageError(unknown_sensor(name, known))
    if chosen:
        return list(chosen)
    calm = [name for name in known if name not in busy and contract.kind_of(name)] or known
    step = max(1, -(-len(calm) // MOST_SENSORS))
    return calm[::step][:MOST_SENSORS]


def _drill(drill: Drill, sensors: Sequence[str], contract: Contract) -> tuple[list[Found], list[str]]:
    found, notes, seen = [], [], set()
    with click.progressbar(sensors, label="drill", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for name in bar:
            members = contract.members(name)
            if frozenset(members) not in seen:
                seen.add(frozenset(members))
                raised = drill.quiet(members)
                if raised:
                    notes.append(
                        f"without a fault, a day like the last one raises {raised} events of {', '.join(members)}"
                    )
            asked = _asked(contract, name)
            found += [drill.run(name, members, fault, fault in asked) for fault in asked or USUAL]
    return found, notes


def _asked(contract: Contract, sensor: str) -> tuple[MustSee, ...]:
    kind = contract.kind_of(sensor)
    return () if kind is None else contract.kinds[kind].must_see


def _unit(release: Release, found: Found) -> str:
    contract = release.manifest.contract
    return contract.kinds[contract.kind_of(found.sensor) or ""].unit


def _show(
    release: Release, found: Sequence[Found], notes: Sequence[str], busy: set[str], as_json: bool, live: bool
) -> None:
    missed = [one for one in found if one.missed]
    by_sensor: dict[str, list[str]] = {}
    for one in found:
        by_sensor.setdefault(one.sensor, []).append(
            in_words(one, _unit(release, one)) + (" MISSED" if one.missed else "")
        )
    record = {
        "release": release.label,
        "digest": release.digest,
        "live": live,
        "found": msgspec.to_builtins(list(found)),
        "raised_now": sorted(busy),
        "notes": list(notes),
        "missed": len(missed),
    }
    lines = [f"{release.label}, with the state of {'now' if live else 'the last stop'}"]
    lines += [f"  {name}  {'; '.join(words)}" for name, words in by_sensor.items()]
    lines += [f"note: something is raised of {name} already" for name in sorted(busy)]
    lines += [f"note: {note}" for note in notes]
    if not any(one.asked_s for one in found):
        lines.append("note: the contract asks for nothing (must_see), so this is no verdict")
    show(record, as_json, *map(printable, lines))
    if missed:
        worst = missed[0]
        raise GateFailed(
            f"{len(missed)} of {len(found)} faults would be missed or seen too late: {worst.sensor}, "
            f"{in_words(worst, _unit(release, worst))}, asked for within {worst.asked_s:g} s"
        )
