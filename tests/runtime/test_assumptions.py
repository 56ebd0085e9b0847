"""Values whose rank depends on the input: code for what was assumed, and another variant where that breaks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sardonyx


def model(nodes: list[onnx.NodeProto], dims: list[str | int], rank: int | None) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    shape = None if rank is None else [None] * rank
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opset, ir_version=9)


def test_squeeze_of_dims_that_only_the_run_knows() -> None:
    session = sardonyx.Session(model([helper.make_node("Squeeze", ["x"], ["y"])], ["a", "b", 3], None))
    assert all(place.provider == "native" for place in session.placement())
    for shape in [(2, 5, 3), (1, 5, 3), (2, 1, 3), (1, 1, 3), (2, 5, 3)]:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        [y] = session.run({"x": x})
        np.testing.assert_array_equal(y, np.squeeze(x))


@pytest.mark.parametrize("dim", [1, 4])
def test_branches_of_different_rank(dim: int) -> None:
    """As exporters write squeeze(dim): If(shape[1] == 1) Squeeze else Identity."""
    out = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    then = helper.make_graph([helper.make_node("Squeeze", ["x", "axis"], ["r"])], "then", [], out)
    otherwise = helper.make_graph([helper.make_node("Identity", ["x"], ["r"])], "else", [], out)
    nodes = [
        helper.make_node("Constant", [], ["axis"], value=one),
        helper.make_node("Shape", ["x"], ["dims"]),
        helper.make_node("Gather", ["dims", "axis"], ["second"]),
        helper.make_node("Equal", ["second", "axis"], ["is_one"]),
        helper.make_node("If", ["is_one"], ["r"], then_branch=then, else_branch=otherwise),
        helper.make_node("Abs", ["r"], ["y"]),
    ]
    session = sardonyx.Session(model(nodes, ["n", "m"], None))
    x = -np.ones((3, dim), np.float32)
    for _ in range(2):
        [y] = session.run({"x": x})
        assert y.shape == ((3,) if dim == 1 else (3, dim))
        assert (y == 1).all()
