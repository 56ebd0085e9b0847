"""PaddlePaddle: programs with their parameters, of both formats (.pdmodel; .json since version 3), by paddle2onnx.

Any of the two files, or the folder that holds them, may be named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.source import Input, Request, Source
from sardonyx.errors import ConversionError, SourceError

OPSET = 17
_PARAMETER = "p"  # what a .json program calls an operation that is a weight
_EXPORT = """
import sys, paddle2onnx
program, parameters, opset, made = sys.argv[1:]
open(made, "wb").write(paddle2onnx.export(program, parameters, None, opset_version=int(opset)))
"""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m|^.*\[(?:ERROR|Paddle2ONNX)\]\s*", re.MULTILINE)


class Paddle(Source):
    """A program of PaddlePaddle, run by its inference library without changes to the graph."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.program, self.parameters = files(Path(request.source))
        self._predictor = self._opened()
        self._inputs: Sequence[Input] = ()
        self._order: Sequence[str] = ()  # of the outputs

    def _opened(self) -> Any:
        from paddle import inference

        config = inference.Config(str(self.program), str(self.parameters))
        config.disable_gpu()
        config.disable_glog_info()
        config.switch_ir_optim(False)  # its fusions round otherwise than the program does
        try:
            return inference.create_predictor(config)
        except Exception as problem:
            raise SourceError(
                f"PaddlePaddle cannot read {str(self.program)!r}: {_last_line(str(problem))}",
                hint="Program and parameters must belong together, and be complete.",
            ) from problem

    def export(self, path: Path) -> list[str]:
        """By paddle2onnx."""
        import onnx

        self.progress("converting by paddle2onnx")
        with tempfile.TemporaryDirectory() as folder:
            model = onnx.load(self._converted(Path(folder)))
        self._set_dims(model)
        onnx.save(model, path)
        from sardonyx.model.load import load

        found = load(path)
        self._inputs = model_inputs(found)
        names = self._predictor.get_output_names()
        exported = [str(value.name) for value in found.graph.outputs]
        self._order = exported if set(exported) == set(names) else names
        return [f"converted by paddle2onnx {version('paddle2onnx')}"]

    def _converted(self, folder: Path) -> Path:
        """What paddle2onnx makes of the program, in `folder`; in another process, since it aborts where it fails."""
        program, parameters = self.program, self.parameters
        if program.suffix == ".pdmodel":
            try:
                program, parameters = _as_json(program, folder)
            except Exception as problem:  # of any kind, from its C++
                raise ConversionError(
                    f"PaddlePaddle cannot bring the program to its format of version 3: {_last_line(str(problem))}",
                    hint="Save it with the version of PaddlePaddle that is installed.",
                ) from problem
        narrowed, made = folder / "narrowed.json", folder / "made.onnx"
        narrowed.write_text(json.dumps(narrow(json.loads(program.read_text()))), encoding="utf-8")
        opset = str(self.request.opset or OPSET)
        command = [sys.executable, "-c", _EXPORT, str(narrowed), str(parameters), opset, str(made)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not made.exists():
            raise _refused(done.stdout + done.stderr, unknown_operations(json.loads(program.read_text())))
        return made

    def _set_dims(self, model: Any) -> None:
        """Sizes and names that the user gave, in the inputs; the others are told apart by their axis."""
        for value in model.graph.input:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                wanted = self.request.dims.get(f"{value.name}.{axis}")
                if isinstance(wanted, int):
                    dim.dim_value = wanted
                elif wanted is not None:
                    dim.dim_param = wanted

    def inputs(self) -> Sequence[Input]:
        """As exported."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By PaddlePaddle."""
        for name in self._predictor.get_input_names():
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(feeds[name]))
        try:
            self._predictor.run()
        except Exception as problem:
            raise ConversionError(f"PaddlePaddle refuses the inputs: {_last_line(str(problem))}") from problem
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in self._order]


