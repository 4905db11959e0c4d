"""How far a long step is: a line on a terminal that renews itself, and nothing elsewhere."""

from __future__ import annotations

import sys
from time import monotonic

from axlebox.training.series import Progress, silent

_AFTER_S = 2.0
_EVERY_S = 0.2


def on_terminal() -> Progress:
    """A Progress on stderr where that is a terminal; it appears after two seconds."""
    return _Line() if sys.stderr.isatty() else silent


class _Line:
    def __init__(self) -> None:
        self._next = monotonic() + _AFTER_S
        self._shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        now = monotonic()
        ended = total > 0 and done >= total
        if now < self._next and not (ended and self._shown):
            return
        self._next = now + _EVERY_S
        share = f"{done / total:4.0%}" if total else f"{done:,} readings"
        # The cursor goes back to the line's begin, so that whatever is written next, an error too, takes its place.
        sys.stderr.write(f"\r\x1b[K  {what}: {share}\r")
        self._shown = not ended
        if ended:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
