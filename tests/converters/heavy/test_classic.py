"""scikit-learn, XGBoost, LightGBM and CatBoost: real models, and files of each kind, against their libraries."""

import numpy as np
import pytest
import sklearn
from converters.heavy.classic_models import TEXTS, cancer, package, profanity, voice
from converters.heavy.common import converted
from sklearn import (
    calibration,
    cluster,
    compose,
    datasets,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    linear_model,
    mixture,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import clone

from sardonyx import Session, SessionOptions
from sardonyx.converters.convert import convert
from sardonyx.errors import SourceError

pytestmark = pytest.mark.converters
MODELS = "tests.converters.heavy.classic_models"


def test_from_text_to_probability_of_profanity():
    sample = {"text": np.array(TEXTS, object)}
    path = converted(f"{MODELS}:profanity", "alt-profanity-check 1.9.1", "text to probability", samples=[sample]).path
    _, found = Session(str(path), SessionOptions(progress=False)).run(sample)
    np.testing.assert_allclose(found, profanity().predict_proba(TEXTS), atol=1e-6)


def test_sleep_stages_by_lightgbm():
    source = package("yasa") / "classifiers" / "clf_eeg_lgb_0.5.0.joblib"
    with pytest.raises(SourceError, match="pickle"):
        convert(source, "never.onnx")
    converted(source, "yasa 0.6.5", "clf_eeg_lgb", trust=True)


def test_a_voice_by_xgboost(tmp_path):
    assert converted(voice(tmp_path / "voice.json"), "voice2gender 0.1.1", "booster").kind == "xgboost"


ESTIMATORS = {
    "calibrated": calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=3),
    "stacking": ensemble.StackingClassifier([("a", naive_bayes.GaussianNB()), ("b", tree.DecisionTreeClassifier())]),
    "voting": ensemble.VotingClassifier([("a", naive_bayes.GaussianNB()), ("b", tree.DecisionTreeClassifier())]),
    "forest": ensemble.RandomForestClassifier(n_estimators=20),
    "histogram boosting": ensemble.HistGradientBoostingClassifier(max_iter=20),
    "isolation forest": ensemble.IsolationForest(n_estimators=20),
    "isotonic calibration": calibration.CalibratedClassifierCV(svm.LinearSVC(), method="isotonic", cv=3),
    "naive bayes": naive_bayes.GaussianNB(),
    "quadratic discriminant": discriminant_analysis.QuadraticDiscriminantAnalysis(),
    "gaussian mixture": mixture.GaussianMixture(3, random_state=0),
    "neighbours by distance": neighbors.KNeighborsClassifier(weights="distance"),
    "support vector regression": svm.SVR(),
    "svm": svm.SVC(),
    "neighbours": neighbors.KNeighborsClassifier(),
    "gaussian process": gaussian_process.GaussianProcessRegressor(normalize_y=True),
    "perceptron": neural_network.MLPClassifier(hidden_layer_sizes=(7,), max_iter=50),
    "k means": cluster.KMeans(3, n_init=2),
    "bins": preprocessing.KBinsDiscretizer(3),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_pipelines_trained_on_scikit_learns_own_data(name):
    x, y = datasets.load_iris(return_X_y=True)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), clone(ESTIMATORS[name])).fit(x.astype(np.float32), y)
    converted(model, f"scikit-learn {sklearn.__version__}, trained on iris", name)


def test_columns_of_numbers_and_words(tmp_path):
    import pandas

    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"age": rng.uniform(20, 60, 90), "town": rng.choice(["Bonn", "Köln", "Ulm"], 90)})
    columns = compose.ColumnTransformer(
        [("numbers", preprocessing.StandardScaler(), ["age"]), ("words", preprocessing.OneHotEncoder(), ["town"])]
    )
    model = pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(table, rng.integers(0, 2, 90))
    converted(model, f"scikit-learn {sklearn.__version__}, trained on random columns", "column transformer")


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_files_of_xgboost(tmp_path, suffix):
    import xgboost

    path = tmp_path / f"model.{suffix}"
    xgboost.XGBRegressor(n_estimators=7, max_depth=3).fit(*cancer()).save_model(path)
    assert convert(path, tmp_path / "model.onnx").kind == "xgboost"


def test_a_file_of_lightgbm(tmp_path):
    import lightgbm

    path = tmp_path / "model.txt"
    lightgbm.LGBMClassifier(n_estimators=7, verbose=-1).fit(*cancer()).booster_.save_model(path)
    assert convert(path, tmp_path / "model.onnx").kind == "lightgbm"


@pytest.mark.parametrize("form", ["cbm", "json"])
def test_files_of_catboost(tmp_path, form):
    import catboost

    path = tmp_path / f"model.{form}"
    model = catboost.CatBoostClassifier(iterations=7, verbose=False, allow_writing_files=False).fit(*cancer())
    model.save_model(str(path), format=form)
    assert convert(path, tmp_path / "model.onnx").kind == "catboost"


def test_a_pipeline_in_a_skops_file_needs_no_trust(tmp_path):
    import skops.io
    from sklearn import decomposition

    steps = preprocessing.StandardScaler(), decomposition.PCA(5), linear_model.LogisticRegression()
    skops.io.dump(pipeline.make_pipeline(*steps).fit(*cancer()), tmp_path / "model.skops")
    assert convert(tmp_path / "model.skops", tmp_path / "model.onnx").kind == "skops"


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
def test_half_a_file_is_refused(tmp_path, library):
    import catboost
    import lightgbm
    import xgboost

    path = tmp_path / "model.bin"
    if library == "xgboost":
        path = tmp_path / "model.json"
        xgboost.XGBRegressor(n_estimators=3).fit(*cancer()).save_model(path)
    elif library == "lightgbm":
        lightgbm.LGBMRegressor(n_estimators=3, verbose=-1).fit(*cancer()).booster_.save_model(path)
    else:
        catboost.CatBoost({"iterations": 3, "verbose": False, "allow_writing_files": False}).fit(*cancer()).save_model(
            str(path)
        )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError):
        convert(path, tmp_path / "out" / "model.onnx", kind=library)
    assert not list((tmp_path / "out").glob("*"))
