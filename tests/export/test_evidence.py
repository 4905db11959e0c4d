"""What people and their tools read in a bundle: component list, provenance, card."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from axlebox.export.card import card
from axlebox.export.evidence import CARD, PROVENANCE, SBOM, evidence
from axlebox.export.provenance_statement import statement
from axlebox.export.sbom import sbom
from axlebox.export.vehicle_lock import Locked, parse_lock, vehicle_lock
from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.manifest import Code, DataFile, Kind, Lineage, Manifest, decode_manifest
from axlebox.training.runs import open_run
from axlebox.training.summary import INTENDED_USE, limits_of_use

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = (REPOSITORY / "requirements/vehicle.txt").read_text()

EVALUATION = {
    "train_readings": 2000,
    "test_readings": 500,
    "sensors": 2,
    "exposure_sensor_days": 3.5,
    "flags": 7,
    "events": 3,
    "flags_per_sensor_day": 2.0,
    "events_per_sensor_day": None,
    "detectors": {"temperature": {"model": "model.onnx", "feature_set": "value", "threshold": 0.61}},
}

HOSTILE = "a.csv`\n# Approved\n<script>alert(1)</script> [x](javascript:y) | \x1b[2J \u202e \u00fc"


def lineage(name: str = "a.csv", commit: str | None = None) -> Lineage:
    return Lineage(
        run="0123456789ab",
        data=(DataFile(name, "5" * 64, 10, 1),),
        parameters={"feature_set": name},
        code=Code("0.1.0", "c" * 64, commit),
        versions={"numpy": "2.4.6", "scikit-learn": "1.9.1"},
    )


@pytest.fixture(scope="module")
def members(exported: Path) -> dict[str, bytes]:
    """All members of a bundle that `axlebox export` made."""
    return unpack((exported / "dist/fleet-1.axb").read_bytes())


@pytest.fixture(scope="module")
def signed(members: dict[str, bytes]) -> dict[str, bytes]:
    """Those that targets.json signs."""
    return {name: members[name] for name in json.loads(members["targets.json"])["signed"]["targets"]}


# -- sbom.cdx.json --------------------------------------------------------------------------------


def complaint(bom: bytes) -> Any:
    """What the CycloneDX project's own schema has against a component list, or None."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom.decode())


def hostile_manifest(world: Any) -> Manifest:
    kinds = {HOSTILE: Kind()}
    manifest: Manifest = world.manifest(lineage=lineage(HOSTILE), contract=type(world.contract)(kinds=kinds))
    return manifest


def test_the_component_list_keeps_to_the_official_schema(world: Any, members: dict[str, bytes]) -> None:
    assert complaint(members[SBOM]) is None
    models = {"model.onnx": world.model}
    assert complaint(sbom(hostile_manifest(world), models, EVALUATION, vehicle_lock())) is None


def test_the_schema_can_complain(members: dict[str, bytes]) -> None:
    bom = json.loads(members[SBOM])
    bom["components"][-1]["type"] = "readings"
    assert complaint(json.dumps(bom).encode()) is not None


def test_every_package_of_the_vehicle_s_lock_is_listed_once_with_all_its_hashes(members: dict[str, bytes]) -> None:
    libraries = [one for one in json.loads(members[SBOM])["components"] if one["type"] == "library"]
    listed = Counter(f"{one['name']}=={one['version']}" for one in libraries)
    assert listed == Counter(re.findall(r"^\S+==[^\s;]+", LOCK, re.M))
    hashes = [one["content"] for library in libraries for one in library["externalReferences"][0]["hashes"]]
    assert hashes == re.findall(r"sha256:([0-9a-f]{64})", LOCK)
    markers = [one["properties"][0]["value"] for one in libraries if "properties" in one]
    assert markers == re.findall(r"^\S+==\S+ ; (.*) \\$", LOCK, re.M) != []


