"""card.md: one page for the person who decides whether to sign a release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from axlebox.firmware_bundle.manifest import DetectorSpec, Manifest, ParityProof
from axlebox.training.summary import INTENDED_USE, evaluation_rows, limits_of_use, parity_rows


def card(manifest: Manifest, evaluation: Mapping[str, Any]) -> bytes:
    """The card as Markdown in plain ASCII; `evaluation` is that of run.json."""
    lineage = manifest.lineage
    sections = {
        "Intended use": [f"{INTENDED_USE} The flags ask a person to look; they decide nothing."],
        "Who it is for": _bullets(
            [
                ("Hardware", ", ".join(map(_code, manifest.hardware))),
                ("Vehicles", ", ".join(map(_code, manifest.vehicles)) or "all of that hardware"),
                ("Runtime", f"axlebox {_code(manifest.min_runtime)} or newer"),
                (
                    "Never again",
                    f"releases below {manifest.min_sequence}" if manifest.min_sequence else "none is barred",
                ),
            ]
        ),
        "Data": [
            f"- {_code(one.name)}: {one.rows:,} rows, {one.invalid:,} of them invalid, sha256 {_code(one.sha256)}"
            for one in lineage.data
        ],
        "Settings and code": _bullets(
            [
                ("Run", _code(lineage.run)),
                ("Settings", _code(msgspec.json.encode(lineage.parameters, order="deterministic").decode())),
                ("Code", f"axlebox {_code(lineage.code.axlebox)}, source sha256 {_code(lineage.code.source_sha256)}"),
                ("Commit", _code(lineage.code.commit) if lineage.code.commit else "none, the workspace is not in git"),
            ]
        ),
        **{f"Detector {_code(spec.model)}": _detector(spec) for spec in manifest.detectors},
        "Evaluation on held-out readings": _bullets(evaluation_rows(evaluation)),
        **{f"Parity of {_code(model)}": _parity(proof, manifest) for model, proof in sorted(manifest.parity.items())},
        "Limits of use": [f"- {one}" for one in limits_of_use(spec.features.name for spec in manifest.detectors)],
        "Before you sign": _BEFORE_YOU_SIGN,
    }
    parts = [f"# {manifest.name} {manifest.version}"]
    parts += [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items()]
    return ("\n\n".join(parts) + "\n").encode("ascii")


_BEFORE_YOU_SIGN = [
    "1. `axlebox inspect BUNDLE` verifies it, and shows who signed it so far.",
    "2. Compare the sha256 of the data with your own copies, and the commit with the one that was reviewed.",
    "3. `axlebox inspect BUNDLE --show sbom` lists the components: look them up among known vulnerabilities.",
    "4. Ask the makers for the report of the run; it draws what the numbers above count.",
    "5. `axlebox approve BUNDLE --key KEY` adds your signature.",
]


def _bullets(rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"- {name}: {text}" for name, text in rows]


def _detector(spec: DetectorSpec) -> list[str]:
    constants = f"{len(spec.features.constants)}, in manifest.json" if spec.features.constants else "none"
    return _bullets(
        [
            ("Sensors of kind", _code(spec.kind)),
            ("Feature set", f"{_code(spec.features.name)} version {spec.features.version}"),
            ("Constants", constants),
            ("Threshold", f"score above {spec.threshold!r} (0..1, higher is more anomalous)"),
            *_rules(spec),
            ("Warm-up", f"{spec.warmup} readings of a sensor before its first model event"),
        ]
    )


def _rules(spec: DetectorSpec) -> list[tuple[str, str]]:
    rules = spec.events
    if rules is None:
        return [("Events", "raised with the first flag, cleared with the first reading that has none")]
    return [
        ("Events, extreme", f"raised at once by a sum of tails of {rules.extreme_at!r}"),
        ("Events, mild", f"raised by {rules.need} flags in {rules.of} readings"),
    ]


def _parity(proof: ParityProof, manifest: Manifest) -> list[str]:
    proved_on = ", ".join(f"{name} {_code(value)}" for name, value in sorted(manifest.proved_on.items()))
    return [
        "The exported graph against scikit-learn, run by the vehicle's own code.",
        "",
        *_bullets([*parity_rows(proof), ("Proved on", proved_on)]),
    ]


def _code(text: str) -> str:
    """Text from outside as a Markdown code span, in which nothing is markup.

    What could end the span or the line, and what is not ASCII, is written as Python would escape it.
    """
    return "`" + text.encode("unicode_escape").decode("ascii").replace("`", "\\x60") + "`"
