"""Operators that add, repeat, crop or rearrange whole runs of elements."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import ChannelsLast, Plain, Position, Tensor
from sardonyx.ops.binary import broadcast, broadcast_shape
from sardonyx.ops.convolution_int8 import spread_bytes
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import are_known, axes_of, axis_of, by_axis, dims, integers, moved


def within(i: Dim, extent: Dim) -> Expr:
    """True where `i` is a position along an axis of `extent`."""
    return ex.compare("ge", ex.index(i), 0) & ex.compare("lt", ex.index(i), ex.index(extent))


def all_of(conditions: Sequence[Expr]) -> Expr:
    """The conjunction, known conditions left out."""
    unknown = [c for c in conditions if c.op != "const" or not c.value]
    return functools.reduce(lambda a, b: a & b, unknown) if unknown else ex.constant(True, "bool")


def _reflect(i: Dim, extent: Dim) -> Dim:
    period = ix.imax(2 * extent - 2, 1)
    i = ix.mod(i, period)
    return ix.imin(i, 2 * extent - 2 - i)


MIRRORS = {
    "reflect": _reflect,
    "edge": lambda i, extent: ix.imin(ix.imax(i, 0), extent - 1),
    "wrap": lambda i, extent: ix.mod(i, ix.imax(extent, 1)),
}


def padded(
    ctx: Lowering, x: Tensor, before: Sequence[Dim], after: Sequence[Dim], mode: str, fill: Expr | None = None
) -> Tensor:
    """`x` with elements added (or, where negative, taken away) at both ends of each axis."""
    shape: list[Dim] = []
    for dim, low, high in zip(x.shape, before, after, strict=True):
        size = dim + low + high
        if not ix.provably_nonnegative(size):
            ctx.check(ex.index(size) >= 0, "shape", "more elements are cut away than there are")
        shape.append(size)
    if mode == "constant":
        value = fill or ex.constant(0, x.dtype)

        def element(position: Position) -> Expr:
            own = tuple(i - low for i, low in zip(position, before, strict=True))
            inside = all_of([within(i, dim) for i, dim in zip(own, x.shape, strict=True)])
            return ex.guard(inside, x.at(own), value)

        view = ctx.lazy(x.dtype, shape, element, sources=[x], cost=2)
        view.prefers = Plain
        return view
    if mode not in MIRRORS:
        raise errors.ModelError(f"mode '{mode}'", node=ctx.node, operator=ctx.operator)
    # What is mirrored is what is left when both ends have been cut.
    cut = [ix.imax(-low, 0) for low in before]
    left = [d - low - ix.imax(-high, 0) for d, low, high in zip(x.shape, cut, after, strict=True)]
    for dim, size in zip(left, shape, strict=True):
        if not isinstance(dim, int) or (dim <= 0 and size != 0):
            fits = ex.index(dim).equal(ex.index(size)) | (ex.index(dim) > 0)
            ctx.check(fits, "shape", f"an empty axis can't be padded by {mode}")
    ctx.cheap(x)

    def mirrored(position: Position) -> Position:
        parts = zip(position, before, after, cut, left, strict=True)
        return tuple(
            i if low == high == 0 else MIRRORS[mode](i - ix.imax(low, 0), dim) + first
            for i, low, high, first, dim in parts
        )

    return moved(ctx, x, shape, mirrored)


def _pad(ctx: Lowering, node: Node, x: Tensor, pads: Sequence[Dim], axes: Sequence[int], fill: Expr | None) -> Tensor:
    if len(pads) != 2 * len(axes):
        raise errors.ModelError(f"{len(pads)} pads for {len(axes)} axes", node=ctx.node, operator=ctx.operator)
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = pads[k], pads[len(axes) + k]
    return padded(ctx, x, before, after, node.attr("mode", "constant"), fill)


@operator("Pad", since=11)
def pad(
    ctx: Lowering,
    node: Node,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    """More elements at both ends of each axis: a constant, or mirrored, repeated or wrapped ones."""
    ctx.native(x, value)
    fill = None if value is None else ex.cast(ctx.cheap(value).scalar(), x.dtype)
    amounts = ctx.elements(pads)
    if axes is not None and not are_known(ctx, axes):
        named = ctx.elements(axes)
        half = len(named)
        amounts = [v for side in by_axis(named, (amounts[:half], amounts[half:]), (0, 0), x.rank) for v in side]
        axes = None
    wanted = range(x.rank) if axes is None else axes_of(ctx, integers(ctx, axes, "axes"), x.rank)
    return _pad(ctx, node, x, [ctx.dim(amount, lower=None) for amount in amounts], wanted, fill)


@operator("Pad", since=1)
def pad_1(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Pad with everything as attributes."""
    ctx.native(x)
    pads = node.attr("pads", node.attr("paddings", []))
    fill = ex.constant(node.attr("value", 0.0), x.dtype)
    return _pad(ctx, node, x, pads, range(x.rank), fill)


