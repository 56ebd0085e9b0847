"""Convolutions in groups of any size: which kernels, the numbers of the reference, no group that disturbs another."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sardonyx
from sardonyx.compiler.compile import generate
from sardonyx.compiler.program import Kernel
from sardonyx.runtime.reference import evaluate

CHANNELS, CONV, DEPTHWISE, GROUPED, ROWS = (
    f"{name}_nchw16c_f32" for name in ("channels", "conv", "depthwise", "grouped", "conv_rows")
)


class Layers:
    """Convolutions side by side, each of its own input; `check` compares them with the reference."""

    def __init__(self, seed: int = 3):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: dict[str, np.ndarray] = {}
        self.shapes: dict[str, list] = {}

    def constant(self, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, f"w{len(self.constants)}"))
        return self.constants[-1].name

    def add(self, op: str, *inputs: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"y{len(self.nodes)}"], f"n{len(self.nodes)}", **attributes))
        return self.nodes[-1].output[0]

    def input(self, *size: int, shape: list | None = None, dtype=np.float32) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.rng.standard_normal(size).astype(dtype)
        self.shapes[name] = shape or list(size)
        return name

    def conv(self, x: str, outputs: int, inputs: int, *kernel: int, bias=True, dtype=np.float32, **attributes) -> str:
        """`inputs` channels of a group, `outputs` of all."""
        weights = self.rng.standard_normal((outputs, inputs, *kernel)) / np.sqrt(inputs * np.prod(kernel))
        names = [x, self.constant(weights.astype(dtype))]
        if bias:
            names.append(self.constant(self.rng.standard_normal(outputs).astype(dtype)))
        return self.add("Conv", *names, **attributes)

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in self.inputs.items()}
        values = [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in self.shapes.items()]
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "groups", values, results, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def check(self, *outputs: str, rtol: float = 1e-5, atol: float = 1e-5) -> list[str]:
        """Compares all `outputs`; the kernels of the program."""
        model = self.model(list(outputs))
        session = sardonyx.Session(model)
        assert {place.provider for place in session.placement()} == {"native"}
        with np.errstate(invalid="ignore", over="ignore"):
            wanted = evaluate(sardonyx.load(model), self.inputs)
        for have, want in zip(session.run(self.inputs), wanted, strict=True):
            np.testing.assert_allclose(have, want, rtol=rtol, atol=atol)
        return kernels(model)


def kernels(model: onnx.ModelProto) -> list[str]:
    """Those that the program calls, but for the one that puts the model's input in blocks."""
    steps = [step for step in generate(sardonyx.load(model))[1].main.walk() if isinstance(step, Kernel)]
    return [step.name for step in steps if step.name != "reorder_nchw16c_f32"]


SIZES = [1, 2, 3, 4, 8, 12, 16, 24, 48]


@pytest.mark.parametrize("outputs", SIZES)
def test_any_number_of_channels_in_and_out(outputs):
    net = Layers()
    results = []
    for inputs, groups in itertools.product(SIZES, (2, 3)):
        x = net.input(2, inputs * groups, 5, 11)
        results.append(net.conv(x, outputs * groups, inputs, 3, 3, group=groups, pads=[1, 1, 1, 1]))
    used = net.check(*results)
    assert used.count("conv_first_f32") == 0
    assert len(used) >= len(results), "a convolution without a kernel"


@pytest.mark.parametrize("groups", [2, 3, 4, 8, 32])
def test_kernel_sizes_strides_dilations_and_padding(groups):
    net = Layers()
    forms = [
        {"kernel": (1, 1)},
        {"kernel": (3, 3), "strides": [2, 2], "pads": [1, 0, 1, 2]},
        {"kernel": (5, 2), "strides": [1, 3], "dilations": [2, 1], "pads": [4, 0, 4, 1]},
        {"kernel": (2, 7), "dilations": [1, 2], "pads": [0, 6, 1, 6]},
    ]
    results = []
    for form, (inputs, outputs) in itertools.product(forms, [(1, 3), (2, 2), (3, 5), (4, 4), (8, 16), (24, 24)]):
        kernel, attributes = form["kernel"], {k: v for k, v in form.items() if k != "kernel"}
        x = net.input(1, inputs * groups, 7, 13)
        results.append(net.conv(x, outputs * groups, inputs, *kernel, group=groups, **attributes))
    net.check(*results)


