"""`axleboxd install`: what a technician sees at 02:00, from the stick to the verdict."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import click

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AlreadyInstalled, AxleboxError, UsageError
from axlebox.firmware_bundle.install import install as install_bundle
from axlebox.firmware_bundle.install import mend_state, preview
from axlebox.firmware_bundle.stick import Choice, Stick
from axlebox.firmware_bundle.vehicle import Occasion, Vehicle
from axlebox.runtime.commandline import json_option, show
from axlebox.runtime.commands import label_of_running, receipt_place
from axlebox.runtime.config import Config, load_config
from axlebox.runtime.control import ask_status
from axlebox.runtime.machine import this_runtime
from axlebox.runtime.maintenance import check_maintenance
from axlebox.runtime.options import config_option, data_option
from axlebox.runtime.privilege import become_owner, user_name
from axlebox.runtime.screen import Screen
from axlebox.runtime.statuses import OK, WARMING

if TYPE_CHECKING:
    from axlebox.firmware_bundle.trust import Bundle

TAKEOVER_WAITS_S = 30.0
"""How long a running daemon may take to take a release over."""
LIVE_WAITS_S = 5.0
"""How long a first reading is waited for."""
_POLL_S = 0.1

PULL = "You may pull the stick."
DAMAGED = "what this box has stored is damaged"


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@data_option
@json_option
def install(bundle: Path, yes: bool, config: Path | None, data: Path, as_json: bool) -> None:
    """Install BUNDLE, or the one bundle for this vehicle in a folder (a stick), on trial.

    Nothing that runs changes before the last step. A receipt is left on the stick. Ends with 3
    where the release is installed already, and with 21 where the vehicle stands in no maintenance.
    """
    if not yes and (as_json or not sys.stdin.isatty()):
        raise UsageError("nobody to ask here: give --yes to install without asking")
    screen = Screen(silent=as_json)
    with _at_the_vehicle(bundle, data, screen) as (vehicle, stick, occasion):
        session = _Session(vehicle, stick, load_config(data, config), occasion, screen)
        session.run(ask_first=None if yes else lambda: click.confirm("Install it?"))
    if session.installed is not None:
        show({**session.installed.facts(), "receipt": occasion.receipt, "live": session.live}, as_json)


@contextlib.contextmanager
def _at_the_vehicle(
    place: Path, data: Path, screen: Screen
) -> Iterator[tuple[Vehicle, Stick | AxleboxError, Occasion]]:
    """Open the stick, give up root's rights, then open the vehicle; at the end let go of the stick.

    A stick that cannot be opened is handed on as the error: the vehicle records it.
    """
    user = user_name()
    with contextlib.ExitStack() as stack:
        stick: Stick | AxleboxError
        try:
            stick = stack.enter_context(contextlib.closing(Stick(place)))
            receipts = receipt_place(stick, data, stack)
        except AxleboxError as error:
            stick, receipts = error, None
        become_owner(data)
        yield Vehicle.open(data), stick, Occasion(datetime.now(UTC), screen.say, user, receipts)


@dataclass(slots=True)
class _Session:
    """One installation as it is shown."""

    vehicle: Vehicle
    stick: Stick | AxleboxError
    config: Config
    occasion: Occasion
    screen: Screen
    installed: Bundle | None = None
    live: dict[str, Any] | None = None

    def run(self, ask_first: Callable[[], bool] | None) -> None:
        before = label_of_running(self.vehicle)
        generation = self._generation()
        try:
            choice, found = self._find()
            if ask_first is not None and not ask_first():
                self.screen.say("not installed; nothing changed")
                return
            self._install(choice, found)
        except AlreadyInstalled as same:
            words = f"{same}.".replace("; nothing", ". Nothing")
            self.screen.verdict("SAME", words[0].upper() + words[1:], self._pull())
            raise
        except AxleboxError as error:
            runs = self._runs(before)
            what = f"Nothing changed: {runs}." if self._generation() == generation else f"{runs[0].upper()}{runs[1:]}."
            said = error.headline or f"{error}."
            advice = "" if "DO:" in said or not error.advice else f"DO: {error.advice}."
            self.screen.verdict(f"FAIL {error.exit_code}", f" {said}", what, advice, self._receipt(), self._pull())
            raise

    def _runs(self, before: str | None) -> str:
        """What runs after a failure, by the daemon's own word; `before` is what would have started before it."""
        daemon = None
        with contextlib.suppress(AxleboxError):  # whoever may not ask learns what is installed
            daemon = ask_status(self.vehicle.data)
        if daemon is not None:
            return f"{daemon['release']['name']} {daemon['release']['version']} still runs"
        now = label_of_running(self.vehicle)
        if now is None:
            return "no release is installed" if self._is_empty() else DAMAGED
        return f"{now} {'stays installed' if now == before else 'is installed now'}"

    def _is_empty(self) -> bool:
        with contextlib.suppress(AxleboxError):
            return self.vehicle.state().running is None
        return False

    def _generation(self) -> int:
        """Counts the changes of the installation record; -1 where it cannot be read."""
        with contextlib.suppress(AxleboxError):
            return self.vehicle.state().generation
        return -1

    def _find(self) -> tuple[Choice, Bundle]:
        """Which bundle is meant, and what it is, by the bytes that were read; a refusal is recorded."""
        identity, screen = self.vehicle.identity, self.screen
        refusals = self.vehicle.refusals_recorded("install", self.occasion)
        with self.vehicle.locked(), refusals as receipt, disk.explained():
            if isinstance(self.stick, AxleboxError):
                raise self.stick
            check_maintenance(self.config.maintenance)
            mend_state(self.vehicle, self.occasion)
            choice = self.stick.choose(identity.vehicle, identity.hardware)
            self.stick.close()  # everything on it has been read
            for note in choice.notes:
                screen.say(f"note: {note}")
            try:
                bundle = preview(self.vehicle, choice.candidate, this_runtime(), self.occasion)
            except AxleboxError:
                screen.say(f"FOUND  {choice.candidate.name} for {identity.vehicle}")
                screen.say(f"NOW    {describe_present(self.vehicle)}")
                raise
            receipt.about(bundle.label, bundle.digest)
        signed = f"signed {len(bundle.signed_by)} of {bundle.signatures_needed}"
        screen.say(f"FOUND  {bundle.label} for {identity.vehicle}, {signed}")
        screen.say(f"NOW    {describe_present(self.vehicle)}")
        return choice, bundle

    def _install(self, choice: Choice, found: Bundle) -> None:
        from axlebox.runtime.selftest import run_apart

        self.installed = install_bundle(self.vehicle, choice.candidate, run_apart, this_runtime(), self.occasion)
        self.live = live_data(self.vehicle, found.digest)
        words = describe_live(self.live)
        self.screen.say(f"[6/6] live data {words}")
        name = self.vehicle.identity.vehicle
        if "refused" in self.live:
            raise AxleboxError(f"the daemon did not take {found.label} over: {self.live['refused']}")
        # Not on trial: the confirmed release, whose damaged slot was mended.
        how = " on trial" if self.vehicle.state().trial == found.digest else ""
        if "value" in self.live:
            said = f"{name} runs {found.label}."
        elif self.live["daemon"]:
            said = f"{name} runs {found.label}{how}, awaiting live data."
        else:
            said = f"{name} runs {found.label}{how} from its next start, awaiting live data."
        self.screen.verdict("PASS", said, self._receipt(), self._pull())

    def _pull(self) -> str:
        """Leave to pull the stick, once nothing of it is open."""
        if isinstance(self.stick, Stick):
            self.stick.close()
        return "" if self.occasion.stick is None else PULL

    def _receipt(self) -> str:
        if self.occasion.receipt is None:
            return ""
        where = "on the stick" if self.occasion.on_stick else "in this box's log"
        return f"Receipt {self.occasion.receipt} is {where}."


