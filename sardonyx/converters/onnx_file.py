"""ONNX to ONNX: another opset, ONNX Runtime's .ort format, and a clean file with every part named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sardonyx.converters.source import Input, Request, Source
from sardonyx.errors import ConversionError, SourceError
from sardonyx.model.load import load
from sardonyx.model.save import save


class OnnxFile(Source):
    """An .onnx or .ort file; its own framework is ONNX Runtime where that is installed, else the reference."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.path = Path(request.source)
        self._session: Any = None
        self._inputs: list[Input] = []

    def export(self, path: Path) -> list[str]:
        """Write the file anew, at the opset that was asked for."""
        notes: list[str] = []
        if self.request.kind == "ort":
            _write_ort_as_onnx(self.path, path)
            self.path, notes = path.with_suffix(".source.onnx"), ["read by ONNX Runtime"]
            save(load(path), self.path)
        model = load(self.path)
        before = model.opset_imports.get("", 0)
        if self.request.opset and self.request.opset != before:
            self.progress(f"opset {before} -> {self.request.opset}")
            model = at_opset(model, self.request.opset)
            notes.append(f"opset {before} -> {self.request.opset}")
        save(model, path)
        self._inputs = model_inputs(model)
        return notes

    def inputs(self) -> Sequence[Input]:
        """As the model declares them."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By ONNX Runtime, or by the reference."""
        from sardonyx.runtime.options import SessionOptions
        from sardonyx.runtime.session import Session
        from sardonyx.verifier.stages import flatten

        if self._session is None:
            try:
                self._session = Session(str(self.path), SessionOptions(providers=("onnxruntime",)))
            except Exception:  # not installed, or it refuses the model: the standard's own evaluator takes all
                self._session = Session(str(self.path), SessionOptions(providers=("reference",)))
        return flatten(self._session.run(dict(feeds)))


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the file named in `request`."""
    return OnnxFile(request, progress, made)


def at_opset(model: ir.Model, opset: int) -> ir.Model:
    import onnx.version_converter

    try:
        return ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(model), opset))
    except Exception as problem:
        raise ConversionError(
            f"the model cannot be brought to opset {opset}: {problem}", hint="Leave --opset away: its own is kept."
        ) from problem


def _write_ort_as_onnx(source: Path, target: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ONNX")
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise SourceError(f"ONNX Runtime cannot read {str(source)!r}: {problem}") from problem


def model_inputs(model: ir.Model) -> list[Input]:
    """The inputs that must be fed, as the model declares them."""
    return [_input(value) for value in model.graph.inputs if value.name not in model.graph.initializers]


def _input(value: ir.Value) -> Input:
    kind = "string" if value.dtype == ir.DataType.STRING else value.dtype.numpy().name if value.dtype else "float32"
    dims = value.shape if value.shape is not None else ()
    shape = tuple(d if isinstance(d, int) else d.value or f"{value.name}.{axis}" for axis, d in enumerate(dims))
    return Input(str(value.name), kind, shape)
