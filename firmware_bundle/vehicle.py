"""One vehicle's data folder: its identity, its lock, its trust, and the record of what is done to it.

`tuf` is loaded only inside `Vehicle.verify`, so that whoever only starts a release, as the daemon
does, never loads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, BoxDamaged, Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Identifier, Sha256, decode, encode
from axlebox.firmware_bundle.receipts import LOG, OLD_LOG, SEEN, Action, Draft, Entry, note_seen, waiting
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release, open_slot
from axlebox.firmware_bundle.state import State, read_state

if TYPE_CHECKING:
    from axlebox.firmware_bundle.trust import Bundle

Say = Callable[[str], None]
SelfTest = Callable[[Path], str]
"""Runs the golden readings of a slot folder; returns a summary or raises SelfTestFailed."""

COMMAND_WAITS_S, DAEMON_WAITS_S = 5.0, 30.0
"""How long whoever changes a vehicle waits for another change to end."""
_POLL_S = 0.02

PROVED, RUN_LOCK, SOCKET, STORE, CONFIG = "proved.json", "run.lock", "axleboxd.sock", "store.db", "config.toml"
DETECTOR_STATE, STORE_SET_ASIDE = "detector.state", "store.damaged.db"
_OWN_NAMES = frozenset(
    (
        *("vehicle.json", "vehicle.key", "vehicle.pub", "root.json", "state.0", "state.1"),
        *("slots", "lock", "incoming.part", LOG, OLD_LOG, SEEN, PROVED, RUN_LOCK, SOCKET, CONFIG),
        *(DETECTOR_STATE, DETECTOR_STATE + ".part", STORE_SET_ASIDE),
        *(STORE + end for end in ("", "-wal", "-shm", "-journal")),
    )
)
"""What a data folder holds for axlebox alone."""

_MAX_FILE_BYTES = 512 * 1024


class Identity(Struct, frozen=True, forbid_unknown_fields=True):
    vehicle: Identifier
    hardware: Identifier


class ReceiptPlace(Protocol):
    """Where receipts go beside the log: a stick."""

    serial: str

    def keep(self, name: str, document: bytes) -> None:
        """Write one receipt file, durably. Raises OSError."""


@dataclass(slots=True)
class Occasion:
    """When, by whom and in front of which stick a vehicle is changed, and who is told."""

    now: datetime
    say: Say
    user: str = ""
    stick: ReceiptPlace | None = None
    receipt: str | None = None
    """Id of the receipt, once it is written."""
    on_stick: bool = False


@dataclass(frozen=True, slots=True)
class Vehicle:
    data: Path
    identity: Identity

    @classmethod
    def open(cls, data: Path) -> Vehicle:
        path = data / "vehicle.json"
        with disk.explained():
            provisioned = path.exists()
        if not provisioned:
            raise PreflightFailed(f"{data} is not provisioned. DO: axleboxd provision")
        with _own(path):
            return cls(data, decode(disk.read_bounded(path, _MAX_FILE_BYTES), Identity, str(path)))

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
            disk.make_folder(data)
            disk.make_folder(data / "slots")
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

    def release(self, digest: str) -> Release:
        """The release in a slot. Raises BoxDamaged where any byte differs from what was installed."""
        return open_slot(self.slot(digest))

    def verify(self, data: bytes, runtime: Runtime, now: datetime) -> Bundle:
        """Check bundle bytes against this vehicle's trust, floors, identity, runtime and clock."""
        from axlebox.firmware_bundle.trust import verify
        from axlebox.firmware_bundle.tuf_client import parse_root

        state = self.state()
        path = self.data / "root.json"
        with _own(path):
            trust = disk.read_bounded(path, _MAX_FILE_BYTES)
            parse_root(trust)
        return verify(
            data,
            trust=trust,
            reference_time=max(now, state.time_floor) if state.time_floor else now,
            floor=state.floor,
            hardware=self.identity.hardware,
            vehicle=self.identity.vehicle,
            min_sequence=state.min_sequence,
            runtime=runtime,
            clock=now,
        )

    def proved(self) -> dict[str, str]:
        """By digest, the runtime and machine on which a release last passed its self-test here."""
        path = self.data / PROVED
        try:
            return decode(disk.read_bounded(path, _MAX_FILE_BYTES), dict[Sha256, str], PROVED) if path.exists() else {}
        except Malformed:
            return {}  # then it is tested once more

    def note_proved(self, digest: str, runtime: Runtime) -> None:
        known = {one: where for one, where in self.proved().items() if one in self.state().slots()}
        disk.replace_durable(self.data / PROVED, encode({**known, digest: runtime.fingerprint}))

    @contextlib.contextmanager
    def locked(self, wait_s: float | None = None) -> Iterator[None]:
        """Keep everybody else from changing this vehicle. Raises PreflightFailed after `wait_s` seconds."""
        until = monotonic() + (COMMAND_WAITS_S if wait_s is None else wait_s)
        how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with disk.explained(), open(os.open(self.data / "lock", how, 0o644), "rb") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if monotonic() >= until:
                        raise PreflightFailed("another axleboxd command is changing this vehicle; try again") from error
                sleep(_POLL_S)
            yield

    @contextlib.contextmanager
    def recorded(self, action: Action, occasion: Occasion) -> Iterator[Draft]:
        """Hold the lock, and write a receipt of what was done or refused."""
        with self.locked():
            with self.refusals_recorded(action, occasion) as draft, disk.explained():
                yield draft
            self.write_receipt(draft, occasion)

    @contextlib.contextmanager
    def refusals_recorded(self, action: Action, occasion: Occasion) -> Iterator[Draft]:
        """Write a receipt where what is inside is refused; the caller holds the lock."""
        draft = self.draft(action, occasion)
        try:
            yield draft
        except Exception as error:
            code = error.exit_code if isinstance(error, AxleboxError) else AxleboxError.exit_code
            draft.refused(code, str(error))
            self.write_receipt(draft, occasion)
            raise

    def draft(self, action: Action, occasion: Occasion) -> Draft:
        """A receipt of an action that begins now."""
        try:
            state = self.state()
        except BoxDamaged:
            state = State()
        return Draft(
            action=action,
            time=occasion.now,
            clock_trusted=state.time_floor is None or occasion.now >= state.time_floor,
            vehicle=self.identity.vehicle,
            hardware=self.identity.hardware,
            before=state.running,
            before_release=self._label(state.running),
            user=occasion.user,
            stick=None if occasion.stick is None else occasion.stick.serial,
        )

    def _label(self, digest: str | None) -> str | None:
        try:
            return None if digest is None else self.release(digest).label
        except AxleboxError:
            return None

    def write_receipt(self, draft: Draft, occasion: Occasion, signed: bool = True) -> None:
        """Append a receipt to the log, and lay it on the stick with those that no stick has seen.

        One that cannot be written undoes nothing; `say` is told.
        """
        try:
            unseen = waiting(self.data) if occasion.stick is not None else []
            entry = draft.write(self.data, signed)
            occasion.receipt = entry.id
        except (OSError, AxleboxError) as error:
            occasion.say(f"note: no receipt could be written: {error}")
            return
        self._lay_on_stick([*unseen, entry], occasion)

    def _lay_on_stick(self, entries: list[Entry], occasion: Occasion) -> None:
        if occasion.stick is None:
            return
        try:
            for entry in entries:
                occasion.stick.keep(f"{entry.id}.json", entry.document())
            occasion.on_stick = True
            note_seen(self.data, entries[-1])
        except OSError as error:
            occasion.say(f"note: the receipt could not be written to the stick: {error.strerror or error}")


@contextlib.contextmanager
def _own(path: Path) -> Iterator[None]:
    """What is wrong with a file of the data folder is wrong with this box, not with the stick."""
    try:
        yield
    except AxleboxError as error:
        words = str(error)
        raise BoxDamaged(words if str(path) in words else f"{path}: {words}") from error
