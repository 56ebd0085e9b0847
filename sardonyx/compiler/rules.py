"""Rules on expressions: several operations that are one cheaper function.

Exporters spell activations out (GELU as Div, Erf, Add, Mul, Mul). Once they stand in one expression they are found
here, whatever the order of their factors. Only float32 is rewritten: half precision rounds after each operation.
"""

from __future__ import annotations

import math

from sardonyx.compiler import expr as ex
from sardonyx.compiler.expr import Expr

NEAR = 1e-6  # relative difference of a constant that was rounded to float32 on its way

_STARTS = ("erf", "tanh")  # every rule is about one of these


def simplified(value: Expr) -> Expr:
    """`value` with each rule applied where it fits."""
    if not any(node.op in _STARTS and node.dtype == "float32" for node in ex.walk(value)):
        return value

    def replace(node: Expr) -> Expr | None:
        if node.op != "mul" or node.dtype != "float32":
            return None
        for rule in (_gelu, _mish, _half_of_one_plus_tanh):
            found = rule(node)
            if found is not None:
                return simplified(found)
        return None

    return ex.rewrite(value, {}, replace)


def _gelu(product: Expr) -> Expr | None:
    """0.5 * x * (1 + erf(x / sqrt(2))) is gelu(x)."""
    scale, factors = _factors(product)
    if len(factors) != 2 or not _near(scale, 0.5):
        return None
    for x, other in (factors, factors[::-1]):
        erf = _one_plus(other, "erf")
        if erf is not None and _is_multiple(erf.args[0], x, math.sqrt(0.5)):
            return ex.unary("gelu", x)
    return None


def _mish(product: Expr) -> Expr | None:
    """x * tanh(softplus(x)) is mish(x)."""
    for x, other in (product.args, product.args[::-1]):
        if other.op == "tanh" and other.args[0].op == "softplus" and other.args[0].args[0].key == x.key:
            return ex.unary("mish", x)
    return None


def _half_of_one_plus_tanh(product: Expr) -> Expr | None:
    """0.5 * (1 + tanh(x)) is sigmoid(2 * x), which does not cancel where tanh(x) is near -1."""
    scale, factors = _factors(product)
    if not _near(scale, 0.5):
        return None
    for number, factor in enumerate(factors):
        tanh = _one_plus(factor, "tanh")
        if tanh is None:
            continue
        result = ex.unary("sigmoid", tanh.args[0] * 2.0)
        for other in (*factors[:number], *factors[number + 1 :]):
            result = other * result
        return result
    return None


def _factors(product: Expr) -> tuple[float, list[Expr]]:
    """The known factor of a product, and the others in order."""
    if product.op == "const":
        return float(product.value), []
    if product.op == "div" and product.args[1].op == "const" and product.args[1].value:
        scale, factors = _factors(product.args[0])
        return scale / float(product.args[1].value), factors
    if product.op != "mul":
        return 1.0, [product]
    scale, factors = 1.0, []
    for arg in product.args:
        part, more = _factors(arg)
        scale, factors = scale * part, factors + more
    return scale, factors


def _one_plus(value: Expr, op: str) -> Expr | None:
    """The node `op` of ``1 + op(...)``."""
    if value.op != "add":
        return None
    for x, one in (value.args, value.args[::-1]):
        if x.op == op and one.op == "const" and one.value == 1:
            return x
    return None


def _is_multiple(value: Expr, x: Expr, scale: float) -> bool:
    """True when `value` is ``scale * x``."""
    found, factors = _factors(value)
    base, x_factors = _factors(x)
    same = sorted(f.key for f in factors) == sorted(f.key for f in x_factors)
    return same and base != 0 and _near(found / base, scale)


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= NEAR * wanted
