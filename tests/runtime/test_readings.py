"""Lines of text become readings; what is no reading becomes a BadLine in its place."""

from __future__ import annotations

import csv
import io
import math
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axlebox.runtime.readings import MAX_LINE_BYTES, BadLine, LineReader, Reading, Replaced, format_time, parse_time

MIDNIGHT = datetime(2022, 9, 10, tzinfo=UTC).timestamp()


def read(*lines: bytes) -> list[Reading | BadLine | Replaced]:
    return LineReader("temperature").read(lines)


def one(*lines: bytes) -> Reading:
    """The only reading of some lines."""
    (reading,) = read(*lines)
    assert isinstance(reading, Reading), reading
    return reading


def bad(*lines: bytes) -> BadLine:
    """The last of what some lines give, which is no reading."""
    found = read(*lines)[-1]
    assert isinstance(found, BadLine), found
    return found


def test_two_columns_belong_to_the_contracts_only_sensor() -> None:
    found = LineReader("bearing-3").read([b"2022-09-10T00:00:00,108", b"2022-09-10T00:01:00,109.5"])
    assert found == [Reading(MIDNIGHT, "bearing-3", 108.0, 1), Reading(MIDNIGHT + 60, "bearing-3", 109.5, 2)]


def test_three_columns_name_their_sensor() -> None:
    assert one(b"2022-09-10T00:00:00,axle-1,108") == Reading(MIDNIGHT, "axle-1", 108.0, 1)


@pytest.mark.parametrize(
    "header",
    [b"time,sensor,value", b"value,time,sensor", b"Sensor, VALUE ,time", b'"value","sensor","time"'],
)
def test_a_header_may_name_the_columns_in_any_order_and_spelling(header: bytes) -> None:
    cells = {"time": b"2022-09-10T00:00:00", "sensor": b"axle-1", "value": b"108"}
    order = [cell.strip().strip('"').lower() for cell in header.decode().split(",")]
    assert one(header, b",".join(cells[name] for name in order)) == Reading(MIDNIGHT, "axle-1", 108.0, 2)


def test_a_header_of_two_columns_in_reverse_is_followed() -> None:
    assert one(b"value,time", b"108,2022-09-10T00:00:00") == Reading(MIDNIGHT, "temperature", 108.0, 2)


@pytest.mark.parametrize("header", [b"time,time,value", b"time,value,humidity", b"time,sensor", b"value"])
def test_a_header_that_does_not_name_a_time_and_a_value_is_no_header(header: bytes) -> None:
    found = read(header, b"2022-09-10T00:00:00,108")
    assert isinstance(found[0], BadLine)
    assert found[1:] == [Reading(MIDNIGHT, "temperature", 108.0, 2)]


@pytest.mark.parametrize(
    "line",
    [
        b"2022-09-10T00:00:00, 108",
        b"  2022-09-10T00:00:00 ,\t108  ",
        b"2022-09-10T00:00:00,108\r",
        b"\xef\xbb\xbf2022-09-10T00:00:00,108",
        b'"2022-09-10T00:00:00","108"',
        b"2022-09-10 00:00:00,1.08e2",
        b"2022-09-10T00:00:00Z,108",
        b"2022-09-10T02:00:00+02:00,108",
        b"2022-09-09T19:00:00-05:00,108",
        b'{"time":"2022-09-10T00:00:00Z","value":108}',
        b'\xef\xbb\xbf{"value": 108.0, "time": "2022-09-10T02:00:00+02:00", "unit": "C"}\r',
    ],
)
def test_every_spelling_of_a_reading_gives_the_same_reading(line: bytes) -> None:
    assert one(line) == Reading(MIDNIGHT, "temperature", 108.0, 1)


@pytest.mark.parametrize("line", [b'2022-09-10T00:00:00, "axle-1" ,"108"', b"2022-09-10T00:00:00 , axle-1 , 108\r"])
def test_quotes_and_spaces_are_no_part_of_a_sensor_id(line: bytes) -> None:
    assert one(line).sensor == "axle-1"


def test_json_lines_may_name_a_sensor_or_leave_it_out() -> None:
    lines = [b'{"time":"2022-09-10T00:00:00","sensor":"axle-1","value":1}', b'{"time":"2022-09-10T00:00:00","value":2}']
    assert [item.sensor for item in read(*lines) if isinstance(item, Reading)] == ["axle-1", "temperature"]


