"""Integer expressions for dimensions, strides and offsets.

An `Index` is a polynomial with integer coefficients over atoms: symbols (runtime dims), loop variables, and opaque
terms (floor division, modulo, minimum, maximum, an element loaded from memory). Plain `int` stands for constants:
every function here takes and returns ``int | Index``, called a `Dim`.

Loop variables know their extent, so ``(16 * b + l) // 16`` simplifies to ``b`` when ``l < 16``. That alone turns
reshapes, transposes and blocked layouts into plain strides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeGuard

from sardonyx.compiler.failures import Unsupported

if TYPE_CHECKING:
    from sardonyx.compiler.expr import Expr

__all__ = [
    "Atom",
    "Dim",
    "Index",
    "are_known",
    "atoms",
    "ceildiv",
    "coefficient",
    "const",
    "depends",
    "floordiv",
    "imax",
    "imin",
    "known",
    "linear",
    "mod",
    "product",
    "provably_less",
    "provably_nonnegative",
    "substitute",
    "symbol",
    "total",
    "upper_bound",
    "variable",
]


class Atom:
    """A factor of a monomial: ``kind`` is symbol, variable, floordiv, mod, min, max or element."""

    __slots__ = ("args", "extent", "hash", "key", "kind", "lower")

    def __init__(self, kind: str, key: str, args: tuple = (), *, lower: int | None = 0, extent: Dim | None = None):
        self.kind = kind
        self.key = key
        self.args = args
        self.lower = lower  # inclusive lower bound, None when unknown
        self.extent = extent  # exclusive upper bound, None when unknown
        self.hash = hash(key)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Atom) and self.key == other.key)

    def __lt__(self, other: Atom) -> bool:
        return self.key < other.key

    def __repr__(self) -> str:
        return self.key


Monomial = tuple[Atom, ...]


class Index:
    """A non-constant polynomial: a map from sorted tuples of atoms to integer coefficients."""

    __slots__ = ("_hash", "_key", "terms")

    def __init__(self, terms: dict[Monomial, int]):
        self.terms = terms
        self._key: str | None = None
        self._hash: int | None = None

    @property
    def key(self) -> str:
        if self._key is None:
            self._key = "+".join(sorted("*".join([str(c), *(a.key for a in m)]) for m, c in self.terms.items()))
        return self._key

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Index) and self.terms == other.terms)

    def __repr__(self) -> str:
        return self.key

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        for monomial, coefficient_ in _terms(other):
            value = terms.get(monomial, 0) + coefficient_
            if value:
                terms[monomial] = value
            else:
                terms.pop(monomial, None)
        return _wrap(terms)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return Index({m: -c for m, c in self.terms.items()})

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return Index({m: c * other for m, c in self.terms.items()}) if other else 0
        terms: dict[Monomial, int] = {}
        for m1, c1 in self.terms.items():
            for m2, c2 in other.terms.items():
                monomial = tuple(sorted(m1 + m2))
                value = terms.get(monomial, 0) + c1 * c2
                if value:
                    terms[monomial] = value
                else:
                    terms.pop(monomial, None)
        return _wrap(terms)

    __rmul__ = __mul__


Dim = int | Index


def _terms(x: Dim) -> Iterable[tuple[Monomial, int]]:
    if isinstance(x, Index):
        return x.terms.items()
    return (((), x),) if x else ()


def _wrap(terms: dict[Monomial, int]) -> Dim:
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Index(terms)


def _of(atom: Atom) -> Index:
    return Index({(atom,): 1})


def const(x: Dim) -> int | None:
    """The value of a constant, else None."""
    return x if isinstance(x, int) else None


def known(x: Dim, what: str = "a dim") -> int:
    """`x` where it has to be a number already.

    Raises:
        Unsupported: it is known at run time only, so that the node is left to the host.
    """
    if isinstance(x, int):
        return x
    raise Unsupported(f"{what} that is not known before the run")


def are_known(dims: tuple[Dim, ...]) -> TypeGuard[tuple[int, ...]]:
    """True when all of `dims` are numbers."""
    return all(isinstance(dim, int) for dim in dims)


def symbol(name: str, *, lower: int | None = 0) -> Index:
    """A dimension known only at run time."""
    return _of(Atom("symbol", name, lower=lower))


def variable(name: str, extent: Dim) -> Dim:
    """A loop variable, ``0 <= v < extent``; the constant 0 when `extent` is 1."""
    return 0 if extent == 1 else _of(Atom("variable", name, extent=extent))


def element(expr: Expr, extent: Dim | None, lower: int | None = 0) -> Dim:
    """An integer computed from data, known to be in ``lower .. extent - 1``."""
    return _of(Atom("element", f"[{expr.key}]", (expr,), lower=lower, extent=extent))


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims (1 for none)."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def total(dims: Iterable[Dim]) -> Dim:
    """The sum of all dims (0 for none)."""
    result: Dim = 0
    for dim in dims:
        result = result + dim
    return result


def lower_bound(x: Dim) -> int | None:
    """A constant that `x` is never below, or None."""
    bound = 0
    for monomial, c in _terms(x):
        low, high = 1, 1
        known_high = True
        for atom in monomial:
            if atom.lower is None or atom.lower < 0:
                return None
            low *= atom.lower
            extent = atom.extent
            if known_high and isinstance(extent, int):
                high *= max(extent - 1, 0)
            else:
                known_high = False
        if c >= 0:
            bound += c * low
        elif known_high:
            bound += c * high
        else:
            return None
    return bound


def provably_nonnegative(x: Dim) -> bool:
    """True when `x` >= 0 for all values of its atoms."""
    if isinstance(x, int):
        return x >= 0
    bound = lower_bound(x)
    if bound is not None and bound >= 0:
        return True
    replaced = _extreme(x, upper=False)
    bound = None if replaced is None else lower_bound(replaced)
    return bound is not None and bound >= 0


def _extreme(x: Dim, *, upper: bool) -> Dim | None:
    """`x` with each bounded atom that occurs linearly replaced by the end of its range that makes `x` largest."""
    result: Dim = 0
    for monomial, c in _terms(x):
        term: Dim = c
        for atom in monomial:
            at_top = (c > 0) == upper
            if atom.kind == "symbol" or (at_top and atom.extent is None):
                if atom.kind != "symbol" or atom.lower is None or atom.lower < 0:
                    return None
                term = term * _of(atom)
            elif at_top:
                assert atom.extent is not None
                term = term * (atom.extent - 1)
            elif atom.lower is None:
                return None
            else:
                term = term * atom.lower
        result = result + term
    return result


def upper_bound(x: Dim) -> Dim | None:
    """An expression over symbols alone that `x` never exceeds, or None."""
    return x if isinstance(x, int) else _extreme(x, upper=True)


def provably_less(x: Dim, y: Dim) -> bool:
    """True when `x` < `y` for all values of the atoms (symbols are at least 0)."""
    top = upper_bound(x - y)
    if top is None:
        return False
    if isinstance(top, int):
        return top < 0
    # Symbols are >= 0: negative coefficients everywhere and a negative constant suffice.
    return all(c < 0 for c in top.terms.values()) and top.terms.get((), 0) < 0


def _divide_terms(x: Dim, y: Dim) -> tuple[Dim, Dim]:
    """``(q, r)`` with ``x == q * y + r``, moving into q every term that `y` divides exactly."""
    if isinstance(y, int):
        divided = {m: c // y for m, c in _terms(x) if c % y == 0}
        return _wrap(divided), _wrap({m: c for m, c in _terms(x) if c % y != 0})
    # Leading term: the longest monomial, so that i * (s + 1) = i*s + i is divided by s + 1.
    lead, lead_c = max(y.terms.items(), key=lambda item: (len(item[0]), item[0]))
    quotient: Dim = 0
    rest: Dim = x
    pending = True
    while pending and isinstance(rest, Index):
        pending = False
        for monomial, c in sorted(rest.terms.items(), key=lambda item: (-len(item[0]), item[0])):
            factor = _remove(monomial, lead)
            if factor is None or c % lead_c:
                continue
            step: Dim = _wrap({factor: c // lead_c})
            quotient = quotient + step
            rest = rest - step * y
            pending = True
            break
    return quotient, rest


def _remove(monomial: Monomial, factor: Monomial) -> Monomial | None:
    remaining = list(monomial)
    for atom in factor:
        if atom not in remaining:
            return None
        remaining.remove(atom)
    return tuple(remaining)


def floordiv(x: Dim, y: Dim) -> Dim:
    """``x // y`` rounded towards minus infinity; `y` is positive."""
    if isinstance(x, int) and isinstance(y, int):
        return x // y if y else 0
    if y == 1:
        return x
    if y == 0:  # an extent without elements: nothing is ever computed there
        return 0
    if x == y:
        return 1
    quotient, rest = _divide_terms(x, y)
    if rest == 0 or (provably_nonnegative(rest) and provably_less(rest, y)):
        return quotient
    if isinstance(y, int):
        coarse, fine, step = _split_by_gcd(rest, y)
        if step > 1:
            return quotient + floordiv(coarse, y // step)
        del fine
    inner = _single_atom(rest)
    if inner is not None and inner.kind == "floordiv":
        return quotient + floordiv(inner.args[0], inner.args[1] * y)
    return quotient + _composite("floordiv", rest, y)


def mod(x: Dim, y: Dim) -> Dim:
    """``x - y * (x // y)``, in ``0 .. y - 1``; `y` is positive."""
    if isinstance(x, int) and isinstance(y, int):
        return x % y if y else 0
    if y in (0, 1) or x == y:
        return 0
    _, rest = _divide_terms(x, y)
    if rest == 0:
        return 0
    if provably_nonnegative(rest) and provably_less(rest, y):
        return rest
    if isinstance(y, int):
        coarse, fine, step = _split_by_gcd(rest, y)
        if step > 1:
            return mod(coarse, y // step) * step + fine
    return _composite("mod", rest, y)


def _split_by_gcd(x: Dim, y: int) -> tuple[Dim, Dim, int]:
    """``(coarse, fine, g)`` with ``x == coarse * g + fine``, ``g`` dividing `y` and ``0 <= fine < g``; g = 1: none."""
    steps = {math.gcd(c, y) for m, c in _terms(x) if m} - {1}
    for step in sorted(steps, reverse=True):
        coarse, fine = _divide_terms(x, step)
        if provably_nonnegative(fine) and provably_less(fine, step):
            return coarse, fine, step
    return x, 0, 1


def _single_atom(x: Dim) -> Atom | None:
    if isinstance(x, Index) and len(x.terms) == 1:
        ((monomial, c),) = x.terms.items()
        if c == 1 and len(monomial) == 1:
            return monomial[0]
    return None


def _key(x: Dim) -> str:
    return str(x) if isinstance(x, int) else x.key


def _composite(kind: str, x: Dim, y: Dim) -> Dim:
    nonnegative = provably_nonnegative(x)
    extent: Dim | None = None
    lower: int | None = 0 if nonnegative else None
    if kind == "mod":
        extent, lower = y, 0
    elif kind == "floordiv" and isinstance(y, int) and y > 0:
        top = upper_bound(x)
        extent = None if not isinstance(top, int) else top // y + 1
    return _of(Atom(kind, f"{kind}({_key(x)},{_key(y)})", (x, y), lower=lower, extent=extent))


def ceildiv(x: Dim, y: Dim) -> Dim:
    """``x / y`` rounded up."""
    return floordiv(x + y - 1, y)


def imin(x: Dim, y: Dim) -> Dim:
    """The smaller of two."""
    return _choose("min", x, y)


def imax(x: Dim, y: Dim) -> Dim:
    """The larger of two."""
    return _choose("max", x, y)


def _choose(kind: str, x: Dim, y: Dim) -> Dim:
    if isinstance(x, int) and isinstance(y, int):
        return min(x, y) if kind == "min" else max(x, y)
    if provably_nonnegative(y - x):
        return x if kind == "min" else y
    if provably_nonnegative(x - y):
        return y if kind == "min" else x
    low_x, low_y = lower_bound(x), lower_bound(y)
    known = [low for low in (low_x, low_y) if low is not None]
    lower = (min(known) if len(known) == 2 else None) if kind == "min" else max(known, default=None)
    return _of(Atom(kind, f"{kind}({_key(x)},{_key(y)})", (x, y), lower=lower))


def substitute(x: Dim, mapping: Mapping[Atom, Dim], on_expr: Callable[[Expr], Expr] | None = None) -> Dim:
    """`x` with atoms replaced, simplified anew; `on_expr` rewrites the data that element atoms load."""
    if isinstance(x, int):
        return x
    result: Dim = 0
    for monomial, c in x.terms.items():
        term: Dim = c
        for atom in monomial:
            term = term * _substitute_atom(atom, mapping, on_expr)
        result = result + term
    return result


def _substitute_atom(atom: Atom, mapping: Mapping[Atom, Dim], on_expr: Callable[[Expr], Expr] | None) -> Dim:
    if atom in mapping:
        return mapping[atom]
    if atom.kind in _REBUILD:
        x, y = (substitute(arg, mapping, on_expr) for arg in atom.args)
        return _REBUILD[atom.kind](x, y)
    if atom.kind == "element" and on_expr is not None:
        return element(on_expr(atom.args[0]), atom.extent, atom.lower)
    return _of(atom)


_REBUILD: dict[str, Callable[[Dim, Dim], Dim]] = {
    "floordiv": lambda x, y: floordiv(x, y),
    "mod": lambda x, y: mod(x, y),
    "min": lambda x, y: imin(x, y),
    "max": lambda x, y: imax(x, y),
}


def atoms(x: Dim, *, deep: bool = True) -> set[Atom]:
    """All atoms of `x`; with `deep`, also those inside divisions and the like (not inside element loads)."""
    found: set[Atom] = set()
    if isinstance(x, int):
        return found
    for monomial in x.terms:
        for atom in monomial:
            found.add(atom)
            if deep and atom.kind in _REBUILD:
                for arg in atom.args:
                    found |= atoms(arg)
    return found


def depends(x: Dim, atom: Atom) -> bool:
    """True when `atom` occurs anywhere in `x`, inside loaded elements too."""
    return any(a == atom or (a.kind == "element" and a.args[0].depends(atom)) for a in atoms(x))


def coefficient(x: Dim, atom: Atom) -> Dim | None:
    """The factor of `atom` in `x` where `x` is linear in it; None when it is not."""
    if isinstance(x, int):
        return 0
    result: Dim = 0
    for monomial, c in x.terms.items():
        count = sum(a == atom for a in monomial)
        rest = tuple(a for a in monomial if a != atom)
        if count > 1 or any(depends(_of(a), atom) for a in rest if a.kind not in ("symbol", "variable")):
            return None
        if count == 1:
            result = result + _wrap({rest: c})
    return result


def _rejoined(x: Dim) -> Dim:
    """`x` with ``c * y * (a // y) + c * (a % y)`` written as ``c * a``: what joining split axes again leaves."""
    for monomial, c in _terms(x):
        for atom in monomial:
            if atom.kind != "mod" or not isinstance(atom.args[1], int):
                continue
            a, y = atom.args
            factor = _wrap({_remove(monomial, (atom,)) or (): c})
            whole = x + factor * (a - _of(atom) - y * floordiv(a, y))
            if _divided(whole) < _divided(x):
                return _rejoined(whole)
    return x


def _divided(x: Dim) -> int:
    """How many terms of `x` hold a quotient or a remainder."""
    return sum(any(atom.kind in ("floordiv", "mod") for atom in monomial) for monomial, _ in _terms(x))


def linear(x: Dim, variables: Sequence[Dim]) -> tuple[list[Dim], Dim] | None:
    """``(strides, offset)`` with ``x == sum(stride * variable) + offset`` and strides the same everywhere, or None.

    A variable that is the constant 0 (extent 1) has stride 0.
    """
    x = _rejoined(x)
    strides: list[Dim] = []
    zero: dict[Atom, Dim] = {}
    for v in variables:
        atom = _single_atom(v)
        if atom is None:
            strides.append(0)
            continue
        stride = coefficient(x, atom)
        if stride is None or any(a.kind in ("variable", "element") for a in atoms(stride)):
            return None
        strides.append(stride)
        zero[atom] = 0
    return strides, substitute(x, zero)


def evaluate(x: Dim, values: Mapping[str, int]) -> int:
    """The value of `x` for given values of its symbols."""
    if isinstance(x, int):
        return x
    return sum(
        c * functools.reduce(lambda p, a: p * _evaluate_atom(a, values), monomial, 1) for monomial, c in x.terms.items()
    )


def _evaluate_atom(atom: Atom, values: Mapping[str, int]) -> int:
    if atom.kind == "symbol":
        return values[atom.key]
    x, y = (evaluate(arg, values) for arg in atom.args)
    operations = {"floordiv": lambda: x // y, "mod": lambda: x % y, "min": lambda: min(x, y), "max": lambda: max(x, y)}
    return operations[atom.kind]()
