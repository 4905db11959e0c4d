"""The frozen constants of the feature set `streaming`, as the manifest carries them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from axlebox.firmware_bundle.errors import Malformed

FEATURES = ("jump", "season", "outside", "sibling", "sibling_slow", "value")
"""jump: from the reading before, in one period. season: slow mean of the distance from what is usual at this hour
of day. outside: distance from the range of the latest readings. sibling: distance from the siblings' median, less
the sensor's own usual one. sibling_slow: its slow mean. value: distance from the training's median."""

_SIDES = ("up", "down")
_MAY_BE_ZERO = frozenset({"siblings", "hour_of_day", "offset_bound"})
_MAY_BE_ANY = frozenset({"median", "lowest", "highest", "warm_at", "clock_from"})
MAX_BLOCKS = 100


class Tail(NamedTuple):
    """One side of one feature."""

    scale: float
    """Unit of the feature; training rows reach 1 in about one row of ten."""
    level: float
    excess: float
    """Mean of what exceeds the level."""


@dataclass(frozen=True, slots=True)
class Scalars:
    """All constants that are single numbers; times in seconds, temperatures `scaled` unless said otherwise."""

    period_s: float
    """Expected interval."""
    median: float
    """Of the training's readings, in degrees."""
    scale: float
    """Robust spread of the training's readings, in degrees."""
    fast_s: float
    """Time constant of `season`."""
    slow_s: float
    """Time constant of the slow mean, which stands in where the clock is not trusted, or hours of day are not used."""
    hour_s: float
    """Time spent in an hour of day until its mean follows no faster."""
    hour_of_day: float
    """1: what is usual is learnt by the hour of day (UTC)."""
    clock_from: float
    """A clock before this time (POSIX) is not trusted: then no hour of day is used, and none learnt."""
    block_s: float
    """The range of the latest readings is kept in blocks of this length,"""
    blocks: float
    """so many of them."""
    siblings: float
    """1: there were siblings in training, and the features of siblings are used."""
    sibling_s: float
    """Time constant of `sibling_slow` outwards,"""
    sibling_back: float
    """and so many times faster back to zero."""
    sibling_fresh_s: float
    """A sibling's reading counts at most so far away in time."""
    offset_s: float
    """How long a sensor's own usual distance from its siblings is learnt for, until it follows no faster."""
    gap_s: float
    """An interval counts at most this long."""
    restart_s: float
    """After a longer interval, filters and window begin anew."""
    lowest: float
    highest: float
    """What is learnt of a sensor's own level stays between these two."""
    offset_bound: float
    """What is learnt of its distance from its siblings stays this close to zero."""
    warm_at: float
    """Until a sensor has first been this warm since it began, `value` is absent: a cold start is no news."""
    suspect_at: float
    """From this sum of tails on, something is suspected,"""
    calm_below: float
    """until the sum has been below this one"""
    calm_s: float
    """for so long."""
    shadow_s: float
    """So long without suspicion, the shadow is thrown away."""
    tail_s: float
    """How fast the shadow's tails follow."""


SCALARS = tuple(field.name for field in fields(Scalars))
NAMES = frozenset(
    (
        *SCALARS,
        *(f"{feature}.absent" for feature in FEATURES),
        *(f"{feature}.{side}.{part}" for feature in FEATURES for side in _SIDES for part in Tail._fields),
    )
)


@dataclass(frozen=True, slots=True)
class Constants(Scalars):
    """All of them."""

    sides: tuple[tuple[Tail, Tail], ...]
    """Up and down of each of FEATURES."""
    absent: tuple[float, ...]
    """What the row shows for each of FEATURES where it has no number."""

    @classmethod
    def parse(cls, constants: Mapping[str, float]) -> Constants:
        """From the manifest. Raises Malformed naming what is missing, unknown or makes no sense."""
        wrong = sorted(NAMES ^ constants.keys())
        if wrong:
            what = "misses" if wrong[0] in NAMES else "does not know"
            raise Malformed(f"feature set streaming {what} the constant {wrong[0]}")
        for name, value in constants.items():
            least = 0.0 if name in _MAY_BE_ZERO else math.ulp(0.0)
            anything = name in _MAY_BE_ANY or name.endswith((".level", ".absent"))
            if not math.isfinite(value) or not (anything or value >= least):
                raise Malformed(f"feature set streaming: {name} is {value}")
        if constants["blocks"] != int(constants["blocks"]) or constants["blocks"] > MAX_BLOCKS:
            raise Malformed(f"feature set streaming: blocks is {constants['blocks']}, at most {MAX_BLOCKS}")
        if constants["lowest"] > constants["highest"]:
            raise Malformed("feature set streaming: lowest is above highest")
        sides = tuple((_tail(constants, f"{feature}.up"), _tail(constants, f"{feature}.down")) for feature in FEATURES)
        absent = tuple(constants[f"{feature}.absent"] for feature in FEATURES)
        return cls(**{name: constants[name] for name in SCALARS}, sides=sides, absent=absent)

    def flat(self) -> dict[str, float]:
        """As the manifest carries them."""
        flat: dict[str, float] = {name: float(getattr(self, name)) for name in SCALARS}
        for feature, pair, absent in zip(FEATURES, self.sides, self.absent, strict=True):
            flat[f"{feature}.absent"] = absent
            for side, tail in zip(_SIDES, pair, strict=True):
                flat |= {f"{feature}.{side}.{part}": value for part, value in tail._asdict().items()}
        return flat


def _tail(constants: Mapping[str, float], side: str) -> Tail:
    return Tail(*(constants[f"{side}.{part}"] for part in Tail._fields))
