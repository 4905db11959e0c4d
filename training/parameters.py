"""What conf/base/parameters.yml may say, strictly checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from axlebox.firmware_bundle.errors import UsageError
from axlebox.firmware_bundle.manifest import BundleName, Count, Identifier


class ForestParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of scikit-learn's IsolationForest, under its own names."""

    n_estimators: Annotated[int, Meta(ge=1, le=10_000)] = 100
    max_samples: Annotated[int, Meta(ge=2)] | Literal["auto"] = "auto"
    bootstrap: bool = True
    random_state: Count = 69


class BundleParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What export writes into the manifest; it does not change what is trained."""

    name: BundleName
    hardware: Annotated[tuple[Identifier, ...], Meta(min_length=1)] = ("any",)
    vehicles: tuple[Identifier, ...] = ()
    min_sequence: Count = 0
    oldest_root: Annotated[int, Meta(ge=1)] = 1
    """Version of the oldest root of trust that a vehicle may still hold: bundles carry the chain from it."""
    expires_years: Annotated[int, Meta(ge=1, le=100)] = 20


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    bundle: BundleParameters
    contamination_factor: Annotated[float, Meta(gt=0, le=0.5)] | Literal["auto"] = 0.05
    """Share of the training rows that the forest is made to flag."""
    feature_set: Literal["value"] = "value"
    train_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.8
    """Share of the readings, first in time, that training sees."""
    forest: ForestParameters = ForestParameters()

    def training_only(self) -> dict[str, Any]:
        """What decides on the trained forest, as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        del plain["bundle"]
        return plain


def check(raw: Mapping[str, Any]) -> Parameters:
    """Parameters from what Kedro loaded. Raises UsageError naming the key that does not fit."""
    try:
        return msgspec.convert(dict(raw), Parameters)
    except msgspec.ValidationError as error:
        raise UsageError(f"parameters: {error}") from error
