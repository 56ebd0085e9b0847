"""Recurrent layers whose weights are bytes.

DynamicQuantizeLSTM rounds what it multiplies with to uint8 while it runs, as ONNX Runtime does: all of x by one range,
and before each step h of all batch elements by one range; products are exact sums in int32 (`matmul_int8`,
`recurrent_int8`), gates are float32. How results differ from ONNX Runtime's: by rounding of floats (1e-7), so that now
and then a number on the border between two steps falls the other way (one of 255 steps of h's range, times a weight of
R: 1e-3 where it was seen); with several threads ONNX Runtime has a range for each part of the batch; where
`sequence_lens` leaves steps to nobody, their x does not belong to its range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Pointer
from sardonyx.compiler.tensor import LANES, Tensor
from sardonyx.kernels.packing_int8 import pack_quads
from sardonyx.ops.contrib import MS
from sardonyx.ops.contrib_quantized import scaled
from sardonyx.ops.few_bits import product_of_bits
from sardonyx.ops.node import Node
from sardonyx.ops.quantization import dynamically_quantized, factor, integer_product
from sardonyx.ops.recurrent import GRU, LSTM, RNN, Cell, Weights, by_input, lane_groups, layer, panels, weights_of
from sardonyx.ops.registry import add, operator

GATES = LSTM.gates
BEYOND = 960  # bytes of R that `recurrent_int8` may read behind it
WORD = 8  # blocks of `product_of_bits` are made of these


@operator("DynamicQuantizeLSTM", domain=MS)
def dynamic_quantize_lstm(
    ctx: Lowering, node: Node, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None, lengths: Tensor | None,
    h: Tensor | None, c: Tensor | None, peepholes: Tensor | None, w_scale: Tensor, w_zero: Tensor | None,
    r_scale: Tensor, r_zero: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """LSTM on bytes: weights [directions, inputs, gates * hidden] as they are, data by its range at each product."""
    known = [t for t in (w, r, w_scale, w_zero, r_scale, r_zero) if t is not None]
    ctx.requires(all(t.array is not None for t in known), "weights that are computed")
    hidden = r.array.shape[1]  # type: ignore[union-attr]
    for weight in (w, r):
        ctx.equal_dims(w.shape[0], weight.shape[0], "directions of weights differ")
        ctx.equal_dims(GATES * hidden, weight.shape[2], "gates of weights differ")
    columns, scales, zeros = _columns(ctx, w, w_scale, w_zero, hidden)

    def project(rows: Tensor) -> Tensor:
        bytes_, scale, zero = dynamically_quantized(ctx, rows)
        matrix = ctx.constant(np.ascontiguousarray(columns.transpose(1, 0, 2).reshape(columns.shape[1], -1)))
        both = factor(ctx, lambda s, t: s * t, scale, ctx.constant(scales.ravel()))
        return scaled(ctx, integer_product(ctx, bytes_, matrix, zero, ctx.constant(zeros.ravel())), both, None)

    weights = Weights("recurrent_int8", "float32", w.shape[0], hidden, _recurrent(ctx, r, r_scale, r_zero), project)
    return layer(ctx, node, LSTM, x, weights, bias, lengths, h, c, peepholes)


def _columns(
    ctx: Lowering, w: Tensor, scale: Tensor, zero: Tensor | None, hidden: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[D, K, gates * lanes], and scale and zero point of each column, [D, gates * lanes]; 0 beyond the hidden size.

    Scales and zero points are one for each direction, or one for each column of each.
    """
    stored = np.asarray(w.array)
    directions, beyond = len(stored), -hidden % LANES

    def wide(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x.reshape(*x.shape[:-1], GATES, hidden), [(0, 0)] * x.ndim + [(0, beyond)])
        return np.ascontiguousarray(padded.reshape(*x.shape[:-1], GATES * (hidden + beyond)))

    def each(parameter: Tensor | None, dtype: np.dtype) -> np.ndarray:
        if parameter is None:
            return np.zeros((directions, GATES * (hidden + beyond)), dtype)
        ctx.equal_dims(directions, parameter.shape[0], "scales do not fit the directions")
        given = np.asarray(parameter.array, dtype).reshape(directions, -1)
        ctx.equal_dims(given.shape[1], 1 if given.shape[1] == 1 else GATES * hidden, "scales do not fit the gates")
        return wide(np.broadcast_to(given, (directions, GATES * hidden)))

    return wide(stored), each(scale, np.dtype(np.float32)), each(zero, stored.dtype)


