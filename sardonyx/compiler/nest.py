"""Making a loop nest good before it is printed: split, merge, and fit into a kernel's epilogue.

All three rewrite loop variables only. They never change what is added to what in which order, except that merged or
split reduction variables keep their lexicographic order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Atom, Dim
from sardonyx.compiler.program import Buffer, Kernel, Nest, Pointer, Reduce, Running, Stage, Store

UNROLLED = 4  # iterations of an innermost loop that are written out


def atom_of(variable: Dim) -> Atom:
    """The atom of a loop variable."""
    assert not isinstance(variable, int)
    ((monomial, _),) = variable.terms.items()
    return monomial[0]


def extent_of(variable: Dim) -> Dim:
    """How many values a loop variable takes."""
    extent = atom_of(variable).extent
    assert extent is not None
    return extent


def stage_indices(stage: Stage) -> Iterator[Dim]:
    """Every index expression of a stage, also those inside loaded elements."""
    values = [stage.value]
    if not isinstance(stage, Reduce):
        yield stage.offset
        values += [atom.args[0] for atom in ix.atoms(stage.offset) if atom.kind == "element"]
    for value in values:
        for node in ex.walk(value):
            yield from node.indices()


def inner_of(stage: Stage) -> tuple[Dim, ...]:
    """The loop variables of a stage's own."""
    return (stage.inner,) if isinstance(stage, Running) else stage.inner


def _replaced(stage: Stage, mapping: dict[Atom, Dim], inner: tuple[Dim, ...]) -> Stage:
    value = ex.rewrite(stage.value, mapping)
    if isinstance(stage, Reduce):
        return Reduce(stage.name, stage.op, value, inner, stage.dtype)
    offset = ix.substitute(stage.offset, mapping, lambda e: ex.rewrite(e, mapping))
    if isinstance(stage, Running):
        return Running(stage.buffer, offset, stage.op, value, stage.inner, stage.dtype, stage.exclusive)
    return Store(stage.buffer, offset, value, inner)


def _apply(nest: Nest, outer: Sequence[Dim], mapping: dict[Atom, Dim], inners: list[tuple[Dim, ...]]) -> Nest:
    stages = [_replaced(stage, mapping, inner) for stage, inner in zip(nest.stages, inners, strict=True)]
    return Nest(tuple(outer), stages, node=nest.node, operator=nest.operator)


def simplify(nest: Nest) -> Nest:
    """Split variables that are divided by a constant everywhere, then merge neighbours that walk memory as one."""
    stages = [_scan_of_one(stage) for stage in nest.stages]
    nest = Nest(nest.outer, stages, node=nest.node, operator=nest.operator)
    nest = _apply(nest, _real(nest.outer), {}, [_real(inner_of(s)) for s in nest.stages])
    for _ in range(8):
        changed = _split_once(nest)
        if changed is None:
            break
        nest = changed
    return _unroll(_merge(nest))


def _scan_of_one(stage: Stage) -> Stage:
    if not isinstance(stage, Running) or not isinstance(stage.inner, int):
        return stage
    start = ex.constant({"sum": 0, "prod": 1}[stage.op], stage.dtype) if stage.exclusive else stage.value
    return Store(stage.buffer, stage.offset, ex.cast(start, stage.buffer.dtype))


def _unroll(nest: Nest) -> Nest:
    """Write out a short innermost loop around plain stores, so that the longer one outside becomes the vector loop."""
    if len(nest.outer) < 2 or not all(isinstance(s, Store) and not s.inner for s in nest.stages):
        return nest
    last, extent, outside = nest.outer[-1], extent_of(nest.outer[-1]), extent_of(nest.outer[-2])
    if not isinstance(extent, int) or extent > UNROLLED or (isinstance(outside, int) and outside <= extent):
        return nest
    stages = [_replaced(stage, {atom_of(last): i}, ()) for i in range(extent) for stage in nest.stages]
    return Nest(nest.outer[:-1], stages, node=nest.node, operator=nest.operator)


def _real(variables: Sequence[Dim]) -> tuple[Dim, ...]:
    return tuple(v for v in variables if not isinstance(v, int))


def _split_once(nest: Nest) -> Nest | None:
    variables = [*nest.outer, *(v for s in nest.stages if not _needs_position(s) for v in inner_of(s))]
    by_atom = {atom_of(v): v for v in variables}
    for stage in nest.stages:
        for dim in stage_indices(stage):
            for atom in sorted(ix.atoms(dim)):
                if atom.kind not in ("floordiv", "mod"):
                    continue
                found = _split_candidate(atom, by_atom)
                if found is not None:
                    return _split(nest, *found)
    return None


