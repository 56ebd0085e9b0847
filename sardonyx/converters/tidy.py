"""Clean-up of what an exporter wrote: checked, current, with every part named."""

from __future__ import annotations

import re
from pathlib import Path

import onnx_ir as ir

from sardonyx.model.load import load
from sardonyx.model.save import save


def tidy(path: Path) -> None:
    """Check the model at `path`, name its unnamed nodes and dimensions, drop what nothing uses, and write it back.

    Names that exist are kept: they lead back to the source.

    Raises:
        ModelError: the exporter wrote a model that breaks the standard.
    """
    model = load(path)
    name_nodes(model)
    name_dims(model)
    save(model, path)


def name_nodes(model: ir.Model) -> None:
    """Give each node without a name, or with one that is taken, the name of its operator and a number."""
    taken: set[str] = set()
    for graph in model.graphs():
        for number, node in enumerate(graph):
            name = node.name or f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name


# What exporters write for a dimension that they know nothing of.
_MADE_UP = re.compile(r"DynamicDimension\.\d+|unk__\d+|unk_\d+|\?|None|-1")


def name_dims(model: ir.Model) -> None:
    """Give each dynamic dimension of the inputs a name that says what it is; the first of an input is the batch."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        dims = list(value.shape or ())
        for axis, dim in enumerate(dims):
            if isinstance(dim, int) or (dim.value and not _MADE_UP.fullmatch(dim.value)):
                continue
            name = "batch" if axis == 0 else f"{value.name}_{axis}"
            dims[axis] = ir.SymbolicDim(names.setdefault(dim.value, name) if dim.value else name)
        if value.shape is not None:
            value.shape = ir.Shape(dims)
    for value in [*model.graph.outputs, *(output for node in model.graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape(d if isinstance(d, int) else names.get(d.value or "", d.value) for d in value.shape)
