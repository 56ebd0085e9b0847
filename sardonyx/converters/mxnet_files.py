"""MXNet's two files: the symbol, a graph in JSON, and the parameters, a list of arrays."""

from __future__ import annotations

import ast
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sardonyx.errors import ConversionError, SourceError

_LIST = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # before the first, an array begins with its rank
_TYPES = {
    0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64", 7: "bool", 12: "bfloat16",
}  # fmt: skip
_MAX_RANK = 32


@dataclass
class Node:
    """A node of the symbol.

    Attributes:
        op: the operator; "null" for an input or a parameter.
        name: of the node.
        attrs: its attributes, as text.
        inputs: (node, output) pairs.
        subgraphs: those of control flow.
        used: attributes that were asked for.
    """

    op: str
    name: str
    attrs: dict[str, str]
    inputs: list[tuple[int, int]]
    subgraphs: list[Symbol] = field(default_factory=list)

    def text(self, name: str, default: str = "") -> str:
        """An attribute as text."""
        found = self.attrs.get(name, default)
        return default if found in ("None", "") else found

    def parsed(self, name: str, default: Any = None) -> Any:
        """An attribute as Python's number, tuple or None."""
        text = self.attrs.get(name)
        if text is None or text == "None":
            return default
        try:
            return ast.literal_eval(re.sub(r"(\d)L\b", r"\1", text))
        except (ValueError, SyntaxError, RecursionError, MemoryError) as problem:
            raise self.refuse(f"attribute {name} is {text[:60]!r}", "The symbol is damaged.") from problem

    def integer(self, name: str, default: int | None = None) -> int:
        """An attribute that is an integer."""
        found = self.parsed(name, default)
        if isinstance(found, (bool, int, float)) and int(found) == found:
            return int(found)
        raise self.refuse(f"attribute {name} is {self.attrs.get(name)!r}, no integer", "The symbol is damaged.")

    def number(self, name: str, default: float | None = None) -> float:
        """An attribute that is a number."""
        found = self.parsed(name, default)
        if isinstance(found, (bool, int, float)):
            return float(found)
        raise self.refuse(f"attribute {name} is {self.attrs.get(name)!r}, no number", "The symbol is damaged.")

    def flag(self, name: str, default: bool = False) -> bool:
        """An attribute that is true or false."""
        return bool(self.parsed(name, default))

    def ints(self, name: str, default: tuple[int, ...] = ()) -> list[int]:
        """An attribute that is a list of integers, or one."""
        found = self.parsed(name, default)
        found = found if isinstance(found, (tuple, list)) else (found,)
        if not all(isinstance(each, (int, float)) and int(each) == each for each in found):
            raise self.refuse(f"attribute {name} is {self.attrs.get(name)!r}, no list of integers")
        return [int(each) for each in found]

    def refuse(self, reason: str, hint: str = "") -> ConversionError:
        """An error that names this node."""
        return ConversionError(reason, node=self.name, operator=self.op, hint=hint or None)


@dataclass
class Symbol:
    """A graph: nodes in order of execution, and the (node, output) pairs that it gives."""

    nodes: list[Node]
    heads: list[tuple[int, int]]


def read_symbol(path: Path) -> Symbol:
    """The graph in a ``-symbol.json`` file.

    Raises:
        SourceError: it is damaged, or no symbol.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise SourceError(f"{str(path)!r} is no JSON: {problem}", hint="It is damaged; copy it again.") from problem
    return _symbol(content, str(path))


def _symbol(content: Any, shown: str) -> Symbol:
    bad = SourceError(f"{shown!r} is no symbol of MXNet", hint="A symbol is JSON with nodes, arg_nodes and heads.")
    if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
        raise bad
    nodes: list[Node] = []
    for entry in content["nodes"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("op"), str):
            raise bad
        attrs: dict[str, str] = {}
        for key in ("param", "attr", "attrs"):  # in the order in which versions of MXNet named them
            attrs |= {str(k): str(v) for k, v in (entry.get(key) or {}).items()}
        inputs = [_pair(each, len(nodes), bad) for each in entry.get("inputs", [])]
        inner = [_symbol(each, shown) for each in entry.get("subgraphs", [])]
        nodes.append(Node(entry["op"], str(entry.get("name", "")), attrs, inputs, inner))
    heads = [_pair(each, len(nodes), bad) for each in content.get("heads", [])]
    if not heads:
        raise bad
    return Symbol(nodes, heads)


def _pair(entry: Any, limit: int, bad: SourceError) -> tuple[int, int]:
    """A (node, output) pair; the node comes before `limit`, so that there is no cycle."""
    if not isinstance(entry, list) or len(entry) < 2 or not all(isinstance(each, int) for each in entry[:2]):
        raise bad
    if not 0 <= entry[0] < limit or entry[1] < 0:
        raise SourceError(f"the symbol is damaged: node {limit} takes an output of node {entry[0]}")
    return entry[0], entry[1]


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.params`` file by name, without the prefixes ``arg:`` and ``aux:``.

    Raises:
        SourceError: it is cut off, damaged, or no such file.
    """
    reader = _Reader(path.read_bytes(), str(path))
    if reader.take("<Q") != _LIST:
        raise SourceError(f"{str(path)!r} holds no parameters of MXNet", hint="It begins with another mark.")
    reader.take("<Q")
    arrays = [reader.array() for _ in range(reader.count())]
    names = [bytes(reader.bytes(reader.take("<Q"))).decode("utf-8", "replace") for _ in range(reader.count())]
    if len(names) != len(arrays):
        raise SourceError(
            f"{str(path)!r} has {len(names)} names for {len(arrays)} arrays", hint="Save a dictionary of parameters."
        )
    found = {name.removeprefix("arg:").removeprefix("aux:"): array for name, array in zip(names, arrays)}
    return {name: array for name, array in found.items() if array is not None}


