"""A scale of channels before a 1x1 convolution: where it is taken in, where it goes, and that nothing changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.compiler.program import Kernel
from tests.optimizer.quantized_graphs import F32, Quantised, operators

C, O = 37, 19  # channels in and out, no multiples of 16


def weights(g: Quantised, *, outputs: int = O, inputs: int = C, window: int = 1) -> str:
    return g.constant((g.rng.standard_normal((outputs, inputs, window, window)) / inputs).astype(F32))


def scale(g: Quantised, *shape: int) -> str:
    return g.add("Sigmoid", g.x(*shape))


def scaled(g: Quantised, x: str, by: str, w: str, **attributes) -> str:
    return g.add("Conv", g.add("Mul", x, by), w, **attributes)


def with_bias(g: Quantised) -> str:
    product = g.add("Mul", scale(g, 1, C, 1, 1), g.x(1, C, 9, 11))
    return g.add("Conv", product, weights(g), g.constant(g.rng.standard_normal(O).astype(F32)))


def into_depthwise(g: Quantised) -> str:
    y = scaled(g, g.x(1, C, 9, 11), scale(g, 1, C, 1, 1), weights(g, outputs=32))
    return g.add("Conv", g.add("Relu", y), weights(g, outputs=32, inputs=1, window=3), group=32, pads=[1, 1, 1, 1])


FIRES = {
    "a scale for each channel": lambda g: scaled(g, g.x(1, C, 9, 11), scale(g, 1, C, 1, 1), weights(g)),
    "the scale first, a bias": with_bias,
    "strides": lambda g: scaled(g, g.x(1, C, 13, 11), scale(g, 1, C, 1, 1), weights(g), strides=[2, 2]),
    "padding": lambda g: scaled(g, g.x(1, C, 13, 11), scale(g, 1, C, 1, 1), weights(g), pads=[1, 0, 2, 1]),
    "more weights than x": lambda g: scaled(g, g.x(1, C, 2, 3), scale(g, 1, C, 1, 1), weights(g)),
    "one position": lambda g: scaled(g, g.x(1, C, 1, 1), scale(g, 1, C, 1, 1), weights(g)),
    "one scale for two images": lambda g: scaled(g, g.x(2, C, 9, 11), scale(g, 1, C, 1, 1), weights(g)),
    "a 1x1 convolution into a depthwise one": into_depthwise,
    "two images": lambda g: scaled(g, g.x(2, C, 9, 11), scale(g, 2, C, 1, 1), weights(g)),
    "one scale for all": lambda g: scaled(g, g.x(1, C, 9, 11), scale(g, 1, 1, 1, 1), weights(g)),
    "x that broadcasts": lambda g: scaled(g, g.x(1, 1, 9, 11), scale(g, 1, C, 1, 1), weights(g)),
    "three channels": lambda g: scaled(g, g.x(1, 3, 9, 11), scale(g, 1, 3, 1, 1), weights(g, inputs=3)),
}


def read_twice(g: Quantised) -> str:
    product = g.add("Mul", g.x(1, C, 9, 11), scale(g, 1, C, 1, 1))
    return g.add("Concat", g.add("Conv", product, weights(g)), product, axis=1)


FIRES_NOT = {
    "a scale for each element": lambda g: scaled(g, g.x(1, C, 9, 11), scale(g, 1, C, 9, 11), weights(g)),
    "a window of 3x3": lambda g: scaled(
        g, g.x(1, C, 9, 11), scale(g, 1, C, 1, 1), weights(g, window=3), pads=[1, 1, 1, 1]
    ),
    "groups": lambda g: scaled(g, g.x(1, 32, 9, 11), scale(g, 1, 32, 1, 1), weights(g, outputs=32, inputs=16), group=2),
    "a product with other readers": read_twice,
    "computed weights": lambda g: scaled(g, g.x(1, C, 9, 11), scale(g, 1, C, 1, 1), g.x(O, C, 1, 1)),
    "no product": lambda g: g.add("Conv", g.add("Add", g.x(1, C, 9, 11), g.x(1, C, 1, 1)), weights(g)),
}


def model_of(make) -> tuple[Quantised, onnx.ModelProto]:
    g = Quantised()
    return g, g.model(make(g))


@pytest.mark.parametrize("name", [*FIRES, *FIRES_NOT])
def test_the_result_is_that_of_product_and_convolution(name):
    g, model = model_of((FIRES | FIRES_NOT)[name])
    wanted = ort.InferenceSession(model.SerializeToString()).run(None, g.feeds)[0]
    found = sardonyx.Session(model).run(g.feeds)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FIRES)
def test_a_product_before_a_1x1_convolution_goes_into_it(name):
    _, model = model_of(FIRES[name])
    assert "ScaledConv" in operators(model)
    assert "Mul" not in operators(model)


@pytest.mark.parametrize("name", FIRES_NOT)
def test_anything_else_stays(name):
    _, model = model_of(FIRES_NOT[name])
    assert "ScaledConv" not in operators(model)
    assert "Conv" in operators(model)


def is_in_the_kernel(make) -> bool:
    """Whether the convolution scales its weights; else it reads a product."""
    program = generate(sardonyx.load(model_of(make)[1]))[1]
    (kernel,) = (step for step in program.main.walk() if isinstance(step, Kernel) and step.name == "conv_nchw16c_f32")
    return "scale" in kernel.fields


def test_the_kernel_scales_its_weights_unless_x_has_few_positions():
    assert is_in_the_kernel(FIRES["a scale for each channel"])
    assert is_in_the_kernel(FIRES["the scale first, a bias"])
    assert is_in_the_kernel(FIRES["two images"])
    assert is_in_the_kernel(FIRES["strides"])
    assert not is_in_the_kernel(FIRES["one position"])
    assert not is_in_the_kernel(FIRES["one scale for all"])
    assert not is_in_the_kernel(FIRES["one scale for two images"])


def test_infinite_inputs_and_scales_of_zero_give_what_the_product_gives():
    g, model = model_of(FIRES["a scale for each channel"])
    x, s = g.feeds
    g.feeds[x][0, 3, 4, 5] = np.inf
    g.feeds[s][0, 3] = -np.inf  # its sigmoid is 0
    wanted = ort.InferenceSession(model.SerializeToString()).run(None, g.feeds)[0]
    found = sardonyx.Session(model).run(g.feeds)[0]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
