"""`axlebox export`: a run becomes model, proof, golden readings, manifest and a signed bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from axlebox.export import parity
from axlebox.export.evidence import evidence
from axlebox.export.forest_onnx import convert
from axlebox.export.golden import make_golden
from axlebox.export.releases import ReleaseLine, append_release, next_version
from axlebox.export.roots import expiry, read_root, root_chain
from axlebox.export.signing import ReleaseTime, Signers, build_bundle, release_time
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.manifest import (
    FORMAT,
    Lineage,
    Manifest,
    ParityProof,
    encode,
)
from axlebox.firmware_bundle.trust import GOLDEN, MANIFEST, Proposal, examine
from axlebox.runtime.contract import check_contract
from axlebox.runtime.version import VERSION
from axlebox.training.parameters import BundleParameters
from axlebox.training.progress import on_terminal
from axlebox.training.runs import Run, write_report
from axlebox.training.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Proved:
    """The models of a run with their proofs, by name."""

    models: dict[str, bytes]
    proofs: dict[str, ParityProof]
    report: Path


@dataclass(frozen=True, slots=True)
class Exported:
    bundle: Proposal
    path: Path
    report: Path
    proofs: dict[str, ParityProof]


def export_run(
    workspace: Workspace, run: Run, settings: BundleParameters, signers: Signers, say: Callable[[str], None]
) -> Exported:
    """Convert, prove, pack and sign a run. Raises GateFailed, leaving no bundle, where the proof fails."""
    root = read_root(workspace)
    check_contract(run.detector().contract)  # a run's files are only files
    with workspace.locked(), disk.explained():
        proved = prove_run(run, say)
        version = next_version(workspace.releases)
        lineage = run.record().lineage
        files = release_files(run, proved, lineage, settings, version)
        released = release_time()
        time = ReleaseTime(released, expiry(released, settings.expires_years))
        roots = root_chain(workspace, settings.oldest_root)
        data = build_bundle(files, roots, version, time, signers)
        # The vehicle's own check, before anybody else sees the bundle.
        bundle = examine(data, root, released)
        path = workspace.dist / f"{settings.name}-{version}.axb"
        workspace.dist.mkdir(exist_ok=True)
        for leaving in workspace.dist.glob("*.axb.part"):  # of an export that was killed
            leaving.unlink()
        # The version is taken first: a power cut in between leaves a gap, never one version twice.
        line = ReleaseLine(settings.name, version, bundle.digest, lineage.run, released)
        append_release(workspace.releases, line)
        disk.replace_durable(path, data)
    return Exported(bundle, path, proved.report, proved.proofs)


def release_files(
    run: Run, proved: Proved, lineage: Lineage, settings: BundleParameters, version: int
) -> dict[str, bytes]:
    """The signed members of a release by name; equal inputs give equal bytes.

    `lineage` is that of the run's record; `axlebox reproduce` puts the recorded commit into it.
    """
    detector_file = run.detector()
    manifest = Manifest(
        format=FORMAT,
        name=settings.name,
        version=version,
        hardware=settings.hardware,
        vehicles=settings.vehicles,
        min_sequence=settings.min_sequence,
        min_runtime=VERSION,
        proved_on=proved_on(),
        contract=detector_file.contract,
        detectors=detector_file.detectors,
        parity=proved.proofs,
        lineage=lineage,
    )
    golden = make_golden(run, detector_file, proved.models)
    files = {MANIFEST: encode(manifest), GOLDEN: encode(golden), **proved.models}
    return files | evidence(manifest, files, run.record().evaluation)


def proved_on() -> dict[str, str]:
    """The runtime that the proof and the golden readings were made by."""
    libraries = {name: metadata.version(name) for name in ("numpy", "onnxruntime")}
    return {"axlebox": VERSION, **libraries, "machine": platform.machine()}


def encode_proofs(proofs: dict[str, ParityProof]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(proofs), indent=1)


def prove_run(run: Run, say: Callable[[str], None]) -> Proved:
    """Convert every forest of a run and prove it equal; the caller holds the workspace's lock.

    Models, parity.json and the report with the proof in it are written into the run's folder.
    Raises GateFailed where a model differs from scikit-learn.
    """
    rows = run.rows()
    models, proofs = {}, {}
    for name, forest in run.forests().items():
        models[name] = model = convert(forest, rows[name].shape[1])
        proofs[name] = proof = parity.prove(forest, model, rows[name], on_terminal())
        say(
            f"parity of {name}: {proof.rows} rows, {proof.boundary_rows} of them at and beside "
            f"{proof.split_values} split values\n"
            f"  {proof.offsets} offsets swept: {proof.flags_differing} flags differ, "
            f"largest score difference {proof.largest_score_difference:g}"
        )
        parity.require(proof)
    with disk.explained():
        for name, model in models.items():
            disk.replace_durable(run.folder / name, model)
        disk.replace_durable(run.folder / "parity.json", encode_proofs(proofs))
        report = write_report(run.folder)
    return Proved(models, proofs, report)
