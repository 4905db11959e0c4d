"""axlebox: the program of the workstation."""

from __future__ import annotations

import click

from axlebox.runtime.commandline import LazyGroup, run_program
from axlebox.runtime.version import VERSION

_TRAINING = "axlebox.export.training_commands"
_KEYS = "axlebox.export.key_commands"
_BUNDLES = "axlebox.export.bundle_commands"
_LINEAGE = "axlebox.export.lineage_commands"
_RUNS = "axlebox.export.run_commands"
_COMPARE = "axlebox.export.compare_commands"
_STICK = "axlebox.export.stick_commands"


@click.group(
    cls=LazyGroup,
    lazy={
        "init": (f"{_TRAINING}:init", "Write a workspace."),
        "simulate": (f"{_TRAINING}:simulate", "Make readings of vehicles with sibling bearings, with faults."),
        "ingest": (f"{_TRAINING}:ingest", "Check files of readings and keep copies for training."),
        "train": (f"{_TRAINING}:train", "The Kedro run: fit, evaluate, record, report."),
        "runs": (f"{_RUNS}:runs", "The runs, the champion, MLflow's index; runs from one machine to another."),
        "compare": (f"{_COMPARE}:compare", "Two runs on the same readings and the same injected faults."),
        "refresh": (f"{_COMPARE}:refresh", "New readings in, a challenger trained, a proposal written; for cron."),
        "keys": (f"{_KEYS}:keys", "Make, list, rotate and revoke the keys that sign releases."),
        "export": (f"{_BUNDLES}:export", "Prove the model equal and pack a signed bundle."),
        "approve": (f"{_KEYS}:approve", "Add one more signature to a bundle."),
        "verify": (f"{_BUNDLES}:verify", "Check a bundle as the vehicle would."),
        "inspect": (f"{_BUNDLES}:inspect", "What is in a bundle, who signed it, from which data and code."),
        "diff": (f"{_BUNDLES}:diff", "What changes between two bundles: settings, components, signers, flags."),
        "trace": (f"{_LINEAGE}:trace", "From an event, a bundle or a run back to data, settings, code and versions."),
        "reproduce": (f"{_LINEAGE}:reproduce", "Train and export a bundle again from its record, and compare bytes."),
        "score": (f"{_BUNDLES}:score", "Score a file of readings by the vehicle's own code."),
        "replay": (f"{_BUNDLES}:replay", "Replay a vehicle's event from its capsule."),
        "stick": (f"{_STICK}:stick", "Fill a stick with bundles for vehicles, and check one."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: docs/exit-codes.md. --debug anywhere prints tracebacks.",
)
@click.version_option(VERSION, prog_name="axlebox")
def cli() -> None:
    """From readings to a signed bundle: train, prove, pack and sign releases for vehicles."""


def main() -> None:
    run_program(cli, "axlebox")
