"""docs/threats.md: every row names tests that exist, and no attack that is known is without a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "threats.md").read_text()
ATTACKS_FILE = "firmware_bundle/test_attacks.py"

Row = list[str]
ROWS: list[Row] = [
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
tensors; a Loop; a bundle swapped after verification; expired metadata; a clock at 1970; a clock in 2100; one key
stolen; a stolen key used on; a clock set back to revive what expired; receipts rewritten afterwards; secrets in a log,
an error or a bundle; a connection that tells somebody; a hostile forest file in a workspace; a release for a newer
runtime; below min_sequence
"""
"""What must be refused, by name; a row may be added to docs/threats.md and none of these may go."""


@cache
def functions(file: str) -> frozenset[str]:
    """The tests in a file below tests/; none where there is no such file."""
    path = TESTS / file
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@cache
def attacks() -> dict[str, int]:
    """The names in the table ATTACKS, each with its exit code."""
    for node in ast.walk(ast.parse((TESTS / ATTACKS_FILE).read_text())):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ATTACKS":
            assert isinstance(node.value, ast.Dict)
            return {
                ast.literal_eval(key): ast.literal_eval(value.elts[2])
                for key, value in zip(node.value.keys, node.value.values, strict=True)
                if key is not None and isinstance(value, ast.Tuple)
            }
    raise AssertionError(f"no table ATTACKS in {ATTACKS_FILE}")


def named(row: Row) -> list[tuple[str, str, str | None]]:
    """The tests of a row: file, function, and the attack in brackets where there is one."""
    found = (re.fullmatch(r"(.+?)::(test_\w+)(?:\[(.+)\])?", one) for one in row[3].split("; "))
    return [(one[1], one[2], one[3]) if one else ("", "", None) for one in found]


def faults(row: Row) -> list[str]:
    """What is wrong with a row."""
    if len(row) != 4:
        return [f"{len(row)} cells"]
    wrong = []
    if not re.fullmatch(r"-|\d+(-\d+)?", row[2]):
        wrong.append(f"code {row[2]!r}")
    for file, function, attack in named(row):
        if function not in functions(file):
            wrong.append(f"no test {function!r} in {file!r}")
        elif attack is not None and (file != ATTACKS_FILE or str(attacks().get(attack)) != row[2]):
            wrong.append(f"no attack {attack!r} that ends with {row[2]}")
        elif attack is None and function == "test_attack":
            wrong.append("test_attack without the attack's name")
    return wrong


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_threat_names_tests_that_exist_and_its_exit_code(row: Row) -> None:
    assert faults(row) == []


@pytest.mark.parametrize("attack", [" ".join(one.split()) for one in KNOWN.split(";")])
def test_a_known_attack_has_a_row(attack: str) -> None:
    assert [row[0] for row in ROWS].count(attack) == 1


def test_every_attack_that_is_tried_is_in_a_row() -> None:
    told = {attack for row in ROWS for _, _, attack in named(row)}
    assert set(attacks()) - told == set()


GOOD = f"{ATTACKS_FILE}::test_attack[rollback]"
SPOILED: dict[str, Row] = {
    "no test": ["x", "y", "14", ""],
    "a test that is not there": ["x", "y", "14", f"{ATTACKS_FILE}::test_nothing"],
    "a second test that is not there": ["x", "y", "14", f"{GOOD}; {ATTACKS_FILE}::test_nothing"],
    "a file that is not there": ["x", "y", "14", "nowhere/test_x.py::test_attack"],
    "a helper that is no test": ["x", "y", "14", f"{ATTACKS_FILE}::_tar"],
    "an attack that is not there": ["x", "y", "14", f"{ATTACKS_FILE}::test_attack[nothing]"],
    "no attack": ["x", "y", "14", f"{ATTACKS_FILE}::test_attack"],
    "another exit code": ["x", "y", "15", GOOD],
    "no exit code": ["x", "y", "", GOOD],
    "a cell too few": ["x", "14", GOOD],
}


@pytest.mark.parametrize("row", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_row_is_found(row: Row) -> None:
    assert faults(["x", "y", "14", GOOD]) == []
    assert faults(row) != []
