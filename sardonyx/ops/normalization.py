"""Normalisations: subtract a mean, divide by a spread, scale and shift.

Statistics of half-precision values are computed in float32. A batch normalisation with constant parameters is one
multiplication and one addition, which fuse into whatever comes before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import numpy_dtype
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.program import Reduce, Stage, Store
from sardonyx.compiler.tensor import Plain, Tensor
from sardonyx.ops.binary import broadcast
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import READ_AGAIN, Region, accumulator, checked_axis, kept_shape, mean, reduce
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
    if all(p.array is not None for p in parameters):
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
    if x.blocked:
        x = ctx.plain(x)
    result = ctx.temporary(x.dtype, x.size)
    outer = Plain(x.shape).domain()[1]
    count = Region.along(x, axes).count(wide)

    def over(prefix: str) -> tuple[Expr, tuple[Dim, ...], tuple[Dim, ...]]:
        inner = {axis: ix.variable(f"{prefix}{axis}", x.shape[axis]) for axis in axes}
        position = tuple(inner.get(axis, i) for axis, i in enumerate(outer))
        return ex.cast(x.at(position), wide), position, tuple(inner.values())

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
    stages.append(Store(result, Plain(x.shape).offset(at), value, n))
    kept = Plain(kept_shape(x, axes))
    place = kept.offset(tuple(0 if axis in axes else i for axis, i in enumerate(outer)))
    extras = [(name, ctx.temporary(wide, kept.size())) for name in ("mean", "factor") if extra]
    stages += [Store(buffer, place, ex.local(name, wide)) for name, buffer in extras]
    ctx.nest([i for axis, i in enumerate(outer) if axis not in axes], stages)
    return [ctx.in_memory(result, x.shape), *(ctx.in_memory(buffer, kept.shape) for _, buffer in extras)]


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
