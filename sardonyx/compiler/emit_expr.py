"""Scalar expressions as C: one named temporary for each operation, computed in the outermost loop that allows it."""

from __future__ import annotations

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import (
    NATIVE,
    SHORT,
    SMALL,
    SMALL_FLOATS,
    SMALL_INTEGERS,
    bit_width,
    compute_type,
    is_float,
    is_integer,
    numpy_dtype,
)
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Atom, Dim
from sardonyx.compiler.program import Buffer

HALF = ("float16", "bfloat16")
# Operations whose result on rounded half-precision operands is representable without rounding again.
EXACT = ("neg", "abs", "max", "min", "floor", "ceil", "trunc", "round_even", "sign", "select", "fmod")
INFIX = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
FLOAT_NAMES = {"abs": "fabs"}
BITWISE = {"and": "&", "or": "|", "xor": "^"}


class Scope:
    """Lines of C at one loop level, and what has been named there."""

    def __init__(self, level: int):
        self.level = level
        self.lines: list[str] = []
        self.names: dict[str, str] = {}


class Printer:
    """Prints expressions into a stack of scopes, one for each loop level (0: the function's top)."""

    def __init__(self, error: str = "a->error"):
        self.scopes = [Scope(0)]
        self.levels: dict[str, int] = {}  # loop variable or local name -> level that defines it
        self.c_names: dict[str, str] = {}  # loop variable or local name -> C expression
        self.buffers: dict[Buffer, str] = {}
        self.symbols: dict[str, str] = {}
        self.error = error
        self.raises = False
        self._count = 0

    # Scopes.

    def push(self) -> Scope:
        """Open an inner loop level."""
        self.scopes.append(Scope(len(self.scopes)))
        return self.scopes[-1]

    def pop(self) -> list[str]:
        """Close the innermost level and return its lines."""
        return self.scopes.pop().lines

    def line(self, text: str) -> None:
        """A line at the innermost level."""
        self.scopes[-1].lines.append(text)

    def name(self, prefix: str = "v") -> str:
        """A new C identifier."""
        self._count += 1
        return f"{prefix}{self._count}"

    def define(self, variable: str, c_name: str) -> None:
        """Say that loop variable or local `variable` is known from the innermost level on, as `c_name`."""
        self.levels[variable] = len(self.scopes) - 1
        self.c_names[variable] = c_name

    def buffer(self, buffer: Buffer) -> str:
        """The C name of the pointer to `buffer`."""
        if buffer not in self.buffers:
            self.buffers[buffer] = f"p{len(self.buffers)}"
        return self.buffers[buffer]

    # Indices.

    def dim(self, x: Dim) -> str:
        """An index as a C expression of type int64_t."""
        if isinstance(x, int):
            return f"INT64_C({x})" if abs(x) > 2**31 - 1 else str(x)
        parts = []
        for monomial, c in sorted(x.terms.items(), key=lambda item: (-len(item[0]), [a.key for a in item[0]])):
            factors = [self._atom(atom) for atom in monomial]
            if c == -1 and factors:
                factors[0] = f"-{factors[0]}"
            elif c != 1 or not factors:
                factors.append(str(c) if abs(c) < 2**31 else f"INT64_C({c})")
            parts.append(" * ".join(factors))
        return f"({' + '.join(parts)})" if len(parts) > 1 else parts[0]

    def _atom(self, atom: Atom) -> str:
        if atom.kind == "variable":
            return self.c_names[atom.key]
        if atom.kind == "symbol":
            return self.symbols.setdefault(atom.key, f"d{len(self.symbols)}")
        if atom.kind == "element":
            return self.value(atom.args[0])
        x, y = atom.args
        if atom.kind in ("floordiv", "mod") and not (ix.provably_nonnegative(x) and ix.provably_nonnegative(y)):
            return f"{'floordiv_i64' if atom.kind == 'floordiv' else 'floormod_i64'}({self.dim(x)}, {self.dim(y)})"
        if atom.kind in ("floordiv", "mod"):
            return f"({self.dim(x)} {'/' if atom.kind == 'floordiv' else '%'} {self._divisor(y)})"
        return f"{atom.kind}_i64({self.dim(x)}, {self.dim(y)})"

    def _divisor(self, y: Dim) -> str:
        # A symbolic dim may be 0; the loop then has no iterations, but the division may be hoisted out of it.
        return self.dim(y) if isinstance(y, int) else f"max_i64({self.dim(y)}, 1)"

    def dim_level(self, x: Dim) -> int:
        """The level of the deepest loop that `x` depends on."""
        level = 0
        for atom in ix.atoms(x):
            if atom.kind == "variable":
                level = max(level, self.levels[atom.key])
            elif atom.kind == "element":
                level = max(level, self.level(atom.args[0]))
        return level

    def level(self, expr: Expr) -> int:
        """The level of the deepest loop that `expr` depends on."""
        for scope in self.scopes:
            if expr.key in scope.names:
                return scope.level
        level = self.levels[expr.value] if expr.op == "local" else 0
        for arg in expr.args:
            level = max(level, self.level(arg))
        for dim in expr.indices():
            level = max(level, self.dim_level(dim))
        return level

    # Values.

    def value(self, expr: Expr) -> str:
        """A C expression (a name or a literal) for `expr`, its computation placed in the right scope."""
        if expr.op == "const":
            return literal(expr.value, expr.dtype)
        if expr.op == "local":
            return self.c_names[expr.value]
        for scope in self.scopes:
            if expr.key in scope.names:
                return scope.names[expr.key]
        if expr.op == "guard":
            return self._guard(expr)
        code = self._code(expr)
        # Computed after its operands, so the level is known; inside a guard nothing may leave the guard.
        scope = self.scopes[max(self.level(expr), self._floor)]
        name = self.name()
        scope.lines.append(f"const {compute_type(expr.dtype)} {name} = {code};")
        scope.names[expr.key] = name
        return name

    _floor = 0

    def _guard(self, expr: Expr) -> str:
        condition, inside, otherwise = expr.args
        test = self.value(condition)
        other = self.value(otherwise)
        level = self.level(expr)
        name = self.name()
        # Everything new below is computed at the innermost level, inside the braces.
        outer_floor, self._floor = self._floor, len(self.scopes)
        self.push()
        result = self.value(inside)
        lines = self.pop()
        self._floor = outer_floor
        target = self.scopes[max(level, self._floor)]
        target.lines.append(f"{compute_type(expr.dtype)} {name} = {other};")
        target.lines.append(f"if ({test}) {{")
        target.lines += [f"  {line}" for line in lines]
        target.lines += [f"  {name} = {result};", "}"]
        target.names[expr.key] = name
        return name

    def _code(self, expr: Expr) -> str:
        if expr.op == "load":
            buffer, offset = expr.value
            return decode(f"{self.buffer(buffer)}[{self.dim(offset)}]", buffer.dtype)
        if expr.op == "index":
            return f"({NATIVE[expr.dtype][1]}){self.dim(expr.value)}"
        if expr.op == "checked_index":
            self.raises = True
            value, extent = expr.args
            return f"checked_index({self.value(value)}, {self.value(extent)}, {self.error})"
        args = [self.value(arg) for arg in expr.args]
        code = operation(expr, args, self.error)
        if self.error in code:
            self.raises = True
        if expr.dtype in HALF and expr.op not in EXACT and expr.op not in ("cast", "bitcast"):
            return decode(encode(code, expr.dtype), expr.dtype)
        return code


