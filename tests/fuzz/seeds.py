"""Small models of every kind, for mutations to start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def value(name: str, shape: list | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray], ml: bool = False
) -> onnx.ModelProto:
    """A model of opset 17; `weights` become initializers."""
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "seed", inputs, outputs, held)
    imports = [helper.make_opsetid("", 17)] + ([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def convolution() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["p"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "fc", "fb"], ["l"], transB=1),
        node("Softmax", ["l"], ["y"], axis=1),
    ]
    weights = {"w": random(5, 3, 3, 3), "b": random(5), "s": random(5), "m": random(5), "v": np.abs(random(5))}
    weights |= {"fc": random(4, 5), "fb": random(4)}
    return build(nodes, [value("x", ["n", 3, 9, 9])], [value("y", ["n", 4])], weights)


def recurrent() -> onnx.ModelProto:
    nodes = [
        node("LSTM", ["x", "w", "r", "b", "lens"], ["all", "h", "c"], hidden_size=3, direction="bidirectional"),
        node("Squeeze", ["h", "axis"], ["y"]),
    ]
    weights = {"w": random(2, 12, 4), "r": random(2, 12, 3), "b": random(2, 24), "axis": ints(1)}
    inputs = [value("x", [5, 1, 4]), value("lens", [1], TensorProto.INT32)]
    return build(nodes, inputs, [value("y", [2, 3]), value("all", [5, 2, 1, 3])], weights)


def control() -> onnx.ModelProto:
    then = helper.make_graph([node("Mul", ["x", "two"], ["t"])], "then", [], [value("t", None)])
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [value("e", None)])
    body = helper.make_graph(
        [
            node("Add", ["state", "i2"], ["next"]),
            node("Cast", ["i"], ["i2"], to=FLOAT),
            node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", [], INT64), value("go", [], BOOL), value("state", ["n"])],
        [value("on", [], BOOL), value("next", ["n"]), value("i2", [])],
    )
    body.node.insert(0, body.node.pop(1))
    nodes = [
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["chosen"], then_branch=then, else_branch=other),
        node("Loop", ["trips", "", "chosen"], ["y", "steps"], body=body),
    ]
    weights = {"two": np.float32([2]), "zero": np.array(0, np.float32), "trips": np.array(3, np.int64)}
    return build(nodes, [value("x", ["n"])], [value("y", ["n"]), value("steps", [3])], weights)


def quantized() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["c"]),
        node("DequantizeLinear", ["c", "ys", "yz"], ["d"]),
        node("DynamicQuantizeLinear", ["d"], ["dq", "ds", "dz"]),
        node("MatMulInteger", ["dq", "m", "dz"], ["y"]),
    ]
    weights = {
        "xs": np.array(0.1, np.float32), "xz": np.array(128, np.uint8), "ys": np.array(0.2, np.float32),
        "yz": np.array(100, np.uint8), "ws": np.array(0.05, np.float32), "wz": np.array(0, np.int8),
        "w": np.arange(-12, 12).reshape(3, 2, 2, 2).astype(np.int8), "m": np.arange(8).reshape(4, 2).astype(np.uint8),
    }  # fmt: skip
    return build(nodes, [value("x", [1, 2, 4, 5])], [value("y", [1, 3, 3, 2], TensorProto.INT32)], weights)


def trees() -> onnx.ModelProto:
    tree = node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, aggregate_function="SUM",
        nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4], nodes_featureids=[0, 1, 0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_LT", "LEAF", "LEAF", "LEAF"], nodes_values=[0.5, 0.1, 0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 3, 0, 0, 0], nodes_falsenodeids=[2, 4, 0, 0, 0], nodes_hitrates=[1.0] * 5,
        nodes_missing_value_tracks_true=[0] * 5, target_treeids=[0] * 3, target_nodeids=[2, 3, 4],
        target_ids=[0] * 3, target_weights=[1.0, 2.0, 3.0], post_transform="NONE",
    )  # fmt: skip
    return build([tree], [value("x", ["n", 2])], [value("y", ["n", 1])], {}, ml=True)


def sequence() -> onnx.ModelProto:
    nodes = [
        node("SplitToSequence", ["x", "parts"], ["s"], axis=0),
        node("SequenceAt", ["s", "one"], ["a"]),
        node("SequenceInsert", ["s", "a"], ["s2"]),
        node("ConcatFromSequence", ["s2"], ["y"], axis=0),
        node("SequenceLength", ["s2"], ["n"]),
    ]
    weights = {"parts": ints(1, 2), "one": np.array(1, np.int64)}
    return build(nodes, [value("x", [3, 2])], [value("y", None), value("n", [], INT64)], weights)


def indexing() -> onnx.ModelProto:
    nodes = [
        node("Gather", ["x", "i"], ["g"], axis=1),
        node("ScatterElements", ["g", "j", "u"], ["s"], axis=0),
        node("Slice", ["s", "starts", "ends", "axes", "steps"], ["c"]),
        node("Pad", ["c", "pads"], ["p"]),
        node("TopK", ["p", "k"], ["top", "where"]),
        node("Shape", ["top"], ["shape"]),
        node("ReduceProd", ["shape"], ["size"], keepdims=1),
        node("Reshape", ["top", "size"], ["y"]),
        node("NonZero", ["x"], ["z"]),
        node("GatherND", ["x", "nd"], ["w"]),
    ]
    weights = {"i": ints(2, 0, -1), "j": ints(1, 0, 1).reshape(1, 3), "u": random(1, 3), "starts": ints(0, 2)}
    weights |= {"ends": ints(9, -9), "axes": ints(0, 1), "steps": ints(1, -1), "pads": ints(0, 1, 1, 0), "k": ints(2)}
    weights |= {"nd": ints(0, 1, 1, 2).reshape(2, 2)}
    outputs = [value("y", None), value("where", None, INT64), value("z", [2, "k"], INT64), value("w", [2])]
    return build(nodes, [value("x", [2, 4])], outputs, weights)


def attention() -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "wq"], ["q"]),
        node("MatMul", ["x", "wk"], ["k"]),
        node("Shape", ["x"], ["sh"]),
        node("Gather", ["sh", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "axis0"], ["b1"]),
        node("Concat", ["b1", "rest"], ["target"], axis=0),
        node("Reshape", ["q", "target"], ["qh"]),
        node("Reshape", ["k", "target"], ["kh"]),
        node("Transpose", ["qh"], ["qt"], perm=[0, 2, 1, 3]),
        node("Transpose", ["kh"], ["kt"], perm=[0, 2, 3, 1]),
        node("MatMul", ["qt", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["p"], axis=-1),
        node("ReduceMean", ["p"], ["mean"], axes=[-1], keepdims=1),
        node("Where", ["mask", "p", "mean"], ["m"]),
        node("Einsum", ["m"], ["y"], equation="bhij->bij"),
    ]
    weights = {"wq": random(6, 6), "wk": random(6, 6), "zero": np.array(0, np.int64), "axis0": ints(0)}
    weights |= {"rest": ints(-1, 2, 3), "mask": np.array([True, False, True, True])}
    return build(nodes, [value("x", ["b", 4, 6])], [value("y", ["b", 4, 4])], weights)


SEEDS: dict[str, Callable[[], onnx.ModelProto]] = {
    f.__name__: f for f in (convolution, recurrent, control, quantized, trees, sequence, indexing, attention)
}
