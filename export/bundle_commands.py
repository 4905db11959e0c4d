"""The commands of axlebox that make, check and use bundles."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from axlebox.export.key_commands import BUNDLE_FILE, ask_secret, key_option, trust_option
from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import ANY_HARDWARE
from axlebox.runtime.commandline import json_option, printable, show


@click.command()
@click.argument("run", required=False)
@key_option
@click.option("--accept-missed-target", is_flag=True, help="Export though training missed its target of false alarms.")
@click.option(
    "--accept-gate",
    "accepted",
    multiple=True,
    metavar="NAME",
    help="Export though this gate was not passed; repeatable.",
)
@json_option
def export(
    run: str | None, places: tuple[str, ...], accept_missed_target: bool, accepted: tuple[str, ...], as_json: bool
) -> None:
    """Convert RUN (by default the latest) to ONNX, prove it equal, and pack a signed bundle in dist/.

    Signed with the keys in keys/ and those given with --key; `axlebox approve` adds what is
    missing. Exit 50, and no bundle, where one flag differs from scikit-learn's, or where RUN does
    not pass a gate: its target of false alarms, the gates of parameters.yml, the champion.
    """
    from axlebox.export.build import export_run
    from axlebox.export.signing import load_signers
    from axlebox.training import tracking
    from axlebox.training.gates import TARGET, judge_before_export, parity_gate, write_gates
    from axlebox.training.run import load_parameters
    from axlebox.training.runs import open_run
    from axlebox.training.workspace import find_workspace

    workspace = find_workspace(Path.cwd())
    parameters = load_parameters(workspace)
    found = open_run(workspace.runs, run)
    accepted = (*accepted, TARGET) if accept_missed_target else accepted
    gates = judge_before_export(workspace, found, parameters.gates, accepted)
    signers = load_signers(workspace, places, ask_secret)
    with workspace.locked():
        tracking.check_index(workspace, parameters)  # before a version is taken
    done = export_run(
        workspace, found, parameters.bundle, signers, say=lambda line: None if as_json else click.echo(line)
    )
    write_gates(found, [parity_gate(found), *gates])
    size = done.path.stat().st_size
    missing = done.bundle.signatures_missing
    lines = [f"bundle {done.path} ({size} bytes), digest {done.bundle.digest[:16]}", f"  report {done.report}"]
    if missing:
        lines.append(
            f"  {missing} of {done.bundle.signatures_needed} signatures missing. DO: axlebox approve {done.path}"
        )
    show(
        {
            "bundle": str(done.path),
            "digest": done.bundle.digest,
            "report": str(done.report),
            "bytes": size,
            "signatures_missing": missing,
            "gates": [msgspec.to_builtins(one) for one in gates],
        },
        as_json,
        *lines,
    )
    with workspace.locked():
        tracking.record(workspace, parameters, found)


@click.command()
@click.argument("bundle", type=BUNDLE_FILE)
@trust_option
@click.option("--hardware", default=ANY_HARDWARE, show_default=True, help="Hardware id to check for.")
@click.option("--vehicle", help="Vehicle id to check for; without it the bundle may be for any vehicle.")
@json_option
def verify(bundle: Path, trust: Path | None, hardware: str, vehicle: str | None, as_json: bool) -> None:
    """Check BUNDLE as a vehicle would; exit 0 if it would be installed."""
    from axlebox.export.open import open_bundle

    found = open_bundle(bundle, trust, hardware, vehicle)
    show(found.facts(), as_json, found.verdict(), *(f"note: {warning}" for warning in found.warnings))


@click.command()
@click.argument("bundle", type=BUNDLE_FILE)
@trust_option
@click.option(
    "--show",
    "member",
    type=click.Choice(["card", "sbom", "provenance", "manifest"]),
    help="Print this member as it is, and nothing else.",
)
@json_option
def inspect(bundle: Path, trust: Path | None, member: str | None, as_json: bool) -> None:
    """Show what is in BUNDLE, who signed it, and from which data, settings and code it was made.

    A bundle that still lacks signatures is shown as well: it is what the next person signs.
    """
    from axlebox.export.evidence import read_member
    from axlebox.export.open import describe, open_proposal

    if member and as_json:
        raise UsageError("--show prints a member as it is. DO: leave out --json or --show")
    found = open_proposal(bundle, trust)
    if member:
        shown = read_member(found.members, member)
        # Piped it stays as it is; a terminal must not obey what somebody wrote into it.
        click.echo(printable(shown.decode("utf-8", "replace")) if sys.stdout.isatty() else shown, nl=False)
        return
    record, lines = describe(found)
    show(record, as_json, *lines)


@click.command()
@click.argument("before", metavar="A.axb", type=BUNDLE_FILE)
@click.argument("after", metavar="B.axb", type=BUNDLE_FILE)
@click.option("--readings", type=BUNDLE_FILE, help="Readings to compare the flags of both on.")
@trust_option
@json_option
def diff(before: Path, after: Path, readings: Path | None, trust: Path | None, as_json: bool) -> None:
    """Show what changes from bundle A to bundle B: settings, data, components, signers, flags.

    Signatures may still be missing: this is what a second person looks at before signing B.
    """
    from axlebox.export.diff import describe
    from axlebox.export.diff import diff as compare
    from axlebox.export.open import open_proposal
    from axlebox.training.progress import on_terminal

    one, two = open_proposal(before, trust), open_proposal(after, trust)
    found = compare(one, two, readings, on_terminal())
    record = {"before": one.facts(), "after": two.facts(), "differences": msgspec.to_builtins(found)}
    show(record, as_json, *describe(one, two, found))


@click.command()
@click.argument("bundle", type=BUNDLE_FILE)
@click.argument("readings", type=BUNDLE_FILE)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="CSV to write.")
@trust_option
@json_option
def score(bundle: Path, readings: Path, output: Path, trust: Path | None, as_json: bool) -> None:
    """Write time,sensor,value,status,score,flag,event for every line of READINGS, by the vehicle's own code."""
    from axlebox.export.open import open_bundle
    from axlebox.export.score import score_file
    from axlebox.runtime.daemon import summary
    from axlebox.training.progress import on_terminal

    totals = score_file(open_bundle(bundle, trust), readings, output, on_terminal())
    show({**msgspec.structs.asdict(totals), "output": str(output)}, as_json, *summary(totals), f"  in {output}")


@click.command()
@click.argument("capsule", type=BUNDLE_FILE)
@click.argument("bundle", type=BUNDLE_FILE, required=False)
@click.option("--vehicle-key", type=BUNDLE_FILE, help="The vehicle's vehicle.pub, to check the capsule's signature.")
@trust_option
@json_option
def replay(capsule: Path, bundle: Path | None, vehicle_key: Path | None, trust: Path | None, as_json: bool) -> None:
    """Replay an event from a vehicle's CAPSULE; 50 where score or reasons come out different.

    BUNDLE is the release that it is of; by default the one in the workspace's dist with its digest.
    """
    from axlebox.export.capsules import open_capsule, release_of
    from axlebox.runtime.capsule import replay as replay_capsule
    from axlebox.runtime.event_commands import show_replay

    found = open_capsule(capsule, vehicle_key)
    show_replay(found, replay_capsule(found, release_of(found, bundle, trust)), as_json)
    if vehicle_key is None:
        click.echo("axlebox: the signature was not checked. DO: give --vehicle-key vehicle.pub", err=True)
