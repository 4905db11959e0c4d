"""The one graph that a model may be: export writes it from this table, the vehicle refuses all others.

A model is hostile until it is proven ours. Before onnxruntime sees it, its bytes are read here
within bounds, and refused unless every operator, attribute, type, name and size is one that
`export.forest_onnx` writes. Free are only the numbers of a forest, and those are kept in range.
Field numbers are those of onnx.proto (ONNX IR version 10).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from axlebox.firmware_bundle.wire import Message, refuse

# -- the table, which export uses too -------------------------------------------------------------

IR_VERSION: Final = 10
ML_DOMAIN: Final = "ai.onnx.ml"
OPSETS: Final = {"": 18, ML_DOMAIN: 5}
"""Operator set versions. ai.onnx.ml 5 has TreeEnsemble with float64 splits."""
GRAPH_NAME: Final = "isolation forest"

INPUT, SCORE, FLAG = "X", "score", "flag"
AXIS, CUT, DIVISOR, TWO = "squeeze_axis", "cut", "minus_denominator", "two"
"""The constants, in the order of the file."""

FLOAT, UINT8, INT64, BOOL, DOUBLE = 1, 2, 7, 9, 11
"""TensorProto.DataType."""
LEQ, SUM, NO_TRANSFORM, TARGETS = 0, 1, 0, 1
"""TreeEnsemble's nodes_modes, aggregate_function, post_transform and n_targets."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the graph, in the words of NodeProto."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""


CAST = Node("Cast", "cast", (INPUT,), ("x64",))
TREES = Node("TreeEnsemble", "trees", ("x64",), ("depth_column",), ML_DOMAIN)
SQUEEZE = Node("Squeeze", "squeeze", ("depth_column", AXIS), ("depth",))
DIVIDE = Node("Div", "divide", ("depth", DIVISOR), ("exponent",))
DECIDE = Node("LessOrEqual", "decide", ("depth", CUT), (FLAG,))
POWER = Node("Pow", "power", (TWO, "exponent"), (SCORE,))
NODES: Final = (CAST, TREES, SQUEEZE, DIVIDE, DECIDE, POWER)
"""All nodes, in the order of the file."""

# -- bounds: room for 1,000 trees of 256 samples, which have 255 inner nodes each -----------------

MAX_MODEL_BYTES = 16 * 1024 * 1024
MAX_FEATURES = 256
MAX_TREES = 2048
MAX_NODES = 256 * 1024
MAX_LEAVES = MAX_NODES + MAX_TREES
MAX_DEPTH = 64
"""scikit-learn stops at log2 of max_samples. onnxruntime walks trees by recursion: at a depth of
20,000 version 1.32 ended with a segmentation fault while loading."""
_MAX_PORTS = 16

_INT, _TENSOR, _INTS = 2, 4, 7  # AttributeProto.AttributeType


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """How large a checked model is."""

    n_features: int
    n_trees: int
    n_nodes: int
    """Inner nodes of all trees."""
    n_leaves: int


@dataclass(frozen=True, slots=True)
class _Trees:
    """The numbers of TreeEnsemble that lead somewhere: one a tree (roots), one an inner node (the others)."""

    roots: Sequence[int]
    features: Sequence[int]
    true_ids: Sequence[int]
    true_is_leaf: Sequence[int]
    false_ids: Sequence[int]
    false_is_leaf: Sequence[int]
    n_leaves: int


def check_graph(model: bytes, name: str) -> GraphFacts:
    """Refuse a model file that export could not have written; `name` is its name in messages.

    Raises Malformed, and nothing else, for any bytes. Time and memory stay in proportion to the
    file, up to MAX_MODEL_BYTES.
    """
    if len(model) > MAX_MODEL_BYTES:
        refuse(name, f"{len(model)} bytes", f"at most {MAX_MODEL_BYTES}")
    graph = _read_model(Message(memoryview(model), name))
    trees = _read_nodes(graph)
    graph.text(2, "name", only=GRAPH_NAME)
    _read_constants(graph)
    n_features = _read_ports(graph)
    graph.end()
    _check_features(trees, n_features, name)
    _check_branches(trees, name)
    return GraphFacts(n_features, len(trees.roots), len(trees.features), trees.n_leaves)


def _read_model(model: Message) -> Message:
    """ModelProto without functions, metadata and training; returns its graph."""
    model.number(1, "ir_version", only=IR_VERSION)
    # Whatever wrote the file may say so: a newer skl2onnx is no reason to refuse.
    model.text(2, "producer_name")
    model.text(3, "producer_version")
    model.text(4, "domain", only="ai.onnx")
    model.number(5, "model_version", only=0)
    model.text(6, "doc_string", only="")
    graph = model.message(7, "graph")
    for domain, version in OPSETS.items():
        opset = model.message(8, "opset_import")
        opset.text(1, "domain", only=domain)
        opset.number(2, "version", only=version)
        opset.end()
    model.end()
    return graph


