"""The isolation forest: fitting, and scoring as the Detector asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.runtime.detector import ScoreRows
from axlebox.training.parameters import Parameters

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest


def train_forest(rows: NDArray[np.float32], parameters: Parameters) -> IsolationForest:
    """Fit on feature rows (n, k). Raises Malformed for fewer than two rows."""
    from sklearn.ensemble import IsolationForest

    if len(rows) < 2:
        raise Malformed(f"{len(rows)} feature rows are too few to train on")
    settings = parameters.forest
    return IsolationForest(
        n_estimators=settings.n_estimators,
        max_samples=settings.max_samples if settings.max_samples == "auto" else min(settings.max_samples, len(rows)),
        contamination=parameters.contamination_factor,
        bootstrap=settings.bootstrap,
        random_state=settings.random_state,
    ).fit(rows)


def sklearn_score_rows(forest: IsolationForest) -> ScoreRows:
    """scikit-learn's own scores and flags in the Detector's terms."""

    def score_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return -forest.score_samples(rows), forest.predict(rows) == -1

    return score_rows
