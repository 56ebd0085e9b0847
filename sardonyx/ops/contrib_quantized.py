"""Quantised operators of com.microsoft.

Element-wise ones compute in float32 between two steps of quantisation, all in one loop; products run in `matmul_int8`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.tensor import Position, Tensor
from sardonyx.ops import registry, unary
from sardonyx.ops.binary import map_elements
from sardonyx.ops.contrib import MS, embed
from sardonyx.ops.contrib_attention import attend_projected
from sardonyx.ops.few_bits import unpack_bits
from sardonyx.ops.linalg import transpose
from sardonyx.ops.node import Node
from sardonyx.ops.quantization import (
    dequantized,
    dynamically_quantized,
    factor,
    integer_product,
    is_single,
    quantized,
    requantized,
)
from sardonyx.ops.registry import operator
from sardonyx.ops.standard import standard


def to_float(ctx: Lowering, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int = -1) -> Tensor:
    """A quantised tensor as float32."""
    return dequantized(ctx, x, scale, zero, "float32", axis=axis)


def like(ctx: Lowering, y: Tensor, scale: Tensor, zero: Tensor | None, other: Tensor) -> Tensor:
    """Floats quantised to the type of `other`."""
    return quantized(ctx, y, scale, zero, other.dtype)


def _binary(name: str, body: Callable[[Expr, Expr], Expr]) -> None:
    def lower(ctx: Lowering, node: Node, *t: Tensor) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, *zero = t
        left, right = to_float(ctx, a, a_scale, a_zero), to_float(ctx, b, b_scale, b_zero)
        return like(ctx, map_elements(ctx, body, left, right), scale, zero[0] if zero else None, a)

    lower.__doc__ = f"{name[7:]} of quantised tensors."
    registry.add(name, lower, since=1, domain=MS, elementwise=True)


_binary("QLinearAdd", lambda x, y: x + y)
_binary("QLinearMul", lambda x, y: x * y)


def _through(name: str, body: Callable[[Lowering, Node, Tensor], Tensor]) -> None:
    def lower(
        ctx: Lowering, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None, y_scale: Tensor,
        y_zero: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return like(ctx, body(ctx, node, to_float(ctx, x, scale, zero)), y_scale, y_zero, x)

    lower.__doc__ = f"{name[7:]} of a quantised tensor."
    registry.add(name, lower, since=1, domain=MS, elementwise=False)


def _leaky_relu(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    alpha = node.attr("alpha", 0.01)
    return unary.elementwise(ctx, x, lambda e: ex.select(e >= 0.0, e, e * alpha))


def _softmax(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    return standard(ctx, node, "Softmax", x, opset=node.attr("opset", 13), axis=node.attr("axis", -1))


def _reduce_mean(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    axes = node.attr("axes")
    given = None if axes is None else ctx.constant(np.array(axes, np.int64))
    return standard(ctx, node, "ReduceMean", x, given, keepdims=node.attr("keepdims", 1))


_through("QLinearSigmoid", lambda ctx, node, x: unary.elementwise(ctx, x, unary.sigmoid))
_through("QLinearLeakyRelu", _leaky_relu)
_through("QLinearSoftmax", _softmax)
_through("QLinearReduceMean", _reduce_mean)


@operator("QLinearConcat", domain=MS)
def qlinear_concat(ctx: Lowering, node: Node, scale: Tensor, zero: Tensor, *inputs: Tensor) -> Tensor:
    """Quantised tensors one behind the other along an axis, brought to one scale."""
    given = zip(inputs[0::3], inputs[1::3], inputs[2::3], strict=True)
    parts = [like(ctx, to_float(ctx, *quantised), scale, zero, zero) for quantised in given]
    return standard(ctx, node, "Concat", *parts, axis=node.attr("axis"))


@operator("QLinearWhere", domain=MS)
def qlinear_where(ctx: Lowering, node: Node, condition: Tensor, *t: Tensor) -> Tensor:
    """Elements of one of two quantised tensors, brought to one scale."""
    x, x_scale, x_zero, y, y_scale, y_zero, scale, zero = t
    sides = [like(ctx, to_float(ctx, *side), scale, zero, x) for side in ((x, x_scale, x_zero), (y, y_scale, y_zero))]
    return map_elements(ctx, ex.select, condition, *sides)


# Products.


def scaled(ctx: Lowering, sums: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """int32 sums as float32: times a scale (one, or one for each column), plus a bias."""
    scale = ctx.cheap(scale)

    def element(i: Position) -> Expr:
        return ex.cast(sums.at(i), "float32") * (scale.scalar() if is_single(scale) else scale.at((i[-1],)))

    result = ctx.lazy("float32", sums.shape, element, sources=[sums], cost=2)
    return result if bias is None else map_elements(ctx, lambda a, b: a + b, result, bias, shape=result.shape)


def _columns(ctx: Lowering, parameter: Tensor | None) -> Tensor | None:
    """A scale or zero point of a matrix as a scalar or a vector over columns."""
    if parameter is not None:
        ctx.requires(parameter.rank < 2, "a scale for each matrix of a batch")
    return parameter


@operator("MatMulIntegerToFloat", domain=MS)
def matmul_integer_to_float(
    ctx: Lowering, node: Node, a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None = None,
    b_zero: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A product of quantised matrices as float32, plus a bias."""
    ctx.requires(is_single(a_scale), "a scale for each row")
    both = factor(ctx, lambda x, y: x * y, a_scale, _columns(ctx, b_scale))  # type: ignore[arg-type]
    return scaled(ctx, integer_product(ctx, a, b, a_zero, _columns(ctx, b_zero)), both, bias)


