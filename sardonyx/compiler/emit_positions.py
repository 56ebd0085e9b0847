"""Where an extreme element is, as C: the stages of a nest whose op is argmax, argmin, or one of these with ``_last``.

Each lane keeps the best element that it met and where; lanes are folded in the end. A NaN beats everything, as in
numpy; of elements that are alike, NaNs too, the first or the last one counts.
"""

from __future__ import annotations

from sardonyx.compiler.dtypes import bit_width, compute_type, is_float
from sardonyx.compiler.emit_expr import Printer
from sardonyx.compiler.index import Dim
from sardonyx.compiler.nest import atom_of, extent_of
from sardonyx.compiler.nest_form import LANES
from sardonyx.compiler.program import Reduce


class Position:
    """The C of one such stage: what is kept, and when an element takes the place of another."""

    def __init__(self, stage: Reduce, identity: str):
        self.dtype = stage.value.dtype
        self.largest = stage.op.startswith("argmax")
        self.last = stage.op.endswith("last")
        self.identity = identity
        extent = extent_of(stage.inner[-1]) if stage.inner else 1
        # As wide as the elements where that is enough, so that a register holds as many of both.
        short = isinstance(extent, int) and extent < 2**31 and bit_width(self.dtype) <= 32
        self.type = "int32_t" if short else "int64_t"

    def beats(self, x: str, y: str) -> str:
        """Whether `x` is better than `y`, whatever their places. Without branches."""
        if is_float(self.dtype):
            return f"(!({x} {'<=' if self.largest else '>='} {y}) & ({y} == {y}))"
        return f"({x} {'>' if self.largest else '<'} {y})"

    def update(self, x: str, at: str, best: str, place: str) -> list[str]:
        """Lines that let a later element `x` at position `at` take its place."""
        better = f"!{self.beats(best, x)}" if self.last else self.beats(x, best)
        return [
            f"const int better = {better};",
            f"{best} = better ? {x} : {best};",
            f"{place} = better ? ({self.type}){at} : {place};",
        ]

    def start(self, out: Printer, lanes: int, first: str) -> tuple[str, str]:
        """Declares `lanes` best elements and their places; nothing beats an identity that is at `first`."""
        best, place = out.name("r"), out.name("r")
        out.line(f"{compute_type(self.dtype)} {best}[{lanes}];")
        out.line(f"{self.type} {place}[{lanes}];")
        out.line(f"for (int l = 0; l < {lanes}; ++l) {best}[l] = {self.identity}, {place}[l] = {first};")
        return best, place

    def fold(self, out: Printer, best: str, place: str) -> None:
        """All lanes into the first."""
        x, y = f"{best}[l + w]", f"{best}[l]"
        nearer = f"({place}[l + w] {'>' if self.last else '<'} {place}[l])"
        out.line(f"for (int w = {LANES // 2}; w; w /= 2)")
        out.line("  for (int l = 0; l < w; ++l) {")
        out.line(f"    const int better = {self.beats(x, y)} | (!{self.beats(y, x)} & {nearer});")
        out.line(f"    {y} = better ? {x} : {y}, {place}[l] = better ? {place}[l + w] : {place}[l];")
        out.line("  }")


def row_position(out: Printer, stage: Reduce, identity: str, pragma: str) -> str:
    """Prints the search along a row in 16 lanes, and returns the name of the position."""
    position, variable = Position(stage, identity), stage.inner[-1]
    # A lane that meets nothing must lose against every other: by its place, where its identity is an element's value.
    best, place = position.start(out, LANES, "0" if position.last else "l")
    extent, k = extent_of(variable), out.name("k")

    def body(index: str) -> list[str]:
        out.push()
        out.define(atom_of(variable).key, index)
        value = out.value(stage.value)
        for line in position.update(value, index, f"{best}[l]", f"{place}[l]"):
            out.line(line)
        return out.pop()

    if isinstance(extent, int) and extent >= LANES:  # the last block looks at elements again, which changes nothing
        block = body("(start + l)")
        out.line(f"for (int64_t {k} = 0; {k} < {extent}; {k} += {LANES}) {{")
        out.line(f"  const int64_t start = min_i64({k}, {extent - LANES});")
        _lanes(out, block, pragma)
        out.line("}")
    else:
        full, stop = body(f"({k} + l)"), out.dim(extent)
        out.line(f"int64_t {k} = 0;")
        out.line(f"for (; {k} + {LANES} <= {stop}; {k} += {LANES}) {{")
        _lanes(out, full, pragma)
        out.line("}")
        out.line("#pragma clang loop vectorize(disable) unroll(disable)")
        out.line(f"for (int l = 0; {k} + l < {stop}; ++l) {{")
        for line in full:
            out.line(f"  {line}")
        out.line("}")
    position.fold(out, best, place)
    return f"{place}[0]"


def _lanes(out: Printer, body: list[str], pragma: str) -> None:
    out.line(f"  {pragma}")
    out.line(f"  for (int l = 0; l < {LANES}; ++l) {{")
    for line in body:
        out.line(f"    {line}")
    out.line("  }")


def single_position(out: Printer, stage: Reduce, identity: str) -> str:
    """Prints the search through a few elements, one by one, and returns the name of the position."""
    position, variable = Position(stage, identity), stage.inner[-1]
    best, place, k = out.name("r"), out.name("r"), out.name("k")
    out.line(f"{compute_type(position.dtype)} {best} = {identity};")
    out.line(f"{position.type} {place} = 0;")
    out.push()
    out.define(atom_of(variable).key, k)
    for line in position.update(out.value(stage.value), k, best, place):
        out.line(line)
    body = out.pop()
    out.line(f"for (int64_t {k} = 0; {k} < {out.dim(extent_of(variable))}; ++{k}) {{")
    for line in body:
        out.line(f"  {line}")
    out.line("}")
    return place


def is_few(variable: Dim) -> bool:
    """Whether a row is so short that lanes would stay empty."""
    extent = extent_of(variable)
    return isinstance(extent, int) and extent < LANES
