"""Runs straight from C: the same results as in Python, and everything unusual is declined, not misread."""

from __future__ import annotations

import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sardonyx
from sardonyx import errors


def gemm_model() -> onnx.ModelProto:
    w = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])],
        "direct",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", d]) for n, d in (("x", 4), ("b", 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def session() -> sardonyx.Session:
    session = sardonyx.Session(gemm_model().SerializeToString(), sardonyx.SessionOptions(progress=False))
    session.run(feeds(1))
    return session


def feeds(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {n: rng.standard_normal((rows, d)).astype(np.float32) for n, d in (("x", 4), ("b", 3))}


def test_same_results_whatever_the_order_of_shapes_and_paths(session) -> None:
    for rows in (1, 5, 0, 5, 2, 1):
        direct, slow = session._direct(feeds(rows)), session._slowly(feeds(rows), None)
        assert direct is not None
        np.testing.assert_array_equal(direct[0], slow[0])
        assert direct[0].shape == (rows, 3)
        assert direct[0].flags.owndata
        np.testing.assert_array_equal(session._slowly(feeds(3), None)[0], session._direct(feeds(3))[0])


@pytest.mark.parametrize("change", [
    lambda f: {**f, "x": f["x"].astype(np.float64)}, lambda f: {**f, "x": f["x"][0]}, lambda f: {"x": f["x"]},
    lambda f: {**f, "x": f["x"][:, :3]}, lambda f: {**f, "b": f["b"][:1]}, lambda f: {"z": f["x"], "b": f["b"]},
    lambda f: {**f, "x": f["x"].tolist()}, lambda f: {**f, "x": np.asfortranarray(f["x"])}, lambda f: {**f, "x": None},
    lambda f: {**f, "x": np.ma.masked_array(f["x"])}, lambda f: {**f, "x": f["x"].astype(">f4")}, lambda f: {},
])  # fmt: skip
def test_the_unusual_is_declined(session, change) -> None:
    assert session._direct(change(feeds(4))) is None


def test_errors_are_those_of_python(session) -> None:
    with pytest.raises(errors.InputError, match="dtype float64"):
        session.run({**feeds(2), "x": feeds(2)["x"].astype(np.float64)})


def test_references_are_given_back(session) -> None:
    given = feeds(2)
    before = [sys.getrefcount(value) for value in given.values()]
    for _ in range(100):
        session._direct(given)
        session._direct({**given, "b": given["b"].T})
    assert [sys.getrefcount(value) for value in given.values()] == before
    (result,) = session._direct(given)
    assert sys.getrefcount(result) == 2


def test_many_threads(session) -> None:
    wrong: list[int] = []

    def work(rows: int) -> None:
        given, expected = feeds(rows), session._slowly(feeds(rows), None)[0]
        for _ in range(300):
            wrong.extend([rows] * (not np.array_equal(session.run(given)[0], expected)))

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 2, 3, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def classifier(labels: dict[str, list]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", **labels),
    ]
    outputs = [
        helper.make_value_info("maps", helper.make_sequence_type_proto(_map_type("classlabels_strings" in labels)))
    ]
    graph = helper.make_graph(nodes, "zip", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])], outputs)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def _map_type(strings: bool) -> onnx.TypeProto:
    key = TensorProto.STRING if strings else TensorProto.INT64
    return helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [7, -1, 2**40]}, {"classlabels_strings": ["a", "b", "ü"]}])
def test_maps(labels) -> None:
    session = sardonyx.Session(classifier(labels).SerializeToString())
    (keys,) = labels.values()
    for rows in (1, 0, 4):
        x = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)
        expected = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        for results in (session._slowly({"x": x}, None), session._direct({"x": x}), session.run({"x": x})):
            assert len(results[0]) == rows
            for found, row in zip(results[0], expected, strict=True):
                assert list(found) == keys
                np.testing.assert_allclose(list(found.values()), row, rtol=1e-5)
    with pytest.raises(errors.InputError, match="no array"):
        session.run({"x": x}, out={"maps": np.zeros((4, 3), np.float32)})
