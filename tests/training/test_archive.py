"""Runs in one file: what comes out is what went in, and nothing comes out of a file that was changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from axlebox.firmware_bundle.errors import AxleboxError, Damaged, Malformed, PreflightFailed, UsageError
from axlebox.training import archive
from axlebox.training.archive import export_runs, import_runs
from axlebox.training.workspace import Workspace, find_workspace, init_workspace
from tests.conftest import another_run


@pytest.fixture
def here(copied: Path) -> Workspace:
    return find_workspace(copied)


@pytest.fixture
def there(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "there")


def latest(workspace: Workspace) -> Path:
    return workspace.runs / (workspace.runs / "latest").read_text().strip()


def files(folder: Path) -> dict[str, bytes]:
    """All but the lock's, which stays empty."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_runs_and_their_data_come_out_as_they_went_in(here: Workspace, there: Workspace, tmp_path: Path) -> None:
    first, second = latest(here), another_run(latest(here), 1)
    packed = export_runs(here, [second.name, first.name], tmp_path / "runs.tar", with_data=True)
    assert set(packed.runs) == {first.name, second.name} and packed.bytes == (tmp_path / "runs.tar").stat().st_size
    done = import_runs(there, tmp_path / "runs.tar")
    assert set(done.new) == {first.name, second.name} and done.known == ()
    for run in (first, second):
        assert files(there.runs / run.name) == files(run)
    (data,) = done.data
    assert (there.raw / data).read_bytes() == (here.raw / data).read_bytes()
    assert sorted(path.name for path in there.raw.iterdir()) == sorted([".gitkeep", data])
    before = files(there.root)
    again = import_runs(there, tmp_path / "runs.tar")
    assert (again.new, set(again.known), again.data) == ((), {first.name, second.name}, ())
    assert files(there.root) == before


def test_equal_runs_give_equal_bytes_and_tar_lists_them(here: Workspace, there: Workspace, tmp_path: Path) -> None:
    name = latest(here).name
    export_runs(here, [name], tmp_path / "a", with_data=False)
    import_runs(there, tmp_path / "a")
    for path in (there.runs / name).iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    export_runs(there, [name, name], tmp_path / "b", with_data=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as listed:
        members = {one.name: one.size for one in listed}
    assert members.pop("contents.json") and members == {
        f"runs/{name}/{file}": len(data) for file, data in files(latest(here)).items()
    }


def test_a_run_that_is_not_there_or_a_file_that_is_or_data_that_is_gone_is_refused(
    here: Workspace, tmp_path: Path
) -> None:
    name, out = latest(here).name, tmp_path / "out"
    with pytest.raises(UsageError, match="there is no run abc"):
        export_runs(here, [name, "abc"], out, with_data=False)
    for path in here.raw.glob("*.csv"):
        path.unlink()
    with pytest.raises(UsageError, match=r"readings\.csv .* is not in"):
        export_runs(here, [name], out, with_data=True)
    assert not list(tmp_path.glob("out*"))
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists; nothing was written"):
        export_runs(here, [name], out, with_data=False)
    assert out.read_text() == "mine"


def test_data_that_is_not_what_its_name_says_is_not_carried(here: Workspace, tmp_path: Path) -> None:
    (copy,) = here.raw.glob("*.csv")
    copy.write_text("another file\n")
    with pytest.raises(Damaged, match="not what its name says"):
        export_runs(here, [latest(here).name], tmp_path / "out", with_data=True)
    assert not list(tmp_path.glob("out*"))


def test_a_run_that_is_here_with_other_content_is_refused_and_kept(
    here: Workspace, there: Workspace, tmp_path: Path
) -> None:
    run, other = latest(here), another_run(latest(here), 1)
    export_runs(here, [run.name, other.name], tmp_path / "file", with_data=False)
    shutil.copytree(run, there.runs / run.name)
    (there.runs / run.name / "report.html").write_text("mine")
    before = files(there.root)
    with pytest.raises(UsageError, match=r"other content \(report\.html\); nothing was imported"):
        import_runs(there, tmp_path / "file")
    assert files(there.root) == before


def packed(here: Workspace, path: Path) -> bytes:
    export_runs(here, [latest(here).name], path, with_data=True)
    return path.read_bytes()


def test_every_damage_is_found_before_anything_is_written(here: Workspace, there: Workspace, tmp_path: Path) -> None:
    good, bad = packed(here, tmp_path / "good"), tmp_path / "bad"
    before = files(there.root)
    magic = good.index(b"ustar")
    middle = range(0, len(good), len(good) // 60)
    for at in (0, magic, 512, 600, *middle, len(good) - 1):
        bad.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
        with pytest.raises((Damaged, Malformed)):
            import_runs(there, bad)
    for end in (0, 1, 511, 512, 513, *middle, len(good) - 1):
        bad.write_bytes(good[:end])
        with pytest.raises((Damaged, Malformed)):
            import_runs(there, bad)
    for more in (b"\0", b"x", good):
        bad.write_bytes(good + more)
        with pytest.raises((Damaged, Malformed)):
            import_runs(there, bad)
    assert files(there.root) == before


def rewritten(here: Workspace, path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """A file in our own format, its hashes right, whose members were changed."""
    packed(here, path)
    with tarfile.open(path) as source:
        members = {one.name: source.extractfile(one).read() for one in source if one.name != "contents.json"}  # type: ignore[union-attr]
    change(members)
    ordered = dict(sorted(members.items()))
    contents = archive.Contents(
        archive.FORMAT,
        tuple(archive.Member(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in ordered.items()),
    )
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        for name, data in {"contents.json": archive.encode(contents), **ordered}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, BytesIO(data))
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data + bytes(-len(data) % 512) + bytes(1024))


def test_the_rewriting_of_these_tests_alone_changes_nothing(here: Workspace, there: Workspace, tmp_path: Path) -> None:
    rewritten(here, tmp_path / "file", lambda members: None)
    assert import_runs(there, tmp_path / "file").new == (latest(here).name,)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "runs/../../evil",
        "runs/0123456789ab/../evil",
        "runs/0123456789ab/.hidden",
        "runs/latest/run.json",
        "runs/0123456789ab/sub/file",
        "data/../evil",
        "data/evil.csv",
        f"data/{'0' * 64}.csv",
        "keys/root.pem",
        "champions.jsonl",
    ],
)
def test_a_member_of_any_other_name_is_refused(here: Workspace, there: Workspace, tmp_path: Path, name: str) -> None:
    before = files(tmp_path / "there")
    rewritten(here, tmp_path / "file", lambda members: members.update({name: b"evil"}))
    with pytest.raises(Malformed):
        import_runs(there, tmp_path / "file")
    assert files(there.root) == before and not list(tmp_path.glob("evil*"))


