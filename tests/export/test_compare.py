"""`axlebox compare`, and the pages that it and a proposal are told in."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from axlebox.export.pages import WIDTH, Bullets, Commands, Heading, Table, Text, html, markdown, terminal
from axlebox.training.champion import promote
from axlebox.training.runs import open_run
from axlebox.training.workspace import Workspace

EVIL = "<script>alert(1)</script> | [x](http://evil) `y` @all #1 \x1b[2J\nwww.evil.example ![i](j) _z_ **b**"
PAGE = [
    Heading(EVIL, 1),
    Text(EVIL),
    Bullets((EVIL, "short")),
    Commands(("axlebox export abc",)),
    Table(("", EVIL, EVIL), (("a.dotted_name", EVIL, "x" * 300), ("b", "", "2.0"))),
]


class Parts(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "data", "action", "style")]


@pytest.fixture(scope="module")
def two(axlebox: Any, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A workspace with a champion and a later run of other parameters; tests must not change it."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("two") / "fleet"))
    champion = open_run(folder / "runs", None).folder.name
    promote(Workspace(folder), champion, "first")
    axlebox.ok("train", "--params", "forest.n_estimators=10,threshold.target_false_alarms_per_day=1", cwd=folder)
    return folder, champion, open_run(folder / "runs", None).folder.name


def test_a_run_compared_with_itself_has_no_difference(axlebox: Any, two: tuple[Path, str, str]) -> None:
    folder, champion, _ = two
    found = json.loads(axlebox.ok("compare", "champion", champion, "--json", cwd=folder))
    assert found["before"] == found["after"] == champion
    assert not any(found["differences"].values())
    first, second = found["judgement"]["kinds"][0]["figures"]
    assert first == second and found["judgement"]["flags_gained"] == []


def test_two_runs_stand_side_by_side_on_a_terminal_and_in_files(
    axlebox: Any, two: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, champion, latest = two
    shown = axlebox.ok(
        "compare", "champion", "latest", "--html", tmp_path / "c.html", "--markdown", tmp_path / "c.md", cwd=folder
    )
    told = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert max(map(len, shown.splitlines())) <= 100
    assert next(line for line in shown.splitlines() if "forest.n_estimators" in line).split()[-2:] == ["20", "10"]
    assert "injected faults caught" in told and "no_worse_than_champion" in told
    page, text = (tmp_path / "c.html").read_text(), (tmp_path / "c.md").read_text()
    assert Parts(page).links == [] and "script" not in Parts(page).tags
    for written in (shown, page, text):
        assert f"{champion} (champion)" in written and latest in written and "forest.n_estimators" in written
    assert "| no_worse_than_champion |" in text


def test_parity_is_proved_on_request_and_a_gate_that_is_not_passed_ends_with_50(axlebox: Any, copied: Path) -> None:
    (open_run(copied / "runs", None).folder / "parity.json").unlink()
    done = axlebox("compare", "champion", "latest", "--require-gates", cwd=copied)
    assert done.returncode == 50 and "parity cannot be judged" in done.stderr
    assert "There is no champion yet" in done.stdout, "the comparison is shown all the same"
    axlebox.ok("compare", "champion", "latest", "--prove", "--require-gates", cwd=copied)


@pytest.mark.parametrize(
    ("words", "named"),
    [(("champion", "champion"), "no champion yet"), (("latest", "0123456789ab"), "there is no run 0123456789ab")],
)
def test_what_cannot_be_opened_is_one_line(axlebox: Any, exported: Path, words: tuple[str, ...], named: str) -> None:
    done = axlebox("compare", *words, cwd=exported)
    assert done.returncode == 2 and named in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_terminal_s_lines_fit_and_nothing_moves_its_cursor() -> None:
    lines = terminal(PAGE)
    assert max(map(len, lines)) <= WIDTH
    assert all(line.isprintable() for line in lines)
    joined = "".join("".join(lines).split())
    assert "x" * 60 not in joined or joined.count("x") >= 300, "long words are cut into lines, not off"


def test_what_others_wrote_is_no_markup_in_html() -> None:
    parts = Parts(html(EVIL, PAGE))
    assert "script" not in parts.tags and "img" not in parts.tags and "b" not in parts.tags and parts.links == []


def test_what_others_wrote_is_no_markup_in_markdown() -> None:
    text = markdown(PAGE)
    bare = text.replace("<!-- -->", "\0")
    assert "@\0all" in bare and "#\0001" in bare.replace("#\0" + "1", "#\0001")
    for line in bare.splitlines():
        unescaped = [one for at, one in enumerate(line) if one in "`<>[]*!" and not (at and line[at - 1] == "\\")]
        assert unescaped == [], line
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 4, "a cell never breaks its row"
    assert {row.replace("\\|", "").count("|") for row in rows} == {4}
    assert "://<!-- -->" in text and "www.<!-- -->" in text
    assert "2.0" in rows[-1] and "a.dotted_name" in rows[2]
