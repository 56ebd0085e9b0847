"""Weights of few bits stay so: the product has the bits of that of floats."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.runtime.reference import evaluate
from tests.optimizer.quantized_graphs import F32, Quantised, operators

K, N = 70, 67


def weight(
    g: Quantised, *, bits: int = 8, axis: int = 1, block: int = 0, scales=None, signed=True, turned=False
) -> str:
    """A dequantised weight [K, N], or [N, K] if `turned`, with zero points."""
    shape = [N, K] if turned else [K, N]
    low = -(1 << (bits - 1)) if signed else 0
    if scales is None:
        scales = shape[axis]
    if block:
        scales = [-(-d // block) if i == axis else d for i, d in enumerate(shape)]
    q = g.rng.integers(low, low + (1 << bits), shape)
    zero = g.rng.integers(low, low + (1 << bits), scales)
    kind = getattr(TensorProto, f"{'' if signed else 'U'}INT{bits}")
    more = {"block_size": block} if block else {}
    scale = g.constant((g.rng.random(scales) / 50 + 0.01).astype(F32))
    return g.add("DequantizeLinear", g.constant(q, kind), scale, g.constant(zero, kind), axis=axis, **more)


def gemm(g: Quantised, w: str) -> str:
    return g.add("Gemm", g.x(5, K), w, g.constant(g.rng.standard_normal(N).astype(F32)), transB=1)


CASES = {
    "a scale": lambda g: g.add("MatMul", g.x(2, 3, K), weight(g, scales=())),
    "columns": lambda g: g.add("MatMul", g.x(3, K), weight(g, signed=False)),
    "blocks": lambda g: g.add("MatMul", g.x(3, K), weight(g, bits=4, axis=0, block=16)),
    "blocks that are no words": lambda g: g.add("MatMul", g.x(3, K), weight(g, bits=4, axis=0, block=5)),
    "unsigned blocks, one row": lambda g: g.add("MatMul", g.x(1, K), weight(g, bits=4, axis=0, block=32, signed=False)),
    "a vector": lambda g: g.add("MatMul", g.x(K), weight(g, bits=4)),
    "Gemm": lambda g: gemm(g, weight(g, turned=True, axis=0)),
    "Gemm of blocks": lambda g: gemm(g, weight(g, bits=4, turned=True, axis=1, block=16)),
    "transposed blocks": lambda g: g.add(
        "MatMul", g.x(9, K), g.add("Transpose", weight(g, bits=4, turned=True, axis=1, block=16), perm=[1, 0])),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_dequantised_weight_becomes_part_of_the_product(case: str) -> None:
    g = Quantised()
    left = operators(g.model(CASES[case](g)))
    assert left == ["MatMulDequantized", *(["Add"] if case.startswith("Gemm") else [])]


def test_products_with_weights_of_few_bits_give_the_numbers_of_the_reference() -> None:
    g = Quantised()
    model = g.model(*(build(g) for build in CASES.values()))
    session = sardonyx.Session(model)
    assert {place.provider for place in session.placement()} == {"native"}
    for have, want in zip(session.run(g.feeds), evaluate(sardonyx.load(model), g.feeds), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_weights_are_kept_in_four_bits() -> None:
    g = Quantised()
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0, block_size=32),
             onnx.helper.make_node("MatMul", ["x", "f"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512])],
            [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [onnx.helper.make_tensor("w", TensorProto.INT4, [512, 256], g.rng.integers(-8, 8, 512 * 256)),
             onnx.numpy_helper.from_array(np.ones((16, 256), F32), "s")]),
        opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    _, _, _, _, size, _ = generate(sardonyx.load(model))
    assert size == 512 * 256 // 2 + 16 * 256 * 4


STAY = {
    "a scale for each row": lambda g: g.add("MatMul", g.x(3, K), weight(g, axis=0)),
    "blocks of columns": lambda g: g.add("MatMul", g.x(3, K), weight(g, bits=4, axis=1, block=16)),
    "alpha": lambda g: g.add("Gemm", g.x(5, K), weight(g), alpha=2.0),
    "the left operand": lambda g: g.add("MatMul", weight(g), g.x(N, 3)),
}


def two_readers(g: Quantised) -> str:
    w = weight(g)
    return g.add("Add", g.add("MatMul", g.x(K, K), w), w)


STAY["two readers"] = two_readers


@pytest.mark.parametrize("case", STAY)
def test_what_does_not_fit_stays_in_floats(case: str) -> None:
    g = Quantised()
    assert "MatMulDequantized" not in operators(g.model(STAY[case](g)))


def layer(g: Quantised, q: np.ndarray, scales: object = None, zero: int = 0, **more: object) -> str:
    """An LSTM with R dequantised of `q` [D, 4 * hidden, hidden]."""
    columns, hidden = q.shape[1:]
    scale = g.constant(np.full(columns if scales is None else scales, 0.01, F32))
    zeros = g.constant(np.full(columns if scales is None else scales, zero), TensorProto.INT8)
    r = g.add("DequantizeLinear", g.constant(q, TensorProto.INT8), scale, zeros, **({"axis": 1} | more))
    w = g.constant(g.rng.standard_normal((1, columns, 3)).astype(F32))
    return g.add("LSTM", g.x(2, 1, 3), w, r, hidden_size=hidden)


STAYS = {
    "a float cache": (440, {}),
    "zero points": (448, {"zero": 3}),
    "scales of rows": (448, {"scales": 448, "axis": 2}),
    "blocks": (448, {"scales": (1, 4 * 448, 4), "axis": 2, "block_size": 112}),
}


def test_large_recurrent_weights_stay_bytes() -> None:
    g = Quantised()
    q = g.rng.integers(-127, 128, (1, 4 * 448, 448))
    assert operators(g.model(layer(g, q))) == ["LSTMDequantized"]


@pytest.mark.parametrize("case", STAYS)
def test_other_recurrent_weights_become_floats(case: str) -> None:
    hidden, settings = STAYS[case]
    g = Quantised()
    q = g.rng.integers(-127, 128, (1, 4 * hidden, hidden))
    assert "LSTM" in operators(g.model(layer(g, q, **settings)))
