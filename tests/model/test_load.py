"""`load` and `save`: what is malformed is refused with an error that says what and where."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx.errors import ModelError, SardonyxError, UnsupportedError
from sardonyx.model import load, save, unknown_operators
from sardonyx.model.load import external_files


def value(name: str, shape: list[int | str] | None = None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [2, 3] if shape is None else shape)


def model(
    nodes: list[onnx.NodeProto],
    outputs: tuple[str, ...] = ("y",),
    initializers: tuple[onnx.TensorProto, ...] = (),
    opset: int = 17,
    **options,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [value("x")], [value(o) for o in outputs], list(initializers))
    options.setdefault("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, ir_version=9, **options)


def relu() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["x"], ["y"], name="r")])


def test_path_bytes_proto_and_ir_give_the_same_model(tmp_path: Path) -> None:
    weights = np.arange(6000, dtype=np.float32).reshape(2, 3000)
    proto = model([helper.make_node("Identity", ["w"], ["y"])], initializers=(numpy_helper.from_array(weights, "w"),))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    for source in (path, str(path), path.read_bytes(), proto, load(path)):
        loaded = load(source)
        np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), weights)
    assert not load(path).graph.initializers["w"].const_value.numpy().flags.owndata, "weights were copied"


def test_an_ir_model_is_copied() -> None:
    mine = ir.from_proto(relu())
    load(mine).graph.node(0).op_type = "Abs"
    assert mine.graph.node(0).op_type == "Relu"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello, this is a text file, no model\n" * 3, "text file"),
        (b"\x18\0\0\0ORTM" + b"\0" * 60, "ORT-format"),
        (b"PK\x03\x04" + b"\0" * 60, "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"\0" * 100, "parsed"),
        (b"\xff" * 100, "parsed"),
        (relu().SerializeToString()[:-9], "parsed"),
        (b"\x08\x09", "no graph"),
    ],
)
def test_what_is_no_onnx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert caught.value.hint


def test_names_that_are_no_text_are_refused() -> None:
    content = model([helper.make_node("Relu", ["x"], ["y"], name="abcdef")]).SerializeToString()
    for part in (b"abcdef", b"Relu"):
        with pytest.raises(ModelError, match="UTF-8"):
            load(content.replace(part, b"\xff" * len(part)))


def test_missing_files_and_folders_are_model_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="directory"):
        load(tmp_path)


def test_damaged_files_never_raise_anything_but_our_errors() -> None:
    whole = bytearray(relu().SerializeToString())
    rng = random.Random(0)
    for _ in range(1500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(SardonyxError):
            load(bytes(damaged[: rng.randint(1, len(damaged))]))


def cyclic() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="n1"), helper.make_node("Neg", ["a"], ["b"], name="n2")]
    return model([*nodes, helper.make_node("Relu", ["a"], ["y"], name="n3")])


def recursive_functions() -> onnx.ModelProto:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    functions = [
        helper.make_function("my", name, ["a"], ["b"], [helper.make_node(other, ["a"], ["b"], domain="my")], imports)
        for name, other in (("F", "G"), ("G", "F"))
    ]
    call = helper.make_node("F", ["x"], ["y"], domain="my")
    return model([call], functions=functions, opset_imports=imports)


def nested(depth: int) -> onnx.ModelProto:
    proto = relu()
    graph = proto.graph
    for level in range(depth):  # in place: protobuf refuses to copy what is nested this deeply
        deep = graph.node.add(op_type="If", name="deep", input=["x"], output=[f"o{level}"])
        deep.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g.SetInParent()
        graph = deep.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    return proto


def with_tensor(**fields) -> onnx.ModelProto:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, **fields)
    return model([helper.make_node("Relu", ["x"], ["y"])], initializers=(tensor,))


def node(*arguments, **attributes) -> onnx.ModelProto:
    return model([helper.make_node(*arguments, name="n", **attributes)])


MALFORMED = {
    "cycle": (cyclic, "cycle: n[12] -> n[12]"),
    "no outputs": (lambda: model([], outputs=()), "no outputs"),
    "output of nothing": (lambda: model([], outputs=("nowhere",)), "'nowhere'"),
    "value twice": (lambda: model([helper.make_node("Relu", ["x"], ["y"])] * 2), "produced twice"),
    "input overwritten": (lambda: model([helper.make_node("Relu", ["x"], ["x"])], ("x",)), "produced twice"),
    "unknown input": (lambda: node("Relu", ["ghost"], ["y"]), "node 'n' .*'ghost'"),
    "attribute type": (lambda: node("Softmax", ["x"], ["y"], axis=1.5), "Softmax-13.*'axis' is FLOAT, must be INT"),
    "attribute missing": (lambda: node("Cast", ["x"], ["y"]), "Cast-13.*'to' is missing"),
    "attribute unknown": (lambda: node("Relu", ["x"], ["y"], slope=1), "Relu-14.*unknown attribute 'slope'"),
    "few inputs": (lambda: node("Add", ["x"], ["y"]), "Add-14.*1 inputs, must be 2"),
    "many outputs": (lambda: node("Relu", ["x"], ["y", "z"]), "2 outputs, must be 1"),
    "empty input": (lambda: node("Add", ["x", ""], ["y"]), "input 1 .B. is empty"),
    "foreign domain": (lambda: node("Op", ["x"], ["y"], domain="my"), "domain 'my' is not imported"),
    "recursion": (recursive_functions, "F -> G -> F"),
    "depth": (lambda: nested(33), "nested"),
    "more depth": (lambda: nested(500), "nested"),
    "bytes too few": (lambda: with_tensor(dims=[4], raw_data=b"\0" * 15), "needs 16 bytes, the file holds 15"),
    "values too few": (lambda: with_tensor(dims=[4], float_data=[1, 2]), "needs 4 values"),
    "no data": (lambda: with_tensor(dims=[4]), "needs 4 values, the file holds 0"),
    "huge": (lambda: with_tensor(dims=[2**60, 2**60]), "more than any machine"),
    "negative": (lambda: with_tensor(dims=[-1], float_data=[1]), "negative"),
    "tensor type": (lambda: with_tensor(dims=[1], float_data=[1]), "unknown type 99"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_model_is_refused(name: str) -> None:
    make, message = MALFORMED[name]
    proto = make()
    if name == "tensor type":
        proto.graph.initializer[0].data_type = 99
    with pytest.raises(ModelError, match=message):
        load(proto)


@pytest.mark.parametrize(("opset", "ir_version"), [(999, 9), (17, 999), (17, 1)])
def test_versions_that_are_not_known_are_unsupported(opset: int, ir_version: int) -> None:
    proto = relu()
    proto.opset_import[0].version = opset
    proto.ir_version = ir_version
    with pytest.raises(UnsupportedError, match=r"newer|older") as caught:
        load(proto)
    assert caught.value.hint


def test_opsets_before_7_are_converted() -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"], broadcast=1, axis=1)], opset=6)
    proto.graph.input.append(value("w", [3]))
    loaded = load(proto)
    assert loaded.opset_imports[""] == 7
    assert "broadcast" not in loaded.graph.node(-1).attributes


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"], name="second"), helper.make_node("Neg", ["x"], ["a"], name="first")]
    assert [node.name for node in load(model(nodes)).graph] == ["first", "second"]


def test_unknown_operators_are_listed_not_refused() -> None:
    nodes = [helper.make_node("Magic", ["x"], ["a"], domain="my"), helper.make_node("Nonsense", ["a"], ["y"])]
    proto = model(nodes, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my", 2)])
    assert set(unknown_operators(load(proto))) == {("my", "Magic", 2), ("", "Nonsense", 17)}


def test_sparse_initializers_are_written_out() -> None:
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])])
    entry = proto.graph.sparse_initializer.add(dims=[2, 3])
    entry.values.CopyFrom(numpy_helper.from_array(np.array([5.0], np.float32), "w"))
    entry.indices.CopyFrom(numpy_helper.from_array(np.array([[1, 2]]), "i"))
    dense = load(proto).graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(dense, [[0, 0, 0], [0, 0, 5]])
    entry.indices.CopyFrom(numpy_helper.from_array(np.array([[1, 3]]), "i"))
    with pytest.raises(ModelError, match="outside its shape"):
        load(proto)


# ---- external data --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    (tmp_path / "model" / "w.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    return tmp_path / "model"


def external(folder: Path, **entries: object) -> Path:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=str(entry))
    path = folder / "m.onnx"
    path.write_bytes(model([helper.make_node("Add", ["x", "w"], ["y"])], initializers=(tensor,)).SerializeToString())
    return path


def test_external_data_is_found_beside_the_model_and_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(folder, location="w.bin")
    monkeypatch.chdir(folder)
    assert external_files("m.onnx") == [Path("w.bin")]
    loaded = load("m.onnx")
    np.testing.assert_array_equal(loaded.graph.initializers["w"].const_value.numpy(), [[0, 1, 2], [3, 4, 5]])
    save(loaded, folder / "m.onnx", external=False)  # over the file that it came from
    (folder / "w.bin").unlink()
    assert load("m.onnx").graph.initializers["w"].const_value.numpy()[1, 2] == 5


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "../secret"},
        {"location": "/etc/hostname"},
        {"location": "sub\\..\\..\\secret"},
        {"location": ""},
        {"location": "."},
        {"location": "none.bin"},
        {"location": "w.bin", "offset": 4},
        {"location": "w.bin", "offset": -4},
        {"location": "w.bin", "offset": 2**62},
        {"location": "w.bin", "length": 23},
        {"location": "w.bin", "length": "many"},
    ],
    ids=str,
)
def test_external_data_must_be_inside_and_fit(folder: Path, entries: dict) -> None:
    with pytest.raises(ModelError, match="'w'"):
        load(external(folder, **entries))


def test_external_data_may_not_be_a_link_to_elsewhere(folder: Path) -> None:
    (folder / "soft.bin").symlink_to(folder.parent / "secret")
    os.link(folder.parent / "secret", folder / "hard.bin")
    os.mkfifo(folder / "fifo.bin")
    for name, message in (("soft", "links to a file outside"), ("hard", "hard links"), ("fifo", "regular file")):
        with pytest.raises(ModelError, match=message):
            load(external(folder, location=f"{name}.bin"))


def test_external_data_of_bytes_needs_a_folder(folder: Path) -> None:
    content = external(folder, location="w.bin").read_bytes()
    with pytest.raises(ModelError, match="separate file"):
        load(content)
    assert load(content, folder=folder).graph.initializers["w"].const_value.numpy()[0, 1] == 1


@pytest.mark.parametrize("where", [None, True, "weights/w.bin"])
def test_save_and_load_keep_every_weight(tmp_path: Path, where: bool | str | None) -> None:
    weights = np.random.default_rng(0).standard_normal((2, 3000)).astype(np.float32)
    path = tmp_path / "m.onnx"
    tensor = numpy_helper.from_array(weights, "w")
    onnx.save(model([helper.make_node("Identity", ["w"], ["y"])], initializers=(tensor,)), path)
    save(load(path), path, external=where)
    np.testing.assert_array_equal(load(path).graph.initializers["w"].const_value.numpy(), weights)
    assert (path.stat().st_size < 2000) == bool(where)
    with pytest.raises(ModelError, match="outside"):
        save(load(path), path, external="../w.bin")
