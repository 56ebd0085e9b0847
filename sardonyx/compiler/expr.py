"""Scalar expressions: what one element of a tensor is, as a DAG that the emitter prints as C.

Every node has a dtype (an ONNX element type in lower case, such as ``float32`` or ``bool``). Arithmetic on float16 and
bfloat16 rounds after each operation, as the reference does; integers wrap. Python numbers are taken as constants of
the other operand's dtype. Constructors fold constants and integer arithmetic on indices, so that shape computations
written in the graph come out as `Index` values.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import SMALL, integer_range, is_float, is_integer, numpy_dtype
from sardonyx.compiler.index import Dim, Index

if TYPE_CHECKING:
    from sardonyx.compiler.program import Buffer

Number = int | float | bool


class Expr:
    """One operation. ``value`` holds what is not an operand: a constant, an index, a buffer and offset, a name."""

    __slots__ = ("args", "dtype", "key", "op", "value")

    def __init__(self, op: str, dtype: str, args: tuple[Expr, ...] = (), value: Any = None):
        self.op = op
        self.dtype = dtype
        self.args = args
        self.value = value
        text = f"{op}|{dtype}|{_value_key(value)}|{','.join(arg.key for arg in args)}"
        self.key: str = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def __repr__(self) -> str:
        inner = [*map(repr, self.args), *([] if self.value is None else [_value_key(self.value)])]
        return f"{self.op}({', '.join(inner)})"

    def depends(self, atom: ix.Atom) -> bool:
        """True when the value changes with loop variable or symbol `atom`."""
        return any(ix.depends(i, atom) for node in walk(self) for i in node.indices())

    def indices(self) -> tuple[Dim, ...]:
        """The index expressions that this node itself holds."""
        if self.op == "load":
            return (self.value[1],)
        return (self.value,) if self.op == "index" else ()

    def __add__(self, other: Expr | Number) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Expr | Number) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return binary("div", other, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __lt__(self, other: Expr | Number) -> Expr:
        return compare("lt", self, other)

    def __le__(self, other: Expr | Number) -> Expr:
        return compare("le", self, other)

    def __gt__(self, other: Expr | Number) -> Expr:
        return compare("gt", self, other)

    def __ge__(self, other: Expr | Number) -> Expr:
        return compare("ge", self, other)

    def equal(self, other: Expr | Number) -> Expr:
        """Element equality (``==`` is left to Python)."""
        return compare("eq", self, other)

    def __and__(self, other: Expr | Number) -> Expr:
        return binary("and", self, other)

    def __or__(self, other: Expr | Number) -> Expr:
        return binary("or", self, other)


def _value_key(value: Any) -> str:
    if isinstance(value, tuple):
        return ":".join(_value_key(part) for part in value)
    if isinstance(value, Index):
        return value.key
    name = getattr(value, "name", None)
    if name is not None:
        return name
    return value.hex() if isinstance(value, float) else repr(value)


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node below and including `expr`, operands first, each once; element loads inside indices too."""
    seen: set[str] = set()
    stack: list[tuple[Expr, bool]] = [(expr, False)]
    while stack:
        node, expanded = stack.pop()
        if node.key in seen:
            continue
        if expanded:
            seen.add(node.key)
            yield node
            continue
        stack.append((node, True))
        for dim in node.indices():
            stack += [(atom.args[0], False) for atom in ix.atoms(dim) if atom.kind == "element"]
        stack += [(arg, False) for arg in node.args]


def constant(value: Any, dtype: str) -> Expr:
    """A known value, converted to `dtype`."""
    if dtype == "bool":
        return Expr("const", dtype, value=bool(value))
    if is_float(dtype):
        return Expr("const", dtype, value=float(np.asarray(value).astype(numpy_dtype(dtype))))
    if is_integer(dtype):
        low, high = integer_range(dtype)
        return Expr("const", dtype, value=(int(value) - low) % (high - low + 1) + low)
    raise TypeError(f"no constants of dtype {dtype}")


def index(value: Dim, dtype: str = "int64") -> Expr:
    """An integer computed from loop variables and symbols."""
    return constant(value, dtype) if isinstance(value, int) else Expr("index", dtype, value=value)


def load(buffer: Buffer, offset: Dim) -> Expr:
    """The element of `buffer` at `offset`, counted in elements."""
    return Expr("load", buffer.dtype, value=(buffer, offset))


def local(name: str, dtype: str) -> Expr:
    """A value computed by an earlier stage of the same loop nest, such as a row's maximum."""
    return Expr("local", dtype, value=name)


