"""Channels of NCHW16c in another order."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.window import Window, assert_same_bits, run_kernel


@pytest.mark.parametrize("variant", ["v3", "v2", "wide"])
@pytest.mark.parametrize(
    ("channels", "count"),
    [
        ([0], 1),
        ([2, -1, 0], 3),
        (list(range(32)), 32),
        ([*range(24), *[-1] * 8, *range(24, 48), *[-1] * 8], 48),  # groups of 24 get room for 32
        ([i // 24 * 32 + i % 24 for i in range(72)], 96),  # and lose it
        ([i // 3 for i in range(51)], 17),  # repeated
        ([i % 4 * 17 + i // 4 for i in range(68)], 68),  # shuffled: more sources than a register has lanes
        ([-1] * 20, 5),
    ],
)
def test_each_channel_comes_from_where_the_table_says(channels, count, variant):
    rng = np.random.default_rng(count)
    window = Window(c=count, o=len(channels), size=(7, 41), kernel=(1, 1), n=2)
    x = rng.standard_normal((2, count, 7, 41), dtype=np.float32)
    x[0, 0, 3, 5], x[1, count - 1, 6, 40], x[0, 0, 0, 0] = np.nan, np.inf, -0.0
    blocks = -(-len(channels) // 16)
    numbers = np.full(blocks * 16, -1, np.int32)
    numbers[: len(channels)] = channels
    fields = {"c_blocks": blocks, "positions": 7 * 41, "from": numbers.ctypes.data}
    y = run_kernel("channels_nchw16c_f32", window, x, None, variant=variant, fields=fields)
    expected = np.zeros_like(y)
    for i, channel in enumerate(channels):
        if channel >= 0:
            expected[:, i] = x[:, channel]
    assert_same_bits(y, expected)
