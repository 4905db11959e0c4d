"""From a readings file to flags on a vehicle, through the two programs alone."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import IsolationForest


def journey(axlebox: Any, axleboxd: Any, readings: Path, folder: Path) -> list[dict[str, Any]]:
    """What the vehicle answers to the held-out readings of a file, reading by reading."""
    fleet, stick, data = folder / "fleet", folder / "stick", folder / "vehicle"
    axlebox.ok("init", fleet)
    axlebox.ok("ingest", readings, cwd=fleet)
    axlebox.ok("train", "--params", "feature_set=value", cwd=fleet)
    axlebox.ok("keys", "init", "--single", cwd=fleet)
    axlebox.ok("export", cwd=fleet)
    stick.mkdir()
    shutil.copy(fleet / "dist/fleet-1.axb", stick)
    (stick / "._fleet-1.axb").write_bytes(b"a file that macOS leaves")
    axleboxd.ok("provision", "--trust", fleet / "trust/root.json", "--vehicle", "T1", "--hardware", "a", "--data", data)
    axleboxd.ok("verify", stick, "--data", data)
    axleboxd.ok("install", stick, "--yes", "--data", data)
    run = fleet / "runs" / (fleet / "runs/latest").read_text().strip()
    shutil.rmtree(stick)
    lines = axleboxd.ok("run", "--source", f"file:{run / 'held_out.csv'}", "--readings", "--data", data)
    axleboxd.ok("confirm", "--data", data)
    assert json.loads(axleboxd("status", "--json", "--data", data).stdout)["floor"] == 1
    return [line for line in map(json.loads, lines.splitlines()) if line["type"] == "reading"]


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_the_talk_s_readings_are_flagged_on_the_vehicle_as_scikit_learn_flags_them(
    axlebox: Any, axleboxd: Any, temps_csv: Path, tmp_path: Path
) -> None:
    raw = pd.read_csv(temps_csv, names=["time", "value"], skipinitialspace=True)
    values = raw[["value"]].to_numpy(dtype=float)
    forest = IsolationForest(random_state=69, bootstrap=True, contamination=0.05).fit(values[:4665])
    answers = journey(axlebox, axleboxd, temps_csv, tmp_path)
    assert len(raw) == 5832 and len(answers) == 1167
    assert [one["value"] for one in answers] == values[4665:, 0].tolist()
    assert [one["flag"] for one in answers] == (forest.predict(values[4665:]) == -1).tolist()


def test_simulated_vehicles_are_flagged_as_scikit_learn_flags_them(axlebox: Any, axleboxd: Any, tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    axlebox.ok("simulate", file, "--vehicles", 1, "--bearings", 2, "--days", 5)
    raw = pd.read_csv(file)
    cut = np.sort(raw["time"].to_numpy())[int(len(raw) * 0.8)]
    train, test = raw[raw["time"] < cut], raw[raw["time"] >= cut]
    forest = IsolationForest(random_state=69, bootstrap=True, contamination=0.05).fit(train[["value"]].to_numpy())
    answers = journey(axlebox, axleboxd, file, tmp_path)
    assert [(seconds(one["time"]), one["sensor"]) for one in answers] == [
        (seconds(time), sensor) for time, sensor in zip(test["time"], test["sensor"], strict=True)
    ]
    assert [one["flag"] for one in answers] == (forest.predict(test[["value"]].to_numpy()) == -1).tolist()
    assert any(one["flag"] for one in answers)


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_what_the_workstation_scores_the_vehicle_scores(
    axlebox: Any, axleboxd: Any, exported: Path, tmp_path: Path, source: str
) -> None:
    run = exported / "runs" / (exported / "runs/latest").read_text().strip()
    data, held_out = tmp_path / "vehicle", run / "held_out.csv"
    bundle = exported / "dist/fleet-1.axb"
    axlebox.ok("score", bundle, held_out, "-o", tmp_path / "scored.csv", cwd=exported)
    trust = exported / "trust/root.json"
    axleboxd.ok("provision", "--trust", trust, "--vehicle", "T1", "--hardware", "a", "--data", data)
    axleboxd.ok("install", bundle, "--yes", "--data", data)
    words = ["run", "--readings", "--sink", f"file:{tmp_path / 'out.jsonl'}", "--data", data]
    if source == "file":
        axleboxd.ok(*words, "--source", f"file:{held_out}")
    else:
        assert axleboxd(*words, input=held_out.read_text()).returncode == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    readings = [one for one in answers if one["type"] == "reading"]
    scored = pd.read_csv(tmp_path / "scored.csv")
    assert [one["score"] for one in readings] == scored["score"].tolist()
    assert [one["event"] or "" for one in readings] == scored["event"].fillna("").tolist()
    assert sum(one["type"] == "anomaly" and one["state"] == "raised" for one in answers) == scored["event"].nunique()