def test_licences_are_those_of_the_very_version_and_one_line_each(members: dict[str, bytes], world: Any) -> None:
    licences = {one["name"]: one.get("licenses") for one in json.loads(members[SBOM])["components"]}
    assert licences["cryptography"] == [{"expression": "Apache-2.0 OR BSD-3-Clause"}]
    assert licences["onnxruntime"] == [{"license": {"name": "MIT License"}}]
    assert not any("\n" in json.dumps(one) or len(json.dumps(one)) > 120 for one in licences.values())
    unknown = (Locked("numpy", "0.0.1", None, ("0" * 64,)), Locked("no-such-package", "1", None, ("0" * 64,)))
    components = json.loads(sbom(world.manifest(), {"model.onnx": world.model}, EVALUATION, unknown))["components"]
    assert not any("licenses" in one for one in components if one["type"] == "library")


def test_the_model_is_a_component_with_its_data_and_its_limits(signed: dict[str, bytes]) -> None:
    components = json.loads(signed[SBOM])["components"]
    (model,) = [one for one in components if one["type"] == "machine-learning-model"]
    (data,) = [one for one in components if one["type"] == "data"]
    manifest = decode_manifest(signed["manifest.json"])
    assert model["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(signed["model.onnx"]).hexdigest()}]
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert data["hashes"][0]["content"] == manifest.lineage.data[0].sha256 and data["scope"] == "excluded"
    assert model["modelCard"]["considerations"]["technicalLimitations"] == list(limits_of_use(["streaming"]))
    assert INTENDED_USE in model["modelCard"]["considerations"]["useCases"][0]


def test_every_reference_in_the_component_list_leads_to_one_component(members: dict[str, bytes]) -> None:
    bom = json.loads(members[SBOM])
    refs = [one["bom-ref"] for one in (bom["metadata"]["component"], *bom["components"])]
    assert len(refs) == len(set(refs))
    assert {one["ref"] for one in bom["dependencies"]} <= set(refs)
    needed = {ref for one in bom["dependencies"] for ref in one["dependsOn"]}
    shipped = {one["bom-ref"] for one in bom["components"] if one["type"] != "data"}
    assert needed == shipped


def test_the_serial_number_is_made_of_the_content(world: Any) -> None:
    def serial(version: int) -> str:
        bom = sbom(world.manifest(version), {"model.onnx": world.model}, EVALUATION, vehicle_lock())
        return str(json.loads(bom)["serialNumber"])

    assert serial(1) == serial(1) != serial(2)


def test_one_file_under_two_names_is_one_component(world: Any) -> None:
    twice = Lineage("0123456789ab", (*lineage().data, *lineage("b.csv").data), {}, Code("0.1.0", "c" * 64), {})
    bom = sbom(world.manifest(lineage=twice), {"model.onnx": world.model}, EVALUATION, vehicle_lock())
    assert complaint(bom) is None
    assert [one["type"] for one in json.loads(bom)["components"]].count("data") == 1


def test_the_lock_in_the_distribution_is_that_of_the_repository() -> None:
    assert vehicle_lock() == parse_lock(LOCK)


@pytest.mark.parametrize(
    "entry",
    [
        "numpy==2.4.6\n",
        "numpy>=2 --hash=sha256:" + "0" * 64,
        "--index-url x",
        "numpy @ file:x --hash=sha256:" + "0" * 64,
    ],
)
def test_a_lock_that_pins_less_than_a_file_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="a lock does not say"):
        parse_lock(entry)


# -- provenance.json ------------------------------------------------------------------------------


def test_the_statement_is_about_every_other_signed_member(signed: dict[str, bytes]) -> None:
    found = {one["name"]: one["digest"] for one in json.loads(signed[PROVENANCE])["subject"]}
    expected = {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in signed.items()}
    del expected[PROVENANCE]
    assert found == expected and {CARD, SBOM, "manifest.json", "model.onnx", "golden.json"} == set(found)


