"""reorder_nchw16c_f32 against numpy: both ways, tails of channels and pixels, images apart, special values."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import harness

from sardonyx.kernels.packing import nchw_to_nchw16c

Args = harness.struct("reorder_nchw16c_f32.h", "reorder_nchw16c_f32_args")


@pytest.fixture(
    scope="module",
    params=harness.ISA_PARAMS,
)
def lib(request):
    return harness.build("reorder_nchw16c_f32.c", isa=request.param)


def reorder(lib, x: np.ndarray, n: int, c: int, pixels: int, gap: int, to_blocks: bool) -> np.ndarray:
    """`x` [n, ...] reordered into images that are `gap` elements further apart than they are long."""
    length = (-(-c // 16) * 16 if to_blocks else c) * pixels
    y = np.full((n, length + gap), 7, np.float32)
    x = harness.at_page_end(np.ascontiguousarray(x.reshape(n, -1)))
    harness.run(lib, "reorder_nchw16c_f32", Args(x=harness.pointer(x), y=harness.pointer(y), n=n, c=c, pixels=pixels,
                x_batch=x.shape[1], y_batch=length + gap, to_blocks=to_blocks))  # fmt: skip
    assert (y[:, length:] == 7).all()
    return y[:, :length]


@pytest.mark.parametrize("pixels", [1, 3, 4, 7, 15, 16, 17, 49, 1023, 1024, 1025, 2113])
@pytest.mark.parametrize("channels", [1, 3, 5, 15, 16, 17, 40])
def test_both_ways(lib, channels, pixels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, pixels, 1)).astype(np.float32)
    x.reshape(-1)[:: max(x.size // 5, 1)] = np.nan
    x.reshape(-1)[1 :: max(x.size // 3, 2)] = -np.inf
    wanted = nchw_to_nchw16c(x)
    blocks = reorder(lib, x, 2, channels, pixels, 5, True)
    np.testing.assert_array_equal(blocks.reshape(wanted.shape), wanted)
    wanted[:, -1, ..., -1] += 1 if channels % 16 else 0  # lanes beyond the last channel are not read into a row
    np.testing.assert_array_equal(reorder(lib, wanted, 2, channels, pixels, 0, False).reshape(x.shape), x)
