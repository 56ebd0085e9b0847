"""Estimators and pipelines of scikit-learn, trained on its own data, against scikit-learn itself."""

import importlib.util

import joblib
import numpy as np
import onnx
import pytest
from sklearn import (
    calibration,
    compose,
    datasets,
    ensemble,
    linear_model,
    neighbors,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from sardonyx import Session, SessionOptions
from sardonyx.converters import ranges
from sardonyx.converters.convert import convert
from sardonyx.converters.sklearn import token_expression
from sardonyx.errors import ConversionError, SourceError
from sardonyx.model.load import load

pytestmark = pytest.mark.skipif(importlib.util.find_spec("skl2onnx") is None, reason="skl2onnx is not installed")

TEXTS = ["good naïve day", "a bad, bad night", "good good!", "what a bad end", "Ωmega is good", "x-ray: bad"]


@pytest.fixture(scope="module")
def iris():
    x, y = datasets.load_iris(return_X_y=True)
    return x.astype(np.float32), y


def outputs(path):
    return [value.name for value in onnx.load(path).graph.output]


def test_labels_and_probabilities_of_a_pipeline(iris, tmp_path):
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    result = convert(model.fit(*iris), tmp_path / "model.onnx")
    assert outputs(result.path) == ["label", "probabilities"]
    session = Session(str(result.path), SessionOptions(progress=False))
    assert all(place.provider == "native" for place in session.placement())
    label, probabilities = session.run({"X": iris[0]})
    np.testing.assert_array_equal(label, model.predict(iris[0]))
    np.testing.assert_allclose(probabilities, model.predict_proba(iris[0]), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        svm.LinearSVC(),
        ensemble.HistGradientBoostingClassifier(max_iter=3),
        ensemble.VotingClassifier(
            [("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(max_depth=3))], voting="soft"
        ),
    ],
    ids=lambda model: type(model).__name__,
)
def test_classifiers(iris, tmp_path, model):
    assert len(outputs(convert(model.fit(*iris), tmp_path / "model.onnx").path)) == 2


@pytest.mark.parametrize("classes", [2, 3])
def test_isotonic_calibration_interpolates(iris, tmp_path, classes):
    x, y = iris
    y = np.minimum(y, classes - 1)
    model = calibration.CalibratedClassifierCV(svm.LinearSVC(), method="isotonic", cv=3).fit(x, y)
    path = convert(model, tmp_path / "model.onnx").path
    between = (x[:-1] + x[1:]) / 2
    _, found = Session(str(path), SessionOptions(progress=False)).run({"X": between})
    np.testing.assert_allclose(found, model.predict_proba(between), atol=1e-4)  # slopes of up to 100 and more


def test_a_neighbour_at_distance_0_decides_alone_and_others_by_their_distance(iris, tmp_path):
    x = iris[0] + np.random.default_rng(0).normal(0, 1e-3, iris[0].shape).astype(np.float32)  # no two are equal
    model = neighbors.KNeighborsClassifier(weights="distance").fit(x, iris[1])
    path = convert(model, tmp_path / "model.onnx").path
    queries = np.concatenate([x, np.random.default_rng(1).uniform(x.min(0), x.max(0), (101, 4)).astype(np.float32)])
    _, found = Session(str(path), SessionOptions(progress=False)).run({"X": queries})
    np.testing.assert_allclose(found, model.predict_proba(queries), atol=1e-6)


def test_two_classes_without_probabilities(iris, tmp_path):
    x, y = iris
    assert convert(svm.SVC().fit(x[:100], y[:100]), tmp_path / "model.onnx").report.passed


def test_trees_are_compared_on_both_sides_of_their_splits(tmp_path):
    """Features far from 0: normal noise would take the same path through every tree."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1000, 2000, (200, 3)).astype(np.float32)
    model = tree.DecisionTreeRegressor(max_depth=4, random_state=0).fit(x, x[:, 0] + x[:, 1] * 2)
    path = convert(model, tmp_path / "model.onnx").path
    low, high = ranges.of_trees(load(path), 3)
    assert 900 < low[0] < high[0] < 2100
    assert (low[2], high[2]) == pytest.approx((-1.2, 1.2)) or low[2] > 900  # a feature that may go unused


def test_columns_of_numbers_and_words(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"age": rng.uniform(20, 60, 90), "town": rng.choice(["Bonn", "Köln", "Ulm"], 90)})
    columns = compose.ColumnTransformer(
        [("numbers", preprocessing.StandardScaler(), ["age"]), ("words", preprocessing.OneHotEncoder(), ["town"])]
    )
    model = pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(table, rng.integers(0, 2, 90))
    result = convert(model, tmp_path / "model.onnx")
    assert [value.name for value in onnx.load(result.path).graph.input] == ["age", "town"]


@pytest.mark.parametrize("words", [TfidfVectorizer(stop_words="english"), CountVectorizer(ngram_range=(1, 2))])
def test_from_text_to_probability_as_scikit_learn_finds_words(tmp_path, words):
    model = pipeline.make_pipeline(words, linear_model.LogisticRegression()).fit(TEXTS, [1, 0, 1, 0, 1, 0])
    path = convert(model, tmp_path / "model.onnx", samples=[{"text": np.array(TEXTS, object)}]).path
    texts = ["NAÏVE Ωmega", "x good-bad b", "", "a a a bad night"]
    _, found = Session(str(path), SessionOptions(progress=False)).run({"text": np.array(texts, object)})
    np.testing.assert_allclose(found, model.predict_proba(texts), atol=1e-6)


def test_stop_words_before_n_grams_are_refused(tmp_path):
    words = TfidfVectorizer(stop_words=["a"], ngram_range=(1, 2))
    model = pipeline.make_pipeline(words, linear_model.LogisticRegression()).fit(TEXTS, [1, 0, 1, 0, 1, 0])
    with pytest.raises(ConversionError, match="stop words") as caught:
        convert(model, tmp_path / "model.onnx")
    assert caught.value.operator == "TfidfVectorizer"
    assert not list(tmp_path.iterdir())


def test_patterns_of_words():
    assert token_expression(r"(?u)\b\w\w+\b") == r"[\p{L}\p{N}_]{2,}"
    assert token_expression("[a-z]+") == "[a-z]+"


def test_a_joblib_file_needs_trust(iris, tmp_path):
    path = tmp_path / "model.joblib"
    joblib.dump(tree.DecisionTreeClassifier(max_depth=2).fit(*iris), path)
    with pytest.raises(SourceError, match="pickle"):
        convert(path, tmp_path / "out" / "model.onnx")
    assert convert(path, tmp_path / "out" / "model.onnx", trust=True).kind == "sklearn"


def test_an_estimator_without_onnx_form_says_so(iris, tmp_path):
    from sklearn.neighbors import NearestCentroid

    with pytest.raises(ConversionError, match="NearestCentroid"):
        convert(NearestCentroid().fit(*iris), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
