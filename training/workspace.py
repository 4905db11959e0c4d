"""The workspace: a folder with settings, data copies, runs and releases; found upwards from anywhere in it."""

from __future__ import annotations

import contextlib
import fcntl
import keyword
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources, util
from pathlib import Path
from typing import Any

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import PreflightFailed, UsageError
from axlebox.runtime import own_sets

FORMAT = 1
"""How a workspace is laid out; a larger number is a newer layout."""
_MARK = "[tool.axlebox]"
_DOT = "dot-"
"""Template files and folders whose names begin with a dot are stored under another name: build tools drop them."""
_IN = ".in"
"""And those that are no Python before their placeholders are filled in."""
_PACKAGE = "PACKAGE"
"""The folder that gets the name of the workspace's package."""


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

    @property
    def own_package(self) -> Path | None:
        """The folder of the workspace's own package; None in a thin workspace."""
        path = self.root / "pyproject.toml"
        kedro = _read_settings(path).get("tool", {}).get("kedro", {}) if path.is_file() else {}
        name = str(kedro.get("package_name", ""))
        folder = self.root / str(kedro.get("source_dir", "src")) / name
        return folder if name.isidentifier() and folder.is_dir() else None

    def copies_of(self, sha256: str) -> list[Path]:
        """The files of data/01_raw that are named by this digest, whatever is in them by now."""
        return sorted(one for one in self.raw.glob(f"{sha256}*") if one.is_file() and one.suffix != ".part")

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
    """The workspace that a folder belongs to; its own feature sets are known from then on (runtime/own_sets.py).

    Raises UsageError, and PreflightFailed where it is a newer one.
    """
    for folder in (start.resolve(), *start.resolve().parents):
        path = folder / "pyproject.toml"
        if path.is_file() and _MARK in path.read_text(encoding="utf-8", errors="replace"):
            settings = _read_settings(path)
            _check_format(path, settings)
            _offer_sets(path, settings)
            return Workspace(folder)
    raise UsageError(f"{start.resolve()} is in no workspace. DO: axlebox init DIR, then work inside it")


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not readable: {error}") from error


def _check_format(path: Path, settings: dict[str, Any]) -> None:
    try:
        found = settings["tool"]["axlebox"].get("format", 1)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not readable: {error}") from error
    if not isinstance(found, int) or found > FORMAT:
        raise PreflightFailed(
            f"{path.parent} is a workspace of format {found}, this axlebox reads {FORMAT}. DO: update axlebox"
        )


def _offer_sets(path: Path, settings: dict[str, Any]) -> None:
    """Make the feature sets known that the workspace's package will bring once it is installed: it need not be.

    Nothing is imported before a set is asked for. Raises UsageError where an entry cannot be one.
    """
    try:
        declared = dict(settings.get("project", {}).get("entry-points", {}).get(own_sets.GROUP, {}))
        source = path.parent / settings["tool"].get("kedro", {}).get("source_dir", "src")
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is not readable: {error}") from error
    offered = {}
    for name, value in declared.items():
        key = own_sets.parse(name)
        if key is None or not isinstance(value, str):
            raise UsageError(f'{path}: feature set {name}: entries are like rate-1 = "my_fleet.features:Rate"')
        if key[0] in own_sets.RESERVED:
            raise UsageError(f"{path}: feature set {name}: axlebox has one of this name. DO: choose another")
        offered[key] = partial(_load_set, source, metadata.EntryPoint(name, value, own_sets.GROUP))
    own_sets.offer(offered)


def _load_set(source: Path, entry: metadata.EntryPoint) -> Any:
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))  # as Kedro does
    return entry.load()


def init_workspace(folder: Path, with_pipelines: bool = False) -> Workspace:
    """Write a new workspace, on request with a package of its own for pipelines and feature sets.

    Raises UsageError, and writes nothing, where the folder has content, or its name cannot be a package's.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; nothing was written")
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:63] or "fleet"
    package = _package_name(name) if with_pipelines else ""
    part = folder.parent / f".{folder.name}.part"
    with disk.explained():
        disk.remove_tree(part)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for layer in ("template", "own_template") if with_pipelines else ("template",):
            with resources.as_file(resources.files(f"axlebox.training.{layer}")) as template:
                unwanted = shutil.ignore_patterns("__pycache__", "__init__.py")
                shutil.copytree(template, part, ignore=unwanted, dirs_exist_ok=True)
        for path in sorted(part.rglob("*"), reverse=True):  # what lies in a folder comes before the folder
            if path.is_file():
                _fill_in(path, {"NAME": name, "PACKAGE": package, "KEDRO_VERSION": metadata.version("kedro")})
            _rename(path)
        if with_pipelines:
            (part / "src" / _PACKAGE).rename(part / "src" / package)
        disk.rename_durable(part, folder)  # takes the place of an empty folder, of no other
    return Workspace(folder)


def _package_name(name: str) -> str:
    """The Python package of a workspace. Raises UsageError where importing it would find something else."""
    package = name.replace("-", "_")
    if not package[0].isalpha():
        package = f"fleet_{package}"
    taken = package in sys.stdlib_module_names or keyword.iskeyword(package) or package == "axlebox"
    if not taken:
        spec = util.find_spec(package)
        taken = spec is not None and spec.origin is not None  # a mere folder somewhere is no package
    if taken:
        raise UsageError(f"a package cannot be called {package}: Python has something of this name. DO: rename DIR")
    return package


def _fill_in(path: Path, words: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    path.write_text(text, encoding="utf-8")


def _rename(path: Path) -> None:
    name = path.name.removesuffix(_IN)
    path.rename(path.with_name("." + name.removeprefix(_DOT) if name.startswith(_DOT) else name))
