"""XGBoost, LightGBM and CatBoost: model files and models in memory.

A bare Booster predicts probabilities or raw values only; the labels that the ONNX model gives too are derived from
them for the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters import ranges
from sardonyx.converters.source import Input, Request, Source
from sardonyx.errors import ConversionError, SourceError
from sardonyx.model.load import load


class Boosting(Source):
    """A gradient boosting model."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.library = _library(request, made)
        self.model = made if made is not None else _load(self.library, request.source)
        self._known: ranges.Range | None = None

    def export(self, path: Path) -> list[str]:
        """By onnxmltools, or by CatBoost itself."""
        self.progress(f"converting from {self.library}")
        try:
            if self.library == "catboost":
                self.model.save_model(str(path), format="onnx", export_parameters={"onnx_domain": "ai.onnx.ml"})
                without_zipmap(path)
                self._known = ranges.of_trees(load(path), self.width())
                return ["converted by CatBoost"]
            import onnxmltools
            from onnxmltools.convert.common.data_types import FloatTensorType

            types = [("X", FloatTensorType([None, self.width()]))]
            if self.library == "lightgbm":
                model = onnxmltools.convert_lightgbm(self.model, initial_types=types, zipmap=False)
            else:
                model = onnxmltools.convert_xgboost(self.model, initial_types=types)
        except Exception as problem:
            text = str(problem).strip().splitlines() or [type(problem).__name__]
            raise ConversionError(f"the {self.library} model cannot be converted: {text[0][:400]}") from problem
        path.write_bytes(model.SerializeToString())
        self._known = ranges.of_trees(load(path), self.width())
        return [f"converted by onnxmltools {onnxmltools.__version__}"]

    def width(self) -> int:
        """Number of features."""
        for name in ("n_features_in_", "n_features_", "num_features", "num_feature"):
            found = getattr(self.model, name, None)
            if found is not None:
                return int(found() if callable(found) else found)
        return len(self.model.feature_names_)

    def inputs(self) -> Sequence[Input]:
        """One matrix of floats, with values on both sides of the splits."""
        name = "features" if self.library == "catboost" else "X"
        return [Input(name, "float32", ("batch", self.width()), *(self._known or (None, None)))]

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Labels and probabilities of a classifier, values of a regressor."""
        x = next(iter(feeds.values()))
        if hasattr(self.model, "predict_proba"):
            labels = np.asarray(self.model.predict(x)).reshape(-1)
            return [labels, np.asarray(self.model.predict_proba(x), np.float32)]
        if self.library == "xgboost":
            import xgboost

            raw = np.asarray(
                self.model.predict(xgboost.DMatrix(x)) if _is_booster(self.model) else self.model.predict(x)
            )
        else:
            raw = np.asarray(self.model.predict(x))
        if not self._classifies():
            return [raw.astype(np.float32).reshape(len(raw), -1)]
        both = np.stack([1 - raw, raw], 1) if raw.ndim == 1 else raw
        return [both.argmax(1), both.astype(np.float32)]

    def _classifies(self) -> bool:
        if not _is_booster(self.model):
            return False
        if self.library == "xgboost":
            import json

            objective = json.loads(self.model.save_config())["learner"]["objective"]["name"]
        else:
            objective = self.model.dump_model()["objective"]
        return objective.startswith(("binary", "multi", "softmax"))


def without_zipmap(path: Path) -> None:
    """Probabilities as a tensor, where the exporter turns them into a list of dictionaries at the end."""
    import onnx

    model = onnx.load(path)
    for node in [node for node in model.graph.node if node.op_type == "ZipMap"]:
        output = next(value for value in model.graph.output if value.name == node.output[0])
        for maker in model.graph.node:
            maker.output[:] = [output.name if name == node.input[0] else name for name in maker.output]
        model.graph.node.remove(node)
        output.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)


def _is_booster(model: Any) -> bool:
    return type(model).__name__ == "Booster"


def _library(request: Request, made: Any) -> str:
    if made is None:
        return request.kind
    for base in type(made).__mro__:
        name = base.__module__.partition(".")[0]
        if name in ("xgboost", "lightgbm", "catboost"):
            return name
    raise SourceError(f"a {type(made).__name__} is of none of the libraries that are known here")


def _load(library: str, path: str) -> Any:
    try:
        if library == "xgboost":
            import xgboost

            model = xgboost.Booster()
            model.load_model(path)
            model.feature_names = model.feature_types = None  # by position, as in ONNX; onnxmltools takes no names
            return model
        if library == "lightgbm":
            import lightgbm

            return lightgbm.Booster(model_file=path)
        import catboost

        probe = catboost.CatBoost().load_model(path, format="json" if path.endswith(".json") else "cbm")
        if getattr(probe, "classes_", None) is not None and len(probe.classes_):
            return catboost.CatBoostClassifier().load_model(path, format="json" if path.endswith(".json") else "cbm")
        return probe
    except Exception as problem:
        raise SourceError(f"{library} cannot read {path!r}: {str(problem).strip().splitlines()[0][:300]}") from problem


def register_for_pipelines() -> None:
    """Teach skl2onnx the estimators of these libraries, as far as they are installed."""
    try:
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    except ImportError:
        return
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    known = (
        ("xgboost", "XGB", convert_xgboost, "XGBoostXGB"),
        ("lightgbm", "LGBM", convert_lightgbm, "LightGbmLGBM"),
    )
    for module, prefix, converter, alias in known:
        try:
            library = __import__(module)
        except ImportError:
            continue
        options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
        update_registered_converter(
            getattr(library, f"{prefix}Classifier"),
            f"{alias}Classifier",
            calculate_linear_classifier_output_shapes,
            converter,
            options=options,
        )
        update_registered_converter(
            getattr(library, f"{prefix}Regressor"),
            f"{alias}Regressor",
            calculate_linear_regressor_output_shapes,
            converter,
        )


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the source with its library."""
    return Boosting(request, progress, made)
