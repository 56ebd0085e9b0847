"""Operators of com.microsoft against ONNX Runtime, each family as one model of independent nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sardonyx

onnxruntime = pytest.importorskip("onnxruntime")
F32 = np.float32
rng = np.random.default_rng(7)


def real(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(F32)


def byte(*shape: int, kind: Any = np.uint8) -> np.ndarray:
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max + 1, shape).astype(kind)


def num(value: float, kind: Any = F32) -> np.ndarray:
    return np.array(value, kind)


@dataclass
class Case:
    """A node. ``inputs``: an array is fed, one inside a list is a constant, None is missing."""

    op: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    wanted: tuple[int, ...] = (0,)
    tolerance: float = 2e-5  # quantised results: steps
    domain: str = "com.microsoft"
    native: bool = True


def build(cases: list[Case]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One model with the nodes of all cases side by side, and what to feed it."""
    nodes, inputs, outputs, constants, feeds = [], [], [], [], {}
    for number, case in enumerate(cases):
        names = []
        for place, value in enumerate(case.inputs):
            name = f"x{number}_{place}"
            if value is None:
                name = ""
            elif isinstance(value, list):
                constants.append(numpy_helper.from_array(np.asarray(value[0]), name))
            else:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
                feeds[name] = value
            names.append(name)
        made = [f"y{number}_{place}" if place in case.wanted else "" for place in range(case.outputs)]
        nodes.append(helper.make_node(case.op, names, made, f"n{number}", domain=case.domain, **case.attributes))
        outputs += [onnx.ValueInfoProto(name=name) for name in made if name]
    graph = helper.make_graph(nodes, "contrib", inputs, outputs, constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9), feeds


def infer_outputs(model: onnx.ModelProto, session: Any) -> None:
    """Our loader wants declared types: take them from ONNX Runtime."""
    types = {"tensor(float)": TensorProto.FLOAT, "tensor(uint8)": TensorProto.UINT8, "tensor(int8)": TensorProto.INT8,
             "tensor(int32)": TensorProto.INT32, "tensor(int64)": TensorProto.INT64,
             "tensor(float16)": TensorProto.FLOAT16, "tensor(uint16)": TensorProto.UINT16}  # fmt: skip
    for value, found in zip(model.graph.output, session.get_outputs(), strict=True):
        value.type.tensor_type.elem_type = types[found.type]


def check(cases: list[Case]) -> None:
    model, feeds = build(cases)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    oracle = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    infer_outputs(model, oracle)
    session = sardonyx.Session(model)
    expected = oracle.run(None, feeds)
    got = session.run(feeds)
    owners = [case for case in cases for _ in case.wanted]
    for case, want, have in zip(owners, expected, got, strict=True):
        assert have.dtype == want.dtype, case.op
        assert have.shape == want.shape, case.op
        if want.dtype.kind in "iu":
            gap = np.abs(have.astype(np.int64) - want.astype(np.int64)).max(initial=0)
            assert gap <= (1 if case.tolerance == 2e-5 else case.tolerance), (case.op, gap)
        else:
            np.testing.assert_allclose(have, want, rtol=case.tolerance, atol=case.tolerance, err_msg=case.op)
    hosted = {p.operator for p in session.placement() if p.provider != "native"}
    assert hosted == {case.op for case in cases if not case.native}


def test_elementwise():
    x = real(2, 5, 8)
    check([
        Case("Gelu", [x]), Case("FastGelu", [x]), Case("FastGelu", [x, [real(8)]]), Case("BiasGelu", [x, [real(8)]]),
        Case("QuickGelu", [x]), Case("QuickGelu", [x], {"alpha": 0.5}),
        Case("Trilu", [real(4, 4)], {"upper": 0}), Case("Range", [[num(1)], [num(9)], [num(2)]]),
        Case("Pad", [real(2, 3), [np.array([1, 0, 0, 2])]]), Case("ExpandDims", [x, [num(1, np.int32)]]),
        Case("GatherND", [x, [np.array([[0, 1], [1, 2]])]]),
        Case("Inverse", [real(2, 3, 3)], tolerance=1e-3, native=False),
    ])  # fmt: skip


def test_normalisations():
    x, skip, gamma, beta, bias = real(2, 5, 12), real(2, 5, 12), real(12), real(12), real(12)
    ids, kinds = (
        rng.integers(0, 20, (2, 5)).astype(np.int32),
        rng.integers(0, 2, (2, 5)).astype(np.int32),
    )
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    tables = [[real(20, 12)], [real(9, 12)], [real(2, 12)]]
    places = rng.integers(0, 9, (2, 5)).astype(np.int32)
    check([
        Case("SimplifiedLayerNormalization", [x, [gamma]], {"epsilon": 1e-6, "axis": -1}, domain=""),
        Case("SkipLayerNormalization", [x, skip, [gamma], [beta], [bias]], {"epsilon": 1e-5}, 4, (0, 3)),
        Case("SkipLayerNormalization", [x, skip[:1], [gamma], [beta]]),
        Case("SkipSimplifiedLayerNormalization", [x, skip, [gamma], [bias]], {"epsilon": 1e-6}, 4, (0, 3)),
        Case("EmbedLayerNormalization", [ids, kinds, *tables, [gamma], [beta], mask], {"epsilon": 1e-5}, 3, (0, 1, 2)),
        Case("EmbedLayerNormalization", [ids, None, *tables[:2], None, [gamma], [beta], None, places], {}, 2, (0,)),
    ])  # fmt: skip


