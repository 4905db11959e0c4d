"""What a reader of files is, and what those that read columns share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from axlebox.runtime.readings import EARLIEST, LATEST, BadLine, Reading, Replaced

Batch = list[Reading | BadLine | Replaced]
ROWS = 8192
"""Rows in a batch, about."""


@dataclass(slots=True)
class Job:
    """One file to read. A reader fills in what it finds out on its way."""

    path: Path
    """Of the copy."""
    name: str
    """The file's own name, for people."""
    default_sensor: str
    """Whose readings are that name no sensor."""
    settings: Any = None
    """An instance of the reader's own type of settings, from conf/base/catalog.yml."""
    format: str = ""
    """In a word or two."""
    header: bool = False
    guessed: list[str] = field(default_factory=list)
    """What nobody said and the reader took to be so, or left out: for people, a few words each."""
    done: int = 0
    total: int = 0
    """How much was read, and of how much; 0: nobody knows."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How files of one format become readings."""

    name: str
    read: Callable[[Job], Iterator[Batch]]
    """Readings, marks and bad lines in the file's order, some thousands at a time. `line` is the number of the line,
    row, record or frame, from 1; what is no reading becomes a BadLine in its place.

    Raises AxleboxError where a file cannot be read at all.
    """
    settings: type[Struct] | None = None
    """What can be said of such files in conf/base/catalog.yml."""
    files: tuple[str, ...] = ()
    """Those of the settings that name a file which is needed too, relative to the workspace."""
    recognises: Callable[[Path, bytes], bool] | None = None
    """Whether a file is of this format, by its name and its first 4096 bytes; None: only where somebody says so."""


def to_batch(
    times: NDArray[np.float64],
    sensors: Sequence[str],
    values: NDArray[np.float64],
    first: int,
    bad: Mapping[int, str],
) -> Batch:
    """Readings of rows; `first` is the number of the first one, `bad` has the reasons of those that are none."""
    numbers = range(first, first + len(times))
    items: Batch = list(map(Reading, times.tolist(), sensors, values.tolist(), numbers))
    for row in np.flatnonzero(~((times >= EARLIEST) & (times <= LATEST))).tolist():
        items[row] = BadLine(first + row, f"{times[row]:g} is not a time (POSIX seconds)")
    for row, reason in bad.items():
        items[row] = BadLine(first + row, reason)
    return items


def one_line(error: BaseException) -> str:
    """What somebody else's code says of a file, in one line; it may quote the whole file."""
    return " ".join(str(error).split())[:200] or type(error).__name__
