"""`axleboxd run` as a process: lines in, events out, an orderly end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.firmware_bundle.trial import boot_id
from axlebox.firmware_bundle.vehicle import Identity, Vehicle
from axlebox.runtime.daemon import Change, Daemon, Totals, Watch, summary
from axlebox.runtime.detector import Detector, Monitor
from axlebox.runtime.outcomes import Origin
from axlebox.runtime.readings import LineReader, Replaced
from axlebox.runtime.signals import Signals
from axlebox.runtime.sinks.base import Message, Outlet
from axlebox.runtime.sources.base import Health, Item
from tests.runtime.conftest import AXLEBOXD

RELEASED = datetime(2026, 3, 1, tzinfo=UTC)
PATIENCE_S = 60
"""Only a daemon that hangs takes this long."""

GOOD = b"2026-04-01T00:00:00,100\n"
HOT = b"2026-04-01T00:01:00,300\n"
COOL = b"2026-04-01T00:02:00,100\n"


@pytest.fixture
def vehicle(world: Any, tmp_path: Path) -> Vehicle:
    """A provisioned vehicle with release 1 on trial."""
    box = Vehicle.provision(tmp_path / "data", world.root(), Identity("TRAIN-204", "edge-1"))
    world.install(box, world.bundle())
    return box


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(vehicle: Vehicle) -> Iterator[Start]:
    """Starts `axleboxd run` on the vehicle, with pipes on all three descriptors."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*words: str, **how: Any) -> subprocess.Popen[bytes]:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*AXLEBOXD, "run", "--data", str(vehicle.data), *words], bufsize=0, **{**pipes, **how}
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[bytes], data: bytes = b"") -> tuple[int, list[dict[str, Any]], str]:
    """Give the rest of the input and close it: exit code, the lines of stdout, stderr."""
    out, err = process.communicate(data or None, timeout=PATIENCE_S)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


def answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The next line that the daemon writes; waits for it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the daemon ended without an answer"
    found: dict[str, Any] = json.loads(line)
    return found


