"""Programs that were written for ONNX Runtime, run by ``python -m sardonyx.shim``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib.metadata
import importlib.util
import sys

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
import onnxruntime.capi._pybind_state as C
from onnxruntime.capi import onnxruntime_inference_collection as collection

import helper_module

assert importlib.util.find_spec("onnxruntime") is not None
assert importlib.util.find_spec("onnxruntime.capi.onnxruntime_pybind11_state") is not None
assert importlib.util.find_spec("onnxruntime.quantization") is None
assert importlib.metadata.version("onnxruntime") == ort.__version__
assert ort.InferenceSession is collection.InferenceSession is C.InferenceSession
assert ort.__name__ == "sardonyx.onnxruntime" and ort.__spec__.name == ort.__name__
session = ort.InferenceSession(sys.argv[1], providers=ort.get_available_providers())
print(session.run(None, {"x": np.array([-1, 2], np.float32)})[0].tolist())
try:
    session.run(None, {"x": np.array([1], np.int32)})
except InvalidArgument as error:
    print("refused:", "tensor(int32)" in str(error))
print(__name__, sys.argv[0].endswith("program.py"), sys.argv[2:], helper_module.VALUE)
sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "relu.onnx")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "helper_module.py").write_text("VALUE = 42\n")
    return tmp_path


def shim(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return python("-m", "sardonyx.shim", *map(str, arguments), cwd=cwd)


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_program_runs_unmodified(folder: Path) -> None:
    done = shim(folder / "program.py", folder / "relu.onnx", "-x", "more")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[0.0, 2.0]",
        "refused: True",
        "__main__ True ['-x', 'more'] 42",
    ]
    assert done.returncode == 3


def test_a_module_runs_from_the_working_directory(folder: Path) -> None:
    done = shim("-m", "program", "relu.onnx", cwd=folder)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "__main__ True [] 42"


def test_code_runs(folder: Path) -> None:
    code = "import onnxruntime, sys; print(onnxruntime.__name__, sys.argv, __name__)"
    done = shim("-c", code, "a", "b", cwd=folder)
    assert done.stdout == "sardonyx.onnxruntime ['-c', 'a', 'b'] __main__\n"
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [[], ["-m"], ["-c"], ["missing.py"]])
def test_wrong_use_is_one_line_and_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    done = shim(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_errors_of_the_program_are_its_own(tmp_path: Path) -> None:
    done = shim("-c", "raise KeyError('mine')", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("KeyError: 'mine'")


def test_install_refuses_once_the_original_is_there() -> None:
    code = (
        "import sys, types\n"
        "sys.modules['onnxruntime'] = types.ModuleType('onnxruntime')\n"
        "sys.modules['onnxruntime'].__file__ = 'original.py'\n"
        "from sardonyx import shim\n"
        "try:\n    shim.install()\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    done = python("-c", code)
    assert "already been imported from original.py" in done.stdout


def test_install_and_uninstall_leave_no_trace() -> None:
    code = (
        "import sys\n"
        "from sardonyx import shim\n"
        "before = list(sys.meta_path)\n"
        "shim.install(); shim.install()\n"
        "import onnxruntime\n"
        "assert onnxruntime.__name__ == 'sardonyx.onnxruntime'\n"
        "shim.uninstall()\n"
        "assert sys.meta_path == before and 'onnxruntime' not in sys.modules\n"
        "import sardonyx.onnxruntime as again\n"
        "assert again is onnxruntime\n"
    )
    done = python("-c", code)
    assert done.stderr == ""
    assert done.returncode == 0
