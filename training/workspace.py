"""The workspace: a folder with settings, data copies, runs and releases; found upwards from anywhere in it."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import PreflightFailed, UsageError

FORMAT = 1
"""How a workspace is laid out; a larger number is a newer layout."""
_MARK = "[tool.axlebox]"
_DOT = "dot-"
"""Template files whose names begin with a dot are stored under another name: build tools drop them."""


@dataclass(frozen=True, slots=True)
class Workspace:
    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "data" / "01_raw"

    @property
    def inbox(self) -> Path:
        return self.root / "data" / "00_inbox"

    @property
    def proposals(self) -> Path:
        return self.root / "proposals"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def dist(self) -> Path:
        return self.root / "dist"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def trust(self) -> Path:
        return self.root / "trust"

    @property
    def releases(self) -> Path:
        return self.root / "releases.jsonl"

    @property
    def champions(self) -> Path:
        return self.root / "champions.jsonl"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def contract_path(self) -> Path:
        return self.root / "conf" / "base" / "contract.yml"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace's one lock: two trainings, or a training and an export, never mix."""
        with open(self.root / ".lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PreflightFailed(
                    f"another axlebox or kedro run is at work in {self.root}; try again when it has ended"
                ) from error
            yield


def find_workspace(start: Path) -> Workspace:
    """The workspace that a folder belongs to. Raises UsageError, and PreflightFailed where it is a newer one."""
    for folder in (start.resolve(), *start.resolve().parents):
        settings = folder / "pyproject.toml"
        if settings.is_file() and _MARK in (text := settings.read_text(encoding="utf-8", errors="replace")):
            _check_format(settings, text)
            return Workspace(folder)
    raise UsageError(f"{start.resolve()} is in no workspace. DO: axlebox init DIR, then work inside it")


def _check_format(path: Path, text: str) -> None:
    try:
        found = tomllib.loads(text)["tool"]["axlebox"].get("format", 1)
    except (tomllib.TOMLDecodeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} is not readable: {error}") from error
    if not isinstance(found, int) or found > FORMAT:
        raise PreflightFailed(
            f"{path.parent} is a workspace of format {found}, this axlebox reads {FORMAT}. DO: update axlebox"
        )


def init_workspace(folder: Path) -> Workspace:
    """Write a new workspace. Raises UsageError, and writes nothing, where the folder has content."""
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; nothing was written")
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:63] or "fleet"
    part = folder.parent / f".{folder.name}.part"
    with disk.explained():
        disk.remove_tree(part)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("axlebox.training.template")) as template:
            shutil.copytree(template, part, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
        for path in sorted(part.rglob("*")):
            if path.is_file():
                _fill_in(path, name)
        disk.rename_durable(part, folder)  # takes the place of an empty folder, of no other
    return Workspace(folder)


def _fill_in(path: Path, name: str) -> None:
    text = path.read_text(encoding="utf-8")
    text = text.replace("@NAME@", name).replace("@KEDRO_VERSION@", metadata.version("kedro"))
    path.write_text(text, encoding="utf-8")
    if path.name.startswith(_DOT):
        path.rename(path.with_name("." + path.name.removeprefix(_DOT)))
