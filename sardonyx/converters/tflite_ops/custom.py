"""Operators that are no part of TensorFlow Lite, but of widespread models."""

from __future__ import annotations

import struct
from types import SimpleNamespace

from sardonyx.converters.tflite_graph import Node, Subgraph, operator
from sardonyx.converters.tflite_ops.convolution import transposed


@operator("CUSTOM:Convolution2DTransposeBias")
def convolution_2d_transpose_bias(c: Subgraph, node: Node) -> None:
    """MediaPipe's transposed convolution with bias; its options are the interpreter's struct as it lies in memory."""
    raw = node.raw.custom_options
    if raw is None or len(raw) < 12:
        raise node.refuse("its options are missing", "The file is damaged.")
    padding, width, height = struct.unpack_from("<3i", bytes(raw))
    if padding not in (1, 2) or width < 1 or height < 1:
        raise node.refuse(f"padding {padding}, strides {height} and {width}", "The file is damaged.")
    options = SimpleNamespace(padding=padding - 1, stride_w=width, stride_h=height)
    bias = (c.get(node.input(2)),) if node.optional(2) is not None else ()
    transposed(c, node, options, node.input(0), node.input(1), bias)
