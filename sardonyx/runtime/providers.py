"""Other ways to run a whole model: the reference evaluator, ONNX Runtime, OpenVINO.

A provider that was asked for and is missing is an error, never a silent fallback.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from sardonyx import errors
from sardonyx.compiler.graph import dtype_of, type_string
from sardonyx.runtime.native import Port

NAMES = ("native", "reference", "onnxruntime", "openvino")


class Engine(Protocol):
    """What runs a whole model."""

    name: str

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs, in the model's order."""
        ...


class Reference:
    """`onnx.reference`, with our corrections."""

    name = "reference"

    def __init__(self, model: ir.Model, threads: int | None):
        self._model = model

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs."""
        from sardonyx.runtime.reference import evaluate

        return evaluate(self._model, dict(feeds))


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def __init__(self, model: ir.Model, threads: int | None):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        try:
            data = _serialized(model)
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as problem:
            raise errors.ProviderError(f"onnxruntime refuses the model: {problem}") from problem

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs."""
        try:
            return self._session.run(None, dict(feeds))
        except Exception as problem:
            raise errors.RuntimeFailure(f"onnxruntime failed: {problem}") from problem


class OpenVino:
    """OpenVINO on the CPU."""

    name = "openvino"

    def __init__(self, model: ir.Model, threads: int | None):
        import openvino

        core = openvino.Core()
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            self._compiled = core.compile_model(core.read_model(_serialized(model)), "CPU", config)
        except Exception as problem:
            raise errors.ProviderError(f"openvino refuses the model: {problem}") from problem

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """All outputs."""
        try:
            results = self._compiled(dict(feeds))
        except Exception as problem:
            raise errors.RuntimeFailure(f"openvino failed: {problem}") from problem
        return [np.array(results[number]) for number in range(len(self._compiled.outputs))]


_ENGINES: dict[str, Callable[[ir.Model, int | None], Engine]] = {
    "reference": Reference,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}


def _serialized(model: ir.Model) -> bytes:
    data = ir.serde.serialize_model(model)
    try:
        return data.SerializeToString()
    except (ValueError, onnx.checker.ValidationError) as problem:
        raise errors.ProviderError("models over 2 GB run natively alone") from problem


def check_names(names: tuple[str, ...]) -> None:
    """Raise `ProviderError` unless all providers are known and installed."""
    for name in names:
        if name not in NAMES:
            raise errors.ProviderError(f"no provider '{name}'", hint=f"providers are {', '.join(NAMES)}")
        if name in ("onnxruntime", "openvino") and importlib.util.find_spec(name) is None:
            raise errors.ProviderError(f"provider '{name}' is not installed", hint=f"pip install sardonyx[{name}]")
    if names[:1] == ("native",) and set(names[1:]) - {"native", "reference"}:
        raise errors.ProviderError(
            f"nodes without native code run on the reference evaluator, not on {names[1]}",
            hint=f"give '{names[1]}' first to run the whole model there",
        )
    if not names:
        raise errors.ProviderError("no provider is given", hint=f"providers are {', '.join(NAMES)}")


def engine(name: str, model: ir.Model, threads: int | None) -> Engine:
    """The engine called `name`, holding `model`."""
    return _ENGINES[name](model, threads)


def ports(model: ir.Model) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a model that is not compiled."""
    return [_port(value) for value in model.graph.inputs], [_port(value) for value in model.graph.outputs]


def _port(value: ir.Value) -> Port:
    native = isinstance(value.type, ir.TensorType) and value.shape is not None and dtype_of(value) != "string"
    shape = [] if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    dims = [d if isinstance(d, int) else f"{d or axis}" for axis, d in enumerate(shape)]
    facts = {"name": value.name, "dtype": dtype_of(value), "type": type_string(value), "shape": shape, "dims": dims}
    return Port({**facts, "known": False, "slot": -1 if native else 0})
