"""Pooling. fp32 runs in kernels, one for planes in rows and one for NCHW16c, where three dimensions take two steps.

The rest are loop nests.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float, is_integer, numpy_dtype
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer, Reduce, Store
from sardonyx.compiler.tensor import LANES, Blocked, Plain, Tensor, variables
from sardonyx.ops.convolution import cast
from sardonyx.ops.convolution_forms import reshaped
from sardonyx.ops.convolution_int8 import largest_bytes, suits_bytes
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.window import Window, geometry, single, unflatten, window
from sardonyx.ops.winograd import open_blocked

HALF = ("float16", "bfloat16")  # pooled in float32, where the kernels are: the largest is exact, a mean rounded once
WAY = 5.5  # what an element costs on its way into blocks or back, in taps of a window there
ROW_TAP = 2  # what a tap costs in rows, where loads cross cache lines and outputs of the last 16 may be done twice
MOST_WASTE = 4  # a plain input is put into blocks of 16 channels when at most this much of them would be padding


def window_of(ctx: Lowering, node: Node, x: Tensor) -> Window:
    """The window that a pooling node's attributes describe."""
    kernel = node.attr("kernel_shape")
    if x.rank < 3 or kernel is None or len(kernel) != x.rank - 2 or min(kernel) < 1:
        raise errors.ModelError(
            f"kernel_shape {kernel} does not fit an input of rank {x.rank}", node=node.name, operator=node.op_type
        )
    return window(ctx, node, x.shape[2:], kernel, ceil_mode=bool(node.attr("ceil_mode", 0)))