def _read_nodes(graph: Message) -> _Trees:
    with _node(graph, CAST) as attributes:
        _read_integer(attributes, "to", DOUBLE)
    with _node(graph, TREES) as attributes:
        trees = _read_trees(attributes)
    for plain in (SQUEEZE, DIVIDE, DECIDE, POWER):
        with _node(graph, plain):
            pass  # no attributes
    return trees


@contextmanager
def _node(graph: Message, node: Node) -> Iterator[Message]:
    """NodeProto; its attributes are read by the caller, between what stands before and after them."""
    message = graph.message(1, f"node {node.name}")
    inputs = message.texts(1, "input", _MAX_PORTS)
    outputs = message.texts(2, "output", _MAX_PORTS)
    names = message.texts(3, "name", 1)
    # The operator first: it says most about a graph that is not ours.
    message.text(4, "op_type", only=node.op_type)
    message.expect("inputs", inputs, node.inputs)
    message.expect("outputs", outputs, node.outputs)
    message.expect("name", names, (node.name,))
    yield message
    message.text(7, "domain", only=node.domain)
    message.end()


def _read_trees(node: Message) -> _Trees:
    """The attributes of TreeEnsemble, in the order of their names. Lengths agree, codes and flags are ours."""
    _read_integer(node, "aggregate_function", SUM)
    n_leaves = len(_read_integers(node, "leaf_targetids", below=TARGETS, at_most=MAX_LEAVES))
    _read_doubles(node, "leaf_weights", n_leaves)
    _read_integer(node, "n_targets", TARGETS)
    false_is_leaf = _read_integers(node, "nodes_falseleafs", below=2, at_most=MAX_NODES)
    n_nodes = len(false_is_leaf)
    false_ids = _read_integers(node, "nodes_falsenodeids", below=MAX_LEAVES, count=n_nodes)
    features = _read_integers(node, "nodes_featureids", below=MAX_FEATURES, count=n_nodes)
    _read_integers(node, "nodes_missing_value_tracks_true", below=2, count=n_nodes)
    _read_modes(node, "nodes_modes", n_nodes)
    _read_doubles(node, "nodes_splits", n_nodes)
    true_is_leaf = _read_integers(node, "nodes_trueleafs", below=2, count=n_nodes)
    true_ids = _read_integers(node, "nodes_truenodeids", below=MAX_LEAVES, count=n_nodes)
    _read_integer(node, "post_transform", NO_TRANSFORM)
    roots = _read_integers(node, "tree_roots", below=n_nodes, at_most=MAX_TREES)
    return _Trees(roots, features, true_ids, true_is_leaf, false_ids, false_is_leaf, n_leaves)


# -- attributes, constants, ports -----------------------------------------------------------------


def _open_attribute(node: Message, name: str) -> Message:
    attribute = node.message(5, f"attribute {name}")
    attribute.text(1, "name", only=name)
    return attribute


def _close_attribute(attribute: Message, kind: int) -> None:
    attribute.number(20, "type", only=kind)
    attribute.end()


def _read_integer(node: Message, name: str, only: int) -> None:
    attribute = _open_attribute(node, name)
    attribute.number(3, "i", only=only)
    _close_attribute(attribute, _INT)


def _read_integers(
    node: Message, name: str, *, below: int, at_most: int = 0, count: int | None = None
) -> Sequence[int]:
    """Numbers 0 to `below` - 1: exactly `count` of them, or 1 to `at_most` where no count is known yet."""
    attribute = _open_attribute(node, name)
    found = attribute.numbers(8, "ints", at_most if count is None else count)
    _close_attribute(attribute, _INTS)
    if count is not None:
        attribute.expect("length", len(found), count)
    if max(found) >= below:
        refuse(attribute.where, f"number {max(found)}", f"0 to {below - 1}")
    return found


def _read_doubles(node: Message, name: str, count: int) -> None:
    """A tensor of finite float64 numbers: NaN would compare as nothing, and infinities sum to NaN."""
    raw = _read_tensor(node, name, DOUBLE, count, width=8)
    if not all(map(math.isfinite, struct.unpack(f"<{count}d", raw))):
        refuse(f"{node.where}, attribute {name}", "NaN or an infinity", "finite numbers")


def _read_modes(node: Message, name: str, count: int) -> None:
    if _read_tensor(node, name, UINT8, count, width=1) != bytes((LEQ,)) * count:
        refuse(f"{node.where}, attribute {name}", "another comparison", "LEQ alone")


