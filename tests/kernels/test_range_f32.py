"""range_f32 against numpy: tails, blocks, special values."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import harness

Args = harness.struct("range_f32.h", "range_f32_args")
BLOCK = 8192


@pytest.fixture(
    scope="module",
    params=harness.ISA_PARAMS,
)
def lib(request):
    return harness.build("range_f32.c", isa=request.param)


def ends_of(lib, x: np.ndarray) -> np.ndarray:
    x, ends = harness.at_page_end(x), np.full((-(-x.size // BLOCK) + 1, 2), 7, np.float32)
    tasks = harness.run(lib, "range_f32", Args(x=harness.pointer(x), n=x.size, ends=harness.pointer(ends)))
    assert tasks == len(ends) - 1
    assert (ends[-1] == 7).all()
    return ends[:-1]


def test_tails_and_blocks(lib):
    rng = np.random.default_rng(0)
    for n in (1, 2, 15, 16, 17, 63, 64, 65, 129, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77):
        for sign in (-1, 1):
            x = (sign * (rng.random(n) + 0.5)).astype(np.float32)
            parts = [x[i : i + BLOCK] for i in range(0, n, BLOCK)]
            np.testing.assert_array_equal(ends_of(lib, x), [(part.max(), part.min()) for part in parts])


def test_no_numbers_have_no_range(lib):
    assert ends_of(lib, np.zeros(0, np.float32)).size == 0


def test_infinities_and_nan_come_through_from_any_place(lib):
    for place in range(70):
        x = np.arange(70, dtype=np.float32)
        x[place] = np.inf
        x[69 - place] = -np.inf
        np.testing.assert_array_equal(ends_of(lib, x), [(np.inf, -np.inf)])
        x[place] = np.nan
        assert np.isnan(ends_of(lib, x)).all()
