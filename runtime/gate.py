"""The gate before the model: only readings that can be true get through.

A reading that is held back is reported as sensor status, never as an anomaly. What each status
means stands in statuses.py; which checks are made, in the data contract; how heat and broken
sensors are told apart, in heat.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.runtime.contract import check_contract
from axlebox.runtime.heat import CLIMBED, IMPOSSIBLE_PER_S, STEP_SHARE, Cause, Episode
from axlebox.runtime.readings import Reading, format_time
from axlebox.runtime.remembering import State, by_sensor, kept, put_back
from axlebox.runtime.statuses import INVALID, OK, RANGE, RATE, STUCK

MAX_SENSORS = 4096
LARGEST = 3.4028234663852886e38
"""The largest float32, which is what models take; NaN and infinities are not below it either."""
ABSURD = 3000.0
"""Degrees that nothing on a vehicle reaches while it still reports: a damaged value, in C, F and K alike."""

FOLLOWED_AFTER = 3
"""So many readings in a row that go on from another clock are INVALID; the next one is followed."""
SET_BACK_S = 180 * 86400.0
"""A clock that goes back by more than this was wrong before: no file in the wrong order, no late delivery."""
_JUMP = 10.0
"""A step so many times the one before it may be an outlier in time; the clock before it is remembered."""
_GAP_PERIODS = 10.0
"""Without stale_after_s, so many periods without a good reading are a gap."""
_HISTORY_S = 600.0
"""Length of the two stretches of time whose lowest values tell whether a sensor has been climbing."""
_SHORTEST_S = 1.0
"""Rates are taken over at least this time: noise between two readings in a moment is no rate."""


class Verdict(NamedTuple):
    """What the gate says of a reading that did not simply pass."""

    status: str
    reason: str = ""
    anew: bool = False
    """It passes, and what the model knows of its sensor begins anew with it; the reason says why."""
    episode: Episode | None = None
    """Where it cannot be true: what that is found to be."""


class _Clock:
    """What is remembered of every sensor."""

    __slots__ = ("before", "behind", "behind_time", "step", "time", "watched")

    def __init__(self, time: float, watched: _Watched | None) -> None:
        self.watched = watched
        """What its kind's checks need, where it has any."""
        self.time = time
        """Of the last reading whose time was good."""
        self.step = 0.0
        self.before = math.inf
        """The time before the last jump ahead."""
        self.behind = 0
        """Readings in a row that go on from an earlier clock."""
        self.behind_time = 0.0

    def goes_on(self, time: float) -> bool:
        """Whether a time behind the last one is one more reading by a clock that is to be followed."""
        back = self.time - time
        earlier = back > 0 and 0 < time - self.before < back
        if not earlier and back <= SET_BACK_S:
            self.behind = 0
            return False
        self.behind = self.behind + 1 if self.behind and time > self.behind_time else 1
        self.behind_time = time
        return self.behind > FOLLOWED_AFTER

    def follow(self, time: float) -> None:
        """Go on from an earlier time."""
        self.time, self.step, self.before, self.behind = time, 0.0, math.inf, 0

    def state(self) -> State:
        return [*kept(self, _CLOCK), None if self.watched is None else self.watched.state()]


class _Checks:
    """The checks of a kind, ready for use; infinite where they are off."""

    def __init__(self, kind: Kind) -> None:
        self.low, self.high = kind.range or (-math.inf, math.inf)
        self.rate = kind.max_rate_per_s or math.inf
        self.stuck_s = kind.stuck_after_s or math.inf
        self.stale_s = kind.stale_after_s or math.inf
        self.gap_s = kind.stale_after_s or _GAP_PERIODS * (kind.period_s or math.inf)
        self.step = STEP_SHARE * (self.high - self.low) if kind.range else 0.0
        """The largest step that passed through the values between."""
        self.warm = kind.warn if kind.warn is not None else math.inf
        self.any = any((kind.range, kind.max_rate_per_s, kind.stuck_after_s, kind.stale_after_s, kind.period_s))


