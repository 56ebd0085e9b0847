"""The usual causes of a difference, recognised from the node, its twin and the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def causes(node: ir.Node, twin: ir.Node | None, expected: Any, actual: Any) -> list[str]:
    """What probably happened, the most likely first."""
    found = [*_attributes(node, twin), *_inputs(node, twin)]
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        found += _values(node, expected, actual)
    if twin is None and not found:
        found.append("the node has no counterpart in the source: it was inserted")
    return found


def _attributes(node: ir.Node, twin: ir.Node | None) -> list[str]:
    if twin is None:
        return []
    if twin.op_type != node.op_type:
        return [f"{node.op_type} stands where the source has {twin.op_type}"]
    found = []
    for name in sorted({*node.attributes, *twin.attributes}):
        mine, theirs = (
            each.attributes[name].value if name in each.attributes else "its default" for each in (node, twin)
        )
        if not _same(mine, theirs):
            found.append(f"{_MEANING.get(name, f'attribute {name}')}: {_short(mine)} instead of {_short(theirs)}")
    if node.op_type == "BatchNormalization" and len(node.outputs) > len(twin.outputs):
        found.insert(0, "training mode was left on: the batch's own statistics are used")
    return found


def _attribute(node: ir.Node, name: str) -> Any:
    return node.attributes[name].value if name in node.attributes else "its default"


_MEANING = {
    "epsilon": "another epsilon",
    "training_mode": "training mode was left on",
    "perm": "a layout that is permuted differently",
    "pads": "another padding",
    "auto_pad": "another padding mode",
    "mode": "another mode",
    "coordinate_transformation_mode": "pixel centres are placed differently",
    "axis": "another axis",
    "ceil_mode": "another rounding of the output size",
    "count_include_pad": "padding counts or does not count in the average",
    "approximate": "another form of Gelu",
}


def _inputs(node: ir.Node, twin: ir.Node | None) -> list[str]:
    """Weights that differ, and constants where the source computes."""
    if twin is None:
        return []
    found = []
    for number, (own, other) in enumerate(zip(node.inputs, twin.inputs, strict=False)):
        if own is None or other is None:
            continue
        if own.const_value is not None and other.const_value is None:
            found.append(f"a dynamic value was frozen: input {number} is a constant, the source computes it")
        elif own.const_value is not None and other.const_value is not None:
            found += _weights(number, own.const_value.numpy(), other.const_value.numpy())
    return found


def _weights(number: int, mine: np.ndarray, theirs: np.ndarray) -> list[str]:
    if mine.shape != theirs.shape:
        return [f"input {number} has shape {list(mine.shape)} instead of {list(theirs.shape)}"]
    if mine.dtype.kind not in "fiu" or np.array_equal(mine, theirs):
        return []
    left, right = mine.astype(np.float64), theirs.astype(np.float64)
    scale = float(np.abs(right).max()) or 1.0
    text = f"weights differ: input {number} by up to {float(np.abs(left - right).max()) / scale:.2%}"
    norm = float(np.vdot(right, right))
    factor = float(np.vdot(left, right)) / norm if norm else 1.0
    if abs(factor - 1) > 1e-6 and np.allclose(left, factor * right, atol=1e-6 * scale):
        text += f": all are {factor:.6g} times the source's"
    elif mine.ndim == 2 and mine.shape[0] == mine.shape[1] and np.array_equal(mine, theirs.T):
        text += ": they are transposed"
    return [text]


def _values(node: ir.Node, expected: np.ndarray, actual: np.ndarray) -> list[str]:
    if expected.shape != actual.shape:
        if sorted(expected.shape) == sorted(actual.shape):
            return ["a layout that is permuted differently: the same sizes in another order"]
        return ["a size was frozen while tracing, or a padding differs"]
    if expected.dtype.kind != "f" or expected.size == 0:
        return []
    for order in ((0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1)):
        fits = expected.ndim == len(order)
        if fits and np.allclose(expected.transpose(order).ravel(), actual.ravel(), rtol=1e-4, atol=1e-6):
            return ["a layout that is permuted differently: the values are those of the source, transposed"]
    if node.op_type in ("Gelu", "Resize") or node.op_type.endswith("Pool"):
        return ["another version or mode of the operator's formula"]
    return []


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, ir.Graph) or isinstance(theirs, ir.Graph):
        return str(mine) == str(theirs)
    if hasattr(mine, "numpy") and hasattr(theirs, "numpy"):
        return bool(np.array_equal(mine.numpy(), theirs.numpy()))
    return bool(np.array_equal(np.asarray(mine, object), np.asarray(theirs, object)))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
