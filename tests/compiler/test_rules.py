"""Rules on expressions: where they fire and where they must not."""

from __future__ import annotations

import pytest

from sardonyx.compiler import expr as ex
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.rules import simplified

ROOT = 0.7071067811865476


def x_of(dtype: str = "float32") -> Expr:
    return ex.local("x", dtype)


def erf(x: Expr) -> Expr:
    return ex.unary("erf", x)


def tanh(x: Expr) -> Expr:
    return ex.unary("tanh", x)


X = x_of()
GELU = {
    "half last": X * (erf(X / 1.4142135381698608) + 1.0) * 0.5,
    "half first": X * 0.5 * (erf(X * ROOT) + 1.0),
    "one first": (1.0 + erf(X * ROOT)) * (X * 0.5),
    "divided": X * (erf(X * ROOT) + 1.0) / 2.0 * 1.0,
}


@pytest.mark.parametrize("name", GELU)
def test_gelu_is_found_in_any_order(name: str) -> None:
    assert simplified(GELU[name]).key == ex.unary("gelu", X).key


def test_gelu_is_found_inside_and_of_what_is_computed() -> None:
    y = ex.unary("exp", X)
    assert simplified(y * 0.5 * (erf(y * ROOT) + 1.0) + X).key == (ex.unary("gelu", y) + X).key


OTHERS = {
    "another scale": X * 0.5 * (erf(X * 0.7) + 1.0),
    "another half": X * 0.25 * (erf(X * ROOT) + 1.0),
    "minus erf": X * 0.5 * (1.0 - erf(X * ROOT)),
    "another operand": X * 0.5 * (erf(ex.local("y", "float32") * ROOT) + 1.0),
    "another factor": X * X * 0.5 * (erf(X * ROOT) + 1.0),
    "erf alone": erf(X * ROOT) + 1.0,
    "tanh without half": X * (tanh(X) + 1.0),
    "tanh of log": X * tanh(ex.unary("log", X)),
    "tanh of softplus of another": X * tanh(ex.unary("softplus", X * 2.0)),
    "float16": x_of("float16") * 0.5 * (erf(x_of("float16") * ROOT) + 1.0),
    "float64": x_of("float64") * 0.5 * (erf(x_of("float64") * ROOT) + 1.0),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_alike_stays(name: str) -> None:
    assert simplified(OTHERS[name]).key == OTHERS[name].key


def test_half_of_one_plus_tanh_is_a_sigmoid() -> None:
    inner = (X + X * X * X * 0.044715) * 0.7978845608028654
    assert simplified(X * 0.5 * (tanh(inner) + 1.0)).key == (X * ex.unary("sigmoid", inner * 2.0)).key


def test_mish_is_found() -> None:
    soft = tanh(ex.unary("softplus", X))
    assert simplified(X * soft).key == simplified(soft * X).key == ex.unary("mish", X).key
