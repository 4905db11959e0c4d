"""Why an event was raised, in words: the features of docs/detection.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IN_WORDS = {
    "jump": ("rose by {} from one reading to the next", "fell by {} from one reading to the next"),
    "season": ("for some time {} above what is usual", "for some time {} below what is usual"),
    "outside": ("{} above the range of the days before", "{} below the range of the days before"),
    "sibling": ("{} hotter than its siblings", "{} colder than its siblings"),
    "sibling_slow": ("for some time {} hotter than its siblings", "for some time {} colder than its siblings"),
    "value": ("{} above the middle of training", "{} below the middle of training"),
}

WHAT = {
    "jump": "difference from the reading before",
    "season": "slow mean of the distance from what is usual at this hour of day",
    "outside": "distance from the range of the latest readings",
    "sibling": "distance from the siblings' median, less its own usual distance",
    "sibling_slow": "slow mean of the distance from the siblings",
    "value": "distance from the median of training",
}
"""What each feature of the set `streaming` is."""


def in_words(reason: Mapping[str, Any], unit: str) -> str:
    """One entry of an event's `why`, as in `4 C hotter than its siblings (6.9 tails)`."""
    feature, value, tails = str(reason["feature"]), float(reason["value"]), reason.get("tails")
    if tails is None or feature not in _IN_WORDS:  # of the set `value`: the reading itself
        return f"{feature} {value:g} {unit}"
    up, down = _IN_WORDS[feature]
    return f"{(down if value < 0 else up).format(f'{abs(value):.3g} {unit}')} ({tails:.3g} tails)"
