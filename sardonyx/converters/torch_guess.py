"""What a PyTorch module probably takes: told by its first layer, and tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sardonyx.converters.signature import example
from sardonyx.converters.source import Input

_LAYERS = ("Conv1d", "Conv2d", "Conv3d", "Embedding", "LSTM", "GRU", "RNN", "Linear")
_SIDES = (224, 256, 299, 384, 192, 160, 128, 112, 96, 64, 48, 32, 28, 24, 512)  # of images
_VOLUMES = [(16, 112, 112), (32, 112, 112)]
_LENGTHS = (16000, 1024, 512, 128, 64)  # of one-dimensional signals


def guess(module: Any, names: Sequence[str]) -> list[Input] | None:
    """The first inputs that are likely and that the module accepts; None: nothing likely works."""
    if hasattr(module, "program"):
        return of_program(module.program, names)
    for candidate in _candidates(module, names):
        if accepts(module, candidate):
            return candidate
    return None


def of_program(program: Any, names: Sequence[str]) -> list[Input]:
    """The inputs that an ExportedProgram was traced with; dimensions that are symbols there are dynamic here."""
    import torch

    found = []
    for name in names:
        node = next(n for n in program.graph.nodes if n.name == name)
        value = node.meta["val"]
        shape = tuple(int(d) if isinstance(d, int) else str(d) for d in value.shape)
        found.append(Input(name, str(value.dtype).removeprefix("torch."), shape))
    del torch
    return found


def accepts(module: Any, inputs: Sequence[Input]) -> bool:
    """Whether the module runs on inputs like these."""
    import torch

    try:
        with torch.no_grad():
            module(*(torch.from_numpy(value) for value in example(inputs).values()))
    except Exception:  # whatever a module raises on inputs that it was not made for
        return False
    return True


def _candidates(module: Any, names: Sequence[str]) -> Iterator[list[Input]]:
    name = names[0] if names else "input"
    layer = _first_layer(module)
    if layer is None:
        return
    kind = _kind(layer)
    if kind.startswith("Conv"):
        known: dict[str, Sequence[tuple[int, ...]]] = {
            "Conv1d": [(n,) for n in _LENGTHS],
            "Conv2d": [(n, n) for n in _SIDES],
            "Conv3d": _VOLUMES,
        }
        sizes = known[kind]
        yield from ([Input(name, "float32", ("batch", layer.in_channels, *size))] for size in sizes)
        # A signal that becomes one channel, or a picture, inside.
        yield from ([Input(name, "float32", ("batch", n))] for n in _LENGTHS if layer.in_channels == 1)
    elif kind == "Embedding":
        ids = Input(name, "int64", ("batch", 16), 0, layer.num_embeddings - 1)
        yield [ids]
        yield [ids, *(Input(other, "int64", ("batch", 16), 1, 1) for other in names[1:2])]
    elif kind in ("LSTM", "GRU", "RNN"):
        yield [Input(name, "float32", ("batch", "length", layer.input_size))]
    elif kind == "Linear":
        yield [Input(name, "float32", ("batch", layer.in_features))]
        yield [Input(name, "float32", ("batch", 16, layer.in_features))]


def _first_layer(module: Any) -> Any:
    """The first part with weights whose input's width is known from its own attributes."""
    return next((part for part in module.modules() if _kind(part)), None)


def _kind(part: Any) -> str:
    """Which layer of PyTorch it is, or is derived from; "" for others, and for TorchScript, which hides sizes."""
    names = [base.__name__ for base in type(part).__mro__ if base.__module__.startswith("torch.nn.modules")]
    return next((name for name in names if name in _LAYERS), "")


def with_range(module: Any, each: Input) -> Input:
    """`each` with the values that make sense: masks are 0 or 1, indices stay below the smallest fitting embedding."""
    if each.dtype not in ("int64", "int32"):
        return each
    if "mask" in each.name or "type" in each.name:
        return Input(each.name, each.dtype, each.shape, 0, 1)
    sizes = [part.num_embeddings for part in module.modules() if type(part).__name__ == "Embedding"]
    limit = max(sizes, default=2)  # of the vocabulary; positions and types have small tables of their own
    return Input(each.name, each.dtype, each.shape, 0, limit - 1)