def test_the_statement_says_from_what_a_release_was_made(signed: dict[str, bytes], exported: Path) -> None:
    record = open_run(exported / "runs", None).record()
    found = json.loads(signed[PROVENANCE])
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = found["predicate"]["buildDefinition"], found["predicate"]["runDetails"]
    assert definition["externalParameters"]["parameters"] == record.lineage.parameters
    assert details["metadata"] == {"invocationId": record.lineage.run}
    dependencies = {one["name"]: one for one in definition["resolvedDependencies"]}
    (data,) = record.lineage.data
    assert dependencies[data.name]["digest"] == {"sha256": data.sha256}
    assert dependencies["axlebox"]["digest"] == {"sha256": record.lineage.code.source_sha256}
    for name, version in record.lineage.versions.items():
        assert dependencies[name]["uri"] == f"pkg:{'generic' if name == 'python' else 'pypi'}/{name}@{version}"


@pytest.mark.parametrize(
    ("commit", "expected"), [("a" * 40, [{"gitCommit": "a" * 40}]), ("a" * 40 + "-dirty", []), (None, [])]
)
def test_only_a_clean_commit_is_a_dependency(world: Any, commit: str | None, expected: list[dict[str, str]]) -> None:
    found = json.loads(statement(world.manifest(lineage=lineage(commit=commit)), {}))["predicate"]["buildDefinition"]
    assert [one["digest"] for one in found["resolvedDependencies"] if one["name"] == "workspace"] == expected
    assert found["internalParameters"]["workspaceCommit"] == commit


# -- card.md --------------------------------------------------------------------------------------


def test_the_card_says_what_the_one_who_signs_must_know(signed: dict[str, bytes], exported: Path) -> None:
    text = signed[CARD].decode("ascii")
    record = open_run(exported / "runs", None).record()
    manifest = decode_manifest(signed["manifest.json"])
    for said in (INTENDED_USE, *limits_of_use(["streaming"]), record.lineage.run, record.lineage.code.source_sha256):
        assert said in text
    for said in (*(one.sha256 for one in record.lineage.data), repr(manifest.detectors[0].threshold)):
        assert said in text
    assert f"- Flagged readings: {record.evaluation['flags']:,}" in text
    assert "- Flags that differ: 0\n" in text


def test_the_report_and_the_card_tell_the_same_limits(exported: Path) -> None:
    report = (open_run(exported / "runs", None).folder / "report.html").read_text()
    assert all(one in report for one in (INTENDED_USE, *limits_of_use(["streaming"])))


def test_a_hostile_name_is_no_markup_in_the_card(world: Any) -> None:
    text = card(hostile_manifest(world), EVALUATION).decode("ascii")
    plain = card(world.manifest(lineage=lineage()), EVALUATION).decode("ascii")
    assert set(re.findall(r"[^ -~]", text)) == {"\n"}
    assert text.count("\n") == plain.count("\n") and text.count("`") == plain.count("`")
    assert "\n# Approved" not in text
    # Outside of code spans, where a viewer would act on it, nothing of the name is left.
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert not re.search(r"[<>\[\]|]|Approved|script", outside)


# -- all three ------------------------------------------------------------------------------------