@operator("DynamicQuantizeMatMul", domain=MS)
def dynamic_quantize_matmul(
    ctx: Lowering, node: Node, a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A float matrix, quantised by its own range, times a quantised one."""
    bytes_, scale, zero = dynamically_quantized(ctx, a)
    both = factor(ctx, lambda x, y: x * y, scale, _columns(ctx, b_scale))  # type: ignore[arg-type]
    return scaled(ctx, integer_product(ctx, bytes_, b, zero, _columns(ctx, b_zero)), both, bias)


@operator("MatMulInteger16", domain=MS)
def matmul_integer_16(ctx: Lowering, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """The exact int32 product of int16 matrices."""
    return integer_product(ctx, a, b)


@operator("QGemm", domain=MS)
def qgemm(
    ctx: Lowering, node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    c: Tensor | None = None, y_scale: Tensor | None = None, y_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A quantised Gemm with an int32 bias, quantised again or as float32."""
    alpha = node.attr("alpha", 1.0)
    left = transpose(ctx, a) if node.attr("transA", 0) else a
    right = transpose(ctx, b) if node.attr("transB", 0) else b
    sums = integer_product(ctx, left, right, a_zero, b_zero)
    if c is not None:
        sums = map_elements(ctx, lambda x, y: x + y, sums, c, shape=sums.shape)
    if y_scale is None:
        return scaled(ctx, sums, factor(ctx, lambda x, y: x * y * np.float32(alpha), a_scale, b_scale), None)
    ratio = factor(ctx, lambda x, y, z: x * y * float(alpha) / z, a_scale, b_scale, y_scale)
    dtype = a.dtype if y_zero is None else y_zero.dtype
    return requantized(ctx, sums, lambda i: ratio.scalar() if is_single(ratio) else ratio.at((i[-1],)), y_zero, dtype)


@operator("QAttention", domain=MS)
def qattention(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, bias: Tensor, x_scale: Tensor, w_scale: Tensor,
    mask: Tensor | None = None, x_zero: Tensor | None = None, w_zero: Tensor | None = None, past: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Attention whose input and merged weights are quantised; scores and values are float32."""
    both = factor(ctx, lambda a, b: a * b, x_scale, w_scale)
    projected = scaled(ctx, integer_product(ctx, x, w, x_zero, w_zero), both, bias)
    return attend_projected(ctx, node, projected, mask, past, None)


# Tables that are widened.


@operator("QEmbedLayerNormalization", domain=MS)
def qembed_layer_normalization(
    ctx: Lowering, node: Node, ids: Tensor, segments: Tensor | None, word: Tensor, position: Tensor,
    segment: Tensor | None, gamma: Tensor, beta: Tensor, mask: Tensor | None, *parameters: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """EmbedLayerNormalization with quantised tables."""
    tables = (word, position, segment, gamma, beta)
    floats = [
        None if t is None else to_float(ctx, t, parameters[i], parameters[i + 5] if i + 5 < len(parameters) else None)  # type: ignore[arg-type]
        for i, t in enumerate(tables)
    ]
    assert floats[3] is not None
    assert floats[4] is not None
    return embed(ctx, node, ids, segments, floats[:3], floats[3], floats[4], mask, None)


@operator("GatherBlockQuantized", domain=MS)
def gather_block_quantized(
    ctx: Lowering, node: Node, data: Tensor, indices: Tensor, scales: Tensor, zeros: Tensor | None = None
) -> Tensor:
    """Rows of a table kept in blocks of few bits, as floats."""
    bits, block = node.attr("bits", 4), node.attr("block_size", 128)
    axis, along = node.attr("gather_axis", 0), node.attr("quantize_axis", 1)
    whole, offsets = data, zeros
    ctx.requires(whole.array is not None and along in (-1, whole.rank - 1) and axis == 0, "another layout of the table")
    if data.dtype == "uint8" and bits < 8:  # bytes that hold several numbers
        length = whole.array.shape[-1] * 8 // bits  # type: ignore[union-attr]
        whole = ctx.constant(unpack_bits(whole.array, bits, length))  # type: ignore[arg-type]
        if offsets is not None and offsets.array is not None:
            offsets = ctx.constant(unpack_bits(offsets.array, bits, -(-length // block)))
    middle = 1 << (bits - 1) if data.dtype == "uint8" and zeros is None else 0
    table = whole

    def element(i: Position) -> Expr:
        value = ex.cast(table.at(i), "int32")
        place = (*i[:-1], ix.floordiv(i[-1], block))
        value = value - (ex.cast(offsets.at(place), "int32") if offsets is not None else ex.constant(middle, "int32"))
        return ex.cast(ex.cast(value, "float32") * ex.cast(scales.at(place), "float32"), scales.dtype)

    floats = ctx.lazy(scales.dtype, table.shape, element, cost=3)
    return standard(ctx, node, "Gather", floats, indices, axis=0)
