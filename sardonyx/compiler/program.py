"""The Program: steps over buffers in execution order, the one IR between an ONNX graph and C.

A step is a kernel call, a generated loop nest, a host call, or control flow holding blocks of further steps. Sizes and
offsets are `Dim` values; symbols are defined by the input shapes at entry, or by a `Define` step at run time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import itemsize
from sardonyx.compiler.expr import Expr, walk
from sardonyx.compiler.index import Dim


@dataclass(eq=False)
class Buffer:
    """A run of elements. ``kind`` is input, output, constant or temporary."""

    name: str
    dtype: str
    size: Dim  # elements
    kind: str = "temporary"
    data: np.ndarray | None = None  # of a constant
    block: Block | None = None  # where a temporary lives: it is released when the block ends
    pending: Kernel | None = None  # the kernel call that will write it, while its epilogue is still open

    @property
    def bytes(self) -> Dim:
        """Size in bytes."""
        return self.size * itemsize(self.dtype)

    def __repr__(self) -> str:
        return f"{self.name}:{self.dtype}[{self.size}]"


@dataclass(frozen=True)
class Pointer:
    """The address of element `offset` of `buffer`."""

    buffer: Buffer
    offset: Dim = 0


@dataclass(eq=False)
class Step:
    """What every step has: the graph node that it belongs to, for profiles and errors, and its arithmetic."""

    node: str = field(default="", kw_only=True)
    operator: str = field(default="", kw_only=True)
    flops: Dim = field(default=0, kw_only=True)  # two for each multiply-add of the operator; see compiler/arithmetic.py

    def reads(self) -> Iterator[Buffer]:
        """Buffers that the step reads."""
        yield from ()

    def writes(self) -> Iterator[Buffer]:
        """Buffers that the step writes."""
        yield from ()

    def dims(self) -> Iterator[Dim]:
        """Every dim that the step's code mentions."""
        yield from ()

    def blocks(self) -> Iterator[Block]:
        """Blocks of steps inside this one."""
        yield from ()


def expr_buffers(expr: Expr) -> Iterator[Buffer]:
    """Buffers that `expr` loads from."""
    for node in walk(expr):
        if node.op == "load":
            yield node.value[0]


@dataclass(eq=False)
class Store:
    """Writes `value` at `offset` of `buffer` for all values of the `inner` loop variables (none: once per row)."""

    buffer: Buffer
    offset: Dim
    value: Expr
    inner: tuple[Dim, ...] = ()


@dataclass(eq=False)
class Reduce:
    """Binds `name` to the reduction of `value` over the `inner` loop variables.

    ``op`` is sum, prod, max, min, argmax, argmin (first position along the one inner variable), or an ``_last`` form.
    A sum whose innermost variable walks consecutive elements runs in 16 partial lanes (element k goes to lane k % 16),
    folded 8, 4, 2, 1; any other runs in order. Which of the two depends on the nest alone, never on the target.
    """

    name: str
    op: str
    value: Expr
    inner: tuple[Dim, ...]
    dtype: str  # of the accumulator and result


@dataclass(eq=False)
class Running:
    """A scan along the one `inner` variable: stores ``acc`` after (or, `exclusive`, before) adding each element."""

    buffer: Buffer
    offset: Dim
    op: str
    value: Expr
    inner: Dim
    dtype: str
    exclusive: bool = False


Stage = Store | Reduce | Running


@dataclass(eq=False)
class Nest(Step):
    """Loops over the variables `outer` (independent points, which run in parallel), doing `stages` in order at each.

    Each point is done once: a single store may take the place of what its own point loads (`memory`).
    """

    outer: tuple[Dim, ...]
    stages: list[Stage]

    def exprs(self) -> Iterator[Expr]:
        """The values computed."""
        for stage in self.stages:
            yield stage.value

    def reads(self) -> Iterator[Buffer]:
        """Buffers loaded from."""
        for expr in self.exprs():
            yield from expr_buffers(expr)
        for stage in self.stages:
            if not isinstance(stage, Reduce):
                for atom in ix.atoms(stage.offset):
                    if atom.kind == "element":
                        yield from expr_buffers(atom.args[0])

    def writes(self) -> Iterator[Buffer]:
        """Buffers stored to."""
        for stage in self.stages:
            if not isinstance(stage, Reduce):
                yield stage.buffer


