"""Weights that a model stores in fewer bits are widened once, when it is compiled, and tables row by row."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from programs import program_of

import sardonyx
from sardonyx.compiler.program import Program

HALF = {"FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16}
ROWS, COLUMNS = 1511, 1433  # more bytes than constants are otherwise folded up to


def stored(kind: str, name: str, *shape: int) -> tuple[onnx.TensorProto, np.ndarray]:
    """A constant of half precision, and its values."""
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32).astype(HALF[kind])
    number = TensorProto.DataType.Value(kind)
    return helper.make_tensor(name, number, shape, values.tobytes(), raw=True), values.astype(np.float32)


def model(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], weight: onnx.TensorProto) -> onnx.ModelProto:
    """A model whose last node gives the output."""
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "stored", inputs, [output], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def casts(program: Program) -> list[str]:
    return [step.operator for step in program.main.steps if step.operator == "Cast"]


def cast() -> onnx.NodeProto:
    return helper.make_node("Cast", ["stored"], ["wide"], to=TensorProto.FLOAT)


X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, ROWS])
I = helper.make_tensor_value_info("i", TensorProto.INT64, [3])


@pytest.mark.parametrize("kind", HALF)
def test_large_weights_of_products_are_widened_when_compiling(kind):
    weight, values = stored(kind, "stored", ROWS, COLUMNS)
    net = model([cast(), helper.make_node("MatMul", ["x", "wide"], ["y"])], [X], weight)
    assert not casts(program_of(net))
    x = np.random.default_rng(1).standard_normal((2, ROWS)).astype(np.float32)
    np.testing.assert_allclose(sardonyx.Session(net).run({"x": x})[0], x @ values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", HALF)
def test_only_the_rows_of_a_table_that_are_picked_are_widened(kind):
    weight, values = stored(kind, "stored", ROWS, COLUMNS)
    net = model([cast(), helper.make_node("Gather", ["wide", "i"], ["y"])], [I], weight)
    program = program_of(net)
    assert not casts(program)
    assert [buffer.dtype for buffer in program.constants if buffer.size == ROWS * COLUMNS] == [kind.lower()]
    [y] = sardonyx.Session(net).run({"i": np.array([7, 0, ROWS - 1])})
    np.testing.assert_array_equal(y, values[[7, 0, ROWS - 1]])


def test_a_table_that_a_product_reads_too_is_widened_once():
    weight, _ = stored("FLOAT16", "stored", ROWS, COLUMNS)
    nodes = [
        cast(),
        helper.make_node("Gather", ["wide", "i"], ["rows"]),
        helper.make_node("MatMul", ["x", "wide"], ["sums"]),
        helper.make_node("Concat", ["rows", "sums"], ["y"], axis=0),
    ]
    assert not casts(program_of(model(nodes, [X, I], weight)))


def test_rows_of_what_is_computed_are_picked_from_memory():
    weight, values = stored("FLOAT16", "stored", ROWS, COLUMNS)
    nodes = [
        cast(),
        helper.make_node("MatMul", ["x", "wide"], ["sums"]),
        helper.make_node("Neg", ["sums"], ["z"]),
        helper.make_node("Gather", ["z", "i"], ["y"], axis=1),
    ]
    net = model(nodes, [X, I], weight)
    x = np.random.default_rng(1).standard_normal((2, ROWS)).astype(np.float32)
    [y] = sardonyx.Session(net).run({"x": x, "i": np.array([5, 1, 5])})
    np.testing.assert_allclose(y, -(x @ values)[:, [5, 1, 5]], rtol=1e-4, atol=1e-4)
