"""Transposed convolutions by kernels: strides, overlaps, dilations, groups and dims are those of the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper as oh

import sardonyx
from sardonyx.runtime.reference import Evaluator

RNG = np.random.default_rng(3)
FLOAT = onnx.TensorProto.FLOAT


def model(shape, weight, bias=None, relu=False, **attributes):
    weights = [onnx.numpy_helper.from_array(weight, "w")]
    inputs = ["x", "w"]
    if bias is not None:
        weights.append(onnx.numpy_helper.from_array(bias, "b"))
        inputs.append("b")
    nodes = [oh.make_node("ConvTranspose", inputs, ["t" if relu else "y"], **attributes)]
    if relu:
        nodes.append(oh.make_node("Relu", ["t"], ["y"]))
    ends = [oh.make_tensor_value_info("x", FLOAT, shape)], [oh.make_tensor_value_info("y", FLOAT, None)]
    graph = oh.make_graph(nodes, "g", *ends, weights)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def check(made, *xs, equal_nan=False):
    session = sardonyx.Session(made.SerializeToString())
    assert {p.provider for p in session.placement()} == {"native"}
    for x in xs:
        want = Evaluator(made).run(None, {"x": x})[0]
        have = session.run({"x": x})[0]
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=2e-5, atol=2e-5, equal_nan=equal_nan)


@pytest.mark.parametrize("channels", [(3, 5), (16, 16), (7, 19), (20, 1)])
@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((5, 3), {"strides": [3, 2], "pads": [0, 1, 2, 0]}),
        ((2, 3), {"strides": [2, 3]}),
        ((2, 2), {"strides": [3, 4], "output_padding": [2, 0]}),
        ((3, 3), {"pads": [1, 1, 1, 1]}),
        ((3, 2), {"pads": [3, 2, 3, 2]}),
        ((3, 3), {"dilations": [3, 2], "strides": [2, 3], "pads": [2, 1, 0, 1]}),
        ((3, 3), {"dilations": [2, 2], "strides": [2, 4]}),
        ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((4, 3), {"strides": [2, 3], "output_shape": [13, 11], "auto_pad": "SAME_LOWER"}),
        ((9, 9), {"strides": [2, 2]}),
    ],
)
def test_two_dimensions(kernel, attributes, channels):
    size = (5, 7) if "output_shape" not in attributes else (7, 4)
    check(model([2, channels[0], *size], draw(*channels, *kernel), **attributes), draw(2, channels[0], *size))


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ((23,), (16,), {"strides": [8], "pads": [4, 4]}),
        ((11,), (7,), {"strides": [1], "dilations": [2]}),
        ((3, 5, 4), (2, 3, 4), {"strides": [2, 2, 2], "pads": [0, 1, 1, 0, 1, 1]}),
        ((3, 4, 5), (3, 3, 3), {"strides": [1, 2, 1], "pads": [1, 1, 1, 1, 1, 1]}),
        # One tap of a phase that sees fewer columns than there are.
        ((4, 3, 13), (4, 1, 5), {"strides": [1, 2, 3], "pads": [3, 0, 2, 0, 0, 3]}),
    ],
)
def test_one_and_three_dimensions(size, kernel, attributes):
    check(model([2, 6, *size], draw(6, 17, *kernel), draw(17), relu=True, **attributes), draw(2, 6, *size))


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(6, 2, 2), (32, 16, 2), (24, 12, 3), (8, 1, 8), (5, 3, 5)])
@pytest.mark.parametrize("strides", [[1, 1], [2, 2], [3, 2]])
def test_groups(inputs, outputs, groups, strides):
    weight = draw(inputs, outputs, 3, 3)
    made = model([1, inputs, 5, 4], weight, draw(outputs * groups), group=groups, strides=strides, pads=[1, 0, 1, 1])
    check(made, draw(1, inputs, 5, 4))


def test_a_phase_may_have_no_outputs():
    attributes = {"strides": [3, 1, 2], "pads": [1, 2, 1, 1, 3, 2], "group": 3}
    check(model([2, 6, 1, 13, 7], draw(6, 8, 4, 5, 5), **attributes), draw(2, 6, 1, 13, 7))


@pytest.mark.parametrize("strides", [[1, 1], [2, 2]])
def test_sizes_that_are_known_when_it_runs(strides):
    made = model(["n", 6, "h", "w"], draw(6, 18, 4, 3), draw(18), relu=True, strides=strides, pads=[1, 1, 1, 1])
    check(made, draw(1, 6, 5, 7), draw(3, 6, 2, 1), draw(2, 6, 11, 3))


def test_what_is_not_finite_stays_where_its_window_is():
    x = draw(1, 5, 6, 6)
    x[0, 2, 3, 3] = np.inf
    weight = draw(5, 16, 3, 3)
    made = model([1, 5, 6, 6], weight, strides=[2, 2])
    check(made, x)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("strides", [[2, 2], [1, 1]])
def test_other_widths(dtype, strides):
    """float16 is added up in float32 and rounded once, float64 in float64."""
    kind = oh.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight, x = draw(5, 17, 4, 3).astype(dtype), draw(2, 5, 6, 7).astype(dtype)
    node = oh.make_node("ConvTranspose", ["x", "w"], ["y"], strides=strides, pads=[1, 1, 1, 1])
    ends = [oh.make_tensor_value_info("x", kind, x.shape)], [oh.make_tensor_value_info("y", kind, None)]
    graph = oh.make_graph([node], "g", *ends, [onnx.numpy_helper.from_array(weight, "w")])
    made = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)
    wide = model([2, 5, 6, 7], weight.astype(np.float32), strides=strides, pads=[1, 1, 1, 1])
    want = Evaluator(wide).run(None, {"x": x.astype(np.float32)})[0]
    (have,) = sardonyx.Session(made.SerializeToString()).run({"x": x})
    assert have.dtype == dtype
    np.testing.assert_allclose(have, want, rtol=1e-3 if dtype == np.float16 else 1e-4, atol=1e-3)
