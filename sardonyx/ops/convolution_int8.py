"""Convolutions and pooling of bytes by the kernels for NHWC: where they fit, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import ChannelsLast, Tensor
from sardonyx.kernels.packing_int8 import pack_conv_nhwc, pack_depthwise_nhwc
from sardonyx.ops.convolution_forms import as_volume, depths_as_channels, seen, taps_as_channels
from sardonyx.ops.window import Window, geometry

BYTES = ("int8", "uint8")
GROUP = 32  # output channels that lie together wherever the kernel writes


@dataclass(frozen=True)
class Requantization:
    """How int32 sums become bytes: ``saturate(round((sum + bias) * scale) + zero)``.

    Attributes:
        bias: int32, one for each output channel, or None.
        scale: float32, one or one for each output channel.
        zero: one, of the type of the result.
    """

    bias: Tensor | None
    scale: Tensor
    zero: Tensor


def convolve_bytes(
    ctx: Lowering, x: Tensor, x_zero: Tensor | None, w: Tensor, w_zero: Tensor | None, place: Window, groups: int,
    after: Requantization | None = None,
) -> Tensor | None:  # fmt: skip
    """The convolution of `x` [N, C, ...] with constant `w` [O, C / groups, ...] as bytes; without `after`, int32 sums.

    None where the kernels do not fit: weights that are computed, or too wide for int8 once their zero points are taken
    off, more than three dimensions, scales that are no finite constants.
    """
    if x.rank == 5 and x.dtype in BYTES and w.array is not None:
        zero = ex.constant(0, x.dtype) if x_zero is None else ctx.cheap(x_zero).scalar()
        images = depths_as_channels(ctx, ctx.cheap(x), w.array.shape, place, groups, zero)
        flat = ctx.constant(taps_as_channels(w.array), w.dtype)
        y = convolve_bytes(ctx, images, x_zero, flat, w_zero, place.axes(1, 2), groups, after)
        return None if y is None else as_volume(ctx, y, (x.shape[0], w.shape[0], *place.output))
    if not suits_bytes(x, place) or (x_zero is not None and x_zero.dtype != x.dtype):
        return None
    outputs = w.shape[0]
    if groups < 1 or (isinstance(outputs, int) and outputs % groups):
        raise errors.ModelError(f"{outputs} output channels in {groups} groups", node=ctx.node, operator=ctx.operator)
    ctx.equal_dims(x.shape[1], w.shape[1] * groups, "input channels do not fit the weights")
    _check_lengths(ctx, w.shape[0], w_zero, *(() if after is None else (after.scale, after.bias)))
    weights = _signed_weights(w, w_zero)
    if weights is None or (after is not None and not _is_finite(after.scale)):
        return None
    weights, place = seen(weights, place)
    weights = weights.reshape(*weights.shape[:2], *((1,) * (4 - w.rank)), *weights.shape[2:])
    outputs, own = weights.shape[:2]
    if groups == outputs and own == 1 and groups > 1:
        name, own_fields, (packed, sums) = "depthwise_nhwc_int8", {}, pack_depthwise_nhwc(weights)
    else:
        name, own_fields = "conv_nhwc_int8", {"ic": x.shape[1], "groups": groups}
        packed, sums = pack_conv_nhwc(weights, groups, merged=place.dilations[-1] == 1)
    fields: dict = _source(ctx, x) | own_fields | {"x_signed": x.dtype == "int8"}
    fields |= {"w": Pointer(ctx.constant_buffer(packed, "int8")), "w_sums": Pointer(ctx.constant_buffer(sums, "int32"))}
    if x_zero is not None:
        fields["x_zero"] = ctx.pointer(x_zero)
    if after is not None:
        fields |= {"scale": ctx.pointer(after.scale), "scale_step": 0 if after.scale.size == 1 else 1}
        fields |= {"y_zero": ctx.pointer(after.zero), "y_signed": after.zero.dtype == "int8"}
        if after.bias is not None:
            ctx.equal_dims(after.bias.size, outputs, "the bias does not fit the output channels")
            fields["bias"] = ctx.pointer(after.bias)
    return _opened(ctx, name, fields, place, (x.shape[0], outputs), "int32" if after is None else after.zero.dtype)


def spread_bytes(ctx: Lowering, x: Tensor, block: int) -> Tensor | None:
    """DepthToSpace of a convolution of bytes that is still to be computed: it writes channels where they belong."""
    kernel = None if x.buffer is None else x.buffer.pending
    if kernel is None or kernel.name != "conv_nhwc_int8" or x.layout != ChannelsLast(x.shape) or x.uses > 1:
        return None
    n, channels, height, width = x.shape
    if kernel.only_moves or block < 2 or any(kernel.fields[field] != 1 for field in ("groups", "kh", "kw")):
        return None
    if not isinstance(channels, int) or channels % (block * block * GROUP):
        return None
    shape = (n, channels // (block * block), height * block, width * block)
    layout = ChannelsLast(shape)
    image, pitch = layout.steps()
    assert x.buffer is not None
    kernel.fields |= {"spread": block, "y_batch": image, "y_pitch": pitch}
    kernel.domain, kernel.strides = (n, 1, layout.pixels, shape[1]), (image, 0, pitch, 1)
    kernel.only_moves = True
    return ctx.in_memory(x.buffer, shape, layout)


def suits_bytes(x: Tensor, place: Window) -> bool:
    """Whether the kernels take such an input and window: one or two dimensions, no padding below zero."""
    cut = any(isinstance(pad, int) and pad < 0 for pad in place.begin)
    return x.dtype in BYTES and x.rank in (3, 4) and not cut


def largest_bytes(ctx: Lowering, x: Tensor, place: Window) -> Tensor:
    """The largest byte of each window."""
    fields = _source(ctx, x) | {"is_signed": x.dtype == "int8"}
    return _opened(ctx, "pool_nhwc_int8", fields, place, x.shape[:2], x.dtype)


def sums_of_bytes(ctx: Lowering, x: Tensor, zero: Tensor | None, place: Window) -> Tensor:
    """The int32 sum, less the zero point each, of those bytes of each window that lie inside."""
    fields = _source(ctx, x) | {"is_signed": x.dtype == "int8", "sums": True}
    fields |= {} if zero is None else {"x_zero": ctx.pointer(zero)}
    return _opened(ctx, "pool_nhwc_int8", fields, place, x.shape[:2], "int32")


def _check_lengths(ctx: Lowering, outputs: Dim, *parameters: Tensor | None) -> None:
    """Each is one number, or one for each output channel; kernels take their word for it."""
    for parameter in parameters:
        if parameter is not None and parameter.size != 1:
            ctx.equal_dims(parameter.size, outputs, "scales, zero points or biases do not fit the output channels")


def _signed_weights(w: Tensor, zero: Tensor | None) -> np.ndarray | None:
    """Constant weights less their zero points as int8, if they fit."""
    if w.array is None or w.array.size == 0 or w.dtype not in BYTES:
        return None
    if zero is None:
        zeros = np.zeros(1, np.int16)
    elif zero.array is not None:
        zeros = zero.array.astype(np.int16)
    else:
        return None
    values = w.array.astype(np.int16) - zeros.reshape(-1, *((1,) * (w.rank - 1)))
    return values.astype(np.int8) if values.min() >= -128 and values.max() <= 127 else None


def _is_finite(scale: Tensor) -> bool:
    return scale.array is not None and bool(np.isfinite(scale.array).all())


def _source(ctx: Lowering, x: Tensor) -> dict:
    source, image, pitch = ctx.channels_last(x)
    return {"x": source, "x_batch": image, "x_pitch": pitch}


def _opened(ctx: Lowering, name: str, fields: dict, place: Window, outer: Sequence[Dim], dtype: str) -> Tensor:
    """The output of an open kernel call, for `outer` (images, channels)."""
    shape = (*outer, *place.output)
    layout = ChannelsLast(shape)
    image, pitch = layout.steps()
    buffer = ctx.temporary(dtype, layout.size())
    fields = fields | geometry(place) | {"n": shape[0], "oc": shape[1]}
    fields |= {"y": Pointer(buffer), "y_batch": image, "y_pitch": pitch}
    domain, strides, pitches = (shape[0], 1, layout.pixels, shape[1]), (image, 0, pitch, 1), ("y_batch", "", "y_pitch")
    ctx.open_kernel(Kernel(name, fields, (buffer,), domain=domain, strides=strides, target="y", pitches=pitches))
    return ctx.in_memory(buffer, shape, layout)
