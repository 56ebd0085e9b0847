"""The kinds of sources: one row each, read by recognition, conversion, documentation and tests."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from sardonyx.errors import ProviderError, SourceError


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        name: what ``--kind`` takes.
        title: for people.
        converter: the file of this folder that has its `Source`.
        needs: packages to import, all of them.
        extra: the extra of Sardonyx that installs them; empty where nothing is needed.
        pickled: reading it runs code that the file contains: refused unless trusted.
        runs: packages that run the source, for verification alone: one of them.
        alone: whether, without any of these, the result is compared under two runtimes, and a note says so.
    """

    name: str
    title: str
    converter: str
    needs: tuple[str, ...] = ()
    extra: str = ""
    pickled: bool = False
    runs: tuple[str, ...] = ()
    alone: bool = False

    @property
    def runnable(self) -> bool:
        """Whether the source can be run here."""
        return not self.runs or any(importlib.util.find_spec(name) is not None for name in self.runs)


_TORCH = ("torch", "onnxscript")
_TF = ("tensorflow", "tf2onnx")

_ALL = (
    Kind("onnx", "ONNX model", "onnx_file"),
    Kind("ort", "ONNX Runtime's .ort model", "onnx_file", ("onnxruntime",), "onnxruntime"),
    Kind("module", "object made by a Python function", "factory"),
    Kind("torch-module", "PyTorch module", "pytorch", _TORCH, "torch"),
    Kind("torch-export", "PyTorch ExportedProgram (.pt2)", "pytorch", _TORCH, "torch"),
    Kind("torchscript", "TorchScript archive", "pytorch", _TORCH, "torch"),
    Kind("torch-weights", "PyTorch weights (state_dict)", "pytorch", _TORCH, "torch"),
    Kind("torch-pickle", "pickled PyTorch module", "pytorch", _TORCH, "torch", pickled=True),
    Kind("safetensors", "safetensors weights", "pytorch", (*_TORCH, "safetensors"), "torch"),
    Kind("huggingface", "Hugging Face folder", "huggingface", (*_TORCH, "transformers"), "transformers"),
    Kind("saved-model", "TensorFlow SavedModel", "tensorflow", _TF, "tensorflow"),
    Kind("graphdef", "TensorFlow frozen graph", "tensorflow", _TF, "tensorflow"),
    Kind("tf-checkpoint", "TensorFlow checkpoint", "tensorflow", _TF, "tensorflow"),
    Kind("tf-function", "TensorFlow function", "tensorflow", _TF, "tensorflow"),
    Kind("keras", "Keras model (.keras)", "keras", _TF, "tensorflow"),
    Kind("keras-h5", "Keras model (HDF5)", "keras", _TF, "tensorflow"),
    Kind("keras-model", "Keras model in memory", "keras", _TF, "tensorflow"),
    Kind("tflite", "TensorFlow Lite model", "tflite", extra="tflite", runs=("ai_edge_litert", "tensorflow")),
    Kind("mxnet", "MXNet symbol and parameters", "mxnet", runs=("mxnet",), alone=True),
    Kind("jax", "JAX function", "jax", ("jax", "jax2onnx"), "jax"),
    Kind("sklearn", "scikit-learn model (joblib, pickle)", "sklearn", ("sklearn", "skl2onnx"), "sklearn", pickled=True),
    Kind("skops", "scikit-learn model (skops)", "sklearn", ("sklearn", "skl2onnx", "skops"), "sklearn"),
    Kind("sklearn-model", "scikit-learn model in memory", "sklearn", ("sklearn", "skl2onnx"), "sklearn"),
    Kind("boosting-model", "XGBoost, LightGBM or CatBoost model in memory", "boosting", ("onnxmltools",), "boosting"),
    Kind("xgboost", "XGBoost model", "boosting", ("xgboost", "onnxmltools"), "xgboost"),
    Kind("lightgbm", "LightGBM model", "boosting", ("lightgbm", "onnxmltools"), "lightgbm"),
    Kind("catboost", "CatBoost model", "boosting", ("catboost",), "catboost"),
    Kind("paddle", "PaddlePaddle program and parameters", "paddle", ("paddle", "paddle2onnx"), "paddle"),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}


def kind_called(name: str) -> Kind:
    """The row called `name`.

    Raises:
        SourceError: there is none.
    """
    if name not in KINDS:
        raise SourceError(f"there is no kind of source called {name!r}", hint=f"known are: {', '.join(KINDS)}")
    return KINDS[name]


def require(kind: Kind, verify: bool = True) -> None:
    """Check that the packages of `kind` are installed, without importing them.

    Args:
        kind: of the source.
        verify: whether the source will be run as well.

    Raises:
        ProviderError: one is missing; the hint is the command that installs it.
    """
    missing = [name for name in kind.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ProviderError(
            f"to convert a {kind.title}, {' and '.join(missing)} must be installed",
            hint=f"pip install 'sardonyx[{kind.extra}]'",
        )
    if verify and not kind.runnable and not kind.alone:
        raise ProviderError(
            f"to verify a {kind.title}, {' or '.join(kind.runs)} must be installed",
            hint=f"pip install 'sardonyx[{kind.extra}]', or --no-verify (verify=False).",
        )


def check_trust(kind: Kind, source: str, trust: bool) -> None:
    """Refuse a source that runs code when it is read, unless it is trusted.

    Raises:
        SourceError: it is pickled and not trusted.
    """
    if kind.pickled and not trust:
        raise SourceError(
            f"{source!r} is a pickle ({kind.title}): reading it runs whatever code it contains",
            hint="If you know where it comes from: --trust (trust=True). Safer: weights alone, safetensors, skops.",
        )
