"""The isolation forest as one ONNX graph that gives scikit-learn's own flags.

    X float32 -> Cast float64 -> TreeEnsemble (float64 splits and leaf weights, SUM) -> depth
    flag  = depth <= cut
    score = 2 ^ (depth / -(n_trees * c(max_samples)))

depth is scikit-learn's own sum over the trees of (path length + average path length of the leaf's
samples - 1), so `cut` can be the largest depth that scikit-learn's arithmetic flags: no power
function stands between a reading and its flag. score is s(x, n) of Liu, Ting, Zhou (2008).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length

from axlebox.firmware_bundle import graph
from axlebox.firmware_bundle.errors import GateFailed, Malformed

_DECLARED = graph.OPSETS | {graph.ML_DOMAIN: 3}
"""Operator set versions as skl2onnx is told: it refuses ai.onnx.ml above 3. `finish` sets the true ones."""
_NEVER = -1.0


def denominator(forest: IsolationForest) -> float:
    """n_trees * c(max_samples), by which scikit-learn divides the depth sum. Raises GateFailed for 0."""
    found = len(forest.estimators_) * float(_average_path_length([forest._max_samples])[0])
    if found == 0:
        raise GateFailed("the forest was fitted on one sample a tree: it has no depth to score by")
    return found


def find_cut(forest: IsolationForest) -> float:
    """The largest depth sum that scikit-learn's own arithmetic flags; -1.0 where it flags none.

    Found by bisection over the float64 numbers, whose order, from 0 up, is that of their bits.
    """
    divisor = np.array([denominator(forest)])

    def flagged(depth: float) -> bool:
        # The lines of IsolationForest._compute_score_samples, decision_function and predict.
        scores = 2 ** (-np.divide(np.array([depth]), divisor))
        return bool((-scores - forest.offset_ < 0)[0])

    def depth_of(bits: int) -> float:
        return float(struct.unpack("<d", struct.pack("<q", bits))[0])

    low, high = 0, struct.unpack("<q", struct.pack("<d", float(np.finfo(np.float64).max)))[0]
    if not flagged(0.0):
        return _NEVER
    while high - low > 1:
        middle = (low + high) // 2
        if flagged(depth_of(middle)):
            low = middle
        else:
            high = middle
    return depth_of(low)


def convert(forest: IsolationForest, n_features: int) -> bytes:
    """The model file of a fitted forest: the same bytes in every process.

    Raises GateFailed for a forest that no vehicle would load (`graph` has the bounds).
    """
    from skl2onnx import convert_sklearn, update_registered_converter
    from skl2onnx.common.data_types import FloatTensorType

    update_registered_converter(
        IsolationForest, "AxleboxIsolationForest", _shapes, _convert, parser=_parse, overwrite=True
    )
    model = convert_sklearn(
        forest,
        initial_types=[(graph.INPUT, FloatTensorType([None, n_features]))],
        target_opset=_DECLARED,
        name=graph.GRAPH_NAME,
    )
    data = finish(model)
    try:
        graph.check_graph(data, "the exported model")
    except Malformed as error:
        raise GateFailed(f"the vehicle would refuse this forest: {error}") from error
    return data


def finish(model: ModelProto) -> bytes:
    """Set what skl2onnx cannot declare, in an order that does not change from process to process."""
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in graph.OPSETS.items())
    model.ir_version = graph.IR_VERSION
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def with_cut(model: ModelProto, cut: float) -> bytes:
    """The same graph with another cut, for the sweep of offsets."""
    (tensor,) = (one for one in model.graph.initializer if one.name == graph.CUT)
    tensor.CopyFrom(helper.make_tensor(graph.CUT, graph.DOUBLE, [], [cut]))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _parse(scope: Any, model: IsolationForest, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    """skl2onnx parser: one operator with the two outputs that the Scorer expects."""
    from skl2onnx.common.data_types import BooleanTensorType, DoubleTensorType

    operator = scope.declare_local_operator("AxleboxIsolationForest", model)
    operator.inputs = inputs
    operator.outputs.append(scope.declare_local_variable(graph.SCORE, DoubleTensorType([None])))
    operator.outputs.append(scope.declare_local_variable(graph.FLAG, BooleanTensorType([None])))
    return list(operator.outputs)


def _shapes(operator: Any) -> None:
    """skl2onnx shape calculator: the parser has said all."""


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """skl2onnx converter: the nodes and constants of `graph`'s table."""
    forest = operator.raw_operator
    constants: dict[str, NDArray[Any]] = {
        graph.AXIS: np.array([1], dtype=np.int64),
        graph.CUT: np.array(find_cut(forest)),
        graph.DIVISOR: np.array(-denominator(forest)),
        graph.TWO: np.array(2.0),
    }
    for name, values in constants.items():
        data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        container.add_initializer(name, data_type, list(values.shape), values.ravel().tolist())
    attributes = {graph.CAST: {"to": graph.DOUBLE}, graph.TREES: _tree_attributes(forest)}
    for node in graph.NODES:
        container.add_node(
            node.op_type,
            list(node.inputs),
            list(node.outputs),
            op_domain=node.domain,
            op_version=_DECLARED[node.domain],
            name=node.name,
            **attributes.get(node, {}),
        )


