"""What only the data of a run gets wrong: a typed error that names the node, and a session that goes on working."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from errors.models import FLOAT, INT64, model, node

from sardonyx import Session, SessionOptions
from sardonyx.errors import RuntimeFailure, SardonyxError, ShapeError

OPTIONS = SessionOptions(progress=False)
HUGE = 1 << 60
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def over(operator: str, *given: str, kind: int = FLOAT, vectors: dict[str, list] | None = None, **attributes: object):
    """A model of one node whose first input is x: float[n, m] and whose others are int64 inputs."""
    inputs: dict = {"x": (kind, ["n", "m"])} if "x" in given else {}
    for name in given:
        if name != "x":
            inputs[name] = (INT64, (vectors or {}).get(name, ["k_" + name]))
    return lambda: model(node(operator, list(given), **attributes), inputs, outputs={"y": kind})


Case = tuple[Callable[[], onnx.ModelProto], dict, dict, type[SardonyxError], str]
CASES: dict[str, Case] = {
    # name: (model, feeds that work, feeds that do not, error, part of the message)
    "Gather": (over("Gather", "x", "i"), {"i": i64(1, -2)}, {"i": i64(2)}, RuntimeFailure, "out of range"),
    "Gather below": (over("Gather", "x", "i", axis=1), {"i": i64(-3)}, {"i": i64(-4)}, RuntimeFailure, "out of range"),
    "GatherElements": (
        over("GatherElements", "x", "i", vectors={"i": ["p", "q"]}), {"i": i64(0, 1).reshape(1, 2)},
        {"i": i64(0, HUGE).reshape(1, 2)}, RuntimeFailure, "out of range",
    ),
    "GatherND": (
        over("GatherND", "x", "i", vectors={"i": ["p", 2]}), {"i": i64(0, 2).reshape(1, 2)},
        {"i": i64(0, 3).reshape(1, 2)},
        RuntimeFailure, "out of range",
    ),
    "Reshape": (over("Reshape", "x", "s", vectors={"s": [2]}), {"s": i64(3, 2)}, {"s": i64(4, 2)}, ShapeError, ""),
    "Reshape by -2": (
        over("Reshape", "x", "s", vectors={"s": [2]}), {"s": i64(3, -1)}, {"s": i64(3, -2)}, ShapeError, "",
    ),
    "Expand": (over("Expand", "x", "s", vectors={"s": [2]}), {"s": i64(2, 3)}, {"s": i64(2, 4)}, ShapeError, ""),
    "Expand to 2^60": (
        over("Expand", "x", "s", vectors={"s": [3]}), {"s": i64(2, 2, 3)}, {"s": i64(HUGE, 2, 3)}, RuntimeFailure,
        "memory",
    ),
    "Tile": (over("Tile", "x", "r", vectors={"r": [2]}), {"r": i64(2, 0)}, {"r": i64(2, -1)}, ShapeError, ""),
    "Tile 2^40": (
        over("Tile", "x", "r", vectors={"r": [2]}), {"r": i64(1, 1)}, {"r": i64(1 << 40, 9)}, RuntimeFailure, "memory",
    ),
    "ConstantOfShape": (
        over("ConstantOfShape", "s", vectors={"s": [2]}), {"s": i64(0, 2)}, {"s": i64(2, -1)}, ShapeError, "",
    ),
    "ConstantOfShape of 2^60": (
        over("ConstantOfShape", "s", vectors={"s": [2]}), {"s": i64(1, 2)}, {"s": i64(HUGE, HUGE)}, RuntimeFailure,
        "memory",
    ),
    "Slice by 0": (
        over("Slice", "x", "b", "e", "a", "t", vectors={name: [1] for name in "beat"}),
        {"b": i64(0), "e": i64(HUGE), "a": i64(1), "t": i64(-1)}, {"b": i64(0), "e": i64(1), "a": i64(1), "t": i64(0)},
        SardonyxError, "",
    ),
    "Gather of a constant": (
        lambda: model(node("Gather", ["x", "i"], name="my"), {"x": (FLOAT, ["n", 3])}, {"i": i64(0, 4)}),
        {"x": np.ones((5, 3), np.float32)}, {}, RuntimeFailure, "out of range",
    ),
    "TopK": (
        lambda: model(node("TopK", ["x", "k"], ["y", "i"]), {"x": (FLOAT, ["n", "m"]), "k": (INT64, [1])}),
        {"k": i64(3)}, {"k": i64(4)}, SardonyxError, "",
    ),
    "Div": (
        over("Div", "x", "d", kind=INT64), {"d": i64(1, 2, 3)}, {"d": i64(1, 0, 3)}, RuntimeFailure, "divided by zero",
    ),
    "Mod": (
        over("Mod", "x", "d", kind=INT64), {"d": i64(1, 2, -3)}, {"d": i64(1, 0, 3)}, RuntimeFailure, "divided by zero",
    ),
    "Add": (over("Add", "x", "d", kind=INT64), {"d": i64(1, 2, 3)}, {"d": i64(1, 2)}, ShapeError, ""),
    "Pad": (
        over("Pad", "x", "p", vectors={"p": [4]}), {"p": i64(0, 1, -1, 0)}, {"p": i64(-3, 0, 0, 0)}, ShapeError, "",
    ),
    "Range": (
        over("Range", "a", "b", "d", vectors={"a": [], "b": [], "d": []}, kind=INT64),
        {"a": np.int64(0), "b": np.int64(3), "d": np.int64(1)}, {"a": np.int64(0), "b": np.int64(3), "d": np.int64(0)},
        SardonyxError, "",
    ),
    "OneHot": (
        lambda: model(node("OneHot", ["i", "d", "v"]), {"i": (INT64, ["n"]), "d": (INT64, []), "v": (FLOAT, [2])}),
        {"i": i64(0, 9), "d": np.int64(3), "v": np.float32([0, 1])},
        {"i": i64(0), "d": np.int64(-1), "v": np.float32([0, 1])},
        SardonyxError, "",
    ),
    "Split": (
        lambda: model(node("Split", ["x", "s"], ["y", "z"], axis=1), {"x": (FLOAT, ["n", "m"]), "s": (INT64, [2])}),
        {"s": i64(1, 2)}, {"s": i64(1, 1)}, ShapeError, "",
    ),
    "Squeeze": (
        lambda: model(node("Squeeze", ["x", "a"]), {"x": (FLOAT, ["n", "m"])}, {"a": i64(0)}),
        {"x": X[:1]}, {}, ShapeError, "",
    ),
    "ScatterElements": (
        lambda: model(
            node("ScatterElements", ["x", "i", "u"]),
            {"x": (FLOAT, ["n", "m"]), "i": (INT64, [1, 1]), "u": (FLOAT, [1, 1])},
        ),
        {"i": i64(-2).reshape(1, 1), "u": X[:1, :1]}, {"i": i64(2).reshape(1, 1), "u": X[:1, :1]}, RuntimeFailure,
        "out of range",
    ),
    "ScatterND": (
        lambda: model(
            node("ScatterND", ["x", "i", "u"]),
            {"x": (FLOAT, ["n", "m"]), "i": (INT64, [1, 1]), "u": (FLOAT, [1, "m"])},
        ),
        {"i": i64(1).reshape(1, 1), "u": X[:1]}, {"i": i64(-3).reshape(1, 1), "u": X[:1]}, RuntimeFailure,
        "out of range",
    ),
    "MatMul": (
        lambda: model(node("MatMul", ["x", "b"]), {"x": (FLOAT, ["n", "m"]), "b": (FLOAT, ["k", 2])}),
        {"b": X.T.copy()}, {"b": X.reshape(3, 2)[:2].copy()}, ShapeError, "",
    ),
    "Concat": (
        lambda: model(node("Concat", ["x", "b"], axis=0), {"x": (FLOAT, ["n", "m"]), "b": (FLOAT, ["k", "l"])}),
        {"b": X[:1]}, {"b": X[:, :2].copy()}, ShapeError, "",
    ),
    "SequenceAt": (
        lambda: model(
            [node("SequenceConstruct", ["x", "x"], ["s"], name="s"), node("SequenceAt", ["s", "i"])],
            {"x": (FLOAT, ["n", "m"]), "i": (INT64, [])},
        ),
        {"i": np.int64(-1)}, {"i": np.int64(2)}, RuntimeFailure, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_node_is_named_and_the_session_goes_on(name: str) -> None:
    made, good, bad, kind, message = CASES[name]
    session = Session(made(), OPTIONS)
    first = session.inputs[0]
    base = {"x": X.astype(first.dtype)} if first.name == "x" else {}
    expected = session.run({**base, **good})
    for _ in range(2):
        with pytest.raises(kind) as caught:
            session.run({**base, **bad})
        assert message in str(caught.value)
        assert caught.value.node == "my"
        assert (caught.value.operator or "").startswith(name.partition(" ")[0])
        for before, after in zip(expected, session.run({**base, **good}), strict=True):
            np.testing.assert_array_equal(before, after)


def test_memory_of_failed_runs_is_given_back() -> None:
    session = Session(over("ConstantOfShape", "s", vectors={"s": [2]})(), OPTIONS)
    session.run({"s": i64(1, 1)})
    (context,) = session._all_contexts()
    before = context.host.memory()
    for _ in range(5):
        with pytest.raises(SardonyxError):
            session.run({"s": i64(1 << 22, 1 << 22)})
    assert context.host.memory().live == before.live
