"""Models in one line, for tests of what is wrong with them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


def value(name: str, shape: list | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """A typed name."""
    return helper.make_tensor_value_info(name, kind, shape)


def node(operator: str, inputs: list[str], outputs: list[str] | None = None, **attributes: object) -> onnx.NodeProto:
    """A node called ``my`` that gives ``y``, if nothing else is said."""
    name = attributes.pop("name", "my")
    return helper.make_node(operator, inputs, outputs or ["y"], name=name, **attributes)


def model(
    nodes: list[onnx.NodeProto] | onnx.NodeProto,
    inputs: dict[str, tuple[int, list | None]] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    outputs: dict[str, int] | None = None,
    opset: int = 17,
    **options: object,
) -> onnx.ModelProto:
    """A model of `nodes`; inputs are ``name: (type, dims)``, by default ``x: float[2, 3]``."""
    given = {"x": (FLOAT, [2, 3])} if inputs is None else inputs
    graph = helper.make_graph(
        [nodes] if isinstance(nodes, onnx.NodeProto) else nodes,
        "g",
        [value(name, shape, kind) for name, (kind, shape) in given.items()],
        [value(name, None, kind) for name, kind in (outputs or {"y": FLOAT}).items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, **options)


def ints(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, np.int64)
