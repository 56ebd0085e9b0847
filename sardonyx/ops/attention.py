"""Scaled dot-product attention and rotary embeddings.

`attend` is what all forms of attention come down to: one call of the kernel `attention_f32`, which reads queries, keys
and values where they lie, whatever their strides. Its result lies in memory as [batch][query][head][width], which is
how the projection that follows reads it. Half types compute in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import Tensor
from sardonyx.ops.binary import broadcast, broadcast_shape, map_elements
from sardonyx.ops.linalg import cast, product, transpose
from sardonyx.ops.movement import joined
from sardonyx.ops.node import Node
from sardonyx.ops.reduction import softmax_along
from sardonyx.ops.registry import operator

DOUBLE = 11  # TensorProto.DOUBLE


@dataclass(frozen=True)
class Sight:
    """Which keys query i sees: i + offset - before .. i + offset + after (-1: no limit), below its batch's length.

    ``lengths`` (int64, one for each batch element) also moves the offset by length - queries. A query that sees no key
    gives 0 with ``zero_unseen``, else NaN.
    """

    before: int = -1
    after: int = -1
    offset: Dim = 0
    lengths: Tensor | None = None
    zero_unseen: bool = False


def attend(
    ctx: Lowering, q: Tensor, k: Tensor, v: Tensor, *, scale: Tensor, mask: Tensor | None = None,
    sight: Sight | None = None, softcap: float = 0.0, stage: int | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """``softmax(scale * q k' + mask) v`` in float32.

    Args:
        ctx: the lowering.
        q: queries [B, H, M, D].
        k: keys [B, G, N, D], where G divides H.
        v: values [B, G, N, E].
        scale: one number.
        mask: broadcasts to [B, H, M, N].
        sight: limits what queries see.
        softcap: softcap * tanh(score / softcap) before the mask; 0 for none.
        stage: also give the scores: 0 scaled, 1 after softcap, 2 after the mask, 3 after softmax.

    Returns:
        The result [B, H, M, E], and the scores [B, H, M, N] or None.
    """
    sight = sight or Sight()
    batch, heads, queries, depth = q.shape
    keys, width = v.shape[2:]
    fields: dict = {
        "batch": batch, "heads": heads, "kv_heads": k.shape[1], "queries": queries, "keys": keys, "depth": depth,
        "width": width, "scale": ctx.pointer(scale), "softcap": float(softcap), "stage": stage or 0,
        "before": sight.before, "after": sight.after, "offset": sight.offset, "zero_unseen": sight.zero_unseen,
        "lengths": None if sight.lengths is None else ctx.pointer(sight.lengths),
    }  # fmt: skip
    for name, x in (("q", q), ("k", k), ("v", v)):
        fields |= _strides(name, _lying(ctx, x))
    if mask is not None:
        fields |= _strides("mask", _mask_lying(ctx, mask, (batch, heads, queries, keys)))
    out = ctx.temporary("float32", batch * queries * heads * width)
    row = heads * width
    fields |= {"out": Pointer(out), "out_batch": queries * row, "out_head": width, "out_row": row}
    scores = None if stage is None else ctx.temporary("float32", batch * heads * queries * keys)
    fields["scores"] = None if scores is None else Pointer(scores)
    ctx.emit(Kernel("attention_f32", fields, (out,) if scores is None else (out, scores)))
    whole = ctx.in_memory(out, (batch, queries, heads, width))
    result = ctx.lazy(
        "float32", (batch, heads, queries, width), lambda i: whole.at((i[0], i[2], i[1], i[3])), sources=[whole]
    )
    return result, None if scores is None else ctx.in_memory(scores, (batch, heads, queries, keys))


def _strides(name: str, found: tuple[Pointer, list[Dim]]) -> dict:
    axes = (f"{name}_batch", f"{name}_head", f"{name}_row", f"{name}_col")
    return {name: found[0], **dict(zip(axes, found[1], strict=True))}


def _lying(ctx: Lowering, x: Tensor) -> tuple[Pointer, list[Dim]]:
    """Where the elements of a [B, H, R, C] tensor lie; one that must be computed is stored as [B][R][H][C].

    That is the order in which a projection computes it, so storing it becomes the projection's epilogue.
    """
    found = ctx.strided(x) if x.array is None else None
    if found is not None:
        return found
    if x.array is not None:
        x = ctx.plain(x)
    else:
        b, h, r, c = x.shape
        stored = ctx.plain(ctx.lazy(x.dtype, (b, r, h, c), lambda i: x.at((i[0], i[2], i[1], i[3])), sources=[x]))
        x = ctx.lazy(x.dtype, x.shape, lambda i: stored.at((i[0], i[2], i[1], i[3])), sources=[stored])
    found = ctx.strided(x)
    assert found is not None
    return found


def _mask_lying(ctx: Lowering, x: Tensor, shape: Sequence[Dim]) -> tuple[Pointer, list[Dim]]:
    """Where a mask that broadcasts to `shape` lies, with stride 0 along repeated axes."""
    found = ctx.strided(x) if x.array is None else None
    if found is None:
        found = ctx.strided(ctx.plain(x))
    assert found is not None
    strides: list[Dim] = [0] * (4 - x.rank)
    for dim, wanted, stride in zip(x.shape[-4:], shape[len(strides) :], found[1], strict=True):
        known = dim == wanted or isinstance(dim, int)
        strides.append(stride if dim == wanted else 0 if known and dim == 1 else stride * ix.imin(dim - 1, 1))
    return found[0], strides


def _mask_fits(ctx: Lowering, mask: Tensor, shape: Sequence[Dim]) -> bool:
    """True when `mask` broadcasts to `shape`, checked at run time where only the run knows."""
    if mask.rank > len(shape):
        return False
    pairs = list(zip(mask.shape, shape[len(shape) - mask.rank :], strict=True))
    if any(x not in (1, y) for x, y in pairs if isinstance(x, int) and isinstance(y, int)):
        return False
    for x, y in pairs:
        if x not in (1, y):
            fits = ex.index(x).equal(1) | ex.index(x).equal(ex.index(y))
            ctx.check(fits, "shape", f"the mask does not broadcast to the scores: {x} and {y}")
    return True


def number(ctx: Lowering, value: ex.Expr) -> Tensor:
    """A float32 tensor of one element."""
    if value.op == "const":
        return ctx.constant(np.asarray(value.value, np.float32))
    return ctx.plain(ctx.lazy("float32", (), lambda i: value, cost=1))


def four_axes(ctx: Lowering, x: Tensor, lead: Sequence[Dim]) -> Tensor:
    """`x` broadcast along its leading axes, up to two, to `lead`, and seen as [B, H, R, C]."""
    full = (*lead, *x.shape[-2:])
    missing = 4 - len(full)
    element = broadcast(ctx, x, full)
    return ctx.lazy(x.dtype, (*(1,) * missing, *full), lambda i: element(i[missing:]), sources=[x])


# What exporters leave (see optimizer/fuse_attention.py).


@operator("FusedAttention", domain="ai.sardonyx")
def fused_attention(
    ctx: Lowering, node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *factors: Tensor
) -> Tensor:
    """softmax(q k * factors + mask) v of [..., M, D], [..., D, N], [..., N, E]; `divide` marks factors that divide."""
    divide = node.attr("divide") or [0] * len(factors)
    lead = broadcast_shape(ctx, [x.shape[:-2] for x in (q, k, v)])
    ctx.equal_dims(q.shape[-1], k.shape[-2], "inner dimensions differ")
    ctx.equal_dims(k.shape[-1], v.shape[-2], "inner dimensions differ")
    scores = (*lead, q.shape[-2], k.shape[-1])
    fits = len(lead) <= 2 and all(x.dtype == "float32" for x in (q, k, v, *factors))
    fits = fits and all(x.size == 1 for x in factors)
    if mask is not None:
        fits = fits and mask.dtype == "float32" and _mask_fits(ctx, mask, scores)
    if not fits:
        return _unfused(ctx, q, k, v, mask, factors, divide)
    scale = ex.constant(1.0, "float32")
    for factor, divides in zip(factors, divide, strict=True):
        scale = scale / factor.scalar() if divides else scale * factor.scalar()
    operands = [four_axes(ctx, x, lead) for x in (q, transpose(ctx, k), v)]
    result, _ = attend(ctx, *operands, scale=number(ctx, scale), mask=mask)
    shape = (*scores[:-1], v.shape[-1])
    return ctx.lazy("float32", shape, lambda i: result.at((0,) * (4 - len(shape)) + tuple(i)), sources=[result])


def _unfused(
    ctx: Lowering, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, factors: Sequence[Tensor],
    divide: Sequence[bool],
) -> Tensor:  # fmt: skip
    """The same, operator by operator."""
    scores = product(ctx, q, k)
    for factor, divides in zip(factors, divide, strict=True):
        scores = map_elements(ctx, (lambda x, y: x / y) if divides else (lambda x, y: x * y), scores, factor)
    if mask is not None:
        scores = map_elements(ctx, lambda x, y: x + y, scores, mask)
    return product(ctx, softmax_along(ctx, ctx.plain(scores), scores.rank - 1), v)


# The standard's operators.


@operator("Attention", since=23)
def attention(
    ctx: Lowering, node: Node, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None,
    past_key: Tensor | None = None, past_value: Tensor | None = None, lengths: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """softmax(q k' * scale + mask) v for every head, with grouped heads, a cache, causal and windowed sight."""
    ctx.native(q, k, v, mask, past_key, past_value, lengths)
    ctx.requires(q.dtype != "float64" and node.attr("softmax_precision", 1) != DOUBLE, "attention in float64")
    dtype, flat = q.dtype, q.rank == 3
    heads, groups = node.attr("q_num_heads"), node.attr("kv_num_heads")
    if flat and not (heads and groups):
        raise errors.ModelError("q_num_heads and kv_num_heads are missing", node=node.name, operator="Attention")
    q, k, v = (_heads_apart(ctx, x, n) if flat else x for x, n in ((q, heads), (k, groups), (v, groups)))
    _check_heads(ctx, node, q, k, v)
    present = [k, v]
    past: Dim = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        present = [joined(ctx, pair, 2) for pair in ((past_key, k), (past_value, v))]
    scale = node.attr("scale")
    if scale is None:
        scale = 1 / float(ix.known(q.shape[3], "a head size")) ** 0.5
    sight = Sight(
        before=node.attr("left_window_size", -1), after=_after(node), offset=past,
        lengths=None if lengths is None else ctx.plain(lengths), zero_unseen=True,
    )  # fmt: skip
    stage = node.attr("qk_matmul_output_mode", 0) if node.wants(3) else None
    wide = [x if x.dtype == "float32" else cast(ctx, x, "float32") for x in (q, *present)]
    if mask is not None:
        mask = _additive(ctx, mask, present[0].shape[2])
        if not _mask_fits(ctx, mask, (*q.shape[:3], mask.shape[-1])):
            raise errors.ShapeError("the mask does not broadcast to the scores", node=node.name, operator="Attention")
    y, scores = attend(
        ctx, *wide, scale=ctx.constant(np.asarray(scale, np.float32)), sight=sight, stage=stage,
        mask=mask, softcap=node.attr("softcap", 0.0),
    )  # fmt: skip
    if flat:
        y = _heads_together(ctx, y)
    if dtype != "float32":
        y, scores = cast(ctx, y, dtype), None if scores is None else cast(ctx, scores, dtype)
    return y, *present, scores


def _after(node: Node) -> int:
    """How many keys beyond its own a query sees: none when causal, else what the window says."""
    window = node.attr("right_window_size", -1)
    return 0 if node.attr("is_causal", 0) else window


def _check_heads(ctx: Lowering, node: Node, q: Tensor, k: Tensor, v: Tensor) -> None:
    for axis, x, y in ((0, q, k), (0, q, v), (1, k, v), (2, k, v), (3, q, k)):
        ctx.equal_dims(x.shape[axis], y.shape[axis], f"axis {axis} of queries, keys and values differs")
    heads, groups = (ix.known(x.shape[1], "a number of heads") for x in (q, k))
    if groups == 0 or heads % groups:
        raise errors.ShapeError(f"{heads} heads share {groups}", node=node.name, operator="Attention")


def _heads_apart(ctx: Lowering, x: Tensor, heads: int) -> Tensor:
    """[B, R, H * C] as [B, H, R, C]."""
    batch, rows, hidden = x.shape
    width = ix.floordiv(hidden, heads)
    ctx.equal_dims(width * heads, hidden, "the hidden size is no multiple of the number of heads")
    shape = (batch, heads, rows, width)
    return ctx.lazy(x.dtype, shape, lambda i: x.at((i[0], i[2], i[1] * width + i[3])), sources=[x])


def _heads_together(ctx: Lowering, x: Tensor) -> Tensor:
    """[B, H, R, C] as [B, R, H * C]."""
    batch, heads, rows, width = x.shape

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        return x.at((i[0], ix.floordiv(i[2], width), i[1], ix.mod(i[2], width)))

    return ctx.lazy(x.dtype, (batch, rows, heads * width), element, sources=[x])


def _additive(ctx: Lowering, mask: Tensor, keys: Dim) -> Tensor:
    """A mask that is added to float32 scores: 0 or -inf for a bool; -inf beyond a last axis shorter than `keys`."""
    length, infinite = mask.shape[-1], float("-inf")

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        value = mask.at(i)
        if mask.dtype == "bool":
            value = ex.select(value, ex.constant(0.0, "float32"), infinite)
        inside = ex.compare("lt", ex.index(i[-1]), ex.index(length))
        return ex.guard(inside, ex.cast(value, "float32"), infinite)

    if mask.dtype == "float32" and length == keys:
        return mask
    ctx.cheap(mask)
    return ctx.lazy("float32", (*mask.shape[:-1], keys), element, sources=[mask], cost=2)


@operator("RotaryEmbedding", since=23)
def rotary_embedding(
    ctx: Lowering, node: Node, x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Rotates pairs of elements of each head by angles that depend on the position in the sequence."""
    ctx.native(x, cosines, sines, positions)
    heads = node.attr("num_heads", 0)
    if x.rank == 3:
        if not heads:
            raise errors.ModelError("num_heads is missing", node=node.name, operator="RotaryEmbedding")
        return _heads_together(ctx, _rotate(ctx, node, _heads_apart(ctx, x, heads), cosines, sines, positions))
    return _rotate(ctx, node, x, cosines, sines, positions)


def _rotate(ctx: Lowering, node: Node, x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None) -> Tensor:
    x, cosines, sines = (ctx.cheap(t) for t in (x, cosines, sines))
    if positions is not None:
        ctx.cheap(positions)
    rotated = node.attr("rotary_embedding_dim", 0) or x.shape[3]
    half = ix.floordiv(rotated, 2)
    for cache in (cosines, sines):
        ctx.equal_dims(cache.shape[-1], half, "a cache does not fit half the rotated elements")

    def angle(cache: Tensor, i: tuple[Dim, ...], pair: Dim) -> ex.Expr:
        if positions is None:
            return cache.at((i[0], i[2], pair))
        return cache.at((ex.gather_index(positions.at((i[0], i[2])), cache.shape[0]), pair))

    def element(i: tuple[Dim, ...]) -> ex.Expr:
        if node.attr("interleaved", 0):
            pair, second = ix.floordiv(i[3], 2), ix.mod(i[3], 2)
            places = (pair * 2, pair * 2 + 1)
        else:
            pair, second = ix.mod(i[3], half), ix.floordiv(i[3], half)
            places = (pair, pair + half)
        a, b = (x.at((*i[:3], place)) for place in places)
        c, s = angle(cosines, i, pair), angle(sines, i, pair)
        turned = ex.select(ex.index(second).equal(0), c * a - s * b, s * a + c * b)
        return ex.guard(ex.compare("lt", ex.index(i[3]), ex.index(rotated)), turned, x.at(i))

    return ctx.lazy(x.dtype, x.shape, element, sources=[x], cost=8)
