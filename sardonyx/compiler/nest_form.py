"""Which form a loop nest takes as C (see `emit_nest`), from the strides of what it reads and writes."""

from __future__ import annotations

from collections.abc import Sequence

from sardonyx.compiler import index as ix
from sardonyx.compiler.index import Dim
from sardonyx.compiler.nest import atom_of, extent_of, inner_of, stage_indices
from sardonyx.compiler.program import Nest, Stage, Store

SHORT_ROW = 256  # a vector loop of at most this many elements shares its task with others
FEW_ROWS = 8  # so few rows would not be worth a task: pixels of a block that channels are spread over
TILE = 32  # rows and columns of a tile in a transposing map: two cache lines of floats
SHORT_RUN = 128  # a strided run this short stays in the first cache until the next row reads beside it
LANES = 16


def _stride(stages: Sequence[Stage], variable: Dim) -> int:
    """How many accesses walk consecutive elements along `variable`, less those that jump."""
    score = 0
    for stage in stages:
        for dim in stage_indices(stage):
            c = ix.coefficient(dim, atom_of(variable))
            score += 1 if c == 1 else 0 if c == 0 else -1
    return score


def form_of(nest: Nest) -> str:
    """Which of the three forms `nest` takes."""
    if all(isinstance(stage, Store) and not stage.inner for stage in nest.stages):
        return "map"
    reduces = [stage for stage in nest.stages if not (isinstance(stage, Store) and not stage.inner)]
    reduces = [stage for stage in reduces if inner_of(stage)]
    inner = [inner_of(stage)[-1] for stage in reduces]
    if not nest.outer or not inner:
        return "row"
    column_score = _stride(nest.stages, nest.outer[-1])
    row_score = max(_stride([stage], v) for stage, v in zip(reduces, inner, strict=True))
    return "column" if column_score > max(row_score, 0) else "row"


def crossing_variable(nest: Nest) -> Dim | None:
    """The variable that walks memory where the innermost one of a map jumps over a long way, or None."""
    if len(nest.outer) < 2:
        return None
    *others, vector = nest.outer
    extent = extent_of(vector)
    if isinstance(extent, int) and extent < TILE:
        return None
    for stage in nest.stages:
        for dim in stage_indices(stage):
            jump = ix.coefficient(dim, atom_of(vector))
            if jump is None or jump in (0, 1):
                continue
            for v in others:
                near = v is others[-1] and isinstance(extent, int) and extent <= SHORT_RUN
                size = extent_of(v)
                small = isinstance(size, int) and size < TILE and size != LANES
                if not near and not small and ix.coefficient(dim, atom_of(v)) == 1:
                    return v
    return None


def row_axis(outer: Sequence[Dim]) -> int:
    """Which of the loops around a short row goes over its task's rows: the innermost, unless it has but a few."""
    few = extent_of(outer[-1])
    if len(outer) < 2 or not isinstance(few, int) or few > FEW_ROWS:
        return -1
    return -2 if extent_of(outer[-2]) != few else -1


def is_short(vector: Dim | None) -> bool:
    extent = None if vector is None else extent_of(vector)
    return isinstance(extent, int) and extent <= SHORT_ROW