def test_the_line_numbers_are_those_of_the_file_blank_lines_and_header_included() -> None:
    reader = LineReader("temperature")
    first = reader.read([b"time,value", b"", b"2022-09-10T00:00:00,1", b"  \r"])
    second = reader.read([b"nonsense", b"2022-09-10T00:00:01,2"])
    assert [item.line for item in [*first, *second]] == [3, 5, 6]


def test_the_format_that_was_found_can_be_asked_for() -> None:
    plain, headed, json = LineReader("t"), LineReader("t"), LineReader("t")
    plain.read([b"2022-09-10T00:00:00,1"])
    headed.read([b"value,time"])
    json.read([b'{"time":"2022-09-10T00:00:00","value":1}'])
    assert [(reader.format, reader.columns, reader.has_header) for reader in (plain, headed, json)] == [
        ("csv", ("time", "value"), False),
        ("csv", ("value", "time"), True),
        ("json lines", (), False),
    ]


GOOD = b"2022-09-10T00:00:00,108"
OVER_LONG = b"2022-09-10T00:00:00," + b"1" * MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nonsense,108", "'nonsense' is not a time"),
        (b"2022-09-10T25:00:00,108", "is not a time"),
        (b"1662768000,108", "is not a time"),
        (b"2022-09-10T00:00:00,hot", "'hot' is not a number"),
        (b"2022-09-10T00:00:00,1_0", "'1_0' is not a number"),
        (b"2022-09-10T00:00:00,0x10", "is not a number"),
        (b"2022-09-10T00:00:00", "1 column, expected 2"),
        (b"2022-09-10T00:00:00,axle-1,108", "3 columns, expected 2"),
        (b"2022-09-10T00:00:00,1\xff8", "not text"),
        (OVER_LONG, f"longer than {MAX_LINE_BYTES} bytes"),
        (b'{"time":"2022-09-10T00:00:00","value":108}', "is not a time"),
    ],
)
def test_a_broken_row_in_the_middle_says_why_and_its_neighbours_are_still_read(line: bytes, says: str) -> None:
    before, broken, after = read(GOOD, line, b"2022-09-10T00:01:00,109")
    assert isinstance(broken, BadLine)
    assert broken.line == 2
    assert says in broken.reason
    assert before == Reading(MIDNIGHT, "temperature", 108.0, 1)
    assert after == Reading(MIDNIGHT + 60, "temperature", 109.0, 3)


@pytest.mark.parametrize(
    "line", [b"nonsense", b"\xff\xfe\x00", OVER_LONG, b"{", b'{"time": 5}', b"a,b", b"a,b,c,d", b"\x00"]
)
def test_garbage_in_the_first_line_does_not_stop_the_stream(line: bytes) -> None:
    for following, columns in ((GOOD, ("time", "value")), (b'{"time":"2022-09-10T00:00:00Z","value":108}', ())):
        reader = LineReader("temperature")
        garbage, reading = reader.read([line, following])
        assert isinstance(garbage, BadLine)
        assert reading == Reading(MIDNIGHT, "temperature", 108.0, 2)
        assert reader.columns == columns


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{broken", "not a JSON reading"),
        (b'{"value":108}', "not a JSON reading"),
        (b'{"time":5,"value":108}', "not a JSON reading"),
        (b'{"time":"2022-09-10T00:00:00","value":"108"}', "not a JSON reading"),
        (b'{"time":"now","value":108}', "'now' is not a time"),
        (b'{"time":"2022-09-10T00:00:00","value":1e999}', "not a JSON reading"),
        (GOOD, "not a JSON reading"),
    ],
)
def test_a_json_line_that_is_no_reading_says_why(line: bytes, says: str) -> None:
    assert says in bad(b'{"time":"2022-09-10T00:00:00","value":1}', line).reason


@pytest.mark.parametrize("line", [b"2022-09-10T00:00:00,", b"2022-09-10T00:00:00, nan", b"2022-09-10T00:00:00,NaN"])
def test_an_empty_value_is_a_reading_that_is_not_a_number(line: bytes) -> None:
    """Whether it may pass is the gate's business; its sensor and time are known."""
    found = one(line)
    assert math.isnan(found.value)
    assert found.time == MIDNIGHT


