"""The nodes of a compiled model that run in Python, read back from beside its library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from sardonyx.runtime.reference import prepared


class HostModel:
    """Runs host steps by number.

    Args:
        path: the model that holds one node for each host step, in order.
        captured: names of the outer values that each node's subgraphs read; they follow its inputs.
    """

    def __init__(self, path: Path, captured: Sequence[Sequence[str]]):
        self._proto = onnx.load_model_from_string(path.read_bytes())
        model = ir.serde.deserialize_model(self._proto)
        functions = list(model.functions.values())
        self._nodes = [(len(node.inputs), prepared(node, model.opset_imports, functions)) for node in model.graph]
        self._captured = captured

    def objects(self, slots: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Constants without native type: ``(slot, value)``."""
        for slot, tensor in zip(slots, self._proto.graph.initializer, strict=True):
            yield slot, onnx.numpy_helper.to_array(tensor)

    def run(self, number: int, values: Sequence[Any]) -> list[Any]:
        """The outputs of host step `number`, inputs first in `values`, captured ones after them."""
        count, run = self._nodes[number]
        captured = dict(zip(self._captured[number], values[count:], strict=True))
        return run(list(values[:count]), captured)
