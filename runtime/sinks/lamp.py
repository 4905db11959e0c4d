"""The driver's lamp: a LED or an output pin, and one line of words beside it.

The lamp is on while something calls for somebody, and whenever axlebox does not watch: before the
first picture, after the end, and while its source is silent. A kill leaves it as it was; the
service's ExecStopPost (unit.py) then switches it on, and the wiring should make a box without
power show the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.commandline import printable
from axlebox.runtime.config import LampSettings
from axlebox.runtime.figures import Figures
from axlebox.runtime.readings import REPLACED
from axlebox.runtime.sinks.displays import replace_file
from axlebox.runtime.statuses import OK, WARMING

PERIOD_S = 5.0
_URGENCY = {"extreme": 2, "mild": 1}
_NOT_WATCHING = "axlebox does not watch. DO: tell maintenance"


class Lamp:
    """`path` takes `settings.on` and `settings.off`, as /sys/class/leds/X/brightness and .../gpioN/value do."""

    period_s = PERIOD_S
    bytes_written = 0  # a lamp's file is no disk, and its words belong into /run

    def __init__(self, path: Path, settings: LampSettings) -> None:
        """Raises UsageError where the lamp cannot be switched on."""
        self.uri = f"lamp:{path}"
        self._path = path
        self._settings = settings
        self._words: str | None = None
        try:
            self._set(True, _NOT_WATCHING)
        except OSError as error:
            raise UsageError(f"sink {self.uri}: {error.filename or path}: {error.strerror}") from error

    def show(self, figures: Figures) -> None:
        self._set(*sentence(figures))

    def close(self) -> None:
        self._set(True, _NOT_WATCHING)

    def _set(self, on: bool, words: str) -> None:
        # Each time, also where nothing changed: a driver that was loaded again begins with a dark LED.
        handle = os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.write(handle, (self._settings.on if on else self._settings.off).encode() + b"\n")
        finally:
            os.close(handle)
        place = self._settings.status_file
        if place is not None and words != self._words:
            self._words = None
            replace_file(Path(place), words + "\n")
            self._words = words


def sentence(figures: Figures) -> tuple[bool, str]:
    """Whether the lamp is on, and what is hot, how urgent, what to do, in one line: the most urgent first."""
    on, words = _sentence(figures)
    return on, printable(" ".join(words.split()))  # ids and actions are of other people's making


def _sentence(figures: Figures) -> tuple[bool, str]:
    if figures.open_events:
        worst = max(figures.open_events, key=_urgency)
        more = len({event["sensor"] for event in figures.open_events} - {worst["sensor"]})
        words = f"{_HOW[_urgency(worst)]}: {_what(worst)}"
        words += f", and {more} more" if more else ""
        return True, f"{words}. DO: {worst.get('action') or 'look at it'}"
    if figures.health:
        return True, f"axlebox does not watch: {figures.health[0]}. DO: tell maintenance"
    faulty = [one.sensor for one in figures.sensors if one.status not in (OK, WARMING, REPLACED)]
    if faulty:
        return False, f"OK, but {faulty[0]} is at fault{' and others are' if len(faulty) > 1 else ''}"
    return False, "OK"


_HOW = {2: "AT ONCE", 1: "SOON"}
_WHAT = {"limit": "is hot", "sensor": "is hot, or at fault itself"}


def _urgency(event: Mapping[str, Any]) -> int:
    return _URGENCY.get(event.get("severity") or "", 1)


def _what(event: Mapping[str, Any]) -> str:
    value = event.get("value")
    return f"{event['sensor']} {_WHAT.get(event['type'], 'is hot or unusual')}" + (
        "" if value is None else f" ({value:.0f})"
    )
