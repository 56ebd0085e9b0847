"""Layers with weights, normalisation, pooling, resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.mxnet_files import Node
from sardonyx.converters.mxnet_graph import Graph, as_type, axis_of, like, need_rank, need_shape, operator, sizes


def channels_first(c: Graph, node: Node, x: ir.Value) -> tuple[ir.Value, bool]:
    """`x` with channels before the plane, and whether it was the other way round."""
    last = node.text("layout").endswith("C")
    if not last:
        return x, False
    rank = need_rank(node, x)
    return c.b.op("Transpose", x, perm=[0, rank - 1, *range(1, rank - 1)]), True


def channels_back(c: Graph, x: ir.Value, last: bool) -> ir.Value:
    """The reverse of `channels_first`."""
    rank = len(x.shape) if x.shape is not None else 4
    return c.b.op("Transpose", x, perm=[0, *range(2, rank), 1]) if last else x


def _window(node: Node, count: int) -> dict[str, Any]:
    """Kernel, strides, dilations and pads as ONNX has them."""
    kernel, strides = node.ints("kernel"), node.ints("stride") or [1] * count
    dilations, pad = node.ints("dilate") or [1] * count, node.ints("pad") or [0] * count
    if not len(kernel) == len(strides) == len(dilations) == len(pad) == count:
        raise node.refuse(f"kernel {kernel}, stride {strides}, dilate {dilations}, pad {pad} of {count} dimensions")
    return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pad * 2}


@operator("Convolution", "Convolution_v1", "_npx_convolution")
def convolution(c: Graph, node: Node, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> ir.Value:
    """Along one, two or three dimensions."""
    x, last = channels_first(c, node, x)
    if last:
        weight, _ = channels_first(c, node, weight)
    group = node.integer("num_group", 1)
    bias = None if node.flag("no_bias") else bias
    window = _window(node, len(node.ints("kernel")))
    return channels_back(c, c.b.op("Conv", x, weight, bias, group=group, **window), last)


@operator("Deconvolution")
def deconvolution(c: Graph, node: Node, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> ir.Value:
    """A transposed convolution; `target_shape` replaces the padding."""
    x, last = channels_first(c, node, x)
    if last:
        weight, _ = channels_first(c, node, weight)
    count = len(node.ints("kernel"))
    window = _window(node, count)
    extra = node.ints("adj") or [0] * count
    target = node.ints("target_shape")
    if target and any(target):
        plane = need_shape(node, x)[2:]
        pads = []
        for axis in range(count):
            full = (plane[axis] - 1) * window["strides"][axis]
            full += (window["kernel_shape"][axis] - 1) * window["dilations"][axis] + 1
            total = full - target[axis]
            extra[axis] = total % 2
            pads.append((total + 1) // 2)
        window["pads"] = pads * 2
    bias = None if node.flag("no_bias", True) else bias
    result = c.b.op(
        "ConvTranspose", x, weight, bias, group=node.integer("num_group", 1),
        output_padding=extra if any(extra) else None, **window,
    )  # fmt: skip
    return channels_back(c, result, last)


@operator("FullyConnected", "_npx_fully_connected")
def fully_connected(c: Graph, node: Node, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> ir.Value:
    """x times the transposed weights (out, in)."""
    bias = None if node.flag("no_bias") else bias
    if node.flag("flatten", True):
        flat = x if len(x.shape or ()) == 2 else c.b.op("Flatten", x, axis=1)
        return c.b.op("Gemm", flat, weight, bias, transB=1)
    if need_rank(node, x) == 2:
        return c.b.op("Gemm", x, weight, bias, transB=1)
    result = c.b.op("MatMul", x, c.b.op("Transpose", weight, perm=[1, 0]))
    return result if bias is None else c.b.op("Add", result, bias)


@operator("BatchNorm", "BatchNorm_v1", "_npx_batch_norm", "_contrib_SyncBatchNorm", "SyncBatchNorm")
def batch_norm(
    c: Graph, node: Node, x: ir.Value, gamma: ir.Value, beta: ir.Value, mean: ir.Value, variance: ir.Value
) -> list[ir.Value | None]:
    """With the moving averages; `fix_gamma` takes 1 whatever is stored."""
    rank = need_rank(node, x)
    axis = axis_of(node, node.integer("axis", 1), rank)
    if node.flag("fix_gamma", True):
        gamma = c.b.constant(np.ones(need_shape(node, gamma), np.float32))
    perm = [0, axis, *(a for a in range(1, rank) if a != axis)]
    moved = x if axis == 1 else c.b.op("Transpose", x, perm=perm)
    epsilon = node.number("eps", 1e-3)
    result = c.b.op("BatchNormalization", moved, gamma, beta, mean, variance, epsilon=epsilon)
    if axis != 1:
        result = c.b.op("Transpose", result, perm=[int(a) for a in np.argsort(perm)])
    return [result, None, None]


@operator("LayerNorm", "_npx_layer_norm")
def layer_norm(c: Graph, node: Node, x: ir.Value, gamma: ir.Value, beta: ir.Value) -> list[ir.Value | None]:
    """Along one axis."""
    rank = need_rank(node, x)
    axis = axis_of(node, node.integer("axis", -1), rank)
    epsilon = node.number("eps", 1e-5)
    perm = [*(a for a in range(rank) if a != axis), axis]
    moved = x if axis == rank - 1 else c.b.op("Transpose", x, perm=perm)
    result = c.b.op("LayerNormalization", moved, gamma, beta, axis=-1, epsilon=epsilon)
    if axis != rank - 1:
        result = c.b.op("Transpose", result, perm=[int(a) for a in np.argsort(perm)])
    return [result, None, None]


@operator("InstanceNorm")
def instance_norm(c: Graph, node: Node, x: ir.Value, gamma: ir.Value, beta: ir.Value) -> ir.Value:
    """Over the plane of each channel of each sample."""
    return c.b.op("InstanceNormalization", x, gamma, beta, epsilon=node.number("eps", 1e-3))


@operator("GroupNorm")
def group_norm(c: Graph, node: Node, x: ir.Value, gamma: ir.Value, beta: ir.Value) -> list[ir.Value | None]:
    """Over groups of channels; scale and shift belong to channels, of old files to groups."""
    groups, rank = node.integer("num_groups", 1), need_rank(node, x)
    ones = c.b.constant(np.ones(groups, np.float32)), c.b.constant(np.zeros(groups, np.float32))
    grouped = c.b.op("Reshape", x, np.array([0, groups, -1]))
    normal = c.b.op("InstanceNormalization", grouped, *ones, epsilon=node.number("eps", 1e-5))
    normal = c.b.op("Reshape", normal, c.b.op("Shape", x))
    channels = sizes(x)[1]
    scales = []
    for each in (gamma, beta):
        size = need_shape(node, each)[0]
        if size != channels and size == groups and channels:
            each = c.b.op("Reshape", c.b.op("Expand", c.b.op("Unsqueeze", each, np.array([1])),
                                            np.array([groups, channels // groups])), np.array([-1]))  # fmt: skip
        scales.append(c.b.op("Reshape", each, np.array([-1] + [1] * (rank - 2))))
    return [c.b.op("Add", c.b.op("Mul", normal, scales[0]), scales[1]), None, None]


@operator("L2Normalization")
def l2_normalization(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """Divided by the norm of the sample, of the channels at each place, or of the plane."""
    rank, mode = need_rank(node, x), node.text("mode", "instance")
    axes = {"instance": [*range(1, rank)], "channel": [1], "spatial": [*range(2, rank)]}.get(mode)
    if axes is None:
        raise node.refuse(f"mode {mode!r} is unknown")
    square = c.b.op("ReduceSumSquare", x, np.array(axes), keepdims=1)
    return c.b.op("Div", x, c.b.op("Sqrt", c.b.op("Add", square, like(x, node.number("eps", 1e-10)))))


@operator("LRN")
def lrn(c: Graph, node: Node, x: ir.Value) -> list[ir.Value | None]:
    """Over neighbouring channels."""
    alpha, beta = node.number("alpha", 1e-4), node.number("beta", 0.75)
    value = c.b.op("LRN", x, size=node.integer("nsize"), alpha=alpha, beta=beta, bias=node.number("knorm", 2.0))
    return [value, None]


@operator("Dropout", "_npx_dropout")
def dropout(c: Graph, node: Node, x: ir.Value) -> list[ir.Value | None]:
    """Nothing, outside of training; unless it was told to be always on."""
    if node.text("mode", "training") == "always":
        raise node.refuse("dropout that is always on", "Random values have no fixed result: set mode='training'.")
    return [x, None]


@operator("Pooling", "Pooling_v1", "_npx_pooling")
def pooling(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """The largest, the mean, the sum or a norm of windows, or of the whole plane."""
    x, last = channels_first(c, node, x)
    kind = node.text("pool_type", "max")
    if kind not in ("max", "avg", "sum", "lp"):
        raise node.refuse(f"pool_type {kind!r} is unknown")
    if node.flag("global_pool"):
        return channels_back(c, _global(c, node, x, kind), last)
    count = len(node.ints("kernel"))
    window = _window(node, count)
    del window["dilations"]
    kernel, strides, pad = window["kernel_shape"], window["strides"], window["pads"][:count]
    counts_padding = node.flag("count_include_pad", True)
    convention = node.text("pooling_convention", "valid")
    extra = _missing(convention, sizes(x)[2:], kernel, strides, pad)
    if convention == "same":
        window["pads"] = [0] * count + [p or 0 for p in extra]
    elif convention == "full":
        # Padding is written out where sizes are known: what a window beyond the border holds is then no question.
        if None in extra:
            window["ceil_mode"] = 1
        else:
            window["pads"] = pad + [p + (e or 0) for p, e in zip(pad, extra)]
    if kind == "max":
        return channels_back(c, c.b.op("MaxPool", x, **window), last)
    size = math.prod(kernel)
    if kind == "lp":
        p = node.integer("p_value", 2)
        return channels_back(c, c.b.op("LpPool", x, p=p, **window), last)
    mean = c.b.op("AveragePool", x, count_include_pad=int(kind == "sum" or counts_padding), **window)
    if kind == "sum":
        mean = c.b.op("Mul", mean, like(x, size))
    elif convention == "full" and counts_padding and any(extra) and "ceil_mode" not in window:
        mean = c.b.op("Mul", mean, _shares(sizes(x)[2:], window, extra, size))
    return channels_back(c, mean, last)


def _global(c: Graph, node: Node, x: ir.Value, kind: str) -> ir.Value:
    axes = np.arange(2, need_rank(node, x))
    if kind == "max":
        return c.b.op("GlobalMaxPool", x)
    if kind == "avg":
        return c.b.op("GlobalAveragePool", x)
    if kind == "sum":
        return c.b.op("ReduceSum", x, axes, keepdims=1)
    return c.b.op("GlobalLpPool", x, p=node.integer("p_value", 2))


def _missing(
    convention: str, plane: Sequence[int | None], kernel: list[int], strides: list[int], pad: list[int]
) -> list[int | None]:
    """How much padding at the end lets the last window begin inside; None: the size is not known."""
    found: list[int | None] = []
    for size, k, s, p in zip(plane, kernel, strides, pad, strict=True):
        if size is None:
            found.append(None)
        elif convention == "same":
            found.append(max((-(-size // s) - 1) * s + k - size, 0))
        else:
            out = -(-(size + 2 * p - k) // s) + 1
            found.append(max((out - 1) * s + k - size - 2 * p, 0))
    return found


def _shares(plane: Sequence[int | None], window: dict[str, Any], extra: list[int | None], size: int) -> np.ndarray:
    """What a mean over the whole window must be multiplied by, where it reaches beyond the padding."""
    counts = np.ones((), np.float32)
    half = len(extra)
    for axis in range(half):
        k, s = window["kernel_shape"][axis], window["strides"][axis]
        begin, end = window["pads"][axis], window["pads"][half + axis]
        whole = (plane[axis] or 0) + begin + end
        starts = np.arange((whole - k) // s + 1) * s
        inside = np.minimum(starts + k, whole - (extra[axis] or 0)) - starts
        counts = np.multiply.outer(counts, inside.astype(np.float32))
    return np.float32(size) / counts


@operator("UpSampling")
def up_sampling(c: Graph, node: Node, x: ir.Value, *more: ir.Value) -> ir.Value:
    """By a whole factor: repeated pixels, or a transposed convolution with bilinear weights."""
    scale = node.integer("scale")
    if node.text("sample_type") == "nearest":
        if more:
            raise node.refuse("several inputs of different sizes", "Join them by Concat instead.")
        scales = np.array([1, 1, scale, scale], np.float32)
        return c.b.op(
            "Resize", x, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    channels = need_shape(node, more[0])[0]
    kernel = 2 * scale - scale % 2
    pad = math.ceil((scale - 1) / 2)
    return c.b.op("ConvTranspose", x, more[0], group=channels, kernel_shape=[kernel] * 2, strides=[scale] * 2,
                  pads=[pad] * 4)  # fmt: skip


@operator("_contrib_BilinearResize2D")
def bilinear_resize(c: Graph, node: Node, x: ir.Value, like_: ir.Value | None = None) -> ir.Value:
    """To a size, by factors, or like another tensor."""
    mode = node.text("mode", "size")
    front = c.b.op("Slice", c.b.op("Shape", x), np.array([0]), np.array([2]))
    if like_ is not None:
        plane = c.b.op("Slice", c.b.op("Shape", like_), np.array([2]), np.array([4]))
    elif node.text("scale_height"):
        factors = np.array([node.number("scale_height"), node.number("scale_width")], np.float32)
        known = sizes(x)[2:]
        if None in known:
            raise node.refuse("factors with an unknown size", "Give fixed heights and widths.")
        plane = c.b.constant(np.array([int(s * f) for s, f in zip(known, factors)]))
    elif mode == "size":
        plane = c.b.constant(np.array([node.integer("height"), node.integer("width")]))
    else:
        raise node.refuse(f"mode {mode!r} is not covered")
    centres = "align_corners" if node.flag("align_corners", True) else "half_pixel"
    return c.b.op("Resize", x, None, None, c.b.op("Concat", front, plane, axis=0), mode="linear",
                  coordinate_transformation_mode=centres)  # fmt: skip


@operator("_contrib_AdaptiveAvgPooling2D")
def adaptive_average(c: Graph, node: Node, x: ir.Value) -> ir.Value:
    """To a given size: windows from floor to ceil, as products with matrices of weights."""
    target = node.ints("output_size") or [1]
    target = target * 2 if len(target) == 1 else target
    if target == [1, 1]:
        return c.b.op("GlobalAveragePool", x)
    plane = need_shape(node, x)[2:]
    rows, columns = (_windows(size, out) for size, out in zip(plane, target))
    return c.b.op("MatMul", rows, c.b.op("MatMul", x, columns.T.copy()))


def _windows(size: int, out: int) -> np.ndarray:
    weights = np.zeros((out, size), np.float32)
    for i in range(out):
        lo, hi = i * size // out, -(-(i + 1) * size // out)
        weights[i, lo:hi] = 1 / (hi - lo)
    return weights


@operator("Crop")
def crop(c: Graph, node: Node, x: ir.Value, like_: ir.Value | None = None) -> ir.Value:
    """A part of the plane, of a given size or like another tensor."""
    offset = node.ints("offset", (0, 0))
    plane = need_shape(node, x)[2:]
    wanted = list(need_shape(node, like_)[2:]) if like_ is not None else node.ints("h_w")
    if node.flag("center_crop"):
        offset = [(size - want) // 2 for size, want in zip(plane, wanted)]
    ends = [start + want for start, want in zip(offset, wanted)]
    return c.b.op("Slice", x, np.array(offset), np.array(ends), np.array([2, 3]))


@operator("dot")
def dot(c: Graph, node: Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """The last axis of one with the first of the other."""
    a, b = need_rank(node, x), need_rank(node, y)
    if node.flag("transpose_a"):
        x = c.b.op("Transpose", x, perm=[*range(1, a), 0])
    if node.flag("transpose_b"):
        y = c.b.op("Transpose", y, perm=[b - 1, *range(b - 1)])
    if b <= 2:
        return c.b.op("MatMul", x, y)
    shape = c.b.op("Concat", c.b.op("Slice", c.b.op("Shape", x), np.array([0]), np.array([a - 1])),
                   c.b.op("Slice", c.b.op("Shape", y), np.array([1]), np.array([b])), axis=0)  # fmt: skip
    return c.b.op("Reshape", c.b.op("MatMul", x, c.b.op("Flatten", y, axis=1)), shape)


@operator("batch_dot", "_linalg_gemm2", "linalg_gemm2", "_npx_batch_dot")
def batch_dot(c: Graph, node: Node, x: ir.Value, y: ir.Value) -> ir.Value:
    """Products of matrices in a batch."""
    values = []
    for value, name in ((x, "transpose_a"), (y, "transpose_b")):
        rank = need_rank(node, value)
        turned = [*range(rank - 2), rank - 1, rank - 2]
        values.append(c.b.op("Transpose", value, perm=turned) if node.flag(name) else value)
    result = c.b.op("MatMul", *values)
    alpha = node.number("alpha", 1.0)
    return result if alpha == 1 else c.b.op("Mul", result, like(result, alpha))


@operator("Embedding", "_contrib_SparseEmbedding")
def embedding(c: Graph, node: Node, x: ir.Value, weight: ir.Value) -> ir.Value:
    """Rows of a table; indices come as floating point too, and beyond the table are taken as its ends."""
    index = as_type(c.b, x, np.int64)
    index = c.b.op("Clip", index, np.int64(0), np.int64(node.integer("input_dim") - 1))
    return c.b.op("Gather", weight, index, axis=0)
