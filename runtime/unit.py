"""The systemd unit of the daemon, and `axleboxd unit`, which prints it for a configuration.

Its start limit and the tries of a release on trial belong together: a release that dies at once
must have spent its tries, and the release before it must run, before systemd gives up.
docs/systemd.md is how it is used, docs/decisions/0014-unit.md why it is as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.state import TRIES
from axlebox.firmware_bundle.vehicle import DAEMON_WAITS_S
from axlebox.runtime.config import Config, load_config
from axlebox.runtime.needs import RUNTIME, Needs, check_seen, needs_of
from axlebox.runtime.options import config_option, data_option
from axlebox.runtime.probation import LIVED_S
from axlebox.runtime.selftest import TIMEOUT_S

RESTART_S = 2
PRE_START_S = 10
"""What verifying the release before the start takes on a slow box."""
START_LIMIT_BURST = 3 * (TRIES + 1)
"""Starts in START_LIMIT_S after which systemd gives up: a trial takes TRIES, and the start after them is good."""
START_LIMIT_S = START_LIMIT_BURST * (LIVED_S + RESTART_S + PRE_START_S)
"""So long that a release which dies at the end of its first minute, over and over, is stopped in the end as well."""
WATCHDOG_S = 30
_SLOTS = 3
_REPLAY_S = 120
"""A ring of recent readings, through the detectors of a slow box."""
START_S = _SLOTS * TIMEOUT_S + DAEMON_WAITS_S + _REPLAY_S
"""The longest start: after a change of runtime every slot is tested, and each hangs until its time is over."""
STOP_S = 90
"""Sixteen sinks that take nothing any more are waited for, one after the other, for five seconds each."""
CHILD_MIB = 96
"""Memory of the largest process beside the daemon: a self-test, or a confirmation."""

_UNIT = """\
# Printed by axleboxd unit for the source {source} and the sinks {sinks}.
# Print it anew when these change.
[Unit]
Description=axlebox anomaly detection
RequiresMountsFor={data}
StartLimitIntervalSec={start_limit_s:.0f}
StartLimitBurst={burst}

[Service]
Type=notify
NotifyAccess=main
User={user}
Environment=ORT_DISABLE_TELEMETRY=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
# Reports of bugs go here, and are still there after the end.
Environment=TMPDIR=/run/{own_runtime}
{input}\
# Whatever this says, the start goes on: run itself gives a damaged release up and starts the other one.
ExecStartPre=-{selftest}
ExecStart={run}
ExecReload=/bin/kill -HUP $MAINPID
{lamps}\
Restart={restart}
RestartSec={restart_s}
TimeoutStartSec={start_s:.0f}
TimeoutStopSec={stop_s}
WatchdogSec={watchdog_s}
# Only the daemon is asked to stop: a self-test that ends by a signal has failed, and costs a release its slot.
KillMode=mixed
# Where memory ends a self-test, the daemon starts the other release.
OOMPolicy=continue
MemoryMax={memory_mib:.0f}M
TasksMax=64
LimitNOFILE=512
LimitCORE=0
CPUWeight=50
Nice=5
{folders}\
UMask=0027

{network}\
{devices}\
AmbientCapabilities=
CapabilityBoundingSet=
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateIPC=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# Not ProcSubset=pid as well: onnxruntime reads /proc/cpuinfo.
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit_text(
    program: Path,
    data: Path,
    config: Config,
    config_file: Path | None = None,
    device: Path | None = None,
    user: str = "axlebox",
) -> str:
    """The unit, for whole paths. `device` is the daemon's standard input, and then its source. Raises UsageError."""
    if device is not None:
        config = msgspec.structs.replace(config, source="stdin:")
    elif config.source == "stdin:":
        raise UsageError('source stdin: gives a service nothing. DO: --input DEVICE, or source = "fifo:PATH"')
    needs = needs_of(config)
    where: list[str | Path] = ["--data", data]
    named: list[str | Path] = [] if config_file is None else ["--config", config_file]
    read = [] if device is None else ["--source", "stdin:"]
    return _UNIT.format(
        source=_rest(config.source),
        sinks=_rest(", ".join(config.sinks)),
        data=_word(data),
        start_limit_s=START_LIMIT_S,
        burst=START_LIMIT_BURST,
        user=_user(user),
        own_runtime=RUNTIME,
        input="" if device is None else f"StandardInput=file:{_rest(device)}\n",
        selftest=_command(program, "selftest", *where),
        run=_command(program, "run", *read, *where, *named),
        lamps="".join(f"ExecStopPost=-{_lamp_on(program, lamp, config)}\n" for lamp in needs.lamps),
        restart="on-failure" if needs.replays else "always",
        restart_s=RESTART_S,
        start_s=START_S,
        stop_s=STOP_S,
        watchdog_s=WATCHDOG_S,
        memory_mib=config.health.max_memory_mib + CHILD_MIB,
        folders=_lines(_folders(data, needs)),
        network=_lines(_network(needs)),
        devices=_lines(_devices(device, needs)),
    )


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _folders(data: Path, needs: Needs) -> Iterator[str]:
    """What the service may write to. A folder that is missing is the daemon's to say, in words."""
    if data.parent == Path("/var/lib") and _is_plain(data.name):
        yield f"StateDirectory={data.name}"
        yield "StateDirectoryMode=0750"
    else:
        yield f"ReadWritePaths={_word(f'-{data}')}"
    made = [name for name in needs.runtime if _is_plain(name)]
    yield f"RuntimeDirectory={' '.join(made)}"
    yield "RuntimeDirectoryPreserve=yes"
    others = [Path("/run") / name for name in needs.runtime if name not in made]
    for folder in (*needs.folders, *others):
        if not folder.is_relative_to(data):
            yield f"ReadWritePaths={_word(f'-{folder}')}"


