"""A vehicle's data folder: provisioning, installing, starting, confirming, falling back, power cuts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle import disk, receipts, trial, vehicle
from axlebox.firmware_bundle.errors import (
    AlreadyInstalled,
    AxleboxError,
    BadSignature,
    BoxDamaged,
    Damaged,
    Expired,
    FallbackFailed,
    Malformed,
    PreflightFailed,
    Rollback,
    RuntimeTooOld,
    SelfTestFailed,
    TooFewSignatures,
    TooOld,
    UsageError,
    WrongHardware,
    WrongVehicle,
)
from axlebox.firmware_bundle.install import confirm, fallback, install
from axlebox.firmware_bundle.manifest import Golden, GoldenRow, encode
from axlebox.firmware_bundle.receipts import Receipt
from axlebox.firmware_bundle.skew import Runtime, check_version
from axlebox.firmware_bundle.slots import Release, open_slot
from axlebox.firmware_bundle.state import OUTAGES, TRIES, State, write_state
from axlebox.firmware_bundle.stick import Stick
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = RELEASED + timedelta(days=30)
RUNTIME = Runtime("0.1.0", frozenset({("value", 1)}), "this runtime on this machine")
GOLDEN = encode(Golden((GoldenRow("2026-03-01T00:00:00Z", "temperature", 100.0, 0.5, False),)))


class Depot:
    """One vehicle, a stick beside it, and bundles without a real model."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world = world
        self.stick = folder / "stick"
        self.stick.mkdir()
        self.data = folder / "data"
        self.vehicle = Vehicle.provision(self.data, world.root(), Identity("T204", "rail-box-a"))
        self.said: list[str] = []

    def bundle(self, version: int, cut: float = 1.0, **how: Any) -> Path:
        """A bundle file on the stick."""
        model = self.world.model_like(cut)
        manifest = self.world.manifest(version, **how.pop("manifest", {}))
        files = {"manifest.json": encode(manifest), "golden.json": GOLDEN, "model.onnx": model}
        path = self.stick / f"bearing-temp-{version}.axb"
        path.write_bytes(self.world.bundle(version, files=files, **how))
        return path

    def occasion(self, now: datetime = NOW, **how: Any) -> Occasion:
        return Occasion(**{"now": now, "say": self.said.append, "user": "tech", **how})

    def install(self, source: Path | int, **how: Any) -> Any:
        """Install a file, or a plain bundle of that version."""
        self_test, runtime = how.pop("self_test", good_self_test), how.pop("runtime", RUNTIME)
        stick = Stick(self.bundle(source) if isinstance(source, int) else source)
        try:
            candidate = stick.choose("T204", "rail-box-a").candidate
        finally:
            stick.close()
        return install(self.vehicle, candidate, self_test, runtime, self.occasion(**how))

    def start(self, boot: str = "this boot", **how: Any) -> Release:
        plain = {"runtime": RUNTIME, "self_test": good_self_test}
        return Starter(self.vehicle, boot, **{**plain, **how}).start(self.occasion())

    def lived(self, release: Release) -> None:
        assert Starter(self.vehicle, "this boot", RUNTIME, good_self_test).lived(release)

    def confirmed(self, *versions: int, **how: Any) -> str:
        """Install and confirm these versions in turn; the digest of the last."""
        digest = ""
        for version in versions:
            digest = self.install(self.bundle(version, **how)).digest
            self.confirm()
        return digest

    def confirm(self) -> Release:
        return confirm(self.vehicle, self.occasion())

    def fall_back(self) -> Release:
        return fallback(self.vehicle, self.occasion())

    def picture(self) -> dict[str, bytes]:
        """Every file of the data folder but the lock and the receipts, which tell of refusals as well."""
        files = (path for path in self.data.rglob("*") if path.is_file() and path.name not in ("lock", "receipts.log"))
        return {str(path.relative_to(self.data)): path.read_bytes() for path in files}

    def receipts(self) -> list[Receipt]:
        return list(receipts.read(self.data, read_public(self.data)))

    def slots(self) -> set[str]:
        return {path.name for path in (self.data / "slots").iterdir()}

    def running(self) -> int:
        """The version that a start would run, without the cost of a start."""
        running = self.vehicle.state().running
        assert running is not None
        return open_slot(self.vehicle.slot(running)).manifest.version


