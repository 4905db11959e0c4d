"""`axlebox export`, keys, verify, inspect and score, as their users call them."""

from __future__ import annotations

import csv
import json
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from axlebox.export.golden import golden_readings
from axlebox.export.releases import read_releases
from axlebox.export.schema import manifest_schema
from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Kind
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import Reading, parse_time
from axlebox.runtime.version import VERSION
from axlebox.training.forest import sklearn_score_rows
from axlebox.training.runs import open_run

REPOSITORY = Path(__file__).resolve().parents[2]


def bundle_of(folder: Path) -> Path:
    (path,) = (folder / "dist").glob("*.axb")
    return path


def test_a_bundle_can_be_listed_and_unpacked_by_tar(exported: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "xf", bundle_of(exported), "-C", tmp_path], check=True)
    unpacked = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert unpacked == unpack(bundle_of(exported).read_bytes())
    assert set(unpacked) == {
        "1.root.json", "card.md", "golden.json", "manifest.json", "model.onnx", "provenance.json", "sbom.cdx.json",
        "snapshot.json", "targets.json", "timestamp.json",
    }  # fmt: skip


def test_the_manifest_carries_the_proof_and_the_lineage(exported: Path) -> None:
    manifest = json.loads(unpack(bundle_of(exported).read_bytes())["manifest.json"])
    run = open_run(exported / "runs", None)
    proof = manifest["parity"]["model.onnx"]
    assert proof["flags_differing"] == 0 and proof["boundary_rows"] > 0 and proof["offsets"] > 0
    assert manifest["lineage"]["run"] == run.folder.name
    libraries = {name: metadata.version(name) for name in ("numpy", "onnxruntime")}
    assert manifest["proved_on"] == {"axlebox": VERSION, "machine": platform.machine(), **libraries}
    assert json.loads((run.folder / "parity.json").read_text()) == manifest["parity"]


def test_the_published_schema_is_the_current_one() -> None:
    assert (REPOSITORY / "docs/manifest.schema.json").read_text() == manifest_schema()


def test_golden_readings_hold_scikit_learn_s_answers(exported: Path) -> None:
    rows = json.loads(unpack(bundle_of(exported).read_bytes())["golden.json"])["rows"]
    run = open_run(exported / "runs", None)
    (spec,), contract = run.detector().detectors, run.detector().contract
    seen: list[Any] = []

    def score_rows(features: Any) -> Any:
        seen.append(features)
        return sklearn_score_rows(run.forests()[spec.model])(features)

    monitor = Monitor(contract, {spec.kind: Detector(spec, score_rows)}, Origin("x", 1, "0" * 64))
    outcomes = monitor.process([Reading(parse_time(row[0]), row[1], row[2]) for row in rows])
    assert [row[4] for row in rows] == [one.flag for one in outcomes]
    scores = -run.forests()[spec.model].score_samples(np.concatenate(seen))
    assert np.abs(np.array([row[3] for row in rows]) - scores).max() <= 1e-15
    assert {row[4] for row in rows} == {True, False}
    assert len(rows) > 60, "the warm-up, and something after it"


