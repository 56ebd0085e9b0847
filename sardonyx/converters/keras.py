"""Keras: .keras archives, HDF5 files of Keras 2 and 3, and models in memory.

A file is tried with Keras 3 and, if that refuses it, with Keras 2 (tf_keras): the HDF5 files of the years before 2023
often load in the latter only. The model then is a function of TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sardonyx.converters.source import Request, Source
from sardonyx.converters.tensorflow import TensorFlow
from sardonyx.errors import SourceError


class Keras(TensorFlow):
    """A Keras model as a function of its inputs, in inference mode."""

    def open(self) -> None:
        """Load the model and take its inputs for the signature."""
        import tensorflow as tf

        model = self.made if self.made is not None else self._load()
        if not getattr(model, "inputs", None):
            raise SourceError("the model was never built: its inputs are unknown", hint="Call it once, then save it.")
        specs = []
        for number, value in enumerate(model.inputs):
            name = value.name.partition(":")[0] or f"input_{number}"
            specs.append(tf.TensorSpec(value.shape, tf.as_dtype(value.dtype), name=name))
        single = len(specs) == 1
        self._keep = model
        self._take_concrete_positional(
            lambda *arguments: model(arguments[0] if single else list(arguments), training=False), specs
        )
        outputs = getattr(model, "output_names", None)
        if outputs and len(outputs) == len(self.names):
            self.names = [f"{name}_" if name in {spec.name for spec in self.specs} else name for name in outputs]

    def _load(self) -> Any:
        if not self.request.trust:
            check_lambdas(self.request.source)
        problems = []
        for title, loader in (("Keras 3", _keras_3), ("Keras 2", _keras_2)):
            self.progress(f"loading with {title}")
            try:
                model = loader(self.request.source, self.request.trust)
            except ImportError as problem:
                problems.append(f"{title} is not installed ({problem.name})")
            except Exception as problem:  # Keras raises whatever its layers raise
                problems.append(f"{title}: {type(problem).__name__}: {str(problem).strip().splitlines()[0][:300]}")
            else:
                self.notes.append(f"loaded with {title}")
                return model
        hint = None
        if any("safe_mode" in text or "Lambda" in text for text in problems):
            hint = "A Lambda layer holds code: if you know where the file comes from, --trust."
        elif any("No model config" in text or "No model found" in text for text in problems):
            hint = "It holds weights alone: build the model in a function and name it as module:factory."
        raise SourceError(f"{self.request.source!r} cannot be loaded: {'; '.join(problems)}", hint=hint)


def check_lambdas(path: str) -> None:
    """Refuse an HDF5 file with code in a Lambda layer: Keras 2 runs it without asking. Archives are checked by Keras.

    Raises:
        SourceError: the file holds such a layer, or cannot be read.
    """
    import json

    import h5py

    if not path.endswith(".keras") and h5py.is_hdf5(path):
        try:
            with h5py.File(path, "r") as file:
                config = file.attrs.get("model_config", "{}")
            parts = [json.loads(config)]
        except (OSError, ValueError) as problem:
            raise SourceError(f"{path!r} is a damaged HDF5 file: {problem}", hint="Copy it again.") from problem
        while parts:
            part = parts.pop()
            if isinstance(part, dict) and part.get("class_name") == "Lambda":
                raise SourceError(
                    f"{path!r} holds a Lambda layer: loading it runs whatever code it contains",
                    hint="If you know where the file comes from: --trust.",
                )
            parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []


def _keras_3(path: str, trust: bool) -> Any:
    import keras

    if trust:
        keras.config.enable_unsafe_deserialization()
    return keras.models.load_model(path, compile=False)


def _keras_2(path: str, trust: bool) -> Any:
    import tf_keras

    return tf_keras.models.load_model(
        path, compile=False, **({"safe_mode": not trust} if path.endswith(".keras") else {})
    )


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the source with Keras."""
    return Keras(request, progress, made)
