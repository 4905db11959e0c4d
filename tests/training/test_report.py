"""The report in a real browser, on an empty network: it draws everything, complains of nothing, asks for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from msgspec import structs

from axlebox.firmware_bundle.manifest import Code, Contract, DataFile, Kind, Lineage, Sensor
from axlebox.training import steps
from axlebox.training.episodes import Episode
from axlebox.training.evaluation import evaluate
from axlebox.training.experiment import train_detector
from axlebox.training.parameters import BundleParameters, CostParameters, Parameters
from axlebox.training.report import Material, render_report
from axlebox.training.report.choices import Choices
from axlebox.training.report.money import in_words, money
from axlebox.training.report.page import Figure
from axlebox.training.report.timeline import STRETCHES, drawn_sensors, thin, timeline
from axlebox.training.runs import DetectorFile, Run, RunRecord, open_run
from axlebox.training.summary import INTENDED_USE, limits_of_use
from tests.training.chromium import Browser, Page, chromium

HOSTILE = (
    "</script><img src=x onerror=pwned=1><a href='http://127.0.0.1:9/'>",
    "<!--<script>pwned=2</script>\"' onload=pwned=3",
    "--line \N{FIRE} %{x} $x$ </td></table>",
)
COSTS = {"currency": "EUR", "false_alarm": 400.0, "missed_fault": 25000.0, "faults_per_year": 0.5}
SECTIONS = (
    "Held-out readings",
    "Events and why",
    "Scores and threshold",
    "Threshold chosen",
    "What it costs",
    "Injected faults and baselines",
    "Evaluation",
    "Data quality",
    "Parity of the exported model",
    "Lineage",
    "Limits of use",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def run(exported: Path) -> Run:
    return open_run(exported / "runs", None)


def material(run: Run, **changes: Any) -> Material:
    found = {
        "record": run.record(),
        "detector": run.detector(),
        "predictions": run.predictions(),
        "events": run.events(),
        "parity": run.parity(),
    }
    return Material(**{**found, **changes})


def with_costs(run: Run) -> RunRecord:
    record = run.record()
    return structs.replace(
        record, lineage=structs.replace(record.lineage, parameters={**record.lineage.parameters, "costs": COSTS})
    )


@pytest.fixture(scope="module")
def priced(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the exported run, with costs."""
    path = tmp_path_factory.mktemp("priced") / "report.html"
    path.write_text(render_report(material(run, record=with_costs(run))))
    return path


def plots(page: Page) -> list[dict[str, Any]]:
    """What plotly really drew: for each plot its traces, their numbers of points, and how many shapes are there."""
    found: list[dict[str, Any]] = json.loads(
        page.ask(
            """JSON.stringify([...document.querySelectorAll(".plot")].map((one) => ({
                svg: one.querySelectorAll(".main-svg").length,
                label: one.getAttribute("aria-label"),
                names: (one.data || []).map((trace) => trace.name),
                points: (one.data || []).map((trace) => trace.x.length),
                drawn: one.querySelectorAll(".scatterlayer path, .barlayer path").length,
            })))"""
        )
    )
    return found


def test_the_report_draws_every_plot_in_silence_and_asks_for_nothing(browser: Browser, priced: Path) -> None:
    page = browser.open(priced)
    assert page.complaints() == []
    assert page.requests() == [priced.as_uri()]
    drawn = plots(page)
    assert [one for one in drawn if not (one["svg"] and one["drawn"] and sum(one["points"]) and one["label"])] == []
    shown = [name for one in drawn for name in one["names"]]
    for name in ("reading", "flagged reading", "extreme event", "all readings", "flagged", "false alarms expected"):
        assert name in shown
    assert {"cost of a vehicle", "least cost", "detector", "sum of tails alone", "limit", "ewma"} <= set(shown)
    assert "target 0.1" in shown and "caught of 18 injected faults" in shown
    headings = page.ask("[...document.querySelectorAll('h2')].map((one) => one.innerText)")
    assert headings == list(SECTIONS)
    assert page.ask("document.documentElement.scrollWidth") <= 1200, "nothing is cut off at 1,200 pixels"


