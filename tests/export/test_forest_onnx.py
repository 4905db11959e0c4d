"""The exported graph against scikit-learn, where a formulation that is merely close fails."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from axlebox.export import parity
from axlebox.export.forest_onnx import convert, find_cut
from axlebox.firmware_bundle.errors import GateFailed
from axlebox.runtime.scorer import Scorer

RANDOM = np.random.default_rng(7)
SHAPES: dict[str, tuple[NDArray[np.float32], dict[str, Any]]] = {
    "the talk's": (RANDOM.normal(100, 4, (600, 1)).round().astype(np.float32), {"bootstrap": True}),
    "three features": (RANDOM.normal(size=(500, 3)).astype(np.float32), {}),
    "a part of the features a tree": (RANDOM.normal(size=(500, 4)).astype(np.float32), {"max_features": 2}),
    "integers, where splits fall on values": (RANDOM.integers(0, 9, (400, 2)).astype(np.float32), {"max_samples": 50}),
    "trees of a single leaf": (np.full((50, 1), 3, dtype=np.float32), {}),
    "missing values in training": (
        np.where(RANDOM.random((500, 2)) < 0.1, np.nan, RANDOM.normal(size=(500, 2))).astype(np.float32),
        {},
    ),
}


@pytest.fixture(scope="module", params=SHAPES)
def fitted(request: pytest.FixtureRequest) -> tuple[IsolationForest, NDArray[np.float32]]:
    rows, settings = SHAPES[request.param]
    settings = {"n_estimators": 30, "random_state": 3, "contamination": 0.05, **settings}
    return IsolationForest(**settings).fit(rows), rows


def test_every_flag_equals_scikit_learn_s(fitted: tuple[IsolationForest, NDArray[np.float32]]) -> None:
    forest, rows = fitted
    everything = parity.proof_rows(forest, rows).all()
    scores, flags = Scorer(convert(forest, rows.shape[1])).score_rows(everything)
    assert flags.tolist() == (forest.predict(everything) == -1).tolist()
    assert np.abs(scores + forest.score_samples(everything)).max() <= 1e-15


def test_the_proof_counts_what_it_compared_and_finds_no_difference(
    fitted: tuple[IsolationForest, NDArray[np.float32]],
) -> None:
    forest, rows = fitted
    proof = parity.prove(forest, convert(forest, rows.shape[1]), rows)
    parity.require(proof)
    splits = {
        (int(features[feature]), float(split))
        for tree, features in zip(forest.estimators_, forest.estimators_features_, strict=True)
        for feature, split in zip(tree.tree_.feature, tree.tree_.threshold, strict=True)
        if feature >= 0
    }
    assert proof.split_values == len(splits) and proof.boundary_rows == 3 * len(splits)
    assert proof.training_rows == len(rows)
    assert proof.offset_flags >= proof.offsets > 0


def rounded_splits(model: bytes) -> bytes:
    """A graph whose split values went through float32, as stock conversions do."""
    graph = onnx.load_from_string(model)
    (node,) = (one for one in graph.graph.node if one.op_type == "TreeEnsemble")
    (splits,) = (one for one in node.attribute if one.name == "nodes_splits")
    values = onnx.numpy_helper.to_array(splits.t)
    down = np.nextafter(values.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    splits.t.CopyFrom(onnx.numpy_helper.from_array(down, "nodes_splits"))
    return graph.SerializeToString()


def moved_cut(model: bytes) -> bytes:
    graph = onnx.load_from_string(model)
    (cut,) = (one for one in graph.graph.initializer if one.name == "cut")
    cut.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(cut) * 1.02, "cut"))
    return graph.SerializeToString()


@pytest.mark.parametrize("spoil", [rounded_splits, moved_cut])
def test_the_proof_finds_a_graph_that_is_nearly_right(spoil: Any) -> None:
    rows, settings = SHAPES["integers, where splits fall on values"]
    forest = IsolationForest(n_estimators=30, random_state=3, contamination=0.05, **settings).fit(rows)
    proof = parity.prove(forest, spoil(convert(forest, 2)), rows)
    with pytest.raises(GateFailed):
        parity.require(proof)


def test_a_cut_that_ignores_rounding_fails_the_sweep_of_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The algebraic inverse of the score is close to the cut, but not the cut."""
    rows, settings = SHAPES["the talk's"]
    forest = IsolationForest(random_state=3, contamination=0.05, **settings).fit(rows)
    model = convert(forest, 1)

    def algebraic(moved: IsolationForest) -> float:
        divisor = len(moved.estimators_) * parity_denominator(moved)
        return float(-np.log2(-moved.offset_) * divisor)

    monkeypatch.setattr(parity, "find_cut", algebraic)
    assert parity.prove(forest, model, rows).flags_differing > 0


def parity_denominator(forest: IsolationForest) -> float:
    from sklearn.ensemble._iforest import _average_path_length

    return float(_average_path_length([forest._max_samples])[0])


def test_the_cut_is_the_last_depth_that_scikit_learn_flags() -> None:
    rows, settings = SHAPES["the talk's"]
    forest = IsolationForest(n_estimators=30, random_state=3, contamination=0.05, **settings).fit(rows)
    cut = find_cut(forest)
    divisor = np.array([30 * parity_denominator(forest)])
    decisions = [
        float((-(2 ** -(np.array([depth]) / divisor)) - forest.offset_)[0])
        for depth in (cut, np.nextafter(cut, np.inf))
    ]
    assert decisions[0] < 0 <= decisions[1]


@pytest.mark.parametrize(("offset", "share"), [(-2.0, 0.0), (1.0, 1.0)])
def test_offsets_beyond_every_score_flag_nothing_or_everything(offset: float, share: float) -> None:
    rows, settings = SHAPES["the talk's"]
    forest = IsolationForest(n_estimators=30, random_state=3, **settings).fit(rows)
    forest.offset_ = offset
    _, flags = Scorer(convert(forest, 1)).score_rows(rows)
    assert flags.mean() == share == (forest.predict(rows) == -1).mean()


def test_a_forest_of_one_sample_a_tree_is_refused() -> None:
    forest = IsolationForest(n_estimators=3, max_samples=1, random_state=1).fit([[1.0], [2.0]])
    with pytest.raises(GateFailed, match="one sample"):
        convert(forest, 1)


def test_model_bytes_are_the_same_in_processes_with_other_hash_seeds() -> None:
    code = (
        "import numpy as np, hashlib; from sklearn.ensemble import IsolationForest\n"
        "from axlebox.export.forest_onnx import convert\n"
        "rows = np.random.default_rng(7).normal(100, 4, (300, 2)).astype(np.float32)\n"
        "forest = IsolationForest(n_estimators=10, random_state=69, bootstrap=True, contamination=0.05).fit(rows)\n"
        "print(hashlib.sha256(convert(forest, 2)).hexdigest())\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(6)
    ]
    digests = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [len(digest) for digest in digests] == [64]


def test_the_graph_consists_of_six_nodes_one_of_them_the_trees() -> None:
    rows, settings = SHAPES["the talk's"]
    forest = IsolationForest(n_estimators=30, random_state=3, **settings).fit(rows)
    graph = onnx.load_from_string(convert(forest, 1)).graph
    assert sorted(node.op_type for node in graph.node) == [
        "Cast",
        "Div",
        "LessOrEqual",
        "Pow",
        "Squeeze",
        "TreeEnsemble",
    ]
