"""Where a run comes from: readings and what became of them, the proof of its export, settings, code, people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from axlebox.firmware_bundle.manifest import Contract, ParityProof
from axlebox.training.report.page import Html, details, grid, html, paragraph, table
from axlebox.training.summary import parity_rows

if TYPE_CHECKING:
    from axlebox.training.runs import RunRecord

_FIRST = {"name": "file", "rows": "rows", "invalid": "not used", "sha256": "sha256"}
"""What every file has, and its heading; whatever else is recorded of files comes after it."""
_PROOF = (
    "The exported model was run by the vehicle's own code, and its flags compared with scikit-learn's: at every value "
    "at which a tree splits and one float32 step to each side, on the training rows, on special values, and with the "
    "threshold swept over the scores that occur."
)


def data_quality(quality: Mapping[str, Any]) -> list[Html]:
    rows = [("Readings used", f"{quality['readings']:,}"), ("Invalid, not used", f"{quality['invalid']:,}")]
    rows += [(f"Held back: {status}", f"{count:,}") for status, count in quality.get("held_back", {}).items()]
    if quality.get("replaced"):  # a run from before marks says nothing of them
        rows.append(("Sensors replaced", f"{quality['replaced']:,}"))
    files = quality.get("files", [])
    more = list(dict.fromkeys(name for one in files for name in one if name not in _FIRST))
    heads = [*_FIRST.values(), *(name.replace("_", " ") for name in more)]
    parts = [table(rows), grid(heads, [[_cell(one.get(name)) for name in (*_FIRST, *more)] for one in files])]
    bad = quality["first_invalid"]
    if bad:
        lines = [[one["file"], one["line"], one.get("status", "invalid"), one["reason"]] for one in bad]
        parts += [
            Html("<h3>The first lines that were not used</h3>"),
            grid(("file", "line", "status", "reason"), lines),
        ]
    return parts


def _cell(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return value if value is None or isinstance(value, int | float | str) else str(value)


def parity(proofs: Mapping[str, ParityProof] | None) -> list[Html]:
    if proofs is None:
        return [paragraph("Not exported yet: axlebox export proves the exported model equal, and writes it here.")]
    tables = [table([("Model", name), *parity_rows(proof)]) for name, proof in proofs.items()]
    return [paragraph(_PROOF, "note"), *tables]


def lineage(record: RunRecord, contract: Contract) -> list[Html]:
    found = record.lineage
    data = Html("<br>".join(f"{html(one.name)} <code>{one.sha256}</code>, {one.rows:,} rows" for one in found.data))
    rows: list[tuple[object, object]] = [
        ("Run", Html(f"<code>{html(found.run)}</code>")),
        ("Made", f"{record.created:%Y-%m-%d %H:%M:%S} UTC by {record.created_by}"),
        ("Data", data),
        ("Code", Html(f"axlebox {html(found.code.axlebox)} <code>{html(found.code.source_sha256)}</code>")),
        ("Workspace commit", found.code.commit or "not in git"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
    ]
    plain_contract = msgspec.to_builtins(contract)
    return [
        table(rows),
        details("Parameters", table(list(_flat("", found.parameters)))),
        details("Data contract", table(list(_flat("", plain_contract)))),
    ]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings by their dotted names."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, "null" if value is None else str(value)