@dataclass(eq=False)
class Kernel(Step):
    """A call of the hand-written kernel `name`; `fields` are the members of its argument struct.

    An open call may take one `epilogue`: a nest over (i0, i1, i2, i3) applied to each finished part of `output`.
    """

    name: str
    fields: dict[str, Any]
    output: tuple[Buffer, ...]
    domain: tuple[Dim, ...] = ()  # extents of (i0, i1, i2, i3), when the kernel takes an epilogue
    strides: tuple[Dim, ...] = ()  # of the output along them, in elements
    target: str = ""  # the field that points to the output, when it may lie anywhere
    pitches: tuple[str, ...] = ()  # fields that hold the first of `strides`; the others are the kernel's own
    epilogue: Nest | None = None
    inside: Dim | None = None  # elements from row to row of an output that only the epilogue reads: it has no memory
    serial: bool = False  # one call without tasks: ``int64_t NAME(const NAME_args *, sx_host *)``, negative on failure
    result: Dim | None = None  # symbol that takes what a serial kernel returns
    only_moves: bool = False  # instead of an epilogue, its output may only lie elsewhere

    def pointers(self) -> Iterator[Buffer]:
        """Buffers among the fields."""
        for value in self.fields.values():
            if isinstance(value, Pointer):
                yield value.buffer

    def reads(self) -> Iterator[Buffer]:
        """Inputs, and what the epilogue reads."""
        for buffer in self.pointers():
            if buffer not in self.output:
                yield buffer
        for value in self.fields.values():
            if isinstance(value, Expr):
                yield from expr_buffers(value)
        if self.epilogue:
            yield from (b for b in self.epilogue.reads() if self.inside is None or b not in self.output)

    def writes(self) -> Iterator[Buffer]:
        """Outputs, and what the epilogue writes."""
        if self.inside is None:
            yield from self.output
        if self.epilogue:
            yield from self.epilogue.writes()


@dataclass(eq=False)
class Stream(Step):
    """Kernel calls that run band by band, so that what lies between them never is in memory as a whole.

    `middle` is a depthwise convolution, the others are 1x1 convolutions; see stream_nchw16c_f32.h.
    """

    expand: Kernel | None
    middle: Kernel
    project: Kernel | None

    def layers(self) -> list[Kernel]:
        """The calls in order."""
        return [layer for layer in (self.expand, self.middle, self.project) if layer is not None]

    def between(self) -> set[Buffer]:
        """What lies between them and needs no memory."""
        return {layer.output[0] for layer in self.layers()[:-1]}

    def reads(self) -> Iterator[Buffer]:
        """Inputs of all layers, and what their epilogues read."""
        between = self.between()
        for layer in self.layers():
            yield from (buffer for buffer in layer.reads() if buffer not in between)

    def writes(self) -> Iterator[Buffer]:
        """What the last layer writes."""
        yield from self.layers()[-1].writes()


@dataclass(eq=False)
class Define(Step):
    """Gives a symbol its value at run time, from data."""

    symbol: Dim
    value: Expr

    def reads(self) -> Iterator[Buffer]:
        """Buffers that the value is loaded from."""
        yield from expr_buffers(self.value)


@dataclass(eq=False)
class Check(Step):
    """Stops the run with an error of kind `code` unless `condition` holds."""

    condition: Expr
    code: str
    message: str

    def reads(self) -> Iterator[Buffer]:
        """Buffers that the condition is loaded from."""
        yield from expr_buffers(self.condition)


@dataclass(eq=False)
class View:
    """A tensor that crosses to the host: plain row-major elements of known rank, or an object slot."""

    buffer: Buffer | None
    shape: tuple[Dim, ...]
    slot: int = -1  # Python object (sequence, optional, string tensor, tensor of unknown rank)


