"""Whether the vehicle stands in maintenance, by what its configuration says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from axlebox.firmware_bundle.errors import NotInMaintenance
from axlebox.runtime.config import Maintenance

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def check_maintenance(rule: Maintenance) -> None:
    """Raise NotInMaintenance unless everything that the configuration asks says yes."""
    if rule.file is not None:
        _check_file(Path(rule.file))
    if rule.command is not None:
        _check_command(rule.command, rule.timeout_s)


def _check_file(file: Path) -> None:
    try:
        file.stat()
    except FileNotFoundError as error:
        raise NotInMaintenance(f"{file} is not there, so the vehicle does not stand in maintenance") from error
    except (OSError, ValueError) as error:
        raise NotInMaintenance(f"{file}, which says whether it is, cannot be looked at: {error}") from error


def _check_command(command: Sequence[str], timeout_s: float) -> None:
    program = command[0]
    try:
        code = _call(command, timeout_s)
    except subprocess.TimeoutExpired as error:
        raise NotInMaintenance(f"{program} took longer than {timeout_s:g} s to say whether it is") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NotInMaintenance(f"{program}, which says whether it is, cannot be called: {why}") from error
    if code != 0:
        raise NotInMaintenance(f"{program} ended with {code}: the vehicle does not stand in maintenance")


def _call(command: Sequence[str], timeout_s: float) -> int:
    """How a program ended. Raises OSError, ValueError, TimeoutExpired once it and its children are killed.

    Neither a shell nor the caller's environment: a stick's folder must not choose the program. No
    pipes: a child that it leaves behind would keep them open, and whoever reads them waiting.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": _PATH},
        cwd="/",
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s)
    finally:
        if process.returncode is None:  # too slow, or the keyboard stopped us
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
