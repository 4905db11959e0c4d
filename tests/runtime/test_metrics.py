"""Metrics: their text by two independent readers, their two sinks, and what is made of them for Grafana and alerts."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.runtime.commandline import _explain
from axlebox.runtime.config import Config, MetricsSettings
from axlebox.runtime.figures import (
    LATENCY_BOUNDS_S,
    SCORE_BOUNDS,
    Buckets,
    Figures,
    KindFigures,
    ReleaseFigures,
    SensorFigures,
    SinkFigures,
    SourceFigures,
    StoreFigures,
)
from axlebox.runtime.metrics import Family, families, render
from axlebox.runtime.sinks import open_displays
from axlebox.runtime.sinks.prometheus import Prometheus
from axlebox.runtime.sinks.textfile import Textfile

DOCS = Path(__file__).resolve().parents[2] / "docs"
NASTY = 'a "quoted" \\ back\\nslash\nline\r\ttab, {brace} Ünïcode \u2028 🚂'
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sensor(name: str = "T204.1", **differs: Any) -> SensorFigures:
    usual: dict[str, Any] = {
        "kind": "bearing",
        "value": 61.25,
        "unit": "°C",
        "time": "2026-03-01T12:00:00Z",
        "age_s": 4.5,
        "status": "ok",
        "reason": "",
        "score": 0.41,
        "tail_sum": 1.75,
        "raised": None,
        "limit": None,
    }
    return SensorFigures(name, **{**usual, **differs})


def figures(**differs: Any) -> Figures:
    """Those of a daemon to which everything has happened; every number is another one."""
    latency, scores = Buckets.of(LATENCY_BOUNDS_S), Buckets.of(SCORE_BOUNDS)
    for value in (0.00005, 0.0001, 0.003, 0.2, 99.0):
        latency.add(value, 3)
    for score in (0.31, 0.5, 0.97):
        scores.add(score)
    raised = sensor("T204.2", value=92.5, raised="0a1b-T204.2-1", limit="extreme", score=0.81, tail_sum=44.0)
    silent = sensor("T204.3", value=None, status="stale", score=None, tail_sum=None, age_s=7301.0, limit="mild")
    usual: dict[str, Any] = {
        "pid": 4711,
        "vehicle": "TRAIN-204",
        "runtime": "0.1.0",
        "up_s": 86400.5,
        "release": ReleaseFigures("bearings", 7, "0a1b2c3d", 3600.25),
        "readings": 1105,
        "scored": 1001,
        "flags": 13,
        "statuses": {"ok": 1002, "warming": 53, "invalid": 17, "replaced": 2, "range": 31},
        "events": {"anomaly raised": 5, "anomaly cleared": 4, "sensor hot-or-sensor": 3, "health raised": 6},
        "sensors": [sensor(), raised, silent],
        "more_sensors": 19,
        "kinds": {"bearing": KindFigures({"0.05": 12.5, "0.5": 61.0, "0.95": 80.75}, -0.625, scores)},
        "source": SourceFigures("can:", True, 8, 9, None),
        "sinks": [SinkFigures("mqtt:", 10, 11, 12, "no route"), SinkFigures("stdout:", 14, 15, 16, None)],
        "store": StoreFigures(None, 18, 20_000_001),
        "bytes_written": 20_000_301,
        "bytes_per_day": 20_000_100.5,
        "latency": latency,
        "memory_bytes": 91_000_832,
        "clock_trusted": True,
        "health": ["no reading for 61 s"],
        "open_events": [{"id": "0a1b-T204.2-1", "type": "anomaly", "sensor": "T204.2", "severity": "extreme"}],
        "refused": {"digest": "ff00", "reason": "its self-test fails here"},
        "troubles": {"no-data": 1},
    }
    return Figures(**{**usual, **differs})


def numbers(found: list[Family]) -> Numbers:
    """What was meant to be said, and nothing twice."""
    samples = [sample for family in found for sample in family.samples]
    said = {(one.name, frozenset(one.labels.items())): float(one.value) for one in samples}
    assert len(said) == len(samples)
    return said


def read_back(found: Any) -> Numbers:
    """What the client library's parser makes of a text."""
    return {(one.name, frozenset(one.labels.items())): float(one.value) for family in found for one in family.samples}


