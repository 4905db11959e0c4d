"""`axlebox train` and the Kedro commands, as a user calls them in a workspace."""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import skops.io
from sklearn.cluster import KMeans

from axlebox.firmware_bundle.errors import Damaged
from axlebox.training.pipeline_registry import register_pipelines
from axlebox.training.runs import Run, load_forests, open_run


@pytest.fixture(scope="module")
def kedro(tmp_path_factory: pytest.TempPathFactory, axlebox: Any) -> Any:
    """The `kedro` program, by its path and without an activated environment."""
    script = Path(sys.executable).parent / "kedro"
    return type(axlebox)((str(script),), axlebox.environment)


def latest(folder: Path) -> Run:
    return open_run(folder / "runs", None)


def test_the_same_inputs_make_the_same_run_and_a_parameter_another(axlebox: Any, copied: Path) -> None:
    first = latest(copied).folder.name
    report = (latest(copied).folder / "report.html").stat().st_mtime_ns
    axlebox.ok("train", "--params", "forest.n_estimators=20", cwd=copied)
    assert latest(copied).folder.name == first
    assert (latest(copied).folder / "report.html").stat().st_mtime_ns == report
    axlebox.ok("train", "--params", "forest.n_estimators=20,contamination_factor=0.01", cwd=copied)
    assert latest(copied).folder.name != first
    assert latest(copied).record().lineage.parameters["contamination_factor"] == 0.01


def test_a_run_that_lost_a_file_is_written_again(axlebox: Any, copied: Path) -> None:
    (latest(copied).folder / "forest.skops").unlink()
    axlebox.ok("train", "--params", "forest.n_estimators=20", cwd=copied)
    assert latest(copied).forests()["model.onnx"].n_estimators == 20


def test_kedro_run_is_the_same_run_as_axlebox_train(kedro: Any, copied: Path) -> None:
    first = latest(copied).folder.name
    evaluation, events = latest(copied).record().evaluation, latest(copied).events()
    shutil.rmtree(copied / "runs" / first)
    shutil.rmtree(copied / "mlflow")
    kedro.ok("run", "--params", "forest.n_estimators=20", cwd=copied)
    assert latest(copied).folder.name == first
    assert (latest(copied).record().evaluation, latest(copied).events()) == (evaluation, events)
    (indexed,) = (copied / "mlflow/artifacts").rglob("run.json")
    assert indexed.read_bytes() == (latest(copied).folder / "run.json").read_bytes()


def test_a_run_records_what_it_was_made_of(exported: Path) -> None:
    record = latest(exported).record()
    (data,) = record.lineage.data
    assert (exported / "data/01_raw" / f"{data.sha256}.csv").is_file()
    assert record.lineage.parameters["forest"]["n_estimators"] == 20
    assert {"scikit-learn", "onnxruntime", "kedro"} <= set(record.lineage.versions)
    assert record.evaluation["train_readings"] + record.evaluation["test_readings"] == data.rows - data.invalid


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "--nodes=node_train_test_split"),
        ("run", "--pipelines=data_engineering"),
        ("run", "--params=contamination_factor=0.02"),
        ("catalog", "describe-datasets"),
        ("registry", "list"),
    ],
)
def test_kedro_s_own_commands_work_in_a_workspace(kedro: Any, copied: Path, words: tuple[str, ...]) -> None:
    done = kedro(*words, cwd=copied)
    assert done.returncode == 0, done.stderr
    if words[0] == "registry":
        assert {"pre_processing", "data_engineering", "data_science", "metrics", "__default__"} <= {
            line.removeprefix("- ") for line in done.stdout.splitlines()
        }
    if words[0] == "catalog":
        assert "temperature_database" in done.stdout


def test_kedro_run_works_right_after_ingest(axlebox: Any, kedro: Any, tmp_path: Path, exported: Path) -> None:
    axlebox.ok("init", tmp_path / "fleet")
    axlebox.ok("ingest", exported.parent / "readings.csv", cwd=tmp_path / "fleet")
    too_early = kedro("run", "--nodes=node_train_test_split", cwd=tmp_path / "fleet")
    assert too_early.returncode != 0 and "DO: kedro run" in too_early.stderr and "Traceback" not in too_early.stderr
    kedro.ok("run", "--pipelines=pre_processing", cwd=tmp_path / "fleet")
    kedro.ok("run", "--nodes=node_train_test_split", cwd=tmp_path / "fleet")