def _recurrent(ctx: Lowering, r: Tensor, scale: Tensor, zero: Tensor | None) -> dict:
    """R as `recurrent_int8` reads it."""
    columns, scales, zeros = _columns(ctx, r, scale, zero, int(ix.const(r.shape[1]) or 0))
    packed, sums = zip(*(pack_quads(part) for part in columns), strict=True)
    moved = zeros.astype(np.int32) - (128 if columns.dtype == np.uint8 else 0)
    return {
        "recurrent": Pointer(ctx.constant_buffer(np.pad(np.stack(packed).ravel(), (0, BEYOND)), "int8")),
        "sums": Pointer(ctx.constant_buffer(np.stack(sums), "int32")),
        "scales": Pointer(ctx.constant_buffer(scales, "float32")),
        "zeros": Pointer(ctx.constant_buffer(moved, "int32")) if moved.any() else None,
    }


# What the optimizer makes of DequantizeLinear before a layer (see optimizer/fuse_weights.py).


def _dequantized(name: str, cell: Cell) -> None:
    def lower(
        ctx: Lowering, node: Node, x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None, lengths: Tensor | None,
        h: Tensor | None, c: Tensor | None, peepholes: Tensor | None, scales: Tensor, w_scales: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        weights = weights_of(ctx, cell, x, w, r, "recurrent_bytes_f32", _bytes(ctx, cell, r, scales))
        if w_scales is not None:
            weights = replace(weights, project=_project_bytes(ctx, cell, w, w_scales, r.shape[-1]))
        return layer(ctx, node, cell, x, weights, bias, lengths, h, c, peepholes)[: len(node.outputs)]

    lower.__doc__ = f"{name} whose weights are bytes with a scale for each column; W may be floats."
    add(f"{name}Dequantized", lower, since=1, domain="ai.sardonyx", elementwise=False)


for _name, _cell in (("LSTM", LSTM), ("GRU", GRU), ("RNN", RNN)):
    _dequantized(_name, _cell)


def _bytes(ctx: Lowering, cell: Cell, r: Tensor, scales: Tensor) -> dict:
    """R as `recurrent_bytes_f32` reads it."""
    wide = _scales(ctx, cell, r, scales)
    return {"recurrent": ctx.pointer(panels(ctx, r, cell.gates, r.shape[-1])), "scales": ctx.pointer(wide)}


def _scales(ctx: Lowering, cell: Cell, weight: Tensor, scales: Tensor) -> Tensor:
    """[D, gates, lanes] of one for each column of all directions."""
    each = np.broadcast_to(np.asarray(scales.array), np.asarray(weight.array).shape[:2])
    return lane_groups(ctx, ctx.constant(np.ascontiguousarray(each)), cell.gates, each.shape[1] // cell.gates)


def _project_bytes(ctx: Lowering, cell: Cell, w: Tensor, scales: Tensor, hidden: Dim) -> Callable[[Tensor], Tensor]:
    """x W' with W as bytes in memory."""
    columns = np.asarray(by_input(ctx, w, cell.gates, hidden).array)
    numbers = (columns.astype(np.int16) + 128).astype(np.uint8)
    row = np.asarray(_scales(ctx, cell, w, scales).array).reshape(1, -1)
    whole = -(-len(numbers) // WORD) * WORD
    return lambda rows: product_of_bits(ctx, rows, numbers, row, None, bits=8, block=whole)
