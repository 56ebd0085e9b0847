"""Keep quantised weights quantised: DequantizeLinear of a weight -> MatMul | Gemm | LSTM ... becomes one node.

    x --------------------------- MatMul ---        x ----------------------- MatMulDequantized ---
    w -> DequantizeLinear -----------'              w, scale, zero point ----------'

Scales are one for all, one for each column, or one for each column of a block of rows. The weights stay in memory as
numbers of 4 or 8 bits, and the result has the bits of the product of floats. Those of LSTM, GRU and RNN stay bytes
where R is so large that as floats it would come from beyond L2 at each step.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer import quantized as qz
from sardonyx.optimizer.fuse_attention import DOMAIN
from sardonyx.optimizer.quantized import Quantized

__all__ = ["FuseWeights"]

WORD = 8  # numbers of 4 bits in a word of the kernel: blocks are made of these
LEAST_WEIGHTS = 1 << 12  # fewer are as well kept as floats
# Weights of one direction from which bytes pay, 3 MB as floats: where L2 has 2 MB, 1.1 times as fast with 8 batch
# elements, 1.6 with one. With 1.9 MB of floats 0.93 and 1.03, with 1 MB 0.85 and 0.77: becoming floats is what costs.
LEAST_RECURRENT = 3 << 18
RECURRENT = ("LSTM", "GRU", "RNN")


class FuseWeights(ir.passes.InPlacePass):
    """Replaces every match; products of which both operands are quantised are gone by then (`FuseQuantized`)."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what matches, in the graph and its subgraphs."""
        refusal = "the weights of %s stay floats: %s"
        products = qz.replace_each(model, ("MatMul", "Gemm"), DOMAIN, _fuse, refusal)
        layers = qz.replace_each(model, RECURRENT, DOMAIN, _fuse_layer, refusal)
        return ir.passes.PassResult(model, products.modified or layers.modified)


def _fuse(model: ir.Model, node: ir.Node) -> str:
    a, b = node.inputs[:2]
    found = qz.dequantized(b, qz.NARROW)
    if a is None or b is None or found is None or found.data.const_value is None or not found.parameters.known:
        return "its second operand is no known quantised weight"
    if not qz.only_use(b):
        return "the weights are wanted elsewhere, too"
    given = {name: attribute.value for name, attribute in node.attributes.items() if node.op_type == "Gemm"}
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        return "Gemm does more than multiply and add"
    q = qz.array_of(found.data)
    if q.ndim != 2 or q.size < LEAST_WEIGHTS:
        return "it is no matrix, or a small one"
    blocks = _blocks(found, q)
    if isinstance(blocks, str):
        return blocks
    scales, zeros, axis, block = blocks
    if given.get("transB", 0):
        q, scales, zeros, axis = q.T, scales.T, zeros.T, 1 - axis
    if axis != 0:
        return "scales of blocks of columns"
    bits = 8 if found.parameters.dtype in qz.BYTES else 4
    middle = 1 << (bits - 1) if found.parameters.dtype.is_signed() else 0
    values = [(q.astype(np.int16) + middle).astype(np.uint8), scales, (zeros + middle).astype(np.float32)]
    weights = [qz.constant(model, f"{found.data.name}/{name}", value)
               for name, value in zip(("numbers", "scales", "zeros"), values, strict=True)]  # fmt: skip
    old, added = node.outputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    attributes = (ir.AttrInt64("bits", bits), ir.AttrInt64("block", block))
    result = qz.insert(
        node, "MatMulDequantized", [a, *weights], like=old, dtype=ir.DataType.FLOAT, domain=DOMAIN, version=1,
        attributes=attributes,
    )  # fmt: skip
    if added is not None:
        result = qz.insert(node, "Add", [result, added], like=old, dtype=ir.DataType.FLOAT)
    qz.replace(old, result)
    return ""


def _fuse_layer(model: ir.Model, node: ir.Node) -> str:
    r = _bytes_of(model, node.inputs[2])
    if isinstance(r, str):
        return f"its recurrent weights are {r}"
    if qz.array_of(r[0])[0].size < LEAST_RECURRENT:
        return "as floats they fit a cache"
    w = _bytes_of(model, node.inputs[1])
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    inputs[2] = r[0]
    if not isinstance(w, str):
        inputs[1] = w[0]
    scales = [r[1], None if isinstance(w, str) else w[1]]
    new = ir.Node(DOMAIN, f"{node.op_type}Dequantized", [*inputs, *scales], node.attributes.values(), version=1,
                  name=node.name, num_outputs=len(node.outputs))  # fmt: skip
    assert node.graph is not None
    node.graph.insert_before(node, new)
    for old, result in zip(node.outputs, new.outputs, strict=True):
        result.name, result.type, result.shape = old.name, old.type, old.shape
        old.name = f"{old.name}/before"
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    qz.remove_unread(node)
    return ""


def _bytes_of(model: ir.Model, value: ir.Value | None) -> tuple[ir.Value, ir.Value] | str:
    """Weights [directions, columns, inputs] of a layer as int8, and the scale of each column; else what they are."""
    found = qz.dequantized(value)
    if found is None or found.data.const_value is None or not found.parameters.known:
        return "no known bytes"
    q, (scale, zero) = qz.array_of(found.data), found.parameters.arrays()
    if q.ndim != 3 or found.parameters.block or not (found.parameters.single or found.parameters.axis % 3 == 1):
        return "bytes without a scale for each column"
    middle = 0 if found.parameters.dtype.is_signed() else 128
    if np.any(zero != middle):
        return "bytes with other zero points than the middle"
    moved, scales = (q.astype(np.int16) - middle).astype(np.int8), np.broadcast_to(scale.ravel(), q.shape[1])
    name = found.data.name
    return qz.constant(model, f"{name}/bytes", moved), qz.constant(model, f"{name}/scales", scales)


def _blocks(found: Quantized, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int] | str:
    """Scales and zero points as matrices with one for each block along an axis; that axis; the length of a block."""
    scale, zero = found.parameters.arrays()
    zero = np.broadcast_to(zero.reshape(()) if zero.size == 1 else zero, scale.shape) if scale.size > 1 else zero
    axis = found.parameters.axis % 2
    if found.parameters.block:
        if scale.ndim != 2 or zero.shape != scale.shape:
            return "scales that don't fit their blocks"
        return scale, zero, axis, found.parameters.block
    if found.parameters.single:
        return (*(np.full((1, q.shape[1]), x.ravel()[0]) for x in (scale, zero)), 0, _whole(q.shape[0]))  # type: ignore[return-value]
    if scale.size != q.shape[axis]:
        return "scales that don't fit their axis"
    shape = (1, -1) if axis == 1 else (-1, 1)
    return scale.reshape(shape), zero.reshape(shape), 1 - axis, _whole(q.shape[1 - axis])


def _whole(extent: int) -> int:
    return -(-extent // WORD) * WORD
