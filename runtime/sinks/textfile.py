"""The sink `textfile:PATH`: metrics in a file for node_exporter's textfile collector.

https://github.com/prometheus/node_exporter#textfile-collector: it reads every *.prom file of one folder at
each scrape.
"""

from __future__ import annotations

import os
from pathlib import Path

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime.config import MetricsSettings
from axlebox.runtime.figures import Figures
from axlebox.runtime.metrics import render
from axlebox.runtime.sinks.displays import replace_file

_ENDING = ".prom"
_IN_MEMORY = ("tmpfs", "ramfs")


class Textfile:
    """Every `period_s` a new file takes the place of the one before: a reader finds a whole one."""

    def __init__(self, path: Path, settings: MetricsSettings) -> None:
        """Raises UsageError where node_exporter would not read the file, or it cannot be written."""
        self.uri = f"textfile:{path}"
        self.period_s = settings.period_s
        self.bytes_written = 0
        """To a disk: none where the file lies in memory."""
        self._path = path
        if path.suffix != _ENDING:
            raise UsageError(f"sink {self.uri}: node_exporter reads only files that end in {_ENDING}")
        if not path.parent.is_dir():
            raise UsageError(f"sink {self.uri}: there is no folder {path.parent}")
        try:
            # Numbers of a process that was killed must not stand here until the first picture.
            replace_file(path, "")
            self._on_disk = not _in_memory(path.parent)
        except OSError as error:
            raise UsageError(f"sink {self.uri}: {error.strerror}") from error

    def show(self, figures: Figures) -> None:
        written = replace_file(self._path, render(figures))
        if self._on_disk:
            self.bytes_written += written

    def close(self) -> None:
        """Remove the file: node_exporter would go on to give the last numbers as if they were present ones."""
        self._path.unlink(missing_ok=True)


def _in_memory(folder: Path) -> bool:
    """Whether a folder is on a file system without a disk, by proc_pid_mountinfo(5)."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            place, _, system = line.partition(" - ")
            if place.split()[2] == number:
                return system.split()[0] in _IN_MEMORY
    return False
