"""How the daemon itself does: silence of the whole source, scores that never change, memory.

Each becomes an event of type `health`, raised once and cleared once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from axlebox.firmware_bundle.errors import AxleboxError
from axlebox.firmware_bundle.manifest import Contract
from axlebox.runtime.config import HealthSettings
from axlebox.runtime.gate import MAX_SENSORS
from axlebox.runtime.outcomes import Outcome

SILENT_S = 60.0
"""Without a period in the contract, so many seconds without a reading are too many."""
_SILENT_PERIODS = 3.0
LOOK_S = 10.0
"""How often scores and memory are looked at."""
_FLAT_LOOKS = 100
"""A score is flat only after so many looks at changing values."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

NO_DATA, FLAT_SCORE = "no-data", "flat-score"


class TooMuchMemory(AxleboxError):
    """The daemon has grown beyond its bound; its state is kept, and a new start is small again."""

    exit_code = 70
    advice = "send the log to the makers of axlebox"


def patience_s(contract: Contract) -> float:
    """How long the whole source may be silent."""
    periods = [kind.period_s for kind in contract.kinds.values() if kind.period_s]
    return max(SILENT_S, _SILENT_PERIODS * max(periods, default=0.0))


def memory_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


class _Look:
    """What was seen of a sensor since its answers last changed."""

    __slots__ = ("answers", "began", "changes", "value")

    def __init__(self, answers: tuple[float | None, ...], value: float | None, now: float) -> None:
        self.answers, self.value, self.began, self.changes = answers, value, now, 0


class Health:
    """All times are seconds of the monotonic clock."""

    def __init__(self, settings: HealthSettings, contract: Contract, now: float) -> None:
        self.settings = settings
        self._patience_s = patience_s(contract)
        self._heard_at = now
        self._looked_at = now
        self._looks: dict[str, _Look] = {}
        self.memory_bytes = memory_bytes()
        self.raised: dict[tuple[str, str | None], str] = {}
        """By condition and sensor when it was raised."""

    def heard(self, now: float) -> None:
        """Readings came."""
        self._heard_at = now

    def turn(self, now: float, latest: Mapping[str, tuple[Outcome, float]]) -> list[dict[str, Any]]:
        """The events that are due; `latest` as in VehicleWatch. Raises TooMuchMemory."""
        events = list(self._silence(now))
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            events += self._flat(now, latest)
            self._weigh()
        return events

    def _silence(self, now: float) -> Iterator[dict[str, Any]]:
        silent_s = now - self._heard_at
        yield from self._set(
            NO_DATA,
            None,
            silent_s > (self.settings.no_data_after_s or self._patience_s),
            f"no reading for {silent_s:.0f} s",
        )

    def _flat(self, now: float, latest: Mapping[str, tuple[Outcome, float]]) -> Iterator[dict[str, Any]]:
        after_s = self.settings.flat_score_after_s
        if after_s == 0:
            return
        for sensor, (outcome, _) in latest.items():
            if outcome.score is None:
                continue
            answers = (outcome.score, outcome.tail_sum)
            look = self._looks.get(sensor)
            if look is None or look.answers != answers:
                if look is None and len(self._looks) >= MAX_SENSORS:
                    continue
                self._looks[sensor] = _Look(answers, outcome.value, now)
                yield from self._set(FLAT_SCORE, sensor, False, "")
                continue
            look.changes += look.value != outcome.value
            look.value = outcome.value
            flat = look.changes >= _FLAT_LOOKS and now - look.began >= after_s
            yield from self._set(FLAT_SCORE, sensor, flat, f"its score is {outcome.score} for {now - look.began:.0f} s")

    def _weigh(self) -> None:
        self.memory_bytes = memory_bytes()
        bound = self.settings.max_memory_mib * 1024 * 1024
        if self.memory_bytes > bound:
            raise TooMuchMemory(
                f"the daemon takes {self.memory_bytes / 2**20:.0f} MiB of memory, at most "
                f"{self.settings.max_memory_mib:g} are allowed (health.max_memory_mib); it ends in order"
            )

    def _set(self, what: str, sensor: str | None, holds: bool, reason: str) -> Iterator[dict[str, Any]]:
        """An event where a condition begins or ends to hold."""
        key = (what, sensor)
        if holds == (key in self.raised):
            return
        time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        event = {"type": "health", "what": what, "sensor": sensor, "time": time}
        if holds:
            self.raised[key] = reason
            yield {**event, "state": "raised", "reason": reason}
        else:
            yield {**event, "state": "cleared", "reason": self.raised.pop(key)}
