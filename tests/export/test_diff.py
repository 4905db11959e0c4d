"""`axlebox diff`: what a second person looks at before signing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from axlebox.export.diff import Change, describe, diff
from axlebox.export.forest_onnx import convert
from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.firmware_bundle.trust import Proposal, examine

NOW = datetime(2026, 4, 1, tzinfo=UTC)
Make = Callable[..., Proposal]


@pytest.fixture
def release(world: Any) -> Make:
    """A release of the world, with other manifest fields, members or signers."""

    def make(
        version: int = 1, members: dict[str, bytes] | None = None, signers: tuple[str, ...] = (), **fields: Any
    ) -> Proposal:
        files = {**world.files(world.manifest(version, **fields)), **(members or {})}
        root = world.root(targets_keys=("targets", "second"), threshold=1)
        data = world.bundle(version, files=files, roots={"1.root.json": root}, targets_keys=signers or ("targets",))
        return examine(data, root, NOW)

    return make


def test_two_releases_that_differ_in_their_version_alone_have_no_differences(release: Make) -> None:
    found = diff(release(1), release(2))
    assert (found.settings, found.data, found.components, found.signers) == ((), (), (), ())
    assert "settings   no difference" in describe(release(1), release(2), found)


def test_a_changed_setting_is_named_with_both_values(release: Make, world: Any) -> None:
    contract = Contract(kinds={"temperature": Kind(action="stop the train")})
    found = diff(release(1), release(2, contract=contract, hardware=("rail-box-a",)))
    assert found.settings == (
        Change("contract.kinds.temperature.action", '"look at the bearing"', '"stop the train"'),
        Change("hardware", '["any"]', '["rail-box-a"]'),
    )


def test_components_that_came_went_or_changed_are_named(release: Make) -> None:
    def with_components(**versions: str) -> dict[str, bytes]:
        listed = [{"type": "library", "name": name, "version": version} for name, version in versions.items()]
        return {"sbom.cdx.json": json.dumps({"components": listed}).encode()}

    before = release(1, members=with_components(numpy="2.4.5", click="8.1", tuf="7.0.1"))
    after = release(2, members=with_components(numpy="2.4.6", cffi="2.1", tuf="7.0.1"))
    assert [str(change) for change in diff(before, after).components] == [
        "cffi: none -> 2.1",
        "click: 8.1 -> none",
        "numpy: 2.4.5 -> 2.4.6",
    ]


def test_a_bill_of_materials_that_is_none_is_malformed(release: Make) -> None:
    with pytest.raises(Malformed, match=r"sbom\.cdx\.json of bearing-temp 2"):
        diff(release(1), release(2, members={"sbom.cdx.json": b'{"components": 7}'}))


def test_other_signers_are_a_difference(release: Make) -> None:
    (change,) = diff(release(1), release(1, signers=("targets", "second"))).signers
    assert change.before != change.after and change.before in str(change.after)


def test_gained_and_lost_flags_are_scikit_learns(release: Make, world: Any, tmp_path: Path) -> None:
    """The second forest saw other temperatures; both are asked directly for what they flag."""
    rows = np.random.default_rng(1).normal(140, 4, (400, 1)).round().astype(np.float32)
    other = IsolationForest(n_estimators=10, random_state=1, contamination=0.05).fit(rows)
    values = np.arange(60, 180, 2, dtype=np.float64)
    readings = tmp_path / "readings.csv"
    stamps = [f"2026-03-01T{number // 60:02d}:{number % 60:02d}:00Z" for number in range(len(values))]
    readings.write_text("".join(f"{stamp},{value}\n" for stamp, value in zip(stamps, values, strict=True)))
    flags = diff(release(1), release(2, members={"model.onnx": convert(other, 1)}), readings).flags
    before, after = (forest.predict(values[:, None].astype(np.float32)) == -1 for forest in (world.forest, other))
    assert flags is not None and (flags.readings, flags.before, flags.after) == (len(values), before.sum(), after.sum())
    assert flags.gained == tuple(f"{stamps[n]} temperature {values[n]}" for n in np.flatnonzero(after & ~before))
    assert flags.lost == tuple(f"{stamps[n]} temperature {values[n]}" for n in np.flatnonzero(before & ~after))
    assert flags.gained and flags.lost


def test_marks_are_not_counted_among_the_readings(release: Make, tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text("2026-03-01T00:00:00Z,replaced\n2026-03-01T00:01:00Z,100\n")
    flags = diff(release(1), release(2), tmp_path / "readings.csv").flags
    assert flags is not None and flags.readings == 1


@pytest.mark.parametrize("line", ["nothing", "2026-03-01T00:00:00Z,replaced"])
def test_a_file_without_readings_is_malformed(release: Make, tmp_path: Path, line: str) -> None:
    (tmp_path / "empty.csv").write_text(f"{line}\n")
    with pytest.raises(Malformed, match="no reading found"):
        diff(release(1), release(2), tmp_path / "empty.csv")


def test_the_command_says_what_retraining_changed(axlebox: Any, copied: Path) -> None:
    axlebox.ok("train", "--params", "forest.n_estimators=20,feature_set=value", cwd=copied)
    axlebox.ok("export", cwd=copied)
    two = ("diff", "dist/fleet-1.axb", "dist/fleet-2.axb")
    held_out = next(copied.glob("runs/*/held_out.csv"))
    said = axlebox.ok(*two, "--readings", held_out, cwd=copied)
    assert 'lineage.parameters.feature_set: "streaming" -> "value"' in said
    (component,) = [line for line in said.splitlines() if line.startswith("components")]
    assert component.startswith("components model.onnx: sha256 ") and "signers    no difference" in said
    flags = json.loads(axlebox.ok(*two, "--readings", held_out, "--json", cwd=copied))["differences"]["flags"]
    assert flags["after"] > flags["before"] and flags["gained"]
