"""`axlebox trace`: from an event, a bundle or a run back to what it was made from."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.export import trace as module
from axlebox.export.releases import append_release, read_releases
from axlebox.export.trace import Traced, trace
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import UsageError
from axlebox.training.provenance import library_versions
from axlebox.training.runs import open_run
from axlebox.training.workspace import Workspace


@pytest.fixture
def fleet(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The exported workspace, with the test working inside it."""
    monkeypatch.chdir(copied)
    return Workspace(copied)


def digest_of(fleet: Workspace) -> str:
    return read_releases(fleet.releases)[-1].digest


def copy_of(fleet: Workspace) -> Path:
    (path,) = fleet.raw.glob("*.csv")
    return path


def text(found: Traced) -> str:
    return "\n".join(found.lines)


def test_an_event_of_a_vehicle_leads_back_to_all_that_it_came_of(axlebox: Any, exported: Path, tmp_path: Path) -> None:
    run = open_run(exported / "runs", None)
    axlebox.ok("score", "dist/fleet-1.axb", run.folder / "held_out.csv", "-o", tmp_path / "scored.csv", cwd=exported)
    with open(tmp_path / "scored.csv", newline="") as file:
        first = next(row for row in csv.DictReader(file) if row["event"])
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    found = json.loads(axlebox.ok("trace", first["event"], "--json", cwd=exported))
    onset = first["time"].partition(".")[0].removesuffix("Z") + "Z"
    assert (found["event"]["sensor"], found["event"]["onset"]) == (first["sensor"], onset)
    assert (found["event"]["what"], found["event"]["kind"]) == ("anomaly", "temperature")
    (release,) = found["releases"]
    assert release["digest"].startswith(first["event"][:8]) and release["bundle"].endswith("dist/fleet-1.axb")
    assert release["signers"] == ["targets"] and release["run"] == found["run"]["run"] == run.folder.name
    (data,) = found["data"]
    assert data["state"] == "whole" and Path(data["copy"]).name == f"{data['sha256']}.csv"
    assert Path(data["copy"]).read_bytes() == (exported.parent / "readings.csv").read_bytes()
    assert found["settings"]["all"]["forest"]["n_estimators"] == 20
    assert found["versions"] == {"recorded": library_versions(), "others_here": {}}
    assert found["code"]["same_as_installed"] is True and found["damaged"] == []
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before


@pytest.mark.parametrize("how", ["bundle", "run", "digest", "event"])
def test_bundle_run_digest_and_event_lead_to_the_same_inputs(fleet: Workspace, how: str) -> None:
    what = {
        "bundle": "dist/fleet-1.axb",
        "run": open_run(fleet.runs, None).folder.name,
        "digest": digest_of(fleet),
        "event": f"{digest_of(fleet)[:8]}-T0.axle0-1700000000",
    }[how]
    found = trace(fleet, what, None)
    lineage = open_run(fleet.runs, None).record().lineage
    assert found.record["lineage"] == msgspec.to_builtins(lineage)
    assert found.record["run"]["differs_in"] == [] and found.record["run"]["other_models"] == []
    assert ("event" in found.record) == (how == "event")
    assert "run.json says the same as the manifest, and the models are the same" in text(found)
    assert max(map(len, found.lines)) <= 100


def test_settings_that_are_not_the_defaults_come_first(fleet: Workspace) -> None:
    lines = text(trace(fleet, "dist/fleet-1.axb", None))
    settings = lines[lines.index("settings") : lines.index("code  ")]
    ours, usual = " ".join(settings.split()).split("as by default:")
    assert "forest.n_estimators 20 (default 100)" in ours and "streaming.warmup 60 (default 300)" in ours
    assert "forest.random_state 69" in usual and "streaming.warmup" not in usual


