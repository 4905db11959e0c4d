"""What both programs' command lines share: lazy commands, errors in one line, exit codes."""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from axlebox.firmware_bundle.errors import AxleboxError, PreflightFailed, UsageError
from axlebox.runtime.version import VERSION

BUG = 70
KEYBOARD = 130

EXTRAS = {
    "can": "can",
    "cantools": "can",
    "kedro": "workstation",
    "kedro_telemetry": "workstation",
    "mlflow": "workstation",
    "onnx": "workstation",
    "paho": "mqtt",
    "pandas": "workstation",
    "pkcs11": "pkcs11",
    "plotly": "workstation",
    "prometheus_client": "prometheus",
    "pyarrow": "workstation",
    "skl2onnx": "workstation",
    "sklearn": "workstation",
    "skops": "workstation",
    "sqlalchemy": "workstation",
    "yaml": "workstation",
}
"""Which extra of the distribution brings a module that is not always there."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called.

    `lazy` maps a command's name to ("module:function", the line that --help shows).
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, function = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


def show(record: Mapping[str, Any], as_json: bool, *lines: str) -> None:
    """Print a result: `record` as one JSON object, or the lines for people."""
    if as_json:
        click.echo(json.dumps(record, default=str))
    else:
        for line in lines:
            click.echo(printable(line))


def warn(line: str) -> None:
    """Say something on stderr that is no result."""
    click.echo(f"axleboxd: {printable(line)}", err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of words.")


def run_program(group: click.Group, name: str) -> NoReturn:
    """Run a program and leave the process with its documented exit code."""
    debug = "--debug" in sys.argv[1:]
    try:
        code = group.main(
            args=[word for word in sys.argv[1:] if word != "--debug"], prog_name=name, standalone_mode=False
        )
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(UsageError.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, exit_code = _explain(error) or (_report_bug(name, debug), BUG)
        click.echo(f"{name}: {printable(' '.join(message.split()))}", err=True)
        sys.exit(exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def printable(text: str) -> str:
    """Text of other people's making, which must not move the terminal's cursor; line ends stay."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text)


def _explain(error: Exception) -> tuple[str, int] | None:
    """The line and the exit code of an error that may be expected; None for a bug."""
    match error:
        case AxleboxError():
            return str(error), error.exit_code
        case click.Abort():
            return "stopped by the keyboard; nothing more was done", KEYBOARD
        case click.ClickException():
            return error.format_message(), UsageError.exit_code
        case ModuleNotFoundError() if extra := EXTRAS.get((error.name or "").partition(".")[0]):
            message = f"this command needs the extra {extra!r}. DO: pip install 'axlebox[{extra}]'"
            return message, PreflightFailed.exit_code
        case OSError():  # the machine refuses: a full disk, a missing permission
            place = f"{error.filename}: " if error.filename else ""
            return f"{place}{error.strerror or error}", AxleboxError.exit_code
    return None


def _report_bug(name: str, debug: bool) -> str:
    """What to say of a bug: a traceback on the screen helps nobody at 02:00, it goes to a file."""
    if debug:
        return f"a bug in {name}: see above"
    try:
        # One name a user: a program that is started over and over must not fill the disk with reports.
        path = Path(tempfile.gettempdir()) / f"{name}-bug-{os.getuid()}.txt"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(f"{name} {VERSION}, python {sys.version}\n{traceback.format_exc()}")
    except OSError as error:
        return f"a bug in {name}, and no report could be written ({error}). DO: run it again with --debug"
    return f"a bug in {name}. DO: send the report {path} to its makers"
