"""`axlebox runs`, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.export.releases import ReleaseLine, append_release
from axlebox.export.run_list import list_rows, table
from axlebox.firmware_bundle.manifest import encode
from axlebox.training import champion
from axlebox.training.runs import Run
from axlebox.training.workspace import find_workspace
from tests.conftest import another_run


def latest(folder: Path) -> Path:
    return folder / "runs" / (folder / "runs/latest").read_text().strip()


def test_the_list_says_of_each_run_what_it_is(axlebox: Any, copied: Path) -> None:
    first, second = latest(copied), another_run(latest(copied), 1)
    champion.promote(find_workspace(copied), first.name, "")
    facts = json.loads((first / "run.json").read_text())
    record = json.loads(axlebox.ok("runs", "--json", cwd=copied))
    assert record["damaged"] == {} and [one["run"] for one in record["runs"]] == [first.name, second.name]
    one = record["runs"][0]
    evaluation = facts["evaluation"]
    assert one["created_by"] == facts["created_by"] and one["data"] == ["readings.csv"]
    assert one["readings"] == evaluation["train_readings"] + evaluation["test_readings"]
    assert one["events"] == evaluation["events"] and one["releases"] == ["fleet-1"]
    assert one["thresholds"] == {"temperature": evaluation["detectors"]["temperature"]["threshold"]}
    assert (one["role"], record["runs"][1]["role"]) == ("champion", "challenger")
    heading, *lines = axlebox.ok("runs", cwd=copied).splitlines()
    assert heading.split() == ["RUN", "CREATED", "BY", "DATA", "ROWS", "EVENTS", "CAUGHT", "THRESHOLD", "COMMIT"]
    assert [line.split()[0] for line in lines] == [first.name, second.name]
    assert lines[0].endswith("champion v1") and lines[1].endswith("challenger")


def test_the_list_fits_a_hundred_columns_whatever_the_names(copied: Path) -> None:
    (row, *_), _ = list_rows(find_workspace(copied))
    long = msgspec.structs.replace(
        row,
        created_by="somebody-with-a-long-name",
        data=tuple(["a-very-long-name-of-a-file-of-readings.csv"] * 120),
        readings=50_000_000_000,
        near_events=123_456,
        far_events=654_321,
        caught_share=1.0,
        thresholds={"a": 0.123456, "b": 0.5},
        commit="0123456789abcdef-dirty",
        role="challenger",
        releases=("fleet-999999998", "fleet-999999999"),
    )
    lines = table([row, long], {})
    assert max(map(len, lines)) <= 100 and "0123456*" in lines[2] and "50.0G" in lines[2]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0k"), (999_499, "999k"), (999_500, "1.0M"), (5e7, "50.0M")],
)
def test_large_counts_are_short(copied: Path, count: float, shown: str) -> None:
    (row, *_), _ = list_rows(find_workspace(copied))
    assert table([msgspec.structs.replace(row, readings=int(count))], {})[1].split()[4] == shown


@pytest.mark.parametrize("damage", [b"{", b"", b"\xff\xfe", b'{"lineage": 1}', "evaluation"])
def test_a_damaged_run_is_listed_as_damaged_and_the_others_as_ever(
    axlebox: Any, copied: Path, damage: bytes | str
) -> None:
    broken = another_run(latest(copied), 1)
    if isinstance(damage, str):  # a record of another shape
        record = msgspec.structs.replace(Run(broken).record(), evaluation={"detectors": [1]})
        damage = encode(record)
    (broken / "run.json").write_bytes(damage)
    lines = axlebox.ok("runs", cwd=copied).splitlines()
    assert len(lines) == 3 and lines[1].startswith(latest(copied).name)
    assert lines[2].startswith(f"{broken.name} DAMAGED: ")
    assert list(json.loads(axlebox.ok("runs", "--json", cwd=copied))["damaged"]) == [broken.name]


def test_a_workspace_without_runs_says_what_to_do(axlebox: Any, tmp_path: Path) -> None:
    axlebox.ok("init", tmp_path / "fleet")
    assert axlebox.ok("runs", cwd=tmp_path / "fleet") == "no runs yet. DO: axlebox train\n"


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("promote", "nothing"), 2, "there is no run nothing"),
        (("export", "nothing", "-o", "out"), 2, "there is no run nothing"),
        (("import", "nothing"), 2, "nothing"),
        (("import", "dist/fleet-1.axb"), 15, "no file of `axlebox runs export`"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_what_cannot_be_is_one_line(axlebox: Any, copied: Path, words: tuple[str, ...], code: int, named: str) -> None:
    done = axlebox("runs", *words, cwd=copied)
    assert done.returncode == code and named in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_person_promotes_and_the_runs_travel(axlebox: Any, copied: Path, tmp_path: Path) -> None:
    name = latest(copied).name
    assert f"champion {name}" in axlebox.ok("runs", "promote", name, "--reason", "first", cwd=copied)
    (line,) = (copied / "champions.jsonl").read_text().splitlines()
    assert json.loads(line)["run"] == name and json.loads(line)["reason"] == "first"
    axlebox.ok("runs", "export", name, "-o", tmp_path / "runs.tar", "--with-data", cwd=copied)
    axlebox.ok("init", tmp_path / "other")
    assert f"run {name} imported" in axlebox.ok("runs", "import", tmp_path / "runs.tar", cwd=tmp_path / "other")
    assert "was here already" in axlebox.ok("runs", "import", tmp_path / "runs.tar", cwd=tmp_path / "other")
    assert name in axlebox.ok("runs", cwd=tmp_path / "other")
    done = json.loads(axlebox.ok("runs", "reindex", "--json", cwd=tmp_path / "other"))
    assert (done["runs"], done["versions"]) == (1, 1)


def test_releases_of_a_run_are_all_in_the_list(copied: Path) -> None:
    workspace, name = find_workspace(copied), latest(copied).name
    line = json.loads((copied / "releases.jsonl").read_text())
    append_release(workspace.releases, msgspec.convert({**line, "version": 7}, ReleaseLine))
    rows, _ = list_rows(workspace)
    assert [row.releases for row in rows if row.run == name] == [("fleet-1", "fleet-7")]
    assert table(rows, {})[1].endswith("v7+")


@pytest.mark.parametrize("words", [("runs",), ("runs", "--json"), ("--help",), ("runs", "--help")])
def test_listing_loads_no_mlflow_and_no_other_heavy_package(
    axlebox: Any, exported: Path, words: tuple[str, ...]
) -> None:
    code = (
        "import sys, atexit\n"
        "from axlebox.export.cli import main\n"
        "heavy = ('mlflow', 'sklearn', 'kedro', 'sqlalchemy', 'plotly', 'onnx', 'onnxruntime', 'scipy')\n"
        "atexit.register(lambda: print('LOADED', [one for one in heavy if one in sys.modules]))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=exported,
        env=axlebox.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_indexing_opens_no_connection_looks_up_no_name_and_writes_nothing_at_home(copied: Path, tmp_path: Path) -> None:
    """By the interpreter's own audit events, so also where nothing may be traced; test_privacy traces system calls."""
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys\n"
        "told = []\n"
        "def audit(event, words):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'):\n"
        "        told.append((event, words[1:]))\n"
        "sys.addaudithook(audit)\n"
        "from axlebox.export.cli import main\n"
        "try: main()\n"
        "finally: print('TOLD', told)\n"
    )
    environment = {"HOME": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    for words in (("runs", "reindex"), ("runs", "promote", latest(copied).name), ("runs",)):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, cwd=copied, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "TOLD []" and done.stderr == "", done
    assert list(home.rglob("*")) == []
    assert not {"mlruns", "mlflow.db"} & {path.name for path in copied.iterdir()}
