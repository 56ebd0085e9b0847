"""Lowering: from an ONNX graph to a Program, one operator function at a time.

`Lowering` is what operator functions (`sardonyx.ops`) work with: it makes tensors, puts them in memory, emits steps,
and turns data into dims and checks. Tensors stay lazy as long as possible; a kernel call stays *open* until its output
is needed, so that the arithmetic that follows becomes its epilogue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.additions import absorb_addition
from sardonyx.compiler.dtypes import dtype_of_array, is_native, itemsize, numpy_dtype
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.failures import Unsupported as Unsupported
from sardonyx.compiler.failures import reported
from sardonyx.compiler.index import Dim
from sardonyx.compiler.nest import as_epilogue, is_copy, moves, redirect, simplify
from sardonyx.compiler.program import (
    Block,
    Buffer,
    Check,
    Define,
    Kernel,
    Nest,
    Pointer,
    Program,
    Stage,
    Step,
    Store,
    expr_buffers,
)
from sardonyx.compiler.rounding import rounded_bytes
from sardonyx.compiler.rules import simplified
from sardonyx.compiler.tensor import Blocked, ChannelsLast, Layout, Plain, Tensor, preferred, variables

MAX_COST = 160  # operations in one fused expression; beyond, compile time grows and registers spill

MOST_BYTES = 1 << 46  # of one value; as SX_MOST_BYTES in run.h

MAX_DEPTH = 64  # tensors that one is computed from in a row without memory between them; each is some Python calls deep

MOST_KNOWN = 64  # elements of a vector that is followed one by one, as shapes are


class Lowering:
    """The state of one lowering, and the operations that operator functions build on."""

    def __init__(self, name: str, assumptions: Mapping[str, bool] | None = None):
        self._assumptions = dict(assumptions or {})
        self._truths: dict[tuple[Block, str], bool] = {}  # conditions that a block has checked
        self.assumed: list[tuple[str, bool]] = []  # in the order in which they were needed
        self.program = Program(name)
        self.block = self.program.main
        self.node = ""
        self.operator = ""
        self._names = 0
        self._constants: dict[tuple, Buffer] = {}
        self._defined: dict[tuple, Dim] = {}  # (block, value, lower bound) -> the symbol that holds it
        self.names: dict[tuple, str] = {}  # of symbols that follow from the inputs, by what they stand for
        self._meanings: dict[ix.Atom, Dim] = {}  # of those that `sized` has made, over the inputs' dims
        self._moved: dict[Buffer, Buffer] = {}  # stored in place: the buffer asked for -> the one that it became

    # Names, buffers, tensors.

    def fresh(self, prefix: str) -> str:
        """A new name."""
        self._names += 1
        return f"{prefix}{self._names}"

    def temporary(self, dtype: str, size: Dim) -> Buffer:
        """Memory for `size` elements, from here to its last use in this block."""
        self.check_size(dtype, (size,))
        return Buffer(self.fresh("b"), dtype, size, block=self.block)

    def check_size(self, dtype: str, shape: Sequence[Dim]) -> None:
        """Refuse what no machine can address, before a size in bytes leaves the range of its type in compiled code."""
        size = ix.product(shape) * itemsize(dtype)
        known = [abs(size)] if isinstance(size, int) else [abs(c) for c in size.terms.values()]
        if max(known, default=0) > MOST_BYTES:
            message = f"a value of shape {list(shape)} ({dtype}) is larger than any machine can address"
            raise errors.ShapeError(message, node=self.node or None, operator=self.operator or None)

    def constant_buffer(self, array: np.ndarray, dtype: str) -> Buffer:
        """`array` among the weights, row-major; equal arrays share one."""
        array = np.ascontiguousarray(array)
        key = (dtype, array.nbytes, hash(array.tobytes()) if array.nbytes < 1 << 16 else id(array))
        if key not in self._constants:
            buffer = Buffer(f"w{len(self._constants)}", dtype, array.size, "constant", array)
            self._constants[key] = buffer
            self.program.constants.append(buffer)
        return self._constants[key]

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Tensor:
        """A tensor with a known value."""
        array = np.asarray(array)
        tensor = Tensor(self, dtype or dtype_of_array(array), array.shape)
        tensor.array = array
        return tensor

    def lazy(
        self,
        dtype: str,
        shape: Sequence[Dim],
        element: Callable[[tuple[Dim, ...]], Expr],
        *,
        sources: Iterable[Tensor] = (),
        cost: int = 0,
    ) -> Tensor:
        """A tensor whose element at a position is ``element(position)``.

        Args:
            dtype: element type of what `element` returns.
            shape: dims.
            element: position -> expression.
            sources: the tensors that `element` reads once for each element of the result; their cost adds up.
            cost: operations that `element` itself adds.
        """
        tensor = Tensor(self, dtype, shape, element)
        sources = list(sources)
        tensor.cost = cost + sum(source.cost for source in sources)
        tensor.depth = 1 + max((source.depth for source in sources), default=0)
        tensor.prefers = preferred(dtype, (source.prefers for source in sources if source.shape == tensor.shape))
        return tensor

    def in_memory(self, buffer: Buffer, shape: Sequence[Dim], layout: Layout | None = None) -> Tensor:
        """A tensor that lies in `buffer`."""
        tensor = Tensor(self, buffer.dtype, shape)
        tensor.buffer = buffer
        tensor.layout = layout or Plain(tensor.shape)
        tensor.prefers = type(tensor.layout)
        return tensor

    # Putting tensors in memory.

    def materialize(
        self, tensor: Tensor, layout: Layout | None = None, target: Buffer | None = None, *, adopt: bool = False
    ) -> Buffer:
        """Make sure that `tensor` is in memory (in `layout` and in `target`, when given) and return its buffer.

        Without a layout, one that is already there is kept, and a lazy tensor takes the layout of what it is computed
        from. `adopt`: the tensor lies in `target` from now on, and nowhere else.
        """
        if tensor.is_object:
            raise Unsupported(f"{tensor.dtype} values have no native layout")
        if target is None and tensor.buffer is not None and layout in (None, tensor.layout):
            self.close(tensor.buffer)
            return tensor.buffer
        array = tensor.array if tensor.array is not None else self._known_array(tensor)
        if target is None and array is not None and isinstance(layout or Plain(()), Plain):
            return self.constant_buffer(array, tensor.dtype)
        if layout is None:
            layout = (tensor.prefers if tensor.rank > 2 else Plain)(tensor.shape)
        buffer = self._store(tensor, layout, target, adopt=adopt)
        # A target inside control flow is handed on (`Move`) and gone afterwards; an output stays.
        adopted = tensor.buffer is None if target is None else target.kind == "output" or adopt
        if tensor.array is None and tensor.block is self.block and adopted:
            tensor.buffer, tensor.layout, tensor.cost, tensor.depth = buffer, layout, 0, 0
            tensor.prefers = type(layout)
        return buffer

    def room(self, value: Any) -> tuple[Buffer, Layout] | None:
        """Where the graph value `value` is to lie when it has a part of a larger piece of memory (`joins`)."""
        return None

    def plain(self, tensor: Tensor) -> Tensor:
        """`tensor` in memory, row-major."""
        layout = Plain(tensor.shape)
        lies_there = tensor.layout == layout
        buffer = self.materialize(tensor, layout)
        return tensor if lies_there else self.in_memory(buffer, tensor.shape)

    def blocked(self, tensor: Tensor) -> tuple[Pointer, Dim]:
        """``(address, elements from image to image)`` of `tensor` in memory as NCHW16c."""
        layout = tensor.layout if isinstance(tensor.layout, Blocked) else Blocked(tensor.shape)
        return Pointer(self.materialize(tensor, layout), layout.base), layout.image

    def channels_last(self, tensor: Tensor) -> tuple[Pointer, Dim, Dim]:
        """``(address, elements from image to image, from pixel to pixel)`` of `tensor` in memory as NHWC."""
        layout = tensor.layout if isinstance(tensor.layout, ChannelsLast) else ChannelsLast(tensor.shape)
        buffer = tensor.copies.get(self.block)
        if buffer is None or tensor.layout == layout:
            buffer = self.materialize(tensor, layout)
        if tensor.layout != layout:
            tensor.copies[self.block] = buffer
        return Pointer(buffer, layout.base), *layout.steps()

    def cheap(self, tensor: Tensor, limit: int = 0) -> Tensor:
        """`tensor`, in memory if computing an element anew costs more than `limit` operations."""
        if tensor.cost > limit and tensor.buffer is None and tensor.array is None:
            if not self.is_known(tensor):
                self.materialize(tensor)
        elif tensor.buffer is not None:
            self.close(tensor.buffer)
        return tensor

    def is_known(self, tensor: Tensor) -> bool:
        """True for a short vector of shape arithmetic: its elements are dims, better kept as such than in memory."""
        length = 1 if tensor.rank == 0 else tensor.shape[0]
        if tensor.rank > 1 or tensor.dtype not in ("int64", "int32", "bool", "float32") or tensor.element is None:
            return False
        if not isinstance(length, int) or not 0 < length <= MOST_KNOWN:
            return False
        return all(_is_known(tensor.element((i,) * tensor.rank)) for i in range(length))

    def _known_array(self, tensor: Tensor) -> np.ndarray | None:
        """The value of a short vector that turns out to be constant, as the square root of a dim does."""
        if tensor.buffer is not None or not self.is_known(tensor):
            return None
        assert tensor.element is not None
        length = math.prod(dim for dim in tensor.shape if isinstance(dim, int))
        values = [tensor.element((i,) * tensor.rank) for i in range(length)]
        if any(value.op != "const" for value in values):
            return None
        found = [value.value for value in values]
        return np.array(found if tensor.rank else found[0], numpy_dtype(tensor.dtype))

    def _store(self, tensor: Tensor, layout: Layout, target: Buffer | None, *, adopt: bool = False) -> Buffer:
        node, operator = tensor.origin
        if tensor.buffer is None and tensor.rows is not None and layout == Plain(tensor.shape):
            rows = Plain(tensor.rows.shape)  # the same elements in the same order
            tensor, layout = (tensor.rows, rows) if _is_reordering(tensor.rows, rows) else (tensor, layout)
        if _is_reordering(tensor, layout):
            assert tensor.buffer is not None
            buffer = target or self.temporary(tensor.dtype, layout.size())
            self._reorder(tensor, layout, buffer)
            return buffer
        loops, position, inside = layout.domain()
        with reported(node or None, operator or None, passing=(Unsupported,)):
            value = ex.guard(inside, tensor.at(position), ex.constant(0, tensor.dtype))
        buffer = target or self.temporary(tensor.dtype, layout.size())
        nest = Nest(loops, [Store(buffer, layout.offset(position), value)], node=node, operator=operator)
        self.emit_nest(nest, in_place=target is None and buffer.kind == "temporary", adopt=adopt)
        return self._moved.pop(buffer, buffer) if target is None else buffer

    def _reorder(self, tensor: Tensor, layout: Layout, buffer: Buffer) -> None:
        """Copy `tensor`, which lies in rows or blocks, to `buffer` in the other layout."""
        assert tensor.buffer is not None
        rows, blocks = (tensor.layout, layout) if isinstance(tensor.layout, Plain) else (layout, tensor.layout)
        assert isinstance(rows, Plain)
        assert isinstance(blocks, Blocked)
        pitch = {Plain: ix.product(tensor.shape[1:]), Blocked: blocks.image}
        base = {Plain: rows.base, Blocked: blocks.base}
        here, there = type(tensor.layout), type(layout)
        fields: dict[str, Dim | Pointer | None] = {
            "x": Pointer(tensor.buffer, base[here]),
            "y": Pointer(buffer, base[there]),
            "n": tensor.shape[0],
            "c": tensor.shape[1],
            "pixels": blocks.pixels,
            "x_batch": pitch[here],
            "y_batch": pitch[there],
            "to_blocks": int(here is Plain),
        }
        node, operator = tensor.origin
        self.emit(Kernel("reorder_nchw16c_f32", fields, (buffer,), node=node, operator=operator))

    def emit_nest(self, nest: Nest, *, in_place: bool = False, adopt: bool = False) -> None:
        """Append a loop nest, or make it the epilogue of an open kernel call that it reads from.

        The kernel's own output is not read again when the nest may store in its place (`in_place`), or when the kernel
        may as well write where the nest does (`adopt`).
        """
        for stage in nest.stages:
            stage.value = rounded_bytes(simplified(stage.value))
        pending = [buffer for buffer in dict.fromkeys(nest.reads()) if buffer.pending is not None]
        for buffer in reversed(pending):
            kernel = buffer.pending
            others = [other for other in pending if other is not buffer]
            if kernel is None or kernel.epilogue is not None:
                continue
            epilogue = as_epilogue(nest, kernel, buffer)
            if epilogue is None or (kernel.only_moves and not (adopt and moves(epilogue, kernel))):
                continue
            for other in others:
                self.close(other)
            self._attach(kernel, buffer, epilogue, in_place)
            if adopt:
                redirect(kernel, buffer)
            return
        for buffer in pending:
            self.close(buffer)
        self.emit(simplify(nest))

    def _attach(self, kernel: Kernel, buffer: Buffer, epilogue: Nest, in_place: bool) -> None:
        (store,) = epilogue.stages
        assert isinstance(store, Store)
        loads = [n for n in ex.walk(store.value) if n.op == "load" and n.value[0] is buffer]
        same_place = all(n.value[1] == store.offset for n in loads)
        if in_place and same_place and store.buffer.dtype == buffer.dtype and store.buffer.size == buffer.size:
            self._moved[store.buffer] = buffer
            store.buffer = buffer
        kernel.epilogue = None if is_copy(epilogue) else epilogue
        absorb_addition(kernel)
        buffer.pending = None
        self._emit_kernel(kernel)

    def close(self, buffer: Buffer) -> None:
        """Emit the kernel call that writes `buffer`, if it is still open."""
        if buffer.pending is not None:
            kernel, buffer.pending = buffer.pending, None
            self._emit_kernel(kernel)

    def _emit_kernel(self, kernel: Kernel) -> None:
        self.block.steps.append(kernel)

    def open_kernel(self, kernel: Kernel) -> None:
        """Announce a kernel call that takes an epilogue: it is emitted when its output is needed."""
        self._label(kernel)
        for buffer in kernel.pointers():
            if buffer not in kernel.output:
                self.close(buffer)
        kernel.output[0].pending = kernel

    def emit(self, step: Step) -> None:
        """Append a step; kernel calls that it reads from are closed first."""
        for buffer in list(step.reads()):
            self.close(buffer)
        self._label(step)
        self.block.steps.append(step)

    def _label(self, step: Step) -> None:
        step.node = step.node or self.node
        step.operator = step.operator or self.operator

    def nest(self, outer: Sequence[Dim], stages: list[Stage]) -> None:
        """Emit a loop nest over the variables `outer`."""
        self.emit_nest(Nest(tuple(outer), stages))

    def pointer(self, tensor: Tensor) -> Pointer:
        """The address of a tensor, row-major in memory: a view that reads memory in this order is not copied."""
        if tensor.buffer is None and tensor.array is None and tensor.element is not None:
            found = self._row_major_view(tensor)
            if found is not None:
                return found
        buffer = self.plain(tensor).buffer
        assert buffer is not None
        return Pointer(buffer)

    def _row_major_view(self, tensor: Tensor) -> Pointer | None:
        position = variables(tensor.shape)
        element = tensor.at(position)
        if element.op != "load":
            return None
        buffer, offset = element.value
        found = ix.linear(offset, position)
        if found is None or found != ix.linear(Plain(tensor.shape).offset(position), position):
            return None
        self.close(buffer)
        return Pointer(buffer)

    def strided(self, tensor: Tensor) -> tuple[Pointer, list[Dim]] | None:
        """``(address, strides in elements)`` if `tensor` is a strided view of memory (not copied), else None."""
        position = variables(tensor.shape)
        element = tensor.at(position)
        if element.op != "load":
            return None
        buffer, offset = element.value
        found = ix.linear(offset, position)
        if found is None or any(atom.kind == "element" for atom in ix.atoms(found[1])):
            return None  # an address that depends on data is not known where the call is set up
        self.close(buffer)
        strides, base = found
        return Pointer(buffer, base), strides

    # Data to dims.

    def elements(self, tensor: Tensor) -> list[Expr]:
        """The elements of a small rank-0 or rank-1 tensor of static length, known ones as constants or indices."""
        length = 1 if tensor.rank == 0 else tensor.shape[0]
        if tensor.rank > 1 or not isinstance(length, int):
            raise Unsupported("the number of elements of a shape-like input is not known")
        at = tensor.element or tensor.at  # what was known stays known when the tensor has been put in memory
        values = [at((i,) * tensor.rank) for i in range(length)]
        if not all(_is_known(value) for value in values):
            stored = self.in_memory(self.materialize(tensor, Plain(tensor.shape)), tensor.shape)
            loads = [stored.at((i,) * tensor.rank) for i in range(length)]
            values = [value if _is_known(value) else load for value, load in zip(values, loads, strict=True)]
        return values

    def dim(self, value: Expr, *, lower: int | None = 0) -> Dim:
        """`value` as a dim: itself when it is known, else a symbol defined at run time (checked to be >= `lower`)."""
        value = ex.cast(value, "int64")
        known = ex.as_index(value)
        if known is not None:
            return self.sized(known)
        key = (self.block, value.key, lower)
        if key not in self._defined:
            if lower is not None:
                self.check(value >= lower, "shape", f"a dimension below {lower}")
            if self.follows_from_inputs(value):
                self._defined[key] = self._derived((value.key, lower), value, lower)
            else:
                symbol = self._defined[key] = ix.symbol(self.fresh("s"), lower=lower)
                self.emit(Define(symbol, value))
        return self._defined[key]

    def sized(self, dim: Dim, *, lower: int | None = None) -> Dim:
        """`dim`, by a name of its own where it takes a quotient or the smaller of two of the inputs' dims.

        Strides, positions and tasks are computed from dims again and again: with a name they stay short, and what is
        known of it, that it is not below `lower`, holds wherever it occurs. Dims that are equal get one name, on
        whatever way they were computed.
        """
        if all(atom.kind == "symbol" for atom in ix.atoms(dim, deep=False)):
            return dim
        if not self.follows_from_inputs(ex.index(dim)):
            return dim
        whole = ix.substitute(dim, self._meanings)
        bounds = [bound for bound in (lower, ix.lower_bound(dim)) if bound is not None]
        symbol = self._derived((str(whole),), ex.index(dim), max(bounds, default=None))
        (atom,) = ix.atoms(symbol)
        self._meanings.setdefault(atom, whole)
        return symbol

    def _derived(self, key: tuple, value: Expr, lower: int | None) -> Dim:
        """A symbol for what `key` stands for, computed as `value` before the first step."""
        name = self.names.setdefault(key, f"size{len(self.names)}")
        symbol = ix.symbol(name, lower=lower)
        if all(symbol != other for other, _ in self.program.derived):
            self.program.derived.append((symbol, value))
        return symbol

    def follows_from_inputs(self, value: Expr) -> bool:
        """True when `value` is made of the inputs' dims alone, so that it can be computed before the first step."""
        known = {atom for symbol in self.program.entry_symbols() for atom in ix.atoms(symbol)}
        for node in ex.walk(value):
            if node.op in ("load", "local", "checked_index") or (node.op in ("div", "mod") and node.dtype != "float32"):
                return False
            used = {atom for dim in node.indices() for atom in ix.atoms(dim)}
            if any(atom.kind in ("symbol", "variable", "element") and atom not in known for atom in used):
                return False
        return True

    def check(self, condition: Expr, code: str, message: str) -> None:
        """Stop the run with an error unless `condition` holds; raised here when it is known to fail."""
        if condition.op == "const" and condition.value:
            return
        if condition.op == "const":
            kind = errors.ShapeError if code == "shape" else errors.ModelError
            raise kind(message, node=self.node, operator=self.operator)
        self.emit(Check(condition, code, message))

    def assume(self, condition: Expr, what: str, default: bool) -> bool:
        """Take `condition` to be true or false where code can't cover both, as when a value's rank depends on it.

        The code checks it at run time; where an input breaks it, the session compiles the model again under the
        opposite (see `Session`). `what` tells the assumptions of one node apart.
        """
        if condition.op == "const":
            return bool(condition.value)
        block: Block | None = self.block
        while block is not None:  # what an enclosing block has checked holds here too
            if (block, condition.key) in self._truths:
                return self._truths[block, condition.key]
            block = block.parent
        key = f"{self.node}/{what}"
        truth = self._assumptions.get(key, default)
        self.assumed.append((key, truth))
        self._truths[self.block, condition.key] = truth
        wanted = condition if truth else ex.unary("not", condition)
        self.emit(Check(wanted, "assumption", f"{int(truth)}{key}"))
        return truth

    def equal_dims(self, x: Dim, y: Dim, message: str) -> Dim:
        """Require two dims to be equal; returns the one that is known better."""
        if x != y:
            self.check(ex.index(x).equal(ex.index(y)), "shape", f"{message}: {x} and {y}")
        return x if isinstance(x, int) else y

    def requires(self, condition: bool, reason: str) -> None:
        """Leave the node to the host, for `reason`, unless `condition`."""
        if not condition:
            raise Unsupported(reason)

    def native(self, *tensors: Tensor | None) -> None:
        """Leave the node to the host unless all `tensors` have native element types."""
        for tensor in tensors:
            if tensor is not None and (tensor.is_object or not is_native(tensor.dtype)):
                raise Unsupported(f"{tensor.dtype} has no native code")

    def force(self, tensors: Iterable[Tensor]) -> None:
        """Put lazy tensors in memory before a block that may use them more than once or not at all."""
        for tensor in tensors:
            if tensor.is_object or tensor.array is not None:
                continue
            if tensor.buffer is not None:
                self.close(tensor.buffer)
            elif tensor.cost > 0 or any(b.pending for b in self._sources(tensor)):
                self.materialize(tensor)

    def _sources(self, tensor: Tensor) -> Iterable[Buffer]:
        position = variables(tensor.shape)
        return expr_buffers(tensor.at(position))

    def enter(self) -> Block:
        """Start a block inside the current one; steps go there until `leave`."""
        self.block = Block(parent=self.block)
        return self.block

    def leave(self) -> None:
        """Back to the enclosing block."""
        assert self.block.parent is not None
        self.block = self.block.parent


def _is_reordering(tensor: Tensor, layout: Layout) -> bool:
    """Whether storing `tensor` as `layout` is what `reorder_nchw16c_f32` does."""
    if tensor.dtype != "float32" or tensor.buffer is None or tensor.buffer.pending is not None:
        return False
    if {type(tensor.layout), type(layout)} != {Plain, Blocked}:
        return False
    return not any(isinstance(each, Plain) and each.strides for each in (tensor.layout, layout))


def _is_known(value: Expr) -> bool:
    return value.op == "const" or ex.as_index(value) is not None


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of an `onnx_ir.Node` as Python values."""
    return {name: attr.value for name, attr in node.attributes.items()}