def _read_tensor(node: Message, name: str, data_type: int, count: int, width: int) -> memoryview:
    """The raw data of a tensor of one dimension, inside the file and complete: `count` values of `width` bytes."""
    attribute = _open_attribute(node, name)
    tensor = attribute.message(5, "tensor")
    _close_attribute(attribute, _TENSOR)
    tensor.number(1, "dims", only=count)
    tensor.number(2, "data_type", only=data_type)
    tensor.text(8, "name", only=name)
    raw = tensor.data(9, "raw_data")
    tensor.end()
    tensor.expect("raw_data length", len(raw), count * width)
    return raw


def _read_constants(graph: Message) -> None:
    axis = graph.message(5, f"initializer {AXIS}")
    axis.number(1, "dims", only=1)
    axis.number(2, "data_type", only=INT64)
    axis.expect("int64_data", bytes(axis.data(7, "int64_data")[:8]), b"\x01")
    axis.text(8, "name", only=AXIS)
    axis.end()
    _read_constant(graph, CUT)
    if (divisor := _read_constant(graph, DIVISOR)) >= 0:
        refuse(graph.where, f"{DIVISOR} {divisor}", "numbers below 0")
    graph.expect(TWO, _read_constant(graph, TWO), 2.0)


def _read_constant(graph: Message, name: str) -> float:
    """A finite float64 without dimensions."""
    tensor = graph.message(5, f"initializer {name}")
    tensor.number(2, "data_type", only=DOUBLE)
    tensor.text(8, "name", only=name)
    raw = tensor.data(10, "double_data")
    tensor.end()
    tensor.expect("double_data length", len(raw), 8)
    (value,) = struct.unpack("<d", raw)
    if not math.isfinite(value):
        refuse(tensor.where, f"{value}", "finite numbers")
    return float(value)


def _read_ports(graph: Message) -> int:
    """X float32 (rows, features) -> score float64 (rows,), flag bool (rows,); returns the number of features."""
    shape = _open_port(graph.message(11, f"input {INPUT}"), INPUT, FLOAT)
    columns = shape.message(1, "dim")
    n_features = columns.number(1, "dim_value")
    columns.end()
    shape.end()
    if not 1 <= n_features <= MAX_FEATURES:
        refuse(columns.where, f"{n_features} features", f"1 to {MAX_FEATURES}")
    _open_port(graph.message(12, f"output {SCORE}"), SCORE, DOUBLE).end()
    _open_port(graph.message(12, f"output {FLAG}"), FLAG, BOOL).end()
    return n_features


def _open_port(port: Message, name: str, data_type: int) -> Message:
    """ValueInfoProto of a tensor with any number of rows; returns its shape after that dimension."""
    port.text(1, "name", only=name)
    kind = port.message(2, "type")
    port.end()
    tensor = kind.message(1, "tensor_type")
    kind.end()
    tensor.number(1, "elem_type", only=data_type)
    shape = tensor.message(2, "shape")
    tensor.end()
    shape.message(1, "dim").end()
    return shape


# -- the trees ------------------------------------------------------------------------------------


def _check_features(trees: _Trees, n_features: int, where: str) -> None:
    if max(trees.features) >= n_features:
        refuse(f"{where}, trees", f"feature {max(trees.features)}", f"0 to {n_features - 1}")


def _check_branches(trees: _Trees, where: str) -> None:
    """Every node and leaf hangs on exactly one branch, below its parent and not too deep.

    Children are numbered above their parent, so no walk can come back to where it was: a cycle
    would never end. No two branches share a node: a chain of n nodes that is shared at every
    step unrolls to 2**n. onnxruntime 1.32 finds both by itself; this does not rely on it.
    """
    where = f"{where}, trees"
    n_nodes = len(trees.features)
    depth = bytearray(n_nodes)
    nodes, leaves = list(trees.roots), []
    branches = zip(trees.true_ids, trees.true_is_leaf, trees.false_ids, trees.false_is_leaf, strict=True)
    for parent, (true_id, true_is_leaf, false_id, false_is_leaf) in enumerate(branches):
        if true_is_leaf and false_is_leaf and true_id == false_id:
            leaves.append(true_id)  # a tree of a single leaf, which both branches name
            continue
        for child, is_leaf in ((true_id, true_is_leaf), (false_id, false_is_leaf)):
            if is_leaf:
                leaves.append(child)
                continue
            if not parent < child < n_nodes:
                refuse(where, f"node {child} below node {parent}", f"{parent + 1} to {n_nodes - 1}")
            if depth[parent] == MAX_DEPTH:
                refuse(where, f"node {child} deeper than {MAX_DEPTH}", f"at most {MAX_DEPTH}")
            depth[child] = depth[parent] + 1
            nodes.append(child)
    _check_each_once("node", nodes, n_nodes, where)
    _check_each_once("leaf", leaves, trees.n_leaves, where)


def _check_each_once(what: str, found: list[int], count: int, where: str) -> None:
    if sorted(found) != list(range(count)):
        refuse(where, f"a {what} that is shared, unreached or not there", f"each of {count} once")
