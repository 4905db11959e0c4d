"""Events that came back from a vehicle, replayed on the workstation."""

from __future__ import annotations

import contextlib
from pathlib import Path

from axlebox.export.open import open_bundle
from axlebox.firmware_bundle import disk
from axlebox.firmware_bundle.errors import AxleboxError, UsageError
from axlebox.firmware_bundle.slots import Release, make_release
from axlebox.firmware_bundle.trust import Bundle
from axlebox.firmware_bundle.vehicle_key import check, parse_public
from axlebox.runtime import capsule
from axlebox.runtime.capsule import Capsule
from axlebox.training.workspace import find_workspace


def open_capsule(path: Path, vehicle_key: Path | None) -> Capsule:
    """A capsule from its file. Raises BadSignature unless the vehicle whose public key is given signed it."""
    body, signed = capsule.from_file(disk.read_bounded(path, capsule.MAX_FILE_BYTES))
    if vehicle_key is not None:
        check(parse_public(vehicle_key), body, signed.signature)
    return capsule.decode(body)


def release_of(found: Capsule, bundle: Path | None, trust: Path | None) -> Release:
    """The verified release that a capsule is of: from a bundle, else from the workspace's dist."""
    opened = _in_dist(found, trust) if bundle is None else _open(bundle, found, trust)
    return make_release(opened.digest, opened.released, opened.root_version, opened.members)


def _open(path: Path, found: Capsule, trust: Path | None) -> Bundle:
    return open_bundle(path, trust, vehicle=found.vehicle)


def _in_dist(found: Capsule, trust: Path | None) -> Bundle:
    dist = find_workspace(Path.cwd()).dist
    for path in sorted(dist.glob("*.axb"), reverse=True):
        with contextlib.suppress(AxleboxError):  # another fleet's, or signed too rarely: not the one that ran
            opened = _open(path, found, trust)
            if opened.digest == found.digest:
                return opened
    raise UsageError(
        f"{dist} has no bundle of {found.release} ({found.digest[:8]}). DO: name it: axlebox replay F BUNDLE"
    )
