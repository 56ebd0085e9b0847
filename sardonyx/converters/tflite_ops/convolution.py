"""Convolutions, matrix products and pooling."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.tflite_graph import Node, Subgraph, Wire, operator

SAME = 0


def padding(
    node: Node, wire: Wire, mode: int, axes: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> dict[str, Any]:
    """The attribute of ONNX that pads as SAME or VALID does along `axes` of `wire`."""
    if mode != SAME:
        return {}
    sizes = [wire.size(axis) for axis in axes]
    if any(size is None for size in sizes):
        return {"auto_pad": "SAME_UPPER"}
    begin, end = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        assert size is not None
        total = max((-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 - size, 0)
        begin.append(total // 2)
        end.append(total - total // 2)
    return {"pads": begin + end} if any(end) else {}


def positive(node: Node, *numbers: int) -> list[int]:
    """Strides and the like, as the file has them, which must be above 0."""
    if any(number < 1 for number in numbers):
        raise node.refuse(f"a stride, dilation or size is {min(numbers)}", "The file is damaged.")
    return [int(number) for number in numbers]


def _hybrid(c: Subgraph, node: Node, weights: Wire) -> None:
    """Note an operator of real numbers with integer weights, whose inputs the interpreter quantises."""
    if not node.input(0).quantised and weights.const is not None and weights.const.dtype.kind in "iu":
        c.state.hybrid.append(node.where)


@operator("CONV_2D", "DEPTHWISE_CONV_2D")
def conv_2d(c: Subgraph, node: Node) -> None:
    """Filters are (out, height, width, in); depthwise (1, height, width, out)."""
    depthwise = node.operator == "DEPTHWISE_CONV_2D"
    options = node.options(c.model, "DepthwiseConv2D" if depthwise else "Conv2D")
    x, weights = node.input(0), node.input(1)
    _ranks(node, x, weights, 4)
    height, width = (_known(node, weights.size(axis)) for axis in (1, 2))
    strides = positive(node, options.stride_h, options.stride_w)
    dilations = positive(node, options.dilation_h, options.dilation_w)
    channels = _known(node, x.size(3))
    group = channels if depthwise else channels // max(1, _known(node, weights.size(3)))
    _hybrid(c, node, weights)
    perm = [3, 0, 1, 2] if depthwise else [0, 3, 1, 2]
    result = c.b.op(
        "Conv", c.get(x, True), c.weights(weights, perm), *_bias(c, node, 2), group=group if group > 1 else None,
        kernel_shape=[height, width], strides=strides, dilations=dilations,
        **padding(node, x, options.padding, [1, 2], [height, width], strides, dilations),
    )  # fmt: skip
    c.set(node.out, c.activated(result, options.activation, node), True)


@operator("CONV_3D")
def conv_3d(c: Subgraph, node: Node) -> None:
    """Filters are (depth, height, width, in, out)."""
    options = node.options(c.model, "Conv3D")
    x, weights = node.input(0), node.input(1)
    _ranks(node, x, weights, 5)
    kernel = [_known(node, weights.size(axis)) for axis in (0, 1, 2)]
    strides = positive(node, options.stride_d, options.stride_h, options.stride_w)
    dilations = positive(node, options.dilation_d, options.dilation_h, options.dilation_w)
    group = _known(node, x.size(4)) // max(1, _known(node, weights.size(3)))
    result = c.b.op(
        "Conv", c.get(x, True), c.weights(weights, [4, 3, 0, 1, 2]), *_bias(c, node, 2),
        group=group if group > 1 else None, kernel_shape=kernel, strides=strides, dilations=dilations,
        **padding(node, x, options.padding, [1, 2, 3], kernel, strides, dilations),
    )  # fmt: skip
    c.set(node.out, c.activated(result, options.activation, node), True)


@operator("TRANSPOSE_CONV")
def transpose_conv(c: Subgraph, node: Node) -> None:
    """Inputs: shape of the output, filters (out, height, width, in), data, bias."""
    options = node.options(c.model, "TransposeConv")
    transposed(c, node, options, node.input(2), node.input(1), _bias(c, node, 3))


def transposed(
    c: Subgraph, node: Node, options: SimpleNamespace, x: Wire, weights: Wire, bias: tuple[ir.Value, ...]
) -> None:
    """A transposed convolution; its padding is that of the convolution that it reverses."""
    _ranks(node, x, weights, 4)
    _hybrid_at(c, node, x, weights)
    kernel = [_known(node, weights.size(axis)) for axis in (1, 2)]
    strides = positive(node, options.stride_h, options.stride_w)
    begin, end, extra = [], [], []
    for axis in (1, 2):
        size, out = (_known(node, wire.size(axis)) for wire in (x, node.out))
        stride, length = strides[axis - 1], kernel[axis - 1]
        total = (size - 1) * stride + length - out
        same = max((-(-out // stride) - 1) * stride + length - out, 0) if options.padding == SAME else 0
        begin.append(same // 2)
        end.append(max(0, total - same // 2))
        extra.append(max(0, same // 2 - total))
    result = c.b.op(
        "ConvTranspose", c.get(x, True), c.weights(weights, [3, 0, 1, 2]), *bias, kernel_shape=kernel,
        strides=strides, pads=begin + end if any(begin + end) else None, output_padding=extra if any(extra) else None,
    )  # fmt: skip
    c.set(node.out, c.activated(result, getattr(options, "activation", 0), node), True)


def _hybrid_at(c: Subgraph, node: Node, x: Wire, weights: Wire) -> None:
    if not x.quantised and weights.const is not None and weights.const.dtype.kind in "iu":
        c.state.hybrid.append(node.where)


@operator("FULLY_CONNECTED")
def fully_connected(c: Subgraph, node: Node) -> None:
    """x times the transposed weights (out, in); all dimensions but the last are a batch."""
    options = node.options(c.model, "FullyConnected")
    x, weights = node.input(0), node.input(1)
    if options.weights_format != 0 or weights.rank != 2:
        raise node.refuse("weights in a shuffled format", "Convert the model again, for a CPU.")
    _hybrid(c, node, weights)
    width = weights.size(1)
    value = c.get(x)
    bias = _bias(c, node, 2)
    if (x.rank != 2 and not options.keep_num_dims) or x.rank < 2 or x.size(-1) != width:
        value = c.b.op("Reshape", value, np.array([-1, _known(node, width)]))
        flat = True
    else:
        flat = x.rank == 2
    if flat:
        result = c.b.op("Gemm", value, c.weights(weights), *bias, transB=1)
    else:
        result = c.b.op("MatMul", value, c.weights(weights, [1, 0]))
        result = c.b.op("Add", result, bias[0]) if bias else result
    if node.out.rank not in (2, x.rank if not flat else 2):
        result = c.b.op("Reshape", result, np.array([d if isinstance(d, int) else -1 for d in node.out.shape]))
    c.set(node.out, c.activated(result, options.activation, node))


@operator("BATCH_MATMUL")
def batch_matmul(c: Subgraph, node: Node) -> None:
    """Either side may be transposed."""
    options = node.options(c.model, "BatchMatMul")
    values = []
    for wire, adjoint in ((node.input(0), options.adj_x), (node.input(1), options.adj_y)):
        perm = [*range(wire.rank - 2), wire.rank - 1, wire.rank - 2] if adjoint else None
        if wire.const is not None:
            _hybrid(c, node, wire)
            values.append(c.weights(wire, perm))
        else:
            values.append(c.b.op("Transpose", c.get(wire), perm=perm) if adjoint else c.get(wire))
    c.set(node.out, c.b.op("MatMul", *values))


@operator("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D")
def pool(c: Subgraph, node: Node) -> None:
    """What is beyond the border takes no part, in averages too."""
    options = node.options(c.model, "Pool2D")
    x, out = node.input(0), node.out
    kernel = positive(node, options.filter_h, options.filter_w)
    strides = positive(node, options.stride_h, options.stride_w)
    pads = padding(node, x, options.padding, [1, 2], kernel, strides, [1, 1])
    if node.operator == "MAX_POOL_2D" and options.activation == 0:
        bytes_ = out.dtype in ("int8", "uint8") or not out.quantised
        if bytes_ and c.same_storage(out, x):
            value = c.b.op("MaxPool", c.stored(x, True), kernel_shape=kernel, strides=strides, **pads)
            c.set_stored(out, value, True)
            return
    value = c.get(x, True)
    if node.operator == "L2_POOL_2D":
        value = c.b.op("Mul", value, value)
    kind = "MaxPool" if node.operator == "MAX_POOL_2D" else "AveragePool"
    value = c.b.op(kind, value, kernel_shape=kernel, strides=strides, **pads)
    if node.operator == "L2_POOL_2D":
        value = c.b.op("Sqrt", value)
    c.set(out, c.activated(value, options.activation, node), True)


def _bias(c: Subgraph, node: Node, number: int) -> tuple[ir.Value, ...]:
    wire = node.optional(number)
    if wire is None:
        return ()
    if wire.rank != 1 and wire.const is not None:
        return (c.weights(wire, None, True, [-1]),)
    return (c.get(wire),)


def _ranks(node: Node, x: Wire, weights: Wire, rank: int) -> None:
    if x.rank != rank or weights.rank != rank:
        raise node.refuse(f"data of {x.rank} and filters of {weights.rank} dimensions instead of {rank}")


def _known(node: Node, size: int | None) -> int:
    if size is None:
        raise node.refuse("a size of its filters, channels or planes is open", "Give it a fixed size in the source.")
    return size
