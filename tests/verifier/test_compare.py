"""Measures, verdicts, tolerances, samples."""

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sardonyx.converters.source import Input
from sardonyx.model.load import load
from sardonyx.verifier.compare import FAIL, PASS, QUANTISED, compare
from sardonyx.verifier.samples import Sample, make_samples
from sardonyx.verifier.tolerance import SOURCE_QUANTISES, Tolerance, reduction_length, tolerances
from sardonyx.verifier.verify import conditioned

F32 = Tolerance(2.0**-24, 100)


def test_equal_arrays():
    x = np.array([1, np.nan, np.inf, -0.0], np.float32)
    found = compare(x, x.copy(), F32)
    assert (found.absolute, found.cosine, found.snr, found.verdict) == (0, pytest.approx(1), np.inf, PASS)


def test_rounding_passes_and_more_fails():
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    assert compare(x, x * np.float32(1 + 1e-6), F32).verdict == PASS
    assert compare(x, x * np.float32(1 + 1e-4), F32).verdict == FAIL


@pytest.mark.parametrize(("e", "a"), [(np.nan, 0), (0, np.nan), (np.inf, -np.inf), (np.inf, 3e38), (0, np.inf)])
def test_special_values_must_be_the_same(e, a):
    found = compare(np.array([1, e], np.float32), np.array([1, a], np.float32), F32)
    assert found.verdict == FAIL
    assert "NaN or infinity" in found.reason


def test_shapes_and_texts():
    assert "shape [3, 2] instead of [2, 3]" in compare(np.zeros((2, 3)), np.zeros((3, 2)), F32).reason
    words = np.array(["a", "b"], object)
    assert compare(words, words.copy(), F32).verdict == PASS
    assert compare(words, words[::-1], F32).failed


def test_measures():
    e, a = np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[3.0, 4.0], [1.0, 0.0]])
    found = compare(e, a, F32)
    assert found.absolute == 1
    assert found.relative == 0.25
    assert found.cosine == pytest.approx(25 / 26)
    assert found.snr == pytest.approx(10 * np.log10(26 / 2))
    assert found.argmax == 0.5


def test_within_quantisation():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000).astype(np.float32)
    coarse = (np.round(x * 32) / 32).astype(np.float32)
    assert compare(x, coarse, F32).verdict == FAIL
    assert compare(x, coarse, Tolerance(2.0**-24, 100, quantised=True)).verdict == QUANTISED
    assert compare(x, -x, Tolerance(2.0**-24, 100, quantised=True)).verdict == FAIL


def test_tolerances_follow_the_arithmetic():
    model = load(networks.network("cnn"))
    from sardonyx.model.inline import infer_types

    infer_types(model)
    found = tolerances(model)
    assert found["c1"].terms == 27
    assert found["c2"].terms > found["c1"].terms + 71
    assert found["scores"].terms > found["c2"].terms
    assert found["t"].unit == 0  # a shape is exact
    assert [reduction_length(n, {}) for n in model.graph if n.name == "relu1"] == [1.0]


def test_samples_cover_the_corners():
    inputs = [
        Input("x", "float32", ("batch", 3, "side")),
        Input("ids", "int64", ("batch", "length"), 0, 9),
        Input("pixels", "float32", (1, 2), 0, 1),
        Input("flag", "bool", (2,)),
        Input("text", "string", ("batch",), choices=("u", "v")),
    ]
    samples = {sample.title: sample.feeds for sample in make_samples(inputs)}
    assert {"typical", "zeros", "large", "tiny"} < samples.keys()
    assert sum(title.startswith("batch") for title in samples) == 1
    for feeds in samples.values():
        assert feeds["x"].shape[0] == feeds["ids"].shape[0] == feeds["text"].shape[0]
        assert feeds["ids"].min() >= 0
        assert feeds["ids"].max() <= 9
        assert feeds["pixels"].min() >= 0
        assert feeds["pixels"].max() <= 1
        assert set(feeds["text"]) <= {"u", "v"}
    sizes = {feeds["x"].shape[2] for feeds in samples.values()}
    assert len(sizes) == 2
    assert not samples["zeros"]["x"].any()


