"""``float16`` and ``bfloat16``: weights are stored in half the bytes and become float32 when the model is loaded.

Arithmetic and speed stay what they were. float16 has 11 significant bits and ends at 65504; bfloat16 has 8, and the
range of float32. Needs no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from sardonyx.optimizer.quantize.feeds import calibration_data
from sardonyx.optimizer.quantize.graph import add_constant, add_node, editable, finish, summary, unknown
from sardonyx.optimizer.quantize.half_graph import to_half
from sardonyx.optimizer.step import Applied, Context, Step, step

__all__ = ["BFloat16", "Float16"]


@step("float16")
@dataclass(frozen=True)
class Float16(Step):
    """Weights as float16.

    Attributes:
        compute: compute in float16, too, wherever operators have it; see `half_graph.py`.
        smallest: weights with fewer elements stay as they are.
        skip: names of weights that stay as they are; with `compute`, of nodes.
    """

    compute: bool = False
    smallest: int = 1024
    skip: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`."""
        if not self.compute:
            return _narrow(model, ir.DataType.FLOAT16, self.smallest, self.skip)
        work = editable(model, 13)
        notes, kept = unknown(work, self.skip), list[tuple[str, str]]()
        data = calibration_data(work, context, notes)
        done = to_half(work, data, self.skip, kept)
        notes += summary(kept, "in float32")
        if not done:
            return Applied(model, False, [*notes, "there is no node that has float16"])
        return Applied(finish(work), True, [*notes, f"{done} nodes compute in float16"])


@step("bfloat16")
@dataclass(frozen=True)
class BFloat16(Step):
    """Weights as bfloat16; see `Float16` for the fields."""

    smallest: int = 1024
    skip: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: Context) -> Applied:
        """See `Step.apply`."""
        return _narrow(model, ir.DataType.BFLOAT16, self.smallest, self.skip)


def _narrow(model: ir.Model, dtype: ir.DataType, smallest: int, skip: tuple[str, ...]) -> Applied:
    work = editable(model, 13)
    kept: list[tuple[str, str]] = []
    done = 0
    for graph, value, array in list(_weights(work, smallest)):
        narrow = _as(array, dtype)
        if value.name in skip:
            kept.append((str(value.name), "as asked"))
        elif narrow is None:
            kept.append((str(value.name), f"it has numbers beyond the range of {dtype.name.lower()}"))
        else:
            _store(graph, value, narrow, dtype)
            done += 1
    notes = summary(kept, "as they are")
    if not done:
        return Applied(model, False, [*notes, "there is no weight to store in half the bytes"])
    return Applied(finish(work), True, [*notes, f"{done} weights are stored as {dtype.name.lower()}"])


def _weights(model: ir.Model, smallest: int) -> Iterator[tuple[ir.Graph, ir.Value, np.ndarray]]:
    """The float32 constants of the graph and of all inside of it that no run can change."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < smallest:
                continue
            if not (value.is_graph_input() or value.is_graph_output()) and value.uses():
                yield graph, value, tensor.numpy()


def _as(array: np.ndarray, dtype: ir.DataType) -> np.ndarray | None:
    """`array` in `dtype`; None if finite numbers would become infinite."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float16 if dtype == ir.DataType.FLOAT16 else ml_dtypes.bfloat16)
    return None if np.any(np.isfinite(array) & ~np.isfinite(narrow.astype(np.float32))) else narrow


def _store(graph: ir.Graph, value: ir.Value, narrow: np.ndarray, dtype: ir.DataType) -> None:
    """The value's name goes on to the Cast that makes float32 of what is stored."""
    name = str(value.name)
    stored = add_constant(graph, f"{name}.{dtype.name.lower()}", narrow, dtype)
    wide = add_node(graph[0], "Cast", [stored], f"{name}.wide", {"to": int(ir.DataType.FLOAT)}, like=value)
    value.replace_all_uses_with(wide)
    del graph.initializers[name]
    wide.name = name
