"""The extreme levels that one detector could have, with all that belongs to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axlebox.training.costs import per_year
from axlebox.training.parameters import CostParameters
from axlebox.training.summary import span_of_time


class Choices:
    """From the evaluation of one detector with a tail: `curve` (tradeoff.py), and its trials where there are any."""

    def __init__(self, facts: Mapping[str, Any], costs: CostParameters) -> None:
        curve, tried = facts["curve"], (facts.get("trials") or {}).get("at_levels") or {}
        self.facts, self.costs = facts, costs
        self.levels: list[float] = curve["levels"]
        self.chosen: int = curve["chosen"]
        self.rates: list[float] = curve["false_alarms_per_vehicle_day"]
        self.excursions: list[int] = curve["held_out_excursions"]
        """Seen in held-out time, faults among them."""
        self.trials: int = tried.get("trials", 0)
        """Injected faults that should alarm; none where held-out time is too short."""
        self.caught: list[int] = tried.get("caught", [])
        self.delays: list[float | None] = tried.get("delay_s", [])
        """Median, in seconds."""
        self.cost: list[float] = []
        """Of a vehicle in a year; empty where costs are not stated, or nothing was injected."""
        if costs.stated and self.trials:
            pairs = zip(self.rates, self.caught, strict=True)
            self.cost = [self.alarms_cost(rate) + self.misses_cost(caught) for rate, caught in pairs]

    def alarms_cost(self, per_vehicle_day: float) -> float:
        """Of false alarms, in a vehicle-year."""
        return per_year(self.costs, per_vehicle_day, 0.0)

    def misses_cost(self, caught: int) -> float:
        """Of the faults that are missed in a vehicle-year where so many of the injected ones are caught."""
        return per_year(self.costs, 0.0, 1 - caught / self.trials)

    @property
    def cheapest(self) -> int:
        return min(range(len(self.cost)), key=self.cost.__getitem__)

    @property
    def target(self) -> float | None:
        """False alarms of a vehicle-day; None where a contamination decided."""
        per_sensor: float | None = self.facts["target_per_sensor_day"]
        return None if per_sensor is None else per_sensor * int(self.facts["sensors_per_vehicle"])

    @property
    def held_out_vehicle_days(self) -> float:
        return float(self.facts["exposure_sensor_days"]) / int(self.facts["sensors_per_vehicle"])

    def in_words(self) -> list[str]:
        """What was chosen, by what, and what came of it; a sentence each."""
        facts, at = self.facts, self.chosen
        bound = facts["bound_per_sensor_day"]
        trained, held = (f"{facts[name]:.1f}" for name in ("training_sensor_days", "exposure_sensor_days"))
        words = [
            f"Chosen: an event is raised at once where the sum of tails reaches {self.levels[at]:.2f}.",
            f"By the tail of training ({facts['clusters']} excursions in {trained} sensor-days) "
            f"a healthy vehicle passes it {self.rates[at]:.2g} times a day; {self._wanted()}.",
            f"Beside it: {facts['near_events']} events near the threshold in {held} held-out sensor-days, which "
            + ("prove nothing." if bound is None else f"leave at most {bound:.2g} a sensor-day (with 95 %)."),
        ]
        if not self.trials:
            return [*words, "Held-out time is too short to inject faults into it."]
        delay = self.delays[at]
        after = "." if delay is None else f", after {span_of_time(delay)} in the median."
        caught = f"The sum of tails alone raises {self.caught[at]} of {self.trials} injected faults that should alarm"
        return [*words, caught + after]

    def _wanted(self) -> str:
        if self.target is None:
            return f"it follows from the contamination {self.facts['contamination']:g}, not from a target"
        higher = self.rates[self.chosen] < 0.8 * self.target
        return f"the target is {self.target:.2g}" + (
            ", and the level is set higher for the sake of sensors that training has not seen" if higher else ""
        )
