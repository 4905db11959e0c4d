"""Events of held-out time as people think of them: one with its begin, its end, its peak and its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from axlebox.runtime.readings import parse_time
from axlebox.runtime.statuses import OK

ANOMALY, LIMIT, SENSOR, DRIFT = "anomaly", "limit", "sensor", "drift"


@dataclass(slots=True)
class Episode:
    """What was raised, until it was cleared."""

    what: str
    """ANOMALY, LIMIT, SENSOR or DRIFT."""
    about: str
    """The severity; of a sensor event its state, of a drift the baseline."""
    id: str
    """Empty where events of its type have none."""
    sensor: str
    """Empty where what was read does not even name one."""
    start: float | None
    """POSIX seconds; None where the reading had no time."""
    value: float | None
    """When it was raised."""
    why: Sequence[Mapping[str, Any]]
    """The farthest reasons that were told of it (reasons.py)."""
    action: str | None
    end: float | None = None
    """None where it was still raised when held-out time ended."""
    peak: float | None = None
    """The value where its sum of tails, or else its score, was highest;"""
    peak_sum: float | None = None
    """and that sum."""


def episodes(events: Iterable[Mapping[str, Any]], predictions: pd.DataFrame) -> list[Episode]:
    """In the order in which they were raised; peaks are taken from the predictions."""
    found: list[Episode] = []
    raised: dict[tuple[str, ...], Episode] = {}
    for event in events:
        key = _key(event)
        before = raised.get(key)
        time = None if event["time"] is None else parse_time(event["time"])
        if event["state"] == "peak" and before is not None:
            before.about = event["severity"]
            before.why = max(before.why, event["why"], key=_farthest)
            continue
        if before is not None:  # cleared; or a sensor event that changes into another
            before.end = time
            del raised[key]
        if event["state"] not in (OK, "cleared", "peak"):
            raised[key] = _begun(event, time)
            found.append(raised[key])
    peaks = _peaks(predictions)
    for one in found:
        one.peak, one.peak_sum = peaks.get(one.id, (None, None))
    return found


def _begun(event: Mapping[str, Any], time: float | None) -> Episode:
    about = {SENSOR: event["state"], DRIFT: event.get("baseline")}.get(event["type"], event.get("severity"))
    return Episode(
        what=event["type"],
        about=str(about),
        id=event.get("id", ""),
        sensor=event["sensor"] or "",
        start=time,
        value=event.get("value"),
        why=event.get("why", ()),
        action=event.get("action"),
    )


def _key(event: Mapping[str, Any]) -> tuple[str, ...]:
    """What can be raised once at a time."""
    return (event["type"], event["sensor"] or "", event.get("id", ""), event.get("baseline", ""))


def _farthest(why: Sequence[Mapping[str, Any]]) -> float:
    return float(why[0].get("tails") or 0.0) if why else -1.0


def _peaks(predictions: pd.DataFrame) -> dict[str, tuple[float, float | None]]:
    """Value and sum of tails at the peak of each anomaly event, by its id."""
    inside = predictions[predictions["event_id"].notna()]
    highest = inside["tail_sum"].fillna(inside["score"]).fillna(0.0)
    rows = inside.loc[highest.groupby(inside["event_id"]).idxmax()]
    sums = rows["tail_sum"].astype(object).where(rows["tail_sum"].notna(), None)
    return dict(zip(rows["event_id"], zip(rows["value"].tolist(), sums.tolist(), strict=True), strict=True))
