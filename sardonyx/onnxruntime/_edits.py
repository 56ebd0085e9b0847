"""What session options change in a model before it is compiled: free dimensions and initializers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from sardonyx.onnxruntime._exceptions import InvalidArgument

if TYPE_CHECKING:
    import onnx_ir

    from sardonyx.onnxruntime._options import SessionOptions

Source = str | bytes


def needed(options: SessionOptions) -> bool:
    """True when a model must be edited to obey `options`."""
    return bool(options._dim_names or options._dim_denotations or options._initializers)


def apply(source: Source, options: SessionOptions) -> onnx_ir.Model:
    """The model with dimensions fixed and initializers replaced.

    Raises:
        InvalidArgument: an initializer does not exist, or differs in shape or type.
    """
    model = read(source)
    values = [*model.graph.inputs, *model.graph.outputs]
    values.extend(output for node in model.graph.all_nodes() for output in node.outputs)
    for value in values:
        _fix_dimensions(value, options)
    for name, array in options._initializers.items():
        _replace_initializer(model, name, array)
    return model


def read(source: Source) -> onnx_ir.Model:
    """The model as a graph, from a path or from bytes."""
    import onnx_ir

    if isinstance(source, bytes):
        import onnx

        return onnx_ir.from_proto(onnx.load_model_from_string(source))
    return onnx_ir.load(source)


def write(source: Source, path: str) -> None:
    """Write the model to `path`, tensors included."""
    import onnx_ir

    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    onnx_ir.save(read(source), path)


def parses(source: Source) -> bool:
    """True when the bytes are an ONNX file at all. Reads the whole file: for reporting errors only."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            model = onnx.load(source, load_external_data=False)
    except (DecodeError, OSError):
        return False
    return model.HasField("graph")


def _fix_dimensions(value: onnx_ir.Value, options: SessionOptions) -> None:
    import onnx_ir

    shape = value.shape
    if shape is None:
        return
    denotations = [shape.get_denotation(axis) for axis in range(len(shape))]
    sizes = [_fixed(dim, word, options) for dim, word in zip(shape, denotations)]
    # A new shape, since those of a loaded model are frozen.
    value.shape = onnx_ir.Shape(sizes, denotations)


def _fixed(
    dim: int | onnx_ir.SymbolicDim, denotation: str | None, options: SessionOptions
) -> int | onnx_ir.SymbolicDim:
    if isinstance(dim, int):
        return dim
    size = options._dim_denotations.get(denotation or "")
    if size is None:
        size = options._dim_names.get(dim.value or "")
    return dim if size is None else size


def _replace_initializer(model: onnx_ir.Model, name: str, array: np.ndarray) -> None:
    import onnx_ir

    value = model.graph.initializers.get(name)
    if value is None:
        raise InvalidArgument(f"There is no initializer called {name!r} to replace.")
    old = value.const_value
    new = onnx_ir.tensor(array, name=name)
    if old is not None and (list(old.shape) != list(new.shape) or old.dtype != new.dtype):
        raise InvalidArgument(
            f"Initializer {name!r} is {old.dtype} {list(old.shape)}, its replacement {new.dtype} {list(new.shape)}."
        )
    value.const_value = new
