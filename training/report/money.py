"""What a threshold costs in a year, and which one would cost least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axlebox.training.parameters import CostParameters
from axlebox.training.report.choices import Choices
from axlebox.training.report.page import Html, grid, paragraph

_NOT_STATED = (
    "What alarms and misses cost is not stated. State it in conf/base/parameters.yml, section costs: false_alarm, "
    "missed_fault and faults_per_year (expected of one vehicle), in one currency. Then train again, and this part says "
    "what the threshold costs in a year, and which one would cost least."
)
_NO_TAIL = "Only a detector with a tail (feature set streaming) has a rate of false alarms to price."
_NO_FAULTS = "Held-out time is too short to inject faults: nothing says which share of them is missed."


def money(facts: Mapping[str, Any], costs: CostParameters) -> list[Html]:
    """Of one detector."""
    if not costs.stated:
        return [paragraph(_NOT_STATED)]
    if "curve" not in facts:
        return [paragraph(_NO_TAIL)]
    found = Choices(facts, costs)
    if not found.cost:
        return [paragraph(_NO_FAULTS)]
    return [paragraph(in_words(found)), _table(found), *map(paragraph, _cautions(found))]


def in_words(found: Choices) -> str:
    at, best, currency = found.chosen, found.cheapest, found.costs.currency
    words = f"The chosen threshold costs {found.cost[at]:,.0f} {currency} a vehicle-year; "
    if found.cost[best] >= found.cost[at]:
        return words + "no other level that was compared costs less."
    last = ", the highest that was compared" if best == len(found.levels) - 1 else ""
    return words + f"the least would be {found.cost[best]:,.0f} at an extreme level of {found.levels[best]:.2f}{last}."


def _table(found: Choices) -> Html:
    heads = ["", "extreme level", "false alarms a year", "injected faults missed"]
    heads += [f"{what}, {found.costs.currency} a year" for what in ("false alarms", "missed faults", "together")]
    rows = [
        [
            name,
            f"{found.levels[at]:.2f}",
            f"{365 * found.rates[at]:.3g}",
            f"{found.trials - found.caught[at]} of {found.trials}",
            f"{found.alarms_cost(found.rates[at]):,.0f}",
            f"{found.misses_cost(found.caught[at]):,.0f}",
            f"{found.cost[at]:,.0f}",
        ]
        for name, at in (("chosen", found.chosen), ("least cost", found.cheapest))
    ]
    return grid(heads, rows)


def _cautions(found: Choices) -> list[str]:
    """What the sums rest on."""
    costs, facts, days = found.costs, found.facts, found.held_out_vehicle_days
    one_fault = found.misses_cost(found.trials - 1)
    words = [
        f"Stated: {costs.false_alarm:,g} {costs.currency} a false alarm, {costs.missed_fault:,g} a missed fault, "
        f"{costs.faults_per_year:g} faults a vehicle-year. The cost is false alarms times theirs, and faults times the "
        "share of them that is missed times theirs.",
        f"That share rests on {found.trials} injected faults, each kind as often as the others, at their usual size: "
        f"one more or less moves the sum by {one_fault:,.0f} {costs.currency}, and your faults are another mixture. "
        "The sum of tails alone is priced: mild events add to what is caught and to the false alarms.",
    ]
    if days > 0:
        seen = found.alarms_cost(facts["near_events"] / days) + found.misses_cost(found.caught[found.chosen])
        words.append(
            f"With the {facts['near_events']} events near the threshold that {days:.1f} held-out vehicle-days had, in "
            f"place of the rate by the tail of training, the chosen threshold would cost {seen:,.0f} {costs.currency}."
        )
    if facts.get("cost"):
        choice = facts["cost"]
        words.append(
            f"The target was chosen by least cost: {choice['cost_per_year']:,.0f} {costs.currency} a year with "
            f"{choice['missed_share']:.0%} missed. Those figures differ from the ones above on purpose: they are of "
            "faults in a tenth to the whole of their usual size, injected into training readings."
        )
    return words
