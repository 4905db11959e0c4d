"""What `axlebox ingest` promises beside its formats: whole or not at all, safe to repeat, and in bounded memory."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import signal
import struct
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError

from axlebox.firmware_bundle.errors import Malformed, PreflightFailed, UsageError
from axlebox.firmware_bundle.manifest import Contract, DataFile, FileFormat, Kind, Sensor, decode, encode
from axlebox.runtime.gate import Gate
from axlebox.runtime.readings import BadLine, Reading, Replaced
from axlebox.training import frames
from axlebox.training.checked import KEPT_INVALID, Columns, Judge, check_items
from axlebox.training.contract import load_contract
from axlebox.training.datasets import TemperatureDatabase
from axlebox.training.facts import KindTally, Tally, suggest
from axlebox.training.parameters import BundleParameters, Parameters
from axlebox.training.raw_data import StoredFile
from axlebox.training.readers.base import Job
from axlebox.training.readings import Checked, Ingested, ingest, load_current, load_files
from axlebox.training.runs import DetectorFile, Trained, make_lineage
from axlebox.training.steps import data_quality
from axlebox.training.workspace import Workspace, init_workspace

DESCRIBED = {
    "reader": "binary",
    "files": "*.rec",
    "byte_order": "big",
    "fields": [{"name": "time", "type": "uint32"}, {"name": "value", "type": "int16", "scale": 0.1}],
}
DBC = 'VERSION ""\nNS_ :\nBS_:\nBU_: E\nBO_ 291 Axle: 2 E\n SG_ Left : 0|16@1- (0.5,0) [0|0] "C" E\n'


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "fleet")


def describe(workspace: Workspace, formats: dict[str, Any]) -> None:
    path = workspace.root / "conf/base/catalog.yml"
    catalog = yaml.safe_load(path.read_text())
    catalog["temperature_database"]["formats"] = formats
    path.write_text(yaml.safe_dump(catalog))


def take_in(workspace: Workspace, *paths: Path, **how: Any) -> Ingested:
    return ingest(workspace, load_contract(workspace.contract_path), paths, **how)


def current(workspace: Workspace) -> Checked:
    return load_current(workspace, load_contract(workspace.contract_path))


def month(folder: Path, number: int, count: int = 3) -> Path:
    path = folder / f"{number}.csv"
    path.write_text("".join(f"2024-{number:02}-01T00:{minute:02}:00Z,{number}\n" for minute in range(count)))
    return path


def recording(path: Path, *rows: tuple[int, int]) -> Path:
    path.write_bytes(b"".join(struct.pack(">Ih", *row) for row in rows))
    return path


def content(workspace: Workspace) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in workspace.raw.rglob("*") if path.is_file()}


# -- adding, and doing it again --------------------------------------------------------------------


def test_added_files_come_behind_those_that_are_there(workspace: Workspace, tmp_path: Path) -> None:
    take_in(workspace, month(tmp_path, 1), add=True)
    found = take_in(workspace, month(tmp_path, 2), month(tmp_path, 3), add=True)
    assert [facts.name for facts, _ in found] == ["2.csv", "3.csv"]
    assert [one.name for one in current(workspace).files] == ["1.csv", "2.csv", "3.csv"]
    take_in(workspace, month(tmp_path, 4))
    assert [one.name for one in current(workspace).files] == ["4.csv"], "without --add they take the others' place"


def test_a_file_that_is_there_by_its_content_is_left_out_and_nothing_changes(
    workspace: Workspace, tmp_path: Path
) -> None:
    take_in(workspace, month(tmp_path, 1), month(tmp_path, 2))
    before = content(workspace)
    again = Path(shutil.copy(tmp_path / "1.csv", tmp_path / "copy.csv"))
    found = take_in(workspace, again, tmp_path / "2.csv", add=True)
    assert (len(found), found.left_out) == (0, ("copy.csv", "2.csv"))
    assert content(workspace) == before
    found = take_in(workspace, tmp_path / "1.csv", again)
    assert ([facts.name for facts, _ in found], found.left_out) == (["1.csv"], ("copy.csv",))


def test_ingesting_a_file_again_mends_its_copy(workspace: Workspace, tmp_path: Path) -> None:
    take_in(workspace, month(tmp_path, 1), month(tmp_path, 2))
    (copy,) = [one for one in workspace.raw.glob("*.csv") if one.read_bytes() == (tmp_path / "1.csv").read_bytes()]
    copy.write_text("damaged")
    with pytest.raises(Malformed, match=r"DO: axlebox ingest 1\.csv again"):
        take_in(workspace, month(tmp_path, 3), add=True)
    take_in(workspace, tmp_path / "1.csv", add=True)
    assert len(current(workspace)) == 6


def test_added_readings_are_judged_behind_those_that_are_there(workspace: Workspace, tmp_path: Path) -> None:
    """As a box would that saw all of them: what repeats is invalid, also in another file."""
    take_in(workspace, month(tmp_path, 1, count=3))
    longer = Path(shutil.copy(month(tmp_path, 1, count=5), tmp_path / "longer.csv"))
    ((facts, invalid),) = take_in(workspace, longer, add=True)
    assert (facts.rows, facts.invalid, [one.line for one in invalid]) == (5, 3, [1, 2, 3])
    assert len(current(workspace)) == 5
    with pytest.raises(Malformed, match="oldest first"):
        take_in(workspace, month(tmp_path, 1, count=2), add=True)


def test_the_same_file_by_another_description_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    path = recording(tmp_path / "a.rec", (1, 100), (2, 200))
    describe(workspace, {"recorder": DESCRIBED})
    take_in(workspace, path)
    describe(workspace, {"recorder": {**DESCRIBED, "byte_order": "little"}})
    with pytest.raises(UsageError, match=r"is there already as a\.rec, read by another description"):
        take_in(workspace, path, add=True)


# -- whole or not at all ---------------------------------------------------------------------------


class Stop(BaseException):
    """Like a keyboard's: no error that anybody expects."""


