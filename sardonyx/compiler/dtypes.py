"""Element types: ONNX names in lower case, their sizes, numpy dtypes and C types."""

from __future__ import annotations

import functools

import numpy as np

# Types of one byte or less, whose elements take one byte in memory (the low bits of it, as in ml_dtypes). Compiled code
# holds them as stored, whatever it does but convert them: nothing else is defined for them.
SMALL_FLOATS = ("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0", "float4e2m1")
SMALL_INTEGERS = ("int4", "uint4", "int2", "uint2")
SMALL = SMALL_FLOATS + SMALL_INTEGERS

# name -> (bytes, C storage type). What is missing here (string, complex, float6) runs on the host.
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
    **dict.fromkeys(SMALL, (1, "uint8_t")),
}
FLOATS = ("float32", "float64", "float16", "bfloat16", *SMALL_FLOATS)
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
    **{name: name.replace("float", "f") for name in SMALL_FLOATS},
    **{name: name.replace("uint", "u").replace("int", "i") for name in SMALL_INTEGERS},
}
ML_DTYPES = {  # where their names differ
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "float8e8m0": "float8_e8m0fnu",
    "float4e2m1": "float4_e2m1fn",
}
_ONNX_NAMES = {theirs: name for name, theirs in ML_DTYPES.items()}


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

    return np.dtype(getattr(ml_dtypes, ML_DTYPES.get(dtype, dtype)))


def dtype_of_array(array: np.ndarray | np.generic) -> str:
    """The name of an array's element type."""
    name = array.dtype.name
    return _ONNX_NAMES.get(name, name)


def bit_width(dtype: str) -> int:
    """Bits of one element that mean something."""
    return 4 if dtype == "float4e2m1" else int(dtype[-1]) if dtype in SMALL_INTEGERS else 8 * itemsize(dtype)


def integer_range(dtype: str) -> tuple[int, int]:
    """The least and the largest value of an integer type."""
    bits = bit_width(dtype)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed(dtype) else (0, (1 << bits) - 1)


def compute_type(dtype: str) -> str:
    """The C type in which values are held between operations: half types as the float they were rounded from."""
    return "float" if dtype in ("float16", "bfloat16") else NATIVE[dtype][1]
