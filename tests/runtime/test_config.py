"""The vehicle's configuration: strict, and every mistake in it is one line that names the file."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import TABLES, Config, Confirm, load_config, parse_settings
from axlebox.runtime.sinks import KNOWN as KNOWN_SINKS
from axlebox.runtime.sources import KNOWN as KNOWN_SOURCES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refusal(path: Path, content: bytes | str) -> str:
    """What is said of a configuration that must be refused."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as refused:
        load_config(path.parent)
    words = str(refused.value)
    assert words.startswith(str(path))
    assert "\n" not in words
    assert refused.value.exit_code == 2
    return words


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert load_config(tmp_path) == Config()
    assert load_config(tmp_path).confirm == Confirm(True, 600.0, 100)


def test_an_empty_file_is_the_default(file: Path) -> None:
    file.write_bytes(b"")
    assert load_config(file.parent) == Config()


def test_a_file_that_is_named_counts_instead_of_the_data_folder_s(file: Path, tmp_path: Path) -> None:
    file.write_text("[confirm]\nafter_s = 60\n")
    other = tmp_path / "other.toml"
    other.write_text("[confirm]\nafter_s = 70\n")
    assert load_config(tmp_path).confirm.after_s == 60
    assert load_config(tmp_path, other).confirm.after_s == 70


def test_the_documentation_s_example_is_valid_and_names_every_setting(file: Path) -> None:
    _, example, _ = re.split(r"^```(?:toml)?$", PAGE.read_text(), maxsplit=2, flags=re.M)
    file.write_text(example)
    found = load_config(file.parent)
    named = tomllib.loads(example)
    assert set(named) == set(Config.__struct_fields__)
    for name, table in TABLES.items():
        assert set(named[name]) == set(table.__struct_fields__)
    assert found.confirm == Confirm(True, 600, 100)
    assert found.can.signals == {"engine": "ET1.EngCoolantTemp"}


@pytest.mark.parametrize("uri", KNOWN_SOURCES.split(", ") + KNOWN_SINKS.split(", "))
def test_every_source_and_sink_is_documented(uri: str) -> None:
    assert f"| `{uri}` |" in PAGE.read_text()


def test_settings_on_the_command_line_come_on_top_of_the_file(file: Path) -> None:
    file.write_text("source = 'follow:/a'\n[can]\nchannel = 'can0'\n[confirm]\nafter_s = 70\n")
    words = [
        "can.channel=can1",
        "confirm.after_readings=7",
        'sinks=["store:"]',
        "readings=true",
        "hwmon.sensors={a='/b'}",
    ]
    found = load_config(file.parent, None, parse_settings(words))
    assert (found.source, found.can.channel, found.sinks, found.readings) == ("follow:/a", "can1", ("store:",), True)
    assert (found.confirm, found.hwmon.sensors) == (Confirm(True, 70.0, 7), {"a": "/b"})