_AGAIN = """
import hashlib, json, sys
from pathlib import Path
from axlebox.export.evidence import evidence
from axlebox.firmware_bundle.container import unpack
from axlebox.firmware_bundle.manifest import decode_manifest
members = unpack(Path(sys.argv[1]).read_bytes())
files = {name: members[name] for name in ("manifest.json", "golden.json", "model.onnx")}
evaluation = json.loads(Path(sys.argv[2]).read_text())["evaluation"]
made = evidence(decode_manifest(members["manifest.json"]), files, evaluation)
print(json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in made.items()}))
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_equal_inputs_give_equal_bytes_in_any_process(
    axlebox: Any, exported: Path, signed: dict[str, bytes], seed: str
) -> None:
    inputs = [exported / "dist/fleet-1.axb", open_run(exported / "runs", None).folder / "run.json"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _AGAIN, *inputs],
        env={**axlebox.environment, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {name: hashlib.sha256(signed[name]).hexdigest() for name in (CARD, SBOM, PROVENANCE)}
    assert json.loads(done.stdout) == expected


_SOMEWHERE = """
import getpass, platform, socket
getpass.getuser = lambda: "jane.roe"
platform.node = socket.gethostname = lambda: "depot-7"
from axlebox.export.cli import main
main()
"""


def test_no_person_machine_place_or_secret_is_in_any_signed_member(axlebox: Any, copied: Path) -> None:
    for words in (("train", "--params", "forest.n_estimators=5"), ("export",)):
        command = [sys.executable, "-P", "-c", _SOMEWHERE, *words]
        subprocess.run(command, cwd=copied, env=axlebox.environment, capture_output=True, check=True)
    assert open_run(copied / "runs", None).record().created_by == "jane.roe"
    members = unpack((copied / "dist/fleet-2.axb").read_bytes())
    secrets = ["".join(path.read_text().splitlines()[1:-1])[-40:] for path in (copied / "keys").glob("*.pem")]
    assert len(secrets) > 1
    forbidden = ["PRIVATE KEY", "jane.roe", "depot-7", str(copied), sys.prefix, str(REPOSITORY), *secrets]
    for name in json.loads(members["targets.json"])["signed"]["targets"]:
        assert [one for one in forbidden if one.encode() in members[name]] == [], name


def test_no_address_but_the_names_of_the_two_formats_is_in_the_evidence(signed: dict[str, bytes]) -> None:
    for name in (CARD, SBOM, PROVENANCE):
        found = set(re.findall(r"\w+://[^\"\s]+", signed[name].decode()))
        assert found <= {"https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"}, name


def test_evidence_is_about_the_files_that_it_is_given(world: Any) -> None:
    files = world.files(world.manifest())
    made = evidence(world.manifest(), files, EVALUATION)
    assert set(made) == {CARD, SBOM, PROVENANCE}
    assert {one["name"] for one in json.loads(made[PROVENANCE])["subject"]} == {*files, CARD, SBOM}


# -- inspect --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "name"),
    [("card", CARD), ("sbom", SBOM), ("provenance", PROVENANCE), ("manifest", "manifest.json")],
)
def test_inspect_shows_a_member_as_it_is(
    axlebox: Any, exported: Path, signed: dict[str, bytes], what: str, name: str
) -> None:
    assert axlebox.ok("inspect", "dist/fleet-1.axb", "--show", what, cwd=exported).encode() == signed[name]


def test_inspect_counts_in_words_and_tells_all_in_json(axlebox: Any, exported: Path, signed: dict[str, bytes]) -> None:
    words = axlebox.ok("inspect", "dist/fleet-1.axb", cwd=exported)
    record = json.loads(axlebox.ok("inspect", "dist/fleet-1.axb", "--json", cwd=exported))
    assert record["sbom"] == json.loads(signed[SBOM])
    assert record["provenance"] == json.loads(signed[PROVENANCE])
    assert record["card"] == signed[CARD].decode()
    assert f"{SBOM}, {len(record['sbom']['components'])} components" in words
    assert f"{PROVENANCE}, about 5 members" in words and f"{CARD}: " in words
    assert f"proved on axlebox {record['manifest']['proved_on']['axlebox']}, machine " in words


def test_inspect_of_a_bundle_without_evidence_says_so(axlebox: Any, world: Any, tmp_path: Path) -> None:
    (tmp_path / "bare.axb").write_bytes(world.bundle())
    (tmp_path / "root.json").write_bytes(world.root())
    bare = ("inspect", tmp_path / "bare.axb", "--trust", tmp_path / "root.json")
    assert "sbom" not in axlebox.ok(*bare)
    done = axlebox(*bare, "--show", "sbom")
    assert done.returncode == 2 and f"there is no {SBOM} in this bundle" in done.stderr


def test_inspect_refuses_to_show_a_member_as_json(axlebox: Any, exported: Path) -> None:
    done = axlebox("inspect", "dist/fleet-1.axb", "--show", "card", "--json", cwd=exported)
    assert done.returncode == 2 and done.stdout == ""
