"""Operators that read or write at positions which are themselves data, and those that tell shapes."""

from __future__ import annotations

from collections.abc import Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import SHORT, is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Buffer, Kernel, Nest, Pointer, Store, expr_buffers
from sardonyx.compiler.tensor import Element, Plain, Position, Tensor, variables
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import axis_of, moved, reshaped, unflatten, vector

REDUCTIONS = {"none": "SET", "add": "ADD", "mul": "MUL", "max": "MAX", "min": "MIN"}
MOST_AXES = 8  # that the scatter kernel addresses
WIDENING = 3  # operations that make a number of one stored in fewer bits, at most


# What a tensor's shape is.


@operator("Shape")
def shape(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The dims from `start` to `end`."""
    ctx.requires(not x.is_object, "the rank is not known")
    return vector(ctx, [ex.index(dim) for dim in x.shape[slice(node.attr("start", 0), node.attr("end"))]])


@operator("Size")
def size(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The number of elements."""
    ctx.requires(not x.is_object, "the rank is not known")
    return ctx.lazy("int64", (), lambda _: ex.index(x.size))


# Reading.


@operator("Gather")
def gather(ctx: Lowering, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of `x` along `axis`, picked by `indices`."""
    ctx.native(x, indices)
    return gathered(ctx, x, indices, axis_of(ctx, node.attr("axis", 0), x.rank))


def gathered(ctx: Lowering, x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Axis `axis` of `x` replaced by the axes of `indices`."""
    if not _is_stored_table(x):
        ctx.cheap(x)
    ctx.cheap(indices)

    def element(position: Position) -> Expr:
        picked = indices.at(position[axis : axis + indices.rank])
        i = ex.gather_index(picked, x.shape[axis])
        return x.at((*position[:axis], i, *position[axis + indices.rank :]))

    view = ctx.lazy(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), element, sources=[x])
    view.prefers = Plain
    return view


def _is_stored_table(x: Tensor) -> bool:
    """Whether `x` is a constant but for its type: elements are converted when they are picked."""
    if x.element is None or x.buffer is not None or x.cost > WIDENING:
        return False
    return all(buffer.kind == "constant" for buffer in expr_buffers(x.at(variables(x.shape))))


@operator("GatherElements", since=11)
def gather_elements(ctx: Lowering, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """At each position of `indices`, the element of `x` there, but at the given place along `axis`."""
    ctx.native(x, indices)
    axis = axis_of(ctx, node.attr("axis", 0), x.rank)
    _covers(ctx, x, indices, axis)
    ctx.cheap(x)

    def element(position: Position) -> Expr:
        i = ex.gather_index(indices.at(position), x.shape[axis])
        return x.at(tuple(i if k == axis else p for k, p in enumerate(position)))

    view = ctx.lazy(x.dtype, indices.shape, element, sources=[indices], cost=1)
    view.prefers = Plain
    return view


def _covers(ctx: Lowering, x: Tensor, indices: Tensor, axis: int) -> None:
    """Require that positions of `indices` exist in `x`, `axis` aside."""
    if indices.rank != x.rank:
        problem = f"indices of rank {indices.rank} for data of rank {x.rank}"
        raise errors.ShapeError(problem, node=ctx.node, operator=ctx.operator)
    for k, (own, wanted) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if k != axis and own != wanted:
            fits = ex.compare("le", ex.index(wanted), ex.index(own))
            ctx.check(fits, "shape", f"indices are longer than the data along axis {k}")


@operator("GatherND", since=11)
def gather_nd(ctx: Lowering, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of `x` at the positions that the last axis of `indices` spells out."""
    ctx.native(x, indices)
    batch = node.attr("batch_dims", 0)
    depth = indices.shape[-1]
    ctx.requires(isinstance(depth, int), "indices of unknown depth")
    assert isinstance(depth, int)
    if batch + depth > x.rank or batch >= indices.rank:
        problem = f"indices of depth {depth} after {batch} batch axes for rank {x.rank}"
        raise errors.ShapeError(problem, node=ctx.node, operator=ctx.operator)
    for k in range(batch):
        ctx.equal_dims(x.shape[k], indices.shape[k], f"batch axis {k}")
    ctx.cheap(x)
    ctx.cheap(indices)
    outer = indices.rank - 1

    def element(position: Position) -> Expr:
        picked = [indices.at((*position[:outer], k)) for k in range(depth)]
        own = [ex.gather_index(value, x.shape[batch + k]) for k, value in enumerate(picked)]
        return x.at((*position[:batch], *own, *position[outer:]))

    view = ctx.lazy(x.dtype, (*indices.shape[:-1], *x.shape[batch + depth :]), element, cost=depth - 1)
    view.prefers = Plain
    return view


@operator("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(ctx: Lowering, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Columns of `x`; the result has at least two axes."""
    ctx.native(x, indices)
    flat = reshaped(ctx, indices, (indices.size,))
    picked = gathered(ctx, x, flat, x.rank - 1)
    return picked if x.rank > 1 else reshaped(ctx, picked, (1, indices.size))


@operator("OneHot", since=9)
def one_hot(ctx: Lowering, node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """``values[1]`` where the position along a new axis is the index, else ``values[0]``."""
    ctx.native(indices, depth, values)
    axis = axis_of(ctx, node.attr("axis", -1), indices.rank + 1)
    extent = ctx.dim(ctx.cheap(depth).scalar())
    ctx.cheap(indices)
    ctx.cheap(values)

    def element(position: Position) -> Expr:
        own = ex.cast(indices.at((*position[:axis], *position[axis + 1 :])), "int64")
        wrapped = ex.select(own < 0, own + ex.index(extent), own)
        return ex.select(wrapped.equal(ex.index(position[axis])), values.at((1,)), values.at((0,)))

    return ctx.lazy(values.dtype, (*indices.shape[:axis], extent, *indices.shape[axis:]), element, cost=4)


# Finding: results whose size is data.


def _positions(ctx: Lowering, x: Tensor) -> tuple[Buffer, Dim]:
    """Where `x`, read row by row, is not 0: ``(positions, how many)``."""
    flags = ctx.lazy("bool", x.shape, lambda i: ex.cast(x.at(i), "bool"), sources=[x], cost=1)
    found = ctx.temporary("int64", x.size)
    count = ix.symbol(ctx.fresh("s"))
    fields = {"x": ctx.pointer(flags), "out": Pointer(found), "size": x.size}
    ctx.emit(Kernel("positions", fields, (found,), serial=True, result=count))
    return found, count


@operator("NonZero", since=9)
def non_zero(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """One column for each element that is not 0: its position."""
    ctx.native(x)
    found, count = _positions(ctx, x)
    rank = max(x.rank, 1)

    def element(position: Position) -> Expr:
        axis, number = position
        flat = ix.element(ex.load(found, number), x.size)
        return vector(ctx, [ex.index(i) for i in unflatten(flat, x.shape or (1,))]).at((axis,))

    return ctx.lazy("int64", (rank if x.rank else 0, count), element, cost=2 * rank)


@operator("Compress", since=9)
def compress(ctx: Lowering, node: Node, x: Tensor, condition: Tensor) -> Tensor:
    """The slices along `axis` (or the elements, without one) whose condition is true."""
    ctx.native(x, condition)
    axis = node.attr("axis")
    if axis is None:
        x, axis = reshaped(ctx, x, (x.size,)), 0
    axis = axis_of(ctx, axis, x.rank)
    found, count = _positions(ctx, condition)
    return gathered(ctx, x, ctx.in_memory(found, (count,)), axis)


@operator("Unique", since=11)
def unique(ctx: Lowering, node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """Distinct elements or slices; where each is first, which one each is, how often each is there."""
    ctx.native(x)
    axis = node.attr("axis")
    if axis is None:
        x, axis = reshaped(ctx, x, (x.size,)), 0
    axis = axis_of(ctx, axis, x.rank)
    ctx.cheap(x)
    rows = x.shape[axis]
    shape = (rows, *x.shape[:axis], *x.shape[axis + 1 :])
    keys = moved(ctx, x, shape, lambda i: (*i[1 : axis + 1], i[0], *i[axis + 1 :]))
    first, inverse, counts, scratch = (ctx.temporary("int64", rows * n) for n in (1, 1, 1, 3))
    count = ix.symbol(ctx.fresh("s"))
    fields = {
        "x": ctx.pointer(ctx.lazy(*_key(keys), sources=[keys], cost=1)),
        **{name: Pointer(buffer) for name, buffer in zip(("first", "inverse", "counts"), (first, inverse, counts))},
        "scratch": Pointer(scratch),
        "rows": rows,
        "width": ix.product(shape[1:]),
        "floating": is_float(x.dtype),
        "sorted": bool(node.attr("sorted", 1)),
    }
    ctx.emit(Kernel("unique", fields, (first, inverse, counts, scratch), serial=True, result=count))
    firsts = ctx.in_memory(first, (count,))
    y = gathered(ctx, x, firsts, axis)
    return y, firsts, ctx.in_memory(inverse, (rows,)), ctx.in_memory(counts, (count,))


def _key(x: Tensor) -> tuple[str, tuple[Dim, ...], Element]:
    """Type, shape and elements of what the kernel compares in place of `x`, in the same order."""
    if x.dtype == "uint64":  # moved down by 2^63
        return "int64", x.shape, lambda i: ex.cast(ex.binary("xor", x.at(i), 1 << 63), "int64")
    kind = "float64" if is_float(x.dtype) else "int64"
    return kind, x.shape, lambda i: ex.cast(x.at(i), kind)


# Writing.


def _scatter(
    ctx: Lowering, x: Tensor, indices: Tensor, updates: Tensor, addressed: Sequence[Dim], count: Dim, reduction: str
) -> Tensor:
    """A copy of `x` with `count` updates applied in order; each names a position of the `addressed` first axes."""
    _known_reduction(ctx, reduction)
    ctx.requires(len(addressed) <= MOST_AXES, f"more than {MOST_AXES} axes")
    data, wide = ctx.pointer(updates), ctx.pointer(_wide(ctx, indices))
    out = _copied(ctx, x)
    fields = {
        "out": Pointer(out),
        "indices": wide,
        "updates": data,
        "count": count,
        "depth": len(addressed),
        "run": ix.product(x.shape[len(addressed) :]),
        "dtype": f"SX_{SHORT[x.dtype].upper()}",
        "reduction": f"SX_SCATTER_{REDUCTIONS[reduction]}",
        **{f"dims{k}": dim for k, dim in enumerate(addressed)},
    }
    ctx.emit(Kernel("scatter", fields, (out,), serial=True))
    return ctx.in_memory(out, x.shape)


def _known_reduction(ctx: Lowering, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise errors.ModelError(f"reduction '{reduction}'", node=ctx.node, operator=ctx.operator)


def _copied(ctx: Lowering, x: Tensor) -> Buffer:
    out, loops = ctx.temporary(x.dtype, x.size), variables(x.shape)
    ctx.emit_nest(Nest(loops, [Store(out, Plain(x.shape).offset(loops), x.at(loops))]))
    return out


def _wide(ctx: Lowering, indices: Tensor) -> Tensor:
    return ctx.lazy("int64", indices.shape, lambda i: ex.cast(indices.at(i), "int64"), sources=[indices])


@operator("ScatterND", since=11)
def scatter_nd(ctx: Lowering, node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`x` with the slices at given positions replaced by, or combined with, `updates`, in order."""
    ctx.native(x, indices, updates)
    depth = indices.shape[-1]
    ctx.requires(isinstance(depth, int), "indices of unknown depth")
    assert isinstance(depth, int)
    wanted = (*indices.shape[:-1], *x.shape[depth:])
    if depth > x.rank or len(wanted) != updates.rank:
        problem = f"updates of shape {list(updates.shape)}, {list(wanted)} wanted"
        raise errors.ShapeError(problem, node=ctx.node, operator=ctx.operator)
    for have, want in zip(updates.shape, wanted, strict=True):
        ctx.equal_dims(have, want, "shape of the updates")
    count = ix.product(indices.shape[:-1])
    return _scatter(ctx, x, indices, updates, x.shape[:depth], count, node.attr("reduction", "none"))


def scatter_elements(ctx: Lowering, node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """`x` with single elements replaced by, or combined with, `updates`, in order."""
    ctx.native(x, indices, updates)
    axis = axis_of(ctx, node.attr("axis", 0), x.rank)
    _covers(ctx, x, indices, axis)
    for have, want in zip(updates.shape, indices.shape, strict=True):
        ctx.equal_dims(have, want, "shape of the updates")
    reduction = node.attr("reduction", "none")
    _known_reduction(ctx, reduction)
    ctx.cheap(indices)
    ctx.cheap(updates)
    out = _copied(ctx, x)
    loops = variables(indices.shape)
    place = ex.gather_index(ex.cast(indices.at(loops), "int64"), x.shape[axis])
    offset = Plain(x.shape).offset((*loops[:axis], place, *loops[axis + 1 :]))
    # Updates of different lines never meet, so lines are independent points; along a line they come in order.
    value = combined(reduction, ex.load(out, offset), updates.at(loops))
    inner = () if isinstance(loops[axis], int) else (loops[axis],)
    ctx.emit_nest(Nest((*loops[:axis], *loops[axis + 1 :]), [Store(out, offset, value, inner)]))
    return ctx.in_memory(out, x.shape)


def combined(reduction: str, old: Expr, new: Expr) -> Expr:
    """What an element becomes by one update."""
    if reduction == "none":
        return new
    if old.dtype == "bool":
        return old | new if reduction in ("add", "max") else old & new
    return ex.binary(reduction, old, new)


operator("ScatterElements", since=11)(scatter_elements)
operator("Scatter", since=9)(scatter_elements)


@operator("TensorScatter", since=24)
def tensor_scatter(ctx: Lowering, node: Node, past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
    """A cache with `update` written into each sequence from ``starts[batch]`` on, around the end when circular."""
    ctx.native(past, update, starts)
    axis = axis_of(ctx, node.attr("axis", -2), past.rank)
    circular = node.attr("mode", "linear") == "circular"
    extent, steps = past.shape[axis], update.shape[axis]
    for k, (have, want) in enumerate(zip(update.shape, past.shape, strict=True)):
        if k != axis:
            ctx.equal_dims(have, want, f"axis {k} of the update")
    if starts is not None:
        ctx.cheap(starts)

    def element(position: Position) -> Expr:
        first: Dim = 0
        if starts is not None:
            first = ex.gather_index(starts.at((position[0],)), extent)
        step = position[axis] - first
        if circular:
            step = ix.mod(step, ix.imax(extent, 1))
        number = ex.index(step)
        inside = ex.compare("ge", number, 0) & ex.compare("lt", number, ex.index(steps))
        new = update.at(tuple(step if k == axis else p for k, p in enumerate(position)))
        return ex.guard(inside, new, past.at(position))

    return ctx.lazy(past.dtype, past.shape, element, sources=[past, update], cost=3)
