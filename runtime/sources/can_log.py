"""Readings from a recorded log of a CAN bus: candump's .log, .blf, .asc and what else python-can reads."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import can
from can.io.generic import MessageReader

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import CanSettings
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import Health, Item
from axlebox.runtime.sources.can_frames import FrameDecoder, brief
from axlebox.runtime.sources.replay import open_file

_BATCH = 1000
"""Frames."""


class CanLog:
    """A log replayed to its end, as fast as it is taken, with the times of its frames."""

    live = False
    patience_s = math.inf
    position = None
    cut_bytes = 0

    def __init__(self, path: Path, settings: CanSettings, signals: Signals) -> None:
        """Reads the first frame. Raises UsageError."""
        self.uri = f"canlog:{path}"
        self.health = Health()
        self._signals = signals
        self._decoder = FrameDecoder(settings, self.health)
        self._reader, self._frames = _open(path)
        self._bytes, self._compressed = path.stat().st_size, path.suffix.lower() == ".gz"
        self.health.up()

    @property
    def not_available(self) -> dict[str, int]:
        """By sensor: J1939 values that were error or not available, and so no readings."""
        return self._decoder.not_available

    def batches(self) -> Iterator[list[Item]]:
        while not self._signals.asked:
            frames = self._next()
            if not frames:
                self._end()
                return
            yield [item for frame in frames for item in self._decoder.read(frame)]

    def _next(self) -> list[can.Message]:
        frames: list[can.Message] = []
        try:
            for frame in islice(self._frames, _BATCH):
                frames.append(frame)  # extend() need not keep those before the broken one
        except Exception as error:  # a damaged log raises whatever its parser stumbles on
            self._break(f"{type(error).__name__} {brief(error)}")
        return frames

    def _break(self, why: str) -> None:
        self._frames = iter(())
        self.health.lost += 1
        self.health.down(f"the log is broken: {why}")

    def _end(self) -> None:
        if not self.health.connected:
            return
        # python-can ends a .blf that was cut without a word. (The length of a compressed one says nothing.)
        whole = self._reader.file_size if isinstance(self._reader, can.BLFReader) and not self._compressed else 0
        if self._bytes < whole:
            self._break(f"{self._bytes} of {whole} bytes")
        else:
            self.health.down("its end was reached")

    def close(self) -> None:
        self._reader.stop()


def _open(path: Path) -> tuple[MessageReader, Iterator[can.Message]]:
    os.close(open_file(path))  # says what is wrong with a path
    reader: MessageReader | None = None
    try:
        # Else the times of an .asc begin with 0.
        reader = can.LogReader(path, relative_timestamp=False)
        frames = iter(reader)
        return reader, chain([next(frames)], frames)
    except Exception as error:  # as above
        cause = error
    if reader is not None:
        reader.stop()
    if isinstance(cause, StopIteration):
        raise UsageError(f"source {path}: has no CAN frame")
    raise UsageError(f"source {path}: is no CAN log that can be read: {brief(cause)}") from cause
