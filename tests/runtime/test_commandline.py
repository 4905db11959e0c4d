"""Both programs' command lines: errors in one line, documented exit codes, help that is quick."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import click
import pytest

from axlebox.firmware_bundle import errors
from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.runtime.cli import cli
from axlebox.runtime.commandline import run_program, show
from axlebox.runtime.version import VERSION
from tests.runtime.conftest import AXLEBOXD

DOCUMENTED = {
    "UsageError": 2,
    "AlreadyInstalled": 3,
    "BadSignature": 10,
    "TooFewSignatures": 11,
    "Damaged": 12,
    "BoxDamaged": 12,
    "WrongTarget": 13,
    "WrongHardware": 13,
    "WrongVehicle": 13,
    "TooOld": 14,
    "Expired": 14,
    "Revoked": 14,
    "Rollback": 14,
    "Malformed": 15,
    "PreflightFailed": 20,
    "RuntimeTooOld": 20,
    "FeatureSetMissing": 20,
    "AxleboxError": 30,
    "SelfTestFailed": 31,
    "FallbackFailed": 32,
    "NoData": 41,
    "GateFailed": 50,
    "DiskRefused": 20,
    "NotInMaintenance": 21,
    "StickLost": 30,
    "DaemonNotRunning": 40,
    "SensorFault": 42,
}
COMMANDS = [
    "provision",
    "verify",
    "install",
    "confirm",
    "fallback",
    "status",
    "selftest",
    "run",
    "ack",
    "capsule",
    "replay",
    "drill",
    "check-config",
    "sensor",
    "lamp-on",
    "unit",
]


class Ended:
    """How a program ended, and what it said."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], group: click.Group, *words: str
) -> Ended:
    """Run a group as the program `demo`, in this process."""
    monkeypatch.setattr(sys, "argv", ["demo", *words])
    with pytest.raises(SystemExit) as ended:
        run_program(group, "demo")
    captured = capsys.readouterr()
    return Ended(ended.value.code, captured.out, captured.err)


def axleboxd(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AXLEBOXD, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def raising(error: BaseException) -> click.Group:
    """A group whose only command, `fail`, fails so."""
    group = click.Group("demo")

    @group.command()
    def fail() -> NoReturn:
        raise error

    return group


@pytest.mark.parametrize(("name", "code"), DOCUMENTED.items())
def test_an_expected_failure_is_one_line_with_its_documented_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, code: int
) -> None:
    ended = program(monkeypatch, capsys, raising(getattr(errors, name)("what was found,\n   what to do")), "fail")
    assert (ended.code, ended.out, ended.err) == (code, "", "demo: what was found, what to do\n")


