from __future__ import annotations

from typing import Any

import pytest

from axlebox.firmware_bundle.errors import UsageError
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