def good_self_test(slot: Path) -> str:
    return f"{len(open_slot(slot).golden.rows)}/1"


@pytest.fixture
def depot(world: Any, tmp_path: Path) -> Depot:
    return Depot(world, tmp_path)


# Provisioning


def test_a_provisioned_folder_is_opened_again(depot: Depot) -> None:
    assert Vehicle.open(depot.data) == depot.vehicle
    assert depot.vehicle.state() == State()


def test_a_folder_that_is_not_provisioned_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PreflightFailed, match="DO: axleboxd provision"):
        Vehicle.open(tmp_path)


def test_a_second_provisioning_is_refused_and_changes_nothing(depot: Depot) -> None:
    before = depot.picture()
    with pytest.raises(UsageError, match="provisioned already as T204"):
        Vehicle.provision(depot.data, depot.world.root(version=2), Identity("T205", "rail-box-b"))
    assert depot.picture() == before


def test_a_root_that_nobody_signed_is_not_provisioned(world: Any, tmp_path: Path) -> None:
    with pytest.raises(TooFewSignatures):
        Vehicle.provision(tmp_path / "data", world.root(signed_by=()), Identity("T204", "any"))
    assert not (tmp_path / "data").exists()


def test_a_place_where_no_folder_can_be_is_a_typed_refusal(world: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreflightFailed, match="file"):
        Vehicle.provision(tmp_path / "file" / "data", world.root(), Identity("T204", "any"))


# Installing


def test_an_installed_release_is_on_trial_and_the_steps_are_told(depot: Depot) -> None:
    bundle = depot.install(1)
    assert depot.vehicle.state() == State(generation=1, trial=bundle.digest, tries=TRIES, outages=OUTAGES)
    assert depot.slots() == {bundle.digest}
    assert [line[:5] for line in depot.said] == ["[1/6]", "[2/6]", "[3/6]", "[4/6]", "[5/6]"]
    assert depot.said[3] == "[4/6] self-test OK: 1/1"


def test_the_vehicle_s_folder_holds_nothing_that_is_not_needed(depot: Depot) -> None:
    digest = depot.confirmed(1)
    members = {"manifest.json", "golden.json", "model.onnx", "root.json", "slot.json"}
    plain = {"vehicle.json", "vehicle.key", "vehicle.pub", "root.json", "state.0", "state.1", "proved.json"}
    assert set(depot.picture()) == plain | {f"slots/{digest}/{name}" for name in members}


def test_the_same_bundle_twice_is_installed_already(depot: Depot) -> None:
    depot.install(1)
    before = depot.picture()
    for confirmed in (False, True):
        if confirmed:
            depot.confirm()
            before = depot.picture()
        with pytest.raises(AlreadyInstalled, match="nothing changed") as refusal:
            depot.install(1)
        assert refusal.value.exit_code == 3
        assert depot.picture() == before


def other_signature(data: bytes) -> bytes:
    """A bundle whose targets.json has another digit in its signature."""
    at = data.index(b'"sig": "', data.index(b"targets.json\0")) + 8
    return data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]


REFUSALS: dict[str, tuple[type[AxleboxError], Callable[[Depot], dict[str, Any]]]] = {
    "wrong vehicle": (WrongVehicle, lambda depot: {"source": depot.bundle(2, manifest={"vehicles": ("T1",)})}),
    "wrong hardware": (WrongHardware, lambda depot: {"source": depot.bundle(2, manifest={"hardware": ("x",)})}),
    "unknown signer": (TooFewSignatures, lambda depot: {"source": depot.bundle(2, targets_keys=["stranger"])}),
    "wrong signature": (BadSignature, lambda depot: {"source": rewritten(depot.bundle(2), other_signature)}),
    "cut short": (Damaged, lambda depot: {"source": rewritten(depot.bundle(2), lambda data: data[:-1])}),
    "no bundle": (Malformed, lambda depot: {"source": rewritten(depot.bundle(2), lambda _: b"PK" * 999)}),
    "too large": (Malformed, lambda depot: {"source": rewritten(depot.bundle(2), lambda _: bytes(64 << 20 | 1))}),
    "expired": (Expired, lambda depot: {"source": depot.bundle(2), "now": datetime(2100, 1, 1, tzinfo=UTC)}),
    "newer runtime": (
        RuntimeTooOld,
        lambda depot: {
            "source": depot.bundle(2, manifest={"min_runtime": "0.10.0"}),
            "runtime": Runtime("0.9.9", RUNTIME.feature_sets),
        },
    ),
    "self-test": (SelfTestFailed, lambda depot: {"source": depot.bundle(2), "self_test": failing_self_test}),
}


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def failing_self_test(slot: Path) -> str:
    raise SelfTestFailed("golden reading 1 of 1: expected another score")


