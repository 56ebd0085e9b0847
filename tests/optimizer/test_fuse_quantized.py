"""Operators between DequantizeLinear and QuantizeLinear compute on bytes, where that gives the same numbers."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from sardonyx.optimizer.fuse_quantized import FuseQuantized
from sardonyx.optimizer.move_quantization import MoveQuantization
from tests.optimizer.quantized_graphs import F32, Quantised, check, operators, rewritten

FLOATS = ("Conv", "MatMul", "Gemm", "Add", "Mul", "Relu", "Clip", "Sigmoid", "Softmax", "AveragePool")


def conv(g, after=None, *, bias: str = "int32", zero: int = 117, w_zero=0, kind=np.uint8) -> str:
    """x -> Conv (a scale for each channel) -> `after` -> bytes."""
    x = g.qdq(g.x(2, 3, 7, 5), 0.03, 130)
    scales = np.linspace(0.002, 0.01, 11).astype(F32)
    zeros = np.broadcast_to(w_zero, scales.shape).astype(np.int8)
    inputs = [x, g.weight(11, 3, 3, 3, scale=scales, zero=zeros)]
    if bias == "int32":
        array = g.rng.integers(-3000, 3000, 11).astype(np.int32)
        inputs.append(g.add("DequantizeLinear", g.constant(array), g.constant(scales * F32(0.03)), axis=0))
    if bias == "float":
        inputs.append(g.constant(g.rng.standard_normal(11).astype(F32)))
    y = g.add("Conv", *inputs, pads=[1, 1, 0, 2], strides=[2, 1])
    return g.q(after(g, y) if after else y, 0.02, zero, kind)


def clip(low: float | None, high: float | None):
    def after(g: Quantised, y: str) -> str:
        ends = ["" if end is None else g.constant(np.asarray(end, F32)) for end in (low, high)]
        return g.add("Clip", y, *ends)

    return after


def relu(g: Quantised, y: str) -> str:
    return g.add("Relu", y)


CONVS = {
    "int32 bias": (partial(conv), []),
    "float bias": (partial(conv, bias="float"), []),
    "no bias": (partial(conv, bias=""), []),
    "int8 and zero points of weights": (partial(conv, kind=np.int8, zero=3, w_zero=np.arange(11) - 5), []),
    "Relu inside the range": (partial(conv, after=relu, zero=0), []),
    "Relu of int8": (partial(conv, after=relu, kind=np.int8, zero=-128), []),
    "Relu": (partial(conv, after=relu, zero=40), ["Clip"]),
    "Clip": (partial(conv, after=clip(-0.7, 1.3)), ["Clip"]),
    "Clip beyond the range": (partial(conv, after=clip(-90.0, 70.0)), []),
    "Clip without an end": (partial(conv, after=clip(None, 1.0)), ["Clip"]),
    "Clips one after the other": (
        partial(conv, after=lambda g, y: relu(g, clip(0.3, 2.0)(g, clip(-1.0, 1.1)(g, y)))), ["Clip"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVS)
def test_a_convolution_between_bytes_computes_on_bytes(case: str) -> None:
    g, (build, more) = Quantised(13), CONVS[case]
    assert operators(g.model(build(g))) == ["QuantizeLinear", "QLinearConv", *more]


def test_convolutions_on_bytes_give_the_same_numbers() -> None:
    g = Quantised()
    check(g.model(*(build(g) for build, _ in CONVS.values())), g.feeds, steps=1)


def test_products_between_bytes_compute_on_bytes() -> None:
    g = Quantised()
    x = g.qdq(g.x(7, 19))
    outputs = []
    columns = np.linspace(0.002, 0.02, 13).astype(F32)
    outputs.append(g.q(g.add("MatMul", x, g.weight(19, 13)), 0.1))
    outputs.append(g.q(g.add("MatMul", x, g.weight(19, 13, scale=columns, zero=[0] * 13, axis=1)), 0.1))
    outputs.append(g.q(g.add("MatMul", x, g.weight(19, 13, zero=101, kind=np.uint8)), 0.1))
    outputs.append(g.q(g.add("MatMul", x, g.qdq(g.x(19, 3), 0.03, -7, np.int8)), 0.1, 0, np.int8))
    w = g.weight(13, 19, scale=columns, zero=[0] * 13)
    bias = g.constant(g.rng.standard_normal(13).astype(F32))
    outputs.append(g.q(g.add("Gemm", x, w, bias, transB=1), 0.1))
    outputs.append(g.q(g.add("Gemm", x, w, bias, transB=1, alpha=0.5, beta=3.0), 0.1))
    outputs.append(g.q(g.add("Gemm", x, g.weight(19, 13), transA=0), 0.1))
    model = g.model(*outputs)
    left = operators(model)
    assert left.count("QLinearMatMul") == 4
    assert left.count("QGemm") == 3
    assert not set(left) & set(FLOATS)
    check(model, g.feeds, steps=1)


def test_both_products_of_an_attention_are_exact_sums_of_bytes() -> None:
    for q_zero, k_zero in ((117, 131), (0, 255)):
        g = Quantised()
        q, k, v = (g.qdq(g.x(2, 3, 7, 19), 0.02, zero) for zero in (q_zero, k_zero, 120))
        scores = g.add("MatMul", q, g.add("Transpose", k, perm=[0, 1, 3, 2]))
        weights = g.qdq(g.x(2, 3, 5, 7), 1 / 255, 0)
        model = g.model(g.q(scores, 0.1, 128), g.q(g.add("MatMul", weights, v), 0.02, 125))
        left = operators(model)
        assert left.count("QLinearMatMul") == 2
        assert not set(left) & set(FLOATS)
        check(model, g.feeds, steps=1)


def test_products_that_end_in_floats_are_products_of_bytes_times_the_scales() -> None:
    g = Quantised()
    x, image = g.qdq(g.x(5, 19)), g.qdq(g.x(1, 2, 6, 5), 0.04, 3, np.int8)
    columns = np.linspace(0.002, 0.02, 13).astype(F32)
    bias = g.constant(g.rng.standard_normal(13).astype(F32))
    outputs = [
        g.add("MatMul", x, g.weight(19, 13, scale=columns, zero=[1] * 13, axis=1)),
        g.add("Gemm", x, g.weight(13, 19), bias, transB=1, alpha=2.0),
        g.add("Conv", image, g.weight(13, 2, 3, 2, scale=columns, zero=[0] * 13), bias),
        g.add("Conv", image, g.weight(4, 1, 3, 2, zero=2), group=2),
    ]
    model = g.model(*outputs)
    left = operators(model)
    assert [left.count(name) for name in ("MatMulIntegerToFloat", "QGemm", "ConvInteger")] == [1, 1, 2]
    assert not set(left) & {"Conv", "MatMul", "Gemm", "DequantizeLinear"}
    check(model, g.feeds)


def test_products_by_scales_that_a_run_finds() -> None:
    g = Quantised()
    g.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [g.x(5, 19)], ["bytes", "scale", "zero"]))
    x = g.add("DequantizeLinear", "bytes", "scale", "zero")
    model = g.model(g.add("MatMul", x, g.weight(19, 13)))
    assert operators(model) == ["DynamicQuantizeLinear", "MatMulIntegerToFloat"]
    check(model, g.feeds)


def test_weights_of_four_bits_are_widened() -> None:
    g = Quantised()
    x = g.qdq(g.x(5, 18))
    for kind, low, zero in ((TensorProto.INT4, -8, -1), (TensorProto.UINT4, 0, 7)):
        array = g.rng.integers(low, low + 16, (18, 6))
        both = g.constant(np.linspace(0.02, 0.1, 6).astype(F32)), g.constant(np.full(6, zero), kind)
        w = g.add("DequantizeLinear", g.constant(array, kind), *both, axis=-1)
        g.outputs.append(g.q(g.add("MatMul", x, w), 0.1))
    model = g.model(*g.outputs)
    assert operators(model) == ["QuantizeLinear", "QLinearMatMul", "QLinearMatMul"]
    check(model, g.feeds, steps=1)


def test_elements_and_pools_compute_on_bytes() -> None:
    g = Quantised()
    x, y = g.qdq(g.x(2, 5, 6, 7)), g.qdq(g.x(2, 1, 6, 7), 0.03, 90)
    pooled = g.add("AveragePool", x, kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1, strides=[2, 2])
    values = [g.add("Add", x, y), g.add("Mul", x, y), g.add("Sigmoid", x), g.add("LeakyRelu", x, alpha=0.2), pooled]
    values += [g.add("GlobalAveragePool", x), g.add("Softmax", x, axis=1), relu(g, x), relu(g, g.add("Add", x, y))]
    model = g.model(*(g.q(value, 0.01, 100) for value in values[:-2]), *(g.q(value) for value in values[-2:]))
    left = operators(model)
    expected = ("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool",
                "QLinearGlobalAveragePool", "QLinearSoftmax", "Clip")  # fmt: skip
    assert set(left) == {"QuantizeLinear", *expected}
    check(model, g.feeds, steps=1)


@pytest.mark.parametrize("opset", [17, 21])
def test_a_mean_over_all_positions_is_global_pooling(opset: int) -> None:
    def mean(g: Quantised, axes: list[int], **more: int) -> str:
        x = g.qdq(g.x(2, 5, 6, 7))
        if opset < 18:
            return g.q(g.add("ReduceMean", x, axes=axes, **more), 0.01, 100)
        return g.q(g.add("ReduceMean", x, g.constant(np.array(axes)), **more), 0.01, 100)

    g = Quantised(opset)
    model = g.model(mean(g, [2, 3]), mean(g, [-1, -2], keepdims=0))
    pooled = ["QuantizeLinear", "QLinearGlobalAveragePool"]
    assert sorted(operators(model)) == sorted([*pooled, *pooled, "Flatten"])
    check(model, g.feeds, steps=1)
    for axes in ([1, 2], [3], [1, 2, 3]):
        g = Quantised(opset)
        assert "ReduceMean" in operators(g.model(mean(g, axes)))


def test_bytes_are_dequantised_once_for_each_reader() -> None:
    g = Quantised()
    x = g.qdq(g.x(3, 7))
    model = g.model(g.q(g.add("Sub", x, g.add("Exp", x)), 0.1))
    both = ["DequantizeLinear", "DequantizeLinear"]
    assert operators(model) == ["QuantizeLinear", *both, "Exp", "Sub", "QuantizeLinear"]
    check(model, g.feeds)


def added(g: Quantised) -> str:
    return g.add("Add", g.qdq(g.x(3, 4)), g.qdq(g.x(3, 4)))


def wanted(g: Quantised) -> list[str]:
    y = added(g)
    return [g.q(y), y]


def along_k(g: Quantised) -> list[str]:
    w = g.weight(19, 13, scale=np.linspace(0.01, 0.02, 19), zero=[0] * 19, axis=0)
    return [g.q(g.add("MatMul", g.qdq(g.x(5, 19)), w), 0.1)]


def blocks(g: Quantised) -> list[str]:
    array = g.rng.integers(-128, 128, (16, 5)).astype(np.int8)
    scale = g.constant(g.rng.random((4, 5)).astype(F32) / 50)
    w = g.add("DequantizeLinear", g.constant(array), scale, axis=0, block_size=4)
    return [g.q(g.add("MatMul", g.qdq(g.x(3, 16)), w), 0.1)]


def coarse_bias(g: Quantised) -> list[str]:
    x, w = g.qdq(g.x(1, 2, 5, 5), 2.0, 100), g.weight(3, 2, 2, 2, scale=0.3)
    return [g.q(g.add("Conv", x, w, g.constant(np.array([0.2, 0.3, 0.1], F32))), 0.01)]


STAY = {
    "the floats are wanted": wanted,
    "a scale for each of what is summed": along_k,
    "scales of blocks": blocks,
    "a bias finer than its unit": coarse_bias,
    "int16": lambda g: [g.q(g.add("MatMul", g.qdq(g.x(5, 19), 0.0001, 3, np.int16), g.weight(19, 13)), 0.1)],
    "scales of rows": lambda g: [
        g.add("QuantizeLinear", added(g), *g.parameters([0.1, 0.2, 0.3], [1, 2, 3]), axis=0)],
    "two types": lambda g: [g.q(g.add("Add", g.qdq(g.x(3, 4)), g.qdq(g.x(3, 4), 0.02, 3, np.int8)))],
    "weights that a run finds": lambda g: [
        g.q(g.add("Conv", g.qdq(g.x(1, 2, 5, 5)), g.qdq(g.x(3, 2, 2, 2))), 0.1)],
    "a bound that a run finds": lambda g: [g.q(g.add("Clip", added(g), g.x(array=np.asarray(0.1, F32))))],
}  # fmt: skip


@pytest.mark.parametrize("case", STAY)
def test_what_does_not_fit_stays_in_floats(case: str) -> None:
    g = Quantised()
    left = operators(g.model(*STAY[case](g)))
    assert not {name for name in left if name.startswith(("QLinear", "QGemm"))}
    assert ("ConvInteger" in left) == (STAY[case] is coarse_bias)


def test_what_stays_gives_the_same_numbers() -> None:
    g = Quantised()
    check(g.model(*(output for build in STAY.values() for output in build(g))), g.feeds, steps=1)


def test_a_scale_of_zero_is_left_to_the_division() -> None:
    g = Quantised()
    x = g.qdq(g.x(3, 4), 0.0, 5)
    model = g.model(g.q(g.add("Add", x, g.qdq(g.x(3, 4)))))
    assert "QLinearAdd" not in operators(model)


def test_a_graph_without_quantisation_is_not_touched() -> None:
    g = Quantised()
    model = ir.serde.deserialize_model(g.model(g.add("Relu", g.x(3))))
    assert not MoveQuantization()(model).modified
    assert not FuseQuantized()(model).modified


def test_a_second_time_changes_nothing() -> None:
    g = Quantised()
    prepared = ir.serde.deserialize_model(g.model(conv(g, relu, zero=40)))
    assert MoveQuantization()(prepared).modified is False
    assert FuseQuantized()(prepared).modified
    assert not MoveQuantization()(prepared).modified
    assert not FuseQuantized()(prepared).modified


def test_branches_are_fused_too() -> None:
    g = Quantised()
    x, w = g.qdq(g.x(5, 19)), g.weight(19, 13)
    both = g.parameters(0.1, 100)
    nodes = [
        onnx.helper.make_node("MatMul", [x, w], ["product"], name="product"),
        onnx.helper.make_node("QuantizeLinear", ["product", *both], ["bytes"], name="bytes"),
    ]
    out = [onnx.helper.make_tensor_value_info("bytes", TensorProto.UINT8, None)]
    branch = onnx.helper.make_graph(nodes, "then", [], out)
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["picked", *both], ["plain"], name="plain")], "else", [],
        [onnx.helper.make_tensor_value_info("plain", TensorProto.UINT8, None)],
    )  # fmt: skip
    choice = g.x(array=np.asarray(True))
    g.add("Relu", g.x(5, 13))
    g.nodes[-1].output[0] = "picked"
    model = g.model(g.add("If", choice, then_branch=branch, else_branch=other))
    assert "QLinearMatMul" in [node.op_type for node in rewritten(model).graph.all_nodes()]
    check(model, g.feeds, steps=1)
