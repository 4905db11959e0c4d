"""What root gives up: the data folder stays its owner's, and nothing is parsed with root's rights."""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import pwd
import select
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from axlebox.firmware_bundle import stick as stick_module
from axlebox.firmware_bundle import tuf_client, vehicle_key
from axlebox.firmware_bundle import vehicle as vehicle_module
from axlebox.firmware_bundle.receipts import read_document
from axlebox.firmware_bundle.slots import open_slot
from axlebox.firmware_bundle.stick import RECEIPTS, Stick
from axlebox.firmware_bundle.vehicle import Vehicle
from axlebox.runtime import (
    commands,
    config,
    install_command,
    privilege,
    run_command,
    selftest,
    service,
    status_command,
    stored,
)
from axlebox.runtime.cli import main
from axlebox.runtime.privilege import Keeper, become_owner, user_name, would_change

OWNER = 12345
"""A user who is nobody on this machine."""
DEADLINE_S = 30
NAME = "AX-7F3K-TRAIN-204-0007.json"

_LOADED = (commands, install_command, run_command, status_command, stored, tuf_client, vehicle_key)
"""Imported before root's rights are gone: the owner may have none to read this machine's Python."""
codecs.lookup("utf-8-sig")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


# -- who called -----------------------------------------------------------------------------------


def test_the_user_is_who_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert user_name() == pwd.getpwuid(os.getuid()).pw_name


def test_by_sudo_it_is_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user_name() == "ann"


def test_only_root_is_believed_to_come_by_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    monkeypatch.setattr(os, "getuid", lambda: OWNER)
    assert user_name() == str(OWNER)


@pytest.mark.parametrize(("name", "shown"), [("a" * 100, "a" * 64), ("ann\x1b[2J", "")])
def test_a_name_is_short_and_printable(monkeypatch: pytest.MonkeyPatch, name: str, shown: str) -> None:
    monkeypatch.setenv("SUDO_USER", name)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user_name() == shown


def test_without_root_or_in_one_s_own_folder_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.getresuid()
    become_owner(tmp_path)
    become_owner(tmp_path / "missing")
    assert os.getresuid() == before
    monkeypatch.setattr(os, "geteuid", lambda: OWNER)
    assert not would_change(Path("/"))


# -- the keeper -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stick's folder, with a bundle on it."""
    folder = tmp_path / "stick"
    folder.mkdir()
    (folder / "a.axb").write_bytes(b"a bundle")
    return folder


@pytest.fixture
def keeper(folder: Path) -> Iterator[Keeper]:
    with contextlib.closing(Stick(folder)) as stick, contextlib.closing(Keeper(stick)) as keeper:
        yield keeper


def test_the_keeper_writes_receipts_to_the_stick(keeper: Keeper, folder: Path) -> None:
    keeper.keep(NAME, b"{}\nand more\n")
    keeper.keep(NAME.replace("0007", "0008"), b"x")
    assert (folder / RECEIPTS / NAME).read_bytes() == b"{}\nand more\n"
    assert len(list((folder / RECEIPTS).iterdir())) == 2


