"""Element types: ONNX names in lower case, their sizes, numpy dtypes and C types."""

from __future__ import annotations

import functools

import numpy as np

# name -> (bytes, C storage type). What is missing here (string, complex, 4-bit, float8) runs on the host.
NATIVE: dict[str, tuple[int, str]] = {
    "float32": (4, "float"),
    "float64": (8, "double"),
    "float16": (2, "sx_f16"),
    "bfloat16": (2, "sx_bf16"),
    "int8": (1, "int8_t"),
    "int16": (2, "int16_t"),
    "int32": (4, "int32_t"),
    "int64": (8, "int64_t"),
    "uint8": (1, "uint8_t"),
    "uint16": (2, "uint16_t"),
    "uint32": (4, "uint32_t"),
    "uint64": (8, "uint64_t"),
    "bool": (1, "uint8_t"),
}
FLOATS = ("float32", "float64", "float16", "bfloat16")
SHORT = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "bool": "b8",
}


def is_native(dtype: str) -> bool:
    """True when compiled code can hold elements of `dtype`."""
    return dtype in NATIVE


def is_float(dtype: str) -> bool:
    """True for the floating-point types that have native code."""
    return dtype in FLOATS


def is_integer(dtype: str) -> bool:
    """True for the integer types that have native code (bool is not one)."""
    return dtype in NATIVE and dtype not in FLOATS and dtype != "bool"


def is_signed(dtype: str) -> bool:
    """True for types with negative values."""
    return dtype in FLOATS or dtype.startswith("int")


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return NATIVE[dtype][0]


@functools.cache
def numpy_dtype(dtype: str) -> np.dtype:
    """The numpy dtype; bfloat16 and the small types come from ml_dtypes."""
    if hasattr(np, dtype) or dtype == "bool":
        return np.dtype(dtype)
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, {"float4e2m1": "float4_e2m1fn"}.get(dtype, dtype)))


def compute_type(dtype: str) -> str:
    """The C type in which values are held between operations: half types as the float they were rounded from."""
    return "float" if dtype in ("float16", "bfloat16") else NATIVE[dtype][1]
