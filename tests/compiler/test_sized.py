"""Dims that take a quotient of the inputs' dims get names of their own, and one name where they are equal."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.runtime.reference import evaluate

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


def parse(body: str) -> onnx.ModelProto:
    constants = "float[1] gain = {1.5}, float[1] shift = {-0.5}, int64[3] groups = {0, 1, -1}"
    proto = onnx.parser.parse_model(f"{HEADER} g (float[n,3,h,k] x) => (float[a,b,c,d] y) <{constants}> {{ {body} }}")
    rng = np.random.default_rng(11)
    for name, channels in (("w", 3), ("v", 16)):
        weights = rng.standard_normal((16, channels, 3, 3)).astype(np.float32) / 8
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    return proto


def program(body: str):
    return generate(ir.serde.deserialize_model(parse(body)))[1]


HALVED = "conv = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)"


def test_the_size_of_a_convolution_is_known_before_the_first_step():
    found = program(f"{HALVED} y = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (conv, v)")
    assert [str(symbol) for symbol, _ in found.derived] == ["1*size0", "1*size1", "1*size2", "1*size3"]
    (y,) = found.outputs
    assert [str(dim) for dim in y.shape[2:]] == ["1*size2", "1*size3"]


def test_a_size_that_polynomials_say_has_no_name():
    assert not program("y = Conv <pads = [1, 1, 1, 1]> (x, w)").derived


def test_equal_sizes_have_one_name_on_whatever_way():
    """A stride of 4, and twice a stride of 2: no run has to check that they fit."""
    body = f"""{HALVED}
        twice = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (conv)
        once = Conv <strides = [4, 4], pads = [1, 1, 1, 1]> (x, w)
        y = Add (twice, once)"""
    found = program(body)
    (y,) = found.outputs
    assert len({str(symbol) for symbol, _ in found.derived}) == 4
    checks = [step for step in found.main.walk() if type(step).__name__ == "Check" and step.operator == "Add"]
    assert not checks
    assert "size" in str(y.shape[2])


NETWORK = f"""{HALVED}
    shape = Shape (conv)
    flat = Reshape (conv, groups)
    normal = InstanceNormalization (flat, gain, shift)
    again = Reshape (normal, shape)
    part = Relu (again)
    y = Concat <axis = 1> (part, conv)"""


def test_positions_in_nests_take_no_quotient_of_sizes():
    source = generate(ir.serde.deserialize_model(parse(NETWORK)))[-1]
    text = "\n".join(source.files.values())
    nests = re.findall(r"^void loop\d+\([^;]*?\{$.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert nests
    assert not any("floordiv_i64" in nest or "floormod_i64" in nest for nest in nests)


@pytest.mark.parametrize("size", [(1, 17, 23), (3, 8, 8), (2, 3, 5), (1, 1, 1)])
def test_numbers_are_those_of_the_reference_at_any_size(size, network):
    batch, height, width = size
    x = np.random.default_rng(5).standard_normal((batch, 3, height, width)).astype(np.float32)
    proto, session = network
    (expected,) = evaluate(ir.serde.deserialize_model(proto), {"x": x})
    (actual,) = session.run({"x": x})
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def network():
    proto = parse(NETWORK)
    return proto, sardonyx.Session(proto)


def test_an_image_smaller_than_the_window_is_refused():
    body = "conv = Conv <strides = [2, 2]> (x, w) y = Conv <strides = [2, 2]> (conv, v)"
    session = sardonyx.Session(parse(body))
    assert session.run({"x": np.ones((1, 3, 7, 7), np.float32)})[0].shape == (1, 16, 1, 1)
    for size in (1, 2, 3, 6):
        with pytest.raises(sardonyx.errors.ShapeError, match="window"):
            session.run({"x": np.ones((1, 3, size, 7), np.float32)})
