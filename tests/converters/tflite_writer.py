"""A writer of TensorFlow Lite's format for tests: models as Python objects, written by the schema that the reader has."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sardonyx.converters import tflite_schema as schema
from sardonyx.converters.flatbuffer import DTYPES

_SIZES = {name: dtype.itemsize for name, dtype in DTYPES.items()}


class Writer:
    """Tables are written front to back; what a table refers to lies behind it."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0\0\0\0TFL3")

    def whole(self, model: dict[str, Any]) -> bytes:
        """The file of a model."""
        self._point(0, self.table("Model", model))
        return bytes(self.data)

    def table(self, name: str, values: dict[str, Any]) -> int:
        """Write a table and all that it holds; returns its place."""
        fields = [each for each in schema.SCHEMA[name] if values.get(each.name) is not None]
        slots = max((each.slot + 1 + (each.type == "Union") for each in fields), default=0)
        places, size = [0] * slots, 4
        for each in fields:
            for slot, kind in (
                [(each.slot, each.type)] if each.type != "Union" else [(each.slot, "u8"), (each.slot + 1, "")]
            ):
                width = _SIZES.get(kind, 4)
                size = -(-size // width) * width
                places[slot], size = size, size + width
        self._align(8, 4 + 2 * slots)
        vtable = len(self.data)
        self.data += struct.pack(f"<{2 + slots}H", 4 + 2 * slots, size, *places)
        at = len(self.data)
        assert at % 8 == 0
        self.data += struct.pack("<i", at - vtable) + bytes(size - 4)
        for each in fields:
            self._field(
                each.type, at + places[each.slot], values[each.name], at + places[min(each.slot + 1, slots - 1)]
            )
        return at

    def _field(self, kind: str, at: int, value: Any, next_: int) -> None:
        if kind == "Union":
            number, table, fields = value
            self.data[at] = number
            self._point(next_, self.table(table, fields))
        elif kind in DTYPES:
            self.data[at : at + _SIZES[kind]] = np.array(value, DTYPES[kind]).tobytes()
        elif kind == "str":
            self._point(at, self._vector(value.encode() + b"\0", len(value.encode()), 1))
        elif kind in schema.SCHEMA:
            self._point(at, self.table(kind, value))
        elif kind[1:-1] in DTYPES:
            array = np.ascontiguousarray(value, DTYPES[kind[1:-1]]).reshape(-1)
            self._point(at, self._vector(array.tobytes(), array.size, array.itemsize))
        else:
            place = self._vector(bytes(4 * len(value)), len(value), 4)
            self._point(at, place)
            for number, each in enumerate(value):
                self._point(place + 4 + 4 * number, self.table(kind[1:-1], each))

    def _vector(self, content: bytes, count: int, width: int) -> int:
        self._align(max(width, 4), 4)
        place = len(self.data)
        self.data += struct.pack("<I", count) + content
        return place

    def _align(self, width: int, before: int = 0) -> None:
        self.data += bytes(-(len(self.data) + before) % width)

    def _point(self, at: int, target: int) -> None:
        self.data[at : at + 4] = struct.pack("<I", target - at)


@dataclass
class Graph:
    """A subgraph that is put together operator by operator; `Model` has them."""

    model: Model
    tensors: list[dict[str, Any]] = field(default_factory=list)
    operators: list[dict[str, Any]] = field(default_factory=list)

    def tensor(self, shape: Any, dtype: str = "float32", *, name: str = "", scale: Any = None, zero: Any = 0, axis: int = 0,
               variable: bool = False, signature: Any = None, data: Any = None) -> int:  # fmt: skip
        """A tensor; with `data` a constant."""
        buffer = 0
        if data is not None:
            self.model.buffers.append({"data": np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)})
            buffer = len(self.model.buffers) - 1
        entry = {"shape": list(shape), "type": schema.TYPES.index(dtype), "buffer": buffer, "shape_signature": signature,
                 "name": name or f"t{len(self.tensors)}", "is_variable": variable or None}  # fmt: skip
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            zeros = np.broadcast_to(np.asarray(zero, np.int64), scales.shape)
            entry["quantization"] = {"scale": scales, "zero_point": zeros, "quantized_dimension": axis}
        self.tensors.append(entry)
        return len(self.tensors) - 1

    def constant(self, data: Any, **more: Any) -> int:
        """A constant tensor."""
        data = np.asarray(data)
        return self.tensor(data.shape, data.dtype.name, data=data, **more)

    def op(
        self,
        name: str,
        inputs: list[int],
        outputs: list[int],
        options: str = "",
        custom: bytes | None = None,
        **values: Any,
    ) -> int:
        """An operator; returns its first output."""
        entry: dict[str, Any] = {"opcode_index": self.model.code(name), "inputs": inputs, "outputs": outputs}
        if options:
            number = next(key for key, table in schema.UNION.items() if table == options)
            entry["builtin_options"] = number, options, values
        if custom is not None:
            entry["custom_options"] = np.frombuffer(custom, np.uint8)
        self.operators.append(entry)
        return outputs[0] if outputs else -1


@dataclass
class Model:
    """A model; the first buffer is the empty one."""

    graphs: list[dict[str, Any]] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    buffers: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    def code(self, name: str) -> int:
        """The number of an operator's code."""
        if name not in self.codes:
            self.codes.append(name)
        return self.codes.index(name)

    def graph(self) -> Graph:
        """A new subgraph."""
        return Graph(self)

    def add(self, graph: Graph, inputs: list[int], outputs: list[int]) -> None:
        """A subgraph, finished."""
        self.graphs.append(
            {"tensors": graph.tensors, "inputs": inputs, "outputs": outputs, "operators": graph.operators}
        )

    def written(self) -> bytes:
        """The file."""
        codes = []
        for name in self.codes:
            custom = name.startswith("CUSTOM:")
            number = schema.OPERATORS.index("CUSTOM" if custom else name)
            codes.append({"deprecated_builtin_code": min(number, 127), "builtin_code": number, "version": 1,
                          "custom_code": name.removeprefix("CUSTOM:") if custom else None})  # fmt: skip
        return Writer().whole(
            {"version": 3, "operator_codes": codes, "subgraphs": self.graphs, "buffers": self.buffers}
        )