@pytest.mark.parametrize("word", ["", "x", "=1", "a b=1", "a.b.c=1", "a-b=1"])
def test_a_setting_on_the_command_line_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        parse_settings([word])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("source = 'hwmon:'", "hwmon.sensors is empty"),
        ("source = 'mqtt:'", "mqtt.topics is empty"),
        ("source = 'can:'", "can.signals is empty"),
        ("source = 'canlog:/x.asc'", "can.signals is empty"),
        ("[can]\nsignals = {a = 'B.C'}", "can.signals needs can.dbc"),
        ("[can]\ndbc = '/x'\nsignals = {a = 'B'}", "can.signals.a = 'B': expected MESSAGE.SIGNAL"),
        ("[can]\nobd_pids = {a = 5}", "it needs can.allow_transmit = true"),
        ("[mqtt]\nca_file = '/x'\ncert_file = '/x'", "belong together"),
        ("[mqtt]\ncert_file = '/x'\nkey_file = '/x'", "needs mqtt.ca_file"),
        ("[mqtt]\npassword_file = '/x'", "needs mqtt.username"),
        ("sinks = ['store:']\n[store]\nenabled = false", "store: is one of the sinks"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(file: Path, content: str, says: str) -> None:
    assert says in refusal(file, content)


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ("[confirm]\nafter_reading = 5\n", "confirm.after_reading is not a setting; did you mean after_readings?"),
        ("[maintenance]\ntimeout = 5\n", "did you mean timeout_s?"),
        ("[maintenence]\nfile = '/x'\n", "did you mean maintenance?"),
        ("[confirm]\nqqq = 5\n", "known are automatic, after_s, after_readings"),
        ("qqq = 5\n", "known are source, sinks, readings, maintenance, confirm"),
        ("'a at `$.foo' = 1\n", "known are source, sinks"),
    ],
)
def test_a_setting_that_is_not_known_is_refused_naming_the_nearest(file: Path, content: str, meant: str) -> None:
    words = refusal(file, content)
    assert "is not a setting; " in words
    assert meant in words


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("confirm = 1", "confirm = 1: Expected `object`, got `int`"),
        ("[confirm]\nautomatic = 'yes'", "confirm.automatic = 'yes': Expected `bool`, got `str`"),
        ("[mqtt]\nqos = 2", "mqtt.qos = 2: expected one of 0, 1"),
        ("[log]\nlevel = 'loud'", "log.level = 'loud': expected one of debug, info, warning, error"),
        ("sinks = 'stdout:'", "sinks = 'stdout:': Expected `array`"),
        ("sinks = ['stdout:', 5]", "sinks[1] = 5: Expected `str`"),
        ("[confirm]\nafter_s = 59.9", "confirm.after_s = "),
        ("[confirm]\nafter_s = nan", "confirm.after_s = "),
        ("[confirm]\nafter_s = inf", "confirm.after_s = "),
        ("[confirm]\nafter_readings = 0", "confirm.after_readings = "),
        ("[confirm]\nafter_readings = 1.5", "confirm.after_readings = "),
        ("[maintenance]\ntimeout_s = 0", "maintenance.timeout_s = "),
        ("[maintenance]\ntimeout_s = 61", "maintenance.timeout_s = "),
        ("[maintenance]\ntimeout_s = nan", "maintenance.timeout_s = "),
        ("[maintenance]\nfile = ''", "maintenance.file = "),
        ("[maintenance]\nfile = 'in-maintenance'", "maintenance.file = "),
        ("[maintenance]\ncommand = 'a string'", "maintenance.command = "),
        ("[maintenance]\ncommand = []", "maintenance.command = "),
        ("[maintenance]\ncommand = ['/bin/true', 1]", "maintenance.command[1] = 1: "),
    ],
)
def test_a_wrong_type_or_range_is_refused_by_its_place(file: Path, content: str, where: str) -> None:
    assert where in refusal(file, content)


@pytest.mark.parametrize(
    "content",
    ["after_s", "[confirm", "a = 1\na = 2", "d = 2026-13-45", "a = " + "[" * 20_000, "a = " + "9" * 5000, "\x00"],
)
def test_what_is_not_toml_is_called_that(file: Path, content: str) -> None:
    assert "is not TOML" in refusal(file, content)


def test_what_is_not_utf_8_is_called_that(file: Path) -> None:
    assert "is not UTF-8: invalid continuation byte at byte 2" in refusal(file, b"# \xe9t\xe9\n")


def test_a_file_that_is_too_large_is_not_read(file: Path) -> None:
    assert "larger than" in refusal(file, b"#" * (64 * 1024 + 1))
    file.write_bytes(b"#" * (64 * 1024))
    assert load_config(file.parent) == Config()


def test_a_pipe_or_a_folder_is_no_configuration(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(UsageError, match="not a regular file"):
        load_config(file.parent)
    file.unlink()
    file.mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        load_config(file.parent)