class _Reader:
    """Bytes from front to back, never beyond their end."""

    def __init__(self, data: bytes, shown: str):
        self.data, self.shown, self.at = memoryview(data), shown, 0

    def bytes(self, size: int) -> memoryview:
        if size < 0 or self.at + size > len(self.data):
            raise SourceError(
                f"{self.shown!r} is cut off or damaged: it has {len(self.data)} bytes, {self.at + size} are needed",
                hint="Copy it again.",
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def take(self, code: str) -> int:
        return int(struct.unpack(code, self.bytes(struct.calcsize(code)))[0])

    def count(self) -> int:
        """A number of things, each of which takes bytes."""
        found = self.take("<Q")
        self.check(found <= len(self.data) - self.at, f"a list of {found}")
        return found

    def check(self, good: bool, what: str) -> None:
        if not good:
            raise SourceError(f"{self.shown!r} is damaged: {what} at byte {self.at}", hint="Copy it again.")

    def array(self) -> np.ndarray | None:
        """An array in any of its four formats; None: one without content."""
        magic = self.take("<I")
        if magic not in (_V1, _V2, _V3):
            shape = self.shape(magic, "<I")
        else:
            if magic != _V1:
                storage = self.take("<i")
                if storage not in (0, -1):
                    raise SourceError(
                        f"{self.shown!r} holds a sparse array", hint="Store it densely: array.tostype('default')."
                    )
            shape = self.shape(self.take("<i"), "<q")
        if shape is None or (not shape and magic != _V3):
            return None
        self.bytes(8)  # the device that it lay on
        kind = self.take("<i")
        self.check(kind in _TYPES, f"element type {kind}")
        dtype = np.dtype(ml_dtypes.bfloat16 if kind == 12 else _TYPES[kind])
        count = int(np.prod(shape, dtype=object))
        data = self.bytes(count * dtype.itemsize)
        return np.frombuffer(data, np.uint8).view(dtype).reshape(shape) if count else np.zeros(shape, dtype)

    def shape(self, rank: int, code: str) -> tuple[int, ...] | None:
        if rank == -1:
            return None
        self.check(0 <= rank <= _MAX_RANK, f"an array of {rank} dimensions")
        shape = tuple(self.take(code) for _ in range(rank))
        self.check(min(shape, default=0) >= 0, f"an array of shape {shape}")
        return shape


def find_files(source: str, params: str = "") -> tuple[Path, Path | None]:
    """The symbol and the parameters that belong to `source`: one of them, or their folder.

    Args:
        source: what was given.
        params: the file of parameters, if it was named.

    Raises:
        SourceError: one of them is missing.
    """
    path = Path(source)
    if path.is_dir():
        symbols = sorted(path.glob("*-symbol.json"))
        if len(symbols) != 1:
            raise SourceError(
                f"the folder {source!r} holds {len(symbols)} symbols", hint="Give the -symbol.json file itself."
            )
        path = symbols[0]
    if path.read_bytes()[:8] == struct.pack("<Q", _LIST):
        prefix = re.sub(r"(-\d{4})?\.params\Z", "", path.name)
        symbol = path.with_name(f"{prefix}-symbol.json")
        if not symbol.exists():
            raise SourceError(
                f"{str(path)!r} holds parameters alone; {symbol.name!r} is not beside it",
                hint="Put the symbol beside it: net.export(PREFIX) writes both files.",
            )
        return symbol, path
    if params:
        return path, Path(params)
    prefix = path.name.removesuffix(".json").removesuffix("-symbol")
    fitting = re.compile(re.escape(prefix) + r"(-\d{4})?\.params")
    found = sorted(each for each in path.parent.iterdir() if fitting.fullmatch(each.name))
    return path, found[-1] if found else None
