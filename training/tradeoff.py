"""What other thresholds would mean: false alarms, and injected faults caught, along the extreme level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from axlebox.runtime.statuses import OK
from axlebox.training.threshold import Numbers, clusters

_LEVELS = 40
_RAREST = 1e-4
"""False alarms of a vehicle-day at the highest level that is looked at."""
_ABOVE = 1.25
"""It is at least so many times the chosen one."""


def false_alarms(facts: Mapping[str, Any], level: float) -> float:
    """Expected false alarms of a healthy vehicle in a day, by the tail that training fitted (threshold.Tailing)."""
    often = float(facts["clusters_per_sensor_day"]) * int(facts["sensors_per_vehicle"])
    mean = float(facts["mean_excess"])
    excess = max(level - float(facts["base"]), 0.0)
    return often * math.exp(-excess / mean) if mean > 0.0 else often * (excess == 0.0)


def candidate_levels(facts: Mapping[str, Any]) -> list[float]:
    """Extreme levels to compare, rising, the chosen one among them: from where the tail begins to a rare level."""
    base, chosen = float(facts["base"]), float(facts["extreme_at"])
    often = false_alarms(facts, base)
    rare = base + float(facts["mean_excess"]) * math.log(often / _RAREST) if often > _RAREST else base
    levels = np.linspace(min(base, chosen), max(rare, _ABOVE * chosen), _LEVELS).tolist()
    return sorted({*levels, chosen})


def curve(seen: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, Any]:
    """For each candidate level: false alarms expected, and the excursions that held-out time had, faults included.

    `seen` are predictions of one kind. An excursion is readings above the lowest level, 12 readings apart from
    the next; it counts for a level that its highest reaches.
    """
    levels = candidate_levels(facts)
    peaks = _peaks(seen[seen["status"] == OK], levels[0])
    return {
        "levels": levels,
        "chosen": levels.index(float(facts["extreme_at"])),
        "false_alarms_per_vehicle_day": [false_alarms(facts, level) for level in levels],
        "held_out_excursions": [int(np.sum(peaks >= level)) for level in levels],
    }


def _peaks(seen: pd.DataFrame, lowest: float) -> Numbers:
    """The highest sum of tails of each excursion."""
    sums = seen["tail_sum"].fillna(0.0).to_numpy()
    above = np.where(sums >= lowest, sums, 0.0)
    found = [clusters(above[index]) for index in seen.groupby(["sensor", "era"], sort=False).indices.values()]
    return np.concatenate([np.empty(0), *found])


def caught_at(reached: Sequence[Sequence[float | None]], levels: Sequence[float]) -> dict[str, Any]:
    """In how many faults the sum of tails reaches each level, and the median delay; `reached` has a row for each."""
    columns = [[one[number] for one in reached if one[number] is not None] for number in range(len(levels))]
    return {
        "trials": len(reached),
        "caught": [len(one) for one in columns],
        "delay_s": [float(np.median(one)) if one else None for one in columns],  # type: ignore[arg-type]
    }
