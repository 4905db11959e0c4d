"""report.html: all that there is to say of a run, in one file that opens from disk and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pandas as pd

from axlebox.firmware_bundle.manifest import Kind, ParityProof
from axlebox.training.episodes import Episode, episodes
from axlebox.training.frames import used
from axlebox.training.parameters import CostParameters
from axlebox.training.report.choices import Choices
from axlebox.training.report.faults import injected_faults
from axlebox.training.report.lineage import data_quality, lineage, parity
from axlebox.training.report.money import money
from axlebox.training.report.page import Html, Section, html, page, paragraph, table
from axlebox.training.report.thresholds import histograms, trade_off
from axlebox.training.report.timeline import drawn_sensors, timeline
from axlebox.training.report.told import events_and_why
from axlebox.training.summary import INTENDED_USE, caught, evaluation_rows, limits_of_use

if TYPE_CHECKING:
    from axlebox.training.runs import DetectorFile, RunRecord

_MOST_SENSORS = 12
"""Drawn; the others are named,"""
_MOST_NAMED = 100
"""up to so many of them."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is made of: what lies in a run's folder."""

    record: RunRecord
    detector: DetectorFile
    predictions: pd.DataFrame
    events: Sequence[Mapping[str, Any]]
    parity: Mapping[str, ParityProof] | None
    """None until an export has proved it."""

    @property
    def facts(self) -> dict[str, Any]:
        return self.record.evaluation

    @property
    def costs(self) -> CostParameters:
        return msgspec.convert(self.record.lineage.parameters.get("costs", {}), CostParameters)


def render_report(material: Material) -> str:
    """The whole page."""
    record, facts, costs = material.record, material.facts, material.costs
    contract = material.detector.contract
    found = episodes(material.events, material.predictions)
    seen = used(material.predictions)
    detectors: Mapping[str, Mapping[str, Any]] = facts["detectors"]
    sets = [one["feature_set"] for one in detectors.values()]

    def each(part: Any) -> list[Html]:
        """A part of every detector, under its name where there are several."""
        return [piece for kind, one in detectors.items() for piece in (*_name(kind, detectors), *part(kind, one))]

    sections = [
        Section("readings", "Held-out readings", list(_readings(material, found))),
        Section("events", "Events and why", events_and_why(found, contract)),
        Section("scores", "Scores and threshold", each(lambda kind, one: histograms(seen[seen["kind"] == kind], one))),
        Section("threshold", "Threshold chosen", each(lambda kind, one: trade_off(one, costs))),
        Section("money", "What it costs", each(lambda kind, one: money(one, costs))),
        Section("faults", "Injected faults and baselines", each(lambda kind, one: injected_faults(one))),
        Section("evaluation", "Evaluation", [table(evaluation_rows(facts))]),
        Section("quality", "Data quality", data_quality(record.data_quality)),
        Section("parity", "Parity of the exported model", parity(material.parity)),
        Section("lineage", "Lineage", lineage(record, contract)),
        Section("limits", "Limits of use", [_list((INTENDED_USE, *limits_of_use(sets)))]),
    ]
    title = f"axlebox run {record.lineage.run}"
    names = ", ".join(one.name for one in record.lineage.data)
    top = [
        Html(f"<h1>{html(title)}</h1>"),
        paragraph(f"{names}; {record.created:%Y-%m-%d %H:%M} UTC by {record.created_by}. {INTENDED_USE}", "note"),
        _at_a_glance(material, found),
        *_warnings(detectors),
    ]
    return page(title, top, sections)


def _name(kind: str, detectors: Mapping[str, Any]) -> list[Html]:
    return [Html(f"<h3>{html(kind)}</h3>")] if len(detectors) > 1 else []


def _at_a_glance(material: Material, found: Sequence[Episode]) -> Html:
    facts, detectors = material.facts, material.facts["detectors"]
    days = f"in {facts['exposure_sensor_days']:.1f} sensor-days"
    tiles = [
        (
            f"{facts['test_readings']:,}",
            f"held-out readings; {facts['train_readings']:,} trained on",
        ),
        (f"{facts['flags']:,}", f"readings flagged {days}"),
        (f"{facts['events']:,}", f"anomaly events {days}"),
    ]
    counts = [one for one in map(caught, detectors.values()) if one is not None]
    if counts:
        raised, trials = (sum(one[number] for one in counts) for number in (0, 1))
        tiles.append((f"{raised} of {trials}", "injected faults caught that should alarm"))
    for kind, one in detectors.items():
        of = f", {kind}" if len(detectors) > 1 else ""
        choices = Choices(one, material.costs) if "curve" in one else None
        if choices is not None:
            tiles.append((f"{choices.rates[choices.chosen]:.2g}", f"false alarms expected a vehicle-day{of}"))
        if choices is not None and choices.cost:
            cost = f"{choices.cost[choices.chosen]:,.0f} {material.costs.currency}"
            tiles.append((cost, f"a vehicle-year, false alarms and missed faults{of}"))
    return Html(
        "<div class=facts>" + "".join(f"<div><b>{html(a)}</b><span>{html(b)}</span></div>" for a, b in tiles) + "</div>"
    )


def _warnings(detectors: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    return [
        paragraph(f"Target of false alarms not reached, {kind}: {one['target_problem']}.", "warning")
        for kind, one in detectors.items()
        if one.get("target_problem")
    ]


def _readings(material: Material, found: Sequence[Episode]) -> Iterator[Html]:
    predictions, contract = material.predictions, material.detector.contract
    drawn, others = drawn_sensors(predictions, found, _MOST_SENSORS)
    yield paragraph(
        "Readings that training did not see. Drag to zoom, hold Shift to move, double-click to see all again, Ctrl and "
        "the wheel zoom as well. Spans are anomaly events from raised to cleared; point at a mark to read its reasons.",
        "note",
    )
    for sensor in drawn:
        own = predictions[predictions["sensor"] == sensor]
        kind = contract.kinds.get(contract.kind_of(sensor) or "", Kind())
        yield Html(f"<h3>{html(sensor)}</h3>")
        yield timeline(sensor, own, [one for one in found if one.sensor == sensor], kind).html()
    if others:
        named = ", ".join(others[:_MOST_NAMED]) + (" and more" if len(others) > _MOST_NAMED else "")
        yield paragraph(f"And {len(others):,} more sensors, not drawn, with fewer events: {named}.")


def _list(words: Sequence[str]) -> Html:
    return Html("<ul>" + "".join(f"<li>{html(one)}" for one in words) + "</ul>")
