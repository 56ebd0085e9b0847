"""Small models of a few nodes, and their comparison with the reference, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import sardonyx

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e30, 3.0, -7.5], np.float32)


def model_of(nodes, inputs, outputs, *, opset=18, constants=()):
    """A model; `inputs` are ``(name, type, shape)``, `constants` ``(name, array)``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def typed(model):
    """`model` with the types of its outputs inferred."""
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value for value in inferred.graph.output}
    for value in model.graph.output:
        value.CopyFrom(known[value.name])
        value.type.tensor_type.ClearField("shape")
    return model


def check(model, *feeds):
    """Every feed gives what the reference gives, bit for bit, and every node is native."""
    session = sardonyx.Session(typed(model))
    hosted = [p for p in session.placement() if p.provider != "native"]
    assert not hosted, hosted
    reference = ReferenceEvaluator(model)
    for feed in feeds:
        for want, have in zip(reference.run(None, feed), session.run(feed), strict=True):
            assert have.dtype == want.dtype
            assert have.shape == want.shape
            np.testing.assert_array_equal(have, want)
    return session


def values(*shape, dtype=np.float32):
    """Numbers with every special value among them."""
    array = np.arange(int(np.prod(shape)), dtype=np.float64).astype(dtype)
    if np.dtype(dtype).kind == "f":
        array[: SPECIAL.size] = SPECIAL[: array.size].astype(dtype)
    return array.reshape(shape)
