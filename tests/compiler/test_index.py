"""The algebra of dims: simplifications hold for all values, and the ones that layouts rest on do happen."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim

EXTENTS = {"a": 3, "b": 5, "c": 16}
A, B, C = (ix.variable(name, extent) for name, extent in EXTENTS.items())
S = ix.symbol("s")


def value_of(x: Dim, values: dict[str, int]) -> int:
    """`x` for given values of its variables and symbols."""
    names = {atom: values[atom.key] for atom in ix.atoms(x) if atom.kind in ("variable", "symbol")}
    result = ix.substitute(x, names)
    assert isinstance(result, int)
    return result


def points() -> list[dict[str, int]]:
    ranges = [range(extent) for extent in EXTENTS.values()]
    return [dict(zip("abc", point, strict=True), s=7) for point in itertools.product(*ranges)]


@st.composite
def linear(draw: st.DrawFn) -> Dim:
    """A sum of multiples of the variables, never negative."""
    factors = draw(st.lists(st.integers(0, 48), min_size=4, max_size=4))
    return factors[0] * A + factors[1] * B + factors[2] * C + factors[3]


@settings(max_examples=150, deadline=None)
@given(linear(), st.integers(1, 64))
def test_division_and_remainder_are_right_everywhere(x: Dim, divisor: int) -> None:
    quotient, rest = ix.floordiv(x, divisor), ix.mod(x, divisor)
    for point in points()[::7]:
        assert value_of(quotient, point) == value_of(x, point) // divisor
        assert value_of(rest, point) == value_of(x, point) % divisor


@settings(max_examples=100, deadline=None)
@given(linear(), linear())
def test_comparisons_that_are_proved_hold(x: Dim, y: Dim) -> None:
    low, high = ix.imin(x, y), ix.imax(x, y)
    for point in points()[::11]:
        pair = value_of(x, point), value_of(y, point)
        assert not ix.provably_less(x, y) or pair[0] < pair[1]
        assert (value_of(low, point), value_of(high, point)) == (min(pair), max(pair))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (ix.floordiv(16 * B + C, 16), B),
        (ix.mod(16 * B + C, 16), C),
        (ix.floordiv(16 * B + C, 32), ix.floordiv(B, 2)),
        (ix.floordiv(B * S + ix.variable("d", S), S), B),
        (ix.mod(B * (S + 1) + ix.variable("e", S + 1), S + 1), ix.variable("e", S + 1)),
        (ix.floordiv(ix.floordiv(C, 2), 3), ix.floordiv(C, 6)),
        (ix.ceildiv(S * 16, 16), S),
    ],
)
def test_layouts_become_plain_strides(x: Dim, expected: Dim) -> None:
    assert x == expected


def test_linear_gives_strides_or_says_no() -> None:
    assert ix.linear(A * 40 + B * S + 3, (A, B)) == ([40, S], 3)
    assert ix.linear(ix.floordiv(A, 2), (A,)) is None
    assert ix.linear(A * B, (A, B)) is None


def test_symbols_may_be_zero() -> None:
    assert not ix.provably_less(0, S)
    assert ix.provably_nonnegative(S)
    assert ix.provably_less(-1, S)
