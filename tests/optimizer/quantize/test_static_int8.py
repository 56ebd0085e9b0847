"""Static int8: what is rounded, by what numbers, and that every runtime computes the same from it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from optimizer.quantize.helpers import (
    apply,
    cnn,
    count,
    images,
    model_of,
    normal,
    operators,
    run,
    sentences,
    snr,
    transformer,
)

from sardonyx.compiler.compile import is_native
from sardonyx.errors import InputError
from sardonyx.model.prepare import prepare
from sardonyx.optimizer import NATIVE_PASSES
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.step import make_step

ONE = "g (float[n,3,9,7] x) => (float[n,5,7,5] y) { y = Conv (x, w, b) }"


def one(**weights: np.ndarray) -> ir.Model:
    return model_of(ONE, **({"w": normal(5, 3, 3, 3, seed=1), "b": normal(5, seed=2)} | weights))


def batch(seed: int = 3) -> Data:
    return Data([{"x": normal(2, 3, 9, 7, seed=seed + i)} for i in range(3)])


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize(
    ("activations", "symmetric", "per_channel"), [("uint8", False, True), ("int8", True, True), ("int8", False, False)]
)
def test_a_cnn_is_the_same_under_every_runtime_and_close_to_float(activations, symmetric, per_channel) -> None:
    settings = {"activations": activations, "symmetric": symmetric, "per_channel": per_channel}
    result = apply("static-int8", cnn(), images(), **settings)
    feeds = images(1, seed=300).feeds[0]
    float32, ours = run(cnn(), feeds)[0], run(result.model, feeds, "sardonyx")[0]
    assert snr(float32, ours) > 20
    for other in ("reference", "onnxruntime"):
        # Sums are integers in some, floats in others: what lies on the border between two steps may fall either way.
        assert snr(ours, run(result.model, feeds, other)[0]) > 30


def test_the_arithmetic_is_that_of_the_paper() -> None:
    data = batch()
    result = apply("static-int8", one(), data)
    x = data.feeds[0]["x"]
    low, high = min(feeds["x"].min() for feeds in data), max(feeds["x"].max() for feeds in data)
    scale = np.float32((float(high) - float(low)) / 255)
    zero = round(-float(low) / float(scale))
    w, b = normal(5, 3, 3, 3, seed=1), normal(5, seed=2)
    wide = np.abs(w).max(axis=(1, 2, 3)) / np.float32(127)
    wq = np.rint(w / wide[:, None, None, None]).astype(np.int64)
    bq = np.rint(b / (scale * wide)).astype(np.int64)
    xq = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64) - zero
    windows = np.lib.stride_tricks.sliding_window_view(xq, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, wq) + bq[:, None, None]
    expected = sums * (scale * wide)[:, None, None].astype(np.float64)
    np.testing.assert_allclose(run(result.model, {"x": x}, "reference")[0], expected, rtol=1e-5, atol=1e-5)


def test_what_is_written() -> None:
    result = apply("static-int8", cnn(), images())
    assert count(result.model, "BatchNormalization") == 0
    kinds = {name: array.dtype for name, array in constants(result.model).items()}
    assert kinds["w4.int8"] == np.int8
    assert kinds["b4.int32"] == np.int32
    # image, c and d (one scale), f, i (h and d are read by Add), j, k, l: no rounding between Conv and Relu or Clip.
    assert count(result.model, "QuantizeLinear") == len({"image", "c", "d", "f", "h", "j", "k", "l"})
    rounded = {node.inputs[0].name: node for node in result.model.graph if node.op_type == "QuantizeLinear"}
    assert set(rounded) == {"image", "c", "d", "f", "h", "j", "k", "l"}
    by_name = constants(result.model)
    assert by_name["c.scale"] == by_name["d.scale"]  # MaxPool gives values of its input
    assert by_name["k.scale"] == by_name["l.scale"]
    assert by_name["h.scale"] != by_name["d.scale"]


def test_attention_stays_in_float_and_says_so_unless_it_is_asked_for() -> None:
    result = apply("static-int8", transformer(), sentences())
    assert any("both inputs are computed" in note for note in result.notes)
    rounded = {node.inputs[0].name for node in result.model.graph if node.op_type == "QuantizeLinear"}
    assert rounded == {"x", "z", "g5"}
    everything = apply("static-int8", transformer(), sentences(), dynamic_products=True)
    rounded = {node.inputs[0].name for node in everything.model.graph if node.op_type == "QuantizeLinear"}
    assert {"qb", "kt", "k", "p", "v"} <= rounded
    feeds = sentences(1, seed=400).feeds[0]
    for each in (result, everything):
        ours = run(each.model, feeds, "sardonyx")[0]
        assert snr(run(transformer(), feeds)[0], ours) > 25
        assert snr(run(each.model, feeds, "onnxruntime")[0], ours) > 35


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_outlier_ruins_minmax_but_not_the_other_methods(method: str) -> None:
    feeds = [{"x": normal(2, 3, 9, 7, seed=50 + number)} for number in range(60)]
    feeds[7]["x"][0, 0, 0, 0] = 900
    data, clean = Data(feeds), {"x": normal(2, 3, 9, 7, seed=999)}
    float32 = run(one(), clean)[0]
    plain = run(apply("static-int8", one(), data).model, clean)[0]
    better = run(apply("static-int8", one(), data, calibration=method).model, clean)[0]
    assert snr(float32, better) > snr(float32, plain) + 6


def test_transposed_convolutions_have_their_channels_on_axis_one() -> None:
    body = "g (float[n,4,5,7] x) => (float[n,6,6,8] y) { y = ConvTranspose <group = 2> (x, w, b) }"
    model = model_of(body, w=normal(4, 3, 2, 2) * np.array([1, 9, 0.1], np.float32)[:, None, None], b=normal(6))
    data = Data([{"x": normal(2, 4, 5, 7, seed=5)}])
    result = apply("static-int8", model, data)
    assert constants(result.model)["w.scale"].shape == (3,)
    assert snr(run(model, data.feeds[0])[0], run(result.model, data.feeds[0])[0]) > 35
    assert snr(run(result.model, data.feeds[0], "sardonyx")[0], run(result.model, data.feeds[0])[0]) > 80


def test_sharing_scales_at_concat_is_an_option() -> None:
    body = """g (float[n,3,9,7] x) => (float[n,5,9,7] y) {
        a = Relu(x)
        b = Conv(x, w)
        c = Concat <axis = 1> (a, b)
        y = Conv(c, v)
    }"""
    model = model_of(body, w=normal(2, 3, 1, 1, scale=9), v=normal(5, 5, 1, 1, seed=4))
    apart = constants(apply("static-int8", model, batch()).model)
    together = constants(apply("static-int8", model, batch(), share_concat=True).model)
    assert together["b.scale"] == together["c.scale"]
    assert apart["x.scale"] == together["x.scale"]
    assert "b.scale" in apart


def test_what_no_product_follows_stays_in_float() -> None:
    body = """g (float[n,3,9,7] x) => (float[n,5] y) {
        a = Conv(x, w)
        b = Sigmoid(a)
        c = Mul(a, b)
        d = GlobalAveragePool(c)
        y = Flatten(d)
    }"""
    result = apply("static-int8", model_of(body, w=normal(5, 3, 1, 1)), batch())
    assert operators(result.model).count("QuantizeLinear") == 1


def test_a_weight_of_zeros_and_a_bias_out_of_range_are_right() -> None:
    w = normal(5, 3, 3, 3, seed=1)
    w[1], w[2] = 0, w[2] * 1e-20
    b = np.array([1, 0.123456, 5, -1e6, 0], np.float32)
    result = apply("static-int8", one(w=w, b=b), batch())
    expected, actual = (run(model, batch().feeds[0])[0] for model in (one(w=w, b=b), result.model))
    np.testing.assert_allclose(actual[:, 1:4], expected[:, 1:4], rtol=1e-6, atol=0.2)
    np.testing.assert_allclose(actual[:, 1], 0.123456, rtol=1e-6)
    assert snr(expected[:, 0], actual[:, 0]) > 30


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e30, 1e-40])
def test_an_input_that_never_changes_is_kept(value: float) -> None:
    x = np.full((1, 3, 9, 7), value, np.float32)
    result = apply("static-int8", one(b=np.zeros(5, np.float32)), Data([{"x": x}]))
    assert any("never changed" in note for note in result.notes)
    expected, actual = (run(model, {"x": x})[0] for model in (one(b=np.zeros(5, np.float32)), result.model))
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=0.05, atol=np.abs(expected).max() / 50 + 1e-36)


def test_a_value_that_is_an_output_stays_exact_and_keeps_its_name() -> None:
    body = """g (float[n,3,9,7] x) => (float[n,5,9,7] y, float[n,4,9,7] a) {
        a = Conv(x, w)
        y = Conv(a, v)
    }"""
    model = model_of(body, w=normal(4, 3, 1, 1), v=normal(5, 4, 1, 1))
    result = apply("static-int8", model, batch())
    x = {"x": batch().feeds[0]["x"]}
    assert snr(run(model, x)[1], run(result.model, x)[1]) > 30
    assert len(np.unique(run(result.model, x)[1])) > 256  # not rounded to 8 bits


def test_a_weight_that_two_nodes_share_is_stored_once() -> None:
    body = """g (float[n,3,9,7] x) => (float[n,3,9,7] y, float[n,3,9,7] z) {
        y = Conv(x, w)
        a = Relu(x)
        z = Conv(a, w)
    }"""
    result = apply("static-int8", model_of(body, w=normal(3, 3, 1, 1)), batch())
    assert [name for name, array in constants(result.model).items() if array.dtype == np.int8] == ["w.int8"]


def test_nodes_can_be_left_alone() -> None:
    names = [node.name for node in cnn().graph if node.op_type in ("Conv", "Gemm")]
    model = cnn().clone()
    for number, node in enumerate(model.graph):
        node.name = f"node{number}"
    names = [node.name for node in model.graph if node.op_type in ("Conv", "Gemm")]
    result = apply("static-int8", model, images(), skip=(names[1], "nobody"), skip_first=True, skip_last=True)
    assert "there is no node called 'nobody' to skip" in result.notes
    weights = sorted(name for name in constants(result.model) if name.endswith(".int8"))
    assert weights == ["w3.int8"]
    text = "\n".join(result.notes)
    for name, reason in ((names[0], "first"), (names[1], "as asked"), (names[-1], "last")):
        assert any(name in line and reason in line for line in text.splitlines())


NOTHING = {
    "no product": ("g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }", {}),
    "double": ("g (double[n,3] x) => (double[n,2] y) { y = MatMul(x, w) }", {"w": np.ones((3, 2))}),
    "half": ("g (float16[n,3] x) => (float16[n,2] y) { y = MatMul(x, w) }", {"w": np.ones((3, 2), np.float16)}),
    "computed weight": ("g (float[n,3] x, float[3,2] w) => (float[n,2] y) { y = Gemm(x, w) }", {}),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_has_nothing_to_quantise_is_returned_as_it_is(name: str) -> None:
    body, weights = NOTHING[name]
    result = apply("static-int8", model_of(body, **weights), None)
    assert not result.modified
    assert "no product" in result.notes[-1]


def test_a_quantised_model_is_not_quantised_again() -> None:
    once = apply("static-int8", cnn(), images())
    again = apply("static-int8", once.model, images())
    assert not again.modified


def test_an_initializer_that_is_an_input_is_no_constant() -> None:
    body = "g (float[n,3,9,7] x, float[5,3,3,3] w) => (float[n,5,7,5] y) { y = Conv (x, w) }"
    result = apply("static-int8", model_of(body, w=normal(5, 3, 3, 3)), batch())
    assert not result.modified
    assert any("no constant" in note for note in result.notes)


def test_products_in_a_branch_stay_in_float_and_are_counted() -> None:
    body = """g (float[n,3,9,7] x, bool c) => (float[n,3,9,7] y) {
        a = Conv(x, w)
        y = If (c) <
            then_branch = one () => (float[n,3,9,7] t) { t = Conv(a, w) },
            else_branch = two () => (float[n,3,9,7] e) { e = Relu(a) }
        >
    }"""
    model = model_of(body, w=normal(3, 3, 1, 1))
    data = Data([feeds | {"c": np.array(True)} for feeds in batch()])
    result = apply("static-int8", model, data)
    assert any("1 product" in note and "If" in note for note in result.notes)
    for branch in (True, False):
        feeds = data.feeds[0] | {"c": np.array(branch)}
        assert snr(run(model, feeds)[0], run(result.model, feeds)[0]) > 30


BAD = {
    "no samples": (Data([]), "no samples"),
    "a missing input": (Data([{"y": normal(1, 3, 9, 7)}]), "'x'"),
    "a wrong shape": (Data([{"x": normal(1, 3, 9, 8)}]), "shape [1, 3, 9, 8], not [n, 3, 9, 7]"),
    "a wrong rank": (Data([{"x": normal(3, 9, 7)}]), "shape"),
    "a wrong type": (Data([{"x": normal(1, 3, 9, 7).astype(np.float64)}]), "float64, not float32"),
    "NaN": (Data([{"x": np.full((1, 3, 9, 7), np.nan, np.float32)}]), "NaN"),
    "infinity inside": (Data([{"x": np.full((1, 3, 9, 7), 3e38, np.float32)}]), "NaN or infinite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_refused_with_its_reason(name: str) -> None:
    data, words = BAD[name]
    model = model_of(ONE.replace("y = Conv (x, w, b)", "a = Conv (x, w, b) c = Relu(a) y = Conv(c, v)"),
                     w=np.abs(normal(5, 3, 3, 3)), b=normal(5), v=normal(5, 5, 1, 1))  # fmt: skip
    with pytest.raises(InputError) as caught:
        apply("static-int8", model, data)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "settings", [{"calibration": "best"}, {"activations": "int4"}, {"percentile": 12.0}, {"percentile": float("nan")}]
)
def test_bad_parameters_are_refused(settings: dict) -> None:
    with pytest.raises(InputError):
        make_step("static-int8", settings)


def test_without_data_the_cost_is_said_and_batch_normalisation_is_used() -> None:
    result = apply("static-int8", cnn(), None)
    assert any("random inputs" in note for note in result.notes)
    feeds = images(1, seed=300).feeds[0]
    assert snr(run(cnn(), feeds)[0], run(result.model, feeds)[0]) > 15
    # c = Relu of what has the given mean and deviation of each channel
    expected = np.max(normal(5, seed=4) + 6 * (np.abs(normal(5, seed=3)) + 0.5)) / 255
    np.testing.assert_allclose(constants(result.model)["c.scale"], expected, rtol=1e-6)


def test_an_old_opset_is_raised_to_what_scales_of_channels_need() -> None:
    model = model_of("g (float[n,3,9,7] x) => (float[n,5,7,5] y) { y = Conv (x, w) }", opset=9, w=normal(5, 3, 3, 3))
    result = apply("static-int8", model, batch())
    assert result.model.opset_imports[""] == 13


def test_the_same_data_give_the_same_bytes() -> None:
    first, second = (apply("static-int8", cnn(), images(), calibration="mse").model for _ in range(2))
    assert ir.to_proto(first).SerializeToString(deterministic=True) == ir.to_proto(second).SerializeToString(
        deterministic=True)  # fmt: skip


def test_rounding_the_output_of_every_product_is_an_option() -> None:
    body = """g (float[n,3,9,7] x) => (float[n,5,9,7] y) {
        a = Conv(x, w)
        b = HardSwish(a)
        y = Conv(b, v)
    }"""
    model = model_of(body, w=normal(4, 3, 1, 1), v=normal(5, 4, 1, 1))
    assert count(apply("static-int8", model, batch()).model, "QuantizeLinear") == 2
    assert count(apply("static-int8", model, batch(), integer_outputs=True).model, "QuantizeLinear") == 3


def test_weights_of_seven_bits_are_an_option() -> None:
    result = apply("static-int8", one(), batch(), reduce_range=True)
    assert np.abs(constants(result.model)["w.int8"]).max() == 63


def few_levels() -> ir.Model:
    """Weights that 8 bits with one scale for all round badly, and inputs that are positive."""
    w = normal(5, 3, 3, 3, seed=1, scale=0.02)
    w[0, 0, 0, 0] = 5
    body = "g (float[n,3,9,7] x) => (float[n,5,9,7] y) { y = Conv <pads = [1,1,1,1]> (x, w, b) }"
    return model_of(body, w=w, b=normal(5))


def positive() -> Data:
    return Data([{"x": np.abs(normal(3, 3, 9, 7, seed=60 + number)) + 1} for number in range(5)])


def mean_error(result: ir.Model, model: ir.Model, data: Data) -> np.ndarray:
    return np.mean([run(result, feeds)[0] - run(model, feeds)[0] for feeds in data], axis=(0, 1, 3, 4))


def test_bias_correction_removes_the_mean_shift() -> None:
    model, data = few_levels(), positive()
    plain = mean_error(apply("static-int8", model, data, per_channel=False).model, model, data)
    corrected = mean_error(
        apply("static-int8", model, data, per_channel=False, bias_correction=True).model, model, data
    )
    assert np.abs(corrected).max() < 0.05 * np.abs(plain).max()


def test_a_convolution_without_bias_gets_one_to_correct() -> None:
    body = 'g (float[n,3,9,7] x) => (float[n,5,9,7] y) { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }'
    model, data = model_of(body, w=few_levels().graph.initializers["w"].const_value.numpy()), positive()
    result = apply("static-int8", model, data, per_channel=False, bias_correction=True)
    plain = mean_error(apply("static-int8", model, data, per_channel=False).model, model, data)
    assert np.abs(mean_error(result.model, model, data)).max() < 0.05 * np.abs(plain).max()


@pytest.mark.parametrize(
    "body",
    [
        "g (float[n,6,9,7] x) => (float[n,4,5,4] y) { y = Conv <group = 2, pads = [1,1,1,1], strides = [2,2]> (x, w) }",
        'g (float[n,6,9,7] x) => (float[n,4,9,7] y) { y = Conv <group = 2, auto_pad = "SAME_LOWER"> (x, w) }',
        "g (float[n,6,9,7] x) => (float[n,4,5,3] y) { y = Conv <group = 2, dilations = [2,2]> (x, w) }",
    ],
)
def test_rounding_by_descent_is_better_on_inputs_that_go_together(body: str) -> None:
    model = model_of(
        body, w=normal(4, 3, 3, 3, seed=1) * np.linspace(0.01, 1, 4, dtype=np.float32)[:, None, None, None]
    )
    base = np.cumsum(normal(4, 1, 9, 7, seed=8), axis=-1) * np.ones((1, 6, 1, 1), np.float32)
    data = Data([{"x": base + normal(4, 6, 9, 7, seed=9, scale=0.05)}])
    feeds = data.feeds[0]
    expected, settings = run(model, feeds)[0], {"per_channel": False, "reduce_range": True}
    near = apply("static-int8", model, data, **settings).model
    chosen = apply("static-int8", model, data, rounding="descent", **settings).model
    assert snr(expected, run(chosen, feeds)[0]) > snr(expected, run(near, feeds)[0]) + 1


def test_a_channel_that_is_nearly_dead_does_not_keep_its_layer_in_floats() -> None:
    """Its bias is huge in units of its weights: their scale grows until the bias fits into what integer kernels add."""
    weight = normal(8, 3, 3, 3, seed=3)
    weight[5] *= 1e-12
    body = "g (float[1,3,9,7] x) => (float[1,4,7,5] y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }"
    data = Data([{"x": normal(1, 3, 9, 7, seed=number)} for number in range(3)])
    model = model_of(body, w=weight, b=normal(8, seed=4), v=normal(4, 8, 1, 1, seed=5))
    result = apply("static-int8", model, data).model
    prepared = prepare(result, is_native=is_native)
    for each in NATIVE_PASSES:
        each(prepared)
    assert "QLinearConv" in {node.op_type for node in prepared.graph}
