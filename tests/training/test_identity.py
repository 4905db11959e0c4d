"""What RUN is made of: everything that can change the trained model, and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.training import provenance
from axlebox.training.contract import load_contract
from axlebox.training.parameters import BundleParameters, Parameters, check
from axlebox.training.provenance import code_revision, library_versions

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_code_is_identified_by_its_sources_however_it_is_installed(tmp_path: Path) -> None:
    digest = hashlib.sha256()
    for package in ("firmware_bundle", "runtime", "training", "export"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            digest.update(f"{path.relative_to(REPOSITORY).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    assert code_revision(tmp_path).source_sha256 == digest.hexdigest()


def test_compiled_caches_and_times_of_files_do_not_change_the_code_s_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(name: str) -> Any:
        folder = tmp_path / name.removeprefix("axlebox.")
        return type("Spec", (), {"origin": str(folder / "__init__.py")})

    for package in ("firmware_bundle", "runtime", "training", "export"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance.util, "find_spec", spec)
    before = code_revision(tmp_path).source_sha256
    (tmp_path / "runtime/__pycache__").mkdir()
    (tmp_path / "runtime/__pycache__/gate.cpython-311.pyc").write_bytes(b"x")
    shutil.copy2(tmp_path / "runtime/__init__.py", tmp_path / "runtime/other")
    (tmp_path / "runtime/__init__.py").touch()
    assert code_revision(tmp_path).source_sha256 == before
    (tmp_path / "runtime/gate.py").write_text("")
    assert code_revision(tmp_path).source_sha256 != before


def test_the_order_in_the_contract_s_file_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "contract.yml"
    found = []
    for kinds, sensors in (
        ("b: {}, a: {warn: 3}", "y: {kind: a}, x: {kind: b}"),
        ("a: {warn: 3}, b: {}", "x: {kind: b}, y: {kind: a}"),
    ):
        path.write_text(f"kinds: {{{kinds}}}\nsensors: {{{sensors}}}\n")
        found.append(msgspec.json.encode(load_contract(path)))
    assert found[0] == found[1]


def test_a_default_and_the_same_value_from_a_file_are_one_setting() -> None:
    default = Parameters(BundleParameters("a")).training_only()
    stated = check({"bundle": {"name": "b"}, **default}).training_only()
    assert msgspec.json.encode(stated) == msgspec.json.encode(default)
    whole = check({"bundle": {"name": "b"}, "streaming": {"block": 50}}).training_only()
    assert msgspec.json.encode(whole) == msgspec.json.encode(default)


def test_only_what_decides_on_the_model_and_its_evaluation_is_a_setting_of_it() -> None:
    more = {
        "bundle": {"name": "b", "hardware": ["box"], "vehicles": ["T1"], "min_sequence": 4},
        "gates": {"least_caught": 0.5},
        "tracking": {"uri": "http://localhost:5000"},
        "forest": {"n_jobs": 2},
    }
    assert check(more).training_only() == Parameters(BundleParameters("a")).training_only()
    for section in ({"forest": {"random_state": 1}}, {"faults_per_kind": 1}, {"streaming": {"of": 6}}):
        assert check({**more, **section}).training_only() != check(more).training_only()


def test_python_s_own_version_is_among_the_versions() -> None:
    assert library_versions()["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
