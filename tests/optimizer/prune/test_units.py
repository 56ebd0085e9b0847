# ruff: noqa: ISC004 - texts of graphs go over two lines
"""What has to go together is found by each rule, goes without a trace, and stays with a reason where it has to."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from sardonyx.model import load
from sardonyx.optimizer.products import find_products
from sardonyx.optimizer.prune.channels import misfits
from sardonyx.optimizer.prune.importance import Importance
from sardonyx.optimizer.prune.remove import remove
from sardonyx.optimizer.prune.units import find_units, pools_of
from sardonyx.optimizer.shapes import Shapes, sizes_of
from sardonyx.optimizer.tidy import tidied
from sardonyx.runtime.reference import evaluate

IMAGE = "float[2,3,8,8] x"
C1 = "a = Conv <pads = [1,1,1,1]> (x, w1_12x3x3x3, b1_12)"
END = "y = Conv(h, w9_5x12x1x1)"

# name -> (graph, units and channels of a unit of each pool). Initializers are named KEY_SHAPE.
GRAPHS = {
    "plain": (f"{C1} h = Relu(a) {END}", [(12, 1)]),
    "batch_normalization": (
        f"{C1} r = Relu(a) h = BatchNormalization(r, g_12, b_12, m_12, vpos_12) {END}",
        [(12, 1)],
    ),
    "residual": (f"{C1} r = Relu(a) c = Conv(r, w2_12x12x1x1) h = Add(r, c) {END}", [(12, 1)]),
    "squeeze_excite": (
        f"{C1} p = GlobalAveragePool(a) e = Conv(p, w2_3x12x1x1) f = Conv(e, w3_12x3x1x1) s = Sigmoid(f)"
        f" h = Mul(a, s) {END}",
        [(12, 1), (3, 1)],
    ),
    "depthwise": (f"{C1} d = Conv <group = 12> (a, w2_12x1x3x3, b2_12) h = Clip(d, c0, c6) {END}", [(12, 1)]),
    "multiplier": (f"{C1} h = Conv <group = 12> (a, w2_24x1x3x3) y = Conv(h, w9_5x24x1x1)", [(12, 1)]),
    "few_groups": (f"{C1} h = Conv <group = 2> (a, w2_8x6x1x1) y = Conv(h, w9_5x8x1x1)", [(6, 2), (4, 2)]),
    "many_groups": (f"{C1} h = Conv <group = 6> (a, w2_12x2x1x1) {END}", [(6, 2)]),
    "concat": (
        f"{C1} b = Conv <pads = [1,1,1,1]> (x, w2_7x3x3x3) h = Concat <axis = 1> (b, a) y = Conv(h, w9_5x19x1x1)",
        [(12, 1), (7, 1)],
    ),
    "split": (f"{C1} s, t = Split <axis = 1> (a, n_5_7) h = Relu(s) y1 = Conv(h, w8_4x5x1x1) y = Conv(t, w9_5x7x1x1)",
              [(5, 1), (7, 1)]),
    "halves": (f"{C1} s, t = Split <axis = 1, num_outputs = 2> (a) h = Mul(s, t) y = Conv(h, w9_5x6x1x1)", [(6, 2)]),
    "slice": (f"{C1} h = Slice(a, n_2, n_9, n_1) y1 = Conv(h, w8_4x7x1x1) y = Conv(a, w9_5x12x1x1)", [(5, 1), (7, 1)]),
    "gather": (f"{C1} h = Gather <axis = 1> (a, n_7_0_3_3) y1 = Conv(h, w8_4x4x1x1) y = Conv(a, w9_5x12x1x1)",
               [(3, 1), (9, 1)]),
    "flatten": (f"{C1} p = MaxPool <kernel_shape = [4,4], strides = [4,4]> (a) h = Flatten(p) y = Gemm(h, w9_48x5)",
                [(12, 1)]),
    "reshape": (f"{C1} h = Reshape(a, n_2_m1) y = Gemm <transB = 1> (h, w9_5x768, b9_5)", [(12, 1)]),
    "resize": (f"{C1} h = Resize <mode = \"nearest\"> (a, , , n_2_12_16_16) {END}", [(12, 1)]),
    "pad": (f"{C1} h = Pad(a, n_0_0_1_1_0_0_1_1) {END}", [(12, 1)]),
    "transposed": (f"{C1} h = ConvTranspose <strides = [2,2]> (a, w2_12x7x2x2, b2_7) y = Conv(h, w9_5x7x1x1)",
                   [(12, 1), (7, 1)]),
    "shuffle": (f"{C1} r = Reshape(a, n_2_3_4_8_8) t = Transpose <perm = [0,2,1,3,4]> (r)"
                f" h = Reshape(t, n_2_12_8_8) {END}", [(3, 4)]),
    "depth_to_space": (f"{C1} h = DepthToSpace <blocksize = 2> (a) y = Conv(h, w9_5x3x1x1)", [(3, 4)]),
    "reduce": (f"{C1} h = ReduceMean <keepdims = 0> (a, n_2_3) y = MatMul(h, w9_12x5)", [(12, 1)]),
    "instance": (f"{C1} h = InstanceNormalization(a, g_12, b_12) {END}", [(12, 1)]),
    "prelu": (f"{C1} h = PRelu(a, s_12x1x1) {END}", [(12, 1)]),
    "einsum": (f"{C1} y = Einsum <equation = \"nchw,oc->nohw\"> (a, w9_5x12)", [(12, 1)]),
    "softmax_beside": (f"{C1} h = Softmax <axis = 3> (a) {END}", [(12, 1)]),
}  # fmt: skip
TOKENS = "float[2,7,10] x"
ATTENTION = """
    q = MatMul(x, q_10x12) k = MatMul(x, k_10x12) v0 = MatMul(x, v_10x12) v = Add(v0, b_12)
    q4 = Reshape(q, n_0_0_3_4) k4 = Reshape(k, n_0_0_3_4) v4 = Reshape(v, n_0_0_3_4)
    qt = Transpose <perm = [0,2,1,3]> (q4) kt = Transpose <perm = [0,2,3,1]> (k4) vt = Transpose <perm = [0,2,1,3]> (v4)
    s = MatMul(qt, kt) p = Softmax <axis = -1> (s) o = MatMul(p, vt)
    ot = Transpose <perm = [0,2,1,3]> (o) h = Reshape(ot, n_2_7_12) y = MatMul(h, o_12x10)
