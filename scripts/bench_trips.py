"""`./scripts/bench trips --data FILE`: the streaming detector on a car's coolant, trip by trip.

FILE is a CSV with the columns trip, s (seconds) and coolant_c; all others are ignored. For each seed the trips are
shuffled and dealt into folds: what is scored in a trip comes from a detector trained on the other folds alone, and
every trip is unseen exactly once, so that the hours of one seed are distinct. Seeds repeat that with other folds and
other faults on the same hours: they show the spread and add no exposure.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract, Kind
from axlebox.runtime.statuses import HOT_OR_SENSOR, OK, RANGE, RATE, WARMING

Values = NDArray[np.float64]

COOLANT = "coolant"
CONTRACT = Contract(kinds={COOLANT: Kind(period_s=1.0, range=(-35.0, 130.0))})
"""Neither limits nor a highest rate: what is caught is caught by the detector, or by the range where a wire breaks."""


def settings(seed: int, trees: int) -> dict[str, Any]:
    """What is trained: a car has no daily cycle, trips of minutes, and starts cold; times are in periods of 1 s."""
    return {
        "bundle": {"name": "bench"},
        "feature_set": "streaming",
        "forest": {"n_estimators": trees, "random_state": seed},
        "streaming": {"hour_of_day": False, "warmup": 60, "slow": 600.0, "block": 10.0},
        "threshold": {"target_false_alarms_per_1000_hours": 5.0},
    }


GOAL_HOURS = 25.0
"""At most one false event in so many vehicle-hours."""
WARM_C = 84.0
"""Faults begin when the engine has once been as warm as this ..."""
EARLIEST_S, LATEST_S, SHORTEST_S = 120, 500, 400
"""... not before so many readings, and so many before the end where the trip has more than the last number left."""
TOO_HOT_C = 110.0
PARKED_S = 3600.0
"""Between two trips in one frame; a new era all the same."""


class Trip(NamedTuple):
    name: str
    seconds: Values
    coolant: Values

    @property
    def hours(self) -> float:
        return float(self.seconds[-1] - self.seconds[0]) / 3600


# -- faults: (coolant of a whole trip, where it begins) -> coolant with the fault -----------------------


def jump(values: Values, at: int, degrees: float) -> Values:
    """All readings from `at` on are off by so many degrees."""
    return np.concatenate([values[:at], values[at:] + degrees])


def stuck_open(values: Values, at: int) -> Values:
    """The thermostat stays open: the coolant relaxes towards 55 C with a time constant of 200 s."""
    after = values[at:]
    share = 1 - np.exp(-np.arange(len(after)) / 200.0)
    return np.concatenate([values[:at], np.round(after + share * (55 - np.minimum(after, 90)))])


def overheating(values: Values, at: int) -> Values:
    """The coolant climbs by 0.2 C a second, up to 115 C."""
    climb = values[at] + 0.2 * np.arange(len(values) - at)
    return np.concatenate([values[:at], np.round(np.minimum(np.maximum(values[at:], climb), 115.0))])


def open_circuit(values: Values, at: int, says: float) -> Values:
    """The sensor reads one end of its scale."""
    return np.concatenate([values[:at], np.full(len(values) - at, says)])


class Fault(NamedTuple):
    make: Callable[[Values, int], Values]
    goal: float
    """Share of the trips in which it shall be caught."""
    below: float = math.inf
    """It counts as caught only before the coolant is as hot as this."""
    wire: bool = False
    """Caught means: held back by the gate from the first reading on, and no anomaly event."""


FAULTS = {
    "jump by +25 C": Fault(lambda values, at: jump(values, at, 25.0), 0.95),
    "jump by -25 C": Fault(lambda values, at: jump(values, at, -25.0), 0.95),
    "thermostat stuck open": Fault(stuck_open, 0.90),
    "overheating, before 110 C": Fault(overheating, 0.90, below=TOO_HOT_C),
    "open circuit, -40 C": Fault(lambda values, at: open_circuit(values, at, -40.0), 1.0, wire=True),
    "open circuit, 215 C": Fault(lambda values, at: open_circuit(values, at, 215.0), 1.0, wire=True),
}


class Caught(NamedTuple):
    """What became of one injected fault."""

    caught: bool
    delay_s: float = math.nan
    coolant: float = math.nan
    """At the reading that raised the event."""
    wire_found: bool = False
    """The last reading's status is that of a broken sensor, not hot-or-sensor, which is as urgent as heat."""


# -- trips --------------------------------------------------------------------------------------------


