"""Functions of one byte as tables: an activation between QuantizeLinear and DequantizeLinear is 256 bytes.

Where a loop nest computes each byte of its result from a single byte, by the same function for all elements, the function is
evaluated once for each of the 256 bytes there are, by a step of its own with the same expression (so that the bits are the
same on every processor), and the nest looks its bytes up. One step rather than a table in each task: it costs 0.1 us for hard-swish,
0.3 us for SiLU, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_integer
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.nest import extent_of
from sardonyx.compiler.program import Block, Buffer, Nest, Program, Store

BYTES = ("int8", "uint8")
VALUES = 256
LEAST_ELEMENTS = 1024  # SiLU: the table costs as much as 350 elements
LEAST_COST = 12  # of an element, in operations on registers: single loads take 0.27 ns, eight lanes of AVX2 12 operations
COSTS = {"const": 0, "load": 0, "div": 8, "sqrt": 8, "quantize": 3, "quotient": 3}
FUNCTION_COST = 16  # of exp, sigmoid and their like
SIMPLE = (
    "add", "sub", "mul", "neg", "abs", "max", "min", "cast", "bitcast", "select", "lt", "le", "gt", "ge", "eq", "ne",
    "and", "or", "xor", "not", "bitnot", "floor", "ceil", "trunc", "round_even", "sign", "isnan", "isinf",
)  # fmt: skip
NEVER = ("index", "local", "guard", "checked_index")  # depends on the position, or on more than its operands
MAY_FAIL = ("div", "mod", "fmod")  # of integers: by zero, which no element of the nest may ever do


def tabulate(program: Program, fresh: Callable[[str], str]) -> None:
    """Give each nest that a table is worth its table; `fresh` makes names."""
    blocks = [program.main]
    while blocks:
        block = blocks.pop()
        for step in list(block.steps):
            blocks += step.blocks()
            source = _source(step) if isinstance(step, Nest) else None
            if source is not None:
                _split(block, step, source, fresh("b"))


def _source(nest: Nest) -> Expr | None:
    """The one load that all of `nest` is a function of, if a table is worth it."""
    if len(nest.stages) != 1 or not isinstance(nest.stages[0], Store):
        return None
    (store,) = nest.stages
    if store.inner or store.buffer.dtype not in BYTES or not _is_large(nest):
        return None
    nodes = list(ex.walk(store.value))
    loads = [node for node in nodes if node.op == "load"]
    if len(loads) != 1 or loads[0].dtype not in BYTES or any(node.op in NEVER for node in nodes):
        return None
    if any(node.op in MAY_FAIL and is_integer(node.dtype) for node in nodes):
        return None
    return loads[0] if sum(map(_cost, nodes)) >= LEAST_COST else None


def _is_large(nest: Nest) -> bool:
    """Whether there are many elements, or nobody knows."""
    size = ix.product(extent_of(v) for v in nest.outer)
    return not isinstance(size, int) or size >= LEAST_ELEMENTS


def _cost(node: Expr) -> int:
    return COSTS.get(node.op, 1 if node.op in SIMPLE else FUNCTION_COST)


def _split(block: Block, nest: Nest, source: Expr, name: str) -> None:
    """Put the evaluation of the table before `nest`, which then looks up."""
    (store,) = nest.stages
    assert isinstance(store, Store)
    table = Buffer(name, store.buffer.dtype, VALUES, block=block)
    number = ix.variable("i0", VALUES)
    byte = ex.cast(ex.index(number), "uint8")
    if source.dtype == "int8":
        byte = Expr("bitcast", "int8", (byte,))
    value = ex.rewrite(store.value, {}, lambda node: byte if node.key == source.key else None)
    filled = Nest((number,), [Store(table, number, value)], node=nest.node, operator=nest.operator)
    block.steps.insert(block.steps.index(nest), filled)
    bits = source if source.dtype == "uint8" else Expr("bitcast", "uint8", (source,))
    store.value = ex.load(table, ix.element(ex.cast(bits, "int64"), VALUES))


def looked_up(value: Expr) -> tuple[Buffer, Buffer, ix.Dim] | None:
    """``(table, bytes, offset)`` of a value that `tabulate` has written."""
    if value.op != "load":
        return None
    table, place = value.value
    atoms = [] if isinstance(place, int) else sorted(ix.atoms(place, deep=False))
    if len(atoms) != 1 or atoms[0].kind != "element" or table.size != VALUES or table.dtype not in BYTES:
        return None
    (position,) = atoms[0].args
    bits = position.args[0] if position.op == "cast" else position
    source = bits.args[0] if bits.op == "bitcast" else bits
    if place != ix.element(position, VALUES) or source.op != "load" or bits.dtype != "uint8":
        return None
    return table, *source.value


__all__ = ["looked_up", "tabulate"]
