"""The documents name every command, option, exit code and word of the programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from axlebox.export.cli import cli as axlebox
from axlebox.firmware_bundle import errors
from axlebox.runtime.cli import cli as axleboxd
from axlebox.runtime.commandline import BUG, KEYBOARD

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = (REPOSITORY / "docs/commands.md").read_text()


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its whole name."""
    if isinstance(command, click.Group):
        for sub in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), sub)
            assert found is not None
            yield from walk(f"{name} {sub}", found)
    else:
        yield name, command


ALL = [*walk("axlebox", axlebox), *walk("axleboxd", axleboxd)]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", COMMANDS, re.M | re.S)
    assert section, f"docs/commands.md has no section '### {name}'"
    for parameter in command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else []:
            assert f"`{option}" in section[1], option


def test_every_exit_code_is_documented() -> None:
    table = (REPOSITORY / "docs/exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    used = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)}
    assert used | {0, BUG, KEYBOARD} <= documented


@pytest.mark.parametrize(
    "name", ["README.md", "SECURITY.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]
)
def test_every_link_between_documents_leads_somewhere(name: str) -> None:
    page = REPOSITORY / name
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{name} links to {target}"
