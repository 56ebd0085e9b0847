"""Sequences of different lengths, and attention whose queries, keys and values are interleaved."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, as_type, like, need_rank, operator, sizes


@operator("SequenceMask")
def sequence_mask(c: Graph, node: Node, x: ir.Value, length: ir.Value | None = None) -> ir.Value:
    """What is beyond the end of its sequence is replaced."""
    if length is None or not node.flag("use_sequence_length"):
        return c.b.op("Identity", x)
    axis, rank = node.integer("axis", 0), need_rank(node, x)
    count = c.b.op("Gather", c.b.op("Shape", x), np.array(axis, np.int64))
    steps = c.b.op("Range", np.int64(0), count, np.int64(1))
    steps = c.b.op("Reshape", steps, np.array([-1, 1] if axis == 0 else [1, -1]))
    ends = c.b.op("Reshape", as_type(c.b, length, np.int64), np.array([1, -1] if axis == 0 else [-1, 1]))
    inside = c.b.op("Less", steps, ends)
    if rank > 2:
        inside = c.b.op("Unsqueeze", inside, np.arange(2, rank))
    return c.b.op("Where", inside, x, like(x, node.number("value", 0.0)))


@operator("SequenceLast")
def sequence_last(c: Graph, node: Node, x: ir.Value, length: ir.Value | None = None) -> ir.Value:
    """The last element of each sequence."""
    axis, rank = node.integer("axis", 0), need_rank(node, x)
    if length is None or not node.flag("use_sequence_length"):
        return c.b.op("Gather", x, np.int64(-1), axis=axis)
    rows = x if axis == 1 else c.b.op("Transpose", x, perm=[1, 0, *range(2, rank)])
    last = c.b.op("Sub", as_type(c.b, length, np.int64), np.int64(1))
    return c.b.op("GatherND", rows, c.b.op("Unsqueeze", last, np.array([-1])), batch_dims=1)


@operator("SequenceReverse")
def sequence_reverse(c: Graph, node: Node, x: ir.Value, length: ir.Value | None = None) -> ir.Value:
    """Each sequence backwards; what is beyond its end stays."""
    if length is None or not node.flag("use_sequence_length"):
        return c.b.op("Slice", x, *(np.array([each], np.int64) for each in (-1, -np.iinfo(np.int64).max, 0, -1)))
    return c.b.op("ReverseSequence", x, as_type(c.b, length, np.int64), time_axis=0, batch_axis=1)


def _heads(c: Graph, node: Node, x: ir.Value, parts: int, part: int) -> tuple[ir.Value, int]:
    """One of the interleaved parts of (time, batch, heads * parts * size), as (batch * heads, time, size)."""
    heads = node.integer("heads")
    width = sizes(x)[-1]
    if width is None or width % (heads * parts):
        raise node.refuse(f"{width} values in {heads} heads of {parts} parts")
    size = width // heads // parts
    split = c.b.op("Reshape", x, np.array([0, 0, heads, parts, size]))
    chosen = c.b.op("Gather", split, np.int64(part), axis=3)
    front = c.b.op("Transpose", chosen, perm=[1, 2, 0, 3])
    time = c.b.op("Slice", c.b.op("Shape", x), np.array([0]), np.array([1]))
    return c.b.op("Reshape", front, c.b.op("Concat", np.array([-1]), time, np.array([size]), axis=0)), size


def _scores(c: Graph, query: ir.Value, key: ir.Value, size: int) -> ir.Value:
    scaled = c.b.op("Div", query, like(query, np.sqrt(size)))
    return c.b.op("MatMul", scaled, c.b.op("Transpose", key, perm=[0, 2, 1]))


def _joined(c: Graph, node: Node, attention: ir.Value, value: ir.Value, size: int) -> ir.Value:
    heads = node.integer("heads")
    mixed = c.b.op("MatMul", attention, value)
    time = c.b.op("Slice", c.b.op("Shape", attention), np.array([1]), np.array([2]))
    shape = c.b.op("Concat", np.array([-1, heads]), time, np.array([size]), axis=0)
    back = c.b.op("Transpose", c.b.op("Reshape", mixed, shape), perm=[2, 0, 1, 3])
    return c.b.op("Reshape", back, np.array([0, 0, heads * size]))


@operator("_contrib_interleaved_matmul_selfatt_qk")
def selfatt_qk(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Scores of self-attention."""
    query, size = _heads(c, node, x, 3, 0)
    return _scores(c, query, _heads(c, node, x, 3, 1)[0], size)


@operator("_contrib_interleaved_matmul_selfatt_valatt")
def selfatt_valatt(c: Graph, node: Node, x: ir.Value, attention: ir.Value) -> ir.Value:
    """Values of self-attention, mixed."""
    value, size = _heads(c, node, x, 3, 2)
    return _joined(c, node, attention, value, size)


@operator("_contrib_interleaved_matmul_encdec_qk")
def encdec_qk(c: Graph, node: Node, query: ir.Value, keys: ir.Value) -> ir.Value:
    """Scores of attention to another sequence."""
    each, size = _heads(c, node, query, 1, 0)
    return _scores(c, each, _heads(c, node, keys, 2, 0)[0], size)


@operator("_contrib_interleaved_matmul_encdec_valatt")
def encdec_valatt(c: Graph, node: Node, keys: ir.Value, attention: ir.Value) -> ir.Value:
    """Values of another sequence, mixed."""
    value, size = _heads(c, node, keys, 2, 1)
    return _joined(c, node, attention, value, size)
