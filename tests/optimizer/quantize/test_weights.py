"""Weights in fewer bytes: int8, int4, float16, bfloat16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from optimizer.quantize.helpers import apply, count, model_of, normal, operators, run, sentences, snr, transformer

from sardonyx.errors import InputError, OptimizationError
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.step import make_step

PRODUCTS = """g (float[n,70] x) => (float[n,13] y, float[n,9] z) {
    y = MatMul(x, w)
    z = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, u, b)
}"""


def products(**weights: np.ndarray) -> ir.Model:
    return model_of(PRODUCTS, **({"w": normal(70, 13), "u": normal(9, 70, seed=1), "b": normal(9, seed=2)} | weights))


def rows(seed: int = 3) -> dict[str, np.ndarray]:
    return {"x": (normal(40, 5, seed=seed) @ normal(5, 70, seed=4) + normal(40, 70, seed=seed + 1, scale=0.2))}


def array(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def unpacked(result: ir.Model, name: str, columns: int, symmetric: bool) -> np.ndarray:
    """[rows, columns], as the operator's documentation says."""
    packed, scale = array(result, f"{name}.int4"), array(result, f"{name}.scale")
    q = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1).astype(np.float64)
    count, blocks, _ = q.shape
    zeros = np.full((count, blocks), 8.0)
    if not symmetric:
        bytes_of = array(result, f"{name}.zero").reshape(count, -1)
        zeros = np.stack([bytes_of & 15, bytes_of >> 4], axis=-1).reshape(count, -1)[:, :blocks]
    return ((q - zeros[..., None]) * scale.reshape(count, blocks, 1)).reshape(count, -1)[:, :columns]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq"])
