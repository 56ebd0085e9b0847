"""Signal processing: discrete Fourier transforms, written as the sums that they are.

Factors come from a table of one turn, so that each is exact however long the signal. Transforms are O(n * n): enough
for the frames of a few hundred samples that audio front ends take. MelWeightMatrix is a constant almost always, and
else runs on the host. The window operators are inlined from their definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.program import Reduce, Stage, Store
from sardonyx.compiler.tensor import Plain, Tensor, variables
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import accumulator, checked_axis
from sardonyx.ops.registry import operator

Sample = Callable[[tuple[Dim, ...], Dim], tuple[Expr, Expr | None]]


def _turn(ctx: Lowering, length: Dim, dtype: str, function: str) -> Tensor:
    """cos or sin of 2 pi j / length for each j."""
    if isinstance(length, int):
        angles = np.arange(length) * (2 * math.pi / max(length, 1))
        return ctx.constant(getattr(np, function)(angles).astype(dtype))
    step = ex.constant(2 * math.pi, "float64") / ex.cast(ex.index(length), "float64")

    def element(i: tuple[Dim, ...]) -> Expr:
        return ex.cast(ex.unary(function, ex.cast(ex.index(i[0]), "float64") * step), dtype)

    return ctx.cheap(ctx.lazy(dtype, (length,), element, cost=20))


def _transform(
    ctx: Lowering,
    sample: Sample,
    shape: tuple[Dim, ...],
    axis: int,
    length: Dim,
    terms: Dim,
    dtype: str,
    *,
    inverse: bool = False,
    real: bool = False,
) -> Tensor:
    """Sums of ``sample(position, n) * exp(-+ 2 pi i n k / length)`` over n < `terms`, k along `axis` of `shape`.

    Args:
        ctx: the lowering.
        sample: (position, n) -> real part and imaginary part (None: zero) of sample n.
        shape: of the result, without the last axis, which holds real and imaginary part.
        axis: where k runs.
        length: samples of one turn.
        terms: samples to add up.
        dtype: of samples and result.
        inverse: positive sign, result divided by `length`.
        real: give the real part alone.
    """
    wide = accumulator(dtype)
    cos, sin = _turn(ctx, length, wide, "cos"), _turn(ctx, length, wide, "sin")
    outer, n = variables(shape), ix.variable("k", terms)
    m = ix.variable("m", terms)

    def product(n: Dim, imaginary: bool) -> Expr:
        at = (ix.mod(n * outer[axis], length),)
        re, im = sample(outer, n)
        c, s = cos.at(at), sin.at(at) if inverse else -sin.at(at)
        first, second = (s, c) if imaginary else (c, -s)
        return re * first if im is None else re * first + im * second

    result = ctx.temporary(dtype, ix.product(shape) * (1 if real else 2))
    place = Plain((*shape, 1 if real else 2))
    scale = ex.cast(ex.index(length), wide) if inverse else ex.constant(1, wide)
    stages: list[Stage] = [Reduce("re", "sum", product(n, False), () if isinstance(n, int) else (n,), wide)]
    stages.append(Store(result, place.offset((*outer, 0)), ex.cast(ex.local("re", wide) / scale, dtype)))
    if not real:
        stages.append(Reduce("im", "sum", product(m, True), () if isinstance(m, int) else (m,), wide))
        stages.append(Store(result, place.offset((*outer, 1)), ex.cast(ex.local("im", wide) / scale, dtype)))
    ctx.nest(outer, stages)
    return ctx.in_memory(result, place.shape)


def _dft(ctx: Lowering, node: Node, x: Tensor, length: Tensor | None, axis: int) -> Tensor:
    ctx.native(x)
    ctx.requires(is_float(x.dtype) and x.shape[-1] in (1, 2), "signals are real or complex floats")
    components = ix.known(x.shape[-1])
    ctx.cheap(x)
    axis = checked_axis(ctx, axis, x.rank)
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    real, wide = inverse and onesided, accumulator(x.dtype)
    given = x.shape[axis]
    default = 2 * (given - 1) if real else given
    turn = default if length is None else ctx.dim(ctx.elements(length)[0])
    half = ix.floordiv(turn, 2) + 1
    terms = half if real else turn

    def sample(position: tuple[Dim, ...], n: Dim) -> tuple[Expr, Expr | None]:
        inside = ex.compare("lt", ex.index(n), ex.index(given))
        at = (*position[:axis], n, *position[axis + 1 :])
        parts = [ex.guard(inside, ex.cast(x.at((*at, part)), wide), 0.0) for part in range(components)]
        if real:  # every bin but the first and the middle one stands for its mirror image too
            alone = ex.index(n).equal(0) | ex.index(2 * n).equal(ex.index(turn))
            parts = [ex.select(alone, part, part * 2.0) for part in parts]
        return parts[0], parts[1] if len(parts) == 2 else None

    shape = (*x.shape[:axis], half if onesided and not real else turn, *x.shape[axis + 1 : -1])
    return _transform(ctx, sample, shape, axis, turn, terms, x.dtype, inverse=inverse, real=real)


@operator("DFT", since=17)
def dft_attribute(ctx: Lowering, node: Node, x: Tensor, length: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform along an axis."""
    return _dft(ctx, node, x, length, node.attr("axis", 1))


@operator("DFT", since=20)
def dft(ctx: Lowering, node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform along an axis, forward or inverse, all bins or one side."""
    if axis is None:
        return _dft(ctx, node, x, length, -2)
    if axis.array is None:
        raise Unsupported("an axis known at run time only")
    return _dft(ctx, node, x, length, int(axis.array.reshape(-1)[0]))


@operator("STFT", since=17)
def stft(
    ctx: Lowering, node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
) -> Tensor:
    """Fourier transforms of overlapping frames, each multiplied by a window."""
    ctx.native(x, window)
    parts = ix.known(x.shape[2], "a number of components") if x.rank == 3 else 1
    ctx.requires(is_float(x.dtype) and parts in (1, 2), "signals are real or complex floats")
    ctx.cheap(x)
    wide, hop = accumulator(x.dtype), ctx.dim(ctx.elements(step)[0])
    ctx.check(ex.index(hop) > 0, "value", "frame_step is not positive")
    if window is not None:
        ctx.cheap(window)
        size = window.shape[0]
    else:
        if length is None:
            raise Unsupported("neither window nor frame_length")
        size = ctx.dim(ctx.elements(length)[0])
    ctx.check(ex.index(size) <= ex.index(x.shape[1]), "shape", "the frame is longer than the signal")
    frames = 1 + ix.floordiv(x.shape[1] - size, hop)
    bins = ix.floordiv(size, 2) + 1 if node.attr("onesided", 1) else size

    def sample(position: tuple[Dim, ...], n: Dim) -> tuple[Expr, Expr | None]:
        at = (position[0], position[1] * hop + n)
        values = [ex.cast(x.at((*at, part) if x.rank == 3 else at), wide) for part in range(parts)]
        if window is not None:
            values = [value * ex.cast(window.at((n,)), wide) for value in values]
        return values[0], values[1] if parts == 2 else None

    return _transform(ctx, sample, (x.shape[0], frames, bins), 2, size, size, x.dtype)
