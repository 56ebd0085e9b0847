"""TorchScript that takes more than tensors, or remembers: fixed arguments, and memory as inputs and outputs.

A recurrent network for streams often keeps its state in attributes between calls. ONNX has no memory: what ``forward``
assigns to attributes is found in its graph, and a wrapper in TorchScript takes each tensor among them as an input and
gives it back as an output. Other attributes (the size of the last batch, say) start afresh in every call.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sardonyx.converters.source import Input
from sardonyx.errors import ConversionError, InputError


def arguments(module: Any) -> dict[str, str]:
    """Names and types of what ``forward`` takes."""
    return {value.debugName().split(".")[0]: str(value.type()) for value in list(module.graph.inputs())[1:]}


def fixed_arguments(module: Any, options: Mapping[str, str]) -> dict[str, Any]:
    """Values for arguments that are no tensors, from options of their names.

    Raises:
        InputError: one that has no default is not given, or is no number, text or truth value.
    """
    found = {}
    defaults = {each.name: each.default_value for each in module.forward.schema.arguments if each.has_default_value()}
    for name, kind in arguments(module).items():
        if name in options:
            try:
                found[name] = ast.literal_eval(options[name])
            except (ValueError, SyntaxError) as problem:
                raise InputError(f"--option {name}={options[name]}: {problem}") from problem
        elif kind in ("int", "float", "bool", "str") and name not in defaults:
            raise InputError(f"forward takes {name}, of type {kind}, which is no tensor", hint=f"--option {name}=VALUE")
        elif kind in ("int", "float", "bool", "str"):
            found[name] = defaults[name]
    return found


def assigned(module: Any) -> list[str]:
    """Paths of the attributes that ``forward`` assigns to, in it or in what it calls."""
    graph = module.inlined_graph
    own = next(iter(graph.inputs()))
    found = []
    for node in graph.findAllNodes("prim::SetAttr", True):
        path = [node.s("name")]
        value = next(iter(node.inputs()))
        while value.node().kind() == "prim::GetAttr":
            path.insert(0, value.node().s("name"))
            value = next(iter(value.node().inputs()))
        if value.debugName() == own.debugName():
            found.append(".".join(path))
    return list(dict.fromkeys(found))


def attribute(module: Any, path: str) -> Any:
    """The value of an attribute, or of one of a part."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


def wrapped(module: Any, fixed: Mapping[str, Any], state: Sequence[str] = ()) -> Any:
    """`module` as one that takes tensors alone: its own, then the attributes `state`, which it also gives back."""
    import torch

    own = [name for name in arguments(module) if name not in fixed]
    reset = {path: attribute(module, path) for path in assigned(module) if path not in state}
    call = ", ".join(repr(fixed[name]) if name in fixed else name for name in arguments(module))
    lines = [
        f"def forward(self, {', '.join([*own, *map(input_name, state)])}):",
        *(f"    self.inner.{path} = {input_name(path)}" for path in state),
        *(f"    self.inner.{path} = {value!r}" for path, value in reset.items() if state),
        f"    found = self.inner({call})",
        f"    return {', '.join(['found', *(f'self.inner.{path}' for path in state)])}",
    ]

    class Wrapper(torch.jit.ScriptModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module
            self.define("\n".join(lines) + "\n")

    return Wrapper().eval()


def memory(module: Any, fixed: Mapping[str, Any], runs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Input]:
    """The tensors that `module` remembers, as inputs: their sizes after runs on inputs of different sizes.

    Raises:
        ConversionError: it remembers something else than tensors, numbers and texts.
    """
    import torch

    paths = assigned(module)
    kinds = {path: type(attribute(module, path)) for path in paths}
    unknown = [f"{path} ({kind.__name__})" for path, kind in kinds.items() if kind not in _PLAIN | {torch.Tensor}]
    if unknown:
        raise ConversionError(f"forward remembers {', '.join(unknown)}: neither tensors nor numbers")
    tensors = [path for path in paths if kinds[path] is torch.Tensor]
    shapes: dict[str, list[tuple[int, ...]]] = {path: [] for path in tensors}
    for feeds in runs if tensors else ():
        fresh = _copy(module)
        with torch.no_grad():
            wrapped(fresh, fixed)(*(torch.from_numpy(value) for value in feeds.values()))
        for path in tensors:
            shapes[path].append(tuple(attribute(fresh, path).shape))
    return {
        path: Input(input_name(path), str(attribute(module, path).dtype).removeprefix("torch."), _dims(found, runs))
        for path, found in shapes.items()
    }


_PLAIN = {int, float, bool, str, type(None)}


def _dims(shapes: Sequence[tuple[int, ...]], runs: Sequence[Mapping[str, np.ndarray]]) -> tuple[int | str, ...]:
    """Sizes that follow the batch have its name."""
    batches = tuple(next(iter(feeds.values())).shape[0] for feeds in runs)
    sizes = zip(*shapes, strict=True)
    return tuple("batch" if each == batches and len(set(each)) > 1 else each[0] for each in sizes)


def input_name(path: str) -> str:
    """What the input of an attribute is called."""
    return path.replace(".", "_").strip("_")


def _copy(module: Any) -> Any:
    """A copy with memory of its own."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer).eval()


def explicit(module: Any, fixed: Mapping[str, Any], declared: Sequence[Input]) -> tuple[Any, list[Input], list[str]]:
    """The module with its memory as inputs and outputs, its inputs, and what the user should know.

    A module that neither remembers nor takes anything but tensors is returned as it is.
    """
    from sardonyx.converters.signature import example

    runs = [example(declared, {"batch": size}) for size in (2, 3)]
    found = memory(module, fixed, runs)
    if not found:
        return (wrapped(module, fixed) if fixed else module), list(declared), []
    notes = [f"remembers {', '.join(found)}: inputs and outputs of the model; begin with zeros"]
    return wrapped(module, fixed, list(found)), [*declared, *(replace(each) for each in found.values())], notes


def register_symbolics(opset: int) -> None:
    """What the TorchScript exporter lacks: ``not`` of a number, as Python understands it."""
    import torch

    def logical_not(graph: Any, value: Any) -> Any:
        return graph.op("Not", graph.op("Cast", value, to_i=9))  # 9: BOOL

    torch.onnx.register_custom_op_symbolic("aten::__not_", logical_not, opset)
