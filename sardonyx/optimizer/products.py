"""Layers as matrix products: rows of inputs times weights are rows of outputs.

Convolution, Gemm and MatMul with constant weights are all ``Y = X W' + b`` for rows that are positions (of an image, a
sequence, a batch) and columns that are features (a channel at an offset of the filter). What prunes, factorises and
re-fits weights works on these matrices. A sample of the positions is enough: rows are drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product as combinations

import numpy as np
import onnx_ir as ir

from sardonyx.ops.node import Node

__all__ = ["Product", "find_products"]


@dataclass(frozen=True, eq=False)
class Product:
    """One product of a node.

    Attributes:
        node: Conv, Gemm or MatMul.
        x: what it reads.
        y: its outputs: of the node, or of the Add behind it that adds the bias.
        weights: the constant weights.
        bias: the constant bias; None: there is none.
        group: which group of a grouped convolution this is.
        groups: of how many.
    """

    node: ir.Node
    x: ir.Value
    y: ir.Value
    weights: ir.Value
    bias: ir.Value | None
    group: int = 0
    groups: int = 1

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node.name)

    @property
    def channel_axis(self) -> int:
        """The axis of x over whose indices the product sums; -1: the last."""
        if self.node.op_type == "Conv":
            return 1
        return 0 if self._flag("transA") else -1

    @property
    def output_axis(self) -> int:
        """The axis of the weights along which outputs lie."""
        if self.node.op_type == "Conv":
            return 0
        return 0 if self._flag("transB") else 1

    @property
    def input_axis(self) -> int:
        """The axis of the weights along which inputs lie."""
        return 1 - self.output_axis

    def matrix(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The weights [outputs, features], of the group; `weights` in the place of the current ones if given."""
        array = self.weights.const_value.numpy() if weights is None else weights  # type: ignore[union-attr]
        if self.node.op_type == "Conv":
            each = len(array) // self.groups
            return array[self.group * each : (self.group + 1) * each].reshape(each, -1)
        return array if self._flag("transB") else array.T

    def store(self, matrix: np.ndarray, bias: np.ndarray | None = None) -> None:
        """Set the weights, and the bias if there is one, from a matrix."""
        old = self.weights.const_value.numpy()  # type: ignore[union-attr]
        if self.node.op_type == "Conv":
            new = old.copy()
            each = len(old) // self.groups
            new[self.group * each : (self.group + 1) * each] = matrix.reshape(each, *old.shape[1:])
        else:
            new = np.ascontiguousarray(matrix if self._flag("transB") else matrix.T).astype(old.dtype)
        self.weights.const_value = ir.Tensor(new, name=self.weights.name)
        if bias is not None and self.bias is not None:
            whole = self.bias.const_value.numpy().copy()  # type: ignore[union-attr]
            whole.reshape(self.groups, -1)[self.group] = bias
            self.bias.const_value = ir.Tensor(whole, name=self.bias.name)

    def channels(self) -> np.ndarray:
        """For each feature the index along `channel_axis` of x."""
        shape = self.weights.const_value.numpy().shape  # type: ignore[union-attr]
        if self.node.op_type != "Conv":
            return np.arange(shape[self.input_axis])
        return self.group * shape[1] + np.repeat(np.arange(shape[1]), int(np.prod(shape[2:])))

    def outputs(self) -> np.ndarray:
        """For each output the index along `output_axis` of the weights."""
        size = self.weights.const_value.numpy().shape[self.output_axis]  # type: ignore[union-attr]
        each = size // self.groups
        return self.group * each + np.arange(each)

    def rows(
        self, rng: np.random.Generator, count: int, x: np.ndarray, y: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Rows [n, features] of x, and [n, outputs] of y if it is given, at n <= count positions drawn at random."""
        if self.node.op_type == "Conv":
            return self._patches(rng, count, x, y)
        if self._flag("transA"):
            x = x.T
        flat = x.reshape(-1, x.shape[-1])
        chosen = _choose(rng, len(flat), count)
        found = [flat[chosen]]
        return found if y is None else [*found, y.reshape(-1, y.shape[-1])[chosen]]

    def _flag(self, name: str) -> bool:
        return bool(Node(self.node, 0).attr(name, 0))

    def _patches(self, rng: np.random.Generator, count: int, x: np.ndarray, y: np.ndarray | None) -> list[np.ndarray]:
        kernel = self.weights.const_value.numpy().shape[2:]  # type: ignore[union-attr]
        strides, dilations, pads = window(self.node, x.shape[2:], kernel)
        n = len(kernel)
        padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = [(p - r) // s + 1 for p, r, s in zip(padded.shape[2:], reach, strides, strict=True)]
        chosen = _choose(rng, len(x) * int(np.prod(sizes)), count)
        batch, *places = np.unravel_index(chosen, (len(x), *sizes))
        each = x.shape[1] // self.groups
        part = np.moveaxis(padded[:, self.group * each : (self.group + 1) * each], 1, -1)
        taps = []
        for tap in combinations(*(range(k) for k in kernel)):
            at = [p * s + t * d for p, s, t, d in zip(places, strides, tap, dilations, strict=True)]
            taps.append(part[(batch, *at)])
        found = [np.stack(taps, axis=-1).reshape(len(chosen), -1)]
        if y is None:
            return found
        whole = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])[chosen]
        each = whole.shape[1] // self.groups
        return [*found, whole[:, self.group * each : (self.group + 1) * each]]


def window(node: ir.Node, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads (begins, then ends) of a convolution."""
    view, n = Node(node, 0), len(kernel)
    strides = view.attr("strides", [1] * n)
    dilations = view.attr("dilations", [1] * n)
    mode = view.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return strides, dilations, view.attr("pads", [0] * 2 * n) if mode == "NOTSET" else [0] * 2 * n
    begins: list[int] = []
    ends: list[int] = []
    for length, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
        small = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begins, ends = [*begins, small], [*ends, total - small]
    return strides, dilations, [*begins, *ends]


def _choose(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    return np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))


