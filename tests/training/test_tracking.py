"""MLflow as an index: what it shows is what the runs' folders say, and losing it loses nothing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import mlflow.onnx
import pytest
from mlflow.tracking import MlflowClient

from axlebox.firmware_bundle.errors import Damaged, UsageError
from axlebox.training import champion, tracking
from axlebox.training.parameters import Parameters, check
from axlebox.training.workspace import Workspace, find_workspace
from tests.conftest import another_run

PLAIN = check({"bundle": {"name": "fleet"}})
PASSWORD = "hunter2-never-to-be-seen"


@dataclass(frozen=True)
class Shown:
    """What MLflow shows of a workspace, without its random ids."""

    runs: dict[str, tuple[dict[str, str], dict[str, float], dict[str, str]]]
    aliases: dict[str, str]
    """RUN by alias."""
    versions: int


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow/mlflow.db'}"


def shown(uri: str) -> Shown:
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("fleet")
    found = client.search_runs([experiment.experiment_id])
    runs = {one.data.tags["axlebox.run"]: (one.data.params, one.data.metrics, one.data.tags) for one in found}
    assert len(runs) == len(found), "a run is there twice"
    assert all(one.info.status == "FINISHED" for one in found)
    versions = client.search_model_versions("name='fleet'")
    models = client.search_registered_models("name='fleet'")
    aliases = {
        str(alias): client.get_model_version_by_alias("fleet", alias).tags["axlebox.run"]
        for model in models
        for alias in model.aliases
    }
    return Shown(runs, aliases, len(versions))


def only_run(folder: Path) -> Path:
    return folder / "runs" / (folder / "runs/latest").read_text().strip()


@pytest.fixture
def workspace(copied: Path) -> Workspace:
    return find_workspace(copied)


def index(workspace: Workspace, **how: Any) -> None:
    with workspace.locked():
        tracking.record(workspace, how.pop("parameters", PLAIN), **how)


def test_training_and_export_leave_all_of_the_run_in_mlflow(exported: Path) -> None:
    run = only_run(exported)
    record = json.loads((run / "run.json").read_text())
    params, metrics, tags = shown(uri_of(exported)).runs[run.name]
    assert params["forest.n_estimators"] == "20" and params["threshold.target_false_alarms_per_day"] == "0.1"
    assert metrics["events"] == record["evaluation"]["events"] > 0
    assert metrics["temperature/threshold"] == record["evaluation"]["detectors"]["temperature"]["threshold"]
    assert metrics["parity/model/flags_differing"] == 0 and 0 <= metrics["caught_share"] <= 1
    data = hashlib.sha256((exported.parent / "readings.csv").read_bytes()).hexdigest()
    assert tags["axlebox.data.000"].startswith(f"{data} readings.csv")
    assert tags["axlebox.source_sha256"] == record["lineage"]["code"]["source_sha256"]
    assert tags["axlebox.library.scikit-learn"] == record["lineage"]["versions"]["scikit-learn"]
    assert tags["axlebox.commit"] == "none" and tags["mlflow.user"] == record["created_by"]


def test_the_files_of_a_run_are_in_mlflow_byte_by_byte(exported: Path, tmp_path: Path) -> None:
    client = MlflowClient(uri_of(exported))
    (found,) = client.search_runs([client.get_experiment_by_name("fleet").experiment_id])
    for name in ("run.json", "report.html", "parity.json", "detector.json", "model.onnx"):
        kept = Path(client.download_artifacts(found.info.run_id, name, str(tmp_path)))
        assert kept.read_bytes() == (only_run(exported) / name).read_bytes(), name
    created = datetime.fromisoformat(json.loads((only_run(exported) / "run.json").read_text())["created"])
    assert found.info.start_time == found.info.end_time == int(created.timestamp() * 1000)


def test_the_registered_model_is_the_proved_one(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(exported))
    model = mlflow.onnx.load_model("models:/fleet@challenger")
    assert model.SerializeToString() == (only_run(exported) / "model.onnx").read_bytes()


def test_the_newest_proved_run_is_the_challenger_of_the_champion(workspace: Workspace) -> None:
    first = only_run(workspace.root)
    second, third = another_run(first, 1), another_run(first, 2)
    (third / "parity.json").unlink()
    index(workspace)
    assert shown(uri_of(workspace.root)).aliases == {"challenger": second.name}
    champion.promote(workspace, second.name, "")
    index(workspace)
    assert shown(uri_of(workspace.root)).aliases == {"champion": second.name, "challenger": first.name}
    champion.promote(workspace, third.name, "")
    index(workspace)
    assert shown(uri_of(workspace.root)).aliases == {"challenger": second.name}


def test_indexing_again_adds_nothing_and_a_proof_is_added_to_its_run(workspace: Workspace) -> None:
    run = only_run(workspace.root)
    kept = {name: (run / name).read_bytes() for name in ("parity.json", "model.onnx")}
    for name in kept:
        (run / name).unlink()
    tracking.reindex(workspace, PLAIN)
    unproved = shown(uri_of(workspace.root))
    assert unproved.versions == 0 and not any(name.startswith("parity/") for name in unproved.runs[run.name][1])
    for name, data in kept.items():
        (run / name).write_bytes(data)
    for _ in range(2):
        index(workspace, run=tracking.Run(run))
        proved = shown(uri_of(workspace.root))
        assert proved.versions == 1 and proved.runs[run.name][1]["parity/model/flags_differing"] == 0
        assert len(proved.runs) == 1


def test_an_index_made_anew_shows_the_same(workspace: Workspace) -> None:
    another_run(only_run(workspace.root), 1)
    champion.promote(workspace, only_run(workspace.root).name, "")
    index(workspace)
    before = shown(uri_of(workspace.root))
    shutil.rmtree(workspace.mlflow)
    done = tracking.reindex(workspace, PLAIN)
    assert (done.runs, done.versions, done.unreadable, done.set_aside) == (2, 2, (), None)
    assert shown(uri_of(workspace.root)) == before
    assert sorted(path.name for path in workspace.mlflow.iterdir()) == ["artifacts", "mlflow.db"]


def test_a_workspace_that_was_moved_is_indexed_anew(
    exported: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`copied` is a copy of another folder: its store names that folder's files."""
    before = set((exported / "mlflow").rglob("*"))
    index(workspace)
    client = MlflowClient(uri_of(workspace.root))
    experiment = client.get_experiment_by_name("fleet")
    assert experiment.artifact_location.startswith(workspace.root.as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(workspace.root))
    assert mlflow.onnx.load_model("models:/fleet@challenger").graph
    assert set((exported / "mlflow").rglob("*")) == before


