"""The same names as `onnxruntime_pybind11_state`."""

from sardonyx.onnxruntime.capi.onnxruntime_pybind11_state import *