def test_the_same_inputs_and_release_time_give_the_same_bytes(axlebox: Any, copied: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    fixed = type(axlebox)(axlebox.command, {**axlebox.environment, "SOURCE_DATE_EPOCH": "1767225600"})
    made = []
    for folder in (copied, other):
        fixed.ok("export", cwd=folder)
        made.append((folder / "dist/fleet-2.axb").read_bytes())
    assert made[0] == made[1]
    assert read_releases(copied / "releases.jsonl")[-1].released == datetime(2026, 1, 1, tzinfo=UTC)


def test_every_export_takes_the_next_version(axlebox: Any, copied: Path) -> None:
    axlebox.ok("export", cwd=copied)
    assert [line.version for line in read_releases(copied / "releases.jsonl")] == [1, 2]
    assert sorted(path.name for path in (copied / "dist").iterdir()) == ["fleet-1.axb", "fleet-2.axb"]


def run_with(axlebox: Any, change: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """axlebox in a process in which `change` was executed first."""
    code = f"{change}\nfrom axlebox.export.cli import main; main()\n"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=cwd, env=axlebox.environment, capture_output=True, text=True, check=False)


def test_one_differing_flag_stops_the_export_with_50_and_leaves_no_bundle(axlebox: Any, copied: Path) -> None:
    shutil.rmtree(copied / "dist")
    off = (
        "from axlebox.export import forest_onnx\n"
        "right = forest_onnx.find_cut\n"
        "forest_onnx.find_cut = lambda forest: right(forest) * 0.98\n"
    )
    done = run_with(axlebox, off, "export", cwd=copied)
    assert done.returncode == 50 and "parity: " in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (copied / "dist").exists()
    assert len(read_releases(copied / "releases.jsonl")) == 1


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_killed_export_leaves_no_half_bundle_and_never_one_version_twice(
    axlebox: Any, copied: Path, call: int
) -> None:
    kill = (
        "import os, signal\n"
        "from axlebox.firmware_bundle import disk\n"
        "real, count = os.replace, [0]\n"
        "def replace(old, new):\n"
        "    count[0] += 1\n"
        f"    if count[0] == {call}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(old, new)\n"
        "disk.os.replace = replace\n"
    )
    assert run_with(axlebox, kill, "export", cwd=copied).returncode == -9
    before = {path.name: path.read_bytes() for path in (copied / "dist").glob("*.axb")}
    for path in (copied / "dist").glob("*.axb"):
        axlebox.ok("verify", path, cwd=copied)
    axlebox.ok("export", cwd=copied)
    after = {path.name: path.read_bytes() for path in (copied / "dist").glob("*.axb")}
    assert before.items() <= after.items() and len(after) == len(before) + 1
    versions = [line.version for line in read_releases(copied / "releases.jsonl")]
    assert versions == sorted(set(versions))


def test_export_without_keys_or_runs_says_what_to_do(axlebox: Any, copied: Path) -> None:
    shutil.rmtree(copied / "trust")
    done = axlebox("export", cwd=copied)
    assert done.returncode == 20 and "DO: axlebox keys init" in done.stderr
    shutil.rmtree(copied / "runs")
    done = axlebox("export", cwd=copied)
    assert done.returncode == 2 and "DO: axlebox train" in done.stderr
    assert axlebox("export", "feedfacecafe", cwd=copied).returncode == 2


def test_keys_are_private_and_are_not_made_twice(axlebox: Any, copied: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in (copied / "keys").iterdir()} == {0o600}
    before = {path: path.read_bytes() for path in (copied / "keys").iterdir()}
    done = axlebox("keys", "init", "--single", cwd=copied)
    assert done.returncode == 2 and "nothing was written" in done.stderr
    assert {path: path.read_bytes() for path in (copied / "keys").iterdir()} == before
    listed = json.loads(axlebox.ok("keys", "list", "--json", cwd=copied))["keys"]
    assert {one["role"] for one in listed} == {"root", "targets", "build"}


def test_no_secret_is_in_a_bundle_or_on_the_screen(axlebox: Any, exported: Path) -> None:
    secrets = [
        "".join(path.read_text().splitlines()[1:-1])[-40:].encode() for path in (exported / "keys").glob("*.pem")
    ]
    shown = axlebox.ok("keys", "list", cwd=exported) + axlebox.ok("inspect", bundle_of(exported), cwd=exported)
    for path in exported.rglob("*"):
        if path.is_file() and path.parent.name != "keys":
            assert not any(secret in path.read_bytes() for secret in secrets), path
    assert not any(secret.decode() in shown for secret in secrets)


def test_a_spoiled_key_file_is_refused_without_being_quoted(axlebox: Any, copied: Path) -> None:
    (copied / "keys/targets.pem").write_text("-----BEGIN PRIVATE KEY-----\nsecretsecret\n")
    done = axlebox("export", cwd=copied)
    assert done.returncode == 2 and "targets.pem" in done.stderr and "secretsecret" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [((), 0), (("--hardware", "rail-a"), 0), (("--vehicle", "T1"), 0)],
)
def test_verify_says_one_line_when_all_is_well(axlebox: Any, exported: Path, words: tuple[str, ...], code: int) -> None:
    done = axlebox("verify", bundle_of(exported), "--trust", exported / "trust/root.json", *words)
    assert done.returncode == code and len(done.stdout.splitlines()) == 1
    assert "fleet 1: good, signed 1 of 1" in done.stdout


