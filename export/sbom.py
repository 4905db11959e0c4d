"""sbom.cdx.json: what a release consists of and needs on the vehicle, in CycloneDX 1.6."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from axlebox.export.vehicle_lock import Locked
from axlebox.firmware_bundle.manifest import DataFile, DetectorSpec, Manifest, encode
from axlebox.training.summary import INTENDED_USE, limits_of_use

_SERIALS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:axlebox:sbom")
_RELEASE = "release"

Json = dict[str, Any]


def sbom(
    manifest: Manifest, models: Mapping[str, bytes], evaluation: Mapping[str, Any], lock: Sequence[Locked]
) -> bytes:
    """The component list; `evaluation` is that of run.json, `models` the model bytes by member name."""
    axlebox = _axlebox(manifest.min_runtime)
    packages = [_package(one) for one in lock]
    detectors = [_model(manifest, spec, models[spec.model], evaluation) for spec in manifest.detectors]
    # By content: one file may have been ingested under two names.
    data = list({one.sha256: _data(one) for one in manifest.lineage.data}.values())
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [_axlebox(manifest.proved_on["axlebox"], ref="builder")]},
            "component": _release(manifest),
        },
        "components": [axlebox, *packages, *detectors, *data],
        "dependencies": [
            _needs(_RELEASE, [axlebox, *detectors]),
            # Flat: the lock holds all that axlebox brings with it, not which package asked for which.
            _needs(axlebox["bom-ref"], packages),
            *(_needs(one["bom-ref"], []) for one in (*packages, *detectors)),
        ],
    }
    # Made of the content, so that equal inputs give equal bytes.
    serial = uuid.uuid5(_SERIALS, hashlib.sha256(encode(bom)).hexdigest())
    return encode({**bom, "serialNumber": f"urn:uuid:{serial}"})


def _release(manifest: Manifest) -> Json:
    return {
        "type": "application",
        "bom-ref": _RELEASE,
        "name": manifest.name,
        "version": str(manifest.version),
        "properties": [
            *(_property("hardware", one) for one in manifest.hardware),
            *(_property("vehicle", one) for one in manifest.vehicles),
            _property("run", manifest.lineage.run),
        ],
    }


def _axlebox(version: str, ref: str = "axlebox") -> Json:
    """Not pkg:pypi: a scanner must not take a stranger's package of this name for ours."""
    return {
        "type": "application",
        "bom-ref": ref,
        "name": "axlebox",
        "version": version,
        "purl": f"pkg:generic/axlebox@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }


def _package(locked: Locked) -> Json:
    component: Json = {
        "type": "library",
        "bom-ref": locked.purl,
        "name": locked.name,
        "version": locked.version,
        "purl": locked.purl,
        "externalReferences": [
            {
                "type": "distribution",
                "url": locked.purl,
                "comment": "one hash for each file that may be installed",
                "hashes": [_sha256(one) for one in locked.sha256],
            }
        ],
    }
    if locked.marker:
        component["properties"] = [_property("marker", locked.marker)]
    if licences := _licences(locked):
        component["licenses"] = licences
    return component


def _licences(locked: Locked) -> list[Json]:
    """What the package says of its licence; nothing where this very version is not installed here."""
    try:
        about = metadata.metadata(locked.name)
    except metadata.PackageNotFoundError:
        return []
    if about["Version"] != locked.version:
        return []
    # Asked so, since the field that is missing is None to some readers of metadata and a KeyError to others.
    if "License-Expression" in about:
        return [{"expression": about["License-Expression"]}]
    return [{"license": {"name": about["License"]}}] if "License" in about else []


def _data(file: DataFile) -> Json:
    """A file of readings: `excluded`, since it shaped the model and does not travel with it."""
    return {
        "type": "data",
        "bom-ref": f"data:{file.sha256}",
        "name": file.name,
        "scope": "excluded",
        "hashes": [_sha256(file.sha256)],
        "data": [{"type": "dataset", "description": f"{file.rows} rows, {file.invalid} of them invalid"}],
    }


def _model(manifest: Manifest, spec: DetectorSpec, model: bytes, evaluation: Mapping[str, Any]) -> Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{spec.model}",
        "name": spec.model,
        "version": str(manifest.version),
        "hashes": [_sha256(hashlib.sha256(model).hexdigest())],
        "modelCard": {
            "modelParameters": _model_parameters(manifest, spec),
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": name, "value": str(value)}
                    for name, value in {**evaluation, **evaluation["detectors"][spec.kind]}.items()
                    if isinstance(value, int | float | str)
                ]
            },
            "considerations": {
                "users": ["maintenance and reliability engineers of the vehicles that the release is for"],
                "useCases": [f"Anomalous readings of sensors of kind {spec.kind}. {INTENDED_USE}"],
                "technicalLimitations": list(limits_of_use([spec.features.name])),
            },
            "properties": [_property("threshold", repr(spec.threshold)), _property("warmup", str(spec.warmup))],
        },
    }


def _model_parameters(manifest: Manifest, spec: DetectorSpec) -> Json:
    return {
        "approach": {"type": "unsupervised"},
        "task": "anomaly detection",
        "architectureFamily": "isolation forest",
        "modelArchitecture": "ONNX TreeEnsemble",
        "datasets": [{"ref": ref} for ref in sorted({f"data:{one.sha256}" for one in manifest.lineage.data})],
        "inputs": [{"format": f"float32 feature rows of {spec.features.name} version {spec.features.version}"}],
        "outputs": [{"format": "float64 score, 0..1, higher is more anomalous"}, {"format": "boolean flag"}],
    }


def _needs(ref: str, components: Sequence[Json]) -> Json:
    return {"ref": ref, "dependsOn": sorted(one["bom-ref"] for one in components)}


def _sha256(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest}


def _property(name: str, value: str) -> Json:
    return {"name": f"axlebox:{name}", "value": value}
