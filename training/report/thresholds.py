"""Scores with their thresholds, and what other thresholds would have meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.training.parameters import CostParameters
from axlebox.training.report.choices import Choices
from axlebox.training.report.page import Figure, Html, axis, details, grid, paragraph, plain
from axlebox.training.summary import span_of_time

Numbers = NDArray[np.float64]

_BINS = 60
_SUMS_SHOWN = 4.0
"""Sums of tails are drawn up to so many times the threshold."""
_HOUR_S = 3600.0
_NO_TAIL = (
    "This detector sees one value at a time and flags a fixed share of the training readings: it has no tail that a "
    "rate of false alarms could be extrapolated on, and so nothing to choose the threshold against. The "
    "histogram shows where it lies."
)
_OLD = "This run is from before other thresholds were compared. Train again to see them."


def histograms(predictions: pd.DataFrame, facts: Mapping[str, Any]) -> list[Html]:
    """What one detector's thresholds are set on; `predictions` are those of its kind that a model saw."""
    if predictions.empty:
        return [paragraph("Held-out time has no readings of this kind.")]
    flagged, found = predictions["flag"].to_numpy(dtype=np.bool_), []
    if "extreme_at" in facts:
        extreme_at = float(facts["extreme_at"])
        sums = np.minimum(predictions["tail_sum"].to_numpy(dtype=np.float64), _SUMS_SHOWN * extreme_at)
        lines = {"extreme": extreme_at, "suspicion": float(facts["suspect_at"])}
        found.append(
            _histogram(sums, flagged, lines, f"sum of tails (last bar: {_SUMS_SHOWN:g} times extreme, and above)")
        )
    scores = predictions["score"].to_numpy(dtype=np.float64)
    found.append(_histogram(scores, flagged, {"threshold": float(facts["threshold"])}, "score, 0 to 1"))
    return [one.html() for one in found]


def _histogram(numbers: Numbers, flagged: NDArray[np.bool_], lines: Mapping[str, float], what: str) -> Figure:
    finite = np.isfinite(numbers)
    numbers, flagged = numbers[finite], flagged[finite]
    edges = np.histogram_bin_edges(numbers, bins=_BINS)
    pattern = {"shape": "/", "fgcolor": "--flag", "bgcolor": "--page", "size": 6, "solidity": 0.6}
    traces = [
        _bars("all readings", numbers, edges, {"color": "--soft"}),
        _bars("flagged", numbers[flagged], edges, {"color": "--flag", "pattern": pattern}),
    ]
    shapes, notes = vertical(lines)
    layout = {
        "barmode": "overlay",
        "xaxis": axis(what),
        "yaxis": axis("readings (logarithmic)", type="log", tickformat="~s", dtick=1),
        "shapes": shapes,
        "annotations": notes,
        "margin": {"l": 60, "r": 20, "t": 62, "b": 44},
        "legend": {"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom"},
    }
    told = ", ".join(f"{name} at {at:.4f}" for name, at in lines.items())
    caption = f"{len(numbers):,} held-out readings, {int(flagged.sum()):,} of them flagged; {told}"
    return Figure(f"histogram of the {what}: {caption}", traces, layout, 290, caption)


def _bars(name: str, numbers: Numbers, edges: Numbers, marker: Mapping[str, Any]) -> dict[str, Any]:
    counts = np.histogram(numbers, edges)[0]
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return {
        "name": name,
        "type": "bar",
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "width": (0.94 * np.diff(edges)).tolist(),
        "y": counts.tolist(),
        "text": [f"{low:.4g} to {high:.4g}: {count:,}" for low, high, count in spans],
        "textposition": "none",
        "marker": marker,
        "hovertemplate": f"%{{text}}<extra>{name}</extra>",
    }