def test_every_flag_and_event_of_held_out_time_is_marked(browser: Browser, priced: Path, run: Run) -> None:
    page = browser.open(priced)
    facts = run.record().evaluation
    drawn = dict.fromkeys(("flagged reading", "extreme event", "mild event"), 0)
    for one in plots(page):
        for name, points in zip(one["names"], one["points"], strict=True):
            drawn[name] = drawn.get(name, 0) + points
    assert drawn["flagged reading"] == facts["flags"] > 0
    assert drawn["extreme event"] + drawn["mild event"] == facts["events"] > 0


def test_dragging_zooms_and_the_wheel_only_with_ctrl(browser: Browser, priced: Path) -> None:
    page = browser.open(priced)
    ask = "JSON.stringify(document.querySelector('.plot').layout.xaxis.range)"
    box = json.loads(
        page.ask(
            "(() => { document.querySelector('.plot').scrollIntoView(); "
            "const at = document.querySelector('.nsewdrag').getBoundingClientRect(); "
            "return JSON.stringify([at.x, at.y, at.width, at.height]) })()"
        )
    )
    x, y, width, height = box
    before = page.ask(ask)

    def mouse(kind: str, share: float, **more: Any) -> None:
        place = {"x": x + share * width, "y": y + (0.2 + share / 2) * height}
        page.call("Input.dispatchMouseEvent", type=kind, **place, **more)

    def wheel(modifiers: int) -> str:
        mouse("mouseWheel", 0.5, deltaX=0, deltaY=-100, modifiers=modifiers)
        page.ask("new Promise((done) => setTimeout(done, 300))")  # plotly gathers turns of the wheel
        return str(page.ask(ask))

    mouse("mouseMoved", 0.3)
    assert wheel(0) == before, "the page scrolls, the plot stays"
    page.ask("document.querySelector('.plot').scrollIntoView()")
    assert wheel(2) != before
    before = page.ask(ask)
    mouse("mousePressed", 0.3, button="left", clickCount=1)
    for share in (0.4, 0.5, 0.6):
        mouse("mouseMoved", share, button="left", buttons=1)
    mouse("mouseReleased", 0.6, button="left", clickCount=1)
    first, last = pd.to_datetime(json.loads(page.ask(ask)))
    begin, end = pd.to_datetime(json.loads(before))
    assert begin < first < last < end


def hostile(run: Run) -> Material:
    """The same run, with names from outside that would like to be something else than names."""
    record, frame = run.record(), run.predictions()
    names = dict(zip(frame["sensor"].unique(), HOSTILE, strict=False))
    events = [{**one, "sensor": names[one["sensor"]]} for one in run.events()]
    for one in events:
        one["id"] = f"00000000-{one['sensor']}-1"
        one["action"] = HOSTILE[0]
    frame = frame.assign(sensor=frame["sensor"].map(names))
    frame["event_id"] = frame["sensor"].map(lambda name: f"00000000-{name}-1").where(frame["event_id"].notna(), None)
    (data,) = record.lineage.data
    quality = {
        **record.data_quality,
        "files": [{**record.data_quality["files"][0], "name": HOSTILE[1], HOSTILE[0]: HOSTILE[2]}],
        "first_invalid": [{"file": HOSTILE[2], "line": 1, "status": "range", "reason": HOSTILE[0]}],
    }
    lineage = structs.replace(record.lineage, data=(structs.replace(data, name=HOSTILE[0]),))
    record = structs.replace(record, lineage=lineage, created_by=HOSTILE[1], data_quality=quality)
    contract = Contract(kinds={"temperature": Kind(unit=HOSTILE[0], warn=60.0)})
    return material(run, record=record, predictions=frame, events=events, detector=DetectorFile((), contract))


def test_names_from_outside_are_text_wherever_they_stand(browser: Browser, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(hostile(run)))
    page = browser.open(path)
    assert page.complaints() == [] and page.requests() == [path.as_uri()]
    assert page.ask("typeof pwned") == "undefined"
    assert page.ask("document.querySelectorAll('img, a[href^=http]').length") == 0
    assert {one["svg"] > 0 for one in plots(page)} == {True}
    text = page.ask("document.body.innerText")
    assert all(" ".join(one.split()) in " ".join(text.split()) for one in HOSTILE)
    hover = page.ask(
        """(() => { const plot = [...document.querySelectorAll(".plot")].find(
            (one) => one.data.some((trace) => trace.name === "extreme event"));
        const number = plot.data.findIndex((trace) => trace.name === "extreme event");
        Plotly.Fx.hover(plot, [{curveNumber: number, pointNumber: 0}]);
        const layer = plot.querySelector(".hoverlayer");
        return JSON.stringify([layer.textContent, layer.querySelectorAll("a, image").length]) })()"""
    )
    words, links = json.loads(hover)
    assert links == 0 and any(one in words for one in HOSTILE), words


