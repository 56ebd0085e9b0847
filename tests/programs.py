"""Small convolutional graphs, their programs, and a check of what they compute against the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper as oh
from onnx.reference import ReferenceEvaluator

from sardonyx import Session
from sardonyx.compiler.compile import is_native
from sardonyx.compiler.graph import lower
from sardonyx.compiler.program import Kernel, Nest, Program, Step, Store
from sardonyx.model.prepare import prepare
from sardonyx.optimizer import NATIVE_PASSES


class Network:
    """Builds a graph node by node; each method returns the name of the value that it adds."""

    def __init__(self, shape: Sequence[int | str], name: str = "x"):
        self.rng = np.random.default_rng(11)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """A node with one output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(oh.make_node(operator, inputs, [name], name=f"{operator}_{name}", **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """A constant of small numbers."""
        name = f"w{len(self.weights)}"
        array = (self.rng.standard_normal(shape) / 4).astype(np.float32)
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, size: int = 1, *, relu: bool = True, **attributes: object) -> str:
        """Convolution with a bias that keeps the plane's size, and Relu."""
        attributes.setdefault("pads", [size // 2] * 4)
        y = self.add("Conv", x, self.weight(outputs, inputs, size, size), self.weight(outputs), **attributes)
        return self.add("Relu", y) if relu else y

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model that gives `outputs`."""
        values = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
        graph = oh.make_graph(self.nodes, "g", self.inputs, values, self.weights)
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=10)


def program_of(model: onnx.ModelProto) -> Program:
    """The program of `model`."""
    prepared = prepare(ir.serde.deserialize_model(model), is_native=is_native)
    for fuse in NATIVE_PASSES:
        fuse(prepared)
    return lower(prepared)


def copies(program: Program) -> list[str]:
    """Operators of the steps that only move elements: conversions of layout, concatenations, transpositions."""
    return [step.operator for step in program.main.steps if _is_copy(step)]


def _is_copy(step: Step) -> bool:
    if isinstance(step, Kernel):
        return step.name == "reorder_nchw16c_f32"
    if not isinstance(step, Nest):
        return False
    values = [stage.value.args[1] if stage.value.op == "guard" else stage.value for stage in step.stages]
    return all(isinstance(s, Store) and v.op in ("load", "const") for s, v in zip(step.stages, values, strict=True))


def kernels(program: Program, name: str) -> list[Kernel]:
    """The calls of kernel `name`."""
    return [step for step in program.main.steps if isinstance(step, Kernel) and step.name == name]


def check(model: onnx.ModelProto, *shapes: Sequence[int]) -> None:
    """The session's outputs are the reference's, for an input of each of `shapes`."""
    reference, session = ReferenceEvaluator(model), Session(model.SerializeToString())
    rng = np.random.default_rng(5)
    for shape in shapes:
        feeds = {model.graph.input[0].name: rng.standard_normal(shape).astype(np.float32)}
        results = session.run(feeds)
        found = list(results.values()) if isinstance(results, dict) else list(results)
        for mine, theirs in zip(found, reference.run(None, feeds), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-4)
