"""Sums, means, extremes, softmax and other functions along axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import data_type
from sardonyx.converters.tflite_graph import Node, Subgraph, operator
from sardonyx.converters.tflite_ops.movement import axis_of, in_layout

_REDUCED = {
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
    "REDUCE_ANY": "ReduceMax",
    "REDUCE_ALL": "ReduceMin",
}


@operator(*_REDUCED)
def reduce(c: Subgraph, node: Node) -> None:
    """Over the listed axes; in whichever layout the input is, where the result is the same in both."""
    x, out = node.input(0), node.out
    axes = sorted({axis_of(node, int(axis), x.rank) for axis in c.known(node, 1, "the list of axes").reshape(-1)})
    keep = bool(node.options(c.model, "Reducer").keep_dims)
    first = c.has_first(x)
    left = [axis for axis in range(x.rank) if axis not in axes]
    # Without the reduced dimensions, channels are last again only if the whole plane is gone.
    plain = not keep and (x.rank - 1 in axes or all(axis in axes for axis in range(1, x.rank - 1)))
    first = first and (keep or plain)
    if not keep and first and left != [a for a in left if a in (0, x.rank - 1)]:
        first = False
    places = np.array([in_layout(axis, x.rank, first) for axis in axes], np.int64)
    value = c.get(x, first)
    logical = node.operator in ("REDUCE_ANY", "REDUCE_ALL")
    if logical:
        value = c.b.op("Cast", value, to=ir.DataType.INT32)
    value = c.b.op(_REDUCED[node.operator], value, places, keepdims=int(keep)) if len(axes) else value
    if logical:
        value = c.b.op("Cast", value, to=ir.DataType.BOOL)
    c.set(out, value if len(axes) or logical else c.b.op("Identity", value), first and keep)


@operator("SOFTMAX", "LOG_SOFTMAX")
def softmax(c: Subgraph, node: Node) -> None:
    """Along the last axis, which may be the channels."""
    x = node.input(0)
    first = c.has_first(x)
    value = c.get(x, first)
    if node.operator == "SOFTMAX":
        beta = float(node.options(c.model, "Softmax").beta)
        value = value if beta == 1 else c.b.op("Mul", value, np.float32(beta))
    axis = in_layout(x.rank - 1, x.rank, first)
    c.set(node.out, c.b.op("Softmax" if node.operator == "SOFTMAX" else "LogSoftmax", value, axis=axis), first)


@operator("L2_NORMALIZATION")
def l2_normalization(c: Subgraph, node: Node) -> None:
    """Divided by the Euclidean norm of the channels, which is at least 1e-6."""
    x = node.input(0)
    first = c.has_first(x)
    axis = in_layout(x.rank - 1, x.rank, first)
    value = c.get(x, first)
    norm = c.b.op("ReduceL2", value, np.array([axis], np.int64), keepdims=1)
    value = c.b.op("Div", value, c.b.op("Max", norm, np.float32(1e-6)))
    c.set(node.out, c.activated(value, node.options(c.model, "L2Norm").activation, node), first)


@operator("ARG_MAX", "ARG_MIN")
def arg(c: Subgraph, node: Node) -> None:
    """Where the largest or smallest is."""
    x = node.input(0)
    axis = axis_of(node, int(c.known(node, 1, "its axis").reshape(-1)[0]), x.rank)
    kind = "ArgMax" if node.operator == "ARG_MAX" else "ArgMin"
    value = c.b.op(kind, c.stored(x), axis=axis, keepdims=0)
    c.set_stored(node.out, value if node.out.dtype == "int64" else c.b.op("Cast", value, to=data_type(node.out.dtype)))


@operator("TOPK_V2")
def top_k(c: Subgraph, node: Node) -> None:
    """The largest along the last axis, and where they are."""
    count = c.b.op("Reshape", c.as_int64(node.input(1)), np.array([1]))
    values, indices = c.b.many("TopK", c.get(node.input(0)), count, outputs=2)
    c.set(node.outs[0], values)
    if len(node.outs) > 1:
        c.set_stored(node.outs[1], c.b.op("Cast", indices, to=data_type(node.outs[1].dtype)))


@operator("CUMSUM")
def cumsum(c: Subgraph, node: Node) -> None:
    """Running sums."""
    o = node.options(c.model, "Cumsum")
    axis = axis_of(node, int(c.known(node, 1, "its axis").reshape(-1)[0]), node.input(0).rank)
    value = c.b.op("CumSum", c.get(node.input(0)), np.array(axis), exclusive=int(o.exclusive), reverse=int(o.reverse))
    c.set(node.out, value)


@operator(
    "SEGMENT_SUM", "UNSORTED_SEGMENT_SUM", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_MIN", "UNSORTED_SEGMENT_PROD"
)
def segment(c: Subgraph, node: Node) -> None:
    """Rows with the same number are combined."""
    x, rows = node.input(0), c.as_int64(node.input(1))
    if node.operator == "SEGMENT_SUM":
        known = c.known(node, 1, "the list of segments")
        count = np.array(int(known.max()) + 1 if known.size else 0, np.int64).reshape(1)
    else:
        count = c.known(node, 2, "the number of segments").reshape(-1)[:1].astype(np.int64)
    kind = {"SUM": "add", "MAX": "max", "MIN": "min", "PROD": "mul"}[node.operator.rpartition("_")[2]]
    number = np.finfo(np.float32) if x.real else np.iinfo(x.dtype)
    start = {"add": 0, "mul": 1, "max": number.min, "min": number.max}[kind]
    dtype = np.dtype("float32" if x.real else x.dtype)
    value = c.get(x)
    tail = c.b.op("Slice", c.b.op("Shape", value), np.array([1]), np.array([np.iinfo(np.int64).max]))
    base = c.b.op("Expand", np.array(start, dtype), c.b.op("Concat", count, tail, axis=0))
    indices = c.b.op("Unsqueeze", rows, np.array([-1]))
    c.set(node.out, c.b.op("ScatterND", base, indices, value, reduction=kind))
