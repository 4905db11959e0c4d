"""Opening bundles on the workstation, by the vehicle's own verification."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from axlebox.export.approve import signer_names
from axlebox.export.evidence import summarise
from axlebox.export.roots import read_root, root_chain
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.container import MAX_CONTAINER_BYTES
from axlebox.firmware_bundle.errors import AxleboxError, TooFewSignatures, UsageError, naming
from axlebox.firmware_bundle.manifest import ANY_HARDWARE, Manifest
from axlebox.firmware_bundle.trust import Bundle, Proposal, examine, verify
from axlebox.training.workspace import find_workspace


def find_trust(trust: Path | None) -> bytes:
    """A root file's bytes; None means the root of the workspace around the current folder."""
    if trust is not None:
        with contextlib.suppress(AxleboxError):
            find_workspace(Path.cwd())  # whose own feature sets are known from here on
        return disk.read_bounded(trust, MAX_CONTAINER_BYTES)
    try:
        return read_root(find_workspace(Path.cwd()))
    except UsageError as error:
        raise UsageError("this folder is in no workspace. DO: give --trust root.json") from error


def open_bundle(path: Path, trust: Path | None, hardware: str = ANY_HARDWARE, vehicle: str | None = None) -> Bundle:
    """A verified bundle."""
    return check_bundle(path, _read(path), trust, hardware, vehicle)


def check_bundle(
    path: Path, data: bytes, trust: Path | None, hardware: str = ANY_HARDWARE, vehicle: str | None = None
) -> Bundle:
    """The verified bundle in `data`, which was read from `path`."""
    with naming(path.name):
        return verify(data, find_trust(trust), datetime.now(UTC), 0, hardware, vehicle)


def open_proposal(path: Path, trust: Path | None) -> Proposal:
    """A bundle that is in order but for signatures that it may still lack.

    Without `trust`, one that keys of an older root of the workspace signed is opened under that root.
    """
    data, now = _read(path), datetime.now(UTC)
    try:
        with naming(path.name):
            return examine(data, find_trust(trust), now)
    except TooFewSignatures:
        if trust is not None:
            raise
        for root in reversed(list(root_chain(find_workspace(Path.cwd()), 1).values())):
            with contextlib.suppress(AxleboxError):
                return examine(data, root, now)
        raise


def _read(path: Path) -> bytes:
    return disk.read_bounded(path, MAX_CONTAINER_BYTES)


def aim(manifest: Manifest) -> str:
    """Whom a release is for, in words."""
    return f"hardware {', '.join(manifest.hardware)}; vehicles {', '.join(manifest.vehicles) or 'all'}"


def describe(bundle: Proposal) -> tuple[dict[str, Any], list[str]]:
    """Everything about a bundle, as plain data and in lines for people."""
    manifest = bundle.manifest
    lineage = manifest.lineage
    signed, others = signer_names(bundle)
    evidence, evidence_lines = summarise(bundle.members)
    record = {**bundle.facts(), "signers": signed, **evidence}
    lines = [
        bundle.verdict(),
        *(f"note      {warning}" for warning in bundle.warnings),
        f"digest    {bundle.digest}",
        f"for       {aim(manifest)}; runtime {manifest.min_runtime} or newer",
        f"signed    by {', '.join(signed) or 'nobody'} in role targets, {bundle.signatures_needed} needed"
        f"{f' of {len(signed) + len(others)}' if others else ''}, under root {bundle.root_version}",
        *(f"data      {one.name}, {one.rows} rows, {one.invalid} invalid, sha256 {one.sha256}" for one in lineage.data),
        f"settings  {msgspec.json.encode(lineage.parameters).decode()}",
        f"code      axlebox {lineage.code.axlebox}, source sha256 {lineage.code.source_sha256}",
        f"commit    {lineage.code.commit or 'none: the workspace is not in git'}",
        f"versions  {', '.join(f'{name} {version}' for name, version in lineage.versions.items())}",
        f"proved on {', '.join(f'{name} {value}' for name, value in manifest.proved_on.items())}",
    ]
    for spec in manifest.detectors:
        proof = manifest.parity[spec.model]
        lines += [
            f"detector  kind {spec.kind}, features {spec.features.name} {spec.features.version}, "
            f"threshold {spec.threshold:.6f}, model {spec.model}",
            f"parity    {proof.rows} rows, {proof.boundary_rows} at and beside {proof.split_values} split values; "
            f"{proof.offset_flags} flags at {proof.offsets} offsets: {proof.flags_differing} differ",
        ]
    lines += evidence_lines
    lines += [f"member    {name}, {size} bytes" for name, size in record["members"].items()]
    return record, lines
