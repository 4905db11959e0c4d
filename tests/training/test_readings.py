"""Bad files: a one-line error, or a counted and shown repair with the line's number; never a silent drop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from axlebox.firmware_bundle.errors import AxleboxError, Malformed, UsageError
from axlebox.runtime.readings import Replaced
from axlebox.training import frames
from axlebox.training.contract import load_contract
from axlebox.training.readings import Checked, FileFacts, Invalid, ingest, load_current
from axlebox.training.steps import data_quality
from axlebox.training.workspace import Workspace, init_workspace

Ingest = Callable[[str | bytes], tuple[FileFacts, list[Invalid]]]

GOOD = "2022-09-10T00:00:00, 1\n2022-09-10T00:05:00, 2\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init_workspace(tmp_path / "fleet")


@pytest.fixture
def take_in(workspace: Workspace, tmp_path: Path) -> Ingest:
    """Ingest one file with this content."""

    def function(content: str | bytes) -> tuple[FileFacts, list[Invalid]]:
        path = tmp_path / "readings.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        (found,) = ingest(workspace, load_contract(workspace.contract_path), [path])
        return found

    return function


def current(workspace: Workspace) -> Checked:
    return load_current(workspace, load_contract(workspace.contract_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no reading found in 0 lines"),
        (b"\n\n", "no reading found"),
        (b"\x00\xff\x80" * 50, "line 1: not text"),
        ("a,b\nc,d\n", "line 1: 'a' is not a time"),
        ("time,value\n", "no reading found"),
        ("2022-09-10,1,2,3\n" * 3, "line 1: 4 columns, expected 2"),
        ("2022-09-10T00:00:00;1\n", "line 1: 1 column"),
        ("2022-09-10T00:00:00,nan\n", "line 1: its value is nan"),
        ("2022-09-10T00:00:00,replaced\n", "no reading found in 0 lines"),
    ],
)
def test_a_file_without_a_reading_is_refused_and_nothing_changes(
    take_in: Ingest, workspace: Workspace, content: str | bytes, reason: str
) -> None:
    take_in(GOOD)
    with pytest.raises(Malformed) as caught:
        take_in(content)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert len(current(workspace).readings) == 2
    assert len(list(workspace.raw.iterdir())) == 3, "the refused file was kept"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2022-09-10T00:02:00, broken", "'broken' is not a number"),
        ("2022-09-10T00:02:00", "1 column, expected 2"),
        ("2022-09-10T00:02:00,1,2", "3 columns, expected 2"),
        ("2022-09-10T00:00:00, 5", "repeats"),
        ("2022-09-09T00:00:00, 5", "goes back"),
        ("2022-09-10T00:02:00, NaN", "its value is nan"),
        ("2022-09-10T00:02:00, ", "its value is nan"),
        ("2022-09-10T00:02:00, inf", "its value is inf"),
        ("yesterday, 5", "is not a time"),
    ],
)
def test_a_bad_row_in_the_middle_is_counted_and_shown_with_its_number(
    take_in: Ingest, workspace: Workspace, row: str, reason: str
) -> None:
    first, second = GOOD.splitlines()
    facts, invalid = take_in(f"{first}\n{row}\n{second}\n")
    assert (facts.rows, facts.invalid) == (3, 1)
    assert [(one.line, reason in one.reason) for one in invalid] == [(2, True)]
    checked = current(workspace)
    assert [one.value for one in checked.readings] == [1, 2]
    assert checked.files[0].invalid == 1


def test_files_in_the_wrong_order_are_told_apart_from_bad_ones(workspace: Workspace, tmp_path: Path) -> None:
    january, february = tmp_path / "jan.csv", tmp_path / "feb.csv"
    january.write_text("2024-01-01T00:00:00Z,1\n2024-01-02T00:00:00Z,2\n")
    february.write_text("2024-02-01T00:00:00Z,3\n")
    contract = load_contract(workspace.contract_path)
    with pytest.raises(Malformed, match="oldest first"):
        ingest(workspace, contract, [february, january])
    ingest(workspace, contract, [january, february])
    assert [one.value for one in current(workspace).readings] == [1, 2, 3]


def test_a_missing_file_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv"):
        ingest(workspace, load_contract(workspace.contract_path), [tmp_path / "none.csv"])


def test_the_copy_is_named_by_its_content_and_ingesting_again_adds_nothing(
    take_in: Ingest, workspace: Workspace
) -> None:
    take_in(GOOD)
    take_in(GOOD)
    digest = hashlib.sha256(GOOD.encode()).hexdigest()
    assert {path.name for path in workspace.raw.iterdir()} == {".gitkeep", "current.json", f"{digest}.csv"}


def test_a_copy_that_was_changed_is_noticed(take_in: Ingest, workspace: Workspace) -> None:
    take_in(GOOD)
    (copy,) = workspace.raw.glob("*.csv")
    copy.write_text(GOOD.replace("2\n", "3\n"))
    with pytest.raises(Malformed, match="was changed"):
        current(workspace)


def test_facts_say_what_was_read_and_guessed(take_in: Ingest) -> None:
    rows = [f"2022-09-10T00:{minute:02}:00Z,{value}\n" for minute, value in ((0, 7), (5, 8), (10, 8), (15, 8), (55, 9))]
    facts, _ = take_in("time,value\n" + "".join(rows))
    assert (facts.header, facts.format, facts.rows, facts.sensors) == (True, "csv", 5, 1)
    assert (facts.period_s, facts.gaps, facts.longest_stuck) == (300, 1, 3)
    assert (facts.lowest, facts.highest) == (7, 9)


def test_neither_a_period_nor_a_gap_nor_a_stuck_run_reaches_across_a_mark(take_in: Ingest) -> None:
    times = [f"2022-09-10T{hour:02}:{minute:02}:00Z" for hour in (0, 9) for minute in (0, 5, 10)]
    lines = [f"{time},7" for time in times]
    without, _ = take_in("\n".join(lines))
    lines.insert(3, "2022-09-10T08:00:00Z,replaced")
    facts, invalid = take_in("\n".join(lines))
    assert (without.gaps, without.longest_stuck, without.replaced) == (1, 6, 0)
    assert (facts.gaps, facts.longest_stuck, facts.replaced) == (0, 3, 1)
    assert (facts.rows, facts.invalid, invalid, facts.sensors, facts.period_s) == (6, 0, [], 1, 300)


def test_a_new_sensor_s_clock_may_be_behind_the_old_one_s(take_in: Ingest, workspace: Workspace) -> None:
    facts, _ = take_in(GOOD + "2022-09-10T00:06:00,replaced\n2022-09-09T00:00:00,3\n2022-09-09T00:05:00,4\n")
    assert (facts.invalid, facts.rows, facts.period_s, facts.gaps) == (0, 4, 300, 0)
    assert [one.value for one in current(workspace).readings] == [1, 2, 3, 4]


def test_eras_are_counted_across_files_and_marks_are_no_rows(workspace: Workspace, tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text(GOOD + "2022-09-10T00:06:00,replaced\n")
    second.write_text("2022-09-10T00:07:00,3\n2022-09-10T00:08:00,replaced\n2022-09-10T00:09:00,4\n")
    found = ingest(workspace, load_contract(workspace.contract_path), [first, second])
    checked = current(workspace)
    assert [facts.replaced for facts, _ in found] == [1, 1]
    assert [(one.rows, one.invalid) for one in checked.files] == [(2, 0), (2, 0)]
    assert len(checked) == 4 and sum(isinstance(one, Replaced) for one in checked.items) == 2
    assert frames.to_frame(checked.items)["era"].tolist() == [0, 0, 1, 2]
    assert data_quality(checked)["replaced"] == 2


def test_a_line_without_end_does_not_fill_the_memory(take_in: Ingest) -> None:
    _, invalid = take_in(GOOD + "9" * 5_000_000 + "\n2022-09-10T00:10:00,3\n")
    assert [(one.line, "longer than" in one.reason) for one in invalid] == [(3, True)]


def test_the_talk_s_file_loses_no_reading(take_in: Ingest, temps_csv: Path) -> None:
    facts, invalid = take_in(temps_csv.read_bytes())
    assert (facts.rows, facts.header, invalid) == (5832, False, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kinds: {temperature: {warm: 3}}", "warm"),
        ("kinds: {temperature: {warn: 90, critical: 80}}", "kinds.temperature.warn: 90.0 is not below critical"),
        ("kinds: {temperature: {range: [5, .inf]}}", "kinds.temperature.range:"),
        ("kinds: {temperature: {}}\nsensors: {a: {kind: oil}}", "'oil' is not one of the kinds"),
        ("kinds: {}", "no kind"),
        ("kinds: [", "contract.yml"),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused_by_the_field_s_name(
    workspace: Workspace, text: str, reason: str
) -> None:
    workspace.contract_path.write_text(text)
    with pytest.raises(AxleboxError, match=reason.replace(".", r"\.")):
        load_contract(workspace.contract_path)


@pytest.mark.parametrize("name", ["a\nb.csv", "a\x1b[2Jb.csv"])
def test_a_file_name_that_would_move_a_cursor_is_refused(workspace: Workspace, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(GOOD)
    with pytest.raises(UsageError, match="DO: rename the file") as refusal:
        ingest(workspace, load_contract(workspace.contract_path), [tmp_path / name])
    assert str(refusal.value).isprintable()
