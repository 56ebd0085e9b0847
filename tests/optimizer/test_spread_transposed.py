"""Which quantised transposed convolutions become a 1x1 convolution."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from sardonyx.optimizer.spread_transposed import SpreadTransposed

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


def spread(
    attributes: str = "strides = [2, 2]", weights: str = "int8[2,3,2,2]", scale: str = "float[3]", axis: int = 1
):
    """Operators after the pass, and whether it says that it did something."""
    count = onnx.parser.parse_graph(f"g ({weights} w) => (float y) {{ }}").input[0].type.tensor_type.shape
    size = 1
    for dim in count.dim:
        size *= dim.dim_value
    numbers = ", ".join(["1"] * size)
    scales = ", ".join(["0.5"] * (3 if "3" in scale else 1))
    text = f"""{HEADER} g (float[1,2,4,5] x) => (float[1,3,h,v] y)
        <{weights} w = {{{numbers}}}, {scale} s = {{{scales}}}> {{
        d = DequantizeLinear <axis = {axis}> (w, s)
        y = ConvTranspose <{attributes}> (x, d)
    }}"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    result = SpreadTransposed()(model)
    return [node.op_type for node in model.graph], result.modified


def test_it_fires_where_windows_lie_side_by_side():
    assert spread() == (["DequantizeLinear", "DequantizeLinear", "Conv", "DepthToSpace"], True)
    assert spread(scale="float")[1], "one scale for all channels"
    assert spread("strides = [1, 1]", "int8[2,3,1,1]")[1], "and where a kernel of 1 moves nothing"


@pytest.mark.parametrize(
    "case",
    [
        {"attributes": "strides = [1, 1]"},
        {"attributes": "strides = [2, 2], pads = [1, 1, 1, 1]"},
        {"attributes": "strides = [2, 2], dilations = [2, 2]"},
        {"attributes": "strides = [2, 2], output_padding = [1, 1]"},
        {"attributes": 'strides = [2, 2], auto_pad = "SAME_UPPER"'},
        {"attributes": "strides = [2, 2], output_shape = [8, 10]"},
        {"attributes": "strides = [2, 3]", "weights": "int8[2,3,2,3]"},
        {"scale": "float[3]", "weights": "int8[3,3,2,2]", "axis": 0},
    ],
)
def test_it_leaves_alone_what_overlaps_or_is_cut(case):
    assert spread(**case) == (["DequantizeLinear", "ConvTranspose"], False)


def test_weights_in_floats_are_left_to_the_compiler():
    text = f"""{HEADER} g (float[1,2,4,5] x, float[2,3,2,2] w) => (float[1,3,8,10] y) {{
        y = ConvTranspose <strides = [2, 2]> (x, w)
    }}"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    assert not SpreadTransposed()(model).modified
