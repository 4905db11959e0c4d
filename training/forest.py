"""The isolation forest: fitting, and scoring as the Detector asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.runtime.detector import ScoreRows
from axlebox.runtime.tails import CAP
from axlebox.training.parameters import ForestParameters, Parameters

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

MAX_ROWS = 200_000
"""A forest samples far fewer."""
_PROBES = 4000
_SYNTHETIC = 0.5
"""Synthetic rows for each training row."""
_REPLACED = 0.25
"""Chance of each feature of a synthetic row to be one of a tail."""
_MEAN = 1.2
"""Mean of those, in squashed mean excesses (tails.Tails)."""


def train_forest(rows: NDArray[np.float32], parameters: Parameters) -> IsolationForest:
    """Fit on feature rows (n, k). Raises Malformed for fewer than two rows."""
    if len(rows) < 2:
        raise Malformed(f"{len(rows)} feature rows are too few to train on")
    return _fit(rows, parameters.forest, parameters.contamination_factor)


def train_on_tails(
    rows: NDArray[np.float32], present: NDArray[np.bool_], settings: ForestParameters
) -> IsolationForest:
    """Fit on rows of the feature set `streaming` (n, k), and on synthetic rows with tail values among them.

    A forest saturates beyond its training range and could not tell a bit outside from far outside; with
    rows there, it can. `present` (k,): the features that this kind has. The offset is still to be set.
    """
    random = np.random.default_rng(settings.random_state)
    if len(rows) > MAX_ROWS:
        rows = rows[random.integers(0, len(rows), MAX_ROWS)]
    return _fit(np.concatenate([rows, _synthetic(rows, present, random)]), settings, "auto")


def _fit(rows: NDArray[np.float32], settings: ForestParameters, contamination: float | str) -> IsolationForest:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(
        n_estimators=settings.n_estimators,
        max_samples=settings.max_samples if settings.max_samples == "auto" else min(settings.max_samples, len(rows)),
        contamination=contamination,
        bootstrap=settings.bootstrap,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
    ).fit(rows)
    # Workers would add up the depths of a row in the order in which they end, and the last bits would differ.
    return forest.set_params(n_jobs=None)


def _synthetic(
    rows: NDArray[np.float32], present: NDArray[np.bool_], random: np.random.Generator
) -> NDArray[np.float32]:
    """Random rows in which at least one feature is as far out as a tail may be."""
    columns = np.flatnonzero(present)
    made = rows[random.integers(0, len(rows), int(len(rows) * _SYNTHETIC))].copy()
    replaced = random.random((len(made), len(columns))) < _REPLACED
    none = ~replaced.any(axis=1)
    replaced[none, random.integers(0, len(columns), int(none.sum()))] = True
    which = np.zeros(made.shape, dtype=np.bool_)
    which[:, columns] = replaced
    made[which] = random.exponential(_MEAN, int(which.sum()))
    return made


def score_of_level(
    forest: IsolationForest, rows: NDArray[np.float32], present: NDArray[np.bool_], level: float, seed: int
) -> float:
    """The forest's median score of rows whose tails sum to `level`, spread at random over the features."""
    random = np.random.default_rng(seed)
    probes = rows[random.integers(0, len(rows), _PROBES)]
    columns = np.flatnonzero(present)
    shape = (_PROBES, len(columns))
    weights = random.exponential(1.0, shape) * (random.random(shape) < 0.5)
    weights[weights.sum(axis=1) == 0, 0] = 1.0
    beyond = np.minimum(level * weights / weights.sum(axis=1, keepdims=True), CAP)
    probes[:, columns] = 2.0 * (np.sqrt(1.0 + beyond) - 1.0)  # as tails.Tails.measure
    return float(np.median(-forest.score_samples(probes)))


def sklearn_score_rows(forest: IsolationForest) -> ScoreRows:
    """scikit-learn's own scores and flags in the Detector's terms."""

    def score_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        # Most rows show that all is normal, and are the same one; scikit-learn takes 10 us for each.
        rows, which = np.unique(rows, axis=0, return_inverse=True)
        return -forest.score_samples(rows)[which], (forest.predict(rows) == -1)[which]

    return score_rows
