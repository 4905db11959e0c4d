"""Sibling sensors: how far one is from the others of its group, at the same moment."""

from __future__ import annotations

from axlebox.runtime.remembering import State, by_sensor, kept, put_back


class _Latest:
    """The last two readings of a sensor."""

    __slots__ = ("before", "before_value", "time", "usual", "value")

    def __init__(self, time: float, value: float) -> None:
        self.time = self.before = time
        self.value = self.before_value = value
        self.usual: float | None = None
        """While something is suspected of it, its usual distance from its siblings."""


class Siblings:
    """Compares sensors of a group, moment by moment, whatever the order in which they report.

    When a sensor reports, it is its reading before that is compared, each sibling by its reading
    nearest in time to that one: by now all of them have reported for that moment.
    """

    def __init__(self, fresh_s: float) -> None:
        """Siblings whose nearest reading is further away in time than `fresh_s` do not count."""
        self._fresh_s = fresh_s
        self._groups: dict[str, dict[str, _Latest]] = {}

    def deviation(self, group: str, sensor: str, time: float, value: float) -> float | None:
        """Take a reading; returns the sensor's reading before, minus the median of its siblings then.

        A sibling that is suspected of something counts where it usually is among the others, as long as
        two others remain: one hot bearing must not make the cool ones look cold. None where there is
        none before, or fewer than two siblings.
        """
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = {}
        own = members.get(sensor)
        if own is None:
            members[sensor] = _Latest(time, value)
            return None
        moment, was = own.time, own.value
        own.before, own.before_value = moment, was
        own.time, own.value = time, value
        fresh = self._fresh_s
        values: list[float] = []
        suspected: list[tuple[float, float]] = []
        for other in members.values():
            if other is own:
                continue
            away, away_before = abs(other.time - moment), abs(other.before - moment)
            if away > fresh and away_before > fresh:
                continue
            near = other.value if away <= away_before else other.before_value
            if other.usual is None:
                values.append(near)
            else:
                suspected.append((near, other.usual))
        if suspected:
            if len(values) < 2:
                values += [near for near, _ in suspected]
            else:
                middle = _median(values)
                values += [middle + usual for _, usual in suspected]
        return was - _median(values) if len(values) > 1 else None

    def state(self) -> State:
        return {
            group: by_sensor(members, lambda one: kept(one, _Latest.__slots__))
            for group, members in self._groups.items()
        }

    def restore(self, state: State) -> None:
        self._groups = {
            group: {name: _restored(one) for name, one in members.items()} for group, members in state.items()
        }

    def suspect(self, group: str, sensor: str, usual: float | None) -> None:
        """Say that something is suspected of a sensor that has reported, and how far it usually is from its siblings;
        None: nothing is suspected."""
        self._groups[group][sensor].usual = usual

    def forget(self, group: str, sensor: str) -> None:
        """Another sensor answers to this id from now on."""
        members = self._groups.get(group)
        if members is not None:
            members.pop(sensor, None)


def _restored(state: State) -> _Latest:
    latest = _Latest(0.0, 0.0)
    put_back(latest, _Latest.__slots__, state)
    return latest


def _median(values: list[float]) -> float:
    """Of at least one; sorts them."""
    values.sort()
    count = len(values)
    middle = count >> 1
    return values[middle] if count & 1 else 0.5 * (values[middle - 1] + values[middle])
