"""`axlebox stick`: what a stick holds after filling it, whatever happens meanwhile, and what a check finds."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from axlebox.export import stick
from axlebox.export.cli import main
from axlebox.export.stick import CONTENTS, RECEIPTS, check, prepare
from axlebox.firmware_bundle.errors import (
    AxleboxError,
    Damaged,
    Malformed,
    PreflightFailed,
    TooFewSignatures,
    UsageError,
)
from axlebox.firmware_bundle.stick import Candidate, Stick

MADE = datetime(2026, 4, 1, 8, 30, tzinfo=UTC)
OLD, NEW = "bearing-temp-6.axb", "bearing-temp-7.axb"


class Depot:
    """A folder that stands for a stick, the root of trust, and bundles on the workstation."""

    def __init__(self, world: Any, place: Path) -> None:
        self.world, self.place = world, place
        self.stick, self.trust = place / "stick", place / "root.json"
        self.stick.mkdir()
        (place / "dist").mkdir()
        self.trust.write_bytes(world.root())

    def bundle(self, version: int = 7, file: str = "", **how: Any) -> Path:
        """A bundle with a tiny model in the workstation's dist folder."""
        manifest = self.world.manifest(version, **{key: how.pop(key) for key in FIELDS & how.keys()})
        files = {**self.world.files(manifest), "model.onnx": self.world.tiny_model}
        path = self.place / "dist" / (file or f"{manifest.name}-{version}.axb")
        path.write_bytes(self.world.bundle(version, files=files, **how))
        return path

    def prepare(self, *bundles: Path, replace: bool = False) -> stick.Filling:
        return prepare(self.stick, bundles, self.trust, MADE, replace)

    def check(self) -> stick.Checked:
        return check(self.stick, self.trust)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.stick.iterdir())

    def sha256sum(self) -> subprocess.CompletedProcess[str]:
        """The real tool, which shares no code with ours; complaints about lines count as failures."""
        words = ["sha256sum", "--check", "--strict", "--warn", CONTENTS]
        return subprocess.run(words, cwd=self.stick, capture_output=True, text=True, check=False)


FIELDS = {"name", "hardware", "vehicles"}


