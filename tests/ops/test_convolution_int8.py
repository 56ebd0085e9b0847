"""Convolutions of bytes: which kernel, the same bytes as the reference, and what stays in NHWC from layer to layer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.compiler.program import Kernel, Nest, Program
from sardonyx.ops.convolution_int8 import suits_bytes
from sardonyx.ops.window import Window
from sardonyx.runtime.reference import evaluate

F32 = np.float32
CONV, DEPTHWISE, POOL = "conv_nhwc_int8", "depthwise_nhwc_int8", "pool_nhwc_int8"


class Network:
    """Layers of bytes behind each other; `x` is the input."""

    def __init__(self, shape: list, kind=np.uint8, seed: int = 5):
        self.rng, self.kind = np.random.default_rng(seed), kind
        self.nodes, self.constants, self.shape = [], [], shape

    def constant(self, array) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.constants)}"))
        return self.constants[-1].name

    def add(self, op: str, *inputs: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"y{len(self.nodes)}"], f"n{len(self.nodes)}", **attributes))
        return self.nodes[-1].output[0]

    def zero(self) -> np.ndarray:
        return np.asarray(self.rng.integers(1, 20), self.kind)

    def conv(self, x: str, shape: tuple[int, ...], *, w_kind=np.int8, w_zero=0, bias=True, **attributes) -> str:
        """QLinearConv with weights of `shape`, a scale for each channel."""
        outputs = shape[0]
        low = 0 if w_kind == np.uint8 else -128
        w = self.rng.integers(low, low + 256, shape).astype(w_kind)
        spread = F32(0.15 / np.sqrt(w[0].size))
        inputs = [x, self.constant(F32(0.02)), self.constant(self.zero()), self.constant(w),
                  self.constant((self.rng.uniform(0.5, 1.5, outputs) * spread).astype(F32)),
                  self.constant(np.full(outputs, w_zero, w_kind)), self.constant(F32(0.05)),
                  self.constant(self.kind(7))]  # fmt: skip
        if bias:
            inputs.append(self.constant(self.rng.integers(-900, 900, outputs, np.int32)))
        return self.add("QLinearConv", *inputs, **attributes)

    def integer_conv(self, x: str, shape: tuple[int, ...], **attributes) -> str:
        """ConvInteger with weights of `shape`."""
        w = self.rng.integers(-128, 128, shape).astype(np.int8)
        return self.add("ConvInteger", x, self.constant(w), self.constant(self.zero()), **attributes)

    def floats(self, x: str, scale: float, zero: int) -> str:
        return self.add("DequantizeLinear", x, self.constant(F32(scale)), self.constant(self.kind(zero)))

    def bytes(self, x: str, scale: float, zero: int) -> str:
        return self.add("QuantizeLinear", x, self.constant(F32(scale)), self.constant(self.kind(zero)))

    def model(self, *outputs: str) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.kind))
        inputs = [helper.make_tensor_value_info("x", kind, self.shape)]
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "bytes", inputs, results, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def check(self, *outputs: str, sizes: tuple[int, ...] | None = None) -> Program:
        """Equal to the reference, byte for byte; the program."""
        model, info = self.model(*outputs), np.iinfo(self.kind)
        x = self.rng.integers(info.min, info.max + 1, sizes or self.shape).astype(self.kind)
        session = sardonyx.Session(model)
        for have, want in zip(session.run({"x": x}), evaluate(sardonyx.load(model), {"x": x}), strict=True):
            np.testing.assert_array_equal(have, want)
        assert {place.provider for place in session.placement()} == {"native"}
        return generate(sardonyx.load(model))[1]


def kernels(program: Program) -> list[str]:
    return [step.name for step in program.main.walk() if isinstance(step, Kernel)]


def nests(program: Program) -> int:
    return sum(isinstance(step, Nest) for step in program.main.walk())


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_layers_stay_in_nhwc_and_only_the_borders_are_converted(kind):
    net = Network([2, 5, 13, 11], kind)
    a = net.conv("x", (19, 5, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    b = net.conv(a, (19, 1, 3, 3), group=19, pads=[1, 1, 1, 1])
    c = net.add("MaxPool", b, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    d = net.conv(c, (34, 19, 1, 1))
    program = net.check(d)
    assert kernels(program) == [CONV, DEPTHWISE, POOL, CONV]
    assert nests(program) == 2, "the input to NHWC, the output from it"


def added(net: Network, channels: int, scale: float, own: float = 0.05, zero: int = 7) -> Program:
    """Two convolutions, their sum, and a layer that reads it."""
    a = net.conv("x", (channels, channels, 1, 1))
    b = net.conv(a, (channels, channels, 3, 3), pads=[1, 1, 1, 1])
    total = net.bytes(net.add("Add", net.floats(b, own, zero), net.floats(a, 0.041, 11)), scale, 17)
    return net.check(net.conv(total, (3, channels, 1, 1)))


def absorbed(program: Program) -> list[bool]:
    return ["other" in step.fields for step in program.main.walk() if isinstance(step, Kernel)]


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("channels", [3, 16, 35, 64])
def test_an_addition_of_quantised_tensors_is_part_of_the_convolution(kind, channels):
    program = added(Network([2, channels, 5, 7], kind), channels, 0.0333)
    assert absorbed(program) == [False, True, False]
    assert nests(program) == 2


def test_an_addition_whose_ties_hang_on_each_step_is_divided():
    program = added(Network([1, 32, 5, 7]), 32, 0.082, own=0.041)
    assert any(absorbed(program))
    assert not any("own_factor" in step.fields for step in program.main.walk() if isinstance(step, Kernel))


def test_an_addition_whose_quotients_may_be_huge_stays_outside():
    assert not any(absorbed(added(Network([1, 8, 4, 4]), 8, 0.001, own=900.0)))


def test_an_addition_that_sees_another_zero_point_stays_outside():
    assert not any(absorbed(added(Network([1, 8, 4, 4]), 8, 0.04, zero=8)))


def test_an_addition_of_another_shape_stays_outside():
    net = Network([1, 8, 4, 4])
    a = net.conv("x", (8, 8, 1, 1))
    b = net.conv(a, (8, 8, 4, 4))
    total = net.bytes(net.add("Add", net.floats(a, 0.05, 7), net.floats(b, 0.04, 11)), 0.06, 17)
    assert not any(absorbed(net.check(net.conv(total, (3, 8, 1, 1)))))


def test_an_addition_that_is_read_in_floats_too_stays_outside():
    net = Network([1, 8, 4, 4])
    a = net.conv("x", (8, 8, 1, 1))
    b = net.conv(a, (8, 8, 1, 1))
    total = net.add("Add", net.floats(a, 0.05, 7), net.floats(b, 0.04, 11))
    assert not any(absorbed(net.check(net.conv(net.bytes(total, 0.06, 17), (3, 8, 1, 1)), net.bytes(total, 0.03, 0))))


def test_a_concatenation_of_channels_is_written_in_place():
    net = Network([1, 7, 6, 5])
    a, b = net.conv("x", (13, 7, 1, 1)), net.conv("x", (9, 7, 3, 3), pads=[1, 1, 1, 1])
    program = net.check(net.conv(net.add("Concat", a, b, axis=1), (10, 22, 3, 3)))
    assert kernels(program) == [CONV] * 3
    assert nests(program) == 2


def depth_to_space(net: Network, channels: int, mode: str = "DCR") -> tuple[str, str]:
    """A convolution of `channels`, and its channels spread over blocks of two by two pixels."""
    wide = net.conv("x", (channels, net.shape[1], 1, 1))
    return wide, net.add("DepthToSpace", wide, blocksize=2, mode=mode)


def test_channels_that_become_pixels_are_written_where_they_belong():
    net = Network([2, 9, 4, 5])
    program = net.check(net.conv(depth_to_space(net, 128)[1], (5, 32, 3, 3)))
    assert kernels(program) == [CONV, CONV]
    assert nests(program) == 2


def test_channels_that_become_pixels_are_written_into_a_concatenation():
    net = Network([1, 9, 4, 5])
    skip = net.conv(net.add("Resize", "x", "", net.constant(np.array([1, 1, 2, 2], F32)), mode="nearest"), (7, 9, 1, 1))
    program = net.check(net.conv(net.add("Concat", depth_to_space(net, 256)[1], skip, axis=1), (5, 71, 3, 3)))
    (spread,) = (step for step in program.main.walk() if isinstance(step, Kernel) and "spread" in step.fields)
    assert (spread.fields["spread"], spread.fields["y_pitch"]) == (2, 71)


@pytest.mark.parametrize("case", ["few channels", "other order", "used twice", "arithmetic"])
def test_channels_that_become_pixels_are_moved_afterwards_where_the_kernel_cannot(case):
    net = Network([1, 9, 4, 5])
    wide, y = depth_to_space(net, 64 if case == "few channels" else 128, "CRD" if case == "other order" else "DCR")
    if case == "arithmetic":
        y = net.bytes(net.add("Relu", net.floats(y, 0.05, 90)), 0.07, 3)
    program = net.check(y, *([wide] if case == "used twice" else []))
    spread = any("spread" in step.fields for step in program.main.walk() if isinstance(step, Kernel))
    assert spread == (case == "arithmetic"), "then arithmetic is a loop of its own"


def test_weights_with_zero_points_are_moved_when_the_model_is_compiled():
    net = Network([1, 6, 5, 5])
    program = net.check(net.conv("x", (8, 6, 3, 3), w_kind=np.uint8, w_zero=128), net.conv("x", (8, 6, 1, 1), w_zero=0))
    assert kernels(program) == [CONV, CONV]
    wide = Network([1, 6, 5, 5])
    assert kernels(wide.check(wide.conv("x", (8, 6, 3, 3), w_zero=3))) == ["matmul_int8"], "some need nine bits"


@pytest.mark.parametrize("position", [4, 5, 8], ids=["scale", "zero point", "bias"])
def test_parameters_that_do_not_fit_the_output_channels_are_refused(position):
    net = Network([1, 6, 5, 5])
    net.conv("x", (8, 6, 3, 3))
    inputs = net.nodes[0].input
    array = numpy_helper.to_array(next(t for t in net.constants if t.name == inputs[position]))
    inputs[position] = net.constant(array[:5])
    with pytest.raises(sardonyx.errors.SardonyxError, match=r"output channels|n0"):
        sardonyx.Session(net.model("y0"))


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (8, 2, 3, 3), (7, 3, 3, 3)])
def test_channels_that_do_not_fit_are_refused(shape):
    net = Network([1, 6, 5, 5])
    groups = 1 if shape[1] == 5 else 2
    net.conv("x", shape, group=groups)
    graph = helper.make_graph(net.nodes, "g", [helper.make_tensor_value_info("x", 2, net.shape)],
                              [helper.make_tensor_value_info("y0", 2, None)], net.constants)  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(sardonyx.errors.SardonyxError, match="n0"):
        sardonyx.Session(model)


def test_geometry():
    net = Network([1, 12, 17, 15], np.int8)
    net.check(
        net.conv("x", (6, 4, 3, 3), group=3, dilations=[2, 1], pads=[2, 0, 1, 3]),
        net.conv("x", (8, 12, 1, 5), strides=[3, 2], auto_pad="SAME_UPPER"),
        net.conv("x", (5, 12, 17, 15)),
        net.conv("x", (24, 1, 3, 3), group=12, pads=[1, 1, 1, 1]),
        net.conv("x", (12, 1, 5, 2), group=12, strides=[2, 3], dilations=[1, 4]),
        net.add("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1),
    )


@pytest.mark.parametrize(("begin", "fits"), [((0, 3), True), ((-1, 0), False)])
def test_padding_below_zero_is_not_for_the_kernels(begin, fits):
    place = Window((9, 8), (3, 3), (1, 1), (1, 1), begin, (0, 0), (7, 6))
    assert suits_bytes(SimpleNamespace(dtype="int8", rank=4), place) is fits


def test_one_dimension_and_symbolic_sizes():
    net = Network(["n", 9, "length"])
    wide = net.integer_conv("x", (11, 9, 5), strides=[2], pads=[2, 2])
    alone = net.integer_conv("x", (9, 1, 3), group=9, dilations=[2])
    program = net.check(wide, alone, net.add("MaxPool", "x", kernel_shape=[3]), sizes=(3, 9, 31))
    assert kernels(program) == [CONV, DEPTHWISE, POOL]


def test_computed_weights_take_the_other_way():
    net = Network([2, 3, 4, 4])
    x = net.add("ConvInteger", "x", "x")
    assert kernels(net.check(x)) == ["matmul_int8"]


def test_sums_are_requantised_behind_conv_integer():
    net = Network([1, 10, 6, 7], np.uint8)
    w, zero = net.constant(net.rng.integers(-128, 128, (9, 10, 3, 3)).astype(np.int8)), net.constant(np.uint8(31))
    sums = net.add("ConvInteger", "x", w, zero, pads=[1, 1, 1, 1])
    floats = net.add("Mul", net.add("Cast", sums, to=onnx.TensorProto.FLOAT), net.constant(F32(3e-4)))
    program = net.check(net.bytes(floats, 0.02, 100))
    assert kernels(program) == [CONV]
    assert nests(program) == 2


def test_a_zero_point_that_is_computed():
    net = Network([1, 10, 6, 7], np.uint8)
    zero = net.add("ReduceMax", "x", keepdims=0)
    w = net.constant(net.rng.integers(-128, 128, (9, 10, 3, 3)).astype(np.int8))
    assert kernels(net.check(net.add("ConvInteger", "x", w, zero, pads=[1, 1, 1, 1]))) == [CONV]


@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions_without_overlap_are_spread(bias):
    net = Network([1, 6, 4, 5])
    w = net.add("DequantizeLinear", net.constant(net.rng.integers(-128, 128, (6, 7, 2, 2)).astype(np.int8)),
                net.constant(net.rng.uniform(0.001, 0.01, 7).astype(F32)), net.constant(np.zeros(7, np.int8)),
                axis=1)  # fmt: skip
    inputs = [net.floats("x", 0.02, 9), w]
    if bias:
        inputs.append(net.add("DequantizeLinear", net.constant(net.rng.integers(-99, 99, 7, np.int32)),
                              net.constant(np.full(7, 1e-3, F32)), axis=0))  # fmt: skip
    model = net.model(net.add("ConvTranspose", *inputs, strides=[2, 2]))
    x = net.rng.integers(0, 256, net.shape).astype(np.uint8)
    (have,) = sardonyx.Session(model).run({"x": x})
    (want,) = evaluate(sardonyx.load(model), {"x": x})
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_taps_that_see_padding_only_are_left_out():
    net = Network([1, 10, 9, 8], np.uint8)
    w = net.constant(net.rng.integers(-128, 128, (9, 10, 3, 3)).astype(np.int8))
    sums = net.add("ConvInteger", "x", w, net.constant(np.uint8(77)), dilations=[11, 3], pads=[11, 3, 11, 3])
    program = net.check(sums)
    assert [step.fields["kh"] for step in program.main.steps if isinstance(step, Kernel)] == [1]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("zero", [None, 77])
def test_three_dimensions(groups, zero):
    net = Network([2, 10, 4, 6, 5], np.uint8)
    w = net.constant(net.rng.integers(-128, 128, (8, 10 // groups, 3, 3, 2)).astype(np.int8))
    inputs = ["x", w] if zero is None else ["x", w, net.constant(np.uint8(zero))]
    sums = net.add("ConvInteger", *inputs, pads=[1, 1, 0, 1, 2, 1], strides=[2, 1, 1], group=groups)
    assert kernels(net.check(sums)) == [CONV]