def as_index(expr: Expr) -> Dim | None:
    """`expr` as a `Dim` when it is made of constants, symbols and loop variables alone."""
    if expr.op == "const" and not is_float(expr.dtype):
        return int(expr.value)
    return expr.value if expr.op == "index" else None


def _lift(value: Expr | Number, dtype: str) -> Expr:
    return value if isinstance(value, Expr) else constant(value, dtype)


_FOLD: dict[str, Callable[[Dim, Dim], Dim]] = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


def binary(op: str, x: Expr | Number, y: Expr | Number) -> Expr:
    """``x op y`` with both of one dtype; the result has that dtype."""
    dtype = x.dtype if isinstance(x, Expr) else y.dtype  # type: ignore[union-attr]
    x, y = _lift(x, dtype), _lift(y, dtype)
    if x.dtype != y.dtype:
        raise TypeError(f"{op} of {x.dtype} and {y.dtype}")
    i, j = as_index(x), as_index(y)
    if i is not None and j is not None and dtype != "bool":
        folded = _fold_index(op, i, j)
        if folded is not None:
            return index(folded, dtype)
    if x.op == "const" and y.op == "const":
        folded_value = _fold_float(op, x, y)
        if folded_value is not None:
            return folded_value
    return Expr(op, dtype, (x, y))


def _fold_index(op: str, i: Dim, j: Dim) -> Dim | None:
    if op in _FOLD:
        folded = _FOLD[op](i, j)
        # Arithmetic that is meant to wrap, such as a hash of a position, is no index.
        far = isinstance(folded, Index) and any(abs(c) >= 1 << 62 for c in folded.terms.values())
        return None if far else folded
    if op == "max":
        return ix.imax(i, j)
    if op == "min":
        return ix.imin(i, j)
    if op in ("div", "mod") and isinstance(j, int) and j > 0 and ix.provably_nonnegative(i):
        return ix.floordiv(i, j) if op == "div" else ix.mod(i, j)
    if op == "div" and isinstance(i, int) and isinstance(j, int) and j:
        quotient = abs(i) // abs(j)
        return quotient if (i < 0) == (j < 0) else -quotient
    if op == "mod" and isinstance(i, int) and isinstance(j, int) and j:
        return i % j
    return None


def _fold_float(op: str, x: Expr, y: Expr) -> Expr | None:
    if not is_float(x.dtype) or (op not in _FOLD and op != "div"):
        return None
    kind = numpy_dtype(x.dtype)
    with np.errstate(all="ignore"):
        return constant(_FOLD.get(op, operator.truediv)(kind.type(x.value), kind.type(y.value)), x.dtype)


def unary(op: str, x: Expr) -> Expr:
    """``op(x)``; the result has the dtype of `x`."""
    i = as_index(x)
    if op == "neg" and i is not None:
        return index(-i, x.dtype)
    if op == "not" and x.op == "const":
        return constant(not x.value, "bool")
    if op == "sqrt" and x.op == "const" and x.dtype in ("float32", "float64"):
        with np.errstate(all="ignore"):
            return constant(np.sqrt(numpy_dtype(x.dtype).type(x.value)), x.dtype)
    return Expr(op, x.dtype, (x,))


def predicate(op: str, x: Expr) -> Expr:
    """``isnan`` or ``isinf`` of `x`."""
    return Expr(op, "bool", (x,))


def call(op: str, dtype: str, *args: Expr) -> Expr:
    """Any other operation that the emitter knows by name."""
    return Expr(op, dtype, args)


def compare(op: str, x: Expr | Number, y: Expr | Number) -> Expr:
    """A bool from two values of one dtype: lt, le, gt, ge, eq, ne."""
    dtype = x.dtype if isinstance(x, Expr) else y.dtype  # type: ignore[union-attr]
    x, y = _lift(x, dtype), _lift(y, dtype)
    i, j = as_index(x), as_index(y)
    if i is not None and j is not None:
        known = _compare_index(op, i, j)
        if known is not None:
            return constant(known, "bool")
    return Expr(op, "bool", (x, y))


def _compare_index(op: str, i: Dim, j: Dim) -> bool | None:
    if isinstance(i, int) and isinstance(j, int):
        return {"lt": i < j, "le": i <= j, "gt": i > j, "ge": i >= j, "eq": i == j, "ne": i != j}[op]
    if op in ("gt", "ge"):
        return _compare_index({"gt": "lt", "ge": "le"}[op], j, i)
    if op == "lt":
        return True if ix.provably_less(i, j) else False if ix.provably_nonnegative(i - j) else None
    if op == "le":
        return True if ix.provably_nonnegative(j - i) else False if ix.provably_less(j, i) else None
    if i == j:
        return op == "eq"
    if ix.provably_less(i, j) or ix.provably_less(j, i):
        return op == "ne"
    return None


