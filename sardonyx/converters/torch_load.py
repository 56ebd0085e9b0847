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
        raise SourceError(f"PyTorch cannot read {path!r}: {brief(problem)}") from problem
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


def brief(problem: Exception) -> str:
    """The line of a long message that says something."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"(\w+Error|Unsupported|Could not|Failed|.*not supported)", line)]
    return f"{type(problem).__name__}: {(telling or lines or ['no message'])[0][:300]}"
