"""One event on the vehicle: acknowledged, put into a capsule, replayed here and on the workstation; and the drill."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from axlebox.export.capsules import open_capsule, release_of
from axlebox.firmware_bundle.errors import BadSignature, GateFailed, Malformed, UsageError, WrongTarget
from axlebox.firmware_bundle.manifest import MustSee
from axlebox.firmware_bundle.skew import Runtime
from axlebox.firmware_bundle.slots import Release
from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.runtime import capsule, memory, ring, service, stored
from axlebox.runtime.capsule import Capsule
from axlebox.runtime.config import Config
from axlebox.runtime.features import KNOWN_SETS
from axlebox.runtime.signals import Signals
from axlebox.training.workspace import init_workspace
from tests.runtime.conftest import BEARINGS, FLEET, Ended, as_lines, bearings, faulty_days, stream

LINES = as_lines(faulty_days())
Call = Callable[..., Ended]


@pytest.fixture
def call(run: Call, box: Vehicle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """axleboxd on the box, in this process."""
    capfd.readouterr()  # what the installation said
    monkeypatch.setenv("AXLEBOX_DATA", str(box.data))
    monkeypatch.setattr(service, "run_apart", lambda slot: "20/20")
    monkeypatch.setattr(memory, "SAME_SENSOR_S", 0.0)
    return run


def scored(vehicle: Vehicle, tmp_path: Path, lines: list[bytes]) -> list[dict[str, Any]]:
    """The events of a file that the daemon replays."""
    (tmp_path / "readings.csv").write_bytes(b"".join(lines))
    events = tmp_path / "events.jsonl"
    config = Config(source=f"file:{tmp_path}/readings.csv", sinks=(f"file:{events}",))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        service.serve(vehicle, config, lambda: config, Signals(), "ann")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return [json.loads(line) for line in events.read_bytes().splitlines()]


def anomalies(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if (event["type"], event["state"]) == ("anomaly", "raised")]


@pytest.fixture
def raised(call: Call, box: Vehicle, tmp_path: Path) -> list[dict[str, Any]]:
    """The anomalies of faulty days, which the box has seen."""
    found = anomalies(scored(box, tmp_path, LINES))
    assert len(found) >= 3
    return found


def running(vehicle: Vehicle) -> Release:
    digest = vehicle.state().running
    assert digest is not None
    return vehicle.release(digest)


# -- what a person says of it ----------------------------------------------------------------------


def test_what_an_event_was_is_kept_beside_it(call: Call, box: Vehicle, raised: list[dict[str, Any]]) -> None:
    event = raised[0]["id"]
    done = call("ack", event, "true", "--note", "hot box, wheelset changed", "--json")
    assert done.code == 0
    assert done.json()["verdict"] == "true" and done.json()["before"] is None
    again = call("ack", event, "sensor")
    assert again.code == 0 and again.words == f"{event}: sensor, instead of true"
    found = stored.acks(box.data)
    assert set(found) == {event} and (found[event].verdict, found[event].note) == ("sensor", "")
    assert found[event].time > 1.7e9 and found[event].user


def test_an_event_that_is_not_known_is_refused_naming_the_nearest(
    call: Call, box: Vehicle, raised: list[dict[str, Any]]
) -> None:
    event = raised[0]["id"]
    done = call("ack", event[:-1], "true")
    assert done.code == 2 and f"did you mean {event}?" in done.err
    assert "the newest are" in call("ack", "zzz", "true").err
    assert stored.acks(box.data) == {}


def test_another_word_or_a_long_note_is_refused(call: Call, raised: list[dict[str, Any]]) -> None:
    event = raised[0]["id"]
    assert call("ack", event, "maybe").code == 2
    assert "401 characters" in call("ack", event, "true", "--note", "x" * 401).err


def test_before_the_first_event_there_is_nothing_to_say(call: Call, box: Vehicle) -> None:
    assert "it has none" in call("ack", "x", "true").err
    assert not (box.data / "store.db").exists()


# -- capsules --------------------------------------------------------------------------------------


def test_every_anomaly_is_replayed_exactly_from_what_the_store_keeps(
    call: Call, box: Vehicle, raised: list[dict[str, Any]]
) -> None:
    replayed = 0
    for event in raised:
        if stored.capsule(box.data, event["id"]) is None:
            continue
        done = call("replay", event["id"], "--json")
        assert done.code == 0, done.err
        found = done.json()
        assert found["largest_score_difference"] == 0.0
        then = {name: value for name, value in event.items() if name != "clock_trusted"}
        assert found["told"][0] == then
        assert found["told"][0]["why"], "reasons"
        replayed += 1
    assert replayed >= 3


def test_a_capsule_goes_to_the_workstation_and_comes_out_equal_there(
    call: Call, box: Vehicle, fleet: Any, raised: list[dict[str, Any]], tmp_path: Path
) -> None:
    event = raised[0]["id"]
    file = tmp_path / "event.capsule"
    done = call("capsule", event, file)
    assert done.code == 0 and "signed by TRAIN-204" in done.out
    bundle = tmp_path / "b.axb"
    bundle.write_bytes(fleet.bundle())
    root = tmp_path / "root.json"
    root.write_bytes(fleet.root())
    found = open_capsule(file, box.data / "vehicle.pub")
    replayed = capsule.replay(found, release_of(found, bundle, root))
    assert replayed.largest_score_difference == 0.0
    assert replayed.events[0]["why"] == raised[0]["why"] and replayed.events[0]["score"] == raised[0]["score"]
    assert call("replay", file).words.startswith(f"{event}: bearing-temp 1 on TRAIN-204")


def test_a_capsule_holds_the_sensor_s_siblings_and_nobody_else(
    call: Call, box: Vehicle, raised: list[dict[str, Any]]
) -> None:
    body = stored.capsule(box.data, raised[0]["id"])
    assert body is not None
    found = capsule.decode(body)
    assert {item.sensor for item in ring.decode(found.readings)} == set(BEARINGS) >= set(found.state[0][1])
    assert found.vehicle == "TRAIN-204" and found.release == "bearing-temp 1"
    assert len(body) < 200_000


def changed(file: Path, **fields: Any) -> bytes:
    """The file with another content, and the signature of before."""
    body, signed = capsule.from_file(file.read_bytes())
    other = capsule.encode(msgspec.structs.replace(capsule.decode(body), **fields))
    return msgspec.json.encode(msgspec.structs.replace(signed, capsule=base64.b64encode(other).decode()))


def test_a_capsule_that_was_changed_or_is_another_vehicle_s_is_refused(
    call: Call, fleet: Any, raised: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "event.capsule"
    assert call("capsule", raised[0]["id"], file).code == 0
    whole = file.read_bytes()
    file.write_bytes(changed(file, event="another"))
    assert call("replay", file).code == 10
    other = Vehicle.provision(tmp_path / "other", fleet.root(), Identity("T9", "edge-1"))
    with pytest.raises(BadSignature):
        open_capsule(file, other.data / "vehicle.pub")
    for content in (whole[:-20], b"", b"{}", b"[" * 100_000, b"\xff"):
        file.write_bytes(content)
        assert call("replay", file).code == 15


def test_what_comes_out_different_ends_with_50_and_says_what(
    call: Call, box: Vehicle, raised: list[dict[str, Any]]
) -> None:
    body = stored.capsule(box.data, raised[0]["id"])
    assert body is not None
    found = capsule.decode(body)
    release = running(box)

    def refused(**fields: Any) -> str:
        with pytest.raises(GateFailed) as caught:
            capsule.replay(msgspec.structs.replace(found, **fields), release)
        return str(caught.value)

    first, *rest = found.events
    assert "score" in refused(events=[{**first, "score": first["score"] + 1e-9}, *rest])
    assert refused(events=[{**first, "value": 1.0}, *rest]).startswith("value was 1.0 on the vehicle and is ")
    assert "why was" in refused(events=[{**first, "why": []}, *rest])
    assert "the vehicle told 1 times" in refused(events=[first]) or len(found.events) == 1
    with pytest.raises(WrongTarget):
        capsule.replay(msgspec.structs.replace(found, digest="0" * 64), release)
    with pytest.raises(Malformed):
        capsule.replay(msgspec.structs.replace(found, state=[]), release)
    with pytest.raises(Malformed, match="format 2"):
        capsule.decode(capsule.encode(msgspec.structs.replace(found, format=2)))


def test_an_event_without_a_capsule_is_said_and_nothing_is_written(
    call: Call, raised: list[dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "event.capsule"
    assert call("capsule", "nothing", file).code == 2 and not file.exists()
    file.write_text("mine")
    assert "exists; nothing was written" in call("capsule", raised[0]["id"], file).err
    assert file.read_text() == "mine"


def test_the_workstation_finds_the_release_in_its_dist(
    call: Call, box: Vehicle, fleet: Any, raised: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = stored.capsule(box.data, raised[0]["id"])
    assert body is not None
    found: Capsule = capsule.decode(body)
    workspace = tmp_path / "workspace"
    init_workspace(workspace)
    monkeypatch.chdir(workspace)
    root = tmp_path / "root.json"
    root.write_bytes(fleet.root())
    (workspace / "dist").mkdir(exist_ok=True)
    (workspace / "dist" / "b-1.axb").write_bytes(fleet.bundle(2))
    with pytest.raises(UsageError, match="has no bundle of bearing-temp 1"):
        release_of(found, None, root)
    (workspace / "dist" / "b-2.axb").write_bytes(fleet.bundle(1))
    assert release_of(found, None, root).digest == found.digest


# -- the drill -------------------------------------------------------------------------------------


CALM = as_lines(stream(bearings(6, seed=9)))


def test_the_drill_says_what_this_box_would_see_and_changes_nothing(call: Call, box: Vehicle, tmp_path: Path) -> None:
    scored(box, tmp_path, CALM)
    before = {path.name: path.read_bytes() for path in box.data.iterdir() if path.is_file()}
    done = call("drill", "--json")
    assert done.code == 0, done.err
    found = {(one["sensor"], one["fault"]): one for one in done.json()["found"]}
    assert {sensor for sensor, _ in found} == set(BEARINGS)
    for sensor in BEARINGS:
        assert found[sensor, "step"]["by"] == "anomaly" and found[sensor, "step"]["after_s"] < 3600
        assert found[sensor, "ramp"]["by"] == "anomaly" and found[sensor, "ramp"]["after_s"] > 3600
        assert found[sensor, "stuck"]["after_s"] <= 15_000, "by the contract, unless its siblings told before"
        assert found[sensor, "silent"]["after_s"] is None, "the contract has no stale_after_s"
    words = call("drill", "--sensor", BEARINGS[1]).words
    assert f"{BEARINGS[1]} +15 C: anomaly at once" in words and "silent: not seen in" in words
    assert "so this is no verdict" in words
    for name, content in before.items():
        assert name.startswith("store.db-") or (box.data / name).read_bytes() == content


@pytest.mark.parametrize(
    ("must_see", "code"),
    [
        ((MustSee("step", 15.0, 7200.0),), 0),
        ((MustSee("step", 15.0, 7200.0), MustSee("ramp", 0.01, 86400.0)), 50),
        ((MustSee("silent", None, 3600.0),), 50),
    ],
)
def test_what_the_contract_asks_for_decides(
    run: Call, fleet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, must_see: tuple[MustSee, ...], code: int
) -> None:
    kind = msgspec.structs.replace(FLEET.kinds["bearing"], must_see=must_see)
    vehicle = Vehicle.provision(tmp_path / "box", fleet.root(), Identity("TRAIN-204", "edge-1"))
    contract = msgspec.structs.replace(FLEET, kinds={"bearing": kind})
    fleet.install(vehicle, fleet.bundle(contract=contract), runtime=Runtime("0.1.0", KNOWN_SETS, "another machine"))
    fleet.confirm(vehicle)
    monkeypatch.setenv("AXLEBOX_DATA", str(vehicle.data))
    monkeypatch.setattr(service, "run_apart", lambda slot: "20/20")
    scored(vehicle, tmp_path, CALM)
    done = run("drill", "--sensor", BEARINGS[0])
    assert done.code == code, done.err
    assert ("would be missed" in done.err) == (code == 50)
    assert ("MISSED" in done.out) == (code == 50)


def test_what_is_told_without_the_fault_as_well_is_no_sight_of_it(call: Call, box: Vehicle, tmp_path: Path) -> None:
    """A day that ends hot raises its events again in the drill's future, whatever is put into it."""
    sensors = bearings(6, seed=9)
    hot = BEARINGS[2]
    sensors[hot] = [
        msgspec.structs.replace(one, value=one.value + 30 * (1500 <= at < 1600)) for at, one in enumerate(sensors[hot])
    ]
    scored(box, tmp_path, as_lines(stream(sensors)))
    done = call("drill", "--json", "--sensor", hot)
    assert done.code == 0, done.err
    assert "raises" in done.json()["notes"][0]
    silent = next(one for one in done.json()["found"] if one["fault"] == "silent")
    assert silent["after_s"] is None, "it says nothing at all, so nothing hot was seen"
    stuck = next(one for one in done.json()["found"] if one["fault"] == "stuck")
    assert stuck["after_s"] is None or stuck["after_s"] > 0


def test_an_unknown_sensor_or_an_empty_store_is_said(call: Call, box: Vehicle, tmp_path: Path) -> None:
    assert call("drill").code == 41
    scored(box, tmp_path, CALM[:2000])
    assert f"did you mean {BEARINGS[0]}?" in call("drill", "--sensor", "T204.00").err
