"""Normalisations: subtract a mean, divide by a spread, scale and shift.

Statistics of half-precision values are computed in float32. A batch normalisation with constant parameters is one
multiplication and one addition, which fuse into whatever comes before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import numpy_dtype
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Reduce, Stage, Store
from sardonyx.compiler.tensor import Blocked, Plain, Tensor, variables
from sardonyx.ops.binary import broadcast
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import (
    READ_AGAIN,
    Region,
    accumulator,
    checked_axis,
    kept_shape,
    mean,
    reduce,
)
from sardonyx.ops.registry import operator

Affine = Callable[[Expr, tuple[Dim, ...]], Expr]  # (normalised value, position) -> scaled and shifted value


def inverse_root(value: Expr) -> Expr:
    """1 / sqrt(value)."""
    return 1.0 / ex.unary("sqrt", value)


def channel_wise(ctx: Lowering, x: Tensor, body: Callable[..., Expr], *parameters: Tensor) -> Tensor:
    """The tensor of ``body(x, parameters of its channel)``; computed in the wider dtype, given back as that of `x`."""
    wide = "float64" if x.dtype == "float64" else "float32"

    def element(i: tuple[Dim, ...]) -> Expr:
        values = [ex.cast(p.at((i[1] if x.rank > 1 else 0,)), wide) for p in parameters]
        return ex.cast(body(ex.cast(x.at(i), wide), *values), x.dtype)

    return ctx.lazy(x.dtype, x.shape, element, sources=[x], cost=2 * len(parameters))


def _scale_and_shift(ctx: Lowering, x: Tensor, parameters: Sequence[Tensor], epsilon: float) -> Tensor:
    scale, bias, average, variance = parameters
    # Folding infinities would turn them into NaN: such a model is computed as it is written.
    if all(p.array is not None and np.isfinite(np.asarray(p.array, np.float64)).all() for p in parameters):
        s, b, m, v = (np.asarray(p.array, np.float64) for p in parameters)
        factor = s / np.sqrt(v + epsilon)
        kind = numpy_dtype("float64" if x.dtype == "float64" else "float32")
        constants = (ctx.constant(value.astype(kind)) for value in (factor, b - m * factor))
        return channel_wise(ctx, x, lambda e, a, c: e * a + c, *constants)
    wide = "float64" if x.dtype == "float64" else "float32"

    def factor_at(i: tuple[Dim, ...]) -> Expr:
        return ex.cast(scale.at(i), wide) * inverse_root(ex.cast(variance.at(i), wide) + epsilon)

    factors = ctx.cheap(ctx.lazy(wide, scale.shape, factor_at, cost=8))
    return channel_wise(ctx, x, lambda e, a, b, m: (e - m) * a + b, factors, ctx.cheap(bias), ctx.cheap(average))


@operator("BatchNormalization")
def batch_normalization(
    ctx: Lowering, node: Node, x: Tensor, scale: Tensor, bias: Tensor, average: Tensor, variance: Tensor
) -> Tensor | tuple[Tensor, ...]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias for each channel; in training, of the batch itself."""
    ctx.native(x, scale, bias, average, variance)
    ctx.requires(bool(node.attr("spatial", 1)), "statistics of every position (spatial = 0)")
    epsilon = node.attr("epsilon", 1e-5)
    training = node.attr("training_mode", 0)
    if not training:
        ctx.requires(not any(map(node.wants, range(1, 5))), "training outputs of an old BatchNormalization")
        return _scale_and_shift(ctx, x, (scale, bias, average, variance), epsilon)
    x = ctx.cheap(x)
    now = [_flat_channels(ctx, t) for t in moments(ctx, x, [a for a in range(x.rank) if a != 1])]
    momentum = node.attr("momentum", 0.9)
    kept = []
    for old, new in zip((average, variance), now, strict=True):
        kept.append(channel_mix(ctx, old, new, lambda o, n: o * momentum + n * (1.0 - momentum)))
    return _scale_and_shift(ctx, x, (scale, bias, *now), epsilon), *kept