def select(condition: Expr, x: Expr | Number, y: Expr | Number) -> Expr:
    """`x` where `condition`, else `y`; both sides are computed."""
    dtype = x.dtype if isinstance(x, Expr) else y.dtype  # type: ignore[union-attr]
    x, y = _lift(x, dtype), _lift(y, dtype)
    if condition.op == "const":
        return x if condition.value else y
    if x.key == y.key:
        return x
    return Expr("select", dtype, (condition, x, y))


def guard(condition: Expr, x: Expr, otherwise: Expr | Number) -> Expr:
    """`x` where `condition`, else `otherwise`; `x` is computed only there: its loads may be out of range elsewhere."""
    otherwise = _lift(otherwise, x.dtype)
    if condition.op == "const":
        return x if condition.value else otherwise
    if x.key == otherwise.key:
        return x
    return Expr("guard", x.dtype, (condition, x, otherwise))


def cast(x: Expr, dtype: str, *, saturate: bool = True, round_mode: str = "up") -> Expr:
    """`x` converted as ONNX Cast does (saturating where the target is an integer that can't hold the value).

    Args:
        x: the value.
        dtype: what it becomes.
        saturate: a float8 takes its largest value, rather than inf or NaN, for what is larger.
        round_mode: how float8e8m0 rounds: up, down, nearest.
    """
    if x.dtype == dtype:
        return x
    if dtype in SMALL:  # known ones too: the rules are written down once, in C
        return Expr("cast", dtype, (x,), (saturate, round_mode))
    i = as_index(x)
    if i is not None and x.dtype != "bool" and dtype in ("int64", "int32", "uint64", "uint32"):
        return index(i, dtype)
    if x.op == "const" and x.dtype != "bool" and is_float(dtype) and not is_float(x.dtype):
        return constant(x.value, dtype)
    if x.op == "const" and is_float(dtype) and is_float(x.dtype):
        return constant(x.value, dtype)
    if x.op == "const" and x.dtype == "bool" and dtype != "bool":
        return constant(int(x.value), dtype)
    return Expr("cast", dtype, (x,))


def maximum(x: Expr | Number, y: Expr | Number) -> Expr:
    """The larger of two; NaN when either is."""
    return binary("max", x, y)


def minimum(x: Expr | Number, y: Expr | Number) -> Expr:
    """The smaller of two; NaN when either is."""
    return binary("min", x, y)


def gather_index(value: Expr, extent: Dim) -> Dim:
    """An index read from data: negative ones count from the end; out of range raises at run time and reads 0."""
    value = cast(value, "int64")
    known = as_index(value)
    if isinstance(known, int) and isinstance(extent, int) and -extent <= known < extent:
        return known + extent if known < 0 else known
    if known is not None and ix.provably_nonnegative(known) and ix.provably_less(known, extent):
        return known
    checked = Expr("checked_index", "int64", (value, index(extent)))
    return ix.element(checked, extent)


def clamped_index(value: Expr, extent: Dim) -> Dim:
    """An index computed in floating point or otherwise, clamped into ``0 .. extent - 1``."""
    value = cast(value, "int64")
    clamped = maximum(minimum(value, index(extent - 1)), 0)
    known = as_index(clamped)
    return known if known is not None else ix.element(clamped, extent)


def rewrite(expr: Expr, mapping: dict[ix.Atom, Dim], replace: Callable[[Expr], Expr | None] | None = None) -> Expr:
    """`expr` with loop variables and symbols substituted; `replace` may give another node for any one."""
    done: dict[str, Expr] = {}

    def visit(node: Expr) -> Expr:
        if node.key in done:
            return done[node.key]
        result = replace(node) if replace else None
        if result is None:
            result = _rebuild(node, tuple(visit(arg) for arg in node.args), lambda i: ix.substitute(i, mapping, visit))
        done[node.key] = result
        return result

    return visit(expr)


def _rebuild(node: Expr, args: tuple[Expr, ...], dim: Callable[[Dim], Dim]) -> Expr:
    if node.op == "load":
        return load(node.value[0], dim(node.value[1]))
    if node.op == "index":
        return index(dim(node.value), node.dtype)
    if node.op == "guard":
        return guard(args[0], args[1], args[2])
    if node.op == "select":
        return select(*args)
    if node.op in ("lt", "le", "gt", "ge", "eq", "ne"):
        return compare(node.op, args[0], args[1])
    return Expr(node.op, node.dtype, args, node.value) if args else node
