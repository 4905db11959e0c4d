"""What the running daemon says of itself, in numbers: for `axleboxd status`, metrics and the lamp."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from axlebox.runtime.outcomes import Outcome

LATENCY_BOUNDS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0)
"""Upper bounds of the latency histogram; beyond the last one there is one bucket more."""
SCORE_BOUNDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)


class Buckets(Struct):
    """A histogram with fixed upper bounds, as Prometheus counts."""

    bounds: tuple[float, ...]
    counts: list[int]
    """One more than bounds; not cumulative."""
    total: float = 0.0
    """Sum of all that was counted."""

    @classmethod
    def of(cls, bounds: Sequence[float]) -> Buckets:
        return cls(tuple(bounds), [0] * (len(bounds) + 1))

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class ReleaseFigures(Struct):
    name: str
    version: int
    digest: str
    runs_s: float


class SensorFigures(Struct):
    sensor: str
    kind: str | None
    value: float | None
    unit: str
    time: str | None
    age_s: float
    status: str
    reason: str
    score: float | None
    tail_sum: float | None
    raised: str | None
    """Id of its anomaly event while it is raised."""
    limit: str | None
    """The worst severity of its limit events that are raised."""


class KindFigures(Struct):
    """What sensors of a kind show since the daemon began to count the present day."""

    quantiles: dict[str, float]
    """Of the values, in the kind's unit: by 0.05, 0.5, 0.95."""
    drift: float | None
    """Median of the values less that of training, in units of training's spread; None where that is not known."""
    scores: Buckets


class SourceFigures(Struct):
    uri: str
    connected: bool
    reconnects: int
    lost: int
    error: str | None


class SinkFigures(Struct):
    uri: str
    queued: int
    written: int
    dropped: int
    error: str | None


class StoreFigures(Struct):
    error: str | None
    dropped: int
    bytes_written: int


class Figures(Struct):
    """Counters count since the start of the process."""

    pid: int
    vehicle: str
    runtime: str
    up_s: float
    release: ReleaseFigures
    readings: int
    scored: int
    flags: int
    statuses: dict[str, int]
    """Readings by status."""
    events: dict[str, int]
    """By type and state, as in `anomaly raised`."""
    sensors: list[SensorFigures]
    """Those that were heard of last, first."""
    more_sensors: int
    kinds: dict[str, KindFigures]
    source: SourceFigures | None
    sinks: list[SinkFigures]
    store: StoreFigures
    bytes_written: int
    """To this box's disk, by store and sinks."""
    bytes_per_day: float
    """At the rate since the start; 0 in the first minute."""
    latency: Buckets
    """Seconds from a reading's arrival until its events are with the sinks' queues."""
    memory_bytes: int
    clock_trusted: bool
    health: list[str]
    """What is wrong with the daemon itself or its source now."""
    open_events: list[dict[str, Any]]
    """Everything that calls for somebody now."""
    refused: dict[str, str] | None
    """Digest and reason of the last release that could not be taken over."""
    troubles: dict[str, int] = {}
    """How many of `health` there are by condition, as the field `what` of health events."""


class Counted:
    """What the daemon has seen since it started."""

    def __init__(self) -> None:
        self.readings = self.scored = self.flags = 0
        self.statuses: dict[str, int] = {}
        self.events: dict[str, int] = {}
        self.latency = Buckets.of(LATENCY_BOUNDS_S)

    def saw(self, outcomes: Sequence[Outcome], events: Sequence[Mapping[str, Any]], scored: int) -> None:
        self.readings += len(outcomes)
        self.scored += scored
        statuses = self.statuses
        for outcome in outcomes:
            statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
            self.flags += outcome.flag
        for event in events:
            name = f"{event['type']} {event['state']}"
            self.events[name] = self.events.get(name, 0) + 1