@pytest.mark.parametrize("name", ["fleet of 100% ü", "a#b", "a+b&c=d;e'f"])
def test_a_workspace_may_lie_in_a_folder_of_any_name(copied: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied.parent / name / "fleet"
    shutil.copytree(copied, folder)
    index(find_workspace(folder))
    assert (folder / "mlflow/mlflow.db").is_file()
    assert list(shown(uri_of(folder)).runs) == [only_run(folder).name]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(folder))
    assert mlflow.onnx.load_model("models:/fleet@challenger").graph


def test_a_folder_that_sqlalchemy_would_misread_is_refused_before_a_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rename that folder"):
        tracking.check_index(Workspace(tmp_path / "what?" / "fleet"), PLAIN)


def test_a_store_of_another_layout_is_made_anew(workspace: Workspace) -> None:
    """Changed before this process opens it: MLflow looks at a store's layout once."""
    with contextlib.closing(sqlite3.connect(workspace.mlflow / "mlflow.db")) as store:
        store.execute("UPDATE alembic_version SET version_num = 'of-another-time'")
        store.commit()
    index(workspace)
    assert len(shown(uri_of(workspace.root)).runs) == 1


def test_what_was_deleted_on_the_page_comes_back_and_another_name_is_another_experiment(workspace: Workspace) -> None:
    index(workspace)
    client = MlflowClient(uri_of(workspace.root))
    experiment = client.get_experiment_by_name("fleet").experiment_id
    client.delete_run(client.search_runs([experiment])[0].info.run_id)
    index(workspace)
    assert len(shown(uri_of(workspace.root)).runs) == 1
    client.delete_experiment(experiment)
    index(workspace, parameters=check({"bundle": {"name": "other"}}))
    index(workspace)
    assert len(shown(uri_of(workspace.root)).runs) == 1
    other = client.get_experiment_by_name("other").experiment_id
    assert len(client.search_runs([other])) == 1 and len(client.search_model_versions("name='other'")) == 1


def test_an_unreadable_run_is_left_out_by_name(workspace: Workspace) -> None:
    broken = another_run(only_run(workspace.root), 1)
    (broken / "run.json").write_text("{")
    done = tracking.reindex(workspace, PLAIN)
    assert (done.runs, done.unreadable) == (1, (broken.name,))


