"""Dynamic int8: products of a constant, in integers, without data."""

from __future__ import annotations

import numpy as np
import pytest
from optimizer.quantize.helpers import apply, cnn, count, images, model_of, normal, run, sentences, snr, transformer


def test_a_transformer_is_the_same_under_every_runtime() -> None:
    result = apply("dynamic-int8", transformer())
    assert count(result.model, "MatMulInteger") == 5
    assert count(result.model, "DynamicQuantizeLinear") == 3  # query, key and value read one
    feeds = sentences(1).feeds[0]
    ours = run(result.model, feeds, "sardonyx")[0]
    assert snr(run(transformer(), feeds)[0], ours) > 30
    for other in ("reference", "onnxruntime"):
        # A value on the border between two steps may fall either way.
        assert snr(ours, run(result.model, feeds, other)[0]) > 35


def test_the_arithmetic_is_that_of_the_standard() -> None:
    w, x = normal(24, 13, seed=1), normal(5, 24, seed=2) + 1
    body = "g (float[n,24] x) => (float[n,13] y) { y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) }"
    result = apply("dynamic-int8", model_of(body, w=w, b=normal(13)))
    scale = np.float32((x.max() - min(x.min(), 0)) / 255)
    zero = np.rint(-min(x.min(), 0) / scale)
    xq = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    wide = np.abs(w / 2).max(axis=0).astype(np.float64) / 127
    expected = (xq @ np.rint(w / 2 / wide)) * scale * wide + 2 * normal(13)
    np.testing.assert_allclose(run(result.model, {"x": x})[0], expected, rtol=1e-5, atol=1e-5)


def test_convolutions_are_an_option() -> None:
    assert count(apply("dynamic-int8", cnn(), smallest=1).model, "ConvInteger") == 0
    result = apply("dynamic-int8", cnn(), convolutions=True, smallest=1)
    assert count(result.model, "ConvInteger") == 3
    feeds = images(1).feeds[0]
    ours = run(result.model, feeds, "sardonyx")[0]
    assert snr(run(cnn(), feeds)[0], ours) > 25
    for other in ("reference", "onnxruntime"):
        assert snr(ours, run(result.model, feeds, other)[0]) > 35


LAYERS = """g (float[t,n,7] x) => (float[t,2,n,11] y) {
    y = %s <hidden_size = 11, direction = "bidirectional"> (x, w, r, b)
}"""


def recurrent(operator: str, gates: int):
    w, r = normal(2, gates * 11, 7, scale=0.3), normal(2, gates * 11, 11, seed=3, scale=0.3)
    return model_of(LAYERS % operator, w=w, r=r, b=normal(2, 2 * gates * 11))


def test_lstm_is_what_onnx_runtime_has_for_it() -> None:
    model = recurrent("LSTM", 4)
    assert not apply("dynamic-int8", model, recurrent=False).modified
    result = apply("dynamic-int8", model)
    assert count(result.model, "DynamicQuantizeLSTM") == 1
    assert result.model.opset_imports["com.microsoft"] == 1
    x = {"x": normal(5, 3, 7, seed=9)}
    ours = run(result.model, x, "sardonyx")[0]
    assert snr(run(model, x)[0], ours) > 25
    assert snr(ours, run(result.model, x, "onnxruntime")[0]) > 60  # but for numbers on a border, the same


def test_gru_keeps_floats_and_has_weights_of_int8() -> None:
    model = recurrent("GRU", 3)
    result = apply("dynamic-int8", model)
    assert count(result.model, "DequantizeLinear") == 2
    x = {"x": normal(5, 3, 7, seed=9)}
    ours = run(result.model, x, "sardonyx")[0]
    assert snr(run(model, x)[0], ours) > 35
    assert snr(ours, run(result.model, x, "onnxruntime")[0]) > 100


IN_BRANCHES = """g (float[t,n,7] x, bool long) => (float[t,1,n,11] y) {
    y = If (long) <
        then_branch = g1 () => (float[t,1,n,11] a) {
            u = Concat <axis = 1> (w1, w2)
            a = LSTM <hidden_size = 11> (x, u, r)
        },
        else_branch = g2 () => (float[t,1,n,11] b) {
            v = Concat <axis = 1> (w1, w2)
            b = LSTM <hidden_size = 11, direction = "reverse"> (x, v, r)
        }
    >
}"""


@pytest.mark.parametrize("step", ["dynamic-int8", "weights-int8"])
def test_layers_in_branches_with_weights_put_together_share_their_integers(step: str) -> None:
    weights = {"w1": normal(1, 22, 7, scale=0.3), "w2": normal(1, 22, 7, seed=4, scale=0.3)}
    model = model_of(IN_BRANCHES, r=normal(1, 44, 11, seed=3, scale=0.3), **weights)
    result = apply(step, model, smallest=1)
    operators = [node.op_type for node in result.model.graph.all_nodes()]
    assert operators.count("DynamicQuantizeLSTM" if step == "dynamic-int8" else "LSTM") == 2
    large = [v for v in result.model.graph.initializers.values() if v.const_value.size > 44]
    assert sorted(str(v.dtype) for v in large) == ["INT8", "INT8"]
    for which in (True, False):
        feeds = {"x": normal(5, 3, 7, seed=9), "long": np.asarray(which)}
        ours = run(result.model, feeds, "sardonyx")[0]
        assert snr(run(model, feeds)[0], ours) > 25
        assert snr(ours, run(result.model, feeds, "onnxruntime")[0]) > 60


LEFT_ALONE = {
    "small": ("g (float[n,3] x) => (float[n,2] y) { y = MatMul(x, w) }", normal(3, 2), "small"),
    "NaN": ("g (float[n,24] x) => (float[n,24] y) { y = MatMul(x, w) }", np.full((24, 24), np.nan, np.float32), "NaN"),
    "transposed": ("g (float[24,n] x) => (float[n,24] y) { y = Gemm <transA=1> (x, w) }", normal(24, 24), "transposed"),
    "rank 3": ("g (float[3,n,24] x) => (float[3,n,24] y) { y = MatMul(x, w) }", normal(3, 24, 24), "no matrix"),
    "on the left": ("g (float[24,n] x) => (float[24,n] y) { y = MatMul(w, x) }", normal(24, 24), "computed"),
    "double": ("g (double[n,24] x) => (double[n,24] y) { y = MatMul(x, w) }", np.ones((24, 24)), "float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_does_not_fit_is_left_alone_and_named(name: str) -> None:
    body, w, reason = LEFT_ALONE[name]
    result = apply("dynamic-int8", model_of(body, w=w))
    assert not result.modified
    assert any(reason in note for note in result.notes)


def test_an_output_that_is_a_product_keeps_its_name_and_a_channel_of_zeros_is_zero() -> None:
    w = normal(24, 13)
    w[:, 4] = 0
    result = apply("dynamic-int8", model_of("g (float[n,24] x) => (float[n,13] y) { y = MatMul(x, w) }", w=w))
    assert (run(result.model, {"x": normal(3, 24)})[0][:, 4] == 0).all()
    assert run(result.model, {"x": normal(0, 24)}, "sardonyx")[0].shape == (0, 13)
