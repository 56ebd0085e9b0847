"""Quantisation: floats to small integers and back, and products and convolutions of bytes.

Products of bytes are summed exactly in int32 by `matmul_int8`; what follows (requantisation, bias) is its epilogue.
Types of 4 and 2 bits and 8-bit floats are read and written as bytes; arithmetic is done in wider types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import (
    SMALL_FLOATS,
    SMALL_INTEGERS,
    integer_range,
    is_float,
    is_native,
)
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.host import dtype_name
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Buffer, Kernel, Pointer, Reduce, Store
from sardonyx.compiler.tensor import Element, Plain, Position, Tensor, variables
from sardonyx.kernels.packing_int8 import pack_quads
from sardonyx.ops.binary import broadcast, broadcast_shape
from sardonyx.ops.convolution_int8 import Requantization, convolve_bytes
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import axis_of, moved, reshaped
from sardonyx.ops.window import Window, window

BYTES = ("int8", "uint8")
QUANTIZED = ("int8", "uint8", "int16", "uint16", *SMALL_INTEGERS)
QUANTIZED_FLOATS = tuple(dtype for dtype in SMALL_FLOATS if dtype != "float8e8m0")


# Parameters: scales and zero points.


def is_single(x: Tensor) -> bool:
    """True for tensors of one element."""
    return all(dim == 1 for dim in x.shape)


def along(ctx: Lowering, parameter: Tensor, x: Tensor, axis: int, block: int = 0) -> Element:
    """The elements of a scale or zero point as seen from `x`.

    There is one for all of `x`, one for each index of `axis`, or one for each run of `block` elements along it.
    """
    ctx.cheap(parameter)
    if is_single(parameter):
        return lambda i: parameter.scalar()
    axis = axis_of(ctx, axis, x.rank)
    if parameter.rank == 1:
        ctx.equal_dims(parameter.shape[0], x.shape[axis], "the scale does not fit the axis")
        return lambda i: parameter.at((i[axis],))
    if parameter.rank != x.rank:
        problem = f"a scale of rank {parameter.rank} for data of rank {x.rank}"
        raise errors.ShapeError(problem, node=ctx.node, operator=ctx.operator)
    size = block or ix.ceildiv(x.shape[axis], parameter.shape[axis])
    ctx.equal_dims(parameter.shape[axis], ix.ceildiv(x.shape[axis], size), "blocks do not fit the axis")
    return lambda i: parameter.at((*i[:axis], ix.floordiv(i[axis], size), *i[axis + 1 :]))


def rounded(value: Expr, zero: Expr | None, dtype: str) -> Expr:
    """A quotient as a quantised value: rounded to even, moved by the zero point, saturated."""
    value = ex.unary("round_even", ex.cast(value, "float32"))
    value = value if zero is None else value + ex.cast(zero, "float32")
    if dtype in SMALL_INTEGERS:  # their casts wrap
        low, high = integer_range(dtype)
        value = ex.maximum(ex.minimum(value, high), low)
    return ex.cast(value, dtype)


def quantized(
    ctx: Lowering,
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    dtype: str,
    *,
    axis: int = 1,
    block: int = 0,
    precision: str = "",
    saturate: bool = True,
) -> Tensor:
    """``saturate(round(x / scale) + zero)`` as `dtype`; divided in the scale's type, or in `precision`.

    8-bit floats have no zero point but 0, and become inf or NaN beyond their range unless `saturate`.
    """  # fmt: skip
    ctx.native(x, scale, zero)
    ctx.requires(dtype in QUANTIZED or dtype in QUANTIZED_FLOATS, f"{dtype} has no native code")
    wide = precision or ("float32" if x.dtype == "float32" or scale.dtype in SMALL_FLOATS else scale.dtype)
    scales = along(ctx, scale, x, axis, block)
    zeros = None if zero is None else along(ctx, zero, x, axis, block)

    def element(i: Position) -> Expr:
        quotient = ex.cast(x.at(i), wide) / ex.cast(scales(i), wide)
        if dtype in QUANTIZED_FLOATS:
            if zeros is not None and dtype == "float4e2m1":
                quotient = ex.cast(quotient, "float32") + ex.cast(zeros(i), "float32")
            return ex.cast(quotient, dtype, saturate=saturate)
        return rounded(quotient, None if zeros is None else zeros(i), dtype)

    return ctx.lazy(dtype, x.shape, element, sources=[x], cost=6)


def dequantized(
    ctx: Lowering, x: Tensor, scale: Tensor, zero: Tensor | None, dtype: str, *, axis: int = 1, block: int = 0
) -> Tensor:
    """``(x - zero) * scale``, computed in float32 and given as `dtype`."""
    ctx.native(x, scale, zero)
    scales = along(ctx, scale, x, axis, block)
    zeros = None if zero is None or is_float(x.dtype) else along(ctx, zero, x, axis, block)

    def element(i: Position) -> Expr:
        value = x.at(i)
        if zeros is not None and x.dtype in QUANTIZED:
            value = ex.cast(value, "int32") - ex.cast(zeros(i), "int32")
        value = ex.cast(value, "float32")
        if zeros is not None and x.dtype not in QUANTIZED:
            value = value - ex.cast(zeros(i), "float32")
        return ex.cast(value * ex.cast(scales(i), "float32"), dtype)

    return ctx.lazy(dtype, x.shape, element, sources=[x], cost=3)


@operator("QuantizeLinear", since=10)
def quantize_linear(ctx: Lowering, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """saturate(round(x / scale) + zero_point): per tensor, per axis or per block."""
    wanted = node.attr("output_dtype", 0)
    dtype = zero.dtype if zero is not None else dtype_name(wanted) if wanted else "uint8"
    precision = node.attr("precision", 0)
    ctx.requires(is_native(dtype), f"{dtype} has no native code")
    return quantized(
        ctx, x, scale, zero, dtype, axis=node.attr("axis", 1), block=node.attr("block_size", 0),
        precision=dtype_name(precision) if precision else "", saturate=bool(node.attr("saturate", 1)),
    )  # fmt: skip


@operator("DequantizeLinear", since=10)
def dequantize_linear(ctx: Lowering, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero_point) * scale: per tensor, per axis or per block."""
    wanted = node.attr("output_dtype", 0)
    dtype = dtype_name(wanted) if wanted else scale.dtype
    ctx.requires(is_native(dtype), f"{dtype} has no native code")
    return dequantized(ctx, x, scale, zero, dtype, axis=node.attr("axis", 1), block=node.attr("block_size", 0))


