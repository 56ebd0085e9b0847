"""Resize and Upsample. Other operators on images are in regions.py and sampling.py; ImageDecoder runs on the host.

Resizing goes axis by axis. What an axis reads is a table with one row for each position of the result: where its taps
lie, and their weights. The table is a constant where scales are known, and computed by the run where they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.program import Reduce, Store
from sardonyx.compiler.tensor import Plain, Tensor, variables
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import Region, checked_axis, reduce
from sardonyx.ops.registry import operator

UNROLLED = 4  # taps of an axis that are written out rather than looped over
Real = Any  # a float, a numpy array, or an Expr of dtype float64: the formulas below are written once for all of them


def _floor(x: Real) -> Real:
    return ex.unary("floor", x) if isinstance(x, Expr) else np.floor(x)


def _where(condition: Any, x: Real, y: Real) -> Real:
    if not isinstance(condition, Expr):
        return y if isinstance(y, Expr) and not condition else x if isinstance(x, Expr) else np.where(condition, x, y)
    if not isinstance(x, Expr) and not isinstance(y, Expr):
        x = ex.constant(x, "float64")
    return ex.select(condition, x, y)


def _distance(x: Real) -> Real:
    return ex.unary("abs", x) if isinstance(x, Expr) else np.abs(x)


def _equal(x: Real, y: float) -> Any:
    return x.equal(y) if isinstance(x, Expr) else x == y


@dataclass(frozen=True)
class Axis:
    """One axis to resize. What is an Expr or an Index is known at run time only."""

    number: int
    size: Dim
    result: Dim
    scale: Real
    roi: tuple[Real, Real]

    @property
    def known(self) -> bool:
        """True when everything is known now."""
        values = (self.size, self.result, self.scale, *self.roi)
        return not any(isinstance(value, Expr | ix.Index) for value in values)


@dataclass(frozen=True)
class Rule:
    """The attributes that say where a position of the result lies in the image, and what is read there."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    outside: float


def _real(value: Dim) -> Real:
    return float(value) if isinstance(value, int) else ex.cast(ex.index(value), "float64")


def _source(rule: Rule, axis: Axis, i: Real) -> Real:
    """Where position `i` of the result lies in the image."""
    size, whole = _real(axis.size), _real(axis.result)
    width, half = size * axis.scale, (i + 0.5) / axis.scale - 0.5
    single = _equal(width, 1.0)
    if rule.coordinates == "half_pixel":
        return half
    if rule.coordinates == "half_pixel_symmetric":
        return size / 2 * (1.0 - whole / width) + half
    if rule.coordinates == "pytorch_half_pixel":
        return _where(single, i * 0.0 - 0.5, half)
    if rule.coordinates == "align_corners":
        return _where(single, i * 0.0, i * (size - 1.0) / _where(single, 1.0, width - 1.0))
    if rule.coordinates == "asymmetric":
        return i / axis.scale
    if rule.coordinates == "tf_half_pixel_for_nn":
        return half + 0.5
    if rule.coordinates == "tf_crop_and_resize":
        start, end = axis.roi
        step = (end - start) * (size - 1.0)
        return _where(single, i * 0.0 + step / 2, i * step / _where(single, 1.0, width - 1.0)) + start * (size - 1.0)
    raise Unsupported(f"coordinate_transformation_mode {rule.coordinates}")


def _nearest(rule: Rule, x: Real) -> Real:
    if rule.nearest == "round_prefer_floor":
        return -_floor(0.5 - x)
    if rule.nearest == "round_prefer_ceil":
        return _floor(x + 0.5)
    if rule.nearest == "floor":
        return _floor(x)
    if rule.nearest == "ceil":
        return -_floor(-x)
    raise Unsupported(f"nearest_mode {rule.nearest}")


