"""The Scorer against scikit-learn, and what it leaves behind: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import IsolationForest

from axlebox.export.forest_onnx import convert
from axlebox.firmware_bundle.errors import Malformed
from axlebox.runtime.scorer import Scorer

SCORE_TOLERANCE = 1e-15
"""numpy's AVX-512 power function was seen 1.1e-16 off."""

Rows = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module", params=["one feature", "three features", "splits that float32 can hit"])
def case(request: pytest.FixtureRequest) -> tuple[IsolationForest, Rows, Scorer]:
    """A forest, its training rows, and the Scorer of its graph."""
    width = 3 if request.param == "three features" else 1
    rows = np.random.default_rng(width).normal(100, 4, (300, width)).astype(np.float32)
    forest = IsolationForest(n_estimators=15, random_state=2, contamination=0.05).fit(rows)
    if request.param == "splits that float32 can hit":
        for estimator in forest.estimators_:
            estimator.tree_.threshold[:] = estimator.tree_.threshold.astype(np.float32)
    return forest, rows, Scorer(convert(forest, width))


def boundary_rows(forest: IsolationForest, rows: Rows) -> Rows:
    """For every split value: the row nearest to it in float32, and one step to either side."""
    found = []
    for estimator in forest.estimators_:
        inner = estimator.tree_.feature >= 0
        for feature, split in zip(estimator.tree_.feature[inner], estimator.tree_.threshold[inner], strict=True):
            at = np.float32(split)
            for value in (np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf))):
                row = rows[len(found) % len(rows)].copy()
                row[feature] = value
                found.append(row)
    return np.array(found, dtype=np.float32)


def test_scores_and_flags_of_training_rows_are_those_of_scikit_learn(case: tuple[Any, Rows, Scorer]) -> None:
    forest, rows, scorer = case
    scores, flags = scorer.score_rows(rows)
    np.testing.assert_allclose(scores, -forest.score_samples(rows), rtol=0, atol=SCORE_TOLERANCE)
    np.testing.assert_array_equal(flags, forest.predict(rows) == -1)
    assert 0 < flags.sum() < len(rows)


def test_one_float32_step_around_every_split_value_scikit_learn_agrees(case: tuple[Any, Rows, Scorer]) -> None:
    forest, rows, scorer = case
    probes = boundary_rows(forest, rows)
    scores, flags = scorer.score_rows(probes)
    expected = -forest.score_samples(probes)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=SCORE_TOLERANCE)
    np.testing.assert_array_equal(flags, forest.predict(probes) == -1)
    # The probes do lie on both sides of splits: neighbours one step apart score differently.
    if rows.shape[1] == 1:
        assert np.any(expected[0::3] != expected[2::3])


def test_one_row_at_a_time_gives_the_bits_of_the_batch(case: tuple[Any, Rows, Scorer]) -> None:
    forest, rows, scorer = case
    probes = np.concatenate([rows, boundary_rows(forest, rows)[:600]])
    scores, flags = scorer.score_rows(probes)
    singles = [scorer.score_rows(probes[number : number + 1]) for number in range(len(probes))]
    assert np.concatenate([score for score, _ in singles]).tobytes() == scores.tobytes()
    assert np.concatenate([flag for _, flag in singles]).tobytes() == flags.tobytes()


