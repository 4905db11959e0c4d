from __future__ import annotations

from typing import Any

import pytest

from axlebox.firmware_bundle.errors import UsageError
from axlebox.runtime import own_sets
from axlebox.runtime.features import Value
from axlebox.training.parameters import check


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"forest": {"n_estimator": 5}}, "there is no forest.n_estimator; did you mean forest.n_estimators?"),
        ({"n_estimators": 5}, "there is no n_estimators; did you mean forest.n_estimators?"),
        ({"tresholds": {}}, "there is no tresholds; did you mean threshold?"),
        ({"zzz": 1}, "there is no zzz"),
    ],
)
def test_an_unknown_parameter_is_refused_and_the_nearest_known_one_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        check({"bundle": {"name": "x"}, **wrong})
    assert str(refused.value) == f"parameters: {said}"


def test_what_does_not_change_a_training_is_no_part_of_its_identity() -> None:
    plain = check({"bundle": {"name": "x"}})
    other = {"forest": {"n_jobs": 4}, "gates": {"least_caught": 0.5}, "tracking": {"uri": "http://127.0.0.1:1"}}
    assert check({"bundle": {"name": "y"}, **other}).training_only() == plain.training_only()
    assert check({"bundle": {"name": "x"}, "forest": {"random_state": 1}}).training_only() != plain.training_only()


def test_a_feature_set_that_is_not_here_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no feature_set streeming; did you mean streaming"):
        check({"bundle": {"name": "fleet"}, "feature_set": "streeming"})
    own_sets.offer({("rate", 1): lambda: Value})
    try:
        assert check({"bundle": {"name": "fleet"}, "feature_set": "rate-1"}).named_set == ("rate", 1)
        with pytest.raises(UsageError, match=r"rate-2; did you mean rate-1\? known are streaming, value, rate-1"):
            check({"bundle": {"name": "fleet"}, "feature_set": "rate-2"})
    finally:
        own_sets.offer({})


def test_sections_of_own_pipelines_are_taken_as_they_are_and_are_part_of_a_run() -> None:
    raw = {"bundle": {"name": "fleet"}, "own_weekly": {"days": 7, "of": ["a"]}}
    found = check(raw)
    assert found.own == {"own_weekly": raw["own_weekly"]}
    assert found.training_only()["own_weekly"] == raw["own_weekly"]
    assert check({**found.training_only(), "bundle": {"name": "fleet"}}) == found
    for name in ("own", "weekly", "features.own_x"):
        section: dict[str, object] = {name: {}} if "." not in name else {"features": {"own_x": 1}}
        with pytest.raises(UsageError, match=f"there is no {name}"):
            check({"bundle": {"name": "fleet"}, **section})


def test_constants_of_a_feature_set_are_finite_numbers() -> None:
    with pytest.raises(UsageError, match="finite"):
        check({"bundle": {"name": "fleet"}, "features": {"constants": {"a": float("nan")}}})
