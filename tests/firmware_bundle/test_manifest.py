"""The manifest: written and read back, and read strictly."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from axlebox.firmware_bundle.errors import Malformed, RuntimeTooOld
from axlebox.firmware_bundle.manifest import (
    FORMAT,
    Contract,
    Golden,
    GoldenRow,
    Kind,
    Manifest,
    Sensor,
    decode,
    decode_manifest,
    encode,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
golden_rows = st.builds(GoldenRow, st.text(), st.text(), finite, finite, st.booleans())


@pytest.fixture(scope="session")
def plain(world: Any) -> dict[str, Any]:
    """A good manifest as plain JSON values."""
    return dict(json.loads(encode(world.manifest())))


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_manifest_is_read_back_as_it_was_written(world: Any) -> None:
    manifest = world.manifest(
        7,
        hardware=("rail-a", "rail-b"),
        vehicles=("T204",),
        min_sequence=3,
        contract=Contract(
            kinds={"temperature": Kind(period_s=60.0, range=(-50.0, 250.5), warn=120.0, action="look")},
            sensors={"axle/1": Sensor("temperature", group="left", offset=-0.1)},
        ),
    )
    assert decode_manifest(encode(manifest)) == manifest


@given(st.lists(golden_rows, min_size=1, max_size=5))
def test_golden_readings_come_back_to_the_last_bit(rows: list[GoldenRow]) -> None:
    golden = Golden(tuple(rows))
    assert decode(encode(golden), Golden, "golden.json") == golden


def test_equal_manifests_give_equal_bytes_whatever_the_order_of_their_parts(world: Any) -> None:
    kinds = {"a": Kind(), "b": Kind(), "temperature": Kind()}
    forward = world.manifest(contract=Contract(kinds=kinds))
    backward = world.manifest(contract=Contract(kinds=dict(reversed(kinds.items()))))
    assert encode(forward) == encode(backward)


def test_a_manifest_is_written_for_people_line_by_line(world: Any) -> None:
    text = encode(world.manifest()).decode()
    assert '\n "name": "bearing-temp",\n' in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("newer", [FORMAT + 1, 99])
def test_a_newer_format_asks_for_a_newer_runtime_whatever_else_it_holds(newer: int) -> None:
    with pytest.raises(
        RuntimeTooOld, match=rf"has format {newer}, this runtime reads {FORMAT}\. DO: update the runtime"
    ):
        decode_manifest(as_json({"format": newer, "shape": ["unknown"]}))


PLACES: list[list[str | int]] = [
    [],
    ["contract"],
    ["contract", "kinds", "temperature"],
    ["detectors", 0],
    ["detectors", 0, "features"],
    ["parity", "model.onnx"],
    ["lineage"],
    ["lineage", "data", 0],
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_an_unknown_field_is_refused_at_every_depth(plain: dict[str, Any], place: list[str | int]) -> None:
    changed = json.loads(json.dumps(plain))
    record = changed
    for step in place:
        record = record[step]
    record["colour"] = "red"
    with pytest.raises(Malformed, match="colour"):
        decode_manifest(as_json(changed))


@pytest.mark.parametrize("field", [field for field in Manifest.__struct_fields__ if field != "format"])
def test_a_missing_field_is_named(plain: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed, match=field):
        decode_manifest(as_json({name: value for name, value in plain.items() if name != field}))


WRONG = [
    ("name", "Bearing"),
    ("name", "../bearing"),
    ("name", ""),
    ("name", "a" * 64),
    ("name", "bearing\n"),
    ("version", 0),
    ("version", -1),
    ("version", 1.5),
    ("version", "1"),
    ("version", True),
    ("min_sequence", -1),
    ("hardware", "any"),
    ("hardware", ["rail a"]),
    ("hardware", ["rail-a\n"]),
    ("vehicles", [""]),
    ("vehicles", ["T204\n"]),
    ("vehicles", None),
    ("detectors", []),
    ("min_runtime", "abc"),
    ("min_runtime", "1.0\n"),
    ("contract", {"kinds": {"temperature\x1b[2J": {}}}),
    ("contract", {"kinds": {"temperature": {"action": "run\r\x1b[1A"}}}),
    ("contract", {"kinds": {"temperature": {"action": "x" * 201}}}),
    ("contract", {"kinds": {"temperature": {"period_s": 0}}}),
    ("contract", {"kinds": {"temperature": {}}, "sensors": {"a\x9b": {"kind": "temperature"}}}),
    ("proved_on", ["numpy"]),
    ("proved_on", {"numpy": 2.4}),
    ("format", "1"),
    ("format", None),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_outside_its_range_is_refused(plain: dict[str, Any], field: str, value: Any) -> None:
    with pytest.raises(Malformed, match=r"manifest\.json"):
        decode_manifest(as_json({**plain, field: value}))


@pytest.mark.parametrize("model", ["../model.onnx", "/model.onnx", "Model.onnx", "", "model.onnx\n", "a/b"])
def test_a_model_s_name_that_no_member_can_have_is_refused(plain: dict[str, Any], model: str) -> None:
    detector = {**plain["detectors"][0], "model": model}
    with pytest.raises(Malformed, match="model"):
        decode_manifest(as_json({**plain, "detectors": [detector]}))


def test_a_detector_for_a_kind_that_the_contract_lacks_is_refused(plain: dict[str, Any]) -> None:
    detector = {**plain["detectors"][0], "kind": "vibration"}
    with pytest.raises(Malformed, match="no kind vibration in the contract"):
        decode_manifest(as_json({**plain, "detectors": [detector]}))


def test_more_detectors_than_sixteen_are_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="detectors"):
        decode_manifest(as_json({**plain, "detectors": plain["detectors"] * 17}))


@pytest.mark.parametrize("noise", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": NaN}'])
def test_what_is_no_manifest_at_all_is_refused(noise: bytes) -> None:
    with pytest.raises(Malformed):
        decode_manifest(noise)


def test_deep_parameters_are_refused(plain: dict[str, Any]) -> None:
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    data = as_json({**plain, "lineage": {**plain["lineage"], "parameters": "HERE"}}).replace(b'"HERE"', deep)
    with pytest.raises(Malformed):
        decode_manifest(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1000), noise=st.binary(min_size=1, max_size=8))
def test_noise_in_a_manifest_is_malformed_or_a_manifest_and_nothing_else(world: Any, at: int, noise: bytes) -> None:
    good = encode(world.manifest())
    try:
        found = decode_manifest(good[:at] + noise + good[at + len(noise) :])
    except Malformed:
        return
    assert decode_manifest(encode(found)) == found


def test_the_only_sensor_is_named_or_called_temperature() -> None:
    assert Contract(kinds={"t": Kind()}).only_sensor() == "temperature"
    assert Contract(kinds={"t": Kind()}, sensors={"axle": Sensor("t")}).only_sensor() == "axle"


def test_an_unknown_sensor_belongs_to_the_only_kind_and_to_none_of_several() -> None:
    sensors = {"known": Sensor("b")}
    assert Contract(kinds={"a": Kind()}).kind_of("new") == "a"
    assert Contract(kinds={"a": Kind(), "b": Kind()}, sensors=sensors).kind_of("new") is None
    assert Contract(kinds={"a": Kind(), "b": Kind()}, sensors=sensors).kind_of("known") == "b"


def test_records_cannot_be_changed(world: Any) -> None:
    with pytest.raises(AttributeError):
        world.manifest().version = 2
    assert msgspec.structs.replace(world.manifest(), version=2).version == 2


def test_every_detector_has_a_kind_a_model_and_a_proof_of_its_own(plain: dict[str, Any]) -> None:
    (detector,) = plain["detectors"]
    proof = plain["parity"]["model.onnx"]
    for changes in (
        {"detectors": [detector, {**detector, "model": "b.onnx"}], "parity": {"model.onnx": proof, "b.onnx": proof}},
        {"detectors": [detector, {**detector, "kind": "coolant"}]},
        {"parity": {}},
        {"parity": {"model.onnx": proof, "b.onnx": proof}},
    ):
        with pytest.raises(Malformed, match="of its own"):
            decode_manifest(as_json({**plain, **changes}))
