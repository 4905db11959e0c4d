"""Figures in Prometheus' text exposition format 0.0.4.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. Written here, since
the vehicle's base install has no Prometheus client. docs/monitoring.md has every metric with its meaning.

How many series there are is bounded: by the sensors that Figures carries, the contract's kinds, the
configuration's sinks, and words of this program.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Literal

from msgspec import Struct

from axlebox.runtime.figures import Buckets, Figures, SensorFigures, SinkFigures
from axlebox.runtime.health import FLAT_SCORE, NO_DATA
from axlebox.runtime.statuses import HOT_OR_SENSOR, INVALID, OK, RANGE, RATE, STUCK, WARMING

_READING_STATUSES = (OK, WARMING, INVALID, RANGE, RATE, STUCK, HOT_OR_SENSOR)
"""Those that are counted from 0 on: a rate does not see the first one of a series that was not there before."""
_SEVERITIES = {None: 0, "mild": 1, "extreme": 2}

Labels = Mapping[str, str]
Points = Iterable[tuple[Labels, float]]


class Sample(Struct, frozen=True):
    """One number."""

    name: str
    """The family's; of a histogram with _bucket, _sum or _count."""
    labels: Labels
    value: float


class Family(Struct, frozen=True):
    """All samples of one metric."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[Sample]


def render(figures: Figures) -> str:
    """The families that have samples; the same text for the same figures."""
    return "".join(line + "\n" for family in families(figures) for line in _lines(family))


def families(figures: Figures) -> list[Family]:
    """Every metric there is, also those without a sample now, in one order."""
    return [
        *_release(figures),
        *_readings(figures),
        *_sensors(sorted(figures.sensors, key=lambda one: one.sensor)),
        *_kinds(figures),
        *_ends(figures),
        *_box(figures),
    ]


# -- the text ---------------------------------------------------------------------------------------


def _lines(family: Family) -> Iterator[str]:
    if not family.samples:
        return
    yield f"# HELP {family.name} {_escaped(family.help)}"
    yield f"# TYPE {family.name} {family.type}"
    for sample in family.samples:
        labels = ",".join(f'{name}="{_quoted(text)}"' for name, text in sample.labels.items())
        yield f"{sample.name}{{{labels}}} {number(sample.value)}" if labels else f"{sample.name} {number(sample.value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")


def number(value: float) -> str:
    """As Go's ParseFloat reads it, and no digit lost.

    >>> number(3), number(0.5), number(2.0), number(float("-inf"))
    ('3', '0.5', '2', '-Inf')
    """
    if isinstance(value, int):
        return str(int(value))
    if math.isfinite(value):
        return repr(float(value)).removesuffix(".0")
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


# -- families ---------------------------------------------------------------------------------------


def _family(kind: Literal["counter", "gauge"], name: str, text: str, points: Points) -> Family:
    return Family(name, kind, text, [Sample(name, _clean(labels), value) for labels, value in points])


def _counter(name: str, text: str, points: Points) -> Family:
    return _family("counter", name, text, points)


def _gauge(name: str, text: str, points: Points) -> Family:
    return _family("gauge", name, text, points)


def _one(value: float) -> Points:
    return [({}, value)]


def _histogram(name: str, text: str, parts: Iterable[tuple[Labels, Buckets]]) -> Family:
    samples = [sample for labels, buckets in parts for sample in _buckets(name, _clean(labels), buckets)]
    return Family(name, "histogram", text, samples)


def _buckets(name: str, labels: Labels, buckets: Buckets) -> Iterator[Sample]:
    # One copy for all samples: the daemon's thread goes on counting, and +Inf must equal _count.
    cumulative = list(accumulate(list(buckets.counts)))
    for bound, count in zip((*buckets.bounds, math.inf), cumulative, strict=True):
        yield Sample(f"{name}_bucket", {**labels, "le": number(bound)}, count)
    yield Sample(f"{name}_sum", labels, buckets.total)
    yield Sample(f"{name}_count", labels, cumulative[-1])


def _clean(labels: Labels) -> Labels:
    """Without the lone surrogates that stand for bytes of a path which is not UTF-8: the format is UTF-8."""
    return {name: text.encode("utf-8", "replace").decode() for name, text in labels.items()}


def _release(figures: Figures) -> Iterator[Family]:
    release = figures.release
    labels = {"name": release.name, "version": str(release.version), "digest": release.digest}
    yield _gauge("axlebox_vehicle_info", "Which vehicle this is; always 1.", [({"vehicle": figures.vehicle}, 1)])
    yield _gauge(
        "axlebox_runtime_info", "Version of axlebox on the box; always 1.", [({"version": figures.runtime}, 1)]
    )
    yield _gauge("axlebox_release_info", "The release that runs; always 1.", [(labels, 1)])
    yield _gauge("axlebox_release_running_seconds", "For how long this release runs.", _one(release.runs_s))
    yield _gauge(
        "axlebox_release_refused",
        "1 while the release that is installed could not be taken over, else 0.",
        _one(int(figures.refused is not None)),
    )
    yield _gauge("axlebox_uptime_seconds", "Since the start of the daemon.", _one(figures.up_s))


def _readings(figures: Figures) -> Iterator[Family]:
    statuses = {**dict.fromkeys(_READING_STATUSES, 0), **figures.statuses}
    events = [event.rpartition(" ") for event in sorted(figures.events)]
    severities = Counter(event.get("severity") or "none" for event in figures.open_events)
    yield _counter(
        "axlebox_readings_total",
        "Readings by what the gate said of them.",
        [({"status": status}, statuses[status]) for status in sorted(statuses)],
    )
    yield _counter("axlebox_scored_readings_total", "Readings that the model scored.", _one(figures.scored))
    yield _counter("axlebox_flags_total", "Readings that the model flagged.", _one(figures.flags))
    yield _counter(
        "axlebox_events_total",
        "Events by type and state.",
        [({"type": kind, "state": state}, figures.events[f"{kind} {state}"]) for kind, _, state in events],
    )
    yield _gauge(
        "axlebox_open_events",
        "Events that call for somebody now, by severity.",
        [({"severity": severity}, severities[severity]) for severity in sorted({"extreme", "mild", *severities})],
    )
    yield _histogram(
        "axlebox_latency_seconds",
        "From a reading's arrival until its events are with the sinks' queues.",
        [({}, figures.latency)],
    )


def _sensors(sensors: list[SensorFigures]) -> Iterator[Family]:
    named = [({"sensor": one.sensor, "kind": one.kind or ""}, one) for one in sensors]
    yield _gauge(
        "axlebox_sensor_status",
        "1 for the status that the sensor has now.",
        [({**labels, "status": one.status}, 1) for labels, one in named],
    )
    yield _gauge(
        "axlebox_sensor_value",
        "The sensor's last value, in the label's unit.",
        [({**labels, "unit": one.unit}, one.value) for labels, one in named if one.value is not None],
    )
    yield _gauge(
        "axlebox_sensor_score",
        "Anomaly score of the sensor's last reading: 0..1, higher is more anomalous.",
        [(labels, one.score) for labels, one in named if one.score is not None],
    )
    yield _gauge(
        "axlebox_sensor_tails",
        "How far outside normal the features of the last reading lie together: unbounded, higher is more anomalous.",
        [(labels, one.tail_sum) for labels, one in named if one.tail_sum is not None],
    )
    yield _gauge(
        "axlebox_sensor_silent_seconds",
        "Since the sensor's last reading arrived.",
        [(labels, one.age_s) for labels, one in named],
    )
    yield _gauge(
        "axlebox_sensor_anomaly_raised",
        "1 while the sensor's anomaly event is raised, else 0.",
        [(labels, int(one.raised is not None)) for labels, one in named],
    )
    yield _gauge(
        "axlebox_sensor_limit_raised",
        "The worst of the sensor's limit events that are raised: 2 extreme, 1 mild, 0 none.",
        [(labels, _SEVERITIES.get(one.limit, 1)) for labels, one in named],
    )


def _kinds(figures: Figures) -> Iterator[Family]:
    kinds = sorted(figures.kinds.items())
    yield _gauge(
        "axlebox_sensors",
        "Sensors that were heard of since the start, also those without numbers of their own.",
        _one(len(figures.sensors) + figures.more_sensors),
    )
    yield _histogram(
        "axlebox_score",
        "Anomaly scores of readings since the release runs: 0..1, higher is more anomalous.",
        [({"kind": name}, kind.scores) for name, kind in kinds],
    )
    # Not by a label `quantile`, which the format keeps for summaries.
    yield _gauge(
        "axlebox_value_quantile",
        "Today's values of a kind in its unit: the label's share of them is lower.",
        [
            ({"kind": name, "share": share}, value)
            for name, kind in kinds
            for share, value in sorted(kind.quantiles.items())
        ],
    )
    yield _gauge(
        "axlebox_drift",
        "Median of today's values less that of training, in units of training's spread.",
        [({"kind": name}, kind.drift) for name, kind in kinds if kind.drift is not None],
    )


def _ends(figures: Figures) -> Iterator[Family]:
    """Where readings come from and events go."""
    source, sinks = figures.source, _by_uri(figures.sinks)
    lost: Points = [] if source is None else [({"where": "source"}, source.lost)]
    yield _gauge(
        "axlebox_source_connected",
        "1 while the source gives readings or could, else 0.",
        [] if source is None else _one(int(source.connected)),
    )
    yield _counter(
        "axlebox_source_reconnects_total",
        "How often the source was connected anew.",
        [] if source is None else _one(source.reconnects),
    )
    yield _gauge(
        "axlebox_sink_queue_length",
        "Messages that wait for the sink.",
        [({"sink": uri}, sum(one.queued for one in same)) for uri, same in sinks],
    )
    yield _counter(
        "axlebox_sink_written_total",
        "Messages that the sink took.",
        [({"sink": uri}, sum(one.written for one in same)) for uri, same in sinks],
    )
    yield _gauge(
        "axlebox_sink_error",
        "1 while the sink takes nothing, else 0.",
        [({"sink": uri}, int(any(one.error is not None for one in same))) for uri, same in sinks],
    )
    yield _counter(
        "axlebox_dropped_total",
        "What was lost: messages by a sink, entries by the store, readings by the source.",
        [
            *(({"where": uri}, sum(one.dropped for one in same)) for uri, same in sinks),
            ({"where": "store"}, figures.store.dropped),
            *lost,
        ],
    )
    yield _gauge(
        "axlebox_store_error",
        "1 while the embedded store cannot be written, else 0.",
        _one(int(figures.store.error is not None)),
    )


def _by_uri(sinks: Iterable[SinkFigures]) -> list[tuple[str, list[SinkFigures]]]:
    """A URI that is configured twice is one series: two of the same make a scrape invalid as a whole."""
    found: dict[str, list[SinkFigures]] = {}
    for sink in sinks:
        found.setdefault(sink.uri, []).append(sink)
    return sorted(found.items())


def _box(figures: Figures) -> Iterator[Family]:
    troubles = {NO_DATA: 0, FLAT_SCORE: 0, **figures.troubles}
    in_store = figures.store.bytes_written
    yield _counter(
        "axlebox_written_bytes_total",
        "Written to the box's disk, by the store and by sinks.",
        [({"where": "store"}, in_store), ({"where": "sinks"}, figures.bytes_written - in_store)],
    )
    yield _gauge("axlebox_memory_bytes", "Resident memory of the daemon.", _one(figures.memory_bytes))
    yield _gauge(
        "axlebox_clock_trusted",
        "1 while the box's clock is not before the release was made, else 0.",
        _one(int(figures.clock_trusted)),
    )
    yield _gauge(
        "axlebox_health_problems",
        "What is wrong with the daemon itself or its source now, as in events of type health.",
        [({"what": what}, troubles[what]) for what in sorted(troubles)],
    )
