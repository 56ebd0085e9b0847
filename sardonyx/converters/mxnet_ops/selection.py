"""Reductions, and choosing by index or by size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, as_type, axis_of, like, need_rank, operator, sizes
from sardonyx.converters.mxnet_ops.arithmetic import as_dtype

_SUMS = {
    "sum": "ReduceSum", "sum_axis": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd", "max": "ReduceMax",
    "max_axis": "ReduceMax", "min": "ReduceMin", "min_axis": "ReduceMin", "nansum": "ReduceSum",
    "nanprod": "ReduceProd",
    "_np_sum": "ReduceSum", "_np_max": "ReduceMax", "_np_min": "ReduceMin", "_npi_mean": "ReduceMean",
}  # fmt: skip


def axes_of(node: Node, x: ir.Value) -> list[int]:
    """The axes that are reduced: the listed ones, all, or all but the listed ones."""
    rank = need_rank(node, x)
    if node.parsed("axis") is None or node.parsed("axis") == ():
        return [*range(rank)]
    axes = [axis_of(node, axis, rank) for axis in node.ints("axis")]
    return [axis for axis in range(rank) if axis not in axes] if node.flag("exclude") else axes


def _back(c: Graph, node: Node, value: ir.Value, whole: bool) -> ir.Value:
    """MXNet has no tensors without dimensions: what is reduced entirely has one of 1."""
    return c.b.op("Reshape", value, np.array([1])) if whole and not node.op.startswith("_np") else value


@operator(*_SUMS)
def reduce(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Over some axes."""
    axes, keep = axes_of(node, x), node.flag("keepdims")
    if node.op.startswith("nan"):
        x = c.b.op("Where", c.b.op("IsNaN", x), like(x, float(node.op == "nanprod")), x)
    result = c.b.op(_SUMS[node.op], x, np.array(axes), keepdims=int(keep))
    return _back(c, node, result, len(axes) == need_rank(node, x) and not keep)


