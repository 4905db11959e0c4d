"""Injected faults: what the detector made of each kind, beside simple baselines with the same target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axlebox.training.faults import FAULTS
from axlebox.training.report.page import Figure, Html, axis, grid, html, paragraph
from axlebox.training.summary import trial_rows, winners
from axlebox.training.trials import TAILS

_NOTE = (
    "Each kind of fault is put into held-out readings at moments drawn at random. Told are the median delay, and the "
    "smallest share of the faulty time, from the first raise on, inside an alarm; all have the same target. "
    "Where `sum of tails alone` says the same as the detector, the forest added nothing."
)
_LOOKS = {
    "detector": ("circle", "--detector"),
    TAILS: ("diamond", "--tails"),
    "limit": ("square-open", "--first"),
    "ewma": ("triangle-up-open", "--second"),
    "sibling": ("x-thin-open", "--third"),
    "raw forest": ("cross-thin-open", "--fourth"),
}
"""Shape and colour of each detector in the plot."""
_OTHER = ("star-open", "--fourth")
_DODGE = 0.14
"""Rows apart, so that no mark hides another."""
_TICKS = {"1 min": 1 / 60, "10 min": 1 / 6, "1 h": 1.0, "6 h": 6.0, "1 d": 24.0, "1 week": 168.0}


def injected_faults(facts: Mapping[str, Any]) -> list[Html]:
    """Of one detector."""
    trials = facts.get("trials")
    if trials:  # in the order of faults.py, which run.json does not keep
        told = trials["faults"]
        trials = {**trials, "faults": {name: told[name] for name in sorted(told, key=_place)}}
    rows = trial_rows(trials)
    if "extreme_at" not in facts:
        return [paragraph("Faults are only injected for a detector with events of its own (feature set streaming).")]
    if not rows or not trials:
        return [paragraph("Held-out time is too short to inject faults into it, or faults_per_kind is 0.")]
    false = ", ".join(f"{name} {count}" for name, count in trials["alarms_without_faults"].items())
    better = winners(trials)
    won = "<b>Where something simpler wins:</b> " + "; ".join(map(html, better)) + "."
    return [
        paragraph(_NOTE, "note"),
        _figure(trials).html(),
        grid(rows[0], rows[1:]),
        paragraph(f"Alarms on the held-out readings as they are: {false}."),
        paragraph(Html(won) if better else "No simpler detector did better without many more false alarms."),
    ]


def _place(name: str) -> int:
    order = list(FAULTS)
    return order.index(name) if name in order else len(order)


def _figure(trials: Mapping[str, Any]) -> Figure:
    """For each kind of fault that should alarm: the share that was raised to the left, the delay to the right."""
    faults = {name: one for name, one in trials["faults"].items() if one["alarms"]}
    told = next(iter(faults.values()))["answers"]
    detectors = [*(name for name in _LOOKS if name in told), *(name for name in told if name not in _LOOKS)]
    traces: list[dict[str, Any]] = []
    for number, detector in enumerate(detectors):
        symbol, colour = _LOOKS.get(detector, _OTHER)
        look = {
            "name": detector,
            "legendgroup": detector,
            "type": "scatter",
            "mode": "markers",
            "marker": {"symbol": symbol, "color": colour, "size": 9, "line": {"width": 1.8, "color": colour}},
        }
        places = [row + _DODGE * (number - (len(detectors) - 1) / 2) for row in range(len(faults))]
        answers = [(name, one["answers"][detector], one["trials"]) for name, one in faults.items()]
        traces.append(
            {
                **look,
                "x": [answer["raised"] / count for _, answer, count in answers],
                "y": places,
                "text": [f"{name}: {answer['raised']} of {count}" for name, answer, count in answers],
                "hovertemplate": f"%{{text}}<extra>{detector}</extra>",
            }
        )
        delays = [(place, name, one["delay_s"]) for place, (name, one, _) in zip(places, answers, strict=True)]
        delays = [one for one in delays if one[2] is not None]
        traces.append(
            {
                **look,
                "showlegend": False,
                "xaxis": "x2",
                "x": [max(delay, 60.0) / 3600 for _, _, delay in delays],
                "y": [place for place, _, _ in delays],
                "text": [f"{name}: after {delay / 3600:.3g} h" for _, name, delay in delays],
                "hovertemplate": f"%{{text}}<extra>{detector}</extra>",
            }
        )
    rows: dict[str, Any] = {
        "tickvals": list(range(len(faults))),
        "ticktext": list(faults),
        "range": [len(faults) - 0.5, -0.5],
    }
    times: dict[str, Any] = {"tickvals": list(_TICKS.values()), "ticktext": list(_TICKS)}
    layout = {
        "xaxis": axis("raised, share of the trials", domain=[0, 0.4], range=[-0.06, 1.06], tickformat=".0%"),
        "xaxis2": axis("median delay after the onset", domain=[0.46, 1], type="log", **times),
        "yaxis": axis(zeroline=False, **rows),
        "margin": {"l": 80, "r": 20, "t": 44, "b": 46},
    }
    shows = "injected faults: which share of each kind was raised, and after how long, by the detector and by baselines"
    return Figure(shows, traces, layout, 130 + 58 * len(faults), "Delays under a minute stand at one minute.")
