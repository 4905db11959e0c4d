"""What a run says of itself as flat names and values: the parameters, metrics and tags that an index shows."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from axlebox.firmware_bundle.manifest import ParityProof
from axlebox.training.summary import caught

if TYPE_CHECKING:
    from axlebox.training.runs import RunRecord

T = TypeVar("T")
RUN_TAG = "axlebox.run"
_MOST = 900
"""Names of one kind that a run shows."""
_KEY, _PARAMETER, _TAG = 250, 6000, 5000
"""Characters that MLflow takes of a name, and of the values."""
_BAD = re.compile(r"[^A-Za-z0-9_. /-]+")


def parameters(record: RunRecord) -> dict[str, str]:
    """The training's parameters, by dotted names; values as JSON but for texts."""
    plain = _leaves("", record.lineage.parameters, ".")
    named = ((_name(name), value if isinstance(value, str) else _json(value)) for name, value in plain)
    return {name: value[:_PARAMETER] for name, value in _bounded(named)}


def metrics(record: RunRecord, parity: Mapping[str, ParityProof] | None) -> dict[str, float]:
    """Every figure of the evaluation, of the injected faults in brief, of the data and of the proof."""
    facts = dict(record.evaluation)
    detectors = facts.pop("detectors", {})
    found = list(_numbers("", facts))
    found += _numbers("data", {key: record.data_quality.get(key) for key in ("readings", "invalid", "replaced")})
    for kind, one in detectors.items():
        figures = dict(one)
        trials = figures.pop("trials", None)
        found += [*_numbers(kind, figures), *_caught(kind, trials)]
    for model, proof in (parity or {}).items():
        found += _numbers(f"parity/{model.removesuffix('.onnx')}", msgspec.to_builtins(proof))
    if (share := caught_share(record.evaluation)) is not None:
        found.append(("caught_share", share))
    return dict(_bounded((_name(name), value) for name, value in found))


def tags(record: RunRecord) -> dict[str, str]:
    """Where a run comes from: every data file's whole sha256, code, commit, versions, person."""
    lineage = record.lineage
    found = {
        RUN_TAG: lineage.run,
        "axlebox.version": lineage.code.axlebox,
        "axlebox.source_sha256": lineage.code.source_sha256,
        "axlebox.commit": lineage.code.commit or "none",
        "axlebox.created_by": record.created_by,
        "axlebox.created": record.created.isoformat(),
        "axlebox.data.files": str(len(lineage.data)),
        "mlflow.user": record.created_by,
        "mlflow.source.name": "axlebox train",
        "mlflow.source.type": "LOCAL",
    }
    if lineage.code.commit:
        found["mlflow.source.git.commit"] = lineage.code.commit.removesuffix("-dirty")
    found |= {f"axlebox.library.{name}": version for name, version in lineage.versions.items()}
    found |= {
        f"axlebox.data.{number:03}": f"{one.sha256} {one.name} {one.rows} rows, {one.invalid} invalid"
        for number, one in enumerate(lineage.data)
    }
    return {name: value[:_TAG] for name, value in _bounded((_name(key), value) for key, value in found.items())}


def caught_share(evaluation: Mapping[str, Any]) -> float | None:
    """Share of the injected faults that should alarm and were raised, 0..1; None where none were injected."""
    found = [caught(one) or (0, 0) for one in evaluation.get("detectors", {}).values()]
    raised, tried = sum(one for one, _ in found), sum(one for _, one in found)
    return raised / tried if tried else None


def _caught(kind: str, trials: Mapping[str, Any] | None) -> Iterator[tuple[str, float]]:
    for name, fault in ((trials or {}).get("faults") or {}).items():
        answer = fault["answers"]["detector"]
        what = "caught" if fault["alarms"] else "wrongly_raised"
        yield f"{kind}/{what}/{name}", answer["raised"] / fault["trials"]
        if answer["delay_s"] is not None:
            yield f"{kind}/delay_s/{name}", float(answer["delay_s"])
    yield from _numbers(f"{kind}/alarms_without_faults", (trials or {}).get("alarms_without_faults") or {})


def _numbers(prefix: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in _leaves(prefix, facts, "/"):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)


def _leaves(prefix: str, plain: Mapping[str, Any], joint: str) -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        name = f"{prefix}{joint}{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(name, value, joint)
        else:
            yield name, value


def _name(text: str) -> str:
    """A name that MLflow takes: it refuses other characters, and what looks like a path out of its place."""
    parts = [part.lstrip(".") for part in _BAD.sub("_", text).split("/")]
    return "/".join(filter(None, parts))[:_KEY].rstrip("/") or "_"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _bounded(named: Iterator[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    return itertools.islice(named, _MOST)
