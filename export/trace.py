"""`axlebox trace`: from an event, a bundle or a run back to everything that it was made from.

What is told comes from the bundle's signed manifest where the bundle is at hand, else from the run's record. Nothing
is written.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from axlebox.export.approve import signer_names
from axlebox.export.changes import changed, flat
from axlebox.export.copies import CHANGED, MISSING, WHOLE, Copy, find_copy
from axlebox.export.open import open_proposal
from axlebox.export.releases import ReleaseLine, read_releases
from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.firmware_bundle.manifest import Contract, Lineage
from axlebox.firmware_bundle.trust import Proposal
from axlebox.runtime.readings import format_time
from axlebox.training.parameters import BundleParameters, Parameters
from axlebox.training.provenance import code_revision, library_versions
from axlebox.training.runs import Run
from axlebox.training.workspace import Workspace

_EVENT = re.compile(r"(?P<digest>[0-9a-f]{8})-(?P<sensor>.+)-(?P<onset>[0-9]{1,11})(?:-(?P<what>[a-z-]+))?", re.DOTALL)
"""As the vehicle makes it: the beginning of the digest, sensor, onset in whole seconds; then a limit's name, if any."""
_RUN = re.compile(r"[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHOWN = 5
_COLUMNS, _LABEL = 100, 10


@dataclass(slots=True)
class Traced:
    """What was found, as plain data and in lines for people."""

    record: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """What is there and is not what was recorded."""

    def add(self, label: str, *texts: str) -> None:
        """Lines under a label, broken at spaces."""
        for text in texts:
            self.lines += textwrap.wrap(
                text,
                _COLUMNS,
                initial_indent=f"{label:{_LABEL}}",
                subsequent_indent=" " * _LABEL,
                break_long_words=False,
                break_on_hyphens=False,
            )
            label = ""


@dataclass(frozen=True, slots=True)
class _Event:
    id: str
    sensor: str
    onset: int
    """POSIX seconds."""
    what: str


@dataclass(frozen=True, slots=True)
class _Subject:
    """What somebody asked for."""

    event: _Event | None = None
    path: Path | None = None
    """Of a bundle that was named itself."""
    releases: tuple[ReleaseLine, ...] = ()
    run: str | None = None
    """Where a run was asked for."""


def trace(workspace: Workspace, what: str, trust: Path | None) -> Traced:
    """Trace an event's id, a bundle's file, a run's id, or the beginning of a digest.

    Raises UsageError where it is none of them, or more than one release can be meant; whatever else is missing is
    told. `damaged` of the result names copies whose bytes are not the recorded ones.
    """
    releases = read_releases(workspace.releases)
    subject = _find(workspace, releases, what)
    found = Traced()
    bundle = _tell_releases(found, workspace, subject, trust)
    if bundle is not None:
        subject = _Subject(subject.event, subject.path, subject.releases, bundle.manifest.lineage.run)
    run, record = _tell_run(found, workspace, subject, bundle)
    lineage = bundle.manifest.lineage if bundle is not None else record
    contract = bundle.manifest.contract if bundle is not None else _contract(run)
    if subject.event is not None:
        _tell_event(found, subject.event, contract)
    found.record["lineage"] = None if lineage is None else msgspec.to_builtins(lineage)
    if lineage is None:
        found.add("data", "unknown: neither the bundle nor the run is here")
    else:
        _tell_data(found, workspace, lineage)
        _tell_settings(found, lineage)
        _tell_code(found, workspace, lineage)
    return found


def _find(workspace: Workspace, releases: Sequence[ReleaseLine], what: str) -> _Subject:
    if Path(what).is_file():
        return _Subject(path=Path(what))
    if event := _EVENT.fullmatch(what):
        made = _Event(what, event["sensor"], int(event["onset"]), event["what"] or "anomaly")
        return _Subject(made, releases=(_by_digest(releases, event["digest"]),))
    runs = sorted(path.parent.name for path in workspace.runs.glob("*/run.json"))
    of_run = tuple(one for one in releases if one.run == what)
    if _RUN.fullmatch(what) and (what in runs or of_run):
        return _Subject(releases=of_run, run=what)
    if _DIGEST.fullmatch(what) and not _RUN.fullmatch(what):
        return _Subject(releases=(_by_digest(releases, what),))
    known = {**{one.run: one.run for one in releases}, **{name: name for name in runs}}
    known |= {str(path.relative_to(workspace.root)): path.name for path in sorted(workspace.dist.glob("*.axb"))}
    near = difflib.get_close_matches(what, known, 1) or difflib.get_close_matches(what, known.values(), 1)
    raise UsageError(
        f"{what!r} is no file, no event of a release and no run here"
        + (f"; did you mean {near[0]}?" if near else f"; {_newest(releases)}")
    )


def _by_digest(releases: Sequence[ReleaseLine], digest: str) -> ReleaseLine:
    """The one release whose digest begins so. Raises UsageError."""
    found = [one for one in releases if one.digest.startswith(digest)]
    if len(found) == 1:
        return found[0]
    if found:
        those = ", ".join(f"{_label(one)} {one.digest[:16]}" for one in found[-_SHOWN:])
        raise UsageError(
            f"the digests of {len(found)} releases begin with {digest}: {those}. DO: give the bundle's file"
        )
    near = difflib.get_close_matches(digest, [one.digest[: len(digest)] for one in releases], 1)
    hint = next(
        (f"the nearest is {_label(one)}, {near[0]}" for one in releases if one.digest[: len(digest)] in near), ""
    )
    raise UsageError(
        f"no release of this workspace has a digest that begins with {digest}; {hint or _newest(releases)}"
    )


def _newest(releases: Sequence[ReleaseLine]) -> str:
    if not releases:
        return "releases.jsonl names no release yet"
    newest = ", ".join(f"{_label(one)} {one.digest[:8]}" for one in reversed(releases[-_SHOWN:]))
    return f"the newest are {newest}"


def _label(one: ReleaseLine) -> str:
    return f"{one.name} {one.version}"


def _tell_releases(found: Traced, workspace: Workspace, subject: _Subject, trust: Path | None) -> Proposal | None:
    """Every release that is meant, and its bundle where it is at hand: the last one's, which is returned."""
    if subject.path is not None:
        bundle = open_proposal(subject.path, trust)
        listed = [one for one in read_releases(workspace.releases) if one.digest == bundle.digest]
        note = "" if listed else "; not in this workspace's releases.jsonl"
        found.record["releases"] = [_tell_bundle(found, workspace, bundle, subject.path, note)]
        return bundle
    found.record["releases"] = []
    last = None
    for line in subject.releases:
        opened = _in_dist(found, workspace, line, trust)
        if opened is None:
            found.add("release", f"{_label(line)}, {_day(line.released)}, digest {line.digest[:16]}, run {line.run}")
            found.add("", "bundle not in dist any more: the run's record is told, which nobody signed")
            found.record["releases"].append({**msgspec.to_builtins(line), "bundle": None})
        else:
            bundle, path = opened
            found.record["releases"].append(_tell_bundle(found, workspace, bundle, path, ""))
            last = bundle
    if not subject.releases:
        found.add("release", "none was made from this run")
    return last


def _in_dist(
    found: Traced, workspace: Workspace, line: ReleaseLine, trust: Path | None
) -> tuple[Proposal, Path] | None:
    """The bundle of a release, under its own name or another; what stands under its name and is another is damaged."""
    own = workspace.dist / f"{line.name}-{line.version}.axb"
    others = [path for path in sorted(workspace.dist.glob("*.axb"), reverse=True) if path != own]
    problem = None
    for path in [own, *others] if own.exists() else others:
        try:
            bundle = open_proposal(path, trust)
        except AxleboxError as error:
            problem = problem or (f"{path.name}: {error}" if path == own else None)
            continue
        if bundle.digest == line.digest:
            return bundle, path
    if problem:
        found.add("DAMAGED", problem)
        found.damaged.append(str(own))
    return None


def _tell_bundle(found: Traced, workspace: Workspace, bundle: Proposal, path: Path, note: str) -> dict[str, Any]:
    signed, _ = signer_names(bundle)
    found.add("release", f"{bundle.label}, {_day(bundle.released)}, digest {bundle.digest[:16]}{note}")
    found.add("bundle", _shown(workspace, path))
    by = ", ".join(signed) or "nobody"
    found.add("signed", f"by {by}; {bundle.signatures_needed} needed, under root {bundle.root_version}")
    return {
        "name": bundle.manifest.name,
        "version": bundle.manifest.version,
        "digest": bundle.digest,
        "run": bundle.manifest.lineage.run,
        "released": bundle.released.isoformat(),
        "bundle": str(path),
        "signers": signed,
        "signatures_missing": bundle.signatures_missing,
    }


def _tell_event(found: Traced, event: _Event, contract: Contract | None) -> None:
    onset = format_time(event.onset)
    kind = None if contract is None else contract.kind_of(event.sensor)
    group = contract.sensors[event.sensor].group if contract is not None and event.sensor in contract.sensors else None
    about = f" (kind {kind}{f', group {group}' if group else ''})" if kind else ""
    lines, found.lines = found.lines, []
    found.add("event", f"{event.what} of sensor {event.sensor}{about}", f"onset {onset}")
    found.lines += lines
    found.record["event"] = {
        "id": event.id,
        "what": event.what,
        "sensor": event.sensor,
        "kind": kind,
        "onset": onset,
    }


def _tell_run(
    found: Traced, workspace: Workspace, subject: _Subject, bundle: Proposal | None
) -> tuple[Run | None, Lineage | None]:
    """The run's folder and its lineage, where they are here, held against the bundle."""
    name = subject.run or next((one.run for one in subject.releases), "")
    run = Run(workspace.runs / name)
    told: dict[str, Any] = {"run": name, "folder": None}
    found.record["run"] = told
    if not name or not (run.folder / "run.json").is_file():
        found.add("run", f"{name}: its folder is not in runs")
        return None, None
    try:
        record = run.record()
        models = run.models()
    except (AxleboxError, OSError) as error:
        found.add("run", f"{name}: DAMAGED: {error}")
        found.damaged.append(str(run.folder))
        return None, None
    made = f"{record.created:%Y-%m-%d %H:%M} UTC by {record.created_by}"
    told |= {"folder": str(run.folder), "created": record.created.isoformat(), "created_by": record.created_by}
    found.add("run", f"{name} in {_shown(workspace, run.folder)}, {made}")
    if bundle is not None:
        differing = _differing(record.lineage, bundle.manifest.lineage)
        other = [model for model, data in models.items() if bundle.members.get(model) != data]
        told |= {"differs_in": differing, "other_models": other}
        if differing:
            found.add("", f"run.json and the manifest differ in {', '.join(differing)}")
        if other:
            found.add("", f"DAMAGED: {', '.join(other)} of the run and of the bundle differ")
        if not differing and not other:
            found.add(
                "", "run.json says the same as the manifest" + (", and the models are the same" if models else "")
            )
        # To train it again at another commit is no damage: RUN does not depend on it.
        if other or set(differing) - {"code.commit"}:
            found.damaged.append(str(run.folder))
    return run, record.lineage


def _differing(one: Lineage, other: Lineage) -> list[str]:
    return [change.name for change in changed(*(dict(flat("", msgspec.to_builtins(two))) for two in (one, other)))]


def _contract(run: Run | None) -> Contract | None:
    try:
        return None if run is None else run.detector().contract
    except AxleboxError:
        return None


_STATES = {
    WHOLE: "the copy has these bytes",
    CHANGED: "DAMAGED: the copy has other bytes. DO: axlebox ingest that very file again",
    MISSING: "no copy is here",
}


def _tell_data(found: Traced, workspace: Workspace, lineage: Lineage) -> None:
    copies = [find_copy(workspace, one) for one in lineage.data]
    found.damaged += [str(one.path) for one in copies if one.state == CHANGED]
    for one in copies:
        file = one.file
        found.add("data", f"{file.name}: {file.rows} rows, {file.invalid} not used; {_STATES[one.state]}")
        found.add("", f"sha256 {file.sha256}" if one.state == MISSING else _shown(workspace, one.path))
    found.record["data"] = [_copy_record(one) for one in copies]


def _copy_record(copy: Copy) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(copy.file),
        "copy": None if copy.state == MISSING else str(copy.path),
        "state": copy.state,
    }


