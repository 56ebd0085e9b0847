"""Inputs to compare with: the user's own, or generated ones that reach into the corners.

Typical values first; then zeros, large and tiny ones; and each dynamic dimension with at least two sizes, since a size
that was frozen while tracing shows only at another one. Masks are 1, with padding on the side where the source pads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx.converters.source import Input

_DEFAULT_SIZES = (2, 3)  # of a dynamic dimension about which nothing is known
_LARGE, _TINY = 30.0, 1e-6


@dataclass(frozen=True)
class Sample:
    """One set of inputs.

    Attributes:
        title: what is special about it.
        feeds: values, by name.
        corner: whether the values are extreme, all the same or close to it.
    """

    title: str
    feeds: Mapping[str, np.ndarray]
    corner: bool = False


def make_samples(
    inputs: Sequence[Input],
    given: Sequence[Mapping[str, np.ndarray]] = (),
    seed: int = 0,
    corners: bool = True,
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> list[Sample]:
    """The sets of inputs to compare with.

    Args:
        inputs: what the model takes.
        given: real inputs, used first; the sizes of their dimensions guide the generated ones.
        seed: of the generator.
        corners: whether to add zeros, large and tiny values.
        sizes: of dynamic dimensions, where some are better than others, the most typical first; all are tried.
    """
    hints = sizes or {}
    rng = np.random.default_rng(seed)
    samples = [Sample(f"given {number}", feeds) for number, feeds in enumerate(given)]
    known = [_sizes(inputs, feeds) for feeds in given]
    names = sorted({name for each in inputs for dim in each.shape if isinstance(dim, str) for name in dims_in(dim)})
    # Sizes differ between dimensions too: two that are equal by accident hide a transposition.
    base = {name: _DEFAULT_SIZES[0] + number for number, name in enumerate(names)}
    typical = {name: hints[name][0] for name in names if hints.get(name)}
    first = {**base, **typical, **(known[0] if known else {})}
    samples.append(Sample("typical", _fill(inputs, first, rng, "typical")))
    for name in names:
        likely = first[name] + 1 if first[name] < 64 else first[name] // 2
        samples += [
            Sample(f"{name} = {size}", _fill(inputs, {**first, name: size}, rng, "typical"))
            for size in [size for size in hints.get(name, ()) if size != first[name]] or [likely]
        ]
    if corners:
        styles = ("zeros", "large", "tiny")
        samples += [Sample(style, _fill(inputs, first, rng, style), corner=True) for style in styles]
    return samples


def _sizes(inputs: Sequence[Input], feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in inputs:
        if each.name in feeds:
            pairs = zip(each.shape, np.shape(feeds[each.name]), strict=True)
            found |= {dim: size for dim, size in pairs if isinstance(dim, str) and dims_in(dim) == [dim]}
    return found


def dims_in(dim: str) -> list[str]:
    """The dimensions that a dimension is the sum of: itself, or ``past`` and ``length`` of ``past + length``."""
    terms = [term.strip() for term in dim.split("+")]
    sums = all(term.isdigit() or term.isidentifier() for term in terms)
    return [term for term in terms if not term.isdigit()] if sums else [dim]


def size_of(dim: int | str, sizes: Mapping[str, int]) -> int:
    """The size of a dimension, given those of the dimensions in it."""
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    return sum(int(term) if term.strip().isdigit() else sizes[term.strip()] for term in dim.split("+"))


def fill(inputs: Sequence[Input], sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Typical values for all inputs, dynamic dimensions as `sizes` says."""
    return _fill(inputs, sizes, np.random.default_rng(seed), "typical")


def _fill(
    inputs: Sequence[Input], sizes: Mapping[str, int], rng: np.random.Generator, style: str
) -> dict[str, np.ndarray]:
    return {each.name: _values(each, sizes, rng, style) for each in inputs}


def _values(each: Input, sizes: Mapping[str, int], rng: np.random.Generator, style: str) -> np.ndarray:
    shape = tuple(size_of(dim, sizes) for dim in each.shape)
    if each.padding:
        return _padded(shape, each.padding).astype(each.dtype)
    if each.dtype == "string":
        words = np.array(each.choices or ("a", "of", "model", "Sardonyx", ""), object)
        return np.full(shape, words[0], object) if style == "zeros" else rng.choice(words, shape)
    dtype = np.dtype(each.dtype)
    if dtype.kind == "b":
        return np.zeros(shape, dtype) if style == "zeros" else rng.integers(0, 2, shape).astype(dtype)
    low, high = each.low, each.high
    if dtype.kind in "iu":
        low, high = int(np.min(low or 0)), int(1 if high is None else np.max(high))
        if style in ("zeros", "large"):
            return np.full(shape, high if style == "large" else min(max(0, low), high), dtype)
        drawn = rng.integers(low, high, shape, endpoint=True).astype(dtype)
        return np.sort(drawn) if each.ascending else drawn
    if low is not None and high is not None:
        draws = {"zeros": np.full(shape, low), "large": np.full(shape, high)}
        return draws.get(style, rng.uniform(low, high, shape)).astype(dtype)
    scale = {"zeros": 0.0, "large": _LARGE, "tiny": _TINY}.get(style, 1.0)
    return (rng.standard_normal(shape) * scale).astype(dtype)


def _padded(shape: tuple[int, ...], side: str) -> np.ndarray:
    """A mask whose rows are padded by 0, 1, 2, 0, 1, ... elements, at most by half of their length."""
    length = shape[-1]
    rows = np.arange(max(1, int(np.prod(shape[:-1]))))
    padding = np.minimum(rows % 3, length // 2)[:, None]
    columns = np.arange(length)[None]
    mask = columns >= padding if side == "left" else columns < length - padding
    return mask.reshape(shape)
