"""Operators that move elements: index maps that cost nothing until somebody needs the result in memory."""

from __future__ import annotations

from collections.abc import Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Buffer, Nest, Store
from sardonyx.compiler.tensor import LANES, Blocked, ChannelsLast, Layout, Plain, Position, Tensor, preferred
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import (
    are_known,
    axes_of,
    axis_of,
    by_axis,
    dims,
    integers,
    is_listed,
    moved,
    names_axis,
    reshaped,
    vector,
)

FAR = 1 << 31  # starts and ends beyond this mean "as far as there is something"


# Reshape and its relatives.


def target_shape(ctx: Lowering, x: Tensor, wanted: Sequence[Expr], allowzero: bool) -> list[Dim]:
    """The dims that Reshape asks for: 0 copies an input dim, one -1 takes what is left; checked if need be."""
    raw = [None if dim is None else ctx.sized(dim) for dim in (ex.as_index(ex.cast(v, "int64")) for v in wanted)]
    unknown = [number for number, dim in enumerate(raw) if dim is None or not _settled(dim)]
    shape: list[Dim] = []
    for axis, (dim, value) in enumerate(zip(raw, wanted, strict=True)):
        if dim == 0 and not allowzero:
            ctx.check(ex.constant(axis < x.rank, "bool"), "shape", f"dim {axis} is 0 but the input has rank {x.rank}")
            dim = x.shape[axis]
        elif axis in unknown:
            dim = ctx.dim(value, lower=None)
            if not allowzero and axis < x.rank:
                dim = ctx.dim(ex.select(ex.index(dim).equal(0), ex.index(x.shape[axis]), ex.index(dim)), lower=-1)
        assert dim is not None
        shape.append(dim)
    return _inferred(ctx, x, shape, unknown)


def _settled(dim: Dim) -> bool:
    return isinstance(dim, int) or ix.provably_nonnegative(dim)


def _inferred(ctx: Lowering, x: Tensor, shape: list[Dim], unknown: list[int]) -> list[Dim]:
    """`shape` with its -1 replaced, and the number of elements checked."""
    free = [axis for axis, dim in enumerate(shape) if dim == -1]
    if len(free) > 1:
        raise errors.ShapeError("more than one dim is -1", node=ctx.node, operator=ctx.operator)
    if free or unknown:
        fixed = [dim for axis, dim in enumerate(shape) if axis not in (*free, *unknown)]
        for axis in unknown:  # the -1 may be among those that only the run knows
            dim = ex.index(shape[axis])
            fixed.append(shape[axis] if _settled(shape[axis]) else ctx.dim(ex.select(dim < 0, 1, dim)))
        rest = _quotient(ctx, x.shape, fixed)
        for axis in free:
            shape[axis] = rest
        for axis in unknown:
            dim = ex.index(shape[axis])
            shape[axis] = ctx.dim(ex.select(dim < 0, ex.index(rest), dim))
    total = ix.product(shape)
    if total != x.size:
        same = ex.index(total).equal(ex.index(x.size))
        ctx.check(same, "shape", f"{list(x.shape)} has another number of elements than {shape}")
    return shape


def _quotient(ctx: Lowering, whole: Sequence[Dim], fixed: Sequence[Dim]) -> Dim:
    """The product of the dims `whole` divided by that of `fixed`; 0 where that is 0."""
    if 0 in fixed:
        return 0
    left, right = list(whole), []
    for dim in fixed:
        if dim in left:
            left.remove(dim)  # cancelled: s * 4 / s is 4 for any s but 0, and then both sides are 0
        else:
            right.append(dim)
    top, bottom = ix.product(left), ix.product(right)
    if isinstance(bottom, int):
        return ctx.sized(ix.floordiv(top, bottom))
    quotient = ix.floordiv(top, bottom)
    if quotient * bottom == top:
        return quotient
    return ctx.dim(ex.binary("div", ex.index(top), ex.index(ix.imax(bottom, 1))))


@operator("Reshape", since=5)
def reshape(ctx: Lowering, node: Node, x: Tensor, shape: Tensor) -> Tensor:
    """The same elements, row by row, in another shape."""
    ctx.native(x)
    return reshaped(ctx, x, target_shape(ctx, x, ctx.elements(shape), bool(node.attr("allowzero", 0))))


