"""provenance.json: how a release was made, as an in-toto Statement (v1) with SLSA provenance (v1).

It carries no signature of its own: it is a member of a bundle, and signed with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from axlebox.export.vehicle_lock import pypi_purl
from axlebox.firmware_bundle.manifest import Lineage, Manifest, encode
from axlebox.training.provenance import PYTHON

BUILD_TYPE = "urn:axlebox:export:1"
BUILDER = "urn:axlebox:builder"

Json = dict[str, Any]


def statement(manifest: Manifest, subjects: Mapping[str, bytes]) -> bytes:
    """The statement about these members of a bundle: all that is signed but the statement itself."""
    lineage = manifest.lineage
    return encode(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [
                {"name": name, "digest": {"sha256": hashlib.sha256(subjects[name]).hexdigest()}}
                for name in sorted(subjects)
            ],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": _external_parameters(manifest),
                    # The commit of a workspace with changed files is told here and is no dependency:
                    # its files are not what was used.
                    "internalParameters": {"provedOn": manifest.proved_on, "workspaceCommit": lineage.code.commit},
                    "resolvedDependencies": _dependencies(lineage),
                },
                "runDetails": {
                    "builder": {"id": BUILDER, "version": {"axlebox": manifest.proved_on["axlebox"]}},
                    "metadata": {"invocationId": lineage.run},
                },
            },
        }
    )


def _external_parameters(manifest: Manifest) -> Json:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "aim": {
            "hardware": manifest.hardware,
            "vehicles": manifest.vehicles,
            "minSequence": manifest.min_sequence,
            "minRuntime": manifest.min_runtime,
        },
        "parameters": manifest.lineage.parameters,
    }


def _dependencies(lineage: Lineage) -> list[Json]:
    code = lineage.code
    found: list[Json] = [{"name": one.name, "digest": {"sha256": one.sha256}} for one in lineage.data]
    if code.commit and not code.commit.endswith("-dirty"):
        found.append({"name": "workspace", "digest": {"gitCommit": code.commit}})
    found.append(
        {
            "name": "axlebox",
            "uri": f"pkg:generic/axlebox@{code.axlebox}",
            "digest": {"sha256": code.source_sha256},
            "annotations": {"digestOf": "all installed source files, not one file: training/provenance.py"},
        }
    )
    found += [{"name": name, "uri": _purl(name, version)} for name, version in sorted(lineage.versions.items())]
    return found


def _purl(name: str, version: str) -> str:
    return f"pkg:generic/{name}@{version}" if name == PYTHON else pypi_purl(name, version)
