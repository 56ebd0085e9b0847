"""Checks of stored tensors: sizes that add up, and external data that stays inside the model's folder."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from sardonyx.errors import ModelError

# The typed field that holds the values of a type when raw_data does not, and values per element.
_TYPED_FIELD = {
    **dict.fromkeys(["FLOAT", "COMPLEX64"], "float_data"),
    **dict.fromkeys(["DOUBLE", "COMPLEX128"], "double_data"),
    **dict.fromkeys(["INT64"], "int64_data"),
    **dict.fromkeys(["UINT32", "UINT64"], "uint64_data"),
    **dict.fromkeys(["STRING"], "string_data"),
}
_LARGEST = 2**47  # bytes; more than any address space holds


def check_tensor(proto: onnx.TensorProto, folder: Path | None, *, raw_bytes: int | None = None) -> None:
    """Raise ModelError if the tensor's data contradicts its type and dims.

    Args:
        proto: the tensor.
        folder: the model's folder, for external data; None if the model did not come from a file.
        raw_bytes: size of the raw data if it was left out of `proto`.
    """
    name = proto.name or "<unnamed>"
    try:
        kind = ir.DataType(proto.data_type)
    except ValueError:
        kind = ir.DataType.UNDEFINED
    if kind == ir.DataType.UNDEFINED:
        raise ModelError(f"tensor {name!r} has the unknown type {proto.data_type}", hint="Re-export the model.")
    count = _elements(name, proto.dims)
    is_string = kind == ir.DataType.STRING
    expected = 0 if is_string else (count * kind.bitwidth + 7) // 8
    if expected > _LARGEST:
        raise _bad_size(name, proto.dims, f"{expected} bytes are more than any machine can address")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        if is_string:
            raise ModelError(f"tensor {name!r} keeps strings in external data, which ONNX does not allow")
        _check_external(proto, name, expected, folder)
    elif raw_bytes is not None or proto.HasField("raw_data"):
        held = len(proto.raw_data) if raw_bytes is None else raw_bytes
        if held != expected:
            raise _bad_size(name, proto.dims, f"{kind.name} needs {expected} bytes, the file holds {held}")
    else:
        _check_typed(proto, name, kind, count)


def _elements(name: str, dims: Sequence[int]) -> int:
    if any(dim < 0 for dim in dims):
        raise _bad_size(name, dims, "a dimension is negative")
    return math.prod(dims)


def _check_typed(proto: onnx.TensorProto, name: str, kind: ir.DataType, count: int) -> None:
    field = _TYPED_FIELD.get(kind.name, "int32_data")
    held = len(getattr(proto, field))
    expected = count
    if kind.name.startswith("COMPLEX"):
        expected = 2 * count
    elif field == "int32_data" and kind.bitwidth in (2, 4):
        expected = (count * kind.bitwidth + 7) // 8
    if held != expected:
        raise _bad_size(name, proto.dims, f"it needs {expected} values, the file holds {held} ({field})")


def _bad_size(name: str, dims: Sequence[int], reason: str) -> ModelError:
    hint = "The file is damaged or was edited by hand; export or download it again."
    return ModelError(f"tensor {name!r} of shape {list(dims)}: {reason}", hint=hint)


def _check_external(proto: onnx.TensorProto, name: str, expected: int, folder: Path | None) -> None:
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    if folder is None:
        hint = "Pass the path of the model's file, so that its folder is known."
        raise ModelError(f"tensor {name!r} lies in the separate file {location!r}", hint=hint)
    offset, length = (_number(name, key, entries.get(key)) for key in ("offset", "length"))
    size = external_path(name, location, folder).stat().st_size
    if length is not None and length != expected:
        raise _bad_size(name, proto.dims, f"it needs {expected} bytes, its external data has length {length}")
    end = (offset or 0) + expected
    if end > size:
        hint = f"{location!r} is incomplete, or belongs to another model; copy it again."
        raise ModelError(f"tensor {name!r} ends at byte {end} of {location!r}, which has {size}", hint=hint)


def _number(name: str, key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ModelError(f"tensor {name!r}: external data {key} {text[:40]!r} is not a size in bytes")
    return int(text)


def external_path(name: str, location: str, folder: Path) -> Path:
    """The file that `location` names, which must be a plain file of its own inside `folder`.

    Raises:
        ModelError: it is missing, or lies outside, or could be another file in disguise.
    """
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or ".." in parts or os.path.isabs(location) or ":" in parts[0]:
        hint = "External data must be named by a path below the model's folder."
        raise ModelError(f"tensor {name!r}: external data {location!r} is outside the model's folder", hint=hint)
    path = folder / location
    try:
        target = Path(os.path.realpath(path, strict=True))
        status = target.stat()
    except OSError as error:
        hint = f"Put {location!r} next to the model's file; it holds the weights."
        raise ModelError(f"tensor {name!r}: external data {str(path)!r} cannot be read", hint=hint) from error
    if not target.is_relative_to(os.path.realpath(folder)):
        hint = "Copy the data itself into the folder (cp -L)."
        raise ModelError(f"tensor {name!r}: {location!r} links to a file outside the model's folder", hint=hint)
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"tensor {name!r}: external data {location!r} is not a regular file")
    if status.st_nlink > 1:
        hint = "Make a copy of its own (cp): another name of the file may lie outside the folder."
        raise ModelError(f"tensor {name!r}: external data {location!r} has several hard links", hint=hint)
    return target
