"""`./scripts/powercut`: the vehicle's program, ended or refused by strace at every system call that changes a disk.

`axleboxd install STICK --yes`, `confirm` and `fallback` run in forks of this process, which has imported everything
already; strace is attached to a fork before its first step, and ends it by SIGKILL before the N-th call of each kind
(or answers that call with EIO or ENOSPC) for N = 1, 2, 3 ... as far as the program gets by itself. Calls that touch
neither the data folder nor the stick, and files opened to be read, are counted and left out. The self-test, a process
of its own, is not followed: it may write nothing.

With root the same cuts are made on an ext4 image of its own, which is then shut down without flushing its log,
unmounted and mounted again: what was not synced is really lost. After each point the checks of
tests/firmware_bundle/test_power.py hold: a complete release starts, old or new; a success that was reported is there,
as is its receipt, in the log and on the stick; the same installation then succeeds. Broken variants, patched in the
forks alone, must lose something. Ends with 0 only if all of that is so.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import fcntl
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "firmware_bundle")]

import test_power  # noqa: E402
from bench_verify import large_world  # noqa: E402
from test_power import (  # noqa: E402  # noqa: E402
    CHANGES,
    Box,
    Sweep,
    in_a_fork,
    no_fsync_of_files,
    no_fsync_of_folders,
    no_fsync_of_the_log,
    one_state_file,
)

from axlebox.firmware_bundle import trust  # noqa: E402, F401
from axlebox.firmware_bundle.state import State, read_state  # noqa: E402
from axlebox.firmware_bundle.vehicle import Occasion, Vehicle  # noqa: E402
from axlebox.runtime import commands, install_command, selftest  # noqa: E402, F401
from axlebox.runtime.cli import main as axleboxd  # noqa: E402

CALLS = ("openat", "write", "ftruncate", "fsync", "fdatasync", "rename", "renameat")
CALLS += ("mkdir", "mkdirat", "unlink", "unlinkat", "rmdir")
LANES = 2
SWEEPS = ("first installation", "upgrade", "confirm", "fallback")
MODES = {"killed": "signal=KILL", "EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "ext4 shut down": "signal=KILL"}
ON_EXT4 = "ext4 shut down"
MUTANTS = [(no_fsync_of_files, "upgrade", ON_EXT4), (no_fsync_of_folders, "upgrade", ON_EXT4)]
MUTANTS += [(no_fsync_of_the_log, "confirm", ON_EXT4), (one_state_file, "fallback", "killed")]
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
"""EXT4_IOC_SHUTDOWN, and that its journal is not written out before."""
PR_SET_PTRACER = 0x59616D61
IMAGE_BYTES = 24 * 1024 * 1024

BUG = 70


class NotTried(Exception):
    """A point was missed: no finding, and least of all one of a broken variant."""


_REPORTED = re.compile(r"^(PASS|confirmed|fell back to)\b", re.M)
_RECEIPT = re.compile(r"[Rr]eceipt\s+(AX-\S+)")
_ON_STICK = re.compile(_RECEIPT.pattern + r"\s+is\s+on\s+the\s+stick")  # lines are folded


@dataclass
class Scene:
    """A vehicle as it is right before a sweep's command."""

    sweep: str
    mode: str
    mutant: Callable[[], None] | None
    box: Box
    before: State
    image: Path | None = None
    """An ext4 file system that holds the same."""

    @property
    def change(self) -> test_power.Change:
        return CHANGES[self.sweep]

    def words(self, box: Box) -> list[str]:
        """What is typed."""
        if self.sweep in ("confirm", "fallback"):
            return [self.sweep, "--stick", str(box.stick), "--data", str(box.data)]
        return ["install", str(box.stick), "--yes", "--data", str(box.data)]


class RealBox(Box):
    """With bundles whose self-test is a real one, one of them on the stick."""

    def _files(self, version: int) -> dict[str, bytes]:
        return dict(self.world.files(self.world.manifest(version)))

    def occasion(self) -> Occasion:
        return Occasion(self.world.now, self.said.append, "tech")

    def moved(self, place: Path) -> RealBox:
        """The same vehicle, in a copy of its folder."""
        box = copy.copy(self)
        box.data, box.stick, box.said = place / "data", place / "stick", []
        box.vehicle = Vehicle(box.data, self.vehicle.identity)
        return box