@pytest.fixture
def promtool() -> Any:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")

    def function(*words: str | Path, text: str = "") -> str:
        done = subprocess.run(
            [program, *map(str, words)], input=text.encode(), capture_output=True, check=False, timeout=60
        )
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, said
        return said

    return function


# -- the text ---------------------------------------------------------------------------------------


def test_promtool_finds_nothing_to_say_about_the_text(promtool: Any) -> None:
    assert promtool("check", "metrics", text=render(figures())) == ""
    nothing_yet = figures(sensors=[], kinds={}, sinks=[], source=None, events={}, open_events=[], statuses={})
    assert promtool("check", "metrics", text=render(nothing_yet)) == ""


def test_promtool_sees_a_text_that_is_wrong(promtool: Any) -> None:
    with pytest.raises(AssertionError, match="axlebox_x"):
        promtool("check", "metrics", text="# TYPE axlebox_x counter\naxlebox_x 1\n")


def test_the_text_read_back_is_exactly_the_numbers() -> None:
    picture = figures()
    assert read_back(parse(render(picture))) == numbers(families(picture))


def test_each_family_is_told_once_with_its_type_and_help() -> None:
    picture = figures()
    found = {one.name: (one.type, one.documentation) for one in parse(render(picture))}
    meant = {one.name.removesuffix("_total"): (one.type, one.help) for one in families(picture)}
    assert found == meant
    assert render(picture).count("# TYPE") == len(meant)


NASTY_IDS = (NASTY, '"', "\\", "\n", "\\n", '\\"', "ends in \\", "{}", "")


@pytest.mark.parametrize("name", NASTY_IDS)
def test_a_sensor_may_have_any_id(name: str) -> None:
    picture = figures(sensors=[sensor(name), sensor("plain")])
    found = read_back(parse(render(picture)))
    assert found == numbers(families(picture))
    assert found["axlebox_sensor_value", frozenset({"sensor": name, "kind": "bearing", "unit": "°C"}.items())] == 61.25


def test_promtool_reads_any_id(promtool: Any) -> None:
    assert promtool("check", "metrics", text=render(figures(sensors=[sensor(name) for name in NASTY_IDS]))) == ""


@settings(deadline=None)
@given(st.lists(st.text(), unique=True, max_size=5), st.floats() | st.integers(-(2**63), 2**63))
def test_any_ids_and_numbers_come_back(names: list[str], value: float) -> None:
    picture = figures(sensors=[sensor(name, value=value) for name in names])
    meant = numbers(families(picture))
    found = read_back(parse(render(picture)))
    assert found.keys() == meant.keys()
    assert all(found[key] == meant[key] or (math.isnan(found[key]) and math.isnan(meant[key])) for key in meant)


def test_a_path_that_is_not_utf_8_does_not_break_the_text() -> None:
    text = render(figures(sinks=[SinkFigures("file:/tmp/\udcff", 1, 2, 3, None)]))
    assert 'sink="file:/tmp/?"' in text
    text.encode()


def test_a_sink_that_is_configured_twice_is_one_series() -> None:
    twice = [SinkFigures("stdout:", 1, 2, 3, None), SinkFigures("stdout:", 10, 20, 30, "closed")]
    found = numbers(families(figures(sinks=twice)))
    sink = frozenset({("sink", "stdout:")})
    assert [found[f"axlebox_sink_{name}", sink] for name in ("queue_length", "written_total", "error")] == [11, 22, 1]
    assert found["axlebox_dropped_total", frozenset({("where", "stdout:")})] == 33


def test_integers_have_no_point_and_infinities_their_own_words() -> None:
    values = {"a": 3, "b": 4.0, "c": 1e300, "d": math.nan, "e": math.inf, "f": -math.inf, "g": 0.1}
    lines = render(figures(sensors=[sensor(name, value=value) for name, value in values.items()])).splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith("axlebox_sensor_value{")]
    assert found == ["3", "4", "1e+300", "NaN", "+Inf", "-Inf", "0.1"]


def test_the_same_figures_give_the_same_text_whatever_their_order() -> None:
    picture = figures()
    turned = msgspec.structs.replace(
        picture,
        sensors=picture.sensors[::-1],
        sinks=picture.sinks[::-1],
        statuses=dict(reversed(picture.statuses.items())),
        events=dict(reversed(picture.events.items())),
    )
    assert render(turned) == render(picture)