def _network(needs: Needs) -> Iterator[str]:
    yield f"PrivateNetwork={'no' if needs.families else 'yes'}"
    yield f"RestrictAddressFamilies={' '.join(('AF_UNIX', *needs.families))}"
    if needs.addresses is None:
        yield "# No IPAddressDeny: who is talked to has no address that is known here."
        return
    yield "IPAddressDeny=any"
    if needs.addresses:
        yield f"IPAddressAllow={' '.join(sorted(needs.addresses))}"


def _devices(device: Path | None, needs: Needs) -> Iterator[str]:
    yield "DevicePolicy=closed"
    if device is not None:  # systemd opens it when these bounds stand already
        yield f"DeviceAllow={_word(device)} r"
    if needs.device is not None:
        yield f"DeviceAllow={_word(needs.device)} rw"
        yield "SupplementaryGroups=dialout"
    yield f"PrivateDevices={'yes' if needs.device is None else 'no'}"


def _lamp_on(program: Path, lamp: Path, config: Config) -> str:
    """By the unit's own words: a configuration that cannot be read must not leave the lamp off."""
    settings = config.lamp
    words = [] if settings.status_file is None else ["--status-file", settings.status_file]
    return _command(program, "lamp-on", lamp, "--on", settings.on, *words)


# -- words of a unit file -------------------------------------------------------------------------


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None


def _user(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", name):
        raise UsageError(f"--user {name!r} is no name of a user")
    return name


def _command(program: Path, *words: str | Path) -> str:
    """A command line of systemd.service(5), in which a $ counts in every word but the first."""
    return " ".join([_word(program), *(_word(word).replace("$", "$$") for word in words)])


def _rest(text: str | Path) -> str:
    """Text that takes the rest of a line of a unit file, in which only a % counts."""
    plain = str(text)
    if not plain.isprintable() or plain != plain.strip() or plain.endswith("\\"):
        raise UsageError(f"{plain!a} holds what no path in a unit may")
    return plain.replace("%", "%%")


def _word(text: str | Path) -> str:
    """Text as one word of a unit file (systemd.syntax(7))."""
    plain = _rest(text)
    if re.fullmatch(r"[A-Za-z0-9/._+:-]+", plain):
        return plain
    escaped = plain.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


@click.command()
@click.option(
    "--input",
    "device",
    type=click.Path(path_type=Path),
    help="A device that gives lines, as /dev/ttyS0: the daemon's standard input, and its source.",
)
@click.option("--user", default="axlebox", show_default=True, help="Who owns the data folder.")
@config_option
@data_option
def unit(device: Path | None, user: str, config: Path | None, data: Path) -> None:
    """Print a systemd unit for the configuration: /etc/systemd/system/axleboxd.service."""
    program = Path(sys.executable).with_name("axleboxd")
    data = data.resolve()
    found = load_config(data, config)
    named = None if config is None else config.absolute()
    if device is not None and not device.is_relative_to("/dev"):
        # The verification before the start would open a FIFO too, and its writer would lose what it wrote.
        raise UsageError(f'--input {device} is not below /dev. DO: source = "fifo:{device}", if it is a FIFO')
    check_seen("the program", program)
    check_seen("--data", data)
    if named is not None:
        check_seen("--config", named)
    click.echo(unit_text(program, data, found, named, device, user), nl=False)
