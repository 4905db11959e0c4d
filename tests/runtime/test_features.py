"""Feature sets by name."""

from __future__ import annotations

import pytest

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.manifest import FeatureSet
from axlebox.runtime import features
from axlebox.runtime.readings import Reading


def test_the_feature_set_value_is_the_reading_itself() -> None:
    found = features.find(FeatureSet("value", 1))
    state = found({})
    assert [
        state.update(Reading(float(time), "axle", value), None, False) for time, value in enumerate((90.5, -40.0))
    ] == [
        (90.5,),
        (-40.0,),
    ]


def test_a_row_has_one_number_for_each_name() -> None:
    found = features.find(FeatureSet("value", 1))
    assert len(found({}).update(Reading(0.0, "axle", 1.0), None, False)) == len(found.names)


@pytest.mark.parametrize(("name", "version"), [("value", 2), ("streaming", 2)])
def test_a_feature_set_this_runtime_does_not_know_is_refused_by_name_and_version(name: str, version: int) -> None:
    with pytest.raises(Malformed, match=f"{name} {version} is unknown.*value 1"):
        features.find(FeatureSet(name, version))


def test_constants_that_a_set_does_not_take_are_refused_by_name() -> None:
    with pytest.raises(Malformed, match="window_s"):
        features.find(FeatureSet("value", 1))({"window_s": 60.0})
