"""Bringing a release into a slot and on trial, confirming it, falling back, and what else a person does.

What this package may not import comes as an argument: `self_test` and `runtime` from the runtime.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC
from typing import TYPE_CHECKING

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import (
    AlreadyInstalled,
    AxleboxError,
    BoxDamaged,
    FallbackFailed,
    PreflightFailed,
    UsageError,
    naming,
)
from axlebox.firmware_bundle.receipts import Draft
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release, read_slot, write_slot
from axlebox.firmware_bundle.state import TRIES, State, write_state
from axlebox.firmware_bundle.stick import Candidate
from axlebox.firmware_bundle.vehicle import Occasion, SelfTest, Vehicle

if TYPE_CHECKING:
    from axlebox.firmware_bundle.trust import Bundle

_INCOMING = "incoming.part"
_SPARE_BYTES = 1024 * 1024


def preview(vehicle: Vehicle, candidate: Candidate, runtime: Runtime, occasion: Occasion) -> Bundle:
    """What would be installed, by the bytes that were read; nothing changes.

    Raises AlreadyInstalled, and else what `install` would raise of the bundle.
    """
    with naming(candidate.name):
        bundle = vehicle.verify(candidate.data, runtime, occasion.now)
    _refuse_a_second_time(vehicle, bundle)
    return bundle


def install(
    vehicle: Vehicle, candidate: Candidate, self_test: SelfTest, runtime: Runtime, occasion: Occasion
) -> Bundle:
    """Bring a bundle into a slot and put it on trial; `occasion.say` gets one line for each step.

    Nothing that runs changes before the last step, the one write of the state.
    """
    with vehicle.recorded("install", occasion) as receipt:
        mend_state(vehicle, occasion)
        _sweep(vehicle)
        with _swept_up(vehicle, occasion):
            return _install(vehicle, candidate, self_test, runtime, occasion, receipt)


def _install(
    vehicle: Vehicle,
    candidate: Candidate,
    self_test: SelfTest,
    runtime: Runtime,
    occasion: Occasion,
    receipt: Draft,
) -> Bundle:
    say = occasion.say
    data = _take_copy(vehicle, candidate)
    say("[1/6] space OK, copy OK")
    with naming(candidate.name):
        bundle = vehicle.verify(data, runtime, occasion.now)
    receipt.about(bundle.label, bundle.digest)
    say(f"[2/6] verify OK: {bundle.label}, signed {len(bundle.signed_by)} of {bundle.signatures_needed} needed")
    for warning in bundle.warnings:
        say(f"note: {warning}")
    _refuse_a_second_time(vehicle, bundle)
    say(f"[3/6] runtime OK: {runtime.version}; clock {occasion.now:%Y-%m-%d}{_doubt(receipt)}")
    say(f"[4/6] self-test OK: {_fill_slot(vehicle, bundle, self_test)}")
    vehicle.note_proved(bundle.digest, runtime)
    state = vehicle.state()
    if bundle.digest != state.active:  # else its damaged slot was mended, and there is nothing to switch
        write_state(vehicle.data, state.on_trial(bundle.digest))
    say("[5/6] switch OK")
    return bundle


def _doubt(receipt: Draft) -> str:
    return "" if receipt.clock_trusted else " (not trusted, ignored)"


def _refuse_a_second_time(vehicle: Vehicle, bundle: Bundle) -> None:
    try:
        state = vehicle.state()
    except BoxDamaged:
        return  # installing mends it
    # One on trial that has spent a try is given all of them again.
    unspent = bundle.digest == state.trial and state.tries == TRIES
    if (unspent or bundle.digest == state.active) and _is_whole(vehicle, bundle.digest):
        raise AlreadyInstalled(f"{bundle.label} is installed already; nothing changed")


def _is_whole(vehicle: Vehicle, digest: str) -> bool:
    try:
        vehicle.release(digest)
    except BoxDamaged:
        return False
    return True


def _take_copy(vehicle: Vehicle, candidate: Candidate) -> bytes:
    """Write what was read from the stick, and read the copy back: the stick is never trusted twice."""
    needed = 3 * len(candidate.data) + _SPARE_BYTES
    free = shutil.disk_usage(vehicle.data).free
    if free < needed:
        raise PreflightFailed(f"{vehicle.data} has {free} bytes free, {needed} are needed")
    for folder in (vehicle.data, vehicle.data / "slots"):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PreflightFailed(f"{folder} cannot be written to")
    copy = vehicle.data / _INCOMING
    disk.write_durable(copy, candidate.data)
    disk.sync_folder(copy.parent)
    return disk.read_bounded(copy, MAX_CONTAINER_BYTES)


def _fill_slot(vehicle: Vehicle, bundle: Bundle, self_test: SelfTest) -> str:
    slot = vehicle.slot(bundle.digest)
    if slot.exists() and _is_whole(vehicle, bundle.digest):  # the release that a fallback left behind
        return self_test(slot)
    part = slot.with_name(slot.name + ".part")
    write_slot(part, bundle.digest, bundle.released, bundle.root, bundle.root_version, bundle.members)
    passed = self_test(part)
    disk.remove_tree(slot)  # only a damaged one can be there
    disk.rename_durable(part, slot)
    return passed


@contextlib.contextmanager
def _swept_up(vehicle: Vehicle, occasion: Occasion) -> Iterator[None]:
    """Leave nothing behind that no state refers to; where that fails, what was done is done all the same."""
    try:
        yield
    finally:
        try:
            _sweep(vehicle)
        except (OSError, AxleboxError) as error:
            occasion.say(f"note: not everything could be tidied up ({error}); the next installation does it")


def _sweep(vehicle: Vehicle) -> None:
    """Remove what no state refers to: leavings of interrupted installations."""
    keep = vehicle.state().slots()
    for path in (vehicle.data / "slots").iterdir():
        if path.name not in keep:
            disk.remove_tree(path)
    disk.remove_tree(vehicle.data / _INCOMING)


def mend_state(vehicle: Vehicle, occasion: Occasion) -> None:
    """Where both state files wore out, begin a new record that goes no further back than the slots do.

    Which slot was the active one is lost, and none is started unasked; a release older than the
    oldest in them, or one that they forbid, stays refused.
    """
    try:
        vehicle.state()
        return
    except BoxDamaged:
        found = list(_whole_slots(vehicle))
    released = [release.released.astimezone(UTC) for release in found]
    state = State(
        floor=min((release.manifest.version for release in found), default=0),
        min_sequence=max((release.manifest.min_sequence for release in found), default=0),
        root=max((release.root_version for release in found), default=0),
        time_floor=max(released, default=None),
    )
    write_state(vehicle.data, state)
    occasion.say(f"note: both state files were damaged; begun anew, nothing below release {state.floor}")


def _whole_slots(vehicle: Vehicle) -> Iterator[Release]:
    for path in (vehicle.data / "slots").iterdir():
        with contextlib.suppress(AxleboxError):
            yield vehicle.release(path.name)


def confirm(vehicle: Vehicle, occasion: Occasion, only: str | None = None) -> Release:
    """Make the release on trial the active one; only here do the floors rise.

    With `only`, the beginning of a digest, another release on trial is refused: it may have come meanwhile.
    """
    with vehicle.recorded("confirm", occasion) as receipt, _swept_up(vehicle, occasion):
        state = vehicle.state()
        if state.trial is None:
            raise UsageError("no release is on trial; nothing to confirm")
        if only is not None and not state.trial.startswith(only):
            raise UsageError(f"another release ({state.trial[:8]}) is on trial; nothing was confirmed")
        release = vehicle.release(state.trial)
        receipt.about(release.label, release.digest)
        _, members = read_slot(vehicle.slot(state.trial))
        # A newer root before the state is harmless: the old one leads to it.
        disk.replace_durable(vehicle.data / "root.json", members["root.json"])
        write_state(
            vehicle.data,
            state.confirmed(
                release.manifest.version,
                release.manifest.min_sequence,
                release.root_version,
                release.released.astimezone(UTC),
            ),
        )
        return release


def fallback(vehicle: Vehicle, occasion: Occasion) -> Release:
    """Go back to the other slot: from trial to active, or from active to previous."""
    with vehicle.recorded("fallback", occasion) as receipt, _swept_up(vehicle, occasion):
        state = vehicle.state()
        changed = state.fallen_back()
        if changed is None or changed.running is None:
            raise PreflightFailed("there is no other release to fall back to; nothing changed")
        try:
            release = vehicle.release(changed.running)
        except AxleboxError as error:
            raise FallbackFailed(f"the other release cannot run: {error}. Nothing changed") from error
        receipt.about(release.label, release.digest)
        if release.manifest.version < state.min_sequence:
            raise FallbackFailed(
                f"{release.label} is below release {state.min_sequence}, the oldest that may run; nothing changed"
            )
        write_state(vehicle.data, changed)
        return release


def note_sensor_replaced(vehicle: Vehicle, sensor: str, occasion: Occasion) -> None:
    """Record that another sensor answers to an id from now on."""
    with vehicle.recorded("sensor", occasion) as receipt:
        receipt.reason = f"sensor {sensor} was replaced"
