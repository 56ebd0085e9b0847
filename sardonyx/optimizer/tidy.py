"""A model made ready for steps that change weights: flat, folded, and with constants that belong to one node each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sardonyx.model import load, prepare
from sardonyx.model.prepare import fix_names, remove_unused
from sardonyx.optimizer.fold import fold_batch_normalization

__all__ = ["constant", "slim", "tidied", "unshare"]

_FEW = 16  # elements of constants that are compared with each other
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


def slim(model: ir.Model, original: ir.Model) -> None:
    """Leave out what a file need not say, in place: types that follow from the standard, names and numbers said twice.

    What the original says of its values stays. (Measured: 150 of 1,465 kB of a text detector in int8.)
    """
    _share(model)
    said = {value.name for node in original.graph for value in node.outputs if value.type is not None}
    for node in model.graph:
        if node.outputs and node.name == node.outputs[0].name:
            node.name = None
        if node.domain not in ("", "ai.onnx"):
            continue
        for value in node.outputs:
            if value.name not in said and not value.is_graph_output():
                value.type = value.shape = None
    for value in model.graph.initializers.values():
        if not (value.is_graph_input() or value.is_graph_output()):
            value.type = value.shape = None  # those of its numbers


def _share(model: ir.Model) -> None:
    """Small constants that are equal become one."""
    known: dict[tuple, ir.Value] = {}
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.size > _FEW or value.is_graph_input() or value.is_graph_output():
            continue
        if tensor.dtype == ir.DataType.STRING:
            continue
        first = known.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del model.graph.initializers[str(value.name)]


def constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """A new initializer."""
    taken, count = name, 1
    while taken in model.graph.initializers:
        taken, count = f"{name}.{count}", count + 1
    tensor = ir.Tensor(np.array(array, order="C"), name=taken)
    value = ir.Value(name=taken, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value