def test_products_and_convolutions():
    image, kernel = real(1, 3, 7, 7), real(5, 3, 3, 3)
    check([
        Case("FusedMatMul", [real(2, 3, 4), real(2, 5, 4)], {"transB": 1, "alpha": 0.5}),
        Case("FusedMatMul", [real(4, 3), [real(4, 5)]], {"transA": 1}),
        Case("TransposeMatMul", [real(3, 4), real(4, 5)]),
        Case("FusedGemm", [real(3, 4), real(5, 4), real(5)], {"transB": 1, "activation": "Relu"}),
        Case("FusedGemm", [real(3, 4), real(4, 5)], {"activation": "LeakyRelu", "activation_alpha": 0.2}),
        Case("FusedConv", [image, [kernel], [real(5)]], {"activation": "Relu", "kernel_shape": [3, 3]}),
        Case("FusedConv", [image, [kernel], [real(5)]], {"activation": "Clip", "activation_params": [-0.5, 0.5]}),
        Case("FusedConv", [image, [kernel], [real(5)], real(1, 5, 5, 5)], {"activation": "Relu"}),
        Case("NhwcMaxPool", [byte(1, 6, 6, 4)], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        Case("ConvTransposeWithDynamicPads", [image, [real(3, 2, 3, 3)], [np.array([1] * 4)]], {"strides": [2, 2]}),
        Case("CDist", [real(4, 3), real(5, 3)], {"metric": "euclidean"}, tolerance=1e-4),
        Case("CDist", [real(4, 3), real(5, 3)], {"metric": "sqeuclidean"}, tolerance=1e-4),
    ])  # fmt: skip


def test_attention_with_merged_weights():
    x, w, bias = real(2, 6, 8), [real(8, 24)], [real(24)]
    raw = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]], np.int32)
    past = real(2, 2, 2, 3, 4)
    heads = {"num_heads": 2}
    check([
        Case("Attention", [x, w, bias], heads), Case("Attention", [x, w, bias], {**heads, "unidirectional": 1}),
        Case("Attention", [x, w, bias, raw], heads),
        Case("Attention", [x, w, bias, np.array([4, 6], np.int32)], heads),
        Case("Attention", [x, w, bias, np.array([4, 6, 1, 0], np.int32)], heads),
        Case("Attention", [x, w, bias, rng.integers(0, 2, (2, 6, 6)).astype(np.int32)], heads),
        Case("Attention", [x, w, bias, None, past], {**heads, "unidirectional": 1}, 2, (0, 1)),
        Case("Attention", [x, w, bias, None, None, real(2, 2, 6, 6)], {**heads, "scale": 0.3}),
        Case("Attention", [x, [real(8, 20)], [real(20)]], {**heads, "qkv_hidden_sizes": [8, 8, 4]}),
    ])  # fmt: skip


def test_multi_head_attention():
    q, k, v, bias, heads = real(2, 3, 8), real(2, 5, 8), real(2, 5, 8), [real(24)], {"num_heads": 2}
    mask = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], np.int32)
    past = [real(2, 2, 4, 4), real(2, 2, 4, 4)]
    check([
        Case("MultiHeadAttention", [q, k, v], heads), Case("MultiHeadAttention", [q, k, v, bias, mask], heads),
        Case("MultiHeadAttention", [q, k, v, bias, None, real(2, 2, 3, 5)], {**heads, "scale": 0.4}),
        Case("MultiHeadAttention", [q, k, v, None, np.array([3, 5], np.int32)], heads),
        Case("MultiHeadAttention", [q, k, v, bias, None, None, *past], heads, 3, (0, 1, 2)),
        Case("MultiHeadAttention", [q, k[:, :3], v[:, :3], None, None, None, *past], {**heads, "unidirectional": 1}, 3,
             (0, 1, 2)),
        Case("MultiHeadAttention", [q, real(2, 2, 5, 4), real(2, 2, 5, 4)], heads),
        Case("MultiHeadAttention", [q, k, real(2, 5, 12)], heads),
    ])  # fmt: skip


