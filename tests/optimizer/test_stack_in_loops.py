"""Which sequences that a loop appends to become collected outputs, and that they hold the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sardonyx
from sardonyx.optimizer.stack_in_loops import StackInLoops
from sardonyx.runtime.reference import evaluate

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[3,5] x, int64 n) => (float[a,b,c] y, float[3,5] last) <bool go = {{1}}, int64[1] one = {{1}}> {{
        s = SequenceEmpty <dtype = 1> ()
        last, collected = Loop (n, go, x, s) <body = step
            (int64 i, bool goes, float[3,5] h, seq(float) before) => (bool goes_on, float[3,5] h2, seq(float) after) {{
                goes_on = Identity (goes)
                h2 = Sin (h)
                {append}
            }}>
        {join}
    }}"""
APPEND = "after = SequenceInsert (before, h2)"
STACK = "y = ConcatFromSequence <axis = {axis}, new_axis = 1> (collected)"


def model(append: str = APPEND, join: str = STACK.format(axis=0)) -> onnx.ModelProto:
    return onnx.parser.parse_model(MODEL.format(append=append, join=join))


def fires(proto: onnx.ModelProto) -> bool:
    loaded = ir.serde.deserialize_model(proto)
    return StackInLoops()(loaded).modified


@pytest.mark.parametrize(
    ("append", "join"),
    [
        *[(APPEND, STACK.format(axis=axis)) for axis in (0, 1, 2, -1, -3)],
        ("u = Unsqueeze (h2, one) after = SequenceInsert (before, u)", "y = ConcatFromSequence <axis = 1> (collected)"),
        ("after = SequenceInsert (before, h)", STACK.format(axis=1)),  # the state itself, before it changes
        ("after = SequenceInsert (before, x)", STACK.format(axis=1)),  # a value from outside
    ],
)
def test_what_is_appended_and_joined_is_collected(append, join):
    proto = model(append, join)
    assert fires(proto)
    session = sardonyx.Session(proto)
    assert {place.provider for place in session.placement()} == {"native"}
    x = np.random.default_rng(7).standard_normal((3, 5)).astype(np.float32)
    for trips in (1, 7):
        feeds = {"x": x, "n": np.array(trips)}
        for actual, expected in zip(
            session.run(feeds), evaluate(ir.serde.deserialize_model(proto), feeds), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("append", "join"),
    [
        (APPEND, "y = ConcatFromSequence <axis = 0> (collected)"),  # parts of a tensor may differ along the axis
        ("u = Unsqueeze (h2, one) after = SequenceInsert (before, u)", "y = ConcatFromSequence <axis = 0> (collected)"),
        ("zero = Sub (i, i) after = SequenceInsert (before, h2, zero)", STACK.format(axis=0)),  # in front
        (f"{APPEND} count = SequenceLength (before)", STACK.format(axis=0)),
        ("again = SequenceInsert (before, h2) after = SequenceInsert (again, h)", STACK.format(axis=0)),
        (APPEND, f"{STACK.format(axis=0)} count = SequenceLength (collected)"),
    ],
)
def test_it_leaves_alone_what_is_read_otherwise(append, join):
    assert not fires(model(append, join))


def test_one_empty_sequence_may_begin_two():
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
    g (float[3,5] x, int64 n) => (float[a,b,c] y, float[d,e,f] z) <bool go = {1}> {
        s = SequenceEmpty <dtype = 1> ()
        last, first, second = Loop (n, go, x, s, s) <body = step
            (int64 i, bool goes, float[3,5] h, seq(float) p, seq(float) q)
            => (bool goes_on, float[3,5] h2, seq(float) p2, seq(float) q2) {
                goes_on = Identity (goes)
                h2 = Sin (h)
                p2 = SequenceInsert (p, h)
                q2 = SequenceInsert (q, h2)
            }>
        y = ConcatFromSequence <axis = 0, new_axis = 1> (first)
        z = ConcatFromSequence <axis = 1, new_axis = 1> (second)
    }""")
    session = sardonyx.Session(proto)
    assert {place.provider for place in session.placement()} == {"native"}
    feeds = {"x": np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5), "n": np.array(4)}
    expected = evaluate(ir.serde.deserialize_model(proto), feeds)
    for actual, wanted in zip(session.run(feeds), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-6)


def test_an_empty_sequence_that_is_a_result_stays():
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[3] x) => (float[3] y, seq(float) s) { y = Sin (x) s = SequenceEmpty <dtype = 1> () }""")
    assert not fires(proto)


def test_a_model_without_sequences_is_left_alone():
    assert not fires(
        onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        g (float[3] x) => (float[3] y) { y = Sin (x) }""")
    )
