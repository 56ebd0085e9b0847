"""Small models that the tests of measuring share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import parser


def save(path: Path, text: str) -> Path:
    """The model written in `text`, its zero initializers filled with seeded numbers, as a file."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = rng.standard_normal(list(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path


def zeros(*shape: int) -> str:
    """So many numbers for an initializer in `parse_model`'s language."""
    return "{" + ", ".join(["0"] * int(np.prod(shape))) + "}"


def convolution(path: Path) -> Path:
    """Two convolutions of a batch of 1 that end in a Reshape to (1, ...)."""
    return save(
        path,
        f"""<ir_version: 9, opset_import: ["" : 17]>
        net (float[1,3,12,12] x) => (float[1,2304] y)
        <float[16,3,3,3] w1 = {zeros(16, 3, 3, 3)}, float[16,16,1,1] w2 = {zeros(16, 16)},
         int64[2] shape = {{1, -1}}>
        {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w1)
            b = Relu(a)
            c = Conv(b, w2)
            y = Reshape(c, shape)
        }}""",
    )