def describe_present(vehicle: Vehicle) -> str:
    """The release that would start, for how long it has been here, and what it has seen."""
    from axlebox.runtime import stored

    try:
        digest = vehicle.state().running
        if digest is None:
            return "no release"
        words = [vehicle.release(digest).label]
    except AxleboxError:
        return DAMAGED
    with contextlib.suppress(OSError):
        days = (datetime.now(UTC).timestamp() - (vehicle.slot(digest) / "slot.json").stat().st_mtime) / 86400
        if 0 <= days < 36500:
            words.append("since today" if days < 1 else f"{days:.0f} days")
    with contextlib.suppress(AxleboxError):
        seen = stored.counts(vehicle.data, digest)
        words += [_many(seen.anomalies, "anomaly", "anomalies"), _many(seen.faults, "sensor fault", "sensor faults")]
    return ", ".join(words)


def _many(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def live_data(vehicle: Vehicle, digest: str) -> dict[str, Any]:
    """What the running daemon makes of a release that was just switched to.

    Holds `daemon` (whether one runs), then `refused` with the reason, or `sensor`, `value` and
    `age_s` of the latest reading that the new release scored, where one came.
    """
    until = monotonic() + TAKEOVER_WAITS_S
    while (answer := ask_status(vehicle.data)) is not None and monotonic() < until:
        refused = answer.get("refused") or {}
        if refused.get("digest") == digest:
            return {"daemon": True, "refused": refused.get("reason", "")}
        if answer["release"]["digest"] == digest:
            return _first_reading(vehicle)
        sleep(_POLL_S)
    if answer is None:
        return {"daemon": False}
    return {"daemon": True, "refused": f"it is not ready after {TAKEOVER_WAITS_S:.0f} s"}


def _first_reading(vehicle: Vehicle) -> dict[str, Any]:
    until = monotonic() + LIVE_WAITS_S
    while (answer := ask_status(vehicle.data)) is not None and monotonic() < until:
        runs_s = answer["release"]["runs_s"]
        good = [one for one in answer["sensors"] if one["status"] in (OK, WARMING) and one["age_s"] <= runs_s]
        if answer["scored"] and good:
            latest = min(good, key=lambda one: one["age_s"])
            return {"daemon": True, **{name: latest[name] for name in ("sensor", "value", "unit", "age_s")}}
        sleep(_POLL_S)
    return {"daemon": answer is not None}


def describe_live(live: dict[str, Any]) -> str:
    if not live["daemon"]:
        return "skipped, daemon not running"
    if "refused" in live:
        return "FAILED"
    if "value" not in live:
        return "none yet"
    return f"OK {live['sensor']} {live['value']:.1f} {live['unit']}, {live['age_s']:.0f} s ago"
