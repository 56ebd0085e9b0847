"""Reading what PyTorch writes: ExportedPrograms, TorchScript, and weights that a function's module takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sardonyx.converters.source import Request
from sardonyx.errors import InputError, SourceError


class Exported:
    """An ExportedProgram that can be called like the module it came from."""

    training = False

    def __init__(self, program: Any):
        self.program = program
        self.module = program.module()

    def __call__(self, *arguments: Any) -> Any:
        return self.module(*arguments)


def load(request: Request) -> Any:
    """What the file holds, as something that can be called.

    Raises:
        SourceError: it is damaged, of another kind, or weights alone without a factory.
    """
    path = request.source
    if request.kind in ("safetensors", "torch-weights"):
        _factory(request)
    import torch

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
        raise SourceError(f"PyTorch cannot read {path!r}: {brief(problem)}") from problem
    return loaded if isinstance(loaded, torch.nn.Module) else _with_weights(request, loaded)


def _with_weights(request: Request, weights: Any) -> Any:
    """The module that the factory makes, with these weights in it."""
    from sardonyx.converters.factory import make

    factory = _factory(request)
    module = make(factory)
    weights = {re.sub(r"^(module|_orig_mod)\.", "", name): value for name, value in tensors_of(weights).items()}
    found = module.load_state_dict(weights, strict=False)
    problems = [f"missing {name}" for name in found.missing_keys] + [
        f"unknown {name}" for name in found.unexpected_keys
    ]
    if problems:
        shown = ", ".join(problems[:6]) + (f" and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise SourceError(f"the weights do not fit the module that {factory} makes: {shown}")
    return module


def _factory(request: Request) -> str:
    """The function that makes the module, which must be named where a file holds weights alone."""
    if "factory" not in request.options:
        raise SourceError(
            f"{request.source!r} holds weights alone, without the module that they belong to",
            hint="Name a function that makes the module: --option factory=package.module:function.",
        )
    return request.options["factory"]


def tensors_of(checkpoint: Any) -> Mapping[str, Any]:
    """The weights in a checkpoint: itself, or the only mapping in it that holds nothing but tensors.

    Training scripts keep the weights beside an optimizer's state, a step and more, each under a name of its own.

    Raises:
        SourceError: there is none, or more than one.
    """
    if not isinstance(checkpoint, Mapping):
        raise SourceError(f"the file holds a {type(checkpoint).__name__}, neither weights nor a module")
    if _all_tensors(checkpoint):
        return checkpoint
    found = {key: value for key, value in checkpoint.items() if isinstance(value, Mapping) and _all_tensors(value)}
    for usual in ("state_dict", "model_state_dict", "model_state", "model", "net"):
        if usual in found:
            return found[usual]
    if len(found) != 1:
        raise SourceError(
            f"which of the checkpoint's parts are the weights cannot be told: {', '.join(map(str, checkpoint))}",
            hint="Save the weights alone: torch.save(module.state_dict(), file).",
        )
    return next(iter(found.values()))


def _all_tensors(values: Mapping[Any, Any]) -> bool:
    return bool(values) and all(hasattr(value, "detach") for value in values.values())


def brief(problem: BaseException) -> str:
    """The line of a long message that says something: that of the first cause, which exporters wrap in advice."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = [line.strip() for line in _COLOUR.sub("", str(problem)).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(\w+Error|Unsupported|Could not|Failed|.*not supported)", line)]
    return f"{type(problem).__name__}: {(telling or lines or ['no message'])[0][:300]}"


_COLOUR = re.compile("\x1b\\[[0-9;]*m")