def _tree_attributes(forest: IsolationForest) -> dict[str, Any]:
    """The attributes of TreeEnsemble: inner nodes and leaves of all trees, numbered in order.

    A tree that is a single leaf becomes an inner node whose two branches are that leaf, as the
    operator's specification asks.
    """
    columns: dict[str, list[NDArray[Any]]] = {}
    roots = []
    nodes = leaves = 0
    per_tree = zip(
        forest.estimators_,
        forest.estimators_features_,
        forest._decision_path_lengths,
        forest._average_path_length_per_tree,
        strict=True,
    )
    for estimator, features, path_lengths, average_lengths in per_tree:
        tree = estimator.tree_
        is_leaf = tree.children_left == -1
        weights = (path_lengths + average_lengths - 1.0)[is_leaf]
        # A node's number among the inner nodes or among the leaves, over all trees.
        number = np.where(is_leaf, leaves + np.cumsum(is_leaf) - 1, nodes + np.cumsum(~is_leaf) - 1)
        inner = np.flatnonzero(~is_leaf)
        if len(inner) == 0:
            left = right = np.zeros(1, dtype=np.int64)
            feature, split, missing = np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(1, dtype=np.int64)
        else:
            left, right = tree.children_left[inner], tree.children_right[inner]
            feature, split = features[tree.feature[inner]], tree.threshold[inner]
            missing = tree.missing_go_to_left[inner].astype(np.int64)
        for name, values in {
            "nodes_featureids": feature,
            "nodes_splits": split,
            "nodes_truenodeids": number[left],
            "nodes_trueleafs": is_leaf[left].astype(np.int64),
            "nodes_falsenodeids": number[right],
            "nodes_falseleafs": is_leaf[right].astype(np.int64),
            "nodes_missing_value_tracks_true": missing,
            "leaf_weights": weights,
        }.items():
            columns.setdefault(name, []).append(values)
        roots.append(nodes)
        nodes += max(1, len(inner))
        leaves += len(weights)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    attributes: dict[str, Any] = {
        name: values.tolist() for name, values in joined.items() if name not in ("nodes_splits", "leaf_weights")
    }
    attributes["nodes_splits"] = numpy_helper.from_array(joined["nodes_splits"], "nodes_splits")
    attributes["leaf_weights"] = numpy_helper.from_array(joined["leaf_weights"], "leaf_weights")
    attributes["nodes_modes"] = numpy_helper.from_array(np.full(nodes, graph.LEQ, dtype=np.uint8), "nodes_modes")
    attributes |= {
        "tree_roots": roots,
        "leaf_targetids": [0] * leaves,
        "n_targets": graph.TARGETS,
        "aggregate_function": graph.SUM,
        "post_transform": graph.NO_TRANSFORM,
    }
    return attributes