def _suits_blocks(x: Tensor) -> bool:
    channels = x.shape[1]
    enough = x.blocked or (isinstance(channels, int) and -(-channels // LANES) * LANES <= MOST_WASTE * channels)
    return x.dtype == "float32" and x.rank in (3, 4, 5) and enough


def _suits_rows(x: Tensor, place: Window) -> bool:
    """Whether planes are pooled where they lie, rather than in blocks with the way there and back.

    Measured, rows beside blocks, ms: 3x3 at 28 x 28 0.045 and 0.045, at 14 x 14 0.23 and 0.16; 5x5 at 20 x 20 0.25 and
    0.16; 2x2 with stride 2 at 28 x 28 0.088 and 0.104; 2x2x2 with stride 2 at 56 x 56 0.57 and 1.2.
    """
    if x.dtype != "float32" or x.blocked or x.rank > 5:
        return False
    size, output, kernel = place.size, place.output, place.kernel
    if not (ix.are_known(size) and ix.are_known(output) and ix.are_known(kernel)) or 0 in (*size, *output):
        return True
    width, taps = output[-1], math.prod(kernel)
    twice = -(-width // LANES) * LANES / width
    return ROW_TAP * taps * twice < taps + WAY * (math.prod(size) / math.prod(output) + 1)


def _pool_rows(ctx: Lowering, x: Tensor, place: Window, kind: str) -> Tensor:
    missing = 3 - len(place.size)
    ones, none = (1,) * missing, (0,) * missing
    fields: dict = {"x": ctx.pointer(x), "kind": kind, "n": x.shape[0], "c": x.shape[1]}
    for names, values, default in (
        (("id", "ih", "iw"), place.size, ones),
        (("od", "oh", "ow"), place.output, ones),
        (("kd", "kh", "kw"), place.kernel, ones),
        (("stride_d", "stride_h", "stride_w"), place.strides, ones),
        (("dilation_d", "dilation_h", "dilation_w"), place.dilations, ones),
        (("pad_front", "pad_top", "pad_left"), place.begin, none),
        (("pad_back", "pad_bottom", "pad_right"), place.end, none),
    ):
        fields |= dict(zip(names, (*default, *values), strict=True))
    shape, pixels = (*x.shape[:2], *place.output), ix.product(place.output)
    buffer, image = ctx.temporary("float32", ix.product(shape)), x.shape[1] * pixels
    fields |= {"y": Pointer(buffer), "y_batch": image}
    domain, strides = (x.shape[0], 1, x.shape[1], pixels), (image, image, pixels, 1)
    kernel = Kernel(
        "pool_rows_f32", fields, (buffer,), domain=domain, strides=strides, target="y", pitches=("y_batch",)
    )
    ctx.open_kernel(kernel)
    return ctx.in_memory(buffer, shape)


def _pool(ctx: Lowering, x: Tensor, place: Window, kind: str) -> Tensor:
    if x.rank == 5:
        return _pool_planes_then_depth(ctx, x, place, kind)
    source, pitch = ctx.blocked(x)
    shape = (*x.shape[:2], *place.output)
    blocks = ix.ceildiv(x.shape[1], LANES)
    ends = (0, *place.end) if len(place.end) == 1 else place.end
    fields = geometry(place) | {
        "kind": kind,
        "x": source,
        "n": x.shape[0],
        "c_blocks": blocks,
        "pad_bottom": ends[0],
        "pad_right": ends[1],
        "x_batch": pitch,
    }
    raw = open_blocked(ctx, "pool_nchw16c_f32", fields, shape)
    return ctx.lazy(raw.dtype, shape, raw.at, sources=[raw], cost=1)


def _pool_planes_then_depth(ctx: Lowering, x: Tensor, place: Window, kind: str) -> Tensor:
    """Three dimensions: each depth of a channel block is a plane, then rows are depths and columns whole planes.

    A mean of means is the mean, since windows at one place have as many elements in each depth.
    """
    if not isinstance(x.layout, Blocked):
        x = ctx.in_memory(ctx.materialize(x, Blocked(x.shape)), x.shape, Blocked(x.shape))
    depth, planes = place.size[0], place.axes(1, 2)
    if planes != single(planes.size):
        stacked = (x.shape[0], ix.ceildiv(x.shape[1], LANES) * LANES * depth, *planes.size)
        y = _pool(ctx, reshaped(ctx, x, stacked), planes, kind)
        shape = (*x.shape[:2], depth, *planes.output)
        x = ctx.in_memory(ctx.materialize(y, Blocked(y.shape)), shape, Blocked(shape))
    if place.axes(0) == single((depth,)):
        return x
    rows = place.axes(0).beside(ix.product(planes.output))
    flat = reshaped(ctx, x, (*x.shape[:2], *rows.size))
    return reshaped(ctx, _pool(ctx, flat, rows, kind), (*x.shape[:2], *place.output))


def _lowest(dtype: str) -> Expr:
    if is_float(dtype):
        return ex.constant(float("-inf"), dtype)
    return ex.constant(int(__import__("numpy").iinfo(numpy_dtype(dtype)).min), dtype)


@operator("MaxPool")
def max_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """The largest element of each window, and on request where it was."""
    ctx.native(x)
    if x.dtype in HALF and not node.wants(1):
        return cast(ctx, max_pool(ctx, node, cast(ctx, x, "float32")), x.dtype)
    place = window_of(ctx, node, x)
    if node.wants(1):
        return _max_pool_indices(ctx, x, place, bool(node.attr("storage_order", 0)))
    if _suits_rows(x, place):
        return _pool_rows(ctx, x, place, "POOL_MAX")
    if _suits_blocks(x):
        return _pool(ctx, x, place, "POOL_MAX")
    if suits_bytes(x, place):
        return largest_bytes(ctx, x, place)
    ctx.requires(is_float(x.dtype) or is_integer(x.dtype), f"MaxPool of {x.dtype}")
    return _reduce_window(ctx, x, place, "max", lambda e: e, x.dtype)


def _reduce_window(
    ctx: Lowering, x: Tensor, place: Window, op: str, body: Callable[[Expr], Expr], dtype: str
) -> Tensor:
    ctx.cheap(x)
    shape = (*x.shape[:2], *place.output)
    outer, taps = variables(shape), variables(place.kernel, "k")
    where, inside = place.tap(outer[2:], taps)
    otherwise = ex.constant(0, dtype) if op == "sum" else _lowest(dtype)
    value = ex.guard(inside, body(ex.cast(x.at((*outer[:2], *where)), dtype)), otherwise)
    buffer = ctx.temporary(dtype, ix.product(shape))
    store = Store(buffer, Plain(shape).offset(outer), ex.local("r", dtype))
    ctx.nest(outer, [Reduce("r", op, value, taps, dtype), store])
    return ctx.in_memory(buffer, shape)


def _max_pool_indices(ctx: Lowering, x: Tensor, place: Window, column_major: bool) -> tuple[Tensor, Tensor]:
    """Value and position: the window's maximum is found as a position, from which both follow."""
    ctx.cheap(x)
    shape = (*x.shape[:2], *place.output)
    outer = variables(shape)
    count = ix.product(place.kernel)
    tap = ix.variable("k0", count)
    where, inside = place.tap(outer[2:], unflatten(tap, place.kernel))
    value = ex.guard(inside, x.at((*outer[:2], *where)), _lowest(x.dtype))
    at = ctx.temporary("int64", ix.product(shape))
    store = Store(at, Plain(shape).offset(outer), ex.local("r", "int64"))
    ctx.nest(outer, [Reduce("r", "argmax", value, (tap,), x.dtype), store])
    taps = ctx.in_memory(at, shape)

    def source(i: tuple[Dim, ...]) -> tuple[Dim, ...]:
        found = ix.element(taps.at(i), count)
        places, _ = place.tap(i[2:], unflatten(found, place.kernel))
        return tuple(ix.imax(ix.imin(p, size - 1), 0) for p, size in zip(places, place.size, strict=True))

    def position(i: tuple[Dim, ...]) -> Expr:
        spatial, size = source(i), place.size
        if column_major:
            spatial, size = spatial[::-1], size[::-1]
        offset = Plain(size).offset(spatial)
        return ex.index((i[0] * x.shape[1] + i[1]) * ix.product(place.size) + offset)

    values = ctx.lazy(x.dtype, shape, lambda i: x.at((*i[:2], *source(i))), sources=[taps], cost=8)
    return values, ctx.lazy("int64", shape, position, sources=[taps], cost=8)


@operator("AveragePool")
def average_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The mean of each window; taps in the padding count when ``count_include_pad`` is set."""
    ctx.native(x)
    if x.dtype in HALF:
        return cast(ctx, average_pool(ctx, node, cast(ctx, x, "float32")), x.dtype)
    ctx.requires(is_float(x.dtype), f"AveragePool of {x.dtype}")
    place = window_of(ctx, node, x)
    padded = bool(node.attr("count_include_pad", 0))
    kind = "POOL_AVERAGE_PADDED" if padded else "POOL_AVERAGE"
    if _suits_rows(x, place):
        return _pool_rows(ctx, x, place, kind)
    if _suits_blocks(x):
        return _pool(ctx, x, place, kind)
    dtype = "float64" if x.dtype == "float64" else "float32"
    sums = _reduce_window(ctx, x, place, "sum", lambda e: e, dtype)

    def element(i: tuple[Dim, ...]) -> Expr:
        count: Dim = 1
        for axis, p in enumerate(i[2:]):
            count = count * taps_inside(place, axis, p, padded)
        return ex.cast(sums.at(i) / ex.cast(ex.index(count), dtype), x.dtype)

    return ctx.lazy(x.dtype, sums.shape, element, sources=[sums], cost=6)


def taps_inside(place: Window, axis: int, p: Dim, padded: bool) -> Dim:
    """How many taps of the window at output position `p` lie in the input (or its padding)."""
    dilation = place.dilations[axis]
    start = p * place.strides[axis] - place.begin[axis]
    low = -place.begin[axis] if padded else 0
    high = place.size[axis] + (place.end[axis] if padded else 0)
    first = ix.imax(ix.ceildiv(low - start, dilation), 0)
    last = ix.imin(ix.ceildiv(high - start, dilation), place.kernel[axis])
    return ix.imax(last - first, 0)


@operator("LpPool")
def lp_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The p-norm of each window."""
    ctx.native(x)
    ctx.requires(is_float(x.dtype), f"LpPool of {x.dtype}")
    p = float(node.attr("p", 2))
    dtype = "float64" if x.dtype == "float64" else "float32"
    sums = _reduce_window(ctx, x, window_of(ctx, node, x), "sum", lambda e: power(ex.unary("abs", e), p), dtype)
    root = lambda i: ex.cast(power(sums.at(i), 1.0 / p), x.dtype)  # noqa: E731
    return ctx.lazy(x.dtype, sums.shape, root, sources=[sums], cost=30)


def power(x: Expr, p: float) -> Expr:
    """``x ** p`` for x >= 0, by multiplication or square root where that is exact."""
    if p == 1.0:
        return x
    if p == 2.0:
        return x * x
    if p == 0.5:
        return ex.unary("sqrt", x)
    return ex.binary("pow", x, p)


@operator("GlobalAveragePool")
def global_average_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The mean over all spatial positions."""
    return _global(ctx, x, "POOL_GLOBAL_AVERAGE")


@operator("GlobalMaxPool")
def global_max_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The maximum over all spatial positions."""
    return _global(ctx, x, "POOL_MAX")


@operator("GlobalLpPool", since=2)
def global_lp_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """The p-norm over all spatial positions."""
    return lp_pool(ctx, node, x) if node.attr("kernel_shape") else _global_lp(ctx, x, float(node.attr("p", 2)))


def whole_window(x: Tensor) -> Window:
    """The window that is all of `x`."""
    size, rank = x.shape[2:], x.rank - 2
    return Window(size, size, (1,) * rank, (1,) * rank, (0,) * rank, (0,) * rank, (1,) * rank)


def _global(ctx: Lowering, x: Tensor, kind: str) -> Tensor:
    ctx.native(x)
    ctx.requires(is_float(x.dtype) and x.rank >= 3, f"global pooling of {x.dtype}, rank {x.rank}")
    place = whole_window(x)
    if _suits_blocks(x):
        return _pool(ctx, x, place, kind)
    if kind == "POOL_MAX":
        return _reduce_window(ctx, x, place, "max", lambda e: e, x.dtype)
    dtype = "float64" if x.dtype == "float64" else "float32"
    sums = _reduce_window(ctx, x, place, "sum", lambda e: e, dtype)
    count = ex.cast(ex.index(ix.product(place.size)), dtype)
    return ctx.lazy(x.dtype, sums.shape, lambda i: ex.cast(sums.at(i) / count, x.dtype), sources=[sums], cost=2)


def _global_lp(ctx: Lowering, x: Tensor, p: float) -> Tensor:
    ctx.native(x)
    ctx.requires(is_float(x.dtype), f"GlobalLpPool of {x.dtype}")
    dtype = "float64" if x.dtype == "float64" else "float32"
    sums = _reduce_window(ctx, x, whole_window(x), "sum", lambda e: power(ex.unary("abs", e), p), dtype)
    root = lambda i: ex.cast(power(sums.at(i), 1.0 / p), x.dtype)  # noqa: E731
    return ctx.lazy(x.dtype, sums.shape, root, sources=[sums], cost=30)


@operator("MaxUnpool", since=9)
def max_unpool(ctx: Lowering, node: Node, x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
    """Puts each element back at the position that MaxPool took it from; zero elsewhere."""
    ctx.native(x)
    kernel = node.attr("kernel_shape")
    strides = node.attr("strides") or [1] * len(kernel)
    pads = node.attr("pads") or [0] * (2 * len(kernel))
    natural = [
        (size - 1) * stride - pads[axis] - pads[len(kernel) + axis] + kernel[axis]
        for axis, (size, stride) in enumerate(zip(x.shape[2:], strides, strict=True))
    ]
    inferred = (*x.shape[:2], *natural)
    output = tuple(ctx.dim(e) for e in ctx.elements(shape)) if shape is not None else inferred
    buffer = ctx.temporary(x.dtype, ix.product(output))
    outer = variables((ix.product(output),))
    ctx.nest(outer, [Store(buffer, outer[0] if outer else 0, ex.constant(0, x.dtype))])
    ctx.cheap(x)
    ctx.cheap(indices)
    loops = variables(x.shape)
    # Positions count within the unpadded plane that MaxPool read; a wanted larger shape keeps them as they are.
    target = ex.gather_index(indices.at(loops), ix.product(inferred))
    if shape is not None:
        parts = unflatten(target, inferred)
        target = Plain(output).offset(parts)
    ctx.nest(loops, [Store(buffer, target, x.at(loops))])
    return ctx.in_memory(buffer, output)