def find_products(model: ir.Model) -> list[Product]:
    """Products of the main graph in the order of its nodes; depthwise convolutions are none."""
    return [found for node in model.graph for found in _products(node)]


def _products(node: ir.Node) -> Iterator[Product]:
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return
    x, weights = node.inputs[:2]
    if x is None or weights is None or weights.const_value is None or weights.is_graph_input():
        return
    if len(weights.uses()) > 1 or weights.dtype != ir.DataType.FLOAT or x.const_value is not None:
        return
    view, output = Node(node, 0), node.outputs[0]
    shape = tuple(weights.const_value.shape)
    if node.op_type == "MatMul":
        if len(shape) == 2:
            output, bias = _added(output, int(shape[1]))  # type: ignore[arg-type]
            yield Product(node, x, output, weights, bias)
        return
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    own = bias is None or (bias.const_value is not None and len(bias.uses()) == 1 and not bias.is_graph_input())
    groups = view.attr("group", 1)
    if not own or (groups > 1 and shape[1] == 1):
        return
    if view.attr("alpha", 1.0) != 1 or view.attr("beta", 1.0) != 1 or (bias is not None and len(bias.shape or ()) != 1):
        return
    for group in range(groups):
        yield Product(node, x, output, weights, bias, group, groups)


def _added(output: ir.Value, size: int) -> tuple[ir.Value, ir.Value | None]:
    """What a MatMul gives after the Add of a constant bias, and the bias."""
    users = list(output.uses())
    if len(users) == 1 and users[0].node.op_type == "Add" and not output.is_graph_output():
        add = users[0].node
        bias = add.inputs[1 - users[0].idx]
        if bias is not None and bias.const_value is not None and not bias.is_graph_input():
            fits = tuple(bias.const_value.shape) == (size,) and len(bias.uses()) == 1
            return (add.outputs[0], bias) if fits else (output, None)
    return output, None
