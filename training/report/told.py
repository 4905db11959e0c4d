"""Events of held-out time as tables: what was raised, when, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from axlebox.firmware_bundle.manifest import Contract
from axlebox.runtime.readings import format_time
from axlebox.training.episodes import ANOMALY, Episode
from axlebox.training.reasons import WHAT, in_words
from axlebox.training.report.page import Html, grid, html, paragraph
from axlebox.training.summary import span_of_time

MOST = 200
"""Rows of a table; the rest is counted."""


def events_and_why(found: Sequence[Episode], contract: Contract) -> list[Html]:
    """Anomaly events with their reasons, how often each feature was one, and all other events."""
    anomalies = [one for one in found if one.what == ANOMALY]
    others = [one for one in found if one.what != ANOMALY]
    parts = [paragraph("Every event that held-out time raised, as the vehicle would have told it.", "note")]
    if not found:
        return [*parts, paragraph("None.")]
    if anomalies:
        heads = ("from", "for", "sensor", "severity", "peak", "sum of tails", "why", "action")
        parts += [
            _grid(heads, [_anomaly(one, _unit(contract, one.sensor)) for one in anomalies[:MOST]]),
            *_rest(anomalies),
            *_features(anomalies),
        ]
    if others:
        rows = [_other(one) for one in others[:MOST]]
        parts += [
            Html("<h3>Limits, sensors and drifts</h3>"),
            _grid(("from", "for", "sensor", "event", "value", "action"), rows),
            *_rest(others),
        ]
    return parts


def _unit(contract: Contract, sensor: str) -> str:
    kind = contract.kind_of(sensor)
    return "" if kind is None else contract.kinds[kind].unit


def _anomaly(one: Episode, unit: str) -> list[object]:
    reasons = Html("<br>".join(html(in_words(reason, unit)) for reason in one.why))
    peak = "" if one.peak is None else f"{one.peak:g} {unit}"
    sums = "" if one.peak_sum is None else f"{one.peak_sum:.1f}"
    return [_start(one), _length(one), one.sensor, one.about, peak, sums, reasons, one.action]


def _other(one: Episode) -> list[object]:
    value = None if one.value is None else f"{one.value:g}"
    return [_start(one), _length(one), one.sensor, f"{one.what}: {one.about}", value, one.action]


def _grid(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """Without the columns that are empty in every row."""
    used = [number for number in range(len(heads)) if any(row[number] not in (None, "") for row in rows)]
    return grid([heads[number] for number in used], [[row[number] for number in used] for row in rows])


def _start(one: Episode) -> str:
    return "at no time" if one.start is None else format_time(one.start)[:19].replace("T", "\N{NO-BREAK SPACE}")


def _length(one: Episode) -> str:
    if one.start is None or one.end is None:
        return "still raised at the end"
    return span_of_time(one.end - one.start).replace(" ", "\N{NO-BREAK SPACE}")


def _rest(found: Sequence[Episode]) -> list[Html]:
    more = found[MOST:]
    if not more:
        return []
    sorts = ", ".join(f"{count:,} {about}" for about, count in Counter(one.about for one in more).most_common())
    return [paragraph(f"And {len(more):,} more, not listed: {sorts}.")]


def _features(anomalies: Sequence[Episode]) -> list[Html]:
    """How often each feature was a reason; nothing for the feature set `value`, which has but one."""
    first = Counter(str(one.why[0]["feature"]) for one in anomalies if one.why)
    among = Counter(str(reason["feature"]) for one in anomalies for reason in one.why)
    farthest: dict[str, float] = {}
    for one in anomalies:
        for reason in one.why:
            name = str(reason["feature"])
            farthest[name] = max(farthest.get(name, 0.0), float(reason.get("tails") or 0.0))
    if not any(farthest.values()):
        return []
    rows = [
        [name, WHAT.get(name, ""), first[name], count, f"{farthest[name]:.1f}"] for name, count in among.most_common()
    ]
    heads = ("feature", "what it is", "events with it farthest", "events with it at all", "at most, tails")
    return [Html("<h3>Which features were the reasons</h3>"), grid(heads, rows)]