@operator("norm")
def norm(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """The sum of sizes, or the root of the sum of squares."""
    axes, keep = axes_of(node, x), node.flag("keepdims")
    kind = {1: "ReduceL1", 2: "ReduceL2"}.get(node.integer("ord", 2))
    if kind is None:
        raise node.refuse(f"norm of order {node.integer('ord')}")
    result = c.b.op(kind, x, np.array(axes), keepdims=int(keep))
    return _back(c, node, result, len(axes) == need_rank(node, x) and not keep)


@operator("argmax", "argmin", "argmax_channel")
def arg(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Where the largest or smallest is, as a floating-point number."""
    kind = "ArgMin" if node.op == "argmin" else "ArgMax"
    if node.op == "argmax_channel":
        return c.b.op("Cast", c.b.op(kind, x, axis=1, keepdims=0), to=ir.DataType.FLOAT)
    keep = node.flag("keepdims")
    if node.parsed("axis") is None:
        x, axis = c.b.op("Reshape", x, np.array([-1])), 0
        return c.b.op("Cast", c.b.op(kind, x, axis=axis, keepdims=1), to=ir.DataType.FLOAT)
    return c.b.op("Cast", c.b.op(kind, x, axis=node.integer("axis"), keepdims=int(keep)), to=ir.DataType.FLOAT)


@operator("topk", "sort", "argsort")
def top_k(c: Graph, node: Node, x: ir.Value) -> ir.Value | list[ir.Value]:
    """The largest (or smallest), where they are, or where in a mask."""
    if node.parsed("axis", -1) is None:
        x, axis = c.b.op("Reshape", x, np.array([-1])), 0
    else:
        axis = axis_of(node, node.integer("axis", -1), need_rank(node, x))
    ascending = node.flag("is_ascend", node.op != "topk")
    k = node.integer("k", 1) if node.op == "topk" else 0
    count = c.b.constant(np.array([k])) if k > 0 else c.b.op("Gather", c.b.op("Shape", x), np.array([axis], np.int64))
    values, indices = c.b.many("TopK", x, count, outputs=2, axis=axis, largest=int(not ascending))
    index = c.b.op("Cast", indices, to=as_dtype(node.text("dtype", "float32")))
    wanted = {"sort": "value", "argsort": "indices"}.get(node.op) or node.text("ret_typ", "indices")
    if wanted == "mask":
        ones = c.b.op("Expand", like(values, 1), c.b.op("Shape", indices))
        zeros = c.b.op("Expand", like(values, 0), c.b.op("Shape", x))
        return c.b.op("ScatterElements", zeros, indices, ones, axis=axis)
    return {"value": values, "indices": index}.get(wanted) or [values, index]


@operator("cumsum", "_np_cumsum")
def cumsum(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Running sums."""
    if node.parsed("axis") is None:
        return c.b.op("CumSum", c.b.op("Reshape", x, np.array([-1])), np.array(0))
    return c.b.op("CumSum", x, np.array(node.integer("axis")))


@operator("where")
def where(c: Graph, node: Node, condition: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """By a condition that is not 0; a vector chooses rows."""
    if len(condition.shape or ()) == 1 and need_rank(node, x) > 1:
        condition = c.b.op("Reshape", condition, np.array([-1] + [1] * (need_rank(node, x) - 1)))
    return c.b.op("Where", c.b.op("Cast", condition, to=ir.DataType.BOOL), x, y)


@operator("one_hot")
def one_hot(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """One value where the index says; indices outside give none."""
    depth = node.integer("depth")
    dtype = as_dtype(node.text("dtype", "float32")).numpy()
    values = np.array([node.number("off_value", 0.0), node.number("on_value", 1.0)], dtype)
    index = as_type(c.b, x, np.int64)
    inside = c.b.op("Where", c.b.op("Less", index, np.int64(0)), np.int64(depth), index)
    return c.b.op("OneHot", inside, np.int64(depth), values, axis=-1)


def _bounded(c: Graph, node: Node, index: ir.Value, size: ir.Value) -> ir.Value:
    """Indices beyond the ends: taken as the ends, or counted on from the other one."""
    index = as_type(c.b, index, np.int64)
    if node.text("mode", "clip") == "wrap":
        return c.b.op("Mod", index, size)
    last = c.b.op("Sub", size, np.int64(1))
    return c.b.op("Max", c.b.op("Min", index, last), np.int64(0))


def _size(c: Graph, x: ir.Value, axis: int) -> ir.Value:
    return c.b.op("Gather", c.b.op("Shape", x), np.array(axis, np.int64))


@operator("take")
def take(c: Graph, node: Node, x: ir.Value, indices: ir.Value) -> ir.Value:
    """Slices along an axis."""
    axis = axis_of(node, node.integer("axis", 0), need_rank(node, x))
    return c.b.op("Gather", x, _bounded(c, node, indices, _size(c, x, axis)), axis=axis)


@operator("batch_take")
def batch_take(c: Graph, node: Node, x: ir.Value, indices: ir.Value) -> ir.Value:
    """One element of each row."""
    index = c.b.op("Unsqueeze", _bounded(c, node, indices, _size(c, x, 1)), np.array([-1]))
    return c.b.op("Squeeze", c.b.op("GatherElements", x, index, axis=1), np.array([1]))


@operator("pick")
def pick(c: Graph, node: Node, x: ir.Value, indices: ir.Value) -> ir.Value:
    """One element along an axis for each of the others."""
    rank = need_rank(node, x)
    axis = axis_of(node, node.integer("axis", -1), rank)
    index = _bounded(c, node, indices, _size(c, x, axis))
    if need_rank(node, indices) < rank:
        index = c.b.op("Unsqueeze", index, np.array([axis]))
    found = c.b.op("GatherElements", x, index, axis=axis)
    return found if node.flag("keepdims") else c.b.op("Squeeze", found, np.array([axis]))


def _rows(c: Graph, node: Node, indices: ir.Value) -> ir.Value:
    """MXNet's indices have the coordinate first, ONNX's last."""
    rank = need_rank(node, indices)
    return c.b.op("Transpose", as_type(c.b, indices, np.int64), perm=[*range(1, rank), 0])


@operator("gather_nd")
def gather_nd(c: Graph, node: Node, x: ir.Value, indices: ir.Value) -> ir.Value:
    """Slices whose places are columns of indices."""
    return c.b.op("GatherND", x, _rows(c, node, indices))


@operator("scatter_nd")
def scatter_nd(c: Graph, node: Node, x: ir.Value, indices: ir.Value) -> ir.Value:
    """Values at places of a tensor of zeros."""
    assert x.dtype is not None
    base = np.zeros(node.ints("shape"), x.dtype.numpy())
    return c.b.op("ScatterND", base, _rows(c, node, indices), x)


@operator("_contrib_boolean_mask")
def boolean_mask(c: Graph, node: Node, x: ir.Value, mask: ir.Value) -> ir.Value:
    """The slices whose mask is not 0."""
    return c.b.op("Compress", x, c.b.op("Cast", mask, to=ir.DataType.BOOL), axis=node.integer("axis", 0))


@operator("_contrib_index_copy")
def index_copy(c: Graph, node: Node, x: ir.Value, index: ir.Value, new: ir.Value) -> ir.Value:
    """Some rows replaced."""
    return c.b.op("ScatterND", x, c.b.op("Unsqueeze", as_type(c.b, index, np.int64), np.array([-1])), new)


@operator("_contrib_index_array")
def index_array(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """The place of each element."""
    rank = need_rank(node, x)
    axes = [axis_of(node, axis, rank) for axis in node.ints("axes")] or [*range(rank)]
    known = sizes(x)
    if None in known:
        raise node.refuse("the shape of its input must be known", "Give fixed shapes for the inputs.")
    grid = np.stack(np.meshgrid(*(np.arange(size or 0) for size in known), indexing="ij"), -1)
    return c.b.constant(grid[..., axes])
