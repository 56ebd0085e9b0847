"""Sizes that a model reads as values: what is made of them decides whether they may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.prune.flow import Flow
from sardonyx.runtime.reference import run_node

__all__ = ["is_size_only"]

_MOVES = {"Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape"}
_COUNTS = {"Add", "Div", "Mul", "Sub", "ReduceProd"}
_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "Resize": 3, "ConstantOfShape": 0}


def is_size_only(flow: Flow, value: ir.Value, changed: np.ndarray) -> bool:
    """Nothing but shapes is made of the elements of `value` that are `changed`."""
    if not changed.any():
        return True
    if value.is_graph_output():
        return False
    for usage in value.uses():
        user, place = usage.node, usage.idx
        if _SHAPE_INPUT.get(user.op_type) == place:
            continue
        known_output = flow.shapes.known.get(user.outputs[0])
        if known_output is None or known_output.dtype.kind != "i":
            return False
        if (user.op_type in _MOVES and place == 0) or user.op_type == "Concat":
            after = _moved(flow, user, place, changed)
        elif user.op_type in _COUNTS:
            after = np.ones(known_output.shape, bool)
        else:
            return False
        if not is_size_only(flow, user.outputs[0], after):
            return False
    return True


def _moved(flow: Flow, node: ir.Node, place: int, changed: np.ndarray) -> np.ndarray:
    """Which elements of the output of a node that only moves elements are `changed`."""
    operands: list[Any] = [None if value is None else flow.shapes.known[value] for value in node.inputs]
    data = range(len(operands)) if node.op_type == "Concat" else range(1)
    for position in data:
        marks = np.zeros(np.shape(operands[position]), np.int64)
        operands[position] = changed.astype(np.int64).reshape(marks.shape) if position == place else marks
    return np.asarray(run_node(node, operands, dict(flow.model.opset_imports))[0]) != 0
