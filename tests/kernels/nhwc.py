"""What the tests of kernels for bytes in NHWC share: engines, cases, samples, and a reference in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

ENGINES = [
    pytest.param({"isa": "sapphirerapids"}, id="amx", marks=pytest.mark.isa("amx_int8")),
    pytest.param({"isa": "icelake_server"}, id="vnni", marks=pytest.mark.isa("avx512_vnni")),
    pytest.param({"isa": "icelake_server", "defines": {"SX_DOT_GROUP": 2}}, id="avx512bw",
                 marks=pytest.mark.isa("avx512bw")),
    pytest.param({"isa": "x86_64_v3"}, id="avx2", marks=pytest.mark.isa("avx2")),
    pytest.param({"isa": "x86_64_v2", "defines": {"SX_PORTABLE": None}}, id="sse"),
    pytest.param({"isa": "x86_64_v3", "defines": {"SX_DOT_GROUP": 4, "SX_DOT_A_UNSIGNED": 0, "SX_DOT_FALLBACK": None,
                                                  "SX_NARROW_FALLBACK": None}}, id="signed-quads",
                 marks=pytest.mark.isa("avx2")),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One convolution; `x` and `y` are their dtypes, `y` int32 for plain sums."""

    n: int = 1
    c: int = 5
    o: int = 7
    size: tuple[int, int] = (9, 11)
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)  # top, left, bottom, right
    groups: int = 1
    x: str = "uint8"
    y: str = "uint8"
    scales: int = 0  # 1: one for each channel
    bias: bool = True
    pitch: int = 0  # elements beyond the channels in x and y

    @property
    def out(self) -> tuple[int, int]:
        """Size of the output."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        span = [self.size[i] + self.pads[i] + self.pads[i + 2] - reach[i] for i in (0, 1)]
        return span[0] // self.strides[0] + 1, span[1] // self.strides[1] + 1


def samples(case: Case, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.iinfo(case.x)
    w = rng.integers(-128, 128, (case.o, case.c // case.groups, *case.kernel), np.int8)
    found = {
        "x": rng.integers(x.min, x.max + 1, (case.n, *case.size, case.c), x.dtype),
        "w": w,
        "x_zero": rng.integers(x.min, x.max + 1, 1, x.dtype),
        "bias": rng.integers(-5000, 5000, case.o, np.int32),
    }
    reach = 60 / (74 * 74 * np.sqrt(max(w[0].size if case.o else 1, 1)))
    found["scale"] = (rng.uniform(0.3, 1.5, case.o if case.scales else 1) * reach).astype(np.float32)
    if case.y != "int32":
        y = np.iinfo(case.y)
        found["y_zero"] = rng.integers(y.min, y.max + 1, 1, y.dtype)
    return found


def reference(case: Case, t: dict[str, np.ndarray]) -> np.ndarray:
    """[n, oh, ow, o] from the definition, in int64."""
    top, left, bottom, right = case.pads
    zero = int(t["x_zero"][0])
    x = np.pad(t["x"].astype(np.int64) - zero, ((0, 0), (top, bottom), (left, right), (0, 0)))
    oh, ow = case.out
    sums = np.zeros((case.n, oh, ow, case.o), np.int64)
    own_in, own_out = case.c // case.groups, case.o // case.groups
    for g in range(case.groups):
        for i in range(case.kernel[0]):
            for j in range(case.kernel[1]):
                y0, x0 = i * case.dilations[0], j * case.dilations[1]
                seen = x[:, y0 : y0 + (oh - 1) * case.strides[0] + 1 : case.strides[0],
                         x0 : x0 + (ow - 1) * case.strides[1] + 1 : case.strides[1],
                         g * own_in : (g + 1) * own_in]  # fmt: skip
                w = t["w"][g * own_out : (g + 1) * own_out, :, i, j].astype(np.int64)
                sums[..., g * own_out : (g + 1) * own_out] += seen @ w.T
    if case.bias:
        sums += t["bias"]
    sums = sums.astype(np.int32)
    if case.y == "int32":
        return sums
    value = np.rint(sums.astype(np.float32) * t["scale"]) + np.float32(t["y_zero"][0])
    kind = np.iinfo(case.y)
    return np.clip(value, kind.min, kind.max).astype(kind.dtype)
