"""Files that others wrote give the same readings in every format; what cannot be read is told in one line."""

from __future__ import annotations

import csv
import json
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import can
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from axlebox.firmware_bundle.errors import AxleboxError, Malformed, PreflightFailed, UsageError
from axlebox.runtime.readings import BadLine, LineReader, Reading, Replaced
from axlebox.training.contract import load_contract
from axlebox.training.readers import find
from axlebox.training.readers.base import Job
from axlebox.training.readings import FileFacts, ingest, load_current
from axlebox.training.workspace import Workspace, init_workspace

REPOSITORY = Path(__file__).resolve().parents[2]
START = 1_700_000_000
SENSORS = ("T204.left", "T204.right")
DBC = """
VERSION ""
NS_ :
BS_:
BU_: ECU

BO_ 291 Axle: 4 ECU
 SG_ Left : 0|16@1- (0.5,-40) [0|0] "C" ECU

BO_ 292 Other: 4 ECU
 SG_ Right : 16|16@1- (0.5,0) [0|0] "C" ECU
"""

BINARY = {
    "reader": "binary",
    "files": "*.rec",
    "header_bytes": 16,
    "byte_order": "little",
    "fields": [
        {"name": "time", "type": "uint32", "scale": 0.001, "offset": START},
        {"name": "sensor", "type": "uint8", "names": {1: SENSORS[0], 2: SENSORS[1]}},
        {"name": "value", "type": "int16", "scale": 0.5, "offset": -40, "missing": -32768},
        {"name": "pad", "type": "bytes", "size": 3},
    ],
}
CAN_LOG = {
    "reader": "can",
    "files": "*.log",
    "dbc": "conf/base/axle.dbc",
    "signals": {SENSORS[0]: "Axle.Left", SENSORS[1]: "Other.Right"},
}


def service() -> list[tuple[int, str, float]]:
    """Two sensors for five hours: noise of half degrees, an hour of silence, half an hour of the very same value."""
    random = np.random.default_rng(2)
    rows = []
    for minute in range(300):
        if 100 <= minute < 160:
            continue
        for number, sensor in enumerate(SENSORS):
            value = 55.0 if number and 200 <= minute < 230 else 60 + float(random.integers(-9, 10)) / 2
            rows.append((START + 60 * minute, sensor, value))
    return rows


SERVICE = service()


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- writers, none of them axlebox's ---------------------------------------------------------------


def write_csv(path: Path) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([(rfc3339(time), sensor, value) for time, sensor, value in SERVICE])


def write_json(path: Path) -> None:
    rows = [{"time": rfc3339(time), "sensor": sensor, "value": value} for time, sensor, value in SERVICE]
    path.write_text("\n".join(map(json.dumps, rows)))


