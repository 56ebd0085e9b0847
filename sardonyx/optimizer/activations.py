"""Values inside a model while it runs on data: what calibration, sensitivity and reconstruction look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sardonyx.model.load import load
from sardonyx.model.prepare import remove_unused
from sardonyx.optimizer.data import Data
from sardonyx.runtime.options import SessionOptions
from sardonyx.runtime.session import Session


def activations(
    model: ir.Model, names: Sequence[str], data: Data, options: SessionOptions | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """For each sample of `data` the values called `names`: outputs of nodes, inputs, or outputs of the graph.

    The model runs natively, once per sample; only the values of one sample are in memory.

    Raises:
        KeyError: a name is neither an input nor the output of a node of the main graph.
        SardonyxError: the model cannot be compiled or run.
    """
    observed = load(model)
    found = {str(value.name): value for value in observed.graph.inputs}
    found |= {str(value.name): value for node in observed.graph for value in node.outputs}
    inputs = {str(value.name) for value in observed.graph.inputs}
    inner = [name for name in dict.fromkeys(names) if name not in inputs]
    observed.graph.outputs[:] = [found[name] for name in inner]
    wanted = [name for name in dict.fromkeys(names) if name in inputs]
    if not inner:
        yield from ({name: np.asarray(feeds[name]) for name in wanted} for feeds in data)
        return
    remove_unused(observed)
    session = Session(observed, options or SessionOptions())
    needed = {port.name for port in session.inputs}
    for feeds in data:
        values = session.run({name: array for name, array in feeds.items() if name in needed})
        yield dict(zip(inner, values, strict=True)) | {name: np.asarray(feeds[name]) for name in wanted}