def test_what_an_error_quotes_cannot_write_on_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hostile file chooses names and fields, and errors quote them."""
    ended = program(monkeypatch, capsys, raising(errors.Malformed("field \x1b[2J\x9b1A\nPASS \udcff é")), "fail")
    assert (ended.code, ended.err) == (15, "demo: field ?[2J?1A PASS ? é\n")


def test_every_class_of_failure_has_a_documented_code() -> None:
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, AxleboxError)]
    assert {one.__name__: one.exit_code for one in classes} == DOCUMENTED


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["status", "--colour"], "--colour"),
        (["stattus"], "stattus"),
        (["install"], "BUNDLE"),
        (["provision", "--vehicle", "A", "--hardware", "B"], "--trust"),
        (["verify", "/no/such/file.axb"], "/no/such/file.axb"),
        (["provision", "--trust", "/no/such/root.json", "--vehicle", "A", "--hardware", "B"], "/no/such/root.json"),
        (["status", "--data", __file__], __file__),
    ],
)
def test_wrong_usage_is_one_line_that_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    ended = program(monkeypatch, capsys, cli, *words)
    assert ended.code == 2
    assert ended.out == ""
    assert re.fullmatch(r"demo: [^\n]+\n", ended.err)
    assert says in ended.err


def test_a_program_without_a_command_shows_its_help_in_readable_lines() -> None:
    done = axleboxd()
    assert done.returncode == 2
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    assert max(len(line) for line in lines) <= 120
    assert set(COMMANDS) <= {line.split()[0] for line in lines if line}


def test_an_unexpected_exception_goes_to_a_file_whose_name_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = program(monkeypatch, capsys, raising(ZeroDivisionError("by nothing")), "fail")
    (report,) = tmp_path.iterdir()
    assert ended.code == 70
    assert str(report) in ended.err
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    text = report.read_text()
    assert "Traceback" in text
    assert "ZeroDivisionError: by nothing" in text
    assert VERSION in text


def test_where_no_report_can_be_written_there_is_still_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A full or read-only disk is a likely reason for being here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    ended = program(monkeypatch, capsys, raising(ZeroDivisionError("by nothing")), "fail")
    assert ended.code == 70
    assert re.fullmatch(r"demo: [^\n]+\n", ended.err)


def test_reports_of_a_program_that_fails_over_and_over_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number in range(3):
        program(monkeypatch, capsys, raising(ZeroDivisionError(f"for the {number}. time")), "fail")
    (report,) = tmp_path.iterdir()
    assert "for the 2. time" in report.read_text()
    assert report.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("words", [["fail", "--debug"], ["--debug", "fail"]])
@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError("by nothing"), 70), (errors.Damaged("bits"), 12)])
def test_debug_anywhere_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    error: Exception,
    code: int,
) -> None:
    ended = program(monkeypatch, capsys, raising(error), *words)
    assert ended.code == code
    assert "Traceback" in ended.err
    assert type(error).__name__ in ended.err


@pytest.mark.parametrize("module", ["sklearn", "sklearn.ensemble", "onnx", "kedro.framework"])
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    ended = program(monkeypatch, capsys, raising(error), "fail")
    assert ended.code == 20
    assert ended.err == "demo: this command needs the extra 'workstation'. DO: pip install 'axlebox[workstation]'\n"


def test_a_missing_module_that_no_extra_brings_is_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    error = ModuleNotFoundError("No module named 'axlebox.other'", name="axlebox.other")
    ended = program(monkeypatch, capsys, raising(error), "fail")
    assert ended.code == 70
    assert len(list(tmp_path.iterdir())) == 1


def test_the_keyboard_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = program(monkeypatch, capsys, raising(KeyboardInterrupt()), "fail")
    assert ended.code == 130
    assert "Traceback" not in ended.err


def test_a_command_that_ends_well_has_code_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = click.Group("demo")

    @group.command()
    def work() -> str:
        show({"answer": 42}, False, "42")
        return "not an exit code"

    ended = program(monkeypatch, capsys, group, "work")
    assert (ended.code, ended.out, ended.err) == (0, "42\n", "")


def test_a_result_is_shown_in_words_or_as_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    show({"a": 1}, False, "one", "two")
    assert capsys.readouterr().out == "one\ntwo\n"
    show({"a": 1}, True, "one", "two")
    assert json.loads(capsys.readouterr().out) == {"a": 1}


# -- axleboxd's own help --------------------------------------------------------------------------


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom axlebox.runtime.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    words, _, loaded = done.stdout.partition("LOADED")
    assert [
        line.split()[0] for line in words.splitlines() if line.startswith("  ") and line.split()[0] in COMMANDS
    ] == (COMMANDS)
    tops = {name.partition(".")[0] for name in loaded.split()}
    assert "click" in tops
    assert tops & {"numpy", "onnxruntime", "tuf", "securesystemslib", "cryptography", "sklearn", "msgspec"} == set()


def test_the_list_of_commands_is_complete() -> None:
    assert cli.list_commands(click.Context(cli)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    ended = program(monkeypatch, capsys, cli, *(["sensor", "replaced"] if command == "sensor" else [command]), option)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: demo {command} ")
    assert ("--data" in ended.out) == (command != "lamp-on"), "which must work where nothing else does"


def test_the_version_can_be_asked_for() -> None:
    done = axleboxd("--version")
    assert (done.returncode, done.stdout) == (0, f"axleboxd, version {VERSION}\n")
