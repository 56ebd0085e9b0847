"""Convolution of 3x3 windows by Winograd's algorithm: when it pays, and its steps."""

from __future__ import annotations

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import LANES, Blocked, Tensor
from sardonyx.kernels import packing
from sardonyx.ops.window import Window

CHANNELS = 4096  # input channels, at most: the error bound of winograd_f32.h grows with them


def winograd_pays(images: Dim, inputs: int, outputs: int, place: Window) -> bool:
    """Whether `winograd_f32` is faster than the direct sum: a model of both in multiply-adds of 16 lanes.

    Winograd multiplies a quarter as often, on whole tiles of 4 x 4, but transforms each tile of each channel block in
    (as long as 300 multiply-adds) and out (200), and each block of 16 x 16 weights (0.84 us, 2200 multiply-adds).
    Weights count as coming from memory, at 4 bytes in the time of a multiply-add: the layers of a network drive each
    other's from the caches.

    Measured on Zen 3, one thread, ms: ONNX Runtime, direct and Winograd; the last two again with all caches cold.

        channels   plane   ORT   direct  Winograd   cold           channels  plane    ORT   direct  Winograd   cold
        64->64     56x56   3.20   2.85   1.23    2.90  1.18        128->32   56x56    2.99   2.77   1.17    2.88  1.22
        128->128   28x28   2.82   2.76   1.07    2.93  1.15        128->32   28x28    0.69   0.65   0.23    0.87  0.46
        256->256   14x14   3.01   2.97   1.53    3.19  1.61        128->32   14x14    0.18   0.17   0.07    0.31  0.21
        512->512   7x7     3.26   3.00   1.71    3.43  2.05        128->32   7x7      0.06   0.05   0.02    0.12  0.09
        512->512   14x14   11.0   11.9   6.13    12.0  5.98        16->64    55x55    0.71   0.61   0.29    0.94  0.52
        512->512   28x28   42.1   49.2   17.1    46.4  16.3        64->64    7x7      0.06   0.04   0.02    0.11  0.09
        256->256   64x64   56.3   58.3   22.2                      64->64    224x224  45.4   43.3   16.4    40.2  15.6

    A plane of unknown size counts as one of 28 x 28, an unknown number of images as one.
    """
    if not winograd_suits(inputs, place):
        return False
    height, width = (size if isinstance(size, int) else 28 for size in place.output)
    positions = (images if isinstance(images, int) else 1) * height * width
    direct = -(-inputs // LANES) * -(-outputs // LANES) * (positions * 9 * 16 + 9 * 256)
    return direct > 1.25 * winograd_work(images, inputs, outputs, place)


def winograd_suits(inputs: int, place: Window) -> bool:
    """Whether `winograd_f32` takes such a window over so many input channels of a group."""
    plain = place.kernel == (3, 3) and set(place.strides) == {1} and set(place.dilations) == {1}
    return plain and inputs <= CHANNELS


def winograd_work(images: Dim, inputs: int, outputs: int, place: Window) -> float:
    """What `winograd_f32` takes for a group, in multiply-adds of 16 lanes: see `winograd_pays`."""
    height, width = (size if isinstance(size, int) else 28 for size in place.output)
    tiles = (images if isinstance(images, int) else 1) * -(-height // 4) * -(-width // 4)
    inner, outer = -(-inputs // LANES), -(-outputs // LANES)
    return inner * outer * (tiles * 36 * 16 + 2200 + 9 * 256) + tiles * (300 * inner + 200 * outer)


def winograd(
    ctx: Lowering, x: Tensor, weight: np.ndarray, place: Window, shape: tuple[Dim, ...], groups: int = 1
) -> Tensor:
    """The raw sums of a 3x3 convolution by `winograd_f32`; several groups are whole blocks each, in and out."""
    weights = Pointer(ctx.constant_buffer(packing.pack_conv(weight, groups), "float32"))
    return winograd_from(ctx, x, weights, weight.shape[:2], place, shape, groups)


def winograd_from(
    ctx: Lowering, x: Tensor, weights: Pointer, channels: tuple[int, int], place: Window, shape: tuple[Dim, ...],
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """The same with weights that are packed already, of so many `channels`: outputs, and inputs of a group."""
    source, pitch = ctx.blocked(x)
    blocks = ix.ceildiv(channels[1], LANES)
    names = ("ih", "iw", "oh", "ow", "pad_top", "pad_left")
    fields: dict[str, Dim | Pointer | None] = dict(zip(names, (*place.size, *place.output, *place.begin), strict=True))
    fields |= {"x": source, "n": x.shape[0], "ic_blocks": blocks, "x_batch": pitch, "groups": groups}
    outputs = -(-channels[0] // groups // LANES)
    tiles = x.shape[0] * ix.ceildiv(place.output[0], 4) * ix.ceildiv(place.output[1], 4)
    few = LANES * outputs  # up to so many tiles their transform is shared, beyond that of the weights
    chunks = ix.ceildiv(blocks, 4)
    own: dict[str, Dim | Pointer | None] = {"ic_blocks": blocks, "oc_blocks": outputs, "groups": groups}
    if not isinstance(tiles, int) or tiles <= few:
        most = ix.imin(tiles, few)
        transformed = ctx.temporary("float32", groups * (most * 4 + ix.ceildiv(most, 8)) * chunks * 576)
        step = fields | own | {"v": Pointer(transformed)}
        ctx.emit(Kernel("winograd_input_f32", step, (transformed,)))
        fields["v"] = Pointer(transformed)
    if not isinstance(tiles, int) or tiles > few:
        needed = ix.imin(ix.floordiv(tiles, few + 1), 1)
        transformed = ctx.temporary("float32", needed * groups * outputs * chunks * 37440)
        step = own | {"w": weights, "u": Pointer(transformed), "tiles": tiles}
        ctx.emit(Kernel("winograd_weights_f32", step, (transformed,)))
        fields["u"] = Pointer(transformed)
    fields |= {"oc_blocks": outputs, "w": weights}
    return open_blocked(ctx, "winograd_f32", fields, shape)


def open_blocked(ctx: Lowering, name: str, fields: dict, shape: tuple[Dim, ...]) -> Tensor:
    """The output [N, C, ...] of an open kernel call that writes NCHW16c."""
    layout = Blocked(shape)
    buffer = ctx.temporary("float32", layout.size())
    image = layout.blocks * layout.pixels * LANES
    fields = fields | {"y": Pointer(buffer), "y_batch": image}
    domain = (shape[0], layout.blocks, layout.pixels, LANES)
    strides = (image, layout.pixels * LANES, LANES, 1)
    ctx.open_kernel(Kernel(name, fields, (buffer,), domain=domain, strides=strides, target="y", pitches=("y_batch",)))
    return ctx.in_memory(buffer, shape, layout)
