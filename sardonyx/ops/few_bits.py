"""Products with weights of few bits, which stay so in memory (`matmul_nbits_f32`)."""

from __future__ import annotations

import numpy as np

from sardonyx.compiler import index as ix
from sardonyx.compiler.dtypes import is_float
from sardonyx.compiler.lower import Lowering
from sardonyx.compiler.program import Kernel, Pointer
from sardonyx.compiler.tensor import Tensor
from sardonyx.kernels.packing_bits import pack_bits, pack_rows
from sardonyx.ops.binary import map_elements
from sardonyx.ops.linalg import cast, product, row_fields, view
from sardonyx.ops.node import Node
from sardonyx.ops.registry import operator

MS = "com.microsoft"


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The last axis of uint8 `packed` as `count` numbers of `bits` bits each, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return values.reshape(*packed.shape[:-1], -1)[..., :count]


def product_of_bits(
    ctx: Lowering, a: Tensor, q: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, *, bits: int, block: int
) -> Tensor:
    """``a @ ((q - zeros) * scales)``: the bits that a product of floats would give.

    Args:
        ctx: where the call goes to.
        a: [..., K] of floats; half types are computed in float32 and rounded once.
        q: numbers 0 .. 2^bits - 1 as uint8 [K, N].
        scales: float [blocks, N], one for each run of `block` rows of `q`.
        zeros: likewise; None: the middle, 2^(bits - 1).
        bits: 4 or 8.
        block: at least 1; the last block may be shorter.
    """
    if a.dtype != "float32":
        return cast(
            ctx, product_of_bits(ctx, cast(ctx, a, "float32"), q, scales, zeros, bits=bits, block=block), a.dtype
        )
    (k, n), per = q.shape, 32 // bits
    ctx.equal_dims(a.shape[-1], k, "inner dimensions differ")
    if a.rank == 1:
        row = view(ctx, a, (1, *a.shape), lambda i: (i[1],))
        full = product_of_bits(ctx, row, q, scales, zeros, bits=bits, block=block)
        return view(ctx, full, full.shape[1:], lambda i: (0, *i))
    if block % per:  # the kernel has no words for these
        return _product_of_floats(ctx, a, q, np.repeat(scales, block, axis=0)[:k],
                                  None if zeros is None else np.repeat(zeros, block, axis=0)[:k], bits)  # fmt: skip
    rows, m = row_fields(ctx, a)
    fields: dict = {"a": rows["a"], "a_row": rows["a_row"], "bits": bits, "block": block, "m": m, "n": n, "k": k}
    fields["b"] = Pointer(ctx.constant_buffer(pack_bits(q, bits), "int32"))
    fields["scales"] = Pointer(ctx.constant_buffer(pack_rows(scales.astype(np.float32)), "float32"))
    if zeros is not None and not np.all(zeros == 1 << (bits - 1)):
        offsets = zeros.astype(np.float32) - np.float32(1 << (bits - 1))
        fields["zeros"] = Pointer(ctx.constant_buffer(pack_rows(offsets), "float32"))
    shape = (*a.shape[:-1], n)
    buffer = ctx.temporary("float32", ix.product(shape))
    fields |= {"c": Pointer(buffer), "c_row": n}
    ctx.open_kernel(
        Kernel("matmul_nbits_f32", fields, (buffer,), domain=(1, 1, m, n), strides=(m * n, m * n, n, 1), target="c",
               pitches=("", "", "c_row"))
    )  # fmt: skip
    return ctx.in_memory(buffer, shape)


def _product_of_floats(
    ctx: Lowering, a: Tensor, q: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int
) -> Tensor:
    """The same with the weights as floats, and a scale for each of them."""
    offset = np.float32(1 << (bits - 1)) if zeros is None else zeros.astype(np.float32)
    return product(ctx, a, ctx.constant((q.astype(np.float32) - offset) * scales.astype(np.float32)))


@operator("MatMulNBits", domain=MS)
def matmul_n_bits(
    ctx: Lowering, node: Node, a: Tensor, b: Tensor, scales: Tensor, zeros: Tensor | None = None,
    group: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A product with weights of 2, 4 or 8 bits in blocks, [N, blocks, bytes]; those of 2 are kept in 4."""
    ctx.native(a, bias)
    ctx.requires(is_float(a.dtype), f"a product of {a.dtype}")
    known = [b, scales, *(t for t in (zeros, group) if t is not None)]
    ctx.requires(all(t.array is not None for t in known), "weights that are computed")
    k, n, bits, block = (node.attr(name, default) for name, default in
                         (("K", 0), ("N", 0), ("bits", 4), ("block_size", 32)))  # fmt: skip
    ctx.requires(bits in (2, 4, 8), f"weights of {bits} bits")
    assert b.array is not None
    assert scales.array is not None
    order, blocks = None if group is None else group.array, -(-k // block)
    ctx.requires(order is None or np.array_equal(order, np.arange(k) // block), "columns in another order of groups")
    numbers = unpack_bits(b.array.reshape(n, blocks, -1), bits, block).reshape(n, -1)[:, :k].T
    offsets = None if zeros is None else _zeros(np.asarray(zeros.array), bits, n, blocks)
    if bits == 2 and offsets is None:
        offsets = np.full((blocks, n), 2, np.float32)
    raw = product_of_bits(
        ctx, a, numbers, scales.array.reshape(n, blocks).T, offsets, bits=max(bits, 4), block=block
    )  # fmt: skip
    return raw if bias is None else map_elements(ctx, lambda x, y: x + y, raw, bias, shape=raw.shape)


def _zeros(zeros: np.ndarray, bits: int, n: int, blocks: int) -> np.ndarray:
    """Zero points [blocks, N] in float32, stored as packed numbers or as floats."""
    if zeros.dtype == np.uint8:
        return unpack_bits(zeros.reshape(n, -1), bits, blocks).astype(np.float32).T
    return zeros.reshape(n, blocks).astype(np.float32).T


# What the optimizer makes of DequantizeLinear before a product (see optimizer/fuse_weights.py).


@operator("MatMulDequantized", domain="ai.sardonyx")
def matmul_dequantized(
    ctx: Lowering, node: Node, a: Tensor, q: Tensor, scales: Tensor, zeros: Tensor | None = None
) -> Tensor:
    """``a @ ((q - zeros) * scales)`` of numbers of `bits` bits as uint8 [K, N] and floats [blocks, N]."""
    arrays = [None if t is None else t.array for t in (q, scales, zeros)]
    assert arrays[0] is not None
    assert arrays[1] is not None
    return product_of_bits(
        ctx, a, arrays[0], arrays[1], arrays[2], bits=node.attr("bits"), block=node.attr("block")
    )  # fmt: skip