@operator("Reshape", since=1)
def reshape_1(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Reshape with the shape as an attribute."""
    ctx.native(x)
    wanted = [ex.constant(dim, "int64") for dim in node.attr("shape", [])]
    return reshaped(ctx, x, target_shape(ctx, x, wanted, allowzero=False))


@operator("Flatten")
def flatten(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """A matrix: the axes before `axis` are its rows."""
    ctx.native(x)
    axis = node.attr("axis", 1)
    axis = axis if axis == x.rank else axis_of(ctx, axis, x.rank)
    return reshaped(ctx, x, (ix.product(x.shape[:axis]), ix.product(x.shape[axis:])))


def _squeeze(ctx: Lowering, x: Tensor, axes: Sequence[int] | None) -> Tensor:
    ctx.native(x)
    if axes is None:
        ones = [ctx.assume(ex.index(dim).equal(1), f"axis {axis} is 1", False) for axis, dim in enumerate(x.shape)]
        axes = [axis for axis, one in enumerate(ones) if one]
    gone = axes_of(ctx, axes, x.rank)
    for axis in gone:
        ctx.equal_dims(x.shape[axis], 1, f"axis {axis} is squeezed but not 1")
    kept = [axis for axis in range(x.rank) if axis not in gone]
    shape = [x.shape[axis] for axis in kept]
    if x.buffer is not None or x.array is not None:
        return reshaped(ctx, x, shape)

    def origin(position: Position) -> Position:
        found: list[Dim] = [0] * x.rank
        for axis, i in zip(kept, position, strict=True):
            found[axis] = i
        return tuple(found)

    return moved(ctx, x, shape, origin)


def _by_symbols(ctx: Lowering, x: Tensor, shape: Sequence[Expr]) -> Tensor:
    """`x` in memory as a tensor of a shape that only the run knows."""
    ctx.native(x)
    found = [ctx.dim(value) for value in shape]
    same = ex.index(ix.product(found)).equal(ex.index(x.size))
    ctx.check(same, "shape", "axes that do not fit")
    return reshaped(ctx, ctx.plain(x), found)


def _squeeze_by_symbols(ctx: Lowering, x: Tensor, axes: Sequence[Expr]) -> Tensor:
    """Output axis j is the j-th input axis that `axes` does not name."""
    one, zero = ex.constant(1, "int64"), ex.constant(0, "int64")
    shape = [one] * (x.rank - len(axes))
    before = zero
    for k, dim in enumerate(x.shape):
        kept = one
        for axis in axes:
            kept = ex.select(names_axis(axis, k, x.rank), zero, kept)
        for j, so_far in enumerate(shape):
            shape[j] = ex.select(kept.equal(1) & before.equal(j), ex.index(dim), so_far)
        before = before + kept
    return _by_symbols(ctx, x, shape)


def _unsqueeze_by_symbols(ctx: Lowering, x: Tensor, axes: Sequence[Expr]) -> Tensor:
    """Output axis k is 1 where `axes` names it, else the next input axis."""
    one, zero = ex.constant(1, "int64"), ex.constant(0, "int64")
    rank = x.rank + len(axes)
    shape, used = [], zero
    for k in range(rank):
        own = zero
        for j, dim in enumerate(x.shape):
            own = ex.select(used.equal(j), ex.index(dim), own)
        taken = one
        for axis in axes:
            new = names_axis(axis, k, rank)
            own, taken = ex.select(new, one, own), ex.select(new, zero, taken)
        shape.append(own)
        used = used + taken
    return _by_symbols(ctx, x, shape)


@operator("Squeeze", since=13)
def squeeze(ctx: Lowering, node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Without the axes of size 1 (those given, or all)."""
    if axes is not None and not are_known(ctx, axes):
        return _squeeze_by_symbols(ctx, x, ctx.elements(axes))
    return _squeeze(ctx, x, None if axes is None else integers(ctx, axes, "axes"))


@operator("Squeeze", since=1)
def squeeze_1(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Squeeze with the axes as an attribute."""
    return _squeeze(ctx, x, node.attr("axes"))


def _unsqueeze(ctx: Lowering, x: Tensor, axes: Sequence[int]) -> Tensor:
    ctx.native(x)
    new = axes_of(ctx, axes, x.rank + len(axes))
    own = iter(x.shape)
    shape = [1 if axis in new else next(own) for axis in range(x.rank + len(axes))]
    if x.buffer is not None or x.array is not None:
        return reshaped(ctx, x, shape)
    return moved(ctx, x, shape, lambda i: tuple(p for axis, p in enumerate(i) if axis not in new))


@operator("Unsqueeze", since=13)
def unsqueeze(ctx: Lowering, node: Node, x: Tensor, axes: Tensor) -> Tensor:
    """With new axes of size 1, at the places given by `axes` in the result."""
    if not are_known(ctx, axes):
        return _unsqueeze_by_symbols(ctx, x, ctx.elements(axes))
    return _unsqueeze(ctx, x, integers(ctx, axes, "axes"))


@operator("Unsqueeze", since=1)
def unsqueeze_1(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Unsqueeze with the axes as an attribute."""
    return _unsqueeze(ctx, x, node.attr("axes"))


@operator("Transpose")
def transpose(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Axis k of the result is axis ``perm[k]`` of the input."""
    ctx.native(x)
    perm = axes_of(ctx, node.attr("perm", list(range(x.rank))[::-1]), x.rank)
    if len(perm) != x.rank:
        raise errors.ModelError(f"perm {perm} for rank {x.rank}", node=ctx.node, operator=ctx.operator)
    if perm == sorted(perm):
        return x
    wide = [axis for axis in perm if x.shape[axis] != 1]
    if wide == sorted(wide) and x.prefers is Plain:  # only axes of extent 1 move
        return reshaped(ctx, x, [x.shape[axis] for axis in perm])
    back = [perm.index(axis) for axis in range(x.rank)]
    return moved(ctx, x, [x.shape[axis] for axis in perm], lambda i: tuple(i[axis] for axis in back))


# Joining and taking apart.


@operator("Concat", since=4)
def concat(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
    """The inputs one after the other along `axis`, each stored into its part of one buffer."""
    axis = axis_of(ctx, node.attr("axis", 0), inputs[0].rank)
    return joined(ctx, inputs, axis, ctx.room(node.ir.outputs[0]))


@operator("Concat", since=1)
def concat_1(ctx: Lowering, node: Node, *inputs: Tensor) -> Tensor:
    """Concat, along axis 1 unless said otherwise."""
    return joined(ctx, inputs, axis_of(ctx, node.attr("axis", 1), inputs[0].rank))


def joined(ctx: Lowering, inputs: Sequence[Tensor], axis: int, room: tuple[Buffer, Layout] | None = None) -> Tensor:
    """The concatenation of `inputs` along `axis`, in `room` if given: what lies there already is not copied."""
    ctx.native(*inputs)
    shape = _joined_shape(ctx, inputs, axis)
    if all(is_listed(x) for x in inputs):
        return vector(ctx, [value for x in inputs for value in ctx.elements(x)], inputs[0].dtype)
    inputs = [x for x in inputs if x.shape[axis] != 0] or list(inputs)
    if len(inputs) == 1 and room is None:
        return inputs[0]
    layout = _joint_layout(inputs, axis)(shape)
    if room is None or room[1].shape != shape or room[0].dtype != inputs[0].dtype:
        room = ctx.temporary(inputs[0].dtype, layout.size()), layout
    buffer, layout = room
    start: Dim = 0
    for x in inputs:
        if x.buffer is buffer and x.layout == layout.part(axis, start, x.shape[axis]):
            start = start + x.shape[axis]
            continue
        part: Layout = type(layout)(x.shape)
        loops, position, inside = part.domain()
        place = tuple(start + i if k == axis else i for k, i in enumerate(position))
        value = ex.guard(inside, x.at(position), ex.constant(0, x.dtype))
        ctx.emit_nest(Nest(loops, [Store(buffer, layout.offset(place), value)], node=ctx.node, operator=ctx.operator))
        start = start + x.shape[axis]
    return ctx.in_memory(buffer, shape, layout)


def _joined_shape(ctx: Lowering, inputs: Sequence[Tensor], axis: int) -> tuple[Dim, ...]:
    shape = list(inputs[0].shape)
    for x in inputs[1:]:
        if x.rank != len(shape):
            problem = f"ranks {len(shape)} and {x.rank} are concatenated"
            raise errors.ShapeError(problem, node=ctx.node, operator=ctx.operator)
        for k, dim in enumerate(x.shape):
            shape[k] = shape[k] + dim if k == axis else ctx.equal_dims(shape[k], dim, f"concatenated dims {k} differ")
    return tuple(shape)


def _joint_layout(inputs: Sequence[Tensor], axis: int) -> type[Layout]:
    """The layout of the result: that of the inputs, but for channel blocks each has to begin at the start of one."""
    if inputs[0].rank < 3:
        return Plain
    layout = preferred(inputs[0].dtype, (x.prefers for x in inputs))
    channels = [x.shape[1] for x in inputs[:-1]]
    fits = axis != 1 or all(isinstance(c, int) and c % LANES == 0 for c in channels)
    return Plain if layout is Blocked and not fits else layout


def part_of(ctx: Lowering, x: Tensor, axis: int, start: Dim, size: Dim, step: int = 1) -> Tensor:
    """`size` elements of `x` along `axis`, from `start`, every `step`."""
    if x.buffer is not None and not isinstance(x.layout, Plain | None) and step == 1 and _is_part(x, axis, start, size):
        return ctx.in_memory(x.buffer, x.layout.part(axis, start, size).shape, x.layout.part(axis, start, size))
    shape = [size if k == axis else dim for k, dim in enumerate(x.shape)]
    return moved(ctx, x, shape, lambda i: tuple(start + p * step if k == axis else p for k, p in enumerate(i)))


def _is_part(x: Tensor, axis: int, start: Dim, size: Dim) -> bool:
    """True for whole images, and for channels: of blocks from the start of one to the end of one."""
    if axis != 1 or isinstance(x.layout, ChannelsLast):
        return axis < 2
    if not isinstance(start, int) or not isinstance(size, int) or start % LANES:
        return False
    return size > 0 and (size % LANES == 0 or start + size == x.shape[1])


def _split(ctx: Lowering, node: Node, x: Tensor, sizes: Sequence[Dim] | None) -> tuple[Tensor, ...]:
    ctx.native(x)
    axis = axis_of(ctx, node.attr("axis", 0), x.rank)
    extent, count = x.shape[axis], len(node.outputs)
    if sizes is None:
        chunk = ctx.sized(ix.ceildiv(extent, count))
        sizes = [ctx.sized(ix.imin(chunk, ix.imax(extent - chunk * k, 0))) for k in range(count)]
        if isinstance(extent, int) and extent % count and "num_outputs" not in node.ir.attributes:
            problem = f"{extent} elements in {count} equal parts"
            raise errors.ShapeError(problem, node=ctx.node, operator=ctx.operator)
    else:
        ctx.equal_dims(ix.total(sizes), extent, "the parts of a Split do not add up")
    if len(sizes) != count:
        raise errors.ModelError(f"{len(sizes)} parts, {count} outputs", node=ctx.node, operator=ctx.operator)
    ctx.cheap(x)
    starts = [ix.total(sizes[:k]) for k in range(count)]
    return tuple(part_of(ctx, x, axis, start, size) for start, size in zip(starts, sizes, strict=True))


@operator("Split", since=13)
def split(ctx: Lowering, node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Consecutive parts along `axis`, of given sizes or all but the last equal."""
    return _split(ctx, node, x, None if sizes is None else dims(ctx, sizes))


@operator("Split", since=1)
def split_1(ctx: Lowering, node: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split with the sizes as an attribute (or, in version 1, an input)."""
    return _split(ctx, node, x, node.attr("split") if sizes is None else dims(ctx, sizes))


# Slice.


def _bound(ctx: Lowering, value: Dim, extent: Dim, step: int, *, is_end: bool) -> Dim:
    """A start or end as a position along an axis of `extent`, clamped as numpy does."""
    low = 0 if step > 0 else -1
    high = extent if step > 0 else extent - 1
    if isinstance(value, int):
        if value <= -FAR:
            return low
        if value >= FAR:
            return high
        return ix.imax(value + extent, low) if value < 0 else ix.imin(value, high)
    if ix.provably_nonnegative(value):
        return ix.imin(value, high)
    number, size = ex.index(value), ex.index(extent)
    wrapped = ex.select(number < 0, number + size, number)
    return ctx.dim(ex.minimum(ex.maximum(wrapped, low), ex.index(high)), lower=low)


def _slice_axis(ctx: Lowering, x: Tensor, axis: int, start: Dim, end: Dim, step: Dim) -> Tensor:
    extent = x.shape[axis]
    if not isinstance(step, int):
        return _slice_by_symbol(ctx, x, axis, start, end, step)
    if step == 0:
        raise errors.ModelError("a step of 0", node=ctx.node, operator=ctx.operator)
    first = _bound(ctx, start, extent, step, is_end=False)
    last = _bound(ctx, end, extent, step, is_end=True)
    span = last - first if step > 0 else first - last
    size = ctx.sized(ix.imax(ix.ceildiv(span, abs(step)), 0))
    if first == 0 and step == 1 and size == extent:
        return x
    return part_of(ctx, x, axis, first, size, step)


def _slice_by_symbol(ctx: Lowering, x: Tensor, axis: int, start: Dim, end: Dim, step: Dim) -> Tensor:
    """A slice whose step, even its sign, is known only at run time."""
    size, pace = ex.index(x.shape[axis]), ex.index(step)
    ctx.check(ex.compare("ne", pace, 0), "value", "a step of 0")
    low = ex.select(pace < 0, -1, ex.constant(0, "int64"))

    def bound(value: Dim) -> Dim:
        number = ex.index(value)
        wrapped = ex.select(number < 0, number + size, number)
        return ctx.dim(ex.minimum(ex.maximum(wrapped, low), size + low), lower=-1)

    first, last = bound(start), bound(end)
    span = ex.select(pace < 0, ex.index(first - last), ex.index(last - first))
    stride = ex.maximum(ex.select(pace < 0, -pace, pace), 1)
    count = ctx.dim(ex.binary("div", ex.maximum(span, 0) + stride - 1, stride))
    shape = [count if k == axis else dim for k, dim in enumerate(x.shape)]
    return moved(ctx, x, shape, lambda i: tuple(first + p * step if k == axis else p for k, p in enumerate(i)))


def sliced(
    ctx: Lowering,
    x: Tensor,
    starts: Sequence[Dim],
    ends: Sequence[Dim],
    axes: Sequence[int] | None,
    steps: Sequence[Dim] | None,
) -> Tensor:
    """`x` cut along several axes."""
    ctx.native(x)
    axes = axes_of(ctx, list(range(len(starts))) if axes is None else axes, x.rank)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise errors.ModelError("starts, ends, axes and steps differ in length", node=ctx.node, operator=ctx.operator)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _slice_axis(ctx, x, axis, start, end, step)
    return x


@operator("Slice", since=10)
def slice_(
    ctx: Lowering,
    node: Node,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """From `starts` to `ends` (not included) by `steps` along `axes`, by numpy's rules."""
    ctx.native(x)
    first, last = ctx.elements(starts), ctx.elements(ends)
    pace = [ex.constant(1, "int64")] * len(first) if steps is None else ctx.elements(steps)
    if axes is not None and not are_known(ctx, axes):
        first, last, pace = by_axis(ctx.elements(axes), (first, last, pace), (0, FAR, 1), x.rank)
        axes = None
    cut = None if axes is None else integers(ctx, axes, "axes")
    begin, end, step = ([ctx.dim(value, lower=None) for value in values] for values in (first, last, pace))
    return sliced(ctx, x, begin, end, cut, step)


@operator("Slice", since=1)
def slice_1(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Slice with its bounds as attributes."""
    return sliced(ctx, x, node.attr("starts"), node.attr("ends"), node.attr("axes"), None)
