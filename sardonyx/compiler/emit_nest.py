"""Loop nests as C functions.

Three forms, chosen from the nest alone:

* *map*: stores only; the innermost variable is the vector loop. Where it jumps through memory that another one walks
  (a transposition), the two go in tiles, so that each cache line is fetched once; the lanes of a channel block go over
  its pixels in turn.
* *row*: each point of the outer loops does its stages, whose own innermost variable is the vector loop. Sums run in
  16 lanes, so that every target adds in the same order.
* *column*: as row, but the innermost outer variable walks memory and the stages' own do not; a tile of 64 columns goes
  through all stages together, each element in order.

Functions see buffers as ``p[]`` and runtime dims as ``d[]``, numbered by first use: equal nests print equal text, and
the program compiles one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sardonyx.compiler import index as ix
from sardonyx.compiler.byte_tables import looked_up
from sardonyx.compiler.dtypes import NATIVE, compute_type, is_float, is_integer, itemsize
from sardonyx.compiler.emit_expr import Printer, encode, literal, operation
from sardonyx.compiler.emit_positions import Position, is_few, row_position, single_position
from sardonyx.compiler.expr import Expr, constant, local, walk
from sardonyx.compiler.index import Dim
from sardonyx.compiler.nest import atom_of, extent_of, inner_of
from sardonyx.compiler.nest_form import LANES, TILE, crossing_variable, form_of, is_short, row_axis
from sardonyx.compiler.program import Buffer, Nest, Reduce, Running, Stage, Store

MAP_BLOCK = 8192  # elements of the vector loop in one task
ROW_BLOCK = 64  # short rows in one task
COLUMNS = 64  # columns of a tile in the column form
PIXELS = 256  # of a channel block that is taken apart: 16 KB, which stay in the first cache for all 16 lanes
LOOKUPS = 4  # are the work of one operation, where they follow one another
FETCHED_ROWS = 8  # at 4, cheap epilogues wait; from 8 to 32 are the same
COSTLY = ("exp", "exp_negative", "expm1", "log", "log1p", "tanh", "erf", "sigmoid", "softplus", "gelu", "mish")
VECTORIZE = "#pragma clang loop vectorize(assume_safety)"
SINGLY = "#pragma clang loop vectorize(disable)"  # before a loop of look-ups, which are slower put into vectors
LANE_LOOP = "SX_EACH_LANE"  # before a loop of 16 lanes
TAIL_LOOP = "SX_EACH_TAIL_LANE"  # before a loop of SX_TAIL_LANES
FOLDS = ("sum", "max", "min")  # that `fold.h` has of floats
MANY_LANE_LOOP = "SX_EACH_OF_MANY"  # before a loop of SX_MANY_LANES
BOTH_BLOCKS = "#pragma clang loop vectorize(disable) unroll(full)"
ROW_LOOP = "#pragma clang loop vectorize(disable) unroll(disable)"  # before a loop around one


@dataclass(frozen=True)
class Function:
    """A printed nest. `text` has NAME in place of the function's name."""

    text: str
    buffers: tuple[Buffer, ...]
    symbols: tuple[str, ...]
    tasks: Dim
    work: int | None  # rough operations of one task, None when it depends on runtime dims
    raises: bool


