"""Attention as com.microsoft has it: fused projections, several forms of masks, past keys and values, rotary positions.

All of them are two matrix products around a softmax over heads seen as views of one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering, Unsupported
from sardonyx.compiler.tensor import Element, Position, Tensor
from sardonyx.ops.binary import broadcast, map_elements
from sardonyx.ops.linalg import product, transpose
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.standard import standard

MS = "com.microsoft"
MASKED = -10000.0  # what is added to scores of masked keys, unless mask_filter_value says otherwise


def heads_of(ctx: Lowering, x: Tensor, heads: int, first: Dim = 0, width: Dim | None = None) -> Tensor:
    """Columns ``first ..`` of `x` [B, S, D] as [B, heads, S, width / heads], a view."""
    size = ix.floordiv(x.shape[2] if width is None else width, heads)
    shape = (x.shape[0], heads, x.shape[1], size)
    return ctx.lazy(x.dtype, shape, lambda i: x.at((i[0], i[2], first + i[1] * size + i[3])), sources=[x])


def merged_heads(ctx: Lowering, x: Tensor) -> Tensor:
    """[B, N, S, H] as [B, S, N * H]."""
    batch, heads, length, size = x.shape
    shape = (batch, length, heads * size)
    return ctx.lazy(
        x.dtype, shape, lambda i: x.at((i[0], ix.floordiv(i[2], size), i[1], ix.mod(i[2], size))), sources=[x]
    )


def stacked(ctx: Lowering, node: Node, past: Tensor | None, now: Tensor) -> Tensor:
    """`past` and `now` one behind the other along axis 2, in memory."""
    whole = now if past is None else standard(ctx, node, "Concat", past, now, axis=2)
    ctx.materialize(whole)
    return whole


def attend(
    ctx: Lowering, node: Node, q: Tensor, k: Tensor, v: Tensor, scale: float, biases: Sequence[Element]
) -> tuple[Tensor, Tensor]:
    """``softmax(q k' * scale + biases) v`` for [B, N, S, H], and the scores before the softmax.

    Each of `biases` gives, at a position [B, N, S, T], what is added to the score there.
    """
    raw = product(ctx, q, transpose(ctx, k))

    def score(i: Position) -> Expr:
        value = raw.at(i) * scale
        for bias in biases:
            value = value + ex.cast(bias(i), value.dtype)
        return value

    scores = ctx.lazy(raw.dtype, raw.shape, score, sources=[raw], cost=2 + 2 * len(biases))
    if node.wants(3):
        ctx.materialize(scores)
    weights = standard(ctx, node, "Softmax", scores, axis=-1)
    return product(ctx, weights, v), scores


def default_scale(node: Node, size: Dim) -> float:
    """The attribute, or 1 / sqrt(width of a head)."""
    given = node.attr("scale", 0.0)
    if given:
        return given
    if not isinstance(size, int):
        raise errors.ShapeError("the width of a head is not known", node=node.name, operator=node.op_type)
    return float(size) ** -0.5


def causal(past: Dim, value: float) -> Element:
    """Adds `value` to the scores of keys behind the query; `past` keys come before the first query."""
    return lambda i: ex.select(
        ex.index(i[3]) <= ex.index(i[2] + past), ex.constant(0.0, "float32"), ex.constant(value, "float32")
    )


def mask_bias(ctx: Lowering, mask: Tensor, batch: Dim, value: float) -> Element:
    """What a mask adds: one of lengths [B], of ends and starts [2 B], or of 0 and 1 in [B, T] or [B, S, T]."""
    mask = ctx.cheap(mask)
    zero, masked = ex.constant(0.0, "float32"), ex.constant(value, "float32")
    if mask.rank == 1:
        both = mask.shape[0] == batch * 2

        def bounds(i: Position) -> Expr:
            key = ex.cast(ex.index(i[3]), mask.dtype)
            inside = key < mask.at((i[0],))
            if both:
                inside = inside & (key >= mask.at((batch + i[0],)))
            return ex.select(inside, zero, masked)

        ctx.requires(both or mask.shape[0] == batch, f"a mask of shape {list(mask.shape)}")
        return bounds
    ctx.requires(mask.rank in (2, 3), f"a mask of rank {mask.rank}")

    def raw(i: Position) -> Expr:
        row = 0 if mask.shape[0] == 1 else i[0]
        shown = mask.at((row, i[3]) if mask.rank == 2 else (row, i[2], i[3]))
        return ex.select(ex.compare("ne", shown, 0), zero, masked)

    return raw


def biases_of(
    ctx: Lowering, node: Node, mask: Tensor | None, extra: Tensor | None, shape: tuple[Dim, ...], past: Dim
) -> list[Element]:
    """All that is added to the scores of `shape` [B, N, S, T], for a mask, an additive bias and causality."""
    value = node.attr("mask_filter_value", MASKED)
    found = [] if mask is None else [mask_bias(ctx, mask, shape[0], value)]
    if node.attr("unidirectional", 0):
        found.append(causal(past, value))
    if extra is not None:
        found.append(broadcast(ctx, extra, shape))
    return found


@operator("Attention", domain=MS)
def attention(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None, mask: Tensor | None = None,
    past: Tensor | None = None, extra: Tensor | None = None, past_length: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Self-attention with merged weights for query, key and value."""
    ctx.native(x, w, bias, mask, past, extra)
    ctx.requires(past_length is None and not node.attr("past_present_share_buffer", 0), "a shared past buffer")
    projected = product(ctx, x, w)
    if bias is not None:
        projected = map_elements(ctx, lambda a, b: a + b, projected, bias, shape=projected.shape)
    return attend_projected(ctx, node, projected, mask, past, extra)


def _half(ctx: Lowering, x: Tensor, number: int) -> Tensor:
    """Element `number` of the first axis, a view."""
    kept = ctx.cheap(x)
    return ctx.lazy(kept.dtype, kept.shape[1:], lambda i: kept.at((number, *i)), sources=[kept])


def attend_projected(
    ctx: Lowering, node: Node, projected: Tensor, mask: Tensor | None, past: Tensor | None, extra: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Attention of `projected` [B, S, query + key + value]; the output and, if asked for, [2, B, N, T, H]."""
    ctx.requires(not node.attr("do_rotary", 0), "rotary positions")
    heads, whole = node.attr("num_heads"), projected.shape[2]
    sizes = node.attr("qkv_hidden_sizes") or [ix.floordiv(whole, 3)] * 3
    ctx.materialize(projected)
    q = heads_of(ctx, projected, heads, 0, sizes[0])
    k = heads_of(ctx, projected, heads, sizes[0], sizes[1])
    v = heads_of(ctx, projected, heads, sizes[0] + sizes[1], sizes[2])
    earlier: Dim = 0
    if past is not None:
        earlier = past.shape[3]
        k, v = (stacked(ctx, node, _half(ctx, past, number), x) for number, x in enumerate((k, v)))
    shape = (*q.shape[:3], k.shape[2])
    biases = biases_of(ctx, node, mask, extra, shape, earlier)
    y, _ = attend(ctx, node, q, k, v, default_scale(node, q.shape[3]), biases)
    present: Tensor | None = None
    if node.wants(1):
        first = ctx.lazy(k.dtype, (1, *k.shape), lambda i: k.at(i[1:]), sources=[k])
        second = ctx.lazy(v.dtype, (1, *v.shape), lambda i: v.at(i[1:]), sources=[v])
        present = standard(ctx, node, "Concat", first, second, axis=0)
    return merged_heads(ctx, y), present


def _split_packed(ctx: Lowering, x: Tensor, number: int) -> Tensor:
    """Part `number` of [B, S, N, parts, H] as [B, N, S, H], a view."""
    batch, length, heads, _, size = x.shape
    shape = (batch, heads, length, size)
    return ctx.lazy(x.dtype, shape, lambda i: x.at((i[0], i[2], i[1], number, i[3])), sources=[x])


def _biased(ctx: Lowering, x: Tensor, bias: Tensor | None, first: Dim) -> Tensor:
    """[B, N, S, H] plus the elements of `bias` from `first` on, one for each column of all heads."""
    if bias is None:
        return x
    kept, size = ctx.cheap(bias), x.shape[3]
    return ctx.lazy(x.dtype, x.shape, lambda i: x.at(i) + kept.at((first + i[1] * size + i[3],)), sources=[x], cost=1)


@operator("MultiHeadAttention", domain=MS)
def multi_head_attention(
    ctx: Lowering, node: Node, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
    bias: Tensor | None = None, mask: Tensor | None = None, extra: Tensor | None = None, past_key: Tensor | None = None,
    past_value: Tensor | None = None, past_length: Tensor | None = None, indirection: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Attention of given queries, keys and values, in any of the packed or separate forms."""
    ctx.native(query, key, value, bias, mask, extra, past_key, past_value)
    ctx.requires(past_length is None and indirection is None, "a shared past buffer")
    heads = node.attr("num_heads")
    query = ctx.cheap(query)
    if query.rank == 5:
        q, k, v = (_split_packed(ctx, query, number) for number in range(3))
    else:
        q = heads_of(ctx, query, heads)
        assert key is not None
        key = ctx.cheap(key)
        if key.rank == 5:
            k, v = (_split_packed(ctx, key, number) for number in range(2))
        else:
            assert value is not None
            k, v = (x if x.rank == 4 else heads_of(ctx, x, heads) for x in (key, ctx.cheap(value)))
    width = q.shape[3] * heads
    q = _biased(ctx, q, bias, 0)
    if key is None or key.rank != 4:
        k, v = _biased(ctx, k, bias, width), _biased(ctx, v, bias, width * 2)
    earlier: Dim = 0 if past_key is None else past_key.shape[2]
    if past_key is not None or node.wants(1) or node.wants(2):
        k, v = stacked(ctx, node, past_key, k), stacked(ctx, node, past_value, v)
    biases = biases_of(ctx, node, mask, extra, (*q.shape[:3], k.shape[2]), earlier)
    y, scores = attend(ctx, node, q, k, v, default_scale(node, q.shape[3]), biases)
    return merged_heads(ctx, y), k, v, scores


# Rotary positions.


def rotated(
    ctx: Lowering, x: Tensor, place: Element, cos: Tensor, sin: Tensor, *, interleaved: bool, width: Dim = 0
) -> Tensor:
    """`x` [B, N, S, H] with its first `width` columns (0: all) turned by the angles of ``place([B, S])``."""
    x, cos, sin = (ctx.cheap(t) for t in (x, cos, sin))
    size = width or x.shape[3]
    half = ix.floordiv(size, 2)

    def element(i: Position) -> Expr:
        column = i[3]
        row = ex.gather_index(place((i[0], i[2])), cos.shape[0])
        if interleaved:
            angle, first = ix.floordiv(column, 2), ix.mod(column, 2)
            other, negative = column + 1 - 2 * first, ex.index(first).equal(0)
        else:
            angle, other = ix.mod(column, half), ix.mod(column + half, size)
            negative = ex.index(column) < ex.index(half)
        partner = x.at((*i[:3], other)) * sin.at((row, angle))
        turned = x.at(i) * cos.at((row, angle)) + ex.select(negative, -partner, partner)
        return ex.guard(ex.index(column) < ex.index(size), turned, x.at(i)) if size != x.shape[3] else turned

    return ctx.lazy(x.dtype, x.shape, element, cost=6)


@operator("RotaryEmbedding", domain=MS)
def rotary_embedding(ctx: Lowering, node: Node, x: Tensor, places: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs of columns by angles that depend on the token's position."""
    ctx.native(x, places, cos, sin)
    ctx.requires(not node.attr("is_packed_batching", 0), "packed batches")
    width = node.attr("rotary_embedding_dim", 0)
    flat, places = x.rank == 3, ctx.cheap(places)
    if flat:
        heads = node.attr("num_heads", 0) or ix.floordiv(x.shape[2], cos.shape[1] * 2)
        if not isinstance(heads, int) or heads < 1:
            raise Unsupported("an unknown number of heads")
        x = heads_of(ctx, ctx.cheap(x), heads)

    def place(i: Position) -> Expr:
        if places.rank == 1:
            return ex.cast(places.at((0,)), "int64") + ex.index(i[1])
        return places.at((i[0] if places.shape[0] != 1 else 0, i[1]))

    result = rotated(ctx, x, place, cos, sin, interleaved=bool(node.attr("interleaved", 0)), width=width)
    return merged_heads(ctx, result) if flat else result


@operator("GroupQueryAttention", domain=MS)
def group_query_attention(
    ctx: Lowering, node: Node, query: Tensor, key: Tensor | None, value: Tensor | None, past_key: Tensor | None,
    past_value: Tensor | None, lengths: Tensor, total: Tensor, cos: Tensor | None = None, sin: Tensor | None = None,
    places: Tensor | None = None, extra: Tensor | None = None, *others: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Causal attention in which several query heads share a key head; every sequence of the batch has all keys."""
    ctx.native(query, key, value, past_key, past_value, lengths, cos, sin, places, extra)
    ctx.requires(all(t is None for t in others), "sinks, quantised caches or norms")
    ctx.requires(query.shape[0] == 1, "sequences of different lengths in a batch")
    ctx.requires(not node.attr("smooth_softmax", 0) and not node.attr("softcap", 0.0), "another softmax")
    heads, groups = node.attr("num_heads"), node.attr("kv_num_heads")
    query = ctx.cheap(query)
    if key is None or value is None:
        size = ix.floordiv(query.shape[2], heads + 2 * groups)
        q, k = heads_of(ctx, query, heads, 0, heads * size), heads_of(ctx, query, groups, heads * size, groups * size)
        v = heads_of(ctx, query, groups, (heads + groups) * size, groups * size)
    else:
        q, k, v = (heads_of(ctx, ctx.cheap(x), n) for x, n in ((query, heads), (key, groups), (value, groups)))
    earlier: Dim = 0 if past_key is None else past_key.shape[2]
    whole = ctx.cheap(lengths)
    ctx.check(ex.cast(whole.scalar(), "int64").equal(ex.index(earlier + q.shape[2] - 1)), "shape",
              "seqlens_k differs from the length of past and new keys")  # fmt: skip
    if node.attr("do_rotary", 0):
        assert cos is not None
        assert sin is not None
        given = None if places is None else ctx.cheap(places)
        where = (lambda i: ex.index(i[1] + earlier)) if given is None else (lambda i: given.at(i))
        turn = bool(node.attr("rotary_interleaved", 0))
        q, k = (rotated(ctx, x, where, cos, sin, interleaved=turn, width=2 * cos.shape[1]) for x in (q, k))
    k, v = stacked(ctx, node, past_key, k), stacked(ctx, node, past_value, v)
    share = heads // groups

    def shared(x: Tensor) -> Tensor:
        shape = (x.shape[0], heads, *x.shape[2:])
        return ctx.lazy(x.dtype, shape, lambda i: x.at((i[0], ix.floordiv(i[1], share), *i[2:])), sources=[x])

    biases = biases_of(ctx, node, None, extra, (*q.shape[:3], k.shape[2]), earlier)
    biases.append(causal(earlier, float("-inf")))
    window = node.attr("local_window_size", -1)
    if window > 0:
        low, zero = ex.constant(float("-inf"), "float32"), ex.constant(0.0, "float32")
        biases.append(lambda i: ex.select(ex.index(i[3] + window) > ex.index(i[2] + earlier), zero, low))
    y, _ = attend(ctx, node, q, shared(k), shared(v), default_scale(node, q.shape[3]), biases)
    return merged_heads(ctx, y), k, v
