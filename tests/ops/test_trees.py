"""TreeEnsembleRegressor, TreeEnsembleClassifier and TreeEnsemble against the reference and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier

from sardonyx import Session, errors
from sardonyx.runtime.reference import evaluate

RNG = np.random.default_rng(3)
NO_NEQ = [
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
]  # the reference has NaN != t false


def model(
    operator: str,
    outputs: dict[str, int],
    opset: int = 3,
    dtype: int = TensorProto.FLOAT,
    **attributes: Any,
):
    node = helper.make_node(operator, ["x"], list(outputs), domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", dtype, ["rows", "features"])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def forest(
    trees: int, features: int, depth: int, leaf: str, targets: int, modes: list[str] = NO_NEQ
) -> dict[str, list]:
    """Attributes of random trees; tree and node numbers are neither dense nor sorted."""
    nodes: dict[str, list] = {
        f"nodes_{name}": []
        for name in (
            "treeids",
            "nodeids",
            "featureids",
            "values",
            "modes",
            "truenodeids",
            "falsenodeids",
            "missing_value_tracks_true",
        )
    }
    leaves: dict[str, list] = {f"{leaf}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, number: int, level: int) -> None:
        last = level == 0 or RNG.random() < 0.1
        row = [
            3 * tree + 5,
            number,
            int(RNG.integers(features)),
            float(RNG.integers(-3, 4)),
            "LEAF" if last else str(RNG.choice(modes)),
            2 * number + 1,
            2 * number + 2,
            int(RNG.integers(2)),
        ]
        for column, value in zip(nodes.values(), row, strict=True):
            column.append(value)
        if not last:
            grow(tree, 2 * number + 1, level - 1)
            grow(tree, 2 * number + 2, level - 1)
            return
        for target in RNG.permutation(targets)[: RNG.integers(1, targets + 1)].tolist():
            for column, value in zip(leaves.values(), (row[0], number, target, float(RNG.normal())), strict=True):
                column.append(value)

    for tree in range(trees):
        grow(tree, 0, depth)
    return nodes | leaves


def samples(rows: int, features: int, dtype: type = np.float32) -> np.ndarray:
    x = RNG.integers(-4, 5, (rows, features)).astype(dtype)
    for value in (np.nan, np.inf, -np.inf, -0.0):
        x[RNG.random(x.shape) < 0.06] = value
    return x


def compare(proto: onnx.ModelProto, *inputs: np.ndarray) -> None:
    """Native results, for each input, are the reference's, to rounding."""
    session, reference = Session(proto), ir.serde.deserialize_model(proto)
    assert {p.operator for p in session.placement() if p.provider != "native"} <= {"Gather"}
    for x in inputs:
        for got, want in zip(session.run({"x": x}), evaluate(reference, {"x": x}), strict=True):
            want = np.asarray(want)
            if want.dtype.kind in "US":
                assert got.astype(str).tolist() == want.tolist()
            else:
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
                assert got.shape == want.shape


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_regressor(aggregate: str) -> None:
    base = {"base_values": [0.5, -1.0]} if aggregate != "SUM" else {}
    attributes = forest(9, 5, 5, "target", 2) | base
    proto = model(
        "TreeEnsembleRegressor",
        {"y": 1},
        n_targets=2,
        aggregate_function=aggregate,
        post_transform="NONE",
        **attributes,
    )
    compare(proto, samples(1, 5), samples(33, 5), samples(12, 7))


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_classifier_of_three(transform: str) -> None:
    labels = {"classlabels_strings": ["a", "bb", "c"]} if transform == "NONE" else {"classlabels_int64s": [4, -2, 9]}
    attributes = forest(6, 5, 4, "class", 3) | labels
    outputs = {
        "label": TensorProto.STRING if transform == "NONE" else TensorProto.INT64,
        "scores": 1,
    }
    compare(
        model("TreeEnsembleClassifier", outputs, post_transform=transform, **attributes),
        samples(20, 5),
    )


def stump(**attributes: Any) -> onnx.ModelProto:
    """Weight 0 where x <= 0, weight 1 elsewhere, both of class 0."""
    ends = {"class_treeids": [0, 0], "class_nodeids": [1, 2], "class_ids": [0, 0]}
    nodes = {
        "nodes_treeids": [0] * 3,
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0] * 3,
        "nodes_values": [0.0] * 3,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
    }
    return model("TreeEnsembleClassifier", {"label": 7, "scores": 1}, **{**nodes, **ends, **attributes})


