"""A model made ready for steps that change weights: flat, folded, and with constants that belong to one node each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.model import load, prepare
from sardonyx.model.prepare import fix_names, remove_unused
from sardonyx.optimizer.fold import fold_batch_normalization

__all__ = ["constant", "tidied", "unshare"]

_SMALL = 4096  # elements of an initializer that each of its users gets a copy of


def tidied(model: ir.Model) -> ir.Model:
    """A copy without functions, Constant nodes and foldable batch normalisation, in which nothing small is shared."""
    copy = prepare(load(model), stop_after="remove_unused")
    fix_names(copy)
    unshare(copy)
    fold_batch_normalization(copy)
    remove_unused(copy)
    return copy


def unshare(model: ir.Model) -> None:
    """Give every user of a small initializer its own, so that equal biases do not tie layers together."""
    for value in list(model.graph.initializers.values()):
        usages = list(value.uses())
        if len(usages) < 2 or value.const_value is None or value.const_value.size > _SMALL or value.is_graph_output():
            continue
        if value.is_graph_input() or any(usage.node.graph is not model.graph for usage in usages):
            continue
        for count, usage in enumerate(usages[1:]):
            copy = constant(model, f"{value.name}.{count + 2}", value.const_value.numpy())
            usage.node.replace_input_with(usage.idx, copy)


def constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer."""
    taken, count = name, 1
    while taken in model.graph.initializers:
        taken, count = f"{name}.{count}", count + 1
    tensor = ir.Tensor(np.array(array, order="C"), name=taken)
    value = ir.Value(name=taken, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value
