"""PyTorch: modules, ExportedPrograms, TorchScript, and weights with a function that makes their module.

`torch.onnx` exports: by its new exporter (torch.export) first, by the TorchScript one where that fails; which one it
was is said. Dimensions in which two samples differ are dynamic; without samples the batch is, if the model allows it.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters import torch_guess, torch_points
from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.signature import example, parse_inputs, with_dynamic
from sardonyx.converters.source import Input, Point, Request, Source
from sardonyx.errors import ConversionError, InputError, SourceError


class PyTorch(Source):
    """A module, or what behaves like one."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.notes: list[str] = []
        self.module = made if made is not None else _load(request)
        if getattr(self.module, "training", False) and hasattr(self.module, "eval"):
            self.notes.append("the module was in training mode; it is converted in evaluation mode")
        if hasattr(self.module, "eval"):
            self.module.eval()
        self._declared = self._inputs_declared()
        self._inputs: Sequence[Input] = ()
        self._points: Sequence[Point] = ()

    # What the module takes.

    def _inputs_declared(self) -> list[Input]:
        """Inputs by what the user says, by samples, by the program itself, or by trying what is likely."""
        names = _parameters(self.module)
        if "inputs" in self.request.options:
            return parse_inputs(self.request.options["inputs"])
        if self.request.samples:
            self.request.samples = [_by_name(sample, names) for sample in self.request.samples]
            first = self.request.samples[0]
            described = [Input(name, array.dtype.name, array.shape) for name, array in first.items()]
            described = with_dynamic(
                [torch_guess.with_range(self.module, each) for each in described], self.request.samples
            )
            return described if len(self.request.samples) > 1 else _dynamic_batch(described)
        found = torch_guess.guess(self.module, names)
        if found is None:
            raise InputError(
                "which inputs the module takes cannot be told from the module",
                hint="Give a sample (--input FILE.npz; two of different sizes make dimensions dynamic), or "
                "--option inputs='x:float32[batch,3,224,224]'.",
            )
        self.notes.append(f"inputs guessed and tried: {', '.join(_shown(each) for each in found)}")
        return found

    # Export.

    def export(self, path: Path) -> list[str]:
        """By the first exporter that manages."""
        given = self.request.samples[0] if self.request.samples else None
        sizes = {name: size for name, size in self.request.dims.items() if isinstance(size, int)}
        feeds = given or example(self._declared, sizes)
        problems = []
        for title, exporter in self._exporters():
            self.progress(f"exporting by {title}")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    exporter(path, feeds)
            except Exception as problem:
                problems.append(f"{title}: {_brief(problem)}")
                continue
            self.notes += [f"exported by {title}", *(f"not by {text}" for text in problems)]
            self._finish(path)
            return self.notes
        raise ConversionError(
            "no exporter of PyTorch takes the module: " + "; ".join(problems),
            hint="The first message names the line; Python that depends on data (if x.sum() > 0) is the usual cause.",
        )

    def _exporters(self) -> Iterator[tuple[str, Callable[[Path, Mapping[str, np.ndarray]], None]]]:
        import torch

        scripted = isinstance(self.module, (torch.jit.ScriptModule, torch.jit.ScriptFunction))
        dynamic = any(isinstance(dim, str) for each in self._declared for dim in each.shape)
        if not scripted:
            yield "torch.export", lambda path, feeds: self._export_new(path, feeds, dynamic)
        yield "TorchScript", lambda path, feeds: self._export_old(path, feeds, dynamic)
        if dynamic and not scripted:
            yield "torch.export with fixed sizes", lambda path, feeds: self._export_new(path, feeds, False)
        if dynamic:
            yield "TorchScript with fixed sizes", lambda path, feeds: self._export_old(path, feeds, False)

    def _export_new(self, path: Path, feeds: Mapping[str, np.ndarray], dynamic: bool) -> None:
        import torch

        auto = torch.export.Dim.AUTO
        shapes = {
            each.name: {axis: auto for axis, dim in enumerate(each.shape) if isinstance(dim, str)}
            for each in self._declared
        }
        arguments: dict[str, Any] = {"input_names": [each.name for each in self._declared], "external_data": False}
        if self.request.opset:
            arguments["opset_version"] = self.request.opset
        program = torch.onnx.export(
            getattr(self.module, "program", self.module),
            kwargs=self._tensors(feeds),
            dynamic_shapes=shapes if dynamic else None,
            dynamo=True,
            verbose=False,
            **arguments,
        )
        assert program is not None
        self._name_dims(program.model)
        program.save(str(path), external_data=None)
        if dynamic:
            self._check_dynamic(program.model)

    def _export_old(self, path: Path, feeds: Mapping[str, np.ndarray], dynamic: bool) -> None:
        import torch

        axes = {
            each.name: {axis: dim for axis, dim in enumerate(each.shape) if isinstance(dim, str)}
            for each in self._declared
        }
        if hasattr(self.module, "program"):
            raise ConversionError("an ExportedProgram has no TorchScript form")
        torch.onnx.export(
            self.module,
            tuple(self._tensors(feeds).values()),
            str(path),
            input_names=[each.name for each in self._declared],
            dynamic_axes=axes if dynamic else None,
            opset_version=self.request.opset or 17,
            dynamo=False,
        )

    def _name_dims(self, model: Any) -> None:
        """Give the exporter's symbols (s77) the names that were declared."""
        names: dict[str, str] = {}
        for value, each in zip(model.graph.inputs, self._declared, strict=False):
            for found, declared in zip(value.shape or (), each.shape, strict=False):
                if isinstance(declared, str) and not isinstance(found, int) and found.value:
                    names.setdefault(found.value, declared)
        for value in [*model.graph.inputs, *model.graph.outputs, *(o for n in model.graph for o in n.outputs)]:
            for axis, dim in enumerate(value.shape or ()):
                if not isinstance(dim, int) and dim.value:
                    value.shape[axis] = re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), dim.value)

    def _check_dynamic(self, model: Any) -> None:
        frozen = [
            f"{each.name}.{axis} = {found}"
            for value, each in zip(model.graph.inputs, self._declared, strict=False)
            for axis, (found, declared) in enumerate(zip(value.shape or (), each.shape, strict=False))
            if isinstance(declared, str) and isinstance(found, int)
        ]
        if frozen:
            self.notes.append(f"the model itself fixes {', '.join(frozen)}")

    def _finish(self, path: Path) -> None:
        from sardonyx.model.load import load

        model = load(path)
        ranges = {each.name: each for each in self._declared}
        found = []
        for each in model_inputs(model):
            declared = ranges.get(each.name, each)
            found.append(Input(each.name, each.dtype, each.shape, declared.low, declared.high))
        self._inputs = found
        self._points = torch_points.points(self.module, model)

    # Running.

    def inputs(self) -> Sequence[Input]:
        """As exported, with the ranges that the module's embeddings allow."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By PyTorch, in evaluation mode, without gradients."""
        import torch

        wanted = [each.name for each in self._declared]
        with torch.no_grad():
            outputs = self.module(*self._tensors({name: feeds[name] for name in wanted if name in feeds}).values())
        return [array(value) for value in tensors_in(outputs)]

    def points(self) -> Sequence[Point]:
        """Outputs of the module's parts."""
        return self._points

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """By forward hooks on the parts that are asked for."""
        return torch_points.observe(self.module, lambda: self.run(feeds), names)

    def _tensors(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(np.array(value)) for name, value in feeds.items()}


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the source with PyTorch."""
    return PyTorch(request, progress, made)


class Exported:
    """An ExportedProgram that can be called like the module it came from."""

    training = False

    def __init__(self, program: Any):
        self.program = program
        self.module = program.module()

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)


def _load(request: Request) -> Any:
    import torch

    path = request.source
    try:
        if request.kind == "torch-export":
            return Exported(torch.export.load(path))
        if request.kind == "torchscript":
            return torch.jit.load(path, map_location="cpu")
        if request.kind == "safetensors":
            from safetensors.torch import load_file

            return _with_weights(request, load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=not request.trust)
    except (SourceError, InputError):
        raise
    except Exception as problem:
        raise SourceError(f"PyTorch cannot read {path!r}: {_brief(problem)}") from problem
    return loaded if isinstance(loaded, torch.nn.Module) else _with_weights(request, loaded)


def _with_weights(request: Request, weights: Any) -> Any:
    """The module that the factory makes, with these weights in it."""
    from sardonyx.converters.factory import make

    factory = request.options.get("factory", "")
    if not factory:
        raise SourceError(
            f"{request.source!r} holds weights alone, without the module that they belong to",
            hint="Name a function that makes the module: --option factory=package.module:function.",
        )
    module = make(factory)
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
            weights = weights[key]
    weights = {re.sub(r"^(module|_orig_mod)\.", "", name): value for name, value in weights.items()}
    found = module.load_state_dict(weights, strict=False)
    problems = [f"missing {name}" for name in found.missing_keys] + [
        f"unknown {name}" for name in found.unexpected_keys
    ]
    if problems:
        shown = ", ".join(problems[:6]) + (f" and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise SourceError(f"the weights do not fit the module that {factory} makes: {shown}")
    return module


def _parameters(module: Any) -> list[str]:
    """Names of the arguments of ``forward``."""
    target = getattr(module, "forward", module)
    if hasattr(module, "program"):
        return list(module.program.graph_signature.user_inputs)
    if hasattr(module, "graph"):  # TorchScript
        return [name.debugName().split(".")[0] for name in list(module.graph.inputs())[1:]]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [each.name for each in inspect.signature(target).parameters.values() if each.kind in kinds]


def _by_name(sample: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Samples by position get the names of the arguments."""
    named = {}
    for key, value in sample.items():
        if key.isdigit() and key not in names:
            named[names[int(key)] if int(key) < len(names) else f"input_{key}"] = value
        else:
            named[key] = value
    return named


def _dynamic_batch(inputs: Sequence[Input]) -> list[Input]:
    """The first dimension of every input that has the most common first size becomes the batch."""
    firsts = [each.shape[0] for each in inputs if each.shape]
    common = max(set(firsts), key=firsts.count, default=None)
    return [
        Input(each.name, each.dtype, ("batch", *each.shape[1:]), each.low, each.high)
        if each.shape and each.shape[0] == common
        else each
        for each in inputs
    ]


def tensors_in(outputs: Any) -> list[Any]:
    """The tensors in nested tuples, lists, dictionaries and dataclasses, in order, as exporters flatten them."""
    import torch
    from torch.utils import _pytree

    leaves, _ = _pytree.tree_flatten(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def array(tensor: Any) -> np.ndarray:
    """A tensor as an array of its own."""
    import torch

    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def _shown(each: Input) -> str:
    return f"{each.name}:{each.dtype}[{','.join(map(str, each.shape))}]"


def _brief(problem: Exception) -> str:
    """The line of a long message that says something."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(\w+Error|Unsupported|Could not|Failed|.*not supported)", line)]
    return f"{type(problem).__name__}: {(telling or lines or ['no message'])[0][:300]}"
