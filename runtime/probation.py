"""What a release on trial must show the daemon: that a start lives, and that it works for long enough."""

from __future__ import annotations

import subprocess
import sys

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Say
from axlebox.runtime.config import Confirm

LIVED_S = 60.0
"""A start that gets this old did not die early."""


class Probation:
    """One start of one release; without effect where it is not on trial."""

    def __init__(self, starter: Starter, release: Release, rule: Confirm, say: Say, now: float) -> None:
        """`now` is the moment of the start, in seconds of the monotonic clock, as in `tick`."""
        self._starter = starter
        self._release = release
        self.rule = rule
        self._say = say
        self._lived = False
        self._next_note = now + LIVED_S
        self._confirm_from = now
        self._confirming: subprocess.Popen[str] | None = None
        try:
            self.on_trial = starter.vehicle.state().trial == release.digest
        except AxleboxError:  # worn out since the start: nothing can be noted or confirmed
            self.on_trial = False
        self._lived = not self.on_trial

    def tick(self, now: float, scored: int) -> None:
        """Note what is due; `scored` counts the readings that passed the gate and were scored since the start."""
        if not self.on_trial:
            return
        if not self._lived and now >= self._next_note:
            self._next_note = now + LIVED_S
            self.lived()
        if self._confirming is not None:
            self._look_at_confirmation()
        elif self._has_run_well(now, scored):
            self._confirm_from = now
            self._confirm()

    def _has_run_well(self, now: float, scored: int) -> bool:
        rule = self.rule
        return rule.automatic and now >= self._confirm_from + rule.after_s and scored >= rule.after_readings

    def lived(self) -> None:
        """This start did not die early: it got old enough, or ends in order."""
        self._lived = self._lived or self._starter.lived(self._release)

    def _confirm(self) -> None:
        """In a program of its own, by the command that a person uses: confirming signs, and loads the trust modules."""
        if self._is_confirmed():
            self.on_trial = False
            return
        words = ["confirm", "--digest", self._release.digest, "--data", str(self._starter.vehicle.data)]
        command = [sys.executable, "-P", "-c", "from axlebox.runtime.cli import main; main()", *words]
        try:
            self._confirming = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:  # no memory or no process left: scoring goes on
            self._say(f"{self._release.label} could not be confirmed: {error.strerror}")

    def _is_confirmed(self) -> bool:
        """Whether a person was faster."""
        try:
            return self._starter.vehicle.state().active == self._release.digest
        except AxleboxError:
            return False

    def _look_at_confirmation(self) -> None:
        if self._confirming is None or self._confirming.poll() is None:
            return
        _, told = self._confirming.communicate()
        if self._confirming.returncode == 0:
            self.on_trial = False
            self._say(f"{self._release.label} is confirmed: it has run well for long enough")
        else:
            self._say(f"{self._release.label} could not be confirmed: {told.strip()[:400]}")
        self._confirming = None
