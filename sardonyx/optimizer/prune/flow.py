"""Which indices of which axes of which values must be removed together: propagation over the graph.

A *unit* is what can be removed only as a whole: an output channel of a layer, for instance, with its bias, its entry in
every batch normalisation, its place in what it is added to or concatenated with, and the inputs of the layers that read
it. Every index of an axis holds the number of its unit, or -1 where nothing is removed. Units begin at the outputs of
layers with weights; the rules of operators (`rules.py`) carry them from value to value and unite them, until nothing
changes. What no rule explains keeps its size, with the reason; so do inputs and outputs of the graph.

The idea is that of dependency graphs (arXiv:2301.12900), with indices in the place of layers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.shapes import Shape, Shapes

__all__ = ["Axis", "Flow", "Rule"]

Axis = tuple[ir.Value, int]
Rule = Callable[["Flow", ir.Node], None]


class Flow:
    """Units of a graph.

    Args:
        model: nodes in topological order.
        shapes: of its values.
        rules: operator -> what it does with axes.
        sources: axes at which units begin.
        inner: names of nodes that split an axis into two, of which units keep the inner and not the outer one.
        refused: names of nodes at which units are kept whatever their rule says -> the reason.
        through_normalization: allow removal along axes that are normalised over.
    """

    def __init__(
        self,
        model: ir.Model,
        shapes: Shapes,
        rules: Mapping[str, Rule],
        sources: list[Axis],
        *,
        inner: frozenset[str] = frozenset(),
        refused: Mapping[str, str] | None = None,
        through_normalization: bool = False,
    ):
        self.model, self.shapes, self.inner = model, shapes, inner
        self.through_normalization = through_normalization
        self.splits: dict[str, np.ndarray] = {}  # node that splits an axis -> the units concerned
        self._rules, self._refused = rules, dict(refused or {})
        self._labels: dict[Axis, np.ndarray] = {}
        self._axes: dict[ir.Value, set[int]] = {}
        self._parent = np.empty(0, int)
        self._kept: dict[int, str] = {-1: ""}
        self._reasons: dict[int, str] = {}
        self._merged: dict[Axis, np.ndarray] = {}
        self._explained: set[Axis] = set()
        self._pending: deque[ir.Node] = deque()
        self._queued: set[ir.Node] = set()
        for value, axis in sources:
            self._begin(value, axis)
        self._propagate()

    # What rules work with.

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The shape of `value`, if it is known."""
        return self.shapes.of(value)

    def labelled(self, value: ir.Value | None) -> set[int]:
        """The axes of `value` along which something may be removed."""
        return self._axes.get(value, set()) if value is not None else set()

    def tie(self, a: ir.Value | None, i: int, b: ir.Value | None, j: int, where: np.ndarray | None = None) -> None:
        """Index x of axis j of b goes with index ``where[x]`` of axis i of a; with none if that is -1.

        Without `where` the axes are the same; an axis of size 1 that is broadcast has no part in it.
        """
        sa, sb = self.shape(a), self.shape(b)
        if a is None or b is None or sa is None or sb is None:
            return
        i, j = i % len(sa), j % len(sb)
        if where is None:
            if sa[i] != sb[j]:
                return
            where = np.arange(sb[j])
        self._explained |= {(a, i), (b, j)}
        left, right = self._get(a, i), self._get(b, j)
        there = where >= 0
        if (left < 0).all() and (right < 0).all():
            return
        taken = np.where(there, left[np.where(there, where, 0)], -1) if len(left) else np.full(len(right), -1)
        both = (taken >= 0) & (right >= 0)
        self._unite(taken[both], right[both])
        self._set(b, j, np.where(right < 0, taken, right))
        back, right = left.copy(), self._get(b, j)
        free = there & (right >= 0)
        targets = where[free]
        missing = back[targets] < 0
        back[targets[missing]] = right[free][missing]
        self._unite(back[targets], right[free])
        self._set(a, i, back)

    def merge(self, value: ir.Value, axis: int, ids: np.ndarray) -> None:
        """Indices of one id are removed together."""
        self._merged[value, axis] = ids
        labels = self._get(value, axis)
        order = np.argsort(ids, kind="stable")
        order = order[labels[order] >= 0]
        same = ids[order[:-1]] == ids[order[1:]]
        self._unite(labels[order[:-1]][same], labels[order[1:]][same])

    def keep(self, value: ir.Value | None, axis: int, reason: str, *, labels: np.ndarray | None = None) -> None:
        """Nothing is removed along this axis."""
        if value is None:
            return
        self._explained.add((value, axis))
        for unit in (self._get(value, axis) if labels is None else labels).tolist():
            self._kept.setdefault(unit, reason)

    def units(self, value: ir.Value, axis: int) -> np.ndarray:
        """The unit of each index; -1: none. A value of unknown shape has no index."""
        shape = self.shape(value)
        return np.empty(0, int) if shape is None else self._roots(self._get(value, axis % len(shape)))

    # What is known in the end.

    @property
    def axes(self) -> list[Axis]:
        """All axes along which something may be removed."""
        return list(self._labels)

    def kept(self, unit: int) -> str | None:
        """Why `unit` must stay, or None."""
        return self._reasons.get(int(self._roots(np.array([unit]))[0]))

    # The engine.

    def _begin(self, value: ir.Value, axis: int) -> None:
        shape = self.shape(value)
        if shape is None or (value, axis) in self._labels:
            return
        first = len(self._parent)
        self._parent = (
            np.arange(first + shape[axis]) if first == 0 else np.r_[self._parent, first : first + shape[axis]]
        )
        self._set(value, axis, np.arange(first, first + shape[axis]))

    def _propagate(self) -> None:
        while self._pending:
            node = self._pending.popleft()
            self._queued.discard(node)
            self._explained = set()
            touched = {(v, axis) for v in (*node.inputs, *node.outputs) if v is not None for axis in self.labelled(v)}
            if node.name in self._refused:
                reason: str = self._refused[node.name]
            elif node.graph is not self.model.graph:
                reason = "it is used inside of a subgraph"
            elif node.domain or node.op_type not in self._rules:
                reason = f"nothing is known of the operator {node.op_type}"
            elif any(self.shape(v) is None for v in (*node.inputs, *node.outputs[:1]) if v is not None and v.name):
                reason = "shapes are not known"
            else:
                reason = f"{node.op_type} works along this axis"
                self._rules[node.op_type](self, node)
            for value, axis in touched - self._explained:
                self.keep(value, axis, f"node {node.name!r}: {reason}")
        for (value, axis), ids in self._merged.items():
            labels = self._get(value, axis)
            partly = labels[np.isin(ids, ids[labels < 0])]
            self.keep(value, axis, "only a part of what has to go together can be removed", labels=partly)
        for value, axis in self._labels:
            if value.is_graph_output() or value.is_graph_input():
                self.keep(value, axis, f"{value.name!r} is an input or output of the model")
        roots = self._roots(np.array(list(self._kept), int)).tolist()
        self._reasons = dict(zip(reversed(roots), reversed(self._kept.values()), strict=True))

    def _get(self, value: ir.Value, axis: int) -> np.ndarray:
        found = self._labels.get((value, axis))
        if found is None:
            shape = self.shape(value)
            assert shape is not None
            return np.full(shape[axis], -1)
        return found

    def _set(self, value: ir.Value, axis: int, labels: np.ndarray) -> None:
        old = self._labels.get((value, axis))
        if (old is None and (labels < 0).all()) or (old is not None and np.array_equal(old >= 0, labels >= 0)):
            return  # which unit it is, is read through `_find`; only new indices are news
        self._labels[value, axis] = labels
        self._axes.setdefault(value, set()).add(axis)
        producer = value.producer()
        for node in [*value.consumers(), *([producer] if producer is not None else [])]:
            if node not in self._queued:
                self._queued.add(node)
                self._pending.append(node)

    def _roots(self, labels: np.ndarray) -> np.ndarray:
        """The number that stands for each unit; -1 stays."""
        inside = labels >= 0
        roots = labels[inside]
        while len(roots):
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[labels[inside]] = roots
        found = labels.copy()
        found[inside] = roots
        return found

    def _unite(self, left: np.ndarray, right: np.ndarray) -> None:
        while True:
            a, b = self._roots(left), self._roots(right)
            differ = a != b
            if not differ.any():
                return
            left, right = np.minimum(a, b)[differ], np.maximum(a, b)[differ]
            np.minimum.at(self._parent, right, left)
