"""The vehicle's data folder and the state machine of installing, confirming and falling back.

What this package may not import comes as an argument: `self_test` and `runtime` from the
runtime. `tuf` is loaded only inside `Vehicle.verify`, so that whoever only starts a release, as
the daemon does, never loads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import (
    AlreadyInstalled,
    AxleboxError,
    Damaged,
    FallbackFailed,
    PreflightFailed,
    UsageError,
    naming,
)
from axlebox.firmware_bundle.manifest import Identifier, decode, encode
from axlebox.firmware_bundle.receipts import LOG, OLD_LOG, Action, Draft
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release, open_slot, write_slot
from axlebox.firmware_bundle.state import TRIES, State, read_state, write_state

if TYPE_CHECKING:
    from axlebox.firmware_bundle.trust import Bundle

Say = Callable[[str], None]
SelfTest = Callable[[Path], str]
"""Runs the golden readings of a slot folder; returns a summary or raises SelfTestFailed."""

_OWN_NAMES = frozenset(
    (
        *("vehicle.json", "vehicle.key", "vehicle.pub", "root.json", "state.0", "state.1"),
        *("slots", "lock", "incoming.part", LOG, OLD_LOG),
    )
)
"""What a data folder holds for axlebox alone."""

_MAX_ROOT_BYTES = 512 * 1024
_SPARE_BYTES = 1024 * 1024


class Identity(Struct, frozen=True, forbid_unknown_fields=True):
    vehicle: Identifier
    hardware: Identifier


@dataclass(frozen=True, slots=True)
class Vehicle:
    """One vehicle's data folder."""

    data: Path
    identity: Identity

    @classmethod
    def open(cls, data: Path) -> Vehicle:
        path = data / "vehicle.json"
        with disk.explained():
            provisioned = path.exists()
        if not provisioned:
            raise PreflightFailed(f"{data} is not provisioned. DO: axleboxd provision")
        return cls(data, decode(disk.read_bounded(path, _MAX_ROOT_BYTES), Identity, str(path)))

    @classmethod
    def provision(cls, data: Path, root: bytes, identity: Identity) -> Vehicle:
        """Give a data folder its identity, its root of trust and a key of its own, once."""
        from axlebox.firmware_bundle.tuf_client import parse_root
        from axlebox.firmware_bundle.vehicle_key import make_key

        parse_root(root)
        path = data / "vehicle.json"
        with disk.explained():
            provisioned = path.exists()
        if provisioned:
            raise UsageError(f"{data} is provisioned already as {cls.open(data).identity.vehicle}; nothing changed")
        with disk.explained():
            data.mkdir(parents=True, exist_ok=True)
            (data / "slots").mkdir(exist_ok=True)
            disk.replace_durable(data / "root.json", root)
            make_key(data)
            # vehicle.json comes last: it is what makes the folder count as provisioned.
            disk.replace_durable(path, encode(identity))
        return cls(data, identity)

    def owns(self, path: Path) -> bool:
        """Whether a path is one of the files that nobody else may write."""
        data, place = self.data.resolve(), path.resolve()
        return place.is_relative_to(data) and place != data and place.relative_to(data).parts[0] in _OWN_NAMES

    def key_fingerprint(self) -> str:
        """What identifies the vehicle's own key to a person."""
        from axlebox.firmware_bundle.vehicle_key import fingerprint, read_public

        return fingerprint(read_public(self.data))

    def state(self) -> State:
        return read_state(self.data)

    def slot(self, digest: str) -> Path:
        return self.data / "slots" / digest

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with disk.explained(), open(self.data / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PreflightFailed("another axleboxd command is changing this vehicle; try again") from error
            yield

    @contextlib.contextmanager
    def _recorded(self, action: Action, now: datetime, say: Say) -> Iterator[Draft]:
        """Hold the lock, and write a receipt of what was done or refused.

        A receipt that cannot be written undoes nothing; `say` is told.
        """
        with self._locked():
            state = self.state()
            trusted = state.time_floor is None or now >= state.time_floor
            draft = Draft(action, now, trusted, self.identity.vehicle, self.identity.hardware, state.running)
            try:
                with disk.explained():
                    yield draft
            except Exception as error:
                draft.refused(
                    error.exit_code if isinstance(error, AxleboxError) else AxleboxError.exit_code, str(error)
                )
                self._write_receipt(draft, say)
                raise
            self._write_receipt(draft, say)

    def _write_receipt(self, draft: Draft, say: Say) -> None:
        try:
            draft.write(self.data)
        except (OSError, AxleboxError) as error:
            say(f"      note: no receipt could be written: {error}")

    def verify(self, data: bytes, runtime: Runtime, now: datetime) -> Bundle:
        """Check bundle bytes against this vehicle's trust, floors, identity, runtime and clock."""
        from axlebox.firmware_bundle.trust import verify

        state = self.state()
        return verify(
            data,
            trust=disk.read_bounded(self.data / "root.json", _MAX_ROOT_BYTES),
            reference_time=max(now, state.time_floor) if state.time_floor else now,
            floor=state.floor,
            hardware=self.identity.hardware,
            vehicle=self.identity.vehicle,
            min_sequence=state.min_sequence,
            runtime=runtime,
            clock=now,
        )

    def install(self, source: Path, self_test: SelfTest, runtime: Runtime, now: datetime, say: Say) -> Bundle:
        """Bring a bundle file into a slot and put it on trial; `say` gets one line for each step.

        Nothing changes before the last step, the one write of the state.
        """
        with self._recorded("install", now, say) as receipt:
            self._sweep()
            try:
                bundle = self._install_locked(source, self_test, runtime, now, say, receipt)
            except Exception:
                with contextlib.suppress(OSError, AxleboxError):  # the first reason is the one to tell
                    self._sweep()
                raise
            self._sweep()
            return bundle

    def _install_locked(
        self, source: Path, self_test: SelfTest, runtime: Runtime, now: datetime, say: Say, receipt: Draft
    ) -> Bundle:
        data = self._take_copy(source)
        say("[1/5] space OK, copy OK")
        with naming(source):
            bundle = self.verify(data, runtime, now)
        receipt.about(bundle.label, bundle.digest)
        for warning in bundle.warnings:
            say(f"      note: {warning}")
        say(f"[2/5] verify OK: {bundle.label}, signed {len(bundle.signed_by)} of {bundle.signatures_needed} needed")
        state = self.state()
        if bundle.digest in (state.active, state.running) and self._opens(bundle.digest):
            raise AlreadyInstalled(f"{bundle.label} is installed already; nothing changed")
        say(f"[3/5] runtime OK: {runtime.version}")
        self._fill_slot(bundle, self_test, say)
        if bundle.digest != state.active:  # else its damaged slot was mended, and there is nothing to switch
            write_state(self.data, msgspec.structs.replace(state, trial=bundle.digest, tries=TRIES))
        say("[5/5] switch OK")
        return bundle

    def _opens(self, digest: str) -> bool:
        try:
            open_slot(self.slot(digest))
        except Damaged:
            return False
        return True

    def _take_copy(self, source: Path) -> bytes:
        """Copy the file from the stick and read the copy back: the stick is never trusted twice."""
        data = disk.read_bounded(source, MAX_CONTAINER_BYTES)
        needed = 3 * len(data) + _SPARE_BYTES
        free = shutil.disk_usage(self.data).free
        if free < needed:
            raise PreflightFailed(f"{self.data} has {free} bytes free, {needed} are needed")
        copy = self._incoming
        disk.write_durable(copy, data)
        disk.sync_folder(copy.parent)
        return disk.read_bounded(copy, MAX_CONTAINER_BYTES)

    @property
    def _incoming(self) -> Path:
        return self.data / "incoming.part"

    def _fill_slot(self, bundle: Bundle, self_test: SelfTest, say: Callable[[str], None]) -> None:
        slot = self.slot(bundle.digest)
        if slot.exists() and self._opens(bundle.digest):  # the release that a fallback left behind
            say(f"[4/5] self-test OK: {self_test(slot)}")
            return
        part = slot.with_name(slot.name + ".part")
        write_slot(part, bundle.digest, bundle.released, bundle.root, bundle.root_version, bundle.members)
        say(f"[4/5] self-test OK: {self_test(part)}")
        disk.remove_tree(slot)  # only a damaged one can be there
        disk.rename_durable(part, slot)

    def _sweep(self) -> None:
        """Remove what no state refers to: leavings of interrupted installations."""
        keep = self.state().slots()
        for path in (self.data / "slots").iterdir():
            if path.name not in keep:
                disk.remove_tree(path)
        self._incoming.unlink(missing_ok=True)

    def start(self, say: Say = lambda line: None) -> Release:
        """The release to run now. A start of a release on trial costs one try until `healthy`.

        `say` is told where the release on trial has no try left and is dropped.
        """
        with self._locked():
            state = self.state()
            if state.trial is not None and state.tries == 0:
                say(f"the release on trial ({state.trial[:8]}) ended early {TRIES} times; it is dropped")
                state = write_state(self.data, msgspec.structs.replace(state, trial=None))
            running = state.running
            if running is None:
                raise PreflightFailed("no release installed. DO: axleboxd install")
            if running == state.trial:
                write_state(self.data, msgspec.structs.replace(state, tries=state.tries - 1))
            # Inside the lock: an installation may sweep this slot as soon as it is free.
            return open_slot(self.slot(running))

    def healthy(self, release: Release) -> None:
        """Give the try back: this start of `release` did not die early."""
        with self._locked():
            state = self.state()
            if state.trial == release.digest and state.tries < TRIES:
                write_state(self.data, msgspec.structs.replace(state, tries=state.tries + 1))

    def confirm(self, now: datetime, say: Say) -> Release:
        """Make the release on trial the active one; only here do the floors rise."""
        with self._recorded("confirm", now, say) as receipt:
            state = self.state()
            if state.trial is None:
                raise UsageError("no release is on trial; nothing to confirm")
            release = open_slot(self.slot(state.trial))
            receipt.about(release.label, release.digest)
            root = disk.read_bounded(self.slot(state.trial) / "root.json", _MAX_ROOT_BYTES)
            # A newer root before the state is harmless: the old one leads to it.
            disk.replace_durable(self.data / "root.json", root)
            released = release.released.astimezone(UTC)
            write_state(
                self.data,
                msgspec.structs.replace(
                    state,
                    active=state.trial,
                    previous=state.active,
                    trial=None,
                    tries=0,
                    floor=max(state.floor, release.manifest.version),
                    min_sequence=max(state.min_sequence, release.manifest.min_sequence),
                    root=release.root_version,
                    time_floor=max(state.time_floor, released) if state.time_floor else released,
                ),
            )
            self._sweep()
            return release

    def fallback(self, now: datetime, say: Say) -> Release:
        """Go back to the other slot: from trial to active, or from active to previous."""
        with self._recorded("fallback", now, say) as receipt:
            state = self.state()
            if state.trial is not None and state.active is not None:
                target = state.active
                changed = msgspec.structs.replace(state, trial=None, tries=0)
            elif state.trial is None and state.previous is not None:
                target = state.previous
                changed = msgspec.structs.replace(state, active=target, previous=state.active)
            else:
                raise PreflightFailed("there is no other release to fall back to; nothing changed")
            try:
                release = open_slot(self.slot(target))
            except AxleboxError as error:
                raise FallbackFailed(f"the other release cannot run: {error}. Nothing changed") from error
            receipt.about(release.label, release.digest)
            if release.manifest.version < state.min_sequence:
                raise FallbackFailed(
                    f"{release.label} is below release {state.min_sequence}, the oldest that may run; nothing changed"
                )
            write_state(self.data, changed)
            self._sweep()
            return release


def find_bundle(place: Path) -> Path:
    """The bundle file meant by a path: the file itself, or the only one in a folder (a stick).

    Names that begin with a dot (`._*` of macOS) and unfinished copies do not count. Whoever fills a
    stick chooses its names, and they are shown: one that would move the terminal's cursor could
    write a PASS there, and is refused.
    """
    if not place.is_dir():
        return _shown(place)
    found = sorted(path for path in place.glob("*.axb") if not path.name.startswith(".") and path.is_file())
    if not found:
        raise UsageError(f"no bundle (*.axb) in {place}")
    for path in found:
        _shown(path)
    if len(found) > 1:
        raise UsageError(f"{place} holds {', '.join(path.name for path in found)}: name the one that is meant")
    return found[0]


def _shown(path: Path) -> Path:
    if not path.name.isprintable():
        raise UsageError(f"the file name {path.name!a} holds what no name needs. DO: do not use this file")
    return path
