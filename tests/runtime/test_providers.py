"""Whole models on other engines, and what happens when one is asked for that can't be had."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sardonyx
from sardonyx import SessionOptions, errors


def softsign_of_sum() -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    nodes = [helper.make_node("Add", ["x", "x"], ["s"]), helper.make_node("Softsign", ["s"], ["y"])]
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opset, ir_version=9)


@pytest.mark.parametrize("provider", ["native", "reference", "onnxruntime", "openvino"])
def test_every_engine_gives_the_same_numbers(provider: str) -> None:
    if provider in ("onnxruntime", "openvino"):
        pytest.importorskip(provider)
    session = sardonyx.Session(softsign_of_sum(), SessionOptions(providers=(provider,)))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    [y] = session.run({"x": x})
    np.testing.assert_allclose(y, 2 * x / (1 + 2 * x), rtol=1e-6)
    assert {place.provider for place in session.placement()} == {provider}


@pytest.mark.parametrize("providers", [(), ("cuda",), ("native", "onnxruntime")])
def test_what_cannot_be_had_is_an_error(providers: tuple[str, ...]) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(errors.ProviderError):
        sardonyx.Session(softsign_of_sum(), SessionOptions(providers=providers))


def test_inputs_are_checked_whatever_the_engine() -> None:
    session = sardonyx.Session(softsign_of_sum(), SessionOptions(providers=("reference",)))
    with pytest.raises(errors.InputError, match="dtype"):
        session.run({"x": np.zeros((1, 3))})
    with pytest.raises(errors.InputError, match="missing"):
        session.run({})