def test_a_json_null_is_a_reading_that_is_not_a_number() -> None:
    assert math.isnan(one(b'{"time":"2022-09-10T00:00:00","value":null}').value)


@pytest.mark.parametrize("sensor", [b"", b'""', b"a\x07b", b"x" * 65])
def test_a_sensor_id_is_1_to_64_printable_characters(sensor: bytes) -> None:
    assert "is not a sensor id" in bad(b"2022-09-10T00:00:00," + sensor + b",108").reason


def test_a_sensor_id_of_64_characters_is_taken() -> None:
    assert one(b"2022-09-10T00:00:00," + b"x" * 64 + b",108").sensor == "x" * 64


def test_a_line_of_exactly_the_allowed_length_is_read() -> None:
    assert one(GOOD.ljust(MAX_LINE_BYTES)) == Reading(MIDNIGHT, "temperature", 108.0, 1)


def test_what_pythons_csv_module_writes_is_read_back() -> None:
    rows = [(f"2022-09-10T00:{minute:02}:00", f"axle {minute}", 90 + minute / 7) for minute in range(60)]
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([("time", "sensor", "value"), *rows])
    found = read(*file.getvalue().encode().split(b"\n"))
    assert [(item.sensor, item.value) for item in found if isinstance(item, Reading)] == [row[1:] for row in rows]


# -- marks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"2022-09-10T00:00:00Z,axle-1,replaced",
        b'"2022-09-10T02:00:00+02:00", "axle-1" , replaced\r',
        b'{"time":"2022-09-10T00:00:00Z","sensor":"axle-1","replaced":true}',
    ],
)
def test_a_mark_may_stand_in_any_line_also_the_first(line: bytes) -> None:
    after = {b"{": b'{"time":"2022-09-10T00:01:00","sensor":"axle-1","value":9}'}
    reading = after.get(line[:1], b"2022-09-10T00:01:00,axle-1,9")
    found = read(line, reading, line)
    assert found == [
        Replaced(MIDNIGHT, "axle-1", 1),
        Reading(MIDNIGHT + 60, "axle-1", 9.0, 2),
        Replaced(MIDNIGHT, "axle-1", 3),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        (b"", b"2022-09-10T00:00:00,replaced"),
        (b"value,time", b"replaced,2022-09-10T00:00:00"),
        (b"", b'{"replaced":true,"time":"2022-09-10T00:00:00"}'),
    ],
)
def test_a_mark_without_a_sensor_belongs_to_the_contracts_only_one(lines: tuple[bytes, ...]) -> None:
    assert LineReader("bearing-3").read(lines) == [Replaced(MIDNIGHT, "bearing-3", 2)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"yesterday,axle-1,replaced", "'yesterday' is not a time"),
        (b"2022-09-10T00:00:00,,replaced", "'' is not a sensor id"),
        (b"2022-09-10T00:00:00,replaced", "2 columns, expected 3"),
        (b"2022-09-10T00:00:00,axle-1,Replaced", "'Replaced' is not a number"),
        (b"2022-09-10T00:00:00,axle-1,replaced by Ann", "'replaced by Ann' is not a number"),
        (b"replaced,axle-1,9", "'replaced' is not a time"),
    ],
)
def test_a_csv_line_that_is_no_mark_says_why(line: bytes, says: str) -> None:
    assert says in bad(b"2022-09-10T00:00:00,axle-1,1", line).reason


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (b'"value":9,"replaced":true', "a value and says replaced, expected one of the two"),
        (b'"value":null,"replaced":true', "a value and says replaced, expected one of the two"),
        (b'"replaced":false', "it has no value"),
        (b'"sensor":"axle-1"', "it has no value"),
        (b'"replaced":"yes"', "not a JSON reading"),
        (b'"replaced":1', "not a JSON reading"),
        (b'"sensor":"","replaced":true', "'' is not a sensor id"),
    ],
)
def test_a_json_line_that_is_no_mark_says_why(fields: bytes, says: str) -> None:
    assert says in bad(b'{"time":"2022-09-10T00:00:00",%s}' % fields).reason


def test_a_json_mark_without_a_good_time_is_none() -> None:
    assert "not a time" in bad(b'{"time":"now","replaced":true}').reason