"""
PACKED = """
    a = MatMul(x, q_10x36) r = Reshape(a, n_2_7_3_12) t = Transpose <perm = [2,0,1,3]> (r)
    q = Gather <axis = 0> (t, i0) k = Gather <axis = 0> (t, i1) v = Gather <axis = 0> (t, i2)
    q4 = Reshape(q, n_2_7_3_4) k4 = Reshape(k, n_2_7_3_4) v4 = Reshape(v, n_2_7_3_4)
    qt = Transpose <perm = [0,2,1,3]> (q4) kt = Transpose <perm = [0,2,3,1]> (k4) vt = Transpose <perm = [0,2,1,3]> (v4)
    s = MatMul(qt, kt) p = Softmax <axis = -1> (s) o = MatMul(p, vt)
    ot = Transpose <perm = [0,2,1,3]> (o) h = Reshape(ot, n_2_7_12) y = MatMul(h, o_12x10)
"""
SEQUENCES = {
    "perceptron": ("a = MatMul(x, w1_10x12) b = Add(a, b_12) e = Erf(b) h = Mul(b, e) y = MatMul(h, w2_12x10)",
                   [(12, 1)]),
    "heads": (ATTENTION, [(3, 4)]),
    "packed_heads": (PACKED, [(3, 12)]),
    "normalised": ("a = MatMul(x, w1_10x12) h = LayerNormalization(a, g_12, b_12) y = MatMul(h, w2_12x10)", []),
    "lstm": ("h, hh, hc = LSTM <hidden_size = 6, direction = \"bidirectional\"> (x, w_2x24x10, r_2x24x6, b_2x48)"
             " t = Transpose <perm = [0,2,1,3]> (h) f = Reshape(t, n_2_7_12) y = MatMul(f, w2_12x10)", [(6, 1)]),
    "computed_shape": ("a = MatMul(x, w1_10x12) s = Shape(x) b = Gather(s, n_0)"
                       " d = Concat <axis = 0> (b, n_7, n_3, n_4) r = Reshape(a, d)"
                       " h = Transpose <perm = [0,2,1,3]> (r) y = MatMul(h, w2_4x5)", [(4, 3)]),
}  # fmt: skip


def network(body: str, entry: str = IMAGE, outputs: str = "float[] y") -> onnx.ModelProto:
    """Parse; add every initializer that is named."""
    if " y1 " in body:
        outputs = f"{outputs}, float[] y1"
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g ({entry}) => ({outputs}) {{ {body} }}'
    )
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(len(body))
    made = {name for node in proto.graph.node for name in node.output}
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{number}"
        for name in node.input:
            if name and name not in made and name != "x" and name not in {t.name for t in proto.graph.initializer}:
                proto.graph.initializer.append(numpy_helper.from_array(value_of(name, rng), name))
    return proto


def value_of(name: str, rng: np.random.Generator) -> np.ndarray:
    key, _, rest = name.partition("_")
    if key == "n":
        return np.array([int(each.replace("m", "-")) for each in rest.split("_")], np.int64)
    if not rest:
        return np.array(int(key[1:]), np.int64 if key[0] == "i" else np.float32)
    values = rng.normal(size=[int(each) for each in rest.split("x")]).astype(np.float32)
    return np.abs(values) + 0.5 if "pos" in key else values


def flow_of(proto: onnx.ModelProto, **options: bool):
    model = tidied(load(proto))
    return model, find_units(model, Shapes(model, sizes_of(model)), **options)


CASES = [pytest.param(body, IMAGE, pools, id=name) for name, (body, pools) in GRAPHS.items()]
CASES += [pytest.param(body, TOKENS, pools, id=name) for name, (body, pools) in SEQUENCES.items()]


@pytest.mark.parametrize(("body", "entry", "pools"), CASES)
def test_units_are_found(body: str, entry: str, pools: list[tuple[int, int]]) -> None:
    _, flow = flow_of(network(body, entry))
    assert sorted((len(pool.units), pool.width) for pool in pools_of(flow)[0]) == sorted(pools)


def forget(model: ir.Model, flow, units: np.ndarray) -> None:
    """Weights that read `units` become zero."""
    importance = Importance(flow, find_products(model))
    for unit in units.tolist():
        for product, features in importance.readers[unit]:
            matrix = product.matrix().copy()
            matrix[:, features] = 0
            product.store(matrix)
    for node in model.graph:
        position = {"LSTM": 2, "ConvTranspose": 1, "Einsum": 1}.get(node.op_type)
        value = node.inputs[position] if position is not None else None
        if value is None or value.const_value is None:
            continue
        axis = {"LSTM": 2, "ConvTranspose": 0, "Einsum": 1}[node.op_type]
        array = value.const_value.numpy().copy()
        np.moveaxis(array, axis, 0)[np.isin(flow.units(value, axis), units)] = 0
        value.const_value = ir.Tensor(array, name=value.name)


@pytest.mark.parametrize(("body", "entry", "pools"), [case for case in CASES if case.values[2]])
def test_what_nobody_reads_goes_without_a_trace(body: str, entry: str, pools: list) -> None:
    model, flow = flow_of(network(body, entry))
    gone = np.zeros(10000, bool)
    for pool in pools_of(flow)[0]:
        gone[pool.units[[0, -1]]] = True
    forget(model, flow, np.flatnonzero(gone))
    x = np.random.default_rng(3).normal(size=sizes_of(model)["x"]).astype(np.float32)
    before = evaluate(model, {"x": x})
    weights = sum(value.const_value.size for value in model.graph.initializers.values())
    removal = remove(flow, gone)
    assert misfits(flow, removal, model) == []
    onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True)
    assert sum(value.const_value.size for value in model.graph.initializers.values()) < weights
    for old, new in zip(before, evaluate(model, {"x": x}), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)


REFUSED = {
    "output": ("y = Conv(x, w_12x3x3x3)", "output of the model"),
    "normalised over": ("a = Conv(x, w_12x3x3x3) t = Transpose <perm = [0,2,3,1]> (a)"
                        " y1 = LayerNormalization(t, g_12) y = MatMul(y1, w2_12x4)", "normalises over this axis"),
    "softmax": (f"{C1} h = Softmax <axis = 1> (a) {END}", "Softmax works along this axis"),
    "every second": (f"{C1} h = Slice(a, n_0, n_12, n_1, n_2) y = Conv(h, w_4x6x1x1)", "Slice works along this axis"),
    "cumulative": (f"{C1} h = CumSum(a, i1) {END}", "nothing is known of the operator CumSum"),
    "mean over channels": (f"{C1} y = ReduceMean(a, n_1)", "ReduceMean works along this axis"),
    "indices of maxima": (f"{C1} h, i = MaxPool <kernel_shape = [2,2]> (a) y1 = Cast <to = 1> (i)"
                          " y = Conv(h, w_4x12x1x1)",
                          "MaxPool works along this axis"),
    "padded channels": (f"{C1} h = Pad(a, n_0_1_0_0_0_0_0_0) y = Conv(h, w_4x13x1x1)", "Pad works along this axis"),
    "size in a number": (f"{C1} s = Shape(a) c = Gather(s, i1) f = Cast <to = 1> (c) h = Div(a, f) {END}",
                         "Shape works along this axis"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_understood_stays_with_a_reason(body: str, reason: str) -> None:
    _, flow = flow_of(network(body))
    pools, reasons = pools_of(flow)
    assert pools == []
    assert any(reason in each for each in reasons), reasons


def test_a_branch_of_control_flow_keeps_what_it_reads() -> None:
    branch = "then_branch = g1 () => (float[] o) { o = Relu(a) }, else_branch = g2 () => (float[] o) { o = Abs(a) }"
    proto = network(f"{C1} y1 = Conv(a, w9_5x12x1x1)", f"{IMAGE}, bool c")
    extra = onnx.parser.parse_graph(f"g (float[2,12,8,8] a, bool c) => (float[] o) {{ o = If <{branch}> (c) }}")
    proto.graph.node.append(extra.node[0])
    proto.graph.output[0].name = "o"
    pools, reasons = pools_of(flow_of(proto)[1])
    assert pools == []
    assert any("subgraph" in each for each in reasons)


def test_heads_go_whole_and_normalised_axes_only_when_asked() -> None:
    body = "a = MatMul(x, w1_10x12) h = LayerNormalization(a, g_12, b_12) y = MatMul(h, w2_12x10)"
    _, flow = flow_of(network(body, TOKENS), through_normalization=True)
    assert [len(pool.units) for pool in pools_of(flow)[0]] == [12]
