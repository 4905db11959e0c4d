"""The constants of the feature set `streaming`, from a training's readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.runtime.streaming_constants import FEATURES, Constants, Tail
from axlebox.runtime.tails import SHARE
from axlebox.training.parameters import StreamingParameters
from axlebox.training.series import Progress, Series, replay

Numbers = NDArray[np.float64]

NEVER = 1e300
"""A sum of tails that no reading reaches."""
LEAST_READINGS = 50
"""So few, past the warm-up, have one reading beyond a tail's level of 2 %."""
_DAYS_FOR_HOURS = 2.0
_STEPPED = ("jump", "outside", "sibling", "value")
"""These move in steps of the sensor's resolution; the others are means."""
_SHRINK = 20.0
"""So many exceedances weigh as much as those of both sides together."""
_SMALLEST_EXCESS = 0.02
_RARE = 50
"""A side that fewer rows are on than a level would leave, but at least so many, has a tail of its own."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kind's series with constants whose tails are fitted, and that suspect nothing yet."""

    series: list[Series]
    warmups: list[int]
    """Readings of each series that are not trained on."""
    constants: Constants
    warmup: int
    """Readings of a sensor on the vehicle before its first model event."""

    @property
    def days(self) -> float:
        """Sensor-days past the warm-ups."""
        rows = sum(len(one) - warmup for one, warmup in zip(self.series, self.warmups, strict=True))
        return rows * self.constants.period_s / 86400


