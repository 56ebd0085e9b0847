"""Convolution with weights that only the run knows: they are packed in front of the kernels that take constant ones.

Networks that scale or standardise their weights, dynamic kernels, correlation with a template. A pass over the weights
costs as much as a few positions of the output; as a loop nest 64 channels of 3x3 are 50 to 100 times slower.
"""

from __future__ import annotations

from collections.abc import Callable

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Pointer
from sardonyx.compiler.tensor import LANES, Position, Tensor
from sardonyx.ops import convolution
from sardonyx.ops.window import Window, geometry
from sardonyx.ops.winograd import open_blocked, winograd_from, winograd_pays

Channels = Callable[[Position], tuple[Dim, Dim]]  # a place in packed weights -> output channel, input channel


def convolve_computed(
    ctx: Lowering, x: Tensor, w: Tensor, place: Window, groups: int, shape: tuple[Dim, ...]
) -> Tensor | None:
    """The raw sums by a kernel on NCHW16c; None where none takes such groups, or channels are not known.

    Args:
        ctx: the lowering.
        x: [N, groups * I, ...], float32, with one or two axes in space.
        w: [O, I, ...], float32.
        place: the window.
        groups: how many.
        shape: of the result.
    """
    outputs, inputs = w.shape[:2]
    if not isinstance(outputs, int) or not isinstance(inputs, int) or 0 in w.shape or x.rank > 4:
        return None
    fields = geometry(place) | {"n": x.shape[0]}
    blocks, inner = ix.ceildiv(outputs, LANES), ix.ceildiv(inputs, LANES)
    fields["oc_blocks"] = blocks
    if groups == 1 and inputs <= convolution.FIRST_CHANNELS and not x.blocked:
        weights = _packed(ctx, w, (blocks, inputs), (LANES,), lambda i: (i[0] * LANES + i[4], i[1]))
        fields |= {"x": ctx.pointer(x), "x_batch": inputs * ix.product(place.size), "ic": inputs, "w": weights}
        return open_blocked(ctx, "conv_first_f32", fields, shape)
    if groups > 1 and inputs == 1 and outputs == groups:
        weights = _packed(ctx, w, (blocks,), (LANES,), lambda i: (i[0] * LANES + i[3], 0))
        source, pitch = ctx.blocked(x)
        fields |= {"x": source, "x_batch": pitch, "c_blocks": fields.pop("oc_blocks"), "w": weights}
        return open_blocked(ctx, "depthwise_nchw16c_f32", fields, shape)
    if groups > 1 and (inputs % LANES or outputs % (groups * LANES)):
        return None
    weights = _packed(
        ctx, w, (blocks, inner), (LANES, LANES), lambda i: (i[0] * LANES + i[5], i[1] * LANES + i[4])
    )  # fmt: skip
    if groups == 1 and winograd_pays(x.shape[0], inputs, outputs, place):
        return winograd_from(ctx, x, weights, (outputs, inputs), place, shape)
    source, pitch = ctx.blocked(x)
    fields |= {"x": source, "x_batch": pitch, "w": weights}
    fields |= {"ic_blocks": ix.ceildiv(x.shape[1], LANES), "groups": groups, "ic": inputs}
    return open_blocked(ctx, "conv_nchw16c_f32", fields, shape)


def _packed(ctx: Lowering, w: Tensor, outer: tuple[Dim, ...], lanes: tuple[int, ...], channels: Channels) -> Pointer:
    """`w` in memory as [*outer, KH, KW, *lanes]; 0 where there is no such channel."""
    outputs, inputs = w.shape[:2]
    taps = (*((1,) * (4 - w.rank)), *w.shape[2:])

    def element(i: Position) -> Expr:
        o, c = channels(i)
        inside = (ex.index(o) < ex.index(outputs)) & (ex.index(c) < ex.index(inputs))
        tap = i[len(outer) : len(outer) + 2]
        return ex.guard(inside, w.at((o, c, *tap[4 - w.rank :])), ex.constant(0.0, "float32"))

    return ctx.pointer(ctx.lazy("float32", (*outer, *taps, *lanes), element, sources=[w], cost=1))