def literal(value: float | bool, dtype: str) -> str:
    """A constant as C."""
    if dtype in SMALL:
        code = int(np.asarray(value).astype(numpy_dtype(dtype)).view(np.uint8))
        return f"(uint8_t){code & (1 << bit_width(dtype)) - 1}"
    if is_float(dtype):
        suffix = "" if dtype == "float64" else "f"
        value = float(value)
        if value != value:
            return f'__builtin_nan{suffix}("")'
        if value in (float("inf"), float("-inf")):
            return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
        return f"{value.hex()}{suffix}" if value >= 0 and str(value)[0] != "-" else f"({value.hex()}{suffix})"
    if dtype == "bool":
        return str(int(value))
    if dtype == "int64":
        return "INT64_MIN" if value == -(2**63) else f"INT64_C({value})"
    if dtype == "uint64":
        return f"UINT64_C({value})"
    return f"({NATIVE[dtype][1]})({value})" if dtype != "int32" or value == -(2**31) else str(value)


def decode(code: str, dtype: str) -> str:
    """A stored element as the value computed with."""
    return f"{SHORT[dtype]}_to_f32({code})" if dtype in HALF else code


def encode(code: str, dtype: str) -> str:
    """A computed value as it is stored."""
    return f"f32_to_{SHORT[dtype]}({code})" if dtype in HALF else code


