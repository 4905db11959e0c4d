"""docs/pipelines.md, step by step: a pipeline and a feature set of one's own, from an empty folder to the vehicle."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.ensemble import IsolationForest

from axlebox.training.pipeline_registry import register_pipelines
from axlebox.training.runs import open_run

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs/pipelines.md").read_text()
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
TREES = 20
FILE = re.compile(r"`([\w./-]+\.(?:py|yml|toml))`")


class Reader:
    """Somebody who does what the page says, in an empty folder, as far as the words allow."""

    def __init__(self, folder: Path, axlebox: Any, axleboxd: Any) -> None:
        kind = type(axlebox)
        self.folder = self.cwd = folder
        self.box = folder / "box"
        """Where the box's packages are: pip's place is not changed by a test."""
        self.variables: dict[str, str] = {}
        script = Path(sys.executable).parent / "kedro"
        self.programs = {
            "axlebox": axlebox,
            "kedro": kind((str(script),), axlebox.environment),
            "python": kind((sys.executable,), axlebox.environment),
            "axleboxd": axleboxd,
        }
        self.said: dict[str, str] = {}

    def read(self) -> Iterator[tuple[str, str]]:
        """Every block that is not a command becomes a file; yields the commands with the code they end with."""
        for block in BLOCK.finditer(PAGE):
            if block["language"] == "sh":
                for line in block["text"].splitlines():
                    command, _, comment = line.partition("#")
                    code = re.match(r" (\d+):", comment)
                    yield command.strip(), code[1] if code else "0"
            else:
                before = PAGE[: block.start()].rstrip().rpartition("\n\n")[2]
                path = self.cwd / FILE.findall(before)[-1]
                if path.suffix == ".toml":
                    (table,) = re.findall(r"`(\[.*\])`", before)
                    text = path.read_text()
                    assert text.count(table) == 1
                    path.write_text(text.replace(table, f"{table}\n{block['text'].rstrip()}"))
                else:
                    path.write_text(block["text"])

    def do(self, command: str, code: str) -> None:
        for name, value in {"$PWD": str(self.cwd), "$(cat runs/latest)": self.latest()}.items():
            command = command.replace(name, value)
        program, *words = shlex.split(command)
        if program == "cd":
            self.cwd = self.cwd / words[0]
            settings = self.cwd / "conf/base/parameters.yml"  # fewer trees are proved in less time
            settings.write_text(settings.read_text().replace("n_estimators: 100", f"n_estimators: {TREES}"))
        elif program == "export":
            name, _, value = words[0].partition("=")
            self.variables[name] = value
        elif words[:3] == ["-m", "pip", "install"]:
            zipfile.ZipFile(self.cwd / words[-1]).extractall(self.box)  # which is what pip does with such a wheel
        else:
            done = self.run(program, *words)
            assert done.returncode == int(code), (command, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr, (command, done.stderr)
            self.said[command] = done.stdout + done.stderr

    def run(self, program: str, *words: object, **how: Any) -> Any:
        """Run one of the programs here, the vehicle's with the box's packages."""
        known = self.programs[program]
        environment = {**known.environment, **self.variables}
        if program == "axleboxd":
            paths = [known.environment.get("PYTHONPATH", ""), str(self.box)]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return type(known)(known.command, environment)(*words, cwd=self.cwd, **how)

    def latest(self) -> str:
        path = self.cwd / "runs/latest"
        return path.read_text().strip() if path.exists() else ""


def test_every_step_of_the_page_does_what_it_says(axlebox: Any, axleboxd: Any, tmp_path: Path) -> None:
    reader = Reader(tmp_path, axlebox, axleboxd)
    for command, code in reader.read():
        reader.do(command, code)
    fleet, said = tmp_path / "fleet", reader.said
    assert {"- weekly", "- __default__", "- metrics"} <= set(said["kedro registry list"].splitlines())
    raw = pd.read_csv(tmp_path / "readings.csv")
    assert_highs(json.loads((fleet / "data/08_reporting/weekly_highs.json").read_text()), raw)
    assert "1 passed" in said["python -m pytest"]
    assert_run(fleet, raw)
    assert_vehicle(reader, raw)
    assert_package(reader)
    assert list(Path(axlebox.environment["HOME"]).rglob("*")) == []


def assert_highs(highs: list[dict[str, Any]], raw: pd.DataFrame) -> None:
    assert {(one["sensor"], one["highest"]) for one in highs} >= set(raw.groupby("sensor")["value"].max().items())
    assert all(one["from"] % (7 * 86400) == 0 for one in highs)


def rows_of(part: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Value and change in an hour, by pandas; NaN for the first reading of each sensor."""
    times = pd.to_datetime(part["time"]).map(lambda one: one.timestamp())
    steps = part["value"].groupby(part["sensor"]).diff() / times.groupby(part["sensor"]).diff() * 3600
    return np.stack([part["value"], steps], axis=1)


