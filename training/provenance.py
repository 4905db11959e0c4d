"""What a run was made from: code, versions, commit, person."""

from __future__ import annotations

import getpass
import hashlib
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata, util
from pathlib import Path
from typing import Any

from axlebox.firmware_bundle.manifest import Code, FeatureSet
from axlebox.runtime.features import KNOWN_SETS, find
from axlebox.runtime.version import VERSION
from axlebox.training.workspace import Workspace

PYTHON = "python"
"""Its name among the versions, where it is no package."""
_PACKAGES = ("firmware_bundle", "runtime", "training", "export")
_LIBRARIES = (
    "kedro",
    "msgspec",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "skl2onnx",
    "skops",
)


def code_revision(workspace: Path, feature_sets: Iterable[FeatureSet] = ()) -> Code:
    """axlebox's version, the sha256 over source files, and a workspace's commit.

    The source is axlebox's as installed, that of the workspace's own package, and of other packages that bring one
    of `feature_sets`.
    """
    digest = hashlib.sha256()
    own = Workspace(workspace).own_package
    others = {} if own is None else {"workspace": own}
    for one in feature_sets:
        source = _source(one, own)
        if source is not None:
            others[f"feature set {one.name} {one.version}"] = source
    for package in _PACKAGES:
        spec = util.find_spec(f"axlebox.{package}")
        if spec is None or spec.origin is None:
            raise RuntimeError(f"axlebox.{package} is not installed")
        _add(digest, package, Path(spec.origin).parent)
    for name, place in sorted(others.items()):
        _add(digest, name, place)
    return Code(VERSION, digest.hexdigest(), git_commit(workspace))


def _add(digest: Any, name: str, place: Path) -> None:
    """Every *.py of a folder, or a single file, with its name."""
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        digest.update(f"{name}/{path.relative_to(place).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())


def _source(spec: FeatureSet, own: Path | None) -> Path | None:
    """The package, or the file, that a set comes from; None where it is axlebox's or of the workspace's package."""
    if (spec.name, spec.version) in KNOWN_SETS:
        return None
    module = find(spec).__module__
    top = sys.modules[module.partition(".")[0]]
    place = Path(top.__file__).parent if top.__file__ and hasattr(top, "__path__") else _file(module)
    return None if place == own else place


def _file(module: str) -> Path:
    file = sys.modules[module].__file__
    if file is None:
        raise RuntimeError(f"{module} has no file")
    return Path(file)


def library_versions() -> dict[str, str]:
    """Of every library that a run may depend on, and Python's own as in 3.11: its `sum` of floats changed in 3.12."""
    python = "{}.{}".format(*sys.version_info)
    return {**{name: metadata.version(name) for name in _LIBRARIES}, PYTHON: python}


def git_commit(folder: Path) -> str | None:
    """The commit of a workspace, `-dirty` appended where files differ from it; None outside git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        # A workspace that merely lies inside somebody's larger checkout is not versioned by it.
        tracked = git("ls-files", "--error-unmatch", "pyproject.toml")
        commit = git("rev-parse", "HEAD")
        dirty = git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return (commit + ("-dirty" if dirty else "")) if tracked else None


def who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
