"""A symbol of MXNet becoming an ONNX graph, node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.building import Builder, rank_of, static_shape
from sardonyx.converters.mxnet_files import Node, Symbol

Result = ir.Value | Sequence[ir.Value | None]
Handler = Callable[..., Result]

HANDLERS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register what converts the operators called `names`: handler(graph, node, *inputs)."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler
        return handler

    return register


class Graph:
    """A symbol under conversion.

    Args:
        symbol: the nodes.
        builder: what is added to.
        params: arrays by name.
    """

    def __init__(self, symbol: Symbol, builder: Builder, params: Mapping[str, np.ndarray]):
        self.symbol, self.b, self.params = symbol, builder, params
        self.values: dict[tuple[int, int], ir.Value | None] = {}
        self.bound: dict[str, ir.Value] = {}
        self.notes: list[str] = []
        self.points: list[tuple[Node, str, ir.Value]] = []  # node, MXNet's name for its output, value

    def bind(self, name: str, value: ir.Value) -> None:
        """The input called `name` is `value`."""
        self.bound[name] = value

    def convert(self) -> None:
        """Add the nodes of all operators that an output needs."""
        needed = {number for number, _ in self.symbol.heads}
        for number in range(len(self.symbol.nodes) - 1, -1, -1):
            if number in needed:
                needed |= {source for source, _ in self.symbol.nodes[number].inputs}
        for number in sorted(needed):
            self._node(number, self.symbol.nodes[number])

    def _node(self, number: int, node: Node) -> None:
        if node.op == "null":
            if node.name in self.bound:
                self.values[number, 0] = self.bound[node.name]
            elif node.name in self.params:
                self.values[number, 0] = self.b.constant(self.params[node.name], node.name)
            return
        handler = HANDLERS.get(node.op)
        if handler is None:
            raise node.refuse(
                "this operator has no ONNX form here", "Replace it in the network, or export the network up to it."
            )
        self.b.place = node.name
        try:
            results = handler(self, node, *(self.values.get(pair) for pair in node.inputs))
        except TypeError as problem:
            raise node.refuse(
                f"{len(node.inputs)} inputs do not fit it: {problem}", "The symbol is damaged."
            ) from problem
        self.b.place = ""
        results = [results] if isinstance(results, ir.Value) else results
        for index, value in enumerate(results):
            self.values[number, index] = value
            if value is not None and value.producer() is not None and index == 0:
                if value.producer().metadata_props.get("namespace") == node.name:  # type: ignore[union-attr]
                    value.name = self.b.name(node.name)
                many = len(results) > 1 and node.op != "BatchNorm"
                self.points.append((node, f"{node.name}_output{'0' if many else ''}", value))

    def value(self, number: int, index: int) -> ir.Value:
        """An output of a node."""
        found = self.values.get((number, index))
        if found is None:
            node = self.symbol.nodes[number]
            raise node.refuse(f"output {index} is used, but computed in training only")
        return found

    def source(self, node: Node, slot: int) -> Node:
        """The node that an input comes from."""
        return self.symbol.nodes[node.inputs[slot][0]]


def need_rank(node: Node, value: ir.Value) -> int:
    """Number of dimensions of a value, which must be known."""
    found = rank_of(value)
    if found is None:
        raise node.refuse("the number of dimensions of its input is unknown", "Give the shapes of all inputs.")
    return found


def axis_of(node: Node, axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise node.refuse(f"axis {axis} of {rank} dimensions", "The symbol is damaged.")
    return axis % rank


def sizes(value: ir.Value) -> list[int | None]:
    """The sizes of a value as far as they are known."""
    return [dim if isinstance(dim, int) else None for dim in value.shape or ()]


def need_shape(node: Node, value: ir.Value) -> tuple[int, ...]:
    """The sizes of a value, which must be known."""
    found = static_shape(value)
    if found is None:
        raise node.refuse("the shape of its input must be known", "Give fixed shapes for the inputs.")
    return found


def like(value: ir.Value, number: float) -> np.ndarray:
    """A number of the type of a value."""
    assert value.dtype is not None
    return np.asarray(number, value.dtype.numpy())


def as_type(b: Builder, value: ir.Value, dtype: Any) -> ir.Value:
    """A value in another type."""
    wanted = dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(np.dtype(dtype))
    return value if value.dtype == wanted else b.op("Cast", value, to=wanted)