@pytest.mark.parametrize(("kind", "how"), REFUSALS.values(), ids=REFUSALS)
def test_a_refused_installation_changes_nothing_and_leaves_nothing(
    depot: Depot, kind: type[AxleboxError], how: Callable[[Depot], dict[str, Any]]
) -> None:
    depot.confirmed(1)
    before = depot.picture()
    with pytest.raises(kind) as refusal:
        depot.install(**how(depot))
    assert type(refusal.value) is kind
    assert depot.picture() == before
    assert depot.start().manifest.version == 1


def test_a_release_that_needs_a_newer_runtime_says_so(depot: Depot) -> None:
    with pytest.raises(
        PreflightFailed, match=r"needs runtime 0\.2\.0 or newer, this is 0\.1\.0\. DO: update the runtime"
    ):
        depot.install(depot.bundle(1, manifest={"min_runtime": "0.2.0"}))


@pytest.mark.parametrize(
    ("needed", "found"), [("0.1.0", "0.1.0"), ("0.9.0", "0.10.0"), ("1.2", "1.2.1"), ("1.2.0", "1.2")]
)
def test_a_runtime_that_is_new_enough_is_accepted(needed: str, found: str) -> None:
    check_version(needed, Runtime(found, frozenset()))


@pytest.mark.parametrize("version", ["", "1.x", "1..2", "v1", "1.2-rc1", "-1", "1_0"])
def test_a_version_that_is_not_numbers_and_dots_is_malformed(version: str) -> None:
    with pytest.raises(Malformed):
        check_version(version, RUNTIME)


