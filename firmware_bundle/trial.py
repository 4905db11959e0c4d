"""Starting a release: what a start costs, when it has lived, and which slot runs where one cannot.

The daemon's side of the state machine: nothing here loads the trust modules. What it drops by
itself leaves a receipt without a signature.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from axlebox.firmware_bundle.errors import (
    AxleboxError,
    BoxDamaged,
    DiskRefused,
    FallbackFailed,
    Malformed,
    PreflightFailed,
    SelfTestFailed,
)
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.state import OUTAGES, TRIES, State, write_state
from axlebox.firmware_bundle.vehicle import DAEMON_WAITS_S, Occasion, SelfTest, Vehicle

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What tells one boot of this box from the next."""
    return _BOOT_ID.read_text().strip()


def _confirmed_first(state: State) -> State:
    """The same slots, with the release on trial behind the others."""
    if state.trial is None or state.active is None:
        return state
    return State(active=state.active, previous=state.previous or state.trial, min_sequence=state.min_sequence)


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts a vehicle's releases in one boot, by one runtime."""

    vehicle: Vehicle
    boot: str
    runtime: Runtime
    self_test: SelfTest

    def start(self, occasion: Occasion) -> Release:
        """The release to run now: on trial, active or previous, the first of them that can.

        A release on trial that died early too often is dropped, and so is a slot whose bytes
        differ from what was installed, or that fails its self-test on a runtime or machine that it
        was not proved on; each leaves a receipt. Raises PreflightFailed where nothing is installed,
        FallbackFailed where nothing that is can run.
        """
        try:
            # Until the end inside the lock: an installation may sweep a slot as soon as it is free.
            with self.vehicle.locked(DAEMON_WAITS_S):
                return self._start(occasion)
        except DiskRefused as error:
            occasion.say(f"{error}: nothing can be recorded, and what is confirmed runs")
            return self._first_that_runs(_confirmed_first(self.vehicle.state()))[0]

    def _start(self, occasion: Occasion) -> Release:
        vehicle = self.vehicle
        state = self._judge(vehicle.state(), occasion)
        if state.trial is not None:
            state = write_state(vehicle.data, state.young(self.boot))
        release, lost = self._first_that_runs(state)
        for digest, reason in lost:
            state = self._drop(state, digest, reason, occasion)
        return release

    def _judge(self, state: State, occasion: Occasion) -> State:
        judged = state.judged(self.boot)
        if state.trial is not None and judged.trial is None:
            how = f"{TRIES} times" if state.started == self.boot else f"with the whole box {OUTAGES} times"
            reason = f"the release on trial ({state.trial[:8]}) ended early {how}; it is dropped"
            return self._drop(state, state.trial, AxleboxError(reason), occasion)
        return judged

    def _first_that_runs(self, state: State) -> tuple[Release, list[tuple[str, AxleboxError]]]:
        """That release, and the slots before it with what is wrong with each."""
        lost: list[tuple[str, AxleboxError]] = []
        for digest in state.slots():
            try:
                return self._open(digest, state), lost
            except (BoxDamaged, FallbackFailed, Malformed, SelfTestFailed) as error:  # not what may pass by itself
                lost.append((digest, error))
        if not lost:
            raise PreflightFailed("no release installed. DO: axleboxd install")
        why = "; ".join(str(reason) for _, reason in lost)
        raise FallbackFailed(f"no installed release can run: {why}. DO: axleboxd install, from the stick")

    def _open(self, digest: str, state: State) -> Release:
        release = self.vehicle.release(digest)
        if release.manifest.version < state.min_sequence and digest != state.trial:
            raise FallbackFailed(f"{release.label} is below release {state.min_sequence}, the oldest that may run")
        if self.vehicle.proved().get(digest) != self.runtime.fingerprint:
            self.self_test(self.vehicle.slot(digest))
            with contextlib.suppress(OSError):  # then it is tested once more by the next start
                self.vehicle.note_proved(digest, self.runtime)
        return release

    def give_up(self, digest: str, reason: AxleboxError, occasion: Occasion) -> None:
        """Drop a release that opened well and could not be run for another reason."""
        with self.vehicle.locked(DAEMON_WAITS_S):
            state = self.vehicle.state()
            if digest in state.slots():
                self._drop(state, digest, reason, occasion)

    def _drop(self, state: State, digest: str, reason: AxleboxError, occasion: Occasion) -> State:
        """Take a slot out of the record, with a receipt."""
        occasion.say(str(reason))
        draft = self.vehicle.draft("drop", occasion)
        draft.digest = digest
        draft.refused(reason.exit_code, str(reason))
        state = write_state(self.vehicle.data, state.without(digest))
        self.vehicle.write_receipt(draft, occasion, signed=False)
        return state

    def lived(self, release: Release) -> bool:
        """Note that this start of `release` did not die early; False where that cannot be noted now."""
        try:
            with self.vehicle.locked(wait_s=0.0):
                state = self.vehicle.state()
                if state.trial == release.digest and state.started is not None:
                    write_state(self.vehicle.data, state.grown())
        except AxleboxError:  # another change is under way, or the disk refuses: no reason to end a run
            return False
        return True