def _tell_settings(found: Traced, lineage: Lineage) -> None:
    """Settings that are not the defaults of the axlebox that is installed here, then all the others."""
    defaults = dict(flat("", Parameters(BundleParameters("default")).training_only()))
    used = dict(flat("", lineage.parameters))
    other = {name: value for name, value in used.items() if defaults.get(name) != value}
    told = [f"{name} {value} (default {defaults.get(name, 'none')})" for name, value in other.items()]
    found.add("settings", ", ".join(told) if told else "all as by default")
    usual = [f"{name} {value}" for name, value in used.items() if name not in other]
    if usual and told:
        found.add("", f"as by default: {', '.join(usual)}")
    missing = sorted(defaults.keys() - used.keys())
    if missing:
        found.add("", f"not known then: {', '.join(missing)}")
    found.record["settings"] = {"not_default": other, "all": lineage.parameters}


def _tell_code(found: Traced, workspace: Workspace, lineage: Lineage) -> None:
    code, here = lineage.code, code_revision(workspace.root)
    same = code.source_sha256 == here.source_sha256
    installed = "installed here" if same else f"NOT what is installed here (axlebox {here.axlebox})"
    found.add("code", f"axlebox {code.axlebox}, {installed}", f"source sha256 {code.source_sha256}")
    commit, known = code.commit, _has_commit(workspace.root, code.commit)
    found.add("commit", f"{commit or 'none: the workspace was not in git'}{_COMMITS[known]}")
    found.add("versions", ", ".join(f"{name} {version}" for name, version in sorted(lineage.versions.items())))
    others = changed(lineage.versions, library_versions())
    found.add("", f"others here: {', '.join(map(str, others))}" if others else "the same are installed here")
    found.record["code"] = {**msgspec.to_builtins(code), "same_as_installed": same, "commit_here": known}
    found.record["versions"] = {
        "recorded": dict(lineage.versions),
        "others_here": {one.name: [one.before, one.after] for one in others},
    }


_COMMITS: Mapping[bool | None, str] = {
    True: ", in this repository",
    False: ", which no git repository here has",
    None: "",
}


def _has_commit(folder: Path, commit: str | None) -> bool | None:
    """Whether a workspace's repository has a commit; None where none is recorded."""
    if commit is None:
        return None
    name = commit.removesuffix("-dirty")
    if not _COMMIT.fullmatch(name):
        return False
    words = ["git", "-C", str(folder), "cat-file", "-e", f"{name}^{{commit}}"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:  # no git here
        return False


def _shown(workspace: Workspace, path: Path) -> str:
    """A path as short as it is understood: inside the workspace, relative to it."""
    path = path.resolve()
    root = workspace.root.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _day(when: datetime) -> str:
    return f"released {when.astimezone(UTC):%Y-%m-%d}"
