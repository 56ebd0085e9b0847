"""Run a model piece by piece on many samples, so that weights of later pieces may change while earlier are done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from sardonyx.model.load import load
from sardonyx.model.prepare import remove_unused
from sardonyx.optimizer.data import Data
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.session import Session

__all__ = ["Segments"]


class Segments:
    """A run of a model over all samples that stands between two of its nodes.

    Only values that later nodes read are in memory, for all samples.

    Args:
        model: its weights are read when a piece runs, and may change before.
        data: the samples.
    """

    def __init__(self, model: ir.Model, data: Data):
        self._model, self._nodes, self._place = model, list(model.graph), 0
        names = [str(value.name) for value in model.graph.inputs]
        self.values: dict[str, list[np.ndarray]] = {n: [np.asarray(f[n]) for f in data] for n in names}
        self._last: dict[str, int] = {}
        for place, node in enumerate(self._nodes):
            for value in _read(node):
                self._last[str(value.name)] = place

    def place_of(self, node: ir.Node) -> int:
        """Where `node` is in the order of the graph."""
        return self._nodes.index(node)

    def advance(self, place: int, keep: Iterable[str] = ()) -> None:
        """Run all nodes before `place`; keep the values called `keep` besides those that are still needed."""
        wanted = set(keep)
        made = {str(v.name) for node in self._nodes[self._place : place] for v in node.outputs if v.name}
        live = [name for name in made if self._last.get(name, -1) >= place or name in wanted]
        if live:
            self._run(sorted(live), place)
        self._place = max(self._place, place)
        for name in list(self.values):
            if self._last.get(name, -1) < place and name not in wanted:
                del self.values[name]

    def _run(self, outputs: Sequence[str], place: int) -> None:
        piece = load(self._model)
        nodes = list(piece.graph)
        produced = {str(v.name): v for node in nodes[:place] for v in node.outputs}
        produced |= {str(v.name): v for v in piece.graph.inputs}
        inner = {v for node in nodes[self._place : place] for v in node.outputs}
        entries = []
        for name, arrays in self.values.items():
            old = produced.get(name)
            if old is None or old in inner:
                continue
            entry = ir.Value(
                name=name, type=ir.TensorType(ir.DataType.from_numpy(arrays[0].dtype)), shape=_shape(arrays)
            )
            old.replace_all_uses_with(entry)
            old.name = f"{name}.before"
            entries.append(entry)
        piece.graph.inputs[:] = entries
        piece.graph.outputs[:] = [produced[name] for name in outputs]
        remove_unused(piece)
        used = [value for value in piece.graph.inputs if value.uses()]
        piece.graph.inputs[:] = used
        session = Session(piece, SessionOptions(cache=False, progress=False))
        names = [str(value.name) for value in used]
        count = len(next(iter(self.values.values())))
        results = [session.run({name: self.values[name][number] for name in names}) for number in range(count)]
        for position, name in enumerate(outputs):
            self.values[name] = [np.asarray(result[position]) for result in results]


def _read(node: ir.Node) -> list[ir.Value]:
    """What a node reads, in subgraphs too."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            found += [value for inner in body.all_nodes() for value in inner.inputs if value is not None]
            found += list(body.outputs)
    return found


def _shape(arrays: list[np.ndarray]) -> ir.Shape:
    shapes = {array.shape for array in arrays}
    sizes = [{shape[axis] for shape in shapes} for axis in range(arrays[0].ndim)]
    return ir.Shape([next(iter(s)) if len(s) == 1 else f"d{axis}" for axis, s in enumerate(sizes)])
