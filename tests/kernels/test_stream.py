"""Neighbouring layers by bands: where the pass fires, and that not a bit changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small_models import FLOAT, model_of

import sardonyx
from sardonyx.compiler import graph as lowering
from sardonyx.compiler.compile import generate
from sardonyx.compiler.program import Stream

RNG = np.random.default_rng(5)


def conv(name, x, y, o, i, k=1, *, groups=1, stride=1, pads=None):
    """A convolution with bias, and its constants."""
    weight = RNG.standard_normal((o, i // groups, k, k)).astype(np.float32)
    pads = pads if pads is not None else [k // 2] * 4
    node = helper.make_node("Conv", [x, f"{name}w", f"{name}b"], [y], name=name, pads=pads, strides=[stride] * 2)
    node.attribute.append(helper.make_attribute("group", groups))
    return [node], [(f"{name}w", weight), (f"{name}b", RNG.standard_normal(o).astype(np.float32))]


def block(size=(30, 23), c=20, mid=40, out=24, k=3, stride=1, *, expand=True, project=True, extra=(), pads=None, n="n"):
    """expand -> Clip -> depthwise -> HardSwish -> project, with outputs `y` and `extra`."""
    nodes, constants = [], [("low", np.float32(0)), ("high", np.float32(6))]
    at, channels = "x", c
    if expand:
        for part, to in zip((nodes, constants), conv("e", "x", "e0", mid, c), strict=True):
            part += to
        nodes.append(helper.make_node("Clip", ["e0", "low", "high"], ["e1"]))
        at, channels = "e1", mid
    last = "d1" if project else "y"
    for part, to in zip(
        (nodes, constants),
        conv("d", at, "d0", channels, channels, k, groups=channels, stride=stride, pads=pads),
        strict=True,
    ):
        part += to
    nodes.append(helper.make_node("HardSwish", ["d0"], [last]))
    if project:
        for part, to in zip((nodes, constants), conv("p", "d1", "y", out, channels), strict=True):
            part += to
    inputs = [("x", FLOAT, [n, c, *size])]
    model = model_of(nodes, inputs, ["y", *extra], constants=constants)
    for value in model.graph.output:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def streams(model) -> list[tuple[bool, bool]]:
    """(with expansion, with projection) of each stream in the program."""
    program = generate(ir.serde.deserialize_model(model))[1]
    steps = [step for step in program.main.walk() if isinstance(step, Stream)]
    return [(step.expand is not None, step.project is not None) for step in steps]


LARGE = {"size": (96, 96), "mid": 48}
BLOCKS = [
    ({}, [(True, False)]),  # the middle is small: its projection stays a step of its own
    (LARGE, [(True, True)]),
    ({**LARGE, "expand": False, "c": 48}, [(False, True)]),
    ({**LARGE, "project": False}, [(True, False)]),
    ({**LARGE, "stride": 2, "mid": 200}, [(True, True)]),
    ({"size": (61, 67), "k": 5, "mid": 100}, [(True, True)]),
    ({"size": (67, 90), "k": 5, "mid": 272, "stride": 2, "pads": [1, 0, 3, 4], "c": 264}, [(True, True)]),
    ({"size": (7, 7), "mid": 72, "k": 5}, [(True, False)]),
    ({"size": (3, 130), "mid": 16, "k": 7}, [(True, False)]),
    ({"size": ("h", "w")}, [(True, True)]),
]


@pytest.mark.parametrize(("shape", "expected"), BLOCKS, ids=str)
def test_layers_stream_and_give_the_same_bits(shape, expected, monkeypatch):
    model = block(**shape)
    assert streams(model) == expected
    size = (50, 41) if shape.get("size") == ("h", "w") else shape.get("size", (30, 23))
    x = RNG.standard_normal((2, shape.get("c", 20), *size)).astype(np.float32)
    x[1, 3, 1, 2], x[0, 5, 0, 0] = np.nan, np.inf
    outputs = []
    for threads in (1, 2):
        outputs += sardonyx.Session(model, sardonyx.SessionOptions(threads=threads)).run({"x": x})
    monkeypatch.setattr(lowering, "stream_layers", lambda program: None)
    model.graph.name = "alone"  # another entry of the cache
    assert streams(model) == []
    alone = sardonyx.Session(model).run({"x": x})[0]
    for output in outputs:
        np.testing.assert_array_equal(output.view(np.int32)[~np.isnan(output)], alone.view(np.int32)[~np.isnan(alone)])
        np.testing.assert_array_equal(np.isnan(output), np.isnan(alone))


def test_an_expansion_with_another_reader_stays_in_memory():
    assert streams(block(**LARGE, extra=("e1",))) == [(False, True)]


def test_a_middle_with_another_reader_stays_in_memory():
    assert streams(block(**LARGE, extra=("d1",))) == [(True, False)]


def test_wide_and_strided_convolutions_do_not_stream():
    for options in ({"k": 3}, {"stride": 2}):
        model = block(**LARGE)
        wide, constants = conv("e", "x", "e0", 48, 20, **options)
        model.graph.node[0].CopyFrom(wide[0])
        (weight,) = [t for t in model.graph.initializer if t.name == "ew"]
        weight.CopyFrom(onnx.numpy_helper.from_array(constants[0][1], "ew"))
        assert (True, True) not in streams(model)


def around_depthwise():
    """A sum of the depthwise convolution and of what it reads, which its epilogue then reads too."""
    model = block(size=(96, 96), c=48, mid=48)
    swish = next(node for node in model.graph.node if node.op_type == "HardSwish")
    swish.output[0] = "swish"
    after = [*model.graph.node].index(swish) + 1
    model.graph.node.insert(after, helper.make_node("Add", ["swish", "e1"], ["d1"]))
    return model


def around_projection():
    """A sum of the projection and of the middle that it reads."""
    model = block(size=(96, 96), c=20, mid=48, out=48)
    model.graph.node[-1].output[0] = "p0"
    model.graph.node.append(helper.make_node("Add", ["p0", "d1"], ["y"]))
    return model


@pytest.mark.parametrize("make", [around_depthwise, around_projection])
def test_what_an_epilogue_reads_as_a_whole_stays_in_memory(make, monkeypatch):
    model = make()
    assert (True, True) not in streams(model)
    x = RNG.standard_normal((1, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, 96, 96)).astype(
        np.float32
    )
    together = sardonyx.Session(model).run({"x": x})[0]
    monkeypatch.setattr(lowering, "stream_layers", lambda program: None)
    model.graph.name = "alone"
    np.testing.assert_array_equal(together, sardonyx.Session(model).run({"x": x})[0])
