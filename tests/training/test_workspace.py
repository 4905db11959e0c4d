from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from axlebox.firmware_bundle.errors import PreflightFailed, UsageError
from axlebox.training.workspace import Workspace, find_workspace, init_workspace


def test_init_writes_settings_that_hold_the_folder_s_name(tmp_path: Path) -> None:
    init_workspace(tmp_path / "My Fleet")
    assert "name: my-fleet" in (tmp_path / "My Fleet/conf/base/parameters.yml").read_text()
    assert (tmp_path / "My Fleet/.telemetry").read_text() == "consent: false\n"
    assert not list((tmp_path / "My Fleet").rglob("*@*")) and not list((tmp_path / "My Fleet").rglob("dot-*"))


def test_no_placeholder_is_left_in_a_new_workspace(tmp_path: Path) -> None:
    for path in init_workspace(tmp_path / "fleet").root.rglob("*"):
        assert not path.is_file() or not re.search("@[A-Z_]+@", path.read_text()), path


@pytest.mark.parametrize("content", ["file", "folder with something", "workspace"])
def test_what_exists_already_is_not_overwritten(tmp_path: Path, content: str) -> None:
    place = tmp_path / "fleet"
    if content == "file":
        place.write_text("mine")
    elif content == "workspace":
        init_workspace(place)
    else:
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="nothing was written"):
        init_workspace(place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_becomes_a_workspace_also_by_the_name_of_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleet").mkdir()
    monkeypatch.chdir(tmp_path / "fleet")
    assert init_workspace(Path()).root == tmp_path / "fleet"
    assert (tmp_path / "fleet/pyproject.toml").exists()


def test_a_workspace_is_found_from_any_folder_inside_it(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "fleet")
    assert find_workspace(workspace.root / "conf" / "base") == workspace
    with pytest.raises(UsageError, match="axlebox init"):
        find_workspace(tmp_path)


def test_private_keys_and_scratch_stay_out_of_git_and_the_root_of_trust_goes_in(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "fleet")
    names = (
        "keys/root.pem",
        "trust/root.json",
        "data/02_intermediate/x",
        "data/01_raw/current.json",
        "runs/a/run.json",
    )
    for name in names:
        (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.root / name).write_text("x")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", "."], cwd=workspace.root, check=True, env=environment)
    listed = subprocess.run(
        ["git", "ls-files", "-o", "--exclude-standard"],
        cwd=workspace.root,
        env=environment,
        check=True,
        text=True,
        capture_output=True,
    ).stdout.split()
    assert {"trust/root.json", "data/01_raw/current.json", "runs/a/run.json", "conf/base/contract.yml"} <= set(listed)
    assert not {"keys/root.pem", "data/02_intermediate/x"} & set(listed)


def test_a_second_holder_of_the_lock_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "fleet")
    with workspace.locked(), pytest.raises(PreflightFailed, match="another"), Workspace(workspace.root).locked():
        pass
    with workspace.locked():
        assert (workspace.root / ".lock").exists()


@pytest.mark.parametrize(
    ("setting", "refused"),
    [("format = 2", "workspace of format 2, this axlebox reads 1. DO: update axlebox"), ("format = 'x'", "format x")],
)
def test_a_workspace_of_a_newer_axlebox_is_refused(tmp_path: Path, setting: str, refused: str) -> None:
    settings = init_workspace(tmp_path / "fleet").root / "pyproject.toml"
    settings.write_text(settings.read_text().replace("format = 1", setting))
    with pytest.raises(PreflightFailed, match=refused):
        find_workspace(tmp_path / "fleet")


def test_a_workspace_from_before_formats_is_of_the_first_one(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "fleet")
    settings = workspace.root / "pyproject.toml"
    settings.write_text(settings.read_text().replace("format = 1\n", ""))
    assert find_workspace(tmp_path / "fleet") == workspace
