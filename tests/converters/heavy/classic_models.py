"""Models of packages that are not files by themselves: what `module:factory` names, or a test writes to a file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import joblib
import numpy as np
from sklearn import datasets, pipeline

TEXTS = [
    "What a lovely day, thank you!",
    "you are a bloody idiot",
    "go to hell, you piece of shit",
    "The naïve café owner wrote: 'x-ray at 9:30'",
    "Ärger über Straße № 5 ... damn",
    "",
]


def package(name: str) -> Path:
    """The folder of a package, which is not imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"the package {name} is missing"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def profanity():
    """From text to probability: the two estimators of the package as one pipeline."""
    data = package("profanity_check") / "data"
    return pipeline.make_pipeline(joblib.load(data / "vectorizer.joblib"), joblib.load(data / "model.joblib"))


def voice(path: Path) -> Path:
    """The booster that the package builds in Python, as a file of XGBoost."""
    spec = importlib.util.spec_from_file_location("voice_model", package("voice2gender") / "_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.booster.save_model(path)
    return path


def cancer() -> tuple[np.ndarray, np.ndarray]:
    """Two classes, 30 features of very different sizes."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return x.astype(np.float32), y
