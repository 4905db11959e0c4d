"""What became of a reading, and the release that said so."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

NO_SENSOR = ""
"""Stands for the sensor where a line was not even a reading."""


class Origin(Struct, frozen=True):
    """The release that an event comes from."""

    name: str
    version: int
    digest: str


class Outcome(Struct, gc=False):
    """What became of one reading (or one bad line, or one mark)."""

    line: int
    sensor: str
    time: float | None
    value: float | None
    status: str
    """One of statuses.py, with a reason where the model did not see it, or REPLACED for a mark."""
    reason: str = ""
    score: float | None = None
    tail_sum: float | None = None
    """How far outside normal its features lie together (tails.py), where its feature set knows tails."""
    flag: bool = False
    event: str | None = None
    """Id of the sensor's anomaly event while it is raised."""
    events: tuple[dict[str, Any], ...] = ()