def set_scene(world: Any, folder: Path, sweep: str, mode: str, mutant: Callable[[], None] | None = None) -> Scene:
    box = RealBox(world, folder)
    change = CHANGES[sweep]
    change.prepare(box)
    (box.stick / f"bearing-temp-{change.again}.axb").write_bytes(box.bundles[change.again])
    if mutant is one_state_file:
        test_power.keep_one_state_file(box.data)
    scene = Scene(sweep, mode, mutant, box, read_state(box.data))
    if mode == ON_EXT4:
        scene.image = folder / "image"
        scene.image.touch()
        os.truncate(scene.image, IMAGE_BYTES)
        call("mkfs.ext4", "-q", "-F", scene.image)
        with mounted(scene.image, folder / "mounted") as place:
            shutil.copytree(box.data.parent, place, dirs_exist_ok=True)
    return scene


def call(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """An image at a place; commit=300 lets nothing become durable by the clock meanwhile."""
    place.mkdir(exist_ok=True)
    call("mount", "-t", "ext4", "-o", "loop,commit=300", image, place)
    try:
        yield place
    finally:
        call("umount", place)


@contextlib.contextmanager
def after(scene: Scene, lane: Path, act: Callable[[Box], None]) -> Iterator[Box]:
    """The scene's vehicle after `act` and, on ext4, after all that was not synced is lost."""
    place = lane / "box"
    box = scene.box.moved(place)
    if scene.image is None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(scene.box.data.parent, place)
        act(box)
        yield box
        return
    image = lane / "image"
    call("cp", "--sparse=always", scene.image, image)
    with mounted(image, place):
        act(box)
        shut_down(place)
    with mounted(image, place):
        yield box


def shut_down(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(handle)


def run_traced(scene: Scene, box: Box, lane: Path, inject: str | None) -> dict[str, Any]:
    """The command under strace; what it reported, and the calls that it made."""
    output, log = lane / "output", lane / "strace"
    read, write = os.pipe()
    ready, tell_ready = os.pipe()
    child = os.fork()
    if child == 0:
        # Many systems let a process be traced by its ancestors alone, and strace is none.
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1))
        os.close(tell_ready)
        become_program(scene, box, output, read)
    os.close(read)
    os.close(tell_ready)
    os.read(ready, 1)  # returns as the fork closes the other end
    os.close(ready)
    kinds = ",".join(f"?{one}" for one in CALLS)
    words = ["strace", "-y", "-o", str(log), "-e", f"trace={kinds}", "-p", str(child)]
    if inject is not None:
        words += ["-e", f"inject={inject}"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
        attached = tracer.stderr.readline() if tracer.stderr else ""
        os.write(write, b"!")
        os.close(write)
        _, status = os.waitpid(child, 0)
    if "attached" not in attached:
        raise NotTried(f"strace: {attached}")
    return judged(output.read_text(), log.read_text(), status)


def become_program(scene: Scene, box: Box, output: Path, begin: int) -> None:
    """Be `axleboxd` in this fork, as soon as `begin` can be read."""
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["axleboxd", *scene.words(box)]
        if scene.mutant is not None:
            scene.mutant()
        os.read(begin, 1)
        axleboxd()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        traceback.print_exc()
    os._exit(BUG)


def judged(output: str, log: str, status: int) -> dict[str, Any]:
    """What came of it, in the words of `Sweep.judge`."""
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    refused = "(INJECTED)" in log
    told: dict[str, Any] = {"log": log, "output": output, "failed": refused, "reached": killed or refused}
    told["switched"] = "switch OK" in output  # whoever reads this at the box may rely on it
    code = -1 if killed else os.waitstatus_to_exitcode(status)
    if code == BUG or (code < 0 and not killed):
        told["bug"] = output
    elif code == 0 or (killed and _REPORTED.search(output)):
        notes = [line for line in output.splitlines() if "note: " in line]
        on_stick = [f"{one}.json" for one in _ON_STICK.findall(output)]
        told["success"] = {"said": notes, "receipts": _RECEIPT.findall(output), "on the stick": on_stick}
    else:
        told["refused"] = output
    return told


Point = tuple[str, int] | None
"""A kind of system call and its number; None is the end of the command by itself."""


def points_of(log: str, place: Path) -> tuple[list[Point], int]:
    """The calls in a log that change something below a place, and how many others there are."""
    found: list[Point] = []
    counts: dict[str, int] = {}
    for line in log.splitlines():
        kind, bracket, rest = line.partition("(")
        if not bracket or kind not in CALLS:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        changes = kind != "openat" or re.search(r"O_(WRONLY|RDWR|CREAT)", rest)
        if changes and str(place) in rest:
            found.append((kind, counts[kind]))
    return found, sum(counts.values()) - len(found)


SCENES: list[Scene] = []
"""Set before the lanes are forked, which inherit them."""


def try_point(task: tuple[int, Point]) -> str | None:
    """What does not hold after one point; None where all does."""
    number, point = task
    scene = SCENES[number]
    lane = scene.box.folder.parent / f"lane-{os.getpid()}"
    lane.mkdir(exist_ok=True)
    inject = None if point is None else f"{point[0]}:{MODES[scene.mode]}:when={point[1]}"
    told: dict[str, Any] = {}
    try:
        with after(scene, lane, lambda box: told.update(run_traced(scene, box, lane, inject))) as box:
            if told["reached"] != (point is not None):
                raise NotTried(f"{scene.sweep}, {scene.mode}, {point}: {told['output']}")
            # In a fork: what holds a file open, or starts a thread, ends with it.
            sweep = Sweep(box, scene.change)
            found = in_a_fork(lambda tell: tell(checked=sweep.judge(scene.before, told)))
            if "bug" in found:
                raise RuntimeError(found["bug"])
    except NotTried:
        raise
    except Exception:
        output = told.get("output", "").strip()
        return f"{scene.sweep}, {scene.mode}, {point}: {traceback.format_exc(limit=-1)}{output}"
    return None


def dry_run(scene: Scene, folder: Path) -> tuple[list[Point], int]:
    folder.mkdir()
    told: dict[str, Any] = {}
    with after(scene, folder, lambda box: told.update(run_traced(scene, box, folder, None))):
        if "success" not in told:
            sys.exit(f"{scene.sweep} does not work without any failure: {told['output']}")
    found, others = points_of(told["log"], folder / "box")
    return [*found, None], others


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="./scripts/powercut", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", type=int, nargs="?", const=5, default=1, metavar="K", help="every K-th point only (5)"
    )
    parser.add_argument("--show", action="store_true", help="print what did not hold, also of the broken variants")
    options = parser.parse_args()
    root = os.geteuid() == 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="axlebox-powercut-") as name:
        failed = sweep_all(Path(name), root, options)
    if not root:
        print("SKIPPED: the ext4 file system that loses what was not synced: only root can mount one")
    print(f"{time.monotonic() - began:.0f} s; {'FAILED' if failed else 'all holds'}")
    sys.exit(1 if failed else 0)


