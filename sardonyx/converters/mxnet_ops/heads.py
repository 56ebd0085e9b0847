"""Softmax in its forms, and the losses that stand at the end of old networks: what they give outside of training."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, as_type, axis_of, like, need_rank, operator

LOSSES = {
    "SoftmaxOutput", "Softmax", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput",
    "SVMOutput",
}  # fmt: skip


@operator("SoftmaxOutput", "Softmax")
def softmax_output(c: Graph, node: Node, x: ir.Value, *label: ir.Value | None) -> ir.Value:
    """Softmax over all but the batch, over channels (`multi_output`), or over the last axis (`preserve_shape`)."""
    if node.flag("multi_output"):
        return c.b.op("Softmax", x, axis=1)
    if node.flag("preserve_shape") or need_rank(node, x) == 2:
        return c.b.op("Softmax", x, axis=-1)
    flat = c.b.op("Softmax", c.b.op("Flatten", x, axis=1), axis=1)
    return c.b.op("Reshape", flat, c.b.op("Shape", x))


@operator("LogisticRegressionOutput")
def logistic_output(c: Graph, node: Node, x: ir.Value, *label: ir.Value | None) -> ir.Value:
    """Its sigmoid."""
    return c.b.op("Sigmoid", x)


@operator("LinearRegressionOutput", "MAERegressionOutput", "SVMOutput")
def plain_output(c: Graph, node: Node, x: ir.Value, *label: ir.Value | None) -> ir.Value:
    """The value itself."""
    return c.b.op("Identity", x)


@operator("SoftmaxActivation")
def softmax_activation(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Over channels, or over all but the batch."""
    if node.text("mode", "instance") == "channel":
        return c.b.op("Softmax", x, axis=1)
    flat = c.b.op("Softmax", c.b.op("Flatten", x, axis=1), axis=1)
    return flat if need_rank(node, x) == 2 else c.b.op("Reshape", flat, c.b.op("Shape", x))


@operator("softmax", "log_softmax", "softmin", "_npx_softmax", "_npx_log_softmax")
def softmax(c: Graph, node: Node, x: ir.Value, length: ir.Value | None = None) -> ir.Value:
    """Along an axis, of values over a temperature; beyond a length there are zeros."""
    rank = need_rank(node, x)
    axis = axis_of(node, node.integer("axis", -1), rank)
    temperature = node.parsed("temperature")
    if node.op == "softmin":
        x = c.b.op("Neg", x)
    if temperature not in (None, 1, 1.0):
        x = c.b.op("Div", x, like(x, float(temperature)))
    kind = "LogSoftmax" if node.op.endswith("log_softmax") else "Softmax"
    if length is None or not node.flag("use_length"):
        return c.b.op(kind, x, axis=axis)
    inside = _inside(c, x, length, axis, rank)
    kept = c.b.op("Where", inside, x, like(x, -np.inf))
    done = c.b.op(kind, kept, axis=axis)
    return c.b.op("Where", inside, done, like(x, 0))


def _inside(c: Graph, x: ir.Value, length: ir.Value, axis: int, rank: int) -> ir.Value:
    """Whether each place is before the length of its row; lengths have the shape of `x` without the axis."""
    count = c.b.op("Gather", c.b.op("Shape", x), np.array(axis, np.int64))
    steps = c.b.op("Range", np.int64(0), count, np.int64(1))
    steps = c.b.op("Reshape", steps, np.array([-1 if a == axis else 1 for a in range(rank)]))
    return c.b.op("Less", steps, c.b.op("Unsqueeze", as_type(c.b, length, np.int64), np.array([axis])))
