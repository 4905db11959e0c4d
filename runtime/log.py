"""What the daemon says on stderr: in lines for people, or as JSON; for systemd's journal with its levels."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic

from axlebox.runtime.commandline import printable
from axlebox.runtime.config import LogSettings

LOG = logging.getLogger("axlebox")
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
"""sd-daemon(3): <N> at the beginning of a line is its level."""


class _ToStderr(logging.Handler):
    """Resolves stderr anew each time; where it takes nothing, nothing is said."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return


class _Words(logging.Formatter):
    def __init__(self, prefixed: bool) -> None:
        super().__init__()
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_SYSLOG.get(record.levelno, 5)}>" if self._prefixed else ""
        return f"{prefix}axleboxd: {printable(record.getMessage())}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat()
        fields: Mapping[str, object] = getattr(record, "fields", {})
        return json.dumps(
            {"time": time, "level": record.levelname.lower(), "message": record.getMessage(), **fields}, default=str
        )


def set_up(settings: LogSettings) -> None:
    """Say things in this way from now on."""
    handler = _ToStderr()
    handler.setFormatter(_Json() if settings.format == "json" else _Words(_is_journal()))
    LOG.handlers[:] = [handler]
    LOG.setLevel(settings.level.upper())
    LOG.propagate = False


def _is_journal() -> bool:
    """Whether stderr is the journal's, by what systemd.exec(5) puts into JOURNAL_STREAM."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def say(line: str, **fields: object) -> None:
    LOG.warning("%s", line, extra={"fields": fields})


def info(line: str, **fields: object) -> None:
    LOG.info("%s", line, extra={"fields": fields})


class Sampler:
    """A few of many lines: at most `at_most` in `period_s`, then how many were left out."""

    def __init__(self, at_most: int = 5, period_s: float = 60.0) -> None:
        self._at_most = at_most
        self._period_s = period_s
        self._began = float("-inf")
        self._said = 0
        self._left_out = 0

    def say(self, line: str, **fields: object) -> None:
        now = monotonic()
        if now - self._began >= self._period_s:
            self.tell_rest()
            self._began, self._said = now, 0
        if self._said < self._at_most:
            self._said += 1
            say(line, **fields)
        else:
            self._left_out += 1

    def tell_rest(self) -> None:
        """How many were left out since that was last said."""
        if self._left_out:
            say(f"and {self._left_out} more like these", left_out=self._left_out)
            self._left_out = 0