def _needs_position(stage: Stage) -> bool:
    """True when the stage's one inner variable has to stay whole: a scan, or a search for a position."""
    return isinstance(stage, Running) or (isinstance(stage, Reduce) and stage.op.startswith("arg"))


def _split_candidate(atom: Atom, by_atom: dict[Atom, Dim]) -> tuple[Dim, Dim] | None:
    numerator, divisor = atom.args
    for candidate in sorted(ix.atoms(numerator, deep=False)):
        if candidate not in by_atom or ix.coefficient(numerator, candidate) != 1:
            continue
        rest = numerator - by_atom[candidate]
        extent = extent_of(by_atom[candidate])
        if rest == 0 and extent != divisor and _divides(divisor, extent):
            return by_atom[candidate], divisor
        # (16 * b + c) // 16 with c in 0..31: the rest is a multiple, c is split.
        if not isinstance(divisor, int) or not isinstance(extent, int):
            continue
        if _divides(divisor, rest) and extent > divisor and extent % divisor == 0:
            return by_atom[candidate], divisor
    return None


def _divides(divisor: Dim, x: Dim) -> bool:
    quotient = ix.floordiv(x, divisor)
    return quotient * divisor == x


def _split(nest: Nest, variable: Dim, size: Dim) -> Nest:
    atom = atom_of(variable)
    high = ix.variable(f"{atom.key}h", ix.floordiv(extent_of(variable), size))
    low = ix.variable(f"{atom.key}l", size)
    mapping = {atom: high * size + low}

    def spread(variables: Sequence[Dim]) -> tuple[Dim, ...]:
        result: list[Dim] = []
        for v in variables:
            result += _real((high, low)) if v == variable else [v]
        return tuple(result)

    return _apply(nest, spread(nest.outer), mapping, [spread(inner_of(s)) for s in nest.stages])


def _merge(nest: Nest) -> Nest:
    axis = 0
    while axis + 1 < len(nest.outer):
        a, b = nest.outer[axis : axis + 2]
        if all(_mergeable(dim, a, b) for stage in nest.stages for dim in stage_indices(stage)):
            merged, mapping = _merged(a, b)
            outer = (*nest.outer[:axis], merged, *nest.outer[axis + 2 :])
            nest = _apply(nest, outer, mapping, [inner_of(s) for s in nest.stages])
            axis = max(axis - 1, 0)
        else:
            axis += 1
    stages = [_merge_inner(stage) for stage in nest.stages]
    return Nest(nest.outer, stages, node=nest.node, operator=nest.operator)


def _merge_inner(stage: Stage) -> Stage:
    if isinstance(stage, Running):
        return stage
    axis = 0
    while axis + 1 < len(stage.inner):
        a, b = stage.inner[axis : axis + 2]
        if all(_mergeable(dim, a, b) for dim in stage_indices(stage)):
            merged, mapping = _merged(a, b)
            replaced = _replaced(stage, mapping, (*stage.inner[:axis], merged, *stage.inner[axis + 2 :]))
            assert not isinstance(replaced, Running)
            stage = replaced
            axis = max(axis - 1, 0)
        else:
            axis += 1
    return stage


def _mergeable(dim: Dim, a: Dim, b: Dim) -> bool:
    stride_a, stride_b = ix.coefficient(dim, atom_of(a)), ix.coefficient(dim, atom_of(b))
    return stride_a is not None and stride_b is not None and stride_a == stride_b * extent_of(b)


def _merged(a: Dim, b: Dim) -> tuple[Dim, dict[Atom, Dim]]:
    merged = ix.variable(f"{atom_of(a).key}{atom_of(b).key}", extent_of(a) * extent_of(b))
    return merged, {atom_of(a): 0, atom_of(b): merged}


def as_epilogue(nest: Nest, kernel: Kernel, buffer: Buffer) -> Nest | None:
    """`nest` over the kernel's own loops (i0, i1, i2, i3), or None when it does not fit.

    It fits when it is one store over exactly the kernel's output, in the kernel's loop order, that reads the kernel's
    output only at the element that it computes.
    """
    if len(nest.stages) != 1 or not isinstance(nest.stages[0], Store) or nest.stages[0].inner or not kernel.domain:
        return None
    fitted = _fit(nest, kernel.domain)
    if fitted is None:
        return None
    store = fitted.stages[0]
    assert isinstance(store, Store)
    own = ix.total(stride * v for stride, v in zip(kernel.strides, domain_variables(kernel.domain), strict=True))
    for node in ex.walk(store.value):
        if node.op == "load" and node.value[0] is buffer and node.value[1] != own:
            return None
        if node.op in NEEDS_ERROR:
            return None
    return fitted


