"""Operators that fold axes away or run along one: Reduce*, ArgMax, Softmax, CumSum, TopK.

Half-precision values are added up in float32. A reduced tensor in NCHW16c is read where it lies, as long as its
channels stay apart.
"""

from __future__ import annotations

import functools
import operator as operator_
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import SHORT, is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer, Reduce, Running, Stage, Store
from sardonyx.compiler.tensor import Blocked, Plain, Tensor, variables
from sardonyx.ops import registry
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

READ_AGAIN = 2  # an element that costs no more operations than this is computed again rather than stored
HALF = ("float16", "bfloat16")


def accumulator(dtype: str) -> str:
    """The dtype in which values of `dtype` are added up."""
    return "float32" if dtype in HALF else dtype


def checked_axis(ctx: Lowering, axis: int, rank: int) -> int:
    """`axis` counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise errors.ModelError(
            f"axis {axis} of a tensor of rank {rank}", node=ctx.node, operator=ctx.operator,
            hint=f"axes go from {-rank} to {rank - 1}",
        )  # fmt: skip
    return axis + rank if axis < 0 else axis


def reduced_axes(ctx: Lowering, node: Node, x: Tensor, given: Tensor | None) -> tuple[int, ...] | None:
    """The axes to reduce, from the input or the attribute; None: leave the tensor as it is."""
    axes = node.attr("axes", ()) if given is None or given.array is None else given.array.reshape(-1).tolist()
    if not len(axes) and node.attr("noop_with_empty_axes", 0):
        return None
    return tuple(sorted({checked_axis(ctx, int(a), x.rank) for a in axes})) or tuple(range(x.rank))


def kept_shape(x: Tensor, axes: Sequence[int]) -> tuple[Dim, ...]:
    """The shape of `x` with the dims of `axes` set to 1."""
    return tuple(1 if axis in axes else dim for axis, dim in enumerate(x.shape))


def without_axes(ctx: Lowering, x: Tensor, axes: Sequence[int]) -> Tensor:
    """`x`, whose dims along `axes` are 1, without them."""
    kept = [axis for axis in range(x.rank) if axis not in axes]

    def element(position: tuple[Dim, ...]) -> Expr:
        full: list[Dim] = [0] * x.rank
        for axis, i in zip(kept, position, strict=True):
            full[axis] = i
        return x.at(full)

    return ctx.lazy(x.dtype, [x.shape[axis] for axis in kept], element, sources=[x])


Points = Callable[[str], tuple[Expr, tuple[Dim, ...]]]  # see `fold`
Stages = Callable[[Points], tuple[list[Stage], Expr]]
Row = Callable[[str], tuple[Dim, tuple[Dim, ...]]]  # see `row_nest`


@dataclass(frozen=True)
class Region:
    """What a reduction runs over.

    Attributes:
        tensor: the elements.
        kept: the dims of the result, 1 where an axis is reduced.
        spans: how far the reduction goes along each axis, 1 where it does not.
    """

    tensor: Tensor
    kept: tuple[Dim, ...]
    spans: tuple[Dim, ...]

    @staticmethod
    def along(x: Tensor, axes: Sequence[int]) -> Region:
        """All of `axes`."""
        return Region(x, kept_shape(x, axes), tuple(dim if axis in axes else 1 for axis, dim in enumerate(x.shape)))

    def count(self, dtype: str) -> Expr:
        """How many elements make one of the result, as a value."""
        return ex.cast(ex.index(ix.product(self.spans)), dtype)

    def with_tensor(self, x: Tensor) -> Region:
        """The same region of another tensor of that shape."""
        return Region(x, self.kept, self.spans)


def fold(ctx: Lowering, region: Region, stages: Stages, dtype: str) -> Tensor:
    """Reduces a region to a tensor of its `kept` shape.

    ``stages(over)`` gives the stages of one point and the result's value; ``over(prefix)`` gives an element of the
    region and the variables that it runs over, whose names start with `prefix`.
    """
    x, shape = region.tensor, region.kept
    in_blocks = isinstance(x.layout, Blocked) and x.buffer is not None and region.spans[:2] == (1, 1)
    layout = Blocked(shape) if in_blocks else Plain(shape)
    outer, position, inside = layout.domain()

    def over(prefix: str) -> tuple[Expr, tuple[Dim, ...]]:
        inner = variables(region.spans, prefix)
        return x.at([i + k for i, k in zip(position, inner, strict=True)]), inner

    steps, value = stages(over)
    buffer = ctx.temporary(dtype, layout.size())
    value = ex.guard(inside, value, ex.constant(0, dtype))
    ctx.nest(outer, [*steps, Store(buffer, layout.offset(position), value)])
    return ctx.in_memory(buffer, shape, layout)


Value = Callable[[Expr], Expr]
Body = Callable[[Lowering, Region], Tensor]


def reduce(ctx: Lowering, region: Region, op: str, before: Value, after: Value, wide: str) -> Tensor:
    """``after(op of before(x))`` over a region, computed in dtype `wide`."""
    dtype = region.tensor.dtype

    def stages(over: Points) -> tuple[list[Stage], Expr]:
        value, inner = over("k")
        step = Reduce("total", op, before(ex.cast(value, wide)), inner, wide)
        return [step], ex.cast(after(ex.local("total", wide)), dtype)

    return fold(ctx, region, stages, dtype)


def mean(ctx: Lowering, region: Region) -> Tensor:
    """The mean over a region. Of integers it is truncated."""
    dtype = region.tensor.dtype
    if is_float(dtype):
        wide = accumulator(dtype)
        return reduce(ctx, region, "sum", lambda v: v, lambda v: v / region.count(wide), wide)
    count = region.count("float64")
    return reduce(ctx, region, "sum", lambda v: v, lambda v: ex.cast(v, "float64") / count, "int64")


def log_sum_exp(ctx: Lowering, region: Region) -> Tensor:
    """log(sum(exp(x))), computed without overflow."""
    dtype = region.tensor.dtype
    wide = accumulator(dtype) if is_float(dtype) else "float64"
    ctx.cheap(region.tensor, READ_AGAIN)

    def stages(over: Points) -> tuple[list[Stage], Expr]:
        (value, inner), (again, inner_again) = over("k"), over("m")
        top = ex.local("top", wide)
        finite = Reduce("shift", "sum", ex.select(ex.predicate("isinf", top), 0.0, top), (), wide)
        shifted = ex.cast(again, wide) - ex.local("shift", wide)
        total = Reduce("total", "sum", ex.unary("exp", shifted), inner_again, wide)
        steps: list[Stage] = [Reduce("top", "max", ex.cast(value, wide), inner, wide), finite, total]
        return steps, ex.cast(ex.unary("log", ex.local("total", wide)) + ex.local("shift", wide), dtype)

    return fold(ctx, region, stages, dtype)


def _extreme(op: str) -> Body:
    def lower(ctx: Lowering, region: Region) -> Tensor:
        dtype = region.tensor.dtype
        name = {"max": "or", "min": "and"}[op] if dtype == "bool" else op
        return reduce(ctx, region, name, lambda v: v, lambda v: v, accumulator(dtype))

    return lower


def _total(op: str, before: Value, after: Value | None = None) -> Body:
    """Sums and products; functions of an integer's total are computed in float64."""

    def lower(ctx: Lowering, region: Region) -> Tensor:
        dtype = region.tensor.dtype
        wide = accumulator(dtype) if is_float(dtype) or after is None else "float64"
        return reduce(ctx, region, op, before, after or (lambda v: v), wide)

    return lower