@pytest.mark.parametrize(
    ("weights", "transform", "scores"),
    [
        ([0.2, 0.7], "NONE", [[0.8, 0.2], [0.3, 0.7]]),
        ([-0.2, 0.7], "NONE", [[0.2, -0.2], [-0.7, 0.7]]),
        ([0.2, 0.7], "LOGISTIC", [[0.45017, 0.54983], [0.33181, 0.66819]]),
        ([-0.2, 0.7], "LOGISTIC", [[0.54983, 0.45017], [0.33181, 0.66819]]),
    ],
)
def test_weights_for_one_class_of_two_decide_by_sign_or_half(weights, transform, scores) -> None:
    session = Session(stump(class_weights=weights, post_transform=transform, classlabels_int64s=[5, 7]))
    label, got = session.run({"x": np.array([[-1.0], [1.0]], np.float32)})
    assert label.tolist() == [5, 7]
    np.testing.assert_allclose(got, scores, atol=1e-5)


def test_a_label_looked_up_in_python_and_reshaped_there_may_have_the_name_of_the_table() -> None:
    """Two host calls, both of whose outputs are called "label"."""
    proto = stump(class_weights=[0.2, 0.7], classlabels_strings=["no", "yes"])
    proto.graph.node[0].output[0] = "found"
    proto.graph.initializer.append(helper.make_tensor("rows", TensorProto.INT64, [2], [-1, 1]))
    proto.graph.node.append(helper.make_node("Reshape", ["found", "rows"], ["label"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", TensorProto.STRING, None))
    label, _ = Session(proto).run({"x": np.array([[-1.0], [1.0]], np.float32)})
    assert label.tolist() == [["no"], ["yes"]]


def test_doubles_are_compared_as_doubles() -> None:
    close = np.nextafter(1.0, 2.0)
    tensors = {"nodes_values_as_tensor": [1.0, 0, 0], "class_weights_as_tensor": [0.25, 0.75]}
    given = {name: helper.make_tensor(name, TensorProto.DOUBLE, [len(v)], v) for name, v in tensors.items()}
    proto = stump(classlabels_int64s=[5, 7], nodes_values=None, **given)
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    label, scores = Session(proto).run({"x": np.array([[1.0], [close]])})
    assert label.tolist() == [5, 7]
    assert scores.dtype == np.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nodes_truenodeids": [8, 0, 0]}, "does not have"),
        ({"nodes_truenodeids": [0, 0, 0]}, "twice"),
        ({"nodes_modes": ["BRANCH_LEQ", "LEAF", "TWIG"]}, "mode"),
        ({"class_ids": [0, 6]}, "class_ids"),
        ({"nodes_values": [0.0]}, "lengths"),
        ({"nodes_nodeids": [0, 1, 1]}, "one number"),
    ],
)
def test_malformed_trees_are_named(wrong, message) -> None:
    with pytest.raises(errors.ModelError, match=message):
        Session(stump(**({"class_weights": [0.2, 0.7], "classlabels_int64s": [5, 7]} | wrong)))


def test_missing_features_are_an_error() -> None:
    session = Session(stump(class_weights=[0.2, 0.7], classlabels_int64s=[5, 7]))
    with pytest.raises(errors.ShapeError, match="feature 0"):
        session.run({"x": np.zeros((3, 0), np.float32)})


def test_random_forest_of_scikit_learn() -> None:
    x = RNG.normal(size=(300, 6)).astype(np.float32)
    trained = RandomForestClassifier(15, max_depth=6, random_state=0).fit(x, (x[:, :3].argmax(1)))
    attributes: dict[str, list] = {}
    for number, tree in enumerate(estimator.tree_ for estimator in trained.estimators_):
        leaf = tree.children_left < 0
        shares = (tree.value[:, 0] / tree.value[:, 0].sum(1, keepdims=True) / 15)[leaf]
        count = tree.node_count
        columns = {
            "nodes_treeids": [number] * count,
            "nodes_nodeids": range(count),
            "nodes_values": tree.threshold,
            "nodes_featureids": np.maximum(tree.feature, 0),
            "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
            "nodes_truenodeids": np.maximum(tree.children_left, 0),
            "class_ids": [0, 1, 2] * leaf.sum(),
            "nodes_falsenodeids": np.maximum(tree.children_right, 0),
            "class_weights": shares.reshape(-1),
            "class_treeids": [number] * 3 * leaf.sum(),
            "class_nodeids": np.repeat(np.flatnonzero(leaf), 3),
        }
        for name, column in columns.items():
            attributes.setdefault(name, []).extend(np.asarray(column).tolist())
    session = Session(model("TreeEnsembleClassifier", {"y": 7, "z": 1}, classlabels_int64s=[0, 1, 2], **attributes))
    label, share = session.run({"x": x})
    np.testing.assert_allclose(share, trained.predict_proba(x), atol=1e-6)
    assert (label == trained.predict(x)).mean() > 0.99  # ties may fall the other way in float32
