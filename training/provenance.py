"""What a run was made from: code, versions, commit, person."""

from __future__ import annotations

import getpass
import hashlib
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from axlebox.firmware_bundle.manifest import Code
from axlebox.runtime.version import VERSION

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


def code_revision(workspace: Path) -> Code:
    """axlebox's version, the sha256 over its installed source files, and a workspace's commit."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = util.find_spec(f"axlebox.{package}")
        if spec is None or spec.origin is None:
            raise RuntimeError(f"axlebox.{package} is not installed")
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Code(VERSION, digest.hexdigest(), git_commit(workspace))


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