@pytest.mark.parametrize(
    ("event", "sensor", "onset", "what"),
    [
        ("left-1700000000", "left", "2023-11-14T22:13:20Z", "anomaly"),
        ("car-7-axle-2-1700000000", "car-7-axle-2", "2023-11-14T22:13:20Z", "anomaly"),
        ("left-1700000000-critical", "left", "2023-11-14T22:13:20Z", "critical"),
        ("left-1700000000-hot-or-sensor", "left", "2023-11-14T22:13:20Z", "hot-or-sensor"),
        ("left-5-warn-0", "left-5-warn", "1970-01-01T00:00:00Z", "anomaly"),
    ],
)
def test_an_event_s_id_is_taken_apart(fleet: Workspace, event: str, sensor: str, onset: str, what: str) -> None:
    told = trace(fleet, f"{digest_of(fleet)[:8]}-{event}", None).record["event"]
    assert (told["sensor"], told["onset"], told["what"]) == (sensor, onset, what)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("00000000-left-1700000000", r"no release .* begins with 00000000; the newest are fleet 1 [0-9a-f]{8}$"),
        ("0123456789ab", "'0123456789ab' is no file, no event of a release and no run here; the newest are fleet 1"),
        ("fleet-2.axb", r"is no file.*; did you mean dist/fleet-1.axb\?"),
        ("0" * 64, "no release of this workspace has a digest"),
        ("nonsense", "no file, no event of a release and no run here"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_near_or_new(fleet: Workspace, what: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        trace(fleet, what, None)


def test_a_mistyped_run_or_digest_is_answered_with_the_nearest(fleet: Workspace) -> None:
    run, digest = open_run(fleet.runs, None).folder.name, digest_of(fleet)[:8]
    other = "0" if run[3] != "0" else "1"
    with pytest.raises(UsageError, match=rf"did you mean {run}\?"):
        trace(fleet, run[:3] + other + run[4:], None)
    with pytest.raises(UsageError, match=rf"the nearest is fleet 1, {digest}"):
        trace(fleet, f"{digest[:-1]}{'0' if digest[-1] != '0' else '1'}-left-5", None)


def test_two_releases_that_can_be_meant_are_both_named(fleet: Workspace) -> None:
    (first,) = read_releases(fleet.releases)
    twin = msgspec.structs.replace(first, version=2, digest=first.digest[:16] + "0" * 48)
    append_release(fleet.releases, twin)
    with pytest.raises(UsageError, match=rf"of 2 releases begin with .*fleet 1 {first.digest[:16]}, fleet 2 "):
        trace(fleet, f"{first.digest[:8]}-left-1700000000", None)
    assert trace(fleet, first.digest, None).record["releases"][0]["version"] == 1
    found = trace(fleet, twin.digest, None)
    assert found.record["releases"][0]["bundle"] is None and "fleet 2" in text(found)


def test_a_copy_with_other_bytes_ends_with_12_and_all_else_is_told(axlebox: Any, copied: Path) -> None:
    copy = copy_of(Workspace(copied))
    copy.write_bytes(copy.read_bytes()[:-1])
    done = axlebox("trace", "dist/fleet-1.axb", cwd=copied)
    assert done.returncode == 12 and str(copy) in done.stderr and done.stderr.count("\n") == 1
    assert "DAMAGED: the copy has other bytes" in done.stdout and "\nversions " in done.stdout


def test_what_is_merely_gone_is_told_and_no_error(fleet: Workspace) -> None:
    copy_of(fleet).unlink()
    shutil.rmtree(open_run(fleet.runs, None).folder)
    found = trace(fleet, "dist/fleet-1.axb", None)
    assert found.damaged == [] and found.record["data"][0]["copy"] is None
    assert "its folder is not in runs" in text(found) and "no copy is here" in text(found)
    Path("dist/fleet-1.axb").unlink()
    gone = trace(fleet, f"{digest_of(fleet)[:8]}-left-1700000000", None)
    assert "bundle not in dist any more" in text(gone) and gone.damaged == []
    assert gone.record["lineage"] is None and "neither the bundle nor the run is here" in text(gone)


def test_without_the_bundle_the_run_s_record_is_told(fleet: Workspace) -> None:
    Path("dist/fleet-1.axb").unlink()
    found = trace(fleet, digest_of(fleet), None)
    assert found.record["releases"][0]["bundle"] is None
    assert found.record["lineage"] == msgspec.to_builtins(open_run(fleet.runs, None).record().lineage)
    assert "the run's record is told, which nobody signed" in text(found)


def test_a_bundle_under_another_name_is_found_by_its_digest(fleet: Workspace) -> None:
    Path("dist/fleet-1.axb").rename("dist/kept.axb")
    found = trace(fleet, digest_of(fleet), None)
    assert found.record["releases"][0]["bundle"].endswith("dist/kept.axb")


def test_a_damaged_bundle_in_dist_is_told(fleet: Workspace) -> None:
    path = Path("dist/fleet-1.axb")
    path.write_bytes(path.read_bytes()[:-4096])
    found = trace(fleet, digest_of(fleet), None)
    assert found.damaged == [str(fleet.dist / "fleet-1.axb")] and found.lines[0].startswith("DAMAGED   fleet-1.axb: ")
    assert found.record["lineage"] is not None


@pytest.mark.parametrize(("file", "told"), [("run.json", "differ in parameters.forest"), ("model.onnx", "model.onnx")])
def test_a_run_that_differs_from_the_signed_bundle_is_damaged(fleet: Workspace, file: str, told: str) -> None:
    path = open_run(fleet.runs, None).folder / file
    path.write_bytes(
        path.read_bytes().replace(b'"random_state": 69', b'"random_state": 70') + b"\n" * (file != "run.json")
    )
    found = trace(fleet, "dist/fleet-1.axb", None)
    assert found.damaged == [str(path.parent)] and told in text(found)


def test_an_unreadable_run_is_told(fleet: Workspace) -> None:
    (open_run(fleet.runs, None).folder / "run.json").write_text("{")
    found = trace(fleet, "dist/fleet-1.axb", None)
    assert found.damaged and "DAMAGED" in text(found) and found.record["lineage"] is not None


def test_a_run_from_another_commit_is_no_damage(fleet: Workspace) -> None:
    run = open_run(fleet.runs, None)
    record = json.loads((run.folder / "run.json").read_bytes())
    record["lineage"]["code"]["commit"] = "a" * 40
    (run.folder / "run.json").write_text(json.dumps(record))
    found = trace(fleet, "dist/fleet-1.axb", None)
    assert found.damaged == [] and "differ in code.commit" in text(found)


def test_the_commit_is_looked_up_in_the_workspace_s_own_repository(fleet: Workspace) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    there, elsewhere = git("rev-parse", "HEAD"), "b" * 40
    Path("dist/fleet-1.axb").unlink()
    run = open_run(fleet.runs, None)
    record = json.loads((run.folder / "run.json").read_bytes())
    for commit, known in ((f"{there}-dirty", True), (elsewhere, False), ("--help", False), (None, None)):
        record["lineage"]["code"]["commit"] = commit
        (run.folder / "run.json").write_text(json.dumps(record))
        assert trace(fleet, run.folder.name, None).record["code"]["commit_here"] is known, commit


def test_versions_and_code_that_are_not_installed_here_are_named(
    fleet: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "library_versions", lambda: {**library_versions(), "numpy": "99.0"})
    code = module.code_revision(fleet.root)
    monkeypatch.setattr(module, "code_revision", lambda root: msgspec.structs.replace(code, source_sha256="0" * 64))
    found = trace(fleet, "dist/fleet-1.axb", None)
    assert found.record["versions"]["others_here"] == {"numpy": [library_versions()["numpy"], "99.0"]}
    assert "-> 99.0" in text(found) and "NOT what is installed here" in text(found)


def test_a_run_without_a_release_is_traced_too(fleet: Workspace) -> None:
    disk.replace_durable(fleet.releases, b"")
    found = trace(fleet, open_run(fleet.runs, None).folder.name, None)
    assert found.record["releases"] == [] and "none was made from this run" in text(found)
    assert found.record["data"][0]["state"] == "whole"


def test_the_newest_releases_are_named_newest_first(fleet: Workspace) -> None:
    (first,) = read_releases(fleet.releases)
    for version in range(2, 9):
        changed = {"version": version, "digest": f"{version:064x}", "released": datetime(2026, 1, version, tzinfo=UTC)}
        append_release(fleet.releases, msgspec.structs.replace(first, **changed))
    with pytest.raises(UsageError, match=r"the newest are fleet 8 0{8}, fleet 7 0{8}, fleet 6 .* fleet 4 0{8}$"):
        trace(fleet, "x", None)


def test_outside_a_workspace_and_with_an_id_that_moves_the_cursor_it_is_one_line(
    axlebox: Any, exported: Path, tmp_path: Path
) -> None:
    done = axlebox("trace", "0123456789ab", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "in no workspace" in done.stderr
    digest = read_releases(exported / "releases.jsonl")[-1].digest
    done = axlebox("trace", f"{digest[:8]}-\x1b[2Jleft-5", cwd=exported)
    assert done.returncode == 0 and "\x1b" not in done.stdout and "sensor ?[2Jleft" in done.stdout
