"""Element types under their three names: type string of ONNX Runtime, number in the ONNX format, numpy dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from sardonyx.compiler.dtypes import ML_DTYPES

# Name inside "tensor(...)" -> (number in TensorProto.DataType, numpy name; None for what numpy has no word for).
ELEMENT_TYPES: dict[str, tuple[int, str | None]] = {
    "float": (1, "float32"),
    "uint8": (2, "uint8"),
    "int8": (3, "int8"),
    "uint16": (4, "uint16"),
    "int16": (5, "int16"),
    "int32": (6, "int32"),
    "int64": (7, "int64"),
    "string": (8, "object"),
    "bool": (9, "bool"),
    "float16": (10, "float16"),
    "double": (11, "float64"),
    "uint32": (12, "uint32"),
    "uint64": (13, "uint64"),
    "complex64": (14, "complex64"),
    "complex128": (15, "complex128"),
    "bfloat16": (16, None),
    "float8e4m3fn": (17, None),
    "float8e4m3fnuz": (18, None),
    "float8e5m2": (19, None),
    "float8e5m2fnuz": (20, None),
    "uint4": (21, None),
    "int4": (22, None),
    "float4e2m1": (23, None),
    "float8e8m0": (24, None),
    "uint2": (25, None),
    "int2": (26, None),
}
_NUMBER_TO_NAME = {number: name for name, (number, _) in ELEMENT_TYPES.items()}
_NUMPY_TO_NAME = {numpy: name for name, (_, numpy) in ELEMENT_TYPES.items() if numpy}
_NUMPY_TO_NAME |= {ml: name for name, ml in ML_DTYPES.items()}
_NUMPY_TO_NAME |= {name: name for name in ("bfloat16", "uint4", "int4", "uint2", "int2")}


def dtype_of(element: str) -> np.dtype:
    """The numpy dtype for the name inside ``tensor(...)``; strings are objects."""
    _, name = ELEMENT_TYPES[element]
    if name is not None:
        return np.dtype(name)
    import ml_dtypes  # only models with these types pay for it

    return np.dtype(getattr(ml_dtypes, ML_DTYPES.get(element, element)))


def element_of(dtype: np.dtype) -> str:
    """The name inside ``tensor(...)`` for a numpy dtype.

    Raises:
        RuntimeError: no ONNX type corresponds to it.
    """
    if dtype.kind in "OUS":
        return "string"
    name = _NUMPY_TO_NAME.get(dtype.name)
    if name is None:
        raise RuntimeError(f"Numpy type {dtype} can't be converted to an ONNX element type.")
    return name


def element_from_any(element_type: Any) -> str:
    """The name inside ``tensor(...)`` for a numpy dtype, type or name, or an ONNX number."""
    if isinstance(element_type, int):
        if element_type not in _NUMBER_TO_NAME:
            raise RuntimeError(f"{element_type} is not a type of ONNX tensors.")
        return _NUMBER_TO_NAME[element_type]
    return element_of(np.dtype(element_type))


def tensor_element(type_string: str) -> str | None:
    """``tensor(float)`` -> ``float``; None for sequences, maps, optionals and sparse tensors."""
    if type_string.startswith("tensor(") and type_string.endswith(")"):
        return type_string[len("tensor(") : -1]
    return None
