"""The file format of TensorFlow Lite: its tables, its operators and its types, and a model read from it."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from sardonyx.converters.flatbuffer import FlatBuffer, parse_schema
from sardonyx.errors import SourceError

SCHEMA = parse_schema("""
Model version:u32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:str buffers:[Buffer] \
metadata_buffer:[i32] metadata:[Metadata] signature_defs:[SignatureDef]
OperatorCode deprecated_builtin_code:i8 custom_code:str version:i32=1 builtin_code:i32
SubGraph tensors:[Tensor] inputs:[i32] outputs:[i32] operators:[Operator] name:str
Tensor shape:[i32] type:i8 buffer:u32 name:str quantization:Quantization is_variable:bool sparsity:Sparsity \
shape_signature:[i32]
Quantization min:[f32] max:[f32] scale:[f32] zero_point:[i64] details:Union quantized_dimension:i32
Sparsity traversal_order:[i32] block_map:[i32] dim_metadata:[DimensionMetadata]
DimensionMetadata format:i8 dense_size:i32 array_segments:Union array_indices:Union
Int32Vector values:[i32]
Uint16Vector values:[u16]
Uint8Vector values:[u8]
Operator opcode_index:u32 inputs:[i32] outputs:[i32] builtin_options:Union custom_options:[u8] \
custom_options_format:i8 mutating_variable_inputs:[bool] intermediates:[i32]
Buffer data:[u8] offset:u64 size:u64
Metadata name:str buffer:u32
SignatureDef inputs:[TensorMap] outputs:[TensorMap] signature_key:str deprecated_tag:str subgraph_index:u32
TensorMap name:str tensor_index:u32
""")

# Tables of options, with their number in the union BuiltinOptions.
_OPTIONS = """
1 Conv2D padding:i8 stride_w:i32 stride_h:i32 activation:i8 dilation_w:i32=1 dilation_h:i32=1
2 DepthwiseConv2D padding:i8 stride_w:i32 stride_h:i32 depth_multiplier:i32 activation:i8 dilation_w:i32=1 \
dilation_h:i32=1
5 Pool2D padding:i8 stride_w:i32 stride_h:i32 filter_w:i32 filter_h:i32 activation:i8
6 SVDF rank:i32 activation:i8 asymmetric:bool
7 RNN activation:i8 asymmetric:bool
8 FullyConnected activation:i8 weights_format:i8 keep_num_dims:bool asymmetric:bool
9 Softmax beta:f32
10 Concatenation axis:i32 activation:i8
11 Add activation:i8
12 L2Norm activation:i8
13 LocalResponseNormalization radius:i32 bias:f32 alpha:f32 beta:f32
14 LSTM activation:i8 cell_clip:f32 proj_clip:f32 kernel_type:i8
15 ResizeBilinear unused_h:i32 unused_w:i32 align_corners:bool half_pixel_centers:bool
17 Reshape new_shape:[i32]
19 SpaceToDepth block_size:i32
21 Mul activation:i8
23 Gather axis:i32 batch_dims:i32
27 Reducer keep_dims:bool
28 Sub activation:i8
29 Div activation:i8
30 Squeeze squeeze_dims:[i32]
31 SequenceRNN time_major:bool activation:i8
32 StridedSlice begin_mask:i32 end_mask:i32 ellipsis_mask:i32 new_axis_mask:i32 shrink_axis_mask:i32 offset:bool
35 Split num_splits:i32
37 Cast in_type:i8 out_type:i8
40 ArgMax output_type:i8
49 TransposeConv padding:i8 stride_w:i32 stride_h:i32 activation:i8
55 Shape out_type:i8
57 ArgMin output_type:i8
58 FakeQuant min:f32 max:f32 num_bits:i32 narrow_range:bool
59 Pack values_count:i32 axis:i32
61 OneHot axis:i32
64 Unpack num:i32 axis:i32
69 BidirectionalSequenceLSTM activation:i8 cell_clip:f32 proj_clip:f32 merge_outputs:bool time_major:bool=1
70 BidirectionalSequenceRNN time_major:bool activation:i8 merge_outputs:bool
71 UnidirectionalSequenceLSTM activation:i8 cell_clip:f32 proj_clip:f32 time_major:bool
74 ResizeNearestNeighbor align_corners:bool half_pixel_centers:bool
75 LeakyRelu alpha:f32
77 MirrorPad mode:i8
79 SplitV num_splits:i32
80 Unique idx_out_type:i8=2
87 ReverseSequence seq_dim:i32 batch_dim:i32
92 If then_subgraph:i32 else_subgraph:i32
93 While cond_subgraph:i32 body_subgraph:i32
94 DepthToSpace block_size:i32
101 BatchMatMul adj_x:bool adj_y:bool
102 Cumsum exclusive:bool reverse:bool
103 CallOnce init_subgraph:i32
106 Conv3D padding:i8 stride_d:i32 stride_w:i32 stride_h:i32 activation:i8 dilation_d:i32=1 dilation_w:i32=1 \
dilation_h:i32=1
111 VarHandle container:str shared_name:str
114 Random seed:i64 seed2:i64
115 Bucketize boundaries:[f32]
116 Gelu approximate:bool
"""
UNION = {int(line.split()[0]): line.split()[1] for line in _OPTIONS.strip().splitlines()}
SCHEMA |= parse_schema("\n".join(line.partition(" ")[2] for line in _OPTIONS.strip().splitlines()))

# In the order of their numbers.
OPERATORS = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM
MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2
GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG
SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT
UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE
MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND
SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL
COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
""".split()  # noqa: SIM905  # a table of names
_CUSTOM = OPERATORS.index("CUSTOM")

TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8", "float64",
    "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16",
)  # fmt: skip


def read_model(data: bytes) -> SimpleNamespace:
    """The root table of a model.

    Raises:
        SourceError: it is damaged, or no model of TensorFlow Lite.
    """
    if data[4:8] != b"TFL3":
        raise SourceError("the file is no TensorFlow Lite model: the mark TFL3 is missing")
    reader = FlatBuffer(data, SCHEMA)
    model = reader.root("Model")
    if not model.subgraphs or (model.operator_codes is None and any(g.operators for g in model.subgraphs)):
        raise SourceError("the TensorFlow Lite model has no graph", hint="It is damaged; convert or copy it again.")
    model.reader = reader
    return model


def operator_name(model: SimpleNamespace, operator: SimpleNamespace) -> str:
    """The name of an operator; custom ones as ``CUSTOM:name``."""
    codes = model.operator_codes or []
    if operator.opcode_index >= len(codes):
        raise SourceError(f"the file is damaged: operator code {operator.opcode_index} of {len(codes)}")
    code = codes[operator.opcode_index]
    number = max(code.builtin_code, code.deprecated_builtin_code)  # numbers from 127 on are in the newer field only
    if number == _CUSTOM:
        return f"CUSTOM:{code.custom_code or ''}"
    return OPERATORS[number] if 0 <= number < len(OPERATORS) else f"operator {number}"


def options_of(model: SimpleNamespace, operator: SimpleNamespace, table: str) -> SimpleNamespace:
    """The options of an operator, defaults where the file has none.

    Raises:
        SourceError: they are those of another operator.
    """
    number, at = operator.builtin_options
    if number == 0:
        return SimpleNamespace(**{field.name: field.default for field in SCHEMA[table]})
    if UNION.get(number) != table:
        raise SourceError(f"the file is damaged: options of kind {number} where {table} belongs")
    return model.reader.table(table, at)


def constant(model: SimpleNamespace, tensor: SimpleNamespace) -> np.ndarray | None:
    """The value of a constant tensor, dense; None: it is no constant.

    Raises:
        SourceError: its bytes do not fit its shape.
    """
    buffers = model.buffers or []
    if tensor.buffer >= len(buffers):
        raise SourceError(f"the file is damaged: buffer {tensor.buffer} of {len(buffers)}")
    buffer = buffers[tensor.buffer]
    data = buffer.data
    if buffer.offset > 1:  # files above 2 GB keep weights behind the tables
        whole = model.reader.data
        if buffer.offset + buffer.size > len(whole):
            raise SourceError(f"the file is damaged: buffer {tensor.buffer} reaches beyond its end")
        data = np.frombuffer(whole, np.uint8, buffer.size, buffer.offset)
    if data is None or tensor.buffer == 0 or tensor.is_variable:
        return None
    shape = [int(dim) for dim in tensor.shape] if tensor.shape is not None else []
    kind = type_name(tensor)
    if len(data) == 0 and (kind in ("resource", "variant") or int(np.prod(shape)) != 0):
        return None
    if kind == "string":
        return _strings(bytes(data), shape)
    count = int(np.prod(shape, dtype=object))
    if tensor.sparsity is not None:
        return _dense(model, tensor, _typed(data, kind, None), shape)
    if min(shape, default=0) < 0 or count > 8 * max(1, len(data)):
        raise SourceError(f"the file is damaged: tensor {tensor.name!r} of shape {shape} in {len(data)} bytes")
    return _typed(data, kind, count, tensor.name).reshape(shape)