def cubic_weight(t: Real, a: float) -> Real:
    """The weight of a tap at distance `t` in cubic convolution with coefficient `a`."""
    t = _distance(t)
    near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
    far = ((t * a - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a
    return _where(t <= 1.0, near, _where(t < 2.0, far, t * 0.0))


def _weight(rule: Rule, t: Real) -> Real:
    """The weight of a tap at distance `t`."""
    if rule.mode == "cubic":
        return cubic_weight(t, rule.cubic)
    t = _distance(t)
    return _where(t < 1.0, 1.0 - t, t * 0.0)


def _shrink(rule: Rule, axis: Axis) -> Real:
    """What distances are multiplied by: with antialias, a smaller image takes its taps from further away."""
    return _where(axis.scale < 1.0, axis.scale, 1.0) if rule.antialias else 1.0


def _first(rule: Rule, axis: Axis) -> Real:
    """The first tap, counted from the last position left of the source; there are 2 - 2 * first of them."""
    reach = 1.0 if rule.mode == "linear" else 2.0
    return _floor(-reach / _shrink(rule, axis)) + 1.0


def _tap(rule: Rule, axis: Axis, i: Real, k: Real) -> tuple[Real, Real]:
    """Position (not yet clamped) and weight of tap `k` of position `i` of the result."""
    x = _source(rule, axis, i)
    if rule.mode == "nearest":
        return _nearest(rule, x), x * 0.0 + 1.0
    place = -_floor(-x) - 1.0 + _first(rule, axis) + k  # so that x is 0 < distance <= 1 right of tap -first
    weight = _weight(rule, (place - x) * _shrink(rule, axis))
    if rule.exclude_outside:
        weight = _where((place >= 0.0) & (place <= _real(axis.size) - 1.0), weight, weight * 0.0)
    return place, weight


def _tables(ctx: Lowering, rule: Rule, axis: Axis, wide: str) -> tuple[Tensor, Tensor]:
    """``(places, weights)`` of shape (result, taps); a place of -1 stands for the extrapolation value."""
    crop = rule.coordinates == "tf_crop_and_resize"
    normalized = rule.mode != "nearest" and (rule.exclude_outside or rule.antialias)
    count = 1.0 if rule.mode == "nearest" else 2.0 - 2.0 * _first(rule, axis)
    if axis.known:
        found, shares = _known_tables(rule, axis, float(count), crop=crop, normalized=normalized)
        return ctx.constant(found), ctx.constant(shares.astype(wide))
    shape = (axis.result, ctx.dim(ex.cast(count, "int64")) if isinstance(count, Expr) else int(count))

    def tap(position: tuple[Dim, ...]) -> tuple[Expr, Expr]:
        i, k = (ex.cast(ex.index(p), "float64") for p in position)
        return _tap(rule, axis, i, k)

    def place(position: tuple[Dim, ...]) -> Expr:
        clamped = ex.maximum(ex.cast(tap(position)[0], "int64"), 0)
        clamped = ex.minimum(clamped, ex.maximum(ex.index(axis.size - 1), 0))
        if not crop:
            return clamped
        x = _source(rule, axis, ex.cast(ex.index(position[0]), "float64"))
        return ex.select((x < 0.0) | (x > _real(axis.size) - 1.0), ex.constant(-1, "int64"), clamped)

    places = ctx.cheap(ctx.lazy("int64", shape, place, cost=8))
    weights = ctx.cheap(ctx.lazy("float64", shape, lambda p: tap(p)[1], cost=8))
    total = None
    if normalized:
        total = reduce(ctx, Region.along(weights, (1,)), "sum", lambda v: v, lambda v: v, "float64")

    def weight(i: tuple[Dim, ...]) -> Expr:
        value = weights.at(i) if total is None else weights.at(i) / total.at((i[0], 0))
        return ex.cast(value, wide)

    return places, ctx.cheap(ctx.lazy(wide, shape, weight, cost=2))


def _known_tables(
    rule: Rule, axis: Axis, count: float, *, crop: bool, normalized: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The tables of an axis of which everything is known now, weights in float64."""
    size, result = ix.known(axis.size), ix.known(axis.result)
    i, k = np.arange(result, dtype=np.float64)[:, None], np.arange(count)[None, :]
    places, weights = np.broadcast_arrays(*_tap(rule, axis, i, k), i + k)[:2]
    places = np.clip(places, 0, max(size - 1, 0)).astype(np.int64)
    if crop:
        x = _source(rule, axis, i)[:, 0]
        places[(x < 0) | (x > size - 1)] = -1
    if normalized:
        weights = weights / weights.sum(1, keepdims=True)
    return places, weights


def _place(places: Tensor, i: Dim, tap: Dim, size: Dim) -> Dim:
    """A position of the image from the table; regular tables become arithmetic."""
    if places.array is not None and places.shape[1] == 1:
        found, count = places.array[:, 0], np.arange(places.array.shape[0])
        for factor in range(1, 9):
            if np.array_equal(found, count // factor):
                return ix.floordiv(i, factor)
            if np.array_equal(found, count * factor):
                return i * factor
    value = places.at((i, tap))
    known = ex.as_index(value)
    return ix.imax(known, 0) if known is not None else ix.element(ex.maximum(value, 0), size)


def _resize_axis(ctx: Lowering, x: Tensor, rule: Rule, axis: Axis, wide: str) -> Tensor:
    """`x`, in dtype `wide` or as it is for nearest, with one axis resized."""
    places, weights = _tables(ctx, rule, axis, wide)
    a, taps = axis.number, places.shape[1]
    nearest = rule.mode == "nearest"
    ctx.cheap(x, 2 if nearest else 0)
    shape = (*x.shape[:a], axis.result, *x.shape[a + 1 :])
    dtype = x.dtype if nearest else wide

    def term(i: tuple[Dim, ...], tap: Dim) -> Expr:
        value = x.at((*i[:a], _place(places, i[a], tap, axis.size), *i[a + 1 :]))
        return value if nearest else ex.cast(value, wide) * weights.at((i[a], tap))

    def finished(value: Expr, i: tuple[Dim, ...]) -> Expr:
        if rule.coordinates != "tf_crop_and_resize":
            return value
        return ex.select(places.at((i[a], 0)) < 0, ex.constant(rule.outside, dtype), value)

    if not isinstance(taps, int) or taps > UNROLLED:
        buffer, place = ctx.temporary(dtype, ix.product(shape)), Plain(shape)
        i, k = variables(shape), ix.variable("k", taps)
        total = Reduce("total", "sum", term(i, k), (k,), wide)
        ctx.nest(i, [total, Store(buffer, place.offset(i), finished(ex.local("total", wide), i))])
        return ctx.in_memory(buffer, shape)

    def element(i: tuple[Dim, ...]) -> Expr:
        value = term(i, 0)
        for tap in range(1, taps):
            value = value + term(i, tap)
        return finished(value, i)

    result = ctx.lazy(dtype, shape, element, sources=[x], cost=1 if nearest else 3 * taps)
    result.prefers = x.prefers if a > 1 else Plain
    return result


def _resize(ctx: Lowering, x: Tensor, rule: Rule, axes: Sequence[Axis]) -> Tensor:
    ctx.native(x)
    wide = "float64" if x.dtype == "float64" else "float32"
    result = x
    for axis in axes:
        same = axis.known and axis.size == axis.result and axis.scale == 1.0
        if same and rule.coordinates != "tf_crop_and_resize":
            continue
        if rule.mode != "nearest" and result is not x:
            ctx.cheap(result)
        result = _resize_axis(ctx, result, rule, axis, wide)
    if result.dtype == x.dtype:
        return result
    return ctx.lazy(x.dtype, result.shape, lambda i: ex.cast(result.at(i), x.dtype), sources=[result], cost=1)


def _rule(node: Node, coordinates: str = "half_pixel", nearest: str = "round_prefer_floor") -> Rule:
    mode = node.attr("mode", "nearest")
    return Rule(
        {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode),
        node.attr("coordinate_transformation_mode", coordinates),
        node.attr("nearest_mode", nearest),
        node.attr("cubic_coeff_a", -0.75),
        bool(node.attr("exclude_outside", 0)),
        bool(node.attr("antialias", 0)),
        node.attr("extrapolation_value", 0.0),
    )


def _number(value: Expr) -> Real:
    """An element of a scales input: a float when it is known."""
    return float(value.value) if value.op == "const" else ex.cast(value, "float64")


def _scaled(ctx: Lowering, size: Dim, scale: Real) -> Dim:
    """The result's size: floor(size * scale), computed in float32 as shape inference does."""
    if isinstance(size, int) and not isinstance(scale, Expr):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    scale = ex.cast(scale, "float32") if isinstance(scale, Expr) else ex.constant(scale, "float32")
    return ctx.dim(ex.cast(ex.unary("floor", ex.cast(ex.index(size), "float32") * scale), "int64"))


def _by_scales(
    ctx: Lowering, x: Tensor, scales: Sequence[Real], axes: Sequence[int], roi: Sequence[Real]
) -> list[Axis]:
    if len(scales) != len(axes):
        raise errors.ShapeError(f"{len(scales)} scales for {len(axes)} axes", node=ctx.node, operator=ctx.operator)
    found = []
    for number, (axis, scale) in enumerate(zip(axes, scales, strict=True)):
        if not isinstance(scale, Expr) and not scale > 0:
            raise errors.ModelError(f"a scale of {scale}", node=ctx.node, operator=ctx.operator, hint="scales are > 0")
        ends = (roi[number], roi[number + len(axes)]) if roi else (0.0, 1.0)
        found.append(Axis(axis, x.shape[axis], _scaled(ctx, x.shape[axis], scale), scale, ends))
    return found


def _by_sizes(
    ctx: Lowering, x: Tensor, sizes: Sequence[Dim], axes: Sequence[int], roi: Sequence[Real], policy: str
) -> list[Axis]:
    if len(sizes) != len(axes):
        raise errors.ShapeError(f"{len(sizes)} sizes for {len(axes)} axes", node=ctx.node, operator=ctx.operator)
    scales = [_real(size) / _real(x.shape[axis]) for size, axis in zip(sizes, axes, strict=True)]
    if policy != "stretch":
        common = scales[0]
        for scale in scales[1:]:
            smaller = scale < common if policy == "not_larger" else scale > common
            common = _where(smaller, scale, common)
        scales = [common if isinstance(common, Expr) else float(common)] * len(scales)
        wanted = [_floor(_real(x.shape[axis]) * scale + 0.5) for axis, scale in zip(axes, scales, strict=True)]
        sizes = [ctx.dim(ex.cast(w, "int64")) if isinstance(w, Expr) else int(w) for w in wanted]
    found = []
    for number, (axis, size, scale) in enumerate(zip(axes, sizes, scales, strict=True)):
        ends = (roi[number], roi[number + len(axes)]) if roi else (0.0, 1.0)
        found.append(Axis(axis, x.shape[axis], size, scale, ends))
    return found


@operator("Upsample", since=7)
def upsample_attribute(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Resizes by scales that are an attribute."""
    scales = [float(scale) for scale in node.attr("scales")]
    return _resize(ctx, x, _rule(node, "asymmetric", "floor"), _by_scales(ctx, x, scales, range(x.rank), ()))


@operator("Upsample", since=9)
@operator("Resize", since=10)
def upsample(ctx: Lowering, node: Node, x: Tensor, scales: Tensor) -> Tensor:
    """Resizes by scales: position i of the result lies at i / scale."""
    factors = [_number(value) for value in ctx.elements(scales)]
    return _resize(ctx, x, _rule(node, "asymmetric", "floor"), _by_scales(ctx, x, factors, range(x.rank), ()))


@operator("Resize", since=11)
def resize(
    ctx: Lowering,
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    """Resizes axes to sizes or by scales: nearest, linear or cubic."""
    ctx.native(x, scales, sizes)
    axes = [checked_axis(ctx, axis, x.rank) for axis in node.attr("axes", range(x.rank))]
    rule = _rule(node)
    region: list[Real] = []
    if roi is not None and rule.coordinates == "tf_crop_and_resize":
        region = [_number(value) for value in ctx.elements(roi)]
        if len(region) != 2 * len(axes):
            problem = f"{len(region)} numbers of roi for {len(axes)} axes"
            raise errors.ShapeError(problem, node=ctx.node, operator="Resize")
    if sizes is not None and sizes.size != 0:
        wanted = [ctx.dim(value) for value in ctx.elements(sizes)]
        policy = node.attr("keep_aspect_ratio_policy", "stretch")
        return _resize(ctx, x, rule, _by_sizes(ctx, x, wanted, axes, region, policy))
    if scales is None:
        raise errors.ModelError("neither scales nor sizes", node=ctx.node, operator="Resize")
    factors = [_number(value) for value in ctx.elements(scales)]
    return _resize(ctx, x, rule, _by_scales(ctx, x, factors, axes, region))
