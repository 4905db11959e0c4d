"""The proof that the exported graph flags exactly what scikit-learn flags.

Every comparison runs the vehicle's own `Scorer` against scikit-learn: at every split value and
one float32 step to each side of it, on special values, on the whole training set, and with the
anomaly offset swept over the scores that occur, where a formulation that is merely close fails.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from axlebox.export.forest_onnx import find_cut, with_cut
from axlebox.firmware_bundle.errors import GateFailed
from axlebox.firmware_bundle.manifest import ParityProof
from axlebox.runtime.scorer import Scorer
from axlebox.training.series import Progress, silent

Rows = NDArray[np.float32]

SCORE_TOLERANCE = 1e-15
"""A few last bits: numpy's AVX-512 power function was seen 1.1e-16 off."""
MAX_OFFSETS = 1500
PROBES_BESIDE = 100
"""Rows compared on each side of a swept offset, nearest in score."""
MAX_SINGLE_ROWS = 20_000

_FLOAT32 = np.finfo(np.float32)
_SPECIAL = np.array(
    [
        *(np.nan, np.inf, -np.inf, 0.0, -0.0),
        *(_FLOAT32.smallest_subnormal, -_FLOAT32.smallest_subnormal, _FLOAT32.tiny, -_FLOAT32.tiny),
        *(_FLOAT32.max, _FLOAT32.min),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True, slots=True)
class ProofRows:
    """The rows (n, k) to compare on, by why they are there."""

    boundary: Rows
    special: Rows
    training: Rows
    split_values: int

    def all(self) -> Rows:
        return np.concatenate([self.boundary, self.special, self.training])


def proof_rows(forest: IsolationForest, training: Rows) -> ProofRows:
    """Boundary and special values, each put into a training row in place of one feature."""
    boundary = []
    split_values = 0
    for feature in range(training.shape[1]):
        splits = _splits(forest, feature)
        split_values += len(splits)
        nearest = splits.astype(np.float32)
        for values in (np.nextafter(nearest, np.float32(-np.inf)), nearest, np.nextafter(nearest, np.float32(np.inf))):
            boundary.append(_put(training, feature, values))
    special = [_put(training, feature, _SPECIAL) for feature in range(training.shape[1])]
    special.append(np.repeat(_SPECIAL[:, None], training.shape[1], axis=1))
    return ProofRows(np.concatenate(boundary), np.concatenate(special), training, split_values)


def prove(forest: IsolationForest, model: bytes, training: Rows, progress: Progress = silent) -> ParityProof:
    """Compare; the counts and the largest difference are the proof. Never raises for a difference."""
    rows = proof_rows(forest, training)
    everything = rows.all()
    expected_scores = -forest.score_samples(everything)
    expected_flags = forest.predict(everything) == -1
    scores, flags = Scorer(model).score_rows(everything)
    differing = int(np.sum(flags != expected_flags))
    largest = float(np.max(np.abs(scores - expected_scores)))

    # One reading at a time takes another way through the Scorer.
    single = Scorer(model)
    count = min(MAX_SINGLE_ROWS, len(everything))
    one_by_one = []
    for number in range(count):
        one_by_one.append(single.score_rows(everything[number : number + 1]))
        progress("parity, row by row", number + 1, count)
    differing += sum(bool(flag[0] != expected) for (_, flag), expected in zip(one_by_one, expected_flags, strict=False))
    largest = max(largest, *(abs(float(score[0]) - scores[number]) for number, (score, _) in enumerate(one_by_one)))

    offsets, offset_flags, offset_differing = _sweep(forest, model, everything, -expected_scores, progress)
    return ParityProof(
        rows=len(everything),
        boundary_rows=len(rows.boundary),
        training_rows=len(rows.training),
        special_rows=len(rows.special),
        split_values=rows.split_values,
        offsets=offsets,
        offset_flags=offset_flags,
        flags_differing=differing + offset_differing,
        largest_score_difference=largest,
    )


def require(proof: ParityProof) -> None:
    """Raise GateFailed unless the proof holds."""
    if proof.flags_differing:
        raise GateFailed(f"parity: {proof.flags_differing} flags differ from scikit-learn's; nothing was exported")
    if not proof.largest_score_difference <= SCORE_TOLERANCE:
        raise GateFailed(
            f"parity: a score differs by {proof.largest_score_difference}, {SCORE_TOLERANCE} is allowed; "
            "nothing was exported"
        )


def _splits(forest: IsolationForest, feature: int) -> NDArray[np.float64]:
    """Every value that some tree splits this feature at."""
    found = [np.empty(0)]
    for estimator, features in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = estimator.tree_
        inner = tree.children_left != -1
        found.append(tree.threshold[inner & (features[np.maximum(tree.feature, 0)] == feature)])
    return np.unique(np.concatenate(found))


def _put(training: Rows, feature: int, values: Rows) -> Rows:
    """Training rows, taken in turn, with these values in one feature."""
    rows = training[np.arange(len(values)) % len(training)].copy()
    rows[:, feature] = values
    return rows


def _sweep(
    forest: IsolationForest, model: bytes, rows: Rows, score_samples: NDArray[np.float64], progress: Progress
) -> tuple[int, int, int]:
    """Set the offset to scores that occur, and compare the flags of one row for each score.

    Returns the number of offsets, of flags compared, and of flags that differ.
    """
    known, first = np.unique(score_samples, return_index=True)
    picked = np.linspace(0, len(known) - 1, min(MAX_OFFSETS, len(known))).round().astype(int)
    graph = onnx.load_from_string(model)
    moved = copy.copy(forest)
    compared = differing = 0
    for done, number in enumerate(picked):
        near = slice(max(0, number - PROBES_BESIDE), number + PROBES_BESIDE + 1)
        probes, scores = rows[first[near]], known[near]
        moved.offset_ = known[number]
        # predict() is scikit-learn's own; only the scores it begins with are not computed again.
        moved.score_samples = lambda rows, scores=scores: scores
        _, flags = Scorer(with_cut(graph, find_cut(moved))).score_rows(probes)
        differing += int(np.sum(flags != (moved.predict(probes) == -1)))
        compared += len(probes)
        progress("parity, offsets", done + 1, len(picked))
    return len(picked), compared, differing