def test_a_run_whose_name_is_not_made_of_its_inputs_is_refused(
    here: Workspace, there: Workspace, tmp_path: Path
) -> None:
    """Whoever changes the record of the data, and every hash in the file, still has another RUN."""
    name = latest(here).name

    def other_data(members: dict[str, bytes]) -> None:
        record = json.loads(members[f"runs/{name}/run.json"])
        record["lineage"]["data"][0]["sha256"] = "0" * 64
        members[f"runs/{name}/run.json"] = json.dumps(record).encode()

    def other_name(members: dict[str, bytes]) -> None:
        for path in [path for path in members if path.startswith("runs/")]:
            members[f"runs/{'0' * 12}/{path.rpartition('/')[2]}"] = members.pop(path)

    for change in (other_data, other_name):
        rewritten(here, tmp_path / "file", change)
        with pytest.raises(Malformed, match="its inputs make it"):
            import_runs(there, tmp_path / "file")
        (tmp_path / "file").unlink()
    assert not list(there.runs.glob("*/"))


def test_a_run_that_lacks_a_file_is_refused(here: Workspace, there: Workspace, tmp_path: Path) -> None:
    rewritten(here, tmp_path / "file", lambda members: members.pop(f"runs/{latest(here).name}/forest.skops") and None)
    with pytest.raises(Malformed, match=r"lacks forest\.skops"):
        import_runs(there, tmp_path / "file")


def test_what_is_no_such_file_is_said_to_be_none(here: Workspace, there: Workspace, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (here.root / "dist/fleet-1.axb", here.contract_path, tmp_path / "fifo", tmp_path):
        with pytest.raises((Malformed, UsageError), match=r"no file of `axlebox runs export`|not a regular file"):
            import_runs(there, path)


def test_too_little_space_or_a_disk_that_fills_up_leaves_nothing(
    here: Workspace, there: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(here, tmp_path / "file")
    before = files(there.root)
    with monkeypatch.context() as patch:
        patch.setattr(archive.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 8, 1))  # type: ignore[attr-defined]
        with pytest.raises(PreflightFailed, match="bytes are needed"):
            import_runs(there, tmp_path / "file")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(archive, "_sync", full)
        with pytest.raises(AxleboxError, match="No space left"):
            import_runs(there, tmp_path / "file")
    assert files(there.root) == before
    assert import_runs(there, tmp_path / "file").new
