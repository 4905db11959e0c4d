"""`axlebox reproduce`: train and export a release again, from what it says of itself, and compare every byte.

The signed manifest says what went in: data by their hashes, settings, contract, code, versions. The copies of the data
come from the workspace, and so does its own package where it has one; both are only read. All that is made is made in
a scratch workspace in a temporary folder, which is removed at the end.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import structs

from axlebox.export.build import prove_run, release_files
from axlebox.export.changes import Change, changed, flat
from axlebox.export.copies import Copy, find_copy, require_whole, stored_file
from axlebox.export.evidence import SBOM
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import GateFailed, UsageError, naming
from axlebox.firmware_bundle.manifest import Lineage, Manifest, decode_manifest
from axlebox.firmware_bundle.trust import MANIFEST, Proposal
from axlebox.training import tracking
from axlebox.training.parameters import BundleParameters
from axlebox.training.provenance import git_commit
from axlebox.training.raw_data import write_current
from axlebox.training.run import load_parameters, train
from axlebox.training.runs import Run
from axlebox.training.workspace import Workspace, init_workspace

Say = Callable[[str], None]

_SHOWN = 5
"""Differences that are told of one member."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the release, as recorded and as made again; None where one of the two has no such file."""

    name: str
    before: bytes | None
    after: bytes | None

    @property
    def same(self) -> bool:
        return self.before == self.after

    def changes(self) -> tuple[Change, ...]:
        """What differs, by dotted names or by lines; a model as a whole."""
        return changed(*(dict(_parts(self.name, data)) for data in (self.before, self.after)))


@dataclass(frozen=True, slots=True)
class Reproduced:
    """What came out beside what was recorded."""

    label: str
    run: str
    """That was made again."""
    members: tuple[Member, ...]
    inputs: tuple[Change, ...]
    """Which inputs were others than the recorded ones."""
    notes: tuple[str, ...]

    @property
    def same(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.members if one.same)

    @property
    def different(self) -> tuple[Member, ...]:
        return tuple(one for one in self.members if not one.same)


def reproduce(workspace: Workspace, bundle: Proposal, say: Say) -> Reproduced:
    """Train and export a bundle's release again. The workspace is only read.

    Raises UsageError where a copy of the data is missing, Damaged where one has other bytes, and GateFailed where
    this axlebox does not know the recorded settings.
    """
    recorded = bundle.manifest
    copies = [find_copy(workspace, one) for one in recorded.lineage.data]
    for copy in copies:
        require_whole(copy)
    with tempfile.TemporaryDirectory(prefix="axlebox-reproduce-") as folder, disk.explained():
        scratch = make_scratch(workspace, Path(folder) / "scratch", recorded, copies)
        say(f"training {bundle.label} again, from {len(copies)} file{'s' * (len(copies) > 1)} of readings")
        with naming(f"making {bundle.label} again"):
            run = _train(scratch)
            proved = prove_run(run, say)
            lineage = _at_recorded_commit(run.record().lineage, recorded)
            files = release_files(run, proved, lineage, _aim(recorded), recorded.version)
    return compare(workspace, bundle, files)


def compare(workspace: Workspace, bundle: Proposal, files: Mapping[str, bytes]) -> Reproduced:
    """The members of a bundle beside those that were made again."""
    recorded, made = bundle.manifest, decode_manifest(files[MANIFEST])
    return Reproduced(
        label=bundle.label,
        run=made.lineage.run,
        members=tuple(
            Member(name, bundle.members.get(name), files.get(name)) for name in sorted({*bundle.members, *files})
        ),
        inputs=changed(_inputs(recorded), _inputs(made)),
        notes=tuple(_notes(workspace, recorded)),
    )


def make_scratch(workspace: Workspace, folder: Path, recorded: Manifest, copies: Sequence[Copy]) -> Workspace:
    """A new workspace that trains what a manifest records, on the copies of its data."""
    scratch = init_workspace(folder)
    parameters = {**recorded.lineage.parameters, "bundle": msgspec.to_builtins(_aim(recorded))}
    _write_yaml(scratch.root / "conf/base/parameters.yml", parameters)
    _write_yaml(scratch.contract_path, msgspec.to_builtins(recorded.contract))
    for copy in copies:
        link = scratch.raw / copy.path.name
        if not link.exists():  # one file may have been given twice
            link.symlink_to(copy.path.resolve())
    write_current(scratch, tuple(map(stored_file, copies)))
    _take_own_package(workspace, scratch)
    try:
        load_parameters(scratch)
    except UsageError as error:
        raise GateFailed(
            f"{recorded.name} {recorded.version} was made with settings that this axlebox does not know: {error}. "
            f"DO: install axlebox {recorded.lineage.code.axlebox}"
        ) from error
    return scratch


def _take_own_package(workspace: Workspace, scratch: Workspace) -> None:
    """The workspace's own package of pipelines and feature sets, where it has one, and its part of the catalog.

    A bundle carries no code: the source_sha256 of the outcome says whether it is the recorded one.
    """
    package = workspace.own_package
    if package is None:
        return
    shutil.copyfile(workspace.root / "pyproject.toml", scratch.root / "pyproject.toml")
    target = scratch.root / package.relative_to(workspace.root)
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in sorted((workspace.root / "conf/base").glob("catalog*")):
        if path.is_file():
            shutil.copyfile(path, scratch.root / "conf/base" / path.name)


