"""What a converter is: a `Source`, a model opened in its own framework, that can be exported and run.

One file of this folder is one framework, with one subclass of `Source` and ``open_source(request, progress, made)``
which returns one; `made` is the model itself where it is an object in memory. The module is imported in a child
process (`child.py`), so frameworks may be imported freely there, but only inside of functions: tests and tools
import the module without the framework.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Dim = int | str


@dataclass(frozen=True)
class Input:
    """An input of a model, and which values make sense for it.

    A dimension may be a sum of others and of numbers: ``past_length + length``.

    Attributes:
        name: its name in the ONNX model.
        dtype: numpy's name of the element type; "string" for text.
        shape: sizes; a string names a dynamic dimension, or is a sum of such names and numbers (``past + length``).
        low: smallest sensible value, or one for each element of the last axis; None: unknown.
        high: largest sensible value, inclusive: the last index of an embedding, say.
        choices: texts that make sense, for text.
        ascending: the values of the last axis ascend, as the corners of a box do.
        padding: for a mask, on which side rows are padded, "left" or "right": it is 1, and 0 on the padding.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    low: float | Sequence[float] | None = None
    high: float | Sequence[float] | None = None
    choices: tuple[str, ...] = ()
    padding: str = ""
    ascending: bool = False

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Input:
        """What `dataclasses.asdict` wrote, read again."""
        return cls(**{**fields, "shape": tuple(fields["shape"]), "choices": tuple(fields["choices"])})


@dataclass(frozen=True)
class Point:
    """A value inside the source that can be compared: the output of a layer or of an operation.

    Attributes:
        name: what `Source.observe` calls it.
        value: name of the ONNX value that should hold the same; "" where only the order is known.
        place: where it comes from, for people: a layer, or a line of source code.
    """

    name: str
    value: str = ""
    place: str = ""


@dataclass
class Request:
    """What is to be converted, and how.

    Attributes:
        source: path of a file or folder, or ``module:factory``.
        kind: a row of `table.KINDS`.
        opset: version of the standard's operators to aim at; None: the converter's choice.
        dims: sizes, or names of dynamic dimensions, for inputs whose shape the source leaves open: keys are
            ``input.axis`` (``image.0``) or the name of a dimension.
        samples: inputs to trace with, by name or position ("0", "1"); two sets make dimensions that differ dynamic.
        options: what only some converters know (``factory``, ``signature``, ``task``, ...), as text.
        trust: whether code in the source may run.
    """

    source: str
    kind: str
    opset: int | None = None
    dims: dict[str, Dim] = field(default_factory=dict)
    samples: list[dict[str, np.ndarray]] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    trust: bool = False

    def to_json(self) -> dict[str, Any]:
        """All fields but the samples, which travel as files."""
        return asdict(Request(self.source, self.kind, self.opset, self.dims, [], self.options, self.trust))


class Source(ABC):
    """A model opened in its framework.

    Raises (all methods):
        SourceError: the source cannot be read, or is not what it seemed.
        ConversionError: a part of it has no ONNX form; node, operator and a hint say which and what to change.
    """

    def __init__(self, request: Request, progress: Callable[[str], None], made: Any = None):
        self.request = request
        self.made = made  # the object itself, where the source is one in memory
        self.progress = progress  # call with a few words at each long step

    def parts(self) -> Sequence[str]:
        """Names of the models that this source becomes, if it is several (an encoder and its decoder); else empty.

        One of them is chosen before any other method is called.
        """
        return ()

    def choose(self, part: str) -> None:
        """What follows is about the part of this name."""
        raise NotImplementedError

    @abstractmethod
    def export(self, path: Path) -> list[str]:
        """Write the ONNX model to `path`; returns what the user should know (the exporter chosen, and so on)."""

    @abstractmethod
    def inputs(self) -> Sequence[Input]:
        """The inputs, named as in the ONNX model; called after `export`."""

    def sizes(self) -> Mapping[str, Sequence[int]]:
        """Sizes of dynamic dimensions that make sense, the most typical first; where none is known, none is given."""
        return {}

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for `feeds`, in the order of the ONNX model's outputs, by the framework itself."""

    def points(self) -> Sequence[Point]:
        """Inner values that `observe` can give, in order of execution; called after `export`."""
        return ()

    def observe(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values of the points called `names` for `feeds`; holds no others in memory."""
        raise NotImplementedError
