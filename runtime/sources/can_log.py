"""Readings from a recorded log of a CAN bus: candump's .log, .blf, .asc and what else python-can reads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
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


def _open_reader(path: Path) -> MessageReader:
    # Else the times of an .asc begin with 0.
    return can.LogReader(path, relative_timestamp=False)


class LogFrames:
    """The frames of a log in order, as far as it can be read."""

    def __init__(self, path: Path, open_reader: Callable[[Path], MessageReader] = _open_reader) -> None:
        """Reads the first frame. Raises UsageError."""
        self.broken: str | None = None
        """Why the log ended before its end."""
        self._reader, self._frames = _begin(path, open_reader)
        self._bytes, self._compressed = path.stat().st_size, path.suffix.lower() == ".gz"

    def next(self) -> list[can.Message]:
        """The next frames, at most _BATCH; none at the end."""
        frames: list[can.Message] = []
        try:
            for frame in islice(self._frames, _BATCH):
                frames.append(frame)  # extend() need not keep those before the broken one
        except Exception as error:  # a damaged log raises whatever its parser stumbles on
            self._frames = iter(())
            self.broken = f"{type(error).__name__} {brief(error)}"
        if not frames and self.broken is None:
            # python-can ends a .blf that was cut without a word. (The length of a compressed one says nothing.)
            blf = isinstance(self._reader, can.BLFReader) and not self._compressed
            if blf and self._bytes < self._reader.file_size:  # type: ignore[attr-defined]
                self.broken = f"{self._bytes} of {self._reader.file_size} bytes"  # type: ignore[attr-defined]
        return frames

    def close(self) -> None:
        self._reader.stop()


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
        os.close(open_file(path))  # says what is wrong with a path
        try:
            self._frames = LogFrames(path)
        except UsageError as error:
            raise UsageError(f"source {error}") from error
        self.health.up()

    @property
    def not_available(self) -> dict[str, int]:
        """By sensor: J1939 values that were error or not available, and so no readings."""
        return self._decoder.not_available

    def batches(self) -> Iterator[list[Item]]:
        while not self._signals.asked:
            frames = self._frames.next()
            if not frames:
                self._end()
                return
            yield [item for frame in frames for item in self._decoder.read(frame)]

    def _end(self) -> None:
        if not self.health.connected:
            return
        if self._frames.broken is None:
            self.health.down("its end was reached")
        else:
            self.health.lost += 1
            self.health.down(f"the log is broken: {self._frames.broken}")

    def close(self) -> None:
        self._frames.close()


def _begin(path: Path, open_reader: Callable[[Path], MessageReader]) -> tuple[MessageReader, Iterator[can.Message]]:
    reader: MessageReader | None = None
    try:
        reader = open_reader(path)
        frames = iter(reader)
        return reader, chain([next(frames)], frames)
    except Exception as error:  # as above
        cause = error
    if reader is not None:
        reader.stop()
    if isinstance(cause, StopIteration):
        raise UsageError(f"{path}: has no CAN frame")
    raise UsageError(f"{path}: is no CAN log that can be read: {brief(cause)}") from cause
