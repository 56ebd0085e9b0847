"""Average pooling of bytes: exact sums, one scale, and no floats in memory."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.compiler.program import Kernel

SCALE, Y_SCALE, Y_ZERO = np.float32(0.037), np.float32(0.0113), 19
WINDOWS = {
    "a grid": {"kernel_shape": [2, 2], "strides": [2, 2]},
    "padding that does not count": {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "padding that counts": {"kernel_shape": [3, 5], "pads": [1, 2, 1, 2], "count_include_pad": 1, "strides": [2, 1]},
    "the last window hangs over": {"kernel_shape": [4, 3], "strides": [3, 2], "ceil_mode": 1},
    "same": {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"},
    "everything": {},
}


def quantised(kind: str, shape: tuple, zero: int, dims: tuple, channels_last: int = 0, **window) -> onnx.ModelProto:
    """A model of one pooling operator of com.microsoft."""
    operator = "QLinearAveragePool" if window else "QLinearGlobalAveragePool"
    constants = {"s": SCALE, "z": np.array(zero, kind), "t": Y_SCALE, "u": np.array(Y_ZERO, kind)}
    attributes = {"channels_last": channels_last} | window
    node = helper.make_node(operator, ["x", *constants], ["y"], domain="com.microsoft", **attributes)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [node], "pool", [helper.make_tensor_value_info("x", dtype, dims)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9)


def expected(x: np.ndarray, zero: int, **window) -> np.ndarray:
    """The exact mean in steps of the result, by the standard's AveragePool of doubles."""
    node = helper.make_node("AveragePool" if window else "GlobalAveragePool", ["x"], ["y"], **window)
    port = helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, x.shape)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "pool", [port], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = sardonyx.SessionOptions(providers=("reference",))
    mean = sardonyx.Session(model, options).run({"x": x.astype(np.float64) - zero})[0]
    return mean * float(SCALE) / float(Y_SCALE) + Y_ZERO


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("name", WINDOWS)
def test_the_mean_is_the_exact_one_rounded(kind: str, name: str) -> None:
    window, info = WINDOWS[name], np.iinfo(kind)
    x = np.random.default_rng(7).integers(info.min, info.max + 1, (2, 19, 11, 13), kind)
    zero = int(info.max) - 90
    session = sardonyx.Session(quantised(kind, x.shape, zero, ("n", 19, "h", "w"), **window))
    exact = expected(x, zero, **window)
    for sample, wanted in ((x, exact), (x[:1], exact[:1])):
        y = session.run({"x": sample})[0].astype(np.int64)
        nearest = np.clip(np.rint(wanted), info.min, info.max)
        between = np.abs(wanted - np.floor(wanted) - 0.5) < 1e-4  # the middle, as far as float32 can tell
        assert ((y == nearest) | (between & (np.abs(y - nearest) <= 1))).all()


def test_channels_last_is_the_same() -> None:
    x = np.random.default_rng(7).integers(0, 256, (2, 19, 11, 13)).astype(np.uint8)
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    for name in ("padding that does not count", "everything"):
        first = sardonyx.Session(quantised("uint8", x.shape, 100, x.shape, **WINDOWS[name])).run({"x": x})[0]
        model = quantised("uint8", turned.shape, 100, turned.shape, channels_last=1, **WINDOWS[name])
        last = sardonyx.Session(model).run({"x": turned})[0]
        np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", WINDOWS)
def test_no_float_is_in_memory(name: str) -> None:
    model = quantised("uint8", (1, 64, 14, 14), 3, (1, 64, 14, 14), **WINDOWS[name])
    program = generate(sardonyx.load(model))[1]
    steps = list(program.main.walk())
    assert [step.name for step in steps if isinstance(step, Kernel)] == ["pool_nhwc_int8"]
    written = [buffer for step in steps for buffer in step.writes()]
    assert {buffer.dtype for buffer in written} <= {"uint8", "int32"}
