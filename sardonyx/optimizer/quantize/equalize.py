"""``equalize``: channels of neighbouring layers get weights of one size, and the model computes what it did.

Between two layers with a function in between that does not mind a positive factor (Relu, LeakyRelu, pooling), channel i
of the first can be divided by s and what reads it multiplied by s. With ``s = sqrt(r1 / r2)``, of the ranges of both,
one scale suits all channels of both weights. M. Nagel et al., arXiv:1906.04721, section 4.1. Needs no data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.fold import fold_batch_normalization
from sardonyx.optimizer.quantize.graph import (
    add_constant,
    array_of,
    consumers,
    editable,
    finish,
    int_of,
    is_op,
    is_private,
)
from sardonyx.optimizer.quantize.parameters import between
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["Equalize"]

_THROUGH = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "PRelu", "Relu")
_ENOUGH = 1e-3  # largest change of a factor after which a round counts as the last


@dataclass
class _Pair:
    """Two layers of which the second alone reads the first."""

    first: ir.Node
    second: ir.Node


@step("equalize")
@dataclass(frozen=True)
class Equalize(Step):
    """Cross-layer equalisation of Conv and Gemm.

    Attributes:
        rounds: chains of layers are gone through so often at most.
    """

    rounds: int = 20

    def __post_init__(self) -> None:
        between("rounds", self.rounds, 1, 1000)

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`."""
        work = editable(model)
        fold_batch_normalization(work)
        pairs = [pair for node in work.graph if (pair := _pair(node)) is not None]
        if not pairs:
            return Applied(model, False, ["there are no two layers with only a Relu or pooling between them"])
        weights = _Weights(pairs)
        for _ in range(self.rounds):
            if max([weights.equalize(pair) for pair in pairs]) < _ENOUGH:
                break
        if not weights.changed:
            return Applied(model, False, [f"{len(pairs)} pairs of layers are equal in size already"])
        weights.store(work.graph)
        return Applied(finish(work), True, [f"{len(pairs)} pairs of layers have weights of equal size"])


def _pair(first: ir.Node) -> _Pair | None:
    """`first` and the layer that alone reads it, if a factor can pass between them."""
    if not _is_layer(first):
        return None
    value = first.outputs[0]
    while is_private(value):
        (reader,) = consumers(value)
        if _is_layer(reader) and reader.inputs[0] is value:
            return _Pair(first, reader) if _channels(first) == _inputs(reader) else None
        flat = is_op(reader, "Flatten") and int_of(reader, "axis", 1) == 1 and _is_pixel(value)
        if not (flat or is_op(reader, *_THROUGH)) or reader.inputs[0] is not value:
            return None
        value = reader.outputs[0]
    return None


def _is_layer(node: ir.Node) -> bool:
    """A Conv or plain Gemm with float32 constants that nothing else reads."""
    if not is_op(node, "Conv", "Gemm"):
        return False
    plain = all(node.attributes.get_float(key, 1.0) == 1.0 for key in ("alpha", "beta")) and not int_of(node, "transA")
    if is_op(node, "Gemm") and not plain:
        return False
    for value in node.inputs[1:3]:
        array = array_of(value)
        if value is None:
            continue
        if array is None or array.dtype != np.float32 or len(list(value.uses())) != 1 or value.is_graph_output():
            return False
        if not np.isfinite(array).all():
            return False
    bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    return bias is None or bias.shape == (_channels(node),)


def _is_pixel(value: ir.Value) -> bool:
    """[batch, channels, 1, 1, ...]: flattening leaves channels in order."""
    return value.shape is not None and len(value.shape) > 2 and all(dim == 1 for dim in value.shape[2:])


def _weight(node: ir.Node) -> np.ndarray:
    array = array_of(node.inputs[1])
    assert array is not None
    return array


def _channels(node: ir.Node) -> int:
    return _rows(node, _weight(node)).shape[0]


def _inputs(node: ir.Node) -> int:
    return int_of(node, "group", 1) * _rows(node, _weight(node)).shape[1]


def _rows(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """The weight with outputs on axis 0 and the inputs of a group on axis 1; a view."""
    return weight.T if is_op(node, "Gemm") and not int_of(node, "transB") else weight


class _Weights:
    """Weights and biases of layers while they change, float64."""

    def __init__(self, pairs: list[_Pair]):
        nodes = dict.fromkeys(node for pair in pairs for node in (pair.first, pair.second))
        self.weight = {node: _weight(node).astype(np.float64) for node in nodes}
        biases = {node: array_of(node.inputs[2]) if len(node.inputs) > 2 else None for node in nodes}
        self.bias = {node: bias.astype(np.float64) for node, bias in biases.items() if bias is not None}
        self.changed: set[ir.Node] = set()

    def equalize(self, pair: _Pair) -> float:
        """Move factors from one layer to the other; how far the largest of them was from 1."""
        one = _rows(pair.first, self.weight[pair.first])
        groups = int_of(pair.second, "group", 1)
        two = _rows(pair.second, self.weight[pair.second])
        parts = two.reshape(groups, two.shape[0] // groups, *two.shape[1:])  # [group, outputs, inputs, ...]
        inner = tuple(range(3, parts.ndim))
        before = np.max(np.abs(one), axis=tuple(range(1, one.ndim)))
        after = np.max(np.abs(parts), axis=(1, *inner)).reshape(-1)
        alive = (before > 0) & (after > 0)
        factor = np.where(alive, np.sqrt(np.where(alive, before, 1) / np.where(alive, after, 1)), 1.0)
        # `_rows` of a Gemm is a transposition, its own inverse.
        self.weight[pair.first] = _rows(pair.first, one / factor.reshape(-1, *[1] * (one.ndim - 1)))
        if pair.first in self.bias:
            self.bias[pair.first] = self.bias[pair.first] / factor
        scaled = parts * factor.reshape(groups, 1, -1, *[1] * len(inner))
        self.weight[pair.second] = _rows(pair.second, scaled.reshape(two.shape))
        change = float(np.max(np.abs(np.log(factor))))
        if change > 0:
            self.changed |= {pair.first, pair.second}
        return change

    def store(self, graph: ir.Graph) -> None:
        """Write what changed, under new names."""
        for node in self.weight:
            if node not in self.changed:
                continue
            for at, table in ((1, self.weight), (2, self.bias)):
                if node in table:
                    value = node.inputs[at]
                    assert value is not None
                    array = table[node].astype(np.float32)
                    node.replace_input_with(at, add_constant(graph, f"{value.name}.equalized", array))
