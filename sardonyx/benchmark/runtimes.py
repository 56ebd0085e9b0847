"""Other runtimes as functions from inputs to outputs, all in float32.

ONNX Runtime and OpenVINO read the file itself. MNN and ncnn have formats of their own: the converter that comes with
MNN's package and `pnnx` translate the model first, into a temporary folder, when the first inputs show the shapes. What
is not installed, or cannot be converted, is an error that says so.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx._version import __version__
from sardonyx.errors import ProviderError

__all__ = ["PACKAGES", "RUNTIMES", "Feeds", "Run", "load_runtime", "version"]

Feeds = Mapping[str, Any]
Run = Callable[[Feeds], list[Any]]
CONVERT_SECONDS = 120
# The distribution that a runtime comes in, where that has another name.
PACKAGES = {"mnn": "MNN"}


def _onnxruntime(model: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _openvino(model: str, threads: int) -> Run:
    import openvino

    # Results are to be comparable: no half precision on CPUs that have it.
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()
    outputs = compiled.outputs

    def run(feeds: Feeds) -> list[Any]:
        results = request.infer(feeds, share_inputs=True, share_outputs=True)
        return [results[output] for output in outputs]

    return run


def _mnn(model: str, threads: int) -> Run:
    import MNN  # noqa: F401  (its submodules need it)
    import MNN.expr as expr
    import MNN.nn as nn

    inputs, outputs = _names(model)
    folder = tempfile.TemporaryDirectory(prefix="sardonyx-mnn-")
    file = Path(folder.name) / "model.mnn"
    arguments = ["-f", "ONNX", "--modelFile", model, "--MNNModel", str(file), "--bizCode", "bench"]
    # Never its script `mnnconvert`: that installs a package with pip, others' versions included, to report the call.
    _convert("MNN", [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)", *arguments], file)
    manager = nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    module = nn.load_module_from_file(str(file), inputs, outputs, runtime_manager=manager)
    kinds = {"float32": expr.float, "int32": expr.int, "int64": expr.int64, "float64": expr.double}

    def run(feeds: Feeds) -> list[Any]:
        given = []
        for name in inputs:
            array = np.asarray(feeds[name])
            # What its front end makes of int64 is int32.
            array = array.astype(np.int32) if array.dtype == np.int64 else array
            given.append(expr.const(array, list(array.shape), expr.NCHW, kinds[array.dtype.name]))
        return [np.array(result.read()) for result in module.forward(given)]

    run.folder = folder  # type: ignore[attr-defined]  # it goes when the function does
    return run


def _ncnn(model: str, threads: int) -> Run:
    """A network without batches: the first dimension of every input and output has to be 1."""
    import ncnn

    program = _program("pnnx")
    inputs, outputs = _names(model)
    state: dict[str, Any] = {}

    def prepare(feeds: Feeds) -> Any:
        folder = state["folder"] = tempfile.TemporaryDirectory(prefix="sardonyx-ncnn-")
        copy = Path(folder.name) / "model.onnx"
        os.symlink(os.path.abspath(model), copy)
        letters = {"float32": "f32", "int64": "i64", "int32": "i32"}
        shapes = [
            f"[{','.join(map(str, np.shape(feeds[name])))}]{letters[np.asarray(feeds[name]).dtype.name]}"
            for name in inputs
        ]
        made = Path(folder.name) / "model.ncnn.param"
        _convert("ncnn", [program, str(copy), f"inputshape={','.join(shapes)}", "fp16=0"], made, folder.name)
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        if net.load_param(str(made)) or net.load_model(str(made.with_suffix(".bin"))):
            raise ProviderError("ncnn cannot load what pnnx made of the model")
        return net

    def run(feeds: Feeds) -> list[Any]:
        if any(np.ndim(feeds[name]) == 0 or np.shape(feeds[name])[0] != 1 for name in inputs):
            raise ProviderError("ncnn has no batches")
        net = state.get("net") or state.setdefault("net", prepare(feeds))
        extractor = net.create_extractor()
        for number, name in enumerate(inputs):
            array = np.asarray(feeds[name])[0]
            array = array.astype(np.int32) if array.dtype == np.int64 else array
            extractor.input(f"in{number}", ncnn.Mat(np.ascontiguousarray(array)))
        results = []
        for number in range(len(outputs)):
            failed, result = extractor.extract(f"out{number}")
            if failed:
                raise ProviderError(f"ncnn cannot compute output {number}")
            results.append(np.array(result)[None])
        return results

    return run


def _names(model: str) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs of a file."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    return [v.name for v in graph.input if v.name not in stored], [v.name for v in graph.output]


def _program(name: str) -> str:
    """The path of a program that a package brings with it: beside its modules (pnnx), or as a script."""
    spec = find_spec(name)
    beside = list(spec.submodule_search_locations or ()) if spec else []
    beside += [sysconfig.get_path("scripts"), *(os.path.join(folder, "bin") for folder in sys.path if folder)]
    found = shutil.which(name, path=os.pathsep.join(beside)) or shutil.which(name)
    if found is None:
        raise ModuleNotFoundError(f"No program named {name!r}")
    return found


def _convert(runtime: str, command: list[str], made: Path, folder: str | None = None) -> None:
    """Run a converter that has to leave the file `made`."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CONVERT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ProviderError(f"{runtime}: its converter took more than {CONVERT_SECONDS} s") from None
    if done.returncode or not made.exists():
        words = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise ProviderError(f"{runtime} cannot convert the model: {words[0][:200]}")


# What Sardonyx can be compared with.
RUNTIMES: dict[str, Callable[[str, int], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "mnn": _mnn,
    "ncnn": _ncnn,
}


def load_runtime(name: str, model: str, threads: int) -> Run:
    """A function that runs `model` on the runtime called `name`.

    Raises:
        ProviderError: the runtime is unknown or not installed, or cannot take the model.
    """
    if name not in RUNTIMES:
        raise ProviderError(f"there is no runtime called {name!r}", hint=f"known are: {', '.join(RUNTIMES)}")
    try:
        return RUNTIMES[name](model, threads)
    except ModuleNotFoundError as error:
        hint = f"pip install 'sardonyx[{name}]'"
        raise ProviderError(f"{name} is not installed", hint=hint) from error


def version(runtime: str) -> str:
    """The version of a runtime, empty where it is not installed."""
    if runtime == "sardonyx":
        return __version__
    try:
        return importlib.metadata.version(PACKAGES.get(runtime, runtime))
    except importlib.metadata.PackageNotFoundError:
        return ""
