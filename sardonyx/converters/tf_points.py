"""Values inside a function of TensorFlow, and the ONNX values that should equal them.

tf2onnx gives the output of an operation the name of TensorFlow's tensor, and keeps it when it moves transpositions: the
value is then the tensor with its channels first. The function is frozen in the way in which tf2onnx freezes it, since
names come from inlining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.source import Point

_FIRST = ":channels-first"  # at the end of a point's name: the ONNX value is the tensor, transposed
_SUMS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}  # what a bias may be folded into
_ADDITIONS = {"Add", "AddV2", "BiasAdd", "FusedBatchNormV3", "_FusedConv2D", "_FusedMatMul"}


class Inner:
    """The inner values of a function.

    Args:
        concrete: a concrete function, whose arguments are the inputs of the model.
        model: the ONNX model made from it, with types.
    """

    def __init__(self, concrete: Any, model: ir.Model):
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        self.frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
        self.points = [point for node in model.graph for value in node.outputs for point in self._point(node, value)]

    def _point(self, node: ir.Node, value: ir.Value) -> list[Point]:
        """The tensor of the same name, if it is one and holds the same numbers."""
        name = str(value.name)
        try:
            tensor = self.frozen.graph.get_tensor_by_name(name)
        except (ValueError, KeyError):
            return []
        if not tensor.dtype.is_floating or tensor.op.type == "Placeholder":
            return []
        folded = node.op_type in _SUMS and len(node.inputs) == 3 and tensor.op.type not in _ADDITIONS
        if folded:  # what comes after the operation is done by the node too
            return []
        first = channels_first(tensor.shape.as_list() if tensor.shape.rank is not None else None, value.shape)
        return [] if first is None else [Point(name + _FIRST * first, name, tensor.op.name)]

    def observe(self, arguments: Sequence[Any], names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values of the points called `names`."""
        tensors = [name.removesuffix(_FIRST) for name in names]
        pruned = self.frozen.prune([tensor.name for tensor in self.frozen.inputs], tensors)
        values = [value.numpy() for value in pruned(*arguments)]
        return {
            name: np.moveaxis(value, -1, 1) if name.endswith(_FIRST) else value
            for name, value in zip(names, values, strict=True)
        }


def channels_first(tensor: Sequence[int | None] | None, value: ir.Shape | None) -> bool | None:
    """Whether a value of ONNX is a tensor with its last axis moved to the front; None: it cannot be told.

    Args:
        tensor: sizes as TensorFlow knows them; None: unknown.
        value: sizes as ONNX knows them.
    """
    if tensor is None or value is None or len(tensor) != len(value):
        return None
    sizes = [dim if isinstance(dim, int) else None for dim in value]
    same = _alike(tensor, sizes)
    if len(tensor) < 4:
        return False if same is not None else None
    moved = _alike([tensor[0], tensor[-1], *tensor[1:-1]], sizes)
    scores: Mapping[bool, int] = {first: n for first, n in ((False, same), (True, moved)) if n is not None}
    best = [first for first, n in scores.items() if n == max(scores.values())]
    return best[0] if len(best) == 1 else None


def _alike(one: Sequence[int | None], other: Sequence[int | None]) -> int | None:
    """How many sizes are known to be equal; None: some are known to differ."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return len(pairs) if all(a == b for a, b in pairs) else None
