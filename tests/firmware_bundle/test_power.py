"""Power cuts and failing disks: every change of a vehicle, ended before its first disk operation, its second ...

Each point runs in a process of its own that is really killed there. What was not made durable is
lost with it: contents without an fsync of the file, names without an fsync of the folder.
Variants of the code that are broken on purpose show that the sweeps can fail.
"""

from __future__ import annotations

import ast
import errno
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from axlebox import firmware_bundle
from axlebox.firmware_bundle import disk, install, state
from axlebox.firmware_bundle.errors import AlreadyInstalled, AxleboxError, PreflightFailed, UsageError
from axlebox.firmware_bundle.receipts import read
from axlebox.firmware_bundle.slots import open_slot
from axlebox.firmware_bundle.state import TRIES
from axlebox.firmware_bundle.tuf_client import parse_root
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public

NOW = datetime(2026, 4, 1, tzinfo=UTC)
CALLS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
"""The calls of `os` that reach the disk; each is one moment at which the power can go."""


class Disk:
    """A disk on which something happens at the call number `at`, and that can forget what was not made durable."""

    def __init__(self, at: int, happens: Callable[[Disk], None], useless: frozenset[str] = frozenset()) -> None:
        """`useless` names what an fsync does not reach: `files`, `folders`."""
        self.calls = 0
        self.at = at
        self.happens = happens
        self.useless = useless
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
        if self.calls == self.at:
            self.happens(self)

    def open(self, path: Any, flags: int, *rest: Any, **how: Any) -> int:
        self.tick()
        place = Path(path)
        if flags & os.O_CREAT and place.name != "lock":
            self.unwritten.add(place)
            if not place.exists():
                self.undo.append((place.parent, lambda: self.lose_name(place)))
        return int(self.real["open"](path, flags, *rest, **how))

    def fsync(self, handle: int) -> None:
        self.tick()
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir() and "folders" not in self.useless:
            self.undo = [(folder, undo) for folder, undo in self.undo if folder != path]
        if not path.is_dir() and "files" not in self.useless:
            self.unwritten.discard(path)

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
        """Put the folder into the worst state that a power cut may leave."""
        for name, real in self.real.items():
            setattr(os, name, real)
        for path in self.unwritten:
            if path.exists():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for _, undo in reversed(self.undo):
            undo()


def cut(broken: Disk) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cut_and_lose(broken: Disk) -> None:
    broken.forget()
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(code: int) -> Callable[[Disk], None]:
    def happens(broken: Disk) -> None:
        raise OSError(code, os.strerror(code))

    return happens


MODES: dict[str, Callable[[Disk], None]] = {
    "kill": cut,
    "kill, unsynced data lost": cut_and_lose,
    "EIO": refuse(errno.EIO),
    "ENOSPC": refuse(errno.ENOSPC),
}


@dataclass(frozen=True)
class Point:
    """What a process said before it ended."""

    done: bool
    """It reported success."""
    over: bool
    """It ended by itself before the call at which something was to happen."""
    notes: tuple[str, ...]


