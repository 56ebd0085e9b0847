"""scikit-learn: estimators and pipelines, from joblib, pickle or skops files, by skl2onnx.

Inputs are one matrix of floats, one column of text, or, where a pipeline chooses columns by name, one input per column.
Classifiers give labels and probabilities as tensors, not as a list of dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.boosting import register_for_pipelines
from sardonyx.converters.source import Input, Request, Source
from sardonyx.errors import ConversionError, InputError, SourceError


class ScikitLearn(Source):
    """An estimator, transformer or pipeline."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.model = made if made is not None else _load(request)
        if not hasattr(self.model, "fit"):
            raise SourceError(f"the file holds a {type(self.model).__name__}, which is no estimator")
        self.columns = columns(self.model)
        self._inputs = self._described()

    def _described(self) -> list[Input]:
        if self.columns is not None:
            return self.columns
        first = _steps(self.model)[0]
        if _takes_text(first):
            return [Input("text", "string", ("batch",), choices=_words(first))]
        width = getattr(self.model, "n_features_in_", None) or getattr(first, "n_features_in_", None)
        if width is None:
            raise InputError("the model was not fitted: how many features it takes is unknown", hint="Fit it first.")
        return [Input("X", "float32", ("batch", int(width)))]

    def export(self, path: Path) -> list[str]:
        """By skl2onnx."""
        import skl2onnx
        from skl2onnx.common import data_types as kinds

        register_for_pipelines()
        types = []
        for each in self._inputs:
            kind = kinds.StringTensorType if each.dtype == "string" else kinds.FloatTensorType
            types.append((each.name, kind([None, *(each.shape[1:] if each.name != "text" else ())])))
        options: dict[Any, Any] = {}
        if hasattr(self.model, "predict_proba"):
            options[id(self.model)] = {"zipmap": False}
        self.progress("converting by skl2onnx")
        try:
            model = skl2onnx.convert_sklearn(
                self.model, initial_types=types, options=options, target_opset=self.request.opset
            )
        except Exception as problem:
            raise _refused(problem) from problem
        path.write_bytes(model.SerializeToString())
        return [f"converted by skl2onnx {skl2onnx.__version__}"]

    def inputs(self) -> Sequence[Input]:
        """A matrix, a text, or one column each."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Labels and probabilities, values, or the transformed matrix."""
        data = self._table(feeds) if self.columns is not None else next(iter(feeds.values()))
        if self._inputs[0].name == "text":
            data = [str(item) for item in data.reshape(-1)]
        if hasattr(self.model, "predict_proba"):
            return [np.asarray(self.model.predict(data)), np.asarray(self.model.predict_proba(data), np.float32)]
        if hasattr(self.model, "predict"):
            return self._predicted(data)
        out = self.model.transform(data)
        return [np.asarray(out.toarray() if hasattr(out, "toarray") else out, np.float32)]

    def _predicted(self, data: Any) -> list[np.ndarray]:
        from sklearn.base import is_classifier

        values = np.asarray(self.model.predict(data))
        if is_classifier(self.model) and hasattr(self.model, "decision_function"):
            return [values, np.asarray(self.model.decision_function(data), np.float32)]
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        return [values.reshape(len(values), -1)]

    def _table(self, feeds: Mapping[str, np.ndarray]) -> Any:
        import pandas

        return pandas.DataFrame({name: value.reshape(-1) for name, value in feeds.items()})


def columns(model: Any) -> list[Input] | None:
    """One input per named column, where the first step chooses columns by name; else None."""
    first = _steps(model)[0]
    names = getattr(first, "feature_names_in_", None)
    if names is None or not hasattr(first, "transformers_"):
        return None
    found = {}
    for _, transformer, chosen in first.transformers_:
        chosen = [chosen] if isinstance(chosen, str) else list(chosen)
        for position, column in enumerate(chosen):
            name = str(column if isinstance(column, str) else names[column])
            choices = _categories(transformer, position)
            text = bool(choices) or _takes_text(_steps(transformer)[0])
            if not text or name not in found:
                shape = ("batch", 1)
                found[name] = Input(name, "string" if text else "float32", shape, choices=choices)
    return [found[str(name)] for name in names if str(name) in found]


def _steps(model: Any) -> list[Any]:
    """The steps of a pipeline, nested ones too; of another estimator that itself, or what it wraps."""
    if hasattr(model, "steps"):
        return [inner for _, step in model.steps for inner in _steps(step)]
    for name in ("best_estimator_", "estimator"):
        inner = getattr(model, name, None)
        if hasattr(inner, "steps"):
            return _steps(inner)
    return [model]


def _takes_text(step: Any) -> bool:
    return type(step).__name__ in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


def _words(step: Any) -> tuple[str, ...]:
    """Texts of words that the model knows."""
    known = sorted(getattr(step, "vocabulary_", {}))[:60]
    return tuple(" ".join(known[start : start + 5]) for start in range(0, len(known), 5))


def _categories(transformer: Any, position: int) -> tuple[str, ...]:
    """Texts that an encoder of categories was fitted with."""
    for step in _steps(transformer):
        fitted = getattr(step, "categories_", None)
        if fitted is not None and position < len(fitted):
            values = np.asarray(fitted[position])
            return tuple(str(value) for value in values) if values.dtype.kind in "OU" else ()
    return ()


def _load(request: Request) -> Any:
    path = request.source
    try:
        if request.kind == "skops":
            import skops.io

            unknown = skops.io.get_untrusted_types(file=path)
            if unknown and not request.trust:
                raise SourceError(
                    f"the file holds types that skops does not trust: {', '.join(unknown[:5])}",
                    hint="If you know where it comes from: --trust.",
                )
            return skops.io.load(path, trusted=unknown)
        import joblib

        return joblib.load(path)
    except SourceError:
        raise
    except ModuleNotFoundError as problem:
        raise SourceError(
            f"the pickle needs the package {problem.name!r}", hint=f"pip install {problem.name}"
        ) from problem
    except Exception as problem:
        raise SourceError(f"{path!r} cannot be read: {type(problem).__name__}: {problem}") from problem


def _refused(problem: Exception) -> ConversionError:
    first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
    return ConversionError(
        f"skl2onnx refuses the model: {first[:400]}",
        hint="Only the parts that skl2onnx knows convert; replace custom transformers by standard ones.",
    )


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the source with scikit-learn."""
    return ScikitLearn(request, progress, made)
