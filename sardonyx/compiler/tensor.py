"""Tensors during lowering: a dtype, a shape, and a function from an element's position to its value.

A tensor is *lazy* until somebody needs it in memory. Movement and arithmetic only wrap the function, so a chain of them
becomes one expression, and layouts are nothing but the map from a position to an offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sardonyx.compiler import expr as ex
from sardonyx.compiler import index as ix
from sardonyx.compiler.expr import Expr
from sardonyx.compiler.failures import Unsupported
from sardonyx.compiler.index import Dim
from sardonyx.compiler.program import Block, Buffer

if TYPE_CHECKING:
    from sardonyx.compiler.lower import Lowering

LANES = 16  # channels of a block in the NCHW16c layout, on every target
OVERREAD = 64  # elements that may be read beyond the last one in NHWC
Position = tuple[Dim, ...]
Element = Callable[[Position], Expr]


@dataclass(frozen=True)
class Plain:
    """Row-major elements; as a part of something larger, from `base` on with `strides` of its own."""

    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...] | None = None
    base: Dim = 0

    def size(self) -> Dim:
        """Elements in memory, of a whole."""
        return ix.product(self.shape)

    def part(self, axis: int, start: Dim, extent: Dim) -> Plain:
        """The positions from `start` on along `axis`, where they lie."""
        rows = (ix.product(self.shape[k + 1 :]) for k in range(len(self.shape)))
        strides = self.strides or tuple(rows)
        shape = (*self.shape[:axis], extent, *self.shape[axis + 1 :])
        return Plain(shape, strides, self.base + start * strides[axis])

    def offset(self, position: Position) -> Dim:
        """Where the element at `position` lies."""
        if self.strides is not None:
            return self.base + ix.total(stride * i for stride, i in zip(self.strides, position, strict=True))
        result: Dim = 0
        for extent, i in zip(self.shape, position, strict=True):
            result = result * extent + i
        return result

    def domain(self, prefix: str = "i") -> tuple[tuple[Dim, ...], Position, Expr]:
        """``(variables, position, inside)``, where `inside` is false for padding.

        The loop variables are in memory order; `position` is the tensor position that they stand for.
        """
        position = variables(self.shape, prefix)
        return position, position, ex.constant(True, "bool")


@dataclass(frozen=True)
class Blocked:
    """NCHW16c: ``[N][C / 16][spatial...][16]``, channels beyond C stored as zero.

    As a part of something larger it begins at `base`, with `pitch` elements from image to image.
    """

    shape: tuple[Dim, ...]
    pitch: Dim | None = None
    base: Dim = 0

    @property
    def blocks(self) -> Dim:
        """Channel blocks of one image."""
        return ix.ceildiv(self.shape[1], LANES)

    @property
    def pixels(self) -> Dim:
        """Spatial positions of one image."""
        return ix.product(self.shape[2:])

    @property
    def image(self) -> Dim:
        """Elements from one image to the next."""
        return self.blocks * self.pixels * LANES if self.pitch is None else self.pitch

    def size(self) -> Dim:
        """Elements in memory, of a whole."""
        return self.shape[0] * self.blocks * self.pixels * LANES

    def part(self, axis: int, start: Dim, extent: Dim) -> Blocked:
        """The images (`axis` 0) or channels (`axis` 1, whole blocks) from `start` on, where they lie."""
        shape = (*self.shape[:axis], extent, *self.shape[axis + 1 :])
        skipped = start * self.image if axis == 0 else ix.floordiv(start, LANES) * self.pixels * LANES
        return Blocked(shape, self.image, self.base + skipped)

    def offset(self, position: Position) -> Dim:
        """Where the element at `position` lies."""
        n, c, *spatial = position
        block = ix.floordiv(c, LANES)
        pixel = Plain(self.shape[2:]).offset(tuple(spatial))
        return self.base + n * self.image + (block * self.pixels + pixel) * LANES + ix.mod(c, LANES)

    def domain(self, prefix: str = "i") -> tuple[tuple[Dim, ...], Position, Expr]:
        """See `Plain.domain`; the loops are image, channel block, spatial axes, lane."""
        n_dim, c_dim, *spatial_dims = self.shape
        loops = variables((n_dim, self.blocks, *spatial_dims, LANES), prefix)
        n, block, *spatial, lane = loops
        channel = block * LANES + lane
        inside = ex.compare("lt", ex.index(channel), ex.index(c_dim))
        if isinstance(c_dim, int) and c_dim % LANES == 0:
            inside = ex.constant(True, "bool")
        return loops, (n, channel, *spatial), inside


@dataclass(frozen=True)
class ChannelsLast:
    """NHWC: ``[N][spatial...][C]``, the layout of bytes.

    As a part of something larger it begins at `base`, with `image` elements from image to image and `pitch` from pixel
    to pixel.
    """

    shape: tuple[Dim, ...]
    pitch: Dim | None = None
    image: Dim | None = None
    base: Dim = 0

    @property
    def pixels(self) -> Dim:
        """Spatial positions of one image."""
        return ix.product(self.shape[2:])

    def steps(self) -> tuple[Dim, Dim]:
        """Elements from image to image, and from pixel to pixel."""
        pitch = self.shape[1] if self.pitch is None else self.pitch
        return (self.pixels * pitch if self.image is None else self.image), pitch

    def size(self) -> Dim:
        """Elements in memory, of a whole; kernels may read some beyond the last."""
        return ix.product(self.shape) + OVERREAD

    def part(self, axis: int, start: Dim, extent: Dim) -> ChannelsLast:
        """The images (`axis` 0) or channels (`axis` 1) from `start` on, where they lie."""
        shape = (*self.shape[:axis], extent, *self.shape[axis + 1 :])
        image, pitch = self.steps()
        return ChannelsLast(shape, pitch, image, self.base + start * (image if axis == 0 else 1))

    def offset(self, position: Position) -> Dim:
        """Where the element at `position` lies."""
        n, c, *spatial = position
        image, pitch = self.steps()
        return self.base + n * image + Plain(self.shape[2:]).offset(tuple(spatial)) * pitch + c

    def domain(self, prefix: str = "i") -> tuple[tuple[Dim, ...], Position, Expr]:
        """See `Plain.domain`; the loops are image, spatial axes, channel."""
        n_dim, c_dim, *spatial_dims = self.shape
        n, *spatial, c = loops = variables((n_dim, *spatial_dims, c_dim), prefix)
        return loops, (n, c, *spatial), ex.constant(True, "bool")


Layout = Plain | Blocked | ChannelsLast


def preferred(dtype: str, found: Iterable[type[Layout]]) -> type[Layout]:
    """How a tensor of `dtype` is stored that is computed from tensors of its shape, which prefer `found`.

    Bytes are read by kernels for NHWC, floats by those for NCHW16c.
    """
    kinds = set(found) - {Plain}
    if not kinds:
        return Plain
    return ChannelsLast if dtype in ("int8", "uint8") or Blocked not in kinds else Blocked


def variables(shape: Sequence[Dim], prefix: str = "i") -> Position:
    """One loop variable for each dim (the constant 0 where the dim is 1)."""
    return tuple(ix.variable(f"{prefix}{axis}", extent) for axis, extent in enumerate(shape))


class Formed(NamedTuple):
    """An output without native type, which Python makes from a tensor once the run is over.

    Attributes:
        tensor: what compiled code computes.
        form: "maps": each row becomes a dict from label to element; "strings": each index becomes its label.
        labels: keys, or strings.
    """

    tensor: Tensor
    form: str
    labels: tuple[int | str, ...]


class Tensor:
    """A value of the graph being lowered.

    Attributes:
        dtype: element type.
        shape: dims.
        array: the value when it is a constant.
        buffer, layout: where it lies, once it is in memory.
        cost: rough number of operations to compute one element anew (0: a view or a constant).
        depth: how many lazy tensors in a row it is computed from.
        prefers: the layout of the tensors of the same shape that it is computed from, in which it is best stored.
        uses: consumers that can't be fused into one.
        rows: the tensor whose elements these are, row by row, in another shape.
    """

    def __init__(self, ctx: Lowering, dtype: str, shape: Sequence[Dim], element: Element | None = None):
        self.ctx = ctx
        self.dtype = dtype
        self.shape = tuple(shape)
        self.element = element
        self.array: np.ndarray | None = None
        self.buffer: Buffer | None = None
        self.layout: Layout | None = None
        self.cost = 0
        self.depth = 0
        self.prefers: type[Layout] = Plain
        self.uses = 1
        self.rows: Tensor | None = None
        self.copies: dict[Block, Buffer] = {}  # in NHWC, of a tensor that lies otherwise, by the block that made it
        self.block = ctx.block  # where it was made: memory given to it in an inner block is not its own
        self.origin = (ctx.node, ctx.operator)  # whose work it is, for profiles and errors
        self.slot = -1  # a Python object: sequence, optional, string tensor, tensor of unknown rank
        self.type_proto: object = None  # of an object: its ONNX type
        self.formed: Formed | None = None  # of an object that only leaves the model

    @property
    def rank(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def blocked(self) -> bool:
        """Whether it is best stored as NCHW16c."""
        return self.prefers is Blocked

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return ix.product(self.shape)

    @property
    def is_object(self) -> bool:
        """True for values that only Python can hold."""
        return self.slot >= 0

    def __repr__(self) -> str:
        place = self.buffer or ("constant" if self.array is not None else "lazy")
        return f"Tensor({self.dtype}{list(self.shape)}, {place})"

    def at(self, position: Sequence[Dim]) -> Expr:
        """The element at `position`, one dim for each axis."""
        position = tuple(position)
        assert len(position) == self.rank, (position, self)
        if self.array is not None:
            return self._constant_at(position)
        if self.buffer is not None:
            assert self.layout is not None
            return ex.load(self.buffer, self.layout.offset(position))
        if self.element is None:
            raise Unsupported(f"a value of unknown rank or of type {self.dtype} has no elements in native code")
        return self.element(position)

    def _constant_at(self, position: Position) -> Expr:
        array = self.array
        assert array is not None
        if array.size == 1:
            return ex.constant(array.reshape(-1)[0], self.dtype)
        if ix.are_known(position):
            return ex.constant(array[position], self.dtype)
        buffer = self.ctx.constant_buffer(array, self.dtype)
        return ex.load(buffer, Plain(self.shape).offset(position))

    def scalar(self) -> Expr:
        """The first element (of a tensor with one); a tensor without any is an error."""
        self.ctx.check(ex.index(self.size) >= 1, "shape", "a value without elements where one is needed")
        return self.at((0,) * self.rank)
