"""Old runtime, newer release: what is refused, in which words, and what is only noted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from axlebox.firmware_bundle.errors import FeatureSetMissing, Malformed, PreflightFailed, RuntimeTooOld
from axlebox.firmware_bundle.manifest import FORMAT, FeatureSet, Manifest, encode
from axlebox.firmware_bundle.skew import Runtime, check_runtime, check_version, read_manifest
from axlebox.firmware_bundle.trust import verify

RUNTIME = Runtime("0.1.0", frozenset({("value", 1), ("streaming", 2)}))


@pytest.fixture
def plain(world: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(encode(world.manifest()))
    return found


def as_json(plain: dict[str, Any]) -> bytes:
    return msgspec.json.encode(plain)


def with_features(world: Any, name: str, version: int) -> Manifest:
    spec = msgspec.structs.replace(world.spec, features=FeatureSet(name, version))
    manifest: Manifest = world.manifest(detectors=(spec,))
    return manifest


def test_a_manifest_of_this_format_is_read(plain: dict[str, Any]) -> None:
    assert encode(read_manifest(as_json(plain), RUNTIME)) == encode(read_manifest(as_json(plain)))


def test_a_newer_format_asks_for_a_newer_runtime_and_is_no_malformed_file(plain: dict[str, Any]) -> None:
    with pytest.raises(RuntimeTooOld, match="DO: update the runtime") as refusal:
        read_manifest(as_json({**plain, "format": FORMAT + 1, "shape": "unknown"}), RUNTIME)
    assert refusal.value.exit_code == PreflightFailed.exit_code == 20


def test_an_unknown_field_of_a_release_for_a_newer_runtime_is_that_runtime_s(plain: dict[str, Any]) -> None:
    with pytest.raises(RuntimeTooOld, match=r"needs runtime 0\.2\.0 or newer, this is 0\.1\.0"):
        read_manifest(as_json({**plain, "min_runtime": "0.2.0", "shape": "unknown"}), RUNTIME)


def test_an_unknown_field_of_a_release_for_this_runtime_is_a_mistake(plain: dict[str, Any]) -> None:
    """A vehicle never ignores what it does not understand."""
    with pytest.raises(Malformed, match="unknown field `shape`"):
        read_manifest(as_json({**plain, "shape": "unknown"}), RUNTIME)


@pytest.mark.parametrize(("name", "version"), [("value", 2), ("streaming", 1), ("other", 1)])
def test_an_unknown_feature_set_is_named_beside_the_known_ones(world: Any, name: str, version: int) -> None:
    manifest = with_features(world, name, version)
    with pytest.raises(FeatureSetMissing, match=rf"needs feature set {name} {version}, .* has streaming 2, value 1"):
        check_runtime(manifest, RUNTIME)
    for words in (FeatureSetMissing.headline, FeatureSetMissing.advice):
        assert "newer runtime" not in words  # it may be another package that is missing
    assert "install the package that brings it" in FeatureSetMissing.advice


@pytest.mark.parametrize(("proved", "notes"), [("0.1.0", 0), ("0.0.9", 1), ("0.2.0", 1)])
def test_a_release_that_was_proved_on_another_runtime_is_accepted_with_a_note(
    world: Any, proved: str, notes: int
) -> None:
    found = check_runtime(world.manifest(proved_on={"axlebox": proved}), RUNTIME)
    assert len(found) == notes
    assert all(proved in note and "the self-test decides" in note for note in found)


def test_a_bundle_that_was_proved_on_another_runtime_is_good_and_its_warnings_say_so(world: Any) -> None:
    def verified(proved: str) -> tuple[str, ...]:
        files = {**world.files(world.manifest(proved_on={"axlebox": proved})), "model.onnx": world.tiny_model}
        data, now = world.bundle(files=files), datetime(2026, 4, 1, tzinfo=UTC)
        return verify(data, world.root(), now, 0, "any", None, runtime=RUNTIME).warnings

    assert verified("0.1.0") == ()
    assert verified("0.2.0") == ("proved on runtime 0.2.0, this is 0.1.0: the self-test decides",)


@pytest.mark.parametrize("needed", ["0.1.0.1", "0.2", "1", "0.10.0"])
def test_versions_are_compared_as_numbers(needed: str) -> None:
    with pytest.raises(RuntimeTooOld):
        check_version(needed, RUNTIME)
    check_version(needed, Runtime("10.0", frozenset()))


@pytest.mark.parametrize("version", ["1." * 9 + "1", "1e3", "٣", "9" * 10, "0.1.0\n"])
def test_a_version_that_is_hard_to_read_is_malformed(plain: dict[str, Any], version: str) -> None:
    with pytest.raises(Malformed):
        read_manifest(as_json({**plain, "min_runtime": version}), RUNTIME)