def test_verify_refuses_a_damaged_bundle_and_a_foreign_root(axlebox: Any, exported: Path, tmp_path: Path) -> None:
    data = bytearray(bundle_of(exported).read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.axb"
    damaged.write_bytes(data)
    done = axlebox("verify", damaged, cwd=exported)
    assert done.returncode == 12 and len(done.stderr.splitlines()) == 1
    axlebox.ok("init", tmp_path / "foreign")
    axlebox.ok("keys", "init", "--single", cwd=tmp_path / "foreign")
    done = axlebox("verify", bundle_of(exported), "--trust", tmp_path / "foreign/trust/root.json")
    assert done.returncode == 11
    assert axlebox("verify", exported / "README.md", cwd=exported).returncode == 15


def test_inspect_shows_everything_in_words_and_in_json(axlebox: Any, exported: Path) -> None:
    words = axlebox.ok("inspect", bundle_of(exported), cwd=exported)
    record = json.loads(axlebox.ok("inspect", bundle_of(exported), "--json", cwd=exported))
    for shown in (record["digest"], record["run"], *record["data"].values(), record["code"]["source_sha256"]):
        assert shown in words


def test_score_answers_every_line_as_scikit_learn_does(axlebox: Any, exported: Path, tmp_path: Path) -> None:
    run = open_run(exported / "runs", None)
    lines = (run.folder / "held_out.csv").read_text().splitlines()
    lines.insert(3, "garbage")
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    said = axlebox.ok("score", bundle_of(exported), tmp_path / "in.csv", "-o", tmp_path / "out.csv", cwd=exported)
    assert "1 invalid" in said and "invalid line 4: 1 column" in said
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["time", "sensor", "value", "status", "score", "flag", "event"]
    assert len(rows) == len(lines) - 1 and rows[2]["status"] == "invalid"
    good = [row for row in rows if row["status"] == "ok"]
    expected = run.predictions()
    expected = expected[expected["status"] == "ok"]
    assert [row["flag"] == "1" for row in good] == expected["flag"].tolist() and expected["flag"].any()
    assert [row["event"] != "" for row in good] == expected["event_id"].notna().tolist()


def test_score_writes_over_no_file(axlebox: Any, exported: Path, tmp_path: Path) -> None:
    readings = Path(shutil.copy(exported.parent / "readings.csv", tmp_path))
    before = readings.read_bytes()
    for output in (readings, Path(shutil.copy(bundle_of(exported), tmp_path))):
        kept = output.read_bytes()
        done = axlebox("score", bundle_of(exported), readings, "-o", output, cwd=exported)
        assert done.returncode == 2 and output.read_bytes() == kept
    assert readings.read_bytes() == before


ONE_KIND = Contract({"temperature": Kind()})
TALK = DetectorSpec("temperature", "model.onnx", FeatureSet("value", 1), 0.6)


@pytest.mark.parametrize(("flagged", "expected"), [(0, 200), (30, 200), (500, 200)])
def test_golden_readings_are_as_many_whatever_is_flagged(flagged: int, expected: int) -> None:
    frame = pd.DataFrame({"time": np.arange(1000.0), "sensor": "a", "value": 1.0, "flag": np.arange(1000) < flagged})
    found = golden_readings(frame, TALK, ONE_KIND)
    assert len({one.time for one in found}) == expected
    assert sum(one.time < flagged for one in found) == min(flagged, 100)


def test_golden_readings_pass_the_gate_without_marks() -> None:
    """A new sensor's clock was behind, then level with the old one's last reading, then ahead."""
    times = [10.0, 20.0, 30.0, 5.0, 30.0, 40.0]
    frame = pd.DataFrame({"time": times, "sensor": "a", "value": 1.0, "era": [0, 0, 0, 1, 1, 1], "flag": False})
    assert [one.time for one in golden_readings(frame, TALK, ONE_KIND)] == [
        10.0,
        20.0,
        30.0,
        40.0,
    ]
    both = pd.concat([frame, frame.assign(sensor="b")], ignore_index=True)
    assert len(golden_readings(both, TALK, ONE_KIND)) == 8


def test_a_sensor_that_was_replaced_goes_all_the_way(
    axlebox: Any, exported: Path, copied: Path, tmp_path: Path
) -> None:
    """Ingest, train, export and score: its clock stands an hour behind from the mark on."""
    header, *lines = (exported.parent / "readings.csv").read_text().splitlines()
    sensor, change = lines[0].split(",")[1], int(len(lines) * 0.9)
    after = [line for line in lines[change:] if line.split(",")[1] == sensor]
    early = datetime.fromisoformat(after[0].split(",")[0]) - timedelta(hours=1)
    mark = f"{after[0].split(',')[0]},{sensor},replaced"
    kept = [line for line in lines if line not in after]
    moved = [f"{(early + timedelta(minutes=5 * n)).isoformat()},{sensor},{1 + n}" for n, _ in enumerate(after)]
    (tmp_path / "in.csv").write_text("\n".join([header, *kept, mark, *moved]) + "\n")

    said = axlebox.ok("ingest", tmp_path / "in.csv", cwd=copied)
    assert "0 invalid, 1 replaced" in said
    (facts,) = json.loads(axlebox.ok("ingest", tmp_path / "in.csv", "--json", cwd=copied))["files"]
    assert (facts["replaced"], facts["rows"]) == (1, len(lines))
    axlebox.ok("train", "--params", "forest.n_estimators=20", cwd=copied)
    run = open_run(copied / "runs", None)
    assert set(run.predictions()["era"]) == {0, 1}
    assert "<th>Sensors replaced<td>1" in (run.folder / "report.html").read_text()
    axlebox.ok("export", cwd=copied)
    (bundle,) = (copied / "dist").glob("*-2.axb")

    held_out, out = run.folder / "held_out.csv", tmp_path / "out.csv"
    assert "  1 sensor replaced" in axlebox.ok("score", bundle, held_out, "-o", out, cwd=copied)
    rows = list(csv.DictReader(out.open()))
    (marked,) = [row for row in rows if row["status"] == "replaced"]
    assert (marked["sensor"], marked["value"], marked["score"], marked["flag"]) == (sensor, "", "", "0")
    scored = [row["flag"] == "1" for row in rows if row["status"] in ("ok", "warming")]
    assert scored == run.predictions()["flag"].tolist() and len(rows) == len(scored) + 1


CHECKS = """
    range: [-40.0, 250.0]
    stuck_after_s: 1800.0
    stale_after_s: 3600.0
    warn: 120.0
    critical: 150.0
"""


def test_a_contract_with_checks_and_limits_goes_all_the_way(
    axlebox: Any, exported: Path, copied: Path, tmp_path: Path
) -> None:
    """Ingest, train, export and score; coarse readings, of which a few picked out of many would look stuck."""
    header, *lines = (exported.parent / "readings.csv").read_text().splitlines()
    rows = [line.rsplit(",", 1) for line in lines]
    coarse = [f"{rest},{float(value) // 5 * 5 + number // 8 % 2}" for number, (rest, value) in enumerate(rows)]
    coarse[100] = f"{rows[100][0]},-300.0"
    coarse[-50] = f"{rows[-50][0]},200.0"
    (tmp_path / "in.csv").write_text("\n".join([header, *coarse]) + "\n")
    (copied / "conf/base/contract.yml").write_text("kinds:\n  temperature:" + CHECKS)

    (facts,) = json.loads(axlebox.ok("ingest", tmp_path / "in.csv", "--json", cwd=copied))["files"]
    assert facts["invalid"] == 0 and facts["held_back"]["range"] == 1
    axlebox.ok("train", "--params", "forest.n_estimators=20", cwd=copied)
    run = open_run(copied / "runs", None)
    assert "<th>Held back: range<td>1" in (run.folder / "report.html").read_text()
    axlebox.ok("export", cwd=copied)
    (bundle,) = (copied / "dist").glob("*-2.axb")
    assert json.loads(unpack(bundle.read_bytes())["manifest.json"])["contract"]["kinds"]["temperature"]["warn"] == 120

    axlebox.ok("score", bundle, run.folder / "held_out.csv", "-o", tmp_path / "out.csv", cwd=copied)
    scored = list(csv.DictReader((tmp_path / "out.csv").open()))
    predictions = run.predictions()
    assert [row["status"] for row in scored] == predictions["status"].tolist()
    assert [row["flag"] == "1" for row in scored] == predictions["flag"].tolist()
    assert predictions["limit"].any()


def test_a_run_whose_contract_makes_no_sense_is_not_exported(axlebox: Any, copied: Path) -> None:
    file = open_run(copied / "runs", None).folder / "detector.json"
    file.write_text(
        file.read_text().replace('"warn": null', '"warn": 90, "critical": 80').replace('"critical": null,', "")
    )
    done = axlebox("export", cwd=copied)
    assert done.returncode == 15 and "kinds.temperature.warn" in done.stderr


def test_score_of_a_file_without_readings_writes_nothing(axlebox: Any, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("nothing\nhere\n")
    done = axlebox("score", bundle_of(exported), tmp_path / "in.csv", "-o", tmp_path / "out.csv", cwd=exported)
    assert done.returncode == 15 and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_release_holds_a_detector_for_each_kind_and_a_missed_target_stops_it(
    axlebox: Any, axleboxd: Any, copied: Path, tmp_path: Path
) -> None:
    """Bearings, a coolant sensor of another kind, and a kind without readings; on the box each by its own model."""
    lines = (copied.parent / "fleet/data/01_raw").glob("*.csv")
    header, *rows = next(lines).read_text().splitlines()
    sensors = list(dict.fromkeys(row.split(",")[1] for row in rows))
    (copied / "conf/base/contract.yml").write_text(
        "kinds: {bearing: {}, coolant: {action: check the pump}, gearbox: {}}\nsensors:\n"
        + "".join(f"  {name}: {{kind: bearing}}\n" for name in sensors)
        + "  pump: {kind: coolant}\n  oil: {kind: gearbox}\n"
    )
    random, made = np.random.default_rng(0), [header]
    for number, row in enumerate(rows):
        made.append(row)
        if row.split(",")[1] == sensors[0]:
            heat = 60.0 * (number > len(rows) - 40)
            made.append(f"{row.split(',')[0]},pump,{85 + random.normal(0, 1) + heat:.1f}")
    (tmp_path / "two.csv").write_text("\n".join(made) + "\n")
    axlebox.ok("ingest", tmp_path / "two.csv", cwd=copied)
    said = axlebox.ok("train", "--params", "forest.n_estimators=20", cwd=copied)
    assert "NO READINGS of kind gearbox: no detector" in said
    axlebox.ok("export", cwd=copied)
    bundle = max((copied / "dist").glob("*.axb"))
    specs = json.loads(unpack(bundle.read_bytes())["manifest.json"])["detectors"]
    assert [(one["kind"], one["model"]) for one in specs] == [("bearing", "model-0.onnx"), ("coolant", "model-1.onnx")]

    data = tmp_path / "vehicle"
    trust, run = copied / "trust/root.json", open_run(copied / "runs", None)
    axleboxd.ok("provision", "--trust", trust, "--vehicle", "T1", "--hardware", "a", "--data", data)
    axleboxd.ok("install", bundle, "--yes", "--data", data)
    told = axleboxd.ok("run", "--source", f"file:{run.folder / 'held_out.csv'}", "--data", data)
    raised = [event for event in map(json.loads, told.splitlines()) if event["state"] == "raised"]
    assert {event["action"] for event in raised if event["sensor"] == "pump"} == {"check the pump"}

    record = json.loads((run.folder / "run.json").read_text())
    record["evaluation"]["detectors"]["coolant"]["target_problem"] = "9 events prove more than 1 a day"
    (run.folder / "run.json").write_text(json.dumps(record))
    before = sorted((copied / "dist").iterdir())
    refused = axlebox("export", cwd=copied)
    assert refused.returncode == 50 and "coolant: 9 events prove more than 1 a day" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1 and sorted((copied / "dist").iterdir()) == before
    axlebox.ok("export", "--accept-missed-target", cwd=copied)


def test_readings_that_mostly_break_the_contract_are_not_trained_on(axlebox: Any, copied: Path) -> None:
    (copied / "conf/base/contract.yml").write_text("kinds: {temperature: {range: [200, 300]}}\n")
    done = axlebox("train", cwd=copied)
    assert done.returncode == 15 and "break the contract, most_held_back is 20.0%" in done.stderr
    assert len(done.stderr.splitlines()) == 1