def test_the_data_of_a_plot_cannot_end_its_script_and_come_back_as_they_were() -> None:
    hostile = [*HOSTILE, "\u2028 \u2029 & \\u003c"]
    text = Figure("x", [{"text": hostile}], {}).html()
    inside = text.split("<script type='application/json'>")[1].split("</script>")[0]
    assert not {"<", ">", "&", "\u2028", "\u2029"} & set(inside) and text.count("</script>") == 1
    assert json.loads(inside)["data"][0]["text"] == hostile


def test_without_scripts_the_tables_say_it_all(browser: Browser, priced: Path, run: Run) -> None:
    page = browser.open(priced, ("Emulation.setScriptExecutionDisabled", {"value": True}))
    assert page.complaints() == [] and page.requests() == [priced.as_uri()]
    document = page.call("DOM.getDocument")["root"]["nodeId"]
    shown = page.call("DOM.getOuterHTML", nodeId=document)["outerHTML"]
    assert "The plots need JavaScript" in shown
    assert page.call("DOM.querySelectorAll", nodeId=document, selector=".main-svg")["nodeIds"] == []
    for one in (INTENDED_USE, *limits_of_use(["streaming"]), "Flags that differ", "vehicle-year", "tails)"):
        assert one in shown


def test_in_the_dark_the_plots_take_the_dark_s_colours(browser: Browser, priced: Path) -> None:
    ask = "[document.querySelector('.plot').layout.font.color, getComputedStyle(document.body).backgroundColor]"
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    light_colours = browser.open(priced).ask(ask)
    page = browser.open(priced, ("Emulation.setEmulatedMedia", dark))
    assert page.complaints() == []
    assert {*light_colours}.isdisjoint(page.ask(ask))
    page.ask("dispatchEvent(new Event('beforeprint'))")
    assert page.ask(ask) == light_colours, "paper is white"


def test_the_check_of_requests_can_fail(priced: Path, tmp_path: Path) -> None:
    """An image from the network: refused by the report's policy, and seen in the net log without it."""
    image = "<img src=http://127.0.0.1:9/seen>"
    guarded, open_to_all = tmp_path / "guarded.html", tmp_path / "open.html"
    text = priced.read_text().replace("<main>", f"<main>{image}")
    guarded.write_text(text)
    without = re.sub("<meta http-equiv[^>]*>", "", text)
    assert without != text
    open_to_all.write_text(without)
    with chromium(tmp_path) as browser:
        page = browser.open(guarded)
        assert "Content Security Policy" in "".join(page.complaints())
        assert len(page.requests()) == 2
        browser.close()
        assert browser.addresses() == []
    again = tmp_path / "again"
    again.mkdir()
    with chromium(again) as browser:
        browser.open(open_to_all)
        browser.close()
        assert browser.addresses() == ["http://127.0.0.1:9/seen"]