def _train(scratch: Workspace) -> Run:
    """The same Kedro run as `axlebox train`. Plugins of Kedro and nodes of users write into the current folder."""
    with contextlib.chdir(scratch.root), tracking.paused():
        return train(scratch, {})


def _aim(recorded: Manifest) -> BundleParameters:
    """The settings of the bundle that stand in its manifest."""
    return BundleParameters(recorded.name, recorded.hardware, recorded.vehicles, recorded.min_sequence)


def _at_recorded_commit(made: Lineage, recorded: Manifest) -> Lineage:
    """A scratch workspace is no checkout: its commit says nothing, and the recorded one is put in its place."""
    return structs.replace(made, code=structs.replace(made.code, commit=recorded.lineage.code.commit))


def _write_yaml(path: Path, plain: Any) -> None:
    # Not as JSON, which YAML reads otherwise: 1e-05 would be a text.
    path.write_text(yaml.safe_dump(plain, allow_unicode=True), encoding="utf-8")


def _inputs(manifest: Manifest) -> dict[str, str]:
    """Everything that goes into a release, by its dotted name. The commit does not: it is put in place."""
    plain = msgspec.to_builtins(manifest)
    lineage = plain["lineage"]
    del lineage["code"]["commit"]
    found = {
        "data": {one["name"]: one for one in lineage["data"]},
        "settings": lineage["parameters"],
        "contract": plain["contract"],
        "code": lineage["code"],
        "versions": lineage["versions"],
        "proved_on": plain["proved_on"],
    }
    return dict(flat("", found))


def _notes(workspace: Workspace, recorded: Manifest) -> Iterator[str]:
    commit, here = recorded.lineage.code.commit, git_commit(workspace.root)
    if commit is None:
        return
    told = "" if here == commit else f"; this workspace is at {here or 'no commit'}"
    yield f"manifest.json was made with the recorded commit {commit} in it{told}"


def _parts(name: str, data: bytes | None) -> Iterator[tuple[str, str]]:
    """What is compared within a member."""
    if data is None:
        return
    if name.endswith(".json"):
        yield from flat("", msgspec.json.decode(data))
    elif name.endswith(".md"):
        for number, line in enumerate(data.decode("ascii", "backslashreplace").splitlines(), start=1):
            yield f"line {number:4}", line
    else:
        yield "content", f"{len(data)} bytes, sha256 {sha256(data).hexdigest()}"


def describe(found: Reproduced) -> tuple[dict[str, Any], list[str]]:
    """The outcome as plain data, and in lines for people."""
    lines = [f"made again: {found.label}, run {found.run}"]
    if found.same:
        lines.append(f"byte-identical: {', '.join(found.same)}")
    for member in found.different:
        changes = member.changes()
        lines.append(f"DIFFERENT: {member.name}{_missing(member)}")
        lines += [f"  {_short(one)}" for one in changes[:_SHOWN]]
        if len(changes) > _SHOWN:
            lines.append(f"  and {len(changes) - _SHOWN} more differences")
    lines += [f"input changed: {_short(one)}" for one in found.inputs]
    lines += [f"note: {one}" for one in found.notes]
    record = {
        "release": found.label,
        "run": found.run,
        "same": found.same,
        "different": {one.name: [msgspec.to_builtins(change) for change in one.changes()] for one in found.different},
        "inputs_changed": [msgspec.to_builtins(one) for one in found.inputs],
        "notes": found.notes,
    }
    return record, lines


def require_identical(found: Reproduced) -> None:
    """Raise GateFailed, with what explains it, where one byte differs."""
    if not found.different:
        return
    names = ", ".join(one.name for one in found.different)
    models = all(one.same for one in found.members if one.name.endswith(".onnx"))
    raise GateFailed(
        f"{found.label} was not made again byte for byte: {names} differ"
        f"{', the model does not' if models else ''}; {explanation(found)}"
    )


def explanation(found: Reproduced) -> str:
    """Why bytes differ, in one line."""
    if found.inputs:
        told = ", ".join(map(_short, found.inputs[:_SHOWN]))
        more = f" and {len(found.inputs) - _SHOWN} more" if len(found.inputs) > _SHOWN else ""
        return f"what changed: {told}{more}"
    if {one.name for one in found.different} <= _LISTING:
        return "what is installed here, or the vehicle's lock, is another: the bill of materials lists it"
    return "every recorded input is the same: another processor, or a bug. DO: try it on the machine that exported"


_LISTING = {SBOM, "provenance.json"}
"""Members that tell of the vehicle's lock and of licences, which are no inputs of a training."""


def _missing(member: Member) -> str:
    if member.before is None:
        return ", which the release does not have"
    return ", which was not made" if member.after is None else ""


def _short(change: Change) -> str:
    """A change whose values fit into a line."""
    before, after = (None if one is None else _cut(one) for one in (change.before, change.after))
    return str(Change(change.name, before, after))


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
