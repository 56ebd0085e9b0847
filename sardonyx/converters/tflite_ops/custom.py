"""Operators that are no part of TensorFlow Lite, but of widespread models."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir

from sardonyx.converters.tflite_graph import Node, Subgraph, Wire, operator
from sardonyx.converters.tflite_ops.convolution import SAME, padding, positive, transposed


@operator("CUSTOM:Convolution2DTransposeBias")
def convolution_2d_transpose_bias(c: Subgraph, node: Node) -> None:
    """MediaPipe's transposed convolution with bias; its options are the interpreter's struct as it lies in memory."""
    raw = node.raw.custom_options
    if raw is None or len(raw) < 12:
        raise node.refuse("its options are missing", "The file is damaged.")
    padding, width, height = struct.unpack_from("<3i", bytes(raw))
    if padding not in (1, 2) or width < 1 or height < 1:
        raise node.refuse(f"padding {padding}, strides {height} and {width}", "The file is damaged.")
    options = SimpleNamespace(padding=padding - 1, stride_w=width, stride_h=height)
    bias = (c.get(node.input(2)),) if node.optional(2) is not None else ()
    transposed(c, node, options, node.input(0), node.input(1), bias)


def _pool_options(node: Node) -> SimpleNamespace:
    """Kernel, strides and padding of MediaPipe's pooling: the interpreter's struct, as it lies in memory."""
    raw = node.raw.custom_options
    if raw is None or len(raw) < 20:
        raise node.refuse("its options are missing", "The file is damaged.")
    mode, stride_w, stride_h, width, height = struct.unpack_from("<5i", bytes(raw))
    if mode not in (1, 2):
        raise node.refuse(f"padding {mode}", "The file is damaged.")
    kernel, strides = positive(node, height, width), positive(node, stride_h, stride_w)
    return SimpleNamespace(mode=mode - 1, kernel=kernel, strides=strides)


def _border(size: int, outer: int, length: int, stride: int, mode: int) -> int:
    """Padding in front of an axis of `outer` elements that becomes one of `size`."""
    return max((size - 1) * stride + length - outer, 0) // 2 if mode == SAME else 0


def _starts(small: Wire, large: Wire, o: SimpleNamespace) -> tuple[np.ndarray, np.ndarray, int]:
    """Where each window begins in the large plane: rows (h, 1), columns (1, w); and the width of that plane."""
    found = []
    for axis in (1, 2):
        size, outer = small.size(axis) or 0, large.size(axis) or 0
        stride, length = o.strides[axis - 1], o.kernel[axis - 1]
        found.append(np.arange(size, dtype=np.int64) * stride - _border(size, outer, length, stride, o.mode))
    return found[0][:, None], found[1][None, :], large.size(2) or 0


@operator("CUSTOM:MaxPoolingWithArgmax2D")
def max_pooling_with_argmax(c: Subgraph, node: Node) -> None:
    """The largest of each window, and where it is: row * width of the window + column + 0.1, as a real number."""
    o, x = _pool_options(node), node.input(0)
    pads = padding(node, x, o.mode, [1, 2], o.kernel, o.strides, [1, 1])
    value, place = c.b.many("MaxPool", c.get(x, True), outputs=2, kernel_shape=o.kernel, strides=o.strides, **pads)
    c.set(node.outs[0], value, True)
    if len(node.outs) < 2:
        return
    top, left, width = _starts(node.outs[0], x, o)
    area = np.int64((x.size(1) or 0) * width)
    inside = c.b.op("Mod", place, area)  # ONNX counts through batch and channels
    row = c.b.op("Sub", c.b.op("Div", inside, np.int64(width)), top)
    column = c.b.op("Sub", c.b.op("Mod", inside, np.int64(width)), left)
    index = c.b.op("Add", c.b.op("Mul", row, np.int64(o.kernel[1])), column)
    c.set(node.outs[1], c.b.op("Add", c.b.op("Cast", index, to=ir.DataType.FLOAT), np.float32(0.1)), True)


@operator("CUSTOM:MaxUnpooling2D")
def max_unpooling(c: Subgraph, node: Node) -> None:
    """Each value back to where it was the largest of its window; zeros elsewhere."""
    o, x, out = _pool_options(node), node.input(0), node.out
    sizes = [size if isinstance(size, int) else 0 for size in out.shape]
    if 0 in sizes[1:]:
        raise node.refuse("a size of its plane is open", "Give it a fixed size in the source.")
    index = c.b.op("Cast", c.get(node.input(1), True), to=ir.DataType.INT64)
    top, left, width = _starts(x, out, o)
    row = c.b.op("Add", c.b.op("Div", index, np.int64(o.kernel[1])), top)
    column = c.b.op("Add", c.b.op("Mod", index, np.int64(o.kernel[1])), left)
    flat = c.b.op("Reshape", c.b.op("Add", c.b.op("Mul", row, np.int64(width)), column), np.array([0, 0, -1]))
    values = c.b.op("Reshape", c.get(x, True), np.array([0, 0, -1]))
    channels, area = sizes[3], sizes[1] * sizes[2]
    zeros = c.b.constant(np.zeros((sizes[0] or 1, channels, area), np.float32))
    spread = c.b.op("ScatterElements", zeros, flat, values, axis=2)
    c.set(out, c.b.op("Reshape", spread, np.array([0, 0, sizes[1], sizes[2]])), True)