class _Watched:
    """What is remembered of a sensor whose kind has checks."""

    __slots__ = (
        "anew", "checks", "dropout", "dropout_at", "episode", "good_time", "good_value", "low_before", "low_now",
        "low_since", "run_since", "run_value", "seen", "stuck",
    )  # fmt: skip

    def __init__(self, checks: _Checks) -> None:
        self.checks = checks
        self.seen = 0.0
        """When it last said anything, in the gate's own time."""
        self.restart("")

    def restart(self, why: str) -> None:
        """Forget the readings before: the next good one is compared with none of them, and begins anew."""
        self.anew = why
        self.episode: Episode | None = None
        self.good_time = self.good_value = self.run_value = self.run_since = math.nan
        self.low_now = self.low_before = math.inf
        self.low_since = -math.inf
        self.stuck = self.dropout = False
        self.dropout_at = -math.inf

    def state(self) -> State:
        return [*kept(self, _WATCHED), None if self.episode is None else self.episode.state()]

    def restore(self, state: State) -> None:
        *own, episode = state
        put_back(self, _WATCHED, own)
        self.episode = None if episode is None else Episode.restored(episode)


_CLOCK = tuple(name for name in _Clock.__slots__ if name != "watched")
_WATCHED = tuple(name for name in _Watched.__slots__ if name not in ("checks", "episode"))