def test_a_json_reading_may_say_that_nothing_was_replaced() -> None:
    assert one(b'{"time":"2022-09-10T00:00:00","value":9,"replaced":false}').value == 9.0


# -- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T00:00:00", 0.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1969-12-31T23:59:59.5Z", -0.5),
        ("2022-09-10T00:00:46.123456+00:00", 1662768046.123456),
    ],
)
def test_a_time_without_a_zone_is_utc_and_others_are_converted(text: str, expected: float) -> None:
    assert parse_time(text) == expected


def test_the_zone_of_the_box_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        found = parse_time("2022-09-10T00:00:00"), format_time(MIDNIGHT)
    time.tzset()
    assert found == (MIDNIGHT, "2022-09-10T00:00:00Z")


instants = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(instants, zones)
@settings(deadline=None)
def test_a_time_comes_back_to_the_microsecond(instant: datetime, zone: timezone) -> None:
    moment = instant.replace(tzinfo=UTC)
    text = format_time(parse_time(moment.astimezone(zone).isoformat()))
    assert datetime.fromisoformat(text) == moment
    assert text.endswith("Z")


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.999999Z"],
)
def test_every_time_that_is_read_can_be_written(text: str) -> None:
    """A time at the edge of the calendar is refused as a bad line, or else format_time can show it."""
    (found,) = read(text.encode() + b",108")
    if isinstance(found, Reading):
        assert format_time(found.time).endswith("Z")
    else:
        assert "is not a time" in found.reason


# -- noise ----------------------------------------------------------------------------------------

noise = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=80).map(str.encode),
    st.lists(
        st.sampled_from(
            [b"time", b"value", b"sensor", b",", b'"', b"{", b"}", b":", b"2022-09-10", b"1", b"replaced", b"\xff"]
        )
    ).map(b"".join),
)


@given(st.lists(noise, max_size=12))
@settings(deadline=None)
def test_no_bytes_make_the_reader_raise_and_no_line_gives_two_readings(lines: list[bytes]) -> None:
    found = read(*lines)
    numbers = [item.line for item in found]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(range(1, len(lines) + 1))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deeply_nested_json_is_a_bad_line(opening: bytes) -> None:
    line = b'{"x":' + opening * ((MAX_LINE_BYTES - 5) // len(opening))
    assert len(line) <= MAX_LINE_BYTES
    assert "not a JSON reading" in bad(line).reason


@pytest.mark.parametrize(
    "text", ["1704067200000", "1704067200", "20220910", "2022-W36-6", "2022-09-10", "20220910T000046"]
)
def test_what_is_not_rfc_3339_is_no_time(text: str) -> None:
    """Milliseconds since 1970 would else be read as a day in the year 1704."""
    assert "is not a time" in bad(text.encode() + b",1").reason


def test_a_quoted_decimal_comma_is_one_cell_and_no_number() -> None:
    """Cut at every comma it would be a sensor id and a value."""
    assert bad(b'2022-09-10T00:00:46Z,"20,34"').reason == "'20,34' is not a number"


def test_quoted_cells_are_read_without_their_quotes() -> None:
    (reading,) = read(b'"2022-09-10T00:00:46Z","axle, left","20.5"')
    assert isinstance(reading, Reading)
    assert (reading.sensor, reading.value) == ("axle, left", 20.5)


def test_timestamp_is_another_word_for_time_in_a_header() -> None:
    (reading,) = read(b"timestamp,value", b"2022-09-10 00:00:46,20.5")
    assert isinstance(reading, Reading)
    assert (reading.time, reading.value) == (1662768046.0, 20.5)


def test_a_time_and_an_id_that_were_read_before_are_checked_all_the_same() -> None:
    reader = LineReader("x")
    lines = [b",a,1", b"2026-01-01T00:00:00Z,a,1", b"2026-01-01T00:00:00Z,a,2", b",a,3", b"2026-01-01T00:00:01Z,,4"]
    found = reader.read([*lines, b"2026-01-01T00:00:00Z,a,5"])
    assert [type(one) for one in found] == [BadLine, Reading, Reading, BadLine, BadLine, Reading]
    good = [one for one in found if isinstance(one, Reading)]
    assert [one.time for one in good] == [1767225600.0] * 3
    assert good[0].sensor is good[2].sensor
