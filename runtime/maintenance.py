"""Whether the vehicle stands in maintenance, by what its configuration says."""

from __future__ import annotations

import subprocess
from pathlib import Path

from axlebox.firmware_bundle.errors import NotInMaintenance
from axlebox.runtime.config import Maintenance

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def check_maintenance(rule: Maintenance) -> None:
    """Raise NotInMaintenance unless everything that the configuration asks says yes."""
    if rule.file is not None and not Path(rule.file).exists():
        raise NotInMaintenance(f"{rule.file} is not there, so the vehicle does not stand in maintenance")
    if rule.command is None:
        return
    program = rule.command[0]
    try:
        # Neither a shell nor the caller's environment: a stick's folder must not choose the program.
        done = subprocess.run(
            rule.command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=rule.timeout_s,
            check=False,
            env={"PATH": _PATH},
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise NotInMaintenance(f"{program} took longer than {rule.timeout_s:g} s to say whether it is") from error
    except OSError as error:
        raise NotInMaintenance(f"{program}, which says whether it is, cannot be called: {error.strerror}") from error
    if done.returncode != 0:
        raise NotInMaintenance(f"{program} ended with {done.returncode}: the vehicle does not stand in maintenance")
