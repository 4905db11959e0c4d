"""The page itself: one file with its style, its script and plotly.js inside, that may load nothing from anywhere.

Whatever comes from outside (names of sensors, files and people) is escaped here: once for HTML, once for the
JSON inside a script, once for the small HTML of its own that plotly reads in every text.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import msgspec

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_DATA_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_NO_SCRIPT = "<noscript><p class=warning>The plots need JavaScript; the tables are all there without it.</p></noscript>"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html(text: object) -> Html:
    """Anything as HTML; what is HTML already stays as it is."""
    return text if isinstance(text, Html) else Html(escape(str(text), quote=True))


def plain(text: object) -> str:
    """Text for a plot: plotly would take tags in it for bold type and links."""
    return escape(str(text), quote=False)


def paragraph(text: object, kind: str = "") -> Html:
    return Html(f"<p class='{kind}'>{html(text)}</p>" if kind else f"<p>{html(text)}</p>")


def table(rows: Sequence[tuple[object, object]]) -> Html:
    """A heading and a text in each row."""
    return Html("<table>" + "".join(f"<tr><th>{html(name)}<td>{html(text)}" for name, text in rows) + "</table>")


def grid(heads: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """A table with a heading over each column; cells that are None stay empty."""
    head = "".join(f"<th scope=col>{html(one)}" for one in heads)
    body = "".join("<tr>" + "".join(map(_cell, row)) for row in rows)
    return Html(f"<div class=wide><table class=grid><tr>{head}{body}</table></div>")


def _cell(value: object) -> str:
    if value is None:
        return "<td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"<td class=number>{value:,}" if isinstance(value, int) else f"<td class=number>{value:.4g}"
    return f"<td>{html(value)}"


def details(summary: str, inside: Html) -> Html:
    return Html(f"<details><summary>{html(summary)}</summary>{inside}</details>")


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot: plotly's traces and layout, whose colours are names of variables in report.css."""

    shows: str
    """What it shows, for those who do not see it."""
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height: int = 300
    caption: str = ""

    def html(self) -> Html:
        data = msgspec.json.encode({"data": self.traces, "layout": {**_BASE, **self.layout}}).decode()
        for character, safe in _DATA_ESCAPES.items():
            data = data.replace(character, safe)
        return Html(
            f"<figure><div class=plot role=img aria-label='{escape(self.shows)}' style='height:{self.height}px'></div>"
            f"<figcaption>{escape(self.caption)}</figcaption>"
            f"<script type='application/json'>{data}</script></figure>"
        )


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {
        **({"title": {"text": title, "standoff": 8}} if title else {}),
        "gridcolor": "--edge",
        "linecolor": "--edge",
        "zerolinecolor": "--edge",
        "automargin": True,
        **more,
    }


_BASE: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"size": 12.5, "color": "--text"},
    "hoverlabel": {"bgcolor": "--page", "bordercolor": "--muted", "font": {"color": "--text"}, "align": "left"},
    "margin": {"l": 60, "r": 20, "t": 34, "b": 44},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "--muted", "activecolor": "--text"},
}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading that can be linked to."""

    anchor: str
    title: str
    parts: Sequence[Html]


def page(title: str, top: Sequence[Html], sections: Sequence[Section]) -> str:
    links = " ".join(f"<a href='#{one.anchor}'>{html(one.title)}</a>" for one in sections)
    body = "\n".join(
        f"<section id={one.anchor}><h2>{html(one.title)}</h2>\n" + "\n".join(one.parts) + "\n</section>"
        for one in sections
    )
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        "<meta name=viewport content='width=device-width'>\n"
        f"<title>{html(title)}</title>\n<style>\n{_own('report.css')}</style>\n</head>\n<body>\n<header>\n"
        + "\n".join(top)
        + f"\n{_NO_SCRIPT}\n<nav aria-label='parts of the report'>{links}</nav>\n</header>\n<main>\n{body}\n</main>\n"
        f"<footer>{_credits()}</footer>\n"
        f"<script>{_plotly()}</script>\n<script>\n{_own('report.js')}</script>\n</body>\n</html>\n"
    )


def _own(name: str) -> str:
    return (resources.files("axlebox.training.report") / name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """plotly.js, from the files of the installed plotly, which is not imported for it."""
    package = Path(str(metadata.distribution("plotly").locate_file("plotly")))
    script = (package / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    # What would end the script element early, or make a comment of the rest, does not occur in it.
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("this plotly.js cannot stand inside a page")
    return script


def _credits() -> Html:
    files = metadata.distribution("plotly").files or ()
    licence = next((one.read_text() for one in files if one.name.startswith("LICENSE") and "dist-info" in str(one)), "")
    return details(
        "The plots are drawn by plotly.js, which this page contains; its licence", Html(f"<pre>{escape(licence)}</pre>")
    )