def _runtime_region(ctx: Lowering, x: Tensor, axes: Tensor) -> tuple[Region, tuple[Dim, ...]]:
    """The region that axes known only at run time span, and the shape of the result without them.

    Each axis is split into a kept and a reduced part, one of which has extent 1.
    """
    given = []
    for value in ctx.elements(axes):
        value = ex.cast(value, "int64")
        ctx.check((value >= -x.rank) & (value < x.rank), "shape", f"an axis of a tensor of rank {x.rank}")
        given.append(ex.select(value < 0, value + x.rank, value))
    one, zero = ex.index(1), ex.index(0)
    kept, spans, flags = [], [], []
    for axis, dim in enumerate(x.shape):
        reduced = functools.reduce(operator_.or_, (value.equal(axis) for value in given))
        kept.append(ctx.dim(ex.select(reduced, one, ex.index(dim))))
        spans.append(ctx.dim(ex.select(reduced, ex.index(dim), one)))
        flags.append(ctx.dim(ex.select(reduced, zero, one)))
    shape = []
    for place in range(x.rank - len(given)):
        total, before = zero, zero
        for dim, flag in zip(kept, flags, strict=True):
            here = ex.index(flag).equal(1) & before.equal(place)
            total = total + ex.select(here, ex.index(dim), zero)
            before = before + ex.index(flag)
        shape.append(ctx.dim(total))
    return Region(x, tuple(kept), tuple(spans)), tuple(shape)


