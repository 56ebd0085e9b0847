"""Write a model as a standard ONNX file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir

from sardonyx.errors import ModelError

_PROTOBUF_LIMIT = 2**31 - 2**20  # a serialised message must stay below 2 GiB; some room for the graph


def save(model: ir.Model, path: str | os.PathLike[str], *, external: bool | str | None = None) -> None:
    """Write `model` to `path`; the file is complete or untouched, also if `model` was read from it.

    Args:
        model: the model; not changed.
        path: the .onnx file.
        external: where weights go. None: into the file if they fit (2 GiB), else beside it; False: into the
            file; True: into ``<name>.data`` beside it; a string: into that file, named relative to the folder.

    Raises:
        ModelError: the weights do not fit into one file, or `external` leaves the folder.
    """
    path = Path(path)
    size = _weight_bytes(model)
    if external is False and size > _PROTOBUF_LIMIT:
        message = f"{size} bytes of weights do not fit into one ONNX file (2 GiB)"
        raise ModelError(message, hint="Leave `external` unset, or True.")
    if external is None:
        external = size > _PROTOBUF_LIMIT
    location = f"{path.name}.data" if external is True else external or None
    if location and (os.path.isabs(location) or ".." in Path(location).parts):
        raise ModelError(f"external data {location!r} would lie outside {str(path.parent)!r}")
    # Weights may be views of the very files that are replaced: write beside them, then rename.
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".save-") as folder:
        partial = Path(folder) / path.name
        if location:
            (Path(folder) / location).parent.mkdir(parents=True, exist_ok=True)
            ir.save(model, partial, external_data=location)
            _move(Path(folder) / location, path.parent / location)
        else:
            _save_inside(model, partial)
        _move(partial, path)


def _save_inside(model: ir.Model, path: Path) -> None:
    """All weights in the file, those included that lie in external data now."""
    held = [(value, value.const_value) for graph in model.graphs() for value in graph.initializers.values()]
    try:
        for value, tensor in held:
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        ir.save(model, path)
    finally:
        for value, tensor in held:
            value.const_value = tensor


def _move(source: Path, target: Path) -> None:
    if source.exists():  # no data file is written if every weight is small
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)


def _weight_bytes(model: ir.Model) -> int:
    tensors = (value.const_value for graph in model.graphs() for value in graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None and t.dtype != ir.DataType.STRING)