def read_trips(path: Path) -> list[Trip]:
    """The trips of a file. Raises ValueError naming the columns that are missing, or where there are few trips."""
    table = pd.read_csv(path, index_col=False)  # rows that end with a comma would shift every column
    table.columns = table.columns.str.strip()
    if missing := [name for name in ("trip", "s", "coolant_c") if name not in table]:
        raise ValueError(f"{path} has no column {', '.join(missing)}")
    good = table[["trip", "s", "coolant_c"]].dropna()
    trips = [
        Trip(str(name), one["s"].to_numpy(dtype=float), one["coolant_c"].to_numpy(dtype=float))
        for name, one in good.groupby("trip", sort=False)
    ]
    trips = [one for one in trips if len(one.seconds) > 1]
    if len(trips) < 2:
        raise ValueError(f"{path} has {len(trips)} trips, and some for training and others for judging are needed")
    return trips


def to_frame(trips: Sequence[Trip]) -> pd.DataFrame:
    """Readings of one sensor, trip after trip; each is an era, so that no state is carried over."""
    frames, begin = [], 0.0
    for era, trip in enumerate(trips):
        times = begin + trip.seconds - trip.seconds[0]
        frames.append(pd.DataFrame({"time": times, "sensor": COOLANT, "value": trip.coolant, "era": era}))
        begin = float(times.max()) + PARKED_S
    return pd.concat(frames, ignore_index=True)


def deal(number: int, folds: int, seed: int) -> list[list[int]]:
    """Numbers 0..number-1 at random in so many folds of nearly one size."""
    shuffled = np.random.default_rng(seed).permutation(number)
    return [sorted(part.tolist()) for part in np.array_split(shuffled, min(folds, number))]


def begin_of_fault(values: Values, generator: np.random.Generator) -> int | None:
    """Where a fault begins: at random once the engine is warm; None where too little of the trip is left."""
    warm = np.flatnonzero(values >= WARM_C)
    earliest = max(EARLIEST_S, int(warm[0]) if len(warm) else 0)
    if earliest >= len(values) - SHORTEST_S:
        return None
    return int(generator.integers(earliest, max(earliest + 1, len(values) - LATEST_S)))


# -- judging ------------------------------------------------------------------------------------------


def begins(events: pd.Series) -> NDArray[np.int64]:
    """Rows of one trip at which an anomaly event is raised: the first of each id, which readings may interrupt."""
    return np.flatnonzero(events.notna() & ~events.duplicated())


def judge(scored: pd.DataFrame, at: int, fault: Fault) -> Caught:
    """What the rows of one trip say about a fault that begins in row `at`."""
    raised = begins(scored["event"])
    raised = raised[raised >= at]
    if fault.wire:
        statuses = scored["status"].iloc[at:]
        held_back = bool(statuses.isin((RANGE, RATE, HOT_OR_SENSOR)).all())
        return Caught(held_back and not len(raised), 0.0, wire_found=statuses.iloc[-1] in (RANGE, RATE))
    if not len(raised):
        return Caught(False)
    value = scored["value"].to_numpy()
    first = int(raised[0])
    delay = float(scored["time"].iloc[first] - scored["time"].iloc[at])
    return Caught(bool((value[at : first + 1] < fault.below).all()), delay, float(value[first]))


def upper_bound(events: int, hours: float, per_hours: float = GOAL_HOURS) -> float:
    """95 % upper bound of the events in `per_hours`, Poisson, after so many in so many hours."""
    from axlebox.training import evaluation

    return (evaluation.upper_bound(events, hours) or math.inf) * per_hours


class Seed(NamedTuple):
    """What one seed found: every trip was unseen once."""

    false_events: int
    held_back: int
    """Good readings that did not reach the model."""
    faults: dict[str, list[Caught]]


def faulted(trips: Sequence[Trip], fault: Fault, at: Sequence[int]) -> list[Trip]:
    return [trip._replace(coolant=fault.make(trip.coolant, one)) for trip, one in zip(trips, at, strict=True)]


