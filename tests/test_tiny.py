"""Proof of life of the whole pipeline on a model of three nodes. Run first, everywhere."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import sardonyx


def test_a_small_network_runs_natively_with_any_batch() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((5, 7), np.float32), rng.standard_normal(7, np.float32)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 7])
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"]),
    ]
    weights = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    graph = helper.make_graph(nodes, "tiny", [x], [y], weights)
    session = sardonyx.Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    assert {place.provider for place in session.placement()} == {"native"}
    for rows in (1, 3, 0, 17):
        data = rng.standard_normal((rows, 5), np.float32)
        powers = np.exp(np.maximum(data @ w + b, 0).astype(np.float64))
        [result] = session.run({"x": data})
        np.testing.assert_allclose(result, powers / powers.sum(1, keepdims=True), rtol=1e-5)
