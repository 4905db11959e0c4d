"""Frames of readings: what the steps of a training hand to each other, and the streams that they stand for.

Frames have the columns time (POSIX seconds, UTC), sensor, value, and era: how many marks of the sensor
came before. A sensor's next era is the readings of another sensor under the same id. Where a column
status says so, they hold readings too that no model sees: the gate that replays a frame must find what
the gate of a box would find. Without it, all are good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from axlebox.runtime.readings import REPLACED, Reading, Replaced
from axlebox.runtime.statuses import OK, WARMING
from axlebox.training.checked import with_eras

_BATCH = 8192


def to_frame(items: Sequence[Reading | Replaced], statuses: Sequence[str] | None = None) -> pd.DataFrame:
    """A frame of a stream; `statuses` has one for each item, those of marks are left out."""
    rows = list(with_eras(items))
    frame = pd.DataFrame(
        {
            "time": np.array([one.time for one, _ in rows], dtype=np.float64),
            "sensor": pd.Series([one.sensor for one, _ in rows], dtype=object),
            "value": np.array([one.value for one, _ in rows], dtype=np.float64),
            "era": np.array([era for _, era in rows], dtype=np.int64),
        }
    )
    if statuses is None:
        return frame
    return frame.assign(status=pd.Series([one for one in statuses if one != REPLACED], dtype=object))


def used(frame: pd.DataFrame) -> pd.DataFrame:
    """The readings that a model sees."""
    return frame[frame["status"].isin((OK, WARMING))] if "status" in frame else frame


def in_order(frame: pd.DataFrame) -> Iterator[list[Reading | Replaced]]:
    """The stream that a frame came from, in batches: a mark, at the time of the reading after it, where an era begins.

    None where the frame itself begins with a later era: state is empty there anyway.
    """
    begins = frame.groupby("sensor", sort=False)["era"].diff() > 0 if "era" in frame else pd.Series(False, frame.index)
    for start in range(0, len(frame), _BATCH):
        rows = slice(start, start + _BATCH)
        columns = [frame[name].iloc[rows].tolist() for name in ("time", "sensor", "value")]
        items: list[Reading | Replaced] = []
        for line, (time, sensor, value, begin) in enumerate(zip(*columns, begins.iloc[rows].tolist(), strict=True)):
            if begin:
                items.append(Replaced(time, sensor))
            items.append(Reading(time, sensor, value, start + line + 1))
        yield items


def to_readings(frame: pd.DataFrame) -> list[Reading | Replaced]:
    """The whole stream at once."""
    return [item for batch in in_order(frame) for item in batch]
