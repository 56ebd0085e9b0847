"""Text operators: TfIdfVectorizer over integers; all others work on strings.

Strings are Python objects here: they have no native layout, so that StringConcat, StringSplit, StringNormalizer,
RegexFullMatch and com.microsoft's Tokenizer run on the host. What follows them in a graph (embeddings, classifiers) is
native again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from sardonyx import errors
from sardonyx.compiler import expr as ex
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Reduce, Store
from sardonyx.compiler.tensor import Position, Tensor, variables
from sardonyx.ops import custom
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.shapes import reshaped

Gram = tuple[int, ...]


def _grams(pool: Sequence[int], starts: Sequence[int]) -> list[Gram]:
    """The n-grams of a pool in their order: those of one number from ``starts[0]`` on, of two from ``starts[1]`` ..."""
    ends = [*starts[1:], len(pool)]
    found: list[Gram] = []
    for n, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        found += [tuple(pool[i : i + n]) for i in range(start, end - n + 1, n)]
    return found


def _counts(ctx: Lowering, rows: Tensor, grams: Sequence[Gram], skips: int) -> Tensor:
    """How often each of `grams` occurs in each row, its numbers up to `skips` + 1 apart: int32 [rows, grams]."""
    longest = max(map(len, grams))
    table = ctx.constant(np.array([gram + (0,) * (longest - len(gram)) for gram in grams], np.int64))
    lengths = ctx.constant(np.array([len(gram) for gram in grams], np.int64))
    size, shape = rows.shape[1], (rows.shape[0], len(grams))
    (row, gram), (skip, start) = variables(shape), variables((skips + 1, size), "k")
    length = lengths.at((gram,))
    found = length > 1 if skips else ex.constant(True, "bool")
    found = found | ex.index(skip).equal(0)  # a single number has no gaps: it counts once
    for j in range(longest):
        place = start + (skip + 1) * j
        here = ex.index(place) < ex.index(size)
        same = ex.guard(here, ex.cast(rows.at((row, place)), "int64").equal(table.at((gram, j))), False)
        found = found & (same if j == 0 else same | (length <= j))
    result = ctx.temporary("int32", shape[0] * shape[1])
    inner = tuple(v for v in (skip, start) if not isinstance(v, int))
    total = Reduce("total", "sum", ex.cast(found, "int32"), inner, "int32")
    ctx.nest((row, gram), [total, Store(result, row * len(grams) + gram, ex.local("total", "int32"))])
    return ctx.in_memory(result, shape)


@operator("TfIdfVectorizer", since=9)
def tf_idf(ctx: Lowering, node: Node, x: Tensor) -> Tensor:
    """Counts of n-grams in a row of numbers (TF) or whether there are any (IDF), times the weights of their columns."""
    ctx.native(x)
    columns, shortest, longest = node.attr("ngram_indexes"), node.attr("min_gram_length"), node.attr("max_gram_length")
    every = _grams(node.attr("pool_int64s") or (), node.attr("ngram_counts"))
    if len(every) != len(columns) or min(columns, default=0) < 0:
        problem = f"{len(every)} n-grams for {len(columns)} columns"
        raise errors.ModelError(problem, node=ctx.node, operator=ctx.operator)
    wanted = [i for i, gram in enumerate(every) if shortest <= len(gram) <= longest]
    unique = len({every[i] for i in wanted}) == len({columns[i] for i in wanted}) == len(wanted)
    ctx.requires(bool(wanted) and unique, "n-grams that are none or not distinct")
    weights, mode, width = node.attr("weights"), node.attr("mode"), max(columns) + 1
    ctx.requires(weights is None or len(weights) >= width, "weights for some columns alone")
    size = x.shape[-1] if x.rank else 1
    rows = reshaped(ctx, ctx.plain(x), (x.shape[0] if x.rank == 2 else 1, size))
    counts = _counts(ctx, rows, [every[i] for i in wanted], node.attr("max_skip_count"))
    slots = np.full(width, -1)
    slots[[columns[i] for i in wanted]] = np.arange(len(wanted))
    slot = ctx.constant(slots)
    weight = None if weights is None else ctx.constant(np.array(weights, np.float32))

    def element(i: Position) -> Expr:
        at, row = slot.at((i[-1],)), i[0] if x.rank == 2 else 0
        count = ex.guard(at >= 0, counts.at((row, ex.clamped_index(at, len(wanted)))), 0)
        value = ex.cast(ex.minimum(count, 1) if mode == "IDF" else count, "float32")
        return value if weight is None or mode == "TF" else value * weight.at((i[-1],))

    return ctx.lazy("float32", (*x.shape[:-1], width), element, cost=4)


@custom.operator("com.microsoft", "Tokenizer", shape=lambda x, **_: custom.Type("string", (*x.shape, "tokens")))
def tokenizer(
    x: np.ndarray,
    *,
    mark: int = 0,
    mincharnum: int = 1,
    pad_value: str = "",
    separators: Sequence[str] = (),
    tokenexp: str = "",
) -> np.ndarray:
    """Tokens of each text along a new last axis, rows padded to the longest.

    Args:
        x: strings of any shape.
        mark: whether a start and an end character (U+0002, U+0003) enclose the tokens of a text.
        mincharnum: tokens of fewer characters are left out.
        pad_value: fills short rows.
        separators: regular expressions between tokens, applied in turn; one empty one makes each character a token.
        tokenexp: regular expression of a token, in place of `separators`.
    """
    split = _splitter(tokenexp, separators)
    rows = [[token for token in split(str(text)) if len(token) >= mincharnum] for text in x.reshape(-1)]
    if mark:
        rows = [["\x02", *row, "\x03"] for row in rows]
    found = np.full((len(rows), max(map(len, rows), default=0)), pad_value, object)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return found.reshape(*x.shape, -1) if found.size else found.reshape(*x.shape, found.shape[1])


def _splitter(expression: str, separators: Sequence[str]) -> Callable[[str], list[str]]:
    if expression:
        pattern = re.compile(_in_python(expression))
        return lambda text: [found[0] for found in pattern.finditer(text)]
    if list(separators) == [""]:
        return list
    patterns = [re.compile(_in_python(separator)) for separator in separators]

    def split(text: str) -> list[str]:
        pieces = [text]
        for pattern in patterns:
            pieces = [part for piece in pieces for part in _between(pattern, piece)]
        return pieces

    return split


def _between(pattern: re.Pattern[str], text: str) -> list[str]:
    """What lies between the matches; unlike `re.split`, groups of the pattern are no pieces."""
    ends = [(0, 0), *(found.span() for found in pattern.finditer(text)), (len(text), len(text))]
    return [text[before[1] : after[0]] for before, after in itertools.pairwise(ends)]


def _in_python(pattern: str) -> str:
    """A pattern of RE2, whose letters and numbers of all scripts together with ``_`` are Python's word characters."""
    for letters in (r"\p{L}", r"\pL"):
        for numbers in (r"\p{N}", r"\pN"):
            pattern = pattern.replace(f"{letters}{numbers}_", r"\w")
    return pattern
