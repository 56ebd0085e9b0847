"""Descriptions of inputs and outputs, and the check of a value against its description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from sardonyx.onnxruntime._exceptions import InvalidArgument
from sardonyx.onnxruntime._types import dtype_of, element_of, tensor_element
from sardonyx.onnxruntime._values import OrtValue


class NodeArg:
    """Name, type and shape of an input or output.

    `shape` is a list: int, name of a symbolic dimension, or None for an unknown one. It is empty for scalars,
    for tensors of unknown rank and for what is not a tensor.
    """

    __slots__ = ("_name", "_shape", "_type")

    def __init__(self, name: str, type: str, shape: Sequence[int | str | None] | None) -> None:
        self._name = name
        self._type = type
        self._shape = [dim or None if isinstance(dim, str) else dim for dim in shape or ()]

    @classmethod
    def of(cls, info: Any) -> NodeArg:
        """From an input or output of a `sardonyx.Session`."""
        return cls(info.name, info.type, info.shape)

    @property
    def name(self) -> str:
        """The name in the graph."""
        return self._name

    @property
    def type(self) -> str:
        """A type string such as ``tensor(float)``."""
        return self._type

    @property
    def shape(self) -> list[int | str | None]:
        """The dimensions."""
        return self._shape

    def __str__(self) -> str:
        return f"NodeArg(name='{self._name}', type='{self._type}', shape={self._shape})"


@dataclass
class ModelMetadata:
    """What a model says about itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> ModelMetadata:
        """From the metadata of a `sardonyx.Session`."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in metadata.items() if name in known})


class Feed:
    """One input of a model: checks a value and turns it into an array, list or dict."""

    def __init__(self, argument: NodeArg) -> None:
        self.name = argument.name
        self.type = argument.type
        self.element = tensor_element(argument.type)
        self.dtype = None if self.element is None else dtype_of(self.element)
        self.shape = argument.shape
        self.fixed = [(axis, dim) for axis, dim in enumerate(self.shape) if isinstance(dim, int)]

    def prepare(self, value: Any) -> Any:
        """The value as `sardonyx.Session.run` takes it.

        Raises:
            InvalidArgument: type or shape differ from the model's.
            RuntimeError: not something that can be a value at all.
        """
        if isinstance(value, OrtValue):
            value = value.numpy()
        if self.element is None:
            return self._other(value)
        if not isinstance(value, np.ndarray):
            value = self._array(value)
        self._check_type(value.dtype)
        self._check_shape(value.shape)
        if value.dtype.kind in "US":
            value = _text_objects(value)
        return value

    def _other(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and not self.type.startswith("optional(tensor("):
            raise InvalidArgument(
                f"input with name: '{self.name}' expected to be of type: {self.type} but received a tensor"
            )
        if value is None or isinstance(value, (list, Mapping, np.ndarray)):
            return value
        raise RuntimeError(f"Unable to handle object of type {type(value)}")

    def _array(self, value: Any) -> np.ndarray:
        if isinstance(value, list):
            try:
                return np.array(value, self.dtype)
            except (ValueError, TypeError) as error:
                raise RuntimeError("Could not create tensor from given input list") from error
        if value is None:
            raise InvalidArgument(f"Missing Input: {self.name}")
        if isinstance(value, (str, bytes, tuple, memoryview)):
            raise RuntimeError(f"Input must be a list of dictionaries or a single numpy array for input '{self.name}'.")
        raise RuntimeError(f"Unable to handle object of type {type(value)}")

    def _check_type(self, dtype: np.dtype) -> None:
        if dtype == self.dtype or dtype.newbyteorder("=") == self.dtype:
            return
        actual = element_of(dtype)
        if actual != self.element:
            raise InvalidArgument(
                f"Unexpected input data type. Actual: (tensor({actual})) , expected: (tensor({self.element}))"
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if not self.shape:  # a scalar or of unknown rank: the original checks neither
            return
        if len(shape) != len(self.shape):
            raise InvalidArgument(
                f"Invalid rank for input: {self.name} Got: {len(shape)} Expected: {len(self.shape)} "
                "Please fix either the inputs/outputs or the model."
            )
        wrong = [(axis, shape[axis], dim) for axis, dim in self.fixed if shape[axis] != dim]
        if wrong:
            lines = "".join(f"\n index: {a} Got: {got} Expected: {want}" for a, got, want in wrong)
            raise InvalidArgument(
                f"Got invalid dimensions for input: {self.name} for the following indices{lines}"
                "\n Please fix either the inputs/outputs or the model."
            )


def _text_objects(array: np.ndarray) -> np.ndarray:
    """Fixed-width text, or bytes in UTF-8, as an array of str objects."""
    return (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array).astype(object)