def _reduction(name: str, body: Body, summary: str) -> None:
    def lower(ctx: Lowering, node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        ctx.native(x, axes)
        if axes is not None and axes.array is None and axes.size != 0:
            region, shape = _runtime_region(ctx, x, axes)
            result = body(ctx, region)
            return result if node.attr("keepdims", 1) else ctx.in_memory(ctx.pointer(result).buffer, shape)
        wanted = reduced_axes(ctx, node, x, axes)
        if wanted is None:
            wanted, keep = (), 1
        else:
            keep = node.attr("keepdims", 1)
        result = body(ctx, Region.along(x, wanted))
        return result if keep else without_axes(ctx, result, wanted)

    lower.__doc__ = summary
    registry.add(name, lower, since=1, domain="", elementwise=False)


_SQRT, _LOG = (lambda v: ex.unary("sqrt", v)), (lambda v: ex.unary("log", v))
_reduction("ReduceSum", _total("sum", lambda v: v), "Sums over axes.")
_reduction("ReduceProd", _total("prod", lambda v: v), "Products over axes.")
_reduction("ReduceMean", mean, "Means over axes.")
_reduction("ReduceMax", _extreme("max"), "Largest elements over axes.")
_reduction("ReduceMin", _extreme("min"), "Smallest elements over axes.")
_reduction("ReduceL1", _total("sum", lambda v: ex.unary("abs", v)), "Sums of absolute values over axes.")
_reduction("ReduceL2", _total("sum", lambda v: v * v, _SQRT), "Roots of the sums of squares over axes.")
_reduction("ReduceSumSquare", _total("sum", lambda v: v * v), "Sums of squares over axes.")
_reduction("ReduceLogSum", _total("sum", lambda v: v, _LOG), "Logarithms of sums over axes.")
_reduction("ReduceLogSumExp", log_sum_exp, "Logarithms of the sums of exponentials over axes.")


# Softmax and its kin.


def along(ctx: Lowering, node: Node, x: Tensor) -> tuple[Tensor, int]:
    """``(tensor, axis)`` for an operator along one axis; before opset 13 all axes from `axis` on count as one."""
    ctx.native(x)
    flat = node.opset < 13
    axis = node.attr("axis", 1 if flat else -1)
    axis = x.rank if flat and axis == x.rank else checked_axis(ctx, axis, x.rank)
    if x.prefers is not Plain:
        x = ctx.plain(x)
    if not flat or axis == x.rank - 1:
        return ctx.cheap(x, READ_AGAIN), axis
    buffer = ctx.plain(x).buffer
    assert buffer is not None
    return ctx.in_memory(buffer, (ix.product(x.shape[:axis]), ix.product(x.shape[axis:]))), 1


def row_nest(ctx: Lowering, x: Tensor, axis: int, stages: Callable[[Row], list[Stage]]) -> None:
    """A nest over all axes of `x` but one; ``stages(over)`` with ``over(prefix) -> (variable, position)``."""
    outer = Plain(x.shape).domain()[1]

    def over(prefix: str) -> tuple[Dim, tuple[Dim, ...]]:
        k = ix.variable(prefix, x.shape[axis])
        return k, (*outer[:axis], k, *outer[axis + 1 :])

    ctx.nest([*outer[:axis], *outer[axis + 1 :]], stages(over))


@operator("Softmax")
def softmax(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis; each exponential is computed once."""
    source, axis = along(ctx, node, x)
    return softmax_along(ctx, source, axis, x.shape)


def softmax_along(ctx: Lowering, x: Tensor, axis: int, shape: Sequence[Dim] | None = None) -> Tensor:
    """Softmax of `x` along `axis`, as a tensor of `shape` (its own by default)."""
    wide, place = accumulator(x.dtype), Plain(x.shape)
    powers = ctx.temporary(wide, x.size)
    result = powers if wide == x.dtype else ctx.temporary(x.dtype, x.size)
    half = wide != x.dtype  # rounded after each operation, as the reference does

    def rounded(value: Expr) -> Expr:
        return ex.cast(ex.cast(value, x.dtype), wide) if half else value

    def stages(over: Row) -> list[Stage]:
        (k, at_k), (m, at_m), (n, at_n), (p, at_p) = (over(name) for name in "kmnp")
        power = rounded(ex.unary("exp_negative", rounded(ex.cast(x.at(at_m), wide) - ex.local("top", wide))))
        scale, share = 1.0 / ex.local("total", wide), ex.load(powers, place.offset(at_p))
        if half:  # one division for each element: a rounded reciprocal would round twice
            scale = rounded(ex.local("total", wide))
        scaled = share / ex.local("scale", wide) if half else share * ex.local("scale", wide)
        return [
            Reduce("top", "max", ex.cast(x.at(at_k), wide), (k,), wide),
            Store(powers, place.offset(at_m), power, (m,)),
            Reduce("total", "sum", ex.load(powers, place.offset(at_n)), (n,), wide),
            Reduce("scale", "sum", scale, (), wide),
            Store(result, place.offset(at_p), ex.cast(scaled, x.dtype), (p,)),
        ]

    row_nest(ctx, x, axis, stages)
    return ctx.in_memory(result, x.shape if shape is None else shape)


@operator("LogSoftmax")
def log_softmax(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """x - log(sum(exp(x))) along an axis."""
    source, axis = along(ctx, node, x)
    return log_softmax_along(ctx, source, axis, x.shape)


def log_softmax_along(ctx: Lowering, x: Tensor, axis: int, shape: Sequence[Dim] | None = None) -> Tensor:
    """LogSoftmax of `x` along `axis`, as a tensor of `shape` (its own by default)."""
    wide, place = accumulator(x.dtype), Plain(x.shape)
    result = ctx.temporary(x.dtype, x.size)

    def stages(over: Row) -> list[Stage]:
        (k, at_k), (m, at_m), (n, at_n) = (over(name) for name in "kmn")
        top, log = ex.local("top", wide), ex.local("log", wide)
        value = ex.cast(x.at(at_n), wide) - top - log
        return [
            Reduce("top", "max", ex.cast(x.at(at_k), wide), (k,), wide),
            Reduce("total", "sum", ex.unary("exp_negative", ex.cast(x.at(at_m), wide) - top), (m,), wide),
            Reduce("log", "sum", ex.unary("log", ex.local("total", wide)), (), wide),
            Store(result, place.offset(at_n), ex.cast(value, x.dtype), (n,)),
        ]

    row_nest(ctx, x, axis, stages)
    return ctx.in_memory(result, x.shape if shape is None else shape)


@operator("Hardmax")
def hardmax(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """1 at the first largest element along an axis, else 0."""
    shape = x.shape
    x, axis = along(ctx, node, x)
    best = arg_along(ctx, x, axis, "argmax")

    def element(i: tuple[Dim, ...]) -> Expr:
        first = best.at((*i[:axis], 0, *i[axis + 1 :]))
        return ex.cast(first.equal(ex.index(i[axis])), x.dtype)

    found = ctx.lazy(x.dtype, x.shape, element, sources=[best], cost=2)
    return found if x.shape == shape else ctx.in_memory(ctx.materialize(found, Plain(x.shape)), shape)


# Positions.


def arg_along(ctx: Lowering, x: Tensor, axis: int, op: str) -> Tensor:
    """The position of the extreme element along `axis`, which stays with extent 1."""
    shape = kept_shape(x, (axis,))
    if x.shape[axis] == 1:
        return ctx.lazy("int64", shape, lambda i: ex.index(0))
    if x.shape[axis] == 0:
        raise errors.ShapeError(f"axis {axis} is empty", node=ctx.node, operator=ctx.operator)
    ctx.check(ex.index(x.shape[axis]) > 0, "shape", f"axis {axis} is empty")
    ctx.cheap(x, READ_AGAIN)  # the last block of a row looks at elements again
    result, place = ctx.temporary("int64", ix.product(shape)), Plain(shape)
    outer = place.domain()[1]

    def stages(over: Row) -> list[Stage]:
        k, at = over("k")
        return [
            Reduce("best", op, x.at(at), (k,), "int64"),
            Store(result, place.offset(outer), ex.local("best", "int64")),
        ]

    row_nest(ctx, x, axis, stages)
    return ctx.in_memory(result, shape)


def _arg(op: str) -> Callable[..., Tensor]:
    def lower(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
        ctx.native(x)
        axis = checked_axis(ctx, node.attr("axis", 0), x.rank)
        name = op + ("_last" if node.attr("select_last_index", 0) else "")
        result = arg_along(ctx, x, axis, name)
        return result if node.attr("keepdims", 1) else without_axes(ctx, result, (axis,))

    lower.__doc__ = f"The position of the {'largest' if op == 'argmax' else 'smallest'} element along an axis."
    return lower


registry.add("ArgMax", _arg("argmax"), since=1, domain="", elementwise=False, depth=1)
registry.add("ArgMin", _arg("argmin"), since=1, domain="", elementwise=False, depth=1)


# Scans.


def _scan(ctx: Lowering, node: Node, x: Tensor, axis: Tensor, op: str) -> Tensor:
    ctx.native(x, axis)
    ctx.cheap(x, READ_AGAIN)
    if axis.array is not None:
        chosen = checked_axis(ctx, int(axis.array.reshape(-1)[0]), x.rank)
        steps: list[Dim] = [int(a == chosen) for a in range(x.rank)]
        extent = x.shape[chosen]
        kept: tuple[Dim, ...] = kept_shape(x, (chosen,))
    else:
        region, _ = _runtime_region(ctx, x, axis)
        kept, extent = region.kept, ix.product(region.spans)
        same = [ex.index(k).equal(ex.index(d)) for k, d in zip(kept, x.shape, strict=True)]
        steps = [ctx.dim(ex.select(s, ex.index(0), ex.index(1))) for s in same]
    outer, k = variables(kept), ix.variable("k", extent)
    walk = extent - 1 - k if node.attr("reverse", 0) else k
    at = tuple(i + step * walk for i, step in zip(outer, steps, strict=True))
    result, wide = ctx.temporary(x.dtype, x.size), accumulator(x.dtype)
    value, exclusive = ex.cast(x.at(at), wide), bool(node.attr("exclusive", 0))
    ctx.nest(outer, [Running(result, Plain(x.shape).offset(at), op, value, k, wide, exclusive)])
    return ctx.in_memory(result, x.shape)


@operator("CumSum", since=11)
def cum_sum(ctx: Lowering, node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Sums of the elements up to each one along an axis."""
    return _scan(ctx, node, x, axis, "sum")


@operator("CumProd", since=26)
def cum_prod(ctx: Lowering, node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Products of the elements up to each one along an axis."""
    return _scan(ctx, node, x, axis, "prod")


# Selection.


def _top_k(ctx: Lowering, node: Node, x: Tensor, k: Dim) -> tuple[Tensor, Tensor]:
    ctx.native(x)
    ctx.requires(x.dtype != "bool", "an order of bool")
    axis = checked_axis(ctx, node.attr("axis", -1), x.rank)
    ctx.check(ex.index(k) <= ex.index(x.shape[axis]), "shape", "k is larger than the axis")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    values, positions = ctx.temporary(x.dtype, ix.product(shape)), ctx.temporary("int64", ix.product(shape))
    fields = {
        "x": ctx.pointer(x),
        "values": Pointer(values),
        "positions": Pointer(positions),
        "outer": ix.product(x.shape[:axis]),
        "extent": x.shape[axis],
        "inner": ix.product(x.shape[axis + 1 :]),
        "k": k,
        "type": f"TOPK_{SHORT[x.dtype].upper()}",
        "largest": bool(node.attr("largest", 1)),
    }
    ctx.emit(Kernel("topk", fields, (values, positions)))
    return ctx.in_memory(values, shape), ctx.in_memory(positions, shape)


@operator("TopK", since=1)
def top_k_attribute(ctx: Lowering, node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest elements along an axis and their positions."""
    return _top_k(ctx, node, x, int(node.attr("k")))


@operator("TopK", since=10)
def top_k(ctx: Lowering, node: Node, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest (smallest) elements along an axis and their positions, in order."""
    return _top_k(ctx, node, x, ctx.dim(ctx.elements(k)[0]))
