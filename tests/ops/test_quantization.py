"""Quantisation operators against the reference: types, axes, blocks, ties, symbolic dims, what follows a product."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sardonyx
from sardonyx import errors
from sardonyx.runtime.reference import evaluate

F32 = np.float32
rng = np.random.default_rng(3)


def byte(*shape: int, kind=np.uint8) -> np.ndarray:
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max + 1, shape).astype(kind)


class Graph:
    """Nodes side by side; arrays are fed (constants where `constant`)."""

    def __init__(self, opset: int = 21):
        self.nodes, self.inputs, self.constants, self.feeds, self.opset = [], [], [], {}, opset
        self.outputs: list[onnx.ValueInfoProto] = []

    def value(self, array: np.ndarray, *, constant: bool = False, dims=None) -> str:
        name = f"v{len(self.feeds) + len(self.constants)}"
        if constant:
            self.constants.append(numpy_helper.from_array(array, name))
        else:
            self.feeds[name] = array
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            self.inputs.append(helper.make_tensor_value_info(name, kind, dims or array.shape))
        return name

    def node(
        self,
        op: str,
        inputs: list,
        outputs: int = 1,
        *,
        constant: bool = False,
        keep: bool = True,
        **attributes,
    ):
        names = [
            "" if x is None else x if isinstance(x, str) else self.value(np.asarray(x), constant=constant)
            for x in inputs
        ]
        made = [f"y{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, names, made, f"n{len(self.nodes)}", **attributes))
        if keep:
            self.outputs += [onnx.ValueInfoProto(name=name) for name in made]
        return made[0]

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "quantization", self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def check(self, *, native: bool = True, off: int = 0) -> list[np.ndarray]:
        """Equal to the reference; quantised values by at most `off` steps."""
        model = self.model()
        session = sardonyx.Session(model)
        got = session.run(self.feeds)
        expected = evaluate(sardonyx.load(model), self.feeds)
        for value, have, want in zip(self.outputs, got, expected, strict=True):
            want = np.asarray(want)
            assert have.dtype == want.dtype, value.name
            assert have.shape == want.shape, value.name
            if off and want.dtype.kind in "iu":
                assert np.abs(have.astype(np.int64) - want).max(initial=0) <= off, value.name
            else:
                np.testing.assert_allclose(
                    have.astype(np.float64), want.astype(np.float64), rtol=1e-6, err_msg=value.name
                )
        assert not native or {p.provider for p in session.placement()} == {"native"}
        return got


def test_quantise_types_axes_and_blocks():
    graph = Graph()
    x = np.array(
        [
            [0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, 0.0],
            [3, -3, 127.4, 127.5, -128.5, -129, 300, -300],
        ],
        F32,
    )
    for kind in (np.uint8, np.int8, np.uint16, np.int16):
        graph.node("QuantizeLinear", [x * F32(0.01), F32(0.01), np.array(1, kind)])
    graph.node("QuantizeLinear", [x, np.array([1, 2, 3, 4, 5, 6, 7, 8], F32), byte(8)], axis=1)
    graph.node("QuantizeLinear", [x, np.array([1, 2], F32), byte(2, kind=np.int8)], axis=-2)
    graph.node("QuantizeLinear", [x, np.abs(x[:, ::4]) % 5 + 1, byte(2, 2)], axis=1, block_size=4)
    graph.node("QuantizeLinear", [x, F32(2)], output_dtype=TensorProto.INT8)
    graph.node("QuantizeLinear", [(x % 100).astype(np.float16), np.float16(0.3), np.array(5, np.int8)])
    graph.node("QuantizeLinear", [x[:0], F32(2)])
    graph.node("QuantizeLinear", [F32(7.5), F32(1)])
    graph.check()


def test_dequantise_types_axes_and_blocks():
    graph = Graph(23)
    for kind in (np.uint8, np.int8, np.uint16, np.int16):
        graph.node("DequantizeLinear", [byte(3, 4, kind=kind), F32(0.37), byte(1, kind=kind).reshape(())])
    graph.node("DequantizeLinear", [byte(3, 4, kind=np.int32), F32(0.01)])
    graph.node("DequantizeLinear", [byte(2, 3, 4), np.array([1, 2, 3], F32), byte(3)])
    graph.node(
        "DequantizeLinear",
        [byte(2, 6, 4), rng.random((2, 2, 4)).astype(F32), byte(2, 2, 4)],
        block_size=3,
    )
    graph.node("DequantizeLinear", [byte(4), np.float16(0.3), np.array(5, np.uint8)])
    graph.node("DequantizeLinear", [byte(4), F32(0.3)], output_dtype=TensorProto.FLOAT16)
    graph.check()


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2"])
def test_weights_of_few_bits_are_widened_when_compiling(kind):
    graph = Graph(21)
    number = TensorProto.DataType.Value(kind)
    values = rng.integers(0, 7, (6, 5)).astype(F32)
    graph.constants.append(helper.make_tensor("w", number, (6, 5), values.ravel()))
    scale = graph.value(np.array([0.5, 1, 2, 4, 8], F32), constant=True)
    w = graph.node("DequantizeLinear", ["w", scale], keep=False)
    graph.node("MatMul", [rng.standard_normal((3, 6)).astype(F32), w])
    graph.check()


def test_dynamic_quantisation():
    for x in (
        rng.standard_normal((7, 33)),
        np.abs(rng.standard_normal((2, 3, 5))) + 1,
        -np.ones((4,)),
        np.zeros((3, 3)),
    ):
        graph = Graph(11)
        graph.node("DynamicQuantizeLinear", [x.astype(F32)], 3)
        graph.check(off=1)


def test_dynamic_quantisation_of_numbers_of_any_size_and_sign():
    graph = Graph(11)
    x = graph.value(rng.standard_normal((7, 33)).astype(F32), dims=("rows", "columns"))
    graph.node("DynamicQuantizeLinear", [x], 3)
    model = graph.model()
    session = sardonyx.Session(model)
    for size, middle in itertools.product((1e-42, 1e-30, 1, 1e30, 1e37), (0, 0.5, -3)):
        feeds = {x: ((rng.standard_normal((31, 77)) + middle) * size).astype(F32)}
        for have, want in zip(session.run(feeds), evaluate(sardonyx.load(model), feeds), strict=True):
            np.testing.assert_array_equal(have, want, err_msg=f"{size=} {middle=}")


def test_integer_products():
    graph = Graph()
    a, b = byte(5, 37), byte(37, 21, kind=np.int8)
    graph.node("MatMulInteger", [a, b])
    graph.node(
        "MatMulInteger",
        [a, graph.value(b, constant=True), np.array(9, np.uint8), np.array(-3, np.int8)],
    )
    graph.node("MatMulInteger", [a, b, np.array([9], np.uint8), byte(21, kind=np.int8)])
    graph.node(
        "MatMulInteger",
        [byte(2, 3, 4, 8), byte(3, 8, 5), np.array(9, np.uint8), np.array(200, np.uint8)],
    )
    graph.node("MatMulInteger", [byte(2, 3, 8), graph.value(byte(8, 5), constant=True)])
    graph.node("MatMulInteger", [byte(8), byte(8, 5)])
    graph.node("MatMulInteger", [byte(3, 8), byte(8)])
    graph.node("MatMulInteger", [byte(0, 8), byte(8, 5)])
    graph.check()


def test_zero_points_of_each_row():
    graph = Graph()
    a, zero = byte(5, 7), byte(5)
    graph.node("MatMulInteger", [a, byte(7, 3), zero])
    model = graph.model()
    b = graph.feeds["v1"].astype(np.int32)
    np.testing.assert_array_equal(sardonyx.Session(model).run(graph.feeds)[0], (a.astype(int) - zero[:, None]) @ b)


def test_a_product_that_is_quantised_again():
    graph = Graph()
    scale, zero = F32(0.02), np.array(100, np.uint8)
    for kind, columns in ((np.uint8, False), (np.int8, True)):
        b = graph.value(byte(33, 20, kind=kind), constant=True)
        b_scale = rng.random(20).astype(F32) / 50 if columns else F32(0.013)
        b_zero = byte(20, kind=kind) if columns else np.array(3, kind)
        graph.node(
            "QLinearMatMul",
            [byte(9, 33), scale, zero, b, b_scale, b_zero, F32(0.9), np.array(128, np.uint8)],
        )
    graph.node("QLinearMatMul", [byte(2, 9, 7), scale, zero, byte(2, 7, 3), F32(0.1), zero, F32(2), zero])
    graph.check(off=1)


def test_integer_convolutions():
    graph = Graph()
    image, w = byte(2, 3, 9, 8), byte(5, 3, 3, 3)
    graph.node("ConvInteger", [image, w, np.array(7, np.uint8)], pads=[1, 1, 1, 1])
    graph.node("ConvInteger", [image, byte(6, 1, 3, 3), np.array(7, np.uint8)], group=3, strides=[2, 2])
    graph.node("ConvInteger", [image, byte(4, 3, 1, 1)])
    graph.node("ConvInteger", [image, w], dilations=[2, 2])
    graph.check()


def test_a_convolution_that_is_quantised_again():
    graph = Graph()
    image, scale, zero = byte(1, 4, 6, 7), F32(0.02), np.array(120, np.uint8)
    bias = rng.integers(-500, 500, 6).astype(np.int32)
    w, scales = byte(6, 4, 3, 3, kind=np.int8), rng.random(6).astype(F32) / 50
    parameters = [F32(0.9), np.array(128, np.uint8)]
    graph.node("QLinearConv", [image, scale, zero, graph.value(w, constant=True), scales, np.zeros(6, np.int8),
                               *parameters, bias], pads=[1, 1, 1, 1])  # fmt: skip
    got = sardonyx.Session(graph.model()).run(graph.feeds)[0]
    x = np.pad(image.astype(int) - 120, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, w.astype(int)) + bias[:, None, None]
    want = np.clip(np.rint(sums * (scale * scales / F32(0.9))[:, None, None]) + 128, 0, 255)
    assert np.abs(got.astype(int) - want).max() <= 1


def test_symbolic_dims_and_quantised_layers_in_a_row():
    """DequantizeLinear -> MatMul -> Add -> QuantizeLinear, and the same by MatMulInteger, for any number of rows."""
    graph = Graph()
    x = graph.value(rng.standard_normal((6, 16)).astype(F32), dims=("rows", 16))
    q = graph.node("QuantizeLinear", [x, F32(0.03), np.array(128, np.uint8)], constant=True)
    d = graph.node("DequantizeLinear", [q, F32(0.03), np.array(128, np.uint8)], constant=True, keep=False)
    w = graph.node(
        "DequantizeLinear",
        [byte(16, 12, kind=np.int8), rng.random(12).astype(F32)],
        constant=True,
        keep=False,
    )
    y = graph.node("MatMul", [d, w], keep=False)
    graph.node("QuantizeLinear", [y, F32(50), np.array(10, np.uint8)], constant=True)
    sums = graph.node("MatMulInteger", [q, byte(16, 12), np.array(128, np.uint8)], constant=True, keep=False)
    graph.node("Cast", [sums], to=TensorProto.FLOAT)
    graph.check(off=1)
    session = sardonyx.Session(graph.model())
    assert session.run({x: np.zeros((0, 16), F32)})[1].shape == (0, 12)
    assert session.run({x: np.ones((131, 16), F32)})[1].shape == (131, 12)


def test_activations_of_many_columns_follow_a_product_of_bytes():
    """Rows and columns beyond whole tiles, and beyond the 128 lanes that long chains of operations are computed in."""
    graph = Graph(20)
    x = graph.value(rng.standard_normal((37, 67)).astype(F32), dims=("rows", 67))
    graph.node("DynamicQuantizeLinear", [x], 3, keep=False)
    weights, scales = byte(67, 277, kind=np.int8), rng.random(277).astype(F32) / 128
    sums = graph.node("MatMulInteger", ["y0_0", graph.value(weights, constant=True), "y0_2"], keep=False)
    floats = graph.node("Cast", [sums], keep=False, to=TensorProto.FLOAT)
    both = graph.node("Mul", ["y0_1", graph.value(scales, constant=True)], keep=False)
    scaled = graph.node("Mul", [floats, both], keep=False)
    graph.node("Gelu", [scaled])
    model = graph.model()
    session = sardonyx.Session(model)
    for rows in (1, 37, 300):
        feeds = {x: rng.standard_normal((rows, 67)).astype(F32)}
        [have], [want] = session.run(feeds), evaluate(sardonyx.load(model), feeds)
        np.testing.assert_allclose(have, want, rtol=2e-6, atol=1e-6)


def test_wrong_shapes_are_refused_by_name():
    graph = Graph()
    graph.node("MatMulInteger", [byte(3, 4), byte(5, 6)])
    output = helper.make_tensor_value_info("y0_0", TensorProto.INT32, None)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "wrong", graph.inputs, [output]),
        opset_imports=[helper.make_opsetid("", 21)], ir_version=10,
    )  # fmt: skip
    with pytest.raises(errors.ModelError, match="n0"):
        sardonyx.Session(model)
