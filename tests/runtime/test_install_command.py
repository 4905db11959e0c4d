"""`axleboxd install` as a technician meets it: every journey ends with one true verdict."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle import install as install_module
from axlebox.firmware_bundle import stick as stick_module
from axlebox.firmware_bundle import vehicle as vehicle_module
from axlebox.firmware_bundle.errors import PreflightFailed
from axlebox.firmware_bundle.receipts import Receipt, read, read_document
from axlebox.firmware_bundle.slots import open_slot
from axlebox.firmware_bundle.stick import RECEIPTS, Stick
from axlebox.firmware_bundle.vehicle import Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public
from axlebox.runtime import install_command, selftest
from axlebox.runtime.control import ask_status
from axlebox.runtime.install_command import describe_live, live_data
from axlebox.runtime.readings import format_time
from axlebox.runtime.screen import Screen

AXLEBOXD = [sys.executable, "-P", "-c", "from axlebox.runtime.cli import main; main()"]
DEADLINE_S = 60
"""Only what hangs takes this long."""

Install = Callable[..., Any]
Write = Callable[..., Path]


@pytest.fixture
def install(run: Any, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`axleboxd install --yes`, with the self-test in this process; whatever it says fits a plain console."""
    monkeypatch.setattr(selftest, "run_apart", lambda slot: f"{selftest.check_golden(open_slot(slot))}/20")

    def call(*words: object) -> Any:
        ended = run("install", "--yes", *words)
        assert all(len(line) < 80 or "--json" in words for line in ended.out.splitlines())
        assert ended.out.isascii()
        return ended

    return call


def receipts(data: Path) -> list[Receipt]:
    return list(read(data, read_public(data)))


def on_stick(data: Path, folder: Path) -> list[Receipt]:
    """The receipts on a stick, each checked."""
    found = [read_document(path.read_bytes(), read_public(data)) for path in (folder / RECEIPTS).glob("*.json")]
    return sorted(found, key=lambda receipt: receipt.number)


def wear_out_the_record(data: Path) -> None:
    for path in data.glob("state.?"):
        path.write_bytes(b"worn flash")


# -- with a running daemon ------------------------------------------------------------------------


class Fed:
    """A real daemon, with a sensor on its input."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._process = subprocess.Popen(
            [*AXLEBOXD, "run", "--data", str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._parked = threading.Event()
        self._sensor = threading.Thread(target=self._speak)
        self.until(lambda: ask_status(data) is not None)

    def until(self, reached: Callable[[], bool]) -> None:
        stop, until = threading.Event(), monotonic() + DEADLINE_S
        while not reached():
            assert monotonic() < until, "it never came to that"
            stop.wait(0.02)

    def feed(self) -> None:
        """Readings of 98 degrees, from now on until it is parked."""
        self._sensor.start()
        self.until(lambda: (ask_status(self._data) or {"scored": 0})["scored"] > 0)

    def _speak(self) -> None:
        number = 0
        while not self._parked.wait(0.02):
            number += 1
            assert self._process.stdin is not None
            self._process.stdin.write(f"{format_time(1.8e9 + number)},axle-1,98\n".encode())

    def close(self) -> None:
        self._parked.set()
        if self._sensor.is_alive():
            self._sensor.join()
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def daemon(install: Install, vehicle: Path, stick: Write) -> Iterator[Fed]:
    """It runs release 6."""
    assert install(stick(6)).code == 0
    stick(6).unlink()
    with contextlib.closing(Fed(vehicle)) as fed:
        yield fed


def test_with_live_data_the_verdict_names_a_reading_of_the_new_release(
    run: Any, install: Install, vehicle: Path, stick: Write, daemon: Fed
) -> None:
    daemon.feed()
    ended = install(stick(7).parent)
    assert (ended.code, ended.err) == (0, "")
    assert "NOW    bearing-temp 6, since today, 0 anomalies, 0 sensor faults" in ended.out
    assert re.search(r"^\[6/6\] live data OK axle-1 98.0 C, \d s ago$", ended.out, re.M)
    assert "PASS TRAIN-204 runs bearing-temp 7. Receipt AX-" in ended.words
    status = run("status", "--json").json()
    assert (status["code"], status["daemon"]["release"]["version"]) == (0, 7)
    broken = stick(8)
    broken.write_bytes(b"noise")
    assert "Nothing changed: bearing-temp 7 still runs." in install(broken).words


def test_while_the_vehicle_is_parked_live_data_is_awaited(
    install: Install, vehicle: Path, stick: Write, daemon: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install_command, "LIVE_WAITS_S", 0.2)
    ended = install("--json", stick(7).parent)
    assert ended.code == 0
    assert ended.json()["live"] == {"daemon": True}
    assert (ask_status(vehicle) or {})["release"]["version"] == 7
    again = install(stick(8))
    assert "[6/6] live data none yet" in again.out
    assert "PASS TRAIN-204 runs bearing-temp 8 on trial, awaiting live data." in again.words


# -- what the daemon says, without one ------------------------------------------------------------


def said(*sensors: tuple[str, float | None, str, float], **more: Any) -> dict[str, Any]:
    """A daemon's answer under release "new", by sensors as (name, value, status, age in s)."""
    return {
        "release": {"digest": "new", "runs_s": 10.0},
        "refused": None,
        "scored": 1,
        "sensors": [
            {"sensor": name, "value": value, "unit": "C", "status": status, "age_s": age}
            for name, value, status, age in sensors
        ],
        **more,
    }


