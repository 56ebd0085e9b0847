"""The units of a model: pools of alike ones, where they occur, what a model without some of them costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sardonyx.compiler.arithmetic import RULES as OPERATIONS
from sardonyx.ops.node import Node
from sardonyx.optimizer.prune.flow import Axis, Flow
from sardonyx.optimizer.prune.rules import GATES, RULES, number
from sardonyx.optimizer.shapes import Shape, Shapes

__all__ = ["Budget", "Pool", "find_units", "pools_of"]


PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass
class Pool:
    """Units that occur along the same axes, of which any may go.

    Attributes:
        name: the node whose output channels they are.
        axes: the axes along which they occur.
        units: their numbers.
        width: channels that one unit has along the axis where they begin.
    """

    name: str
    axes: list[Axis]
    units: np.ndarray
    width: int
    removed: list[int] = field(default_factory=list)


def sources(model: ir.Model, shapes: Shapes) -> list[Axis]:
    """Outputs of layers with constant weights."""
    found: list[Axis] = []
    for node in model.graph:
        weights = node.inputs[1] if len(node.inputs) > 1 else None
        if node.domain or weights is None or weights.const_value is None or weights.is_graph_input():
            continue
        if node.op_type == "Conv" or (node.op_type == "ConvTranspose" and number(node, "group", 1) > 1):
            found.append((weights, 0))
        elif node.op_type == "ConvTranspose":
            found.append((weights, 1))
        elif node.op_type == "Gemm":
            found.append((weights, 0 if number(node, "transB", 0) else 1))
        elif node.op_type == "MatMul" and len(shapes.of(weights) or ()) >= 2:
            found.append((weights, len(shapes.of(weights) or ()) - 1))
        elif node.op_type in GATES:
            recurrent = node.inputs[2]
            if recurrent is not None and recurrent.const_value is not None:
                found.append((recurrent, 2))
    return found


def find_units(
    model: ir.Model, shapes: Shapes, *, through_normalization: bool = False, refused: dict[str, str] | None = None
) -> Flow:
    """The units of `model`.

    Where an axis is split (768 channels into 12 heads of 64), the outer part is tried first: whole heads. Where that
    cannot be (3 times 768 for query, key and value), it is the inner one.
    """
    inner: frozenset[str] = frozenset()
    while True:
        start = sources(model, shapes)
        flow = Flow(
            model, shapes, RULES, start, inner=inner, refused=refused, through_normalization=through_normalization
        )
        stuck = {
            name
            for name, units in flow.splits.items()
            if name not in inner and all(flow.kept(unit) is not None for unit in set(units.tolist()) - {-1})
        }
        if not stuck:
            return flow
        inner |= stuck


def pools_of(flow: Flow) -> tuple[list[Pool], list[str]]:
    """Pools of removable units, and why others stay."""
    places: dict[int, list[Axis]] = defaultdict(list)
    for value, axis in flow.axes:
        for unit in np.unique(flow.units(value, axis)).tolist():
            places[unit].append((value, axis))
    places.pop(-1, None)
    kinds: dict[tuple[Axis, ...], list[int]] = defaultdict(list)
    reasons: dict[tuple[str, str], int] = defaultdict(int)
    for unit, axes in places.items():
        reason = flow.kept(unit)
        if reason is None:
            kinds[tuple(axes)].append(unit)
        else:
            reasons[_origin(axes), reason] += 1
    pools = []
    for common, units in kinds.items():
        width = int(np.isin(flow.units(*common[0]), units).sum()) // len(units)
        pools.append(Pool(_origin(common), list(common), np.array(units), width))
    return pools, [f"outputs of {name!r} stay: {reason}" for (name, reason) in reasons]


def _origin(axes: Iterable[Axis]) -> str:
    """The layer whose outputs the units are: of those whose weights have them, the first."""
    for value, _ in axes:
        users = [node for node in value.consumers() if node.op_type in (*PRODUCTS, *GATES)]
        if value.const_value is not None and users:
            return str(users[0].name)
    return str(next(iter(axes))[0].name)


class Budget:
    """What a model costs without some of its units.

    Args:
        flow: the units.
        measure: ``flops`` (multiply-adds of its products) or ``parameters``.
    """

    def __init__(self, flow: Flow, measure: str):
        self._flow, self._measure = flow, measure
        self.removed = np.zeros(max((int(flow.units(*axis).max()) for axis in flow.axes), default=-1) + 1, bool)
        self._labels = {axis: flow.units(*axis) for axis in flow.axes}
        self._sizes = {axis: len(labels) for axis, labels in self._labels.items()}
        self._by_value: dict[ir.Value, set[object]] = defaultdict(set)
        self._parts: dict[object, float] = {}
        if measure == "parameters":
            for value in flow.model.graph.initializers.values():
                self._by_value[value].add(value)
                self._parts[value] = self._part(value)
        else:
            for node in flow.model.graph:
                if node.op_type in OPERATIONS:
                    for each in (*node.inputs, *node.outputs):
                        if each is not None:
                            self._by_value[each].add(node)
                    self._parts[node] = self._part(node)

    @property
    def total(self) -> float:
        """What the model costs now."""
        return sum(self._parts.values())

    def saving(self, pool: Pool, units: np.ndarray) -> float:
        """What the removal of `units` of `pool` would save now."""
        before = dict(self._sizes)
        self._count(pool, units)
        touched = self._touched(pool)
        saved = sum(self._parts[part] - self._part(part) for part in touched)
        self._sizes = before
        return saved

    def remove(self, pool: Pool, units: np.ndarray) -> None:
        """Note that `units` of `pool` go."""
        self._count(pool, units)
        self.removed[units] = True
        for part in self._touched(pool):
            self._parts[part] = self._part(part)

    def _count(self, pool: Pool, units: np.ndarray) -> None:
        for axis in pool.axes:
            self._sizes[axis] -= int(np.isin(self._labels[axis], units).sum())

    def _touched(self, pool: Pool) -> set[object]:
        return set().union(*(self._by_value.get(value, set()) for value, _ in pool.axes))

    def _shape(self, value: ir.Value | None) -> Shape:
        shape = self._flow.shape(value)
        if value is None or shape is None:
            return ()
        return tuple(self._sizes.get((value, axis), size) for axis, size in enumerate(shape))

    def _part(self, part: object) -> float:
        if isinstance(part, ir.Value):
            return float(np.prod(self._shape(part)))
        assert isinstance(part, ir.Node)
        try:
            shapes = [[self._shape(value) for value in side] for side in (part.inputs, part.outputs)]
            return float(OPERATIONS[part.op_type](Node(part, 0), *shapes))  # type: ignore[arg-type]
        except (IndexError, ZeroDivisionError):
            return 0.0
