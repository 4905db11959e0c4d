"""report.html: one file that opens from disk, with no script and no request to anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import ParityProof
from axlebox.runtime.readings import format_time
from axlebox.training.frames import used
from axlebox.training.summary import INTENDED_USE, evaluation_rows, limits_of_use, parity_rows, trial_rows, winners

if TYPE_CHECKING:
    from axlebox.training.runs import RunRecord

_WIDTH, _HEIGHT, _MARGIN = 1100, 260, 46
_MAX_COLUMNS = 900
_MAX_SENSORS = 12
_MAX_FLAGS_SHOWN = 2000
_BINS = 60
_FOREST_NOTE = "Where `sum of tails alone` says the same as the detector, the forest added nothing."
_SUMS_SHOWN = 4.0
"""Sums of tails are drawn up to so many times the threshold."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; margin: 2rem auto; max-width: 1160px; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; color: #4a5a6a } code { font-size: .86em; overflow-wrap: anywhere }
svg { width: 100%; height: auto; background: #f7f9fb; border: 1px solid #dbe2ea; border-radius: 4px }
.note { color: #4a5a6a }
.grid { font-size: .86em } .grid tr:first-child td { font-weight: 600; color: #4a5a6a }
"""


def render_report(record: RunRecord, predictions: pd.DataFrame, parity: Mapping[str, ParityProof] | None) -> str:
    """The whole page for a run; `parity` is None until an export has proved it."""
    facts = record.evaluation
    predictions = used(predictions)
    sensors = list(predictions["sensor"].unique())
    sets = [one["feature_set"] for one in facts["detectors"].values()]
    parts = [
        f"<h1>axlebox run {escape(record.lineage.run)}</h1>",
        f"<p class=note>{record.created:%Y-%m-%d %H:%M} UTC by {escape(record.created_by)}</p>",
        _table([(name, escape(text)) for name, text in evaluation_rows(facts)]),
        "<h2>Held-out readings</h2>",
        "<p class=note>Readings that training did not see; each mark is a flagged reading.</p>",
        *(_timeline(predictions[predictions["sensor"] == name], str(name)) for name in sensors[:_MAX_SENSORS]),
        f"<p>and {len(sensors) - _MAX_SENSORS} more sensors, not drawn</p>" if len(sensors) > _MAX_SENSORS else "",
        "<h2>Scores and threshold</h2>",
        *(_scores(predictions, kind, one) for kind, one in facts["detectors"].items()),
        *(_trials(kind, one) for kind, one in facts["detectors"].items() if "extreme_at" in one),
        "<h2>Data quality</h2>",
        _quality(record.data_quality),
        "<h2>Parity of the exported model</h2>",
        _parity(parity),
        "<h2>Lineage</h2>",
        _lineage(record),
        "<h2>Limits of use</h2>",
        f"<p>{escape(' '.join((INTENDED_USE, *limits_of_use(sets))))}</p>",
    ]
    title = f"axlebox run {record.lineage.run}"
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Rows of a heading and HTML that is already escaped."""
    return "<table>" + "".join(f"<tr><th>{escape(name)}<td>{text}" for name, text in rows) + "</table>"


def _timeline(frame: pd.DataFrame, sensor: str) -> str:
    """Lowest and highest value of each column of pixels, with marks at the flagged readings."""
    time, value = frame["time"].to_numpy(), frame["value"].to_numpy()
    x = _scale(time, float(time[0]), float(time[-1]), _MARGIN, _WIDTH - 10)
    low, high = float(value.min()), float(value.max())
    y = _scale(value, low, high, _HEIGHT - 24, 14)
    columns = pd.DataFrame({"x": x, "y": y, "column": (x * _MAX_COLUMNS / _WIDTH).astype(int)})
    spans = columns.groupby("column").agg(x=("x", "first"), top=("y", "min"), bottom=("y", "max"))
    path = " ".join(f"{one.x:.1f},{one.top:.1f} {one.x:.1f},{one.bottom:.1f}" for one in spans.itertuples())
    flagged = np.flatnonzero(frame["flag"].to_numpy())
    marks = "".join(
        f"<circle cx='{x[number]:.1f}' cy='{y[number]:.1f}' r='3.5'><title>{format_time(float(time[number]))} "
        f"{value[number]:g}</title></circle>"
        for number in flagged[:_MAX_FLAGS_SHOWN]
    )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='{escape(sensor)} over time'>"
        f"<polyline points='{path}' fill=none stroke='#3b6ea5' stroke-width=1 />"
        f"<g fill='none' stroke='#c0362c' stroke-width='1.6'>{marks}</g>"
        f"<g font-size=12 fill='#4a5a6a'><text x=4 y=18>{high:g}</text><text x=4 y={_HEIGHT - 24}>{low:g}</text>"
        f"<text x={_MARGIN} y={_HEIGHT - 6}>{format_time(float(time[0]))}</text>"
        f"<text x={_WIDTH - 10} y={_HEIGHT - 6} text-anchor=end>{format_time(float(time[-1]))}</text>"
        f"<text x={_WIDTH // 2} y={_HEIGHT - 6} text-anchor=middle>{escape(sensor)}: {len(frame):,} readings, "
        f"{len(flagged):,} flagged</text></g></svg>"
    )


def _trials(kind: str, facts: Mapping[str, Any]) -> str:
    """Injected faults, and what simple detectors with the same target make of them."""
    trials = facts.get("trials")
    rows = trial_rows(trials)
    heading = f"<h2>Injected faults: {escape(kind)}</h2>"
    if not rows or not trials:
        return heading + "<p>Held-out time is too short for them.</p>"
    head, *body = [[f"<td>{escape(cell)}" for cell in row] for row in rows]
    table = "<table class=grid><tr>" + "".join(head) + "".join("<tr>" + "".join(row) for row in body) + "</table>"
    false = ", ".join(f"{name} {count}" for name, count in trials["alarms_without_faults"].items())
    better = winners(trials)
    return (
        heading + "<p class=note>Each with its median delay and the smallest share of the faulty time, from the first "
        f"raise on, inside an alarm; all calibrated to the same target. {escape(_FOREST_NOTE)}</p>"
        + table
        + f"<p>Alarms on the held-out readings as they are: {escape(false)}.</p>"
        + ("<p><b>Where something simpler wins:</b> " + "; ".join(map(escape, better)) + ".</p>" if better else "")
    )


def _scores(predictions: pd.DataFrame, kind: str, facts: Mapping[str, Any]) -> str:
    """Histograms of what one detector's thresholds are set on."""
    seen = predictions[predictions["kind"] == kind]
    shown = [f"<h3>{escape(kind)}</h3>", _histogram(seen["score"].to_numpy(), float(facts["threshold"]), "score")]
    if "extreme_at" in facts:
        extreme_at = float(facts["extreme_at"])
        sums = np.minimum(seen["tail_sum"].to_numpy(), _SUMS_SHOWN * extreme_at)
        shown.append(_histogram(sums, extreme_at, "sum of tails"))
    return "".join(shown)


def _histogram(scores: NDArray[np.float64], threshold: float, what: str) -> str:
    counts, edges = np.histogram(scores, bins=_BINS)
    left, right = float(min(edges[0], threshold)), float(max(edges[-1], threshold))
    x = _scale(edges, left, right, _MARGIN, _WIDTH - 10)
    tops = _scale(np.sqrt(counts), 0.0, float(np.sqrt(counts.max())), _HEIGHT - 24, 14)
    bars = "".join(
        f"<rect x='{x[number]:.1f}' y='{tops[number]:.1f}' width='{max(1.0, x[number + 1] - x[number] - 1):.1f}' "
        f"height='{_HEIGHT - 24 - tops[number]:.1f}'><title>{edges[number]:.4f} to {edges[number + 1]:.4f}: "
        f"{count:,}</title></rect>"
        for number, count in enumerate(counts)
    )
    mark = float(_scale(np.array([threshold]), left, right, _MARGIN, _WIDTH - 10)[0])
    anchor = "end" if mark > _WIDTH / 2 else "start"
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img aria-label='histogram: {what}'>"
        f"<g fill='#3b6ea5'>{bars}</g>"
        f"<line x1='{mark:.1f}' x2='{mark:.1f}' y1=10 y2={_HEIGHT - 24} stroke='#c0362c' stroke-width=2 />"
        f"<g font-size=12 fill='#4a5a6a'><text x='{mark:.1f}' y=10 text-anchor={anchor}>&#160;threshold "
        f"{threshold:.4f}&#160;</text><text x={_MARGIN} y={_HEIGHT - 6}>{left:.3f}</text>"
        f"<text x={_WIDTH - 10} y={_HEIGHT - 6} text-anchor=end>{right:.3f}</text>"
        f"<text x={_WIDTH // 2} y={_HEIGHT - 6} text-anchor=middle>{what}; bar heights are square roots of counts"
        "</text></g></svg>"
    )


def _scale(values: NDArray[np.float64], low: float, high: float, start: float, end: float) -> NDArray[np.float64]:
    """Values from low..high to start..end; all in the middle where low equals high."""
    if high == low:
        return np.full(len(values), (start + end) / 2)
    return start + (values - low) / (high - low) * (end - start)


def _quality(quality: Mapping[str, Any]) -> str:
    rows = [("Readings used", f"{quality['readings']:,}"), ("Invalid, not used", f"{quality['invalid']:,}")]
    rows += [(f"Held back: {status}", f"{count:,}") for status, count in quality.get("held_back", {}).items()]
    if quality.get("replaced"):  # a run from before marks says nothing of them
        rows.append(("Sensors replaced", f"{quality['replaced']:,}"))
    rows += [
        (f"{one['file']}, line {one['line']}", escape(f"{one.get('status', 'invalid')}: {one['reason']}"))
        for one in quality["first_invalid"]
    ]
    return _table(rows)


def _parity(parity: Mapping[str, ParityProof] | None) -> str:
    if parity is None:
        return "<p>Not exported yet.</p>"
    return "".join(
        _table([("Model", escape(name)), *((heading, escape(text)) for heading, text in parity_rows(proof))])
        for name, proof in parity.items()
    )


def _lineage(record: RunRecord) -> str:
    lineage = record.lineage
    data = "<br>".join(f"{escape(one.name)} <code>{one.sha256}</code>" for one in lineage.data)
    return _table(
        [
            ("Data", data),
            ("Parameters", f"<code>{escape(str(lineage.parameters))}</code>"),
            ("Code", f"axlebox {escape(lineage.code.axlebox)} <code>{lineage.code.source_sha256}</code>"),
            ("Workspace commit", escape(lineage.code.commit or "not in git")),
            ("Versions", escape(", ".join(f"{name} {version}" for name, version in lineage.versions.items()))),
        ]
    )