@pytest.fixture
def depot(world: Any, tmp_path: Path) -> Depot:
    return Depot(world, tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """axlebox in this process: exit code, output, errors."""

    def program(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["axlebox", "stick", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        assert captured.err.count("\n") <= 1 and "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    return program


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def chosen(stick: Path) -> Candidate:
    """What a vehicle would take from the stick."""
    with contextlib.closing(Stick(stick)) as opened:
        return opened.choose("T1", "box-a").candidate


def only_problem(found: stick.Checked) -> AxleboxError:
    (problem,) = found.problems
    return problem


# -- prepare --------------------------------------------------------------------------------------


def test_a_prepared_stick_is_what_sha256sum_and_the_vehicle_expect(depot: Depot) -> None:
    source = depot.bundle(file="as the workstation calls it.axb")
    done = depot.prepare(source)
    assert depot.names() == [CONTENTS, NEW]
    assert [one.file for one in done.written] == [NEW] and not done.kept and not done.removed
    assert chosen(depot.stick).data == source.read_bytes()
    summed = depot.sha256sum()
    assert (summed.returncode, summed.stdout, summed.stderr) == (0, f"{NEW}: OK\n", "")
    found = depot.check()
    assert [one.file for one in found.good] == [NEW] and not found.problems


def test_the_table_of_contents_says_in_plain_ascii_what_for_whom_and_when(depot: Depot) -> None:
    many = tuple(f"TRAIN-{number}" for number in range(100, 160))
    (one,) = depot.prepare(depot.bundle(hardware=("box-a", "box-b"), vehicles=many)).written
    lines = (depot.stick / CONTENTS).read_bytes().decode("ascii").splitlines()
    text = " ".join(line.strip("# ") for line in lines)
    assert "Made at 2026-04-01T08:30:00Z by axlebox " in lines[0]
    assert "bearing-temp 7 version   7 hardware  box-a, box-b vehicles  TRAIN-100, TRAIN-101," in text
    assert all(vehicle in text for vehicle in many) and max(map(len, lines)) <= 100
    assert f"digest    {one.bundle.digest} (signed) built     2026-03-01T00:00:00Z" in text
    assert depot.sha256sum().returncode == 0


def test_the_same_stick_made_at_the_same_time_has_the_same_table(
    depot: Depot, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(MADE.timestamp())))
    depot.prepare(depot.bundle())
    before = (depot.stick / CONTENTS).read_bytes()
    assert run("prepare", depot.stick, depot.bundle(), "--trust", depot.trust)[0] == 0
    assert (depot.stick / CONTENTS).read_bytes() == before


def test_a_bundle_that_lacks_signatures_is_refused_and_nothing_is_written(depot: Depot) -> None:
    with pytest.raises(TooFewSignatures, match=r"^bearing-temp-8\.axb: "):
        depot.prepare(depot.bundle(), depot.bundle(8, name="coolant", file="bearing-temp-8.axb", targets_keys=()))
    assert depot.names() == []


def test_a_folder_that_is_not_there_is_wrong_usage(depot: Depot) -> None:
    for act in (lambda: depot.prepare(depot.bundle()), depot.check):
        shutil.rmtree(depot.stick, ignore_errors=True)
        with pytest.raises(UsageError, match="is not a folder"):
            act()


def test_too_little_space_is_told_before_anything_is_written(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(PreflightFailed, match="1000 bytes free"):
        depot.prepare(depot.bundle())
    assert depot.names() == []


def test_a_file_system_that_does_not_tell_its_space_is_tried(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))
    depot.prepare(depot.bundle())
    assert not depot.check().problems


@pytest.mark.parametrize(
    ("one", "two", "refused"),
    [
        ({}, {}, True),
        ({"hardware": ("box-a",)}, {"hardware": ("any",)}, True),
        ({"hardware": ("box-a", "box-b")}, {"hardware": ("box-b",)}, True),
        ({"hardware": ("box-a",)}, {"hardware": ("box-b",)}, False),
        ({"vehicles": ("T1", "T2")}, {"vehicles": ("T2", "T3")}, True),
        ({"vehicles": ("T1",)}, {}, True),
        ({"vehicles": ("T1",)}, {"vehicles": ("T2",)}, False),
        ({"vehicles": ("T1",), "hardware": ("box-a",)}, {"vehicles": ("T1",), "hardware": ("box-b",)}, False),
    ],
)
def test_two_bundles_that_one_vehicle_would_find_are_refused(depot: Depot, one: Any, two: Any, refused: bool) -> None:
    both = depot.bundle(6, **one), depot.bundle(7, **two)
    if not refused:
        depot.prepare(*both)
        assert depot.names() == [CONTENTS, OLD, NEW]
        assert not depot.check().problems
        return
    with pytest.raises(UsageError, match=rf"{OLD} .*{NEW} .*two bundles"):
        depot.prepare(*both)
    assert depot.names() == []
    depot.prepare(both[0])
    shutil.copy(both[1], depot.stick)  # by hand, past the refusal
    assert "two bundles" in str(only_problem(depot.check()))


def test_a_bundle_given_twice_is_refused(depot: Depot) -> None:
    with pytest.raises(UsageError, match="two of the bundles would be"):
        depot.prepare(depot.bundle(vehicles=("T1",)), depot.bundle(vehicles=("T2",), file="other.axb"))


def test_a_bundle_that_is_there_already_is_kept(depot: Depot) -> None:
    depot.prepare(depot.bundle())
    before = (depot.stick / NEW).stat()
    done = depot.prepare(depot.bundle())
    assert [one.file for one in done.kept] == [NEW] and not done.written
    assert (depot.stick / NEW).stat().st_mtime_ns == before.st_mtime_ns
    assert (depot.stick / NEW).stat().st_ino == before.st_ino


def test_another_file_under_the_name_is_refused_and_with_replace_it_is_replaced(depot: Depot) -> None:
    depot.prepare(depot.bundle())
    flip(depot.stick / NEW)
    damaged = (depot.stick / NEW).read_bytes()
    with pytest.raises(UsageError, match="is another file"):
        depot.prepare(depot.bundle())
    assert (depot.stick / NEW).read_bytes() == damaged
    assert [one.file for one in depot.prepare(depot.bundle(), replace=True).written] == [NEW]
    assert depot.sha256sum().returncode == 0


def test_an_older_release_is_refused_and_with_replace_it_goes(depot: Depot) -> None:
    depot.prepare(depot.bundle(6))
    with pytest.raises(UsageError, match=rf"{OLD} .*{NEW} .*--replace"):
        depot.prepare(depot.bundle(7))
    assert depot.names() == [CONTENTS, OLD]
    assert depot.prepare(depot.bundle(7), replace=True).removed == (OLD,)
    assert depot.names() == [CONTENTS, NEW]
    assert not depot.check().problems and depot.sha256sum().stdout == f"{NEW}: OK\n"


def test_replacing_spares_bundles_of_other_names_and_for_other_vehicles(depot: Depot) -> None:
    depot.prepare(depot.bundle(5, vehicles=("T1",)), depot.bundle(6, vehicles=("T2",)))
    done = depot.prepare(depot.bundle(7, vehicles=("T2", "T3")), replace=True)
    assert done.removed == (OLD,) and depot.names() == [CONTENTS, "bearing-temp-5.axb", NEW]
    with pytest.raises(UsageError, match="coolant-8"):
        depot.prepare(depot.bundle(8, name="coolant"), replace=True)


def test_a_bundle_on_the_stick_that_is_not_good_is_refused_with_its_own_code_or_replaced(depot: Depot) -> None:
    depot.prepare(depot.bundle(6))
    flip(depot.stick / OLD)
    with pytest.raises(AxleboxError, match="on the stick already") as refused:
        depot.prepare(depot.bundle(7))
    assert refused.value.exit_code in (10, 12)
    with pytest.raises(AxleboxError, match="on the stick already"):  # of another name: not what is replaced
        depot.prepare(depot.bundle(7, name="coolant"), replace=True)
    assert depot.prepare(depot.bundle(7), replace=True).removed == (OLD,)
    assert depot.names() == [CONTENTS, NEW]


def test_names_in_capitals_as_fat_may_show_them_are_the_same_names(depot: Depot) -> None:
    depot.prepare(depot.bundle())
    (depot.stick / NEW).rename(depot.stick / NEW.upper())
    assert not depot.check().problems
    assert chosen(depot.stick).name == NEW.upper()
    assert [one.file for one in depot.prepare(depot.bundle()).kept] == [NEW.upper()]
    flip(depot.stick / NEW.upper())
    depot.prepare(depot.bundle(), replace=True)
    assert depot.names() == [NEW.upper(), CONTENTS] and depot.sha256sum().returncode == 0


@pytest.mark.parametrize("name", ["a\x1b[2J.axb", "p\u00e4ss.axb", "a\\b.axb", "a\nb.axb"])
def test_a_name_on_the_stick_that_no_plain_table_can_list_is_refused(depot: Depot, name: str) -> None:
    shutil.copy(depot.bundle(6), depot.stick / name)
    with pytest.raises(UsageError, match="the file name") as refused:
        depot.prepare(depot.bundle(7), replace=True)
    assert str(refused.value).isascii() and str(refused.value).isprintable()
    assert depot.names() == [name]


# -- whatever happens meanwhile -------------------------------------------------------------------


def test_a_stick_pulled_in_the_middle_of_a_copy_holds_no_more_than_a_part(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(handle: int) -> None:
        os.ftruncate(handle, 1000)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", pulled)
        with pytest.raises(PreflightFailed, match=rf"{NEW}\.part: Input/output error"):
            depot.prepare(depot.bundle())
    assert depot.names() == [f"{NEW}.part"]
    found = depot.check()
    assert found.notes[0].startswith(f"{NEW}.part is an unfinished copy")
    assert isinstance(only_problem(found), Damaged) and CONTENTS in str(only_problem(found))
    with pytest.raises(UsageError, match="no bundle"):
        chosen(depot.stick)
    depot.prepare(depot.bundle())
    assert depot.names() == [CONTENTS, NEW]


def test_wherever_a_stick_is_pulled_it_holds_a_whole_release_and_the_next_try_ends_it(
    depot: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = depot.bundle(6), depot.bundle(7)
    calls = 0

    def fail_at(number: int, name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*words: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > number:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*words)

        return call

    for number in range(100):
        shutil.rmtree(depot.stick)
        depot.stick.mkdir()
        depot.prepare(old)
        calls, done = 0, False
        with monkeypatch.context() as patch:
            for name in ("open", "fsync", "rename", "unlink"):
                patch.setattr(os, name, fail_at(number, name))
            try:
                depot.prepare(new, replace=True)
                done = True
            except AxleboxError:
                pass
        whole = {path.name for path in depot.stick.glob("*.axb")}
        assert whole and whole <= {OLD, NEW}
        for name in whole:
            assert (depot.stick / name).read_bytes() == {OLD: old, NEW: new}[name].read_bytes()
        depot.prepare(new, replace=True)
        assert depot.names() == [CONTENTS, NEW] and not depot.check().problems
        if done:
            break
    assert number > 8


def test_a_stick_that_reads_back_other_bytes_is_found_out(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change happens where the page cache is dropped: what was in memory stays as it was written."""

    def worn(handle: int, *words: int) -> None:
        assert words == (0, 0, os.POSIX_FADV_DONTNEED)
        flip(Path(f"/proc/self/fd/{handle}").readlink())

    monkeypatch.setattr(os, "posix_fadvise", worn)
    with pytest.raises(Damaged, match=r"\.part reads back other bytes"):
        depot.prepare(depot.bundle())
    assert depot.names() == [f"{NEW}.part"]


@pytest.mark.parametrize("name", [NEW, CONTENTS])
def test_a_link_on_the_stick_does_not_lead_the_copy_elsewhere(depot: Depot, name: str) -> None:
    target = depot.place / "precious"
    target.write_text("of the workstation")
    (depot.stick / f"{name}.part").symlink_to(target)
    depot.prepare(depot.bundle())
    assert target.read_text() == "of the workstation"
    assert not any(path.is_symlink() for path in depot.stick.iterdir())


# -- check ----------------------------------------------------------------------------------------


def test_a_file_damaged_after_prepare_is_found_as_sha256sum_finds_it(depot: Depot) -> None:
    depot.prepare(depot.bundle())
    flip(depot.stick / NEW)
    assert depot.sha256sum().returncode == 1
    found = depot.check()
    assert isinstance(only_problem(found), Damaged) and str(only_problem(found)).startswith(f"{NEW}: differs")
    assert not found.good


def test_a_sector_that_cannot_be_read_is_damage(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    depot.prepare(depot.bundle())

    def fails(*words: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fadvise", fails)
    assert [type(problem) for problem in depot.check().problems] == [Damaged, Damaged]


def test_every_problem_is_listed_and_what_is_no_problem_is_noted(depot: Depot) -> None:
    depot.prepare(
        depot.bundle(5, vehicles=("T1",)), depot.bundle(6, vehicles=("T2",)), depot.bundle(7, vehicles=("T3",))
    )
    flip(depot.stick / "bearing-temp-5.axb")
    (depot.stick / OLD).unlink()
    shutil.copy(depot.bundle(8, vehicles=("T4",), targets_keys=()), depot.stick)
    (depot.stick / "letter\x1b.txt").write_text("hello")
    for ignored in ("._bearing-temp-7.axb", ".Trashes"):
        (depot.stick / ignored).write_text("left by a file manager")
    (depot.stick / "photos").mkdir()
    found = depot.check()
    assert {str(one).partition(":")[0]: one.exit_code for one in found.problems} == {
        "bearing-temp-5.axb": 12,
        "bearing-temp-8.axb": 11,
        OLD: 12,
    }
    assert [one.file for one in found.good] == [NEW]
    assert found.notes[:2] == (
        f"bearing-temp-8.axb is not listed in {CONTENTS}",
        f"'letter\\x1b.txt' is not listed in {CONTENTS}",
    )
    assert "Trash" not in str(found.notes) and "photos" not in str(found.notes)


def test_a_missing_root_of_trust_is_no_problem_of_the_stick(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    depot.prepare(depot.bundle())
    monkeypatch.chdir(depot.place)
    with pytest.raises(UsageError, match=r"in no workspace. DO: give --trust"):
        check(depot.stick, None)


def test_receipts_that_vehicles_left_are_named(depot: Depot) -> None:
    depot.prepare(depot.bundle())
    (depot.stick / RECEIPTS).mkdir()
    for name in ("TRAIN-204.json", "TRAIN-101.json", "._TRAIN-204.json"):
        (depot.stick / RECEIPTS / name).write_text("{}")
    found = depot.check()
    assert found.receipts == ("TRAIN-101.json", "TRAIN-204.json") and not found.problems


def test_a_table_that_is_none_is_malformed_and_leads_nowhere(depot: Depot) -> None:
    depot.prepare(depot.bundle())
    table = depot.stick / CONTENTS
    good = table.read_text()
    for line, kind in {
        "what is this": Malformed,
        good.splitlines()[-1]: Malformed,
        f"{hashlib.sha256(depot.trust.read_bytes()).hexdigest()}  ../root.json": Damaged,
    }.items():
        table.write_text(f"{good}{line}\n")
        assert isinstance(only_problem(depot.check()), kind)
    table.write_text("")
    assert "lists no file" in str(only_problem(depot.check()))
    table.write_text(good.replace("\n", "\r\n"))
    assert not depot.check().problems


# -- the commands ---------------------------------------------------------------------------------


def test_the_commands_speak_to_people(depot: Depot, run: Callable[..., Any]) -> None:
    code, out, _ = run("prepare", depot.stick, depot.bundle(), "--trust", depot.trust)
    assert code == 0 and out.isascii()
    assert out.startswith(f"written   {NEW}: bearing-temp 7 for hardware any; vehicles all, ")
    assert out.endswith("Unmount the stick, then pull it.\n") and "is it the stick?" in out
    code, out, err = run("check", depot.stick, "--trust", depot.trust)
    assert (code, err) == (0, "") and out.startswith(f"good      {NEW}: ") and out.endswith("receipts  0\n")
    flip(depot.stick / NEW)
    (depot.stick / "other.axb").write_bytes(b"no bundle")
    code, out, err = run("check", depot.stick, "--trust", depot.trust)
    assert code == 12 and err == f"axlebox: {NEW}: differs from what {CONTENTS} lists; 1 more, all listed above\n"
    assert f"PROBLEM   {NEW}" in out and "PROBLEM   other.axb" in out


def test_the_commands_speak_json(depot: Depot, run: Callable[..., Any]) -> None:
    run("prepare", depot.stick, depot.bundle(6), "--trust", depot.trust)
    code, out, _ = run("prepare", depot.stick, depot.bundle(7), "--trust", depot.trust, "--replace", "--json")
    record = json.loads(out)
    assert code == 0 and record["removed"] == [OLD] and record["kept"] == []
    (written,) = record["written"]
    assert written["file"] == NEW and (written["name"], written["version"]) == ("bearing-temp", 7)
    assert written["sha256"] == hashlib.sha256(depot.bundle(7).read_bytes()).hexdigest()
    record = json.loads(run("check", depot.stick, "--trust", depot.trust, "--json")[1])
    assert record["good"] == [written] and record["problems"] == [] and record["receipts"] == []
    (depot.stick / NEW).unlink()
    code, out, err = run("check", depot.stick, "--trust", depot.trust, "--json")
    assert code == 12 and err.startswith(f"axlebox: {NEW}: is missing")
    assert json.loads(out)["problems"] == [{"code": 12, "problem": f"{NEW}: is missing; {CONTENTS} lists it"}]
