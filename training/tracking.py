"""MLflow as an index of the runs: it can be lost, and `axlebox runs reindex` rebuilds it from the runs' folders.

Nothing here loads MLflow before it is needed. The workspace's own store is mlflow/mlflow.db with its files in
mlflow/artifacts; `tracking.uri` names a remote server instead.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, Damaged, UsageError
from axlebox.training.champion import roles
from axlebox.training.parameters import Parameters
from axlebox.training.runs import Run, run_folders
from axlebox.training.workspace import Workspace

if TYPE_CHECKING:
    from axlebox.training.mlflow_store import Index, Known

_REINDEX = "DO: axlebox runs reindex"
_DATABASE = "mlflow.db"
_BESIDE = ("-journal", "-wal", "-shm")
_REASON_CHARACTERS = 300
_paused: ContextVar[bool] = ContextVar("paused", default=False)


class NotIndexed(AxleboxError):
    """MLflow's index is behind the runs, which are all safe."""

    def __init__(self, message: str, run: Run | None = None) -> None:
        super().__init__(message)
        self.run = run
        """The run that was just recorded, where there is one."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index holds now."""

    runs: int
    versions: int
    """Of registered models."""
    unreadable: tuple[str, ...]
    """Run folders that were left out."""
    set_aside: Path | None = None
    """Where a damaged store was moved."""


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Trainings within this context are recorded and not indexed: for throw-away workspaces."""
    token = _paused.set(True)
    try:
        yield
    finally:
        _paused.reset(token)


def check_index(workspace: Workspace, parameters: Parameters) -> None:
    """Raise Damaged where the workspace's own store can no longer be read, before work is put into a run.

    Milliseconds, and without MLflow. The caller holds the workspace's lock.
    """
    if parameters.tracking.uri is None and not _paused.get():
        if "?" in str(workspace.root):  # SQLAlchemy would take what follows for settings
            raise UsageError(f"MLflow's store cannot lie in {workspace.root}, for the `?`. DO: rename that folder")
        problem = _damage(_database(workspace))
        if problem:
            raise Damaged(f"{_database(workspace)} is not readable ({problem}); the runs themselves are. {_REINDEX}")


def record(workspace: Workspace, parameters: Parameters, run: Run | None = None) -> None:
    """Bring the index up to date; the caller holds the workspace's lock.

    Puts in `run` as it is now, every run that is missing, and the aliases. Raises NotIndexed.
    """
    if _paused.get():
        return
    said = "MLflow's index is not up to date"
    with _explained(said if run is None else f"run {run.folder.name} is safe, but {said}", run):
        _update(workspace, parameters, frozenset() if run is None else frozenset({run.folder.name}))


def reindex(workspace: Workspace, parameters: Parameters) -> Indexed:
    """Make the index anew from the runs' folders: the workspace's own store as a new file, a server's entries in place.

    A damaged store is moved aside as mlflow.db.damaged. Raises NotIndexed; the earlier store is then as it was.
    """
    with workspace.locked(), _explained("the index was not rebuilt", None):
        if parameters.tracking.uri is None:
            return _rebuild(workspace, parameters.bundle.name)
        return _update(workspace, parameters, None)


def _update(workspace: Workspace, parameters: Parameters, compare: frozenset[str] | None) -> Indexed:
    """Update in place; `compare` None compares every run."""
    from axlebox.training import mlflow_store

    uri, name = parameters.tracking.uri, parameters.bundle.name
    with mlflow_store.quiet():
        if uri is not None:
            index = mlflow_store.Index(uri, name, None, _scratch(workspace))
        elif (found := _open_own(workspace, name)) is not None:
            index = found
        else:
            return _rebuild(workspace, name)
        return _fill(workspace, index, compare)


def _open_own(workspace: Workspace, name: str) -> Index | None:
    """The workspace's own store; None where there is none, or one that must be made anew.

    That is one of another MLflow's layout, and one whose folder was moved or copied: its files are elsewhere.
    """
    from mlflow.exceptions import MlflowException

    from axlebox.training import mlflow_store

    database = _database(workspace)
    if not database.exists() or database.stat().st_size == 0:
        return None
    try:
        index = mlflow_store.Index(_sqlite(database), name, _new_artifacts(workspace).as_uri(), _scratch(workspace))
    except MlflowException as error:
        if "out-of-date database schema" in str(error):
            return None
        raise
    return index if index.artifacts.startswith(_artifacts(workspace).as_uri() + "/") else None


def _rebuild(workspace: Workspace, name: str) -> Indexed:
    """A store of all runs under another name, which then takes the old one's place.

    A kill in between leaves the old store, or none, which the next training answers with a whole new one.
    """
    from axlebox.training import mlflow_store

    database, files = _database(workspace), _new_artifacts(workspace)
    workspace.mlflow.mkdir(exist_ok=True)
    for left in workspace.mlflow.glob(f"{_DATABASE}.*.part*"):  # of a rebuilding that was killed
        left.unlink()
    part = database.with_name(f"{_DATABASE}.{files.name}.part")
    try:
        with mlflow_store.quiet():
            done = _fill(workspace, mlflow_store.Index(_sqlite(part), name, files.as_uri(), _scratch(workspace)), None)
    except BaseException:
        with contextlib.suppress(OSError):
            for left in workspace.mlflow.glob(f"{part.name}*"):
                left.unlink()
            if files.exists():
                disk.remove_tree(files)
        raise
    aside = _make_room(database)
    disk.rename_durable(part, database)
    for old in _artifacts(workspace).glob("*"):
        if old != files:
            disk.remove_tree(old)
    return Indexed(done.runs, done.versions, done.unreadable, aside)


def _make_room(database: Path) -> Path | None:
    """Take the old store away; where it was moved, if it is damaged."""
    aside = None
    if _damage(database):
        aside = database.with_name(f"{_DATABASE}.damaged")
        disk.remove_tree(aside)
        disk.rename_durable(database, aside)
    for suffix in ("", *_BESIDE):  # a journal left behind would be played into the new store
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return aside


def _fill(workspace: Workspace, index: Index, compare: frozenset[str] | None) -> Indexed:
    runs, unreadable = _read_all(workspace)
    names = [one.name for one in runs]
    proved = [one.name for one in runs if one.parity is not None]
    chosen = frozenset(names) if compare is None else compare
    versions = index.update(runs, chosen, roles(workspace, proved))
    return Indexed(len(runs), versions, tuple(unreadable))


def _read_all(workspace: Workspace) -> tuple[list[Known], list[str]]:
    """Every readable run, oldest first, and the names of the others."""
    from axlebox.training.mlflow_store import read_run

    found, unreadable = [], []
    for folder in run_folders(workspace.runs):
        try:
            found.append(read_run(folder))
        except AxleboxError:
            unreadable.append(folder.name)
    return sorted(found, key=lambda one: (one.record.created, one.name)), unreadable


def _damage(database: Path) -> str | None:
    """Why SQLite cannot read a store; None where it can, or there is none."""
    if not database.exists():
        return None
    if not database.is_file():
        return "it is no file"
    try:
        # Not read-only: what a killed program left in the journal is first taken back.
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None  # locked or not writable: whoever writes there will say so
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else " ".join(str(found).split())


@contextlib.contextmanager
def _explained(said: str, run: Run | None) -> Iterator[None]:
    """Any failure as NotIndexed: MLflow, SQLAlchemy, requests and the disk raise what they like, and no run is lost."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise NotIndexed(
            f"{said}: {error.name} is not installed. DO: pip install 'axlebox[workstation]'", run
        ) from error
    except Exception as error:
        raise NotIndexed(f"{said}: {_reason(error)}. DO: mend that, then axlebox runs reindex", run) from error


def _reason(error: BaseException) -> str:
    """One short line without a secret."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    text = re.sub(r"//[^/@\s]+@", "//", text)  # of a proxy, say
    text = " ".join(re.sub(r"\s*\(Background on this error.*", "", text, flags=re.S).split())
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + " ..."


def _database(workspace: Workspace) -> Path:
    return workspace.mlflow / _DATABASE


def _artifacts(workspace: Workspace) -> Path:
    return workspace.mlflow / "artifacts"


def _scratch(workspace: Workspace) -> Path:
    return workspace.root / "data" / "mlflow.part"


def _new_artifacts(workspace: Workspace) -> Path:
    """A folder of its own for each store: what belongs to a replaced one is removed as a whole."""
    return _artifacts(workspace) / uuid4().hex[:12]


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path}"
