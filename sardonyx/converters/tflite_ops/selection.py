"""Choosing by index: gathers, scatters, one-hot, unique, lookups, non-maximum suppression."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import data_type
from sardonyx.converters.tflite_graph import Node, Subgraph, operator
from sardonyx.converters.tflite_ops.arithmetic import scalar
from sardonyx.converters.tflite_ops.movement import axis_of, scalar_real


@operator("GATHER")
def gather(c: Subgraph, node: Node) -> None:
    """Slices along an axis; leading dimensions may be a batch that both share."""
    o = node.options(c.model, "Gather")
    x, indices = node.input(0), node.input(1)
    axis = axis_of(node, o.axis, x.rank)
    rows = c.as_int64(indices)
    if o.batch_dims == 0:
        c.move(node, lambda v: c.b.op("Gather", v, rows, axis=axis), x)
        return
    if o.batch_dims != axis or o.batch_dims > indices.rank:
        raise node.refuse(f"batch dimensions {o.batch_dims} and axis {axis}", "Only axis = batch_dims is covered.")
    if indices.rank != axis + 1:
        raise node.refuse(f"indices of {indices.rank} dimensions after a batch of {axis}")
    index = c.b.op("Unsqueeze", rows, np.array([-1]))
    c.move(node, lambda v: c.b.op("GatherND", v, index, batch_dims=axis), x)


@operator("GATHER_ND")
def gather_nd(c: Subgraph, node: Node) -> None:
    """Slices whose places are rows of indices."""
    rows = c.as_int64(node.input(1))
    c.move(node, lambda v: c.b.op("GatherND", v, rows), node.input(0))


@operator("EMBEDDING_LOOKUP")
def embedding_lookup(c: Subgraph, node: Node) -> None:
    """Rows of a table."""
    rows = c.as_int64(node.input(0))
    c.move(node, lambda v: c.b.op("Gather", v, rows), node.input(1))


@operator("SCATTER_ND")
def scatter_nd(c: Subgraph, node: Node) -> None:
    """Values added up at places of a tensor of zeros."""
    indices, updates, shape = c.as_int64(node.input(0)), c.get(node.input(1)), c.as_int64(node.input(2))
    assert updates.dtype is not None
    base = c.b.op("Expand", np.zeros((), updates.dtype.numpy()), shape)
    c.set(node.out, c.b.op("ScatterND", base, indices, updates, reduction="add"))


@operator("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(c: Subgraph, node: Node) -> None:
    """A block written over a tensor; its place is moved so that it fits."""
    x, update = node.input(0), node.input(1)
    value, block, start = c.get(x), c.get(update), c.as_int64(node.input(2))
    sizes = c.b.op("Shape", value), c.b.op("Shape", block)
    start = c.b.op("Max", c.b.op("Min", start, c.b.op("Sub", *sizes)), np.int64(0))
    # A place for each element of the block: rows of indices, as ScatterND wants them.
    places = c.b.op("Transpose", c.b.op("NonZero", c.b.op("Expand", np.ones((), bool), sizes[1])), perm=[1, 0])
    places = c.b.op("Add", places, start)
    c.set(node.out, c.b.op("ScatterND", value, places, c.b.op("Reshape", block, np.array([-1]))))


@operator("SPARSE_TO_DENSE")
def sparse_to_dense(c: Subgraph, node: Node) -> None:
    """Values at places, a default elsewhere."""
    indices, values = node.input(0), node.input(2)
    shape, default = c.as_int64(node.input(1)), scalar(c, node.input(3))
    places = c.as_int64(indices)
    if indices.rank < 2:
        places = c.b.op("Reshape", places, np.array([-1, 1]))
    count = c.b.op("Slice", c.b.op("Shape", places), np.array([0]), np.array([1]))
    written = c.b.op("Expand", c.stored(values), count)
    c.set_stored(node.out, c.b.op("ScatterND", c.b.op("Expand", default, shape), places, written))


@operator("ONE_HOT")
def one_hot(c: Subgraph, node: Node) -> None:
    """One value where the index says, another elsewhere."""
    depth = scalar(c, node.input(1))
    on, off = (c.b.op("Reshape", c.stored(node.input(number)), np.array([1])) for number in (2, 3))
    values = c.b.op("Concat", off, on, axis=0)
    axis = node.options(c.model, "OneHot").axis
    # ONNX counts negative indices from the end, the source leaves their rows empty.
    indices = c.as_int64(node.input(0))
    inside = c.b.op("Where", c.b.op("Less", indices, np.int64(0)), c.b.op("Cast", depth, to=ir.DataType.INT64), indices)
    c.set_stored(node.out, c.b.op("OneHot", inside, depth, values, axis=int(axis)))


@operator("WHERE")
def where(c: Subgraph, node: Node) -> None:
    """The places of what is not 0, a row each."""
    found = c.b.op("Transpose", c.b.op("NonZero", c.stored(node.input(0))), perm=[1, 0])
    c.set_stored(node.out, found if node.out.dtype == "int64" else c.b.op("Cast", found, to=data_type(node.out.dtype)))


@operator("UNIQUE")
def unique(c: Subgraph, node: Node) -> None:
    """Different values in order of appearance, and which of them each element is."""
    values, _, inverse, _ = c.b.many("Unique", c.stored(node.input(0)), outputs=4, sorted=0)
    c.set_stored(node.outs[0], values)
    if len(node.outs) > 1:
        kind = node.outs[1].dtype
        c.set_stored(node.outs[1], inverse if kind == "int64" else c.b.op("Cast", inverse, to=data_type(kind)))


@operator("BUCKETIZE")
def bucketize(c: Subgraph, node: Node) -> None:
    """How many boundaries are not above each value."""
    listed = node.options(c.model, "Bucketize").boundaries
    boundaries = np.zeros(0, np.float32) if listed is None else listed.astype(np.float32)
    value = c.get(node.input(0))
    value = value if node.input(0).real else c.b.op("Cast", value, to=ir.DataType.FLOAT)
    above = c.b.op("GreaterOrEqual", c.b.op("Unsqueeze", value, np.array([-1])), boundaries)
    counted = c.b.op("ReduceSum", c.b.op("Cast", above, to=ir.DataType.INT32), np.array([-1]), keepdims=0)
    c.set_stored(node.out, counted)


@operator("MATRIX_DIAG", "MATRIX_SET_DIAG")
def matrix_diag(c: Subgraph, node: Node) -> None:
    """A diagonal as a matrix of zeros, or written over the diagonal of a matrix."""
    writes = node.operator == "MATRIX_SET_DIAG"
    diagonal = node.input(1 if writes else 0)
    size = diagonal.size(-1)
    rows, columns = (node.out.size(axis) for axis in (-2, -1))
    if size is None or rows is None or columns is None:
        raise node.refuse("the size of the matrix is open")
    value = c.get(diagonal)
    line = c.b.op("Unsqueeze", value, np.array([-1 if size == rows else -2]))
    mask = np.eye(rows, columns, dtype=bool)
    assert value.dtype is not None
    other = c.get(node.input(0)) if writes else np.zeros((), value.dtype.numpy())
    c.set(node.out, c.b.op("Where", mask, line, other))


@operator("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5")
def non_max_suppression(c: Subgraph, node: Node) -> None:
    """The boxes that are kept, filled up with zeros to the number asked for, and how many they are."""
    soft = node.operator == "NON_MAX_SUPPRESSION_V5"
    if soft:
        sigma = node.input(5).const
        if sigma is None or float(np.reshape(sigma, -1)[0]) != 0:
            raise node.refuse("soft suppression (sigma is not 0)")
    boxes, scores = c.get(node.input(0)), c.get(node.input(1))
    most = c.b.op("Reshape", c.as_int64(node.input(2)), np.array([1]))
    overlap, least = (c.b.op("Reshape", scalar_real(c, node.input(n)), np.array([1])) for n in (3, 4))
    flat = c.b.op("Unsqueeze", scores, np.array([0, 1]))
    kept = c.b.op("NonMaxSuppression", c.b.op("Unsqueeze", boxes, np.array([0])), flat, most, overlap, least)
    index = c.b.op("Gather", kept, np.int64(2), axis=1)
    count = c.b.op("Shape", index)
    missing = c.b.op("Sub", most, count)
    pads = c.b.op("Concat", np.array([0]), missing, axis=0)
    c.set_stored(node.outs[0], c.b.op("Cast", c.b.op("Pad", index, pads), to=ir.DataType.INT32))
    last = c.b.op("Cast", c.b.op("Squeeze", count, np.array([0])), to=ir.DataType.INT32)
    if soft:
        chosen = c.b.op("Pad", c.b.op("Gather", scores, index), pads)
        c.set(node.outs[1], chosen)
    c.set_stored(node.outs[2 if soft else 1], last)