def test_rotary_and_grouped_attention():
    cos, sin = [np.cos(real(16, 4))], [np.sin(real(16, 4))]
    places = np.array([[3, 0, 1], [2, 7, 15]])
    wide = [[np.cos(real(16, 8))], [np.sin(real(16, 8))]]
    q, k, v = real(1, 3, 64), real(1, 3, 32), real(1, 3, 32)
    past = [real(1, 2, 4, 16), real(1, 2, 4, 16)]
    length, total = np.array([6], np.int32), [num(7, np.int32)]
    first, three = np.array([2], np.int32), [num(3, np.int32)]
    heads = {"num_heads": 4, "kv_num_heads": 2}
    check([
        Case("RotaryEmbedding", [real(2, 3, 16), places, cos, sin]),
        Case("RotaryEmbedding", [real(2, 2, 3, 8), np.array([5]), cos, sin], {"interleaved": 1}),
        Case("RotaryEmbedding", [real(2, 3, 24), places, cos, sin], {"num_heads": 2, "rotary_embedding_dim": 8}),
        Case("GroupQueryAttention", [q, k, v, *past, length, total], heads, 3, (0, 1, 2)),
        Case("GroupQueryAttention", [q, k, v, None, None, first, three, *wide], {**heads, "do_rotary": 1}, 3),
        Case("GroupQueryAttention", [real(1, 3, 128), None, None, *past, length, total, *wide],
             {**heads, "do_rotary": 1, "local_window_size": 3}, 3, (0, 1, 2)),
    ])  # fmt: skip


def scales(x: float, y: float, z: float | None = None, kind: Any = np.uint8) -> list[list[np.ndarray]]:
    return [[num(x)], [num(y, kind)]]


