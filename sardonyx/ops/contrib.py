"""Operators of domain com.microsoft that exporters and other runtimes' optimisers leave in files.

Here: fused arithmetic, normalisations, products, pooling. Attention is in `contrib_attention`, quantised operators in
`contrib_quantized`, average pooling and LSTM on bytes in `pooling_int8` and `recurrent_int8`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.tensor import Position, Tensor
from sardonyx.ops import custom, registry, unary
from sardonyx.ops.binary import broadcast, map_elements
from sardonyx.ops.linalg import product, transpose
from sardonyx.ops.node import Node
from sardonyx.ops.normalization import inverse_root, normalize
from sardonyx.ops.reduction import accumulator
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import axis_of, integers, moved, reshaped
from sardonyx.ops.standard import standard

MS = "com.microsoft"


def _row(name: str, body: Callable[..., Expr], **defaults: Any) -> None:
    """Add an element-wise row; inputs that are missing are left out, `defaults` are the attributes."""

    def lower(ctx: Lowering, node: Node, *inputs: Tensor | None) -> Tensor:
        values = {key: node.attr(key, default) for key, default in defaults.items()}
        return map_elements(ctx, lambda *e: body(*e, **values), *(x for x in inputs if x is not None))

    registry.add(name, lower, since=1, domain=MS, elementwise=True)


def fast_gelu(x: Expr, bias: Expr | None = None) -> Expr:
    """The tanh approximation of Gelu of x + bias."""
    return unary.gelu(x if bias is None else x + bias, "tanh")


_row("Gelu", unary.gelu)
_row("FastGelu", fast_gelu)
_row("BiasGelu", lambda x, bias: unary.gelu(x + bias))
_row("QuickGelu", lambda x, alpha: x * unary.sigmoid(x * alpha), alpha=1.702)
_row("BiasAdd", lambda x, bias, skip: x + bias + skip)


@operator("BiasSplitGelu", domain=MS)
def bias_split_gelu(ctx: Lowering, node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """The first half of the channels of x + bias, times Gelu of the second half."""
    half = ix.floordiv(x.shape[-1], 2)
    total = map_elements(ctx, lambda a, b: a + b, x, bias)
    shape = (*x.shape[:-1], half)
    return ctx.lazy(
        x.dtype, shape, lambda i: total.at(i) * unary.gelu(total.at((*i[:-1], i[-1] + half))), sources=[total], cost=20
    )


def _same(name: str, opset: int) -> None:
    """Add a row for an operator that means what the standard one of `opset` means."""

    def lower(ctx: Lowering, node: Node, *inputs: Tensor | None) -> Any:
        found = registry.find("", name, opset)
        if found is None:
            raise Unsupported(f"no native code for {name}")
        return found.lower(ctx, node, *inputs)

    lower.__doc__ = f"{name} of opset {opset}."
    registry.add(name, lower, since=1, domain=MS, elementwise=False)


for _name, _opset in (("Trilu", 14), ("Pad", 13), ("Range", 11), ("Unique", 11), ("GatherND", 12), ("GridSample", 16),
                      ("QuantizeLinear", 21), ("DequantizeLinear", 21), ("QLinearConv", 10)):  # fmt: skip
    _same(_name, _opset)


# Normalisations.


def simplified(ctx: Lowering, x: Tensor, gamma: Tensor, axis: int, epsilon: float) -> Tensor:
    """``x / sqrt(mean(x * x) + epsilon) * gamma`` over the axes from `axis` on."""
    wide = accumulator(x.dtype)
    axis = axis_of(ctx, axis, x.rank)
    factors = broadcast(ctx, ctx.cheap(gamma), x.shape)
    return normalize(
        ctx, x, range(axis, x.rank), lambda v, i: v * ex.cast(factors(i), wide),
        spread=lambda v: inverse_root(v + epsilon), wide=wide, centered=False,
    )[0]  # fmt: skip


def _simplified_layer_normalization(ctx: Lowering, node: Node, x: Tensor, gamma: Tensor) -> Tensor:
    """x / sqrt(mean(x * x) + epsilon) * scale over the last axes."""
    ctx.native(x, gamma)
    ctx.requires(not node.wants(1), "the inverse root as an output")
    return simplified(ctx, x, gamma, node.attr("axis", -1), node.attr("epsilon", 1e-5))


for _domain in ("", MS):  # ONNX Runtime registers it in the standard's domain
    registry.add("SimplifiedLayerNormalization", _simplified_layer_normalization, since=1, domain=_domain,
                 elementwise=False, depth=1)  # fmt: skip


def _skipped(ctx: Lowering, x: Tensor, *others: Tensor | None) -> Tensor:
    """The sum of `x` and all that is there of `others`, in memory."""
    total = x
    for other in others:
        if other is not None:
            total = map_elements(ctx, lambda a, b: a + b, total, other, shape=x.shape)
    return ctx.cheap(total)


@operator("SkipLayerNormalization", domain=MS)
def skip_layer_normalization(
    ctx: Lowering, node: Node, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """LayerNormalization of x + skip + bias; also gives that sum."""
    ctx.native(x, skip, gamma, beta, bias)
    total = _skipped(ctx, x, skip, bias)
    many = 3 if node.wants(1) or node.wants(2) else 1
    found = standard(
        ctx, node, "LayerNormalization", total, gamma, beta, epsilon=node.attr("epsilon", 1e-12), outputs=many
    )
    y, mean, factor = (*found, None, None)[:3] if isinstance(found, tuple | list) else (found, None, None)
    return y, mean, factor, total


@operator("SkipSimplifiedLayerNormalization", domain=MS)
def skip_simplified_layer_normalization(
    ctx: Lowering, node: Node, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """SimplifiedLayerNormalization of x + skip + bias; also gives that sum."""
    ctx.native(x, skip, gamma, bias)
    total = _skipped(ctx, x, skip, bias)
    ctx.requires(not (node.wants(1) or node.wants(2)), "the statistics as outputs")
    return simplified(ctx, total, gamma, -1, node.attr("epsilon", 1e-12)), None, None, total


def embed(
    ctx: Lowering, node: Node, ids: Tensor, segments: Tensor | None, tables: Sequence[Tensor | None], gamma: Tensor,
    beta: Tensor, mask: Tensor | None, places: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Sum of the rows of the word, position and segment `tables`, normalised; the lengths of the mask; the sum."""
    word, position, segment = tables
    assert word is not None
    assert position is not None
    shape = (*ids.shape, word.shape[1])
    words, kept = word.at, ctx.cheap(ids)

    def element(i: Position) -> Expr:
        total = words((ex.gather_index(kept.at(i[:2]), word.shape[0]), i[2]))
        place = i[1] if where is None else ex.gather_index(where.at((i[0] if where.shape[0] != 1 else 0, i[1])),
                                                           position.shape[0])  # fmt: skip
        total = total + position.at((place, i[2]))
        if segment is not None and kinds is not None:
            total = total + segment.at((ex.gather_index(kinds.at(i[:2]), segment.shape[0]), i[2]))
        return total

    where = None if places is None else ctx.cheap(places)
    kinds = None if segments is None else ctx.cheap(segments)
    if where is None:
        ctx.check(ex.index(ids.shape[1]) <= ex.index(position.shape[0]), "shape", "more tokens than positions")
    total = ctx.lazy(gamma.dtype, shape, element, cost=6)
    ctx.materialize(total)
    y = standard(ctx, node, "LayerNormalization", total, gamma, beta, epsilon=node.attr("epsilon", 1e-12))
    lengths: Tensor | None = None
    if node.wants(1):
        lengths = ctx.lazy("int32", (ids.shape[0],), lambda i: ex.constant(0, "int32"))
        if mask is not None:
            ones = ctx.constant(np.array([1]))
            lengths = standard(ctx, node, "ReduceSum", mask, ones, keepdims=0)
    return y, lengths, total


