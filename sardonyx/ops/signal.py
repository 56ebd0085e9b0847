"""Signal processing: discrete Fourier transforms, by the kernels fft_f32 and fft_f64.

Their factors are weights where the length is known, and else computed in each run, always in float64. MelWeightMatrix
is a constant almost always, and else runs on the host. The window operators are inlined from their definitions.
"""

from __future__ import annotations

import math

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import Tensor
from sardonyx.ops.linalg import cast
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import accumulator, checked_axis
from sardonyx.ops.registry import operator

LARGEST = 31  # prime factor of a length that is not made a convolution; FFT_LARGEST of fft.h


def _without(n: int, primes: int) -> int:
    """What is left of `n` without its prime factors up to `primes`."""
    for divisor in range(2, primes + 1):
        while n > 1 and n % divisor == 0:
            n //= divisor
    return n


def points_of(length: int) -> int:
    """The length of the transform that computes one of `length` points, as `fft_points` of kernels/c."""
    if _without(length, LARGEST) <= 1:
        return length
    blocks = -(-2 * length // 256)
    while _without(blocks, 5) > 1:
        blocks += 1
    return 256 * blocks


def roots(steps: np.ndarray, turn: int) -> np.ndarray:
    """exp(-2 pi i steps / turn), float64 [steps, 2], to a unit or so: angles are reduced while they are integers."""
    eighths, rest = np.divmod(8 * (np.asarray(steps, np.int64) % turn), turn)
    odd = eighths % 2 == 1  # counted back from the next multiple of a quarter
    angle = np.where(odd, turn - rest, rest) * (math.pi / 4 / turn)
    cos, sin = np.cos(angle), np.where(odd, -1, 1) * np.sin(angle)
    quarter = (eighths + 1) // 2 % 4
    real = np.choose(quarter, [cos, -sin, -cos, sin])
    return np.stack([real, -np.choose(quarter, [sin, cos, -sin, -cos])], axis=-1)


def _table(ctx: Lowering, count: Dim, power: int, turn: Dim, dtype: str) -> Pointer:
    """exp(-2 pi i j^power / turn) for j < count, [count, 2]: a weight, or computed where only a run knows `turn`."""
    if isinstance(count, int) and isinstance(turn, int):
        j = np.arange(count)
        return ctx.pointer(ctx.constant(roots(j**power, max(turn, 1)).astype(dtype)))
    step = ex.constant(math.pi / 2, "float64") / ex.cast(ex.index(turn), "float64")

    def element(i: tuple[Dim, ...]) -> Expr:  # -sin is the cosine a quarter further on; angles are folded to a quarter
        quarters = ix.mod(4 * (i[0] * i[0] if power == 2 else i[0]) + i[1] * turn, 4 * turn)
        half = ix.imin(quarters, 4 * turn - quarters)
        cos = ex.unary("cos", ex.cast(ex.index(ix.imin(half, 2 * turn - half)), "float64") * step)
        return ex.cast(ex.select(ex.compare("lt", ex.index(turn), ex.index(half)), -cos, cos), dtype)

    return ctx.pointer(ctx.lazy(dtype, (count, 2), element, cost=20))


def _factors(ctx: Lowering, length: Dim, size: Dim, dtype: str) -> dict[str, Dim | Pointer]:
    """What the kernels know of a length and the `size` that is transformed: points of it, and tables of factors."""
    if isinstance(size, int):
        points: Dim = points_of(size)
    else:
        points = ix.symbol(ctx.fresh("s"))
        ctx.emit(Kernel("fft_points", {"n": size}, (), serial=True, result=points))
    chirped, unpacked = ix.imin(size, points - size), length - size  # 0 where there is none
    return {
        "size": size,
        "points": points,
        "turn": _table(ctx, points, 1, points, dtype),
        "chirp": _table(ctx, chirped, 2, 2 * size, dtype),
        "unpack": _table(ctx, unpacked, 1, length, dtype),
    }


def _transform(ctx: Lowering, x: Tensor, shape: tuple[Dim, ...], parts: int, fields: dict) -> Tensor:
    """The tensor of `shape` that the kernel makes of `x`, which has `parts` numbers a sample."""
    dtype = accumulator(x.dtype)
    result = ctx.temporary(dtype, ix.product(shape))
    fields = {"window": None, "inverse": 0, "mirrored": 0, "parts": parts, "y_parts": shape[-1]} | fields
    length = fields["length"]
    pairs = parts == 1 and not fields["mirrored"]  # of real samples, where their number is even, are complex ones
    size = length - (1 - ix.mod(length, 2)) * ix.floordiv(length, 2) if pairs else length
    fields |= {"x": ctx.pointer(cast(ctx, x, dtype)), "y": Pointer(result)} | _factors(ctx, length, size, dtype)
    ctx.emit(Kernel(f"fft_{'f64' if dtype == 'float64' else 'f32'}", fields, (result,)))
    return cast(ctx, ctx.in_memory(result, shape), x.dtype)


def _dft(ctx: Lowering, node: Node, x: Tensor, length: Tensor | None, axis: int) -> Tensor:
    ctx.native(x)
    ctx.requires(is_float(x.dtype) and x.shape[-1] in (1, 2), "signals are real or complex floats")
    parts = ix.known(x.shape[-1])
    axis = checked_axis(ctx, axis, x.rank)
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    real, given = inverse and onesided, x.shape[axis]
    default = 2 * (given - 1) if real else given
    turn = default if length is None else ctx.dim(ctx.elements(length)[0])
    bins = ix.floordiv(turn, 2) + 1 if onesided and not real else turn
    outer, inner = ix.product(x.shape[:axis]), ix.product(x.shape[axis + 1 : -1])
    fields = {
        "outer": outer, "frames": 1, "inner": inner,
        "x_outer": given * inner * parts, "x_frame": 0, "x_step": inner * parts,
        "length": turn, "given": given, "bins": bins, "inverse": inverse, "mirrored": real,
    }  # fmt: skip
    return _transform(ctx, x, (*x.shape[:axis], bins, *x.shape[axis + 1 : -1], 1 if real else 2), parts, fields)


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
    hop = ctx.dim(ctx.elements(step)[0])
    ctx.check(ex.index(hop) > 0, "value", "frame_step is not positive")
    if window is not None:
        size = window.shape[0]
    else:
        if length is None:
            raise Unsupported("neither window nor frame_length")
        size = ctx.dim(ctx.elements(length)[0])
    ctx.check(ex.index(size) <= ex.index(x.shape[1]), "shape", "the frame is longer than the signal")
    frames = ctx.sized(1 + ix.floordiv(x.shape[1] - size, hop), lower=1)
    bins = ix.floordiv(size, 2) + 1 if node.attr("onesided", 1) else size
    fields: dict[str, Dim | Pointer] = {
        "outer": x.shape[0], "frames": frames, "inner": 1,
        "x_outer": x.shape[1] * parts, "x_frame": hop * parts, "x_step": parts,
        "length": size, "given": size, "bins": bins,
    }  # fmt: skip
    if window is not None:
        fields["window"] = ctx.pointer(cast(ctx, window, accumulator(x.dtype)))
    return _transform(ctx, x, (x.shape[0], frames, bins, 2), parts, fields)
