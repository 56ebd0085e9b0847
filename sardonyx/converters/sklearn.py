"""scikit-learn: estimators and pipelines, from joblib, pickle or skops files, by skl2onnx.

Inputs are one matrix of floats, one column of text, or, where a pipeline chooses columns by name, one input per column.
Classifiers give labels and probabilities as tensors, not as a list of dictionaries.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters import ranges
from sardonyx.converters.boosting import register_for_pipelines
from sardonyx.converters.sklearn_fixes import corrected
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
        known = ranges.of_estimator(first)
        if known is not None and len(known[0]) == width:
            return [Input("X", "float32", ("batch", int(width)), *known)]
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
        self.progress("converting by skl2onnx")
        opset = self.request.opset or min(skl2onnx.get_latest_tested_opset_version(), 21)
        try:
            with corrected(), _other_settings(_steps(self.model)), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what skl2onnx asks scikit-learn for
                model = self._converted(types, {"": opset, "ai.onnx.ml": 3})
        except ConversionError:
            raise
        except Exception as problem:
            raise _refused(problem) from problem
        finish(model, len(self._functions()))
        path.write_bytes(model.SerializeToString())
        self._read_trees(path)
        return [f"converted by skl2onnx {skl2onnx.__version__}"]

    def _converted(self, types: list[Any], opsets: dict[str, int]) -> Any:
        """By skl2onnx; scores as a tensor, and words as scikit-learn finds them."""
        import skl2onnx

        options: dict[Any, Any] = {}
        for step in _steps(self.model):
            check_text(step)
            if _takes_text(step) and getattr(step, "analyzer", "") == "word":
                options[id(step)] = {"tokenexp": token_expression(step.token_pattern)}
        if self._classifies():
            options[id(self.model)] = {"zipmap": False}
            if self._is_plain_svm():
                options[id(self.model)]["raw_scores"] = True  # else the two columns are those of the classes exchanged
        try:
            return skl2onnx.convert_sklearn(self.model, initial_types=types, options=options, target_opset=opsets)
        except NameError as problem:  # of a model that knows no such option
            if "zipmap" not in str(problem):
                raise
            options.pop(id(self.model))
            return skl2onnx.convert_sklearn(self.model, initial_types=types, options=options, target_opset=opsets)

    def _read_trees(self, path: Path) -> None:
        """Values that the splits of trees tell apart, where nothing else is known of a matrix."""
        from sardonyx.model.load import load

        [first, *others] = self._inputs
        if not others and first.dtype == "float32" and first.low is None and len(first.shape) == 2:
            known = ranges.of_trees(load(path), int(first.shape[1]))
            if known is not None:
                self._inputs = [replace(first, low=known[0], high=known[1])]

    def inputs(self) -> Sequence[Input]:
        """A matrix, a text, or one column each."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Labels and probabilities, values, or the transformed matrix."""
        data = self._table(feeds) if self.columns is not None else next(iter(feeds.values()))
        if self._inputs[0].name == "text":
            data = [str(item) for item in data.reshape(-1)]
        found = []
        for number, function in enumerate(self._functions()):
            value = function(data)
            value = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
            if number == 0 and len(self._functions()) > 1:
                value = value.reshape(-1)  # labels
            elif value.ndim < 2 and not self._classifies():
                value = value.reshape(len(value), -1)
            found.append(value.astype(np.float32) if value.dtype.kind == "f" else value)
        return found

    def _classifies(self) -> bool:
        from sklearn.base import is_classifier

        return bool(is_classifier(self.model))

    def _is_plain_svm(self) -> bool:
        """A support vector classifier without probabilities."""
        from sklearn.svm import SVC, NuSVC

        return isinstance(self.model, SVC | NuSVC) and not hasattr(self.model, "predict_proba")

    def _functions(self) -> list[Callable[[Any], Any]]:
        """What the outputs of the ONNX model hold, as methods of the estimator."""
        from sklearn.base import is_clusterer, is_outlier_detector

        model = self.model
        if is_outlier_detector(model):
            return [model.predict, model.decision_function]
        if is_clusterer(model) and hasattr(model, "transform"):
            return [model.predict, model.transform]
        if hasattr(model, "predict_proba"):
            return [model.predict, model.predict_proba]
        if self._classifies() and hasattr(model, "decision_function"):
            return [model.predict, lambda data: both_classes(model.decision_function(data))]
        return [model.predict if hasattr(model, "predict") else model.transform]

    def _table(self, feeds: Mapping[str, np.ndarray]) -> Any:
        import pandas

        return pandas.DataFrame({name: value.reshape(-1) for name, value in feeds.items()})


def both_classes(scores: np.ndarray) -> np.ndarray:
    """Scores of two classes, where scikit-learn gives those of the second alone."""
    scores = np.asarray(scores)
    return np.stack([-scores, scores], 1) if scores.ndim == 1 else scores


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


def token_expression(pattern: str) -> str:
    """A pattern of tokens for RE2, in which word characters and boundaries are those of ASCII.

    Greedy runs of word characters begin and end at word boundaries by themselves.
    """
    plain = re.sub(r"^\(\?u\)", "", pattern)
    if plain == r"\b\w\w+\b":
        return r"[\p{L}\p{N}_]{2,}"
    if plain == r"\b\w+\b":
        return r"[\p{L}\p{N}_]+"
    return plain


def check_text(step: Any) -> None:
    """Refuse what the operators of text cannot say.

    Raises:
        ConversionError: words are left out before they are joined to n-grams.
    """
    if getattr(step, "stop_words", None) and getattr(step, "ngram_range", (1, 1))[1] > 1:
        raise ConversionError(
            "stop words are removed before words are joined: the neighbours that remain have no ONNX form",
            operator=type(step).__name__,
            hint="Use stop_words=None with n-grams, or ngram_range=(1, 1).",
        )


# Settings that skl2onnx refuses though they change no number: how `transform` of votes is laid out, and sparseness.
_SETTINGS = (("flatten_transform", True, False), ("encode", "onehot", "onehot-dense"))


@contextlib.contextmanager
def _other_settings(steps: Sequence[Any]) -> Iterator[None]:
    """The steps with settings that skl2onnx takes, for a while."""
    changed = [(s, name, old, new) for s in steps for name, old, new in _SETTINGS if getattr(s, name, None) == old]
    for step, name, _, new in changed:
        setattr(step, name, new)
    try:
        yield
    finally:
        for step, name, old, _ in changed:
            setattr(step, name, old)


def finish(model: Any, count: int) -> None:
    """Drop outputs that the estimator has no method for; labels, the first of two, are a vector whatever they were."""
    import onnx

    graph = model.graph
    del graph.output[count:]
    output = graph.output[0]
    makers = {name: node for node in graph.node for name in node.output}
    maker = makers.get(output.name)
    while maker is not None and maker.op_type == "Identity":
        maker = makers.get(maker.input[0])
    if count < 2 or (maker is not None and maker.op_type.endswith("Classifier")):  # those give a vector by definition
        return
    inner, name = f"{output.name}_of_any_shape", output.name
    for node in graph.node:
        node.output[:] = [inner if each == name else each for each in node.output]
        node.input[:] = [inner if each == name else each for each in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), f"{name}_shape"))
    graph.node.append(onnx.helper.make_node("Reshape", [inner, f"{name}_shape"], [name], name=f"{name}_vector"))
    kind = output.type.tensor_type.elem_type
    output.type.CopyFrom(onnx.helper.make_tensor_type_proto(kind, ["batch"]))


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