def vertical(lines: Mapping[str, float]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Vertical lines through a whole figure, with their names above it; of two, the first is the higher one."""
    shapes, notes = [], []
    for number, (name, at) in enumerate(lines.items()):
        line = {"color": "--flag", "width": 1.6, "dash": "dot" if number else "solid"}
        shapes.append({"type": "line", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line})
        note = {"x": at, "yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "right" if number else "left"}
        notes.append(
            {**note, "showarrow": False, "text": f"{name} {at:.4g}", "font": {"color": "--flag", "size": 11.5}}
        )
    return shapes, notes


def trade_off(facts: Mapping[str, Any], costs: CostParameters) -> list[Html]:
    """The threshold of one detector against what it means: false alarms, faults caught and when, money."""
    if "extreme_at" not in facts:
        return [paragraph(_NO_TAIL)]
    if "curve" not in facts:
        return [paragraph(_OLD)]
    found = Choices(facts, costs)
    words = " ".join(found.in_words())
    return [paragraph(words), _figure(found, words).html(), details("The same as a table", _table(found))]


def _table(found: Choices) -> Html:
    heads = ["extreme level", "false alarms a vehicle-day", "excursions in held-out time"]
    heads += [f"caught of {found.trials}", "median delay"] if found.trials else []
    heads += [f"{found.costs.currency} a vehicle-year"] if found.cost else []
    rows: list[list[object]] = []
    for number, level in enumerate(found.levels):
        chosen = Html(f"<b>{level:.2f}, chosen</b>") if number == found.chosen else f"{level:.2f}"
        row: list[object] = [chosen, f"{found.rates[number]:.2g}", found.excursions[number]]
        if found.trials:
            delay = found.delays[number]
            row += [found.caught[number], "" if delay is None else span_of_time(delay)]
        if found.cost:
            row.append(f"{found.cost[number]:,.0f}")
        rows.append(row)
    return grid(heads, rows)


def _figure(found: Choices, words: str) -> Figure:
    rows = 1 + bool(found.trials) + bool(found.cost)
    edges = np.linspace(1, 0, rows + 1).tolist()
    domains = [[low + (0.05 if low else 0), high - (0.05 if high < 1 else 0)] for high, low in pairwise(edges)]
    shapes, notes = vertical({"chosen": found.levels[found.chosen]})
    room = 0.02 * (found.levels[-1] - found.levels[0])
    title = "extreme level: the sum of tails that raises an event at once"
    layout: dict[str, Any] = {
        "xaxis": axis(
            title, range=[found.levels[0] - room, found.levels[-1] + room], anchor=("y", "y2", "y3")[rows - 1]
        ),
        "yaxis": axis("a vehicle-day", type="log", domain=domains[0], exponentformat="power", dtick=1),
        "shapes": shapes,
        "annotations": notes,
        "hovermode": "x",
        "margin": {"l": 70, "r": 70, "t": 84, "b": 44},
        "legend": {"orientation": "h", "x": 0, "y": 1.05, "yanchor": "bottom"},
    }
    traces = _alarm_traces(found)
    if found.trials:
        layout["yaxis2"] = axis("faults caught", domain=domains[1], tickformat=".0%", range=[-0.05, 1.08])
        layout["yaxis4"] = axis("median delay, h", overlaying="y2", side="right", showgrid=False)
        layout["yaxis4"] |= {"rangemode": "tozero", "tickmode": "auto", "nticks": 4}
        traces += _fault_traces(found)
    if found.cost:
        layout["yaxis3"] = axis(f"{plain(found.costs.currency)} a year", domain=domains[2], type="log")
        best = found.cheapest
        traces += [
            _Look("cost of a vehicle", "--limit", "y3", "%{y:,.0f}").line(found.levels, found.cost),
            _Look("least cost", "--limit", "y3", "%{y:,.0f}", "star").points([found.levels[best]], [found.cost[best]]),
        ]
    return Figure(f"what each extreme level would mean. {words}", traces, layout, 120 + 190 * rows)


def _alarm_traces(found: Choices) -> list[dict[str, Any]]:
    days, ends = found.held_out_vehicle_days, [found.levels[0], found.levels[-1]]
    traces = [_Look("false alarms expected", "--line", "y", "%{y:.2g}").line(found.levels, found.rates)]
    if days > 0:
        seen = [(level, count / days) for level, count in zip(found.levels, found.excursions, strict=True) if count]
        look = _Look("excursions in held-out time, faults among them", "--held", "y", "%{y:.2g}", "diamond-open")
        traces.append(look.points([level for level, _ in seen], [rate for _, rate in seen]))
    if found.target is not None:
        look = _Look(f"target {found.target:.2g}", "--good", "y", "%{y:.2g}", dash="dash")
        traces.append(look.line(ends, [found.target, found.target]))
    return traces


def _fault_traces(found: Choices) -> list[dict[str, Any]]:
    share = [one / found.trials for one in found.caught]
    hours = [None if one is None else one / _HOUR_S for one in found.delays]
    caught = _Look(f"caught of {found.trials} injected faults", "--tails", "y2", "%{y:.0%}")
    delay = _Look("their median delay (right)", "--first", "y4", "%{y:.3g} h", dash="dot")
    return [caught.line(found.levels, share), delay.line(found.levels, hours)]


@dataclass(frozen=True, slots=True)
class _Look:
    """How a trace looks, and the format of what it says of a point."""

    name: str
    colour: str
    axis: str
    form: str
    symbol: str = "circle"
    dash: str = "solid"

    def line(self, x: Sequence[float], y: Sequence[float | None]) -> dict[str, Any]:
        line = {"color": self.colour, "width": 2, "dash": self.dash}
        return {**self._trace(x, y), "mode": "lines", "line": line}

    def points(self, x: Sequence[float], y: Sequence[float | None]) -> dict[str, Any]:
        return {
            **self._trace(x, y),
            "mode": "markers",
            "marker": {"symbol": self.symbol, "color": self.colour, "size": 9},
        }

    def _trace(self, x: Sequence[float], y: Sequence[float | None]) -> dict[str, Any]:
        hover = f"{self.form}<extra>{plain(self.name)}</extra>"
        return {"name": plain(self.name), "type": "scatter", "x": x, "y": y, "yaxis": self.axis, "hovertemplate": hover}