def test_an_ingest_that_is_stopped_leaves_everything_as_it_was(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(workspace, month(tmp_path, 1))
    before = content(workspace)

    def stop(what: str, done: int, total: int) -> None:
        if what == "reading 3.csv":
            raise Stop

    with pytest.raises(Stop):
        take_in(workspace, month(tmp_path, 2), month(tmp_path, 3), progress=stop)
    assert content(workspace) == before


def _killed(root: Path, path: Path) -> None:
    def kill(what: str, done: int, total: int) -> None:
        assert (root / "data/01_raw/incoming.part").is_dir()
        signal.raise_signal(signal.SIGKILL)

    take_in(Workspace(root), path, progress=kill)


def test_an_ingest_that_is_killed_leaves_what_training_reads_and_the_next_one_cleans_up(
    workspace: Workspace, tmp_path: Path
) -> None:
    take_in(workspace, month(tmp_path, 1))
    before = content(workspace)
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(workspace.root, month(tmp_path, 2)))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert {name: data for name, data in content(workspace).items() if ".part" not in name} == before
    assert [one.value for one in current(workspace).readings] == [1, 1, 1]
    take_in(workspace, tmp_path / "2.csv")
    assert not list(workspace.raw.glob("*.part")) and [one.value for one in current(workspace).readings] == [2, 2, 2]


