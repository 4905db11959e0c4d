"""Power cuts and failing disks at every single disk operation of what changes a vehicle.

Every point is a fork that really ends by SIGKILL before its N-th operation, or that is refused there.
`./scripts/powercut` does the same to the whole programs, by strace and on a real file system.
"""

from __future__ import annotations

import ast
import errno
import functools
import gc
import io
import itertools
import json
import os
import re
import shutil
import signal
import stat
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import axlebox.firmware_bundle
from axlebox.firmware_bundle import disk, receipts
from axlebox.firmware_bundle import state as state_module
from axlebox.firmware_bundle.errors import AlreadyInstalled, AxleboxError, PreflightFailed
from axlebox.firmware_bundle.install import confirm, fallback
from axlebox.firmware_bundle.manifest import Golden, GoldenRow, encode
from axlebox.firmware_bundle.slots import open_slot
from axlebox.firmware_bundle.state import TRIES, State, read_state, write_state
from axlebox.firmware_bundle.stick import RECEIPTS, Stick
from axlebox.firmware_bundle.trial import Starter
from axlebox.firmware_bundle.tuf_client import parse_root
from axlebox.firmware_bundle.vehicle import Identity, Occasion, Vehicle
from axlebox.firmware_bundle.vehicle_key import read_public

GOLDEN = encode(Golden((GoldenRow("2026-03-01T00:00:00Z", "temperature", 100.0, 0.5, False),)))
IDENTITY = Identity("T204", "any")
OPERATIONS = ("open", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
"""The functions of `os` that reach the disk, besides writing and cutting an open file."""


class Disk:
    """A disk that fails at the operation number `fail_at`, and can forget what was not made durable.

    A file's bytes survive after fsync of the file; new names, and names moved over others, after
    fsync of their folder. `forget` leaves the worst that may be left then. Only ever connected in a
    fork: nobody disconnects it.
    """

    def __init__(self, fail_at: int, fail: Callable[[], object]) -> None:
        self.fail_at = fail_at
        self.fail = fail
        self.operations = 0
        self.unsynced: dict[Path, int] = {}
        """Files with bytes that are not durable, and how many were there before."""
        self.undo: list[tuple[Path, Callable[[], object]]] = []
        """By folder, what takes a change of its names back."""
        self.moved: dict[Path, Path] = {}
        self.real = {name: getattr(os, name) for name in OPERATIONS}

    def connect(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, getattr(self, name))
        disk.open = self.open_file

    @property
    def failed(self) -> bool:
        return self.operations >= self.fail_at

    def tick(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            self.fail()

    def open(self, path: Any, flags: int, *rest: Any, **how: Any) -> int:
        self.tick()
        if flags & os.O_CREAT:
            place = Path(path)
            self.unsynced[place] = place.stat().st_size if place.exists() and not flags & os.O_TRUNC else 0
            if not place.exists():
                self.undo.append((place.parent, lambda: self.lose(place)))
        return int(self.real["open"](path, flags, *rest, **how))

    def open_file(self, file: Any, mode: str) -> Any:
        """What `open` is inside disk.py: each write that leaves the buffer is an operation."""
        if not isinstance(file, int):
            return open(file, mode)
        raw = _RawFile(file, mode.replace("b", ""))
        raw.tick = self.tick
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    def fsync(self, handle: int) -> None:
        self.tick()
        path = Path(f"/proc/self/fd/{handle}").readlink()
        self.unsynced.pop(path, None)
        self.undo = [(folder, undo) for folder, undo in self.undo if folder != path]

    def mkdir(self, path: Any, *rest: Any, **how: Any) -> None:
        self.tick()
        self.real["mkdir"](path, *rest, **how)
        self.undo.append((Path(path).parent, lambda: shutil.rmtree(path, ignore_errors=True)))

    def replace(self, old: Path, new: Path) -> None:
        self.tick()
        kept = new.read_bytes() if new.is_file() else None
        self.real["rename"](old, new)
        if old in self.unsynced:
            self.unsynced[new] = self.unsynced.pop(old)

        def move_back() -> None:
            self.real["rename"](new, old)
            if kept is not None:
                new.write_bytes(kept)

        self.moved[old] = new
        self.undo.append((new.parent, move_back))

    rename = replace

    def unlink(self, path: Any, *rest: Any, **how: Any) -> None:
        self.tick()
        self.real["unlink"](path, *rest, **how)

    def rmdir(self, path: Any, *rest: Any, **how: Any) -> None:
        self.tick()
        self.real["rmdir"](path, *rest, **how)

    def lose(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        (self.moved.get(path.parent, path.parent) / path.name).unlink(missing_ok=True)

    def forget(self, names: bool) -> None:
        """Lose what was not made durable: of bytes half are left, and with `names` names are taken back too."""
        for name, real in self.real.items():
            setattr(os, name, real)
        for path, before in self.unsynced.items():
            if path.exists():
                data = path.read_bytes()
                path.write_bytes(data[: before + (len(data) - before) // 2])
        for _, undo in reversed(self.undo if names else []):
            undo()


class _RawFile(io.FileIO):
    tick: Callable[[], None]

    def write(self, data: Any, /) -> int:
        self.tick()
        return super().write(data)

    def truncate(self, size: int | None = None, /) -> int:
        self.tick()
        return super().truncate(size)


class Box:
    """A vehicle's data folder and a stick, side by side in one folder that every point begins anew."""

    def __init__(self, world: Any, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.data, self.stick = folder / "box" / "data", folder / "box" / "stick"
        self.stick.mkdir(parents=True)
        self.vehicle = Vehicle.provision(self.data, world.root(), IDENTITY)
        self.said: list[str] = []

    @functools.cached_property
    def bundles(self) -> dict[int, bytes]:
        return {version: self.world.bundle(version, files=self._files(version)) for version in (1, 2)}

    def _files(self, version: int) -> dict[str, bytes]:
        manifest = encode(self.world.manifest(version))
        return {"manifest.json": manifest, "golden.json": GOLDEN, "model.onnx": self.world.tiny_model}

    def occasion(self) -> Occasion:
        self.latest = Occasion(self.world.now, self.said.append, "tech", Stick(self.stick))
        return self.latest

    def install(self, version: int) -> None:
        occasion = self.occasion()
        self.world.install(self.vehicle, self.bundles[version], say=occasion.say, stick=occasion.stick)

    def confirm(self) -> None:
        confirm(self.vehicle, self.occasion())

    def fall_back(self) -> None:
        fallback(self.vehicle, self.occasion())

    def start(self) -> int:
        starter = Starter(self.vehicle, "this boot", self.world.runtime, lambda slot: "good")
        return starter.start(self.occasion()).manifest.version

    def start_recorded(self) -> None:
        """A start that could not be recorded is none of the release on trial: the confirmed one runs."""
        version = self.start()
        if self.said:
            assert version == 1
            raise AxleboxError(self.said[-1])

    def report(self, change: Change) -> dict[str, list[str]]:
        """Make a change, and what was reported of it."""
        kept = self.on_stick()
        self.said.clear()
        change.make(self)
        receipt = [self.latest.receipt] if self.latest.receipt else []
        return {"said": self.said, "receipts": receipt, "on the stick": sorted(self.on_stick() - kept)}

    def on_stick(self) -> set[str]:
        return {path.name for path in (self.stick / RECEIPTS).glob("*.json")}

    def newest_in_log(self) -> set[str]:
        """Id of the newest receipt in the vehicle's own log: the one that a success has just reported."""
        newest = receipts.latest(self.data)
        return set() if newest is None else {newest.id}

    def running(self) -> int | None:
        running = self.vehicle.state().running
        return None if running is None else open_slot(self.vehicle.slot(running)).manifest.version

    def leave(self) -> None:
        """Leavings of an earlier interruption, for the change to sweep."""
        (self.data / "slots" / "leaving.part").mkdir()
        (self.data / "slots" / "leaving.part" / "x").write_bytes(b"x")

    def check(self, again: int) -> None:
        """All that the record refers to is whole, what starts is complete, and the same installation succeeds."""
        state = self.vehicle.state()
        parse_root((self.data / "root.json").read_bytes())
        for slot in state.slots():
            open_slot(self.vehicle.slot(slot))
        list(receipts.read(self.data, read_public(self.data)))
        if state.running is None:
            with pytest.raises(PreflightFailed, match="no release installed"):
                self.start()
        else:
            assert self.start() == self.running()
        try:
            self.install(again)
        except AlreadyInstalled:
            assert again in {open_slot(self.vehicle.slot(slot)).manifest.version for slot in state.slots()}
        state = self.vehicle.state()
        assert {path.name for path in (self.data / "slots").iterdir()} == set(state.slots())
        assert not (self.data / "incoming.part").exists()
        assert self.start() == self.running()


@dataclass(frozen=True)
class Change:
    """Something that changes a vehicle: what was before it, and what may run after a cut in it."""

    prepare: Callable[[Box], None]
    make: Callable[[Box], object]
    before: int | None
    after: int
    least: int
    """Operations that it surely has: a sweep of fewer has missed what it was for."""
    again: int = 2
    """The installation that must succeed afterwards."""


def confirmed(*versions: int) -> Callable[[Box], None]:
    def prepare(box: Box) -> None:
        for version in versions:
            box.install(version)
            box.confirm()
        box.leave()

    return prepare


def on_trial(box: Box) -> None:
    confirmed(1)(box)
    box.install(2)
    box.leave()


CHANGES = {
    "first installation": Change(Box.leave, lambda box: box.install(1), None, 1, least=30, again=1),
    "upgrade": Change(confirmed(1), lambda box: box.install(2), 1, 2, least=30),
    "confirm": Change(on_trial, Box.confirm, 2, 2, least=20),
    "fallback": Change(on_trial, Box.fall_back, 2, 1, least=20),
    "start": Change(on_trial, Box.start_recorded, 2, 2, least=5),
}


Told = Callable[..., None]
Act = Callable[[], object]
Mutant = Callable[[], None]
Failure = Callable[[Act, int, Mutant | None, Told], None]


def in_a_fork(act: Callable[[Told], None]) -> dict[str, Any]:
    """What a fork told before it ended; `act` gets the function to tell it with."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        gc.disable()  # it would copy every page of the parent's
        try:
            act(lambda **facts: os.write(write, json.dumps(facts).encode() + b"\n"))
        except BaseException:
            os.write(write, json.dumps({"bug": traceback.format_exc()}).encode() + b"\n")
        finally:
            cut()
    os.close(write)
    with open(read, "rb") as lines:
        told = {name: fact for line in lines for name, fact in json.loads(line).items()}
    _, ended = os.waitpid(child, 0)
    assert os.WTERMSIG(ended) == signal.SIGKILL
    return told


def cut() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def act_on(broken: Disk, act: Act, mutant: Mutant | None, told: Told) -> None:
    """Something done on that disk; its end is told as soon as it is reported."""
    broken.connect()
    if mutant is not None:
        mutant()
    try:
        success = act()
    except AxleboxError as error:
        told(refused=repr(error), failed=broken.failed)
    else:
        told(success=success, failed=broken.failed)


def power_goes(act: Act, number: int, mutant: Mutant | None, told: Told) -> None:
    act_on(Disk(number, cut), act, mutant, told)


def losing(names: bool) -> Failure:
    """The power goes and takes what was not synced: bytes, and with `names` the names too.

    A file system may write a new name before the bytes that it stands for, or long after them.
    """

    def fail(act: Act, number: int, mutant: Mutant | None, told: Told) -> None:
        def lose() -> None:
            broken.forget(names)
            cut()

        broken = Disk(number, lose)
        act_on(broken, act, mutant, told)
        broken.forget(names)

    return fail


def refused_with(code: int) -> Failure:
    def refuse() -> None:
        raise OSError(code, os.strerror(code))

    return lambda act, number, mutant, told: act_on(Disk(number, refuse), act, mutant, told)


FAILURES: dict[str, Failure] = {
    "killed": power_goes,
    "unsynced data lost": losing(names=True),
    "unsynced bytes lost": losing(names=False),
    "EIO": refused_with(errno.EIO),
    "ENOSPC": refused_with(errno.ENOSPC),
}


def every_point(fail: Failure, begin: Callable[[], object], act: Act, mutant: Mutant | None = None) -> Iterator[Any]:
    """What was told where the first operation failed, the second, and so on until one too many was named."""
    for number in itertools.count(1):
        begin()
        told = in_a_fork(functools.partial(fail, act, number, mutant))
        yield told
        if told.get("failed") is False:
            return


@dataclass
class Sweep:
    """One change, failing at every operation; what does not hold afterwards is collected."""

    box: Box
    change: Change
    points: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self, fail: Failure, mutant: Mutant | None = None) -> None:
        """`mutant` breaks the code, in the forks alone."""
        self.change.prepare(self.box)
        if mutant is one_state_file:
            keep_one_state_file(self.box.data)
        place, kept = self.box.data.parent, self.box.data.parent.with_name("kept")
        place.rename(kept)
        before = read_state(kept / "data")

        def begin() -> None:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(kept, place, copy_function=shutil.copyfile)  # modes are not looked at

        for told in every_point(fail, begin, lambda: self.box.report(self.change), mutant):
            self.points += 1
            try:
                self.judge(before, told)
            except (Exception, pytest.fail.Exception):
                self.failures.append(f"point {self.points}, told {told}: {traceback.format_exc(limit=-2)}")
        assert self.points > self.change.least

    def judge(self, before: State, told: dict[str, Any]) -> None:
        box, change = self.box, self.change
        assert "bug" not in told, told["bug"]
        state = box.vehicle.state()
        if "success" in told:
            assert box.running() == change.after
            assert state.generation > before.generation
            assert box.on_stick() >= set(told["success"]["on the stick"])
            assert box.newest_in_log() >= set(told["success"]["receipts"])
            notes = [line for line in told["success"]["said"] if not line.startswith("[")]
            assert notes or not told["failed"], "a failure was swallowed"
        elif told.get("switched"):
            assert box.running() == change.after
        elif state.generation == before.generation:
            assert box.running() == change.before
        assert box.running() in (change.before, change.after)
        if state.trial is not None:
            assert state.tries >= TRIES - 1
        box.check(change.again)


@pytest.fixture
def box(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # this machine's own power does not go
    return Box(world, tmp_path)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_failure_at_any_operation_leaves_a_complete_release_and_what_was_reported(
    box: Box, change: str, failure: str, record_property: Callable[[str, object], None]
) -> None:
    sweep = Sweep(box, CHANGES[change])
    sweep.run(FAILURES[failure])
    record_property("power loss", (f"{change}, {failure}", sweep.points, len(sweep.failures)))
    assert not sweep.failures, "\n".join(sweep.failures)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_at_any_operation_of_provisioning_leaves_a_folder_that_can_be_provisioned(
    world: Any, tmp_path: Path, failure: str, record_property: Callable[[str, object], None]
) -> None:
    root, data = world.root(), tmp_path / "lib" / "axlebox"

    def begin() -> None:
        shutil.rmtree(tmp_path / "lib", ignore_errors=True)

    points = 0
    for told in every_point(FAILURES[failure], begin, lambda: Vehicle.provision(data, root, IDENTITY) and None):
        points += 1
        assert "bug" not in told, told["bug"]
        assert "success" not in told or (data / "vehicle.json").exists()
        if not (data / "vehicle.json").exists():
            Vehicle.provision(data, root, IDENTITY)
        assert Vehicle.open(data).identity == IDENTITY
        assert (data / "root.json").read_bytes() == root
        assert len(read_public(data)) == 32
    record_property("power loss", (f"provisioning, {failure}", points, 0))
    assert points > 15


# Broken variants: each must lose something somewhere, or the sweeps above prove nothing


def no_fsync_of_files() -> None:
    fsync = os.fsync
    os.fsync = lambda handle: None if stat.S_ISREG(os.fstat(handle).st_mode) else fsync(handle)


def no_fsync_of_folders() -> None:
    disk.sync_folder = lambda folder: None


def no_fsync_of_the_log() -> None:
    append = disk.append_line

    def unsynced(path: Path, line: bytes, at_most: int, full: Path) -> None:
        fsync, os.fsync = os.fsync, lambda handle: None
        append(path, line, at_most, full)
        os.fsync = fsync

    disk.append_line = unsynced


def a_name_before_its_bytes() -> None:
    def too_early(path: Path, data: bytes, mode: int = 0o644) -> None:
        part = path.with_name(path.name + ".part")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with disk.open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.replace(part, path)
            os.fsync(file.fileno())
        disk.sync_folder(path.parent)

    disk.replace_durable = too_early


def files_rewritten_in_place() -> None:
    def in_place(path: Path, data: bytes, mode: int = 0o644) -> None:
        disk.write_durable(path, data, mode)
        disk.sync_folder(path.parent)

    disk.replace_durable = in_place


def one_state_file() -> None:
    state_module._files = lambda data: (data / "state.0", data / "state.0")
    files_rewritten_in_place()


def keep_one_state_file(data: Path) -> None:
    """What that variant would have left of earlier changes."""
    state = read_state(data)
    (data / "state.1").unlink(missing_ok=True)
    (data / "state.0").write_bytes(state_module._encode(state))


def the_state_before_the_slot() -> None:
    rename = disk.rename_durable

    def switch_and_rename(part: Path, slot: Path) -> None:
        data = slot.parent.parent
        write_state(data, read_state(data).on_trial(slot.name))
        rename(part, slot)

    disk.rename_durable = switch_and_rename


MUTANTS: dict[Mutant, tuple[str, str]] = {
    no_fsync_of_files: ("upgrade", "unsynced data lost"),
    no_fsync_of_folders: ("upgrade", "unsynced data lost"),
    no_fsync_of_the_log: ("confirm", "unsynced data lost"),
    a_name_before_its_bytes: ("confirm", "unsynced bytes lost"),
    one_state_file: ("fallback", "killed"),
    files_rewritten_in_place: ("confirm", "killed"),
    the_state_before_the_slot: ("first installation", "killed"),
}
"""Each broken variant, with the sweep that must find it."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_variant_is_found(box: Box, mutant: Mutant, record_property: Callable[[str, object], None]) -> None:
    change, failure = MUTANTS[mutant]
    sweep = Sweep(box, CHANGES[change])
    sweep.run(FAILURES[failure], mutant)
    name = mutant.__name__.replace("_", " ")
    record_property("broken variant", (f"{name}: {change}, {failure}", sweep.points, len(sweep.failures)))
    assert sweep.failures
    assert not any("'bug'" in failure for failure in sweep.failures)


# One place that writes

WRITERS = re.compile(
    "ch(mod|own)|copy(2|file|tree)|fdopen|(hard|sym|un)?link(_to)?|makedirs|mkdir|mkfifo|move|remove(dirs)?|renames?|"
    "rmdir|rmtree|touch|truncate|write_(bytes|text)"
)
ELSEWHERE = {
    "vehicle.py": ["os.open(self.data / 'lock', how, 420)"],
    "stick.py": ["os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)"],
}
"""What opens a file by flags outside disk.py: the lock, which holds nothing, and a bundle to be read."""


def writes(call: ast.Call) -> bool:
    """Whether a call changes a disk, or could, by its name; `replace` with one argument is a path's."""
    match call.func:
        case ast.Name("open"):
            mode = call.args[1] if len(call.args) > 1 else ast.Constant("r")
            return not isinstance(mode, ast.Constant) or mode.value not in ("r", "rb")
        case ast.Attribute(ast.Name("os"), "open" | "replace" | "write"):
            return True
        case ast.Attribute(_, "replace"):
            return len(call.args) == 1 and not call.keywords
        case ast.Attribute(_, name):
            return WRITERS.fullmatch(name) is not None
    return False


def test_every_write_goes_through_the_one_module_that_is_cut() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(Path(axlebox.firmware_bundle.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and writes(node):
                found.setdefault(path.name, []).append(ast.unparse(node))
    assert len(found.pop("disk.py")) >= len(OPERATIONS)
    assert found == ELSEWHERE
