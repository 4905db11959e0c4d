"""The statuses of readings and sensors: the words of outcomes, `sensor` events, score files and `axleboxd status`."""

from __future__ import annotations

from typing import Final

OK: Final = "ok"
"""The model sees it."""
WARMING: Final = "warming"
"""The model sees it, but its flag is not used yet: the sensor's state is still being built."""
INVALID: Final = "invalid"
"""No reading at all: a line that is none, NaN, an infinity, a time that repeats or goes back, an unknown sensor."""
RANGE: Final = "range"
"""The sensor cannot report this: too cold, absurd, or too hot and found to be no heat."""
RATE: Final = "rate"
"""No temperature moves so fast: falling, or rising and found to be no heat."""
STUCK: Final = "stuck"
"""The very same value for too long."""
STALE: Final = "stale"
"""No reading for too long; a status of sensors only."""
HOT_OR_SENSOR: Final = "hot-or-sensor"
"""Out of range or too fast on the hot side, and not found to be the sensor: to be treated as heat."""

SENSOR_FAULTS: Final = (INVALID, RANGE, RATE, STUCK, STALE)
"""What a person looks for in the sensor and its cable; HOT_OR_SENSOR is not among them on purpose."""
