"""Average pooling of quantised tensors: exact sums of bytes in NHWC, then one scale, so that no float is in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Position, Tensor
from sardonyx.ops.contrib import MS, channels_first, channels_last, window_attributes
from sardonyx.ops.contrib_quantized import like, to_float
from sardonyx.ops.convolution_int8 import suits_bytes, sums_of_bytes
from sardonyx.ops.node import Node
from sardonyx.ops.pooling import taps_inside, whole_window, window_of
from sardonyx.ops.quantization import factor, is_single, rounded
from sardonyx.ops.registry import operator
from sardonyx.ops.standard import standard
from sardonyx.ops.window import Window


@operator("QLinearAveragePool", domain=MS)
def qlinear_average_pool(
    ctx: Lowering, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None, y_scale: Tensor,
    y_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The mean of each window of a quantised tensor, quantised again; padding is 0, not the zero point."""
    image = channels_first(ctx, x) if node.attr("channels_last", 0) else x
    place = window_of(ctx, node, image)
    if not _suits(image, place, scale, y_scale):
        floats = standard(ctx, node, "AveragePool", to_float(ctx, image, scale, zero), **window_attributes(node))
        return _as_given(ctx, node, like(ctx, floats, y_scale, y_zero, x))
    padded = bool(node.attr("count_include_pad", 0))
    even = not node.attr("ceil_mode", 0) and (padded or all(ix.const(p) == 0 for p in (*place.begin, *place.end)))

    def count(i: Position) -> Dim:
        counts = (taps_inside(place, axis, p, padded) for axis, p in enumerate(i[2:]))
        return ix.product(place.kernel if even else tuple(counts))

    means = _mean(ctx, image, (scale, zero), (y_scale, y_zero), place, None if even else count)
    return _as_given(ctx, node, means)


@operator("QLinearGlobalAveragePool", domain=MS)
def qlinear_global_average_pool(
    ctx: Lowering, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None, y_scale: Tensor,
    y_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The mean over all spatial positions of a quantised tensor, quantised again."""
    image = channels_first(ctx, x) if node.attr("channels_last", 0) else x
    place = whole_window(image)
    if _suits(image, place, scale, y_scale):
        return _as_given(ctx, node, _mean(ctx, image, (scale, zero), (y_scale, y_zero), place, None))
    floats = standard(ctx, node, "GlobalAveragePool", to_float(ctx, image, scale, zero))
    return _as_given(ctx, node, like(ctx, floats, y_scale, y_zero, x))


def _suits(x: Tensor, place: Window, *scales: Tensor) -> bool:
    return suits_bytes(x, place) and all(is_single(scale) for scale in scales)


def _as_given(ctx: Lowering, node: Node, y: Tensor) -> Tensor:
    return channels_last(ctx, y) if node.attr("channels_last", 0) else y


def _mean(
    ctx: Lowering, x: Tensor, own: tuple[Tensor, Tensor | None], wanted: tuple[Tensor, Tensor | None], place: Window,
    count: Callable[[Position], Dim] | None,
) -> Tensor:  # fmt: skip
    """``saturate(round(sum * scale / (count * y_scale)) + zero)``; without `count` it is that of all taps.

    What AveragePool gives between DequantizeLinear and QuantizeLinear, but for sums within rounding of the middle
    between two steps.
    """
    sums = sums_of_bytes(ctx, x, own[1], place)
    zero = None if wanted[1] is None else ctx.cheap(wanted[1]).scalar()
    every = ix.product(place.kernel)
    known = ix.const(every) if count is None else 1
    ratio = factor(ctx, lambda a, b: a / (b * np.float32(known or 1)), own[0], wanted[0])

    def element(i: Position) -> Expr:
        value = ex.cast(sums.at(i), "float32") * ratio.scalar()
        if count is not None or known is None:
            value = value / ex.cast(ex.index(every if count is None else count(i)), "float32")
        return rounded(value, zero, x.dtype)

    return ctx.lazy(x.dtype, sums.shape, element, sources=[sums], cost=6)