def operation(expr: Expr, args: list[str], error: str) -> str:
    """The C expression of one operation on C operands."""
    op, dtype = expr.op, expr.dtype
    operand = expr.args[0].dtype if expr.args else dtype
    if op in INFIX:
        return f"({args[0]} {INFIX[op]} {args[1]})"
    if op == "select":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if op == "cast":
        return convert(args[0], operand, dtype, *expr.value or ())
    if op == "bitcast":
        stored, kind = encode(args[0], operand), (NATIVE[operand][1], NATIVE[dtype][1])
        return decode(f"(union {{ {kind[0]} from; {kind[1]} to; }}){{{stored}}}.to", dtype)
    if op == "not":
        return f"(!{args[0]})"
    if op in BITWISE:
        return f"({NATIVE[dtype][1]})({args[0]} {BITWISE[op]} {args[1]})"
    if op in ("isnan", "isinf"):
        return f"{op}_{'f64' if operand == 'float64' else 'f32'}({args[0]})"
    if is_integer(dtype):
        return _integer(op, dtype, args, error)
    if op in ARITHMETIC and len(args) == 2:
        return f"({args[0]} {ARITHMETIC[op]} {args[1]})"
    if op == "neg":
        return f"(-{args[0]})"
    suffix = "f64" if dtype == "float64" else "f32"
    return f"{FLOAT_NAMES.get(op, op)}_{suffix}({', '.join(args)})"


def _integer(op: str, dtype: str, args: list[str], error: str) -> str:
    c_type = NATIVE[dtype][1]
    wide = "uint64_t" if dtype.endswith("64") else "uint32_t"
    if op in ("add", "sub", "mul"):
        return f"({c_type})(({wide}){args[0]} {ARITHMETIC[op]} ({wide}){args[1]})"
    if op == "neg":
        return f"({c_type})(0 - ({wide}){args[0]})"
    if op == "bitnot":
        return f"({c_type})(~{args[0]})"
    name = f"{op}_{SHORT[dtype]}"
    return f"{name}({', '.join(args)}, {error})" if op in ("div", "mod", "fmod") else f"{name}({', '.join(args)})"


def convert(code: str, source: str, target: str, saturate: bool = True, round_mode: str = "up") -> str:
    """A computed value of dtype `source` as one of dtype `target`; see `expr.cast`."""
    if source in SMALL:
        kind = "float32" if source in SMALL_FLOATS else "int32"
        return convert(f"{SHORT[source]}_to_{SHORT[kind]}({code})", kind, target, saturate, round_mode)
    if target in SMALL_FLOATS:
        kind = "f64" if source == "float64" else "f32"
        mode = f", SX_{round_mode.upper()}" if target == "float8e8m0" else ""
        return f"{kind}_to_{SHORT[target]}({code}, {int(saturate)}{mode})"
    if target in SMALL_INTEGERS:
        kind = "f64" if source == "float64" else "f32" if is_float(source) else "i32"
        return f"{kind}_to_{SHORT[target]}({'(uint32_t)' if kind == 'i32' else ''}{code})"
    if target == "bool":
        return f"({code} != 0)"
    if is_float(source) and is_integer(target):
        return f"{'f64' if source == 'float64' else 'f32'}_to_{SHORT[target]}({code})"
    if target in HALF:
        if source in HALF or source == "float32":
            return decode(encode(code, target), target)
        if target == "bfloat16":
            return decode(encode(f"(float){code}", target), target)
        return decode(f"f64_to_{SHORT[target]}((double){code})", target)
    return f"({compute_type(target)}){code}"
