"""The commands of axleboxd that keep a vehicle's releases; each a thin door to firmware_bundle."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import AlreadyInstalled, AxleboxError, Damaged, PreflightFailed, UsageError, naming
from axlebox.firmware_bundle.install import Identity, Vehicle, find_bundle
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release, open_slot
from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.features import KNOWN_SETS
from axlebox.runtime.version import VERSION

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/axlebox"),
    envvar="AXLEBOX_DATA",
    show_default=True,
    help="The data folder; also AXLEBOX_DATA.",
)


RUNTIME = Runtime(VERSION, KNOWN_SETS)


def _now() -> datetime:
    return datetime.now(UTC)


@click.command()
@click.option("--trust", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--vehicle", required=True, help="Id of this vehicle, as in TRAIN-204.")
@click.option("--hardware", required=True, help="Id of this kind of box; `any` accepts all.")
@data_option
@json_option
def provision(trust: Path, vehicle: str, hardware: str, data: Path, as_json: bool) -> None:
    """Give this box its identity and the root of trust in TRUST (trust/root.json of a workspace)."""
    try:
        identity = msgspec.convert({"vehicle": vehicle, "hardware": hardware}, Identity)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"--vehicle {vehicle!r}, --hardware {hardware!r}: ids are 1 to 64 letters, digits and . _ : / -, "
            "beginning with a letter or a digit"
        ) from error
    key = Vehicle.provision(data, disk.read_bounded(trust, MAX_CONTAINER_BYTES), identity).key_fingerprint()
    show(
        {"vehicle": vehicle, "hardware": hardware, "data": str(data), "key": key},
        as_json,
        f"provisioned {vehicle} (hardware {hardware}) in {data}",
        f"the vehicle's own key {key}; its public half is {data / 'vehicle.pub'}",
    )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@data_option
@json_option
def verify(bundle: Path, data: Path, as_json: bool) -> None:
    """Check BUNDLE (or the one bundle in a folder) as `install` would; 0 also for the installed one."""
    vehicle, source = Vehicle.open(data), find_bundle(bundle)
    with naming(source):
        found = vehicle.verify(disk.read_bounded(source, MAX_CONTAINER_BYTES), RUNTIME, _now())
    show(found.facts(), as_json, found.verdict(), *(f"note: {warning}" for warning in found.warnings))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_option
@json_option
def install(bundle: Path, yes: bool, data: Path, as_json: bool) -> None:
    """Install BUNDLE (or the one bundle in a folder) on trial; nothing changes before the last step."""
    from axlebox.runtime.selftest import run_apart

    def say(line: str) -> None:
        if not as_json:
            click.echo(line)

    vehicle = Vehicle.open(data)
    source = find_bundle(bundle)
    running = _running(vehicle)
    now_running = running.label if isinstance(running, Release) else running or "no release"
    say(f"FOUND  {source.name} for {vehicle.identity.vehicle}")
    say(f"NOW    {now_running}")
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError("nobody to ask here: give --yes to install without asking")
        if not click.confirm("Install it?"):
            click.echo("not installed; nothing changed")
            return
    try:
        found = vehicle.install(source, run_apart, RUNTIME, _now(), say)
    except AxleboxError as error:
        if not isinstance(error, AlreadyInstalled):
            stays = f": {running.label} stays" if isinstance(running, Release) else ""
            say(f"FAIL {error.exit_code}  Nothing changed{stays}. DO: {error.advice}")
        raise
    show(
        found.facts(),
        as_json,
        f"PASS   {vehicle.identity.vehicle} runs {found.label} on trial from its next start.",
        "       DO: axleboxd run, look at its readings, then axleboxd confirm",
    )


@click.command()
@data_option
@json_option
def confirm(data: Path, as_json: bool) -> None:
    """Make the release on trial the active one; older releases can then no longer be installed."""
    release = Vehicle.open(data).confirm(_now(), _warn)
    show(_facts(release), as_json, f"confirmed {release.label}: nothing older can be installed here any more")


@click.command()
@data_option
@json_option
def fallback(data: Path, as_json: bool) -> None:
    """Go back to the other installed release; it runs from the next start of the daemon."""
    release = Vehicle.open(data).fallback(_now(), _warn)
    show(_facts(release), as_json, f"fell back to {release.label}; it runs from the next start")


@click.command()
@data_option
@json_option
def status(data: Path, as_json: bool) -> None:
    """What runs on this vehicle. 0 with a release that can run, 20 without one, 12 if it is damaged."""
    vehicle = Vehicle.open(data)
    state = vehicle.state()
    running = _running(vehicle)
    record = {
        "vehicle": vehicle.identity.vehicle,
        "hardware": vehicle.identity.hardware,
        "runtime": VERSION,
        "release": _facts(running) if isinstance(running, Release) else None,
        "damaged": running if isinstance(running, str) else None,
        "trial": state.running is not None and state.running == state.trial,
        "tries": state.tries,
        "floor": state.floor,
        "min_sequence": state.min_sequence,
        "fallback": state.active if state.trial is not None else state.previous,
    }
    lines = [f"VEHICLE  {vehicle.identity.vehicle}, hardware {vehicle.identity.hardware}, runtime {VERSION}"]
    if isinstance(running, Release):
        how = f"on trial, {state.tries} starts left" if record["trial"] else "confirmed"
        age = max(0, (_now() - running.released).days)
        lines.append(f"RELEASE  {running.label}, {how}, built {running.released:%Y-%m-%d} ({age} days ago)")
    else:
        lines.append(f"RELEASE  {running or 'none. DO: axleboxd install'}")
    lines.append(f"FLOOR    release {state.floor}; fallback {'possible' if record['fallback'] else 'not possible'}")
    show(record, as_json, *lines)
    if not isinstance(running, Release):
        sys.exit(Damaged.exit_code if running else PreflightFailed.exit_code)


@click.command()
@data_option
@json_option
def selftest(data: Path, as_json: bool) -> None:
    """Run the golden readings of the release that would start now; 31 if one answer differs."""
    from axlebox.runtime.selftest import check_golden

    vehicle = Vehicle.open(data)
    digest = vehicle.state().running
    if digest is None:
        raise PreflightFailed("no release installed. DO: axleboxd install")
    release = open_slot(vehicle.slot(digest))
    passed = check_golden(release)
    show({**_facts(release), "golden": passed}, as_json, f"self-test OK {passed}/{passed}: {release.label}")


def _warn(line: str) -> None:
    click.echo(f"axleboxd: {line.strip()}", err=True)


def _running(vehicle: Vehicle) -> Release | str | None:
    """The release that would start now, what is wrong with it, or None."""
    digest = vehicle.state().running
    if digest is None:
        return None
    try:
        return open_slot(vehicle.slot(digest))
    except AxleboxError as error:
        return str(error)


def _facts(release: Release) -> dict[str, object]:
    return {
        "name": release.manifest.name,
        "version": release.manifest.version,
        "digest": release.digest,
        "released": release.released.isoformat(),
    }
