"""Inputs as people write them: ``image:float32[batch,3,224,224] in 0..1; ids:int64[batch,length]<30522``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from sardonyx.converters.source import Dim, Input
from sardonyx.errors import InputError

_NUMBER = r"([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)"
_ONE = re.compile(
    r"\s*([\w./-]+)\s*(?::\s*(\w+))?\s*\[([^\]]*)\]\s*"
    rf"(?:<\s*(\d+)|\bin\s*{_NUMBER}\s*\.\.\s*{_NUMBER})?\s*\Z"
)
# Of dynamic dimensions by their usual names: the first for a first sample, the others to compare at as well.
SIZES: dict[str, tuple[int, ...]] = {
    "batch": (3, 1),  # exporters like to take one for a constant
    "length": (16, 7),
    "height": (64, 80),
    "width": (96, 72),
}


def parse_inputs(text: str) -> list[Input]:
    """The inputs that `text` lists, separated by semicolons.

    Each is ``NAME:DTYPE[DIM,DIM,...]``; the type may be left out (float32), a dim that is a word is dynamic, and ``<N``
    says that the values are indices below N, ``in A..B`` that they lie from A to B.

    Raises:
        InputError: it is not written like that.
    """
    found = []
    for part in filter(str.strip, text.split(";")):
        match = _ONE.match(part)
        if match is None:
            raise InputError(f"inputs {part.strip()!r}", hint="write NAME:DTYPE[batch,3,224,224], more after ';'")
        name, dtype, dims, limit, low, high = match.groups()
        shape = tuple(int(dim) if dim.strip().isdigit() else dim.strip() for dim in dims.split(",") if dim.strip())
        ends = (0, int(limit) - 1) if limit else (float(low), float(high)) if low else (None, None)
        found.append(Input(name, dtype or "float32", shape, *ends))
    return found


def example(inputs: Sequence[Input], sizes: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays that fit `inputs`, to trace with; dynamic dimensions get a size that is likely."""
    from sardonyx.verifier.samples import dims_in, fill

    names = {name for each in inputs for dim in each.shape if isinstance(dim, str) for name in dims_in(dim)}
    return fill(inputs, {**{name: SIZES.get(name, (8,))[0] for name in names}, **(sizes or {})}, seed)


def with_dynamic(inputs: Sequence[Input], samples: Sequence[Mapping[str, np.ndarray]]) -> list[Input]:
    """`inputs` with the dimensions in which samples differ made dynamic.

    Dimensions that have the same sizes in every sample share a name.
    """
    names: dict[tuple[int, ...], str] = {}
    found = []
    for each in inputs:
        shape: list[Dim] = list(each.shape)
        for axis in range(len(shape)):
            sizes = tuple(np.shape(sample[each.name])[axis] for sample in samples if each.name in sample)
            if len(set(sizes)) > 1:
                likely = "batch" if axis == 0 and "batch" not in names.values() else f"{each.name}_{axis}"
                shape[axis] = names.setdefault(sizes, likely)
        found.append(Input(each.name, each.dtype, tuple(shape), each.low, each.high))
    return found