def parts_of(raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    cut = np.sort(raw["time"].to_numpy())[int(len(raw) * 0.8)]
    return raw[raw["time"] < cut], raw[raw["time"] >= cut]


def assert_run(fleet: Path, raw: pd.DataFrame) -> None:
    """The forest was trained on rows that pandas makes as well, without the first reading of each sensor."""
    run = open_run(fleet / "runs", None)
    expected = rows_of(parts_of(raw)[0])
    expected = expected[~np.isnan(expected[:, 1])]
    assert np.array_equal(run.rows()["model.onnx"], expected.astype(np.float32))
    (spec,) = run.detector().detectors
    assert (spec.features.name, spec.features.version, spec.warmup, spec.events) == ("rate", 1, 1, None)
    assert (run.folder / "parity.json").exists()


def assert_vehicle(reader: Reader, raw: pd.DataFrame) -> None:
    """Refused without the package; with it, flags are scikit-learn's, and two starts give the answers of one."""
    refused = next(text for command, text in reader.said.items() if command.startswith("axleboxd verify"))
    assert "needs feature set rate 1" in refused and "install the package that brings the set" in refused
    train, test = (rows_of(part) for part in parts_of(raw))
    forest = IsolationForest(n_estimators=TREES, random_state=69, bootstrap=True, contamination=0.05)
    forest.fit(train[~np.isnan(train[:, 1])].astype(np.float32))
    known = ~np.isnan(test[:, 1])
    flags = forest.predict(np.nan_to_num(test).astype(np.float32)) == -1
    answers = answers_of(reader, "once", [None])
    assert [one["flag"] for one in answers] == (flags & known).tolist() and flags[known].any()
    assert [one["status"] for one in answers] == ["ok" if one else "warming" for one in known]
    assert answers_of(reader, "twice", [len(answers) // 2, None]) == answers


def answers_of(reader: Reader, name: str, ends: list[int | None]) -> list[dict[str, Any]]:
    """What a box of its own answers to the held-out readings, its daemon being started anew at each of `ends`."""
    reader.variables["AXLEBOX_DATA"] = str(reader.folder / name)
    for words in (
        ("provision", "--trust", "trust/root.json", "--vehicle", name, "--hardware", "a"),
        ("install", "dist/fleet-1.axb", "--yes"),
    ):
        assert reader.run("axleboxd", *words).returncode == 0
    lines = (reader.cwd / "runs" / reader.latest() / "held_out.csv").read_text().splitlines(keepends=True)[1:]
    answers, start = [], 0
    for end in ends:
        done = reader.run("axleboxd", "run", "--readings", input="".join(lines[start:end]))
        assert done.returncode == 0, done.stderr
        answers += [json.loads(line) for line in done.stdout.splitlines()]
        start = end or 0
    readings = [one for one in answers if one["type"] == "reading"]
    return [{name: one[name] for name in ("time", "sensor", "score", "flag", "status")} for one in readings]


def assert_package(reader: Reader) -> None:
    """axlebox's hooks are at work. The wheel needs nothing of the workstation; deleted modules do not come back."""
    refused = reader.run("kedro", "run", "--params=contamination_facter=1")
    assert refused.returncode == 2 and "did you mean contamination_factor?" in refused.stderr
    (wheel,) = (reader.cwd / "dist").glob("*.whl")
    about = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    needs = re.findall(r"^Requires-Dist: (.*)$", zipfile.ZipFile(wheel).read(about).decode(), re.M)
    assert [one for one in needs if "extra" not in one] == ["axlebox"]
    assert not list((reader.cwd / "src").glob("*.egg-info"))
    assert reader.run("kedro", "pipeline", "delete", "weekly", "--yes").returncode == 0
    told = reader.run("axlebox", "train")  # the registry still names it
    assert told.returncode == 2 and len(told.stderr.splitlines()) == 1
    assert "fleet/pipeline_registry.py, line 9: KeyError: 'weekly'. DO: correct it" in told.stderr
    assert reader.run("kedro", "package").returncode == 0
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "weekly" in name]


def test_the_picture_shows_the_pipelines_as_they_are() -> None:
    """`python scripts/draw_pipelines.py` draws it anew."""
    whole = register_pipelines()["__default__"]
    path = REPOSITORY / "docs/pictures/pipelines.png"
    with Image.open(path) as picture:
        shown = set(picture.info["shows"].split())
    assert shown == {node.name for node in whole.nodes} | (whole.datasets() - {"parameters"})
    assert path.stat().st_size < 200_000
