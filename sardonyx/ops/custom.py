"""Operators of your own: a Python function on numpy arrays becomes an operator that models can use.

    import numpy as np
    import sardonyx

    @sardonyx.operator("my.domain", "Scale", shape=lambda x, **_: x)
    def scale(x, *, factor=2.0):
        return x * np.float32(factor)

    session = sardonyx.Session("model.onnx")        # its nodes my.domain.Scale now run, the others stay native

The function takes the node's inputs (None for one that is left out) and its attributes by keyword, and returns an
array, or a tuple of them. It must be a pure function: nodes whose inputs are all constants are computed once, when
compiling. Each call crosses from C to Python. An operator that works element by element can be compiled instead:
`expression` says what one element is, in the arithmetic of `sardonyx.compiler.expr`; the function then only defines
what is meant.

    @sardonyx.operator("my.domain", "Swish2", expression=lambda x, y, *, beta=1.0: x * y * beta)
    def swish2(x, y, *, beta=1.0):
        return x * y * np.float32(beta)

A function must be registered before the session is made, and also where a session comes from the cache.
"""

from __future__ import annotations

import hashlib
import importlib
import marshal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sardonyx.errors import ModelError

__all__ = ["Custom", "Type", "digest", "find", "operator"]


class Type(NamedTuple):
    """Element type (``float32``, ``int64``, ``bool``, ``string``, ...) and dims of a tensor: numbers or names.

    A name that an input's type has stands for the same number; any other is known once the function has run.
    """

    dtype: str
    shape: tuple[int | str, ...]


ShapeRule = Callable[..., Type | Sequence[Type]]


@dataclass(frozen=True)
class Custom:
    """A registered operator; see `operator`."""

    domain: str
    name: str
    since: int
    function: Callable[..., Any]
    shape: ShapeRule | None
    expression: Callable[..., Any] | None

    def run(self, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """What the function returns, as a tuple of arrays."""
        result = self.function(*inputs, **attributes)
        return tuple(np.asarray(value) for value in (result if isinstance(result, tuple | list) else (result,)))

    def types(self, inputs: Sequence[Type | None], attributes: Mapping[str, Any]) -> list[Type] | None:
        """Types of the outputs by the shape rule; None without one."""
        if self.shape is None:
            return None
        found = self.shape(*inputs, **attributes)
        single = isinstance(found, Type) or (len(found) == 2 and isinstance(found[0], str))
        return [Type(*one) for one in ([found] if single else found)]


_OPERATORS: dict[tuple[str, str], list[Custom]] = {}
# Modules of this package that register some when they are imported.
_OWN = {"com.microsoft": ("sardonyx.ops.contrib", "sardonyx.ops.text")}


def operator(
    domain: str,
    name: str,
    *,
    since: int = 1,
    shape: ShapeRule | None = None,
    expression: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated numpy function as operator `name` of `domain`; registering it again replaces it.

    Args:
        domain: the operator's domain, such as ``my.domain``; not the standard's own.
        name: the operator's name, as ``op_type`` of nodes says it.
        since: the first version of the domain that has it; the newest that a model's import allows is taken.
        shape: ``shape(*input types, **attributes) -> Type`` (or a list of them) says type and shape of the outputs.
            Without it they are taken from what the model declares; where that says nothing either, the outputs stay
            Python objects, and so do the values computed from them.
        expression: ``expression(*inputs, **attributes) -> Expr`` on one element of each input, which are broadcast;
            then the operator is compiled and fused like any other, where the types are native.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ModelError: the domain is the standard's own.
    """
    if domain in ("", "ai.onnx", "ai.onnx.ml"):
        hint = "choose a domain of your own, and import it in the model"
        raise ModelError(f"operators of domain {domain or 'ai.onnx'!r} are the standard's", operator=name, hint=hint)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        entry = Custom(domain, name, since, function, shape, expression)
        rows = [row for row in _OPERATORS.get((domain, name), []) if row.since != since]
        _OPERATORS[domain, name] = sorted([*rows, entry], key=lambda row: row.since)
        if expression is not None:
            _compiled(entry)
        return function

    return register


def _compiled(entry: Custom) -> None:
    """Give the compiler a row that prints the expression of the operator as it is registered at that time."""
    from sardonyx.ops import registry
    from sardonyx.ops.binary import map_elements

    def lower(ctx: Any, node: Any, *inputs: Any) -> Any:
        ctx.requires(all(x is not None for x in inputs), "an input that is left out")
        found = find(entry.domain, entry.name, node.opset)
        body = entry.expression if found is None or found.expression is None else found.expression
        attributes = attributes_of(node)
        return map_elements(ctx, lambda *values: body(*values, **attributes), *inputs)  # type: ignore[misc]

    lower.__doc__ = f"{entry.domain}.{entry.name}, registered by the user."
    known = registry.find(entry.domain, entry.name, entry.since)
    if known is None or known.since != entry.since:
        registry.add(entry.name, lower, since=entry.since, domain=entry.domain, elementwise=True)


def attributes_of(node: Any) -> dict[str, Any]:
    """All attributes of a node as Python values."""
    return {name: node.attr(name) for name in node.ir.attributes}


def find(domain: str, name: str, version: int) -> Custom | None:
    """The operator as version `version` of `domain` means it, or None."""
    if domain in _OWN and (domain, name) not in _OPERATORS:
        for module in _OWN[domain]:
            importlib.import_module(module)
    rows = [row for row in _OPERATORS.get((domain, name), ()) if row.since <= version]
    return rows[-1] if rows else None


def digest() -> str:
    """What of the registered operators decides what is compiled; empty when there are none of the user's."""
    found = hashlib.sha256()
    rows = [row for key in sorted(_OPERATORS) if key[0] not in _OWN for row in _OPERATORS[key]]
    for row in rows:
        found.update(f"{row.domain}\0{row.name}\0{row.since}\0".encode())
        for part in (row.function, row.shape, row.expression):
            code = getattr(part, "__code__", None)
            found.update(marshal.dumps(code) if code is not None else repr(part).encode())
            found.update(repr((getattr(part, "__defaults__", None), getattr(part, "__kwdefaults__", None))).encode())
    return found.hexdigest() if rows else ""
