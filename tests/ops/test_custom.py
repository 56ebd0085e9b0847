"""Operators that the user registers: called from compiled code, compiled, typed or not, and refused when unknown."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sardonyx
from sardonyx import errors
from sardonyx.ops import custom
from sardonyx.ops.custom import Type

DOMAIN = "test.custom"
X = np.array([[1, -2, 3], [4, 5, -6]], np.float32)


def session(*nodes: onnx.NodeProto, dims: tuple = ("n", 3), version: int = 1, path=None) -> sardonyx.Session:
    """A model x -> y; inner values have no declared types."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]
    outputs = [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "custom", inputs, outputs)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, version)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    if path is not None:
        onnx.save(model, path)
    return sardonyx.Session(model if path is None else path)


def node(name: str, inputs: list[str], outputs: list[str], **attributes) -> onnx.NodeProto:
    return helper.make_node(name, inputs, outputs, f"n_{outputs[0]}", domain=DOMAIN, **attributes)


@sardonyx.operator(DOMAIN, "Scale", shape=lambda x, **_: x)
def scale(x, *, factor=2.0, mode="plain"):
    return x * np.float32(factor) if mode == "plain" else -x


@sardonyx.operator(DOMAIN, "Positive", shape=lambda x: [Type(x.dtype, ("count",)), ("int64", (1,))])
def positive(x):
    kept = x[x > 0]
    return kept, np.array([kept.size])


@sardonyx.operator(DOMAIN, "Untyped")
def untyped(x, y=None):
    return x + 1 if y is None else x + y


@sardonyx.operator(DOMAIN, "Blend", expression=lambda x, y, *, alpha=0.5: x * alpha + y * (1.0 - alpha))
def blend(x, y, *, alpha=0.5):
    return x * np.float32(alpha) + y * np.float32(1 - alpha)


def test_a_function_runs_between_native_nodes():
    run = session(
        helper.make_node("Relu", ["x"], ["a"]), node("Scale", ["a"], ["b"], factor=3.0),
        node("Scale", ["b"], ["c"], mode="other"), helper.make_node("Neg", ["c"], ["y"]),
    )  # fmt: skip
    for x in (X, X[:1], X[:0]):
        np.testing.assert_array_equal(run.run({"x": x})[0], np.maximum(x, 0) * 3)
    assert [p.provider for p in run.placement()] == ["native", "reference", "reference", "native"]


def test_outputs_of_a_size_that_only_the_run_knows():
    run = session(
        node("Positive", ["x"], ["a", "n"]), helper.make_node("Cast", ["n"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "m"], ["y"]),
    )  # fmt: skip
    np.testing.assert_array_equal(run.run({"x": X})[0], X[X > 0] * 4)
    np.testing.assert_array_equal(run.run({"x": -X})[0], -X[X < 0] * 2)


def test_without_a_rule_values_stay_objects_and_the_rest_still_works():
    run = session(
        node("Untyped", ["x"], ["a"]), node("Untyped", ["a", "x"], ["b"]), helper.make_node("Neg", ["b"], ["y"]),
    )  # fmt: skip
    np.testing.assert_array_equal(run.run({"x": X})[0], -(X + 1 + X))


def test_an_expression_is_compiled_and_means_what_the_function_means():
    run = session(
        helper.make_node("Neg", ["x"], ["a"]), node("Blend", ["x", "a"], ["y"], alpha=0.25),
    )  # fmt: skip
    np.testing.assert_allclose(run.run({"x": X})[0], blend(X, -X, alpha=0.25), rtol=1e-6)
    assert {p.provider for p in run.placement()} == {"native"}


def test_versions_and_registering_again(tmp_path):
    for since, factor in ((1, 10), (3, 30)):
        sardonyx.operator(DOMAIN, "Versioned", since=since, expression=lambda x, f=factor: x * float(f))(lambda x: x)
    for version, factor in ((1, 10), (2, 10), (3, 30), (9, 30)):
        run = session(node("Versioned", ["x"], ["y"]), version=version)
        np.testing.assert_array_equal(run.run({"x": X})[0], X * factor)
    path = tmp_path / "model.onnx"
    for factor in (2.0, 5.0):  # the same file, another meaning: not what the cache holds
        sardonyx.operator(DOMAIN, "Again", expression=lambda x, f=factor: x * f)(lambda x: x)
        np.testing.assert_array_equal(session(node("Again", ["x"], ["y"]), path=path).run({"x": X})[0], X * factor)


def test_inside_a_branch_of_if():
    then = helper.make_graph([node("Scale", ["x"], ["t"], factor=2.0)], "then", [],
                             [helper.make_tensor_value_info("t", TensorProto.FLOAT, ("n", 3))])  # fmt: skip
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [],
                              [helper.make_tensor_value_info("e", TensorProto.FLOAT, ("n", 3))])  # fmt: skip
    run = session(
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0), helper.make_node("Cast", ["total"], ["c"], to=9),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    )  # fmt: skip
    np.testing.assert_array_equal(run.run({"x": X})[0], X * 2)
    np.testing.assert_array_equal(run.run({"x": X * 0})[0], X * 0)


def test_errors_name_node_operator_and_a_hint():
    with pytest.raises(errors.UnsupportedError) as unknown:
        session(node("Missing", ["x"], ["y"]))
    assert unknown.value.node == "n_y"
    assert "Missing" in str(unknown.value.operator)
    assert "sardonyx.operator" in str(unknown.value.hint)

    @sardonyx.operator(DOMAIN, "Fails", shape=lambda x: x)
    def fails(x):
        raise ValueError("the reason")

    with pytest.raises(errors.SardonyxError, match="the reason") as failed:
        session(node("Fails", ["x"], ["y"])).run({"x": X})
    assert "n_y" in str(failed.value)
    with pytest.raises(errors.ModelError, match="standard"):
        sardonyx.operator("", "Relu")


def test_a_session_from_the_cache_asks_for_the_function_again():
    sardonyx.operator(DOMAIN, "Gone", shape=lambda x: x)(lambda x: x)
    run = session(node("Gone", ["x"], ["y"]))
    del custom._OPERATORS[DOMAIN, "Gone"]
    with pytest.raises(errors.UnsupportedError, match="Gone"):
        run.run({"x": X})