def type_name(tensor: SimpleNamespace) -> str:
    """The element type of a tensor."""
    if not 0 <= tensor.type < len(TYPES):
        raise SourceError(f"tensor {tensor.name!r} has the unknown element type {tensor.type}")
    return TYPES[tensor.type]


def _typed(data: np.ndarray, kind: str, count: int | None, name: str | None = "") -> np.ndarray:
    if kind in ("resource", "variant", "string"):
        raise SourceError(f"the file is damaged: constant {name!r} of type {kind}")
    if kind == "int4":  # two in a byte, the lower first
        both = np.stack([data & 15, data >> 4], 1).reshape(-1).astype(np.int8)
        values = np.where(both > 7, both - 16, both).astype(np.int8)[:count]
    else:
        dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
        values = np.frombuffer(data.tobytes(), dtype, len(data) // dtype.itemsize)[:count]
    if count is not None and len(values) < count:
        raise SourceError(f"the file is damaged: constant {name!r} holds {len(values)} of {count} values")
    return values


def _strings(data: bytes, shape: list[int]) -> np.ndarray:
    """Texts are stored as their number, where each begins and the last ends, and their characters."""
    count = int.from_bytes(data[:4], "little")
    if 4 * (count + 2) > len(data):
        raise SourceError("the file is damaged: a constant of texts is cut off")
    at = np.frombuffer(data, "<i4", count + 1, 4)
    if np.any(at < 0) or np.any(np.diff(at) < 0) or at[-1] > len(data) or int(np.prod(shape, dtype=object)) != count:
        raise SourceError("the file is damaged: a constant of texts does not fit its shape")
    texts = [data[a:b].decode("utf-8", "replace") for a, b in pairwise(at)]
    return np.array(texts, object).reshape(shape)


def _dense(model: SimpleNamespace, tensor: SimpleNamespace, values: np.ndarray, shape: list[int]) -> np.ndarray:
    """A sparse constant written out: levels of dense and compressed dimensions, blocks innermost (TACO's format)."""
    sparsity = tensor.sparsity
    order = [int(axis) for axis in sparsity.traversal_order] if sparsity.traversal_order is not None else []
    blocks = [int(axis) for axis in sparsity.block_map] if sparsity.block_map is not None else []
    levels = sparsity.dim_metadata or []
    rank = len(shape)
    bad = SourceError(f"the file is damaged: the sparse constant {tensor.name!r} is inconsistent")
    if sorted(order) != list(range(rank + len(blocks))) or len(levels) != len(order):
        raise bad
    if any(not 0 <= axis < rank for axis in blocks) or int(np.prod(shape, dtype=object)) > 1 << 28:
        raise bad
    # Each stored value's coordinate along each level, refined level by level.
    coordinates: list[np.ndarray] = []
    parents = np.zeros(1, np.int64)
    sizes = {}
    for axis, level in zip(order, levels, strict=True):
        if level.format == 0:
            if len(parents) * max(level.dense_size, 1) > len(values) * 2 + (1 << 20) or level.dense_size < 1:
                raise bad
            sizes[axis] = level.dense_size
            index = np.tile(np.arange(level.dense_size), len(parents))
            repeat = np.repeat(np.arange(len(parents)), level.dense_size)
        else:
            segments, indices = (_index_vector(model, pair) for pair in (level.array_segments, level.array_indices))
            if len(segments) != len(parents) + 1 or segments[0] != 0 or np.any(np.diff(segments) < 0):
                raise bad
            if segments[-1] != len(indices) or np.any(indices < 0):
                raise bad
            index = indices
            repeat = np.repeat(np.arange(len(parents)), np.diff(segments))
        coordinates = [found[repeat] for found in coordinates] + [index]
        parents = np.arange(len(index))
    if len(parents) > len(values):
        raise bad
    where = dict(zip(order, coordinates, strict=True))
    position = [where[axis] for axis in range(rank)]
    for number, axis in enumerate(blocks):
        block = sizes.get(rank + number)
        if block is None:
            raise bad
        position[axis] = position[axis] * block + where[rank + number]
    if any(np.any(found >= size) for found, size in zip(position, shape, strict=True)):
        raise bad
    dense = np.zeros(shape, values.dtype)
    dense[tuple(position)] = values[: len(parents)]
    return dense


def _index_vector(model: SimpleNamespace, pair: tuple[int, int]) -> np.ndarray:
    number, at = pair
    table = {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}.get(number)
    found: Any = model.reader.table(table, at).values if table else None
    return np.zeros(0, np.int64) if found is None else found.astype(np.int64)