def test_buckets_are_cumulative_and_end_with_all() -> None:
    found = [one for one in families(figures()) if one.type == "histogram"]
    assert [one.name for one in found] == ["axlebox_latency_seconds", "axlebox_score"]
    for family, count in zip(found, (15, 3), strict=True):
        buckets = [one for one in family.samples if one.name.endswith("_bucket")]
        counts = [one.value for one in buckets]
        assert counts == sorted(counts)
        assert (buckets[-1].labels["le"], counts[-1]) == ("+Inf", count)
        assert [one.value for one in family.samples if one.name.endswith("_count")] == [count]
    seconds = {one.labels.get("le"): one.value for one in found[0].samples}
    assert (seconds["0.0001"], seconds["0.0002"], seconds["10"]) == (6, 6, 12)  # a bound belongs to its bucket


def test_every_number_of_the_figures_appears() -> None:
    """All differ, so each is found by itself; sums and places of the text's own are told by their rules."""
    picture = figures()
    told = {float(line.rpartition(" ")[2]) for line in render(picture).splitlines() if line[0] != "#"}
    plain = msgspec.to_builtins(picture)
    left_out = {
        "pid",
        "readings",  # the sum of those by status
        "more_sensors",  # in axlebox_sensors
        "bytes_written",  # told by store and sinks
        "bytes_per_day",  # increase(axlebox_written_bytes_total[1d])
        "latency",  # told in buckets
        "kinds",
    }
    meant = {value for key, part in plain.items() if key not in left_out for value in _leaves(part)}
    assert meant - told == {7}  # the release's version, which is a label
    assert {-0.625, 12.5, 61.0, 80.75, 22, picture.bytes_written - picture.store.bytes_written} <= told
    assert sum(picture.statuses.values()) == picture.readings


def _leaves(part: Any) -> Iterator[float]:
    if isinstance(part, dict | list):
        for one in part.values() if isinstance(part, dict) else part:
            yield from _leaves(one)
    elif isinstance(part, int | float):
        yield float(part)


def test_a_status_has_a_series_before_its_first_reading() -> None:
    found = numbers(families(figures(statuses={})))
    assert found["axlebox_readings_total", frozenset({("status", "stuck")})] == 0


def test_how_urgent_is_told_by_severity_also_where_nothing_is_open() -> None:
    def by_severity(events: list[dict[str, Any]]) -> dict[str, float]:
        found = numbers(families(figures(open_events=events)))
        return {dict(labels)["severity"]: value for (name, labels), value in found.items() if name.endswith("n_events")}

    assert by_severity([]) == {"extreme": 0, "mild": 0}
    assert by_severity([{"severity": "mild"}, {"severity": "mild"}, {}]) == {"extreme": 0, "mild": 2, "none": 1}


# -- the file ---------------------------------------------------------------------------------------


def test_the_file_is_replaced_as_a_whole_and_anyone_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "axlebox.prom"
    before = os.umask(0o077)
    try:
        display = Textfile(path, MetricsSettings(period_s=30))
        display.show(figures())
    finally:
        os.umask(before)
    assert display.period_s == 30
    assert path.read_text() == render(figures())
    assert path.stat().st_mode & 0o777 == 0o644
    with path.open() as reader:
        first = path.stat().st_ino
        display.show(figures(flags=14))
        assert reader.read() == render(figures())  # who reads goes on to read the old one
    assert path.stat().st_ino != first
    assert "axlebox_flags_total 14\n" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_the_numbers_of_a_killed_daemon_are_gone_with_the_next_start_and_of_one_that_ends_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "axlebox.prom"
    path.write_text(render(figures()))
    display = Textfile(path, MetricsSettings())
    assert path.read_text() == ""
    display.show(figures())
    display.close()
    display.close()
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_counted_where_there_is_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for in_memory, expected in ((False, len(render(figures()).encode())), (True, 0)):
        monkeypatch.setattr("axlebox.runtime.sinks.textfile._in_memory", lambda _, answer=in_memory: answer)
        display = Textfile(tmp_path / "axlebox.prom", MetricsSettings())
        display.show(figures())
        assert display.bytes_written == expected


