"""Sums that nobody but a kernel's own epilogue reads need no memory: each task has them in its scratch."""

from __future__ import annotations

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.memory import touched
from sardonyx.compiler.nest import domain_variables
from sardonyx.compiler.program import Block, Buffer, Kernel, Program, Store

KERNELS = ("matmul_int8",)  # that have a place of their own for such sums
MOST_OPERANDS = 32  # SX_MOST_OPERANDS of matmul_int8.h
MOST_COLUMNS = 8192  # beyond, rows in scratch lie too far apart


def keep_sums_inside(program: Program) -> None:
    """Mark the calls whose output is wanted by their epilogue alone."""
    uses: dict[Buffer, int] = {}
    blocks: list[Block] = [program.main]
    found: list[Kernel] = []
    while blocks:
        block = blocks.pop()
        for step in block.steps:
            for buffer in touched(step):
                uses[buffer] = uses.get(buffer, 0) + 1
            blocks += step.blocks()
            if isinstance(step, Kernel) and step.name in KERNELS and step.epilogue is not None:
                found.append(step)
    for kernel in found:
        (buffer,) = kernel.output
        assert kernel.epilogue is not None
        operands = {*kernel.epilogue.reads(), *kernel.epilogue.writes()}
        columns = kernel.fields["n"]
        fits = isinstance(columns, int) and columns <= MOST_COLUMNS and len(operands) <= MOST_OPERANDS
        alone = buffer.kind == "temporary" and uses[buffer] == 1 and buffer not in set(kernel.epilogue.writes())
        if fits and alone:
            _move_inside(kernel, buffer)


def _move_inside(kernel: Kernel, buffer: Buffer) -> None:
    """Rows of sums lie as far apart as the kernel says (its function NAME_own_row), with nothing between batches."""
    epilogue = kernel.epilogue
    assert epilogue is not None
    (store,) = epilogue.stages
    assert isinstance(store, Store)
    kernel.inside = ix.symbol(f"own_row{kernel.fields['n']}")
    kernel.fields |= {"c_batch": 0, "c_row": kernel.inside}
    *_, row, column = domain_variables(kernel.domain)
    place = row * kernel.inside + column

    def moved(node: Expr) -> Expr | None:
        return ex.load(buffer, place) if node.op == "load" and node.value[0] is buffer else None

    store.value = ex.rewrite(store.value, {}, moved)
