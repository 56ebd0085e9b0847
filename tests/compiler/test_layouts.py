"""How often whole values are moved only to lie differently: conversions of layout are counted, not hoped for."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from programs import Network, check, copies, kernels, program_of

from sardonyx.compiler.program import Pointer


def fire() -> onnx.ModelProto:
    """Two modules of SqueezeNet with a pool between them."""
    net = Network(["n", 3, 15, 15])
    x, channels = net.conv("x", 3, 16, 3), 16
    for _ in range(2):
        squeezed = net.conv(x, channels, 16)
        wide = [net.conv(squeezed, 16, 32), net.conv(squeezed, 16, 32, 3)]
        x, channels = net.add("Concat", *wide, axis=1), 64
        x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    return net.model(net.add("GlobalAveragePool", x))


def shuffle() -> onnx.ModelProto:
    """A unit of ShuffleNet: half of the channels pass by, then all are dealt out anew."""
    net = Network([1, 3, 8, 8])
    x = net.conv("x", 3, 32, 3)
    one, other = "one", "other"
    net.nodes.append(onnx.helper.make_node("Split", [x], [one, other], name="halves", axis=1))
    other = net.conv(other, 16, 16)
    other = net.add("Conv", other, net.weight(16, 1, 3, 3), pads=[1] * 4, group=16)
    joined = net.add("Concat", one, net.conv(other, 16, 16), axis=1)
    dealt = net.add("Reshape", joined, net.add("Constant", value_ints=[1, 2, 16, 8, 8]))
    dealt = net.add("Transpose", dealt, perm=[0, 2, 1, 3, 4])
    dealt = net.add("Reshape", dealt, net.add("Constant", value_ints=[1, 32, 8, 8]))
    return net.model(net.add("GlobalAveragePool", net.conv(dealt, 32, 16)))


def pyramid() -> onnx.ModelProto:
    """A neck as YOLO has it: features are enlarged, joined with earlier ones, and joined again on the way down."""
    net = Network([1, 3, 16, 16])
    fine = net.conv("x", 3, 16, 3)
    coarse = net.conv(fine, 16, 32, 3, strides=[2, 2])
    scales = net.add("Constant", value_floats=[1.0, 1.0, 2.0, 2.0])
    up = net.add("Resize", coarse, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                 nearest_mode="floor")  # fmt: skip
    top = net.conv(net.add("Concat", up, fine, axis=1), 48, 16, 3)
    down = net.add("Concat", net.conv(top, 16, 16, 3, strides=[2, 2]), coarse, axis=1)
    heads = [net.add("GlobalMaxPool", y) for y in (net.conv(down, 48, 16), net.conv(top, 16, 16))]
    return net.model(*heads)


def rows_between() -> onnx.ModelProto:
    """A block of ConvNeXt: depthwise in channel blocks, then LayerNormalization and products over rows."""
    net = Network([1, 3, 8, 8])
    x = net.conv("x", 3, 32, 3, relu=False)
    y = net.add("Conv", x, net.weight(32, 1, 7, 7), net.weight(32), pads=[3] * 4, group=32)
    y = net.add("Transpose", y, perm=[0, 2, 3, 1])
    y = net.add("LayerNormalization", y, net.weight(32), net.weight(32), axis=-1)
    y = net.add("MatMul", net.add("Sigmoid", net.add("MatMul", y, net.weight(32, 64))), net.weight(64, 32))
    y = net.add("Transpose", y, perm=[0, 3, 1, 2])
    return net.model(net.add("GlobalAveragePool", net.conv(net.add("Add", x, y), 32, 16)))


def channels_last() -> onnx.ModelProto:
    """What TensorFlow leaves: each convolution between two transpositions."""
    net = Network([1, 9, 9, 3])
    x, channels = "x", 3
    for outputs in (16, 32):
        x = net.conv(net.add("Transpose", x, perm=[0, 3, 1, 2]), channels, outputs, 3, relu=False)
        shifted = net.add("Add", net.add("Transpose", x, perm=[0, 2, 3, 1]), net.weight(outputs))
        x, channels = net.add("Relu", shifted), outputs
    return net.model(net.add("ReduceMean", x, axes=[1, 2], keepdims=0))


@pytest.mark.parametrize(
    ("build", "expected", "shape"),
    [
        (fire, [], (2, 3, 15, 15)),
        (shuffle, ["Concat", "Reshape"], (1, 3, 8, 8)),
        (pyramid, ["Resize"], (1, 3, 16, 16)),
        (rows_between, [], (1, 3, 8, 8)),
        (channels_last, ["Transpose", "ReduceMean"], (1, 9, 9, 3)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_conversions(build: Callable[[], onnx.ModelProto], expected: list[str], shape: tuple[int, ...]) -> None:
    model = build()
    assert sorted(copies(program_of(model))) == sorted(expected)
    check(model, shape)


def test_a_transposition_of_axes_of_extent_1_is_a_view() -> None:
    net = Network([5, 1, 8])
    x = net.add("Softmax", "x")
    model = net.model(net.add("MatMul", net.add("Transpose", x, perm=[1, 0, 2]), net.weight(8, 4)))
    assert copies(program_of(model)) == []
    check(model, (5, 1, 8))


def test_any_other_transposition_is_not() -> None:
    net = Network([5, 2, 8])
    x = net.add("Softmax", "x")
    model = net.model(net.add("Softmax", net.add("Transpose", x, perm=[1, 0, 2])))
    check(model, (5, 2, 8))


def test_a_kernel_without_an_epilogue_has_none() -> None:
    net = Network([1, 3, 8, 8])
    x = net.add("MaxPool", net.conv("x", 3, 32, 3), kernel_shape=[2, 2], strides=[2, 2])
    model = net.model(net.conv(net.add("Conv", x, net.weight(16, 32, 1, 1)), 16, 16))
    program = program_of(model)
    assert kernels(program, "pool_nchw16c_f32")[0].epilogue is None
    assert kernels(program, "conv_nchw16c_f32")[0].epilogue is None
    check(model, (1, 3, 8, 8))


def test_channels_beyond_the_last_are_cleared() -> None:
    net = Network([1, 3, 8, 8])
    x = net.add("Conv", net.conv("x", 3, 32, 3), net.weight(20, 32, 1, 1))
    program = program_of(net.model(net.conv(x, 20, 16)))
    assert kernels(program, "conv_nchw16c_f32")[0].epilogue is not None


def test_the_square_root_of_a_dim_is_a_constant() -> None:
    net = Network([2, 9, 4])
    dim = net.add("Gather", net.add("Shape", "x"), net.add("Constant", value_int=1))
    root = net.add("Sqrt", net.add("Cast", dim, to=onnx.TensorProto.FLOAT))
    model = net.model(net.add("Softmax", net.add("Div", "x", root)), net.add("Div", "x", net.add("Add", root, root)))
    steps = program_of(model).main.steps
    assert [step.operator for step in steps] == ["Div", "Softmax", "Div"]
    assert not any(buffer.kind == "constant" for step in steps for buffer in step.reads())
    check(model, (2, 9, 4))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3]], ids=["as it lies", "another order"])
def test_a_kernel_reads_a_view_in_place_if_its_elements_lie_in_order(order: list[int]) -> None:
    net = Network(["n", "s", 24])
    heads = net.add("Reshape", "x", net.add("Constant", value_ints=[0, 0, 3, 8]))
    there = net.add("Transpose", net.add("Transpose", heads, perm=[0, 2, 1, 3]), perm=[order[i] for i in (0, 2, 1, 3)])
    view = net.add("Reshape", there, net.add("Constant", value_ints=[0, -1, 24]))
    net.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [view], ["bytes", "scale", "zero"]))
    numbers, zero = (net.add("Cast", each, to=onnx.TensorProto.FLOAT) for each in ("bytes", "zero"))
    model = net.model(net.add("Mul", net.add("Sub", numbers, zero), "scale"))
    source = kernels(program_of(model), "range_f32")[0].fields["x"]
    assert isinstance(source, Pointer)
    assert (source.buffer.kind == "input") == (order == [0, 1, 2, 3])
    check(model, (2, 5, 24), (1, 7, 24))
