"""Cast and CastLike for `onnx.reference`: what it gets wrong about float8e8m0, and casts between small types."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx.helper import np_dtype_to_tensor_dtype
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_cast import cast_to

__all__ = ["Cast", "CastLike"]


def to_e8m0(x: np.ndarray, saturate: bool, mode: str) -> np.ndarray:
    """Powers of two for the magnitudes of `x`, by the tables of the Cast operator; see small_floats.h."""
    size = np.abs(np.asarray(x).astype(np.float32))
    mantissa, exponent = np.frexp(size)  # in 0.5 .. 1
    up = {"up": mantissa > 0.5, "nearest": mantissa >= 0.75, "down": np.False_}[mode]
    code = np.clip(exponent + 126 + up, 0, 255)
    low = 2.0**-127
    code = np.where(size < low, 0, np.where(np.isinf(size), 255, code))
    if saturate:
        code = np.minimum(code, 254)
    else:
        code = np.where((size == 0) | ((size < low) & (mode != "up")), 255, code)
    return np.where(np.isnan(size), 255, code).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)


def _cast(x: np.ndarray, to: onnx.TensorProto.DataType, saturate: Any, mode: Any) -> tuple[Any, ...]:
    saturate = saturate is None or bool(saturate)
    if to == onnx.TensorProto.FLOAT8E8M0:
        return (to_e8m0(x, saturate, mode or "up"),)
    if x.dtype.isbuiltin == 2 and to >= onnx.TensorProto.FLOAT8E4M3FN:  # both from ml_dtypes
        x = x.astype(np.float32)
    return (cast_to(x, to, saturate),)


class Cast(OpRun):
    """Fails between types of ml_dtypes. To float8e8m0: inf does not saturate, 2^-127 goes up, and zero is never NaN."""

    def _run(self, x: Any, to: Any = None, saturate: Any = None, round_mode: Any = None) -> tuple[Any, ...]:
        return _cast(x, to, saturate, round_mode)


class CastLike(OpRun):
    """As Cast; refuses `round_mode` (opset 24)."""

    def _run(self, x: Any, y: Any, saturate: Any = None, round_mode: Any = None) -> tuple[Any, ...]:
        return _cast(x, np_dtype_to_tensor_dtype(y.dtype), saturate, round_mode)
