"""Pooling of half-precision values: by the kernels for float32, with the bits that the definition asks for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sardonyx
from sardonyx.compiler.compile import generate

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def model(kind: str, body: str) -> onnx.ModelProto:
    text = f"""<ir_version: 10, opset_import: ["" : 22]>
        g ({kind}[2,17,h,k] x) => ({kind}[2,17,a,b] y) {{ {body} }}"""
    return onnx.parser.parse_model(text)


def windows(x: np.ndarray) -> np.ndarray:
    """All 3x2 windows of `x`, two rows and one column apart, as the last axis."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(2, 3))[:, :, ::2]
    return seen.reshape(*seen.shape[:4], 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_is_exact(kind):
    proto = model(kind, "y = MaxPool <kernel_shape = [3, 2], strides = [2, 1]> (x)")
    kernels = generate(ir.serde.deserialize_model(proto))[-1].kernels
    assert any(kernel.startswith("pool_") for kernel in kernels)
    x = np.random.default_rng(3).standard_normal((2, 17, 11, 23)).astype(KINDS[kind])
    x[0, 1, 2] = -np.inf
    x[1, 3, 4, 5] = np.nan
    (y,) = sardonyx.Session(proto).run({"x": x})
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(np.float32), windows(x.astype(np.float32)).max(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_is_rounded_once(kind):
    proto = model(kind, "y = AveragePool <kernel_shape = [3, 2], strides = [2, 1]> (x)")
    x = np.random.default_rng(3).standard_normal((2, 17, 11, 23)).astype(KINDS[kind])
    (y,) = sardonyx.Session(proto).run({"x": x})
    exact = windows(x.astype(np.float64)).mean(-1)
    rounded = exact.astype(np.float32).astype(KINDS[kind])
    assert (y == rounded).mean() > 0.999  # a sum in float32 may fall on the other side of a middle
    step = 2.0 ** -(10 if kind == "float16" else 7)
    np.testing.assert_allclose(y.astype(np.float64), exact, rtol=step, atol=1e-6)
