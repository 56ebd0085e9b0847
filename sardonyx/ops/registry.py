"""The table of operators: domain, name, version -> the function that lowers a node.

An operator function is ``f(ctx, node, *inputs) -> Tensor | tuple``: `ctx` is the `Lowering`, `node` gives the
attributes, inputs are `Tensor` or None where an optional one is missing. It raises `Unsupported` with a reason to leave
the node to the host. The newest row whose ``since`` is not newer than the model's opset wins.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FAMILIES = (
    "unary",
    "binary",
    "reduction",
    "movement",
    "padding",
    "indexing",
    "generator",
    "convolution",
    "convolution_transposed",
    "pooling",
    "normalization",
    "linalg",
    "attention",
    "recurrent",
    "quantization",
    "few_bits",
    "image",
    "regions",
    "sampling",
    "patches",
    "control",
    "signal",
    "text",
    "trees",
    "linear_models",
    "contrib",
    "training",
)
DOMAINS = {"ai.onnx": ""}  # other spellings


@dataclass(frozen=True)
class Operator:
    """One row. ``elementwise``: an element of the output depends on the same element of each input alone."""

    domain: str
    name: str
    since: int
    lower: Callable[..., Any]
    elementwise: bool
    line: int
    file: str
    summary: str


_ROWS: dict[tuple[str, str], list[Operator]] = {}


def add(name: str, lower: Callable[..., Any], *, since: int, domain: str, elementwise: bool, depth: int = 2) -> None:
    """Add a row; a second one for the same operator and version is an error."""
    frame = sys._getframe(depth)  # inspect.stack() reads every source file on the way: 60 ms a row
    rows = _ROWS.setdefault((domain, name), [])
    if any(row.since == since for row in rows):
        raise ValueError(f"{domain}.{name} version {since} is registered twice")
    summary = (inspect.getdoc(lower) or "").partition("\n")[0]
    rows.append(Operator(domain, name, since, lower, elementwise, frame.f_lineno, frame.f_code.co_filename, summary))
    rows.sort(key=lambda row: row.since)


def operator(name: str, *, since: int = 1, domain: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the lowering of `name` from opset `since` on."""

    def register(lower: Callable[..., Any]) -> Callable[..., Any]:
        add(name, lower, since=since, domain=domain, elementwise=False)
        return lower

    return register


def load_families() -> None:
    """Import every family, which fills the table."""
    for family in FAMILIES:
        importlib.import_module(f"sardonyx.ops.{family}")


def find(domain: str, name: str, opset: int) -> Operator | None:
    """The row for an operator as a model with `opset` of `domain` means it."""
    load_families()
    rows = [row for row in _ROWS.get((DOMAINS.get(domain, domain), name), ()) if row.since <= opset]
    return rows[-1] if rows else None


@dataclass(frozen=True)
class Summary:
    """What the coverage table says of an operator."""

    domain: str
    name: str
    since: tuple[int, ...]
    native: bool
    file: str
    line: int
    summary: str


def all_operators() -> list[Summary]:
    """Every operator of the standard's domains and of our own, native or not."""
    import onnx

    load_families()
    found: dict[tuple[str, str], Summary] = {}
    for schema in onnx.defs.get_all_schemas():
        key = (schema.domain, schema.name)
        if schema.domain in ("", "ai.onnx.ml"):
            found[key] = Summary(*key, (schema.since_version,), False, "", 0, "")
    for key, rows in _ROWS.items():
        last = rows[-1]
        since = tuple(row.since for row in rows)
        found[key] = Summary(*key, since, True, last.file, last.line, last.summary)
    return [found[key] for key in sorted(found)]
