"""Temperatures of the Linux kernel's own files: hwmon (tempN_input) and thermal zones (temp), in thousandths of a C.

https://docs.kernel.org/hwmon/sysfs-interface.html, https://docs.kernel.org/driver-api/thermal/sysfs-api.html
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from time import monotonic, time

from axlebox.runtime.readings import Reading
from axlebox.runtime.signals import Signals
from axlebox.runtime.sources.base import IDLE_S, Health, Item

_MAX_BYTES = 64
_PER_DEGREE = 1000.0


class Hwmon:
    """One reading of each sensor every `period_s`, stamped with the box's clock.

    A file that cannot be read is a reading lost; it is looked for again each time, since the numbers
    in hwmon's paths change from boot to boot.
    """

    patience_s = 0.0
    position = None
    cut_bytes = 0

    def __init__(self, sensors: Mapping[str, str], period_s: float, signals: Signals) -> None:
        """`sensors`: by id the pattern of its file's path, as in shell (`*`, `?`, `[...]`)."""
        self.uri = "hwmon:"
        self.health = Health()
        self._sensors = sensors
        self._period_s = period_s
        self._signals = signals
        self._due = monotonic()

    def batches(self) -> Iterator[list[Item]]:
        while not self._signals.asked:
            wait = self._due - monotonic()
            if wait > 0:
                self._signals.wait(min(wait, IDLE_S))
                if wait > IDLE_S and not self._signals.asked:
                    yield []
                continue
            self._due = max(self._due + self._period_s, monotonic())  # a box that slept catches nothing up
            yield self._look()

    def _look(self) -> list[Item]:
        now = time()
        items: list[Item] = []
        failure = None
        for sensor, pattern in self._sensors.items():
            try:
                items.append(Reading(now, sensor, _read(pattern)))
            except (OSError, ValueError) as error:
                self.health.lost += 1
                failure = f"{sensor}: {error}"
        if items and not self.health.connected:
            self.health.up()
        if not items:
            self.health.down(failure)
        self.health.error = failure
        return items

    def close(self) -> None:
        pass


def _read(pattern: str) -> float:
    """Degrees. Raises OSError, ValueError."""
    found = sorted(glob.glob(pattern))  # noqa: PTH207 - a pattern may begin anywhere, Path.glob has one folder to begin in
    if len(found) != 1:
        raise OSError(f"{pattern} names {len(found)} files, expected one")
    handle = os.open(found[0], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        text = os.read(handle, _MAX_BYTES)
    finally:
        os.close(handle)
    return int(text) / _PER_DEGREE