@operator("CenterCropPad", since=18)
def center_crop_pad(ctx: Lowering, node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Each axis cut or padded with zeros to the wanted size, both ends alike."""
    ctx.native(x)
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    sizes = dims(ctx, shape)
    axes = axes_of(ctx, node.attr("axes", list(range(x.rank))), x.rank)
    for axis, wanted in zip(axes, sizes, strict=False):
        more = wanted - x.shape[axis]
        low = ix.floordiv(ix.imax(more, 0), 2) - ix.floordiv(ix.imax(-more, 0), 2)
        before[axis], after[axis] = low, more - low
    return padded(ctx, x, before, after, "constant")


@operator("Expand", since=8)
def expand(ctx: Lowering, node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcast together with `shape`."""
    ctx.native(x)
    wanted = broadcast_shape(ctx, [x.shape, dims(ctx, shape)])
    view = ctx.lazy(x.dtype, wanted, broadcast(ctx, x, wanted), sources=[x])
    view.prefers = x.prefers if view.shape == x.shape else Plain
    return view


@operator("Tile", since=6)
def tile(ctx: Lowering, node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    """Copies side by side, `repeats` of them along each axis."""
    ctx.native(x)
    return _tiled(ctx, x, dims(ctx, repeats))


@operator("Tile", since=1)
def tile_1(ctx: Lowering, node: Node, x: Tensor, tiles: Tensor, axis: Tensor) -> Tensor:
    """Tile along one axis."""
    ctx.native(x)
    (along,) = integers(ctx, axis, "an axis")
    (count,) = dims(ctx, tiles)
    return _tiled(ctx, x, [count if k == axis_of(ctx, along, x.rank) else 1 for k in range(x.rank)])


def _tiled(ctx: Lowering, x: Tensor, repeats: Sequence[Dim]) -> Tensor:
    if len(repeats) != x.rank:
        raise errors.ShapeError(f"{len(repeats)} repeats for rank {x.rank}", node=ctx.node, operator=ctx.operator)
    if any(count != 1 for count in repeats):
        ctx.cheap(x)
    shape = [dim * count for dim, count in zip(x.shape, repeats, strict=True)]

    def origin(position: Position) -> Position:
        parts = zip(position, x.shape, repeats, strict=True)
        return tuple(i if count == 1 else ix.mod(i, dim) for i, dim, count in parts)

    return moved(ctx, x, shape, origin)


def _image(ctx: Lowering, x: Tensor) -> None:
    ctx.native(x)
    if x.rank != 4:
        raise errors.ShapeError(f"rank {x.rank} where NCHW is needed", node=ctx.node, operator=ctx.operator)


def _exact(ctx: Lowering, x: Dim, divisor: int, what: str) -> Dim:
    """``x / divisor``, which must leave no rest."""
    ctx.equal_dims(ix.mod(x, divisor), 0, f"{what} is no multiple of {divisor}; rest")
    return ix.floordiv(x, divisor)


@operator("DepthToSpace")
def depth_to_space(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Channels spread over blocks of pixels."""
    _image(ctx, x)
    n, c, h, w = x.shape
    b = node.attr("blocksize")
    depth = _exact(ctx, c, b * b, "the number of channels")
    column_row = node.attr("mode", "DCR") == "CRD"
    spread = None if column_row else spread_bytes(ctx, x, b)
    if spread is not None:
        return spread

    def origin(position: Position) -> Position:
        image, channel, y, x_ = position
        block = ix.mod(y, b) * b + ix.mod(x_, b)
        own = channel * (b * b) + block if column_row else block * depth + channel
        return image, own, ix.floordiv(y, b), ix.floordiv(x_, b)

    view = moved(ctx, x, (n, depth, h * b, w * b), origin)
    stay = not column_row and x.prefers is ChannelsLast  # whether channels stay neighbours
    view.prefers = ChannelsLast if stay else Plain
    return view


@operator("SpaceToDepth")
def space_to_depth(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Blocks of pixels gathered into channels."""
    _image(ctx, x)
    n, c, h, w = x.shape
    b = node.attr("blocksize")
    high, wide = _exact(ctx, h, b, "the height"), _exact(ctx, w, b, "the width")
    column_row = node.attr("mode", "DCR") == "CRD"

    def origin(position: Position) -> Position:
        image, channel, y, x_ = position
        divide, rest = (ix.mod, ix.floordiv) if column_row else (ix.floordiv, ix.mod)
        size = b * b if column_row else c
        block = divide(channel, size)
        return image, rest(channel, size), y * b + ix.floordiv(block, b), x_ * b + ix.mod(block, b)

    return moved(ctx, x, (n, c * b * b, high, wide), origin)


@operator("ReverseSequence", since=10)
def reverse_sequence(ctx: Lowering, node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    """The first ``lengths[b]`` steps of each sequence b in reverse order."""
    ctx.native(x, lengths)
    time = axis_of(ctx, node.attr("time_axis", 0), x.rank)
    batch = axis_of(ctx, node.attr("batch_axis", 1), x.rank)
    ctx.equal_dims(lengths.shape[0], x.shape[batch], "one length for each sequence")
    ctx.cheap(lengths)
    ctx.cheap(x)

    def element(position: Position) -> Expr:
        length = ex.cast(lengths.at((position[batch],)), "int64")
        step = ex.index(position[time])
        own = ex.clamped_index(ex.select(step < length, length - 1 - step, step), x.shape[time])
        return x.at(tuple(own if axis == time else i for axis, i in enumerate(position)))

    return ctx.lazy(x.dtype, x.shape, element)
