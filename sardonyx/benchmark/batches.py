"""Models at other batch sizes than the one that they were exported for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sardonyx.errors import InputError

__all__ = ["first_dims", "rebatched"]

SYMBOL = "batch"


def first_dims(model: str | os.PathLike[str]) -> set[int | str | None]:
    """The first dimensions of the inputs of a file."""
    import onnx

    graph = onnx.load(os.fspath(model), load_external_data=False).graph
    return {_dim(value) for value in _inputs(graph)}


def rebatched(model: str | os.PathLike[str], folder: Path) -> Path:
    """A copy of `model` whose first dimensions are symbolic; the file itself where they are already.

    Reshape and Expand to constants that begin with 1 take the batch instead; whatever else depends on a batch of 1 is
    an error when the copy runs.

    Args:
        model: An ONNX file; its external data stays where it is.
        folder: Where the copy goes.

    Raises:
        InputError: The inputs have other first dimensions than 1.
    """
    import onnx

    path = Path(model)
    proto = onnx.load(str(path))
    inputs = _inputs(proto.graph)
    dims = {_dim(value) for value in inputs}
    if all(isinstance(dim, str) for dim in dims):
        return path
    if dims != {1}:
        raise InputError(f"{path.name} is for inputs that begin with {sorted(map(str, dims))}, not with a batch of 1")
    for value in [*inputs, *proto.graph.output]:
        shape = value.type.tensor_type.shape
        if shape.dim and shape.dim[0].dim_value == 1:
            shape.dim[0].dim_param = SYMBOL
    del proto.graph.value_info[:]
    _free_shapes(proto.graph, inputs[0].name)
    copy = folder / f"{path.stem}.batch.onnx"
    onnx.save(proto, str(copy))
    return copy


def _inputs(graph: Any) -> list[Any]:
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def _dim(value: Any) -> int | str | None:
    dims = value.type.tensor_type.shape.dim
    return (dims[0].dim_param or dims[0].dim_value) if dims else None


def _free_shapes(graph: Any, source: str) -> None:
    """Reshape and Expand to constants (1, ...) take the batch of the input `source` instead of the 1."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    added = []
    for number, node in enumerate(graph.node):
        if node.op_type not in ("Reshape", "Expand") or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]])
        if len(shape) < 2 or shape[0] != 1:
            continue
        rest, whole = f"{SYMBOL}_rest{number}", f"{SYMBOL}_shape{number}"
        graph.initializer.append(numpy_helper.from_array(shape[1:].copy(), rest))
        added.append(helper.make_node("Concat", [SYMBOL, rest], [whole], axis=0))
        node.input[1] = whole
    if not added:
        return
    numbers = {f"{SYMBOL}_zero": 0, f"{SYMBOL}_one": 1}
    graph.initializer.extend(helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in numbers.items())
    head = [
        helper.make_node("Shape", [source], [f"{SYMBOL}_all"]),
        helper.make_node("Slice", [f"{SYMBOL}_all", *numbers], [SYMBOL]),
    ]
    nodes = [*head, *added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
