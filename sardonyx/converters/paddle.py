"""PaddlePaddle: programs with their parameters, of both formats (.pdmodel; .json since version 3), by paddle2onnx.

Any of the two files, or the folder that holds them, may be named.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.source import Input, Request, Source
from sardonyx.errors import ConversionError, SourceError

OPSET = 17
_PARAMETER = "p"  # what a .json program calls an operation that is a weight
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
        said: list[str] = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                with _kept(said):
                    data = self._converted(Path(folder))
            except (Exception, SystemExit) as problem:  # it leaves the interpreter where it fails
                raise _refused("".join([*said, str(problem)])) from problem
        model = onnx.load_from_string(data)
        self._set_dims(model)
        onnx.save(model, path)
        from sardonyx.model.load import load

        found = load(path)
        self._inputs = model_inputs(found)
        names = self._predictor.get_output_names()
        exported = [str(value.name) for value in found.graph.outputs]
        self._order = exported if set(exported) == set(names) else names
        return [f"converted by paddle2onnx {version('paddle2onnx')}"]

    def _converted(self, folder: Path) -> bytes:
        """What paddle2onnx makes of the program, which it reads as a .json file from `folder`."""
        import paddle2onnx

        program, parameters = self.program, self.parameters
        if program.suffix == ".pdmodel":
            program, parameters = _as_json(program, folder)
        narrowed = folder / "narrowed.json"
        narrowed.write_text(json.dumps(narrow(json.loads(program.read_text()))), encoding="utf-8")
        opset = self.request.opset or OPSET
        return paddle2onnx.export(str(narrowed), str(parameters), None, opset_version=opset)

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


@contextlib.contextmanager
def _kept(said: list[str]) -> Iterator[None]:
    """Append to `said` what the process prints meanwhile, its C++ too."""
    with tempfile.TemporaryFile() as log:
        saved = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            yield
        finally:
            for number, old in zip((1, 2), saved, strict=True):
                os.dup2(old, number)
                os.close(old)
            log.seek(0)
            said.append(log.read().decode(errors="replace"))


def _refused(said: str) -> ConversionError:
    text = _COLOURS.sub("", said)
    lines = [line.strip() for line in text.splitlines() if re.search(r"not support|unsupported|fail|error", line, re.I)]
    return ConversionError(
        f"paddle2onnx refuses the program: {' '.join(lines or text.split()[-60:])[:600]}",
        hint="An operation that it names has no ONNX form: replace it, or try another --opset.",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    wanted = [line for line in lines if "Error" in line] or lines
    return wanted[-1][:400] if wanted else "no message"


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the program with PaddlePaddle."""
    return Paddle(request, progress, made)