def test_kedro_ipython_has_the_workspace_s_objects(kedro: Any, copied: Path) -> None:
    done = kedro("ipython", cwd=copied, input="print('rows', len(catalog.load('test_readings')))\nexit\n")
    assert done.returncode == 0, done.stderr
    assert f"rows {latest(copied).record().evaluation['test_readings']}" in done.stdout


def test_kedro_package_makes_a_wheel_and_the_configuration(kedro: Any, copied: Path) -> None:
    (copied / "conf/local/credentials.yml").write_text("secret: 1\n")
    kedro.ok("package", cwd=copied)
    (wheel,) = (copied / "dist").glob("*.whl")
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA"))
    assert "axlebox[workstation]" in zipfile.ZipFile(wheel).read(metadata).decode()
    (archive,) = (copied / "dist").glob("conf-*.tar.gz")
    listed = subprocess.run(["tar", "tzf", archive], capture_output=True, text=True, check=True).stdout
    assert "conf/base/parameters.yml" in listed and "credentials" not in listed


def test_kedro_pipeline_create_in_a_workspace_without_a_package_is_refused(
    kedro: Any, axlebox: Any, tmp_path: Path
) -> None:
    """It would report success, and nothing would ever find the pipeline."""
    axlebox.ok("init", tmp_path / "fleet")
    before = sorted((tmp_path / "fleet").rglob("*"))
    done = kedro("pipeline", "create", "weekly", cwd=tmp_path / "fleet")
    assert done.returncode == 2 and "DO: axlebox init DIR --with-pipelines" in done.stderr
    assert sorted((tmp_path / "fleet").rglob("*")) == before


def test_kedro_viz_builds_a_page_with_all_pipelines_and_trains_nothing(kedro: Any, copied: Path) -> None:
    pytest.importorskip("kedro_viz", reason="the extra ui is not installed")
    before = sorted(copied.glob("runs/*")), (copied / "data/08_reporting/evaluation.json").stat().st_mtime_ns
    kedro.ok("viz", "build", cwd=copied)
    assert before == (sorted(copied.glob("runs/*")), (copied / "data/08_reporting/evaluation.json").stat().st_mtime_ns)
    shown = json.loads((copied / "build/api/main").read_text())
    assert {"pre_processing", "data_engineering", "data_science", "metrics"} <= {
        one["id"] for one in shown["pipelines"]
    }
    whole = register_pipelines()["__default__"]
    page = rendered(copied / "build", copied.parent)
    assert [node.name for node in whole.nodes if f">{node.name}<" not in page] == []
    assert [name for name in whole.datasets() - {"parameters"} if f">{name}<" not in page] == []


