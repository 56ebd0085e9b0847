"""Linear models, support vector machines and feature operators against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from sardonyx import Session, errors
from sardonyx.runtime.reference import evaluate

RNG = np.random.default_rng(5)
X = RNG.normal(size=(17, 4)).astype(np.float32)
Node = tuple[str, list[str], dict[str, Any]]


def model(nodes: list[Node], inputs: dict[str, np.ndarray], opset: int = 2) -> onnx.ModelProto:
    """One model of nodes that do not depend on each other; output k of node n is called n_k."""
    made, outputs = [], []
    for number, (operator, names, attributes) in enumerate(nodes):
        count = 2 if operator.endswith("Classifier") else 1
        results = [f"{number}_{k}" for k in range(count)]
        made.append(helper.make_node(operator, names, results, domain="ai.onnx.ml", **attributes))
        outputs += [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), [f"{name}_rows", x.shape[-1]])
        for name, x in inputs.items()
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", opset)]
    return helper.make_model(helper.make_graph(made, "g", values, outputs), opset_imports=imports, ir_version=9)


def compare(nodes: list[Node], opset: int = 2, hosted: set[str] = frozenset(), **inputs: np.ndarray) -> None:  # type: ignore[assignment]
    proto = model(nodes, inputs, opset)
    session = Session(proto)
    assert {p.operator for p in session.placement() if p.provider != "native"} == hosted
    results = zip(
        session.outputs,
        session.run(inputs),
        evaluate(ir.serde.deserialize_model(proto), inputs),
        strict=True,
    )
    for port, got, want in results:
        operator = nodes[int(port.name.partition("_")[0])]
        if np.asarray(want).dtype.kind in "US":
            assert got.astype(str).tolist() == want.tolist(), operator
        else:
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=str(operator))


def test_linear_models() -> None:
    weights, bias = RNG.normal(size=12).tolist(), [0.1, -0.2, 0.3]
    kinds = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")
    three = [
        (
            "LinearClassifier",
            ["x"],
            {
                "coefficients": weights,
                "intercepts": bias,
                "post_transform": kind,
                "classlabels_ints": [4, 2, 7],
            },
        )
        for kind in kinds
    ]
    two = [
        (
            "LinearClassifier",
            ["x"],
            {
                "coefficients": weights[:4],
                "intercepts": [0.1],
                "post_transform": kind,
                "classlabels_ints": [4, 2],
            },
        )
        for kind in kinds[:3]
    ]
    regressors = [
        ("LinearRegressor", ["x"], {"coefficients": weights, "intercepts": bias, "targets": 3}),
        ("LinearRegressor", ["x"], {"coefficients": weights[:4], "intercepts": [1.5]}),
    ]
    compare([*three, *two, *regressors], x=X)


def test_labels_that_are_strings() -> None:
    attributes = {
        "coefficients": RNG.normal(size=8).tolist(),
        "intercepts": [0.1, 0.2],
        "post_transform": "NONE",
    }
    compare(
        [("LinearClassifier", ["x"], attributes | {"classlabels_strings": ["no", "yes"]})],
        x=X,
    )


def svm(kernel: str, classes: int) -> dict[str, Any]:
    pairs = classes * (classes - 1) // 2
    return {
        "kernel_type": kernel,
        "kernel_params": [0.4, 0.1, 3.0],
        "support_vectors": RNG.normal(size=20).tolist(),
        "coefficients": RNG.normal(size=5 * (classes - 1)).tolist(),
        "rho": RNG.normal(size=pairs).tolist(),
        "vectors_per_class": [2, 3] if classes == 2 else [2, 1, 2],
        "classlabels_ints": [5, 7, 1][:classes],
        "post_transform": "NONE",
    }


def test_support_vector_machines() -> None:
    kernels = ("LINEAR", "RBF", "POLY", "SIGMOID")
    nodes: list[Node] = [("SVMClassifier", ["x"], svm(kernel, 3)) for kernel in kernels]
    nodes += [("SVMClassifier", ["x"], svm("RBF", 2) | {"post_transform": kind}) for kind in ("NONE", "LOGISTIC")]
    for kernel in kernels:
        machine = svm(kernel, 2)
        kept = {
            name: machine[name] for name in ("kernel_type", "kernel_params", "support_vectors", "coefficients", "rho")
        }
        nodes.append(("SVMRegressor", ["x"], kept | {"n_supports": 5, "one_class": int(kernel == "RBF")}))
    nodes.append(
        (
            "SVMRegressor",
            ["x"],
            {"coefficients": [0.1, 0.2, -0.3, 0.4], "rho": [0.5], "n_supports": 0},
        )
    )
    compare(nodes, x=X)


def test_probabilities_of_three_classes_by_pairwise_coupling() -> None:
    """On the host; against ONNX Runtime, since the standard's own evaluator has it wrong (`reference_fixes`)."""
    runtime = pytest.importorskip("onnxruntime")
    proto = model(
        [("SVMClassifier", ["x"], svm("RBF", 3) | {"prob_a": [-1.5, -0.7, -2.0], "prob_b": [0.1, 0, -0.3]})], {"x": X}
    )
    for value, kind in zip(proto.graph.output, (TensorProto.INT64, TensorProto.FLOAT), strict=True):
        value.type.tensor_type.elem_type = kind
    _, expected = runtime.InferenceSession(proto.SerializeToString()).run(None, {"x": X})
    _, found = Session(proto).run({"x": X})
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_features() -> None:
    x = X.copy()
    x[::5, 1], x[3] = np.nan, 0
    whole = RNG.integers(-2, 5, (9, 3))
    nodes: list[Node] = [("Normalizer", ["y"], {"norm": norm}) for norm in ("MAX", "L1", "L2")]
    nodes += [
        ("Scaler", ["x"], {"offset": [0.5], "scale": [2.0]}),
        ("Scaler", ["x"], {"offset": [0.5, 1, 2, 3], "scale": [2.0, -1, 0, 1]}),
        (
            "Imputer",
            ["x"],
            {"imputed_value_floats": [1.0, 2, 3, 4], "replaced_value_float": float("nan")},
        ),
        ("Imputer", ["x"], {"imputed_value_floats": [9.0], "replaced_value_float": 0.0}),
        ("Imputer", ["i"], {"imputed_value_int64s": [9], "replaced_value_int64": 2}),
        ("Binarizer", ["x"], {"threshold": 0.3}),
        ("OneHotEncoder", ["i"], {"cats_int64s": [3, 0, -1]}),
        ("FeatureVectorizer", ["x", "y"], {"inputdimensions": [3, 6]}),
        (
            "LabelEncoder",
            ["i"],
            {
                "keys_int64s": [4, -1, 2, 3, 2],
                "values_floats": [0.5, 1, 2, 3, 7],
                "default_float": -8.0,
            },
        ),
        (
            "LabelEncoder",
            ["i"],
            {
                "keys_int64s": list(range(-1, 4)),
                "values_int64s": [5, 6, 7, 8, 9],
                "default_int64": 1,
            },
        ),
    ]
    compare(nodes, x=x, y=np.where(np.isnan(x), 0, x), i=whole)