def test_one_dimension():
    net = Layers()
    results = [
        net.conv(net.input(2, inputs * 5, 101), outputs * 5, inputs, 3, group=5, pads=[1, 1], strides=[stride])
        for inputs, outputs in [(1, 2), (4, 4), (3, 3), (16, 16), (24, 40)]
        for stride in (1, 2)
    ]
    net.check(*results)


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        (1, 1, [DEPTHWISE]),
        (1, 3, [CHANNELS, DEPTHWISE]),
        (4, 4, [GROUPED]),
        (16, 16, [ROWS]),
        (3, 4, [CHANNELS, GROUPED]),
        (4, 3, [GROUPED, CHANNELS]),
        (48, 32, [ROWS]),
        (48, 48, [CONV]),
        (24, 24, [CHANNELS, ROWS, CHANNELS]),
        (24, 32, [CHANNELS, ROWS]),
        (32, 24, [ROWS, CHANNELS]),
    ],
)
def test_only_what_does_not_fit_is_copied(inputs, outputs, expected):
    net = Layers()
    y = net.conv(net.input(1, inputs * 6, 7, 9), outputs * 6, inputs, 3, 3, group=6)
    assert kernels(net.model([y])) == expected


def test_sizes_that_only_a_run_knows():
    net = Layers()
    results = []
    for inputs, outputs in [(1, 3), (4, 4), (3, 5), (24, 24)]:
        x = net.input(3, inputs * 4, 17, 9, shape=["n", inputs * 4, "h", "w"])
        results.append(net.conv(x, outputs * 4, inputs, 3, 3, group=4, strides=[2, 1], pads=[1, 1, 1, 1]))
    net.check(*results)


def test_bias_and_activation_go_into_the_last_kernel():
    net = Layers()
    results = []
    for inputs, outputs in [(4, 4), (3, 3), (24, 24)]:
        y = net.conv(net.input(2, inputs * 5, 7, 9), outputs * 5, inputs, 3, 3, group=5)
        results.append(net.add("Relu", net.conv(net.add("HardSwish", y), 7, outputs * 5, 1, 1)))
    net.check(*results)
    program = generate(sardonyx.load(net.model(results)))[1]
    steps = [step for step in program.main.walk() if isinstance(step, Kernel)]
    last = {name: [step for step in steps if step.name == name] for name in (GROUPED, CHANNELS)}
    assert last[GROUPED][0].epilogue is not None
    assert sum(step.epilogue is not None for step in last[CHANNELS]) == 2


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (2, 2), (3, 5), (4, 4), (8, 8), (12, 12), (24, 24), (48, 3)])
def test_nan_and_infinity_stay_in_their_group(inputs, outputs):
    net = Layers()
    groups = 5
    x = net.input(1, inputs * groups, 6, 19)
    y = net.conv(x, outputs * groups, inputs, 3, 3, group=groups, pads=[1, 1, 1, 1])
    clean = sardonyx.Session(net.model([y])).run(net.inputs)[0]
    net.inputs[x][0, inputs, 2, 3], net.inputs[x][0, inputs * 3, 5, 18] = np.nan, np.inf
    (spoilt,) = sardonyx.Session(net.model([y])).run(net.inputs)
    for group in range(groups):
        part = slice(group * outputs, (group + 1) * outputs)
        if group in (1, 3):
            assert not np.isfinite(spoilt[:, part]).all()
        else:
            np.testing.assert_array_equal(spoilt[:, part], clean[:, part])
    net.check(y)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(np.float16, 2e-3, 2e-3), (np.float64, 1e-12, 1e-12)])
def test_other_types(dtype, rtol, atol):
    net = Layers()
    results = [
        net.conv(net.input(1, inputs * 3, 5, 7, dtype=dtype), inputs * 3, inputs, 3, 3, group=3, dtype=dtype)
        for inputs in (1, 3, 4, 24)
    ]
    net.check(*results, rtol=rtol, atol=atol)


def test_weights_that_are_computed():
    net = Layers()
    x, w = net.input(1, 12, 5, 7), net.input(6, 4, 3, 3)
    net.check(net.add("Conv", x, w, group=3), net.add("Conv", x, net.add("Relu", w), group=3))


def test_one_by_one_convolutions_of_long_rows_are_products():
    net = Layers()
    results = []
    for size, groups, inputs, outputs in (((23, 29), 1, 51, 37), ((677,), 3, 17, 5), ((5, 11, 13), 2, 19, 19)):
        x = net.input(2, groups * inputs, *size)
        attributes = {"group": groups}
        results.append(net.add("Relu", net.conv(x, groups * outputs, inputs, *(1,) * len(size), **attributes)))
    net.inputs["x1"][1, 20, 5] = np.nan  # stays in the second of three groups
    assert net.check(*results, atol=5e-5) == ["matmul_f32"] * 3, "bias and Relu are epilogues, nothing is copied"
    session = sardonyx.Session(net.model(results))
    assert np.isnan(session.run(net.inputs)[1]).sum() == 5


def test_one_by_one_convolutions_of_short_rows_or_with_more_outputs_stay_in_blocks():
    net = Layers()
    few = net.conv(net.input(1, 32, 7, 7), 32, 32, 1, 1)
    more = net.conv(net.input(1, 32, 24, 24), 64, 32, 1, 1)
    assert net.check(few, more) == [CONV] * 2
