"""Attention and RotaryEmbedding beyond the official cases: symbolic sizes, caches, masks, errors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from sardonyx import Session, errors

HEADER = '<ir_version: 10, opset_import: ["" : 24]>'


def check(text: str, feeds: dict[str, np.ndarray], tolerance: float = 2e-5) -> None:
    """The outputs of a native session equal those of the reference."""
    model = onnx.parser.parse_model(HEADER + text)
    session = Session(model)
    assert all(p.provider == "native" for p in session.placement())
    expected = ReferenceEvaluator(model).run(None, feeds)
    for result, wanted in zip(session.run(feeds), expected, strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance)


def random(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def test_grouped_heads_with_a_cache_and_symbolic_lengths() -> None:
    text = """g (float[b,m,24] q, float[b,m,12] k, float[b,m,10] v, float[b,2,p,6] pk, float[b,2,p,5] pv)
        => (float y, float kk, float vv, float s) {
        y, kk, vv, s = Attention <q_num_heads = 4, kv_num_heads = 2, is_causal = 1, softcap = 3.0,
                                  qk_matmul_output_mode = 3> (q, k, v, "", pk, pv)
    }"""
    for past in (0, 7):
        feeds = {"q": random(2, 5, 24), "k": random(2, 5, 12), "v": random(2, 5, 10)}
        check(text, feeds | {"pk": random(2, 2, past, 6), "pv": random(2, 2, past, 5)})


def test_masks_of_every_kind() -> None:
    operands = "float[2,3,5,8] q, float[2,3,7,8] k, float[2,3,7,4] v"
    feeds = {"q": random(2, 3, 5, 8), "k": random(2, 3, 7, 8), "v": random(2, 3, 7, 4)}
    flags = random(5, 7) > 0
    flags[3] = False
    for kind, mask in (
        ("bool[5,7]", flags), ("float[3,5,7]", random(3, 5, 7)), ("float[2,1,1,7]", random(2, 1, 1, 7)),
        ("float[5,4]", random(5, 4)), ("bool[b,1,m,n]", random(2, 1, 5, 7) > 0),
    ):  # fmt: skip
        check(f"g ({operands}, {kind} mask) => (float y) {{ y = Attention(q, k, v, mask) }}", feeds | {"mask": mask})


def test_lengths_of_an_outside_cache() -> None:
    text = """g (float16[3,2,4,8] q, float16[3,2,9,8] k, float16[3,2,9,8] v, int64[3] n) => (float16 y) {
        y = Attention <is_causal = 1> (q, k, v, "", "", "", n)
    }"""
    feeds = {"q": random(3, 2, 4, 8), "k": random(3, 2, 9, 8), "v": random(3, 2, 9, 8)}
    feeds = {name: value.astype(np.float16) for name, value in feeds.items()}
    check(text, feeds | {"n": np.array([9, 4, 2])}, tolerance=2e-3)


def test_results_of_a_long_sequence_do_not_depend_on_its_blocks() -> None:
    text = "g (float[1,1,m,16] q, float[1,1,n,16] k, float[1,1,n,16] v) => (float y) { y = Attention(q, k, v) }"
    session = Session(onnx.parser.parse_model(HEADER + text))
    feeds = {"q": random(1, 1, 150, 16), "k": random(1, 1, 600, 16), "v": random(1, 1, 600, 16)}
    whole = session.run(feeds)[0]
    alone = np.concatenate([session.run(feeds | {"q": feeds["q"][:, :, i : i + 1]})[0] for i in range(150)], axis=2)
    assert (whole == alone).all()


def test_heads_that_do_not_divide_are_an_error() -> None:
    text = "g (float[1,3,5,8] q, float[1,2,5,8] k, float[1,2,5,8] v) => (float y) { y = Attention(q, k, v) }"
    with pytest.raises(errors.ShapeError, match="3 heads share 2"):
        Session(onnx.parser.parse_model(HEADER + text))


def test_rotary_embeddings_with_positions_and_a_partly_rotated_head() -> None:
    for attributes in ("interleaved = 1", "rotary_embedding_dim = 4", "interleaved = 1, rotary_embedding_dim = 6"):
        half = int(attributes[-1]) // 2 if "dim" in attributes else 4
        text = f"""g (float[b,s,24] x, float[9,{half}] c, float[9,{half}] d, int64[b,s] p) => (float y) {{
            y = RotaryEmbedding <num_heads = 3, {attributes}> (x, c, d, p)
        }}"""
        feeds = {"x": random(2, 5, 24), "c": random(9, half), "d": random(9, half)}
        check(text, feeds | {"p": np.arange(10).reshape(2, 5) % 9})