TINY, HUGE = 2.0**-60, 2.0**60  # scales between which a quotient needs no care
SHIFT = 2.0**66
RANGE_BLOCK = 8192  # as in range_f32.h


def dynamically_quantized(ctx: Lowering, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`x` as uint8 by its own range, which 0 belongs to; the scale; the zero point.

    Divided as `compiler/rounding.py` does: no division for each element, and the same bits. Values and a scale that are
    too small or too large for that are multiplied by a power of two first.
    """
    x = ctx.cheap(x)
    n = ix.product(x.shape)
    count = ix.ceildiv(n, RANGE_BLOCK)
    ends = ctx.temporary("float32", 2 * count)
    ctx.emit(Kernel("range_f32", {"x": ctx.pointer(x), "n": n, "ends": Pointer(ends)}, (ends,)))
    scale, zero, numbers = ctx.temporary("float32", 1), ctx.temporary("uint8", 1), ctx.temporary("float32", 4)
    ctx.nest((), _range_stages(ends, count, scale, zero, numbers))
    shift, divisor, inverse, middle = (ex.load(numbers, i) for i in range(4))

    def element(i: Position) -> Expr:
        quotient = Expr("quotient", "float32", (x.at(i) * shift, divisor, inverse))
        return Expr("quantize", "uint8", (quotient, middle))

    bytes_ = ctx.lazy("uint8", x.shape, element, sources=[x], cost=6)
    return bytes_, ctx.in_memory(scale, ()), ctx.in_memory(zero, ())


def _range_stages(ends: Buffer, count: Dim, scale: Buffer, zero: Buffer, numbers: Buffer) -> list:
    """From the extremes of blocks to scale, zero point, and the `numbers` that elements are computed with.

    These are: a power of two to multiply by, the scale times that, one over it, and the zero point.
    """
    (k,), (m,) = variables((count,), "k"), variables((count,), "m")
    nought = ex.constant(0.0, "float32")
    stages: list = [Reduce("high", "max", ex.load(ends, 2 * k), (k,), "float32")]
    stages += [Reduce("low", "min", ex.load(ends, 2 * m + 1), (m,), "float32")]
    high, low = (ex.binary(op, ex.local(name, "float32"), nought) for name, op in (("high", "max"), ("low", "min")))
    span = high - low
    step = ex.select(span.equal(0.0), ex.constant(1.0, "float32"), span) / 255.0
    middle = rounded(0.0 - low / step, None, "uint8")
    one, grown, shrunk = (ex.constant(value, "float32") for value in (1.0, SHIFT, 1 / SHIFT))
    shift = ex.select(step < TINY, grown, ex.select(step > HUGE, shrunk, one))
    stages += [Store(scale, 0, step), Store(zero, 0, middle), Store(numbers, 0, shift)]
    stages += [Store(numbers, 1, step * shift), Store(numbers, 2, one / (step * shift))]
    return [*stages, Store(numbers, 3, ex.cast(middle, "float32"))]


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(ctx: Lowering, node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantises to uint8 by the range of the data itself; also gives the scale and zero point."""
    ctx.native(x)
    return dynamically_quantized(ctx, x)


# Products.


def integer_product(
    ctx: Lowering, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """``(a - a_zero) @ (b - b_zero)`` as int32, which wraps; numpy.matmul's shapes."""
    ctx.native(a, b, a_zero, b_zero)
    if a.rank == 0 or b.rank == 0:
        raise errors.ShapeError("a product of a scalar", node=ctx.node, operator=ctx.operator)
    if a.rank == 1:
        full = integer_product(ctx, reshaped(ctx, a, (1, *a.shape)), b, a_zero, b_zero)
        return reshaped(ctx, full, (*full.shape[:-2], full.shape[-1]))
    if b.rank == 1:
        full = integer_product(ctx, a, reshaped(ctx, b, (*b.shape, 1)), a_zero, b_zero)
        return reshaped(ctx, full, full.shape[:-1])
    ctx.equal_dims(a.shape[-1], b.shape[-2], "inner dimensions differ")
    found = _kernel_product(ctx, a, b, _needed(a_zero), _needed(b_zero))
    return found if found is not None else _nest_product(ctx, a, b, a_zero, b_zero)


def _needed(zero: Tensor | None) -> Tensor | None:
    return None if zero is None or (zero.array is not None and not zero.array.any()) else zero


def _zero_fields(ctx: Lowering, zero: Tensor | None, name: str) -> dict:
    if zero is None:
        return {f"{name}_zero_step": 0}
    return {f"{name}_zero": ctx.pointer(zero), f"{name}_zero_step": 0 if is_single(zero) else 1}


def _kernel_product(ctx: Lowering, a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor | None:
    """The product by `matmul_int8`, or None where it does not fit."""
    if a.dtype not in BYTES or b.dtype not in BYTES:
        return None
    if a_zero is not None and not is_single(a_zero) and not (a_zero.rank == 1 and a.rank == 2):
        return None
    if b_zero is not None and not is_single(b_zero) and b_zero.rank != 1:
        return None
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    batch: tuple[Dim, ...] = a.shape[:-2]
    count: Dim = 1
    rows = ix.product(a.shape[:-1])
    if b.rank > 2:
        batch = broadcast_shape(ctx, [a.shape[:-2], b.shape[:-2]])
        a, b = (_repeated(ctx, x, (*batch, *x.shape[-2:])) for x in (a, b))
        count, rows = ix.product(batch), m
    fields: dict = {"a": ctx.pointer(a), "a_signed": a.dtype == "int8", "a_batch": m * k, "a_row": k}
    if b.array is not None and b.rank == 2:
        packed, sums = pack_quads(b.array)
        fields |= {"b": Pointer(ctx.constant_buffer(packed, "int8")), "b_packed": 1}
        fields["b_sums"] = Pointer(ctx.constant_buffer(sums, "int32"))
    else:
        fields |= _unpacked(ctx, b)
    fields |= {"b_signed": b.dtype == "int8", "batch": count, "m": rows, "n": n, "k": k}
    return open_product(ctx, fields | _zero_fields(ctx, a_zero, "a") | _zero_fields(ctx, b_zero, "b"), (*batch, m, n))


def _unpacked(ctx: Lowering, b: Tensor) -> dict:
    """A run-time right operand, read where it lies when it is a strided view of memory."""
    found = ctx.strided(b) if b.array is None and b.rank == 2 else None
    pointer, strides = found if found is not None else (ctx.pointer(b), [b.shape[-1], 1])
    return {"b": pointer, "b_batch": b.shape[-2] * b.shape[-1] if b.rank > 2 else 0, "b_row": strides[-2],
            "b_col": strides[-1]}  # fmt: skip


def open_product(ctx: Lowering, fields: dict, shape: Sequence[Dim]) -> Tensor:
    """The int32 output, as a tensor of `shape`, of an open call of `matmul_int8`."""
    count, m, n = fields["batch"], fields["m"], fields["n"]
    buffer = ctx.temporary("int32", ix.product(shape))
    fields = fields | {"c": Pointer(buffer), "c_batch": m * n, "c_row": n}
    strides = (count * m * n, m * n, n, 1)
    ctx.open_kernel(Kernel("matmul_int8", fields, (buffer,), domain=(1, count, m, n), strides=strides))
    return ctx.in_memory(buffer, shape)


def _repeated(ctx: Lowering, x: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    return x if x.shape == shape else ctx.lazy(x.dtype, shape, broadcast(ctx, x, shape), sources=[x], cost=1)


def _nest_product(ctx: Lowering, a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    batch = broadcast_shape(ctx, [a.shape[:-2], b.shape[:-2]])
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    shape, (inner,) = (*batch, m, n), variables((k,), "k")
    outer = variables(shape)
    left = _less(ctx, a, a_zero, (*batch, m, k), rows=True)((*outer[:-1], inner))
    right = _less(ctx, b, b_zero, (*batch, k, n), rows=False)((*outer[:-2], inner, outer[-1]))
    buffer = ctx.temporary("int32", ix.product(shape))
    total = Reduce("total", "sum", left * right, (inner,), "int32")
    ctx.nest(outer, [total, Store(buffer, Plain(shape).offset(outer), ex.local("total", "int32"))])
    return ctx.in_memory(buffer, shape)


def _less(ctx: Lowering, x: Tensor, zero: Tensor | None, shape: Sequence[Dim], *, rows: bool) -> Element:
    """`x` less its zero point, in int32; a vector of zero points is one for each row (column)."""
    ctx.cheap(x)
    values = broadcast(ctx, x, shape)
    if zero is None:
        return lambda i: ex.cast(values(i), "int32")
    if rows and zero.rank == 1 and not is_single(zero):
        zero = reshaped(ctx, zero, (*zero.shape, 1))
    zeros = broadcast(ctx, zero, shape)
    return lambda i: ex.cast(values(i), "int32") - ex.cast(zeros(i), "int32")


@operator("MatMulInteger", since=10)
def matmul_integer(
    ctx: Lowering, node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """The exact int32 product of bytes less their zero points."""
    return integer_product(ctx, a, b, a_zero, b_zero)


def factor(ctx: Lowering, body: Callable[..., np.ndarray | Expr], *scales: Tensor) -> Tensor:
    """``body(scales)`` in float32, now where all are known; scalars and vectors of one length."""
    if all(s.array is not None for s in scales):
        return ctx.constant(np.asarray(body(*(np.asarray(s.array, np.float32) for s in scales)), np.float32))
    shape = next((s.shape for s in scales if not is_single(s)), ())

    def element(i: Position) -> Expr:
        return body(*(ex.cast(s.scalar() if is_single(s) else s.at(i), "float32") for s in map(ctx.cheap, scales)))  # type: ignore[return-value]

    return ctx.cheap(ctx.lazy("float32", shape, element, cost=2))


def requantized(ctx: Lowering, sums: Tensor, scale: Element, zero: Tensor | None, dtype: str) -> Tensor:
    """``saturate(round(sums * scale) + zero)``: fuses into the product before it."""
    zeros = None if zero is None else ctx.cheap(zero).scalar()
    return ctx.lazy(
        dtype, sums.shape, lambda i: rounded(ex.cast(sums.at(i), "float32") * scale(i), zeros, dtype), sources=[sums],
        cost=6,
    )  # fmt: skip


@operator("QLinearMatMul", since=10)
def qlinear_matmul(
    ctx: Lowering, node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    """A product of quantised matrices, quantised again."""
    ctx.native(a, a_scale, b, b_scale, y_scale, y_zero)
    ctx.requires(is_single(y_scale) and is_single(y_zero), "output scales of each row")
    ctx.requires(a_scale.rank < 2 and b_scale.rank < 2, "scales of each matrix")
    ctx.requires(is_single(a_scale) or a.rank == 2, "scales of each row of a batch")
    rows = factor(ctx, lambda s, y: s / y, a_scale, y_scale)
    columns = factor(ctx, lambda s: s, b_scale)
    sums = integer_product(ctx, a, b, a_zero, b_zero)
    if is_single(a_scale):
        both = factor(ctx, lambda s, t: s * t, rows, columns)
        one = is_single(both)
        return requantized(ctx, sums, lambda i: both.scalar() if one else both.at((i[-1],)), y_zero, y_zero.dtype)

    def scale(i: Position) -> Expr:
        return rows.at((i[-2],)) * (columns.scalar() if is_single(columns) else columns.at((i[-1],)))

    return requantized(ctx, sums, scale, y_zero, y_zero.dtype)


# Convolutions.


def integer_conv(
    ctx: Lowering, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, place: Window, groups: int
) -> Tensor:
    """Sums of ``(x - x_zero) * (w - w_zero)`` over window and channels as int32; padding counts as the zero point."""
    ctx.native(x, w, x_zero, w_zero)
    ctx.equal_dims(x.shape[1], w.shape[1] * groups, "input channels do not fit the weights")
    ctx.requires(x_zero is None or is_single(x_zero), "a zero point of each input channel")
    found = convolve_bytes(ctx, x, _needed(x_zero), w, w_zero, place, groups)
    if found is not None:
        return found
    if groups == 1 and x.dtype in BYTES and w.dtype in BYTES:
        return _conv_product(ctx, x, w, _needed(x_zero), _needed(w_zero), place)
    return _conv_nest(ctx, x, w, x_zero, w_zero, place, groups)


def _conv_product(
    ctx: Lowering, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, place: Window
) -> Tensor:
    """Weights [O, C * taps] times, for each image, the columns [C * taps, pixels] that the windows see."""
    x = ctx.cheap(x)
    depth, pixels = ix.product(w.shape[1:]), ix.product(place.output)
    pointwise = place.size == place.output and all(k == 1 for k in place.kernel)
    if pointwise:
        columns = ctx.plain(x)
    else:
        fill = ex.constant(0, x.dtype) if x_zero is None else ctx.cheap(x_zero).scalar()

        def element(i: Position) -> Expr:
            taps = len(place.kernel)
            where, inside = place.tap(i[2 + taps :], i[2 : 2 + taps])
            return ex.guard(inside, x.at((i[0], i[1], *where)), fill)

        columns = ctx.plain(ctx.lazy(x.dtype, (*x.shape[:2], *place.kernel, *place.output), element, cost=1))
    assert columns.buffer is not None
    fields: dict = {"a": ctx.pointer(w), "a_signed": w.dtype == "int8", "a_batch": 0, "a_row": depth}
    fields |= {"b": Pointer(columns.buffer), "b_batch": depth * pixels, "b_row": pixels, "b_col": 1}
    fields |= {"b_signed": x.dtype == "int8", "batch": x.shape[0], "m": w.shape[0], "n": pixels, "k": depth}
    fields |= _zero_fields(ctx, w_zero, "a") | _zero_fields(ctx, x_zero, "b")
    return open_product(ctx, fields, (x.shape[0], w.shape[0], *place.output))


def _conv_nest(
    ctx: Lowering, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, place: Window, groups: int
) -> Tensor:
    ctx.cheap(x)
    ctx.cheap(w)
    shape = (x.shape[0], w.shape[0], *place.output)
    outer, inner = variables(shape), variables(w.shape[1:], "k")
    channel, *taps = inner
    where, inside = place.tap(outer[2:], taps)
    group = ix.floordiv(outer[1], ix.floordiv(w.shape[0], groups))
    value = ex.cast(x.at((outer[0], group * w.shape[1] + channel, *where)), "int32")
    if x_zero is not None:
        value = value - ex.cast(ctx.cheap(x_zero).scalar(), "int32")
    weight = ex.cast(w.at((outer[1], *inner)), "int32")
    if w_zero is not None:
        zero = ctx.cheap(w_zero)
        weight = weight - ex.cast(zero.scalar() if is_single(zero) else zero.at((outer[1],)), "int32")
    buffer = ctx.temporary("int32", ix.product(shape))
    total = Reduce("total", "sum", ex.guard(inside, value, 0) * weight, inner, "int32")
    ctx.nest(outer, [total, Store(buffer, Plain(shape).offset(outer), ex.local("total", "int32"))])
    return ctx.in_memory(buffer, shape)


@operator("ConvInteger", since=10)
def conv_integer(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    """The exact int32 convolution of bytes less their zero points."""
    place = window(ctx, node, x.shape[2:], w.shape[2:])
    return integer_conv(ctx, x, w, x_zero, w_zero, place, node.attr("group", 1))


@operator("QLinearConv", since=10)
def qlinear_conv(
    ctx: Lowering, node: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A convolution of quantised data, quantised again; the bias is int32 in units of both input scales."""
    ctx.native(x, x_scale, w, w_scale, y_scale, y_zero, bias)
    ctx.requires(is_single(y_zero) and is_single(x_scale) and is_single(y_scale), "scales of each input channel")
    if node.attr("channels_last", 0):  # com.microsoft
        x = moved(ctx, x, (x.shape[0], x.shape[-1], *x.shape[1:-1]), lambda i: (i[0], *i[2:], i[1]))
    place = window(ctx, node, x.shape[2:], w.shape[2:])
    scale = factor(ctx, lambda a, b, c: a * b / c, x_scale, w_scale, y_scale)
    groups = node.attr("group", 1)
    requantization = Requantization(bias, scale, y_zero)
    result = convolve_bytes(ctx, x, _needed(x_zero), w, w_zero, place, groups, requantization)
    if result is None:
        result = _requantized_conv(ctx, integer_conv(ctx, x, w, x_zero, w_zero, place, groups), requantization)
    if node.attr("channels_last", 0):
        shape = (result.shape[0], *result.shape[2:], result.shape[1])
        return moved(ctx, result, shape, lambda i: (i[0], i[-1], *i[1:-1]))
    return result


def _requantized_conv(ctx: Lowering, sums: Tensor, after: Requantization) -> Tensor:
    """Sums of a convolution, plus the bias, quantised again."""
    bias, scale, y_zero = after.bias, after.scale, after.zero
    if bias is not None:
        raw, bias = sums, ctx.cheap(bias)
        sums = ctx.lazy("int32", raw.shape, lambda i: raw.at(i) + bias.at((i[1],)), sources=[raw], cost=1)
    return requantized(
        ctx, sums, lambda i: scale.scalar() if is_single(scale) else scale.at((i[1],)), y_zero, y_zero.dtype
    )
