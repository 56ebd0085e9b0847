"""How much arithmetic steps are, and what profiles make of it."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark.small import convolution, save, zeros

import sardonyx
from sardonyx.runtime.profile import Profile

PRODUCTS = f"""<ir_version: 9, opset_import: ["" : 17]>
net (float[n,8] x) => (float[n,6] y) <float[8,6] w = {zeros(8, 6)}, float[6,6] v = {zeros(6, 6)}>
{{ a = MatMul(x, w)  b = Relu(a)  y = Gemm <transB = 1> (b, v) }}"""
LSTM = f"""<ir_version: 9, opset_import: ["" : 17]>
net (float[5,2,3] x) => (float[5,1,2,4] y) <float[1,16,3] w = {zeros(16, 3)}, float[1,16,4] r = {zeros(16, 4)}>
{{ y = LSTM <hidden_size = 4> (x, w, r) }}"""
LOOP = f"""<ir_version: 9, opset_import: ["" : 17]>
net (float[4,4] x, int64 n) => (float[4,4] y) <float[4,4] w = {zeros(4, 4)}>
{{
    y = Loop(n, , x) <body = body (int64 i, bool c, float[4,4] s) => (bool k, float[4,4] t)
        {{ k = Identity(c)  t = MatMul(s, w) }}>
}}"""


def run(path, **feeds):
    session = sardonyx.Session(str(path), sardonyx.SessionOptions(threads=1, profile=True))
    session.run(feeds)
    return session


def test_known_sizes(tmp_path):
    session = run(convolution(tmp_path / "m.onnx"), x=np.ones((1, 3, 12, 12), np.float32))
    assert session.operations() == 2 * 144 * 16 * (27 + 16)
    steps = {step.operator: step.flops for step in session.profile().operators()}
    assert steps["Conv"] == session.operations()


@pytest.mark.parametrize("n", [1, 5])
def test_sizes_of_the_input(tmp_path, n):
    session = run(save(tmp_path / "m.onnx", PRODUCTS), x=np.ones((n, 8), np.float32))
    assert session.operations() == 2 * n * (8 * 6 + 6 * 6)
    session.run({"x": np.ones((n + 1, 8), np.float32)})
    assert session.operations() == 2 * (n + 1) * (8 * 6 + 6 * 6)


def test_recurrence(tmp_path):
    session = run(save(tmp_path / "m.onnx", LSTM), x=np.ones((5, 2, 3), np.float32))
    assert session.operations() == 2 * 5 * 2 * 4 * 4 * (3 + 4)


def test_nobody_knows_how_often_a_loop_runs(tmp_path):
    session = run(save(tmp_path / "m.onnx", LOOP), x=np.ones((4, 4), np.float32), n=np.array(3))
    assert session.operations() == 0


def test_no_run_no_arithmetic(tmp_path):
    assert sardonyx.Session(str(convolution(tmp_path / "m.onnx"))).operations() == 0


def test_a_profile_counts_from_the_reset(tmp_path):
    session = run(convolution(tmp_path / "m.onnx"), x=np.ones((1, 3, 12, 12), np.float32))
    session.reset_profile()
    assert session.profile().runs == 0
    session.run({"x": np.ones((1, 3, 12, 12), np.float32)})
    assert session.profile().runs == 1


def test_rates_of_a_profile():
    profile = Profile(
        [("a", "Conv"), ("b", "Conv"), ("c", "Relu")], [2_000_000, 2_000_000, 1_000_000], 2, [600, 400, 0]
    )
    assert profile.milliseconds == 2.5
    assert profile.flops == 1000
    assert [(row.name, row.calls, row.nanoseconds, row.flops) for row in profile.operators()] == [
        ("Conv", 2, 2_000_000, 1000),
        ("Relu", 1, 500_000, 0),
    ]
    assert profile.by_operator()[0] == ("Conv", 2, 2_000_000)
    [first, _, last] = profile.rows(peak=0.0012)
    assert first["gflops"] == pytest.approx(600e-6)
    assert first["of_peak"] == pytest.approx(0.5)
    assert last["gflops"] == 0
    assert profile.rows()[0]["of_peak"] is None
    assert profile.table(peak=1.0).row_count == 3
    assert [event["args"]["flops"] for event in profile.chrome_trace()["traceEvents"]] == [600, 400, 0]
