"""The hand-written kernels: one table of rows.

Tests read it: each `kernels/c/*.c` has a row, compiles alone for every target without an undefined symbol, has the
tiles that the row says, and keeps its hot loop in registers. What a kernel computes and asks of its caller in full
stands above its arguments in its header; how it is cut into tasks and tiles stands above its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["KERNELS", "SUPPORT", "Kernel"]


@dataclass(frozen=True)
class Kernel:
    """One hand-written kernel, `NAME.c` and `NAME.h`.

    Attributes:
        name: The C function and the names of its files.
        computes: What, in one line.
        layouts: Of operands and result.
        order: In which order each result is summed, or why no order shows.
        obligations: What the caller must see to.
        test: The file that tests it, in `tests`.
        serial: Called once with the host, and returns a count or an error; else an `sx_task`.
        tile: Macros of the register tile; empty where there is none.
        tiles: Their values, chosen by the macros VL and VREGS of simd.h, for each width of registers.
        hot: Instructions (a regular expression) of the loop in which the time goes; empty where that has no products.
        hot_in: How the names of the functions with that loop begin.
        tunables: Macros that `sardonyx tune` may set, with the values that it tries beside what the file says. They cut
            work into chunks and tasks; none may change a bit of a result.
    """

    name: str
    computes: str
    layouts: str
    order: str
    obligations: str
    test: str
    serial: bool = False
    tile: tuple[str, ...] = ()
    tiles: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    hot: str = ""
    hot_in: str = ""
    tunables: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file's name in `kernels/c`."""
        return f"{self.name}.c"


_FMA = r"fmadd|fmla"
_CONV = ("CONV_MR", "CONV_NB")
_CONV_TILES = {
    "x86_64_v2": (2, 1),
    "x86_64_v3": (6, 1),
    "icelake_server": (14, 2),
    "aarch64": (6, 1),
    "riscv64_v": (6, 1),
}
_ROWS = ("MR",)
_ROW_TILES = {"x86_64_v2": (2,), "x86_64_v3": (6,), "icelake_server": (14,), "aarch64": (6,), "riscv64_v": (6,)}
_BLOCKED = "NCHW16c to NCHW16c"
_NHWC = "NHWC to NHWC"
_TASKS = "scratch of NAME_scratch() bytes"
_CONV_TUNABLES = {"CHUNK": (4, 8, 12, 24, 32), "POSITIONS": (42, 84, 168, 252, 336), "OC_GROUP": (4, 8, 32)}
_ANY = "none: comparisons and copies do not round"

