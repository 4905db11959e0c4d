"""Words for a technician: plain lines of at most 79 columns, for a monochrome console."""

from __future__ import annotations

import textwrap

import click

from axlebox.runtime.commandline import printable

COLUMNS = 79
_INDENT = 7
_CUT = " ..."


class Screen:
    """Prints lines, wrapped below their first word; silent where a program reads the answer."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent

    def say(self, line: str) -> None:
        """One step, or a note to it."""
        if not self._silent:
            click.echo(wrapped(_plain(f"       {line}" if line.startswith("note:") else line), _INDENT))

    def verdict(self, word: str, *sentences: str) -> None:
        """The one line that counts, between two empty ones: PASS, FAIL or SAME, and what to do."""
        if not self._silent:
            click.echo()
            click.echo(wrapped(_plain(f"{word:<6} {' '.join(filter(None, sentences))}"), _INDENT))


def _plain(line: str) -> str:
    """In ASCII: a file on a stick may have any name, and the console any encoding."""
    return printable(line).encode("ascii", "replace").decode()


def wrapped(line: str, indent: int, at_most: int | None = None) -> str:
    """A line cut into several where it is too long, the others indented to below its text; `at_most` so many."""
    if len(line) <= COLUMNS and "\n" not in line:
        return line
    # The word at the indent begins where the others will: a path that is too long is broken there, not moved down.
    begins, rest = line[:indent].replace("\n", " "), line[indent:]
    lines = textwrap.wrap(rest, COLUMNS, initial_indent=begins, subsequent_indent=" " * indent, break_on_hyphens=False)
    if at_most is not None and len(lines) > at_most:
        # Not textwrap's max_lines, which leaves a path that is too long for its line out altogether.
        lines = [*lines[: at_most - 1], lines[at_most - 1][: COLUMNS - len(_CUT)] + _CUT]
    return "\n".join(lines)
