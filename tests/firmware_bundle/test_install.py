"""A vehicle's data folder: provisioning, installing, starting, confirming, falling back, power cuts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import (
    AlreadyInstalled,
    AxleboxError,
    BadSignature,
    Damaged,
    Expired,
    FallbackFailed,
    Malformed,
    PreflightFailed,
    RuntimeTooOld,
    SelfTestFailed,
    TooFewSignatures,
    TooOld,
    UsageError,
    WrongHardware,
    WrongVehicle,
)
from axlebox.firmware_bundle.install import Identity, Vehicle, find_bundle
from axlebox.firmware_bundle.manifest import Golden, GoldenRow, encode
from axlebox.firmware_bundle.skew import Runtime, check_version
from axlebox.firmware_bundle.slots import Release, open_slot
from axlebox.firmware_bundle.state import TRIES, State, write_state
from axlebox.firmware_bundle.tuf_client import parse_root

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
NOW = RELEASED + timedelta(days=30)
RUNTIME = Runtime("0.1.0", frozenset({("value", 1)}))
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

    def install(self, source: Path | int, **how: Any) -> Any:
        """Install a file, or a plain bundle of that version."""
        plain = {"self_test": good_self_test, "runtime": RUNTIME, "now": NOW, "say": self.said.append}
        return self.vehicle.install(self.bundle(source) if isinstance(source, int) else source, **{**plain, **how})

    def confirmed(self, *versions: int, **how: Any) -> str:
        """Install and confirm these versions in turn; the digest of the last."""
        digest = ""
        for version in versions:
            digest = self.install(self.bundle(version, **how)).digest
            self.confirm()
        return digest

    def confirm(self) -> Release:
        return self.vehicle.confirm(NOW, self.said.append)

    def fall_back(self) -> Release:
        return self.vehicle.fallback(NOW, self.said.append)

    def picture(self) -> dict[str, bytes]:
        """Every file of the data folder but the lock and the receipts, which tell of refusals as well."""
        files = (path for path in self.data.rglob("*") if path.is_file() and path.name not in ("lock", "receipts.log"))
        return {str(path.relative_to(self.data)): path.read_bytes() for path in files}

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
    assert depot.vehicle.state() == State(generation=1, trial=bundle.digest, tries=TRIES)
    assert depot.slots() == {bundle.digest}
    assert [line[:5] for line in depot.said] == ["[1/5]", "[2/5]", "[3/5]", "[4/5]", "[5/5]"]
    assert depot.said[3] == "[4/5] self-test OK: 1/1"


def test_the_vehicle_s_folder_holds_nothing_that_is_not_needed(depot: Depot) -> None:
    digest = depot.confirmed(1)
    members = {"manifest.json", "golden.json", "model.onnx", "root.json", "slot.json"}
    plain = {"vehicle.json", "vehicle.key", "vehicle.pub", "root.json", "state.0", "state.1"}
    assert set(depot.picture()) == plain | {f"slots/{digest}/{name}" for name in members}


def test_the_same_bundle_twice_is_installed_already(depot: Depot) -> None:
    depot.install(1)
    before = depot.picture()
    for confirm in (False, True):
        if confirm:
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
    "not there": (AxleboxError, lambda depot: {"source": depot.stick / "none.axb"}),
    "a folder": (AxleboxError, lambda depot: {"source": depot.stick}),
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
    assert depot.vehicle.start().manifest.version == 1


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


def test_a_folder_that_another_process_changes_is_left_alone(depot: Depot) -> None:
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", script, depot.data / "lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for change in (lambda: depot.install(1), depot.vehicle.start, depot.confirm, depot.fall_back):
            with pytest.raises(PreflightFailed, match="another axleboxd command"):
                change()
        other.communicate("\n")
    assert depot.install(1).label == "bearing-temp 1"


def test_two_changes_at_once_are_refused(depot: Depot) -> None:
    depot.confirmed(1)

    def start_meanwhile(slot: Path) -> str:
        with pytest.raises(PreflightFailed, match="another axleboxd command"):
            depot.vehicle.start()
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


@pytest.mark.parametrize("moment", ["[1/5]", "[2/5]", "[4/5]"])
def test_a_bundle_swapped_on_the_stick_after_the_copy_has_no_effect(depot: Depot, moment: str) -> None:
    source = depot.bundle(1, cut=1.5)

    def swap(line: str) -> None:
        if line.startswith(moment):
            source.write_bytes(b"swapped")

    depot.install(source, say=swap)
    assert source.read_bytes() == b"swapped"
    assert depot.vehicle.start().models["model.onnx"] == depot.world.model_like(1.5)


def test_a_bundle_swapped_while_it_is_copied_has_no_effect(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    source = depot.bundle(1, cut=1.5)
    sync_folder = disk.sync_folder

    def swap(folder: Path) -> None:
        sync_folder(folder)
        depot.bundle(1, cut=2.5)

    monkeypatch.setattr(disk, "sync_folder", swap)
    depot.install(source)
    assert depot.vehicle.start().models["model.onnx"] == depot.world.model_like(1.5)


def test_a_bundle_swapped_by_the_time_of_the_self_test_has_no_effect(depot: Depot) -> None:
    source = depot.bundle(1, cut=1.5)

    def swap(slot: Path) -> str:
        depot.bundle(1, cut=2.5)
        return good_self_test(slot)

    depot.install(source, self_test=swap)
    assert depot.vehicle.start().models["model.onnx"] == depot.world.model_like(1.5)


def test_the_self_test_sees_the_slot_as_it_will_be_opened(depot: Depot) -> None:
    seen: list[Release] = []

    def look(slot: Path) -> str:
        seen.append(open_slot(slot))
        return "1/1"

    depot.install(1, self_test=look)
    assert depot.vehicle.start() == seen[0]


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
        depot.vehicle.start()
    assert refusal.value.exit_code == 20


def test_a_start_on_trial_costs_a_try_and_health_gives_it_back(depot: Depot) -> None:
    depot.install(1)
    release = depot.vehicle.start()
    assert depot.vehicle.state().tries == TRIES - 1
    depot.vehicle.healthy(release)
    assert depot.vehicle.state().tries == TRIES
    depot.vehicle.healthy(release)
    assert depot.vehicle.state().tries == TRIES


def test_many_healthy_starts_never_drop_the_trial(depot: Depot) -> None:
    depot.confirmed(1)
    depot.install(2)
    for _ in range(3 * TRIES):
        release = depot.vehicle.start()
        assert release.manifest.version == 2
        depot.vehicle.healthy(release)


def test_three_early_deaths_drop_the_trial_and_the_active_release_runs(depot: Depot) -> None:
    active = depot.confirmed(1)
    depot.install(2)
    assert [depot.vehicle.start().manifest.version for _ in range(TRIES + 2)] == [2, 2, 2, 1, 1]
    state = depot.vehicle.state()
    assert (state.trial, state.active, state.floor) == (None, active, 1)


def test_a_start_that_drops_the_trial_says_so(depot: Depot) -> None:
    depot.confirmed(1)
    digest = depot.install(2).digest
    said: list[str] = []
    for _ in range(TRIES + 2):
        depot.vehicle.start(said.append)
    assert said == [f"the release on trial ({digest[:8]}) ended early {TRIES} times; it is dropped"]


def test_three_early_deaths_of_the_first_release_leave_none(depot: Depot) -> None:
    depot.install(1)
    for _ in range(TRIES):
        depot.vehicle.start()
    with pytest.raises(PreflightFailed, match="no release installed"):
        depot.vehicle.start()


@pytest.mark.parametrize("starts", [TRIES, TRIES + 1], ids=["before the start that drops it", "after"])
def test_a_release_without_tries_can_be_installed_again(depot: Depot, starts: int) -> None:
    depot.confirmed(1)
    depot.install(2)
    for _ in range(starts):
        depot.vehicle.start()
    depot.install(2)
    assert depot.vehicle.start().manifest.version == 2


def test_a_damaged_release_on_trial_costs_its_tries_and_then_the_active_one_runs(depot: Depot) -> None:
    depot.confirmed(1)
    digest = depot.install(2).digest
    (depot.vehicle.slot(digest) / "model.onnx").write_bytes(b"worn flash")
    for _ in range(TRIES):
        with pytest.raises(Damaged):
            depot.vehicle.start()
    assert depot.vehicle.start().manifest.version == 1


def test_health_of_another_release_gives_no_try_back(depot: Depot) -> None:
    depot.confirmed(1)
    active = depot.vehicle.start()
    depot.install(2)
    depot.vehicle.start()
    depot.vehicle.healthy(active)
    assert depot.vehicle.state().tries == TRIES - 1


def test_a_start_of_the_active_release_writes_nothing(depot: Depot) -> None:
    depot.confirmed(1)
    before = depot.picture()
    depot.vehicle.healthy(depot.vehicle.start())
    assert depot.picture() == before


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
    assert depot.vehicle.start().manifest.version == 1
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
    assert depot.vehicle.start().manifest.version == 2


# Finding the bundle on a stick


def test_the_only_bundle_of_a_stick_is_found_among_other_files(depot: Depot) -> None:
    meant = depot.bundle(3)
    for name in ("._bearing-temp-3.axb", ".hidden.axb", "bearing-temp-4.axb.part", "readme.txt"):
        (depot.stick / name).write_bytes(b"x")
    (depot.stick / "folder.axb").mkdir()
    assert find_bundle(depot.stick) == meant
    assert find_bundle(meant) == meant


def test_two_bundles_on_a_stick_are_both_named(depot: Depot) -> None:
    depot.bundle(1)
    depot.bundle(2)
    with pytest.raises(UsageError, match=r"bearing-temp-1\.axb, bearing-temp-2\.axb"):
        find_bundle(depot.stick)


def test_a_stick_without_a_bundle_is_named(depot: Depot) -> None:
    (depot.stick / "._bearing-temp-1.axb").write_bytes(b"x")
    with pytest.raises(UsageError, match="no bundle"):
        find_bundle(depot.stick)


@pytest.mark.parametrize("name", ["a\nPASS", "a\x1b[2J", "a\u202e7", "a\x85", os.fsdecode(b"a\xff")])
def test_a_file_name_on_a_stick_cannot_write_on_the_screen(depot: Depot, name: str) -> None:
    """What is FOUND is shown by its name; one with a line end in it once showed a PASS of its own."""
    path = depot.bundle(1).rename(depot.stick / f"{name}.axb")

    def refused(place: Path) -> None:
        with pytest.raises(UsageError, match="do not use this file") as refusal:
            find_bundle(place)
        assert str(refusal.value).isascii() and str(refusal.value).isprintable()

    refused(path)
    refused(depot.stick)
    depot.bundle(2)
    refused(depot.stick)


def test_a_bundle_may_have_a_name_in_any_language(depot: Depot) -> None:
    path = depot.bundle(1).rename(depot.stick / "Überholung März 7 列.axb")
    assert find_bundle(depot.stick) == find_bundle(path) == path


# Power cuts and failing disks

CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
"""The calls of `os` that reach the disk; each is one moment at which the power can go."""


class PowerCut(BaseException):
    """No code can catch it, as no code runs after the power is gone."""


class Disk:
    """A disk that fails at the call number `fail_at`, and forgets what was not made durable.

    File contents survive after fsync of the file; new names, and names moved over others, after
    fsync of their folder. `forget` puts the data folder into the worst state that is left then.
    """

    def __init__(self, fail_at: int, failure: BaseException) -> None:
        self.calls = 0
        self.fail_at = fail_at
        self.failure = failure
        self.unwritten: set[Path] = set()
        self.undo: list[tuple[Path, Callable[[], None]]] = []
        self.moved: dict[Path, Path] = {}
        self.real = {name: getattr(os, name) for name in CALLS}

    @contextmanager
    def connected(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, getattr(self, name))
            yield

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.failure

    def open(self, path: Any, flags: int, *rest: Any, **how: Any) -> int:
        self.tick()
        place = Path(path)
        if flags & os.O_CREAT:
            self.unwritten.add(place)
            if not place.exists():
                self.undo.append((place.parent, lambda: self.lose_name(place)))
        return int(self.real["open"](path, flags, *rest, **how))

    def fsync(self, handle: int) -> None:
        self.tick()
        path = Path(f"/proc/self/fd/{handle}").readlink()
        self.unwritten.discard(path)
        self.undo = [(folder, undo) for folder, undo in self.undo if folder != path]
        self.real["fsync"](handle)

    def mkdir(self, path: Any, *rest: Any, **how: Any) -> None:
        self.tick()
        self.real["mkdir"](path, *rest, **how)
        self.undo.append((Path(path).parent, lambda: shutil.rmtree(path, ignore_errors=True)))

    def move(self, name: str, old: Path, new: Path) -> None:
        self.tick()
        kept = new.read_bytes() if new.is_file() else None
        self.real[name](old, new)
        if old in self.unwritten:
            self.unwritten.remove(old)
            self.unwritten.add(new)

        def move_back() -> None:
            new.rename(old)
            if kept is not None:
                new.write_bytes(kept)

        self.moved[old] = new
        self.undo.append((new.parent, move_back))

    def replace(self, old: Path, new: Path) -> None:
        self.move("replace", old, new)

    def rename(self, old: Path, new: Path) -> None:
        self.move("rename", old, new)

    def unlink(self, path: Any, *rest: Any, **how: Any) -> None:
        self.tick()
        self.real["unlink"](path, *rest, **how)

    def rmdir(self, path: Any, *rest: Any, **how: Any) -> None:
        self.tick()
        self.real["rmdir"](path, *rest, **how)

    def lose_name(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        (self.moved.get(path.parent, path.parent) / path.name).unlink(missing_ok=True)

    def forget(self) -> None:
        for path in self.unwritten:
            if path.exists():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for _, undo in reversed(self.undo):
            undo()


def install_second(depot: Depot) -> None:
    depot.install(depot.stick / "bearing-temp-2.axb")


def confirm_second(depot: Depot) -> None:
    depot.confirm()


def fall_back(depot: Depot) -> None:
    depot.fall_back()


Change = Callable[[Depot], None]
CHANGES = pytest.mark.parametrize("change", [install_second, confirm_second, fall_back])


@pytest.fixture
def prepared(depot: Depot) -> Depot:
    """Release 1 active, release 2 on the stick, and leavings to sweep."""
    depot.confirmed(1)
    depot.bundle(2)
    (depot.data / "slots" / "leaving.part").mkdir()
    (depot.data / "slots" / "leaving.part" / "x").write_bytes(b"x")
    return depot


def ready_for(change: Change, depot: Depot) -> Path:
    """A copy of the data folder as it is right before the change."""
    if change is not install_second:
        install_second(depot)
    before = depot.data.with_name("before")
    shutil.copytree(depot.data, before)
    return before


def every_failure(depot: Depot, before: Path, change: Change, failure: Callable[[], BaseException]) -> Iterator[Disk]:
    """The change, failing at its first call, its second, and so on until it ends by itself."""
    number = 0
    while True:
        number += 1
        shutil.rmtree(depot.data)
        shutil.copytree(before, depot.data)
        broken = Disk(number, failure())
        try:
            with broken.connected():
                change(depot)
        except (PowerCut, AxleboxError):
            yield broken
            continue
        yield broken
        if broken.calls < number:
            return
        assert any("no receipt could be written" in line for line in depot.said), "a failure was swallowed"


def check_that_a_release_runs(depot: Depot, change: Change) -> None:
    """Whatever the state says can be opened, started, and changed once more."""
    state = depot.vehicle.state()
    assert depot.running() in (1, 2)
    assert state.active is not None
    parse_root((depot.data / "root.json").read_bytes())
    for slot in state.slots():
        open_slot(depot.vehicle.slot(slot))
    assert depot.vehicle.start().manifest.version in (1, 2)
    if state.trial is None and state.floor == 1:
        install_second(depot)
        assert depot.running() == 2


@CHANGES
@pytest.mark.parametrize("forgetful", [False, True], ids=["written", "unsynced data lost"])
def test_a_power_cut_at_any_call_leaves_the_old_release_or_the_new_one(
    prepared: Depot, change: Change, forgetful: bool
) -> None:
    before = ready_for(change, prepared)
    cuts = 0
    for broken in every_failure(prepared, before, change, PowerCut):
        cuts += 1
        if forgetful:
            broken.forget()
        check_that_a_release_runs(prepared, change)
    assert cuts > (5 if change is fall_back else 8)


@CHANGES
def test_success_that_was_told_survives_a_power_cut_right_after_it(prepared: Depot, change: Change) -> None:
    ready_for(change, prepared)
    steady = Disk(-1, PowerCut())
    with steady.connected():
        change(prepared)
    told = prepared.vehicle.state()
    steady.forget()
    assert prepared.vehicle.state() == told
    assert prepared.running() == (1 if change is fall_back else 2)


@CHANGES
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_disk_error_at_any_call_is_typed_and_leaves_a_release(prepared: Depot, change: Change, code: int) -> None:
    before = ready_for(change, prepared)
    for _ in every_failure(prepared, before, change, lambda: OSError(code, os.strerror(code))):
        check_that_a_release_runs(prepared, change)


def test_a_power_cut_during_a_start_costs_at_most_one_try(prepared: Depot) -> None:
    before = ready_for(confirm_second, prepared)
    for broken in every_failure(prepared, before, lambda depot: depot.vehicle.start() and None, PowerCut):
        broken.forget()
        assert prepared.vehicle.state().tries >= TRIES - 1
        assert prepared.running() == 2


def test_a_power_cut_during_provisioning_leaves_a_folder_that_can_be_provisioned(world: Any, tmp_path: Path) -> None:
    root, identity = world.root(), Identity("T204", "any")
    for number in range(1, 100):
        data = tmp_path / str(number)
        broken = Disk(number, PowerCut())
        try:
            with broken.connected():
                Vehicle.provision(data, root, identity)
        except PowerCut:
            broken.forget()
            if not (data / "vehicle.json").exists():
                Vehicle.provision(data, root, identity)
            assert Vehicle.open(data).identity == identity
            assert (data / "root.json").read_bytes() == root
            continue
        assert number > 8
        return
    pytest.fail("provisioning never ended")


def test_a_state_is_refused_by_the_disk_in_words_that_name_the_file(depot: Depot) -> None:
    (depot.data / "state.1.part").mkdir()
    with pytest.raises(PreflightFailed, match=r"state\.1\.part: Is a directory"), disk.explained():
        write_state(depot.data, State())
