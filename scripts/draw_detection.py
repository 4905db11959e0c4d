"""`python scripts/draw_detection.py [FOLDER]`: the pictures of docs/detection.md, SVG written by hand.

Simulated bearings of one vehicle, 90 days of training and the 20 days after them, with the detector's own code. The
same versions draw the same bytes. FOLDER is docs/pictures where none is given.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from axlebox.firmware_bundle.manifest import Contract, Kind, Sensor
from axlebox.runtime.baselines import Baselines, Move
from axlebox.runtime.streaming_constants import FEATURES, Constants
from axlebox.runtime.tails import RunningTails
from axlebox.training.experiment import TrainedDetector, train_detector
from axlebox.training.faults import FAULTS
from axlebox.training.simulate import Fleet, make_readings
from axlebox.training.threshold import clusters

Numbers = NDArray[np.float64]

PERIOD_S, DAY = 300, 288
TRAINED, ONSET = 90 * DAY, 5 * DAY
"""Readings of a sensor that are trained on; and those after them before the fault."""
FLEET = Fleet(vehicles=1, bearings=4, days=110, period_s=PERIOD_S, faults=0)
FAULTY = 1
"""Number of the sensor with the fault."""
BINS = 450
"""Points of a curve: each is the highest (or the median) of the readings that it stands for."""

BLACK, GREY, PALE = "#222222", "#777777", "#dddddd"
RED, BLUE, GREEN, ORANGE, SHADE = "#c0392b", "#0b63a5", "#00795c", "#b35900", "#fbe3df"
WIDTH, LEFT, RIGHT = 900, 80, 20


@dataclass(frozen=True)
class Panel:
    """A rectangle with two axes."""

    top: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    """Whether y is drawn by its logarithm; what is lower than its range is drawn at its lower end."""

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def up(self, y: float) -> float:
        low, high = self.y
        y = min(max(y, low), high)
        if self.log:
            low, high, y = math.log(low), math.log(high), math.log(y)
        return self.top + self.height * (1 - (y - low) / (high - low))


class Picture:
    """An SVG file in the making."""

    def __init__(self, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" role="img">',
            f"<title>{title}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        ]
        self.text(WIDTH / 2, 24, title, size=16, anchor="middle")

    def text(  # noqa: PLR0913  what a text has
        self, x: float, y: float, words: str, fill: str = BLACK, size: int = 13, anchor: str = "start", turn: str = ""
    ) -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" '
            f'text-anchor="{anchor}"{turn}>{words}</text>'
        )

    def line(self, ends: Sequence[float], stroke: str, width: float = 1, dash: str = "") -> None:
        x1, y1, x2, y2 = ends
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
            f'stroke-width="{width}"{dashed}/>'
        )

    def rectangle(self, box: Sequence[float], fill: str, stroke: str = "none") -> None:
        x, y, width, height = box
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" stroke="{stroke}"/>'
        )

    def curve(self, panel: Panel, x: Numbers, y: Numbers, stroke: str, width: float = 1.3) -> None:
        points = " ".join(f"{panel.across(a):.1f},{panel.up(b):.1f}" for a, b in zip(x, y, strict=True))
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{stroke}" '
            f'stroke-width="{width}" stroke-linejoin="round"/>'
        )

    def points(self, panel: Panel, x: Numbers, y: Numbers, fill: str) -> None:
        for a, b in zip(x, y, strict=True):
            self._parts.append(
                f'<circle cx="{panel.across(a):.1f}" cy="{panel.up(b):.1f}" r="3" fill="{fill}" fill-opacity="0.7"/>'
            )

    def level(self, panel: Panel, y: float, stroke: str, words: str, below: bool = False) -> None:
        """A dashed line across, with its words at the right end."""
        at = panel.up(y)
        self.line((LEFT, at, WIDTH - RIGHT, at), stroke, 1.3, "6 4")
        self.text(WIDTH - RIGHT - 6, at + (15 if below else -5), words, stroke, anchor="end")

    def shade(self, panel: Panel, spans: Iterable[tuple[float, float]]) -> None:
        for begin, end in spans:
            left, right = panel.across(begin), panel.across(end)
            self.rectangle((left, panel.top, max(right - left, 1), panel.height), SHADE)

    def axes(self, panel: Panel, x: Sequence[float], y: Sequence[float], words: tuple[str, str]) -> None:
        """Frame, ticks and labels; no label below where the first of `words` is empty."""
        bottom = panel.top + panel.height
        for tick in x:
            at = panel.across(tick)
            self.line((at, bottom, at, bottom + 5), BLACK)
            self.text(at, bottom + 19, f"{tick:g}", anchor="middle")
        for tick in y:
            at = panel.up(tick)
            self.line((LEFT - 5, at, LEFT, at), BLACK)
            self.text(LEFT - 9, at + 4.5, f"{tick:g}", anchor="end")
        self.rectangle((LEFT, panel.top, WIDTH - LEFT - RIGHT, panel.height), "none", GREY)
        if words[0]:
            self.text((LEFT + WIDTH - RIGHT) / 2, bottom + 40, words[0], anchor="middle")
        middle = panel.top + panel.height / 2
        self.text(22, middle, words[1], anchor="middle", turn=f' transform="rotate(-90 22 {middle:.1f})"')

    def legend(self, top: float, entries: Sequence[tuple[str, str]]) -> None:
        """Colours with their words in one row; SHADE is drawn as an area."""
        x = float(LEFT)
        for colour, words in entries:
            if colour == SHADE:
                self.rectangle((x, top - 10, 22, 12), SHADE, "#e0a79f")
            else:
                self.line((x, top - 4, x + 22, top - 4), colour, 3)
            self.text(x + 28, top, words)
            x += 28 + 7.4 * len(words) + 20

    def write(self, path: Path) -> None:
        path.write_text("\n".join([*self._parts, "</svg>", ""]), encoding="utf-8")


def contract(sensors: Sequence[str], group: str | None) -> Contract:
    kinds = {"bearing": Kind(period_s=float(PERIOD_S))}
    return Contract(kinds, {name: Sensor("bearing", group) for name in sensors})


def frame(times: Numbers, sensors: Sequence[str], values: Numbers) -> pd.DataFrame:
    """A table of readings from values (moments, sensors)."""
    columns = {"time": np.repeat(times, len(sensors)), "sensor": np.tile(sensors, len(times))}
    return pd.DataFrame({**columns, "value": values.ravel()})


def with_fault(name: str, times: Numbers, values: Numbers) -> Numbers:
    """Values (moments, sensors) with a fault in the sensor FAULTY from ONSET on."""
    hot, _ = FAULTS[name].apply(times, values[:, FAULTY], float(times[ONSET]), np.random.default_rng(0))
    out = values.copy()
    out[:, FAULTY] = np.round(hot * 4) / 4
    return out


def binned(values: Numbers, how: Callable[[Numbers], float] = np.max) -> Numbers:
    return np.array([how(part) for part in np.array_split(values, BINS)])


def spans_of(raised: NDArray[np.bool_], days: Numbers) -> list[tuple[float, float]]:
    """First and last day of each run of raised readings."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], raised, [False]]).astype(int)))
    return [(float(days[a]), float(days[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def suspicion_level(detector: TrainedDetector) -> float:
    return detector.fitted["bearing"].spec.features.constants["suspect_at"]


def extreme_level(detector: TrainedDetector) -> float:
    events = detector.fitted["bearing"].spec.events
    if events is None:
        raise ValueError("the detector has no event rules")
    return events.extreme_at


def adaptive_sums(constants: Constants, times: Numbers, values: Numbers) -> Numbers:
    """Sums of tails of one lone sensor whose baselines and tails always go on learning, as a shadow's do."""
    baselines, tails = Baselines(constants), RunningTails(constants)
    beyond, row = [0.0] * len(FEATURES), [0.0] * len(FEATURES)
    sums = np.zeros(len(times))
    before = None
    for number, (time, value) in enumerate(zip(times.tolist(), values.tolist(), strict=True)):
        scaled = (value - constants.median) / constants.scale
        jump = 0.0 if before is None else scaled - before
        hour = int(time // 3600 % 24) if constants.hour_of_day else -1
        move = Move(scaled, jump, None, constants.period_s, hour)
        features = baselines.features(move)
        sums[number] = tails.measure(features, beyond, row)
        tails.learn(features, beyond, move.seconds)
        baselines.follow(move, features, learns=True, bounded=False)
        before = scaled
    return sums


@dataclass(frozen=True)
class World:
    """Readings to train on, and the time after them."""

    sensors: list[str]
    times: Numbers
    values: Numbers

    @property
    def days(self) -> Numbers:
        """Of the later readings, from the fault's onset on."""
        late = self.times[TRAINED:]
        return (late - late[ONSET]) / 86400.0


def draw_siblings(world: World, path: Path) -> TrainedDetector:
    """A bearing among its siblings that heats up by 5 degrees a day."""
    early, late = world.times[:TRAINED], world.times[TRAINED:]
    detector = train_detector(frame(early, world.sensors, world.values[:TRAINED]), contract(world.sensors, "T01"))
    values = with_fault("ramp-5", late, world.values[TRAINED:])
    scored = detector.score(frame(late, world.sensors, values))
    own = scored[scored["sensor"] == world.sensors[FAULTY]]
    sums, raised = own["tail_sum"].to_numpy(), own["event"].notna().to_numpy()
    days, at = world.days, binned(world.days, np.mean)
    x = (float(days[0]), float(days[-1]))
    above, below = Panel(70, 220, x, (-10.0, 90.0)), Panel(330, 190, x, (1.0, 1000.0), log=True)
    picture = Picture(580, "A bearing that heats up by 5 degrees a day, among three siblings")
    hot = (RED, "this bearing")
    picture.legend(56, [hot, (GREY, "its siblings"), (BLUE, "its sum of tails"), (SHADE, "event raised")])
    for panel in (above, below):
        picture.shade(panel, spans_of(raised, days))
    for number in range(len(world.sensors)):
        if number != FAULTY:
            picture.curve(above, at, binned(values[:, number], np.median), GREY, 0.8)
    picture.curve(above, at, binned(values[:, FAULTY], np.median), RED)
    picture.curve(below, at, binned(sums), BLUE)
    picture.level(below, extreme_level(detector), BLACK, "extreme level: raised at once")
    picture.level(below, suspicion_level(detector), ORANGE, "suspicion: nothing more is learnt", below=True)
    for panel in (above, below):
        onset = panel.across(0.0)
        picture.line((onset, panel.top, onset, panel.top + panel.height), GREY, 1, "2 3")
    picture.text(above.across(0.0) - 6, above.top + 18, "the fault begins", GREY, anchor="end")
    ticks = list(range(-4, 16, 2))
    picture.axes(above, [], [0, 20, 40, 60, 80], ("", "temperature, C"))
    picture.axes(below, ticks, [1, 10, 100, 1000], ("days since the fault began", "sum of tails (log)"))
    picture.write(path)
    return detector


def draw_reference(world: World, path: Path) -> None:
    """A permanent step of a lone sensor: the reference beside a tail that goes on learning."""
    early, late, name = world.times[:TRAINED], world.times[TRAINED:], world.sensors[FAULTY : FAULTY + 1]
    columns = slice(FAULTY, FAULTY + 1)
    detector = train_detector(frame(early, name, world.values[:TRAINED, columns]), contract(name, None))
    values = with_fault("step", late, world.values[TRAINED:])[:, columns]
    scored = detector.score(frame(late, name, values))
    sums, raised = scored["tail_sum"].to_numpy(), scored["event"].notna().to_numpy()
    constants = Constants.parse(detector.fitted["bearing"].spec.features.constants)
    adaptive = adaptive_sums(constants, late, values[:, 0])
    days, bins, extreme = world.days, binned(world.days, np.mean), extreme_level(detector)
    x = (float(days[0]), float(days[-1]))
    above = Panel(70, 130, x, (-10.0, 70.0))
    below = Panel(230, 150, x, (1.0, 1000.0), log=True)
    last = Panel(410, 150, x, (1.0, 1000.0), log=True)
    picture = Picture(620, "25 degrees hotter for good, a lone sensor")
    entries = [(RED, "temperature"), (BLUE, "sum of tails of the reference"), (GREEN, "of a tail that adapts")]
    picture.legend(56, [*entries, (SHADE, "raised, or above its level")])
    picture.shade(below, spans_of(raised, days))
    picture.shade(last, spans_of(binned(adaptive) >= extreme, bins))
    picture.curve(above, bins, binned(values[:, 0], np.median), RED)
    picture.curve(below, bins, binned(sums), BLUE)
    picture.curve(last, bins, binned(adaptive), GREEN)
    for panel in (below, last):
        at = panel.up(extreme)
        picture.line((LEFT, at, WIDTH - RIGHT, at), BLACK, 1.3, "6 4")
        picture.text(LEFT + 6, at - 5, "extreme level")
    for panel in (above, below, last):
        onset = panel.across(0.0)
        picture.line((onset, panel.top, onset, panel.top + panel.height), GREY, 1, "2 3")
    said = (
        (below, "the reference learns nothing: raised to the end", BLUE),
        (last, "it takes the fault for normal", GREEN),
    )
    for panel, words, colour in said:
        picture.text(WIDTH - RIGHT - 6, panel.top + 20, words, colour, anchor="end")
    picture.axes(above, [], [0, 25, 50], ("", "C"))
    picture.axes(below, [], [1, 10, 100, 1000], ("", "sum (log)"))
    picture.axes(last, list(range(-4, 16, 2)), [1, 10, 100, 1000], ("days since the fault began", "sum (log)"))
    picture.write(path)


def draw_threshold(world: World, detector: TrainedDetector, path: Path) -> None:
    """How often clusters of training readings pass a level, and what follows from a target."""
    facts = detector.fitted["bearing"].features.threshold
    scored = detector.score(frame(world.times[:TRAINED], world.sensors, world.values[:TRAINED]))
    healthy = scored[scored["status"] == "ok"]
    sums = [group["tail_sum"].to_numpy() for _, group in healthy.groupby("sensor")]
    base, mean, rate, days = (
        float(facts[name]) for name in ("base", "mean_excess", "clusters_per_sensor_day", "training_sensor_days")
    )
    target, extreme = float(facts["target_per_sensor_day"]), float(facts["extreme_at"])
    peaks = np.sort(np.concatenate([base + clusters(np.maximum(one - base, 0.0)) for one in sums]))[::-1]
    panel = Panel(70, 400, (math.floor(base), math.ceil(extreme) + 2.0), (0.001, 10.0), log=True)
    picture = Picture(540, "From a target to a level")
    picture.legend(56, [(BLUE, "clusters of training"), (ORANGE, "fitted line"), (RED, "target"), (GREEN, "levels")])
    picture.points(panel, peaks, np.arange(1, len(peaks) + 1) / days, BLUE)
    ends = np.array([base, min(panel.x[1], base + mean * math.log(rate / panel.y[0]))])
    picture.curve(panel, ends, rate * np.exp(-(ends - base) / mean), ORANGE, 2)
    at = panel.up(target)
    picture.line((LEFT, at, WIDTH - RIGHT, at), RED, 1.3, "6 4")
    picture.text(LEFT + 6, at + 16, f"target: {target:g} a sensor-day", RED)
    crossing = base + mean * math.log(rate / target)
    bottom = panel.top + panel.height
    for level, words, height in ((crossing, "line meets target", 40.0), (extreme, "chosen level", 40.0)):
        left = panel.across(level)
        picture.line((left, panel.top, left, bottom), GREEN, 1.8, "" if level == extreme else "3 3")
        picture.text(left - 6, panel.top + height, f"{words}: {level:.1f}", GREEN, anchor="end")
    ticks = list(range(math.ceil(panel.x[0]), math.floor(panel.x[1]) + 1))
    words = ("sum of tails", "clusters a sensor-day with a higher sum (log)")
    picture.axes(panel, ticks, [0.001, 0.01, 0.1, 1, 10], words)
    picture.write(path)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs/pictures"
    folder.mkdir(parents=True, exist_ok=True)
    times, sensors, values, _ = make_readings(FLEET)
    world = World(sensors, times, values)
    detector = draw_siblings(world, folder / "siblings.svg")
    draw_reference(world, folder / "reference.svg")
    draw_threshold(world, detector, folder / "threshold.svg")


if __name__ == "__main__":
    main()