def test_a_folder_in_memory_is_told_from_one_on_a_disk() -> None:
    from axlebox.runtime.sinks.textfile import _in_memory

    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no /dev/shm")
    assert _in_memory(Path("/dev/shm"))
    assert not _in_memory(Path("/proc"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("axlebox.txt", "node_exporter reads only files that end in .prom"),
        ("none/axlebox.prom", "there is no folder"),
        ("folder.prom", "Is a directory"),
    ],
)
def test_a_file_that_would_never_be_read_is_a_usage_error(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(UsageError, match=words) as caught:
        Textfile(tmp_path / name, MetricsSettings())
    assert f"sink textfile:{tmp_path / name}" in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["folder.prom"]


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / "axlebox.prom.part").symlink_to(victim)
    Textfile(tmp_path / "axlebox.prom", MetricsSettings()).show(figures())
    assert victim.read_text() == "as it was"


# -- HTTP -------------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def scrape(port: int, accept: str = "text/plain") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def test_a_scrape_gives_the_latest_figures(port: int) -> None:
    picture = figures(sensors=[sensor(NASTY), sensor("plain")])
    with contextlib.closing(Prometheus(port, MetricsSettings())) as display:
        assert scrape(port)[0] == ""
        display.show(figures())
        display.show(picture)
        text, kind = scrape(port)
        assert "version=0.0.4" in kind
        assert read_back(parse(text)) == numbers(families(picture)) == read_back(parse(render(picture)))
        # Prometheus asks for this form first.
        text, kind = scrape(port, "application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert read_back(parse_openmetrics(text)) == numbers(families(picture))


def test_nothing_but_the_metrics_of_axlebox_is_told(port: int) -> None:
    """The library's own registry would add what it knows of Python and the process."""
    with contextlib.closing(Prometheus(port, MetricsSettings())) as display:
        display.show(figures())
        assert {name.partition("_")[0] for name, _ in read_back(parse(scrape(port)[0]))} == {"axlebox"}


def test_it_listens_on_this_machine_alone_and_no_more_after_its_end(port: int) -> None:
    display = Prometheus(port, MetricsSettings())
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", port))  # free: it does not listen on every address
    finally:
        display.close()
    with pytest.raises(OSError, match="refused"):
        scrape(port)
    Prometheus(port, MetricsSettings()).close()


def test_a_port_that_is_taken_is_a_usage_error(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(UsageError) as caught:
            Prometheus(port, MetricsSettings())
    assert str(caught.value) == f"sink prometheus:{port}, address 127.0.0.1: Address already in use"


def test_where_a_display_cannot_be_opened_those_before_it_are_closed(port: int, tmp_path: Path) -> None:
    uris = (f"prometheus:{port}", f"textfile:{tmp_path}/none/axlebox.prom")
    with pytest.raises(UsageError, match="there is no folder"):
        open_displays(Config(sinks=uris))
    Prometheus(port, MetricsSettings()).close()


def test_without_the_client_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "axlebox.runtime.sinks.prometheus")
    monkeypatch.delattr("axlebox.runtime.sinks.prometheus")
    monkeypatch.setattr(sys, "meta_path", [_NoLibrary(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError) as caught:
        open_displays(Config(sinks=("prometheus:9100",)))
    words, _ = _explain(caught.value) or ("", 0)
    assert "the extra 'prometheus'" in words
    open_displays(Config(sinks=("stdout:",)))


class _NoLibrary:
    """An import finder in front of the others."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "prometheus_client":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


# -- in the daemon ----------------------------------------------------------------------------------


def test_a_running_daemon_tells_its_numbers_by_file_and_by_http(world: Any, tmp_path: Path, port: int) -> None:
    vehicle = Vehicle.provision(tmp_path / "data", world.root(), Identity("TRAIN-204", "edge-1"))
    world.install(vehicle, world.bundle())
    path = tmp_path / "axlebox.prom"
    program = [sys.executable, "-c", "from axlebox.runtime.cli import main; main()", "run"]
    words = ["--data", vehicle.data, "--sink", f"textfile:{path}", "--sink", f"prometheus:{port}"]
    words += ["--sink", "stdout:", "--set", "metrics.period_s=1"]
    with subprocess.Popen([*program, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as daemon:
        assert daemon.stdin is not None
        try:
            daemon.stdin.write(b"".join(b"2026-04-01T00:%02d:00,1%02d\n" % (minute, minute) for minute in range(9)))
            daemon.stdin.flush()
            found = _until_counted(path, 9)
            assert found["axlebox_vehicle_info", frozenset({("vehicle", "TRAIN-204")})] == 1
            assert read_back(parse(scrape(port)[0])).keys() == found.keys()
        finally:
            daemon.terminate()
        assert daemon.wait(30) == 0
    assert not path.exists()


def _until_counted(path: Path, readings: int) -> Numbers:
    """The file's numbers, once so many readings stand in it."""
    end, pause = monotonic() + 60, threading.Event()
    while True:
        found = read_back(parse(path.read_text())) if path.exists() else {}
        if sum(value for (name, _), value in found.items() if name == "axlebox_readings_total") == readings:
            return found
        assert monotonic() < end
        pause.wait(0.05)


# -- what is made of them ---------------------------------------------------------------------------

PAGE = (DOCS / "monitoring.md").read_text()
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text())
RULES = DOCS / "alert-rules.yml"
ALERTS = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
NAMES = {name for name, _ in numbers(families(figures()))}


def used(expression: str) -> set[str]:
    return set(re.findall(r"\baxlebox_\w+", expression))


def expressions() -> list[str]:
    """Those of the dashboard's panels."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def test_the_page_has_every_metric_with_its_type_and_no_other() -> None:
    rows = re.findall(r"^\| `(axlebox_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", PAGE, re.M)
    assert [(name, kind) for name, kind, _, _ in rows] == [(one.name, one.type) for one in families(figures())]
    for family, (name, _, labels, _) in zip(families(figures()), rows, strict=True):
        told = {label for one in family.samples for label in one.labels} - {"le"}
        assert set(re.findall(r"`(\w+)`", labels)) == told, name


def test_the_page_names_no_metric_that_there_is_not() -> None:
    assert used(PAGE) <= NAMES | {family.name for family in families(figures())}


def test_the_page_has_every_field_of_a_journal_entry() -> None:
    from axlebox.runtime.sinks.base import Message
    from axlebox.runtime.sinks.journald import _FIELDS, entry

    event = {"type": "anomaly", **dict.fromkeys(_FIELDS[1:], "x"), "action": "look"}
    fields = re.findall(rb"^([A-Z_]+)=", entry(Message(b"{}", event)), re.M)
    assert len(fields) > 5
    for field in fields:
        assert f"`{field.decode()}`" in PAGE


def test_the_dashboard_asks_only_for_metrics_that_there_are() -> None:
    assert len(expressions()) > 15
    assert {name for one in expressions() for name in used(one)} <= NAMES
    assert all(used(one) for one in expressions())


def test_the_dashboard_takes_its_data_source_from_a_variable_and_its_panels_have_places_of_their_own() -> None:
    assert [one["type"] for one in DASHBOARD["templating"]["list"]] == ["datasource", "query"]
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    assert all('instance=~"$instance"' in one for one in expressions())
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = [
        (across, down)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for across in range(place["x"], place["x"] + place["w"])
        for down in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(across for across, _ in taken) < 24


def test_promtool_understands_every_expression_of_the_dashboard(promtool: Any, tmp_path: Path) -> None:
    plain = [one.replace("$__rate_interval", "1m").replace("$instance", ".*") for one in expressions()]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(plain)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", path)


def test_alerts_ask_only_for_metrics_that_there_are() -> None:
    theirs = {"up", "node_textfile_mtime_seconds"}
    for rule in ALERTS:
        assert used(rule["expr"]) <= NAMES
        assert used(rule["expr"]) or any(one in rule["expr"] for one in theirs), rule["alert"]
        assert {"summary", "description"} <= rule["annotations"].keys()
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert f"`{rule['alert']}`" in PAGE


def test_promtool_understands_the_alerts(promtool: Any) -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def series(picture: Figures) -> list[dict[str, str]]:
    """These figures, the same for 25 hours, as promtool writes series."""
    found = []
    for line in render(picture).splitlines():
        if line[0] != "#":
            name, _, value = line.rpartition(" ")
            labelled = f'{name[:-1]},instance="T204"}}' if name.endswith("}") else f'{name}{{instance="T204"}}'
            found.append({"series": labelled, "values": f"{value}+0x300"})
    return found


HEALTHY: dict[str, Any] = {
    "sensors": [sensor()],
    "open_events": [],
    "troubles": {},
    "refused": None,
    "sinks": [SinkFigures("stdout:", 0, 5, 0, None)],
    "clock_trusted": True,
    "memory_bytes": 90_000_000,
}
UP = {"series": 'up{job="axlebox",instance="T204"}', "values": "1+0x300"}
FIRES: dict[str, Any] = {
    "AxleboxEventExtreme": figures(**{**HEALTHY, "open_events": [{"severity": "extreme"}]}),
    "AxleboxEventMild": figures(**{**HEALTHY, "open_events": [{"severity": "mild"}]}),
    "AxleboxSensorFault": figures(**{**HEALTHY, "sensors": [sensor(), sensor("T204.9", status="stuck")]}),
    "AxleboxNoData": figures(**{**HEALTHY, "troubles": {"no-data": 1}}),
    "AxleboxScoreFlat": figures(**{**HEALTHY, "troubles": {"flat-score": 2}}),
    "AxleboxSourceDisconnected": figures(**{**HEALTHY, "source": SourceFigures("can:", False, 8, 9, "down")}),
    "AxleboxSinkError": figures(**{**HEALTHY, "sinks": [SinkFigures("mqtt:", 3, 5, 0, "no route")]}),
    "AxleboxStoreError": figures(**{**HEALTHY, "store": StoreFigures("read-only", 0, 1)}),
    "AxleboxClockNotTrusted": figures(**{**HEALTHY, "clock_trusted": False}),
    "AxleboxDrift": figures(**{**HEALTHY, "kinds": {"b": KindFigures({}, -2.5, Buckets.of(SCORE_BOUNDS))}}),
    "AxleboxMemory": figures(**{**HEALTHY, "memory_bytes": 150 * 2**20}),
    "AxleboxReleaseRefused": figures(**{**HEALTHY, "refused": {"digest": "f", "reason": "x"}}),
}
"""By alert, figures that raise it when they last for a day, and no other."""
GROWS = {
    "AxleboxDrops": ('axlebox_dropped_total{where="source",instance="T204"}', "9+1x300"),
    "AxleboxBytesWritten": ('axlebox_written_bytes_total{where="store",instance="T204"}', "20000001+100000x300"),
}
"""By alert, the series that must grow."""
ENDS = {
    "AxleboxDown": [{**UP, "values": "1+0x280 0x20"}],
    "AxleboxMetricsOld": [
        {"series": 'node_textfile_mtime_seconds{file="/run/m/axlebox.prom",instance="T204"}', "values": "5+0x300"}
    ],
    "AxleboxGone": [{"series": 'axlebox_vehicle_info{vehicle="T204",instance="T204"}', "values": "1+0x280 stale"}],
}


def alerts_of(name: str) -> list[dict[str, str]]:
    if name in FIRES:
        return [UP, *series(FIRES[name])]
    healthy = series(figures(**HEALTHY))
    if name in GROWS:
        grown, values = GROWS[name]
        assert any(one["series"] == grown for one in healthy)
        return [UP, *({**one, "values": values} if one["series"] == grown else one for one in healthy)]
    return ENDS[name]


def firing(names: list[str], found: list[dict[str, str]]) -> dict[str, Any]:
    """A test in promtool's form: after a day of these series, these alerts fire, and no other."""
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    expression = 'max by (alertname) (ALERTS{alertstate="firing"})'
    question = {"expr": expression, "eval_time": "24h10m", "exp_samples": samples}
    return {"interval": "5m", "input_series": found, "promql_expr_test": [question]}


def test_each_alert_fires_for_what_it_says_and_for_nothing_else(promtool: Any, tmp_path: Path) -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert set(names) == {*FIRES, *GROWS, *ENDS}
    tests = [firing([], [UP, *series(figures(**HEALTHY))]), *(firing([name], alerts_of(name)) for name in names)]
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", path)