def rendered(site: Path, scratch: Path) -> str:
    """A page's document as a browser shows it, served on this machine alone; chromium is Debian's package."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the page was built; chromium, which would show it, is not installed")
    handler = functools.partial(_Quiet, directory=os.fspath(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the page asks for a font
            *(f"--user-data-dir={scratch / 'browser'}", "--virtual-time-budget=20000", "--dump-dom"),
            f"http://127.0.0.1:{server.server_port}/",
        ]
        environment = {"HOME": os.fspath(scratch), "PATH": os.environ["PATH"]}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
        server.shutdown()
    return done.stdout


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def test_kedro_s_commands_leave_nothing_in_the_home_folder(kedro: Any, copied: Path) -> None:
    pytest.importorskip("kedro_viz", reason="the extra ui is not installed")
    home = copied.parent / "clean-home"
    home.mkdir()
    (copied / ".telemetry").unlink()  # even where somebody removed it
    clean = type(kedro)(kedro.command, {**kedro.environment, "HOME": str(home)})
    for words in (("registry", "list"), ("run", "--nodes=node_train_test_split"), ("viz", "build")):
        clean.ok(*words, cwd=copied)
    clean("ipython", cwd=copied, input="exit\n")
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []


def test_scratch_of_another_run_is_never_recorded_under_this_run_s_settings(kedro: Any, copied: Path) -> None:
    before = sorted(path.name for path in (copied / "runs").iterdir())
    kedro.ok("run", "--pipelines=metrics", "--params=contamination_factor=0.3", cwd=copied)
    done = kedro("run", "--pipelines=metrics,record", "--params=contamination_factor=0.3", cwd=copied)
    assert done.returncode == 2 and "DO: kedro run" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in (copied / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("parameters.yml", "forest: [", "parameters"),
        ("parameters.yml", None, "parameters"),
        ("contract.yml", "kinds: {temperature: {warm: 1}}", "contract.yml"),
        ("contract.yml", "kinds: 2022-13-45", "contract.yml"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line(
    axlebox: Any, copied: Path, file: str, content: str | None, named: str
) -> None:
    path = copied / "conf/base" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    done = axlebox("train", cwd=copied)
    assert done.returncode in (2, 15), done.stderr
    assert named in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--params", "contamination_facter=1"), 2, "contamination_facter"),
        (("--params", "contamination_factor=2"), 2, "contamination_factor"),
        (("--params", "nonsense"), 2, "key=value"),
    ],
)
def test_a_wrong_parameter_stops_the_training_before_it_begins(
    axlebox: Any, copied: Path, words: tuple[str, ...], code: int, named: str
) -> None:
    before = sorted(path.name for path in (copied / "runs").iterdir())
    done = axlebox("train", *words, cwd=copied)
    assert done.returncode == code and named in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(path.name for path in (copied / "runs").iterdir()) == before


def test_training_without_readings_says_what_to_do(axlebox: Any, tmp_path: Path) -> None:
    axlebox.ok("init", tmp_path / "fleet")
    done = axlebox("train", cwd=tmp_path / "fleet")
    assert done.returncode == 2 and "DO: axlebox ingest" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_second_training_at_the_same_time_is_refused(axlebox: Any, kedro: Any, copied: Path) -> None:
    with (copied / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ours = axlebox("train", cwd=copied)
        kedros = kedro("run", cwd=copied)
    assert ours.returncode == 20 and "another axlebox or kedro run" in ours.stderr
    assert kedros.returncode == 20 and "another axlebox or kedro run" in kedros.stderr


def test_a_killed_training_leaves_no_run_under_its_final_name_and_the_next_one_succeeds(
    axlebox: Any, copied: Path
) -> None:
    """Killed from inside, at the moment when the run's files are all there but its name is not."""
    shutil.rmtree(copied / "runs")
    killer = (
        "import os, signal\n"
        "from axlebox.firmware_bundle import disk\n"
        "disk.rename_durable = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from axlebox.export.cli import main; main()\n"
    )
    command = [sys.executable, "-c", killer, "train"]
    killed = subprocess.run(command, cwd=copied, env=axlebox.environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in (copied / "runs").iterdir()] == [".part"]
    axlebox.ok("train", cwd=copied)
    assert latest(copied).record().evaluation["test_readings"] > 0
    assert not [path for path in (copied / "runs").iterdir() if path.suffix == ".part"]


def test_a_workspace_outside_git_and_without_git_can_train(axlebox: Any, copied: Path) -> None:
    environment = {**axlebox.environment, "PATH": os.fspath(copied / "no-programs-here")}
    type(axlebox)(axlebox.command, environment).ok("train", cwd=copied)
    assert latest(copied).record().lineage.code.commit is None


def test_a_damaged_or_foreign_forest_file_is_refused(copied: Path, tmp_path: Path) -> None:
    """A forest comes with a run folder, perhaps from another machine: no pickle, no other types, no traceback."""
    path = latest(copied).folder / "forest.skops"
    good = path.read_bytes()
    foreign = tmp_path / "foreign.skops"
    skops.io.dump({"a": KMeans()}, foreign)
    for data in (foreign.read_bytes(), good[: len(good) // 2], b"", flipped(good)):
        path.write_bytes(data)
        with pytest.raises(Damaged):
            load_forests(path)


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
