"""Writes the corpus anew: `.venv/bin/python tests/fuzz/seeds.py`, after the format has changed.

The keys are those of targets.py; finds that were moved to the corpus stay.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import targets
from sklearn.ensemble import IsolationForest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from axlebox.export.forest_onnx import convert
from axlebox.export.signing import ReleaseTime, Signers, build_bundle
from axlebox.firmware_bundle.container import pack, unpack
from axlebox.firmware_bundle.manifest import Contract, DetectorSpec, FeatureSet, Golden, GoldenRow, Kind, encode

HERE = Path(__file__).resolve().parent
NOT_METADATA = ("manifest.json", "golden.json", "model.onnx")
GOLDEN = encode(Golden((GoldenRow("2026-03-01T00:00:00Z", "temperature", 100.0, 0.5, False),)))


def make_models() -> dict[str, bytes]:
    rows = np.random.default_rng(5).normal(100, 4, (400, 2)).round().astype(np.float32)
    sizes = {"one-leaf": (1, 2, 1), "tiny": (1, 4, 1), "two-features": (2, 8, 2), "ten-trees": (10, 4, 1)}
    return {
        name: convert(
            IsolationForest(n_estimators=trees, max_samples=samples, random_state=1).fit(rows[:, :features]), features
        )
        for name, (trees, samples, features) in sizes.items()
    }


def make_manifest(world: Any, **changes: Any) -> bytes:
    return encode(world["World"].manifest(_Plain(), **changes))


class _Plain:
    """What a manifest needs to know of a world."""

    contract = Contract(kinds={"temperature": Kind(action="look at the bearing")})
    spec = DetectorSpec(kind="temperature", model="model.onnx", features=FeatureSet("value", 1), threshold=0.6)


def make_bundles(manifests: dict[str, bytes], model: bytes) -> dict[str, bytes]:
    keys = Signers(targets.KEYS["timestamp"], (targets.KEYS["targets"],))
    roots = {"1.root.json": targets.ROOT}
    two_roots = {**roots, "2.root.json": targets.make_root(2)}

    def make(files: dict[str, bytes], roots: dict[str, bytes]) -> bytes:
        time = ReleaseTime(targets.NOW, targets.EXPIRES)
        return targets.bundle_signed_anew(build_bundle(files, roots, 1, time, keys))

    files = {"manifest.json": manifests["good"], "golden.json": GOLDEN, "model.onnx": model}
    good = make(files, roots)
    return {
        "good": good,
        "two-roots": make(files, two_roots),
        "aimed": make({**files, "manifest.json": manifests["aimed"]}, roots),
        "no-golden": make({name: data for name, data in files.items() if name != "golden.json"}, roots),
        "model-is-json": make({**files, "model.onnx": b"{}"}, roots),
        "cut-short": good[:5000],
        "member-unsigned": pack({**unpack(good), "z": b"x"}),
    }


def make_containers(good: bytes) -> dict[str, bytes]:
    plain = pack({"a": b"x" * 3, "b.json": b"{}"})
    return {
        "good": plain,
        "empty-member": pack({"a": b""}),
        "full-block": pack({"a": b"y" * 512}),
        "bundle": good[:3072],
        "only-end": bytes(1024),
        "size-with-sign": plain[:124] + b"+0000000003" + plain[135:],
        "long-size": plain[:124] + b"7" * 11 + plain[135:],
        "link": plain[:156] + b"2" + plain[157:],
        "dots": b"../a".ljust(100, b"\0") + plain[100:],
        "trailing": plain + bytes(512),
        "cut-short": plain[:700],
    }


def make_metadata(bundle: bytes) -> dict[str, bytes]:
    members = unpack(bundle)
    found = {name.removesuffix(".json"): members[name] for name in members if name not in NOT_METADATA}
    delegating: Metadata[Targets] = Metadata.from_bytes(members["targets.json"])
    role = DelegatedRole("other", [], 1, False, paths=["*"])
    delegating.signed.delegations = Delegations({}, {"other": role})
    delegating.signed.targets = {"a": TargetFile(1, {"sha256": "0" * 64}, "a")}
    delegating.sign(targets.KEYS["targets"])
    return {
        **found,
        "delegating": targets.serialise(delegating),
        "deep": b"[" * 2000,
        "half-surrogate": members["targets.json"].replace(b"manifest.json", b"\\ud800"),
        "float-version": members["targets.json"].replace(b'"version": 1', b'"version": 1.5'),
        "huge-version": members["targets.json"].replace(b'"version": 1', b'"version": ' + b"9" * 5000),
        "bad-utf-8": members["targets.json"].replace(b"manifest", b"\xff\xfe"),
        "not-a-time": members["targets.json"].replace(b"2120-01-01", b"9999-99-99"),
    }


def make_all() -> Iterator[tuple[str, str, bytes]]:
    world = runpy.run_path(str(HERE.parent / "conftest.py"))
    models = make_models()
    good = make_manifest(world)
    manifests = {
        "good": good,
        "aimed": make_manifest(world, hardware=("rail-box-a", "rail-box-b"), vehicles=("T204",), min_sequence=1),
        "newer-runtime": make_manifest(world, min_runtime="9.9.9"),
        "newer-format": make_manifest(world, format=2),
        "golden": GOLDEN,
        "huge-number": good.replace(b'"threshold": ', b'"threshold": 1e99'),
        "deep": good.replace(b'"parameters": {}', b'"parameters": ' + b'{"a":' * 900 + b"1" + b"}" * 900),
        "long-version": good.replace(b'"min_runtime": "0.1.0"', b'"min_runtime": "' + b"1." * 30 + b'1"'),
        "half-surrogate": good.replace(b"bearing-temp", b"\\ud800"),
    }
    bundles = make_bundles(manifests, models["tiny"])
    files = {
        "bundle": bundles,
        "container": make_containers(bundles["good"]),
        "graph": {
            **models,
            "cut-short": models["tiny"][:400],
            "flipped": models["tiny"].replace(b"LessOr", b"Greater"),
        },
        "manifest": manifests,
        "metadata": make_metadata(bundles["two-roots"]),
    }
    for target, some in files.items():
        for name, data in some.items():
            yield target, name, data


if __name__ == "__main__":
    for target, name, data in make_all():
        file = HERE / "corpus" / target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        print(f"{len(data):8} {file.relative_to(HERE)}")
