"""The modules under which ONNX Runtime keeps its bindings; programs import exceptions from here."""

from sardonyx.onnxruntime.capi import (
    _pybind_state,
    onnxruntime_inference_collection,
    onnxruntime_pybind11_state,
    onnxruntime_validation,
)
