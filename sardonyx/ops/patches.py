"""Images and the patches that windows cut from them: Col2Im, DeformConv."""

from __future__ import annotations

import math

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Reduce, Store
from sardonyx.compiler.tensor import Plain, Position, Tensor, variables
from sardonyx.ops.linalg import product
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import accumulator
from sardonyx.ops.registry import operator
from sardonyx.ops.sampling import Sampler
from sardonyx.ops.shapes import dims, reshaped
from sardonyx.ops.window import Window, both, window


@operator("Col2Im", since=18)
def col2im(ctx: Lowering, node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Columns [N, C * taps, positions] put back where windows took them from; where they overlap, they add up."""
    ctx.native(x)
    size, kernel = dims(ctx, image), dims(ctx, block)
    place = window(ctx, node, size, kernel)
    ctx.equal_dims(x.shape[2], ix.product(place.output), "windows and columns")
    taps = ix.product(kernel)
    channels = ix.floordiv(x.shape[1], taps)
    ctx.equal_dims(x.shape[1], channels * taps, "channels times taps of a window")
    ctx.cheap(x)
    shape, wide = (x.shape[0], channels, *size), accumulator(x.dtype)
    outer, inner = variables(shape), variables(kernel, "k")
    source, inside = _window_over(place, outer[2:], inner)
    value = x.at((outer[0], outer[1] * taps + Plain(tuple(kernel)).offset(inner), Plain(place.output).offset(source)))
    total = Reduce("total", "sum", ex.guard(inside, ex.cast(value, wide), 0), inner, wide)
    result = ctx.temporary(x.dtype, ix.product(shape))
    ctx.nest(outer, [total, Store(result, Plain(shape).offset(outer), ex.cast(ex.local("total", wide), x.dtype))])
    return ctx.in_memory(result, shape)


def _window_over(place: Window, pixel: Position, tap: Position) -> tuple[Position, Expr]:
    """Position of the window whose `tap` lies on `pixel`, and whether there is one."""
    found: list[Dim] = []
    inside = ex.constant(True, "bool")
    for axis, (p, k) in enumerate(zip(pixel, tap, strict=True)):
        start, stride = p + place.begin[axis] - k * place.dilations[axis], place.strides[axis]
        position = ix.floordiv(start, stride)
        found.append(position)
        fits = both(ex.index(position) >= 0, ex.index(position) < ex.index(place.output[axis]))
        inside = both(inside, both(fits, ex.index(ix.mod(start, stride)).equal(0)))
    return tuple(found), inside


@operator("DeformConv", since=19)
def deform_conv(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, offset: Tensor, bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A convolution whose taps are moved by `offset`, read between pixels (zero outside) and weighed by `mask`."""
    ctx.native(x, w, offset, bias, mask)
    ctx.requires(is_float(x.dtype), f"deformed convolution of {x.dtype}")
    place = window(ctx, node, x.shape[2:], w.shape[2:])
    axes, groups, parts = len(place.kernel), node.attr("group", 1), node.attr("offset_group", 1)
    taps, pixels = ix.product(place.kernel), ix.product(place.output)
    ctx.equal_dims(x.shape[1], w.shape[1] * groups, "input channels do not fit the weights")
    ctx.equal_dims(offset.shape[1], parts * taps * axes, "offsets of each tap")
    for given, wanted in zip(offset.shape[2:], place.output, strict=True):
        ctx.equal_dims(given, wanted, "offsets of each output pixel")
    if any(isinstance(dim, int) and dim % count for dim, count in
           ((x.shape[1], parts), (w.shape[0], groups))):  # fmt: skip
        raise errors.ModelError("channels can't be split into the groups", node=ctx.node, operator=ctx.operator)
    columns = _sampled(ctx, x, offset, mask, place, parts)
    depth = w.shape[1] * taps
    rows = reshaped(ctx, w, (groups, ix.floordiv(w.shape[0], groups), depth))
    raw = product(ctx, rows, reshaped(ctx, columns, (x.shape[0], groups, depth, pixels)))
    result = reshaped(ctx, raw, (x.shape[0], w.shape[0], *place.output))
    if bias is None:
        return result
    ctx.cheap(bias)
    return ctx.lazy(x.dtype, result.shape, lambda i: result.at(i) + bias.at((i[1],)), sources=[result], cost=1)


def _sampled(ctx: Lowering, x: Tensor, offset: Tensor, mask: Tensor | None, place: Window, parts: int) -> Tensor:
    """What each tap of each window reads, [N, C, taps..., pixels...], in memory."""
    x, wide, axes = ctx.plain(x), accumulator(x.dtype), len(place.kernel)
    for other in (offset, mask):
        if other is not None:
            ctx.cheap(other)
    sampler, share, taps = Sampler("linear", "zeros", True), ix.floordiv(x.shape[1], parts), ix.product(place.kernel)

    def element(i: Position) -> Expr:
        tap, pixel = i[2 : 2 + axes], i[2 + axes :]
        number = ix.floordiv(i[1], share) * taps + Plain(place.kernel).offset(tap)
        where, _ = place.tap(pixel, tap)
        moved = [ex.cast(ex.index(p), wide) + ex.cast(offset.at((i[0], number * axes + axis, *pixel)), wide)
                 for axis, p in enumerate(where)]  # fmt: skip
        read = sampler.between(x, i[:2], moved, wide)
        if mask is not None:
            read = read * ex.cast(mask.at((i[0], number, *pixel)), wide)
        return ex.cast(read, x.dtype)

    shape = (*x.shape[:2], *place.kernel, *place.output)
    return ctx.plain(ctx.lazy(x.dtype, shape, element, cost=20 + 8 * math.prod([2] * axes)))
