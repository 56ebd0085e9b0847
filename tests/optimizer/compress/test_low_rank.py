"""Large layers of low rank become two small ones; others, and small ones, stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sardonyx.errors import InputError
from sardonyx.model import load
from sardonyx.optimizer.compress.low_rank import LowRank, factors
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.moments import Moments
from sardonyx.optimizer.step import Context
from sardonyx.runtime.reference import evaluate

RNG = np.random.default_rng(3)
LOW = (RNG.normal(size=(67, 5)) @ RNG.normal(size=(5, 61))).astype(np.float32)
FULL = RNG.normal(size=(67, 61)).astype(np.float32)
BIAS = RNG.normal(size=67).astype(np.float32)
LAYERS = {
    "Gemm": ("float[13,61] x", "y = Gemm <transB = 1> (x, w, b)", lambda w: w),
    "Gemm, not transposed": ("float[61,13] x", "y = Gemm <transA = 1> (x, w, b)", lambda w: w.T),
    "MatMul": ("float[2,7,61] x", "a = MatMul(x, w) y = Add(a, b)", lambda w: w.T),
    "1x1": ("float[2,61,5,5] x", "y = Conv <strides = [2,2]> (x, w, b)", lambda w: w[:, :, None, None]),
    "3x3": ("float[2,61,5,5] x", "y = Conv <pads = [1,1,1,1]> (x, w, b)", None),
}


def network(entry: str, body: str, weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g ({entry}) => (float[] y) {{ {body} }}'
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for node in proto.graph.node:
        node.name = node.op_type.lower()
    for name, array in (("w", weights), ("b", BIAS)):
        proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return proto


def sample(proto: onnx.ModelProto, count: int = 5) -> Data:
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return Data([{"x": RNG.normal(size=shape).astype(np.float32) + 1} for _ in range(count)])


@pytest.mark.parametrize("with_data", [False, True], ids=["bare", "data"])
@pytest.mark.parametrize(("entry", "body", "shaped"), LAYERS.values(), ids=LAYERS)
def test_a_layer_of_low_rank_becomes_two(entry: str, body: str, shaped, with_data: bool) -> None:
    weights = shaped(LOW) if shaped else np.tensordot(LOW[:, :5], RNG.normal(size=(5, 61, 3, 3)), 1)
    proto = network(entry, body, weights.astype(np.float32))
    data = sample(proto)
    applied = LowRank(error=1e-6, smallest=100).apply(load(proto), Context(data if with_data else None))
    assert applied.modified
    assert len(applied.model.graph) == len(proto.graph.node) + 1
    [before], [after] = evaluate(load(proto), data.feeds[0]), evaluate(applied.model, data.feeds[0])
    np.testing.assert_allclose(after, before, atol=3e-3 * np.abs(before).max())
    assert sum(v.const_value.size for v in applied.model.graph.initializers.values()) < 0.7 * weights.size


def test_a_layer_of_full_rank_and_a_small_one_stay() -> None:
    entry, body, _ = LAYERS["Gemm"]
    for weights, smallest in ((FULL, 100), (LOW, 67 * 61 + 1)):
        applied = LowRank(error=1e-3, smallest=smallest).apply(load(network(entry, body, weights)), Context())
        assert not applied.modified
        assert len(applied.model.graph) == 1


def test_what_is_lost_is_what_was_said_and_the_least_with_data() -> None:
    scales = np.exp(RNG.normal(size=61) * 1.5)
    x = RNG.normal(size=(4001, 61)) * scales
    W = FULL.astype(np.float64)
    moments = Moments(x.mean(0), np.cov(x.T, bias=True))
    A, B, lost = factors(W, moments, 0.05)
    y = x @ W.T
    measured = ((y - x @ B.T @ A.T) ** 2).sum() / (y**2).sum()
    assert lost <= 0.05
    assert measured == pytest.approx(lost, rel=0.05)
    U, s, V = np.linalg.svd(W)
    rank = len(B)
    plain = (U[:, :rank] * s[:rank]) @ V[:rank]
    assert measured < 0.7 * ((y - x @ plain.T) ** 2).sum() / (y**2).sum()


def test_errors_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError):
        LowRank(error=0)
