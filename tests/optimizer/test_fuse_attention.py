"""What exporters leave of attention becomes one node, and only that."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from sardonyx import Session
from sardonyx.optimizer.fuse_attention import FuseAttention, match

HEADER = '<ir_version: 10, opset_import: ["" : 17]>'
INPUTS = "float[2,3,5,8] q, float[2,3,7,8] k, float[2,3,7,4] v, float[2,1,1,7] mask"
SCALED = """
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    s = MatMul(q, kt)
    scale = Constant <value = float {2.5}> ()
    t = Div(s, scale)
"""
PLAIN = f"""g ({INPUTS}) => (float[2,3,5,4] o) {{
    {SCALED} u = Add(mask, t) p = Softmax <axis = -1> (u) o = MatMul(p, v)
}}"""
FACTORS = f"""g ({INPUTS}, float[1] a, float b) => (float[2,3,5,4] o) {{
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    qa = Mul(a, q)
    kb = Div(kt, b)
    s = MatMul(qa, kb)
    p = Softmax <axis = 3> (s)
    o = MatMul(p, v)
}}"""
RANK3 = """g (float[m,n,8] q, float[m,8,l] kt, float[m,l,4] v, float[1,c,l2] mask) => (float[m,n,4] o) {
    s = MatMul(q, kt) u = Add(s, mask) p = Softmax <axis = -1> (u) o = MatMul(p, v)
}"""
CASTS = PLAIN.replace("Softmax <axis = -1> (u)", "Softmax <axis = -1> (u32)").replace(
    "p = ", "u32 = Cast <to = 1> (u) p32 = ").replace("o = MatMul(p, v)", """
    p16 = Cast <to = 1> (p32) p = Cast <to = 1> (p16) o = MatMul(p, v)""")  # fmt: skip


def model_of(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEADER + text)


def fused(text: str) -> list[str]:
    """Operators after the pass."""
    model = ir.serde.deserialize_model(model_of(text))
    result = FuseAttention()(model)
    operators = [node.op_type for node in model.graph]
    assert result.modified == ("FusedAttention" in operators)
    return operators


@pytest.mark.parametrize("text", [PLAIN, FACTORS, RANK3, CASTS], ids=["masked", "factors", "symbolic", "casts"])
def test_an_attention_is_fused_and_gives_the_same_numbers(text: str) -> None:
    assert "FusedAttention" in fused(text)
    assert "Softmax" not in fused(text)
    model = model_of(text)
    rng = np.random.default_rng(7)
    sizes = {"m": 3, "n": 6, "l": 5, "c": 1, "l2": 5}
    feeds = {}
    for value in model.graph.input:
        dims = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(dims).astype(np.float32)
    session = Session(model)
    assert all(p.provider == "native" for p in session.placement())
    expected = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(session.run(feeds)[0], expected[0], rtol=2e-5, atol=2e-6)


NOT = {
    "the scores are wanted": (PLAIN.replace("(float[2,3,5,4] o)", "(float[2,3,5,4] o, float[2,3,5,7] s)"), "output"),
    "the probabilities are wanted": (PLAIN.replace("4] o)", "4] o, float[2,3,5,7] p)"), "output"),
    "scores have another consumer": (
        PLAIN.replace("4] o)", "4] o, float[2,3,5,7] x)").replace("u = Add", "x = Exp(t) u = Add"), "not a MatMul"),
    "another axis": (PLAIN.replace("axis = -1", "axis = 2"), "last axis"),
    "doubles": (PLAIN.replace("float", "double"), "double"),
    "probabilities on the right": (
        PLAIN.replace("MatMul(p, v)", "MatMul(v, p)").replace("float[2,3,7,4]", "float[2,3,4,5]")
        .replace("float[2,3,5,4]", "float[2,3,4,7]"), "left operand"),
    "no product": (PLAIN.replace("MatMul(q, kt)", "Mul(q, q)").replace("float[2,3,7,4]", "float[2,3,8,4]"), "MatMul"),
    "half probabilities": (
        PLAIN.replace("o = ", "h = Cast <to = 10> (p) f = Cast <to = 1> (h) o = ").replace("(p, v)", "(f, v)"),
        "left operand"),
    "a factor for each key": (PLAIN.replace("Div(s, scale)", "Div(s, mask)"), "not a MatMul"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT)
def test_it_does_not_fire_and_says_why(name: str) -> None:
    text, reason = NOT[name]
    assert "FusedAttention" not in fused(text)
    model = ir.serde.deserialize_model(model_of(text))
    ir.passes.common.ShapeInferencePass()(model)
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    found = match(softmax, 17)
    assert isinstance(found, str)
    assert reason in found


def test_a_fully_masked_row_is_nan_as_the_spelled_out_form_has_it() -> None:
    feeds = {"q": np.ones((2, 3, 5, 8)), "k": np.ones((2, 3, 7, 8)), "v": np.ones((2, 3, 7, 4))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    mask = np.zeros((2, 1, 1, 7), np.float32)
    mask[1] = -np.inf
    result = Session(model_of(PLAIN)).run(feeds | {"mask": mask})[0]
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[0], 1, rtol=1e-6)
