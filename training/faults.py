"""Faults put into readings of one sensor: what a detector is measured with, on simulated or on recorded time.

All times are POSIX seconds, all sizes degrees of the readings' unit. A fault takes times (n,) in rising
order and values (n,), and returns new values with the mask (n,) of the faulty time; what lies outside
the mask is unchanged, except for a cold start, which is no fault. Where no reading is at or after the
onset, nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
Faulty = tuple[Numbers, Mask]
Inject = Callable[[Numbers, Numbers, float, np.random.Generator, float], Faulty]
"""Times, values, onset, random generator and size to new values and the mask of the faulty time."""

DAY_S = 86400.0
SPELL_S = 90_000.0
"""How long a fault is on, off and on again: 300 readings at one in five minutes."""
DROPOUT_S, BURST_S, STAND_S = 7200.0, 21600.0, 36000.0
COOLING_S = 2400.0
"""Time constant of a bearing in moving air."""
ERROR_VALUE = -40.0
"""What an open circuit reads on many inputs."""


def spike(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """The first reading from the onset on is `size` off."""
    faulty = np.arange(len(times)) == np.searchsorted(times, onset)
    return values + size * faulty, faulty


def step(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """`size` hotter from the onset on, for good."""
    faulty = times >= onset
    return values + size * faulty, faulty


def ramp(
    times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float, *, per_s: float
) -> Faulty:
    """Rises by `per_s` a second from the onset on, until it is `size` hotter, and stays there."""
    faulty = times >= onset
    rise = np.clip((times - onset) * abs(per_s), 0.0, abs(size))
    return values + np.copysign(1.0, size) * rise, faulty


def repeated(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """`size` hotter for SPELL_S, repaired for as long, and hotter again for as long."""
    spell = (times - onset) // SPELL_S
    faulty = (spell == 0) | (spell == 2)
    return values + size * faulty, faulty


def stuck(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """Every reading from the onset on repeats the first of them. Has no size."""
    faulty = times >= onset
    return np.where(faulty, values[faulty][:1], values) if faulty.any() else values.copy(), faulty


def dropout(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """Half of the readings of DROPOUT_S are lost at random: ERROR_VALUE stands in their place. Has no size."""
    faulty = _within(times, onset, DROPOUT_S) & (random.random(len(times)) < 0.5)
    return np.where(faulty, ERROR_VALUE, values), faulty


def noise_burst(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """White noise with the standard deviation `size` on top for BURST_S: a loose plug, a bad earth."""
    faulty = _within(times, onset, BURST_S)
    return values + size * faulty * random.standard_normal(len(times)), faulty


def cold_start(times: Numbers, values: Numbers, onset: float, random: np.random.Generator, size: float) -> Faulty:
    """The vehicle stands for STAND_S: cools down to the air, and then starts and warms up again. No fault.

    The air is taken as the lowest value of the day before the onset (of all values where there is none),
    `size` is the noise about it. Put it into all sensors of the vehicle, with one onset.
    """
    day_before = values[_within(times, onset - DAY_S, DAY_S)]
    if not len(times) or times[-1] < onset:
        return values.copy(), np.zeros(len(times), dtype=np.bool_)
    air = float(day_before.min() if len(day_before) else values.min())
    standing = np.clip(times - onset, 0.0, STAND_S)
    driving = np.maximum(times - onset - STAND_S, 0.0)
    cooled = (1.0 - np.exp(-standing / COOLING_S)) * np.exp(-driving / COOLING_S)
    cold = air + size * random.standard_normal(len(times))
    return values + cooled * (cold - values), np.zeros(len(times), dtype=np.bool_)


def _within(times: Numbers, begin: float, seconds: float) -> Mask:
    return np.asarray((times >= begin) & (times < begin + seconds))


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault with its usual size."""

    name: str
    what: str
    inject: Inject
    size: float = 0.0
    """Degrees; 0 where the kind has none."""
    alarms: bool = True
    """Whether a detector shall raise an anomaly."""
    lasts: bool = False
    """Whether it shall stay raised as long as the fault is there."""
    whole_vehicle: bool = False
    """Whether it happens to all sensors of a vehicle at once."""

    def apply(
        self, times: Numbers, values: Numbers, onset: float, random: np.random.Generator, scale: float = 1.0
    ) -> Faulty:
        """New values, and the mask of the faulty time; `scale` multiplies the usual size."""
        return self.inject(times, values, onset, random, self.size * scale)


_ALL = (
    Fault("spike", "one reading 60 C off", spike, 60.0),
    Fault("step", "25 C hotter for good", step, 25.0, lasts=True),
    Fault("ramp-1", "1 C a day, up to 40 C", partial(ramp, per_s=1 / DAY_S), 40.0, lasts=True),
    Fault("ramp-5", "5 C a day, up to 40 C", partial(ramp, per_s=5 / DAY_S), 40.0, lasts=True),
    Fault("ramp-20", "20 C a day, up to 40 C", partial(ramp, per_s=20 / DAY_S), 40.0, lasts=True),
    Fault("rise", "0.2 C a second, up to 40 C", partial(ramp, per_s=0.2), 40.0, lasts=True),
    Fault("drift", "0.1 C a day, up to 10 C", partial(ramp, per_s=0.1 / DAY_S), 10.0, lasts=True),
    Fault("repeated", "25 C hotter for 25 h, repaired for 25 h, and again", repeated, 25.0, lasts=True),
    # The gate finds these two: they are reported as the sensor's status, never as an anomaly.
    Fault("stuck", "one value for good", stuck, alarms=False),
    Fault("dropout", "half of the readings of 2 h are -40 C", dropout, alarms=False),
    Fault("noise", "noise of 5 C for 6 h", noise_burst, 5.0),
    Fault("cold-start", "10 h at rest, then a start: no fault", cold_start, 0.3, alarms=False, whole_vehicle=True),
)
FAULTS = {fault.name: fault for fault in _ALL}
"""Every kind by its name."""
