"""`axlebox refresh`: what it leaves behind when it goes well, and when it does not."""

from __future__ import annotations

import fcntl
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axlebox.export import refresh as module
from axlebox.export.refresh import Proposal, refresh
from axlebox.firmware_bundle.errors import Malformed, PreflightFailed
from axlebox.training.champion import promote
from axlebox.training.raw_data import read_current, write_current
from axlebox.training.runs import Run, open_run
from axlebox.training.workspace import Workspace


@pytest.fixture(scope="module")
def waiting(axlebox: Any, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a champion, and two days of new readings in two files in its inbox; nobody must change it."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("waiting") / "fleet"))
    parameters = folder / "conf/base/parameters.yml"
    text = parameters.read_text().replace("n_estimators: 100", "n_estimators: 20")
    parameters.write_text(text.replace("faults_per_kind: 2", "faults_per_kind: 1"))
    every, old = folder.parent / "every.csv", folder.parent / "old.csv"
    axlebox.ok("simulate", every, "--vehicles", 1, "--bearings", 2, "--days", 8, "--faults", 0)
    header, *lines = every.read_text().splitlines()
    new = [line for line in lines if line >= "2026-01-11"]
    assert len(new) == 2 * 2 * 288
    for path, part in (
        (old, [line for line in lines if line < "2026-01-11"]),
        (folder / "data/00_inbox/b.csv", new[:600]),  # the older readings in the later name
        (folder / "data/00_inbox/a.csv", new[600:]),
    ):
        path.write_text("\n".join([header, *part]) + "\n")
    axlebox.ok("ingest", old, cwd=folder)
    axlebox.ok("train", cwd=folder)
    promote(Workspace(folder), open_run(folder / "runs", None).folder.name, "first")
    return folder


@pytest.fixture
def fleet(waiting: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(waiting, tmp_path / "fleet"))


@pytest.fixture(scope="module")
def done(axlebox: Any, waiting: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The workspace after a refresh, and what that printed; tests must not change it."""
    folder = Path(shutil.copytree(waiting, tmp_path_factory.mktemp("done") / "fleet"))
    return folder, axlebox.ok("refresh", cwd=folder)


def in_hand(folder: Path) -> dict[str, Any]:
    """All that people work with and a refresh must leave alone."""
    names = ("runs/latest", "champions.jsonl", "releases.jsonl", "data/01_raw/current.json")
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in names}
    return {**found, "dist": sorted(path.name for path in (folder / "dist").iterdir())}


def inbox(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data/00_inbox").glob("*.csv"))


def taken(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data/00_inbox/taken").iterdir())


def proposed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("proposals/*"))


def test_a_refresh_trains_on_old_and_new_readings_and_proposes_without_promoting(
    done: tuple[Path, str], waiting: Path
) -> None:
    folder, said = done
    (name,) = [Path(one).stem for one in proposed(folder) if one.endswith(".md")]
    assert proposed(folder) == [f"{name}.html", f"{name}.json", f"{name}.md"]
    assert len(said.splitlines()) == 1 and name in said
    run = open_run(folder / "runs", name)
    before = open_run(waiting / "runs", None).record().lineage.data
    assert [one.name for one in before] == ["old.csv"]
    assert [one.name for one in run.record().lineage.data] == ["old.csv", "b.csv", "a.csv"], "oldest reading first"
    assert run.parity() is not None and (run.folder / "gates.json").is_file()
    now, then = in_hand(folder), in_hand(waiting)
    assert [one["name"] for one in json.loads(now.pop("data/01_raw/current.json"))["files"]][1:] == ["b.csv", "a.csv"]
    del then["data/01_raw/current.json"]
    assert now == then, "nothing is exported or promoted, and the latest run is still a person's"
    assert inbox(folder) == [] and taken(folder) == ["a.csv", "b.csv"]


def test_the_proposal_says_why_with_what_and_what_to_do(done: tuple[Path, str], waiting: Path) -> None:
    folder, _ = done
    champion = open_run(waiting / "runs", None).folder.name
    (page,) = folder.glob("proposals/*.md")
    text, run = page.read_text(), page.stem
    for named in (champion, "b.csv", "no_worse_than_champion passed", "parity passed", f"axlebox export {run}"):
        assert named in text, named
    assert "may be promoted by a person" in text and f"axlebox runs promote {run}" in text
    plain = json.loads(page.with_suffix(".json").read_text())
    assert plain["recommended"] is True and plain["champion"] == champion and plain["run"] == run
    assert plain["comparison"]["before"] == champion, "the same held-out time for both"
    assert page.with_suffix(".html").read_text().startswith("<!doctype html>")


def test_a_second_refresh_finds_nothing_new_and_is_silent_on_request(axlebox: Any, done: tuple[Path, str]) -> None:
    folder, _ = done
    before = in_hand(folder), proposed(folder)
    assert "nothing new" in axlebox.ok("refresh", cwd=folder)
    quiet = axlebox("refresh", "--quiet", cwd=folder)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert json.loads(axlebox.ok("refresh", "--json", cwd=folder)) == {"run": None}
    assert (in_hand(folder), proposed(folder)) == before


def killed_at(folder: Path, axlebox: Any, function: str) -> None:
    killer = (
        "import os, signal\n"
        "from axlebox.export import refresh\n"
        f"refresh.{function} = lambda *words: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from axlebox.export.cli import main; main()\n"
    )
    command = [sys.executable, "-c", killer, "refresh"]
    found = subprocess.run(command, cwd=folder, env=axlebox.environment, capture_output=True, check=False)
    assert found.returncode == -signal.SIGKILL, found.stderr


def test_a_refresh_that_is_killed_before_its_proposal_changed_nothing_and_the_next_one_makes_the_same(
    axlebox: Any, fleet: Path, done: tuple[Path, str]
) -> None:
    before = in_hand(fleet)
    killed_at(fleet, axlebox, "_write")
    assert in_hand(fleet) == before and proposed(fleet) == [] and inbox(fleet) == ["a.csv", "b.csv"]
    axlebox.ok("refresh", cwd=fleet)
    assert proposed(fleet) == proposed(done[0]) and inbox(fleet) == []


def faked(monkeypatch: pytest.MonkeyPatch, done: tuple[Path, str]) -> Run:
    """The training that `done` made, in the place of another one; in no time."""
    (page,) = done[0].glob("proposals/*.md")
    made = open_run(done[0] / "runs", page.stem)

    def train(workspace: Workspace, params: Any, current: Path) -> Run:
        assert current.is_file()
        return Run(Path(shutil.copytree(made.folder, workspace.runs / made.folder.name, dirs_exist_ok=True)))

    monkeypatch.setattr(module, "train", train)
    return made


def test_what_was_killed_after_its_proposal_is_tidied_up_by_the_next_one(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, done)
    monkeypatch.setattr(module, "_put_away", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        refresh(Workspace(fleet))
    assert inbox(fleet) == ["a.csv", "b.csv"] and len(proposed(fleet)) == 3
    monkeypatch.undo()
    before = in_hand(fleet)
    assert refresh(Workspace(fleet)) is None
    assert inbox(fleet) == [] and in_hand(fleet) == before


@pytest.mark.parametrize("lock", ["data/00_inbox/.lock", ".lock"])
def test_a_refresh_beside_another_refresh_or_training_is_refused(axlebox: Any, fleet: Path, lock: str) -> None:
    before = in_hand(fleet)
    with (fleet / lock).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = axlebox("refresh", cwd=fleet)
    assert found.returncode == 20 and "at work" in found.stderr and len(found.stderr.splitlines()) == 1
    assert in_hand(fleet) == before and inbox(fleet) == ["a.csv", "b.csv"] and proposed(fleet) == []


@pytest.mark.parametrize("content", ["no reading at all\n", "", "2026-01-05T00:00:00Z,T01.axle1.left,1.0\n"])
def test_a_bad_file_is_named_stays_where_it_is_and_changes_nothing(axlebox: Any, fleet: Path, content: str) -> None:
    """The last one is good, but older than everything that is in already."""
    (fleet / "data/00_inbox/bad.csv").write_text(content)
    before = in_hand(fleet)
    found = axlebox("refresh", cwd=fleet)
    assert found.returncode == 15 and "bad.csv" in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr
    assert in_hand(fleet) == before and inbox(fleet) == ["a.csv", "b.csv", "bad.csv"] and proposed(fleet) == []


def test_a_training_that_fails_leaves_everything_as_it_was(axlebox: Any, fleet: Path) -> None:
    path = fleet / "data/00_inbox/a.csv"
    path.write_text(path.read_text() + "nonsense\n" * 3000)
    before = in_hand(fleet)
    found = axlebox("refresh", cwd=fleet)
    assert found.returncode == 15 and "break the contract" in found.stderr and len(found.stderr.splitlines()) == 1
    assert in_hand(fleet) == before and inbox(fleet) == ["a.csv", "b.csv"] and proposed(fleet) == []


def test_a_full_disk_is_one_line(axlebox: Any, fleet: Path) -> None:
    before = in_hand(fleet)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # noqa: E731
    found = axlebox("refresh", cwd=fleet, preexec_fn=limit)
    assert found.returncode == 20 and len(found.stderr.splitlines()) == 1, found.stderr
    assert in_hand(fleet) == before and inbox(fleet) == ["a.csv", "b.csv"] and proposed(fleet) == []


def test_a_challenger_that_does_not_pass_is_proposed_as_such_with_50(
    axlebox: Any, fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = fleet / "conf/base/parameters.yml"
    parameters.write_text(parameters.read_text().replace("least_caught: null", "least_caught: 1.0"))
    faked(monkeypatch, done)
    made = refresh(Workspace(fleet))
    assert isinstance(made, Proposal) and [one.name for one in made.stopping] == ["least_caught"]
    text = made.page.read_text()
    assert "should NOT be promoted" in text and "least_caught failed" in text and "--accept-gate" in text
    assert inbox(fleet) == [] and json.loads(made.page.with_suffix(".json").read_text())["recommended"] is False
    monkeypatch.undo()
    extra = fleet.parent / "extra.csv"
    last = (fleet / "data/00_inbox/taken/a.csv").read_text().splitlines()[-1]
    extra.write_text(last.replace("2026-01-12", "2026-01-13") + "\n")
    found = axlebox("refresh", extra, cwd=fleet)
    assert found.returncode == 50 and found.stdout == "" and len(found.stderr.splitlines()) == 1, found.stderr
    assert "least_caught failed" in found.stderr and extra.exists(), "a file from elsewhere is not moved"


def test_a_model_that_is_not_equal_to_what_was_trained_is_proposed_as_such(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faked(monkeypatch, done)
    monkeypatch.setattr(module, "prove", lambda workspace, run: "1 flag differs")
    made = refresh(Workspace(fleet))
    assert made is not None and [str(one) for one in made.stopping] == ["parity failed: 1 flag differs"]


def test_without_a_champion_the_proposal_says_so(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet / "champions.jsonl").unlink()
    faked(monkeypatch, done)
    made = refresh(Workspace(fleet))
    assert made is not None and not made.stopping and "there is no champion yet" in made.page.read_text()


def test_a_champion_that_is_gone_costs_no_training_and_is_no_recommendation(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(open_run(fleet / "runs", None).folder)
    faked(monkeypatch, done)
    made = refresh(Workspace(fleet))
    assert made is not None and [one.name for one in made.stopping] == ["no_worse_than_champion"]


@pytest.mark.parametrize("meanwhile", [lambda workspace: write_current(workspace, ())])
def test_readings_that_people_ingest_meanwhile_are_not_lost(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Workspace], None]
) -> None:
    faked(monkeypatch, done)
    monkeypatch.setattr(module, "prove", lambda workspace, run: meanwhile(workspace))
    with pytest.raises(PreflightFailed, match="were ingested while"):
        refresh(Workspace(fleet))
    assert read_current(Workspace(fleet)) == () and proposed(fleet) == [] and len(inbox(fleet)) == 2


def test_a_file_that_grows_while_it_is_taken_in_stays_and_unfinished_ones_wait(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet / "data/00_inbox/c.csv.part").write_text("half")
    made = faked(monkeypatch, done)

    def grow(workspace: Workspace, run: Run) -> None:
        with (fleet / "data/00_inbox/a.csv").open("a") as file:
            file.write("2026-01-13T00:00:00Z,T01.axle1.left,1.0\n")

    monkeypatch.setattr(module, "prove", grow)
    assert refresh(Workspace(fleet)) is not None and made is not None
    assert inbox(fleet) == ["a.csv"] and (fleet / "data/00_inbox/c.csv.part").exists()


def test_a_name_that_was_taken_before_does_not_cover_the_earlier_file(
    fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = fleet / "data/00_inbox/taken/a.csv"
    earlier.parent.mkdir()
    earlier.write_text("of last month")
    faked(monkeypatch, done)
    refresh(Workspace(fleet))
    assert earlier.read_text() == "of last month"
    assert len(taken(fleet)) == 3 and any(name.endswith("-a.csv") for name in taken(fleet))


def test_the_same_file_twice_is_one_file(fleet: Path, done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(fleet / "data/00_inbox/a.csv", fleet / "data/00_inbox/z.csv")
    faked(monkeypatch, done)
    made = refresh(Workspace(fleet))
    assert made is not None and [one.name for one in made.files] == ["b.csv", "a.csv"]


def test_a_record_of_readings_that_is_damaged_is_named(fleet: Path) -> None:
    (fleet / "data/01_raw/current.json").write_text("{")
    with pytest.raises(Malformed, match=r"current\.json"):
        refresh(Workspace(fleet))
