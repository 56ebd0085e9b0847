"""Models that cannot be compiled: the type of the error, what it says, and the node and operator that it names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from errors.models import BOOL, FLOAT, INT64, ints, model, node, value
from onnx import helper

from sardonyx import Session, SessionOptions
from sardonyx.errors import ModelError, SardonyxError, ShapeError, UnsupportedError

OPTIONS = SessionOptions(cache=False, progress=False)
Made = Callable[[], onnx.ModelProto]
HUGE = 1 << 60


def two(dtype: int, shape: list, other: int, other_shape: list) -> dict:
    return {"a": (dtype, shape), "b": (other, other_shape)}


def with_initializer(**fields: object) -> onnx.ModelProto:
    made = model(node("Add", ["x", "w"]), weights={"w": np.zeros((2, 3), np.float32)})
    for name, content in fields.items():
        if name == "dims":
            made.graph.initializer[0].dims[:] = content
        else:
            setattr(made.graph.initializer[0], name, content)
    return made


def branch_without_end() -> onnx.ModelProto:
    inner = helper.make_graph([node("Relu", ["x"], ["t"])], "then", [], [value("other", None)])
    return model(node("If", ["c"], then_branch=inner, else_branch=inner), {"x": (FLOAT, [2]), "c": (BOOL, [])})


def bad_in_branch() -> onnx.ModelProto:
    wrong = node("Transpose", ["x"], ["t"], name="inner", perm=[0, 0])
    inner = helper.make_graph([wrong], "then", [], [value("t", None)])
    return model(node("If", ["c"], then_branch=inner, else_branch=inner), {"x": (FLOAT, [2, 3]), "c": (BOOL, [])})


def deep(levels: int) -> onnx.ModelProto:
    inner = node("Relu", ["x"], ["v0"])
    for level in range(levels):
        graph = helper.make_graph([inner], "g", [], [value(f"v{level}", None)])
        other = helper.make_graph([node("Neg", ["x"], [f"e{level}"])], "e", [], [value(f"e{level}", None)])
        inner = node("If", ["c"], [f"v{level + 1}"], then_branch=graph, else_branch=other)
    return model(inner, {"x": (FLOAT, [2]), "c": (BOOL, [])}, outputs={f"v{levels}": FLOAT})


MODELS: dict[str, tuple[Made, type[SardonyxError], str, str | None, str | None]] = {
    # name: (model, error, part of the message, node, start of the operator)
    "cycle": (
        lambda: model(
            [node("Add", ["x", "b"], ["a"], name="n1"), node("Neg", ["a"], ["b"], name="n2"), node("Abs", ["b"])]
        ),
        ModelError, "cycle", "n1", "Add",
    ),
    "unknown operator": (
        lambda: model(node("Fancy", ["x"])), UnsupportedError, "no operator ai.onnx.Fancy", "my", "Fancy",
    ),
    "unknown domain": (lambda: model(node("Relu", ["x"], domain="nowhere")), ModelError, "not imported", "my", "Relu"),
    "missing input": (
        lambda: model(node("Add", ["x", "gone"])), ModelError, "'gone' is produced by no node", "my", "Add",
    ),
    "missing output": (lambda: model(node("Relu", ["x"], ["z"])), ModelError, "output 'y' of the graph", None, None),
    "produced twice": (
        lambda: model([node("Relu", ["x"]), node("Abs", ["x"])]), ModelError, "produced twice", "my", "Abs",
    ),
    "attribute type": (
        lambda: model(node("Softmax", ["x"], axis=1.0)), ModelError, "'axis' is FLOAT, must be INT", "my", "Softmax",
    ),
    "attribute unknown": (
        lambda: model(node("Relu", ["x"], slope=1)), ModelError, "unknown attribute 'slope'", "my", "Relu",
    ),
    "attribute missing": (
        lambda: model(node("Concat", ["x"])), ModelError, "attribute 'axis' is missing", "my", "Concat",
    ),
    "too few inputs": (lambda: model(node("Add", ["x"])), ModelError, "1 inputs, must be 2", "my", "Add"),
    "opset of tomorrow": (lambda: model(node("Relu", ["x"]), opset=999), UnsupportedError, "newer than", None, None),
    "weight too short": (
        lambda: with_initializer(raw_data=b"1234"), ModelError, "needs 24 bytes, the file holds 4", None, None,
    ),
    "weight of no type": (lambda: with_initializer(data_type=77), ModelError, "unknown type 77", None, None),
    "weight of 2^60": (lambda: with_initializer(dims=[HUGE, HUGE]), ModelError, "more than any machine", None, None),
    "weight of -1": (lambda: with_initializer(dims=[-1, 3]), ModelError, "a dimension is negative", None, None),
    "branch without end": (branch_without_end, ModelError, "'other'", None, None),
    "batch dims below 0": (
        lambda: model(node("GatherND", ["x", "i"], batch_dims=-7), weights={"i": ints(0)}), ModelError, "negative",
        "my", "GatherND",
    ),
    # what the types of inputs tell
    "input type": (
        lambda: model(node("Relu", ["x"]), {"x": (BOOL, [2])}),
        ShapeError, "input 0 (X) is tensor(bool), which Relu does not take", "my", "Relu-14",
    ),
    "types differ": (
        lambda: model(node("Add", ["a", "b"]), two(FLOAT, [2], INT64, [2])),
        ShapeError, "input 1 (B) is tensor(int64), but input 0 (A), of the same type, is tensor(float)", "my", "Add-14",
    ),
    "shapes of Add": (lambda: model(node("Add", ["a", "b"]), two(FLOAT, [2], FLOAT, [3])), ShapeError, "", "my", "Add"),
    "shapes of MatMul": (
        lambda: model(node("MatMul", ["a", "b"]), two(FLOAT, [2, 3], FLOAT, [4, 5])), ShapeError, "", "my", "MatMul",
    ),
    "shapes of Concat": (
        lambda: model(node("Concat", ["a", "b"], axis=0), two(FLOAT, [2, 3], FLOAT, [2, 4])), ShapeError, "", "my",
        "Concat",
    ),
    "rank of Conv": (
        lambda: model(node("Conv", ["a", "b"]), two(FLOAT, [1, 3, 8, 8], FLOAT, [4, 3, 3])), ModelError, "", "my",
        "Conv",
    ),
    "channels of Conv": (
        lambda: model(node("Conv", ["a", "b"]), two(FLOAT, [1, 3, 8, 8], FLOAT, [4, 5, 3, 3])), ModelError, "", "my",
        "Conv",
    ),
    "rank of what Gemm adds": (
        lambda: model(
            node("Gemm", ["a", "b", "c"]), two(FLOAT, [2, 3], FLOAT, [3, 5]), {"c": np.zeros((1, 2, 5), np.float32)},
        ),
        ShapeError, "[1, 2, 5] does not broadcast to [2, 5], which has fewer axes", "my", "Gemm",
    ),
    "permutation": (lambda: model(node("Transpose", ["x"], perm=[0, 0])), ModelError, "", "my", "Transpose"),
    "permutation too long": (
        lambda: model(node("Transpose", ["x"], perm=[0, 1, 2])), ModelError, "", "my", "Transpose",
    ),
    "axis out of range": (lambda: model(node("Softmax", ["x"], axis=5)), ModelError, "", "my", "Softmax"),
    "reshape": (
        lambda: model(node("Reshape", ["x", "s"]), weights={"s": ints(4, 2)}), ModelError, "", "my", "Reshape",
    ),
    "reshape with two -1": (
        lambda: model(node("Reshape", ["x", "s"]), weights={"s": ints(-1, -1)}), ModelError, "", "my", "Reshape",
    ),
    "split": (
        lambda: model(node("Split", ["x", "s"], ["y", "z"], axis=1), weights={"s": ints(2, 2)}), ModelError, "", "my",
        "Split",
    ),
    "squeeze of 2": (
        lambda: model(node("Squeeze", ["x", "a"]), weights={"a": ints(0)}), ModelError, "", "my", "Squeeze",
    ),
    "cast to nothing": (lambda: model(node("Cast", ["x"], to=1234)), ModelError, "valid type", "my", "Cast"),
    "wrong in both branches": (
        bad_in_branch, ShapeError, "neither branch is valid: node 'inner' (Transpose)", "my", "If",
    ),
    # sizes
    "dims of 2^60": (
        lambda: model(node("Relu", ["x"]), {"x": (FLOAT, [HUGE, HUGE])}), ShapeError, "larger than any machine", None,
        None,
    ),
    "pad by 2^60": (
        lambda: model(node("Pad", ["x", "p"]), weights={"p": ints(HUGE, 0, HUGE, 0)}), ShapeError, "larger than any",
        "my", "Pad",
    ),
    "expand to 2^60": (
        lambda: model(node("Expand", ["x", "s"]), weights={"s": ints(HUGE, 2, 3)}), ShapeError, "larger than any", "my",
        "Expand",
    ),
    "fill 2^60": (
        lambda: model(node("ConstantOfShape", ["s"]), {}, {"s": ints(HUGE, 4)}), ShapeError, "larger than any", "my",
        "ConstantOf",
    ),
    "fill -1": (
        lambda: model(node("ConstantOfShape", ["s"]), {}, {"s": ints(-1)}), ModelError, "", "my", "ConstantOfShape",
    ),
    "rank of 20": (
        lambda: model(node("Relu", ["x"]), {"x": (FLOAT, [1] * 20)}), UnsupportedError, "20 axes, more than 16", None,
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_is_wrong_is_named(name: str) -> None:
    made, kind, message, at, operator = MODELS[name]
    with pytest.raises(kind) as caught:
        Session(made(), OPTIONS)
    assert message in caught.value.message
    assert at is None or caught.value.node == at
    assert operator is None or (caught.value.operator or "").startswith(operator)
    assert "Error" not in caught.value.message.partition(":")[0], "an accident, not a check"


@pytest.mark.parametrize("place", ["../weights.bin", "absolute", "link", "hard", "gone.bin", "folder"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, place: str) -> None:
    made = model(node("Add", ["x", "w"]), weights={"w": np.zeros((2, 3), np.float32)})
    home = tmp_path / "home"
    home.mkdir()
    outside = tmp_path / "weights.bin"
    outside.write_bytes(bytes(24))
    (home / "folder").mkdir()
    os.symlink(outside, home / "link")
    os.link(outside, home / "hard")
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(outside) if place == "absolute" else place)
    path = home / "m.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="'w'"):
        Session(path, OPTIONS)


@pytest.mark.parametrize("cut", [0, 1, 7, 40, -1])
def test_truncated_files_are_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(node("Relu", ["x"])).SerializeToString()[:cut])
    with pytest.raises(ModelError):
        Session(path, OPTIONS)


def test_a_missing_file_and_a_wrong_argument() -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        Session("/nowhere/m.onnx", OPTIONS)
    with pytest.raises(TypeError, match="path, bytes"):
        Session(17, OPTIONS)  # type: ignore[arg-type]


def test_an_accident_in_an_operator_is_a_model_error_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    from sardonyx.compiler import graph

    def trip(*_: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr(graph, "check_node", trip)
    with pytest.raises(ModelError, match="KeyError: 'what'") as caught:
        Session(model(node("Relu", ["x"])), OPTIONS)
    assert (caught.value.node, caught.value.operator) == ("my", "Relu")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(("operator", "attributes"), [("Relu", {}), ("Transpose", {"perm": [1, 0]}), ("Sigmoid", {})])
def test_a_thousand_nodes_in_a_row_compile(operator: str, attributes: dict) -> None:
    from sardonyx.compiler.compile import generate
    from sardonyx.model import load

    nodes = [node(operator, [f"v{i}" if i else "x"], [f"v{i + 1}"], name=f"n{i}", **attributes) for i in range(1000)]
    generate(load(model(nodes, outputs={"v1000": FLOAT})))


def test_nested_branches_up_to_the_limit_of_protobuf_compile() -> None:
    x = np.array([-1, 2], np.float32)
    session = Session(deep(5), OPTIONS)
    np.testing.assert_array_equal(session.run({"x": x, "c": np.array(True)})[0], [0, 2])
