"""PyTorch: modules, ExportedPrograms, TorchScript, and weights with a function that makes their module.

`torch.onnx` exports: by its new exporter (torch.export) first, by the TorchScript one where that fails; which one it
was is said. Dimensions in which two samples differ are dynamic; without samples the batch is, if the model allows it.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sardonyx.converters import torch_guess, torch_points, torch_script
from sardonyx.converters.onnx_file import model_inputs
from sardonyx.converters.signature import SIZES, example, parse_inputs, with_dynamic
from sardonyx.converters.source import Input, Point, Request, Source
from sardonyx.converters.torch_load import brief, load
from sardonyx.errors import ConversionError, InputError
from sardonyx.verifier.samples import dims_in


class PyTorch(Source):
    """A module, or what behaves like one."""

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        super().__init__(request, progress, made)
        self.notes: list[str] = []
        self.module: Any = None
        self._outputs: list[str] | None = None  # names of the outputs; None: the exporter's
        self._inputs: Sequence[Input] = ()
        self._points: Sequence[Point] = ()
        self.open()

    def open(self) -> None:
        """Read the module, and find out what it takes."""
        self.take(self.made if self.made is not None else load(self.request))
        if not is_script(self.module):
            self._declared = self._inputs_declared()
            return
        inner, fixed = self.module, torch_script.fixed_arguments(self.module, self.request.options)
        if fixed:
            self.module = torch_script.wrapped(inner, fixed)
        own = self._inputs_declared()
        self.module, self._declared, notes = torch_script.explicit(inner, fixed, own)
        self.notes += notes
        memory = [f"next_{each.name}" for each in self._declared[len(own) :]]
        count = len(self.run(self._feeds())) - len(memory)
        self._outputs = [*_output_names(count), *memory]

    def take(self, module: Any) -> None:
        """`module` is what is exported and run, in evaluation mode."""
        self.module = module
        if getattr(module, "training", False) and hasattr(module, "eval"):
            self.notes.append("the module was in training mode; it is converted in evaluation mode")
        if hasattr(module, "eval"):
            module.eval()

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
        feeds = self._feeds()
        problems = []
        for title, exporter in self._exporters():
            self.progress(f"exporting by {title}")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    exporter(path, feeds)
            except Exception as problem:
                problems.append(f"{title}: {brief(problem)}")
                continue
            self.notes += [f"exported by {title}", *(f"not by {text}" for text in problems)]
            self._finish(path)
            return self.notes
        raise ConversionError(
            "no exporter of PyTorch takes the module: " + "; ".join(problems),
            hint="The first message names the line; Python that depends on data (if x.sum() > 0) is the usual cause.",
        )

    def _feeds(self) -> Mapping[str, np.ndarray]:
        """Inputs to trace with: the first sample that fits, twice where a dynamic dimension of it has size 1."""
        names = {each.name for each in self._declared}
        for sample in self.request.samples:
            if names <= sample.keys():
                return {each.name: _no_ones(sample[each.name], each.shape) for each in self._declared}
        likely = {name: sizes[0] for name, sizes in self.sizes().items()}
        given = {name: size for name, size in self.request.dims.items() if isinstance(size, int)}
        return example(self._declared, likely | given)

    def _exporters(self) -> Iterator[tuple[str, Callable[[Path, Mapping[str, np.ndarray]], None]]]:
        scripted = is_script(self.module)
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
        tensors = self._tensors(feeds)
        shapes: Any = {
            each.name: {axis: auto for axis, dim in enumerate(each.shape) if isinstance(dim, str)}
            for each in self._declared
        }
        arguments: dict[str, Any] = {"kwargs": tensors}
        if not self._by_name():
            arguments, shapes = {"args": tuple(tensors.values())}, tuple(shapes.values())
            shapes = (shapes,) if _any_number(self.module) else shapes
        if self.request.opset:
            arguments["opset_version"] = self.request.opset
        program = torch.onnx.export(
            getattr(self.module, "program", self.module),
            dynamic_shapes=shapes if dynamic else None,
            input_names=[each.name for each in self._declared],
            output_names=self._outputs,
            external_data=False,
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
        outputs = self._output_axes(feeds)
        if hasattr(self.module, "program"):
            raise ConversionError("an ExportedProgram has no TorchScript form")
        opset = self.request.opset or 17
        torch_script.register_symbolics(opset)
        torch.onnx.export(
            self.module,
            () if self._by_name() else tuple(self._tensors(feeds).values()),
            str(path),
            kwargs=self._tensors(feeds) if self._by_name() else None,
            input_names=[each.name for each in self._declared],
            output_names=list(outputs),
            dynamic_axes={**axes, **outputs} if dynamic else None,
            opset_version=opset,
            dynamo=False,
        )

    def _output_axes(self, feeds: Mapping[str, np.ndarray]) -> dict[str, dict[int, str]]:
        """Names of the outputs, and which of their axes change with the sizes of the inputs.

        The TorchScript exporter would give outputs the sizes of the sample.
        """
        first = [value.shape for value in self.run(feeds)]
        names = self._outputs or _output_names(len(first))
        try:
            second = [value.shape for value in self.run(self._other_feeds())]
        except Exception:  # whatever a module raises on sizes that it was not made for
            second = first
        return {
            name: {axis: f"{name}_{axis}" for axis, (a, b) in enumerate(zip(one, two, strict=False)) if a != b}
            for name, one, two in zip(names, first, second, strict=False)
        }

    def _other_feeds(self) -> Mapping[str, np.ndarray]:
        """Inputs of other sizes than those of `_feeds`: the second sample, or what is made up."""
        if len(self.request.samples) > 1:
            return self.request.samples[1]
        known = self.sizes()
        names = {name for each in self._declared for dim in each.shape if isinstance(dim, str) for name in dims_in(dim)}
        return example(self._declared, {name: known[name][1] if len(known.get(name, ())) > 1 else 9 for name in names})

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
        declared = {each.name: each for each in self._declared}
        self._inputs = [
            replace(declared.get(each.name, each), dtype=each.dtype, shape=each.shape) for each in model_inputs(model)
        ]
        self._points = torch_points.points(self.module, model)

    # Running.

    def inputs(self) -> Sequence[Input]:
        """As exported, with the ranges that the module's embeddings allow."""
        return self._inputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """By PyTorch, in evaluation mode, without gradients."""
        import torch

        tensors = self._tensors({each.name: feeds[each.name] for each in self._declared if each.name in feeds})
        with torch.no_grad():
            outputs = self.module(**tensors) if self._by_name() else self.module(*tensors.values())
        return [array(value) for value in tensors_in(outputs)]

    def sizes(self) -> Mapping[str, Sequence[int]]:
        """By the usual names of dimensions."""
        return SIZES

    def points(self) -> Sequence[Point]:
        """Outputs of the module's parts."""
        return self._points

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """By forward hooks on the parts that are asked for."""
        return torch_points.observe(self.module, lambda: self.run(feeds), names)

    def _by_name(self) -> bool:
        """Whether arguments are left out between those that are given, so that they must be named."""
        names, given = _parameters(self.module), [each.name for each in self._declared]
        return names[: len(given)] != given and set(given) <= set(names)

    def _tensors(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(np.array(value)) for name, value in feeds.items()}