def test_quantised_elementwise():
    a, b, p, q, r = (
        byte(2, 3, 8),
        byte(2, 3, 8),
        scales(0.02, 120),
        scales(0.03, 7),
        scales(0.05, 100),
    )
    s = byte(2, 3, 8, kind=np.int8)
    image = byte(1, 4, 6, 6)
    check([
        Case("QLinearAdd", [a, *p, b, *q, *r]), Case("QLinearMul", [a, *p, byte(8), *q, *r]),
        Case("QLinearAdd", [s, *scales(0.02, 3, kind=np.int8), s[:, :1], *scales(0.1, -5, kind=np.int8),
                            *scales(0.1, 0, kind=np.int8)]),
        Case("QLinearSigmoid", [a, *p, [num(1 / 256)], [num(0, np.uint8)]]),
        Case("QLinearLeakyRelu", [a, *p, *r], {"alpha": 0.1}),
        Case("QLinearConcat", [*r, a, *p, b, *q], {"axis": 1}),
        Case("QLinearAveragePool", [image, *p, *r], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        Case("QLinearGlobalAveragePool", [image, *p, *r]),
        Case("QLinearGlobalAveragePool", [byte(1, 6, 6, 4), *p, *r], {"channels_last": 1}),
        Case("QLinearSoftmax", [a, [num(0.02)], [num(120, np.uint8)], [num(1 / 256)], [num(0, np.uint8)]],
             {"axis": -1, "opset": 13}),
        Case("QLinearWhere", [rng.random((2, 3, 8)) < 0.5, a, *p, b, *q, *r]),
        Case("QLinearConv", [image, *p, [byte(5, 4, 3, 3, kind=np.int8) // 2], [num(0.01)], [num(0, np.int8)],
                             [num(2.0)], [num(9, np.uint8)]]),
        Case("QuantizeLinear", [real(3, 4), [num(0.1)], [num(5, np.uint16)]]),
        Case("DequantizeLinear", [byte(3, 4), [num(0.1)], [num(5, np.uint8)]]),
    ])  # fmt: skip


def test_quantised_products():
    # Weights of 7 bits: without VNNI the oracle saturates sums of two products at 16 bits, we do not.
    a, b, row = byte(5, 12), [byte(12, 20, kind=np.int8) // 2], real(20) ** 2 / 50 + F32(0.01)
    zeros = [byte(20, kind=np.int8) // 2]
    check([
        Case("DynamicQuantizeMatMul", [real(2, 5, 12), b, [num(0.02)], [num(3, np.int8)], [real(20)]]),
        Case("DynamicQuantizeMatMul", [real(5, 12), b, [row], zeros]),
        Case("MatMulIntegerToFloat", [a, b, num(0.03), [row], [num(120, np.uint8)], zeros, [real(20)]], tolerance=1e-4),
        Case("QGemm", [a, *scales(0.03, 120), [byte(20, 12, kind=np.int8) // 2], [num(0.02)], [num(0, np.int8)],
                       [np.arange(-900, 900, 90, np.int32)], [num(0.1)], [num(128, np.uint8)]], {"transB": 1}),
        Case("QGemm", [a, *scales(0.03, 120), b, [num(0.02)], [num(0, np.int8)]], {"alpha": 0.5}, tolerance=1e-4),
        Case("QAttention", [byte(2, 6, 8), [byte(8, 24, kind=np.int8) // 2], [real(24)], [num(0.01)], [num(0.01)],
                            np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]], np.int32), [num(128, np.uint8)],
                            [num(0, np.int8)]], {"num_heads": 2}, tolerance=1e-4),
        Case("MatMulInteger16", [byte(3, 4, kind=np.int16) // 64, byte(4, 5, kind=np.int16) // 64]),
    ])  # fmt: skip


def test_weights_of_few_bits():
    def packed(n: int, k: int, bits: int, block: int) -> list[Any]:
        blocks = -(-k // block)
        return [
            [byte(n, blocks, block * bits // 8)],
            [real(n * blocks)],
            [byte(n * -(-blocks * bits // 8))],
        ]

    four, eight, ragged = packed(10, 64, 4, 32), packed(10, 64, 8, 32), packed(7, 40, 4, 16)
    shape = {"K": 64, "N": 10, "block_size": 32}
    check([
        Case("MatMulNBits", [real(3, 64), *four], {**shape, "bits": 4}, tolerance=1e-3),
        Case("MatMulNBits", [real(2, 3, 64), *four[:2]], {**shape, "bits": 4}, tolerance=1e-3),
        Case("MatMulNBits", [real(3, 64), *eight], {**shape, "bits": 8}, tolerance=1e-2),
        Case("MatMulNBits", [real(3, 40), *ragged[:2], [ragged[2][0]]], {"K": 40, "N": 7, "block_size": 16, "bits": 4},
             tolerance=1e-3),
    ])  # fmt: skip


def test_quantised_embeddings():
    ids, kinds = (
        rng.integers(0, 20, (2, 5)).astype(np.int32),
        rng.integers(0, 2, (2, 5)).astype(np.int32),
    )
    tables = [[byte(20, 12)], [byte(9, 12)], [byte(2, 12)], [byte(12)], [byte(12)]]
    steps = [[num(0.02)] for _ in tables]
    zeros = [[num(120, np.uint8)] for _ in tables]
    four = [byte(10, 32)]  # 64 numbers of 4 bits a row
    check([
        Case("QEmbedLayerNormalization", [ids, kinds, *tables, None, *steps, *zeros], {}, 2, (0, 1), 1e-4),
        Case("GatherBlockQuantized", [four, ids % 10, [real(10, 2)]], {"bits": 4, "block_size": 32}),
        Case("GatherBlockQuantized", [four, ids % 10, [real(10, 2)], [byte(10, 1)]], {"bits": 4, "block_size": 32}),
        Case("GatherBlockQuantized", [[byte(10, 64)], ids % 10, [real(10, 2)]], {"bits": 8, "block_size": 32}),
    ])  # fmt: skip


def run_ours(op: str, inputs: list, **attributes) -> np.ndarray:
    """What our own session gives, where the oracle has no CPU kernel."""
    model, feeds = build([Case(op, inputs, attributes)])
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    return sardonyx.Session(model).run(feeds)[0]


def test_operators_that_the_oracle_lacks():
    x, skip, bias = real(2, 4, 6), real(2, 4, 6), real(6)
    np.testing.assert_allclose(run_ours("BiasAdd", [x, bias, skip]), x + bias + skip, rtol=1e-6)
    total = (x + bias).astype(np.float64)
    erf = np.vectorize(math.erf)
    gelu = total[..., 3:] * 0.5 * (1 + erf(total[..., 3:] / np.sqrt(2)))
    np.testing.assert_allclose(run_ours("BiasSplitGelu", [x, bias]), total[..., :3] * gelu, rtol=1e-4, atol=1e-5)
    soft = np.exp(total) / np.exp(total).sum(-1, keepdims=True)
    np.testing.assert_allclose(run_ours("BiasSoftmax", [x, bias], axis=-1, is_inner_broadcast=1), soft, rtol=1e-4)
    mean = run_ours("QLinearReduceMean", [byte(3, 8), *scales(0.1, 3), *scales(0.1, 3)], axes=[1], keepdims=1)
    assert mean.shape == (3, 1)
    a, b = real(3, 4), real(4, 5)
    got = run_ours("FusedMatMulActivation", [a, b], activation="Relu", alpha=2.0)
    np.testing.assert_allclose(got, np.maximum(a @ b * 2, 0), rtol=1e-4, atol=1e-5)


def test_what_is_not_covered_is_refused_by_name():
    model, _ = build(
        [
            Case(
                "Attention",
                [real(1, 2, 8), [real(8, 24)], [real(24)]],
                {"num_heads": 2, "do_rotary": 1},
            )
        ]
    )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(sardonyx.errors.UnsupportedError, match=r"'n0' \(.*Attention.*rotary"):
        sardonyx.Session(model)
