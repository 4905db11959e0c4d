"""The systemd unit of the daemon, and `axleboxd unit`, which prints it.

Its start limit and the tries of a release on trial belong together: a release that dies at once
must have spent its tries, and the release before it must run, before systemd gives up.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.state import TRIES
from axlebox.runtime.commands import data_option
from axlebox.runtime.probation import LIVED_S

RESTART_S = 2
START_LIMIT_BURST = 3 * (TRIES + 1)
"""Starts in START_LIMIT_S after which systemd gives up: a trial takes TRIES, and the start after them is good."""
START_LIMIT_S = START_LIMIT_BURST * (LIVED_S + RESTART_S)
"""So long that a release which dies at the end of its first minute, over and over, is stopped in the end as well."""

_UNIT = """\
[Unit]
Description=axlebox anomaly detection
StartLimitIntervalSec={start_limit_s:.0f}
StartLimitBurst={burst}

[Service]
Type=exec
User=axlebox
StandardInput=file:{readings}
ExecStart={program} run --source stdin: --data {data_word}
Restart=always
RestartSec={restart_s}
StateDirectory=axlebox
ReadWritePaths={data}
MemoryMax=192M
TasksMax=32
CapabilityBoundingSet=
DevicePolicy=closed
{device}LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateNetwork=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
UMask=0027

[Install]
WantedBy=multi-user.target
"""


def unit_text(program: Path, data: Path, readings: Path) -> str:
    """The unit for a program, a data folder and what gives the readings, by their whole paths. Raises UsageError."""
    return _UNIT.format(
        program=_word(program),
        data_word=_word(data).replace("$", "$$"),
        data=_word(data),
        readings=_rest(readings),
        device=f"DeviceAllow={_word(readings)} r\n" if readings.is_relative_to("/dev") else "",
        restart_s=RESTART_S,
        burst=START_LIMIT_BURST,
        start_limit_s=START_LIMIT_S,
    )


def _rest(path: Path) -> str:
    """A path that takes the rest of a line of a unit file, in which only a % counts."""
    plain = str(path)
    if not plain.isprintable() or plain != plain.strip():
        raise UsageError(f"{plain!a} holds what no path in a unit may")
    return plain.replace("%", "%%")


def _word(path: Path) -> str:
    """A path as one word of a unit file (systemd.syntax(7)); in ExecStart a $ counts as well."""
    plain = _rest(path)
    if re.fullmatch(r"[A-Za-z0-9/._+-]+", plain):
        return plain
    escaped = plain.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


@click.command()
@click.option(
    "--input", "readings", type=click.Path(path_type=Path), required=True, help="A FIFO or device that gives readings."
)
@data_option
def unit(readings: Path, data: Path) -> None:
    """Print a systemd unit for this installation: /etc/systemd/system/axleboxd.service."""
    click.echo(unit_text(Path(sys.executable).with_name("axleboxd"), data.resolve(), readings.absolute()), nl=False)