def files(path: Path) -> tuple[Path, Path]:
    """The program and the parameters that `path` means: a folder, or one of the two.

    Raises:
        SourceError: there is not exactly one program, or its parameters are missing.
    """
    if path.is_dir():
        programs = sorted(path.glob("*.pdmodel")) or [p for p in sorted(path.glob("*.json")) if _beside(p).exists()]
        if len(programs) != 1:
            raise SourceError(
                f"the folder {str(path)!r} holds {len(programs)} programs of PaddlePaddle, not one",
                hint="Name one of them.",
            )
        path = programs[0]
    if path.suffix == ".pdiparams":
        found = [path.with_suffix(suffix) for suffix in (".json", ".pdmodel") if path.with_suffix(suffix).exists()]
        if not found:
            raise SourceError(f"{path.name} holds weights alone", hint="Put the program (.pdmodel, .json) beside it.")
        path = found[0]
    if not _beside(path).exists() and has_parameters(path):
        raise SourceError(f"the parameters {_beside(path).name} are missing beside {path.name}")
    return path, _beside(path)


def has_parameters(program: Path) -> bool:
    """Whether a program has weights; PaddlePaddle writes no file of parameters beside one that has none."""
    if program.suffix != ".json":
        return True
    try:
        content = json.loads(program.read_bytes())
        blocks = [block for region in content["program"]["regions"] for block in region["blocks"]]
        return any(operation["#"] == _PARAMETER for block in blocks for operation in block["ops"])
    except (ValueError, KeyError, TypeError):
        return True  # damaged: PaddlePaddle says how


def _beside(program: Path) -> Path:
    return program.with_suffix(".pdiparams")


def _as_json(program: Path, folder: Path) -> tuple[Path, Path]:
    """A .pdmodel program and its parameters in the format of version 3, by PaddlePaddle's own translation."""
    import paddle
    from paddle2onnx import convert

    executor = paddle.static.Executor(paddle.CPUPlace())
    with paddle.pir_utils.OldIrGuard():
        old, _, _ = paddle.static.load_inference_model(str(program.with_suffix("")), executor)
    new = paddle.pir.translate_to_pir(old.desc)
    convert.load_parameter(new)
    convert.save_program(new, str(folder / "program"))
    return folder / "program.json", folder / "program.pdiparams"


def narrow(part: Any) -> Any:
    """Attributes that are lists of float64 as float32: what PaddlePaddle wrote up to 3.0, and paddle2onnx reads."""
    if isinstance(part, list):
        return [narrow(each) for each in part]
    if not isinstance(part, dict):
        return part
    if part.get("#") == "0.a_array" and isinstance(part.get("D"), list):
        single = {"0.a_f64": "0.a_f32"}
        return {**part, "D": [{**narrow(each), "#": single.get(each["#"], each["#"])} for each in part["D"]]}
    return {key: narrow(each) for key, each in part.items()}


def unknown_operations(program: Mapping[str, Any]) -> list[str]:
    """Operations of a .json program that paddle2onnx does not list, under any of the names that they ever had."""
    from paddle2onnx import paddle2onnx_cpp2py_export as core

    known = set(core.get_all_supported_operators_pir())
    forms = ("{}", "{}2", "{}_v2", "builtin_{}", "elementwise_{}", "reduce_{}")
    return sorted(name for name in operations(program) if not known & {form.format(name) for form in forms})


def operations(part: Any) -> set[str]:
    """Names of the operations of a program, those of its inner blocks too; what only brings data in or out left out."""
    if isinstance(part, list):
        return set().union(*map(operations, part))
    if not isinstance(part, dict):
        return set()
    found = set().union(*map(operations, part.values()))
    if "ops" in part:
        names = {str(operation["#"]).partition(".")[2] for operation in part["ops"]}
        found |= names - {"", "data", "feed", "fetch"}
    return found


def _refused(said: str, unknown: Sequence[str]) -> ConversionError:
    text = _COLOURS.sub("", said)
    lines = [line.strip() for line in text.splitlines() if re.search(r"not support|unsupported|fail|error", line, re.I)]
    lines = [line for line in lines if "Error Message Summary" not in line and "abort signal" not in line]
    if unknown:
        lines.append(f"Of its operations it does not list {', '.join(unknown)}.")
    return ConversionError(
        f"paddle2onnx refuses the program: {' '.join(lines or text.split()[-60:])[:600]}",
        operator=unknown[0] if len(unknown) == 1 else None,
        hint="An operation that it names has no ONNX form: replace it, or try another --opset.",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    wanted = [line for line in lines if "Error" in line] or lines
    return wanted[-1][:400] if wanted else "no message"


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the program with PaddlePaddle."""
    return Paddle(request, progress, made)
