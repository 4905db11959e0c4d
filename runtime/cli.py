"""axleboxd: the program of the vehicle."""

from __future__ import annotations

import click

from axlebox.runtime.commandline import LazyGroup, run_program
from axlebox.runtime.version import VERSION

_COMMANDS = "axlebox.runtime.commands"


@click.group(
    cls=LazyGroup,
    lazy={
        "provision": (f"{_COMMANDS}:provision", "Give this box its identity and its root of trust."),
        "verify": (f"{_COMMANDS}:verify", "Check a bundle against this vehicle; 0 if it may be installed."),
        "install": ("axlebox.runtime.install_command:install", "Install the bundle on a stick, on trial."),
        "confirm": (f"{_COMMANDS}:confirm", "Make the release on trial the one that stays."),
        "fallback": (f"{_COMMANDS}:fallback", "Go back to the other installed release."),
        "status": (
            "axlebox.runtime.status_command:status",
            "What runs here, its last readings and events, its health.",
        ),
        "selftest": (f"{_COMMANDS}:selftest", "Run the release's golden readings through this box."),
        "run": ("axlebox.runtime.run_command:run", "Score readings from a source, write events to sinks."),
        "ack": ("axlebox.runtime.event_commands:ack", "Say what an event was: true, false, or the sensor's fault."),
        "capsule": ("axlebox.runtime.event_commands:capsule", "Write what reproduces an event to a file, signed."),
        "replay": ("axlebox.runtime.event_commands:replay", "Replay an event from its capsule."),
        "drill": (
            "axlebox.runtime.drill_command:drill",
            "What this box would see today of faults, and after how long.",
        ),
        "check-config": (
            "axlebox.runtime.run_command:check_config",
            "Check the configuration that run would use.",
        ),
        "sensor": (f"{_COMMANDS}:sensor", "Say that a sensor was replaced."),
        "lamp-on": ("axlebox.runtime.lamp_command:lamp_on", "Switch a lamp on: axlebox does not watch."),
        "unit": ("axlebox.runtime.unit:unit", "Print the systemd unit of the daemon."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: docs/exit-codes.md. --debug anywhere prints tracebacks.",
)
@click.version_option(VERSION, prog_name="axleboxd")
def cli() -> None:
    """Anomaly detection on a vehicle's box: install signed releases and run them."""


def main() -> None:
    run_program(cli, "axleboxd")
