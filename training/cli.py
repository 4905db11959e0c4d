"""What `kedro` does differently in a workspace. Kedro imports this module before any of its commands."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.pipeline import pipeline as kedros_pipeline
from kedro.framework.cli.utils import call
from kedro.utils import find_kedro_project

# `kedro ipython` and `kedro package` call programs by bare name: find this environment's first.
_BIN = str(Path(sys.executable).parent)
if _BIN not in os.environ.get("PATH", "").split(os.pathsep):
    os.environ["PATH"] = os.pathsep.join([_BIN, os.environ.get("PATH", os.defpath)])

# IPython keeps its history in the workspace, not in the home folder.
_ROOT = find_kedro_project(Path.cwd())
if _ROOT is not None:
    os.environ.setdefault("IPYTHONDIR", str(_ROOT / ".ipython"))


@click.group(name="axlebox")
def cli() -> None:
    """Commands of an axlebox workspace."""


@cli.command()
@click.pass_obj
def package(metadata: Any) -> None:
    """Package the workspace into dist/: a wheel that names what it needs, and its configuration.

    Kedro's own `package` builds in an isolated environment, which needs a package index.
    """
    root = metadata.project_path
    # What setuptools keeps there would bring back modules that were deleted, and a package's feature sets of then.
    leavings = [root / "build" / "lib", *(root / "build").glob("bdist.*"), *metadata.source_dir.glob("*.egg-info")]
    for path in leavings:
        shutil.rmtree(path, ignore_errors=True)
    call([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"], cwd=root)
    call(["tar", "--exclude=local/*", "-czf", f"dist/conf-{metadata.project_name}.tar.gz", "conf"], cwd=root)
    for path in metadata.source_dir.glob("*.egg-info"):
        shutil.rmtree(path, ignore_errors=True)


@cli.group()
@click.pass_obj
def pipeline(metadata: Any) -> None:
    """Make and delete pipelines of one's own, in a workspace with a package for them."""
    if metadata.package_name.partition(".")[0] == "axlebox":
        raise click.UsageError(
            "this workspace has no package for pipelines: it would never be found. "
            "DO: axlebox init DIR --with-pipelines"
        )
    import cookiecutter.main

    # `kedro pipeline create` makes files with it, and it would note down in the home folder which.
    cookiecutter.main.dump = lambda *words: None


for _command in kedros_pipeline.commands.values():
    pipeline.add_command(_command)
