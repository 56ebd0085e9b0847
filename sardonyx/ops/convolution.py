"""Convolution, in one to three dimensions.

fp32 runs in hand-written kernels on NCHW16c, some by way of other convolutions (`convolution_forms`), groups in kernels
of their own (`convolution_groups`), computed weights packed on the way (`convolution_computed`); everything else (other
dtypes) as a loop nest.
"""

from __future__ import annotations

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Pointer, Reduce, Store
from sardonyx.compiler.tensor import LANES, Plain, Tensor, variables
from sardonyx.kernels import packing
from sardonyx.ops import convolution_forms
from sardonyx.ops.binary import broadcast_shape, map_elements
from sardonyx.ops.convolution_computed import convolve_computed
from sardonyx.ops.convolution_groups import convolve_groups
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.window import Window, geometry, window
from sardonyx.ops.winograd import open_blocked, winograd, winograd_pays

FIRST_CHANNELS = 4  # inputs with at most this many channels are read as NCHW


@operator("Conv")
def conv(ctx: Lowering, node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution: sum over input channels and window taps."""
    ctx.native(x, w, bias)
    kernel = tuple(w.shape[2:])
    groups = node.attr("group", 1)
    _check(ctx, node, x, w, groups)
    place = window(ctx, node, x.shape[2:], kernel)
    return convolve(ctx, x, w, bias, place, groups)


@operator("ScaledConv", domain="ai.sardonyx")
def scaled_conv(ctx: Lowering, node: Node, a: Tensor, b: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """The 1x1 convolution of a * b. Where one of them is a number a channel it may go into the weights instead."""
    shape = broadcast_shape(ctx, [a.shape, b.shape])
    x, scale = (a, b) if a.shape == shape else (b, a)
    apart = x.shape == shape and len(shape) == 4 and _scales_weights(x, scale, w)
    if not apart:
        x = map_elements(ctx, lambda x, y: x * y, a, b)
    ctx.native(x, w, bias)
    _check(ctx, node, x, w, 1)
    return convolve(ctx, x, w, bias, window(ctx, node, x.shape[2:], (1, 1)), 1, scale if apart else None)


def _scales_weights(x: Tensor, scale: Tensor, w: Tensor) -> bool:
    """Whether the kernel scales its weights, which is less work than to scale x before unless x has few positions.

    Against weights scaled in a step of their own, one thread: MobileNet v3 large 1.03 times as fast.
    """
    if tuple(scale.shape) != (x.shape[0], x.shape[1], 1, 1) or x.dtype != "float32" or w.array is None:
        return False
    outputs, inputs = w.array.shape[:2]
    pixels = ix.product(x.shape[2:])
    return inputs == x.shape[1] and inputs > FIRST_CHANNELS and isinstance(pixels, int) and outputs <= 8 * pixels


def convolve(
    ctx: Lowering, x: Tensor, w: Tensor, bias: Tensor | None, place: Window, groups: int, scale: Tensor | None = None
) -> Tensor:
    """The convolution of `x` [N, C, ...] with `w` [O, C / groups, ...] over window `place`.

    `scale`, of one number a channel of x [N, C, 1, 1], multiplies the weights; only for what a kernel on blocks does.
    """
    if x.dtype in ("float16", "bfloat16"):  # accumulated in float32, rounded once
        wide = [None if t is None else cast(ctx, t, "float32") for t in (x, w, bias)]
        assert wide[0] is not None
        assert wide[1] is not None
        return cast(ctx, convolve(ctx, wide[0], wide[1], wide[2], place, groups), x.dtype)
    shape = (x.shape[0], w.shape[0], *place.output)
    raw = _kernel(ctx, x, w, place, groups, shape, scale)
    if raw is None:
        raw = _nest(ctx, x, w, place, groups, shape)
    if bias is None:
        return ctx.lazy(raw.dtype, shape, raw.at, sources=[raw], cost=1)
    ones = (1,) * len(place.output)
    spread = ctx.lazy(bias.dtype, (1, w.shape[0], *ones), lambda i: bias.at((i[1],)), sources=[bias])
    return map_elements(ctx, lambda a, b: a + b, raw, spread, shape=shape)


def cast(ctx: Lowering, x: Tensor, dtype: str) -> Tensor:
    """`x` as `dtype`; constants are converted now."""
    if x.array is not None:
        return ctx.constant(x.array.astype(np.float32), dtype)
    return ctx.lazy(dtype, x.shape, lambda i: ex.cast(x.at(i), dtype), sources=[x], cost=1)


def _check(ctx: Lowering, node: Node, x: Tensor, w: Tensor, groups: int) -> None:
    if x.rank < 3 or w.rank != x.rank:
        raise errors.ShapeError(
            f"input of rank {x.rank} and weights of rank {w.rank}", node=node.name, operator=node.op_type
        )
    declared = node.attr("kernel_shape")
    if declared is not None and all(isinstance(d, int) for d in w.shape[2:]) and tuple(declared) != tuple(w.shape[2:]):
        message = f"kernel_shape {declared} differs from the weights' {list(w.shape[2:])}"
        raise errors.ModelError(message, node=node.name, operator=node.op_type)
    outputs = w.shape[0]
    if groups < 1 or (isinstance(outputs, int) and outputs % groups):
        raise errors.ModelError(f"{outputs} output channels in {groups} groups", node=node.name, operator=node.op_type)
    ctx.equal_dims(x.shape[1], w.shape[1] * groups, "input channels do not fit the weights")


def _kernel(
    ctx: Lowering, x: Tensor, w: Tensor, place: Window, groups: int, shape: tuple[Dim, ...], scale: Tensor | None
) -> Tensor | None:
    """The raw sums by a hand-written kernel, or None where none fits."""
    if x.dtype != "float32" or x.rank > 5:
        return None
    if w.array is None:
        return convolve_computed(ctx, x, w, place, groups, shape)
    if w.array.size == 0:
        return None
    array, place = convolution_forms.seen(w.array, place)
    other = None if scale is not None else convolution_forms.another(ctx, x, array, place, groups, shape)
    if other is not None:
        return other
    weight = array.reshape(*array.shape[:2], *((1,) * (4 - w.rank)), *array.shape[2:])
    outputs, inner = weight.shape[:2]
    if groups > 1:
        return convolve_groups(ctx, x, weight, groups, place, geometry(place), shape)
    if inner <= FIRST_CHANNELS and not x.blocked:
        name, packed = "conv_first_f32", packing.pack_conv_first(weight)
    elif winograd_pays(x.shape[0], inner, outputs, place):
        return winograd(ctx, x, weight, place, shape)
    else:
        name, packed = "conv_nchw16c_f32", packing.pack_conv(weight)
    fields = geometry(place)
    blocks = ix.ceildiv(outputs, LANES)
    if name == "conv_first_f32":
        source = ctx.pointer(x)
        fields |= {"ic": inner, "oc_blocks": blocks, "x_batch": inner * ix.product(place.size)}
    else:
        source, fields["x_batch"] = ctx.blocked(x)
        fields |= {"ic_blocks": ix.ceildiv(x.shape[1], LANES), "oc_blocks": blocks, "groups": 1, "ic": inner}
    if scale is not None:
        fields["scale"], fields["scale_batch"] = ctx.blocked(scale)
    fields |= {"x": source, "w": Pointer(ctx.constant_buffer(packed, "float32")), "n": x.shape[0]}
    return open_blocked(ctx, name, fields, shape)


def _nest(ctx: Lowering, x: Tensor, w: Tensor, place: Window, groups: int, shape: tuple[Dim, ...]) -> Tensor:
    """The raw sums as a loop nest, for any dtype and number of dimensions."""
    ctx.cheap(x)
    ctx.cheap(w)
    outer = variables(shape)
    inner = variables(w.shape[1:], "k")
    channel, *taps = inner
    where, inside = place.tap(outer[2:], taps)
    group = ix.floordiv(outer[1], ix.floordiv(w.shape[0], groups)) if groups > 1 else 0
    value = ex.guard(inside, x.at((outer[0], group * w.shape[1] + channel, *where)), 0)
    term = value * w.at((outer[1], channel, *taps))
    buffer = ctx.temporary(x.dtype, ix.product(shape))
    total = Reduce("total", "sum", term, inner, x.dtype)
    store = Store(buffer, Plain(shape).offset(outer), ex.local("total", x.dtype))
    ctx.nest(outer, [total, store])
    return ctx.in_memory(buffer, shape)
