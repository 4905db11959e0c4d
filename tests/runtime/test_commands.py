"""The commands of axleboxd that keep a vehicle's releases: what they print and how they end."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from axlebox.firmware_bundle.container import pack, unpack
from axlebox.firmware_bundle.manifest import encode
from axlebox.firmware_bundle.slots import open_slot, write_slot
from axlebox.firmware_bundle.state import State, write_state
from axlebox.runtime.selftest import check_golden
from axlebox.runtime.version import VERSION

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
"""When the world's bundles were released."""


Run = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the receipts, which tell of refusals as well."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "receipts.log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def damage(folder: Path, member: str = "model.onnx") -> None:
    """Flip one bit of a member in the only slot."""
    (path,) = folder.glob(f"slots/*/{member}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- provision ------------------------------------------------------------------------------------


def test_provisioning_gives_the_box_its_identity(run: Run, trust: Path, tmp_path: Path) -> None:
    ended = run("provision", "--trust", trust, "--vehicle", "TRAIN-204", "--hardware", "edge-1")
    assert (ended.code, ended.err) == (0, "")
    first, second = ended.out.splitlines()
    assert first == f"provisioned TRAIN-204 (hardware edge-1) in {tmp_path / 'data'}"
    public = bytes.fromhex((tmp_path / "data" / "vehicle.pub").read_text())
    assert hashlib.sha256(public).hexdigest()[:16] in second
    assert (tmp_path / "data" / "root.json").read_bytes() == trust.read_bytes()


def test_provisioning_as_json(run: Run, trust: Path, tmp_path: Path) -> None:
    ended = run("provision", "--trust", trust, "--vehicle", "A", "--hardware", "any", "--json")
    data = tmp_path / "data"
    key = hashlib.sha256(bytes.fromhex((data / "vehicle.pub").read_text())).hexdigest()[:16]
    assert ended.json() == {"vehicle": "A", "hardware": "any", "data": str(data), "key": key}


def test_a_vehicle_is_provisioned_once(run: Run, trust: Path, vehicle: Path) -> None:
    before = contents(vehicle)
    ended = run("provision", "--trust", trust, "--vehicle", "OTHER", "--hardware", "any")
    assert ended.code == 2
    assert "TRAIN-204" in ended.err
    assert contents(vehicle) == before


@pytest.mark.parametrize("name", ["", "a b", "../x", "ä", "x" * 65])
def test_an_id_that_is_not_plain_is_refused(run: Run, trust: Path, tmp_path: Path, name: str) -> None:
    assert run("provision", "--trust", trust, "--vehicle", name, "--hardware", "any").code == 2
    assert not (tmp_path / "data").exists()


def test_a_root_that_is_no_root_of_trust_is_malformed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "noise.json"
    path.write_bytes(b"{}")
    assert run("provision", "--trust", path, "--vehicle", "A", "--hardware", "any").code == 15
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["status", "confirm", "fallback", "selftest"])
def test_a_box_that_is_not_provisioned_says_what_to_do(run: Run, command: str, tmp_path: Path) -> None:
    ended = run(command)
    assert ended.code == 20
    assert ended.err == f"axleboxd: {tmp_path / 'data'} is not provisioned. DO: axleboxd provision\n"


# -- verify ---------------------------------------------------------------------------------------