def eras(scored: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each trip."""
    for _, rows in scored.groupby("era", sort=True):
        yield rows


def run_seed(trips: Sequence[Trip], folds: int, seed: int, trees: int) -> Seed:
    """Train on all folds but one, score that one as it is and with every fault; all folds in turn."""
    from axlebox.training.experiment import train_detector
    from axlebox.training.parameters import check

    parameters = check(settings(seed, trees))
    generator = np.random.default_rng([seed, 1])
    false_events = held_back = 0
    faults: dict[str, list[Caught]] = defaultdict(list)
    dealt = deal(len(trips), folds, seed)
    for number, fold in enumerate(dealt, 1):
        started = perf_counter()
        unseen = [trips[one] for one in fold]
        model = train_detector(
            to_frame([trip for one, trip in enumerate(trips) if one not in fold]), CONTRACT, parameters
        )
        scored = model.score(to_frame(unseen))
        false_events += sum(len(begins(rows["event"])) for rows in eras(scored))
        held_back += int((~scored["status"].isin((OK, WARMING))).sum())
        starts = [begin_of_fault(trip.coolant, generator) for trip in unseen]
        chosen = [(trip, at) for trip, at in zip(unseen, starts, strict=True) if at is not None]
        for name, fault in FAULTS.items() if chosen else ():
            at = [one for _, one in chosen]
            scored = model.score(to_frame(faulted([trip for trip, _ in chosen], fault, at)))
            faults[name] += [judge(rows, one, fault) for rows, one in zip(eras(scored), at, strict=True)]
        took = perf_counter() - started
        print(f"seed {seed}, fold {number}/{len(dealt)}: {took:.1f} s", file=sys.stderr, flush=True)
    return Seed(false_events, held_back, dict(faults))


def report(trips: Sequence[Trip], seeds: Sequence[Seed]) -> Iterator[str]:
    """The lines of the table, then the goals."""
    hours = sum(trip.hours for trip in trips)
    counts = [one.false_events for one in seeds]
    yield f"{len(trips)} trips, {hours:.1f} distinct vehicle-hours, each unseen once for each of {len(seeds)} seeds"
    yield f"false events by seed: {' '.join(map(str, counts))}; good readings held back: {seeds[0].held_back}"
    yield f"{'':28}{'caught':>12}{'share':>9}{'goal':>7}{'median s':>10}{'highest C':>11}{'found a wire':>14}"
    verdicts = []
    for name, fault in FAULTS.items():
        found = [caught for one in seeds for caught in one.faults.get(name, [])]
        if not found:
            verdicts.append(f"goal: {name}: no trip is long and warm enough")
            continue
        caught = [one for one in found if one.caught]
        share = len(caught) / len(found)
        delay = f"{np.median([one.delay_s for one in caught]):.0f}" if caught else "-"
        highest = "-" if fault.wire or not caught else f"{max(one.coolant for one in caught):.0f}"
        wire = f"{sum(one.wire_found for one in found) / len(found):.1%}" if fault.wire else "-"
        counted = f"{len(caught)}/{len(found)}"
        yield f"{name:28}{counted:>12}{share:>9.1%}{fault.goal:>7.0%}{delay:>10}{highest:>11}{wire:>14}"
        verdicts.append(f"goal: {name} caught in {fault.goal:.0%}: {'met' if share >= fault.goal else 'MISSED'}")
    yield from verdicts
    yield from false_alarm_goal(counts, hours)


def false_alarm_goal(counts: Sequence[int], hours: float) -> Iterator[str]:
    """What the distinct hours say of false events, and what they can prove at all."""
    rate = float(np.mean(counts)) / hours * GOAL_HOURS
    bound = upper_bound(max(counts), hours)
    yield (
        f"goal: at most 1 false event in {GOAL_HOURS:.0f} h: {'met' if rate <= 1 else 'MISSED'} "
        f"({rate:.2f} on average; 95 % upper bound {bound:.2f} by the worst seed: "
        f"{'proved' if bound <= 1 else 'not proved'})"
    )
    least, needed = upper_bound(0, hours), upper_bound(0, 1.0)
    yield f"{hours:.1f} h without any event prove no less than {least:.2f}; to prove 1, {needed:.0f} h are needed"


def main() -> None:
    parser = argparse.ArgumentParser(prog="./scripts/bench trips", description="Judge the detector on a car's trips.")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="CSV with trip, s, coolant_c")
    parser.add_argument("--seeds", type=int, default=5, help="how many times with other folds (default 5)")
    parser.add_argument("--folds", type=int, default=5, help="2 trains on half of the trips (default 5)")
    parser.add_argument("--trees", type=int, default=200, help="of the forest (default 200)")
    words = parser.parse_args()
    if words.seeds < 1 or words.folds < 2:
        parser.error("at least 1 seed and 2 folds")
    try:
        trips = read_trips(words.data)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    seeds = [run_seed(trips, words.folds, seed, words.trees) for seed in range(words.seeds)]
    for line in report(trips, seeds):
        print(line)


if __name__ == "__main__":
    main()