@operator("EmbedLayerNormalization", domain=MS)
def embed_layer_normalization(
    ctx: Lowering, node: Node, ids: Tensor, segments: Tensor | None, word: Tensor, position: Tensor,
    segment: Tensor | None, gamma: Tensor, beta: Tensor, mask: Tensor | None = None, places: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The embedding of a BERT: words, positions and segments added up and normalised."""
    ctx.native(ids, segments, word, position, segment, gamma, beta, mask, places)
    return embed(ctx, node, ids, segments, (word, position, segment), gamma, beta, mask, places)


@operator("BiasSoftmax", domain=MS)
def bias_softmax(ctx: Lowering, node: Node, x: Tensor, bias: Tensor) -> Tensor:
    """Softmax of x + bias."""
    ctx.requires(bool(node.attr("is_inner_broadcast", 1)) or bias.rank == x.rank, "a bias of the outer axes")
    total = map_elements(ctx, lambda a, b: a + b, x, bias, shape=x.shape)
    return standard(ctx, node, "Softmax", total, axis=node.attr("axis", -1))


# Products and convolutions.

ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "Relu": lambda x: ex.maximum(x, 0),
    "Tanh": unary.op("tanh"),
    "Sigmoid": unary.sigmoid,
    "LeakyRelu": lambda x, alpha=0.01: ex.select(x >= 0.0, x, x * alpha),
    "Clip": lambda x, low=-3.402823e38, high=3.402823e38: ex.minimum(ex.maximum(x, low), high),
    "HardSigmoid": unary.hard_sigmoid,
    "Elu": unary.elu,
    "Softplus": unary.op("softplus"),
    "Softsign": lambda x: x / (ex.unary("abs", x) + 1.0),
    "ThresholdedRelu": lambda x, alpha=1.0: ex.select(x > alpha, x, 0.0),
    "HardSwish": lambda x: x * unary.hard_sigmoid(x, 1 / 6, 0.5),
    "Gelu": unary.gelu,
}


def activated(ctx: Lowering, x: Tensor, name: str | None, parameters: Sequence[float]) -> Tensor:
    """`x` through the activation called `name` (None: as it is)."""
    if not name:
        return x
    ctx.requires(name in ACTIVATIONS, f"activation {name}")
    return unary.elementwise(ctx, x, lambda e: ACTIVATIONS[name](e, *parameters))


def _fused_matmul(ctx: Lowering, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """alpha * A' @ B', either transposed in its last two axes."""
    ctx.native(a, b)
    ctx.requires(not (node.attr("transBatchA", 0) or node.attr("transBatchB", 0)), "transposed batches")
    left = transpose(ctx, a) if node.attr("transA", 0) and a.rank > 1 else a
    right = transpose(ctx, b) if node.attr("transB", 0) and b.rank > 1 else b
    alpha = node.attr("alpha", 1.0)
    raw = product(ctx, left, right)
    return raw if alpha == 1.0 else unary.elementwise(ctx, raw, lambda e: e * alpha)


for _name in ("FusedMatMul", "TransposeMatMul"):
    registry.add(_name, _fused_matmul, since=1, domain=MS, elementwise=False, depth=1)


@operator("FusedMatMulActivation", domain=MS)
def fused_matmul_activation(ctx: Lowering, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """FusedMatMul, then an activation."""
    names = [n for n in ("activation_alpha", "activation_beta", "activation_gamma") if node.attr(n) is not None]
    return activated(ctx, _fused_matmul(ctx, node, a, b), node.attr("activation"), [node.attr(n) for n in names])


@operator("FusedGemm", domain=MS)
def fused_gemm(ctx: Lowering, node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Gemm, then an activation."""
    attributes = {name: node.attr(name, default) for name, default in
                  (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}  # fmt: skip
    names = [n for n in ("activation_alpha", "activation_beta", "activation_gamma") if node.attr(n) is not None]
    raw = standard(ctx, node, "Gemm", a, b, c, **attributes)
    return activated(ctx, raw, node.attr("activation"), [node.attr(n) for n in names])


WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad",
          "storage_order", "output_padding", "output_shape")  # fmt: skip


def window_attributes(node: Node) -> dict[str, Any]:
    """The attributes of `node` that convolution and pooling share."""
    return {name: node.attr(name) for name in WINDOW if node.attr(name) is not None}


@operator("FusedConv", domain=MS)
def fused_conv(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None, z: Tensor | None = None
) -> Tensor:
    """Conv, plus z, then an activation."""
    raw = standard(ctx, node, "Conv", x, w, bias, **window_attributes(node))
    total = raw if z is None else map_elements(ctx, lambda a, b: a + b, raw, z, shape=raw.shape)
    return activated(ctx, total, node.attr("activation"), node.attr("activation_params") or ())


def channels_first(ctx: Lowering, x: Tensor) -> Tensor:
    """NHWC as NCHW."""
    return moved(ctx, x, (x.shape[0], x.shape[-1], *x.shape[1:-1]), lambda i: (i[0], *i[2:], i[1]))


def channels_last(ctx: Lowering, x: Tensor) -> Tensor:
    """NCHW as NHWC."""
    return moved(ctx, x, (x.shape[0], *x.shape[2:], x.shape[1]), lambda i: (i[0], i[-1], *i[1:-1]))


@operator("NhwcMaxPool", domain=MS)
def nhwc_max_pool(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """MaxPool with channels last."""
    return channels_last(ctx, standard(ctx, node, "MaxPool", channels_first(ctx, x), **window_attributes(node)))


@operator("ConvTransposeWithDynamicPads", domain=MS)
def conv_transpose_with_dynamic_pads(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, pads: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """ConvTranspose with its padding as an input."""
    attributes = window_attributes(node)
    if pads is not None:
        attributes["pads"] = integers(ctx, pads, "pads")
    return standard(ctx, node, "ConvTranspose", x, w, bias, **attributes)


@operator("CDist", domain=MS)
def cdist(ctx: Lowering, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Distances (or their squares) between the rows of two matrices."""
    ctx.native(a, b)
    a, b = ctx.cheap(a), ctx.cheap(b)
    shape = (a.shape[0], b.shape[0], ctx.equal_dims(a.shape[1], b.shape[1], "rows of different lengths"))
    gaps = ctx.lazy(a.dtype, shape, lambda i: a.at((i[0], i[2])) - b.at((i[1], i[2])), cost=1)
    name = "ReduceL2" if node.attr("metric", "sqeuclidean") == "euclidean" else "ReduceSumSquare"
    return standard(ctx, node, name, gaps, ctx.constant(np.array([2])), keepdims=0)


@operator("ExpandDims", domain=MS)
def expand_dims(ctx: Lowering, node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """With a new axis of size 1."""
    return standard(ctx, node, "Unsqueeze", x, reshaped(ctx, axis, (1,)))


@custom.operator(MS, "Inverse", shape=lambda x: x)
def inverse(x: np.ndarray) -> np.ndarray:
    """The inverses of square matrices, in Python."""
    return np.linalg.inv(x)


from sardonyx.ops import contrib_attention, contrib_quantized, pooling_int8, recurrent_int8  # noqa: E402, F401 - they register their operators
