"""`axlebox export`: a run becomes model, proof, golden readings, manifest and a signed bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from axlebox.export import parity
from axlebox.export.evidence import evidence
from axlebox.export.forest_onnx import convert
from axlebox.export.releases import ReleaseLine, append_release, next_version
from axlebox.export.roots import expiry, read_root, root_chain
from axlebox.export.signing import ReleaseTime, Signers, build_bundle, release_time
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import GateFailed
from axlebox.firmware_bundle.manifest import (
    FORMAT,
    DetectorSpec,
    Golden,
    GoldenRow,
    Manifest,
    ParityProof,
    encode,
)
from axlebox.firmware_bundle.trust import GOLDEN, MANIFEST, Proposal, examine
from axlebox.runtime.contract import check_contract
from axlebox.runtime.detector import Detector, Monitor, Origin
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.scorer import Scorer
from axlebox.runtime.version import VERSION
from axlebox.training.forest import sklearn_score_rows
from axlebox.training.parameters import BundleParameters
from axlebox.training.runs import DetectorFile, Run, write_report
from axlebox.training.steps import used
from axlebox.training.workspace import Workspace

GOLDEN_ROWS = 200
_UNSIGNED = Origin("unsigned", 0, "0" * 64)


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
    detector_file = run.detector()
    check_contract(detector_file.contract)  # a run's files are only files
    (spec,) = detector_file.detectors
    model, proof = _prove(run, spec)
    say(
        f"parity: {proof.rows} rows, {proof.boundary_rows} of them at and beside {proof.split_values} split values\n"
        f"  {proof.offsets} offsets swept: {proof.flags_differing} flags differ, "
        f"largest score difference {proof.largest_score_difference:g}"
    )
    parity.require(proof)
    with workspace.locked(), disk.explained():
        disk.replace_durable(run.folder / "parity.json", encode_proofs({spec.model: proof}))
        report = write_report(run.folder)
        version = next_version(workspace.releases)
        record = run.record()
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
            parity={spec.model: proof},
            lineage=record.lineage,
        )
        golden = make_golden(run, detector_file, model)
        files = {MANIFEST: encode(manifest), GOLDEN: encode(golden), spec.model: model}
        files |= evidence(manifest, files, record.evaluation)
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
        line = ReleaseLine(settings.name, version, bundle.digest, manifest.lineage.run, released)
        append_release(workspace.releases, line)
        disk.replace_durable(path, data)
    return Exported(bundle, path, report, {spec.model: proof})


def proved_on() -> dict[str, str]:
    """The runtime that the proof and the golden readings were made by."""
    libraries = {name: metadata.version(name) for name in ("numpy", "onnxruntime")}
    return {"axlebox": VERSION, **libraries, "machine": platform.machine()}


def encode_proofs(proofs: dict[str, ParityProof]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(proofs), indent=1)


def _prove(run: Run, spec: DetectorSpec) -> tuple[bytes, ParityProof]:
    forest, rows = run.forest(), run.rows()
    model = convert(forest, rows.shape[1])
    return model, parity.prove(forest, model, rows)


def make_golden(run: Run, detector_file: DetectorFile, model: bytes) -> Golden:
    """Held-out readings, flagged ones among them, with the answers of the exported model.

    Raises GateFailed where scikit-learn answers otherwise.
    """
    (spec,) = detector_file.detectors
    readings = golden_readings(run.predictions())

    def answers(detector: Detector) -> list[tuple[float | None, bool]]:
        monitor = Monitor(detector_file.contract, {spec.kind: detector}, _UNSIGNED)
        return [(outcome.score, outcome.flag) for outcome in monitor.process(readings)]

    # A few readings out of many are another stream: two that were far apart can look stuck side by side.
    while None in (scores := [score for score, _ in answers(Detector(spec, Scorer(model).score_rows))]):
        readings = [reading for reading, score in zip(readings, scores, strict=True) if score is not None]
    found = answers(Detector(spec, Scorer(model).score_rows))
    expected = answers(Detector(spec, sklearn_score_rows(run.forest())))
    if [flag for _, flag in found] != [flag for _, flag in expected]:
        raise GateFailed("golden readings: the model's flags differ from scikit-learn's; nothing was exported")
    rows = []
    for reading, (score, flag) in zip(readings, found, strict=True):
        if score is None:
            raise GateFailed(f"golden reading {format_time(reading.time)} got no score; nothing was exported")
        rows.append(GoldenRow(format_time(reading.time), reading.sensor, reading.value, score, flag))
    return Golden(tuple(rows))


def golden_readings(predictions: pd.DataFrame) -> list[Reading]:
    """Up to GOLDEN_ROWS readings of held-out time, half of them flagged if so many are, in order."""
    # golden.json has no marks: to the self-test all rows of an id are one sensor, which starts empty. Their answers
    # are computed in the same way, so only the gate must let them through: an era may begin before the last one's end.
    predictions = used(predictions)
    newest = predictions.groupby("sensor")["time"].cummax()
    predictions = predictions[~predictions[["sensor"]].assign(newest=newest).duplicated()]
    flags = predictions["flag"].to_numpy()
    flagged, plain = np.flatnonzero(flags), np.flatnonzero(~flags)
    from_flagged = min(len(flagged), GOLDEN_ROWS // 2)
    picked: set[int] = set()
    for numbers, count in ((flagged, from_flagged), (plain, min(len(plain), GOLDEN_ROWS - from_flagged))):
        picked.update(numbers[np.linspace(0, len(numbers) - 1, count).astype(int)].tolist() if count else ())
    chosen = predictions.iloc[sorted(picked)]
    return [Reading(*row) for row in chosen[["time", "sensor", "value"]].itertuples(index=False)]