OLD = {"release": {"digest": "old", "runs_s": 99.0}}
GOOD = ("a", 98.0, "ok", 3.0)
REFUSED = {"digest": "new", "reason": "no session"}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        pytest.param([None], "skipped, daemon not running", id="no daemon"),
        pytest.param([said(**OLD), said(GOOD)], "OK a 98.0 C, 3 s ago", id="taken over"),
        pytest.param([said(GOOD, ("b", None, "invalid", 0.1))], "OK a 98.0 C, 3 s ago", id="the latest is none"),
        pytest.param([said(("b", None, "invalid", 0.1))], "none yet", id="none is good"),
        pytest.param([said(("a", 98.0, "ok", 11.0))], "none yet", id="the old release's"),
        pytest.param([said(GOOD, scored=0)], "none yet", id="none is scored"),
        pytest.param([said(), None], "skipped, daemon not running", id="it dies under the new release"),
        pytest.param([said(**OLD), None], "skipped, daemon not running", id="it dies before"),
        pytest.param([said(**OLD, refused=REFUSED)], "FAILED", id="refused"),
        pytest.param([said(**OLD)], "FAILED", id="never ready"),
    ],
)
def test_live_data_is_what_the_new_release_scored(
    vehicle: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any], words: str
) -> None:
    """The last answer is given over and over."""
    left = list(answers)
    monkeypatch.setattr(install_command, "ask_status", lambda data: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(install_command, "LIVE_WAITS_S", 0.05)
    monkeypatch.setattr(install_command, "TAKEOVER_WAITS_S", 0.2)
    monkeypatch.setattr(install_command, "_POLL_S", 0.001)
    assert describe_live(live_data(Vehicle.open(vehicle), "new")) == words


def test_a_release_that_the_daemon_refuses_is_no_success(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = {"daemon": True, "refused": "no session"}
    monkeypatch.setattr(install_command, "live_data", lambda *words: live)
    ended = install(stick(7))
    assert ended.code == 30
    assert "[6/6] live data FAILED" in ended.out
    assert "FAIL 30 the daemon did not take bearing-temp 7 over: no session." in ended.words
    assert "Nothing changed" not in ended.out


# -- which bundle ---------------------------------------------------------------------------------


def test_two_bundles_for_this_vehicle_are_refused_by_name(install: Install, vehicle: Path, stick: Write) -> None:
    stick(7)
    ended = install(stick(8).parent)
    assert ended.code == 2
    assert "FAIL 2 bearing-temp-7.axb and bearing-temp-8.axb are both for TRAIN-204. DO: name the file" in ended.words
    assert "Nothing changed: no release is installed." in ended.words
    assert [one.code for one in receipts(vehicle)] == [2]


def test_bundles_for_others_and_broken_ones_are_noted(install: Install, vehicle: Path, stick: Write) -> None:
    folder = stick(7).parent
    stick(8, vehicles=("TRAIN-999",))
    (folder / "Broken.AXB").write_bytes(b"noise")
    (folder / "._bearing-temp-7.axb").write_bytes(b"macOS was here")
    (folder / "bearing-temp-9.axb.part").write_bytes(b"half a copy")
    ended = install(folder)
    assert ended.code == 0
    assert "note: bearing-temp-8.axb is for others" in ended.words
    assert "note: Broken.AXB cannot be read" in ended.words
    assert "._" not in ended.out and "part" not in ended.out
    assert "PASS TRAIN-204 runs bearing-temp 7" in ended.words


def test_an_empty_stick_says_so(install: Install, vehicle: Path, tmp_path: Path) -> None:
    (tmp_path / "stick").mkdir()
    ended = install(tmp_path / "stick")
    assert ended.code == 2
    assert "FAIL 2 no bundle (*.axb) in" in ended.words


def test_a_name_that_is_not_ascii_is_shown_all_the_same(install: Install, vehicle: Path, stick: Write) -> None:
    path = stick(7).rename(stick(7).with_name("Türlager.axb"))
    path.write_bytes(b"noise")
    assert "FOUND T?rlager.axb for TRAIN-204" in install(path).words


# -- a program reads ------------------------------------------------------------------------------


def test_json_is_one_object_and_nothing_else(install: Install, vehicle: Path, stick: Write) -> None:
    ended = install("--json", stick(7))
    assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1)
    found = ended.json()
    assert (found["name"], found["version"], found["live"]) == ("bearing-temp", 7, {"daemon": False})
    assert found["receipt"].startswith("AX-")
    for code in (3, 2):
        again = install("--json", stick(7) if code == 3 else stick(8).parent)
        assert (again.code, again.out, again.err.count("\n")) == (code, "", 1)


# -- outside maintenance --------------------------------------------------------------------------


@pytest.mark.parametrize("worn", [False, True])
def test_outside_maintenance_nothing_changes_and_a_receipt_says_so(
    install: Install, vehicle: Path, stick: Write, tmp_path: Path, worn: bool
) -> None:
    install(stick(6))
    if worn:
        wear_out_the_record(vehicle)
    (vehicle / "config.toml").write_text(f"[maintenance]\nfile = '{tmp_path}/in-maintenance'\n")
    before = {path: path.read_bytes() for path in vehicle.rglob("*") if path.is_file() and path.name != "receipts.log"}
    folder = stick(7).parent
    stick(6).unlink()
    ended = install(folder)
    assert ended.code == 21
    assert "FAIL 21 The vehicle does not stand in maintenance. Nothing changed:" in ended.words
    assert "DO: put the vehicle into maintenance, then install again. Receipt AX-" in ended.words
    assert "in-maintenance is not there" in ended.err
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (receipts(vehicle)[-1].code, on_stick(vehicle, folder)[-1].code) == (21, 21)
    (tmp_path / "in-maintenance").touch()
    assert install(folder).code == 0


def test_a_configuration_with_a_mistake_stops_an_installation(install: Install, vehicle: Path, stick: Write) -> None:
    (vehicle / "config.toml").write_text("[maintenance]\nfil = '/x'\n")
    ended = install(stick(7))
    assert ended.code == 2
    assert "config.toml" in ended.err and "did you mean file?" in ended.err
    assert receipts(vehicle) == []


# -- sticks that fail -----------------------------------------------------------------------------


def test_on_a_stick_that_cannot_be_written_the_receipt_is_in_the_log(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*words: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Stick, "keep", read_only)
    ended = install(stick(7).parent)
    assert ended.code == 0
    assert "note: the receipt could not be written to the stick: Read-only file system" in ended.words
    assert "is in this box's log. You may pull the stick." in ended.words
    assert [one.code for one in receipts(vehicle)] == [0]


def test_a_file_that_vanishes_before_it_is_opened_is_a_lost_stick(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = stick_module.bundles_in

    def vanishing(folder: Path) -> list[Path]:
        found = really(folder)
        for path in found:
            path.unlink()
        return found

    monkeypatch.setattr(stick_module, "bundles_in", vanishing)
    ended = install(stick(7).parent)
    assert ended.code == 30
    assert "FAIL 30 The stick cannot be read. Nothing changed: no release is installed." in ended.words
    assert "DO: put the stick in again, or use the second stick." in ended.words
    assert [one.code for one in receipts(vehicle)] == [30]


def test_a_stick_that_is_pulled_while_it_is_read_is_a_lost_stick(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(*words: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(stick_module.os, "lseek", pulled)
        ended = install(stick(7).parent)
    assert ended.code == 30
    assert "FAIL 30 The stick cannot be read." in ended.words
    assert "Input/output error" in ended.err


# -- boxes that fail ------------------------------------------------------------------------------


def test_a_full_data_folder_is_told_before_anything_is_copied(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(stick(6))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(install_module.shutil, "disk_usage", lambda path: usage)
    ended = install(stick(7))
    assert ended.code == 20
    assert "has 1000 bytes free" in ended.words
    assert "Nothing changed: bearing-temp 6 stays installed. DO: mend that, then try again." in ended.words
    assert not (vehicle / "incoming.part").exists()


def test_a_disk_that_is_full_by_the_time_of_the_copy_is_told(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *words: Any, **how: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(disk, "write_durable", full)
    ended = install(stick(7))
    assert ended.code == 20
    assert "FAIL 20 This box could not write to its disk. Nothing changed:" in ended.words
    assert "incoming.part: No space left on device" in ended.err


def test_a_data_folder_that_cannot_be_written_is_told(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.open

    def read_only(path: Any, flags: int, *mode: int, **how: Any) -> int:
        if Path(path).is_relative_to(vehicle) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return really(path, flags, *mode, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        ended = install(stick(7).parent)
    assert ended.code == 20
    assert "FAIL 20 This box could not write to its disk. Nothing changed: no release is installed." in ended.words
    assert "Read-only file system" in ended.err


def test_a_corrupted_release_is_told_and_installed_again(install: Install, vehicle: Path, stick: Write) -> None:
    path = stick(6)
    install(path)
    (model,) = vehicle.glob("slots/*/model.onnx")
    model.write_bytes(b"worn flash")
    broken = stick(7)
    broken.write_bytes(b"noise")
    ended = install(broken)
    assert "NOW what this box has stored is damaged" in ended.words
    assert "Nothing changed: what this box has stored is damaged." in ended.words
    again = install(path)
    assert (again.code, "PASS TRAIN-204 runs bearing-temp 6" in again.words) == (0, True)
    assert model.read_bytes() != b"worn flash"


def test_a_confirmed_release_that_is_mended_is_not_called_on_trial(
    run: Any, install: Install, vehicle: Path, stick: Write
) -> None:
    path = stick(6)
    install(path)
    run("confirm")
    (model,) = vehicle.glob("slots/*/model.onnx")
    model.write_bytes(b"worn flash")
    ended = install(path)
    assert ended.code == 0
    assert "PASS TRAIN-204 runs bearing-temp 6 from its next start, awaiting live data." in ended.words
    assert Vehicle.open(vehicle).state().trial is None


def test_with_both_state_files_damaged_the_words_are_true(install: Install, vehicle: Path, stick: Write) -> None:
    install(stick(6))
    wear_out_the_record(vehicle)
    ended = install(stick(7))
    assert ended.code == 0
    assert "note: both state files were damaged; begun anew, nothing below release 6" in ended.words
    assert "NOW no release" in ended.words
    assert "PASS TRAIN-204 runs bearing-temp 7 on trial from its next start" in ended.words


def test_with_the_record_mended_and_the_bundle_refused_it_does_not_say_that_nothing_changed(
    install: Install, vehicle: Path, stick: Write
) -> None:
    install(stick(6))
    wear_out_the_record(vehicle)
    broken = stick(7)
    broken.write_bytes(b"noise")
    ended = install(broken)
    assert "Nothing changed" not in ended.out
    assert "No release is installed." in ended.words


def test_who_may_not_even_ask_the_daemon_is_told_what_is_installed(
    install: Install, vehicle: Path, stick: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> None:
        raise PreflightFailed("axleboxd.sock answers only to its owner")

    install(stick(6))
    monkeypatch.setattr(install_command, "ask_status", refused)
    broken = stick(7)
    broken.write_bytes(b"noise")
    assert "Nothing changed: bearing-temp 6 stays installed." in install(broken).words


# -- nothing of the stick is open -----------------------------------------------------------------


def open_on(folder: Path) -> list[str]:
    """What this process and its children have open below a folder."""
    children = Path("/proc/thread-self/children").read_text().split()
    found = []
    for process in ("self", *children):
        for handle in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(handle.readlink()))
    return [path for path in found if path.startswith(f"{folder}/")]


@pytest.fixture
def verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str]]]:
    """Every verdict, its words, and what of the stick was open when it was spoken."""
    seen: list[tuple[str, str, list[str]]] = []

    def verdict(screen: Screen, word: str, *sentences: str) -> None:
        seen.append((word, " ".join(sentences), open_on(tmp_path / "stick")))

    monkeypatch.setattr(Screen, "verdict", verdict)
    monkeypatch.setattr(vehicle_module, "COMMAND_WAITS_S", 0.05)
    return seen


def test_when_it_says_that_the_stick_may_be_pulled_nothing_of_it_is_open(
    install: Install, vehicle: Path, stick: Write, verdicts: list[tuple[str, str, list[str]]], tmp_path: Path
) -> None:
    folder = stick(7).parent
    with open(folder / "seen", "w"):
        assert open_on(folder) == [str(folder / "seen")]
    install(folder)
    install(folder)
    with Vehicle.open(vehicle).locked():
        install(folder)
    stick(8)
    install(folder)
    stick(7).unlink()
    stick(8).write_bytes(b"noise")
    install(folder)
    assert [word for word, _, _ in verdicts] == ["PASS", "SAME", "FAIL 20", "FAIL 2", "FAIL 12"]
    assert all("You may pull the stick." in words for _, words, _ in verdicts)
    assert [left for _, _, left in verdicts] == [[]] * 5


# -- two at once ----------------------------------------------------------------------------------


def test_two_installers_at_once_leave_one_whole_release(run: Any, vehicle: Path, stick: Write, tmp_path: Path) -> None:
    words = [*AXLEBOXD, "install", "--yes", "--data", str(vehicle)]
    both = [
        subprocess.Popen([*words, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for path in (stick(7), stick(8))
    ]
    codes = []
    for process in both:
        process.communicate(timeout=DEADLINE_S)
        codes.append(process.returncode)
    assert 0 in codes
    assert set(codes) <= {0, 20}
    assert run("status").code == 40
    assert run("selftest").code == 0
    status = run("status", "--json").json()
    assert status["release"]["version"] in [version for version, code in zip((7, 8), codes, strict=True) if code == 0]
    assert not list(vehicle.glob("**/*.part"))


def test_the_clock_of_a_receipt_is_the_box_s(install: Install, vehicle: Path, stick: Write) -> None:
    before = datetime.now(UTC)
    install(stick(7).parent)
    (receipt,) = receipts(vehicle)
    assert before <= receipt.time <= datetime.now(UTC)
    assert on_stick(vehicle, stick(7).parent) == [receipt]
