"""Grouped convolution on NCHW16c: which kernel, and how groups that it does not take as they are get room in it.

`depthwise_nchw16c_f32` takes groups of one channel, `grouped_nchw16c_f32` groups of 2, 4 or 8 channels in and as many
out, `winograd_f32`, `conv_nchw16c_f32` and, for few outputs, `conv_rows_nchw16c_f32` groups of whole blocks. Where none
fits, inputs are spread out with zeros between them, outputs are written with gaps and read without, or both. Zeros meet
zeros alone, so NaN and infinity of a group stay in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Pointer
from sardonyx.compiler.tensor import LANES, Tensor
from sardonyx.kernels import packing
from sardonyx.ops.window import Window
from sardonyx.ops.winograd import open_blocked, winograd, winograd_suits, winograd_work

SMALL = (2, 4, 8)  # channels in and out of a group that `grouped_nchw16c_f32` takes
COPY = 24  # what spreading or gathering 16 channels of a position costs, in multiply-adds of 16 lanes


@dataclass(frozen=True)
class Room:
    """The channels of a group as a kernel is to see them: `inputs` and `outputs`, of which some may be gaps."""

    kernel: str
    inputs: int
    outputs: int


def convolve_groups(
    ctx: Lowering, x: Tensor, weight: np.ndarray, groups: int, place: Window, fields: dict, shape: tuple[Dim, ...]
) -> Tensor:
    """The raw sums of a convolution with more than one group, [N, groups * O, ...].

    Args:
        ctx: the lowering.
        x: [N, groups * I, ...], float32.
        weight: [groups * O, I, KH, KW].
        groups: how many.
        place: the window.
        fields: the window's, for a kernel.
        shape: of the result.
    """
    inputs, outputs = weight.shape[1], weight.shape[0] // groups
    if inputs == 1:
        source = x if outputs == 1 else _channels(ctx, x, np.repeat(np.arange(groups), outputs))
        fields = fields | _weights(ctx, packing.pack_depthwise(weight)) | {"c_blocks": -(-len(weight) // LANES)}
        return _call(ctx, "depthwise_nchw16c_f32", source, fields, shape)
    room = choose_room(shape[0], groups, inputs, outputs, place)
    source = x if room.inputs == inputs else _channels(ctx, x, _room_changed(groups, inputs, room.inputs))
    padded = np.zeros((groups, room.outputs, room.inputs, *weight.shape[2:]), np.float32)
    padded[:, :outputs, :inputs] = weight.reshape(groups, outputs, *weight.shape[1:])
    padded = padded.reshape(groups * room.outputs, *padded.shape[2:])
    blocks, wide = -(-len(padded) // LANES), (shape[0], len(padded), *shape[2:])
    if room.kernel == "winograd_f32":
        raw = winograd(ctx, source, padded, place, wide, groups)
        return raw if room.outputs == outputs else _channels(ctx, raw, _room_changed(groups, room.outputs, outputs))
    if room.kernel == "grouped_nchw16c_f32":
        fields = fields | _weights(ctx, packing.pack_grouped(padded)) | {"c_blocks": blocks, "channels": room.inputs}
    else:
        fields = fields | _weights(ctx, packing.pack_conv(padded, groups))
        fields |= {"ic_blocks": groups * room.inputs // LANES, "oc_blocks": blocks, "groups": groups, "ic": inputs}
    raw = _call(ctx, room.kernel, source, fields, wide)
    return raw if room.outputs == outputs else _channels(ctx, raw, _room_changed(groups, room.outputs, outputs))


def choose_room(images: Dim, groups: int, inputs: int, outputs: int, place: Window) -> Room:
    """The kernel and the room in which groups of `inputs` and `outputs` channels are convolved fastest."""
    taps = math.prod(k if isinstance(k, int) else 1 for k in place.kernel)

    def cost(room: Room) -> float:
        blocks = -(-groups * room.outputs // LANES)
        if room.kernel == "winograd_f32":
            positions = math.prod(size if isinstance(size, int) else 28 for size in (images, *place.output))
            work = 1.25 * groups * winograd_work(images, room.inputs, room.outputs, place) / positions
            return work + COPY * ((room.inputs != inputs) + (room.outputs != outputs)) * blocks
        products = blocks * (room.inputs if room.kernel == "grouped_nchw16c_f32" else inputs)
        spread = -(-groups * room.inputs // LANES) * math.prod(place.strides) if room.inputs != inputs else 0
        gathered = blocks if room.outputs != outputs else 0
        return taps * products / _efficiency(room, place) + COPY * (spread + gathered)

    rooms = [Room("grouped_nchw16c_f32", size, size) for size in SMALL if size >= max(inputs, outputs)]
    whole = Room("conv_nchw16c_f32", -(-inputs // LANES) * LANES, -(-outputs // LANES) * LANES)
    if winograd_suits(whole.inputs, place):
        rooms.append(replace(whole, kernel="winograd_f32"))
    if whole.outputs <= 2 * LANES and _suits_rows(place):
        whole = replace(whole, kernel="conv_rows_nchw16c_f32")
    return min([*rooms, whole], key=cost)


def _efficiency(room: Room, place: Window) -> float:
    """Which part of the machine's peak a kernel reaches.

    Measured on Emerald Rapids, AVX-512 and AVX2, %: grouped, three taps in a row, 60 to 70 and 60 to 70; direct with
    one block of outputs for each group 33 to 45 and 56 to 76, with two 63 to 66 and 72 to 80; by rows 50 to 59 and 65
    to 86, 74 to 88 and 66 to 76.
    """
    if room.kernel == "grouped_nchw16c_f32":
        listed = place.kernel[-1] == 3 and place.dilations[-1] == 1 and place.strides[-1] <= 2
        return 0.65 if listed else 0.33
    if room.kernel == "conv_rows_nchw16c_f32":
        return 0.6 if room.outputs == LANES else 0.8
    return 0.4 if room.outputs == LANES else 0.65


def _suits_rows(place: Window) -> bool:
    """Whether `conv_rows_nchw16c_f32` takes such a window, and there are borders or ends of rows to gain from."""
    kernel, strides = place.kernel, place.strides
    if strides[-1] > 2 or not isinstance(kernel[-1], int) or (kernel[-1] - 1) * place.dilations[-1] > 16:
        return False
    return set(kernel) != {1} or set(strides) != {1}


def _weights(ctx: Lowering, packed: np.ndarray) -> dict:
    return {"w": Pointer(ctx.constant_buffer(packed, "float32"))}


def _call(ctx: Lowering, kernel: str, source: Tensor, fields: dict, shape: tuple[Dim, ...]) -> Tensor:
    address, image = ctx.blocked(source)
    return open_blocked(ctx, kernel, fields | {"x": address, "x_batch": image, "n": shape[0]}, shape)


def _channels(ctx: Lowering, x: Tensor, channels: np.ndarray) -> Tensor:
    """The channels of `x` with these numbers; 0 where a number is negative."""
    address, image = ctx.blocked(x)
    blocks = -(-len(channels) // LANES)
    numbers = np.full(blocks * LANES, -1, np.int32)
    numbers[: len(channels)] = channels
    fields = {"x": address, "from": Pointer(ctx.constant_buffer(numbers, "int32")), "x_batch": image}
    fields |= {"n": x.shape[0], "c_blocks": blocks, "positions": ix.product(x.shape[2:])}
    return open_blocked(ctx, "channels_nchw16c_f32", fields, (x.shape[0], len(channels), *x.shape[2:]))


def _room_changed(groups: int, size: int, room: int) -> np.ndarray:
    """Which channels to take for groups of `room` channels from groups of `size`: -1 beyond the last."""
    numbers = np.arange(groups)[:, None] * size + np.arange(room)
    numbers[:, size:] = -1
    return numbers.ravel()
