"""A stick: the one bundle that is meant, what lies beside it, receipts, and the serial number."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axlebox.firmware_bundle import receipts
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, StickLost, UsageError, WrongVehicle
from axlebox.firmware_bundle.install import confirm, install
from axlebox.firmware_bundle.stick import Choice, Stick, read_serial
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import make_key, read_public

Put = Callable[..., Path]


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    folder = tmp_path / "stick"
    folder.mkdir()
    return folder


@pytest.fixture
def put(world: Any, stick: Path) -> Put:
    """Writes a bundle to the stick, by name, for whom it is asked for."""

    def write(name: str, version: int = 1, **manifest: Any) -> Path:
        files = {**world.files(world.manifest(version, **manifest)), "model.onnx": world.tiny_model}
        path = stick / name
        path.write_bytes(world.bundle(version, files=files))
        return path

    return write


def choose(place: Path) -> Choice:
    stick = Stick(place)
    try:
        return stick.choose("T204", "rail-box-a")
    finally:
        stick.close()


def test_the_only_bundle_is_found_among_other_files(stick: Path, put: Put) -> None:
    meant = put("a.axb")
    for name in ("._a.axb", ".hidden.axb", "b.axb.part", "readme.txt", "CONTENTS.txt"):
        (stick / name).write_bytes(b"x")
    (stick / "folder.axb").mkdir()
    found = choose(stick)
    assert (found.candidate.name, found.candidate.data, found.notes) == ("a.axb", meant.read_bytes(), ())
    assert choose(meant).candidate == found.candidate


@pytest.mark.parametrize("name", ["A.AXB", "a.Axb"])
def test_capitals_do_not_hide_a_bundle(stick: Path, put: Put, name: str) -> None:
    put(name)
    assert choose(stick).candidate.name == name


def test_of_several_the_one_for_this_vehicle_is_meant_and_the_others_are_named(stick: Path, put: Put) -> None:
    put("a.axb", vehicles=("T100",))
    put("b.axb", hardware=("other-box",))
    put("c.axb", vehicles=("T100", "T204"), hardware=("rail-box-a",))
    (stick / "d.axb").write_bytes((stick / "c.axb").read_bytes()[:-700])
    (stick / "e.axb").write_bytes(b"not a bundle")
    found = choose(stick)
    assert found.candidate.name == "c.axb"
    assert found.notes[:2] == ("a.axb is for others", "b.axb is for others")
    assert [note.partition(":")[0] for note in found.notes[2:]] == ["d.axb cannot be read", "e.axb cannot be read"]


def test_two_for_this_vehicle_are_refused_by_name(stick: Path, put: Put) -> None:
    put("a.axb", 1)
    put("b.axb", 2, vehicles=("T204",))
    with pytest.raises(UsageError, match=r"a\.axb and b\.axb are both for T204\. DO: name the file that is meant"):
        choose(stick)
    assert choose(stick / "b.axb").candidate.name == "b.axb"


def test_a_single_file_is_chosen_whatever_it_is_so_that_verifying_says_what_is_wrong(stick: Path, put: Put) -> None:
    put("a.axb", vehicles=("T100",))
    assert choose(stick).candidate.name == "a.axb"
    (stick / "a.axb").write_bytes(b"half")
    assert choose(stick).candidate.data == b"half"


def test_a_damaged_one_among_others_is_the_one_that_is_meant(stick: Path, put: Put) -> None:
    put("a.axb", vehicles=("T100",))
    (stick / "b.axb").write_bytes(b"half")
    assert choose(stick).candidate.name == "b.axb"
    (stick / "c.axb").write_bytes(b"half")
    with pytest.raises(Damaged, match=r"none of b\.axb, c\.axb can be read"):
        choose(stick)


def test_a_stick_for_other_vehicles_is_told(stick: Path, put: Put) -> None:
    put("a.axb", vehicles=("T100",))
    put("b.axb", vehicles=("T101",))
    with pytest.raises(WrongVehicle, match=r"nothing on the stick is for T204: a\.axb, b\.axb") as refusal:
        choose(stick)
    assert refusal.value.exit_code == 13


def test_a_stick_without_a_bundle_is_told(stick: Path) -> None:
    (stick / "._a.axb").write_bytes(b"x")
    with pytest.raises(UsageError, match="no bundle"):
        choose(stick)


def test_a_stick_full_of_bundles_is_refused_before_they_are_read(stick: Path) -> None:
    for number in range(65):
        (stick / f"{number}.axb").touch()
    with pytest.raises(UsageError, match="holds 65 bundles, more than 64"):
        Stick(stick)


def test_a_fifo_is_no_bundle_and_no_endless_wait(stick: Path) -> None:
    os.mkfifo(stick / "a.axb")
    with pytest.raises(UsageError, match="not a regular file"):
        Stick(stick / "a.axb")
    with pytest.raises(UsageError, match="no bundle"):
        choose(stick)


@pytest.mark.parametrize("name", ["a\nPASS", "a\x1b[2J", "a\u202e7", "a\x85", os.fsdecode(b"a\xff")])
def test_a_file_name_on_a_stick_cannot_write_on_the_screen(stick: Path, put: Put, name: str) -> None:
    """What is found is shown by its name; one with a line end in it once showed a PASS of its own."""
    path = put(f"{name}.axb")

    def refused(place: Path) -> None:
        with pytest.raises(UsageError, match="do not use this file") as refusal:
            choose(place)
        assert str(refusal.value).isascii() and str(refusal.value).isprintable()

    refused(path)
    refused(stick)
    put("other.axb")
    refused(stick)


def test_a_bundle_may_have_a_name_in_any_language(stick: Path, put: Put) -> None:
    put("Überholung März 7 列.axb")
    assert choose(stick).candidate.name == "Überholung März 7 列.axb"


def test_a_stick_that_cannot_be_read_any_more_is_told(stick: Path, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    put("a.axb")
    opened = Stick(stick)

    def pulled(*how: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "lseek", pulled)
    with pytest.raises(StickLost, match=r"a\.axb: Input/output error") as refusal:
        opened.choose("T204", "rail-box-a")
    assert (refusal.value.exit_code, refusal.value.headline) == (30, "The stick cannot be read.")
    with pytest.raises(StickLost, match="No such file"):
        Stick(stick / "gone.axb")


def test_after_closing_nothing_of_the_stick_is_open(stick: Path, put: Put) -> None:
    """An open file would keep it busy."""
    put("a.axb")
    put("b.axb", 2, vehicles=("T1",))

    def held() -> list[str]:
        links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()]
        return [link for link in links if link.startswith(str(stick))]

    opened = Stick(stick)
    assert len(held()) == 2
    opened.choose("T204", "rail-box-a")
    opened.close()
    assert held() == []


# Receipts


@pytest.fixture
def vehicle(world: Any, tmp_path: Path) -> Vehicle:
    return Vehicle.provision(tmp_path / "data", world.root(), Identity("T204", "rail-box-a"))


def at(stick: Stick | None, said: list[str] | None = None) -> Occasion:
    from datetime import UTC, datetime

    return Occasion(datetime(2026, 4, 1, tzinfo=UTC), (said if said is not None else []).append, "tech", stick)


def put_in(world: Any, vehicle: Vehicle, stick: Stick, occasion: Occasion) -> None:
    candidate = stick.choose("T204", "rail-box-a").candidate
    install(vehicle, candidate, lambda slot: "1/1", world.runtime, occasion)


def on(stick: Path) -> list[Path]:
    return sorted((stick / "axlebox-receipts").iterdir())


def test_an_installation_leaves_its_receipt_on_the_stick(world: Any, vehicle: Vehicle, stick: Path, put: Put) -> None:
    put("a.axb")
    opened = Stick(stick)
    occasion = at(opened)
    put_in(world, vehicle, opened, occasion)
    (path,) = on(stick)
    assert path.name == f"{occasion.receipt}.json"
    found = receipts.read_document(path.read_bytes(), read_public(vehicle.data))
    assert found == list(receipts.read(vehicle.data, read_public(vehicle.data)))[-1]
    assert (found.vehicle, found.hardware, found.action, found.release) == (
        "T204", "rail-box-a", "install", "bearing-temp 1",
    )  # fmt: skip
    assert (found.code, found.before_release, found.user, found.stick) == (0, None, "tech", opened.serial)
    assert occasion.on_stick


def test_a_refusal_leaves_its_receipt_on_the_stick_too(world: Any, vehicle: Vehicle, stick: Path) -> None:
    (stick / "a.axb").write_bytes(b"half")
    opened = Stick(stick)
    with pytest.raises(AxleboxError):
        put_in(world, vehicle, opened, at(opened))
    (path,) = on(stick)
    found = receipts.read_document(path.read_bytes(), read_public(vehicle.data))
    assert (found.code, found.release) == (12, None)
    assert found.reason.startswith("a.axb: ")


def test_what_happened_without_a_stick_is_laid_on_the_next_one(
    world: Any, vehicle: Vehicle, stick: Path, put: Put
) -> None:
    put("a.axb")
    opened = Stick(stick)
    put_in(world, vehicle, opened, at(opened))
    confirm(vehicle, at(None))
    assert len(on(stick)) == 1
    with pytest.raises(AxleboxError):
        confirm(vehicle, at(opened))
    actions = [receipts.read_document(path.read_bytes(), read_public(vehicle.data)) for path in on(stick)]
    assert sorted((one.number, one.action, one.code) for one in actions) == [
        (1, "install", 0), (2, "confirm", 0), (3, "confirm", 2),
    ]  # fmt: skip


def test_a_stick_that_takes_no_receipt_does_not_undo_the_installation(
    world: Any, vehicle: Vehicle, stick: Path, put: Put
) -> None:
    put("a.axb")
    (stick / "axlebox-receipts").write_bytes(b"a file, where the folder should be")
    said: list[str] = []
    opened = Stick(stick)
    occasion = at(opened, said)
    put_in(world, vehicle, opened, occasion)
    assert vehicle.state().trial is not None
    assert occasion.receipt is not None and not occasion.on_stick
    assert said[-1].startswith("note: the receipt could not be written to the stick: ")
    (stick / "axlebox-receipts").unlink()
    with pytest.raises(AxleboxError):
        confirm(vehicle, at(opened), only="f" * 64)
    assert [path.name[-6] for path in on(stick)] in (["1", "2"], ["2", "1"])  # the next stick takes both


def test_a_link_on_the_stick_does_not_lead_receipts_elsewhere(
    world: Any, vehicle: Vehicle, stick: Path, put: Put, tmp_path: Path
) -> None:
    put("a.axb")
    (tmp_path / "elsewhere").mkdir()
    (stick / "axlebox-receipts").symlink_to(tmp_path / "elsewhere")
    opened = Stick(stick)
    occasion = at(opened)
    put_in(world, vehicle, opened, occasion)
    assert not occasion.on_stick
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_receipt_of_another_vehicle_or_a_changed_one_is_found_out(
    world: Any, vehicle: Vehicle, stick: Path, put: Put, tmp_path: Path
) -> None:
    put("a.axb")
    opened = Stick(stick)
    put_in(world, vehicle, opened, at(opened))
    document = on(stick)[0].read_bytes()
    (tmp_path / "other").mkdir()
    with pytest.raises(AxleboxError, match="not this vehicle's"):
        receipts.read_document(document, make_key(tmp_path / "other"))
    with pytest.raises(AxleboxError, match="not this vehicle's"):
        receipts.read_document(document.replace(b'"code": 0', b'"code": 3'), read_public(vehicle.data))


# The serial number


def test_the_serial_number_is_read_from_the_nearest_device(tmp_path: Path) -> None:
    """As sysfs has it: the partition, the disk, the SCSI host, and above them the USB device with the serial."""
    sysfs = tmp_path / "sys"
    device = tmp_path.stat().st_dev
    partition = sysfs / "devices/usb1/1-1/host0/block/sda/sda1"
    partition.mkdir(parents=True)
    links = sysfs / "dev/block"
    links.mkdir(parents=True)
    (links / f"{os.major(device)}:{os.minor(device)}").symlink_to(partition)
    assert read_serial(tmp_path, sysfs) == ""
    (sysfs / "devices/usb1/serial").write_text("0000:00:14.0\n")
    (sysfs / "devices/usb1/1-1/serial").write_text("4C530001\n")
    assert read_serial(tmp_path, sysfs) == "4C530001"
    (sysfs / "devices/usb1/1-1/serial").write_bytes(b"\x1b[2J")
    assert read_serial(tmp_path, sysfs) == ""
    assert read_serial(tmp_path / "none", sysfs) == ""
