"""Small models and what tests ask of quantised ones."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from sardonyx import Session, SessionOptions
from sardonyx.model.load import load
from sardonyx.optimizer.data import Data
from sardonyx.optimizer.step import Applied, Context, make_step

QUIET = SessionOptions(progress=False)


def model_of(body: str, opset: int = 20, extra: str = "", **weights: np.ndarray) -> ir.Model:
    """A graph in ONNX's text form, with `weights` as initializers."""
    imports = f'"" : {opset}' + (f", {extra}" if extra else "")
    proto = onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{imports}]> {body}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return load(proto)


def apply(name: str, model: ir.Model, data: Data | None = None, seed: int = 0, **parameters: object) -> Applied:
    """Apply a step; whatever it writes is checked, and `model` must be as it was."""
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = make_step(name, parameters).apply(model, Context(data=data, seed=seed))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    if result.modified:
        onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
        assert [v.name for v in result.model.graph.inputs] == [v.name for v in model.graph.inputs]
        assert [v.name for v in result.model.graph.outputs] == [v.name for v in model.graph.outputs]
        assert [str(v.shape) for v in result.model.graph.outputs] == [str(v.shape) for v in model.graph.outputs]
    else:
        assert result.model is model
    return result


def run(model: ir.Model, feeds: dict, runtime: str = "literal") -> list[np.ndarray]:
    """The outputs under a runtime.

    "literal" is ONNX Runtime without its optimisations: it does what the graph says, node by node, and is quick to
    start. "onnxruntime" is as users run it, with integer kernels.
    """
    proto = ir.to_proto(model)
    if runtime == "reference":
        return ReferenceEvaluator(proto).run(None, dict(feeds))
    if runtime in ("literal", "onnxruntime"):
        options = onnxruntime.SessionOptions()
        if runtime == "literal":
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, dict(feeds))
    return Session(proto, QUIET).run(feeds)


def snr(expected: np.ndarray, actual: np.ndarray) -> float:
    """Signal-to-noise in dB."""
    signal, noise = np.sum(np.square(expected, dtype=np.float64)), np.sum((expected.astype(np.float64) - actual) ** 2)
    return float(10 * np.log10(signal / max(noise, 1e-300)))


def operators(model: ir.Model) -> list[str]:
    """The operators of the main graph, in order."""
    return [node.op_type for node in model.graph]


def count(model: ir.Model, operator: str) -> int:
    """How many nodes of the main graph are of `operator`."""
    return operators(model).count(operator)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@functools.cache
def cnn() -> ir.Model:
    """Conv, BatchNormalization, Relu, MaxPool, a residual Add, depthwise Conv, pooling, Gemm; a dynamic batch."""
    body = """g (float[n,3,13,11] image) => (float[n,7] y) {
        a = Conv <pads = [1,1,1,1]> (image, w1, b1)
        b = BatchNormalization (a, scale, shift, mean, variance)
        c = Relu(b)
        d = MaxPool <kernel_shape = [2,2], strides = [2,2]> (c)
        e = Conv <pads = [1,1,1,1], group = 5> (d, w2, b2)
        f = Clip(e, zero, six)
        h = Conv(f, w3)
        i = Add(h, d)
        j = Relu(i)
        k = GlobalAveragePool(j)
        l = Flatten(k)
        y = Gemm <transB = 1> (l, w4, b4)
    }"""
    return model_of(
        body, w1=normal(5, 3, 3, 3, seed=1, scale=0.3), b1=normal(5, seed=2), scale=np.abs(normal(5, seed=3)) + 0.5,
        shift=normal(5, seed=4), mean=normal(5, seed=5), variance=np.abs(normal(5, seed=6)) + 0.5,
        w2=normal(5, 1, 3, 3, seed=7, scale=0.5), b2=normal(5, seed=8), w3=normal(5, 5, 1, 1, seed=9, scale=0.5),
        w4=normal(7, 5, seed=10), b4=normal(7, seed=11), zero=np.float32(0), six=np.float32(6),
    )  # fmt: skip


def images(count: int = 4, seed: int = 100) -> Data:
    """Inputs for `cnn`."""
    return Data([{"image": normal(2, 3, 13, 11, seed=seed + number)} for number in range(count)])


@functools.cache
def transformer() -> ir.Model:
    """One block with a single head: three products, attention, LayerNormalization, GELU; dynamic batch and length."""
    body = """g (float[n,t,24] x) => (float[n,t,24] y) {
        q = MatMul(x, wq)
        qb = Add(q, bq)
        k = MatMul(x, wk)
        v = MatMul(x, wv)
        kt = Transpose <perm = [0,2,1]> (k)
        s = MatMul(qb, kt)
        u = Mul(s, factor)
        p = Softmax <axis = -1> (u)
        o = MatMul(p, v)
        r = Add(o, x)
        z = LayerNormalization <axis = -1> (r, gamma, beta)
        f = MatMul(z, w1)
        g1 = Add(b1, f)
        g2 = Div(g1, root)
        g3 = Erf(g2)
        g4 = Add(g3, one)
        g5 = Mul(g1, g4)
        m = MatMul(g5, w2)
        y = Add(m, z)
    }"""
    names = {"wq": (24, 24), "wk": (24, 24), "wv": (24, 24), "w1": (24, 48), "w2": (48, 24), "bq": (24,), "b1": (48,)}
    weights = {name: normal(*shape, seed=len(name) * 17 + number, scale=0.2)
               for number, (name, shape) in enumerate(names.items())}  # fmt: skip
    return model_of(
        body, **weights, factor=np.float32(24**-0.5), gamma=np.abs(normal(24, seed=31)) + 0.5,
        beta=normal(24, seed=32), root=np.float32(2**0.5), one=np.float32(1),
    )  # fmt: skip


def sentences(count: int = 4, seed: int = 200) -> Data:
    """Inputs for `transformer`."""
    return Data([{"x": normal(2, 7, 24, seed=seed + number)} for number in range(count)])