def channel_mix(ctx: Lowering, x: Tensor, y: Tensor, body: Callable[[Expr, Expr], Expr]) -> Tensor:
    """``body(x, y)`` of two vectors, computed in float32 (float64), given back as the dtype of `x`."""
    wide = accumulator(x.dtype)
    return ctx.lazy(
        x.dtype, x.shape, lambda i: ex.cast(body(ex.cast(x.at(i), wide), ex.cast(y.at(i), wide)), x.dtype),
        sources=[x, y], cost=4,
    )  # fmt: skip


def _flat_channels(ctx: Lowering, x: Tensor) -> Tensor:
    return ctx.lazy(x.dtype, (x.shape[1],), lambda i: x.at((0, i[0], *([0] * (x.rank - 2)))), sources=[x])


def moments(ctx: Lowering, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and variance over `axes`, which stay with extent 1."""
    wide = accumulator(x.dtype)
    region = Region.along(x, axes)
    average = mean(ctx, region)

    def squared(i: tuple[Dim, ...]) -> Expr:
        center = average.at([0 if axis in axes else j for axis, j in enumerate(i)])
        distance = ex.cast(x.at(i), wide) - ex.cast(center, wide)
        return distance * distance

    squares = ctx.lazy(wide, x.shape, squared, sources=[x], cost=2)
    spread = reduce(ctx, region.with_tensor(squares), "sum", lambda v: v, lambda v: v / region.count(wide), wide)
    return average, spread


def normalize(
    ctx: Lowering,
    x: Tensor,
    axes: Sequence[int],
    affine: Affine,
    *,
    spread: Callable[[Expr], Expr],
    wide: str,
    centered: bool = True,
    extra: bool = False,
) -> list[Tensor]:
    """One pass over each point of the other axes: mean, mean square of the distance to it, result.

    Args:
        ctx: the lowering.
        x: the tensor.
        axes: what a mean is taken over.
        affine: scales and shifts a normalised value.
        spread: variance -> factor of the distance.
        wide: dtype of the statistics.
        centered: subtract the mean.
        extra: also give the means and the factors, in dtype `wide`, with `axes` of extent 1.

    Returns:
        The result, then means and factors if `extra`.
    """
    x = ctx.cheap(x, READ_AGAIN)
    in_blocks = isinstance(x.layout, Blocked) and x.buffer is not None and min(axes) > 1
    if x.prefers is not Plain and not in_blocks:
        x = ctx.plain(x)
    elif x.buffer is None and x.rows is not None and isinstance(x.rows.layout, Blocked):
        ctx.cheap(x.rows)
        x = ctx.plain(x)  # channel by channel, blocks would be read with gathers, three times
    shape = kept_shape(x, axes)
    kept, layout = (Blocked(shape), Blocked(x.shape)) if in_blocks else (Plain(shape), Plain(x.shape))
    outer, point, inside = kept.domain()
    region = Region.along(x, axes)
    count = region.count(wide)

    def over(prefix: str) -> tuple[Expr, tuple[Dim, ...], tuple[Dim, ...]]:
        inner = variables(region.spans, prefix)
        position = tuple(i + k for i, k in zip(point, inner, strict=True))
        return ex.cast(x.at(position), wide), position, inner

    def distance(value: Expr) -> Expr:
        return value - ex.local("mean", wide) if centered else value

    (value, _, k), (again, _, m), (last, at, n) = (over(name) for name in "kmn")
    stages: list[Stage] = []
    if centered:
        stages.append(Reduce("sum", "sum", value, k, wide))
        stages.append(Reduce("mean", "sum", ex.local("sum", wide) / count, (), wide))
    stages.append(Reduce("squares", "sum", distance(again) * distance(again), m, wide))
    stages.append(Reduce("factor", "sum", spread(ex.local("squares", wide) / count), (), wide))
    value = ex.cast(affine(distance(last) * ex.local("factor", wide), at), x.dtype)
    result = ctx.temporary(x.dtype, layout.size())
    stages.append(Store(result, layout.offset(at), ex.guard(inside, value, ex.constant(0, x.dtype)), n))
    extras = [(name, ctx.temporary(wide, kept.size())) for name in ("mean", "factor") if extra]
    stages += [Store(buffer, kept.offset(point), ex.local(name, wide)) for name, buffer in extras]
    ctx.nest(outer, stages)
    return [ctx.in_memory(result, x.shape, layout), *(ctx.in_memory(buffer, shape, kept) for _, buffer in extras)]


def _affine(ctx: Lowering, x: Tensor, scale: Tensor | None, bias: Tensor | None, wide: str) -> Affine:
    """Multiply by `scale` and add `bias`, which broadcast to `x`; statistics' rounding first, as the operator says."""
    factors = None if scale is None else broadcast(ctx, ctx.cheap(scale), x.shape)
    shifts = None if bias is None else broadcast(ctx, ctx.cheap(bias), x.shape)

    def apply(value: Expr, position: tuple[Dim, ...]) -> Expr:
        if factors is not None:
            value = value * ex.cast(factors(position), wide)
        return value if shifts is None else value + ex.cast(shifts(position), wide)

    return apply


@operator("LayerNormalization")
def layer_normalization(
    ctx: Lowering, node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, ...]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axes."""
    ctx.native(x, scale, bias)
    axis = checked_axis(ctx, node.attr("axis", -1), x.rank)
    epsilon, wide = node.attr("epsilon", 1e-5), accumulator(x.dtype)
    found = normalize(
        ctx, x, range(axis, x.rank), _affine(ctx, x, scale, bias, wide), wide=wide,
        spread=lambda v: inverse_root(v + epsilon), extra=node.wants(1) or node.wants(2),
    )  # fmt: skip
    return tuple(found)


@operator("RMSNormalization", since=23)
def rms_normalization(ctx: Lowering, node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """x / sqrt(mean(x * x) + epsilon) * scale over the last axes."""
    ctx.native(x, scale)
    axis = checked_axis(ctx, node.attr("axis", -1), x.rank)
    epsilon, wide = node.attr("epsilon", 1e-5), accumulator(x.dtype)
    return normalize(
        ctx, x, range(axis, x.rank), _affine(ctx, x, scale, None, wide), wide=wide, centered=False,
        spread=lambda v: inverse_root(v + epsilon),
    )[0]  # fmt: skip


def _per_channel(ctx: Lowering, scale: Tensor, bias: Tensor, wide: str, channel: Callable[..., Dim]) -> Affine:
    """Multiply by a channel's scale and add its bias; `channel` says which one a position belongs to."""
    ctx.cheap(scale), ctx.cheap(bias)

    def apply(value: Expr, position: tuple[Dim, ...]) -> Expr:
        at = (channel(position),)
        return value * ex.cast(scale.at(at), wide) + ex.cast(bias.at(at), wide)

    return apply


@operator("InstanceNormalization")
def instance_normalization(ctx: Lowering, node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over each channel of each image."""
    ctx.native(x, scale, bias)
    epsilon, wide = node.attr("epsilon", 1e-5), accumulator(x.dtype)
    affine = _per_channel(ctx, scale, bias, wide, lambda position: position[1])
    spread = lambda v: inverse_root(v + epsilon)  # noqa: E731
    return normalize(ctx, x, range(2, x.rank), affine, wide=wide, spread=spread)[0]


def _group_normalization(
    ctx: Lowering, node: Node, x: Tensor, scale: Tensor, bias: Tensor, *, by_group: bool
) -> Tensor:
    ctx.native(x, scale, bias)
    groups = int(node.attr("num_groups"))
    size = ix.floordiv(x.shape[1], groups)
    ctx.equal_dims(size * groups, x.shape[1], f"channels are not divided by {groups} groups")
    epsilon, wide = node.attr("epsilon", 1e-5), accumulator(x.dtype)
    buffer = ctx.plain(x).buffer
    assert buffer is not None
    grouped = ctx.in_memory(buffer, (x.shape[0], groups, size, *x.shape[2:]))
    affine = _per_channel(ctx, scale, bias, wide, lambda i: i[1] if by_group else i[1] * size + i[2])
    spread = lambda v: inverse_root(v + epsilon)  # noqa: E731
    result = normalize(ctx, grouped, range(2, grouped.rank), affine, wide=wide, spread=spread)[0]
    assert result.buffer is not None
    return ctx.in_memory(result.buffer, x.shape)


@operator("GroupNormalization", since=18)
def group_normalization_by_group(ctx: Lowering, node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalises groups of channels; scale and bias are one for each group."""
    return _group_normalization(ctx, node, x, scale, bias, by_group=True)


@operator("GroupNormalization", since=21)
def group_normalization(ctx: Lowering, node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalises groups of channels; scale and bias are one for each channel."""
    return _group_normalization(ctx, node, x, scale, bias, by_group=False)


@operator("MeanVarianceNormalization", since=9)
def mean_variance_normalization(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """(x - mean) / (standard deviation + 1e-9) over axes."""
    ctx.native(x)
    axes = sorted({checked_axis(ctx, axis, x.rank) for axis in node.attr("axes", (0, 2, 3))})
    wide = accumulator(x.dtype)
    spread = lambda v: 1.0 / (ex.unary("sqrt", v) + 1e-9)  # noqa: E731
    return normalize(ctx, x, axes, lambda value, _: value, wide=wide, spread=spread)[0]


@operator("LpNormalization")
def lp_normalization(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """x divided by its norm along an axis; 0 where the norm is 0."""
    ctx.native(x)
    axis = checked_axis(ctx, node.attr("axis", -1), x.rank)
    squared, wide = node.attr("p", 2) == 2, accumulator(x.dtype)
    ctx.cheap(x, READ_AGAIN)
    before = (lambda v: v * v) if squared else (lambda v: ex.unary("abs", v))
    widened = ctx.lazy(wide, x.shape, lambda i: ex.cast(x.at(i), wide), sources=[x])
    after = (lambda v: ex.unary("sqrt", v)) if squared else (lambda v: v)
    norm = reduce(ctx, Region.along(widened, (axis,)), "sum", before, after, wide)

    def element(i: tuple[Dim, ...]) -> Expr:
        length = norm.at((*i[:axis], 0, *i[axis + 1 :]))
        return ex.cast(ex.select(length.equal(0.0), 0.0 * length, widened.at(i) / length), x.dtype)

    return ctx.lazy(x.dtype, x.shape, element, sources=[x, norm], cost=3)


@operator("LRN")
def lrn(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha / size * sum of the squares of `size` neighbouring channels) ** beta."""
    ctx.native(x)
    size = int(node.attr("size"))
    alpha, beta, bias = node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    wide = accumulator(x.dtype)
    x = ctx.plain(x)
    first = -((size - 1) // 2)

    def element(i: tuple[Dim, ...]) -> Expr:
        zero = total = ex.constant(0, wide)
        for shift in range(first, first + size):
            channel = i[1] + shift
            inside = (ex.index(channel) >= 0) & (ex.index(channel) < ex.index(x.shape[1]))
            value = ex.guard(inside, ex.cast(x.at((i[0], channel, *i[2:])), wide), zero)
            total = total + value * value
        divisor = ex.binary("pow", total * (alpha / size) + bias, beta)
        return ex.cast(ex.cast(x.at(i), wide) / divisor, x.dtype)

    return ctx.lazy(x.dtype, x.shape, element, cost=3 * size + 30)