def test_a_good_bundle_verifies_and_nothing_changes(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    before = contents(vehicle)
    ended = run("verify", stick(3))
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("bearing-temp 3: good, signed 1 of 1 needed, built 2026-03-01")
    assert contents(vehicle) == before


def test_verifying_as_json(run: Run, vehicle: Path, stick: Callable[..., Path], world: Any) -> None:
    facts = run("verify", stick(3), "--json").json()
    assert (facts["name"], facts["version"], facts["signatures_needed"]) == ("bearing-temp", 3, 1)
    assert facts["signed_by"] == [world.signer("targets").public_key.keyid]


def test_a_folder_with_one_bundle_stands_for_it(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    path = stick(3)
    (path.parent / "._bearing-temp-3.axb").write_bytes(b"macOS was here")
    assert run("verify", path.parent, "--json").json()["version"] == 3


def test_two_bundles_on_a_stick_are_refused_naming_both(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    stick(3)
    ended = run("verify", stick(4).parent)
    assert ended.code == 2
    assert "bearing-temp-3.axb" in ended.err
    assert "bearing-temp-4.axb" in ended.err


def test_the_installed_release_still_verifies(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    path = stick()
    assert run("install", path, "--yes").code == 0
    assert run("verify", path).code == 0


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    at = data.index(b"ai.onnx.ml")
    return data[:at] + b"A" + data[at + 1 :]


def other_signature(data: bytes) -> bytes:
    """The bundle with another hex digit in the signature of targets.json."""
    members = unpack(data)
    targets = members["targets.json"]
    (signature,) = json.loads(targets)["signatures"]
    old = signature["sig"].encode()
    members["targets.json"] = targets.replace(old, (b"0" if old[:1] != b"0" else b"1") + old[1:])
    return pack(members)


@pytest.mark.parametrize("command", [["verify"], ["install", "--yes"]])
@pytest.mark.parametrize(
    ("code", "how", "change"),
    [
        pytest.param(10, {}, other_signature, id="a wrong signature"),
        pytest.param(11, {"targets_keys": ["stranger"]}, None, id="an unknown signer"),
        pytest.param(12, {}, cut_short, id="cut short"),
        pytest.param(12, {}, flip, id="one byte changed"),
        pytest.param(13, {"vehicles": ("TRAIN-999",)}, None, id="another vehicle"),
        pytest.param(13, {"hardware": ("edge-9",)}, None, id="other hardware"),
        pytest.param(14, {"expires": RELEASED + timedelta(days=1)}, None, id="expired"),
        pytest.param(15, {}, lambda data: b"not a bundle\n" * 100, id="no bundle at all"),
    ],
)
def test_a_bundle_that_may_not_be_installed_is_refused_by_its_own_code(
    run: Run,
    vehicle: Path,
    stick: Callable[..., Path],
    command: list[str],
    code: int,
    how: dict[str, Any],
    change: Callable[[bytes], bytes] | None,
) -> None:
    path = stick(**how)
    if change is not None:
        path.write_bytes(change(path.read_bytes()))
    before = contents(vehicle)
    ended = run(*command, path)
    assert ended.code == code, ended.err
    assert ended.err.startswith("axleboxd: ")
    after = contents(vehicle)
    for name in ("lock", "incoming.part"):  # the next installation sweeps the copy away
        after.pop(name, None)
    assert after == before


# -- install --------------------------------------------------------------------------------------


def test_an_installation_says_every_step_and_puts_the_release_on_trial(
    run: Run, vehicle: Path, stick: Callable[..., Path]
) -> None:
    ended = run("install", stick(7).parent, "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert [line[:6].strip() for line in ended.out.splitlines()][:10] == [
        "FOUND", "NOW", "[1/6]", "[2/6]", "[3/6]", "[4/6]", "[5/6]", "[6/6]", "", "PASS",
    ]  # fmt: skip
    assert "FOUND  bearing-temp 7 for TRAIN-204, signed 1 of 1\nNOW    no release\n" in ended.out
    assert "[4/6] self-test OK: 20/20" in ended.out
    assert "[6/6] live data skipped, daemon not running" in ended.out
    assert "PASS TRAIN-204 runs bearing-temp 7 on trial from its next start, awaiting live" in ended.words
    assert ended.words.endswith("is on the stick. You may pull the stick.")
    assert max(map(len, ended.out.splitlines())) < 80
    assert ended.out.isascii()
    status = run("status", "--json").json()
    assert (status["release"]["version"], status["trial"], status["tries"]) == (7, True, 3)


def test_installing_what_is_installed_ends_with_3_on_trial_and_when_confirmed(
    run: Run, vehicle: Path, stick: Callable[..., Path]
) -> None:
    path = stick()
    assert run("install", path, "--yes").code == 0
    assert run("install", path, "--yes").code == 3
    assert run("confirm").code == 0
    ended = run("install", path, "--yes")
    assert ended.code == 3
    assert "FAIL" not in ended.out
    assert "SAME   Bearing-temp 1 is installed already. Nothing changed.\n" in ended.out
    assert ended.err == "axleboxd: bearing-temp 1 is installed already; nothing changed\n"


def test_a_failed_installation_says_what_stays(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    run("install", stick(7), "--yes")
    broken = stick(8)
    broken.write_bytes(cut_short(broken.read_bytes()))
    ended = run("install", broken, "--yes")
    assert ended.code == 12
    assert "FOUND  bearing-temp-8.axb for TRAIN-204\nNOW    bearing-temp 7, since today, 0 anomalies" in ended.out
    assert (
        "FAIL 12 The file on the stick is damaged. Nothing changed: bearing-temp 7 stays installed. "
        "DO: copy the bundle again, or use the second stick. Receipt AX-"
    ) in ended.words


def test_without_yes_and_without_a_terminal_nothing_is_installed(
    run: Run, vehicle: Path, stick: Callable[..., Path]
) -> None:
    before = contents(vehicle)
    ended = run("install", stick())
    assert ended.code == 2
    assert "--yes" in ended.err
    assert contents(vehicle) == before


@pytest.mark.parametrize(("said", "installed"), [("n\n", False), ("\n", False), ("y\n", True)])
def test_at_a_terminal_only_a_yes_installs(
    axleboxd: Any, run: Run, vehicle: Path, stick: Callable[..., Path], said: str, installed: bool
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, said.encode())
    done = axleboxd("install", stick(), "--data", vehicle, stdin=theirs)
    assert done.returncode == 0, done.stderr
    assert ("not installed; nothing changed" in done.stdout) is not installed
    assert run("status").code == (40 if installed else 20)


def test_a_release_older_than_the_confirmed_one_is_too_old(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    old, new = stick(1), stick(2)
    run("install", new, "--yes")
    run("confirm")
    for command in (["verify"], ["install", "--yes"]):
        ended = run(*command, old)
        assert ended.code == 14
        assert "bearing-temp 1 is older than release 2" in ended.err


def test_a_release_that_needs_a_newer_runtime_is_refused(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    ended = run("install", stick(min_runtime="99.0"), "--yes")
    assert ended.code == 20
    assert f"needs runtime 99.0 or newer, this is {VERSION}" in ended.err


def test_a_release_whose_golden_readings_differ_here_is_not_installed(
    run: Run, vehicle: Path, stick: Callable[..., Path], world: Any
) -> None:
    files = world.files(world.manifest())
    rows = list(world.golden().rows)
    rows[4] = msgspec.structs.replace(rows[4], flag=not rows[4].flag)
    files["golden.json"] = encode(msgspec.structs.replace(world.golden(), rows=tuple(rows)))
    ended = run("install", stick(files=files), "--yes")
    assert ended.code == 31
    assert "golden reading 5 of 20" in ended.err
    assert run("status").code == 20
    assert list((vehicle / "slots").glob("*[0-9a-f]")) == []


def test_the_self_test_runs_no_code_from_the_folder_the_technician_is_in(
    run: Run, vehicle: Path, stick: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stick is nobody's friend, and `cd /media/stick` is what people do."""
    path = stick()
    for module in ("subprocess.py", "msgspec.py", "numpy.py", "axlebox.py"):
        (path.parent / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(path.parent)
    ended = run("install", ".", "--yes")
    assert not (tmp_path / "ran").exists()
    assert ended.code == 0, ended.err


# -- status, confirm, fallback --------------------------------------------------------------------


def test_status_without_a_release_says_what_to_do(run: Run, vehicle: Path) -> None:
    ended = run("status")
    assert ended.code == 20
    assert "HEALTH    20  no release is installed. DO: axleboxd install\n" in ended.out
    assert run("status", "--json").json()["release"] is None


def test_status_tells_trial_from_confirmed(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    run("install", stick(7), "--yes")
    trial = run("status")
    assert trial.code == 40
    assert "VEHICLE   TRAIN-204, hardware edge-1" in trial.out
    assert "RELEASE   bearing-temp 7, on trial, 3 tries left, built 2026-03-01" in trial.out
    run("confirm")
    confirmed = run("status")
    assert "RELEASE   bearing-temp 7, confirmed" in confirmed.out
    assert "FLOOR     nothing below release 7 can be installed, nothing dated before" in confirmed.out
    assert max(map(len, confirmed.out.splitlines())) < 80 and confirmed.out.count("\n") < 24


def test_status_as_json_says_the_same(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    run("install", stick(7), "--yes")
    digest = run("verify", stick(7), "--json").json()["digest"]
    record = run("status", "--json").json()
    assert record.pop("receipt").startswith("AX-")
    assert record.pop("trouble").startswith("the daemon does not run")
    assert record == {
        "vehicle": "TRAIN-204",
        "hardware": "edge-1",
        "runtime": VERSION,
        "release": {
            "name": "bearing-temp",
            "version": 7,
            "digest": digest,
            "released": "2026-03-01T00:00:00+00:00",
        },
        "damaged": None,
        "trial": True,
        "tries": 3,
        "floor": 0,
        "min_sequence": 0,
        "fallback": None,
        "time_floor": None,
        "daemon": None,
        "sensors": [],
        "events": [],
        "store_error": None,
        "code": 40,
    }


@pytest.mark.parametrize("member", ["model.onnx", "manifest.json", "golden.json", "root.json", "slot.json"])
def test_a_damaged_slot_is_told_and_neither_tested_nor_confirmed(
    run: Run, vehicle: Path, stick: Callable[..., Path], member: str
) -> None:
    run("install", stick(), "--yes")
    damage(vehicle, member)
    ended = run("status")
    assert ended.code == 12
    assert "is damaged" in ended.out
    assert run("selftest").code == 12
    assert run("confirm").code == 12
    record = run("status", "--json").json()
    assert record["release"] is None
    assert "is damaged" in record["damaged"]


def test_a_damaged_release_is_repaired_by_installing_it_again(
    run: Run, vehicle: Path, stick: Callable[..., Path]
) -> None:
    """The technician has the good release in hand: "installed already" would leave a dead box."""
    path = stick()
    run("install", path, "--yes")
    damage(vehicle)
    ended = run("install", path, "--yes")
    assert ended.code == 0, ended.err
    assert run("status").code == 40


def test_confirming_raises_the_floor(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    run("install", stick(7), "--yes")
    ended = run("confirm", "--json")
    assert (ended.code, ended.json()["version"]) == (0, 7)
    assert run("status", "--json").json()["floor"] == 7


def test_with_nothing_on_trial_there_is_nothing_to_confirm(run: Run, vehicle: Path) -> None:
    ended = run("confirm")
    assert ended.code == 2
    assert ended.err == "axleboxd: no release is on trial; nothing to confirm\n"


def test_falling_back_goes_to_the_other_release_and_back_again(
    run: Run, vehicle: Path, stick: Callable[..., Path]
) -> None:
    for version in (1, 2):
        run("install", stick(version), "--yes")
        run("confirm")
    assert "FALLBACK  bearing-temp 1 (axleboxd fallback)" in run("status").out
    ended = run("fallback")
    assert ended.code == 0
    assert ended.out.startswith("fell back to bearing-temp 1\nreceipt AX-")
    assert run("status", "--json").json()["release"]["version"] == 1
    assert run("fallback", "--json").json()["version"] == 2


def test_a_trial_falls_back_to_the_confirmed_release(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    run("install", stick(1), "--yes")
    run("confirm")
    run("install", stick(2), "--yes")
    assert run("fallback", "--json").json()["version"] == 1
    assert run("status", "--json").json()["trial"] is False


def test_with_no_other_release_a_fallback_fails_and_changes_nothing(
    run: Run, vehicle: Path, stick: Callable[..., Path]
) -> None:
    """Nothing is broken: no reason to send the technician for help."""
    assert run("fallback").code == 20
    run("install", stick(), "--yes")
    ended = run("fallback")
    assert ended.code == 20
    assert ended.err == "axleboxd: there is no other release to fall back to; nothing changed\n"
    assert run("status", "--json").json()["release"]["version"] == 1


# -- selftest -------------------------------------------------------------------------------------


def test_the_self_test_of_the_installed_release(run: Run, vehicle: Path, stick: Callable[..., Path]) -> None:
    run("install", stick(7), "--yes")
    ended = run("selftest")
    assert (ended.code, ended.out) == (0, "self-test OK 20/20: bearing-temp 7\n")
    record = run("selftest", "--json").json()
    assert (record["version"], record["golden"]) == (7, 20)


def test_without_a_release_there_is_nothing_to_test(run: Run, vehicle: Path) -> None:
    assert run("selftest").code == 20


def install_unchecked(world: Any, data: Path, files: dict[str, bytes] | None = None) -> None:
    """Put files into a slot as if verification and self-test had passed."""
    digest = "d" * 64
    members = world.files(world.manifest()) if files is None else files
    write_slot(data / "slots" / digest, digest, RELEASED, world.root(), 1, members)
    write_state(data, State(trial=digest, tries=3))


@pytest.mark.parametrize("change", [{"score": 0.25}, {"flag": False}])
def test_a_golden_reading_that_differs_ends_with_31_and_its_number(
    run: Run, vehicle: Path, world: Any, change: dict[str, Any]
) -> None:
    rows = list(world.golden().rows)
    assert rows[2].flag
    rows[2] = msgspec.structs.replace(rows[2], **change)
    files = world.files(world.manifest())
    files["golden.json"] = encode(msgspec.structs.replace(world.golden(), rows=tuple(rows)))
    install_unchecked(world, vehicle, files=files)
    ended = run("selftest")
    assert ended.code == 31
    assert "golden reading 3 of 20" in ended.err


def _without_numbers() -> bytes:
    """A model with the right ports and flags whose scores are not numbers."""
    nodes = [
        helper.make_node("Cast", ["X"], ["x64"], to=TensorProto.DOUBLE),
        helper.make_node("Squeeze", ["x64", "axes"], ["column"]),
        helper.make_node("Mul", ["column", "nan"], ["score"]),
        helper.make_node("Greater", ["column", "limit"], ["flag"]),
    ]
    constants = {"axes": np.array([1]), "nan": np.array(np.nan), "limit": np.array(150.0)}
    graph = helper.make_graph(
        nodes,
        "nan",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor_value_info("score", TensorProto.DOUBLE, [None]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, [None]),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def test_scores_that_are_not_numbers_do_not_pass_the_self_test(run: Run, vehicle: Path, world: Any) -> None:
    assert [row.flag for row in world.golden().rows] == [row.value > 150 for row in world.golden().rows]
    install_unchecked(world, vehicle, files=world.files(world.manifest()) | {"model.onnx": _without_numbers()})
    assert run("selftest").code == 31


def test_the_self_test_counts_every_golden_reading(vehicle: Path, world: Any) -> None:
    install_unchecked(world, vehicle)
    (slot,) = (vehicle / "slots").iterdir()
    assert check_golden(open_slot(slot)) == len(world.golden().rows)


def test_the_program_itself_ends_with_these_codes(vehicle: Path, stick: Callable[..., Path]) -> None:
    """Once as a process of its own: the rest of this file calls main() in this one."""
    program = [sys.executable, "-c", "from axlebox.runtime.cli import main; main()"]
    path = stick()
    codes = [
        subprocess.run(
            [*program, *map(str, words), "--data", str(vehicle)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode
        for words in (["status"], ["install", path], ["install", path, "--yes"], ["install", path, "--yes"], ["status"])
    ]
    assert codes == [20, 2, 0, 3, 40]
