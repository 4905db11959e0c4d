"""What is said of a run, in words: the report, the card and the component list say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axlebox.firmware_bundle.manifest import ParityProof

INTENDED_USE = "Advisory only: not safety-related, no actuation."
LIMITS_OF_USE = (
    "This detector looks at one value at a time.",
    "It flags a fixed share of everyday readings.",
    "It cannot tell a little outside its training range from far outside.",
    "It does not see slow drifts or stuck sensors.",
)


def evaluation_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The evaluation of run.json as headings and plain text."""
    rate = facts["flags_per_sensor_day"]
    return [
        ("Training readings", f"{facts['train_readings']:,}"),
        ("Held-out readings", f"{facts['test_readings']:,} of {facts['sensors']} sensors"),
        ("Held-out exposure", f"{facts['exposure_sensor_days']:.1f} sensor-days"),
        ("Threshold", f"score above {facts['threshold']:.6f} (0..1, higher is more anomalous)"),
        ("Flagged readings", f"{facts['flags']:,}" + (f", {rate:.1f} a sensor-day" if rate is not None else "")),
        ("Events", f"{facts['events']:,}"),
        *_gate_rows(facts),
    ]


def _gate_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the contract's checks and limits found; nothing for a contract without any, or a run from before them."""
    held_back, limits = facts.get("held_back"), facts.get("limit_events")
    words = ", ".join(f"{count:,} {status}" for status, count in (held_back or {}).items())
    rows = [("Held back by the gate", words)] if held_back else []
    return rows + ([("Limit events", f"{limits:,}")] if limits else [])


def parity_rows(proof: ParityProof) -> list[tuple[str, str]]:
    """A proof of parity as headings and plain text."""
    return [
        ("Rows compared", f"{proof.rows:,}"),
        ("At and beside split values", f"{proof.boundary_rows:,} rows for {proof.split_values:,} split values"),
        ("Training rows", f"{proof.training_rows:,}"),
        ("Special values", f"{proof.special_rows:,}"),
        ("Offsets swept", f"{proof.offsets:,}, {proof.offset_flags:,} flags compared"),
        ("Flags that differ", f"{proof.flags_differing:,}"),
        ("Largest score difference", f"{proof.largest_score_difference:g}"),
    ]