def give(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write to the daemon's stdin; a short text arrives in one piece."""
    assert process.stdin is not None
    process.stdin.write(data)


# -- sources, sinks, outputs ----------------------------------------------------------------------


def test_a_file_is_replayed_to_its_end(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "readings.csv"
    path.write_bytes(b"time,value\n" + GOOD + HOT + COOL.rstrip(b"\n"))
    code, lines, err = finish(start("--source", f"file:{path}"))
    assert code == 0
    assert [(line["type"], line["state"], line["time"]) for line in lines] == [
        ("anomaly", "raised", "2026-04-01T00:01:00Z"),
        ("anomaly", "cleared", "2026-04-01T00:02:00Z"),
    ]
    assert err == "axleboxd: 3 readings, 1 flagged, 1 events, 0 invalid\n"


def test_stdin_is_the_source_and_stdout_the_sink_by_default(start: Start) -> None:
    code, lines, _ = finish(start(), GOOD + HOT)
    assert code == 0
    assert [line["value"] for line in lines] == [300.0]


def test_every_flag_of_a_replay_is_scikit_learns(start: Start, world: Any) -> None:
    values = np.random.default_rng(9).normal(100, 8, 2000).round(3)
    data = b"".join(b"%s,%s\n" % (_time(number), str(value).encode()) for number, value in enumerate(values))
    code, lines, _ = finish(start("--readings"), data)
    flags = [line["flag"] for line in lines if line["type"] == "reading"]
    assert code == 0
    assert flags == (world.forest.predict(values.astype(np.float32)[:, None]) == -1).tolist()
    assert set(flags) == {True, False}


def _time(second: int) -> bytes:
    return f"2026-04-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}".encode()


def test_readings_adds_one_line_for_every_line_of_input_in_order(start: Start) -> None:
    code, lines, err = finish(start("--readings"), GOOD + b"nonsense\n" + GOOD + b"2026-04-01T00:00:30,\n" + HOT)
    assert code == 0
    readings = [line for line in lines if line["type"] == "reading"]
    assert [(line["status"], line["value"], line["flag"]) for line in readings] == [
        ("ok", 100.0, False),
        ("invalid", None, False),
        ("invalid", 100.0, False),
        ("invalid", None, False),
        ("ok", 300.0, True),
    ]
    assert [line.get("line") for line in readings] == [None, 2, 3, 4, None]
    assert set(readings[0]) == {"type", "time", "sensor", "value", "status", "score", "flag", "event"}
    assert readings[1]["sensor"] is None
    assert err.splitlines() == [
        "axleboxd: invalid reading, line 2: 1 column, expected 2 (time,value)",
        "axleboxd: invalid reading, sensor temperature: its time repeats 2026-04-01T00:00:00Z",
        "axleboxd: invalid reading, sensor temperature: its value is nan",
        "axleboxd: 5 readings, 1 flagged, 1 events, 3 invalid",
    ]


def test_events_stand_before_the_reading_that_caused_them(start: Start) -> None:
    _, lines, _ = finish(start("--readings"), GOOD + HOT)
    assert [line["type"] for line in lines] == ["reading", "anomaly", "reading"]
    assert lines[2]["event"] == lines[1]["id"]


def test_a_reading_at_the_edge_of_the_calendar_does_not_end_the_daemon(start: Start) -> None:
    code, lines, err = finish(start("--readings"), GOOD + b"9999-12-31T23:59:59-12:00,100\n")
    assert code == 0, err
    assert len(lines) >= 2


def test_every_sink_gets_everything(start: Start, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    code, lines, _ = finish(start("--sink", f"file:{one}", "--sink", f"file:{two}"), GOOD + HOT)
    assert (code, lines) == (0, [])
    assert one.read_bytes() == two.read_bytes()
    assert json.loads(one.read_bytes())["state"] == "raised"


def test_json_lines_are_read_as_well(start: Start) -> None:
    code, lines, _ = finish(start(), b'{"time":"2026-04-01T00:00:00Z","sensor":"axle-7","value":300}\n')
    assert code == 0
    assert [line["sensor"] for line in lines] == ["axle-7"]


# -- how it ends ----------------------------------------------------------------------------------


def test_without_a_release_it_says_what_to_do(world: Any, tmp_path: Path) -> None:
    empty = Vehicle.provision(tmp_path / "empty", world.root(), Identity("TRAIN-204", "edge-1"))
    done = subprocess.run(
        [*AXLEBOXD, "run", "--data", str(empty.data)], input=GOOD, capture_output=True, check=False, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (20, b"")
    assert done.stderr == b"axleboxd: no release installed. DO: axleboxd install\n"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"time,value\n", b"nonsense\n", b"2026-04-01T00:00:00,nan\n"])
def test_a_source_without_one_good_reading_ends_with_41(start: Start, data: bytes) -> None:
    code, _, err = finish(start(), data)
    assert code == 41
    assert err.endswith("axleboxd: source stdin: ended without one good reading\n")


def test_a_damaged_release_is_not_started(start: Start, vehicle: Vehicle) -> None:
    (model,) = vehicle.data.glob("slots/*/model.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    code, lines, err = finish(start(), GOOD)
    assert (code, lines) == (32, [])
    assert "is damaged: model.onnx differs" in err and "DO: axleboxd install" in err


@pytest.mark.parametrize("words", [["--source", "can:"], ["--sink", "lamp:"], ["--source", "file:/no/such/file"]])
def test_a_wrong_uri_ends_with_2_and_costs_the_release_no_try(start: Start, vehicle: Vehicle, words: list[str]) -> None:
    code, _, err = finish(start(*words), GOOD)
    assert code == 2
    assert err.count("\n") == 1
    assert vehicle.state().started is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_with_stdin_open_ends_in_order_with_every_whole_line_answered(start: Start, number: int) -> None:
    process = start("--readings")
    lines = [b"%s,100\n" % _time(second) for second in range(200)]
    give(process, b"".join(lines))
    answers = [answer(process) for _ in lines]
    process.send_signal(number)
    code = process.wait(PATIENCE_S)
    assert process.stdout is not None
    assert process.stderr is not None
    assert (code, process.stdout.read()) == (0, b"")
    assert [line["time"].encode() for line in answers] == [_time(second) + b"Z" for second in range(200)]
    assert process.stderr.read() == b"axleboxd: 200 readings, 0 flagged, 0 events, 0 invalid\n"


def test_a_stop_in_the_middle_of_a_line_does_not_score_the_half_and_says_so(start: Start) -> None:
    process = start("--readings")
    half = b"2026-04-01T00:01:00,30"
    give(process, GOOD + half)
    assert answer(process)["value"] == 100.0
    process.terminate()
    code = process.wait(PATIENCE_S)
    assert process.stdout is not None
    assert process.stderr is not None
    assert (code, process.stdout.read()) == (0, b"")
    assert process.stderr.read().decode().splitlines() == [
        "axleboxd: 1 readings, 0 flagged, 0 events, 0 invalid",
        f"axleboxd:   the last line had not ended when the stop came: its {len(half)} bytes are not scored",
    ]


def test_a_stop_before_any_reading_is_no_failure(start: Start, tmp_path: Path) -> None:
    process = start("--readings")
    give(process, b"nonsense\n")
    assert answer(process)["state"] == "invalid"
    process.terminate()
    assert process.wait(PATIENCE_S) == 0


def test_a_reader_of_stdout_that_has_gone_ends_the_daemon_without_a_traceback(start: Start) -> None:
    process = start("--readings")
    give(process, GOOD)
    answer(process)
    assert process.stdout is not None
    process.stdout.close()
    give(process, HOT)
    assert process.wait(PATIENCE_S) == 30
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("scheme", ["file", "follow"])
def test_a_source_that_is_a_sink_as_well_is_refused(scheme: str, start: Start, tmp_path: Path) -> None:
    """It would feed itself for ever."""
    path = tmp_path / "both.csv"
    path.write_bytes(HOT)
    (tmp_path / "link").symlink_to(path)
    code, _, err = finish(start("--source", f"{scheme}:{path}", "--sink", f"file:{tmp_path / 'link'}", "--readings"))
    assert (code, path.read_bytes()) == (2, HOT)
    assert "are one file" in err


def test_standard_input_that_is_a_sink_as_well_is_refused(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_bytes(HOT)
    with open(path, "rb") as stdin:
        code, _, err = finish(start("--sink", f"file:{path}", "--readings", stdin=stdin))
    assert (code, path.read_bytes()) == (2, HOT)
    assert "are one file" in err


@pytest.mark.parametrize("name", ["vehicle.json", "root.json", "state.0", "receipts.log", "slots/new"])
def test_the_vehicle_s_own_files_are_no_sinks(start: Start, vehicle: Vehicle, name: str) -> None:
    path = vehicle.data / name
    before = path.read_bytes() if path.exists() else None
    code, _, err = finish(start("--sink", f"file:{vehicle.data / 'slots' / '..' / name}"), HOT)
    assert code == 2 and "one of the vehicle's own files" in err
    assert (path.read_bytes() if path.exists() else None) == before


def test_a_full_sink_is_one_line(start: Start) -> None:
    code, _, err = finish(start("--sink", "file:/dev/full"), HOT)
    assert code == 30
    assert err.splitlines() == [
        "axleboxd: sink file:/dev/full: No space left on device; scoring goes on",
        "axleboxd: 1 readings, 1 flagged, 1 events, 0 invalid",
        "axleboxd: sink file:/dev/full lost 1 lines: sink file:/dev/full: No space left on device",
    ]


def test_a_closed_stdin_is_no_data_and_no_endless_wait(start: Start) -> None:
    """As `axleboxd run <&-` does; descriptor 0 is then free for whoever opens a file next."""
    process = start(stdin=None, preexec_fn=lambda: os.close(0))
    try:
        code = process.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail("the daemon waits for ever")
    assert code in (2, 41)
    assert process.stderr is not None
    assert process.stderr.read().count(b"\n") <= 2


# -- its configuration ----------------------------------------------------------------------------


def second(value: int, at: int) -> bytes:
    return b"2026-04-01T00:%02d:00,%d\n" % (at, value)


def test_sighup_reads_the_configuration_again_and_no_reading_is_lost(
    start: Start, vehicle: Vehicle, tmp_path: Path
) -> None:
    config = vehicle.data / "config.toml"
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    config.write_text(f"readings = true\nsinks = ['stdout:', 'file:{one}']\n")
    process = start()
    give(process, second(100, 0) + second(100, 1)[:7])
    assert answer(process)["time"] == "2026-04-01T00:00:00Z"
    config.write_text(f"readings = true\nsinks = ['stdout:', 'file:{two}']\n")
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    assert process.stderr.readline() == b"axleboxd: the configuration was read again\n"
    give(process, second(100, 1)[7:])
    assert answer(process)["time"] == "2026-04-01T00:01:00Z"
    config.write_text("readings = true\nsinks = ['nowhere:']\n")
    process.send_signal(signal.SIGHUP)
    said = process.stderr.readline().decode()
    assert said.startswith(
        "axleboxd: the configuration is not used, the one before goes on: sink 'nowhere:' is none of"
    )
    code, lines, err = finish(process, second(100, 2))
    assert code == 0, err
    assert [line["time"] for line in lines] == ["2026-04-01T00:02:00Z"]
    assert [path.read_bytes().count(b"\n") for path in (one, two)] == [1, 2]


def test_a_configuration_that_is_wrong_is_refused_before_the_start_and_costs_no_try(
    start: Start, vehicle: Vehicle
) -> None:
    (vehicle.data / "config.toml").write_text("[confirm]\nafter_s = 5\n")
    code, _, err = finish(start(), GOOD)
    assert code == 2
    assert err.endswith("config.toml: confirm.after_s = 5: Expected `float` >= 60.0\n") and err.count("\n") == 1
    assert vehicle.state().started is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 0, "good: source stdin:, sinks stdout:"),
        (["--source", "follow:/x", "--sink", "store:", "--sink", "journald:"], 0, "sinks store:, journald:"),
        (["--source", "can:", "--set", "can.channel=can1"], 2, "can.signals is empty"),
        (["--set", "mqtt.qos=3"], 2, "mqtt.qos = 3: expected one of 0, 1"),
        (["--sink", "lamp:/no/such/lamp"], 2, "there is no /no/such/lamp"),
    ],
)
def test_check_config_says_whether_it_can_be_used(vehicle: Vehicle, words: list[str], code: int, says: str) -> None:
    done = subprocess.run(
        [*AXLEBOXD, "check-config", "--data", str(vehicle.data), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done
    assert vehicle.state().started is None


# -- tries ----------------------------------------------------------------------------------------


def test_a_start_is_noted_until_it_has_ended_in_order(start: Start, vehicle: Vehicle) -> None:
    process = start("--readings")
    give(process, GOOD)
    answer(process)
    assert vehicle.state().started == boot_id()
    assert finish(process)[0] == 0
    assert (vehicle.state().started, vehicle.state().tries) == (None, 3)


def test_a_sink_that_fails_costs_the_release_no_try(start: Start, vehicle: Vehicle) -> None:
    """`axleboxd run --readings | head` is how people look at a release on trial."""
    process = start("--readings")
    give(process, GOOD)
    answer(process)
    assert vehicle.state().started is not None
    assert process.stdout is not None
    process.stdout.close()
    give(process, HOT)
    assert process.wait(PATIENCE_S) == 30
    assert (vehicle.state().started, vehicle.state().tries) == (None, 3)


def test_a_release_that_dies_three_times_is_left(start: Start, vehicle: Vehicle) -> None:
    for tries in (3, 2, 1):
        process = start("--readings")
        give(process, GOOD)
        answer(process)
        process.kill()
        process.wait()
        assert vehicle.state().tries == tries
    code, _, err = finish(start(), GOOD)
    assert code == 20
    assert "ended early 3 times; it is dropped" in err and "no release installed" in err


def test_another_command_at_work_on_the_vehicle_does_not_end_a_daemon_that_runs(start: Start, vehicle: Vehicle) -> None:
    """`axleboxd install` holds the lock for as long as its self-test takes."""
    process = start("--readings")
    give(process, GOOD)
    answer(process)
    with open(vehicle.data / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, lines, err = finish(process, HOT)
    assert [line["type"] for line in lines] == ["anomaly", "reading"]
    assert code == 0, err
    assert "2 readings, 1 flagged, 1 events, 0 invalid" in err


# -- what it does not do --------------------------------------------------------------------------

_RUN_AND_LIST = """
import sys
from axlebox.runtime.run_command import run
run.main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""


def test_the_process_never_loads_what_verifies_or_trains(vehicle: Vehicle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN_AND_LIST, "--data", str(vehicle.data), "--readings"],
        input=GOOD + HOT,
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout.count(b"\n") == 3
    tops = {name.partition(".")[0] for name in done.stderr.decode().splitlines()[-1].split()}
    assert {"numpy", "onnxruntime", "msgspec"} <= tops
    assert tops & {"tuf", "securesystemslib", "cryptography", "pandas", "sklearn", "scipy", "onnx", "kedro"} == set()


def test_nothing_is_written_outside_the_data_folder(start: Start, empty_home: dict[str, str]) -> None:
    environment = empty_home | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    code, lines, err = finish(start(env=environment, cwd=empty_home["HOME"]), GOOD + HOT)
    assert code == 0, err
    assert len(lines) == 1
    assert [str(path) for path in Path(empty_home["HOME"]).rglob("*")] == []


# -- the loop itself ------------------------------------------------------------------------------


class ListOutlet:
    """Keeps what it is given."""

    gone = False

    def __init__(self) -> None:
        self.blocks: list[bytes] = []

    def put(self, messages: Sequence[Message], patience_s: float, asked: Callable[[], bool]) -> None:
        self.blocks.append(b"".join(message.body + b"\n" for message in messages))


class ListSource:
    """Gives batches of lines that were thought out before, and tells when each one is asked for."""

    uri = "list:"
    patience_s = 0.0
    position = None
    cut_bytes = 0
    health = Health()

    def __init__(self, batches: list[list[bytes]], before: Callable[[int], None] = lambda number: None) -> None:
        self._batches = batches
        self._before = before
        self._reader = LineReader("temperature")

    def batches(self) -> Iterator[list[Item]]:
        for number, batch in enumerate(self._batches):
            self._before(number)
            yield self._reader.read(batch)

    def close(self) -> None:
        pass


class QuietWatch:
    """A Watch to which nothing happens; it tells how the run ended."""

    ended = 0

    def told(self) -> list[Replaced]:
        return []

    def noticed(self, events: Any, counted: bool = True) -> None:
        pass

    def saw(self, items: Any, outcomes: Any, began: float) -> None:
        pass

    def clock_trusted(self) -> bool:
        return True

    def turn(self) -> Change | None:
        return None

    def end(self) -> None:
        self.ended += 1


def run(daemon: Daemon, source: ListSource) -> Totals:
    daemon.run(source)
    return daemon.totals


def daemon(world: Any, sink: ListOutlet, with_readings: bool = False, watch: Watch | None = None) -> Daemon:
    def above_150(rows: Any) -> Any:
        return rows[:, 0].astype(np.float64), rows[:, 0] > 150

    detector = Detector(world.spec, above_150)
    monitor = Monitor(world.contract, {"temperature": detector}, Origin("bearing-temp", 1, "0" * 64))
    made = Daemon(monitor, watch or QuietWatch(), with_readings)
    made.outlets = [cast(Outlet, sink)]
    return made


def test_the_events_of_a_batch_are_with_the_sink_before_the_next_batch_is_asked_for(world: Any) -> None:
    sink = ListOutlet()
    seen: list[int] = []
    source = ListSource([[HOT], [COOL]], lambda number: seen.append(len(sink.blocks)))
    run(daemon(world, sink), source)
    assert seen == [0, 1]
    assert len(sink.blocks) == 2


def test_a_batch_without_events_writes_nothing(world: Any) -> None:
    sink = ListOutlet()
    daemon(world, sink).run(ListSource([[GOOD], [HOT]]))
    assert [block.count(b"\n") for block in sink.blocks] == [1]


def test_another_monitor_takes_over_between_two_readings(world: Any) -> None:
    """And what the Watch says about the change stands between the events of the two."""
    sink = ListOutlet()
    everything = Detector(world.spec, lambda rows: (rows[:, 0].astype(np.float64), rows[:, 0] > 0))
    other = Monitor(world.contract, {"temperature": everything}, Origin("bearing-temp", 2, "1" * 64))

    class ChangingWatch(QuietWatch):
        def __init__(self) -> None:
            self.changes = [None, Change([{"type": "change", "state": "raised"}], other), None]

        def turn(self) -> Change | None:
            return self.changes.pop(0)

    daemon(world, sink, watch=ChangingWatch()).run(ListSource([[GOOD], [HOT], [COOL]]))
    found = [json.loads(line) for line in b"".join(sink.blocks).splitlines()]
    assert [one.get("bundle", {}).get("version") for one in found] == [1, None, 2]


def test_what_a_person_said_comes_before_the_readings_that_follow(world: Any) -> None:
    sink = ListOutlet()

    class ToldWatch(QuietWatch):
        def told(self) -> list[Replaced]:
            return [Replaced(0.0, "temperature")]

    daemon(world, sink, with_readings=True, watch=ToldWatch()).run(ListSource([[GOOD]]))
    assert [json.loads(line).get("status") for line in b"".join(sink.blocks).splitlines()] == [None, "replaced", "ok"]


def test_totals_name_the_first_few_invalid_lines_and_count_the_others(world: Any) -> None:
    totals = run(daemon(world, ListOutlet()), ListSource([[GOOD, *[b"nonsense"] * 8, HOT]]))
    assert (totals.readings, totals.invalid, totals.flags, totals.events) == (10, 8, 1, 1)
    lines = summary(totals)
    assert lines[0] == "10 readings, 1 flagged, 1 events, 8 invalid"
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"  invalid line {number}" for number in (2, 3, 4, 5, 6)]
    assert lines[-1] == "  and 3 more"


def test_a_mark_is_a_line_among_the_readings_and_is_not_counted_as_one(world: Any) -> None:
    sink = ListOutlet()
    mark = b"2026-04-01T00:02:00,replaced"
    totals = run(daemon(world, sink, with_readings=True), ListSource([[GOOD, HOT, mark]]))
    assert (totals.readings, totals.invalid, totals.events, totals.replaced) == (2, 0, 1, 1)
    assert summary(totals) == ["2 readings, 1 flagged, 1 events, 0 invalid", "  1 sensor replaced"]
    *_, cleared, replaced, line = [json.loads(text) for text in b"".join(sink.blocks).splitlines()]
    assert (cleared["state"], cleared["reason"], replaced["state"]) == ("cleared", "sensor replaced", "replaced")
    assert (line["type"], line["status"], line["value"], line["score"]) == ("reading", "replaced", None, None)


def test_two_runs_do_not_share_their_totals() -> None:
    one, two = Totals(), Totals()
    one.invalid_lines.append("1: x")
    assert two.invalid_lines == []


def test_a_stop_signal_is_noted_and_the_process_goes_on() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        signals = Signals()
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.asked and not signals.stop
        signals.reloaded()
        assert not signals.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked and signals.stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the gate's statuses and limits ---------------------------------------------------------------


def limited(sink: ListOutlet) -> Daemon:
    kind = Kind(range=(-40.0, 140.0), warn=110.0, stale_after_s=30.0)
    monitor = Monitor(Contract({"temperature": kind}), {}, Origin("bearing-temp", 1, "0" * 64))
    made = Daemon(monitor, QuietWatch())
    made.outlets = [cast(Outlet, sink)]
    return made


def test_what_the_gate_holds_back_and_limits_are_in_the_summary() -> None:
    sink = ListOutlet()
    daemon = limited(sink)
    values = (80, -45, -45, 115, 150)
    lines = [f"2026-04-01T00:00:0{second}Z,{value}".encode() for second, value in enumerate(values)]
    daemon.step(LineReader("temperature").read(lines))
    assert summary(daemon.totals) == [
        "5 readings, 0 flagged, 0 events, 0 invalid",
        "  held back: 1 hot-or-sensor, 2 range",
        "  3 limit events",
        "  2 of kinds without a detector: the contract's checks and limits alone apply",
    ]


def test_a_sensor_that_falls_silent_is_told_without_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("axlebox.runtime.daemon.monotonic", lambda: now[0])
    sink = ListOutlet()
    daemon = limited(sink)
    daemon.step(LineReader("temperature").read([b"2026-04-01T00:00:00Z,80"]))
    for _ in range(80):
        now[0] += 0.5
        daemon.step([])
    (event,) = [json.loads(line) for block in sink.blocks for line in block.splitlines()]
    assert (event["type"], event["state"], event["time"]) == ("sensor", "stale", "2026-04-01T00:00:30Z")
    assert summary(daemon.totals)[-1] == "  sensors fell silent once"
