"""The memory planner: where each temporary lies in one arena, and which need memory of their own.

A temporary whose size the inputs determine is *planned*: it gets an offset, ahead of time when its size is a constant,
else at the first run with new input shapes (``plan.h``, the same algorithm). Values made inside control flow or with a
data-dependent size are allocated when they are computed and released after their last use. The result of an
element-wise step takes over the memory of an input that ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.program import Append, Block, Buffer, Host, Move, Nest, Program, Step, Store

ALIGN = 64
ATTEMPTS = 24  # at an arena of the size of the lower bound, from each of two orders


@dataclass(frozen=True)
class Plan:
    """Lifetimes of planned buffers (first and last main step), their constant offsets when all sizes are known."""

    planned: tuple[Buffer, ...]
    lifetimes: tuple[tuple[int, int], ...]
    heap: tuple[Buffer, ...]
    releases: dict[Step, tuple[Buffer, ...]]  # heap buffers that a step is the last to use
    offsets: tuple[int, ...] | None
    arena: int | None  # bytes, when all sizes are known
    bound: int | None  # the largest sum of live temporaries: no plan can need less
    shared: dict[Buffer, Buffer]  # buffers that take over the memory of a planned one which ends where they begin


def touched(step: Step) -> set[Buffer]:
    """All buffers that a step or the steps inside it use."""
    found = set(step.reads()) | set(step.writes())
    for block in step.blocks():
        for inner in block.steps:
            found |= touched(inner)
    return found


def _is_planned(buffer: Buffer, program: Program, moved: set[Buffer], entry: set[ix.Atom]) -> bool:
    return (
        buffer.block is program.main
        and buffer not in moved
        and all(atom in entry for atom in ix.atoms(buffer.size) if atom.kind == "symbol")
    )


def plan(program: Program) -> Plan:
    """Decide where every temporary of `program` lives."""
    entry = {atom for symbol in program.entry_symbols() for atom in ix.atoms(symbol)}
    moved: set[Buffer] = set()
    for step in program.main.walk():
        if isinstance(step, Move):
            moved |= {step.source, step.target}
        elif isinstance(step, Append):
            moved.add(step.target)
        elif isinstance(step, Host):
            defined = {atom for symbol in step.defines for atom in ix.atoms(symbol)}
            views = [view for view in step.outputs if view is not None and view.buffer is not None]
            moved |= {view.buffer for view in views if view.buffer and ix.atoms(view.buffer.size) & defined}
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    temporaries: dict[Buffer, None] = {}
    for number, step in enumerate(program.main.steps):
        for buffer in touched(step):
            if buffer.kind == "temporary":
                first.setdefault(buffer, number)
                last[buffer] = number
    for buffer in sorted(first, key=lambda b: (first[b], int(b.name[1:]))):
        temporaries[buffer] = None
    arena_buffers = {b for b in temporaries if _is_planned(b, program, moved, entry)}
    heap = tuple(b for b in temporaries if b not in arena_buffers)
    shared = _taken_over(program, arena_buffers, first, last)
    planned = tuple(b for b in temporaries if b in arena_buffers and b not in shared)
    lifetimes = tuple((first[b], last[b]) for b in planned)
    sizes = [ix.const(b.bytes) for b in planned]
    releases = _releases(program, set(heap), moved)
    if any(size is None for size in sizes):
        return Plan(planned, lifetimes, heap, releases, None, None, None, shared)
    known = [size for size in sizes if size is not None]
    offsets, arena = place(known, lifetimes)
    return Plan(planned, lifetimes, heap, releases, tuple(offsets), arena, lower_bound(known, lifetimes), shared)


def _taken_over(
    program: Program, planned: set[Buffer], first: dict[Buffer, int], last: dict[Buffer, int]
) -> dict[Buffer, Buffer]:
    """Element-wise steps write over an input that nobody reads afterwards; `last` becomes that of the shared memory."""
    shared: dict[Buffer, Buffer] = {}
    for number, step in enumerate(program.main.steps):
        store = step.stages[0] if isinstance(step, Nest) and len(step.stages) == 1 else None
        if not isinstance(store, Store) or store.inner or store.buffer not in planned or first[store.buffer] != number:
            continue
        loads = [node.value for node in ex.walk(store.value) if node.op == "load"]
        for old in dict.fromkeys(buffer for buffer, _ in loads):
            fits = old in planned and (old.dtype, old.size) == (store.buffer.dtype, store.buffer.size)
            if fits and last[old] == number and all(at == store.offset for buffer, at in loads if buffer is old):
                owner = shared.get(old, old)
                shared[store.buffer] = owner
                last[owner] = last[store.buffer]
                break
    return shared


def place(sizes: list[int], lifetimes: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offsets for buffers of `sizes` bytes, and the bytes of the arena.

    Each buffer goes to the lowest offset free during its lifetime, the largest ones first, or those first that live at
    the fullest steps, whichever needs less. While that is more than the lower bound, the buffers that reach the end of
    the arena go first, and so on `ATTEMPTS` times.
    """
    goal = lower_bound([-(-size // ALIGN) * ALIGN for size in sizes], lifetimes)
    by_size = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    best: tuple[list[int], int] | None = None
    for order in (by_size, _fullest_first(sizes, lifetimes)):
        for _ in range(ATTEMPTS):
            offsets, arena = _first_fit(sizes, lifetimes, order)
            if best is None or arena < best[1]:
                best = offsets, arena
            if arena <= goal:
                return offsets, arena
            highest = [i for i in order if sizes[i] and offsets[i] + sizes[i] > arena - ALIGN]
            order = [*highest, *(i for i in order if i not in set(highest))]
    assert best is not None
    return best


def _fullest_first(sizes: list[int], lifetimes: Sequence[tuple[int, int]]) -> list[int]:
    """The buffers of the step with the most bytes alive, largest first; then those of the next, and so on."""
    steps = sorted({step for life in lifetimes for step in life})
    alive = {step: [i for i, (first, last) in enumerate(lifetimes) if first <= step <= last] for step in steps}
    order: dict[int, None] = {}
    for step in sorted(steps, key=lambda step: (-sum(sizes[i] for i in alive[step]), step)):
        order.update(dict.fromkeys(sorted(alive[step], key=lambda i: (-sizes[i], i))))
    return list(order)


def _first_fit(sizes: list[int], lifetimes: Sequence[tuple[int, int]], order: Sequence[int]) -> tuple[list[int], int]:
    """Offsets and arena with each buffer, in this order, at the lowest offset free during its lifetime."""
    rounded = [-(-size // ALIGN) * ALIGN for size in sizes]
    offsets = [0] * len(sizes)
    placed: list[int] = []
    arena = 0
    for buffer in order:
        first, last = lifetimes[buffer]
        at = 0
        for other in placed:
            if lifetimes[other][1] < first or lifetimes[other][0] > last:
                continue
            if offsets[other] >= at + rounded[buffer]:
                break
            at = max(at, offsets[other] + rounded[other])
        offsets[buffer] = at
        arena = max(arena, at + rounded[buffer])
        placed.append(buffer)
        placed.sort(key=lambda i: offsets[i])
    return offsets, arena


def lower_bound(sizes: list[int], lifetimes: Sequence[tuple[int, int]]) -> int:
    """The largest sum of sizes alive at one step."""
    changes: dict[int, int] = {}
    for size, (first, last) in zip(sizes, lifetimes, strict=True):
        changes[first] = changes.get(first, 0) + size
        changes[last + 1] = changes.get(last + 1, 0) - size
    alive = peak = 0
    for _, change in sorted(changes.items()):
        alive += change
        peak = max(peak, alive)
    return peak


def _releases(program: Program, heap: set[Buffer], moved: set[Buffer]) -> dict[Step, tuple[Buffer, ...]]:
    """For each heap buffer, the last step of its own block that uses it."""
    found: dict[Step, tuple[Buffer, ...]] = {}

    def visit(block: Block) -> None:
        last: dict[Buffer, Step] = {}
        for step in block.steps:
            for buffer in touched(step):
                if buffer in heap and buffer.block is block:
                    last[buffer] = step
            for inner in step.blocks():
                visit(inner)
        for buffer, step in sorted(last.items(), key=lambda item: int(item[0].name[1:])):
            found[step] = (*found.get(step, ()), buffer)

    visit(program.main)
    return found
