"""Functions of one byte as tables: an activation between DequantizeLinear and QuantizeLinear is 256 bytes.

Where a loop nest computes each byte of its result from a single byte, by the same function for all elements, a step of
its own evaluates the function for each of the 256 bytes there are, by the same expression (so that the bits are the
same on every processor), and the nest looks its bytes up. One step, not a table in each task: it takes 0.5 us for
SiLU, whatever the number of threads. Where such bytes go on into something of more operands, as into a residual
addition, they get memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_integer
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.nest import atom_of, extent_of, simplify
from sardonyx.compiler.program import Block, Buffer, Nest, Program, Store

BYTES = ("int8", "uint8")
VALUES = 256
LEAST_ELEMENTS = 1024  # SiLU: the step of the table takes as long as 600 elements
# Costs of an element, in operations on registers. Single loads, which is what AVX2 has, are as fast as hard-swish (15)
# and 0.7 times as fast as a change of scale (10); tables in registers 3.6 and 1.6 times as fast.
LEAST_COST = 14
LEAST_COST_APART = 28  # of bytes that are worth a place in memory
COSTS = {"const": 0, "load": 0, "div": 8, "sqrt": 8, "quantize": 3, "quotient": 3}
FUNCTION_COST = 16  # of exp, sigmoid and their like
SIMPLE = (
    "add", "sub", "mul", "neg", "abs", "max", "min", "cast", "bitcast", "select", "lt", "le", "gt", "ge", "eq", "ne",
    "and", "or", "xor", "not", "bitnot", "floor", "ceil", "trunc", "round_even", "sign", "isnan", "isinf",
)  # fmt: skip
NEVER = ("index", "local", "guard", "checked_index")  # depends on the position, or on more than its operands
MAY_FAIL = ("div", "mod", "fmod")  # of integers: by zero, which no element of the nest may ever do


def tabulate(program: Program, fresh: Callable[[str], str]) -> None:
    """Give each function of a byte that is worth it its table; `fresh` makes names."""
    blocks = [program.main]
    while blocks:
        block = blocks.pop()
        for step in list(block.steps):
            blocks += step.blocks()
            if not isinstance(step, Nest) or not _is_large_map(step):
                continue
            for nest in (*_apart(block, step, fresh), step):
                value = _store(nest).value
                source = _source(value, LEAST_COST)
                if source is not None:
                    _look_up(block, nest, source, fresh("b"))


def _store(nest: Nest) -> Store:
    (store,) = nest.stages
    assert isinstance(store, Store)
    return store


def _is_large_map(nest: Nest) -> bool:
    """Whether `nest` is one store, of many elements or of nobody knows how many."""
    if len(nest.stages) != 1 or not isinstance(nest.stages[0], Store) or nest.stages[0].inner:
        return False
    size = _size(nest)
    return not isinstance(size, int) or size >= LEAST_ELEMENTS


def _size(nest: Nest) -> Dim:
    return ix.product(extent_of(v) for v in nest.outer)


def _source(value: Expr, least: int) -> Expr | None:
    """The one load of a byte that the byte `value` is a function of, if it costs at least so much."""
    if value.dtype not in BYTES:
        return None
    nodes = list(ex.walk(value))
    loads = [node for node in nodes if node.op == "load"]
    if len(loads) != 1 or loads[0].dtype not in BYTES or any(node.op in NEVER for node in nodes):
        return None
    if any(node.op in MAY_FAIL and is_integer(node.dtype) for node in nodes):
        return None
    return loads[0] if sum(map(_cost, nodes)) >= least else None


def _cost(node: Expr) -> int:
    return COSTS.get(node.op, 1 if node.op in SIMPLE else FUNCTION_COST)


def _apart(block: Block, nest: Nest, fresh: Callable[[str], str]) -> list[Nest]:
    """Nests, put before `nest`, for the costly functions of one byte among others in its value."""
    store = _store(nest)
    place = _row_major(nest.outer)
    found: dict[str, tuple[Expr, Buffer]] = {}
    if _source(store.value, 0) is not None or any(node.op == "guard" for node in ex.walk(store.value)):
        return []

    def visit(node: Expr) -> Expr | None:
        source = _source(node, LEAST_COST_APART)
        if source is None or not all(source.depends(atom_of(v)) for v in nest.outer):
            return None
        if node.key not in found:
            found[node.key] = node, Buffer(fresh("b"), node.dtype, _size(nest), block=block)
        return ex.load(found[node.key][1], place)

    store.value = ex.rewrite(store.value, {}, visit)
    at = block.steps.index(nest)
    block.steps[at:at] = nests = [
        simplify(Nest(nest.outer, [Store(buffer, place, value)], node=nest.node, operator=nest.operator))
        for value, buffer in found.values()
    ]
    return nests


def _row_major(variables: Sequence[Dim]) -> Dim:
    place: Dim = 0
    for v in variables:
        place = place * extent_of(v) + v
    return place


def _look_up(block: Block, nest: Nest, source: Expr, name: str) -> None:
    """Put the evaluation of the table before `nest`, which then looks up."""
    store = _store(nest)
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


def looked_up(value: Expr) -> tuple[Buffer, Buffer, Dim] | None:
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