@pytest.mark.parametrize("size", [2, 3, 64, 257])
def test_batches_of_any_size_give_the_same_bits(case: tuple[Any, Rows, Scorer], size: int) -> None:
    _, rows, scorer = case
    whole, _ = scorer.score_rows(rows)
    parts = [scorer.score_rows(rows[start : start + size])[0] for start in range(0, len(rows), size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_the_result_of_a_call_is_not_overwritten_by_the_next(case: tuple[Any, Rows, Scorer]) -> None:
    forest, rows, scorer = case
    usual, far = rows[:1], rows[:1] + np.float32(500)
    first = scorer.score_rows(usual)
    kept = [part.copy() for part in first]
    second = scorer.score_rows(far)
    assert [part.tolist() for part in first] == [part.tolist() for part in kept]
    assert first[0][0] < second[0][0]
    assert second[1].tolist() == [True]
    assert second[1].tolist() == (forest.predict(far) == -1).tolist()


def test_the_callers_rows_are_left_alone(case: tuple[Any, Rows, Scorer]) -> None:
    _, rows, scorer = case
    for part in (rows[:1].copy(), rows[:5].copy()):
        before = part.tobytes()
        scorer.score_rows(part)
        assert part.tobytes() == before


def test_two_scorers_do_not_share_buffers(case: tuple[Any, Rows, Scorer], world: Any) -> None:
    _, rows, scorer = case
    before = scorer.score_rows(rows[:1])[0].tolist()
    Scorer(world.model).score_rows(np.array([[500.0]], dtype=np.float32))
    assert scorer.score_rows(rows[:1])[0].tolist() == before


# -- models that are not ours ---------------------------------------------------------------------


def model(inputs: list[Any], nodes: list[Any], outputs: list[Any]) -> bytes:
    graph = helper.make_graph(nodes, "other", inputs, outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = made.SerializeToString()
    return data


def tensor(name: str, kind: int, shape: list[Any] | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


FLOAT, DOUBLE, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL
X = tensor("X", FLOAT, [None, 1])
SCORE, FLAG = tensor("score", DOUBLE, [None]), tensor("flag", BOOL, [None])


def nodes(axes: tuple[int, ...] = (1,)) -> list[Any]:
    """score = the sum of X over `axes`, flag = whether it is not zero."""
    return [
        helper.make_node("Cast", ["X"], ["x64"], to=DOUBLE),
        helper.make_node("Constant", [], ["axes"], value_ints=list(axes)),
        helper.make_node("ReduceSum", ["x64", "axes"], ["score"], keepdims=0),
        helper.make_node("Cast", ["score"], ["flag"], to=BOOL),
    ]


def cast(source: str, target: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [target], to=kind)


def test_a_model_with_the_right_ports_is_loaded_whatever_is_in_it() -> None:
    scorer = Scorer(model([X], nodes(), [SCORE, FLAG]))
    assert scorer.n_features == 1
    scores, flags = scorer.score_rows(np.array([[3.0], [0.0]], dtype=np.float32))
    assert (scores.tolist(), flags.tolist()) == ([3.0, 0.0], [True, False])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"this is not a model", id="text"),
        pytest.param(bytes(range(256)) * 16, id="noise"),
        pytest.param(model([X], nodes(), [SCORE, FLAG])[:-40], id="cut short"),
        pytest.param(model([X], nodes(), [FLAG, SCORE]), id="outputs in the other order"),
        pytest.param(model([X], nodes(), [SCORE]), id="no flag"),
        pytest.param(
            model([tensor("Y", FLOAT, [None, 1])], [cast("Y", "X", FLOAT), *nodes()], [SCORE, FLAG]), id="another input"
        ),
        pytest.param(model([tensor("X", DOUBLE, [None, 1])], nodes(), [SCORE, FLAG]), id="input of float64"),
        pytest.param(
            model([X, tensor("Z", FLOAT, [None])], nodes(), [SCORE, FLAG]),
            id="a second input",
        ),
        pytest.param(
            model([X], [*nodes(), cast("score", "low", FLOAT)], [tensor("low", FLOAT, [None]), FLAG]),
            id="score of float32",
        ),
        pytest.param(model([tensor("X", FLOAT, [None, None])], nodes(), [SCORE, FLAG]), id="any number of features"),
        pytest.param(
            model([tensor("X", FLOAT, [None, 0])], nodes(), [SCORE, FLAG]),
            id="no feature",
        ),
        pytest.param(
            model([tensor("X", FLOAT, [None])], nodes((0,)), [tensor("score", DOUBLE, []), tensor("flag", BOOL, [])]),
            id="rows without columns",
        ),
        pytest.param(
            model(
                [X],
                [cast("X", "score", DOUBLE), cast("X", "flag", BOOL)],
                [tensor("score", DOUBLE, [None, 1]), tensor("flag", BOOL, [None, 1])],
            ),
            id="scores in a column",
        ),
    ],
)
def test_what_is_no_model_of_ours_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Scorer(data)


def test_a_single_row_of_the_wrong_width_is_refused_as_in_a_batch() -> None:
    """Else one feature would be spread silently over all of the model's features."""
    wide = Scorer(model([tensor("X", FLOAT, [None, 3])], nodes(), [SCORE, FLAG]))
    for rows in (np.zeros((2, 1), dtype=np.float32), np.zeros((1, 1), dtype=np.float32)):
        with pytest.raises(Exception, match=r"(?i)dimension|shape|feature"):
            wide.score_rows(rows)


# -- what onnxruntime would leave behind ----------------------------------------------------------

_SCORE_ALONE = """
import sys
import numpy as np
from axlebox.runtime.scorer import Scorer
scorer = Scorer(open(sys.argv[1], "rb").read())
print(scorer.score_rows(np.array([[100.0]], dtype=np.float32))[1].tolist(),
      scorer.score_rows(np.array([[100.0], [500.0]], dtype=np.float32))[1].tolist())
"""


def test_scoring_leaves_no_file_in_an_empty_home(empty_home: dict[str, str], world: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(world.model)
    environment = empty_home | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    assert "ORT_DISABLE_TELEMETRY" not in environment
    done = subprocess.run(
        [sys.executable, "-c", _SCORE_ALONE, str(path)],
        env=environment,
        cwd=empty_home["HOME"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[False] [False, True]\n"
    assert [str(one) for one in Path(empty_home["HOME"]).rglob("*")] == []
