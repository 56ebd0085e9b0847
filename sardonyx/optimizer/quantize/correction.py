"""The mean by which rounded weights shift what a layer gives, to be taken back by its bias.

M. Nagel et al., "Data-free quantization through weight equalization and bias correction", arXiv:1906.04721, section
4.2; the mean of the input is measured here, by computing the layer with the errors of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sardonyx.model.load import load
from sardonyx.optimizer.activations import activations
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.quantize.feeds import QUIET
from sardonyx.optimizer.quantize.graph import add_constant, add_node
from sardonyx.optimizer.quantize.plan import Product

__all__ = ["mean_shifts"]


def mean_shifts(model: ir.Model, errors: Mapping[Product, np.ndarray], data: Data) -> dict[ir.Node, np.ndarray]:
    """For each product the mean of ``layer(x; error of its weight)`` over data, for each output channel, float32.

    Args:
        model: in float; nodes have unique names.
        errors: rounded weight - weight.
        data: samples.
    """
    probe = load(model)
    twins = {node.name: node for node in probe.graph}
    names = {}
    for product, error in errors.items():
        twin = twins[product.node.name]
        inputs: list[ir.Value | None] = list(twin.inputs[:2])
        inputs[product.weight or 0] = add_constant(probe.graph, f"{twin.name}.error", error.astype(np.float32))
        attributes = {key: each.value for key, each in twin.attributes.items()}
        name = f"{twin.name}.shift"
        names[str(add_node(twin, twin.op_type, inputs, name, attributes, like=twin.outputs[0]).name)] = product.node
    probe.graph.sort()
    sums: dict[ir.Node, np.ndarray] = {}
    for values in activations(probe, list(names), data, QUIET):
        for name, node in names.items():
            array = np.asarray(values[name], np.float64)
            channels = array.ndim - 1 if node.op_type in ("MatMul", "Gemm") else 1
            mean = array.mean(axis=tuple(axis for axis in range(array.ndim) if axis != channels))
            sums[node] = sums.get(node, np.zeros_like(mean)) + mean
    return {node: (total / len(data)).astype(np.float32) for node, total in sums.items()}