def test_one_hot_encoding_of_unknown_categories_is_an_error_when_asked_for() -> None:
    proto = model(
        [("OneHotEncoder", ["i"], {"cats_int64s": [1, 2], "zeros": 0})],
        {"i": np.ones((2, 2), np.int64)},
    )
    session = Session(proto)
    assert session.run({"i": np.array([[1, 2]])})[0].tolist() == [[[1, 0], [0, 1]]]
    with pytest.raises(errors.RuntimeFailure):
        session.run({"i": np.array([[1, 3]])})


def test_scores_as_maps() -> None:
    """What scikit-learn's converter ends classifiers with."""
    zip_map = helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c", "d"])
    value = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    output = helper.make_value_info("maps", helper.make_sequence_type_proto(value))
    graph = helper.make_graph([zip_map], "g", [helper.make_tensor_value_info("x", 1, ["n", 4])], [output])
    session = Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=9))
    (maps,) = session.run({"x": X})
    assert session.outputs[0].type == "seq(map(string,tensor(float)))"
    assert [list(row.values()) for row in maps] == X.tolist()
    assert list(maps[0]) == ["a", "b", "c", "d"]


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(errors.ModelError, match="intercepts"):
        Session(
            model(
                [("LinearRegressor", ["x"], {"coefficients": [1.0] * 4, "intercepts": [1.0, 2.0]})],
                {"x": X},
            )
        )
    with pytest.raises(errors.SardonyxError, match="features"):
        Session(model([("LinearRegressor", ["x"], {"coefficients": [1.0] * 3})], {"x": X}))
