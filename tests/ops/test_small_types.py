"""Floats of 8 and 4 bits, integers of 4 and 2: casts bit for bit, movement, quantisation, ports and constants."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sardonyx
from sardonyx.runtime.reference import evaluate

node = helper.make_node
DTYPES = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "FLOAT8E8M0": ml_dtypes.float8_e8m0fnu,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
    "INT4": ml_dtypes.int4,
    "UINT4": ml_dtypes.uint4,
    "INT2": ml_dtypes.int2,
    "UINT2": ml_dtypes.uint2,
}
BITS = {"FLOAT4E2M1": 4, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
SOURCES = {"FLOAT": np.float32, "FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16, "DOUBLE": np.float64}
SOURCES |= {"INT8": np.int8, "INT64": np.int64, "UINT16": np.uint16, "BOOL": np.bool_}
TYPE = TensorProto.DataType.Value


def every(name: str) -> np.ndarray:
    """All values of a small type."""
    return np.arange(1 << BITS.get(name, 8), dtype=np.uint8).view(DTYPES[name])


def model_of(nodes, inputs, outputs, *, constants=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


def check(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    session = sardonyx.Session(model)
    assert {p.provider for p in session.placement()} == {"native"}
    with np.errstate(all="ignore"):
        wanted = evaluate(ir.serde.deserialize_model(model), feed)
    for name, want, have in zip([o.name for o in model.graph.output], wanted, session.run(feed), strict=True):
        assert have.dtype == want.dtype, name
        np.testing.assert_array_equal(bits(have), bits(want), err_msg=name)


def bits(x: np.ndarray) -> np.ndarray:
    """The elements as stored; which NaN a wide float holds does not matter."""
    if x.dtype in list(SOURCES.values())[:4]:
        return np.where(np.isnan(x), np.nan, x.astype(np.float64))
    return np.ascontiguousarray(x).view(np.uint8)


def interesting(dtype: type, name: str) -> np.ndarray:
    """Every value of the small type, what lies in the middle of two, neighbours of these, and what is out of range."""
    if dtype is np.bool_:
        return np.array([True, False])
    if not np.issubdtype(dtype, np.floating) and dtype is not ml_dtypes.bfloat16:
        return np.concatenate([np.arange(-20, 20), [100, 127, -128]]).astype(dtype)
    if name in BITS and "FLOAT" not in name:
        return np.array([-40.7, -9, -8.5, -1.5, -0.5, 0, 0.7, 1, 3.99, 7, 8, 15, 16, 100], np.float32).astype(dtype)
    values = every(name).astype(np.float64)
    values = np.unique(values[np.isfinite(values)])
    middle = (values[1:] + values[:-1]) / 2
    points = np.concatenate([values, middle, middle * (1 + 2e-7), middle * (1 - 2e-7)])
    special = [1.1 * values[-1], -1.1 * values[-1], np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-30, -1e-30, 1e30]
    with np.errstate(all="ignore"):
        return np.concatenate([points, special]).astype(np.float32).astype(dtype)


@pytest.mark.parametrize("name", DTYPES)
def test_casts_to_and_from_every_type(name):
    kind, nodes, inputs, outputs, feed = TYPE(name), [], [("s", TYPE(name), ["k"])], [], {"s": every(name)}
    modes = [{}] if "FLOAT8" not in name else [{"saturate": s} for s in (0, 1)]
    if name == "FLOAT8E8M0":
        modes = [{"saturate": s, "round_mode": mode} for s in (0, 1) for mode in ("up", "down", "nearest")]
    for source, dtype in SOURCES.items():
        x = interesting(dtype, name)
        inputs.append((source, TYPE(source), [f"n{source}"]))
        feed[source] = x[x >= 0] if name == "FLOAT8E8M0" and dtype is not np.bool_ else x
        for i, mode in enumerate(modes):
            nodes.append(node("Cast", [source], [f"{source}{i}"], to=kind, **mode))
            outputs.append((f"{source}{i}", kind))
        large = {"FLOAT8E8M0": (np.int8, np.int64), **dict.fromkeys(list(DTYPES)[:4], (np.int8,))}
        if source != "UINT16" and dtype not in large.get(name, ()):  # what does not fit is left open
            nodes.append(node("CastLike", ["s", source], [f"from{source}"]))
            outputs.append((f"from{source}", TYPE(source)))
    feed["s"] = feed["s"][np.isfinite(feed["s"].astype(np.float32))]
    check(model_of(nodes, inputs, outputs), feed)


def test_casts_between_small_types():
    nodes, outputs = [], []
    for a in ("FLOAT8E4M3FN", "FLOAT8E5M2FNUZ", "FLOAT4E2M1", "INT4", "UINT2"):
        for b in ("FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT4E2M1", "UINT4", "INT2"):
            nodes.append(node("Cast", [a], [f"{a}{b}"], to=TYPE(b)))
            outputs.append((f"{a}{b}", TYPE(b)))
    names = {name for n in nodes for name in n.input}
    feed = {name: every(name) for name in names}
    feed = {name: x[np.isfinite(x.astype(np.float32))] for name, x in feed.items()}
    check(model_of(nodes, [(name, TYPE(name), ["n" + name]) for name in names], outputs), feed)


@pytest.mark.parametrize("name", DTYPES)
def test_movement_keeps_every_bit(name):
    kind, data = TYPE(name), np.resize(every(name).view(np.uint8), 24).view(DTYPES[name]).reshape(2, 3, 4)
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[2, 0, 1]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Identity", ["c"], ["d"]),
        node("Unsqueeze", ["x", "axes"], ["e"]),
        node("Flatten", ["x"], ["f"]),
        node("Transpose", ["c"], ["g"]),
    ]
    constants = [("c", data[0]), ("shape", np.array([-1, 2])), ("axes", np.array([1]))]
    model = model_of(nodes, [("x", kind, ["n", 3, 4])], [(n, kind) for n in "abdefg"], constants=constants)
    check(model, {"x": data})


@pytest.mark.parametrize("name", [name for name in DTYPES if name != "FLOAT8E8M0"])
def test_quantisation(name):
    kind, rng = TYPE(name), np.random.default_rng(1)
    zero = every(name)[[0, 1, 0]] if "INT" in name else every(name)[[0, 0, 0]]
    constants = [("scale", np.array([0.5, 2, 0.01], np.float32)), ("zero", zero)]
    constants.append(("blocks", rng.uniform(0.1, 2, (3, 2)).astype(np.float32)))
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=0),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=0),
        node("QuantizeLinear", ["x", "blocks"], ["p"], axis=1, block_size=4, output_dtype=kind),
        node("DequantizeLinear", ["p", "blocks"], ["z"], axis=1, block_size=4),
        node("QuantizeLinear", ["x", "scale"], ["r"], axis=0, output_dtype=kind, saturate=0),
    ]
    outputs = [("q", kind), ("y", TensorProto.FLOAT), ("p", kind), ("z", TensorProto.FLOAT), ("r", kind)]
    x = np.concatenate([rng.normal(0, 5, (3, 5)), [[-1e9, 1e5, 0.5], [1e6, -3, 2.5], [0, -0.5, 1]]], 1)
    x = x.astype(np.float32)
    check(model_of(nodes, [("x", TensorProto.FLOAT, [3, "n"])], outputs, constants=constants), {"x": x})


def test_arithmetic_on_small_types_is_refused():
    model = model_of(
        [node("Add", ["x", "x"], ["y"])], [("x", TensorProto.FLOAT8E5M2, [2])], [("y", TensorProto.FLOAT8E5M2)]
    )
    with pytest.raises(sardonyx.SardonyxError):
        sardonyx.Session(model)
