"""docs/threats.md: every row names a test that exists, and no attack that is known is without a row."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "threats.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| threat |")
]

KNOWN = """
one flipped bit at every byte; truncation at every byte; mixed-and-matched members; a member nobody signed; rollback;
old keys after a rotation; 1 of 2 signatures; the same key twice; the same signature under another key id; wrong root;
type confusion; deep JSON; bad UTF-8; wrong hardware; wrong vehicle; a path with ..; an absolute name; links; devices;
fifos; duplicate aliases; case aliases; Unicode aliases; huge size fields; 10,000 members; 2,000 signatures; trailing
data; a model with external data (.., absolute, symlink); a custom operator; an operator outside our own list; huge
tensors; a Loop; a bundle swapped after verification; a clock at 1970; a clock in 2100
"""


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_threat_names_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 4, row
    file, _, name = row[3].partition("::")
    assert name.startswith("test_") and name in functions_of(TESTS / file)


@pytest.mark.parametrize("attack", [" ".join(one.split()) for one in KNOWN.split(";")])
def test_a_known_attack_has_a_row(attack: str) -> None:
    assert attack in [row[0] for row in ROWS]
