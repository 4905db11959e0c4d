"""The vehicle's configuration: strict, and every mistake in it is one line that names the file."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import Config, Confirm, Maintenance, load_config

COMMANDS = Path(__file__).resolve().parents[2] / "docs" / "commands.md"


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
    assert load_config(tmp_path) == Config(Maintenance(None, None, 10.0), Confirm(True, 600.0, 100))


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
    _, _, section = COMMANDS.read_text().partition("\n## The configuration\n")
    lines = [line for line in section.splitlines() if line.startswith("    ") or not line]
    file.write_text(textwrap.dedent("\n".join(lines)))
    assert load_config(file.parent) == Config(
        Maintenance("/run/vehicle/in-maintenance", ("/usr/bin/vehicle-state", "maintenance"), 10),
        Confirm(True, 600, 100),
    )
    for table in (Maintenance, Confirm):
        assert all(f"{setting} =" in file.read_text() for setting in table.__struct_fields__)


@pytest.mark.parametrize(
    ("content", "meant"),
    [
        ("[confirm]\nafter_reading = 5\n", "Did you mean after_readings?"),
        ("[maintenance]\ntimeout = 5\n", "Did you mean timeout_s?"),
        ("[maintenence]\nfile = '/x'\n", "Did you mean maintenance?"),
        ("[confirm]\nqqq = 5\n", "known are automatic, after_s, after_readings"),
        ("qqq = 5\n", "known are maintenance, confirm"),
        ("'a at `$.foo' = 1\n", "known are maintenance, confirm"),
    ],
)
def test_a_setting_that_is_not_known_is_refused_naming_the_nearest(file: Path, content: str, meant: str) -> None:
    words = refusal(file, content)
    assert "unknown field" in words
    assert meant in words


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("confirm = 1", "confirm"),
        ("[confirm]\nautomatic = 'yes'", "automatic"),
        ("[confirm]\nafter_s = 59.9", "after_s"),
        ("[confirm]\nafter_s = nan", "after_s"),
        ("[confirm]\nafter_s = inf", "after_s"),
        ("[confirm]\nafter_readings = 0", "after_readings"),
        ("[confirm]\nafter_readings = 1.5", "after_readings"),
        ("[maintenance]\ntimeout_s = 0", "timeout_s"),
        ("[maintenance]\ntimeout_s = 61", "timeout_s"),
        ("[maintenance]\ntimeout_s = nan", "timeout_s"),
        ("[maintenance]\nfile = ''", "file"),
        ("[maintenance]\nfile = 'in-maintenance'", "file"),
        ("[maintenance]\ncommand = 'a string'", "command"),
        ("[maintenance]\ncommand = []", "command"),
        ("[maintenance]\ncommand = ['/bin/true', 1]", "command"),
    ],
)
def test_a_wrong_type_or_range_is_refused_by_its_place(file: Path, content: str, where: str) -> None:
    assert f"at `$.{where}" in refusal(file, content).replace("$.confirm.", "$.").replace("$.maintenance.", "$.")


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