def test_too_little_space_is_told_before_anything_is_copied(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    before = depot.picture()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(PreflightFailed, match="has 1000 bytes free"):
        depot.install(1)
    assert depot.picture() == before


def test_a_disk_that_fills_up_meanwhile_is_a_typed_refusal(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PreflightFailed, match="No space left"):
        depot.install(1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for another change to end."""
    monkeypatch.setattr(vehicle, "COMMAND_WAITS_S", 0.0)
    monkeypatch.setattr(trial, "DAEMON_WAITS_S", 0.0)


def test_a_folder_that_another_process_changes_is_left_alone(depot: Depot, impatient: None) -> None:
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", script, depot.data / "lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for change in (lambda: depot.install(1), depot.start, depot.confirm, depot.fall_back):
            with pytest.raises(PreflightFailed, match="another axleboxd command"):
                change()
        other.communicate("\n")
    assert depot.install(1).label == "bearing-temp 1"


def test_two_changes_at_once_are_refused(depot: Depot, impatient: None) -> None:
    depot.confirmed(1)

    def start_meanwhile(slot: Path) -> str:
        with pytest.raises(PreflightFailed, match="another axleboxd command"):
            depot.start()
        return good_self_test(slot)

    assert depot.install(2, self_test=start_meanwhile).label == "bearing-temp 2"


def test_leavings_of_interrupted_installations_are_swept(depot: Depot) -> None:
    digest = depot.confirmed(1)
    for leaving in ("f" * 64, "e" * 64 + ".part", "lost+found"):
        (depot.data / "slots" / leaving).mkdir()
        (depot.data / "slots" / leaving / "model.onnx").write_bytes(b"half a mo")
    (depot.data / "slots" / "link").symlink_to(depot.stick)
    (depot.data / "incoming.part").write_bytes(b"half a bundle")
    newer = depot.install(2).digest
    assert depot.slots() == {digest, newer}
    assert not (depot.data / "incoming.part").exists()
    assert depot.stick.is_dir()


def test_a_new_trial_takes_the_place_of_an_unconfirmed_one(depot: Depot) -> None:
    active = depot.confirmed(1)
    depot.install(2)
    third = depot.install(3).digest
    assert depot.slots() == {active, third}
    assert depot.running() == 3


@pytest.mark.parametrize("moment", ["[1/6]", "[2/6]", "[4/6]"])
def test_a_bundle_swapped_on_the_stick_after_the_copy_has_no_effect(depot: Depot, moment: str) -> None:
    source = depot.bundle(1, cut=1.5)

    def swap(line: str) -> None:
        if line.startswith(moment):
            source.write_bytes(b"swapped")

    depot.install(source, say=swap)
    assert source.read_bytes() == b"swapped"
    assert depot.start().models["model.onnx"] == depot.world.model_like(1.5)


def test_a_bundle_swapped_while_it_is_copied_has_no_effect(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    source = depot.bundle(1, cut=1.5)
    sync_folder = disk.sync_folder

    def swap(folder: Path) -> None:
        sync_folder(folder)
        depot.bundle(1, cut=2.5)

    monkeypatch.setattr(disk, "sync_folder", swap)
    depot.install(source)
    assert depot.start().models["model.onnx"] == depot.world.model_like(1.5)


def test_a_bundle_swapped_by_the_time_of_the_self_test_has_no_effect(depot: Depot) -> None:
    source = depot.bundle(1, cut=1.5)

    def swap(slot: Path) -> str:
        depot.bundle(1, cut=2.5)
        return good_self_test(slot)

    depot.install(source, self_test=swap)
    assert depot.start().models["model.onnx"] == depot.world.model_like(1.5)


def test_the_self_test_sees_the_slot_as_it_will_be_opened(depot: Depot) -> None:
    seen: list[Release] = []

    def look(slot: Path) -> str:
        seen.append(open_slot(slot))
        return "1/1"

    depot.install(1, self_test=look)
    assert depot.start() == seen[0]


def test_a_clock_at_1970_installs_with_a_note_and_a_confirmation_sets_the_time_floor(depot: Depot) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    depot.install(1, now=epoch)
    assert any("note: the clock says 1970-01-01" in line for line in depot.said)
    assert depot.vehicle.state().time_floor is None
    depot.confirm()
    assert depot.vehicle.state().time_floor == RELEASED


def test_a_clock_that_was_set_back_does_not_revive_an_expired_bundle(depot: Depot) -> None:
    depot.confirmed(1)
    times = {"released": RELEASED - timedelta(days=90), "expires": RELEASED - timedelta(days=30)}
    with pytest.raises(TooOld, match="expired"):
        depot.install(depot.bundle(2, **times), now=RELEASED - timedelta(days=60))


# Trial and start


def test_a_vehicle_without_a_release_says_what_to_do(depot: Depot) -> None:
    with pytest.raises(PreflightFailed, match=r"no release installed\. DO: axleboxd install") as refusal:
        depot.start()
    assert refusal.value.exit_code == 20


def test_a_start_that_lived_costs_nothing(depot: Depot) -> None:
    depot.confirmed(1)
    depot.install(2)
    for _ in range(3 * TRIES):
        release = depot.start()
        assert release.manifest.version == 2
        assert depot.vehicle.state().started == "this boot"
        depot.lived(release)
        assert depot.vehicle.state().started is None
    assert depot.vehicle.state().tries == TRIES


def test_a_try_is_spent_only_by_the_next_start_and_comes_back_when_one_lives(depot: Depot) -> None:
    depot.install(1)
    tries = []
    for _ in range(TRIES):
        release = depot.start()
        tries.append(depot.vehicle.state().tries)
    assert tries == [TRIES, TRIES - 1, TRIES - 2]
    depot.lived(release)
    assert depot.vehicle.state().tries == TRIES
    before = depot.picture()
    depot.lived(release)
    assert depot.picture() == before


def test_ignition_cycles_do_not_use_up_a_good_release(depot: Depot) -> None:
    """Each boot is cut off within its first minute: a diesel that is being cranked, a battery switch."""
    depot.confirmed(1)
    depot.install(2)
    versions = [depot.start(boot=f"boot {number}").manifest.version for number in range(OUTAGES)]
    assert versions == [2] * OUTAGES
    assert depot.vehicle.state().tries == TRIES


def test_a_release_that_takes_the_whole_box_down_is_dropped_in_the_end(depot: Depot) -> None:
    depot.confirmed(1)
    depot.install(2)
    versions = [depot.start(boot=f"boot {number}").manifest.version for number in range(OUTAGES + 2)]
    assert versions == [2] * OUTAGES + [1, 1]


def test_deaths_and_power_cuts_in_turn_spend_the_tries_of_the_deaths(depot: Depot) -> None:
    depot.confirmed(1)
    depot.install(2)
    boots = ("a", "a", "b", "b", "c", "c", "c")
    assert [depot.start(boot=boot).manifest.version for boot in boots] == [2, 2, 2, 2, 2, 1, 1]


def test_three_early_deaths_drop_the_trial_and_the_active_release_runs(depot: Depot) -> None:
    active = depot.confirmed(1)
    depot.install(2)
    assert [depot.start().manifest.version for _ in range(TRIES + 2)] == [2, 2, 2, 1, 1]
    state = depot.vehicle.state()
    assert (state.trial, state.active, state.floor) == (None, active, 1)


def test_a_start_that_drops_the_trial_says_so(depot: Depot) -> None:
    depot.confirmed(1)
    digest = depot.install(2).digest
    depot.said.clear()
    for _ in range(TRIES + 2):
        depot.start()
    assert depot.said == [f"the release on trial ({digest[:8]}) ended early {TRIES} times; it is dropped"]


def test_three_early_deaths_of_the_first_release_leave_none(depot: Depot) -> None:
    depot.install(1)
    for _ in range(TRIES):
        depot.start()
    with pytest.raises(PreflightFailed, match="no release installed"):
        depot.start()


@pytest.mark.parametrize("starts", [TRIES, TRIES + 1], ids=["before the start that drops it", "after"])
def test_a_release_without_tries_can_be_installed_again(depot: Depot, starts: int) -> None:
    depot.confirmed(1)
    depot.install(2)
    for _ in range(starts):
        depot.start()
    depot.install(2)
    assert depot.start().manifest.version == 2


def wear(depot: Depot, digest: str, member: str = "model.onnx") -> None:
    """Flip one bit of an installed member."""
    path = depot.vehicle.slot(digest) / member
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("member", ["model.onnx", "manifest.json", "golden.json", "root.json", "slot.json"])
def test_a_flipped_bit_in_the_release_on_trial_drops_it_and_the_active_one_runs(depot: Depot, member: str) -> None:
    active = depot.confirmed(1)
    digest = depot.install(2).digest
    wear(depot, digest, member)
    assert depot.start().manifest.version == 1
    assert f"slot {digest[:8]} is damaged: {member}" in depot.said[-1]
    state = depot.vehicle.state()
    assert (state.active, state.trial, state.started) == (active, None, None)
    dropped = depot.receipts()[-1]
    assert (dropped.action, dropped.code, dropped.digest) == ("drop", 12, digest)
    assert "is damaged" in dropped.reason


def test_a_flipped_bit_in_the_active_release_gives_way_to_the_previous_one(depot: Depot) -> None:
    first, second = depot.confirmed(1), depot.confirmed(2)
    wear(depot, second)
    assert depot.start().manifest.version == 1
    state = depot.vehicle.state()
    assert (state.active, state.previous, state.floor) == (first, None, 2)
    assert depot.receipts()[-1].reason.startswith(f"slot {second[:8]} is damaged")
    before = depot.picture()
    assert depot.start().manifest.version == 1
    assert depot.picture() == before


def test_a_previous_release_that_may_not_run_does_not_take_over(depot: Depot) -> None:
    depot.confirmed(1)
    wear(depot, depot.confirmed(2, manifest={"min_sequence": 2}))
    before = depot.picture()
    with pytest.raises(FallbackFailed, match=r"below release 2.*DO: axleboxd install") as refusal:
        depot.start()
    assert refusal.value.exit_code == 32
    assert depot.picture() == before


def test_with_nothing_left_to_run_the_way_out_is_named_and_works(depot: Depot) -> None:
    wear(depot, depot.confirmed(1))
    with pytest.raises(FallbackFailed, match=r"no installed release can run: slot .*\. DO: axleboxd install, from the"):
        depot.start()
    depot.install(1)
    assert depot.start().manifest.version == 1


@contextmanager
def no_writing(monkeypatch: pytest.MonkeyPatch, code: int) -> Iterator[None]:
    """Whoever opens a file to write it is refused."""
    real = os.open

    def opened(path: Any, flags: int, *rest: Any, **how: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        yield


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_on_a_disk_that_cannot_be_written_the_confirmed_release_runs(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A failing flash is often remounted read-only; no start can be counted then, so no trial is begun."""
    depot.confirmed(1)
    depot.install(2)
    before = depot.picture()
    with no_writing(monkeypatch, code):
        assert depot.start().manifest.version == 1
    assert "nothing can be recorded, and what is confirmed runs" in depot.said[-1]
    assert depot.picture() == before


def test_on_a_disk_that_cannot_be_written_the_only_release_runs_unconfirmed(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot.install(1)
    with no_writing(monkeypatch, errno.EROFS):
        assert depot.start().manifest.version == 1


def test_health_of_another_release_counts_nothing(depot: Depot) -> None:
    depot.confirmed(1)
    active = depot.start()
    depot.install(2)
    depot.start()
    depot.lived(active)
    assert depot.vehicle.state().started == "this boot"


def test_a_start_of_the_active_release_writes_nothing(depot: Depot) -> None:
    depot.confirmed(1)
    before = depot.picture()
    depot.lived(depot.start())
    assert depot.picture() == before


OTHER_MACHINE = Runtime(RUNTIME.version, RUNTIME.feature_sets, "another processor")


def test_on_another_runtime_or_machine_the_self_test_runs_again_once(depot: Depot) -> None:
    tested: list[str] = []

    def note(slot: Path) -> str:
        tested.append(slot.name)
        return "1/1"

    digest = depot.confirmed(1)
    depot.start(self_test=note)
    assert tested == []
    for _ in range(3):
        depot.start(self_test=note, runtime=OTHER_MACHINE)
    assert tested == [digest]
    (depot.data / "proved.json").write_bytes(b"worn flash")
    depot.start(self_test=note, runtime=OTHER_MACHINE)
    assert tested == [digest, digest]


def test_a_release_that_fails_its_self_test_on_another_machine_gives_way(depot: Depot) -> None:
    first, second = depot.confirmed(1), depot.confirmed(2)

    def only_the_first(slot: Path) -> str:
        return good_self_test(slot) if slot.name == first else failing_self_test(slot)

    assert depot.start(self_test=only_the_first, runtime=OTHER_MACHINE).manifest.version == 1
    dropped = depot.receipts()[-1]
    assert (dropped.action, dropped.code, dropped.digest) == ("drop", 31, second)


def test_a_release_that_opened_well_and_could_not_be_run_is_given_up(depot: Depot) -> None:
    depot.confirmed(1)
    digest = depot.install(2).digest
    starter = Starter(depot.vehicle, "this boot", RUNTIME, good_self_test)
    starter.give_up(digest, AxleboxError("no session"), depot.occasion())
    assert depot.start().manifest.version == 1
    assert (depot.receipts()[-1].action, depot.receipts()[-1].reason) == ("drop", "no session")
    before = depot.picture()
    starter.give_up(digest, AxleboxError("no session"), depot.occasion())
    assert depot.picture() == before


# Both state files


def spoil_both_state_files(depot: Depot) -> None:
    for name in ("state.0", "state.1"):
        (depot.data / name).write_bytes(b"worn flash")


def test_with_both_state_files_damaged_nothing_starts_and_installing_is_the_way_out(depot: Depot) -> None:
    depot.confirmed(3, 4)
    spoil_both_state_files(depot)
    with pytest.raises(BoxDamaged, match=r"no state file is readable.*DO: axleboxd install") as refusal:
        depot.start()
    assert refusal.value.exit_code == 12
    with pytest.raises(BoxDamaged):
        depot.confirm()
    depot.install(5)
    assert depot.start().manifest.version == 5
    depot.confirm()


def test_a_mended_state_goes_no_further_back_than_the_slots_did(depot: Depot) -> None:
    depot.confirmed(3, manifest={"min_sequence": 2})
    depot.confirmed(4)
    spoil_both_state_files(depot)
    for _ in range(2):
        with pytest.raises(Rollback):
            depot.install(2)
    state = depot.vehicle.state()
    assert (state.floor, state.min_sequence, state.root, state.time_floor) == (3, 2, 1, RELEASED)
    depot.install(4)
    assert depot.running() == 4


# Confirming


def test_confirming_makes_the_trial_active_and_raises_the_floor(depot: Depot) -> None:
    first = depot.confirmed(1)
    second = depot.install(5).digest
    assert depot.vehicle.state().floor == 1
    assert depot.confirm().manifest.version == 5
    state = depot.vehicle.state()
    assert (state.active, state.previous, state.trial, state.tries, state.floor) == (second, first, None, 0, 5)


def test_after_a_confirmation_an_older_bundle_is_too_old(depot: Depot) -> None:
    depot.confirmed(5)
    with pytest.raises(TooOld, match="older than release 5") as refusal:
        depot.install(4)
    assert refusal.value.exit_code == 14


def test_before_a_confirmation_an_older_bundle_may_still_be_installed(depot: Depot) -> None:
    depot.install(5)
    depot.install(4)
    assert depot.running() == 4


def test_min_sequence_of_a_confirmed_release_stays_when_a_later_one_asks_for_less(depot: Depot) -> None:
    depot.confirmed(3, manifest={"min_sequence": 3})
    depot.confirmed(4, manifest={"min_sequence": 0})
    assert depot.vehicle.state().min_sequence == 3


def test_only_two_slots_stay_after_a_confirmation(depot: Depot) -> None:
    depot.confirmed(1)
    last_two = {depot.confirmed(2), depot.confirmed(3)}
    assert depot.slots() == last_two


def test_nothing_on_trial_cannot_be_confirmed(depot: Depot) -> None:
    with pytest.raises(UsageError, match="nothing to confirm"):
        depot.confirm()
    depot.confirmed(1)
    before = depot.picture()
    with pytest.raises(UsageError, match="nothing to confirm"):
        depot.confirm()
    assert depot.picture() == before


def test_a_confirmation_of_another_release_than_meant_is_refused(depot: Depot) -> None:
    meant = depot.confirmed(1)
    digest = depot.install(2).digest
    with pytest.raises(UsageError, match=r"another release .* is on trial; nothing was confirmed"):
        confirm(depot.vehicle, depot.occasion(), only=meant)
    assert confirm(depot.vehicle, depot.occasion(), only=digest[:8]).digest == digest


def test_a_damaged_release_is_not_confirmed(depot: Depot) -> None:
    depot.confirmed(1)
    digest = depot.install(2).digest
    (depot.vehicle.slot(digest) / "model.onnx").write_bytes(b"worn flash")
    before = depot.picture()
    with pytest.raises(Damaged):
        depot.confirm()
    assert depot.picture() == before


def test_a_confirmation_and_not_an_installation_follows_a_rotated_root(depot: Depot) -> None:
    first = depot.world.root()
    second = depot.world.root(version=2, targets_keys=("new targets",))
    source = depot.bundle(1, roots={"1.root.json": first, "2.root.json": second}, targets_keys=["new targets"])
    depot.install(source)
    assert (depot.data / "root.json").read_bytes() == first
    depot.confirm()
    assert (depot.data / "root.json").read_bytes() == second
    assert depot.vehicle.state().root == 2
    with pytest.raises(TooFewSignatures):
        depot.install(depot.bundle(2))


# Falling back


def test_falling_back_goes_to_the_previous_release_and_forth_again(depot: Depot) -> None:
    depot.confirmed(1, 2)
    assert [depot.fall_back().manifest.version for _ in range(3)] == [1, 2, 1]
    assert depot.start().manifest.version == 1
    assert depot.vehicle.state().floor == 2


def test_falling_back_from_a_trial_drops_it(depot: Depot) -> None:
    active = depot.confirmed(1)
    depot.install(2)
    assert depot.fall_back().manifest.version == 1
    assert depot.vehicle.state().trial is None
    assert depot.slots() == {active}


def test_there_is_nothing_to_fall_back_to(depot: Depot) -> None:
    for prepare in (lambda: None, lambda: depot.install(1), depot.confirm):
        prepare()
        before = depot.picture()
        with pytest.raises(PreflightFailed, match="nothing changed"):
            depot.fall_back()
        assert depot.picture() == before


def test_falling_back_below_min_sequence_is_refused(depot: Depot) -> None:
    depot.confirmed(1)
    depot.confirmed(2, manifest={"min_sequence": 2})
    before = depot.picture()
    with pytest.raises(FallbackFailed, match="below release 2") as refusal:
        depot.fall_back()
    assert refusal.value.exit_code == 32
    assert depot.picture() == before


def test_falling_back_to_a_damaged_release_is_refused(depot: Depot) -> None:
    digest = depot.confirmed(1)
    depot.confirmed(2)
    (depot.vehicle.slot(digest) / "model.onnx").write_bytes(b"worn flash")
    with pytest.raises(FallbackFailed, match="is damaged"):
        depot.fall_back()
    assert depot.running() == 2


def test_the_release_that_a_fallback_left_can_be_installed_again(depot: Depot) -> None:
    depot.confirmed(1, 2)
    depot.fall_back()
    depot.install(2)
    assert depot.running() == 2
    depot.confirm()
    assert depot.fall_back().manifest.version == 1


@pytest.mark.parametrize("fall_back", [True, False], ids=["previous", "active"])
def test_a_damaged_slot_is_mended_by_installing_its_bundle_again(depot: Depot, fall_back: bool) -> None:
    """Else a worn flash cell leaves a vehicle that says "installed already" and cannot run."""
    depot.confirmed(1)
    digest = depot.confirmed(2)
    if fall_back:
        depot.fall_back()
    (depot.vehicle.slot(digest) / "model.onnx").write_bytes(b"worn flash")
    depot.install(2)
    assert depot.start().manifest.version == 2


# Two at once


def test_a_change_waits_for_another_one_to_end(depot: Depot) -> None:
    """A technician who starts two installations, or a daemon that starts meanwhile, needs no second try."""
    source = depot.bundle(1)
    entered, ended = threading.Event(), threading.Event()

    def slow_self_test(slot: Path) -> str:
        entered.set()
        assert ended.wait(30)
        return good_self_test(slot)

    first = threading.Thread(target=depot.install, args=(source,), kwargs={"self_test": slow_self_test})
    first.start()
    assert entered.wait(30)
    threading.Timer(0.1, ended.set).start()
    with pytest.raises(AlreadyInstalled):
        depot.install(source)
    first.join()
    assert depot.running() == 1


# A disk that refuses; that it fails at any one call is in test_power.py


@pytest.mark.parametrize("change", ["install", "confirm", "fall back"])
def test_a_leaving_that_cannot_be_removed_is_a_note_and_no_failure(
    depot: Depot, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot.confirmed(1)
    source = depot.bundle(2)
    if change != "install":
        depot.install(source)
    (depot.data / "slots" / "leaving").mkdir()
    switched = False

    def fail_after_the_switch(path: Path) -> None:
        if switched:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def switch(data: Path, state: State) -> State:
        nonlocal switched
        switched = True
        return write_state(data, state)

    monkeypatch.setattr(disk, "remove_tree", fail_after_the_switch)
    monkeypatch.setattr("axlebox.firmware_bundle.install.write_state", switch)
    {"install": lambda: depot.install(source), "confirm": depot.confirm, "fall back": depot.fall_back}[change]()
    assert depot.running() == (1 if change == "fall back" else 2)
    assert depot.receipts()[-1].code == 0
    assert any(line.startswith("note: not everything could be tidied up") for line in depot.said)


def test_a_state_is_refused_by_the_disk_in_words_that_name_the_file(depot: Depot) -> None:
    (depot.data / "state.1.part").mkdir()
    with pytest.raises(PreflightFailed, match=r"state\.1\.part: Is a directory"), disk.explained():
        write_state(depot.data, State())