class Gate:
    """Decides on each reading in order of arrival, with a bounded state for each sensor.

    A reading costs about 0.2 us without checks and 1.3 us with all of them; a sensor about 150 bytes
    without, 500 with them and 800 while its readings cannot be true, its dictionary entries included.
    """

    def __init__(self, contract: Contract) -> None:
        check_contract(contract)
        self._contract = contract
        self.offsets = {name: sensor.offset for name, sensor in contract.sensors.items() if sensor.offset}
        """The commissioning offsets that are not 0."""
        self._sensors: dict[str, _Clock] = {}
        self._checks = {name: checks for name, kind in contract.kinds.items() if (checks := _Checks(kind)).any}
        self._siblings = _siblings(contract)
        self._quiet: dict[_Checks, dict[str, _Watched]] = {
            checks: {} for checks in self._checks.values() if checks.stale_s < math.inf
        }
        """By kind with stale_after_s, the sensors that are not stale, those that were silent longest first."""
        self._now = 0.0
        """Seconds that have passed by the readings and by `tick`; no clock of a sensor, which may be wrong."""
        self._ahead: float | None = None
        """By how much that is ahead of the caller's monotonic clock."""

    def state(self) -> State:
        quiet = [name for sensors in self._quiet.values() for name in sensors]
        return [self._now, by_sensor(self._sensors, _Clock.state), quiet]

    def restore(self, state: State) -> None:
        """The time until the next `tick` counts as none."""
        self._now, sensors, quiet = state
        self._ahead = None
        self._sensors = {name: self._restored(name, one) for name, one in sensors.items()}
        for ones in self._quiet.values():
            ones.clear()
        for name in quiet:
            watched = self._sensors[name].watched
            if watched is None:
                raise ValueError(f"nothing watches {name}")
            self._quiet[watched.checks][name] = watched

    def _restored(self, name: str, state: State) -> _Clock:
        *own, watched = state
        clock = _Clock(0.0, None)
        put_back(clock, _CLOCK, own)
        if watched is not None:
            clock.watched = _Watched(self._checks[self._contract.kind_of(name) or ""])
            clock.watched.restore(watched)
        return clock

    def corrected(self, reading: Reading) -> Reading:
        """The reading with its sensor's commissioning offset added, which comes before everything else."""
        return replace(reading, value=reading.value + self.offsets.get(reading.sensor, 0.0))

    def judge(self, reading: Reading) -> Verdict | None:
        """None where a reading passes and nothing is to be said of it."""
        sensor = self._sensors.get(reading.sensor)
        if sensor is None:
            return self._first(reading)
        step = reading.time - sensor.time
        if step > 0 and abs(reading.value) <= LARGEST:
            if step > _JUMP * sensor.step > 0:
                sensor.before = sensor.time
            sensor.time = reading.time
            sensor.step = step
            sensor.behind = 0
            return None if sensor.watched is None else self._check(sensor.watched, reading, step, "")
        return self._out_of_order(sensor, reading, step)

    def _out_of_order(self, sensor: _Clock, reading: Reading, step: float) -> Verdict | None:
        """A reading whose value is no number, or whose time does not go on."""
        if step <= 0:
            how = "repeats" if step == 0 else "goes back behind"
            reason = f"its time {how} {format_time(sensor.time)}"
            if not abs(reading.value) <= LARGEST or not sensor.goes_on(reading.time):
                self._heard(sensor.watched, reading, 0.0)
                return Verdict(INVALID, reason)
            followed = f"its clock went back from {format_time(sensor.time)}"
            sensor.follow(reading.time)
            if sensor.watched is None:
                return Verdict(OK, followed, anew=True)
            return self._check(sensor.watched, reading, 0.0, followed)
        self._heard(sensor.watched, reading, 0.0)
        return Verdict(INVALID, f"its value is {reading.value}")

    def tick(self, now: float) -> None:
        """Time passes, also without readings: `now` is in seconds of any clock that is never set.

        Readings may be ahead of it, as in a replay; their time and this one are not added up.
        """
        ahead = self._now - now if self._ahead is None else max(self._ahead, self._now - now)
        self._now, self._ahead = now + ahead, ahead

    def newly_stale(self) -> Iterator[tuple[str, float, float]]:
        """Sensors that have said nothing for too long, each told once: id, time of its last reading, and how long."""
        for checks, sensors in self._quiet.items():
            while sensors:
                name, sensor = next(iter(sensors.items()))
                if self._now - sensor.seen <= checks.stale_s:
                    break
                del sensors[name]
                yield name, self._sensors[name].time, checks.stale_s

    @property
    def watches_silence(self) -> bool:
        """Whether any kind has stale_after_s."""
        return bool(self._quiet)

    def __len__(self) -> int:
        """How many sensors are known by a reading whose time and value were good."""
        return len(self._sensors)

    def last(self, sensor: str) -> float | None:
        """Time of a sensor's last reading whose time and value were good, or None."""
        known = self._sensors.get(sensor)
        return None if known is None else known.time

    def forget(self, sensor: str) -> None:
        """The next reading of a sensor is its first."""
        self._sensors.pop(sensor, None)
        for sensors in self._quiet.values():
            sensors.pop(sensor, None)

    def _first(self, reading: Reading) -> Verdict | None:
        kind = self._contract.kind_of(reading.sensor)
        if kind is None:
            return Verdict(INVALID, f"sensor {reading.sensor!r} is not in the contract, which has several kinds")
        if len(self._sensors) >= MAX_SENSORS:
            return Verdict(INVALID, f"more than {MAX_SENSORS} sensors")
        if not abs(reading.value) <= LARGEST:
            return Verdict(INVALID, f"its value is {reading.value}")
        checks = self._checks.get(kind)
        if checks is None:
            self._sensors[reading.sensor] = _Clock(reading.time, None)
            return None
        watched = _Watched(checks)
        self._sensors[reading.sensor] = _Clock(reading.time, watched)
        return self._check(watched, reading, 0.0, "")

    def _heard(self, sensor: _Watched | None, reading: Reading, step: float) -> None:
        """A sensor said something; `step` seconds after the last time, where its own clock can be believed."""
        if sensor is not None and sensor.checks.stale_s < math.inf:
            if step <= sensor.checks.stale_s:  # longer: its clock jumped, or it was silent, which it alone would show
                self._now = max(self._now, sensor.seen + step)
            sensor.seen = self._now
            quiet = self._quiet[sensor.checks]
            quiet.pop(reading.sensor, None)
            quiet[reading.sensor] = sensor

    # -- the checks of a kind ----------------------------------------------------------------------

    def _check(self, sensor: _Watched, reading: Reading, step: float, followed: str) -> Verdict | None:
        self._heard(sensor, reading, step)
        if followed:
            sensor.restart(followed)
        time, value, checks = reading.time, reading.value, sensor.checks
        odd = self._cannot_be_true(sensor, time, value)
        if odd is not None or sensor.episode is not None:
            verdict = self._episode(sensor, reading, odd)
            if verdict is not None:
                return verdict
        since = time - sensor.good_time  # NaN, and so no gap, before the first good reading
        if checks.stuck_s < math.inf and self._stuck(sensor, time, value, step):
            return Verdict(STUCK, f"it says {value} since {format_time(sensor.run_since)}")
        if checks.high < math.inf or checks.rate < math.inf:
            self._remember_lowest(sensor, time, value)
        sensor.good_time, sensor.good_value = time, value
        if sensor.anew or since > checks.gap_s:
            why, sensor.anew = sensor.anew, ""
            return Verdict(OK, why or f"no good reading for {since:.0f} s", anew=True)
        return None

    @staticmethod
    def _cannot_be_true(sensor: _Watched, time: float, value: float) -> tuple[str, float, bool] | None:
        """RANGE or RATE, what could have been, and whether it is too hot; None where a value can be true."""
        checks = sensor.checks
        if not checks.low <= value <= checks.high:
            hot = value > checks.high
            return RANGE, checks.high if hot else checks.low, hot and value < ABSURD
        if checks.rate < math.inf:
            reach = checks.rate * max(time - sensor.good_time, _SHORTEST_S)
            # NaN, and so in reach, before the first good reading.
            if abs(value - sensor.good_value) > reach:
                hot = value > sensor.good_value
                return RATE, sensor.good_value + (reach if hot else -reach), hot
        return None

    def _episode(self, sensor: _Watched, reading: Reading, odd: tuple[str, float, bool] | None) -> Verdict | None:
        """Begin, go on with, or end a sensor's readings that cannot be true; None where it has ended."""
        episode, value = sensor.episode, reading.value
        if odd is None:
            if episode is None or not episode.frozen_at(value):
                sensor.episode = None
                return None
            odd = (episode.status, episode.limit, episode.hot)
        if episode is None or episode.hot != odd[2]:
            episode = sensor.episode = Episode(odd[0], odd[1], reading.time, value, odd[2])
            self._weigh(sensor, episode, reading)
        else:
            episode.go_on(reading.time, value, self._values_of_siblings(reading.sensor) if episode.hot else {})
        return Verdict(episode.shown, _in_words(episode, sensor, value), episode=episode)

    def _weigh(self, sensor: _Watched, episode: Episode, reading: Reading) -> None:
        """Tell a new episode what came before it."""
        step = abs(reading.value - sensor.good_value)
        seconds = max(reading.time - sensor.good_time, _SHORTEST_S)
        checks = sensor.checks
        rose = sensor.good_value - min(sensor.low_before, sensor.low_now) >= CLIMBED
        was_warm = rose or sensor.good_value >= checks.warm
        impossible = step > max(IMPOSSIBLE_PER_S, checks.rate if checks.rate < math.inf else 0.0) * seconds
        climbed = episode.status == RANGE and step <= checks.step and step <= checks.rate * seconds
        siblings = self._values_of_siblings(reading.sensor) if episode.hot else {}
        episode.weigh(climbed, impossible and not (was_warm and episode.hot), siblings)

    def _values_of_siblings(self, sensor: str) -> dict[str, float]:
        """The last good value of each sensor of the same group, or what it climbed to beyond that."""
        values = {}
        for name in self._siblings.get(sensor, ()):
            clock = self._sensors.get(name)
            sibling = None if clock is None else clock.watched
            if sibling is not None and not math.isnan(sibling.good_time):
                burns = sibling.episode is not None and sibling.episode.cause is Cause.HEAT
                values[name] = sibling.episode.value if burns and sibling.episode else sibling.good_value
        return values

    @staticmethod
    def _stuck(sensor: _Watched, time: float, value: float, step: float) -> bool:
        """Whether a value has been the very same for too long.

        One other value within a run is a dropout and does not end it; two in a row do, and so does a
        second one within stuck_after_s: a sensor that flickers lives. Silence is not sameness.
        """
        checks = sensor.checks
        if step <= min(checks.gap_s, checks.stuck_s) and not math.isnan(sensor.run_since):
            if value == sensor.run_value:
                sensor.dropout = False
                sensor.stuck = time - sensor.run_since >= checks.stuck_s
                return sensor.stuck
            if not sensor.dropout and time - sensor.dropout_at > checks.stuck_s:
                sensor.dropout, sensor.dropout_at = True, time
                return sensor.stuck
        sensor.run_value, sensor.run_since = value, time
        sensor.stuck = sensor.dropout = False
        sensor.dropout_at = -math.inf
        return False

    @staticmethod
    def _remember_lowest(sensor: _Watched, time: float, value: float) -> None:
        age = time - sensor.low_since
        if age > _HISTORY_S:
            sensor.low_before = sensor.low_now if age < 2 * _HISTORY_S else math.inf
            sensor.low_now, sensor.low_since = value, time
        elif value < sensor.low_now:
            sensor.low_now = value


def _siblings(contract: Contract) -> dict[str, tuple[str, ...]]:
    """The other sensors of each sensor's group."""
    groups: dict[str, list[str]] = {}
    for name, sensor in contract.sensors.items():
        if sensor.group is not None:
            groups.setdefault(sensor.group, []).append(name)
    return {name: tuple(one for one in group if one != name) for group in groups.values() for name in group}


def _in_words(episode: Episode, sensor: _Watched, value: float) -> str:
    if episode.status == RANGE:
        low, high = sensor.checks.low, sensor.checks.high
        return f"{value} lies outside the range {low} to {high}"
    return f"{value} is too far from {sensor.good_value}, faster than {sensor.checks.rate} a second"
