"""Matrix products of odd batches and of views whose place depends on data; found by the graph fuzzer."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import sardonyx


def run(nodes: list, feeds: dict[str, np.ndarray]) -> np.ndarray:
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kinds[x.dtype], x.shape) for name, x in feeds.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return sardonyx.Session(model).run(feeds)[0]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((24, 1, 2, 2, 1), (24, 1, 2, 1, 5)),
        ((5, 1, 1, 2, 3), (5, 1, 1, 3, 4)),
        ((1, 3, 1, 2, 3), (2, 3, 4, 3, 4)),
        ((2, 1, 3, 1, 2, 7), (1, 4, 3, 2, 7, 5)),
        ((3, 1, 5), (4, 1, 1, 5, 2)),
        ((6,), (2, 1, 6, 3)),
    ],
)
def test_batches_with_axes_of_extent_1(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(left, np.float32), rng.standard_normal(right, np.float32)
    y = run([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": a, "b": b})
    np.testing.assert_allclose(y, a @ b, rtol=1e-5, atol=1e-6)


def test_a_row_that_data_chooses_is_an_operand() -> None:
    rng = np.random.default_rng(0)
    table, b = rng.standard_normal((4, 3), np.float32), rng.standard_normal((1, 3, 13), np.float32)
    nodes = [helper.make_node("Gather", ["t", "i"], ["row"]), helper.make_node("MatMul", ["row", "b"], ["y"])]
    y = run(nodes, {"t": table, "i": np.array(2), "b": b})
    np.testing.assert_allclose(y, table[2] @ b, rtol=1e-5, atol=1e-6)
