"""The commands of axleboxd that keep a vehicle's releases; each a thin door to firmware_bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import AxleboxError, PreflightFailed, UsageError, naming
from axlebox.firmware_bundle.install import confirm as confirm_release
from axlebox.firmware_bundle.install import fallback as fall_back
from axlebox.firmware_bundle.install import note_sensor_replaced
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.stick import Stick
from axlebox.firmware_bundle.vehicle import Identity, Occasion, ReceiptPlace, Vehicle
from axlebox.runtime import stored
from axlebox.runtime.commandline import json_option, show, warn
from axlebox.runtime.control import ask
from axlebox.runtime.machine import this_runtime
from axlebox.runtime.options import data_option, stick_option
from axlebox.runtime.privilege import Keeper, become_owner, user_name, would_change
from axlebox.runtime.readings import Replaced, check_sensor_id
from axlebox.runtime.store import mark_replaced
from axlebox.runtime.watch import unknown_sensor


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
    root = disk.read_bounded(trust, MAX_CONTAINER_BYTES)
    become_owner(data)
    key = Vehicle.provision(data, root, identity).key_fingerprint()
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
    """Check BUNDLE (or the one in a folder that is for this vehicle) as `install` would; 0 also when installed."""
    with contextlib.closing(Stick(bundle)) as stick:
        become_owner(data)
        vehicle = Vehicle.open(data)
        choice = stick.choose(vehicle.identity.vehicle, vehicle.identity.hardware)
    with naming(choice.candidate.name):
        found = vehicle.verify(choice.candidate.data, this_runtime(), _now())
    show(found.facts(), as_json, found.verdict(), *(f"note: {note}" for note in (*found.warnings, *choice.notes)))


@click.command()
@click.option("--digest", help="Confirm only this release, by the beginning of its digest.")
@stick_option
@data_option
@json_option
def confirm(digest: str | None, stick: Path | None, data: Path, as_json: bool) -> None:
    """Make the release on trial the active one; older releases can then no longer be installed."""
    with at_the_vehicle(data, stick) as (vehicle, occasion):
        release = confirm_release(vehicle, occasion, digest)
    show(
        {**_facts(release), "receipt": occasion.receipt},
        as_json,
        f"confirmed {release.label}: nothing older can be installed here any more",
        f"receipt {occasion.receipt}{_place(occasion)}",
    )


@click.command()
@stick_option
@data_option
@json_option
def fallback(stick: Path | None, data: Path, as_json: bool) -> None:
    """Go back to the other installed release; a running daemon takes it over, else it runs from the next start."""
    with at_the_vehicle(data, stick) as (vehicle, occasion):
        release = fall_back(vehicle, occasion)
    show(
        {**_facts(release), "receipt": occasion.receipt},
        as_json,
        f"fell back to {release.label}",
        f"receipt {occasion.receipt}{_place(occasion)}",
    )


@click.group()
def sensor() -> None:
    """What a person tells the vehicle about its sensors."""


@sensor.command()
@click.argument("sensor_id", metavar="ID")
@stick_option
@data_option
@json_option
def replaced(sensor_id: str, stick: Path | None, data: Path, as_json: bool) -> None:
    """Another sensor answers to ID from now on: forget what was learnt of the old one, and note the moment."""
    try:
        check_sensor_id(sensor_id)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with at_the_vehicle(data, stick) as (vehicle, occasion):
        answer = ask(data, what="replaced", sensor=sensor_id)
        if answer is None:
            known = stored.last_readings(data)
            if known and sensor_id not in known:
                raise UsageError(unknown_sensor(sensor_id, list(known)))
            mark_replaced(data, Replaced(occasion.now.timestamp(), sensor_id))
        elif "error" in answer:
            raise UsageError(answer["error"])
        note_sensor_replaced(vehicle, sensor_id, occasion)
    where = "the daemon has forgotten it" if answer else "the daemon does not run, and begins anew with it"
    show(
        {"sensor": sensor_id, "daemon": answer is not None, "receipt": occasion.receipt},
        as_json,
        f"sensor {sensor_id} was replaced; {where}",
        f"receipt {occasion.receipt}{_place(occasion)}",
    )


@click.command()
@data_option
@json_option
def selftest(data: Path, as_json: bool) -> None:
    """Compare the release that would start now with what was installed, and run its golden readings, in a process
    that is bounded in memory and time; 12 if a byte differs, 31 if an answer does.
    """
    from axlebox.runtime.selftest import run_apart

    become_owner(data)
    vehicle = Vehicle.open(data)
    digest = vehicle.state().running
    if digest is None:
        raise PreflightFailed("no release installed. DO: axleboxd install")
    release = vehicle.release(digest)
    run_apart(vehicle.slot(digest))
    passed = len(release.golden.rows)
    show({**_facts(release), "golden": passed}, as_json, f"self-test OK {passed}/{passed}: {release.label}")


@contextlib.contextmanager
def at_the_vehicle(data: Path, stick: Path | None) -> Iterator[tuple[Vehicle, Occasion]]:
    """The vehicle, by its owner, on an occasion that a stick may take part in."""
    user = user_name()
    with contextlib.ExitStack() as stack:
        found = None if stick is None else stack.enter_context(contextlib.closing(Stick(stick)))
        place = receipt_place(found, data, stack)
        become_owner(data)
        yield Vehicle.open(data), Occasion(_now(), warn, user, place)


def receipt_place(stick: Stick | None, data: Path, stack: contextlib.ExitStack) -> ReceiptPlace | None:
    """Where receipts are laid: on the stick, where it is one, with the rights that it was opened with."""
    if stick is None or not stick.takes_receipts(data):
        return None
    return stack.enter_context(contextlib.closing(Keeper(stick))) if would_change(data) else stick


def label_of_running(vehicle: Vehicle) -> str | None:
    """The release that would start now; None without one that can be read."""
    try:
        digest = vehicle.state().running
        return None if digest is None else vehicle.release(digest).label
    except AxleboxError:
        return None


def _place(occasion: Occasion) -> str:
    return " is on the stick. You may pull the stick." if occasion.on_stick else ""


def _now() -> datetime:
    return datetime.now(UTC)


def _facts(release: Release) -> dict[str, object]:
    return {
        "name": release.manifest.name,
        "version": release.manifest.version,
        "digest": release.digest,
        "released": release.released.isoformat(),
    }
