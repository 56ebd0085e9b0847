"""Multiplication by one number a channel before a 1x1 convolution, as squeeze-excite has it: one ScaledConv.

    x --- Mul --- Conv 1x1        x ------ ScaledConv
    scale --'                     scale --'

Which of the two is the scale, and whether it goes into the weights or stays with x, is decided where shapes are known
(`ops/convolution.py`). The result differs from the original by rounding alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer import quantized as qz
from sardonyx.optimizer.fuse_attention import DOMAIN

__all__ = ["FuseScale"]


class FuseScale(ir.passes.InPlacePass):
    """Replaces every match."""

    def requires(self, model: ir.Model) -> None:
        """Any model will do."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace what matches, in the graph and its subgraphs."""
        return qz.replace_each(model, ("Conv",), DOMAIN, _fuse, "nothing is scaled by %s: %s")


def _is_scale(value: ir.Value | None) -> bool:
    """Whether `value` is [N, C, 1, 1]."""
    return value is not None and value.shape is not None and len(value.shape) == 4 and tuple(value.shape[2:]) == (1, 1)


def _fuse(model: ir.Model, node: ir.Node) -> str:
    """Replace `node`; why not, or nothing."""
    x, weights = node.inputs[:2]
    multiply = None if x is None else x.producer()
    if multiply is None or not qz.is_operator(multiply, "Mul") or multiply.graph is not node.graph:
        return "no product before it"
    assert x is not None
    if not qz.only_use(x):
        return "the product is wanted elsewhere, too"
    if not any(_is_scale(factor) for factor in multiply.inputs):
        return "no factor is one number a channel"  # x * sigmoid(x), say, which the layer before finishes with
    array = None if weights is None or weights.const_value is None else qz.array_of(weights)
    if array is None or array.dtype != np.float32 or array.ndim != 4 or array.shape[2:] != (1, 1):
        return "its weights are no known 1x1 window of float32"
    if "group" in node.attributes and node.attributes["group"].as_int() != 1:
        return "groups"
    old = node.outputs[0]
    result = qz.insert(
        node, "ScaledConv", [*multiply.inputs, *node.inputs[1:]], like=old, dtype=ir.DataType.FLOAT, domain=DOMAIN,
        version=1, attributes=tuple(node.attributes.values()),
    )  # fmt: skip
    made = result.producer()
    assert made is not None
    made.name = node.name  # a profile shows it
    qz.replace(old, result)
    return ""