def test_masks_are_padded_on_the_side_of_the_source():
    sides = [Input(side, "int64", ("batch", "length"), 0, 1, padding=side) for side in ("left", "right")]
    feeds = make_samples(sides, sizes={"batch": (4, 1), "length": (5, 1)})[0].feeds
    assert feeds["right"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(feeds["left"], feeds["right"][:, ::-1])
    assert feeds["left"].dtype == np.int64


def test_a_dimension_may_be_a_sum_of_others():
    inputs = [
        Input("past", "float32", ("batch", "past_length")),
        Input("ids", "int64", ("batch", "length"), 0, 9),
        Input("mask", "int64", ("batch", "past_length + length"), 0, 1, padding="left"),
        Input("longer", "float32", ("length+2",)),
    ]
    samples = make_samples(inputs, sizes={"batch": (3, 1), "past_length": (5, 0), "length": (2, 7)})
    shapes = {sample.title: [value.shape for value in sample.feeds.values()] for sample in samples}
    assert shapes["typical"] == [(3, 5), (3, 2), (3, 7), (4,)]
    assert shapes["past_length = 0"] == [(3, 0), (3, 2), (3, 2), (4,)]
    assert shapes["length = 7"] == [(3, 5), (3, 7), (3, 12), (9,)]


def test_corners_of_boxes_ascend():
    [sample, *_] = make_samples([Input("box", "int64", ("batch", 4), 0, 1000, ascending=True)])
    assert (np.diff(sample.feeds["box"]) >= 0).all()
    assert np.ptp(sample.feeds["box"]) > 0


def test_all_sizes_that_make_sense_are_tried():
    samples = make_samples([Input("x", "float32", ("n", "m"))], sizes={"n": (4, 0, 9)})
    assert [s.feeds["x"].shape for s in samples if s.title.startswith("n")] == [(0, 2), (9, 2)]


def test_one_step_of_a_quantised_type_is_within_quantisation_however_small_the_values():
    stepped = Tolerance(2.0**-24, 100, quantised=True, step=1.0)
    zeros, one, two = (np.full(5, value, np.int8) for value in (0, 1, 2))
    assert compare(zeros, one, stepped).verdict == QUANTISED
    assert compare(zeros, two, stepped).verdict == FAIL
    assert compare(zeros, one, Tolerance(2.0**-24, 100)).verdict == FAIL


def test_an_exponential_makes_the_error_of_its_argument_a_relative_one():
    """A logit of -46 that is off by a millionth of itself moves a probability of 1e-20 by 5e-5 of it."""
    plain, exponential = Tolerance(2.0**-24, 100), Tolerance(2.0**-24, 100, exponential=True)
    assert exponential.allowed(1.0, 1e-20) == pytest.approx(46 * plain.allowed(1.0, 1e-20), rel=0.1)
    assert exponential.allowed(1.0, 0.5) == plain.allowed(1.0, 0.5)


def test_what_the_source_quantises_counts_against_the_source_only():
    model = load(networks.network("cnn"))
    node = next(node for node in model.graph if node.op_type == "Conv")
    name = str(model.graph.outputs[0].name)
    node.metadata_props[SOURCE_QUANTISES] = "its inputs"
    assert not tolerances(model)[name].quantised
    assert tolerances(model, from_source=True)[name].quantised


def test_averages_are_sums_of_their_windows():
    node = ir.node("AveragePool", [ir.val("x", ir.DataType.FLOAT, [1, 3, 16, 16])], {"kernel_shape": [5, 7]})
    whole = ir.node("GlobalAveragePool", [ir.val("x", ir.DataType.FLOAT, [1, 3, 16, 8])])
    assert (reduction_length(node, {}), reduction_length(whole, {})) == (35, 128)


def test_rounding_before_a_branch_counts_in_it():
    """The body of an If reads a product of 4000 terms from outside: what it gives may be off as much."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[2,4000] x, float[4000,3] w, bool c) => (float[2,3] y) {
            a = MatMul(x, w)
            y = If (c) <then_branch = yes () => (float[2,3] b) { b = Relu(a) },
                        else_branch = no () => (float[2,3] d) { d = Neg(a) }>
        }
    """)
    found = tolerances(ir.from_proto(model))
    assert found["y"].terms > 4000
    assert found["y"].unit == found["a"].unit > 0


class Moved:
    """A source whose output changes by `factor` times what its input does, relatively."""

    name, factor = "source", 1e3

    def run(self, feeds):
        x = feeds["x"].astype(np.float64)
        return [(1 + self.factor * (x - np.round(x))).astype(np.float64)]


def test_each_sample_is_allowed_what_the_source_itself_makes_of_rounding():
    outputs = {"y": Tolerance(2.0**-24, 1.0)}
    one, zero = (Sample(name, {"x": np.full(7, value, np.float32)}) for name, value in (("typical", 1), ("zeros", 0)))
    typical = conditioned(Moved(), one, Moved().run(one.feeds), outputs)
    assert typical["y"].noise == pytest.approx(1e3 * np.finfo(np.float32).eps, rel=0.6)
    # What typical values showed stays the least; zeros move by a unit of 1.
    assert conditioned(Moved(), zero, Moved().run(zero.feeds), typical)["y"].noise >= typical["y"].noise
    moved = conditioned(Moved(), zero, Moved().run(zero.feeds), outputs)
    assert moved["y"].noise == pytest.approx(1e3 * np.finfo(np.float32).eps, rel=0.6)


class Difference:
    """Of two inputs, magnified: moves of both may cancel."""

    name, path = "difference", None

    def run(self, feeds):
        x = feeds["x"].astype(np.float64)
        return [np.array([1 + 1e3 * (x[0] - x[1])])]


def test_moves_of_inputs_that_cancel_in_one_draw_show_in_several():
    sample, outputs = Sample("typical", {"x": np.ones(2, np.float32)}), {"y": Tolerance(2.0**-24, 1.0)}
    found = [
        conditioned(Difference(), sample, Difference().run(sample.feeds), outputs, draws)["y"].noise for draws in (1, 8)
    ]
    assert found[0] <= found[1] == pytest.approx(2e3 * np.finfo(np.float32).eps, rel=0.1)


def test_what_linear_models_and_support_vectors_sum():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>
        m (float[n, 13] x) => (int64[n] label, float[n, 2] scores, float[n, 1] value) {
            label, scores = ai.onnx.ml.LinearClassifier <coefficients = [1.0], classlabels_ints = [0, 1],
                post_transform = "SOFTMAX"> (x)
            value = ai.onnx.ml.SVMRegressor <coefficients = [1.5, -1.0, 0.25], kernel_type = "RBF",
                support_vectors = [1.0], n_supports = 3> (x)
        }
    """)
    found = tolerances(ir.serde.deserialize_model(model))
    assert (found["scores"].terms, found["scores"].exponential) == (13, 0.5)
    assert (found["value"].terms, found["value"].summed) == (16, 2.75)
    assert found["value"].allowed(0.1) > 20 * Tolerance(2.0**-24, 16).allowed(0.1) / 2