def sweep_all(folder: Path, root: bool, options: argparse.Namespace) -> bool:
    """Every sweep and every broken variant; whether one was not as it must be."""
    world = large_world(trees=10)
    wanted: list[tuple[Any, ...]] = [*itertools.product(SWEEPS, MODES, [None])]
    wanted += [(sweep, mode, mutant) for mutant, sweep, mode in MUTANTS]
    for number, (sweep, mode, mutant) in enumerate(wanted):
        if root or mode != ON_EXT4:
            SCENES.append(set_scene(world, folder / str(number), sweep, mode, mutant))
    failed = False
    with multiprocessing.get_context("fork").Pool(LANES) as lanes:
        for number, scene in enumerate(SCENES):
            points, others = dry_run(scene, folder / f"dry-{number}")
            if scene.mutant is None:
                points = points[:: -options.quick][::-1]  # the end, after success was reported, is always among them
            lost = [one for one in lanes.imap_unordered(try_point, [(number, point) for point in points]) if one]
            variant = "" if scene.mutant is None else f" with {scene.mutant.__name__.replace('_', ' ')}"
            words = f"{scene.sweep}, {scene.mode}{variant}: {len(points)} points, {len(lost)} failures"
            print(f"{words} ({others} calls left out)", flush=True)
            if options.show or scene.mutant is None:
                print("".join(f"  {one}\n" for one in lost), end="", flush=True)
            failed |= bool(lost) == (scene.mutant is None)
    return failed


if __name__ == "__main__":
    main()
