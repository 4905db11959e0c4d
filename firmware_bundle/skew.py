"""Old runtime, newer release: what a runtime is able to run (docs/decisions/0007-skew.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from axlebox.firmware_bundle.errors import FeatureSetMissing, Malformed, RuntimeTooOld
from axlebox.firmware_bundle.manifest import VERSION_PATTERN, Head, Manifest, decode, decode_manifest

_UPDATE = "DO: update the runtime"


@dataclass(frozen=True, slots=True)
class Runtime:
    """The runtime of a box, as it says of itself."""

    version: str
    feature_sets: frozenset[tuple[str, int]]
    """Name and version of every feature set that it can compute."""
    fingerprint: str = ""
    """Its versions and the machine it runs on: where this changes, the self-test runs again."""


def version_numbers(version: str) -> tuple[int, ...]:
    """1.2.0 as (1, 2), so that 1.2 equals 1.2.0. Raises Malformed."""
    if not re.fullmatch(VERSION_PATTERN, version):
        raise Malformed(f"version {version!r} is not made of numbers and dots")
    return tuple(int(part) for part in re.sub(r"(\.0+)+$", "", version).split("."))


def check_version(needed: str, runtime: Runtime) -> None:
    """Raise RuntimeTooOld where a release needs a newer runtime."""
    if version_numbers(runtime.version) < version_numbers(needed):
        raise RuntimeTooOld(f"the release needs runtime {needed} or newer, this is {runtime.version}. {_UPDATE}")


def check_runtime(manifest: Manifest, runtime: Runtime) -> tuple[str, ...]:
    """Raise RuntimeTooOld where this runtime cannot run a release; return what is worth a note."""
    check_version(manifest.min_runtime, runtime)
    for spec in manifest.detectors:
        if (spec.features.name, spec.features.version) not in runtime.feature_sets:
            known = ", ".join(f"{name} {version}" for name, version in sorted(runtime.feature_sets))
            raise FeatureSetMissing(
                f"the release needs feature set {spec.features.name} {spec.features.version}, "
                f"this runtime {runtime.version} has {known}. {_UPDATE}, or install the package that brings the set"
            )
    proved = manifest.proved_on.get("axlebox")
    if proved is not None and proved != runtime.version:
        return (f"proved on runtime {proved}, this is {runtime.version}: the self-test decides",)
    return ()


def read_manifest(data: bytes, runtime: Runtime | None = None) -> Manifest:
    """A manifest, or RuntimeTooOld where it says that it was made for a newer runtime.

    That is asked first: a field that is not known is a newer release's in the one case, and a
    mistake in the other (Malformed).
    """
    if runtime is not None:
        check_version(decode(data, Head, "manifest.json").min_runtime, runtime)
    return decode_manifest(data)
