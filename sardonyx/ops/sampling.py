"""GridSample and AffineGrid: an image read at places that are data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sardonyx.compiler import expr as ex
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Position, Tensor
from sardonyx.ops.image import cubic_weight
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import accumulator
from sardonyx.ops.registry import operator


def _reflected(x: Expr, low: Expr, high: Expr) -> Expr:
    """`x` mirrored at the borders until it lies between them."""
    span = high - low
    below = x < low
    beyond = ex.select(below, low - x, x - high)
    turns = ex.unary("floor", beyond / span)
    rest = beyond - turns * span
    odd = (turns - ex.unary("floor", turns * 0.5) * 2.0).equal(1.0)
    inside = ex.select(below, ex.select(odd, high - rest, low + rest), ex.select(odd, low + rest, high - rest))
    return ex.select(below | (x > high), inside, x)


@dataclass(frozen=True)
class Sampler:
    """How GridSample reads an image."""

    mode: str
    padding: str
    corners: bool

    def coordinate(self, value: Expr, size: Dim) -> Expr:
        """Where -1 .. 1 lies along an axis."""
        extent = ex.cast(ex.index(size), value.dtype)
        if self.corners:
            x = (value + 1.0) / 2.0 * (extent - 1.0)
        else:
            x = ((value + 1.0) * extent - 1.0) / 2.0
        if self.mode == "nearest":
            x = ex.unary("round_even", x)
        if self.padding == "border":  # from beyond the border pixels' far edges to their centres
            margin = 0.0 if self.corners else 0.5
            beyond = (x < -margin) | (x > extent - (1.0 - margin))
            x = ex.select(beyond, ex.minimum(ex.maximum(x, 0.0), extent - 1.0), x)
        return self.reflected(x, size) if self.padding == "reflection" else x

    def reflected(self, x: Expr, size: Dim) -> Expr:
        """`x` mirrored at the borders of the image."""
        extent = ex.cast(ex.index(size), x.dtype)
        if self.corners:
            return _reflected(x, ex.constant(0, x.dtype), extent - 1.0)
        return _reflected(x, ex.constant(-0.5, x.dtype), extent - 0.5)

    def taps(self, x: Expr, size: Dim) -> list[tuple[Expr, Dim, Expr | None]]:
        """``(weight, position, inside)`` of what is read around `x`; inside is None where it always is."""
        if self.mode == "nearest":
            return [self._tap(ex.constant(1, x.dtype), x, size)]
        floor = ex.unary("floor", x)
        t = x - floor
        if self.mode == "linear":
            weights, first = [1.0 - t, t], 0.0
        else:
            weights, first = [cubic_weight(t - float(j), -0.75) for j in (-1, 0, 1, 2)], -1.0
        return [self._tap(weight, floor + (first + float(j)), size) for j, weight in enumerate(weights)]

    def between(self, x: Tensor, start: Position, places: Sequence[Expr], wide: str) -> Expr:
        """The image `x`, at `start` of its first axes, read at `places` (in pixels) of the others."""
        axes = [self.taps(place, size) for place, size in zip(places, x.shape[len(start) :], strict=True)]

        def interpolated(position: Position, inside: Expr | None) -> Expr:
            if len(position) == x.rank:
                value = ex.cast(x.at(position), wide)
                return value if inside is None else ex.select(inside, value, 0.0)
            terms = []
            for weight, place, within in axes[len(position) - len(start)]:
                both = within if inside is None else inside if within is None else inside & within
                value = interpolated((*position, place), both)
                terms.append(value if self.mode == "nearest" else weight * value)
            return sum(terms[1:], terms[0])

        return interpolated(tuple(start), None)

    def _tap(self, weight: Expr, place: Expr, size: Dim) -> tuple[Expr, Dim, Expr | None]:
        if self.padding == "reflection":
            place = ex.unary("trunc", self.reflected(place, size))
        inside = None
        if self.padding == "zeros":
            inside = (place >= 0.0) & (place < ex.cast(ex.index(size), place.dtype))
        return weight, ex.clamped_index(place, size), inside


@operator("GridSample", since=16)
def grid_sample(ctx: Lowering, node: Node, x: Tensor, grid: Tensor) -> Tensor:
    """The image read at the places that a grid gives, -1 .. 1 along each axis, last axis first."""
    ctx.native(x, grid)
    ctx.requires(is_float(x.dtype), f"samples of {x.dtype}")
    ctx.equal_dims(x.shape[0], grid.shape[0], "batches of image and grid")
    ctx.equal_dims(grid.shape[-1], x.rank - 2, "axes of image and grid")
    mode = node.attr("mode", "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    sampler = Sampler(mode, node.attr("padding_mode", "zeros"), bool(node.attr("align_corners", 0)))
    x, wide = ctx.plain(x), "float64" if x.dtype == "float64" else "float32"
    ctx.cheap(grid)
    sizes = x.shape[2:]

    def element(i: tuple[Dim, ...]) -> Expr:
        given = [ex.cast(grid.at((i[0], *i[2:], axis)), wide) for axis in reversed(range(len(sizes)))]
        places = [sampler.coordinate(v, size) for v, size in zip(given, sizes, strict=True)]
        return ex.cast(sampler.between(x, i[:2], places, wide), x.dtype)

    taps = {"nearest": 1, "linear": 2}.get(mode, 4) ** len(sizes)
    return ctx.lazy(x.dtype, (*x.shape[:2], *grid.shape[1:-1]), element, cost=20 + 8 * taps)


@operator("AffineGrid", since=20)
def affine_grid(ctx: Lowering, node: Node, theta: Tensor, size: Tensor) -> Tensor:
    """Where an affine map takes each pixel of an image of a given size, in coordinates -1 .. 1, last axis first."""
    ctx.native(theta, size)
    corners, wide = bool(node.attr("align_corners", 0)), accumulator(theta.dtype)
    dims = [ctx.dim(value) for value in ctx.elements(size)]
    ctx.equal_dims(theta.shape[0], dims[0], "batches of theta and size")
    sizes = dims[2:]
    ctx.cheap(theta)

    def coordinate(i: Dim, extent: Dim) -> Expr:
        place, count = ex.cast(ex.index(2 * i), wide), ex.cast(ex.index(extent), wide)
        if not corners:
            return (place + 1.0) / count - 1.0
        return ex.select(count.equal(1.0), ex.constant(-1, wide), place / (count - 1.0) - 1.0)

    def element(i: tuple[Dim, ...]) -> Expr:
        places = [coordinate(j, extent) for j, extent in zip(i[1:-1], sizes, strict=True)][::-1]
        row = [ex.cast(theta.at((i[0], i[-1], column)), wide) for column in range(len(sizes) + 1)]
        value = row[-1]
        for factor, place in zip(row, places, strict=False):
            value = value + factor * place
        return ex.cast(value, theta.dtype)

    return ctx.lazy(theta.dtype, (dims[0], *sizes, len(sizes)), element, cost=8 * len(sizes))
