"""Held-out readings over time, with flags, events and limits; one figure for each sensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Kind
from axlebox.runtime.readings import format_time
from axlebox.runtime.statuses import INVALID, OK, WARMING
from axlebox.training.episodes import ANOMALY, DRIFT, LIMIT, SENSOR, Episode
from axlebox.training.reasons import in_words
from axlebox.training.report.page import Figure, axis, plain

Numbers = NDArray[np.float64]
Order = NDArray[np.intp]

STRETCHES = 1500
"""Of time; the lowest and the highest reading of each are drawn."""
_MOST_FLAGS = 2000
_MOST_HELD = 500
_MOST_EVENTS = 200
_GAP = 20
"""Usual intervals: the line breaks where readings are missing for longer."""
_ROOM = 0.06
_REASONS = 3
_SYMBOLS = {
    (ANOMALY, "extreme"): ("extreme event", "triangle-up", "--extreme"),
    (ANOMALY, "mild"): ("mild event", "diamond", "--mild"),
    (LIMIT, ""): ("limit event", "square-open", "--limit"),
    (SENSOR, ""): ("sensor event", "cross", "--held"),
    (DRIFT, ""): ("drift event", "star", "--tails"),
}
"""Name, shape and colour of what is raised, by what it is: no two are told apart by colour alone."""


def drawn_sensors(predictions: pd.DataFrame, events: Sequence[Episode], most: int) -> tuple[list[str], list[str]]:
    """Sensors to draw and the others: those with the most anomaly events first, then limit events, then flags."""
    found = predictions[predictions["status"].isin((OK, WARMING))]
    flags = found.groupby("sensor", sort=False)["flag"].sum()
    counts = {str(name): [0, 0, int(number)] for name, number in flags.items()}
    for one in events:
        if one.sensor in counts and one.what in (ANOMALY, LIMIT):
            counts[one.sensor][one.what == LIMIT] += 1
    order = sorted(counts, key=lambda name: counts[name], reverse=True)  # stable: else in order of appearance
    return order[:most], order[most:]


def thin(times: Numbers, values: Numbers, keep: NDArray[np.bool_]) -> Order:
    """Which readings to draw: lowest and highest of each of STRETCHES of equal time, first and last, and `keep`."""
    count = len(times)
    if count <= 2 * STRETCHES:
        return np.arange(count)
    span = max(float(times.max() - times.min()), 1e-9)
    stretch = ((times - times.min()) / span * STRETCHES).astype(np.int64)
    order = np.lexsort((values, stretch))
    begins = np.flatnonzero(np.diff(stretch[order], prepend=-1))
    ends = np.append(begins[1:], count) - 1
    chosen = keep.copy()
    chosen[order[begins]] = chosen[order[ends]] = True
    chosen[[0, -1]] = True
    return np.flatnonzero(chosen)


def timeline(sensor: str, predictions: pd.DataFrame, events: Sequence[Episode], kind: Kind) -> Figure:
    """`predictions` and `events` of this sensor alone."""
    good = predictions["status"].isin((OK, WARMING)).to_numpy()
    seen, unit = predictions[good], kind.unit
    times, values = seen["time"].to_numpy(dtype=np.float64), seen["value"].to_numpy(dtype=np.float64)
    flagged = np.flatnonzero(seen["flag"].to_numpy())
    order = np.argsort(seen["score"].to_numpy()[flagged])[::-1]
    marked = np.sort(flagged[order[:_MOST_FLAGS]])
    low, high, unseen = _range(values, kind)
    at = f"%{{x|%Y-%m-%d %H:%M:%S}} UTC<br>%{{y:.5g}} {plain(unit)}"
    traces: list[dict[str, Any]] = [
        _readings(seen, times, values, marked) | {"hovertemplate": f"{at}<extra></extra>"},
        {
            "name": "flagged reading",
            **_points(times[marked], values[marked], "circle-open", "--flag", 9),
            "hovertemplate": f"{at}<br>flagged<extra></extra>",
        },
    ]
    held = predictions[
        ~good & np.isfinite(predictions["value"].to_numpy()) & (predictions["status"] != INVALID).to_numpy()
    ]
    if len(held):
        held = held.iloc[:_MOST_HELD]
        traces.append(
            {
                "name": "held back by the gate",
                **_points(held["time"], np.clip(held["value"], low, high), "x-thin-open", "--held", 7),
                "text": [plain(f"{one.status}: {one.value:g} {unit}") for one in held.itertuples()],
                "hovertemplate": "%{x|%Y-%m-%d %H:%M:%S} UTC<br>%{text}<extra></extra>",
            }
        )
    shown = [one for one in events if one.start is not None][:_MOST_EVENTS]
    last = float(predictions["time"].max())
    traces += _marks(shown, lambda one: float(np.clip(_height(one, times, values), low, high)), unit)
    shapes, notes = _limits(kind, low, high)
    shapes += [_span(one, last) for one in shown if one.what == ANOMALY]
    raised = sum(one.what == ANOMALY for one in events)
    words = f"{len(seen):,} readings, {len(flagged):,} flagged, {raised:,} anomaly event{'' if raised == 1 else 's'}"
    more = [
        f"the {_MOST_FLAGS:,} flags with the highest scores are marked" if len(flagged) > _MOST_FLAGS else "",
        f"the first {_MOST_EVENTS} events are drawn" if len(events) > _MOST_EVENTS else "",
        unseen,
    ]
    layout = {
        "xaxis": axis(type="date"),
        "yaxis": axis(plain(unit), range=[low, high]),
        "shapes": shapes,
        "annotations": notes,
        "hovermode": "closest",
        "margin": {"l": 60, "r": 20, "t": 40, "b": 40},
    }
    caption = "; ".join([words, *(one for one in more if one)])
    return Figure(f"readings of {sensor} over time: {caption}", traces, layout, 320, caption)


def _readings(seen: pd.DataFrame, times: Numbers, values: Numbers, marked: Order) -> dict[str, Any]:
    """The line; it breaks where readings are missing, and where the sensor was replaced."""
    keep = np.zeros(len(times), dtype=np.bool_)
    keep[marked] = True
    steps = np.diff(times)
    gap = _GAP * float(np.median(steps)) if len(steps) else 0.0
    breaks = (steps > gap) | (np.diff(seen["era"].to_numpy()) != 0)
    part = np.concatenate([[0], np.cumsum(breaks)]) if len(times) else np.zeros(0)
    keep[1:] |= breaks
    keep[:-1] |= breaks
    chosen = thin(times, values, keep)
    x, y = _milliseconds(times[chosen]), np.round(values[chosen], 6).tolist()
    for place in (np.flatnonzero(np.diff(part[chosen])) + 1)[::-1].tolist():
        x.insert(place, x[place - 1])
        y.insert(place, None)
    return {
        "name": "reading",
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": "--line", "width": 1.3},
    }


def _range(values: Numbers, kind: Kind) -> tuple[float, float, str]:
    """What the vertical axis shows: all readings, and the limits that are not far away; and words on the others."""
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-6)
    unseen = []
    for name, at in (("warn", kind.warn), ("critical", kind.critical)):
        if at is None:
            continue
        if low - span <= at <= high + span:
            low, high = min(low, at), max(high, at)
        else:
            unseen.append(f"the limit {name}, {at:g} {kind.unit}, lies outside the picture")
    room = _ROOM * max(high - low, 1.0)
    return low - room, high + room, "; ".join(unseen)


def _limits(kind: Kind, low: float, high: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the contract's limits, with their names."""
    shapes: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for name, at, dash in (("warn", kind.warn, "dash"), ("critical", kind.critical, "solid")):
        if at is not None and low <= at <= high:
            line = {"color": "--limit", "width": 1.2, "dash": dash}
            shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": at, "y1": at, "line": line})
            text = {"text": f"{name} {at:g}", "showarrow": False, "font": {"color": "--limit", "size": 11}}
            notes.append({"xref": "paper", "x": 1, "xanchor": "right", "y": at, "yanchor": "bottom", **text})
    return shapes, notes