def open_source(request: Request, progress: Callable[[str], None], made: Any = None) -> Source:
    """Open the source with PyTorch."""
    return PyTorch(request, progress, made)


def _parameters(module: Any) -> list[str]:
    """Names of the arguments of ``forward``."""
    target = getattr(module, "forward", module)
    if hasattr(module, "program"):
        return list(module.program.graph_signature.user_inputs)
    if is_script(module):
        return list(torch_script.arguments(module))
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    return [each.name for each in inspect.signature(target).parameters.values() if each.kind in kinds]


def _no_ones(value: np.ndarray, shape: Sequence[int | str]) -> np.ndarray:
    """`value` repeated along dynamic dimensions of size 1, which exporters would take for constants."""
    for axis, dim in enumerate(shape):
        if isinstance(dim, str) and value.shape[axis] == 1:
            value = np.repeat(value, 2, axis)
    return value


def _output_names(count: int) -> list[str]:
    return [f"output_{number}" for number in range(count)] if count > 1 else ["output"]


def is_script(module: Any) -> bool:
    """Whether it is TorchScript."""
    import torch

    return isinstance(module, torch.jit.ScriptModule)


def _any_number(module: Any) -> bool:
    """Whether ``forward`` takes its tensors as ``*values``: any number of them, without names."""
    parameters = inspect.signature(getattr(module, "forward", module)).parameters.values()
    return any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)


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
