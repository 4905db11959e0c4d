"""What is said of a run, in words: the report, the card and the component list say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from axlebox.firmware_bundle.manifest import ParityProof

INTENDED_USE = "Advisory only: not safety-related, no actuation."
_LIMITS_OF_VALUE = (
    "This detector looks at one value at a time.",
    "It flags a fixed share of everyday readings.",
    "It cannot tell a little outside its training range from far outside.",
    "It does not see slow drifts or stuck sensors.",
)
_LIMITS_OF_STREAMING = (
    "It supplements prescribed hot-axle-box detection and fixed limits, and never replaces them.",
    "A fault that begins while a sensor still warms up, or that training already saw everywhere, looks normal to it.",
    "A slow drift of a lone sensor, without siblings, is seen late or not at all while it stays in the usual range.",
    "A fault that all siblings share at once does not show between them.",
    "What its sums of tails find, its forest hardly adds to: the evaluation says by how much.",
)


_LIMITS_OF_OTHERS = (
    "It flags a fixed share of everyday readings.",
    "Its feature set {} is no part of axlebox: the package that brings it must be installed on the box, is trusted "
    "like the runtime, and was not tried on injected faults.",
)


def limits_of_use(feature_sets: Iterable[str]) -> tuple[str, ...]:
    """What to know before relying on detectors with these feature sets."""
    found = set(feature_sets)
    others = ", ".join(sorted(found - {"value", "streaming"}))
    limits = (
        *(_LIMITS_OF_VALUE if "value" in found else ()),
        *(_LIMITS_OF_STREAMING if "streaming" in found else ()),
        *(one.format(others) for one in _LIMITS_OF_OTHERS if others),
    )
    return tuple(dict.fromkeys(limits))


def evaluation_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The evaluation of run.json as headings and plain text."""
    rate = facts["flags_per_sensor_day"]
    return [
        ("Training readings", f"{facts['train_readings']:,}"),
        ("Held-out readings", f"{facts['test_readings']:,} of {facts['sensors']} sensors"),
        ("Held-out exposure", f"{facts['exposure_sensor_days']:.1f} sensor-days"),
        *(row for kind, one in facts["detectors"].items() for row in detector_rows(kind, one)),
        *((("No detector for", ", ".join(missing)),) if (missing := facts.get("kinds_without_detector")) else ()),
        ("Flagged readings", f"{facts['flags']:,}" + (f", {rate:.1f} a sensor-day" if rate is not None else "")),
        ("Events", f"{facts['events']:,}"),
        *_gate_rows(facts),
    ]


def detector_rows(kind: str, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Threshold, target and check of one detector."""
    score = f"score above {facts['threshold']:.6f} (0..1, higher is more anomalous)"
    if "extreme_at" not in facts:
        return [(f"Threshold, {kind}", score)]
    target, bound = facts["target_per_sensor_day"], facts["bound_per_sensor_day"]
    aim = f"contamination {facts['contamination']:g}" if target is None else f"at most {target:.3g} a sensor-day"
    if facts.get("cost"):
        aim += (
            f", the least cost: {facts['cost']['cost_per_year']:.4g} a vehicle-year, missing "
            f"{facts['cost']['missed_share']:.0%} of injected faults of all sizes"
        )
    proved = "none to check it on" if bound is None else f"at most {bound:.3g} a sensor-day with 95 %"
    rows = [
        (f"Threshold, {kind}", f"sum of tails {facts['extreme_at']:.2f} at once; {score} several times"),
        (f"False alarms aimed at, {kind}", aim),
        (
            f"Seen in held-out time, {kind}",
            f"{facts['near_events']} events near the threshold in {facts['exposure_sensor_days']:.1f} sensor-days: "
            f"{proved}; {facts['far_events']} far beyond it, which look like faults",
        ),
    ]
    return rows + ([(f"TARGET NOT REACHED, {kind}", facts["target_problem"])] if facts["target_problem"] else [])


def trial_rows(trials: Mapping[str, Any] | None) -> list[list[str]]:
    """Injected faults as a table: a heading row, then a row for each kind of fault; empty where there were none."""
    if not trials or not trials["faults"]:
        return []
    names = list(next(iter(trials["faults"].values()))["answers"])
    rows = [["injected fault", *names, "seen by the gate"]]
    for name, one in trials["faults"].items():
        cells = [_answer(one["answers"][detector], one["trials"]) for detector in names]
        gate = f"{one['gate']} of {one['trials']}" if one["gate"] else ""
        rows.append([f"{name}: {one['what']}{'' if one['alarms'] else ' (must not alarm)'}", *cells, gate])
    return rows


def caught(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    """Injected faults of one detector that should alarm: how many were raised, and of how many; None without any."""
    told = [one for one in ((facts.get("trials") or {}).get("faults") or {}).values() if one["alarms"]]
    if not told:
        return None
    return sum(one["answers"]["detector"]["raised"] for one in told), sum(one["trials"] for one in told)


def winners(trials: Mapping[str, Any] | None) -> list[str]:
    """Where something simpler did better than the detector, in words."""
    if not trials:
        return []
    return [
        f"{name}: {', '.join(one['wins'])} raised it earlier or more often than the detector"
        for name, one in trials["faults"].items()
        if one["wins"]
    ]


def _answer(one: Mapping[str, Any], trials: int) -> str:
    if not one["raised"]:
        return f"0 of {trials}"
    return f"{one['raised']} of {trials}, after {span_of_time(one['delay_s'])}, raised {one['share']:.0%}"


def span_of_time(seconds: float) -> str:
    """As in `2.5 h`."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


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
