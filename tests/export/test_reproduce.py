"""`axlebox reproduce`: the same bytes on every machine, and where they differ, the input that changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from axlebox.export import reproduce as module
from axlebox.export.copies import find_copy
from axlebox.export.open import open_proposal
from axlebox.export.reproduce import Reproduced, compare, describe, make_scratch, reproduce, require_identical
from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.errors import Damaged, GateFailed, Malformed, UsageError
from axlebox.firmware_bundle.manifest import Contract, Kind, Manifest, Sensor, encode
from axlebox.firmware_bundle.trust import Proposal
from axlebox.training import runs
from axlebox.training.contract import load_contract
from axlebox.training.provenance import library_versions
from axlebox.training.run import load_parameters
from axlebox.training.workspace import Workspace

SIGNATURES = {"timestamp.json", "snapshot.json", "targets.json", "1.root.json"}
"""Members that hold keys, signatures and times of their own."""


def bundle_of(folder: Path) -> Path:
    (path,) = (folder / "dist").glob("*.axb")
    return path


@pytest.fixture
def proposal(copied: Path) -> Proposal:
    return open_proposal(bundle_of(copied), copied / "trust/root.json")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary folders are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file with its sha256 and the time of its last change."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def silent(line: str) -> None:
    pass


def with_manifest(proposal: Proposal, change: Callable[[Manifest], Manifest]) -> dict[str, bytes]:
    """The members of a release as they would be made again if its manifest came out otherwise."""
    return {**proposal.members, "manifest.json": encode(change(proposal.manifest))}


def with_lineage(**changes: Any) -> Callable[[Manifest], Manifest]:
    return lambda one: structs.replace(one, lineage=structs.replace(one.lineage, **changes))


MACHINES: tuple[tuple[str, dict[str, str], str, int], ...] = (
    ("a", {"PYTHONHASHSEED": "1", "TZ": "Pacific/Auckland", "LC_ALL": "C", "OMP_NUM_THREADS": "1"}, "1", 1),
    (
        "further/away",
        {"PYTHONHASHSEED": "4242", "TZ": "America/New_York", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "3"},
        "2",
        -1,
    ),
)
"""Folder, environment, workers, and the order of the contract of each."""
KINDS = ["oil: {unit: C}", "bearing: {unit: C, period_s: 300}"]
SENSORS = ["T01.axle1.left: {kind: oil, group: T01}", "T01.axle1.right: {kind: bearing, group: T01}"]


def test_two_clean_machines_make_the_same_run_and_the_same_bytes(axlebox: Any, exported: Path, tmp_path: Path) -> None:
    made = []
    for folder, environment, workers, order in MACHINES:
        home = tmp_path / folder / "home"
        home.mkdir(parents=True)
        program = type(axlebox)(axlebox.command, {**axlebox.environment, **environment, "HOME": str(home)})
        fleet = tmp_path / folder / "fleet"
        program.ok("init", fleet)
        shutil.copyfile(exported / "conf/base/parameters.yml", fleet / "conf/base/parameters.yml")
        contract = f"kinds: {{{', '.join(KINDS[::order])}}}\nsensors: {{{', '.join(SENSORS[::order])}}}\n"
        (fleet / "conf/base/contract.yml").write_text(contract)
        program.ok("ingest", exported.parent / "readings.csv", cwd=fleet)
        program.ok("train", "--params", f"forest.n_estimators=20,forest.n_jobs={workers}", cwd=fleet)
        program.ok("keys", "init", "--single", cwd=fleet)
        program.ok("export", "--accept-missed-target", cwd=fleet)
        members = unpack(bundle_of(fleet).read_bytes())
        signed = {name: data for name, data in members.items() if name not in SIGNATURES}
        made.append(((fleet / "runs/latest").read_text(), signed))
    (one, its), (other, others) = made
    assert one == other
    assert its.keys() == others.keys() >= {"model-0.onnx", "model-1.onnx", "manifest.json", "golden.json"}
    assert [name for name in its if its[name] != others[name]] == []


def test_a_bundle_is_made_again_byte_for_byte_and_the_workspace_is_only_read(
    axlebox: Any, copied: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (copied / "conf/base/parameters.yml").write_text("what: was changed since\n")
    (copied / "conf/base/contract.yml").write_text("and this too\n")
    shutil.rmtree(copied / "runs")
    (copied / "data/01_raw/current.json").unlink()
    before = contents(copied)
    program = type(axlebox)(axlebox.command, {**axlebox.environment, "TMPDIR": str(temporary)})
    said = program.ok("reproduce", bundle_of(copied), cwd=copied)
    members = sorted(set(unpack(bundle_of(copied).read_bytes())) - SIGNATURES)
    assert f"byte-identical: {', '.join(members)}\n" in said and "DIFFERENT" not in said
    assert contents(copied) == before
    assert list(temporary.iterdir()) == []


def test_other_libraries_are_tried_and_then_named(
    copied: Path, proposal: Proposal, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "library_versions", lambda: {**library_versions(), "numpy": "99.0"})
    found = reproduce(Workspace(copied), proposal, silent)
    assert {"model.onnx", "golden.json"} <= set(found.same)
    assert {one.name for one in found.different} == {"manifest.json", "card.md", "provenance.json", "sbom.cdx.json"}
    (changed,) = found.inputs
    assert (changed.name, changed.after) == ("versions.numpy", '"99.0"')
    with pytest.raises(GateFailed, match=r"manifest.json.* differ, the model does not; what changed: versions.numpy: "):
        require_identical(found)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda one: with_lineage(code=structs.replace(one.lineage.code, source_sha256="f" * 64))(one), "code.source"),
        (lambda one: with_lineage(code=structs.replace(one.lineage.code, axlebox="9.0"))(one), "code.axlebox"),
        (lambda one: with_lineage(parameters={**one.lineage.parameters, "new": 3})(one), "settings.new: none -> 3"),
        (lambda one: with_lineage(versions={**one.lineage.versions, "scipy": "0.1"})(one), "versions.scipy"),
        (
            lambda one: structs.replace(one, contract=Contract({"temperature": Kind(warn=90.0)})),
            "contract.kinds.temperature.warn: null -> 90.0",
        ),
        (
            lambda one: structs.replace(one, proved_on={**one.proved_on, "machine": "riscv64"}),
            'proved_on.machine: "x86_64" -> "riscv64"',
        ),
    ],
)
def test_a_difference_is_explained_by_the_input_that_changed(
    copied: Path, proposal: Proposal, change: Any, named: str
) -> None:
    if "riscv64" in named:
        named = named.replace("x86_64", proposal.manifest.proved_on["machine"])
    found = compare(Workspace(copied), proposal, with_manifest(proposal, change))
    assert [one.name for one in found.different] == ["manifest.json"]
    _, lines = describe(found)
    assert any(line.startswith("input changed: ") and named in line for line in lines)
    with pytest.raises(GateFailed) as error:
        require_identical(found)
    assert named in str(error.value) and error.value.exit_code == 50


def test_other_bytes_from_equal_inputs_are_the_machine_s_or_a_bug(copied: Path, proposal: Proposal) -> None:
    model = proposal.members["model.onnx"] + b"\0"
    found = compare(Workspace(copied), proposal, {**proposal.members, "model.onnx": model})
    (one,) = found.different
    assert hashlib.sha256(model).hexdigest() in str(one.changes()[0])
    with pytest.raises(GateFailed, match=r"model.onnx differ; every recorded input is the same: another processor"):
        require_identical(found)


def test_the_recorded_commit_is_put_in_place_and_said_so(
    copied: Path, proposal: Proposal, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = structs.replace(proposal.manifest.lineage.code, commit="a" * 40)
    manifest = with_lineage(code=code)(proposal.manifest)
    members = {**proposal.members, "manifest.json": encode(manifest)}
    recorded: Any = SimpleNamespace(manifest=manifest, members=members, label="fleet 1")
    monkeypatch.setattr(module, "_train", lambda scratch: runs.open_run(copied / "runs", None))
    found = reproduce(Workspace(copied), recorded, silent)
    assert "manifest.json" in found.same and found.inputs == ()
    (note,) = found.notes
    assert "a" * 40 in note and "this workspace is at no commit" in note


def test_a_member_more_or_less_is_a_difference(copied: Path, proposal: Proposal) -> None:
    less = {name: data for name, data in proposal.members.items() if name != "card.md"}
    found = compare(Workspace(copied), proposal, {**less, "extra.json": b"{}"})
    assert {one.name for one in found.different} == {"card.md", "extra.json"}
    _, lines = describe(found)
    assert "DIFFERENT: card.md, which was not made" in lines
    assert "DIFFERENT: extra.json, which the release does not have" in lines


def test_another_bill_of_materials_alone_is_told_to_be_just_that(copied: Path, proposal: Proposal) -> None:
    bill = json.loads(proposal.members["sbom.cdx.json"])
    bill["components"][1]["version"] = "9"
    files = {**proposal.members, "sbom.cdx.json": json.dumps(bill).encode()}
    with pytest.raises(GateFailed, match=r"the model does not; .* the vehicle's lock"):
        require_identical(compare(Workspace(copied), proposal, files))


@pytest.mark.parametrize(
    ("spoil", "error"), [(Path.unlink, UsageError), (lambda path: path.write_text("1,2"), Damaged)]
)
def test_data_that_is_not_what_was_recorded_is_named_before_anything_is_trained(
    copied: Path, proposal: Proposal, temporary: Path, spoil: Any, error: type[Exception]
) -> None:
    (data,) = proposal.manifest.lineage.data
    spoil(copied / "data/01_raw" / f"{data.sha256}.csv")
    with pytest.raises(error, match=f"readings.csv, sha256 {data.sha256}"):
        reproduce(Workspace(copied), proposal, silent)


def test_after_a_failure_nothing_is_left_behind(
    copied: Path, proposal: Proposal, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copied)

    def fail(scratch: Workspace) -> Any:
        assert (scratch.raw / "current.json").is_file() and list(temporary.iterdir())
        raise Malformed("no reading passes")

    monkeypatch.setattr(module, "_train", fail)
    with pytest.raises(Malformed, match="making fleet 1 again: no reading passes"):
        reproduce(Workspace(copied), proposal, silent)
    assert list(temporary.iterdir()) == [] and contents(copied) == before


def test_settings_that_this_axlebox_does_not_know_are_named_with_the_version_that_does(
    copied: Path, proposal: Proposal, tmp_path: Path
) -> None:
    manifest = with_lineage(parameters={"forrest": {"n_estimators": 3}})(proposal.manifest)
    with pytest.raises(GateFailed, match=r"no forrest; did you mean forest\?.*install axlebox 0.1.0"):
        make_scratch(Workspace(copied), tmp_path / "scratch", manifest, [])


def test_the_scratch_workspace_reads_back_what_the_manifest_records(
    copied: Path, proposal: Proposal, tmp_path: Path
) -> None:
    contract = Contract(
        {"1": Kind(unit="°C", max_rate_per_s=1e-05), "no": Kind(action="call 112: at once # now", range=(-4.0, 1e300))},
        {"2026-01-01": Sensor("no", "~"), "${home}": Sensor("1", offset=0.1 + 0.2)},
    )
    parameters = {"threshold": {"target_false_alarms_per_day": 1e-07}, "streaming": {"hour": 0.1 + 0.2}}
    manifest = structs.replace(with_lineage(parameters=parameters)(proposal.manifest), contract=contract)
    copies = [find_copy(Workspace(copied), one) for one in manifest.lineage.data]
    scratch = make_scratch(Workspace(copied), tmp_path / "scratch", manifest, copies * 2)
    found = load_parameters(scratch)
    assert load_contract(scratch.contract_path) == contract
    assert (found.threshold.target_false_alarms_per_day, found.streaming.hour) == (1e-07, 0.1 + 0.2)
    assert (found.bundle.name, found.bundle.hardware) == (manifest.name, manifest.hardware)
    current = json.loads((scratch.raw / "current.json").read_bytes())["files"]
    assert [one["sha256"] for one in current] == [manifest.lineage.data[0].sha256] * 2
    assert (scratch.raw / current[0]["stored"]).read_bytes() == (copied.parent / "fleet" / copies[0].path).read_bytes()


def test_a_workspace_s_own_package_is_what_trains_again(copied: Path, proposal: Proposal, tmp_path: Path) -> None:
    package = copied / "src/my_fleet"
    (package / "__pycache__").mkdir(parents=True)
    (package / "settings.py").write_text("from axlebox.training.settings import *\n")
    (package / "__pycache__/settings.pyc").write_text("")
    (copied / "conf/base/catalog_own.yml").write_text("{}\n")
    settings = (copied / "pyproject.toml").read_text().replace('"axlebox.training"', '"my_fleet"')
    (copied / "pyproject.toml").write_text(settings.replace('source_dir = "."', 'source_dir = "src"'))
    scratch = make_scratch(Workspace(copied), tmp_path / "scratch", proposal.manifest, [])
    assert (scratch.root / "src/my_fleet/settings.py").read_bytes() == (package / "settings.py").read_bytes()
    assert not (scratch.root / "src/my_fleet/__pycache__").exists()
    assert (scratch.root / "pyproject.toml").read_bytes() == (copied / "pyproject.toml").read_bytes()
    assert (scratch.root / "conf/base/catalog_own.yml").is_file()


def test_the_outcome_as_json_names_what_is_the_same(copied: Path, proposal: Proposal) -> None:
    found: Reproduced = compare(Workspace(copied), proposal, proposal.members)
    record, lines = describe(found)
    assert record["same"] == tuple(sorted(proposal.members)) and record["different"] == {}
    assert lines[0] == f"made again: fleet 1, run {proposal.manifest.lineage.run}"
    require_identical(found)