def test_a_full_disk_is_told_in_one_line_and_nothing_changes(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(workspace, month(tmp_path, 1))
    before = content(workspace)

    def full(*about: Any) -> None:
        raise OSError(28, "No space left on device", str(workspace.raw))

    for call in ("fsync", "replace"):
        path = month(tmp_path, 2)
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{call}", full)
            with pytest.raises(PreflightFailed, match="No space left on device"):
                take_in(workspace, path)
        named = {Path(name).name for name in content(workspace)} - {Path(name).name for name in before}
        assert not named and current(workspace).files[0].name == "1.csv"


def test_an_ingest_waits_for_nobody(workspace: Workspace, tmp_path: Path) -> None:
    with workspace.locked(), pytest.raises(PreflightFailed, match="another axlebox or kedro run is at work"):
        take_in(workspace, month(tmp_path, 1))


# -- the identity of data --------------------------------------------------------------------------


def run_id(workspace: Workspace) -> str:
    trained = Trained(
        forests={},
        detector=DetectorFile((), load_contract(workspace.contract_path)),
        rows={},
        predictions=frames.to_frame([]),
        events=[],
        evaluation={},
        data_quality=msgspec.json.decode(msgspec.json.encode(data_quality(current(workspace)))),  # as Kedro hands it on
        parameters=Parameters(BundleParameters("x")),
    )
    lineage = make_lineage(trained, workspace.root)
    assert decode(encode(lineage), type(lineage), "lineage") == lineage
    return lineage.run


def test_what_a_file_was_read_by_is_part_of_the_run_s_identity(workspace: Workspace, tmp_path: Path) -> None:
    path = recording(tmp_path / "a.rec", (1, 100), (2, 200))
    ids, values = [], []
    field, *others = DESCRIBED["fields"]  # type: ignore[misc]
    spelt_out = {**DESCRIBED, "header_bytes": 0, "files": "a*", "fields": [{**field, "scale": 1, "offset": 0}, *others]}
    warmer = {**DESCRIBED, "fields": [field, {**others[0], "offset": 1}]}
    for description in (DESCRIBED, spelt_out, warmer):
        describe(workspace, {"recorder": description})
        take_in(workspace, path)
        ids.append(run_id(workspace))
        values.append([one.value for one in current(workspace).readings])
        (file,) = current(workspace).files
        if description is not warmer:
            assert file.format is not None and file.format.settings == {"byte_order": "big", "fields": (field, *others)}
    assert values == [[10, 20], [10, 20], [11, 21]]
    assert ids[0] == ids[1], "the same description in other words"
    assert ids[0] != ids[2]


def test_a_dbc_file_is_kept_and_is_part_of_the_identity(workspace: Workspace, tmp_path: Path) -> None:
    dbc, log = workspace.root / "conf/base/axle.dbc", tmp_path / "a.log"
    log.write_text("(1700000000.000000) can0 123#6400\n(1700000001.000000) can0 123#6600\n")
    describe(
        workspace,
        {"bus": {"reader": "can", "files": "*.log", "dbc": "conf/base/axle.dbc", "signals": {"a": "Axle.Left"}}},
    )
    dbc.write_text(DBC)
    take_in(workspace, log)
    first = run_id(workspace)
    (file,) = current(workspace).files
    digest = hashlib.sha256(DBC.encode()).hexdigest()
    assert file.format is not None and file.format.files == {"dbc": digest} and "dbc" not in file.format.settings
    assert (workspace.raw / f"{digest}.dbc").read_text() == DBC
    dbc.unlink()
    assert [one.value for one in current(workspace).readings] == [50, 51], "the copy is what is read"
    dbc.write_text(DBC.replace("0.5", "0.25"))
    take_in(workspace, log)
    assert [one.value for one in current(workspace).readings] == [25, 25.5] and run_id(workspace) != first
    next(workspace.raw.glob("*.dbc")).write_text(DBC)
    for copy in workspace.raw.glob("*.dbc"):
        copy.write_text(DBC + "\n")
    with pytest.raises(Malformed, match="was changed"):
        current(workspace)


def test_a_lineage_s_files_can_be_read_again_without_the_catalog(workspace: Workspace, tmp_path: Path) -> None:
    describe(workspace, {"recorder": DESCRIBED})
    take_in(workspace, recording(tmp_path / "a.rec", (1, 100)), month(tmp_path, 2))
    before = current(workspace)
    describe(workspace, {})
    (workspace.raw / "current.json").unlink()
    again = load_files(workspace, load_contract(workspace.contract_path), [StoredFile.of(one) for one in before.files])
    assert again.readings == before.readings and again.files == before.files


def test_a_description_that_changed_since_is_told_before_a_training(workspace: Workspace, tmp_path: Path) -> None:
    database = workspace.raw / "current.json"
    describe(workspace, {"recorder": DESCRIBED})
    take_in(workspace, recording(tmp_path / "a.rec", (1, 100)))
    assert len(TemperatureDatabase(str(database), formats={"recorder": DESCRIBED}).load()) == 1
    assert len(TemperatureDatabase(str(database)).load()) == 1
    changed = {**DESCRIBED, "byte_order": "little"}
    with pytest.raises(DatasetError, match=r"formats\.recorder has changed since a\.rec was ingested\. DO: axlebox"):
        TemperatureDatabase(str(database), formats={"recorder": changed}).load()


@pytest.mark.parametrize(
    "settings",
    [{"a": [[1]]}, {"a": {"b": {"c": 1}}}, {"a": [{"b": {"c": {}}}]}, {"a": "x\n"}, {"a": ["x"] * 257}, {"a" * 65: 1}],
)
def test_a_manifest_s_description_is_bounded(settings: dict[str, Any]) -> None:
    good = {"name": "a", "sha256": "0" * 64, "rows": 1, "invalid": 0, "format": {"reader": "x", "settings": {"a": [1]}}}
    assert decode(msgspec.json.encode(good), DataFile, "it").format == FileFormat("x", {"a": (1,)})
    with pytest.raises(Malformed):
        decode(msgspec.json.encode({**good, "format": {"reader": "x", "settings": settings}}), DataFile, "it")


def test_a_file_that_says_itself_what_it_is_adds_nothing_to_a_manifest() -> None:
    """So that a manifest without such files is what an older runtime knows."""
    assert b"format" not in encode(DataFile("a.csv", "0" * 64, 1, 0))


# -- what is said ----------------------------------------------------------------------------------


def tallied(items: list[Reading | BadLine | Replaced], contract: Contract, size: int) -> tuple[Any, dict[str, Any]]:
    judge, tally = Judge(Gate(contract), "x", []), Tally(contract)
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        tally.add(batch, judge.statuses(batch))
        tally._flush()
    job = Job(Path("x"), "x", "temperature")
    return tally.facts(judge, job, "x"), suggest(tally.kinds, contract)


TWO_KINDS = Contract({"oil": Kind(), "axle": Kind()}, {"a": Sensor("oil"), "b": Sensor("axle"), "c": Sensor("axle")})


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_facts_of_batches_of_any_size_are_those_that_plain_loops_find(data: st.DataObject) -> None:
    clock = {"a": 0.0, "b": 0.0, "c": 0.0}
    items: list[Reading | BadLine | Replaced] = [Reading(0.5, "a", 1.0)]
    clock["a"] = 0.5
    for _ in range(data.draw(st.integers(0, 40))):
        sensor = data.draw(st.sampled_from("abc"))
        kind = data.draw(st.sampled_from(["reading"] * 8 + ["mark", "bad"]))
        if kind == "mark":
            items.append(Replaced(0.0, sensor))
        elif kind == "bad":
            items.append(BadLine(1, "x"))
        else:
            clock[sensor] += data.draw(st.sampled_from([0.5, 1.0, 1.0, 1.0, 7.0, 60.0]))
            items.append(Reading(clock[sensor], sensor, data.draw(st.sampled_from([1.0, 1.0, 2.0]))))
    facts, suggested = tallied(items, TWO_KINDS, data.draw(st.integers(1, 50)))

    series: dict[str, list[list[Reading]]] = {name: [[]] for name in "abc"}
    for item in items:
        if isinstance(item, Replaced):
            series[item.sensor].append([])
        elif isinstance(item, Reading):
            series[item.sensor][-1].append(item)
    eras = [era for own in series.values() for era in own]
    steps = sorted(after.time - before.time for era in eras for before, after in pairwise(era))
    period = steps[(len(steps) - 1) // 2] if steps else None
    assert facts.period_s == (pytest.approx(period, rel=0.011) if period else None)
    assert facts.gaps == (sum(step > 3 * period for step in steps) if period else 0)
    longest, rests = 0, {"oil": 0.0, "axle": 0.0}
    for sensor, own in series.items():
        for era in own:
            run: list[Reading] = []
            for reading in era:
                run = [*run, reading] if run and run[-1].value == reading.value else [reading]
                longest = max(longest, len(run))
                name = TWO_KINDS.sensors[sensor].kind
                rests[name] = max(rests[name], reading.time - run[0].time)
    assert facts.longest_stuck == longest
    assert {kind: one["longest_rest_s"] for kind, one in suggested.items()} == {
        kind: rest for kind, rest in rests.items() if kind in suggested
    }
    readings = [one for one in items if isinstance(one, Reading)]
    assert (facts.first, facts.last) == (min(one.time for one in readings), max(one.time for one in readings))
    assert (facts.lowest, facts.highest) == (min(one.value for one in readings), max(one.value for one in readings))
    assert facts.replaced == sum(isinstance(one, Replaced) for one in items)
    assert facts.sensors == len({one.sensor for one in readings})
    assert facts.invalid == sum(isinstance(one, BadLine) for one in items)


def test_what_is_suggested_is_what_was_seen_and_only_where_nothing_is_set() -> None:
    """A reading a minute, an hour at one value: twice that is stuck, ten periods are silence."""
    random = np.random.default_rng(0)
    values = [20.0 if 200 <= number <= 260 else float(random.normal(40, 5)) for number in range(3000)]
    items: list[Any] = [Reading(60.0 * number, "a", value) for number, value in enumerate(values)]
    _, suggested = tallied(items, Contract({"oil": Kind()}), 100)
    assert suggested["oil"]["set"] == {"period_s": 60, "stuck_after_s": 7200, "stale_after_s": 600}
    assert (suggested["oil"]["lowest"], suggested["oil"]["highest"]) == (min(values), max(values))
    _, suggested = tallied(items, Contract({"oil": Kind(period_s=60, stale_after_s=900)}), 100)
    assert suggested["oil"]["set"] == {"stuck_after_s": 7200}
    assert suggest({"oil": KindTally()}, Contract({"oil": Kind()}))["oil"]["set"] == {}


def test_the_command_prints_suggestions_and_sets_none(axlebox: Any, tmp_path: Path) -> None:
    axlebox.ok("init", tmp_path / "fleet")
    contract = (tmp_path / "fleet/conf/base/contract.yml").read_text()
    path = month(tmp_path, 1, count=30)
    with open(path, "a") as file:
        file.write("broken\n" * 9)
    words = axlebox.ok("ingest", path, cwd=tmp_path / "fleet")
    assert "suggested for kind temperature in conf/base/contract.yml, and not set: period_s: 60, stuck_after_s" in words
    assert "taken: columns time,value; every reading is of sensor temperature" in words
    assert "invalid line 31" in words and "and 4 more lines, not used for training" in words
    assert (tmp_path / "fleet/conf/base/contract.yml").read_text() == contract
    again = json.loads(axlebox.ok("ingest", "--add", "--json", path, cwd=tmp_path / "fleet"))
    assert again == {"files": [], "left_out": ["1.csv"], "suggestions": {}}
    assert "1.csv: is there already" in axlebox.ok("ingest", "--add", path, cwd=tmp_path / "fleet")
    refused = axlebox("ingest", "--format", "recorder", path, cwd=tmp_path / "fleet")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "Traceback" not in refused.stderr
    refused = axlebox("ingest", tmp_path / "none.csv", cwd=tmp_path / "fleet")
    assert refused.returncode == 2 and "none.csv" in refused.stderr
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    refused = axlebox("ingest", tmp_path / "a.parquet", cwd=tmp_path / "fleet")
    assert refused.returncode == 15 and refused.stderr.count("\n") == 1


def test_kedro_reads_what_the_catalog_describes(axlebox: Any, tmp_path: Path) -> None:
    """From a recorder's file through Kedro's catalog to the quality that the run records."""
    kedro = replace(axlebox, command=(str(Path(sys.executable).parent / "kedro"),))
    axlebox.ok("init", tmp_path / "fleet")
    workspace = Workspace(tmp_path / "fleet")
    describe(workspace, {"recorder": DESCRIBED})
    path = recording(tmp_path / "a.rec", *((60 * minute, 100 + minute % 7) for minute in range(50)))
    axlebox.ok("ingest", path, cwd=workspace.root)
    kedro.ok("run", "--pipelines=pre_processing", cwd=workspace.root)
    (file,) = json.loads((workspace.root / "data/02_intermediate/data_quality.json").read_text())["files"]
    assert (file["rows"], file["format"]["reader"], file["format"]["settings"]["byte_order"]) == (50, "binary", "big")
    describe(workspace, {"recorder": {**DESCRIBED, "byte_order": "little"}})
    refused = axlebox("train", cwd=workspace.root)
    assert refused.returncode == 2 and "formats.recorder has changed" in refused.stderr
    assert refused.stderr.count("\n") == 1


# -- many rows -------------------------------------------------------------------------------------


def write_text(path: Path, rows: int) -> Path:
    with open(path, "w") as file:
        for number in range(rows):
            minutes, second = divmod(number, 60)
            hours, minute = divmod(minutes, 60)
            day, hour = divmod(hours, 24)
            file.write(f"2024-01-{day + 1:02}T{hour:02}:{minute:02}:{second:02}Z,{number % 50}\n")
    return path


def write_parquet(path: Path, rows: int) -> Path:
    """One row group: as large as the file."""
    times = pa.array(1_700_000_000 + np.arange(rows)).cast(pa.timestamp("s"))
    pq.write_table(pa.table({"time": times, "value": np.arange(rows) % 50.0}), path, row_group_size=rows)
    return path


def write_records(path: Path, rows: int) -> Path:
    np.rec.fromarrays([np.arange(rows), np.arange(rows) % 50], dtype=[("time", ">u4"), ("value", ">i2")]).tofile(path)
    return path


@pytest.mark.parametrize("write", [write_text, write_parquet, write_records])
def test_four_times_the_rows_take_no_more_memory(
    workspace: Workspace, tmp_path: Path, write: Callable[[Path, int], Path]
) -> None:
    describe(workspace, {"recorder": DESCRIBED})
    peaks = []
    for rows in (50_000, 200_000):
        path = write(tmp_path / ("a.rec" if write is write_records else "a"), rows)
        tracemalloc.start()
        ((facts, _),) = take_in(workspace, path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (facts.rows, facts.invalid) == (rows, 0)
    assert peaks[1] < 1.2 * peaks[0] and peaks[1] < 32 * 2**20


def test_of_many_bad_lines_the_first_are_kept_and_all_are_counted(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("2024-01-01T00:00:00Z,1\n" + "x\n" * 3 * KEPT_INVALID)
    ((facts, invalid),) = take_in(workspace, path)
    assert (facts.invalid, len(invalid), invalid[-1].line) == (3 * KEPT_INVALID, KEPT_INVALID, KEPT_INVALID + 1)
    checked = current(workspace)
    assert (checked.unused, len(checked.invalid), checked.files[0].invalid) == (
        3 * KEPT_INVALID, KEPT_INVALID, 3 * KEPT_INVALID
    )  # fmt: skip


@given(
    st.lists(
        st.one_of(
            st.builds(Reading, st.integers(0, 50).map(float), st.sampled_from("abc"), st.sampled_from([1.0, 2.0])),
            st.builds(Replaced, st.just(0.0), st.sampled_from("abcd")),
            st.just(BadLine(1, "x")),
        ),
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_columns_hold_the_stream_as_it_was(items: list[Any]) -> None:
    """Against the frame that is made of the items themselves, one by one."""
    checked = check_items(items, Gate(Contract({"t": Kind(range=(0, 1.5))})), "x")
    kept = [one for one in items if not isinstance(one, BadLine)]
    assert [(type(one), one.time, one.sensor) for one in checked.stream] == [
        (type(one), one.time, one.sensor) for one in kept
    ]
    expected = frames.to_frame(kept, checked.statuses)
    found = checked.columns.frame()
    assert found.equals(expected) and list(found.dtypes) == list(expected.dtypes)
    assert len(checked) + checked.unused + checked.replaced == len(items)


def test_columns_take_a_tenth_of_what_readings_take() -> None:
    items: list[Any] = [Reading(60.0 * number, "a", float(number)) for number in range(50_000)]
    statuses = ["ok"] * len(items)
    columns = Columns()
    tracemalloc.start()
    columns.add(items, statuses)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(columns) == len(items) and held < 26 * len(items)