def test_the_whole_browser_asked_the_network_for_nothing_on_the_report_s_behalf(priced: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        browser.open(priced)
        browser.close()
        assert browser.addresses() == []


def test_the_report_holds_one_plotly_with_its_licence_and_its_own_policy(priced: Path) -> None:
    text = priced.read_text()
    assert text.count("* plotly.js v") == 1
    assert "Permission is hereby granted, free of charge" in text
    assert text.index("default-src 'none'") < text.index("<style>"), "the policy holds for all that follows it"
    assert "plotly.com/newchart" not in text.replace(plotly(text), "")


def plotly(text: str) -> str:
    start = text.index("<script>/**")
    return text[start : text.index("</script>", start)]


# Of other runs, without a browser.


def readings(days: int, seed: int) -> pd.DataFrame:
    times = 1_700_000_000 + 300.0 * np.arange(days * 288)
    noise = np.random.default_rng(seed).normal(0, 0.5, len(times))
    values = (60 + 6 * np.sin(2 * np.pi * times / 86400) + noise).round(1)
    values[-20:-16] += 40
    return pd.DataFrame({"time": times, "sensor": "axle", "value": values, "era": 0})


@pytest.fixture(scope="module")
def talk() -> Material:
    """A run of the feature set `value`, which has no tails."""
    contract = Contract({"bearing": Kind(warn=80.0, critical=500.0)}, {"axle": Sensor("bearing")})
    parameters = Parameters(BundleParameters("x"), feature_set="value", costs=CostParameters(**COSTS))
    trained = train_detector(readings(3, 1), contract, parameters)
    (fitted,) = trained.fitted.values()
    frame, events = steps.predict_with_events(
        {fitted.spec.model: fitted.forest}, [fitted.spec], contract, readings(2, 2)
    )
    facts = evaluate(frame, readings(3, 1), [fitted.features], [fitted.spec])
    data = DataFile("axle.csv", "0" * 64, 1440, 0)
    lineage = Lineage("0" * 12, (data,), parameters.training_only(), Code("0.1", "1" * 64, None), {"numpy": "2"})
    quality = {"readings": 1440, "invalid": 0, "held_back": {}, "files": [structs.asdict(data)], "first_invalid": []}
    created = pd.Timestamp("2026-01-01T00:00:00Z").to_pydatetime()
    record = RunRecord(lineage, created, "ann", quality, facts)
    return Material(record, DetectorFile((fitted.spec,), contract), frame, events, None)


def test_a_run_without_tails_has_a_whole_report_too(talk: Material, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(talk))
    page = browser.open(path)
    assert page.complaints() == []
    drawn = plots(page)
    assert [one["svg"] > 0 for one in drawn] == [True, True], "readings over time, and the score's histogram"
    text = page.ask("document.body.innerText")
    for one in (
        "it has no tail that a rate of false alarms could be extrapolated on",
        "Only a detector with a tail",
        "Faults are only injected for a detector with events of its own",
        "Not exported yet",
        "the limit critical, 500 C, lies outside the picture",
        f"{talk.facts['flags']:,} flagged",
    ):
        assert one in text, one
    events = page.ask("document.querySelectorAll('#events table tr').length")
    assert events > 1 and page.ask("[...document.querySelectorAll('h2')].length") == len(SECTIONS)


def test_a_run_from_before_curves_and_events_can_be_shown(run: Run) -> None:
    record = run.record()
    facts = msgspec.json.decode(msgspec.json.encode(record.evaluation))
    for one in facts["detectors"].values():
        del one["curve"], one["trials"]["at_levels"], one["sensors_per_vehicle"]
    parameters = {name: value for name, value in record.lineage.parameters.items() if name != "costs"}
    lineage = structs.replace(record.lineage, parameters=parameters)
    old = structs.replace(record, evaluation=facts, lineage=lineage)
    page = render_report(material(run, record=old, events=[], parity=None))
    assert "This run is from before other thresholds were compared" in page and "What alarms and misses cost" in page


def test_costs_that_are_not_stated_are_asked_for(run: Run) -> None:
    facts = next(iter(run.record().evaluation["detectors"].values()))
    (words,) = money(facts, CostParameters())
    assert "section costs: false_alarm, missed_fault and faults_per_year" in words


def facts_of(**more: Any) -> dict[str, Any]:
    """Three levels: false alarms 1, 0.1 and 0.01 a vehicle-day; 10, 8 and 4 of 10 faults caught."""
    return {
        "curve": {
            "levels": [2.0, 4.0, 6.0],
            "chosen": 1,
            "false_alarms_per_vehicle_day": [1.0, 0.1, 0.01],
            "held_out_excursions": [9, 1, 0],
        },
        "trials": {"at_levels": {"trials": 10, "caught": [10, 8, 4], "delay_s": [60.0, 600.0, 7200.0]}},
        "target_per_sensor_day": 0.05,
        "sensors_per_vehicle": 2,
        "exposure_sensor_days": 20.0,
        "training_sensor_days": 80.0,
        "bound_per_sensor_day": 0.15,
        "near_events": 1,
        "clusters": 30,
        "contamination": None,
        "cost": None,
        **more,
    }


def test_the_price_of_a_threshold_is_that_of_its_false_alarms_and_of_what_it_misses() -> None:
    costs = CostParameters("EUR", false_alarm=100.0, missed_fault=10_000.0, faults_per_year=2.0)
    found = Choices(facts_of(), costs)
    # 100 * 365 * rate + 10,000 * 2 * missed
    assert found.cost == pytest.approx([36_500, 3_650 + 4_000, 365 + 12_000])
    assert in_words(found).endswith("costs 7,650 EUR a vehicle-year; no other level that was compared costs less.")
    cheap = CostParameters("EUR", false_alarm=100.0, missed_fault=1_000.0, faults_per_year=2.0)
    assert in_words(Choices(facts_of(), cheap)) == (
        "The chosen threshold costs 4,050 EUR a vehicle-year; the least would be 1,565 at an extreme level of 6.00, "
        "the highest that was compared."
    )
    page = "".join(money(facts_of(cost={"cost_per_year": 5.0, "missed_share": 0.5}), costs))
    assert "rests on 10 injected faults" in page and "one more or less moves the sum by 2,000 EUR" in page
    # 1 event in 10 vehicle-days: 3,650 a year for alarms, and the same misses
    assert "would cost 7,650 EUR" in page and "differ from the ones above on purpose" in page


def test_what_was_chosen_is_told_beside_what_was_wanted_and_what_was_seen() -> None:
    words = " ".join(Choices(facts_of(), CostParameters()).in_words())
    assert "passes it 0.1 times a day; the target is 0.1." in words
    assert "1 events near the threshold in 20.0 held-out sensor-days, which leave at most 0.15" in words
    assert "raises 8 of 10 injected faults that should alarm, after 10 min in the median" in words
    higher = " ".join(Choices(facts_of(target_per_sensor_day=0.5), CostParameters()).in_words())
    assert "set higher for the sake of sensors that training has not seen" in higher
    share = " ".join(Choices(facts_of(target_per_sensor_day=None, contamination=0.02), CostParameters()).in_words())
    assert "contamination 0.02, not from a target" in share


@pytest.mark.parametrize("seed", range(5))
def test_thinned_readings_keep_every_extreme_every_flag_and_both_ends(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 40_000
    times = np.cumsum(random.exponential(10.0, count))
    times[count // 2 :] += 50_000
    values = random.normal(0, 1, count)
    keep = np.zeros(count, dtype=bool)
    keep[random.integers(0, count, 50)] = True
    chosen = thin(times, values, keep)
    assert len(chosen) <= 2 * STRETCHES + 52 + 2 and (np.diff(chosen) > 0).all()
    assert {0, count - 1, int(values.argmin()), int(values.argmax())} <= set(chosen.tolist())
    assert set(np.flatnonzero(keep)) <= set(chosen.tolist())
    edges = np.linspace(times[0], times[-1], STRETCHES + 1)
    for number in random.integers(0, STRETCHES, 100):
        inside = np.flatnonzero((times > edges[number]) & (times < edges[number + 1]))
        if len(inside):
            for extreme in (values[inside].min(), values[inside].max()):
                assert extreme in values[chosen]


def test_few_readings_are_all_drawn() -> None:
    assert thin(np.arange(10.0), np.zeros(10), np.zeros(10, dtype=bool)).tolist() == list(range(10))


def test_sensors_with_events_are_drawn_first_and_the_line_breaks_where_readings_are_missing(talk: Material) -> None:
    quiet = talk.predictions.assign(sensor="quiet", flag=False, event_id=None)
    frame = pd.concat([quiet, talk.predictions], ignore_index=True)
    raised = Episode("anomaly", "mild", "e", "axle", float(quiet["time"].iloc[5]), 1.0, (), None)
    assert drawn_sensors(frame, [raised], 1) == (["axle"], ["quiet"])
    gone = talk.predictions.drop(index=range(100, 200))
    line = timeline("axle", gone, [raised], Kind()).traces[0]
    assert line["y"].count(None) == 1 and line["y"][100] is None and len(line["y"]) == len(gone) + 1