def test_four_bits_are_the_product_with_the_unpacked_weights_everywhere(method: str, symmetric: bool) -> None:
    result = apply("weights-int4", products(), Data([rows()]), method=method, symmetric=symmetric, smallest=1).model
    assert count(result, "MatMulNBits") == 2
    w, u = unpacked(result, "w", 70, symmetric), unpacked(result, "u", 70, symmetric)
    assert snr(normal(70, 13), w.T) > 15
    x = rows()["x"].astype(np.float64)
    expected = x @ w.T, 0.5 * x @ u.T + 2 * normal(9, seed=2)
    for runtime in ("sardonyx", "literal"):
        for a, b in zip(run(result, rows(), runtime), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_standard_form_holds_the_same_weights(symmetric: bool) -> None:
    settings = {"method": "rtn", "symmetric": symmetric, "smallest": 1, "block": 32}
    ours = apply("weights-int4", products(), form="qdq", **settings).model
    other = apply("weights-int4", products(), **settings).model
    assert ours.opset_imports[""] == 21
    assert count(ours, "DequantizeLinear") == 2
    for runtime in ("sardonyx", "onnxruntime"):
        for a, b in zip(run(ours, rows(), runtime), run(other, rows()), strict=True):
            assert snr(b, a) > (35 if runtime == "onnxruntime" else 100)  # it rounds the data to 8 bits, too


def test_gptq_loses_less_of_the_outputs_than_the_nearest_integers() -> None:
    data = Data([rows(), rows(20), rows(30)])
    expected = run(products(), rows(50))
    near, chosen = (apply("weights-int4", products(), data, method=m, smallest=1).model for m in ("rtn", "gptq"))
    near, chosen = run(near, rows(50)), run(chosen, rows(50))
    for exact, a, b in zip(expected, near, chosen, strict=True):
        assert snr(exact, b) > snr(exact, a) + 2


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_convolutions_of_four_bits_are_an_option(method: str) -> None:
    body = "g (float[n,6,9,7] x) => (float[n,4,9,7] y) { y = Conv <group = 2, pads = [1,1,1,1]> (x, w) }"
    model, w = model_of(body, w=normal(4, 3, 3, 3)), normal(4, 3, 3, 3)
    data = Data([{"x": normal(3, 6, 9, 7, seed=4)}])
    assert not apply("weights-int4", model, data, smallest=1).modified
    result = apply("weights-int4", model, data, smallest=1, method=method, convolutions=True).model
    q, scale = array(result, "w.int4").astype(np.float32), array(result, "w.scale")
    assert np.abs(q).max() <= 7
    assert snr(w, q * scale[:, None, None, None]) > 15
    expected = run(model_of(body, w=q * scale[:, None, None, None]), data.feeds[0], "onnxruntime")[0]
    for runtime in ("sardonyx", "onnxruntime"):
        assert snr(expected, run(result, data.feeds[0], runtime)[0]) > 100


def test_gptq_needs_data() -> None:
    with pytest.raises(OptimizationError, match="needs calibration data"):
        apply("weights-int4", products(), None, method="gptq", smallest=1)


@pytest.mark.parametrize("settings", [{"method": "magic"}, {"block": 33}, {"form": "csv"}])
def test_bad_parameters_are_refused(settings: dict) -> None:
    with pytest.raises(InputError):
        make_step("weights-int4", settings)


def test_eight_bits_of_all_kinds_of_weights() -> None:
    body = """g (int64[n,t] ids, float[n,3,9,7] x) => (float[t,2,n,11] y, float[n,6,9,7] z) {
        e = Gather(table, ids)
        p = Transpose <perm = [1,0,2]> (e)
        y = LSTM <hidden_size = 11, direction = "bidirectional"> (p, w, r)
        z = Conv(x, k)
    }"""
    model = model_of(body, table=normal(53, 24) * np.geomspace(0.01, 1, 53, dtype=np.float32)[:, None],
                     w=normal(2, 44, 24, seed=1, scale=0.1), r=normal(2, 44, 11, seed=2, scale=0.1),
                     k=normal(6, 3, 1, 1, seed=3))  # fmt: skip
    result = apply("weights-int8", model, smallest=10)
    stored = {name for name, value in result.model.graph.initializers.items() if value.dtype == ir.DataType.INT8}
    stored = {name for name in stored if name.endswith("int8")}
    assert stored == {"table.int8", "w.int8", "r.int8", "k.int8"}
    feeds = {"ids": np.array([[1, 52, 7], [0, 3, 30]]), "x": normal(2, 3, 9, 7)}
    for runtime in ("sardonyx", "onnxruntime"):
        for a, b in zip(run(model, feeds), run(result.model, feeds, runtime), strict=True):
            assert snr(a, b) > 30


@pytest.mark.parametrize("name", ["weights-int8", "weights-int4", "float16"])
def test_a_weight_that_is_an_output_stays_as_it_is(name: str) -> None:
    model = model_of("g (float[n,24] x) => (float[n,13] y, float[24,13] w) { y = MatMul(x, w) }", w=normal(24, 13))
    assert not apply(name, model, smallest=10).modified


def test_a_table_that_is_a_weight_as_well_stays_as_it_is() -> None:
    body = "g (int64[n] ids) => (float[n,53] y) { e = Gather(table, ids) t = Transpose(table) y = MatMul(e, t) }"
    assert not apply("weights-int8", model_of(body, table=normal(53, 24)), smallest=10).modified


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_half_the_bytes_are_the_rounded_weights(name: str, dtype: type) -> None:
    result = apply(name, products(), smallest=100)
    w, u = normal(70, 13).astype(dtype).astype(np.float32), normal(9, 70, seed=1).astype(dtype).astype(np.float32)
    expected = run(products(w=w, u=u), rows())
    for runtime in ("sardonyx", "onnxruntime"):
        for a, b in zip(run(result.model, rows(), runtime), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert array(result.model, f"w.{name}").nbytes == 70 * 13 * 2
    assert operators(result.model).count("Cast") == 2


def test_numbers_beyond_float16_stay_in_float32_and_are_named() -> None:
    w = normal(70, 13)
    w[0, 0] = 70_000
    result = apply("float16", products(w=w), smallest=100)
    assert any("'w'" in note and "range" in note for note in result.notes)
    assert array(result.model, "w").dtype == np.float32
    assert not apply("float16", products(w=w), smallest=700, skip=("u",)).modified


def test_weights_of_branches_and_weights_that_branches_read_are_stored_narrow() -> None:
    body = """g (float[n,70] x, bool c) => (float[n,13] y) {
        y = If (c) <
            then_branch = one () => (float[n,13] t) { t = MatMul(x, w) },
            else_branch = two () => (float[n,13] e)
                <float[70,13] own = {OWN}> { e = MatMul(x, own) }
        >
    }""".replace("OWN", ", ".join(str(v) for v in normal(70 * 13, seed=5).round(3)))
    model = model_of(body, w=normal(70, 13))
    result = apply("float16", model, smallest=100)
    assert any("2 weights" in note for note in result.notes)
    for branch in (True, False):
        feeds = rows() | {"c": np.array(branch)}
        assert snr(run(model, feeds)[0], run(result.model, feeds)[0]) > 60


def test_a_whole_graph_in_float16_keeps_its_inputs_and_outputs() -> None:
    result = apply("float16", transformer(), sentences(), compute=True).model
    kinds = {node.op_type: node.outputs[0].dtype for node in result.graph}
    assert kinds["MatMul"] == kinds["Erf"] == ir.DataType.FLOAT16
    assert kinds["Softmax"] == kinds["LayerNormalization"] == ir.DataType.FLOAT
    assert array(result, "w1.float16").dtype == np.float16
    feeds = sentences(1, seed=77).feeds[0]
    expected = run(transformer(), feeds)[0]
    for runtime in ("sardonyx", "onnxruntime"):
        actual = run(result, feeds, runtime)[0]
        assert actual.dtype == np.float32
        assert snr(expected, actual) > 50


def test_what_overflows_float16_stays_in_float32() -> None:
    body = "g (float[n,7] x) => (float[n,7] y, float[n,7] z) { a = Mul(x, big) z = Add(x, x) y = Div(a, big) }"
    model = model_of(body, big=np.float32(60_000))
    data = Data([{"x": normal(5, 7)}])
    result = apply("float16", model, data, compute=True)
    assert any("beyond the range" in note for note in result.notes)
    y, z = run(result.model, data.feeds[0], "onnxruntime")
    np.testing.assert_allclose(y, data.feeds[0]["x"], rtol=1e-5)
    np.testing.assert_allclose(z, 2 * data.feeds[0]["x"], rtol=2e-3)


def test_steps_follow_one_another() -> None:
    once = apply("dynamic-int8", transformer()).model
    twice = apply("float16", once, smallest=10).model
    feeds = sentences(1).feeds[0]
    assert snr(run(once, feeds)[0], run(twice, feeds)[0]) > 35
