"""Small graphs of quantised operators, what passes make of them, and the comparison with the reference."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper as oh
from onnx import numpy_helper as nh

import sardonyx
from sardonyx.compiler.compile import is_native
from sardonyx.model.prepare import prepare
from sardonyx.optimizer import NATIVE_PASSES
from sardonyx.runtime.reference import evaluate

F32 = np.float32


class Quantised:
    """A graph built node by node; methods return names of values. `x` inputs are fed."""

    def __init__(self, opset: int = 21, seed: int = 5):
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []
        self.feeds: dict[str, np.ndarray] = {}

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """A node; the name of its first output."""
        number = len(self.nodes)
        names = [f"v{number}", *(f"v{number}_{i}" for i in range(1, outputs))]
        self.nodes.append(oh.make_node(operator, inputs, names, name=f"{operator}{number}", **attributes))
        return names[0]

    def constant(self, array: np.ndarray, kind: int | None = None) -> str:
        """An initializer, of an onnx type of few bits if `kind` is given."""
        name = f"c{len(self.constants)}"
        array = np.asarray(array)
        tensor = oh.make_tensor(name, kind, array.shape, array.ravel()) if kind else nh.from_array(array, name)
        self.constants.append(tensor)
        return name

    def x(self, *shape: int, array: np.ndarray | None = None, dims: tuple | None = None) -> str:
        """A fed input, normal numbers unless `array`."""
        name = f"x{len(self.inputs)}"
        value = self.rng.standard_normal(shape).astype(F32) if array is None else array
        self.feeds[name] = value
        kind = oh.np_dtype_to_tensor_dtype(value.dtype)
        self.inputs.append(oh.make_tensor_value_info(name, kind, dims or value.shape))
        return name

    def parameters(self, scale, zero, kind=np.uint8) -> list[str]:
        """Scale and zero point as constants."""
        return [self.constant(np.asarray(scale, F32)), self.constant(np.asarray(zero, kind))]

    def q(self, x: str, scale=0.02, zero=117, kind=np.uint8) -> str:
        """QuantizeLinear."""
        return self.add("QuantizeLinear", x, *self.parameters(scale, zero, kind))

    def qdq(self, x: str, scale=0.02, zero=117, kind=np.uint8) -> str:
        """Quantised and dequantised."""
        both = self.parameters(scale, zero, kind)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *both), *both)

    def weight(self, *shape: int, scale=0.01, zero=0, kind=np.int8, axis: int = 0) -> str:
        """A dequantised weight."""
        info = np.iinfo(kind)
        array = self.rng.integers(info.min, info.max + 1, shape).astype(kind)
        both = self.parameters(scale, zero, kind)
        return self.add("DequantizeLinear", self.constant(array), *both, axis=axis)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model that gives `outputs`."""
        values = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = oh.make_graph(self.nodes, "g", self.inputs, values, self.constants)
        imports = [oh.make_opsetid("", self.opset)]
        return onnx.shape_inference.infer_shapes(oh.make_model(graph, opset_imports=imports, ir_version=10))


def rewritten(model: onnx.ModelProto) -> ir.Model:
    """`model` after the passes that every model goes through."""
    prepared = prepare(ir.serde.deserialize_model(model), is_native=is_native)
    for fuse in NATIVE_PASSES:
        fuse(prepared)
    return prepared


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators that are left, without those at the border: quantised inputs, dequantised outputs."""
    return [node.op_type for node in rewritten(model).graph]


def check(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, steps: int = 0) -> None:
    """Native, and as the reference computes the model as it was: at most `steps` off where results are quantised."""
    session = sardonyx.Session(model)
    assert {place.provider for place in session.placement()} == {"native"}
    for have, want in zip(session.run(feeds), evaluate(sardonyx.load(model), feeds), strict=True):
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        if want.dtype.kind in "iu":
            assert np.abs(have.astype(np.int64) - want).max(initial=0) <= steps
            assert np.mean(have != want) <= (0.01 if steps else 0)
            assert len(np.unique(want)) > 2, "the case says nothing"
        else:
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