def test_a_damaged_store_stops_a_training_before_it_begins_and_reindex_mends_it(axlebox: Any, copied: Path) -> None:
    (copied / "mlflow/mlflow.db").write_bytes(b"noise" * 1000)
    before = sorted(path.name for path in (copied / "runs").iterdir())
    done = axlebox("train", "--params", "forest.n_estimators=10", cwd=copied)
    assert done.returncode == 12 and "DO: axlebox runs reindex" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and sorted(path.name for path in (copied / "runs").iterdir()) == before
    assert "mlflow.db.damaged" in axlebox.ok("runs", "reindex", cwd=copied)
    assert (copied / "mlflow/mlflow.db.damaged").read_bytes() == b"noise" * 1000
    axlebox.ok("train", "--params", "forest.n_estimators=10", cwd=copied)
    assert len(shown(uri_of(copied)).runs) == 2


@pytest.mark.parametrize("damage", ["cut in half", "a page of zeros", "a folder"])
def test_a_store_that_sqlite_cannot_read_is_damaged(workspace: Workspace, damage: str) -> None:
    database = workspace.mlflow / "mlflow.db"
    if damage == "cut in half":
        os.truncate(database, database.stat().st_size // 2)
    elif damage == "a page of zeros":
        with open(database, "r+b") as file:
            file.seek(5 * 4096)
            file.write(bytes(4096))
    else:
        database.unlink()
        database.mkdir()
    with pytest.raises(Damaged, match="DO: axlebox runs reindex"):
        tracking.check_index(workspace, PLAIN)
    assert tracking.reindex(workspace, PLAIN).set_aside == database.with_name("mlflow.db.damaged")
    tracking.check_index(workspace, PLAIN)


def test_a_store_of_no_bytes_is_made_anew(workspace: Workspace) -> None:
    """What a program leaves that was killed right after it made the file."""
    (workspace.mlflow / "mlflow.db").write_bytes(b"")
    index(workspace)
    assert len(shown(uri_of(workspace.root)).runs) == 1


@pytest.mark.parametrize(
    ("point", "anew"),
    [
        ("MlflowClient.create_experiment", True),
        ("MlflowClient.log_batch", True),
        ("MlflowClient.create_model_version", True),
        ("disk.rename_durable", True),
        ("MlflowClient.create_run", False),
        ("MlflowClient.set_terminated", False),
        ("MlflowClient.log_artifacts", False),
        ("MlflowClient.set_registered_model_alias", False),
    ],
)
def test_killed_at_any_point_the_next_one_goes_on(axlebox: Any, workspace: Workspace, point: str, anew: bool) -> None:
    """`anew`: while the store is made (`copied` is a moved workspace); else while a run is added to it."""
    if not anew:
        index(workspace)
    another_run(only_run(workspace.root), 1)
    code = (
        "import os, signal, pathlib\n"
        "from mlflow.tracking import MlflowClient\n"
        "from axlebox.firmware_bundle import disk\n"
        "from axlebox.training import parameters, tracking, workspace\n"
        f"{point} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "found = workspace.find_workspace(pathlib.Path.cwd())\n"
        "with found.locked():\n"
        "    tracking.record(found, parameters.check({'bundle': {'name': 'fleet'}}))\n"
    )
    command = [sys.executable, "-c", code]
    killed = subprocess.run(command, cwd=workspace.root, env=axlebox.environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    index(workspace)
    after = shown(uri_of(workspace.root))
    assert len(after.runs) == 2 and after.versions == 2 and "challenger" in after.aliases
    assert not list(workspace.root.rglob("*.part*"))


def test_a_training_that_is_killed_while_it_indexes_is_a_run_and_the_next_training_indexes_it(
    axlebox: Any, copied: Path
) -> None:
    killer = (
        "import os, signal\n"
        "from mlflow.tracking import MlflowClient\n"
        "MlflowClient.log_artifact = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from axlebox.export.cli import main; main()\n"
    )
    command = [sys.executable, "-c", killer, "train", "--params", "forest.n_estimators=10"]
    killed = subprocess.run(command, cwd=copied, env=axlebox.environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    first = only_run(copied).name
    axlebox.ok("train", "--params", "forest.n_estimators=12", cwd=copied)
    assert {first, only_run(copied).name} < set(shown(uri_of(copied)).runs) and len(shown(uri_of(copied)).runs) == 3


def test_a_full_disk_while_indexing_is_one_line_after_the_result_and_loses_nothing(axlebox: Any, copied: Path) -> None:
    axlebox.ok("runs", "reindex", cwd=copied)
    with contextlib.closing(sqlite3.connect(copied / "mlflow/mlflow.db")) as store:  # grown beyond what files may have
        store.execute("CREATE TABLE padding AS SELECT zeroblob(25000000) AS bytes")
        store.commit()
    most = 20_000_000
    limited = axlebox(
        *("train", "--params", "forest.n_estimators=10", "--json"),
        cwd=copied,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert limited.returncode == 30, limited.stderr
    assert len(limited.stderr.splitlines()) == 1 and "axlebox runs reindex" in limited.stderr, limited.stderr
    run = json.loads(limited.stdout)["run"]
    assert run == only_run(copied).name
    index(find_workspace(copied))
    assert run in shown(uri_of(copied)).runs


@pytest.mark.parametrize("place", ["log_artifact", "log_artifacts", "create_model_version"])
def test_a_disk_that_refuses_leaves_the_earlier_index(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    index(workspace)
    before = shown(uri_of(workspace.root))
    files = sorted(workspace.mlflow.rglob("*"))

    def refuse(*words: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, place, refuse)
        with pytest.raises(tracking.NotIndexed, match="somewhere: No space left on device"):
            tracking.reindex(workspace, PLAIN)
    assert shown(uri_of(workspace.root)) == before and sorted(workspace.mlflow.rglob("*")) == files


def test_a_throw_away_workspace_is_not_indexed(workspace: Workspace) -> None:
    shutil.rmtree(workspace.mlflow)
    with tracking.paused():
        index(workspace)
    assert not workspace.mlflow.exists()
    index(workspace)
    assert workspace.mlflow.exists()


def test_a_damaged_champions_file_leaves_the_run_recorded(axlebox: Any, copied: Path) -> None:
    (copied / "champions.jsonl").write_text("{}\n")
    done = axlebox("train", "--params", "forest.n_estimators=10", cwd=copied)
    assert done.returncode == 30 and "champions.jsonl" in done.stderr and len(done.stderr.splitlines()) == 1
    assert "forest.n_estimators" not in done.stderr and f"run {only_run(copied).name}" in done.stdout


def test_the_log_of_the_process_is_as_before(workspace: Workspace) -> None:
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic", "sqlalchemy", "urllib3")}
    handlers = list(logging.getLogger().handlers)
    index(workspace)
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert list(logging.getLogger().handlers) == handlers


# -- a server --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    uri: str

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.uri}{path}", data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serve(folder: Path, *words: str) -> Iterator[Server]:
    """An `mlflow server` of its own on loopback, until it answers; its whole process group ends with the context."""
    pytest.importorskip("mlflow.server", reason="the extra ui (the full mlflow) is not installed")
    port = free_port()
    folder.mkdir(exist_ok=True)
    environment = {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None, (folder / "server.log").read_text()
            with contextlib.suppress(OSError), urlopen(f"{uri}/health", timeout=5):
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        yield Server(uri)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def remote(uri: str) -> Parameters:
    return check({"bundle": {"name": "fleet"}, "tracking": {"uri": uri}})


def test_a_remote_server_gets_runs_files_models_and_aliases(
    axlebox: Any, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_folder = tmp_path / "server"
    words = ("--backend-store-uri", f"sqlite:///{server_folder}/s.db", "--artifacts-destination", f"{server_folder}/a")
    with serve(server_folder, "server", *words) as server:
        shutil.rmtree(workspace.mlflow)
        local = workspace.root / "conf/local/parameters.yml"
        local.write_text(f"tracking:\n  uri: {server.uri}\n")
        axlebox.ok("train", "--params", "forest.n_estimators=10", cwd=workspace.root)
        first, second = sorted(path.parent.name for path in workspace.runs.glob("*/run.json"))
        axlebox.ok("runs", "promote", only_run(workspace.root).name, cwd=workspace.root)
        proved = second if only_run(workspace.root).name == first else first
        there = shown(server.uri)
        assert set(there.runs) == {first, second} and there.aliases == {"challenger": proved}
        tracking.reindex(workspace, remote(server.uri))
        assert shown(server.uri) == there and not workspace.mlflow.exists()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        model = mlflow.onnx.load_model("models:/fleet@challenger")
        assert model.SerializeToString() == (workspace.runs / proved / "model.onnx").read_bytes()
        assert [path for path in workspace.root.rglob("*") if path.name in ("mlruns", "mlartifacts")] == []


def test_the_page_of_mlflow_shows_the_workspace_s_own_store(exported: Path, tmp_path: Path) -> None:
    """As docs/tracking.md starts it; its page is fetched, and the run through the interface that the page uses."""
    store = tmp_path / "copy.db"
    shutil.copy(exported / "mlflow/mlflow.db", store)  # a server may write into its store
    with serve(tmp_path / "ui", "ui", "--backend-store-uri", f"sqlite:///{store}") as server:
        found = server.get("/api/2.0/mlflow/experiments/get-by-name?experiment_name=fleet")
        wanted = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        (run,) = server.get("/api/2.0/mlflow/runs/search", wanted)["runs"]
        assert run["info"]["run_name"] == only_run(exported).name
        with urlopen(f"{server.uri}/get-artifact?path=run.json&run_uuid={run['info']['run_id']}", timeout=20) as answer:
            assert answer.read() == (only_run(exported) / "run.json").read_bytes()
        with urlopen(server.uri, timeout=20) as answer:
            assert b"<html" in answer.read().lower()


def test_a_server_that_is_not_there_is_one_line_and_the_run_is_recorded(axlebox: Any, copied: Path) -> None:
    (copied / "conf/local/parameters.yml").write_text(f"tracking:\n  uri: http://127.0.0.1:{free_port()}\n")
    done = axlebox("train", "--params", "forest.n_estimators=10", cwd=copied)
    assert done.returncode == 30 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "axlebox runs reindex" in done.stderr and f"run {only_run(copied).name}" in done.stdout


@pytest.mark.parametrize(
    "uri",
    [
        f"http://ann:{PASSWORD}@127.0.0.1:5000",
        f"http://{PASSWORD}@127.0.0.1:5000",
        f"https://127.0.0.1/?token={PASSWORD}",
        f"postgresql://ann:{PASSWORD}@127.0.0.1/db",
        f"http://[{PASSWORD}",
        f"ftp://127.0.0.1/{PASSWORD}",
    ],
)
def test_a_uri_with_a_secret_is_refused_without_telling_it(uri: str) -> None:
    with pytest.raises(UsageError, match=r"tracking\.uri") as refused:
        remote(uri)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("way", ["conf/local", "--params"])
def test_a_password_in_the_settings_comes_to_lie_nowhere_else(axlebox: Any, copied: Path, way: str) -> None:
    uri = f"http://ann:{PASSWORD}@127.0.0.1:5000"
    words = ("train", "--params", f"tracking.uri={uri}") if way == "--params" else ("train",)
    local = copied / "conf/local/parameters.yml"
    if way == "conf/local":
        local.write_text(f"tracking:\n  uri: {uri}\n")
    done = axlebox(*words, cwd=copied)
    assert done.returncode == 2 and PASSWORD not in done.stdout + done.stderr and len(done.stderr.splitlines()) == 1
    holders = [path for path in copied.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert holders == ([local] if way == "conf/local" else [])


def test_the_password_of_mlflow_s_own_variables_is_in_no_message_and_no_file(axlebox: Any, copied: Path) -> None:
    (copied / "conf/local/parameters.yml").write_text(f"tracking:\n  uri: http://127.0.0.1:{free_port()}\n")
    secret = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    done = type(axlebox)(axlebox.command, {**axlebox.environment, **secret})("runs", "reindex", cwd=copied)
    assert done.returncode == 30 and PASSWORD not in done.stdout + done.stderr
    assert not [path for path in copied.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def test_a_damaged_store_is_found_without_loading_mlflow(copied: Path) -> None:
    (copied / "mlflow/mlflow.db").write_bytes(b"x" * 100)
    code = (
        "import sys, pathlib\n"
        "from axlebox.training import parameters, tracking, workspace\n"
        "plain = parameters.check({'bundle': {'name': 'fleet'}})\n"
        "try: tracking.check_index(workspace.find_workspace(pathlib.Path.cwd()), plain)\n"
        "except tracking.Damaged as error: print(error, 'mlflow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=copied, capture_output=True, text=True, check=True)
    assert "mlflow.db is not readable" in done.stdout and done.stdout.rstrip().endswith("False")


def test_a_journal_of_a_store_that_is_gone_is_not_played_into_the_new_one(workspace: Workspace) -> None:
    (workspace.mlflow / "mlflow.db").unlink()
    left = [workspace.mlflow / f"mlflow.db{suffix}" for suffix in ("-journal", "-wal", "-shm")]
    for path in left:
        path.write_bytes(b"left behind")
    index(workspace)
    assert not [path for path in left if path.exists()] and len(shown(uri_of(workspace.root)).runs) == 1
