"""Values that meet in a Concat are computed in their part of its memory; where they can't be, they are copied."""

from __future__ import annotations

import onnx
import pytest
from programs import Network, check, copies, kernels, program_of

from sardonyx.compiler.program import Kernel, Pointer, Stream


def dense(batch: int | str, growth: int = 16, layers: int = 4, *, nested: bool = False) -> onnx.ModelProto:
    """The block of DenseNet: each layer reads all features before it."""
    net = Network([batch, 3, 12, 12])
    features = [net.conv("x", 3, 32, 3)]
    for layer in range(layers):
        joined = features[0] if nested or layer == 0 else net.add("Concat", *features, axis=1)
        channels = 32 + growth * layer
        new = net.conv(net.conv(joined, channels, 32), 32, growth, 3)
        features = [net.add("Concat", joined, new, axis=1)] if nested else [*features, new]
    last = features[0] if nested else net.add("Concat", *features, axis=1)
    return net.model(net.conv(last, 32 + growth * layers, 8))


def inception(channels: tuple[int, ...] = (16, 32, 48, 16)) -> onnx.ModelProto:
    """Branches of one input side by side, one of them pooled."""
    net = Network(["n", 3, 11, 9])
    x = net.conv("x", 3, 32, 3)
    branches = [
        net.conv(x, 32, channels[0]),
        net.conv(net.conv(x, 32, 16), 16, channels[1], 3),
        net.conv(net.conv(x, 32, 16), 16, channels[2], 5),
        net.conv(net.add("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 32, channels[3]),
    ]
    return net.model(net.conv(net.add("Concat", *branches, axis=1), sum(channels), 16))


def skip() -> onnx.ModelProto:
    """U-Net: what goes down is joined on the way up, behind what comes from below."""
    net = Network([1, 3, 16, 16])
    top = net.conv("x", 3, 16, 3)
    low = net.conv(net.add("MaxPool", top, kernel_shape=[2, 2], strides=[2, 2]), 16, 32, 3)
    up = net.add("ConvTranspose", low, net.weight(32, 16, 2, 2), net.weight(16), strides=[2, 2])
    return net.model(net.conv(net.add("Concat", up, top, axis=1), 32, 16, 3))


@pytest.mark.parametrize("nested", [False, True], ids=["lists", "nested"])
@pytest.mark.parametrize("batch", [1, 2, "n"])
def test_growing_concatenations_are_one_buffer(batch: int | str, nested: bool) -> None:
    model = dense(batch, nested=nested)
    program = program_of(model)
    assert copies(program) == []
    parts = [step for step in program.main.steps if _is_part(step)]
    assert len(parts) == 4
    assert batch == 1 or {step.fields["y_batch"] for step in parts} == {96 * 144}
    check(model, *([(1, 3, 12, 12), (3, 3, 12, 12)] if batch == "n" else [(batch, 3, 12, 12)]))


def _is_part(step: object) -> bool:
    return isinstance(step, Kernel) and isinstance(step.fields.get("y"), Pointer) and step.fields["y"].offset != 0


def test_branches_are_stored_side_by_side() -> None:
    model = inception()
    program = program_of(model)
    assert "Concat" not in copies(program)
    check(model, (1, 3, 11, 9), (2, 3, 11, 9))


def test_a_skip_connection_waits_in_its_place() -> None:
    model = skip()
    program = program_of(model)
    assert "Concat" not in copies(program)
    assert copies(program).count("ConvTranspose") <= 1
    check(model, (1, 3, 16, 16))


def test_the_last_part_may_end_within_a_block() -> None:
    model = inception((16, 32, 48, 20))
    assert "Concat" not in copies(program_of(model))
    check(model, (2, 3, 11, 9))


def test_parts_within_blocks_are_copied() -> None:
    model = inception((16, 20, 48, 16))
    assert "Concat" in copies(program_of(model))
    check(model, (2, 3, 11, 9))


def test_columns_of_products_are_stored_side_by_side() -> None:
    net = Network(["n", 24])
    products = [net.add("MatMul", "x", net.weight(24, size)) for size in (40, 7)]
    model = net.model(net.add("Concat", *products, axis=1))
    program = program_of(model)
    assert copies(program) == []
    assert [step.fields["c_row"] for step in kernels(program, "matmul_f32")] == [47, 47]
    check(model, (1, 24), (5, 24))


def test_inputs_and_outputs_of_the_model_are_copied() -> None:
    net = Network([2, 16, 6, 6])
    y = net.conv("x", 16, 16, 3)
    joined = net.add("Concat", "x", y, axis=1)
    model = net.model(net.conv(joined, 32, 16), y)
    assert "Concat" in copies(program_of(model))
    check(model, (2, 16, 6, 6))


def test_a_value_joined_twice_is_copied_once() -> None:
    net = Network([1, 3, 6, 6])
    y = net.conv("x", 3, 16, 3)
    z = net.conv(y, 16, 16, 3)
    model = net.model(net.conv(net.add("Concat", y, z, y, axis=1), 48, 16))
    assert copies(program_of(model)).count("Concat") == 1
    check(model, (1, 3, 6, 6))


def test_overlapping_concatenations_of_one_value() -> None:
    net = Network([1, 3, 6, 6])
    a, b, c = (net.conv("x", 3, 16, size) for size in (1, 3, 5))
    one = net.conv(net.add("Concat", a, b, axis=1), 32, 16)
    two = net.conv(net.add("Concat", b, c, axis=1), 32, 16)
    three = net.conv(net.add("Concat", c, a, b, axis=1), 48, 16)
    model = net.model(net.add("Add", net.add("Add", one, two), three))
    assert copies(program_of(model)).count("Concat") == 2  # a and b lie in the third, and so does the first as a whole
    check(model, (1, 3, 6, 6))


def test_reductions_and_movement_read_parts() -> None:
    net = Network(["n", 3, 6, 6])
    a, b = net.conv("x", 3, 16, 3), net.conv("x", 3, 32, 1)
    joined = net.add("Concat", a, b, axis=1)
    mean = net.add("ReduceMean", a, axes=[2, 3], keepdims=1)
    turned = net.add("Transpose", net.add("Mul", b, net.weight(1, 32, 1, 1)), perm=[0, 2, 3, 1])
    model = net.model(net.conv(joined, 48, 16), mean, net.add("Softmax", turned, axis=-1), net.add("Sigmoid", joined))
    assert "Concat" not in copies(program_of(model))
    check(model, (1, 3, 6, 6), (2, 3, 6, 6))


def test_layers_that_run_as_one_store_into_their_part_and_read_from_another() -> None:
    net = Network([1, 3, 64, 64])
    x = net.conv("x", 3, 32, 3)
    wide = net.conv(x, 32, 64)
    middle = net.add("Relu", net.add("Conv", wide, net.weight(64, 1, 3, 3), pads=[1] * 4, group=64))
    joined = net.add("Concat", x, net.conv(middle, 64, 16), axis=1)
    beside = net.add("Relu", net.add("Conv", joined, net.weight(48, 1, 3, 3), pads=[1] * 4, group=48))
    model = net.model(net.conv(net.add("Concat", joined, beside, axis=1), 96, 16))
    program = program_of(model)
    assert any(isinstance(step, Stream) for step in program.main.steps)
    assert "Concat" not in copies(program)
    check(model, (1, 3, 64, 64))