_ALL = (
    Kernel(
        "matmul_f32",
        "C = A B, batched, with an epilogue",
        "A any strides; B any strides or panels of 16 columns (packing.pack_panels); C rows",
        "k ascending, from 0",
        f"{_TASKS}; rows of C contiguous; C may not overlap A or B",
        "kernels/test_matmul_f32.py",
        tile=_ROWS,
        tiles=_ROW_TILES,
        hot=_FMA,
        tunables={"KC": (256, 384, 512), "PACKED_PANELS": (4, 8, 32), "TASK_WORK": (1 << 18, 1 << 19, 1 << 21)},
    ),
    Kernel(
        "matmul_int8",
        "C = (A - a_zero) (B - b_zero) in exact int32, with an epilogue",
        "A rows; B any strides or panels of 16 columns x 4 (packing_int8); C rows",
        "free: sums of integers wrap",
        f"{_TASKS}; rows of A and C contiguous; column sums beside a packed B; sums without memory in rows of own_row",
        "kernels/test_matmul_int8.py",
        tile=("MR", "PANELS"),
        tiles={**_CONV_TILES, "aarch64": (5, 1), "riscv64_v": (5, 1)},
        hot=r"pmaddwd|vpdp|smull|sdot|vwmacc",
    ),
    Kernel(
        "matmul_nbits_f32",
        "C = A W with weights kept in 4 or 8 bits, with an epilogue",
        "A rows; W words of 32 bits in panels of 16 columns, scales alike (packing_bits); C rows",
        "k ascending, from 0, as matmul_f32",
        f"{_TASKS}; rows of A and C contiguous; blocks of whole words",
        "kernels/test_matmul_nbits_f32.py",
        tile=_ROWS,
        tiles=_ROW_TILES,
        hot=_FMA,
        hot_in="matmul_tile",
    ),
    Kernel(
        "range_f32",
        "the largest and the least of each block of numbers",
        "contiguous numbers",
        _ANY,
        _TASKS,
        "kernels/test_range_f32.py",
    ),
    Kernel(
        "conv_nhwc_int8",
        "convolution of bytes, grouped, as bytes again (plus others) or int32 sums, with an epilogue",
        f"{_NHWC}; weights packing_int8.pack_conv_nhwc",
        "free: sums of integers wrap",
        f"{_TASKS}; 64 bytes beyond x can be read; scales are finite",
        "kernels/test_conv_nhwc_int8.py",
        tile=("MR", "PANELS"),
        tiles={**_CONV_TILES, "aarch64": (5, 1), "riscv64_v": (5, 1), "sapphirerapids": (32, 2)},
        hot=r"pmaddwd|vpdp|smull|sdot|vwmacc",
        hot_in="conv_int8_",
    ),
    Kernel(
        "depthwise_nhwc_int8",
        "depthwise convolution of bytes, as bytes again or int32 sums, with an epilogue",
        f"{_NHWC}; weights packing_int8.pack_depthwise_nhwc",
        "free: sums of integers wrap",
        f"{_TASKS}; 64 bytes beyond x can be read; scales are finite",
        "kernels/test_depthwise_nhwc_int8.py",
        hot=r"pmaddwd|vpdp|smull|sdot|vwmacc",
    ),
    Kernel(
        "pool_nhwc_int8",
        "maximum pooling of bytes, or int32 sums of windows, with an epilogue",
        _NHWC,
        _ANY,
        _TASKS,
        "kernels/test_depthwise_nhwc_int8.py",
    ),
    Kernel(
        "conv_nchw16c_f32",
        "direct convolution, grouped, with an epilogue",
        f"{_BLOCKED}; weights packing.pack_conv",
        "input channel block, kh, kw, channel; from 0",
        f"{_TASKS}; groups of whole channel blocks; lanes beyond the last channel are 0 in x and weights",
        "kernels/test_conv.py",
        tile=_CONV,
        tiles=_CONV_TILES,
        hot=_FMA,
        tunables=_CONV_TUNABLES,
    ),
    Kernel(
        "conv_rows_nchw16c_f32",
        "direct convolution of groups with few blocks of outputs, with an epilogue",
        f"{_BLOCKED}; weights packing.pack_conv",
        "as conv_nchw16c_f32: the same bits",
        f"{_TASKS}; as conv_nchw16c_f32; stride_w <= 2, (kw - 1) * dilation_w <= 16",
        "kernels/test_conv.py",
        tile=("ROWS_MR", "ROWS_NB"),
        tiles=_CONV_TILES,
        hot=_FMA,
    ),
    Kernel(
        "conv_first_f32",
        "direct convolution of few channels, with an epilogue",
        "NCHW to NCHW16c; weights packed for a plain input",
        "channel, kh, kw; from 0",
        f"{_TASKS}; one group",
        "kernels/test_conv.py",
        tile=_CONV,
        tiles=_CONV_TILES,
        hot=_FMA,
        tunables={"CHUNK": (40, 80, 320), "POSITIONS": (252, 504, 2016), "OC_GROUP": (2, 4, 8)},
    ),
    Kernel(
        "winograd_f32",
        "convolution 3x3 by Winograd's F(4x4, 3x3), with an epilogue",
        f"{_BLOCKED}; weights packing.pack_conv",
        "channels ascending in each of 36 positions, between transforms of a fixed form",
        f"{_TASKS}; chosen in the program, never by target: its rounding is its own",
        "kernels/test_winograd.py",
        tile=_CONV,
        tiles=_CONV_TILES,
        hot=_FMA,
        hot_in="winograd_tile_",
    ),
    Kernel(
        "winograd_input_f32",
        "the input transform of winograd_f32, once for all its tasks",
        "NCHW16c to blocks of tiles",
        "a fixed form",
        _TASKS,
        "kernels/test_winograd.py",
    ),
    Kernel(
        "winograd_weights_f32",
        "the weight transform of winograd_f32, once for all its tasks",
        "weights packing.pack_conv to weights transformed",
        "a fixed form",
        _TASKS,
        "kernels/test_winograd.py",
    ),
    Kernel(
        "reorder_nchw16c_f32",
        "activations from one layout to the other",
        "NCHW to NCHW16c, or back",
        _ANY,
        _TASKS,
        "kernels/test_reorder.py",
    ),
    Kernel(
        "depthwise_nchw16c_f32",
        "depthwise convolution, with an epilogue",
        f"{_BLOCKED}; weights packing.pack_depthwise",
        "kh, kw; from 0",
        f"{_TASKS}; lanes beyond the last channel are 0 in weights",
        "kernels/test_depthwise.py",
        hot=_FMA,
        hot_in="inner_",
    ),
    Kernel(
        "grouped_nchw16c_f32",
        "convolution of groups of 2, 4 or 8 channels in and out, with an epilogue",
        f"{_BLOCKED}; weights packing.pack_grouped",
        "kh, channel of the group from the output's own pair on, kw; from 0",
        f"{_TASKS}; lanes beyond the last channel are 0 in x and weights",
        "kernels/test_grouped.py",
        hot=_FMA,
        hot_in="inner_",
    ),
    Kernel(
        "channels_nchw16c_f32",
        "channels in another order, repeated, left out or 0, with an epilogue",
        _BLOCKED,
        _ANY,
        f"{_TASKS}; channels of x that exist",
        "kernels/test_channels.py",
    ),
    Kernel(
        "stream_nchw16c_f32",
        "1x1 convolutions around a depthwise one, by bands, with epilogues",
        f"{_BLOCKED}; weights as of its layers",
        "as its layers: the same bits",
        f"{_TASKS}; epilogues write what is their layer's own alone; calls depthwise_nchw16c_f32_rows by address",
        "kernels/test_stream.py",
        tile=_CONV,
        tiles=_CONV_TILES,
        hot=_FMA,
    ),
    Kernel(
        "pool_nchw16c_f32",
        "maximum and average pooling, global average, with an epilogue",
        _BLOCKED,
        "kh, kw; the global average in 4 partial sums, position p in p % 4",
        _TASKS,
        "kernels/test_pool.py",
    ),
    Kernel(
        "pool_rows_f32",
        "maximum and average pooling in up to three dimensions, with an epilogue",
        "NCDHW to NCDHW",
        "kd, kh, kw",
        _TASKS,
        "kernels/test_pool_rows.py",
    ),
    Kernel(
        "attention_f32",
        "softmax(scale q k' + mask) v without the scores in memory",
        "any strides; rows of the result contiguous",
        "depth and keys ascending; the sum of exponentials in 16 lanes, folded 8, 4, 2, 1",
        f"{_TASKS}; heads a multiple of kv_heads",
        "ops/test_attention.py",
        tile=_ROWS,
        tiles=_ROW_TILES,
        hot=_FMA,
        hot_in="matmul_tile",
    ),
    Kernel(
        "recurrent_f32",
        "the steps of LSTM, GRU and RNN in float",
        "rows; weights in panels of 16 columns",
        "k ascending in each product",
        f"{_TASKS}; one task for each direction and part of the batch",
        "ops/test_recurrent.py",
        tile=_ROWS,
        tiles=_ROW_TILES,
        hot=_FMA,
        hot_in="matmul_tile",
    ),
    Kernel(
        "recurrent_int8",
        "the steps of LSTM, GRU and RNN whose state is rounded to bytes at each step",
        "rows; weights packing_int8.pack_quads of each direction",
        "free: sums of integers wrap; then in float, element by element",
        f"{_TASKS}; one task for each direction",
        "ops/test_recurrent_int8.py",
        tile=_ROWS,
        tiles={"x86_64_v2": (1,), "x86_64_v3": (2,), "icelake_server": (6,), "aarch64": (2,), "riscv64_v": (2,)},
        hot=r"pmaddwd|vpdp|smull|sdot|vwmacc",
        hot_in="quad_tile",
    ),
    Kernel(
        "recurrent_bytes_f32",
        "the steps of LSTM, GRU and RNN in float, with weights of bytes",
        "rows; weights in panels of 16 columns",
        "k ascending in each product, as recurrent_f32",
        f"{_TASKS}; one task for each direction and part of the batch",
        "ops/test_recurrent_int8.py",
        tile=_ROWS,
        tiles={"x86_64_v2": (1,), "x86_64_v3": (4,), "icelake_server": (9,), "aarch64": (4,), "riscv64_v": (4,)},
        hot=_FMA,
        hot_in="bytes_tile",
    ),
    Kernel(
        "recurrent_f64",
        "the steps of LSTM, GRU and RNN in double",
        "rows; weights in panels of 16 columns",
        "k ascending in each product",
        f"{_TASKS}; one task for each direction and part of the batch",
        "ops/test_recurrent.py",
    ),
    Kernel(
        "fft_f32",
        "discrete Fourier transforms of signals or frames, in float",
        "real or complex numbers, any stride from sample to sample, to [outer][frames][bins][inner] of them",
        "steps of radix 4, 2, 3, 5, other primes; cut into rows and columns by the length alone",
        f"{_TASKS}; tables of factors for `points` as fft_points gives it",
        "kernels/test_fft.py",
    ),
    Kernel(
        "fft_f64",
        "discrete Fourier transforms of signals or frames, in double",
        "real or complex numbers, any stride from sample to sample, to [outer][frames][bins][inner] of them",
        "steps of radix 4, 2, 3, 5, other primes; cut into rows and columns by the length alone",
        f"{_TASKS}; tables of factors for `points` as fft_points gives it",
        "kernels/test_fft.py",
    ),
    Kernel(
        "fft_points",
        "the length of the transform that computes one of n points",
        "none",
        _ANY,
        "n >= 0",
        "kernels/test_fft.py",
        serial=True,
    ),
    Kernel(
        "tree_leaves_f32",
        "the leaves of float decision trees that few rows fall to",
        "rows of features; nodes packed by cache lines",
        "none",
        _TASKS,
        "ops/test_trees.py",
    ),
    Kernel(
        "tree_leaves_f64",
        "the leaves of double decision trees that few rows fall to",
        "rows of features; nodes packed by cache lines",
        "none",
        _TASKS,
        "ops/test_trees.py",
    ),
    Kernel(
        "tree_ensemble_f32",
        "decision trees on float features",
        "rows of features; nodes packed by cache lines",
        "trees in the model's order",
        _TASKS,
        "ops/test_trees.py",
    ),
    Kernel(
        "tree_ensemble_f64",
        "decision trees on double features",
        "rows of features; nodes packed by cache lines",
        "trees in the model's order",
        _TASKS,
        "ops/test_trees.py",
    ),
    Kernel(
        "topk",
        "the k largest or smallest along an axis, with their positions",
        "[outer][extent][inner] to [outer][k][inner], any numeric type",
        _ANY,
        f"{_TASKS}; 0 <= k <= extent",
        "ops/test_onnx_nodes.py",
    ),
    Kernel(
        "roi_align_f32",
        "mean or maximum of bilinear samples in regions",
        "NCHW or NCHW16c to NCHW",
        "samples row by row, the four pixels of each first",
        _TASKS,
        "kernels/test_roi_align.py",
    ),
    Kernel("max_roi_pool_f32", "maximum in regions", "NCHW", _ANY, _TASKS, "ops/test_onnx_nodes.py"),
    Kernel(
        "determinant",
        "determinants, by elimination with row exchanges",
        "square matrices in rows",
        "columns eliminated in order",
        _TASKS,
        "ops/test_patches.py",
    ),
    Kernel(
        "non_max_suppression",
        "boxes in order of their scores, without those that overlap a better one",
        "boxes and scores in rows, to triples (batch, class, box)",
        _ANY,
        "room for batches * classes * min(boxes, most) triples",
        "ops/test_onnx_nodes.py",
        serial=True,
    ),
    Kernel(
        "positions",
        "positions of non-zero elements",
        "bool, row major, to int64",
        _ANY,
        "room for as many positions as elements",
        "ops/test_onnx_nodes.py",
        serial=True,
    ),
    Kernel(
        "scatter",
        "set, add, multiply, maximum or minimum at indices, in place",
        "rows of updates, any numeric type",
        "updates in their order",
        "the data copied to the output before; at most 8 addressed axes",
        "ops/test_indexing.py",
        serial=True,
    ),
    Kernel(
        "unique",
        "distinct rows, sorted or in order of first occurrence",
        "[rows][width] of double or int64",
        _ANY,
        "memory for 3 * rows numbers",
        "ops/test_onnx_nodes.py",
        serial=True,
    ),
)
KERNELS: dict[str, Kernel] = {row.name: row for row in _ALL}

# Files of kernels/c that are no kernels.
SUPPORT: dict[str, str] = {
    "builtins": "memory functions that Clang calls; linked into everything",
    "peak": "what the machine can do at best: products and bytes a second",
    "pool": "threads, memory and clock of the host inside a process",
    "direct": "a run of the usual kind called by the interpreter: checks, output arrays, results",
    "runner": "the host as a static Linux program, for emulators and guarded memory",
}