@dataclass(eq=False)
class Host(Step):
    """Runs graph node number `number` in Python. Unknown output dims are defined by the call."""

    number: int
    inputs: list[View | None]
    outputs: list[View | None]
    defines: list[Dim] = field(default_factory=list)

    def reads(self) -> Iterator[Buffer]:
        """Input buffers."""
        for view in self.inputs:
            if view is not None and view.buffer is not None:
                yield view.buffer

    def writes(self) -> Iterator[Buffer]:
        """Output buffers."""
        for view in self.outputs:
            if view is not None and view.buffer is not None:
                yield view.buffer


@dataclass(eq=False)
class Move(Step):
    """Hands the memory of `source` to `target`, whose own is released first; `source` is not used afterwards."""

    target: Buffer
    source: Buffer

    def reads(self) -> Iterator[Buffer]:
        """The source."""
        yield self.source

    def writes(self) -> Iterator[Buffer]:
        """The target."""
        yield self.target


@dataclass(eq=False)
class Append(Step):
    """Copies `element` (of `size` elements) behind the `count` elements that `target` holds already, growing it."""

    target: Buffer
    element: Buffer
    size: Dim
    count: Dim

    def reads(self) -> Iterator[Buffer]:
        """The element, and the target that is extended."""
        yield self.element
        yield self.target

    def writes(self) -> Iterator[Buffer]:
        """The target."""
        yield self.target


@dataclass(eq=False)
class Branch(Step):
    """If: runs one of two blocks; each ends with the `Move` and `Define` steps that give the results."""

    condition: Expr
    then: Block
    otherwise: Block

    def blocks(self) -> Iterator[Block]:
        """Both branches."""
        yield self.then
        yield self.otherwise

    def reads(self) -> Iterator[Buffer]:
        """What the condition is loaded from."""
        yield from expr_buffers(self.condition)


@dataclass(eq=False)
class Repeat(Step):
    """Loop and Scan: runs `body` while ``iteration < trips`` (None: no limit) and `condition` (None: always) holds.

    The body ends with the `Move`, `Define` and `Append` steps that hand its results on; `condition` is a symbol then,
    defined before the loop and by the body.
    """

    trips: Dim | None
    condition: Dim | None
    iteration: Dim  # symbol
    body: Block

    def blocks(self) -> Iterator[Block]:
        """The body."""
        yield self.body


@dataclass(eq=False)
class Block:
    """Steps that run in order; temporaries of a block are released when it ends."""

    steps: list[Step] = field(default_factory=list)
    parent: Block | None = None

    def walk(self) -> Iterator[Step]:
        """All steps, those of inner blocks too."""
        for step in self.steps:
            yield step
            for block in step.blocks():
                yield from block.walk()


@dataclass(eq=False)
class Port:
    """An input or output of the program."""

    name: str
    dtype: str
    type: str  # as ONNX prints it: tensor(float)
    shape: tuple[Dim, ...]
    names: tuple[int | str | None, ...]  # dims as the model declares them
    buffer: Buffer | None  # None: a Python object
    slot: int = -1
    form: str = ""  # of an output that Python makes from the buffer: see `tensor.Formed`
    labels: tuple[int | str, ...] = ()


@dataclass(eq=False)
class Placement:
    """Where a graph node runs, and why."""

    node: str
    operator: str
    provider: str
    reason: str


@dataclass(eq=False)
class Program:
    """A lowered model."""

    name: str
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    main: Block = field(default_factory=Block)
    constants: list[Buffer] = field(default_factory=list)
    symbols: list[Dim] = field(default_factory=list)  # defined at entry: dims of inputs
    derived: list[tuple[Dim, Expr]] = field(default_factory=list)  # symbols computed from those before the first step
    entry: list[tuple[Dim, int, int]] = field(default_factory=list)  # (symbol, input number, axis)
    slots: int = 0
    objects: list[tuple[int, np.ndarray]] = field(default_factory=list)  # constants without native type: (slot, value)
    host_nodes: list[Any] = field(default_factory=list)  # `onnx_ir.Node`, by the number of their host step
    placement: list[Placement] = field(default_factory=list)

    def entry_symbols(self) -> list[Dim]:
        """Symbols whose values follow from the inputs' shapes alone."""
        return [*self.symbols, *(symbol for symbol, _ in self.derived)]