def _span(one: Episode, last: float) -> dict[str, Any]:
    """From raised to cleared; the edge of an extreme event is a line, that of a mild one is dotted."""
    colour = _SYMBOLS[ANOMALY, one.about][2]
    start = one.start or 0.0
    x0, x1 = _milliseconds(np.array([start, max(last, start) if one.end is None else one.end]))
    return {
        "type": "rect",
        "layer": "below",
        "xref": "x",
        "yref": "paper",
        **{"x0": x0, "x1": x1, "y0": 0, "y1": 1, "opacity": 0.22, "fillcolor": colour},
        "line": {"color": colour, "width": 1, "dash": "solid" if one.about == "extreme" else "dot"},
    }


def _marks(events: Sequence[Episode], height: Callable[[Episode], float], unit: str) -> Iterator[dict[str, Any]]:
    """Where each event was raised, a trace for each sort of them."""
    for (what, about), (name, symbol, colour) in _SYMBOLS.items():
        chosen = [one for one in events if one.what == what and about in ("", one.about)]
        if chosen:
            starts = np.array([one.start for one in chosen], dtype=np.float64)
            yield {
                "name": name,
                **_points(starts, [height(one) for one in chosen], symbol, colour, 16 if "open" in symbol else 11),
                "text": [_hover(one, unit) for one in chosen],
                "hovertemplate": "%{text}<extra></extra>",
            }


def _hover(one: Episode, unit: str) -> str:
    end = "still raised at the end" if one.end is None else f"until {format_time(one.end)}"
    lines = [f"{one.what}, {one.about}", f"{format_time(one.start or 0.0)}, {end}"]
    if one.peak is not None:
        lines.append(
            f"peak {one.peak:g} {unit}" + ("" if one.peak_sum is None else f", sum of tails {one.peak_sum:.1f}")
        )
    elif one.value is not None:
        lines.append(f"{one.value:g} {unit}")
    lines += [in_words(reason, unit) for reason in one.why[:_REASONS]]
    return "<br>".join(plain(line) for line in (*lines, one.id) if line)


def _height(one: Episode, times: Numbers, values: Numbers) -> float:
    """Where an event is marked: at its own value, else at that of the reading before it."""
    if one.value is not None and np.isfinite(one.value):
        return one.value
    place = int(np.searchsorted(times, one.start or 0.0, side="right")) - 1
    return float(values[max(place, 0)])


def _points(times: Any, values: Any, symbol: str, colour: str, size: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": _milliseconds(np.asarray(times)),
        "y": np.asarray(values, dtype=np.float64).tolist(),
        "marker": {"symbol": symbol, "color": colour, "size": size, "line": {"width": 1.6, "color": colour}},
    }


def _milliseconds(times: NDArray[np.float64]) -> list[int]:
    return [int(one) for one in np.round(times * 1000).tolist()]