@pytest.mark.parametrize(
    "name",
    [
        "x.json",
        "../x",
        f"../{NAME}",
        f"/{NAME}",
        f"a/{NAME}",
        f"{NAME}.sh",
        f" {NAME}",
        "AX-7F3K-../../x-0007.json",
        "",
    ],
)
def test_the_keeper_writes_nothing_but_receipts(keeper: Keeper, folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(OSError, match="not the name of a receipt"):
        keeper.keep(name, b"x")
    assert sorted(folder.parent.rglob("*")) == before
    keeper.keep(NAME, b"x")


def test_the_keeper_follows_no_link_that_the_stick_brought(keeper: Keeper, folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (folder / RECEIPTS).mkdir()
    (folder / RECEIPTS / f"{NAME}.part").symlink_to(precious)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        keeper.keep(NAME, b"x")
    assert precious.read_bytes() == b"precious"


def test_the_keeper_writes_into_no_folder_that_leads_elsewhere(keeper: Keeper, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / RECEIPTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="leads elsewhere"):
        keeper.keep(NAME, b"x")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_fifo_on_the_stick_does_not_hold_the_keeper_up(keeper: Keeper, folder: Path) -> None:
    (folder / RECEIPTS).mkdir()
    os.mkfifo(folder / RECEIPTS / f"{NAME}.part")
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        keeper.keep(NAME, b"x")


def test_what_the_stick_refuses_is_passed_on(keeper: Keeper, folder: Path) -> None:
    (folder / RECEIPTS).write_bytes(b"a file")
    with pytest.raises(FileExistsError):
        keeper.keep(NAME, b"x")


def test_the_keeper_has_nothing_of_the_stick_open(keeper: Keeper, folder: Path) -> None:
    keeper.keep(NAME, b"x")
    handles = [handle.readlink() for handle in Path(f"/proc/{keeper._child}/fd").iterdir()]
    assert [path for path in handles if path.is_relative_to(folder)] == []


def test_a_keeper_that_was_killed_is_told_as_an_error(keeper: Keeper) -> None:
    os.kill(keeper._child, 9)
    with pytest.raises(OSError, match=r"Broken pipe|reset by peer|has ended"):
        keeper.keep(NAME, b"x")


def test_the_keeper_ends_with_whoever_called_it(folder: Path) -> None:
    with contextlib.closing(Stick(folder)) as stick:
        keeper = Keeper(stick)
        keeper.close()
    with pytest.raises(ProcessLookupError):
        os.kill(keeper._child, 0)


# -- as root --------------------------------------------------------------------------------------


def _writer(handle: int) -> IO[str]:
    return os.fdopen(handle, "w")


class Box:
    """A box whose data folder is somebody else's, and a stick that root alone may write."""

    def __init__(self, world: Any, place: Path) -> None:
        self.world = world
        self.place, self.data, self.stick = place, place / "data", place / "stick"
        place.chmod(0o755)
        self.data.mkdir()
        os.chown(self.data, OWNER, OWNER)
        self.stick.mkdir(mode=0o700)
        trust = self.stick / "root.json"
        trust.write_bytes(world.root())
        trust.chmod(0o600)
        words = ("provision", "--trust", trust, "--vehicle", "TRAIN-204", "--hardware", "edge-1")
        assert self.call(*words)[0] == 0

    def bundle(self, version: int) -> None:
        path = self.stick / "bundle.axb"
        path.write_bytes(self.world.bundle(version))
        path.chmod(0o600)

    def call(self, *words: object, patch: Callable[[pytest.MonkeyPatch], None] | None = None) -> tuple[int, str]:
        """axleboxd in a process of its own, begun as root: its exit code and what it printed."""
        alive, held = os.pipe()
        with tempfile.TemporaryFile() as out:
            child = os.fork()
            if child == 0:
                os._exit(self._child(words, out.fileno(), patch))
            os.close(held)
            _, status = os.waitpid(child, 0)
            # It and all its children held the other end.
            assert select.select([alive], [], [], DEADLINE_S)[0], "something is still running"
            os.close(alive)
            out.seek(0)
            return os.waitstatus_to_exitcode(status), out.read().decode()

    def _child(self, words: tuple[object, ...], out: int, patch: Callable[[pytest.MonkeyPatch], None] | None) -> int:
        os.setgroups([OWNER + 1])  # which must be gone as well
        os.setgroups([0])
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(os.open(os.devnull, os.O_RDONLY)), *map(_writer, (1, 2)))
        sys.argv = ["axleboxd", *map(str, words), "--data", str(self.data)]
        here = pytest.MonkeyPatch()
        here.setattr(selftest, "run_apart", lambda slot: f"{selftest.check_golden(open_slot(slot))}/20")
        here.setattr(service, "run_apart", selftest.run_apart)
        here.setenv("SUDO_USER", "ann")
        if patch is not None:
            patch(here)
        try:
            main()
        except SystemExit as ended:
            sys.stdout.flush()
            return ended.code if isinstance(ended.code, int) else 0
        return 99

    def foreign(self) -> list[Path]:
        """What in the data folder does not belong to its owner."""
        return [
            path
            for path in (self.data, *self.data.rglob("*"))
            if (path.lstat().st_uid, path.lstat().st_gid) != (OWNER, OWNER)
        ]


@pytest.fixture
def box(world: Any) -> Iterator[Box]:
    place = Path(tempfile.mkdtemp(prefix="axlebox-"))
    try:
        yield Box(world, place)
    finally:
        shutil.rmtree(place)


def only_as_owner(patch: pytest.MonkeyPatch) -> None:
    """Every parser of what others wrote ends the process where root calls it."""

    def guarded(module: Any, name: str) -> None:
        really = getattr(module, name)

        def parse(*words: Any, **how: Any) -> Any:
            if os.getresuid() != (OWNER, OWNER, OWNER) or os.getgroups():
                os._exit(98)
            return really(*words, **how)

        patch.setattr(module, name, parse)

    guarded(stick_module, "unpack")
    guarded(tuf_client, "parse_root")
    guarded(vehicle_module, "decode")
    guarded(config.tomllib, "loads")
    guarded(selftest, "check_golden")


@as_root
def test_root_installs_as_the_owner_and_the_receipt_is_on_the_stick(box: Box) -> None:
    box.bundle(1)
    (box.data / "config.toml").write_text("[confirm]\nautomatic = false\n")
    os.chown(box.data / "config.toml", OWNER, OWNER)
    code, out = box.call("install", "--yes", box.stick, patch=only_as_owner)
    assert code == 0, out
    assert "is on the stick. You may pull the" in " ".join(out.split())
    assert box.foreign() == []
    (path,) = (box.stick / RECEIPTS).iterdir()
    receipt = read_document(path.read_bytes(), vehicle_key.read_public(box.data))
    assert (receipt.code, receipt.user, path.stat().st_uid) == (0, "ann", 0)


@as_root
def test_a_refusal_that_root_meets_is_on_the_stick_as_well(box: Box) -> None:
    (box.stick / "bundle.axb").write_bytes(b"noise")
    code, out = box.call("install", "--yes", box.stick, patch=only_as_owner)
    assert code == 12, out
    assert len(list((box.stick / RECEIPTS).iterdir())) == 1
    assert box.foreign() == []


@as_root
def test_the_owner_cannot_become_root_again(box: Box) -> None:
    def try_it(patch: pytest.MonkeyPatch) -> None:
        really = Vehicle.open

        def opened(data: Path) -> Vehicle:
            with contextlib.suppress(PermissionError):
                os.setuid(0)
                os._exit(98)
            return really(data)

        patch.setattr(Vehicle, "open", opened)

    assert box.call("status", patch=try_it)[0] == 20


@as_root
def test_no_command_that_root_calls_leaves_a_file_of_root_s(box: Box) -> None:
    readings = box.place / "readings.csv"
    readings.write_text("time,sensor,value\n2026-04-01T00:00:00Z,axle-1,100\n2026-04-01T00:01:00Z,axle-1,300\n")
    assert box.foreign() == []
    for version in (1, 2):
        box.bundle(version)
        assert box.call("verify", box.stick)[0] == 0
        assert box.call("install", "--yes", box.stick)[0] == 0
        assert box.call("confirm", "--stick", box.stick)[0] == 0
        assert box.foreign() == []
    for code, words in (
        (0, ("run", "--source", f"file:{readings}")),
        (40, ("status",)),
        (0, ("selftest",)),
        (0, ("fallback", "--stick", box.stick)),
        (0, ("sensor", "replaced", "axle-1", "--stick", box.stick)),
        (40, ("status",)),
    ):
        ended, out = box.call(*words, patch=None if words[0] == "run" else only_as_owner)
        assert ended == code, out
        assert box.foreign() == [], words
    assert (box.data / "store.db").exists()
    assert len(list((box.stick / RECEIPTS).iterdir())) == 6


@as_root
def test_in_a_folder_of_its_own_root_stays_root(world: Any, tmp_path: Path) -> None:
    become_owner(tmp_path)
    assert os.getresuid() == (0, 0, 0)
    assert not would_change(tmp_path)
    assert privilege.would_change(tmp_path / "missing") is False