def moves(epilogue: Nest, kernel: Kernel) -> bool:
    """Whether `epilogue` only copies to where `redirect` can let `kernel` write."""
    (store,) = epilogue.stages
    assert isinstance(store, Store)
    return store.value.op == "load" and _strides_at(kernel, store) is not None


def redirect(kernel: Kernel, buffer: Buffer) -> bool:
    """Let `kernel` write where its epilogue stores, rather than to `buffer` first, if it can.

    It can where the two differ by an offset and by strides that it takes as arguments; `buffer` is not used then.
    """
    epilogue = kernel.epilogue
    assert epilogue is not None
    (store,) = epilogue.stages
    assert isinstance(store, Store)
    found = _strides_at(kernel, store)
    if found is None:
        return False
    strides, base = found
    for axis, name in enumerate(kernel.pitches):
        if kernel.domain[axis] != 1:
            kernel.fields[name] = strides[axis]
    kernel.fields[kernel.target] = Pointer(store.buffer, base)
    kernel.output, kernel.strides = (store.buffer,), tuple(strides)

    def moved(node: Expr) -> Expr | None:
        return ex.load(store.buffer, store.offset) if node.op == "load" and node.value[0] is buffer else None

    store.value = ex.rewrite(store.value, {}, moved)
    if is_copy(epilogue):
        kernel.epilogue = None
    return True


def _strides_at(kernel: Kernel, store: Store) -> tuple[list[Dim], Dim] | None:
    """Strides along the domain of `kernel` and offset of where `store` goes, if it can write there."""
    found = ix.linear(store.offset, domain_variables(kernel.domain))
    if not kernel.target or len(kernel.output) != 1 or store.buffer.dtype != kernel.output[0].dtype or found is None:
        return None
    for axis, (extent, own, wanted) in enumerate(zip(kernel.domain, kernel.strides, found[0], strict=True)):
        if extent != 1 and own != wanted and axis >= len(kernel.pitches):
            return None
    return found


def is_copy(nest: Nest) -> bool:
    """Whether `nest` only stores elements where they lie already."""
    stores = [stage for stage in nest.stages if isinstance(stage, Store)]
    return len(stores) == len(nest.stages) and all(s.value.key == ex.load(s.buffer, s.offset).key for s in stores)


NEEDS_ERROR = ("checked_index", "div_checked", "mod_checked")


def domain_variables(domain: Sequence[Dim]) -> tuple[Dim, ...]:
    """The loop variables i0..i3 of a kernel's output."""
    return tuple(ix.variable(f"i{axis}", extent) for axis, extent in enumerate(domain))


def _fit(nest: Nest, domain: Sequence[Dim]) -> Nest | None:
    variables = list(_real(nest.outer))
    targets = domain_variables(domain)
    mapping: dict[Atom, Dim] = {}
    groups: list[list[Dim]] = []
    for target, extent in zip(targets, domain, strict=True):
        group: list[Dim] = []
        if extent != 1:
            size: Dim = 1
            while size != extent and variables:
                inside = _inside(variables[0], size, extent)
                if inside is not None:  # the variable goes on where the target ends, as channels do beyond their group
                    nest = _split(nest, variables[0], inside)
                    variables = list(_real(nest.outer))[-len(variables) - 1 :]
                group.append(variables.pop(0))
                size = size * extent_of(group[-1])
            if size != extent:
                return None
        groups.append(group)
        del target
    if variables:
        return None
    for target, group in zip(targets, groups, strict=True):
        for a, b in itertools.pairwise(group):
            if not all(_mergeable(dim, a, b) for stage in nest.stages for dim in stage_indices(stage)):
                return None
        for v in group[:-1]:
            mapping[atom_of(v)] = 0
        if group:
            mapping[atom_of(group[-1])] = target
    renamed = {atom: _temporary(value) for atom, value in mapping.items()}
    nest = _apply(nest, _real(targets), renamed, [() for _ in nest.stages])
    back: dict[Atom, Dim] = {atom_of(_temporary(v)): v for v in targets if not isinstance(v, int)}
    return _apply(nest, _real(targets), back, [() for _ in nest.stages])


def _inside(variable: Dim, size: Dim, extent: Dim) -> int | None:
    """How much of `variable` is left for later where `size` times a part of it makes `extent`, or None."""
    whole = extent_of(variable)
    if not (isinstance(whole, int) and isinstance(size, int) and isinstance(extent, int)):
        return None
    if size == 0 or extent == 0 or extent % size:  # an empty phase of a transposed convolution, say
        return None
    part = extent // size
    return whole // part if whole > part and whole % part == 0 else None


def _temporary(value: Dim) -> Dim:
    """A stand-in for a target variable, so that renaming i1 to i0 and i0 to i1 at once is safe."""
    return value if isinstance(value, int) else ix.variable(f"t{atom_of(value).key}", extent_of(value))