class NestEmitter:
    """Prints one nest."""

    def __init__(self, nest: Nest):
        self.nest = nest
        self.form = form_of(nest)
        self.out = Printer()
        self.looks_up = False  # by calls
        lookups = any(looked_up(stage.value) for stage in nest.stages)
        self.pragma = SINGLY if lookups else VECTORIZE

    def task(self) -> Function:
        """The nest as an ``sx_task``."""
        out, outer = self.out, list(self.nest.outer)
        out.push()
        crossing = crossing_variable(self.nest) if self.form == "map" else None
        inner: Dim | None = None
        lanes = crossing is not None and extent_of(crossing) == LANES
        vector = outer.pop() if self.form in ("map", "column") and outer else None
        block = MAP_BLOCK if self.form == "map" else COLUMNS
        if crossing is not None:
            assert vector is not None
            outer.remove(crossing)
            if lanes:
                inner, block = crossing, PIXELS
            else:
                inner, vector, block = vector, crossing, TILE
        elif self.form == "map" and outer and is_short(vector):
            # Decoding a task number costs some 50 cycles: a task takes many short rows.
            assert vector is not None
            inner, vector, block = vector, outer.pop(row_axis(outer)), ROW_BLOCK
        tasks = ix.product(extent_of(v) for v in outer)
        blocks = ix.ceildiv(extent_of(vector), block) if vector is not None else 1
        self._decode(outer, vector, blocks, block)
        if lanes:
            assert inner is not None
            assert vector is not None
            self._lanes(inner, vector)
        elif crossing is not None:
            assert inner is not None
            self._tiles(crossing, inner)
        elif inner is not None:
            assert vector is not None
            self._rows(vector, inner)
        elif self.form == "map":
            self._map(vector)
        else:
            for stage in self.nest.stages:
                self._stage(stage, vector)
        row = out.pop()
        lines = ["static void NAME(const void *args, int64_t lo, int64_t hi, void *scratch) {"]
        lines += ["  (void)scratch;", "  const sx_nest *a = args;", *self._preamble("a->p", "a->d")]
        lines += [f"  {line}" for line in out.scopes[0].lines]
        lines += ["  for (int64_t t = lo; t < hi; ++t) {", *(f"    {line}" for line in row), "  }", "}"]
        function = self._function(lines, tasks * blocks, vector, block)
        if inner is not None and function.work is not None:
            extent = extent_of(inner)
            return replace(function, work=function.work * extent if isinstance(extent, int) else None)
        return function

    def epilogue(self, *, fetch: bool = False) -> Function:
        """The nest, over i0..i3, as an ``sx_epilogue``; `fetch`: what it stores to is fetched some rows ahead."""
        out = self.out
        for name in ("i0", "i1"):
            out.define(name, name)
        present = {atom_of(v).key: v for v in self.nest.outer}
        out.push()
        out.define("i2", "i2")
        out.push()
        out.define("i3", "i3")
        for stage in self.nest.stages:
            assert isinstance(stage, Store)
            self._store(stage)
        column, row = out.pop(), out.pop()
        ahead = self._fetched() if fetch else []
        lanes = "i3" in present and extent_of(present["i3"]) == LANES
        body = [f"      {line}" for line in column]
        costly = any(node.op in COSTLY for stage in self.nest.stages for node in walk(stage.value))
        if lanes:
            loop = [f"    {LANE_LOOP}", f"    for (int i3 = 0; i3 < {LANES}; ++i3) {{", *body, "    }"]
        else:
            loop = self._lanes_and_rest(body, ahead, costly)
        lines = [
            "static void NAME(void *const *p, const int64_t *d, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2,",
            "                 int64_t lo3, int64_t hi3) {",
            "  (void)p, (void)d, (void)i0, (void)i1, (void)lo3, (void)hi3;",
            *self._preamble("p", "d"),
            *(f"  {line}" for line in out.scopes[0].lines),
            f"  {ROW_LOOP}",
            "  for (int64_t i2 = lo2; i2 < hi2; ++i2) {",
            *(f"    {line}" for line in row),
            *loop,
            "  }",
            "}",
        ]
        return self._function(lines, 0, None, 1)

    def _fetched(self) -> list[str]:
        """Fetches the 16 elements from column i3 on of a later row, before they are stored to."""
        out, lines = self.out, []
        out.push()
        out.define("i2", f"(i2 + {FETCHED_ROWS})")
        out.define("i3", "i3")
        for stage in self.nest.stages:
            assert isinstance(stage, Store)
            lines.append(f"        __builtin_prefetch(&{out.buffer(stage.buffer)}[{out.dim(stage.offset)}], 1);")
        out.pop()
        return lines

    def _lanes_and_rest(self, body: list[str], ahead: list[str], costly: bool) -> list[str]:
        """The columns lo3..hi3 of a row, 16 at a time, costly ones more; most kernels ask for whole panels of 16."""
        blocks = [(LANES, LANE_LOOP)] if not costly else [("SX_MANY_LANES", MANY_LANE_LOOP), (LANES, LANE_LOOP)]
        lines = ["    int64_t k = lo3;"]
        for size, pragma in blocks:
            fetch = [f"      for (int64_t i3 = k; i3 < k + {size}; i3 += {LANES}) {{", *ahead, "      }"]
            lines += [
                f"    {ROW_LOOP}",
                f"    for (; k + {size} <= hi3; k += {size}) {{",
                *(fetch if ahead else []),
                f"      {pragma}",
                f"      for (int lane = 0; lane < {size}; ++lane) {{",  # a count that the compiler knows
                "        const int64_t i3 = k + lane;",
                *(f"  {line}" for line in body),
                "      }",
                "    }",
            ]
        return [*lines, f"    {ROW_LOOP}", "    for (int64_t i3 = k; i3 < hi3; ++i3) {", *body, "    }"]

    def _function(self, lines: list[str], tasks: Dim, vector: Dim | None, block: int) -> Function:
        symbols = tuple(self.out.symbols)
        work: Dim = 0
        for stage in self.nest.stages:
            cost = sum(1 for _ in walk(stage.value))
            work = work + ix.product(extent_of(v) for v in inner_of(stage) if not isinstance(v, int)) * cost
        if vector is not None:
            extent = extent_of(vector)
            work = work * (min(extent, block) if isinstance(extent, int) else block)
        known = work if isinstance(work, int) else None
        if known is not None and self.looks_up:
            known = -(-known // LOOKUPS)
        return Function("\n".join(lines), tuple(self.out.buffers), symbols, tasks, known, self.out.raises)

    def _preamble(self, pointers: str, dims: str) -> list[str]:
        written = set(self.nest.writes())
        lines = []
        for buffer, name in self.out.buffers.items():
            const = "" if buffer in written else "const "
            lines.append(f"  {const}{NATIVE[buffer.dtype][1]} *const {name} = {pointers}[{name[1:]}];")
        lines += [f"  const int64_t {name} = {dims}[{name[1:]}];" for name in self.out.symbols.values()]
        return lines

    def _decode(self, outer: list[Dim], vector: Dim | None, blocks: Dim, block: int) -> None:
        """Lines that turn task number t into the outer variables and the vector loop's bounds."""
        out = self.out
        rest = "t"
        if vector is not None:
            extent = extent_of(vector)
            whole = isinstance(extent, int) and extent <= block
            start = "0" if whole else f"({rest} % {out._divisor(blocks)} * {block})"
            if not whole and outer:
                out.line(f"const int64_t row = t / {out._divisor(blocks)};")
                rest = "row"
            out.line(f"const int64_t begin = {start}, end = min_i64(begin + {block}, {out.dim(extent)});")
        for axis, v in enumerate(outer):
            inner = ix.product(extent_of(u) for u in outer[axis + 1 :])
            name = f"x{axis}"
            code = rest if inner == 1 else f"{rest} / {out._divisor(inner)}"
            if axis > 0:
                code = f"{code if inner == 1 else f'({code})'} % {out._divisor(extent_of(v))}"
            out.line(f"const int64_t {name} = {code};")
            out.define(atom_of(v).key, name)

    def _map(self, vector: Dim | None) -> None:
        if vector is None:
            for stage in self.nest.stages:
                assert isinstance(stage, Store)
                self._store(stage)
            return
        self._vector_loop(vector, [s for s in self.nest.stages if isinstance(s, Store)])

    def _vector_loop(self, vector: Dim, stores: list[Store]) -> None:
        if self._lookups(vector, "begin", "end"):
            return
        self.out.push()
        self.out.define(atom_of(vector).key, "j")
        for store in stores:
            self._store(store)
        body = self.out.pop()
        self.out.line(self.pragma)
        self.out.line("for (int64_t j = begin; j < end; ++j) {")
        self._append(body)

    def _lookups(self, vector: Dim, first: str, stop: str) -> bool:
        """The vector loop as a call, where it looks up bytes that follow one another."""
        out, stages = self.out, self.nest.stages
        store = stages[0] if len(stages) == 1 else None  # none where nothing is left to store
        found = None if store is None else looked_up(store.value)
        if found is None or not isinstance(store, Store):
            return False
        table, source, offset = found
        if any(ix.coefficient(dim, atom_of(vector)) != 1 for dim in (offset, store.offset)):
            return False
        if not self.looks_up:
            out.scopes[0].lines.append(f"const byte_table table = byte_table_of({out.buffer(table)});")
            self.looks_up = True
        out.push()
        out.define(atom_of(vector).key, first)
        x, y = f"{out.buffer(source)} + {out.dim(offset)}", f"{out.buffer(store.buffer)} + {out.dim(store.offset)}"
        lines = out.pop()
        for line in (*lines, f"look_up_bytes(&table, {x}, {y}, {stop} - {first});"):
            out.line(line)
        return True

    def _rows(self, row: Dim, column: Dim, first: str = "0", stop: str | None = None) -> None:
        """Rows begin..end, each a vector loop over columns first..stop (all by default)."""
        out = self.out
        stop = stop or out.dim(extent_of(column))
        out.push()
        out.define(atom_of(row).key, "i")
        if self._may_repeat(column):
            self._overlapping(column, [s for s in self.nest.stages if isinstance(s, Store)])
        elif not self._lookups(column, first, stop):
            out.push()
            out.define(atom_of(column).key, "j")
            for store in self.nest.stages:
                assert isinstance(store, Store)
                self._store(store)
            body = out.pop()
            out.line(self.pragma)
            out.line(f"for (int64_t j = {first}; j < {stop}; ++j) {{")
            self._append(body)
        body = out.pop()
        out.line("for (int64_t i = begin; i < end; ++i) {")
        self._append(body)

    def _tiles(self, row: Dim, column: Dim) -> None:
        """Rows begin..end by all columns, a tile at a time."""
        out = self.out
        extent = out.dim(extent_of(column))
        out.push()
        out.line(f"const int64_t stop = min_i64(start + {TILE}, {extent});")
        self._rows(row, column, "start", "stop")
        body = out.pop()
        out.line(f"for (int64_t start = 0; start < {extent}; start += {TILE}) {{")
        self._append(body)

    def _lanes(self, lane: Dim, pixel: Dim) -> None:
        """Pixels begin..end of each lane in turn: a channel block that is read, or written, as rows."""
        out = self.out
        out.push()
        out.define(atom_of(lane).key, "i")
        self._vector_loop(pixel, [s for s in self.nest.stages if isinstance(s, Store)])
        body = out.pop()
        out.line(f"for (int64_t i = 0; i < {LANES}; ++i) {{")
        self._append(body)

    def _append(self, body: list[str]) -> None:
        for line in body:
            self.out.line(f"  {line}")
        self.out.line("}")

    def _store(self, store: Store) -> None:
        value = self.out.value(store.value)
        target = f"{self.out.buffer(store.buffer)}[{self.out.dim(store.offset)}]"
        self.out.line(f"{target} = {encode(value, store.buffer.dtype)};")

    def _stage(self, stage: Stage, vector: Dim | None) -> None:
        if isinstance(stage, Store):
            self._store_stage(stage, vector)
        elif isinstance(stage, Running):
            self._running(stage, vector)
        elif stage.op.startswith("arg"):
            self._position(stage, vector)
        elif vector is not None:
            self._column_reduce(stage, vector)
        else:
            self._row_reduce(stage)

    def _loops(self, inner: Sequence[Dim]) -> None:
        for v in inner:
            name = self.out.name("k")
            self.out.line(f"for (int64_t {name} = 0; {name} < {self.out.dim(extent_of(v))}; ++{name}) {{")
            self.out.push()
            self.out.define(atom_of(v).key, name)

    def _close(self, inner: Sequence[Dim]) -> None:
        for _ in inner:
            self._append(self.out.pop())

    def _store_stage(self, stage: Store, vector: Dim | None) -> None:
        if vector is not None:
            self._loops(stage.inner)
            self._columns(vector, lambda: self._store(stage))
            self._close(stage.inner)
        elif stage.inner and self._is_repeatable(stage):
            self._loops(stage.inner[:-1])
            self._overlapping(stage.inner[-1], [stage])
            self._close(stage.inner[:-1])
        elif stage.inner:
            self._loops(stage.inner[:-1])
            if not _finds_its_place(stage):
                self.out.line(VECTORIZE)
            self._loops(stage.inner[-1:])
            self._store(stage)
            self._close(stage.inner)
        else:
            self._store(stage)

    @staticmethod
    def _is_repeatable(stage: Store) -> bool:
        """True when a store of costly values may write the same element twice: the last block then overlaps others."""
        extent = extent_of(stage.inner[-1])
        costly = any(node.op in COSTLY and node.dtype == "float32" for node in walk(stage.value))
        apart = all(node.op != "load" or node.value[0] is not stage.buffer for node in walk(stage.value))
        return costly and apart and not _finds_its_place(stage) and isinstance(extent, int) and extent >= LANES

    def _may_repeat(self, column: Dim) -> bool:
        """Whether rows along `column` had better be two blocks of 16 that overlap than a block and single elements.

        Up to twice as fast from 17 to 31 elements, slower from 32 on. Not where an element may be computed from what
        was at its own place (see `memory`), and not of bytes: 16 of them are a quarter of a register.
        """
        extent = extent_of(column)
        if not isinstance(extent, int) or not LANES < extent < 2 * LANES or self.pragma == SINGLY:
            return False
        stores = [stage for stage in self.nest.stages if isinstance(stage, Store)]
        written = {store.buffer for store in stores}
        for store in stores:
            loads = [node.value for node in walk(store.value) if node.op == "load"]
            if itemsize(store.buffer.dtype) == 1 or _finds_its_place(store):
                return False
            if any(buffer in written or at == store.offset for buffer, at in loads):
                return False
            places = (store.offset, *(at for _, at in loads))
            if any(ix.coefficient(at, atom_of(column)) not in (0, 1) for at in places):
                return False
        return True

    def _overlapping(self, last: Dim, stores: Sequence[Store]) -> None:
        """Blocks of 16 elements, of which the last ends with the row: no element is left to scalar code."""
        out, k, extent = self.out, self.out.name("k"), extent_of(last)
        assert isinstance(extent, int)
        out.push()
        out.line(f"const int64_t start = min_i64({k}, {extent - LANES});")
        out.push()
        out.define(atom_of(last).key, "(start + l)")
        for store in stores:
            self._store(store)
        body = out.pop()
        out.line(LANE_LOOP)
        out.line(f"for (int l = 0; l < {LANES}; ++l) {{")
        self._append(body)
        block = out.pop()
        out.line(ROW_LOOP if extent >= 2 * LANES else BOTH_BLOCKS)
        out.line(f"for (int64_t {k} = 0; {k} < {extent}; {k} += {LANES}) {{")
        self._append(block)

    def _columns(self, vector: Dim, body: Callable[[], None]) -> None:
        """The loop over a tile's columns; per-column locals are arrays indexed by l."""
        self.out.push()
        self.out.define(atom_of(vector).key, "(begin + l)")
        for name, array in self._arrays.items():
            self.out.define(name, f"{array}[l]")
        body()
        lines = self.out.pop()
        self.out.line(VECTORIZE)
        self.out.line("for (int64_t l = 0; l < end - begin; ++l) {")
        self._append(lines)

    @property
    def _arrays(self) -> dict[str, str]:
        if not hasattr(self, "_array_names"):
            self._array_names: dict[str, str] = {}
        return self._array_names

    def _combine(self, op: str, dtype: str, x: str, y: str) -> str:
        node = Expr({"sum": "add", "prod": "mul"}.get(op, op), dtype, (local("x", dtype), local("y", dtype)))
        if dtype in ("float16", "bfloat16"):  # accumulated in float
            node = Expr(node.op, "float32", (local("x", "float32"), local("y", "float32")))
        return operation(node, [x, y], "a->error")

    def _identity(self, op: str, dtype: str) -> str:
        if op in ("sum", "or"):
            return literal(0, dtype)
        if op in ("prod", "and"):
            return literal(1, dtype)
        if is_float(dtype):
            return literal(float("-inf") if op == "max" else float("inf"), dtype)
        return literal(*extreme(op, dtype))

    def _column_reduce(self, stage: Reduce, vector: Dim) -> None:
        array, c_type = self.out.name("r"), compute_type(stage.dtype)
        identity = self._identity(stage.op, stage.dtype)
        self.out.line(f"{c_type} {array}[{COLUMNS}];")
        self.out.line(f"for (int64_t l = 0; l < {COLUMNS}; ++l) {array}[l] = {identity};")
        self._loops(stage.inner)

        def body() -> None:
            value = self.out.value(stage.value)
            self.out.line(f"{array}[l] = {self._combine(stage.op, stage.dtype, f'{array}[l]', value)};")

        self._columns(vector, body)
        self._close(stage.inner)
        self._arrays[stage.name] = array

    def _row_reduce(self, stage: Reduce) -> None:
        out, c_type = self.out, compute_type(stage.dtype)
        result = out.name("r")
        identity = self._identity(stage.op, stage.dtype)
        if not stage.inner:
            value = self._combine(stage.op, stage.dtype, identity, out.value(stage.value))
            out.line(f"const {c_type} {result} = {value};")
            out.define(stage.name, result)
            return
        out.line(f"{c_type} {result}[{LANES}];")
        out.line(f"for (int l = 0; l < {LANES}; ++l) {result}[l] = {identity};")
        self._loops(stage.inner[:-1])
        last = stage.inner[-1]
        extent, k = self.out.dim(extent_of(last)), out.name("k")

        def body(index: str, inside: str = "") -> list[str]:
            """Lines that take in element `index`, where it is `inside`."""
            out.push()
            out.define(atom_of(last).key, index)
            value = out.value(stage.value)
            lines = out.pop()
            if inside:
                lines = [f"{c_type} element = {identity};", f"if ({inside}) {{", *(f"  {line}" for line in lines)]
                lines += [f"  element = {value};", "}"]
                value = "element"
            return [*lines, f"{result}[l] = {self._combine(stage.op, stage.dtype, f'{result}[l]', value)};"]

        size = extent_of(last)
        if stage.op in ("max", "min") and isinstance(size, int) and size >= LANES:
            self._extreme_blocks(body("(start + l)"), size, k)
            self._fold(stage, result)
            return
        index = f"({k} + l)"
        # Both are printed first: what they share with the loop outside goes before these loops.
        full, rest = body(index), body(index, f"{index} < {extent}")
        out.line(f"int64_t {k} = 0;")
        out.line(f"for (; {k} + {LANES} <= {extent}; {k} += {LANES}) {{")
        out.line(f"  {VECTORIZE} vectorize_width({LANES}) unroll(disable)")
        out.line(f"  for (int l = 0; l < {LANES}; ++l) {{")
        for line in full:
            out.line(f"    {line}")
        out.line("  }")
        out.line("}")
        if not isinstance(size, int) or size % LANES:
            out.line(f"if ({k} < {extent}) {{")
            out.line(f"  {TAIL_LOOP}")
            out.line(f"  for (int l = 0; l < SX_TAIL_LANES({extent} - {k}); ++l) {{")
            for line in rest:
                out.line(f"    {line}")
            out.line("  }")
            out.line("}")
        self._fold(stage, result)

    def _extreme_blocks(self, body: list[str], size: int, k: str) -> None:
        """Blocks of 16, the last of which looks at elements again: an extreme stays what it is."""
        out = self.out
        out.line(ROW_LOOP)
        out.line(f"for (int64_t {k} = 0; {k} < {size}; {k} += {LANES}) {{")
        out.line(f"  const int64_t start = min_i64({k}, {size - LANES});")
        out.line(f"  {LANE_LOOP}")
        out.line(f"  for (int l = 0; l < {LANES}; ++l) {{")
        for line in body:
            out.line(f"    {line}")
        out.line("  }")
        out.line("}")

    def _fold(self, stage: Reduce, result: str) -> None:
        """The 16 lanes of `result` to the value of `stage`."""
        out = self.out
        self._close(stage.inner[:-1])
        if stage.op in FOLDS and compute_type(stage.dtype) == "float":
            name = out.name("r")
            out.line(f"const float {name} = fold_{stage.op}_f32({result});")
            out.define(stage.name, name)
            return
        fold = self._combine(stage.op, stage.dtype, f"{result}[l]", f"{result}[l + w]")
        out.line(f"for (int w = {LANES // 2}; w; w /= 2)")
        out.line(f"  for (int l = 0; l < w; ++l) {result}[l] = {fold};")
        out.define(stage.name, f"{result}[0]")

    def _position(self, stage: Reduce, vector: Dim | None) -> None:
        """First (or last) position of the extreme element."""
        identity = self._identity(stage.op[:6].removeprefix("arg"), stage.value.dtype)
        if not stage.inner:
            self.out.define(stage.name, "0")
        elif vector is not None:
            self._column_position(stage, vector, identity)
        elif is_few(stage.inner[-1]):
            self.out.define(stage.name, single_position(self.out, stage, identity))
        else:
            self.out.define(stage.name, row_position(self.out, stage, identity, LANE_LOOP))

    def _column_position(self, stage: Reduce, vector: Dim, identity: str) -> None:
        out, position = self.out, Position(stage, identity)
        best, place = position.start(out, COLUMNS, "0")
        self._loops(stage.inner)
        index = out.c_names[atom_of(stage.inner[-1]).key]

        def body() -> None:
            for line in position.update(out.value(stage.value), index, f"{best}[l]", f"{place}[l]"):
                out.line(line)

        self._columns(vector, body)
        self._close(stage.inner)
        self._arrays[stage.name] = place

    def _running(self, stage: Running, vector: Dim | None) -> None:
        out, c_type = self.out, compute_type(stage.dtype)
        identity = self._identity(stage.op, stage.dtype)
        acc = out.name("r")
        target = acc if vector is None else f"{acc}[l]"
        if vector is None:
            out.line(f"{c_type} {acc} = {identity};")
        else:
            out.line(f"{c_type} {acc}[{COLUMNS}];")
            out.line(f"for (int64_t l = 0; l < {COLUMNS}; ++l) {target} = {identity};")
        inner = () if isinstance(stage.inner, int) else (stage.inner,)
        self._loops(inner)

        def body() -> None:
            value = out.value(stage.value)
            place = f"{out.buffer(stage.buffer)}[{out.dim(stage.offset)}]"
            update = f"{target} = {self._combine(stage.op, stage.dtype, target, value)};"
            write = f"{place} = {encode(target, stage.buffer.dtype)};"
            for line in (write, update) if stage.exclusive else (update, write):
                out.line(line)

        if vector is None:
            body()
        else:
            self._columns(vector, body)
        self._close(inner)


def _finds_its_place(stage: Store) -> bool:
    """Whether data says where elements go: those of one row may meet, so they go one by one and in order."""
    return any(atom.kind == "element" for atom in ix.atoms(stage.offset))


def extreme(op: str, dtype: str) -> tuple[int | bool, str]:
    """Where a maximum (minimum) over integers starts."""
    if dtype == "bool":
        return op == "min", dtype
    assert is_integer(dtype)
    bits = 8 * {"8": 1, "16": 2, "32": 4, "64": 8}[dtype.lstrip("uint")]
    if dtype.startswith("u"):
        return (0 if op == "max" else 2**bits - 1), dtype
    return (-(2 ** (bits - 1)) if op == "max" else 2 ** (bits - 1) - 1), dtype


def emit_task(nest: Nest) -> Function:
    """`nest` as a parallel task function."""
    return NestEmitter(nest).task()


def emit_epilogue(nest: Nest, *, fetch: bool = False) -> Function:
    """`nest` as the epilogue of a kernel; `fetch`: what it stores to is fetched before."""
    return NestEmitter(nest).epilogue(fetch=fetch)


__all__ = ["Function", "constant", "emit_epilogue", "emit_task", "extreme", "form_of"]
