"""A reader of FlatBuffers that trusts nothing: every offset and length is checked against the file.

A schema is a text, one table a line: its name, then its fields in the order of their slots::

    Operator opcode_index:u32 inputs:[i32] builtin_options:Union custom_options:[u8] scale:f32=1

Types are scalars (`u8` ... `f64`, `bool`), `str`, vectors of scalars (numpy arrays that view the file), tables, vectors
of tables, and `Union`, which takes two slots: it reads as a pair of its type number and the position of its table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from sardonyx.errors import SourceError

_SCALARS = {
    "u8": "<u1", "i8": "<i1", "bool": "<?", "u16": "<u2", "i16": "<i2", "u32": "<u4", "i32": "<i4", "u64": "<u8",
    "i64": "<i8", "f32": "<f4", "f64": "<f8",
}  # fmt: skip
DTYPES = {name: np.dtype(code) for name, code in _SCALARS.items()}
_BUDGET = 16  # table fields decoded for each byte of the file: tables that share bytes can ask for far more


@dataclass(frozen=True)
class Field:
    """A field of a table: its name, type, slot and default."""

    name: str
    type: str
    slot: int
    default: Any


def parse_schema(text: str) -> dict[str, tuple[Field, ...]]:
    """The tables of a schema; see the head of this file."""
    tables = {}
    for line in filter(None, text.splitlines()):
        table, *words = line.split()
        fields, slot = [], 0
        for word in words:
            name, _, rest = word.partition(":")
            kind, _, default = rest.partition("=")
            value = DTYPES[kind].type(float(default or 0)).item() if kind in DTYPES else None
            fields.append(Field(name, kind, slot, value))
            slot += 2 if kind == "Union" else 1
        tables[table] = tuple(fields)
    return tables


class FlatBuffer:
    """A file, read by a schema.

    Args:
        data: the whole file.
        schema: of `parse_schema`.

    Raises (all methods):
        SourceError: an offset or a length leaves the file.
    """

    def __init__(self, data: bytes | memoryview, schema: Mapping[str, tuple[Field, ...]]):
        self.data = memoryview(data)
        self.schema = schema
        self.known: dict[tuple[str, int], SimpleNamespace] = {}
        self.left = _BUDGET * len(self.data) + 4096

    def root(self, table: str) -> SimpleNamespace:
        """The root table, with all tables below it; missing fields have their default, None for what is no number."""
        return self.table(table, self._offset(0))

    def table(self, name: str, at: int) -> SimpleNamespace:
        """The table called `name` at a position; the same object for the same place."""
        key = name, at
        if key not in self.known:
            # Entered before its fields are read, so that a table that holds itself ends.
            self.known[key] = found = SimpleNamespace()
            slots = self._slots(at)
            self._spend(len(self.schema[name]))
            for field in self.schema[name]:
                setattr(found, field.name, self._field(field, at, slots))
        return self.known[key]

    def _slots(self, at: int) -> tuple[int, ...]:
        vtable = at - self._scalar("i32", at)
        size = self._scalar("u16", vtable)
        self._check(vtable, size)
        return struct.unpack_from(f"<{max(0, size - 4) // 2}H", self.data, vtable + 4)

    def _field(self, field: Field, at: int, slots: tuple[int, ...]) -> Any:
        def place(slot: int) -> int:
            return at + slots[slot] if slot < len(slots) and slots[slot] else 0

        where = place(field.slot)
        if field.type == "Union":
            inner = place(field.slot + 1)
            return (self._scalar("u8", where), self._offset(inner)) if where and inner else (0, 0)
        if not where:
            return field.default
        if field.type in _SCALARS:
            return self._scalar(field.type, where)
        target = self._offset(where)
        if field.type == "str":
            return bytes(self._vector("u8", target)).decode("utf-8", "replace")
        if not field.type.startswith("["):
            return self.table(field.type, target)
        inner_type = field.type[1:-1]
        vector = self._vector(inner_type if inner_type in _SCALARS else "u32", target)
        if inner_type in _SCALARS:
            return vector
        self._spend(len(vector))
        return [self.table(inner_type, target + 4 + 4 * i + int(step)) for i, step in enumerate(vector)]

    def _vector(self, kind: str, at: int) -> np.ndarray:
        length, dtype = self._scalar("u32", at), DTYPES[kind]
        self._check(at + 4, length * dtype.itemsize)
        return np.frombuffer(self.data, dtype, length, at + 4)

    def _offset(self, at: int) -> int:
        return at + self._scalar("u32", at)

    def _scalar(self, kind: str, at: int) -> Any:
        dtype = DTYPES[kind]
        self._check(at, dtype.itemsize)
        return np.frombuffer(self.data, dtype, 1, at)[0].item()

    def _check(self, at: int, size: int) -> None:
        if at < 0 or at + size > len(self.data):
            raise SourceError(
                f"the file is damaged: {size} bytes at {at} are outside of its {len(self.data)}",
                hint="It is cut off, or no file of this kind; copy it again.",
            )

    def _spend(self, fields: int) -> None:
        self.left -= fields
        if self.left < 0:
            raise SourceError("the file is damaged: its tables refer to each other without end")