class Bench:
    """One vehicle with bundles 1 and 2, changed again and again from the same beginning."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world = world
        self.data, self.before = folder / "data", folder / "before"
        self.vehicle = Vehicle.provision(self.data, world.root(), Identity("T204", "rail-box-a"))
        self.bundles = {version: self.bundle(version) for version in (1, 2)}

    def bundle(self, version: int) -> bytes:
        files = {**self.world.files(self.world.manifest(version)), "model.onnx": self.world.tiny_model}
        return bytes(self.world.bundle(version, files=files))

    def install(self, version: int, said: Callable[[str], None] = print) -> None:
        self.world.install(self.vehicle, self.bundles[version], say=said)

    def keep(self) -> None:
        """From now on every point begins here, with leavings to sweep."""
        (self.data / "slots" / "leaving.part").mkdir()
        (self.data / "slots" / "leaving.part" / "x").write_bytes(b"x")
        shutil.copytree(self.data, self.before)

    def restore(self) -> None:
        shutil.rmtree(self.data)
        shutil.copytree(self.before, self.data)

    def runs(self) -> int | None:
        """The version that starts now, after a start for real; None where nothing is installed."""
        if self.vehicle.state().running is None:
            with pytest.raises(PreflightFailed, match="no release installed"):
                self.world.start(self.vehicle)
            return None
        return int(self.world.start(self.vehicle).manifest.version)


Change = Callable[[Bench, Callable[[str], None]], None]


@dataclass(frozen=True)
class Sweep:
    """One change: how it is prepared, what it does, what may run after it failed, and what must after it succeeded."""

    name: str
    prepare: Callable[[Bench], None]
    change: Change
    may_run: frozenset[int | None]
    must_run: int
    again: Callable[[Bench], None]
    """Does the same once more; whatever a failure left, it must succeed or have been done."""


def active(bench: Bench) -> None:
    bench.install(1)
    bench.world.confirm(bench.vehicle)


def on_trial(bench: Bench) -> None:
    active(bench)
    bench.install(2)


def both_confirmed(bench: Bench) -> None:
    on_trial(bench)
    bench.world.confirm(bench.vehicle)


def install_of(version: int) -> Change:
    return lambda bench, said: bench.install(version, said)


def installed_again(version: int) -> Callable[[Bench], None]:
    def again(bench: Bench) -> None:
        with suppress(AlreadyInstalled):
            bench.install(version)
        assert bench.runs() == version
        assert {path.name for path in (bench.data / "slots").iterdir()} == set(bench.vehicle.state().slots())

    return again


def confirm(bench: Bench, said: Callable[[str], None]) -> None:
    install.confirm(bench.vehicle, Occasion(NOW, said))


def confirmed_again(bench: Bench) -> None:
    with suppress(UsageError):  # nothing is on trial any more
        confirm(bench, print)
    found = bench.vehicle.state()
    assert (found.trial, found.floor) == (None, 2)
    assert bench.runs() == 2


def fall_back(bench: Bench, said: Callable[[str], None]) -> None:
    install.fallback(bench.vehicle, Occasion(NOW, said))


def fallen_back_again(bench: Bench) -> None:
    if bench.runs() == 2:
        fall_back(bench, print)
    assert bench.runs() == 1


SWEEPS = (
    Sweep("first installation", lambda bench: None, install_of(1), frozenset({None, 1}), 1, installed_again(1)),
    Sweep("upgrade", active, install_of(2), frozenset({1, 2}), 2, installed_again(2)),
    Sweep("confirm", on_trial, confirm, frozenset({2}), 2, confirmed_again),
    Sweep("fallback from a trial", on_trial, fall_back, frozenset({1, 2}), 1, fallen_back_again),
    Sweep("fallback to the previous", both_confirmed, fall_back, frozenset({1, 2}), 1, fallen_back_again),
)


@pytest.fixture
def bench(world: Any, tmp_path: Path) -> Bench:
    return Bench(world, tmp_path)


@contextmanager
def nothing_broken() -> Iterator[frozenset[str]]:
    yield frozenset()


Variant = Callable[[], Any]
"""Breaks the code inside its context; gives what an fsync does not reach."""


def run_point(
    bench: Bench, change: Change, number: int, happens: Callable[[Disk], None], variant: Variant = nothing_broken
) -> Point:
    """The change in a process of its own, in which something happens at its disk operation of this number."""
    bench.restore()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(theirs, _in_the_child(bench, change, Disk(number, happens), variant))
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or told, "the process ended without a word"
    words = told.split("\n") if told else []
    assert "untyped" not in words, told
    return Point("done" in words, "over" in words, tuple(word for word in words if word.startswith("note:")))


def _in_the_child(bench: Bench, change: Change, broken: Disk, variant: Variant) -> bytes:
    said: list[str] = []
    with variant() as useless:
        broken.useless = useless
        try:
            with broken.connected():
                change(bench, said.append)
            said.append("done")
        except AxleboxError:
            said.append("refused")
        except BaseException as error:
            said += ["untyped", repr(error)]
        if broken.calls < broken.at:
            said.append("over")
            if "done" in said and broken.happens is cut_and_lose:
                broken.forget()  # the power goes right after success was reported
    return "\n".join(said).encode()


def check(bench: Bench, sweep: Sweep, point: Point, mode: str) -> None:
    """Whatever the record names is whole; what runs is old or new; a success that was reported stays; again works."""
    found = bench.vehicle.state()
    parse_root((bench.data / "root.json").read_bytes())
    for slot in found.slots():
        open_slot(bench.vehicle.slot(slot))
    runs = bench.runs()
    assert runs in sweep.may_run
    if point.done:
        assert runs == sweep.must_run
    assert all(receipt.number for receipt in read(bench.data, read_public(bench.data)))
    sweep.again(bench)
    if mode in ("EIO", "ENOSPC") and point.done and not point.over:
        assert point.notes, "a failure was swallowed"


def swept(
    bench: Bench, sweep: Sweep, mode: str, variant: Variant = nothing_broken
) -> Iterator[AssertionError | AxleboxError | OSError | None]:
    """What is wrong after each point, None where all holds."""
    for number in itertools.count(1):
        point = run_point(bench, sweep.change, number, MODES[mode], variant)
        try:
            check(bench, sweep, point, mode)
        except (AssertionError, AxleboxError, OSError) as error:
            yield error
        else:
            yield None
        if point.over:
            return


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sweep", SWEEPS, ids=[sweep.name for sweep in SWEEPS])
def test_whatever_happens_at_a_disk_operation_a_whole_release_runs(
    bench: Bench, sweep: Sweep, mode: str, record_property: Callable[[str, object], None]
) -> None:
    sweep.prepare(bench)
    bench.keep()
    found = list(swept(bench, sweep, mode))
    failures = [error for error in found if error is not None]
    record_property("power", (len(found), len(failures)))
    assert not failures
    assert len(found) > 10


# Variants that are broken on purpose


@contextmanager
def without_sync_of_files() -> Iterator[frozenset[str]]:
    yield frozenset({"files"})


@contextmanager
def without_sync_of_folders() -> Iterator[frozenset[str]]:
    yield frozenset({"folders"})


@contextmanager
def with_one_state_file() -> Iterator[frozenset[str]]:
    """Rewritten in place."""

    def write_state(data: Path, following: state.State) -> state.State:
        disk.write_durable(data / "state.0", state._encode(following))
        return following

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "write_state", write_state)
        yield frozenset()


@contextmanager
def with_the_state_before_the_slot() -> Iterator[frozenset[str]]:
    """The record names a slot that has no name yet."""
    rename = disk.rename_durable
    late: list[tuple[Path, Path]] = []
    write_state = state.write_state

    def switch(data: Path, following: state.State) -> state.State:
        written = write_state(data, following)
        for old, new in late:
            rename(old, new)
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "rename_durable", lambda old, new: late.append((old, new)))
        patch.setattr(install, "write_state", switch)
        yield frozenset()


VARIANTS = (without_sync_of_files, without_sync_of_folders, with_one_state_file, with_the_state_before_the_slot)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_variant_is_found(
    bench: Bench, variant: Variant, record_property: Callable[[str, object], None]
) -> None:
    """Swept as the upgrade is: at least one point must lose something."""
    sweep = SWEEPS[1]
    sweep.prepare(bench)
    if variant is with_one_state_file:
        (bench.data / "state.1").rename(bench.data / "state.0")
    bench.keep()
    lost = next(
        (error for error in swept(bench, sweep, "kill, unsynced data lost", variant) if error is not None), None
    )
    record_property("variant", lost is not None)
    assert lost is not None


# Starting and provisioning


def start(bench: Bench, said: Callable[[str], None]) -> None:
    bench.world.start(bench.vehicle)


def test_a_power_cut_during_a_start_costs_no_more_than_its_own_note(bench: Bench) -> None:
    on_trial(bench)
    bench.keep()
    for number in itertools.count(1):
        point = run_point(bench, start, number, cut_and_lose)
        found = bench.vehicle.state()
        assert (found.tries, found.started) in {(TRIES, None), (TRIES, "this boot")}
        assert bench.runs() == 2
        if point.over:
            assert number > 4
            return


def test_a_power_cut_during_provisioning_leaves_a_folder_that_can_be_provisioned(world: Any, tmp_path: Path) -> None:
    root, identity = world.root(), Identity("T204", "any")
    for number in range(1, 100):
        data = tmp_path / str(number)
        broken = Disk(number, lambda broken: (_ for _ in ()).throw(KeyboardInterrupt))
        try:
            with broken.connected():
                Vehicle.provision(data, root, identity)
        except KeyboardInterrupt:
            broken.forget()
            if not (data / "vehicle.json").exists():
                Vehicle.provision(data, root, identity)
            assert Vehicle.open(data).identity == identity
            assert (data / "root.json").read_bytes() == root
            continue
        assert number > 8
        return
    pytest.fail("provisioning never ended")


def test_a_state_is_refused_by_the_disk_in_words_that_name_the_file(bench: Bench) -> None:
    (bench.data / "state.1.part").mkdir()
    with pytest.raises(PreflightFailed, match=r"state\.1\.part: Is a directory"), disk.explained():
        state.write_state(bench.data, state.State())


WRITING = {"open", "write", "fsync", "replace", "rename", "mkdir", "makedirs", "unlink", "rmdir", "rmtree", "touch"}
WRITING |= {"write_bytes", "write_text", "symlink_to", "truncate", "copyfile", "copytree", "move", "chmod"}
ELSEWHERE = {
    *(("vehicle.py", name) for name in ("open", "mkdir")),
    ("slots.py", "mkdir"),
    *(("stick.py", name) for name in ("open", "mkdir")),
}
"""The lock; folders at provisioning and of a slot, whose names are synced by the caller; the stick."""


def test_one_module_writes_to_the_disk() -> None:
    """So that there is one place to look at, and to cut."""
    (folder,) = firmware_bundle.__path__
    found = set()
    for path in Path(folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name != "disk.py":
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found |= {(path.name, name)} if name in WRITING else set()
    # Names of what writes nothing, or writes by disk.py: msgspec.structs.replace, Draft.write.
    quiet = {(file, name) for file, name in found if name == "replace" or (file, name) == ("vehicle.py", "write")}
    assert found - quiet == ELSEWHERE