def prepare(series: list[Series], period: float, settings: StreamingParameters, progress: Progress) -> Prepared:
    """Constants with fitted tails. Raises Malformed where there are too few readings, or they never change."""
    warmups = [min(settings.warmup, max(30, len(one) // 20), len(one)) for one in series]
    usable = sum(len(one) - warmup for one, warmup in zip(series, warmups, strict=True))
    if usable < LEAST_READINGS:
        raise Malformed(
            f"{usable} readings past the warm-up of {len(series)} sensors are too few to train on; at least "
            f"{LEAST_READINGS} are needed, so that one of them lies beyond a tail's level of {SHARE:.0%}"
        )
    constants = _first_constants(series, settings, period)
    replays = replay(series, constants, warmups, "features", progress, with_values=True)
    spans = [one.values[warmup:] for one, warmup in zip(replays, warmups, strict=True)]
    resolution = _resolution(series) / constants.scale
    sides = _fit_tails(np.concatenate(spans), resolution)
    return Prepared(series, warmups, replace(constants, sides=sides), settings.warmup)


def _first_constants(series: Sequence[Series], settings: StreamingParameters, period: float) -> Constants:
    values = np.concatenate([one.values() for one in series])
    median = float(np.median(values))
    low, high = np.percentile(values, [25, 75])
    if values.min() == values.max():
        raise Malformed(f"all {len(values)} readings are {median:g}: there is nothing to learn from a constant sensor")
    scale = float(
        max(
            (high - low) / 1.349,
            1.4826 * np.median(np.abs(values - median)),
            0.25 * values.std(),
            0.001 * np.ptp(values),
        )
    )
    scaled = (values - median) / scale
    lowest, highest = np.percentile(scaled, [0.5, 99.5])
    distances = [_median_of(one.deviations) for one in series]
    known = np.array([one for one in distances if one is not None]) / scale
    shortest = min(one.readings[-1].time - one.readings[0].time for one in series)
    by_hour = settings.hour_of_day
    if by_hour is None:
        by_hour = shortest >= _DAYS_FOR_HOURS * 86400
    nothing = Tail(1.0, 1.0, 1.0)
    return Constants(
        period_s=period,
        median=median,
        scale=scale,
        fast_s=settings.fast * period,
        slow_s=settings.slow * period,
        hour_s=settings.hour * period,
        hour_of_day=float(by_hour),
        clock_from=min(one.readings[0].time for one in series),
        block_s=settings.block * period,
        blocks=float(settings.blocks),
        siblings=float(len(known) > 0),
        sibling_s=settings.sibling * period,
        sibling_back=settings.sibling_back,
        sibling_fresh_s=settings.sibling_fresh * period,
        offset_s=settings.offset * period,
        gap_s=settings.gap * period,
        restart_s=settings.restart * period,
        lowest=float(lowest) - 1.0,
        highest=float(highest) + 1.0,
        offset_bound=2.0 * float(np.percentile(np.abs(known), 90)) if len(known) else 0.0,
        warm_at=float(np.percentile(scaled, 25)),
        suspect_at=NEVER,
        calm_below=NEVER,
        calm_s=settings.calm * period,
        shadow_s=settings.shadow * period,
        tail_s=settings.tail * period,
        sides=((nothing, nothing),) * len(FEATURES),
        absent=(0.0,) * len(FEATURES),
    )


def _median_of(deviations: Sequence[float | None]) -> float | None:
    known = [one for one in deviations if one is not None]
    return float(np.median(known)) if known else None


def _resolution(series: Sequence[Series]) -> float:
    """The sensors' step, in degrees: nearly the smallest difference between two values that occur."""
    known = np.unique(np.concatenate([one.values() for one in series]))
    return float(np.percentile(np.diff(known), 20)) if len(known) > 1 else 0.0


def _fit_tails(values: Numbers, resolution: float) -> tuple[tuple[Tail, Tail], ...]:
    """Scale, level and mean excess of each feature, up and down."""
    sides = []
    for number, feature in enumerate(FEATURES):
        column = values[:, number]
        column = column[~np.isnan(column)]
        if len(column):
            both = _Both(column, resolution, feature in _STEPPED)
            sides.append((both.side(column), both.side(-column)))
        else:
            sides.append((Tail(1.0, 1.0, 1.0), Tail(1.0, 1.0, 1.0)))
    return tuple(sides)


class _Both:
    """A feature without its sign, on which a side with few rows leans."""

    def __init__(self, column: Numbers, resolution: float, stepped: bool) -> None:
        """`resolution` of the sensor, scaled; `stepped`: the feature moves in steps of it, and is no mean."""
        size = np.abs(column)
        self._resolution = resolution
        self._stepped = stepped
        self._spread = 0.25 * float(column.std())
        self._scale = max(float(np.percentile(size, 90)), self._spread, 1e-3)
        scaled = size / self._scale
        level = np.quantile(scaled, 1 - SHARE)
        self._excess = robust_mean(scaled[scaled > level] - level)

    def side(self, column: Numbers) -> Tail:
        """The tail of the positive values. Less than half the sensor's resolution is never a whole mean excess."""
        values = np.maximum(column, 0.0)
        positive = values[values > 0]
        weight = len(positive) / (len(positive) + 10 * _SHRINK)
        scale = weight * (float(np.percentile(positive, 90)) if len(positive) else 0.0) + (1 - weight) * self._scale
        scale = max(scale, min(self._spread, self._scale), 1e-3, self._resolution if self._stepped else 0.0)
        scaled = values / scale
        level = float(np.quantile(scaled, 1 - SHARE))
        rare = len(positive) >= _RARE
        if rare and len(positive) < 2 * SHARE * len(values):
            level = max(level, float(np.median(scaled[values > 0])))
        beyond = scaled > level
        if self._stepped and self._resolution and beyond.any():  # between two values that the sensor can report
            level = 0.5 * (level + float(scaled[beyond].min()))
            beyond = scaled > level
        count = int(beyond.sum())
        excess = (count * robust_mean(scaled[beyond] - level) + _SHRINK * self._excess) / (count + _SHRINK)
        excess = max(excess, _SMALLEST_EXCESS, 0.5 * self._resolution / scale)
        if rare:  # the level that a tail with this mean has where SHARE of the rows lie beyond it
            level += excess * float(np.log(min(max(count, 1) / len(values) / SHARE, 1.0)))
        return Tail(scale, max(level, 0.0), excess)  # nothing is no news


def robust_mean(excesses: Numbers) -> float:
    """Mean of what should be exponential, 0 for none: what is beyond five means, told by the median, counts as five.

    The mean of an exponential distribution is its median / ln 2; faults in training would spoil a plain mean.
    """
    if not len(excesses):
        return 0.0
    return float(np.minimum(excesses, 5 * np.median(excesses) / np.log(2)).mean())
