"""Transposed convolution, in any number of dimensions.

fp32 with constant weights runs in the kernels of convolutions. Outputs whose positions agree modulo the strides are a
plain convolution of the input with every stride-th tap, turned round: one for each such phase, interleaved afterwards.
Where there are many phases, few output channels, or windows do not overlap, it is a product a pixel instead (a 1x1
convolution with an output channel for each tap), whose results are added up where they meet. Everything else is a loop
nest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.index import Dim
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Reduce, Store
from sardonyx.compiler.tensor import LANES, Blocked, Plain, Tensor, variables
from sardonyx.ops.binary import map_elements
from sardonyx.ops.convolution import cast, convolve
from sardonyx.ops.convolution_forms import reshaped
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator
from sardonyx.ops.window import Window, both, single

MOST_PHASES = 8  # convolutions of one transposed convolution
MOST_TERMS = 16  # taps that meet in an output and are added in one expression


@operator("ConvTranspose")
def conv_transpose(ctx: Lowering, node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """Transposed convolution: each input element adds the scaled kernel around its place in the output."""
    ctx.native(x, w, bias)
    ctx.requires(is_float(x.dtype), f"transposed convolution of {x.dtype}")
    groups = node.attr("group", 1)
    ctx.equal_dims(x.shape[1], w.shape[0], "input channels do not fit the weights")
    place = _window(ctx, node, x, w)
    return transposed(ctx, x, w, bias, place, groups)


def transposed(ctx: Lowering, x: Tensor, w: Tensor, bias: Tensor | None, place: Window, groups: int) -> Tensor:
    """See `conv_transpose`; `place` says kernel, strides, dilations, padding taken off, and output size."""
    if x.dtype in ("float16", "bfloat16"):  # accumulated in float32, rounded once
        wide = [None if t is None else cast(ctx, t, "float32") for t in (x, w, bias)]
        assert wide[0] is not None
        assert wide[1] is not None
        return cast(ctx, transposed(ctx, wide[0], wide[1], wide[2], place, groups), x.dtype)
    shape = (x.shape[0], w.shape[1] * groups, *place.output)
    raw = _kernel(ctx, x, w, place, groups, shape)
    if raw is None:
        raw = _nest(ctx, x, w, place, groups, shape)
    if bias is None:
        return raw
    spread = ctx.lazy(bias.dtype, (1, shape[1], *(1 for _ in place.output)), lambda i: bias.at((i[1],)), sources=[bias])
    return map_elements(ctx, lambda a, b: a + b, raw, spread, shape=shape)


def _window(ctx: Lowering, node: Node, x: Tensor, w: Tensor) -> Window:
    size, kernel = x.shape[2:], w.shape[2:]
    rank = len(size)
    strides = node.attr("strides") or [1] * rank
    dilations = node.attr("dilations") or [1] * rank
    extra = node.attr("output_padding") or [0] * rank
    pads = node.attr("pads") or [0] * (2 * rank)
    wanted = node.attr("output_shape")
    mode = node.attr("auto_pad", "NOTSET") or "NOTSET"
    begin: list[Dim] = []
    output: list[Dim] = []
    for axis in range(rank):
        full = (size[axis] - 1) * strides[axis] + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        if wanted is None and mode in ("NOTSET", "VALID"):
            begin.append(pads[axis] if mode == "NOTSET" else 0)
            output.append(full - begin[-1] - (pads[rank + axis] if mode == "NOTSET" else 0))
            continue
        out = wanted[len(wanted) - rank + axis] if wanted is not None else size[axis] * strides[axis]
        cut = full - out
        begin.append(ix.floordiv(cut, 2) if mode == "SAME_UPPER" else cut - ix.floordiv(cut, 2))
        output.append(out)
    return Window(
        tuple(size), tuple(kernel), tuple(strides), tuple(dilations), tuple(begin), tuple(begin), tuple(output)
    )


def _kernel(ctx: Lowering, x: Tensor, w: Tensor, place: Window, groups: int, shape: tuple[Dim, ...]) -> Tensor | None:
    """The raw sums by kernels for convolutions, or None where they do not fit."""
    if x.dtype != "float32" or w.array is None or w.array.size == 0 or w.array.shape[0] % groups:
        return None
    if any(math.gcd(s, d) > 1 for s, d in zip(place.strides, place.dilations, strict=True)):
        return None
    overlaps, begin = math.prod(_overlaps(w.array, place)), place.begin
    wide = 2 * w.array.shape[1] > LANES or groups > 1
    if overlaps > 1 and wide and math.prod(place.strides) <= MOST_PHASES and ix.are_known(begin):
        found = [_phase(w.array, place, begin, phase, groups) for phase in product(*map(range, place.strides))]
        if all(each is None or each.fits for each in found):
            return _interleaved(ctx, x, found, place, groups, shape)
    return _spread(ctx, x, w.array, place, groups, shape) if overlaps <= MOST_TERMS else None


@dataclass(frozen=True)
class _Phase:
    """The convolution that gives the outputs of one phase."""

    weight: np.ndarray
    window: Window

    @property
    def fits(self) -> bool:
        """Whether kernels take it: they know no padding below zero."""
        return all(isinstance(pad, int) and pad >= 0 for pad in self.window.begin)


def _overlaps(w: np.ndarray, place: Window) -> list[int]:
    """How many taps meet in an output, along each axis."""
    return [-(-k // s) for k, s in zip(w.shape[2:], place.strides, strict=True)]


def _first_tap(reach: Any, stride: int, dilation: int) -> Any:
    """The first tap k with (reach - k * dilation) % stride == 0; the others are k + stride, k + 2 * stride, ..."""
    return ix.mod(reach * pow(dilation, -1, stride), stride) if stride > 1 else 0


def _phase(w: np.ndarray, place: Window, pads: Sequence[int], phase: Sequence[int], groups: int) -> _Phase | None:
    """That of the outputs whose position modulo the strides is `phase`; None where no tap reaches them."""
    taps, begin = [], []
    for axis, (p, pad) in enumerate(zip(phase, pads, strict=True)):
        stride, dilation = place.strides[axis], place.dilations[axis]
        first = _first_tap(p + pad, stride, dilation)
        taps.append(range(w.shape[2 + axis])[first::stride])
        if not taps[-1]:
            return None
        begin.append((len(taps[-1]) - 1) * dilation - (p + pad - first * dilation) // stride)
    kernel, ones = tuple(map(len, taps)), (1,) * len(taps)
    output = tuple(ix.ceildiv(o - p, s) for o, p, s in zip(place.output, phase, place.strides, strict=True))
    window = Window(place.size, kernel, ones, place.dilations, tuple(begin), tuple(begin), output)
    chosen = w[:, :, *(slice(each.start, None, each.step) for each in taps)]
    parts = [part.swapaxes(0, 1) for part in np.split(chosen, groups)]  # [groups * I, O] -> [groups * O, I]
    turned = np.ascontiguousarray(np.flip(np.concatenate(parts), tuple(range(2, w.ndim))))
    return _Phase(turned, window)


def _interleaved(
    ctx: Lowering, x: Tensor, found: Sequence[_Phase | None], place: Window, groups: int,
    shape: tuple[Dim, ...],
) -> Tensor:  # fmt: skip
    """The convolutions `found`, one for each phase in row-major order, side by side."""
    if not isinstance(x.layout, Blocked):  # once for all of them
        x = ctx.in_memory(ctx.materialize(x, Blocked(x.shape)), x.shape, Blocked(x.shape))
    parts = [
        None if each is None else convolve(ctx, x, ctx.constant(each.weight), None, each.window, groups)
        for each in found
    ]
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    sources = [part for part in parts if part is not None]
    for source in sources:
        ctx.materialize(source)

    def element(i: tuple[Dim, ...]) -> Expr:
        at = [ix.floordiv(o, stride) for o, stride in zip(i[2:], place.strides, strict=True)]
        phase: Dim = 0
        for o, stride in zip(i[2:], place.strides, strict=True):
            phase = phase * stride + ix.mod(o, stride)
        value = ex.constant(0.0, "float32")
        for number, part in enumerate(parts):
            if part is not None:
                value = ex.guard(ex.index(phase).equal(number), part.at((i[0], i[1], *at)), value)
        return value

    result = ctx.lazy("float32", shape, element, sources=sources[:1], cost=4)
    result.prefers = Blocked
    return result


def _spread(ctx: Lowering, x: Tensor, w: np.ndarray, place: Window, groups: int, shape: tuple[Dim, ...]) -> Tensor:
    """A 1x1 convolution to [N, groups * taps * O, ...], and for each output the sum of the taps that reach it.

    All input channels of a tap are added up first, then the taps, the last one first. As fast as the 1x1 convolution
    where windows do not overlap; where they do, the products lie in memory k / stride times for each axis, and reading
    them is what an output costs.
    """
    outputs, kernel = w.shape[1], w.shape[2:]
    taps = math.prod(kernel)
    room = -(-outputs // LANES) * LANES if outputs > LANES // 2 else outputs  # whole blocks, unless most is padding
    weight = np.zeros((groups, taps, room, w.shape[0] // groups), np.float32)
    each = w.reshape(groups, -1, outputs, taps)
    weight[:, :, :outputs] = each.transpose(0, 3, 2, 1)
    flat = x if x.rank <= 4 else reshaped(ctx, x, (*x.shape[:3], ix.product(x.shape[3:])))
    rows = ctx.constant(weight.reshape(groups * taps * room, -1, *(1 for _ in flat.shape[2:])))
    sums = convolve(ctx, flat, rows, None, single(flat.shape[2:]), groups)
    ctx.materialize(sums)
    overlaps = _overlaps(w, place)

    def element(i: tuple[Dim, ...]) -> Expr:
        group, channel = (ix.floordiv(i[1], outputs), ix.mod(i[1], outputs)) if groups > 1 else (0, i[1])
        total = ex.constant(0.0, "float32")
        for number, js in enumerate(product(*(range(count - 1, -1, -1) for count in overlaps))):
            tap, where, inside = _tap(i[2:], js, kernel, place)
            value = sums.at((i[0], (group * taps + tap) * room + channel, *_flat_position(where, place, flat)))
            value = ex.guard(inside, value, 0)
            total = value if number == 0 else total + value
        return total

    result = ctx.lazy("float32", shape, element, sources=[sums], cost=4 * math.prod(overlaps))
    result.prefers = Blocked if room % LANES == 0 else Plain
    return result


def _flat_position(where: Sequence[Dim], place: Window, flat: Tensor) -> list[Dim]:
    if len(where) == flat.rank - 2:
        return list(where)
    return [where[0], Plain(place.size[1:]).offset(tuple(where[1:]))]


def _tap(
    position: Sequence[Dim], js: Sequence[int], kernel: Sequence[int], place: Window
) -> tuple[Dim, list[Dim], Expr]:
    """``(tap, input position, whether both exist)`` of the taps number `js` that reach the output at `position`."""
    tap: Dim = 0
    where: list[Dim] = []
    inside = ex.constant(True, "bool")
    for axis, (o, j) in enumerate(zip(position, js, strict=True)):
        stride, dilation, size = place.strides[axis], place.dilations[axis], place.size[axis]
        reach = ix.mod(o, stride) + place.begin[axis]
        first = _first_tap(reach, stride, dilation)
        at = ix.floordiv(o, stride) + ix.floordiv(reach - first * dilation, stride) - j * dilation
        k = first + j * stride
        if kernel[axis] % stride:
            inside = both(inside, ex.index(k) < ex.index(kernel[axis]))
        inside = both(inside, both(ex.index(at) >= 0, ex.index(at) < ex.index(size)))
        tap = tap * kernel[axis] + k
        where.append(at)
    return tap, where, inside


def _nest(ctx: Lowering, x: Tensor, w: Tensor, place: Window, groups: int, shape: tuple[Dim, ...]) -> Tensor:
    """For each output element, the taps that reach it."""
    ctx.cheap(x)
    ctx.cheap(w)
    outer = variables(shape)
    per_group = ix.floordiv(w.shape[0], groups)
    inner = variables((per_group, *place.kernel), "k")
    channel, *taps = inner
    group = ix.floordiv(outer[1], w.shape[1]) if groups > 1 else 0
    inside = ex.constant(True, "bool")
    where: list[Dim] = []
    for axis, (o, k) in enumerate(zip(outer[2:], taps, strict=True)):
        reach = o + place.begin[axis] - k * place.dilations[axis]
        stride = place.strides[axis]
        inside = both(inside, both(ex.index(reach) >= 0, ex.index(ix.mod(reach, stride)).equal(0)))
        at = ix.floordiv(reach, stride)
        where.append(at)
        inside = both(inside, ex.index(at) < ex.index(place.size[axis]))
    source = group * per_group + channel
    # A tap that reaches no input adds nothing, whatever its weight is.
    product = x.at((outer[0], source, *where)) * w.at((source, outer[1] - group * w.shape[1], *taps))
    term = ex.guard(inside, product, 0)
    buffer = ctx.temporary(x.dtype, ix.product(shape))
    total = Reduce("total", "sum", term, inner, x.dtype)
    store = Store(buffer, Plain(shape).offset(outer), ex.local("total", x.dtype))
    ctx.nest(outer, [total, store])
    return ctx.in_memory(buffer, shape)
