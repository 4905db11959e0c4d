"""One page of headings, tables and lists, told three ways: on a terminal, in Markdown, and as HTML without a script.

What stands in a page was in part written by others (names of sensors and files, reasons of a contract's
check): nothing of it may move a terminal's cursor, become a link or a mention, or be markup.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from axlebox.runtime.commandline import printable

WIDTH = 100
"""Columns of a terminal, at most."""
_FIRST = 34
"""Columns of a table's first column on a terminal, at most."""
_GAP = "  "

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; margin: 2rem auto; max-width: 1160px; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top;
border-bottom: 1px solid #dbe2ea; overflow-wrap: anywhere } th { font-weight: 600; color: #4a5a6a }
pre { background: #f7f9fb; border: 1px solid #dbe2ea; border-radius: 4px; padding: .6rem; overflow-x: auto }
"""


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines for a shell."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Heading | Text | Bullets | Commands | Table


def terminal(blocks: Iterable[Block]) -> list[str]:
    """Lines of at most WIDTH columns."""
    lines: list[str] = []
    for block in blocks:
        match block:
            case Heading(text, _):
                lines += [*([""] if lines else []), *_wrapped(text, WIDTH)]
            case Text(text):
                lines += _wrapped(text, WIDTH)
            case Bullets(items):
                for item in items:
                    first, *rest = _wrapped(item, WIDTH - 2)
                    lines += [f"- {first}", *(f"  {line}" for line in rest)]
            case Commands(commands):
                lines += [f"    {line}" for line in commands]
            case Table(head, rows):
                lines += _terminal_table((head, *rows))
    return lines


def markdown(blocks: Iterable[Block]) -> str:
    """A page that reads well as it is, and as a comment on a pull request."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {_plain(text)}")
            case Text(text):
                parts.append(_plain(text))
            case Bullets(items):
                parts.append("\n".join(f"- {_plain(item)}" for item in items))
            case Commands(lines):
                parts.append("\n".join(f"    {_one_line(line)}" for line in lines))
            case Table(head, rows):
                rule = tuple("---" for _ in head)
                told = [tuple(map(_plain, head)), rule, *(tuple(map(_plain, row)) for row in rows)]
                parts.append("\n".join(f"| {' | '.join(row)} |" for row in told))
    return "\n\n".join(parts) + "\n"


def html(title: str, blocks: Iterable[Block]) -> str:
    """A page of its own, which asks nothing of anybody."""
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<meta name=viewport content='width=device-width'><title>{escape(title)}</title><style>{_STYLE}</style>\n"
        + "\n".join(_html(blocks))
        + "\n</html>\n"
    )


def _html(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(text, level):
                yield f"<h{level}>{escape(text)}</h{level}>"
            case Text(text):
                yield f"<p>{escape(text)}</p>"
            case Bullets(items):
                yield f"<ul>{''.join(f'<li>{escape(item)}' for item in items)}</ul>"
            case Commands(lines):
                yield f"<pre>{escape(chr(10).join(lines))}</pre>"
            case Table(head, rows):
                yield "<table><tr>" + "".join(f"<th>{escape(cell)}" for cell in head)
                yield from ("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
                yield "</table>"


def _terminal_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    count = len(rows[0])
    needed = [max(len(_one_line(row[at])) for row in rows) for at in range(count)]
    widths = [min(needed[0], _FIRST)]
    for at in range(1, count):  # what one column does not need, those after it may have
        left = WIDTH - sum(widths) - len(_GAP) * (count - 1)
        widths.append(min(needed[at], left // (count - at)))
    lines = []
    for row in rows:
        cells = [_wrapped(cell, max(1, width)) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = (cell[number] if number < len(cell) else "" for cell in cells)
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append(_GAP.join(padded).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(_one_line(text), width) or [""]


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no link, no mention of anybody."""
    text = re.sub(r"[\\`*\[\]<>|~!&{}]", lambda found: "\\" + found[0], _one_line(text))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = re.sub(r"^(\d*)([-+=.)])(?=\s|$)", r"\1\\\2", text)
    # Within a word these would be mentions, references and addresses, which a backslash does not prevent.
    return re.sub(r"[@#]|(?<=www)\.|(?<=:)//", lambda found: f"{found[0]}<!-- -->", text)