def parquet_writer(made: Callable[[list[int]], pa.Array], **names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        times, sensors, values = zip(*SERVICE, strict=True)
        columns = {"time": made(list(times)), "sensor": pa.array(sensors), "value": pa.array(values)}
        columns = {names.get(name, name): column for name, column in columns.items()}
        pq.write_table(pa.table(columns), path, row_group_size=101)

    return write


def timestamps(unit: str, zone: str | None) -> Callable[[list[int]], pa.Array]:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    return lambda times: pa.array([one * per_second for one in times]).cast(pa.timestamp(unit, tz=zone))


def binary_writer(form: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        rows = [
            struct.pack(form, 1000 * (time - START), 1 + SENSORS.index(sensor), int((value + 40) * 2), b"xyz")
            for time, sensor, value in SERVICE
        ]
        path.write_bytes(b"RECORDER 1.0    " + b"".join(rows))

    return write


def write_can(path: Path) -> None:
    with can.Logger(path) as logger:
        for time, sensor, value in SERVICE:
            left = sensor == SENSORS[0]
            data = struct.pack("<hh", int((value + 40) * 2), 0) if left else struct.pack("<hh", 0, int(value * 2))
            logger.on_message_received(
                can.Message(
                    arbitration_id=291 if left else 292,
                    is_extended_id=False,
                    data=data,
                    timestamp=float(time),
                    channel=1,
                )
            )


FORMATS: dict[str, tuple[str, Callable[[Path], None], dict[str, Any]]] = {
    "json lines": ("trip.jsonl", write_json, {}),
    **{
        f"parquet, {unit} {zone}": ("trip.parquet", parquet_writer(timestamps(unit, zone)), {})
        for unit, zone in [("s", "UTC"), ("ms", None), ("us", "Europe/Berlin"), ("ns", "UTC")]
    },
    "parquet, text": ("a.parquet", parquet_writer(lambda times: pa.array(map(rfc3339, times)), time="timestamp"), {}),
    "parquet, dictionary": (
        "a.pq",
        parquet_writer(lambda times: pa.array(map(rfc3339, times)).dictionary_encode(), time="Time", value="VALUE"),
        {},
    ),
    "parquet, whole seconds": ("a.parquet", parquet_writer(pa.array), {}),
    "parquet, seconds": ("a.parquet", parquet_writer(lambda times: pa.array(times, pa.float64())), {}),
    "binary, little": ("trip.REC", binary_writer("<IBh3s"), {"recorder": BINARY}),
    "binary, big": ("trip.rec", binary_writer(">IBh3s"), {"recorder": {**BINARY, "byte_order": "big"}}),
    **{
        f"CAN, {suffix}": (f"trip{suffix}", write_can, {"bus": {**CAN_LOG, "files": "trip*"}})
        for suffix in (".log", ".blf", ".asc", ".trc", ".csv", ".log.gz", ".asc.gz")
    },
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = init_workspace(tmp_path / "fleet")
    (workspace.root / "conf/base/axle.dbc").write_text(DBC)
    return workspace


def describe(workspace: Workspace, formats: dict[str, Any]) -> None:
    path = workspace.root / "conf/base/catalog.yml"
    catalog = yaml.safe_load(path.read_text())
    catalog["temperature_database"]["formats"] = formats
    path.write_text(yaml.safe_dump(catalog))


def take_in(workspace: Workspace, *paths: Path, **how: Any) -> list[FileFacts]:
    return [facts for facts, _ in ingest(workspace, load_contract(workspace.contract_path), paths, **how)]


def stream(workspace: Workspace) -> list[tuple[float, str, float | None]]:
    found = load_current(workspace, load_contract(workspace.contract_path)).stream
    return [(one.time, one.sensor, one.value if isinstance(one, Reading) else None) for one in found]


def comparable(facts: FileFacts) -> dict[str, Any]:
    own = ("name", "format", "header", "guessed")
    return {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name not in own}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_readings_in_every_format_are_the_same_stream_with_the_same_facts(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    file, write, formats = FORMATS[name]
    write_csv(tmp_path / "expected.csv")
    (expected,) = take_in(workspace, tmp_path / "expected.csv")
    describe(workspace, formats)
    write(tmp_path / file)
    (found,) = take_in(workspace, tmp_path / file)
    assert stream(workspace) == [(float(time), sensor, value) for time, sensor, value in SERVICE]
    assert comparable(found) == comparable(expected)
    assert (found.rows, found.sensors, found.period_s, found.gaps, found.longest_stuck) == (480, 2, 60, 2, 30)


def test_the_zone_of_this_machine_has_no_say(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python-can's writer puts local time into an .asc; here it was written where local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    write_can(tmp_path / "trip.asc")
    describe(workspace, {"bus": {**CAN_LOG, "files": "*.asc"}})
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        (facts,) = take_in(workspace, tmp_path / "trip.asc")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert facts.first == START and "dates without a zone are UTC" in facts.guessed


# -- Parquet ---------------------------------------------------------------------------------------


def table_file(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def read(workspace: Workspace, path: Path, formats: dict[str, Any] | None = None) -> list[Any]:
    job = Job(path, path.name, "temperature")
    return [item for batch in find.find_reader(path, formats or {}).read(job) for item in batch]


def test_rows_of_a_parquet_file_that_are_no_readings_are_bad_lines_in_their_places(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = table_file(
        tmp_path / "a.parquet",
        time=pa.array([1.0, None, 2.5, float("nan"), 1.7e12, 4.0]),
        sensor=pa.array(["a", "a", None, "a", "a", "x\ny"]),
        value=pa.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    )
    assert read(workspace, path) == [
        Reading(1.0, "a", 1.0, 1),
        BadLine(2, "it has no time"),
        BadLine(3, "it has no sensor"),
        BadLine(4, "nan is not a time (POSIX seconds)"),
        BadLine(5, "1.7e+12 is not a time (POSIX seconds)"),
        BadLine(6, r"'x\ny' is not a sensor id (1 to 64 printable characters)"),
    ]


def test_marks_and_missing_values_of_a_parquet_file_are_those_of_json_lines(
    workspace: Workspace, tmp_path: Path
) -> None:
    lines = [
        '{"time":"2024-01-01T00:00:00Z","sensor":"a","value":1}',
        '{"time":"2024-01-01T00:01:00Z","sensor":"a","replaced":true}',
        '{"time":"2024-01-01T00:02:00Z","sensor":"a","value":null}',
    ]
    path = table_file(
        tmp_path / "a.parquet",
        time=pa.array([f"2024-01-01T00:0{minute}:00Z" for minute in range(4)]),
        sensor=pa.array(["a"] * 4),
        value=pa.array([Decimal("1.0"), None, None, Decimal("2.5")]),
        replaced=pa.array([False, True, None, True]),
    )
    *found, both = read(workspace, path)
    expected = LineReader("x").read(line.encode() for line in lines)
    assert found[:2] == expected[:2] and isinstance(found[1], Replaced)
    assert repr(found[2]) == repr(expected[2]), "no value is NaN, which the gate counts"
    assert isinstance(both, BadLine) and "says replaced" in both.reason


def test_what_was_taken_to_be_so_of_a_parquet_file_is_said(workspace: Workspace, tmp_path: Path) -> None:
    path = table_file(tmp_path / "a.parquet", timestamp=[1, 2], value=[1, 2], speed=[3, 4])
    (facts,) = take_in(workspace, path)
    assert facts.guessed == (
        "column timestamp: numbers, so POSIX seconds",
        "every reading is of sensor temperature",
        "not read: columns speed",
    )


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"when": [1.0], "value": [1.0]}, "no column time among when, value"),
        ({"time": [1.0], "temp": [1.0]}, "no column value among time, temp"),
        ({"time": [1.0], "timestamp": [1.0], "value": [1.0]}, "columns time and timestamp are both time"),
        ({"time": [1.0], "value": ["1.0"]}, "column value is string, expected a number"),
        ({"time": [True], "value": [1.0]}, "column time is bool, expected a timestamp, text or number"),
        ({"time": [1.0], "value": [1.0], "sensor": [1.5]}, "column sensor is double, expected text"),
    ],
)
def test_a_parquet_file_with_other_columns_is_told_in_one_line(
    workspace: Workspace, tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    with pytest.raises(Malformed, match=re.escape(words)) as told:
        take_in(workspace, table_file(tmp_path / "a.parquet", **columns))
    assert str(told.value).startswith("a.parquet: ") and "\n" not in str(told.value)


def test_a_text_s_header_columns_and_zone_are_said(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("value,timestamp\n1,2024-01-01T00:00:00\n")
    (facts,) = take_in(workspace, path)
    assert facts.header and facts.guessed == (
        "columns value,time",
        "every reading is of sensor temperature",
        "times without a zone are UTC",
    )
    path.write_text("2024-01-01T00:00:00+01:00,a,1\n")
    (facts,) = take_in(workspace, path)
    assert facts.guessed == ("columns time,sensor,value",)
    path.write_text('{"time":"2024-01-01T00:00:00","sensor":"a","value":1}\n')
    (facts,) = take_in(workspace, path)
    assert (facts.format, facts.guessed) == ("json lines", ("times without a zone are UTC",))


# -- binary records --------------------------------------------------------------------------------


def fields(*own: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"recorder": {"reader": "binary", "files": "*.rec", "byte_order": "big", "fields": list(own), **more}}


TIME = {"name": "time", "type": "uint32"}


@given(
    raw=st.lists(st.integers(-32768, 32767), min_size=1, max_size=20),
    decimals=st.integers(0, 4),
    offset=st.integers(-1000, 1000),
)
@settings(max_examples=60, deadline=None)
def test_a_decimal_scale_means_the_decimal_number(
    tmp_path_factory: pytest.TempPathFactory, raw: list[int], decimals: int, offset: int
) -> None:
    """215 at a scale of 0.1 is 21.5, the float nearest to the decimal number, whatever the offset."""
    path = tmp_path_factory.mktemp("scale") / "a.rec"
    path.write_bytes(b"".join(struct.pack(">Ih", number, one) for number, one in enumerate(raw)))
    value = {"name": "value", "type": "int16", "scale": float(f"1e-{decimals}"), "offset": offset}
    job = Job(path, path.name, "t")
    found = [one for batch in find.find_reader(path, fields(TIME, value)).read(job) for one in batch]
    expected = [float(Decimal(one).scaleb(-decimals) + offset) for one in raw]
    assert [one.value for one in found if isinstance(one, Reading)] == expected


@pytest.mark.parametrize(
    ("kind", "form", "raw"),
    [
        ("int8", "b", -128), ("uint8", "B", 255), ("int16", "h", -2), ("uint16", "H", 65535),
        ("int32", "i", -(2**31)), ("uint32", "I", 2**32 - 1), ("int64", "q", -(2**52)), ("uint64", "Q", 2**53),
        ("float32", "f", -0.15625), ("float64", "d", 1 / 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("order", "sign"), [("little", "<"), ("big", ">")])
def test_every_type_is_read_as_struct_packs_it(
    workspace: Workspace, tmp_path: Path, kind: str, form: str, raw: float, order: str, sign: str
) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(struct.pack(">d", 5.5) + struct.pack(sign + form, raw))
    found = read(
        workspace,
        path,
        fields({"name": "time", "type": "float64"}, {"name": "value", "type": kind, "byte_order": order}),
    )
    assert found == [Reading(5.5, "temperature", float(raw), 1)]


def test_several_values_of_one_record_are_readings_of_several_sensors(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(struct.pack(">IhhIhhIhh", 10, 1, 2, 20, -1, 4, 30, 5, -1))
    value = {"name": "value", "type": "int16", "missing": -1}
    described = fields(TIME, {**value, "sensor": "left"}, {**value, "sensor": "right"})
    found = read(workspace, path, described)
    assert found == [
        Reading(10, "left", 1, 1), Reading(10, "right", 2, 1), Reading(20, "right", 4, 2), Reading(30, "left", 5, 3)
    ]  # fmt: skip
    describe(workspace, described)
    (facts,) = take_in(workspace, path)
    assert facts.guessed == ("2 values missing, so no readings",) and (facts.rows, facts.invalid) == (4, 0)


def test_records_that_are_no_readings_are_one_bad_line_each_in_their_places(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(
        struct.pack(">dBh", 1, 1, 5) + struct.pack(">dBh", 2, 7, 5) + struct.pack(">dBh", 1e300, 1, 5) + b"abc"
    )
    time = {"name": "time", "type": "float64"}
    sensor = {"name": "sensor", "type": "uint8", "names": {1: "a"}}
    assert read(workspace, path, fields(time, sensor, {"name": "value", "type": "int16"})) == [
        Reading(1, "a", 5, 1),
        BadLine(2, "sensor '7' is none of the names of field sensor"),
        BadLine(3, "1e+300 is not a time (POSIX seconds)"),
        BadLine(4, "3 bytes, expected a record of 11: the file was cut"),
    ]
    path.write_bytes(struct.pack(">dhh", float("nan"), 1, 2))
    two = [{"name": "value", "type": "int16", "sensor": name} for name in "ab"]
    assert read(workspace, path, fields(time, *two)) == [BadLine(1, "nan is not a time (POSIX seconds)")]


def test_a_sensor_may_be_text_or_a_plain_number(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(struct.pack(">I6sh", 1, b"left", 5) + struct.pack(">I6sh", 2, b"\xff\xfe", 5))
    value = {"name": "value", "type": "int16"}
    found = read(workspace, path, fields(TIME, {"name": "sensor", "type": "text", "size": 6}, value))
    assert found[0] == Reading(1, "left", 5, 1)
    path.write_bytes(struct.pack(">IHh", 1, 300, 5))
    assert read(workspace, path, fields(TIME, {"name": "sensor", "type": "uint16"}, value)) == [Reading(1, "300", 5, 1)]


# -- descriptions ----------------------------------------------------------------------------------

VALUE = {"name": "value", "type": "int16"}


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ({"a": 5}, "formats.a: expected a table with a reader"),
        ({"a": {"reader": "binery"}}, "formats.a: there is no reader 'binery'; did you mean binary?"),
        ({"a": {"reader": "text", "sep": ";"}}, "formats.a: reader text has no settings, found sep"),
        ({"a": {"reader": "text", "files": ["*.rec"]}}, "formats.a: files is ['*.rec'], expected a pattern"),
        ({"a": {"reader": "can", "signals": {}}}, "formats.a: signals is empty"),
        ({"a": {"reader": "can", "signals": {"a": "M.S"}}}, "signals needs dbc"),
        ({"a": {"reader": "can", "dbc": "x", "signals": {"a": "M"}}}, "signals.a = 'M', expected MESSAGE.SIGNAL"),
        (fields(), "of length >= 1 - at `$.fields`"),
        (fields(TIME), "expected one time, one value or more"),
        (fields(TIME, TIME, VALUE), "expected one time"),
        (fields(TIME, VALUE, VALUE), "each of several values needs a sensor of its own"),
        (fields(TIME, {**VALUE, "scal": 2}), "unknown field `scal`"),
        (fields(TIME, {**VALUE, "scale": 0}), "scale 0.0"),
        (fields(TIME, {**VALUE, "scale": float("inf")}), "scale inf"),
        (fields(TIME, {**VALUE, "type": "int24"}), "Invalid enum value 'int24'"),
        (fields(TIME, {**VALUE, "size": 2}), "bytes and text need a size, and nothing else has one"),
        (fields(TIME, {"name": "value", "type": "bytes", "size": 2}), "field value is bytes, expected a number"),
        (fields(TIME, VALUE, {"name": "sensor", "type": "float32"}), "field sensor is float32"),
        (fields(TIME, VALUE, {"name": "sensor", "type": "uint8", "names": {1: "a\nb"}}), "formats.recorder: "),
        (fields({**TIME, "missing": 0}, VALUE), "field time: missing has no meaning here"),
        (fields(TIME, VALUE, header_bytes=-1), "header_bytes"),
    ],
)
def test_a_description_that_makes_no_sense_is_told_in_one_line(
    workspace: Workspace, tmp_path: Path, formats: dict[str, Any], words: str
) -> None:
    describe(workspace, formats)
    (tmp_path / "a.csv").write_text("2024-01-01T00:00:00Z,1\n")
    with pytest.raises(UsageError, match=re.escape(words)) as told:
        take_in(workspace, tmp_path / "a.csv")
    assert "conf/base/catalog.yml, formats." in str(told.value) and "\n" not in str(told.value)


def test_formats_that_are_no_table_are_told(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("2024-01-01T00:00:00Z,1\n")
    describe(workspace, [1])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="formats: expected descriptions by name"):
        take_in(workspace, tmp_path / "a.csv")


def test_a_format_can_be_asked_for_and_a_file_that_fits_two_must_be(workspace: Workspace, tmp_path: Path) -> None:
    binary_writer("<IBh3s")(tmp_path / "trip.bin")
    describe(workspace, {"recorder": BINARY, "b": {**BINARY, "files": "*.bin"}, "c": {**BINARY, "files": "trip*"}})
    with pytest.raises(UsageError, match=r"fits the formats b, c\. DO: choose one with --format"):
        take_in(workspace, tmp_path / "trip.bin")
    with pytest.raises(UsageError, match=r"--format: there is no reader 'recorde'; did you mean recorder\?"):
        take_in(workspace, tmp_path / "trip.bin", format="recorde")
    with pytest.raises(UsageError, match="--format binary needs a description"):
        take_in(workspace, tmp_path / "trip.bin", format="binary")
    take_in(workspace, tmp_path / "trip.bin", format="recorder")
    assert len(stream(workspace)) == len(SERVICE)


def test_every_example_of_the_document_is_a_description_that_is_taken() -> None:
    page = (REPOSITORY / "docs/readers.md").read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    assert len(examples) >= 3
    for text in examples:
        assert find.described(yaml.safe_load(text)["temperature_database"]["formats"])


# -- damage ----------------------------------------------------------------------------------------


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flipped(data: bytes) -> bytes:
    middle = len(data) * 4 // 5  # among the values, where no other number can be told from a true one
    return data[:middle] + bytes(one ^ 0xFF for one in data[middle : middle + 200]) + data[middle + 200 :]


def write_checked_parquet(path: Path) -> None:
    times, sensors, values = zip(*SERVICE, strict=True)
    pq.write_table(
        pa.table({"time": times, "sensor": sensors, "value": values}),
        path,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
    )


DAMAGE: dict[str, tuple[str, Callable[[Path], None], Callable[[bytes], bytes], type[AxleboxError], str]] = {
    "a cut Parquet file": ("a.parquet", write_checked_parquet, cut, Malformed, "not a whole Parquet file"),
    "a changed Parquet file": ("a.parquet", write_checked_parquet, flipped, Malformed, "damaged"),
    "only the magic of Parquet": ("a.parquet", write_json, lambda _: b"PAR1", Malformed, "not a whole Parquet file"),
    "a CAN log nobody described": ("a.blf", write_can, lambda data: data, Malformed, "is a CAN log, and nobody said"),
    "candump's log nobody described": ("a.txt", write_csv, lambda _: b"(1.5) can0 123#00\n", Malformed, "CAN log"),
    "no CAN log": ("a.log", write_csv, lambda data: data, Malformed, "is no CAN log that can be read"),
    "a CAN log without a frame": ("a.log", write_csv, lambda _: b"", Malformed, "has no CAN frame"),
    "a recorder's header only": ("a.rec", write_csv, lambda _: b"RECORDER", Malformed, "expected a header of 16 bytes"),
    "nothing behind the header": ("a.rec", write_csv, lambda _: bytes(16), Malformed, "no reading found in 0 lines"),
    "noise": ("a.dat", write_csv, lambda _: bytes(range(256)) * 9, Malformed, "docs/readers.md"),
    "an archive": ("a.gz", write_csv, lambda _: b"\x1f\x8b\x08" + bytes(40), Malformed, "docs/readers.md"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_cannot_be_read_is_told_in_one_line_and_nothing_changes(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    file, write, damage, error, words = DAMAGE[name]
    describe(workspace, {"recorder": BINARY, "bus": CAN_LOG})
    write_csv(tmp_path / "good.csv")
    take_in(workspace, tmp_path / "good.csv")
    before = {path.name: path.read_bytes() for path in workspace.raw.iterdir()}
    path = tmp_path / file
    write(path)
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "other.csv").write_text("2024-01-01T00:00:00Z,T204.left,1\n")
    for paths in ([path], [tmp_path / "other.csv", path]):
        with pytest.raises(error, match=re.escape(words)) as told:
            take_in(workspace, *paths)
        assert "\n" not in str(told.value) and file in str(told.value) and "incoming" not in str(told.value)
        assert {path.name: path.read_bytes() for path in workspace.raw.iterdir()} == before


@pytest.mark.parametrize(
    ("file", "write", "damage", "words"),
    [
        (
            "a.rec",
            binary_writer("<IBh3s"),
            lambda data: data[:-4],
            "6 bytes, expected a record of 10: the file was cut",
        ),
        ("a.log", write_can, lambda data: data[:-20] + b"\n(17", "the log is broken, and what follows is not read"),
        ("a.blf", write_can, cut, "the log is broken, and what follows is not read"),
    ],
)
def test_of_a_recording_that_was_cut_off_what_is_whole_is_read_and_the_rest_is_told(
    workspace: Workspace, tmp_path: Path, file: str, write: Callable[[Path], None], damage: Any, words: str
) -> None:
    describe(workspace, {"recorder": BINARY, "bus": {**CAN_LOG, "files": "*.[lb][ol][gf]"}})
    with can.Logger(tmp_path / "long.blf") as logger:
        for number in range(60_000):
            data = struct.pack("<hh", number % 200, 0)
            logger(can.Message(arbitration_id=291, is_extended_id=False, data=data, timestamp=START + 60.0 * number))
    path = tmp_path / file
    write(path)
    if file == "a.blf":  # python-can packs frames into large containers
        path = tmp_path / "long.blf"
    path.write_bytes(damage(path.read_bytes()))
    ((facts, invalid),) = ingest(workspace, load_contract(workspace.contract_path), [path])
    assert [words in one.reason for one in invalid] == [True] and facts.invalid == 1
    assert 1 < invalid[0].line <= facts.rows, "the bad line has the number of the record after the last good one"


def test_a_wrong_dbc_file_or_none_is_told(workspace: Workspace, tmp_path: Path) -> None:
    write_can(tmp_path / "a.log")
    for bus, words in [
        ({**CAN_LOG, "dbc": "conf/base/none.dbc"}, "formats.bus: dbc: "),
        ({**CAN_LOG, "dbc": "conf/base/contract.yml"}, "a.log: can.dbc: the file is no DBC file"),
        ({**CAN_LOG, "signals": {"a": "Axle.Lefd"}}, "did you mean Axle.Left?"),
    ]:
        describe(workspace, {"bus": bus})
        with pytest.raises(UsageError, match=re.escape(words)) as told:
            take_in(workspace, tmp_path / "a.log")
        assert "incoming" not in str(told.value)


def test_without_the_extra_a_can_log_names_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_can(tmp_path / "a.log")
    describe(workspace, {"bus": CAN_LOG})
    for name in ("can_frames", "can_log"):
        monkeypatch.delitem(sys.modules, f"axlebox.runtime.sources.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "can", None)
    with pytest.raises(PreflightFailed, match=r"needs the extra 'can'. DO: pip install 'axlebox\[can\]'|extra 'can'"):
        take_in(workspace, tmp_path / "a.log")


# -- readers of other packages ---------------------------------------------------------------------

ACME = """
import os, signal
from msgspec import Struct
from axlebox.training.readers import BadLine, Job, Reader, Reading, Replaced

class Settings(Struct, forbid_unknown_fields=True):
    step: float = 60.0

def read(job):
    job.format = "acme"
    with open(job.path) as file:
        assert file.readline() == "ACME\\n"
        for number, line in enumerate(file, 1):
            if line == "raise\\n":
                raise KeyError("no such\\nchannel")
            if line == "kill\\n":
                os.kill(os.getpid(), signal.SIGKILL)
            if line == "object\\n":
                yield [object()]
            elif line == "id\\n":
                yield [Reading(1.0, "a\\nb", 5.0, number)]
            else:
                yield [Reading(number * job.settings.step, "a", float(line), number)]

acme = Reader("acme", read, settings=Settings, recognises=lambda path, head: head.startswith(b"ACME"))
other = Reader("other", read)
not_one = 5
def asked(path, head): raise RuntimeError("what\\nis this?")
rude = Reader("rude", read, recognises=asked)
"""

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with readers on Python's path: what `pip install` leaves of it."""

    def function(*entries: str, version: str = "1.2", package: str = "acme-readers") -> Path:
        folder = tmp_path / "site" / package
        about = folder / f"{package.replace('-', '_')}-1.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (folder / "acme_module.py").write_text(ACME)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (about / "entry_points.txt").write_text("[axlebox.readers]\n" + "\n".join(entries) + "\n")
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield function
    sys.modules.pop("acme_module", None)


def acme_file(folder: Path, *lines: str) -> Path:
    path = folder / "trip.acme"
    path.write_text("\n".join(["ACME", *(lines or ("1", "2", "3")), ""]))
    return path


def test_a_reader_of_another_package_recognises_its_files_and_is_recorded_with_its_version(
    workspace: Workspace, tmp_path: Path, install: Install
) -> None:
    install("acme = acme_module:acme")
    (facts,) = take_in(workspace, acme_file(tmp_path))
    assert (facts.format, facts.rows) == ("acme", 3)
    assert stream(workspace) == [(60.0, "a", 1.0), (120.0, "a", 2.0), (180.0, "a", 3.0)]
    (file,) = load_current(workspace, load_contract(workspace.contract_path)).files
    assert file.format is not None
    assert (file.format.reader, file.format.distribution) == ("acme", "acme-readers 1.2")
    install("acme = acme_module:acme", version="1.3")
    with pytest.raises(PreflightFailed, match=r"reader acme of acme-readers 1\.2, installed is acme-readers 1\.3"):
        stream(workspace)


def test_its_settings_stand_in_the_catalog(workspace: Workspace, tmp_path: Path, install: Install) -> None:
    install("acme = acme_module:acme")
    describe(workspace, {"slow": {"reader": "acme", "step": 600}})
    take_in(workspace, acme_file(tmp_path), format="slow")
    assert [time for time, _, _ in stream(workspace)] == [600, 1200, 1800]
    describe(workspace, {"slow": {"reader": "acme", "stop": 600}})
    with pytest.raises(UsageError, match=r"formats\.slow: .*unknown field `stop`"):
        take_in(workspace, acme_file(tmp_path), format="slow")


def test_the_reader_of_the_document_reads(workspace: Workspace, tmp_path: Path, install: Install) -> None:
    page = (REPOSITORY / "docs/readers.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (entries,) = re.findall(r'^acme = "(.*)"$', page, re.M)
    folder = install(f"acme = {entries.replace('acme_readers', 'acme_module')}")
    (folder / "acme_module.py").write_text(code)
    ((facts, invalid),) = ingest(
        workspace, load_contract(workspace.contract_path), [acme_file(tmp_path, "1.5", "x", "2.5")]
    )
    assert stream(workspace) == [(60.0, "temperature", 1.5), (180.0, "temperature", 2.5)]
    assert (facts.rows, [one.reason for one in invalid]) == (3, ["'x' is not a number"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("acme = no_such_module:acme", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("acme = acme_module:missing", "cannot be loaded: AttributeError"),
        ("acme = acme_module:not_one", "is of type int, expected a Reader named acme"),
        ("acme = acme_module:other", "is a Reader named other, expected a Reader named acme"),
        ("text = acme_module:acme", "has the name of a reader of axlebox. DO: uninstall one of them"),
    ],
)
def test_a_broken_reader_is_named_and_stands_in_nobody_else_s_way(
    workspace: Workspace, tmp_path: Path, install: Install, entry: str, words: str
) -> None:
    install(entry)
    name = entry.partition(" ")[0]
    with pytest.raises(PreflightFailed, match=re.escape(f"reader {name} of acme-readers 1.2 ")) as told:
        take_in(workspace, acme_file(tmp_path), format=name)
    assert words in str(told.value) and "\n" not in str(told.value)
    write_json(tmp_path / "a.jsonl")
    (facts,) = take_in(workspace, tmp_path / "a.jsonl")
    assert facts.rows == len(SERVICE) and any(words in one for one in facts.guessed)
    with pytest.raises(Malformed, match=re.escape(words)):
        take_in(workspace, acme_file(tmp_path))


def test_two_packages_with_a_reader_of_one_name_are_told(
    workspace: Workspace, tmp_path: Path, install: Install
) -> None:
    install("acme = acme_module:acme")
    install("acme = acme_module:acme", package="other-readers")
    with pytest.raises(PreflightFailed, match=r"has the name of a reader of (acme|other)-readers 1\.2"):
        take_in(workspace, acme_file(tmp_path), format="acme")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("1", "raise"), "trip.acme: reader acme: KeyError: 'no such\\nchannel'"),
        (("1", "object"), "trip.acme: reader acme: TypeError: it gave <object object"),
        (("1", "word"), "trip.acme: reader acme: ValueError: could not convert"),
    ],
)
def test_what_another_package_s_reader_stumbles_on_is_told_in_one_line(
    workspace: Workspace, tmp_path: Path, install: Install, lines: tuple[str, ...], words: str
) -> None:
    install("acme = acme_module:acme")
    with pytest.raises(Malformed, match=re.escape(words)):
        take_in(workspace, acme_file(tmp_path, *lines))
    assert not (workspace.raw / "current.json").exists()


def test_a_reading_that_cannot_be_one_is_a_bad_line_whoever_read_it(
    workspace: Workspace, tmp_path: Path, install: Install
) -> None:
    install("acme = acme_module:acme", "rude = acme_module:rude")
    (facts,) = take_in(workspace, acme_file(tmp_path, "1", "id", "3"))
    assert (facts.rows, facts.invalid) == (3, 1)
    (tmp_path / "a.csv").write_text("2024-01-01T00:00:00Z,1\n")
    (facts,) = take_in(workspace, tmp_path / "a.csv")
    assert "reader rude: RuntimeError: what is this?" in facts.guessed
