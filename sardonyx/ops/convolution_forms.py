"""Convolutions as others that kernels know (without taps that see padding only, in two dimensions, column by column).

Convolutions of patches side by side are matrix products.

All are for fp32 with constant weights, and state their own order of addition: it is the same on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import LANES, Blocked, Plain, Position, Tensor
from sardonyx.ops import convolution
from sardonyx.ops.linalg import product
from sardonyx.ops.shapes import reshaped as view
from sardonyx.ops.window import Window, both, single, unflatten
from sardonyx.ops.winograd import winograd_pays

LEAST_PIXELS = 512  # of a plane for `as_product`: beside blocks 49 take 1.5 of the time, 196 as much, 784 0.8, 6272 0.7


def seen(weight: np.ndarray, place: Window) -> tuple[np.ndarray, Window]:
    """`weight` and window without the taps at their ends that lie in padding at every position.

    Wide dilations on small images have them: a 3x3 window dilated by 24 sees one pixel of a 20x20 image.
    """
    begin, cut = list(place.begin), [slice(None)] * weight.ndim
    for axis, k in enumerate(weight.shape[2:]):
        dims = (place.size[axis], place.output[axis], place.begin[axis])
        if not ix.are_known(dims) or 0 in dims[:2]:
            continue
        size, output, pad = dims
        reach = (output - 1) * place.strides[axis]
        starts = [tap * place.dilations[axis] - pad for tap in range(k)]  # of the positions that a tap sees
        inside = [tap for tap, start in enumerate(starts) if start < size and start + reach >= 0]
        first = next((tap for tap in inside if starts[tap] <= 0), None)  # kernels know no negative padding
        if first is not None:
            cut[2 + axis] = slice(first, inside[-1] + 1)
            begin[axis] = -starts[first]
    chosen = weight[tuple(cut)]
    if chosen.shape == weight.shape:
        return weight, place
    return np.ascontiguousarray(chosen), replace(place, kernel=chosen.shape[2:], begin=tuple(begin))


def another(
    ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, groups: int, shape: tuple[Dim, ...]
) -> Tensor | None:
    """The raw sums by way of another operation, where that is the faster one or the only one in kernels; or None."""
    if suits_product(x, weight, place, groups):
        return as_product(ctx, x, weight, groups, shape)
    if x.rank == 5:
        return in_two_dimensions(ctx, x, weight, place, groups, shape)
    if pays_by_columns(x.shape[0], weight, place, groups):
        return by_columns(ctx, x, weight, place, shape)
    if not x.blocked and pays_by_patches(weight, place, groups):
        return by_patches(ctx, x, weight, place, shape)
    return None


def suits_product(x: Tensor, weight: np.ndarray, place: Window, groups: int) -> bool:
    """Whether `as_product` is fastest: `x` lies in long rows, and no more outputs than inputs go into blocks later."""
    outputs, inputs = weight.shape[:2]
    pixels = ix.product(place.size)
    rows = x.buffer is not None and isinstance(x.layout, Plain) and isinstance(pixels, int) and pixels >= LEAST_PIXELS
    return rows and place == single(place.size) and inputs >= LANES and outputs <= inputs * groups


def as_product(ctx: Lowering, x: Tensor, weight: np.ndarray, groups: int, shape: tuple[Dim, ...]) -> Tensor:
    """A 1x1 convolution as W x, image by image and group by group, in the order of the other kernels."""
    outputs, inputs = weight.shape[:2]
    pixels = ix.product(shape[2:])
    planes = view(ctx, ctx.plain(x), (shape[0], groups, inputs, pixels))
    rows = ctx.constant(weight.reshape(groups, outputs // groups, inputs))
    return view(ctx, product(ctx, rows, planes), shape)


def pays_by_columns(images: Dim, weight: np.ndarray, place: Window, groups: int) -> bool:
    """Whether `by_columns` takes less than 2/3 of the multiply-adds of whole blocks of output channels."""
    outputs, inputs, *kernel = weight.shape
    if groups > 1 or len(kernel) != 2 or place.strides[1] != 1 or inputs < LANES:
        return False
    if winograd_pays(images, inputs, outputs, place):
        return False
    return 3 * -(-outputs * kernel[1] // LANES) <= 2 * kernel[1] * -(-outputs // LANES)


def by_columns(ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, shape: tuple[Dim, ...]) -> Tensor:
    """Few output channels: those of each column of taps side by side, so that blocks of 16 are full; then their sum.

    A convolution with window [KH, 1] and KW * O outputs, whose columns are shifted and added from the left. 64 -> 3
    channels, 9x9, 256x256: 112 ms become 21, where ONNX Runtime takes 133.
    """
    outputs, inputs, height, width = weight.shape
    rows = np.ascontiguousarray(weight.transpose(3, 0, 1, 2)).reshape(width * outputs, inputs, height, 1)
    column = replace(
        place, kernel=(height, 1), dilations=(place.dilations[0], 1), begin=(place.begin[0], 0),
        end=(place.end[0], 0), output=(place.output[0], place.size[1]),
    )  # fmt: skip
    sums = convolution.convolve(ctx, x, ctx.constant(rows), None, column, 1)
    ctx.materialize(sums)

    def element(i: Position) -> Expr:
        total = ex.constant(0.0, "float32")
        for k in range(width):
            at = i[3] + (k * place.dilations[1] - place.begin[1])
            inside = both(ex.index(at) >= 0, ex.index(at) < ex.index(place.size[1]))
            total = total + ex.guard(inside, sums.at((i[0], k * outputs + i[1], i[2], at)), 0)
        return total

    return ctx.lazy("float32", shape, element, sources=[sums], cost=2 * width)


def pays_by_patches(weight: np.ndarray, place: Window, groups: int) -> bool:
    """Whether windows are patches side by side, as vision transformers begin, for many output channels.

    Patches of 8, 14, 16 and 32 pixels of 224x224: 1.15, 1.28, 1.24 to 1.33 and 1.64 times as fast as `conv_first_f32`.
    """
    outputs, inputs, *kernel = weight.shape
    if groups > 1 or len(kernel) != 2 or kernel[1] < 8 or outputs < 4 * LANES:
        return False
    if inputs > convolution.FIRST_CHANNELS:
        return False
    padded = any(pad != 0 for pad in (*place.begin, *place.end))
    return tuple(place.strides) == tuple(kernel) and set(place.dilations) == {1} and not padded


def by_patches(ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, shape: tuple[Dim, ...]) -> Tensor:
    """Patches as rows, times the weights as a matrix; what comes out are rows, too, as transformers go on."""
    outputs, inputs, height, width = weight.shape
    rows, columns = place.output
    patches = ctx.lazy(
        x.dtype, (x.shape[0], rows, columns, inputs, height, width),
        lambda i: x.at((i[0], i[3], i[1] * height + i[4], i[2] * width + i[5])), sources=[x],
    )  # fmt: skip
    ctx.materialize(patches)
    assert patches.buffer is not None
    matrix = ctx.in_memory(patches.buffer, (x.shape[0], rows * columns, inputs * height * width))
    sums = product(ctx, matrix, ctx.constant(np.ascontiguousarray(weight.reshape(outputs, -1).T)))
    return ctx.lazy(x.dtype, shape, lambda i: sums.at((i[0], i[2] * columns + i[3], i[1])), sources=[sums])


def in_two_dimensions(
    ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, groups: int, shape: tuple[Dim, ...]
) -> Tensor:
    """A three-dimensional convolution by two-dimensional ones.

    A window of one row and column sees an image [depth, height * width]. A window of one depth sees an image for each
    depth, and so does every other once the depths that it sees together lie side by side as channels: 3 copies of x for
    a 3x3x3 window, which take 1 % of the time of its 64 channels, and Winograd's algorithm does the rest. Windows of
    one channel each are added up depth by depth instead.
    """
    if place.axes(1, 2) == single(place.size[1:]):
        return _along_depth(ctx, x, weight, place, groups, shape)
    depths = weight.shape[2]
    if weight.shape[1] == 1 and groups == weight.shape[0] and depths > 1:
        parts = [_images(ctx, x, weight[:, :, k : k + 1], place, groups, shape, k) for k in range(depths)]
        for part in parts:
            ctx.materialize(part)
        return ctx.lazy("float32", shape, lambda i: _sum([part.at(i) for part in parts]), sources=parts, cost=depths)
    return _images(ctx, x, weight, place, groups, shape, 0)


def _sum(values: Sequence[Expr]) -> Expr:
    first, *others = values
    for value in others:
        first = first + value
    return first


def _along_depth(
    ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, groups: int, shape: tuple[Dim, ...]
) -> Tensor:
    window = place.axes(0).beside(ix.product(place.size[1:]))
    flat = reshaped(ctx, x, (*x.shape[:2], *window.size))
    y = convolution.convolve(ctx, flat, ctx.constant(weight[..., 0]), None, window, groups)
    return reshaped(ctx, y, shape)


def _images(
    ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, groups: int, shape: tuple[Dim, ...], skipped: int
) -> Tensor:
    """One image for each depth of the output; the window begins `skipped` taps later."""
    ctx.cheap(x, limit=4)
    images = depths_as_channels(ctx, x, weight.shape, place, groups, ex.constant(0.0, "float32"), skipped)
    flat = ctx.constant(taps_as_channels(weight))
    return as_volume(ctx, convolution.convolve(ctx, images, flat, None, place.axes(1, 2), groups), shape)


def depths_as_channels(
    ctx: Lowering, x: Tensor, weight: Sequence[int], place: Window, groups: int, padding: Expr, skipped: int = 0
) -> Tensor:
    """`x` [N, C, D, H, W] as [N * depths of the output, C * KD, H, W]: the depths that a window sees, side by side.

    Channels are in groups, in depths, in channels of the group, as `taps_as_channels` orders weights [O, C / groups,
    KD, KH, KW], whose shape is `weight`.
    """
    _, inputs, depths = weight[:3]
    count, step, dilation = place.output[0], place.strides[0], place.dilations[0]

    def element(i: Position) -> Expr:
        image, depth = ix.floordiv(i[0], count), ix.mod(i[0], count)
        group, rest = ix.floordiv(i[1], depths * inputs), ix.mod(i[1], depths * inputs)
        channel = group * inputs + ix.mod(rest, inputs)
        at = depth * step + (ix.floordiv(rest, inputs) + skipped) * dilation - place.begin[0]
        inside = both(ex.index(at) >= 0, ex.index(at) < ex.index(place.size[0]))
        return ex.guard(inside, x.at((image, channel, at, *i[2:])), padding)

    return ctx.lazy(x.dtype, (x.shape[0] * count, groups * depths * inputs, *place.size[1:]), element, sources=[x])


def taps_as_channels(weight: np.ndarray) -> np.ndarray:
    """[O, C / groups, KD, KH, KW] as [O, KD * C / groups, KH, KW]."""
    outputs, inputs, depths = weight.shape[:3]
    return np.ascontiguousarray(weight.swapaxes(1, 2)).reshape(outputs, depths * inputs, *weight.shape[3:])


def as_volume(ctx: Lowering, y: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """Images [N * D, C, H, W] as the volume [N, C, D, H, W]."""
    result = ctx.lazy(y.dtype, shape, lambda i: y.at((i[0] * shape[2] + i[2], i[1], *i[3:])), sources=[y])
    result.prefers = y.prefers
    return result


def reshaped(ctx: Lowering, x: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    """`x` [N, C, ...] with other spatial axes in the same order; where it lies in blocks, they are not copied."""
    if x.buffer is not None and isinstance(x.layout, Blocked):
        return ctx.in_memory(x.buffer, shape, replace(x.layout, shape=shape))

    def element(i: Position) -> Expr:
        return x.at((*i[:2], *unflatten(Plain(shape[2:]).offset(i[2:]), x.shape[2:])))

    result = ctx.lazy(x.dtype, shape, element, sources=[x])
    result.prefers = x.prefers
    return result
