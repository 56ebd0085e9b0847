"""Residual blocks that do little go; what is no block stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sardonyx.errors import InputError, OptimizationError
from sardonyx.model import load
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.prune.layers import PruneLayers, blocks
from sardonyx.optimizer.step import Context
from sardonyx.runtime.reference import evaluate

RNG = np.random.default_rng(9)
TWO = """
    a = MatMul(x, w0) r = Relu(a) b = MatMul(r, w1) s = Add(x, b)
    c = MatMul(s, w2) d = Relu(c) e = MatMul(d, w3) t = Add(e, s) y = MatMul(t, w4)
"""


def network(body: str, small: tuple[str, ...] = (), outputs: str = "float[5,8] y") -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[5,8] x) => ({outputs}) {{ {body} }}'
    )
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{number}"
    for name in (f"w{number}" for number in range(5)):
        weights = RNG.normal(size=(8, 8)).astype(np.float32) * (1e-3 if name in small else 1)
        proto.graph.initializer.append(numpy_helper.from_array(weights, name))
    return proto


def sample() -> Data:
    return Data([{"x": RNG.normal(size=(5, 8)).astype(np.float32)} for _ in range(20)])


def test_the_block_that_does_little_goes_and_the_result_stays() -> None:
    proto, data = network(TWO, small=("w3",)), sample()
    applied = PruneLayers(flops=0.5).apply(load(proto), Context(data))
    assert applied.modified
    assert [node.op_type for node in applied.model.graph] == ["MatMul", "Relu", "MatMul", "Add", "MatMul"]
    [before], [after] = evaluate(load(proto), data.feeds[0]), evaluate(applied.model, data.feeds[0])
    np.testing.assert_allclose(after, before, atol=2e-2 * np.abs(before).max())


def test_blocks_that_do_much_or_cost_more_than_asked_stay() -> None:
    proto, data = network(TWO, small=("w3",)), sample()
    assert not PruneLayers(flops=0.3).apply(load(proto), Context(data)).modified
    assert not PruneLayers(flops=0.5, loss=1e-9).apply(load(proto), Context(data)).modified


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w0) b = MatMul(x, w1) y = Add(a, b)",  # an output of the model
        "a = MatMul(x, w0) b = Relu(a) c = Add(a, w1) y = Add(b, c)",  # nothing goes around
        "a = MatMul(x, w0) y1 = Relu(a) b = Add(x, a) y = MatMul(b, w1)",  # the middle is needed elsewhere
    ],
)
def test_what_is_no_block_is_not_found(body: str) -> None:
    outputs = "float[5,8] y, float[5,8] y1" if "y1" in body else "float[5,8] y"
    assert blocks(load(network(body, outputs=outputs))) == []


def test_data_is_needed_and_parameters_are_checked() -> None:
    with pytest.raises(OptimizationError, match="without data"):
        PruneLayers().apply(load(network(TWO)), Context())
    with pytest.raises(InputError):
        PruneLayers(flops=0)
