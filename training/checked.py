"""Readings after the gate: what it says of each, nothing dropped in silence, in columns that hold tens of millions."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import DataFile
from axlebox.runtime.gate import Gate
from axlebox.runtime.readings import REPLACED, BadLine, Reading, Replaced
from axlebox.runtime.statuses import INVALID, OK

if TYPE_CHECKING:
    import pandas as pd

KEPT_INVALID = 1000
"""So many of the readings that the gate holds back are kept with their reasons; all are counted."""


class Invalid(Struct, frozen=True):
    """A line or reading that training does not use, and why."""

    file: str
    line: int
    reason: str
    status: str = INVALID
    """As in statuses.py: the gate's."""


class Judge:
    """The gate's word on the items of one file, in order."""

    def __init__(self, gate: Gate, file: str, kept: list[Invalid]) -> None:
        """`kept` takes the first of what is held back."""
        self._gate = gate
        self._file = file
        self._kept = kept
        self.counts: Counter[str] = Counter()
        """Readings and bad lines by status, and marks as REPLACED."""

    def statuses(self, items: Sequence[Reading | BadLine | Replaced]) -> list[str]:
        """A status for each: the gate's, INVALID for a bad line, REPLACED for a mark."""
        gate = self._gate
        judge, offsets = gate.judge, gate.offsets
        found = []
        for item in items:
            if type(item) is Reading:
                verdict = judge(gate.corrected(item) if item.sensor in offsets else item)
                if verdict is None or verdict.status == OK:
                    found.append(OK)
                else:
                    found.append(verdict.status)
                    self._keep(item.line, verdict.reason, verdict.status)
            elif type(item) is BadLine:
                found.append(INVALID)
                self._keep(item.line, item.reason, INVALID)
            else:
                gate.forget(item.sensor)  # type: ignore[union-attr]  # mypy does not narrow by type()
                found.append(REPLACED)
        self.counts.update(found)
        return found

    def _keep(self, line: int, reason: str, status: str) -> None:
        if len(self._kept) < KEPT_INVALID:
            self._kept.append(Invalid(self._file, line, reason, status))

    @property
    def unused(self) -> int:
        """Rows that training does not use."""
        return self.counts.total() - self.counts[OK] - self.counts[REPLACED]

    @property
    def rows(self) -> int:
        """All but the marks."""
        return self.counts.total() - self.counts[REPLACED]


class Columns:
    """Readings in order, 21 bytes each, and the marks among them."""

    def __init__(self) -> None:
        self._times, self._values = array("d"), array("d")
        self._sensors, self._statuses = array("i"), array("b")
        self._names: dict[str, int] = {}
        self._words: dict[str, int] = {}
        self._marks: list[tuple[int, Replaced]] = []
        """Each with the number of readings before it."""

    def add(self, items: Sequence[Reading | BadLine | Replaced], statuses: Sequence[str]) -> None:
        """Items with a Judge's statuses; bad lines are no readings and left out."""
        names, words = self._names, self._words
        for item, status in zip(items, statuses, strict=True):
            if type(item) is Reading:
                self._times.append(item.time)
                self._values.append(item.value)
                self._sensors.append(names.setdefault(item.sensor, len(names)))
                self._statuses.append(words.setdefault(status, len(words)))
            elif type(item) is Replaced:
                self._marks.append((len(self._times), item))

    def __len__(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[tuple[Reading | Replaced, str]]:
        """Each reading and mark, with its status; the numbers of lines are those of the readings here."""
        names, words = list(self._names), list(self._words)
        rows = zip(self._times, self._sensors, self._values, self._statuses, strict=True)
        marks = iter([*self._marks, (-1, None)])
        at, mark = next(marks)
        for number, (time, sensor, value, status) in enumerate(rows):
            while at == number and mark is not None:
                yield mark, REPLACED
                at, mark = next(marks)
            yield Reading(time, names[sensor], value, number + 1), words[status]
        while mark is not None:
            yield mark, REPLACED
            at, mark = next(marks)

    def _eras(self) -> NDArray[np.int64]:
        eras = np.zeros(len(self), dtype=np.int64)
        sensors = np.frombuffer(self._sensors, dtype=np.int32)
        places: dict[str, list[int]] = {}
        for at, mark in self._marks:
            places.setdefault(mark.sensor, []).append(at)
        for name, before in places.items():
            if name in self._names:
                own = np.flatnonzero(sensors == self._names[name])
                eras[own] = np.searchsorted(before, own, side="right")
        return eras

    def frame(self) -> pd.DataFrame:
        """As in frames.py, with the column status."""
        import pandas as pd

        names, words = np.array([*self._names, ""], dtype=object), np.array([*self._words, ""], dtype=object)
        return pd.DataFrame(
            {
                "time": np.array(self._times, dtype=np.float64),
                "sensor": pd.Series(names[np.frombuffer(self._sensors, dtype=np.int32)], dtype=object),
                "value": np.array(self._values, dtype=np.float64),
                "era": self._eras(),
                "status": pd.Series(words[np.frombuffer(self._statuses, dtype=np.int8)], dtype=object),
            }
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """What one or more files hold, after the gate."""

    columns: Columns
    """Every reading, also those that the gate holds back, and the marks of replaced sensors: what a box would see."""
    counts: Mapping[str, int]
    """Readings and bad lines by status, and marks as REPLACED."""
    invalid: list[Invalid]
    """The first KEPT_INVALID of what is not used; `unused` says how many there are."""
    files: tuple[DataFile, ...]

    @property
    def stream(self) -> list[Reading | Replaced]:
        return [one for one, _ in self.columns]

    @property
    def statuses(self) -> list[str]:
        """The gate's status of each in `stream`; REPLACED for a mark."""
        return [status for _, status in self.columns]

    @property
    def items(self) -> list[Reading | Replaced]:
        """Readings that training uses, and the marks in their places among them."""
        return [one for one, status in self.columns if status in (OK, REPLACED)]

    @property
    def readings(self) -> list[Reading]:
        return [one for one, status in self.columns if status == OK and isinstance(one, Reading)]

    @property
    def replaced(self) -> int:
        """Marks."""
        return self.counts.get(REPLACED, 0)

    @property
    def unused(self) -> int:
        """Rows that training does not use, for whatever reason."""
        return sum(self.counts.values()) - len(self) - self.replaced

    def __len__(self) -> int:
        return self.counts.get(OK, 0)

    def __repr__(self) -> str:
        """For people at a prompt, who do not want every reading on the screen."""
        return f"<{len(self)} readings of {', '.join(one.name for one in self.files)}; {self.unused} invalid>"


def check_items(items: Iterable[Reading | BadLine | Replaced], gate: Gate, file: str) -> Checked:
    """What the gate says of each item, in order."""
    columns, invalid = Columns(), list[Invalid]()
    judge = Judge(gate, file, invalid)
    batch = list(items)
    columns.add(batch, judge.statuses(batch))
    return Checked(columns, judge.counts, invalid, ())


def held_back(counts: Mapping[str, int]) -> dict[str, int]:
    """How many readings the gate held back for each status but INVALID, in the order of the words."""
    return {status: count for status, count in sorted(counts.items()) if status not in (INVALID, OK, REPLACED)}


def with_eras(items: Iterable[Reading | Replaced]) -> Iterator[tuple[Reading, int]]:
    """Each reading with its era: how many marks of its sensor came before it."""
    marks: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Replaced):
            marks[item.sensor] += 1
        else:
            yield item, marks[item.sensor]
