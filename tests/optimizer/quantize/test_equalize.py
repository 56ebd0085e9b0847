"""Equalisation and SmoothQuant: the same function, with weights and activations that 8 bits suit better."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from optimizer.quantize.helpers import apply, model_of, normal, run, snr

from sardonyx.errors import InputError
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.step import make_step

SIZES = np.array([1, 100, 0.01, 5, 0.2, 30], np.float32)


def badly_scaled() -> ir.Model:
    """Channels between layers differ in size by a factor of 10,000: Conv, depthwise Conv, Conv, pooling, Gemm."""
    body = """g (float[n,3,11,7] x) => (float[n,5] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1, b1)
        b = Relu(a)
        c = Conv <group = 6, strides = [2,2]> (b, w2, b2)
        d = LeakyRelu(c)
        e = Conv <group = 2> (d, w3, b3)
        f = Relu(e)
        h = GlobalAveragePool(f)
        i = Flatten(h)
        y = Gemm(i, w4, b4)
    }"""
    column = SIZES.reshape(-1, 1, 1, 1)
    inner = np.concatenate([1 / SIZES[:3] * np.ones((2, 3)), SIZES[3:] * np.ones((2, 3))]).astype(np.float32)
    return model_of(
        body, w1=normal(6, 3, 3, 3, seed=1) * column, b1=normal(6, seed=2) * SIZES,
        w2=normal(6, 1, 3, 3, seed=3), b2=normal(6, seed=4), w3=normal(4, 3, 1, 1, seed=5) * inner[:, :, None, None],
        b3=normal(4, seed=6), w4=normal(4, 5, seed=7) * SIZES[:4, None], b4=normal(5, seed=8),
    )  # fmt: skip


def batch() -> Data:
    return Data([{"x": normal(2, 3, 11, 7, seed=90 + number)} for number in range(3)])


def test_equalisation_changes_nothing_but_what_int8_makes_of_the_model() -> None:
    model, feeds = badly_scaled(), batch().feeds[0]
    result = apply("equalize", model)
    expected = run(model, feeds, "reference")[0]
    np.testing.assert_allclose(
        run(result.model, feeds, "reference")[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )
    rounded = [apply("static-int8", each, batch(), per_channel=False).model for each in (model, result.model)]
    before, after = (snr(expected, run(each, feeds)[0]) for each in rounded)
    assert after > before + 6


def ranges(result: ir.Model, name: str, axes: tuple[int, ...]) -> np.ndarray:
    return np.max(np.abs(result.graph.initializers[name].const_value.numpy()), axis=axes)


def test_both_sides_of_each_channel_have_one_size_in_the_end() -> None:
    result = apply("equalize", badly_scaled()).model
    one, two = ranges(result, "w1.equalized", (1, 2, 3)), ranges(result, "w2.equalized", (1, 2, 3))
    np.testing.assert_allclose(one, two, rtol=0.01)
    last, linear = ranges(result, "w3.equalized", (1, 2, 3)), ranges(result, "w4.equalized", (1,))
    np.testing.assert_allclose(last, linear, rtol=0.01)


INPUT, Y, MORE = "g (float[n,3,11,7] x) => (", "float[n,4,11,7] y", ", float[n,6,11,7] z"
FIXED = {
    "a Clip": Y + ") { a = Conv(x, w) b = Clip(a, low, high) y = Conv(b, v) }",
    "an output between": Y + MORE + ") { a = Conv(x, w) z = Relu(a) y = Conv(z, v) }",
    "another reader": Y + MORE + ") { a = Conv(x, w) z = Exp(a) y = Conv(a, v) }",
    "a weight used twice": Y + MORE + ") { z = Conv(x, w) a = Conv(x, w) y = Conv(a, v) }",
}


@pytest.mark.parametrize("name", FIXED)
def test_where_a_factor_cannot_pass_nothing_changes(name: str) -> None:
    weights = {"w": normal(6, 3, 1, 1), "v": normal(4, 6, 1, 1), "low": np.float32(0), "high": np.float32(6)}
    assert not apply("equalize", model_of(INPUT + FIXED[name], **weights)).modified


def test_a_channel_of_zeros_stays_as_it_is() -> None:
    w = normal(6, 3, 1, 1)
    w[2] = 0
    body = "g (float[n,3,11,7] x) => (float[n,4,11,7] y) { a = Conv(x, w) b = Relu(a) y = Conv(b, v) }"
    model = model_of(body, w=w, v=normal(4, 6, 1, 1, seed=3))
    expected, actual = (run(m, batch().feeds[0], "reference")[0] for m in (model, apply("equalize", model).model))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


NORMALISED = {
    "one node": "c = LayerNormalization <axis = -1> (x, gamma, beta)",
    "spelled out": """m = ReduceMean <keepdims = 1> (x, last) d = Sub(x, m) s = Mul(d, d)
        v = ReduceMean <keepdims = 1> (s, last) r = Sqrt(v) n = Div(d, r) t = Mul(gamma, n) c = Add(t, beta)""",
}


def outliers(form: str, rest: str = "", outputs: str = "") -> ir.Model:
    """Two products of a normalised value, some of whose channels are large."""
    body = f"""g (float[n,24] x) => (float[n,13] y, float[n,7] z{outputs}) {{
        {NORMALISED[form]}
        y = MatMul(c, w)
        z = Gemm <transB = 1> (c, u)
        {rest}
    }}"""
    gamma = np.abs(normal(24, seed=1)) + 0.2
    gamma[[3, 11]] *= 60
    return model_of(body, gamma=gamma, beta=normal(24, seed=2), w=normal(24, 13, seed=3), u=normal(7, 24, seed=4),
                    last=np.array([-1]))  # fmt: skip


def rows() -> Data:
    return Data([{"x": normal(31, 24, seed=70 + number)} for number in range(3)])


@pytest.mark.parametrize("form", NORMALISED)
def test_smoothing_changes_nothing_but_what_int8_makes_of_the_model(form: str) -> None:
    model, feeds = outliers(form), rows().feeds[0]
    result = apply("smooth-quant", model, rows())
    expected = run(model, feeds, "reference")
    for a, b in zip(run(result.model, feeds, "reference"), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    before, after = (run(apply("static-int8", m, rows()).model, feeds) for m in (model, result.model))
    for exact, one, other in zip(expected, before, after, strict=True):
        assert snr(exact, other) > snr(exact, one) + 3


def test_the_factors_are_those_of_the_paper() -> None:
    model = outliers("one node")
    constants = {
        n: v.const_value.numpy()
        for n, v in apply("smooth-quant", model, rows(), alpha=0.7).model.graph.initializers.items()
    }
    w, u, gamma = (model.graph.initializers[name].const_value.numpy() for name in ("w", "u", "gamma"))
    inner = model_of(
        f"g (float[n,24] x) => (float[n,24] c) {{ {NORMALISED['one node']} }}", gamma=gamma, beta=normal(24, seed=2)
    )
    largest = np.max([np.abs(run(inner, feeds, "reference")[0]).max(axis=0) for feeds in rows()], axis=0)
    factor = largest**0.7 / np.maximum(np.abs(w).max(axis=1), np.abs(u).max(axis=0)) ** 0.3
    np.testing.assert_allclose(constants["gamma.smooth"], gamma / factor, rtol=1e-4)
    np.testing.assert_allclose(constants["w.smooth"], w * factor[:, None], rtol=1e-4)
    np.testing.assert_allclose(constants["u.smooth"], u * factor, rtol=1e-4)


def test_a_value_that_is_read_elsewhere_is_left_alone_or_gets_a_factor() -> None:
    model = outliers("one node", "q = Relu(c)", ", float[n,24] q")
    result = apply("smooth-quant", model, rows())
    assert not result.modified
    assert any("read elsewhere" in note for note in result.notes)
    inserted = apply("smooth-quant", model, rows(), insert=True)
    assert inserted.modified
    for a, b in zip(*(run(m, rows().feeds[0], "reference") for m in (inserted.model, model)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("name", "settings"), [("equalize", {"rounds": 0}), ("smooth-quant", {"alpha": 1.5})])
def test_bad_parameters_are_refused(name: str, settings: dict) -> None:
    with pytest.raises(InputError):
        make_step(name, settings)
