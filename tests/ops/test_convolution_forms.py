"""Convolutions that run as others: three dimensions, taps in padding, few outputs, patches. The reference knows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper as oh

import sardonyx
from sardonyx.ops.convolution_forms import pays_by_columns, pays_by_patches, seen
from sardonyx.ops.window import Window
from sardonyx.runtime.reference import Evaluator

RNG = np.random.default_rng(3)
FLOAT = onnx.TensorProto.FLOAT


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model(shape, weight, *, relu=False, **attributes):
    weights = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(draw(weight.shape[0]), "b")]
    nodes = [oh.make_node("Conv", ["x", "w", "b"], ["t" if relu else "y"], **attributes)]
    if relu:
        nodes.append(oh.make_node("Relu", ["t"], ["y"]))
    ends = [oh.make_tensor_value_info("x", FLOAT, shape)], [oh.make_tensor_value_info("y", FLOAT, None)]
    graph = oh.make_graph(nodes, "g", *ends, weights)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)


def check(made, *xs):
    session = sardonyx.Session(made.SerializeToString())
    assert {p.provider for p in session.placement()} == {"native"}
    for x in xs:
        with np.errstate(all="ignore"):
            want = Evaluator(made).run(None, {"x": x})[0]
        have = session.run({"x": x})[0]
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("inputs", [1, 3, 16, 20])
@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((3, 3, 3), {"pads": [1] * 6}),
        ((3, 3, 3), {"pads": [1] * 6, "strides": [2, 2, 2]}),
        ((2, 3, 1), {"pads": [1, 0, 2, 0, 1, 0], "strides": [1, 2, 1], "dilations": [3, 1, 1]}),
        ((3, 1, 1), {"pads": [1, 0, 0, 1, 0, 0]}),
        ((1, 1, 1), {}),
        ((1, 1, 1), {"strides": [2, 1, 1]}),
        ((1, 3, 3), {"pads": [0, 1, 1, 0, 1, 1]}),
        ((3, 2, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 1, 2]}),
    ],
)
def test_three_dimensions(kernel, attributes, inputs):
    check(model([2, inputs, 5, 7, 6], draw(17, inputs, *kernel), relu=True, **attributes), draw(2, inputs, 5, 7, 6))


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(32, 32, 2), (6, 6, 6), (8, 12, 4)])
def test_three_dimensions_in_groups(inputs, outputs, groups):
    made = model([1, inputs, 4, 5, 3], draw(outputs, inputs // groups, 3, 3, 3), group=groups, pads=[1] * 6)
    check(made, draw(1, inputs, 4, 5, 3))


def test_three_dimensions_known_when_it_runs():
    made = model(["n", 16, "d", "h", 5], draw(18, 16, 3, 3, 3), relu=True, pads=[1] * 6)
    check(made, draw(1, 16, 3, 4, 5), draw(2, 16, 1, 7, 5))


def test_chains_of_three_dimensions():
    """A residual block: what is read twice, and joins its own past."""
    weights = [onnx.numpy_helper.from_array(draw(16, 16, 3, 3, 3) / 8, f"w{i}") for i in range(2)]
    nodes = [
        oh.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 6),
        oh.make_node("Relu", ["a"], ["b"]),
        oh.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 6),
        oh.make_node("Add", ["c", "b"], ["d"]),
        oh.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        oh.make_node("GlobalAveragePool", ["e"], ["y"]),
    ]
    ends = ([oh.make_tensor_value_info("x", FLOAT, [2, 16, 6, 5, 7])],
            [oh.make_tensor_value_info(name, FLOAT, None) for name in "yd"])  # fmt: skip
    made = oh.make_model(oh.make_graph(nodes, "g", *ends, weights), opset_imports=[oh.make_opsetid("", 17)])
    made.ir_version = 10
    x = draw(2, 16, 6, 5, 7)
    for have, want in zip(sardonyx.Session(made.SerializeToString()).run({"x": x}),
                          Evaluator(made).run(None, {"x": x}), strict=True):  # fmt: skip
        np.testing.assert_allclose(have, want, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("dilations", [[12, 12], [7, 24], [5, 6], [24, 24]])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 20), (24, 17)])
def test_wide_dilations(dilations, inputs, outputs):
    pads = dilations * 2
    made = model([1, inputs, 20, 19], draw(outputs, inputs, 3, 3), relu=True, dilations=dilations, pads=pads)
    check(made, draw(1, inputs, 20, 19))


@pytest.mark.parametrize("pads", [[5, 5, 5, 5], [0, 4, 4, 0], [3, 0, 2, 6], [9, 9, 9, 9]])
def test_padding_wider_than_the_window(pads):
    """Whole outputs see padding only."""
    check(model([1, 18, 6, 5], draw(19, 18, 3, 3), pads=pads, strides=[2, 3]), draw(1, 18, 6, 5))


def test_taps_in_padding_are_left_out():
    window = Window((20, 20), (3, 3), (1, 1), (24, 12), (24, 12), (24, 12), (20, 20))
    weight, place = seen(draw(4, 2, 3, 3), window)
    assert (weight.shape, place.kernel, place.begin) == ((4, 2, 1, 3), (1, 3), (0, 12))
    window = Window((20, "w"), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), (20, "w"))
    assert seen(weight, window)[0] is weight


@pytest.mark.parametrize("outputs", [1, 3, 5])
@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((9, 9), {"pads": [4] * 4}),
        ((5, 7), {"pads": [0, 3, 2, 1], "strides": [2, 1]}),
        ((5, 5), {"dilations": [2, 3], "pads": [4, 6, 4, 6]}),
    ],
)
def test_few_outputs(kernel, attributes, outputs):
    made = model([2, 19, 14, 23], draw(outputs, 19, *kernel), relu=True, **attributes)
    check(made, draw(2, 19, 14, 23))


def test_columns_are_for_few_outputs():
    window = Window((64, 64), (7, 7), (1, 1), (1, 1), (3, 3), (3, 3), (64, 64))
    assert pays_by_columns(1, draw(3, 64, 7, 7), window, 1)
    assert not pays_by_columns(1, draw(16, 64, 7, 7), window, 1)
    assert not pays_by_columns(1, draw(3, 64, 7, 7), window, 3)


def test_few_outputs_keep_infinity_where_it_is():
    x = draw(1, 16, 12, 12)
    x[0, 3, 5, 5] = np.inf
    check(model([1, 16, 12, 12], draw(2, 16, 5, 5), pads=[2] * 4), x)


@pytest.mark.parametrize("size", [(33, 40), (32, 47)])
@pytest.mark.parametrize("inputs", [1, 3])
def test_patches(size, inputs):
    made = model(["n", inputs, *size], draw(67, inputs, 11, 13), relu=True, strides=[11, 13])
    x = draw(2, inputs, *size)
    x[1, 0, 12, 14] = np.inf
    check(made, draw(1, inputs, *size), x)


def test_patches_of_an_image_whose_size_a_run_knows():
    made = model([1, 3, "h", "w"], draw(64, 3, 8, 8), strides=[8, 8])
    check(made, draw(1, 3, 16, 33), draw(1, 3, 24, 8))


def test_patches_lie_side_by_side():
    weight = draw(64, 3, 8, 8)
    window = Window((32, 32), (8, 8), (8, 8), (1, 1), (0, 0), (0, 0), (4, 4))
    assert pays_by_patches(weight, window, 1)
    assert not pays_by_patches(weight, window, 3)
    assert not pays_by_patches(draw(48, 3, 8, 8), window, 1)
    for change in ({"strides": (8, 7)}, {"dilations": (2, 1)}, {"begin": (1, 0)}, {"end": (0, 8)}):
        assert not pays_by_patches(weight, replace(window, **change), 1), change


@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 2, 3], "strides": [1, 2, 1], "pads": [1, 0, 1, 2, 1, 1]}),
        ("MaxPool", {"kernel_shape": [1, 3, 2], "dilations": [1, 2, 1]}),
        ("AveragePool", {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 1, 0, 0]}),
        ("AveragePool", {"kernel_shape": [2, 3, 3], "pads": [1, 1, 1, 0, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3, 2], "strides": [2, 2, 2], "ceil_mode": 1, "pads": [1, 1, 0, 1, 1, 1]}),
        ("GlobalAveragePool", {}),
    ],
)
def test_pooling_in_three_dimensions(operator, attributes, channels):
    nodes = [oh.make_node(operator, ["x"], ["a"], **attributes), oh.make_node("Neg", ["a"], ["y"])]
    ends = (
        [oh.make_tensor_value_info("x", FLOAT, [2, channels, 5, 7, 6])],
        [oh.make_tensor_value_info("y", FLOAT, None)],
    )
    made = oh.make_model(oh.make_graph(nodes, "g", *ends), opset_imports=[oh.make_opsetid("", 19)], ir_version=10)
    x = draw(2, channels, 5, 7, 6)
    x[0, 1, 2, 3, 4] = np.nan if operator == "MaxPool" else np.inf
    check(made, x)


def test_the_largest_of_a_volume():
    """The standard's evaluator gives it a rank of 6."""
    nodes = [oh.make_node("GlobalMaxPool", ["x"], ["y"])]
    ends = [oh.make_tensor_value_info("x", FLOAT, [2, 17, 3, 5, 4])], [oh.make_tensor_value_info("y", FLOAT, None)]
    made = oh.make_model(oh.make_graph(nodes, "g", *ends), opset_imports=[oh.make_opsetid("", 19)], ir_version=10)
    x = draw(2, 17, 3, 5, 4)
    (y,) = sardonyx.Session(made.SerializeToString()).run({"x": x})
    np.testing.assert_array_equal(y, x.max((2, 3, 4), keepdims=True))
