"""Single operators at sizes that networks have: what `benchmarks/operators.py` measures.

A case is the body of an ONNX graph in the text form of `onnx.parser`. Inputs are declared in it; what `weights` names
are constants: arrays, or shapes of random ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference

Shape = tuple[int, ...]
IMAGE, PLANES = "float[1,64,112,112] x", "float[1,64,56,56] x"
UNARY = (
    "Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish",
    "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Tanh",
)  # fmt: skip
BINARY = ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub")


@dataclass(frozen=True)
class Case:
    """One graph: `inputs` and `body` as ONNX text, `y` is the output."""

    name: str
    inputs: str
    body: str
    weights: Mapping[str, Shape | np.ndarray] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        """The model, with random weights."""
        rng = np.random.default_rng(0)
        text = f'<ir_version: 10, opset_import: ["" : 20]> g ({self.inputs}) => (y) {{ {self.body} }}'
        model = onnx.parser.parse_model(text)
        for name, value in self.weights.items():
            array = value if isinstance(value, np.ndarray) else rng.standard_normal(value).astype(np.float32) / 8
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return onnx.shape_inference.infer_shapes(model)  # the type of y


def _numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _conv(name: str, x: str, w: Shape, **attributes: object) -> Case:
    return _window("Conv", name, x, w, w[0], **attributes)


def _transposed(name: str, x: str, w: Shape, group: int = 1, **attributes: object) -> Case:
    return _window("ConvTranspose", name, x, w, w[1] * group, group=group, **attributes)


def _window(operator: str, name: str, x: str, w: Shape, outputs: int, **attributes: object) -> Case:
    written = ", ".join(f"{key} = {value}" for key, value in {"group": 1, **attributes}.items())
    body = f"t = {operator} <{written}> (x, w, b) y = Relu (t)"
    return Case(name, f"float{x} x", body, {"w": w, "b": (outputs,)})


CONVOLUTIONS = (
    _conv("conv 3x3, 64 to 64", "[1,64,56,56]", (64, 64, 3, 3), pads=[1] * 4),
    _conv("conv 3x3, stride 2", "[1,128,56,56]", (128, 128, 3, 3), pads=[1] * 4, strides=[2, 2]),
    _conv("conv 3x3, 24 channels", "[1,24,56,56]", (24, 24, 3, 3), pads=[1] * 4),
    _conv("conv 3x3, 7x7 pixels", "[1,512,7,7]", (512, 512, 3, 3), pads=[1] * 4),
    _conv("conv 3x3, 32 images", "[32,16,14,14]", (16, 16, 3, 3), pads=[1] * 4),
    _conv("conv 3x3, to one channel", "[1,64,128,128]", (1, 64, 3, 3), pads=[1] * 4),
    _conv("conv 3x3, dilated by 6", "[1,256,33,33]", (256, 256, 3, 3), pads=[6] * 4, dilations=[6, 6]),
    _conv("conv 3x3, dilated by 24", "[1,256,20,20]", (256, 256, 3, 3), pads=[24] * 4, dilations=[24, 24]),
    _conv("conv 5x5", "[1,64,56,56]", (64, 64, 5, 5), pads=[2] * 4),
    _conv("conv 7x7, stem", "[1,3,224,224]", (64, 3, 7, 7), pads=[3] * 4, strides=[2, 2]),
    _conv("conv 9x9, to 3 channels", "[1,64,128,128]", (3, 64, 9, 9), pads=[4] * 4),
    _conv("conv 16x16, patches", "[1,3,224,224]", (768, 3, 16, 16), strides=[16, 16]),
    _conv("conv 1x1, 64 to 256", "[1,64,56,56]", (256, 64, 1, 1)),
    _conv("conv 1x1, stride 2", "[1,256,56,56]", (512, 256, 1, 1), strides=[2, 2]),
    _conv("conv 1x1, to 2 channels", "[1,64,128,128]", (2, 64, 1, 1)),
    _conv("depthwise 3x3", "[1,96,112,112]", (96, 1, 3, 3), pads=[1] * 4, group=96),
    _conv("depthwise 3x3, stride 2", "[1,96,112,112]", (96, 1, 3, 3), pads=[1] * 4, strides=[2, 2], group=96),
    _conv("depthwise 3x3, dilated by 2", "[1,64,56,56]", (64, 1, 3, 3), pads=[2] * 4, dilations=[2, 2], group=64),
    _conv("depthwise 7x7", "[1,96,56,56]", (96, 1, 7, 7), pads=[3] * 4, group=96),
    _conv("depthwise 9x9", "[1,64,56,56]", (64, 1, 9, 9), pads=[4] * 4, group=64),
    _conv("depthwise, 2 outputs each", "[1,64,56,56]", (128, 1, 3, 3), pads=[1] * 4, group=64),
    _conv("conv 3x3, groups of 4", "[1,128,56,56]", (128, 4, 3, 3), pads=[1] * 4, group=32),
    _conv("conv 3x3, groups of 8", "[1,256,28,28]", (256, 8, 3, 3), pads=[1] * 4, group=32),
    _conv("conv 3x3, groups of 24", "[1,144,28,28]", (144, 24, 3, 3), pads=[1] * 4, group=6),
    _conv("conv 1x1, 3 groups", "[1,240,28,28]", (60, 80, 1, 1), group=3),
    _conv("conv 1-D, 5", "[1,64,1000]", (64, 64, 5), pads=[2, 2]),
    _conv("conv 1-D, dilated by 8", "[1,64,1000]", (64, 64, 3), pads=[8, 8], dilations=[8]),
    _conv("conv 1-D, depthwise 31", "[1,256,500]", (256, 1, 31), pads=[15, 15], group=256),
    _conv("conv 3-D, 3x3x3", "[1,64,8,28,28]", (64, 64, 3, 3, 3), pads=[1] * 6),
    _conv("conv 3-D, stride 2", "[1,64,8,28,28]", (128, 64, 3, 3, 3), pads=[1] * 6, strides=[2, 2, 2]),
    _conv("conv 3-D, 1x1x1", "[1,64,8,28,28]", (64, 64, 1, 1, 1)),
    _conv("conv 3-D, 3x1x1", "[1,64,8,28,28]", (64, 64, 3, 1, 1), pads=[1, 0, 0, 1, 0, 0]),
    _conv("conv 3-D, depthwise", "[1,64,8,28,28]", (64, 1, 3, 3, 3), pads=[1] * 6, group=64),
    _transposed("transposed 2x2, stride 2", "[1,128,64,64]", (128, 64, 2, 2), strides=[2, 2]),
    _transposed("transposed 3x3, stride 2", "[1,128,64,64]", (128, 64, 3, 3), strides=[2, 2], pads=[1] * 4),
    _transposed("transposed 4x4, stride 2", "[1,256,16,16]", (256, 128, 4, 4), strides=[2, 2], pads=[1] * 4),
    _transposed("transposed 4x4, to 3 channels", "[1,64,64,64]", (64, 3, 4, 4), strides=[2, 2], pads=[1] * 4),
    _transposed("transposed 4x4, depthwise", "[1,32,32,32]", (32, 1, 4, 4), 32, strides=[2, 2], pads=[1] * 4),
    _transposed("transposed 1-D, stride 8", "[1,512,100]", (512, 256, 16), strides=[8], pads=[4, 4]),
    _transposed("transposed 3-D, stride 2", "[1,32,8,16,16]", (32, 16, 4, 4, 4), strides=[2, 2, 2], pads=[1] * 6),
)
POOLING = (
    Case("max pool 3x3, stride 2", IMAGE, "y = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (x)"),
    Case("average pool 3x3", IMAGE, "y = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (x)"),
    Case("max pool 3-D", "float[1,32,16,56,56] x", "y = MaxPool <kernel_shape = [2,2,2], strides = [2,2,2]> (x)"),
    Case(
        "average pool 3-D", "float[1,32,16,28,28] x", "y = AveragePool <kernel_shape = [3,3,3], strides = [2,2,2]> (x)"
    ),
    Case("max pool 1-D", "float[1,64,4000] x", "y = MaxPool <kernel_shape = [4], strides = [4]> (x)"),
    Case("Lp pool", IMAGE, "y = LpPool <kernel_shape = [3,3], strides = [2,2]> (x)"),
    Case("global average", IMAGE, "y = GlobalAveragePool (x)"),
    Case("global maximum", IMAGE, "y = GlobalMaxPool (x)"),
)
PRODUCTS = (
    Case("product 128x768x3072", "float[128,768] x", "y = MatMul (x, w)", {"w": (768, 3072)}),
    Case("product of one row", "float[1,1024] x", "y = MatMul (x, w)", {"w": (1024, 1024)}),
    Case("product of 4 rows", "float[4,1024] x", "y = MatMul (x, w)", {"w": (1024, 1024)}),
    Case("product to one column", "float[4096,256] x", "y = MatMul (x, w)", {"w": (256, 1)}),
    Case("product to 8 columns", "float[4096,256] x", "y = MatMul (x, w)", {"w": (256, 8)}),
    Case("product of depth 3", "float[20000,3] x", "y = MatMul (x, w)", {"w": (3, 64)}),
    Case("product of two inputs", "float[256,512] x, float[512,384] z", "y = MatMul (x, z)"),
    Case("12 products", "float[12,128,64] x, float[12,64,128] z", "y = MatMul (x, z)"),
    Case("1000 products of 8x8", "float[1000,8,8] x, float[1000,8,8] z", "y = MatMul (x, z)"),
    Case("Gemm, transposed", "float[64,512] x", "y = Gemm <transB = 1> (x, w, b)", {"w": (512, 512), "b": (512,)}),
    Case("Einsum bhid,bhjd->bhij", "float[1,12,128,64] x, float[1,12,128,64] z",
         'y = Einsum <equation = "bhid,bhjd->bhij"> (x, z)'),
    Case("attention", "float[1,12,128,64] x, float[1,12,64,128] k, float[1,12,128,64] v",
         "s = MatMul (x, k) t = Mul (s, c) p = Softmax (t) y = MatMul (p, v)", {"c": np.array(0.125, np.float32)}),
    Case("attention of one query", "float[1,12,1,64] x, float[1,12,64,512] k, float[1,12,512,64] v",
         "s = MatMul (x, k) p = Softmax (s) y = MatMul (p, v)"),
    Case("LSTM 128", "float[50,1,64] x", "y = LSTM <hidden_size = 128> (x, w, r)",
         {"w": (1, 512, 64), "r": (1, 512, 128)}),
    Case("GRU 128, 8 sequences", "float[50,8,64] x", "y = GRU <hidden_size = 128> (x, w, r)",
         {"w": (1, 384, 64), "r": (1, 384, 128)}),
    Case("RNN 128", "float[50,1,64] x", "y = RNN <hidden_size = 128> (x, w, r)",
         {"w": (1, 128, 64), "r": (1, 128, 128)}),
)  # fmt: skip
NORMALISATION = (
    Case("layer norm 128x768", "float[128,768] x", "y = LayerNormalization (x, s, b)", {"s": (768,), "b": (768,)}),
    Case("layer norm 3136x96", "float[3136,96] x", "y = LayerNormalization (x, s, b)", {"s": (96,), "b": (96,)}),
    Case("instance norm", IMAGE, "y = InstanceNormalization (x, s, b)", {"s": (64,), "b": (64,)}),
    Case("LRN", "float[1,96,55,55] x", "y = LRN <size = 5> (x)"),
    Case("softmax of 197", "float[12,197,197] x", "y = Softmax (x)"),
    Case("softmax over channels", "float[1,21,128,128] x", "y = Softmax <axis = 1> (x)"),
    Case("log-softmax of 1000", "float[32,1000] x", "y = LogSoftmax (x)"),
)
ELEMENTS = (
    *(Case(name, PLANES, f"y = {name} (x)") for name in UNARY),
    *(
        Case(f"{name}, a number a channel", f"{PLANES}, float[1,64,1,1] z", f"a = Abs (x) y = {name} (a, z)")
        for name in BINARY
    ),
    Case("Add of planes", f"{PLANES}, float[1,64,56,56] z", "y = Add (x, z)"),
    Case("Where", "float[512,512] x, float[512,512] z", "c = Greater (x, z) y = Where (c, x, z)"),
    Case(
        "Clip and Cast",
        "float[512,512] x",
        "c = Clip (x, l) d = Mul (c, s) y = Cast <to = 2> (d)",
        {"l": np.array(0, np.float32), "s": np.array(50, np.float32)},
    ),
)
REDUCTIONS = (
    *(
        Case(f"ReduceSum, axis {axis}", "float[64,128,96] x", "y = ReduceSum (x, a)", {"a": _numbers(axis)})
        for axis in range(3)
    ),
    *(
        Case(f"ReduceMax, axis {axis}", "float[64,128,96] x", "y = ReduceMax (x, a)", {"a": _numbers(axis)})
        for axis in range(3)
    ),
    Case("ReduceMean of planes", IMAGE, "y = ReduceMean (x, a)", {"a": _numbers(2, 3)}),
    Case("ReduceL2", "float[64,1000] x", "y = ReduceL2 (x, a)", {"a": _numbers(1)}),
    Case("ArgMax of 1000", "float[64,1000] x", "y = ArgMax <axis = 1> (x)"),
    Case("ArgMax over channels", "float[1,21,256,256] x", "y = ArgMax <axis = 1> (x)"),
    Case("TopK 20 of 5000", "float[16,5000] x", "y, i = TopK (x, k)", {"k": _numbers(20)}),
    Case("TopK, all of 5000", "float[1,5000] x", "y, i = TopK (x, k)", {"k": _numbers(5000)}),
    Case("CumSum", "float[64,2000] x", "y = CumSum (x, a)", {"a": np.array(1, np.int64)}),
)
MOVES = (
    Case("Transpose to NHWC", PLANES, "y = Transpose <perm = [0,2,3,1]> (x)"),
    Case("Transpose 1024x768", "float[1024,768] x", "y = Transpose (x)"),
    Case("Transpose of heads", "float[1,128,12,64] x", "y = Transpose <perm = [0,2,1,3]> (x)"),
    Case("Concat of channels", f"{PLANES}, float[1,32,56,56] z", "y = Concat <axis = 1> (x, z)"),
    Case("Concat of columns", "float[128,300] x, float[128,200] z", "y = Concat <axis = 1> (x, z)"),
    Case("Slice", IMAGE, "y = Slice (x, s, e, a)", {"s": _numbers(1, 1), "e": _numbers(111, 111), "a": _numbers(2, 3)}),
    Case("Pad by reflection", PLANES, 'y = Pad <mode = "reflect"> (x, p)', {"p": _numbers(0, 0, 3, 3, 0, 0, 3, 3)}),
    Case("Tile", "float[1,64,28,28] x", "y = Tile (x, r)", {"r": _numbers(1, 1, 2, 2)}),
    Case("Expand", "float[1,64,1,1] x", "y = Expand (x, r)", {"r": _numbers(1, 64, 56, 56)}),
    Case("DepthToSpace", PLANES, "y = DepthToSpace <blocksize = 2> (x)"),
    Case("SpaceToDepth", "float[1,16,112,112] x", "y = SpaceToDepth <blocksize = 2> (x)"),
    Case("Gather of rows", "int64[4,128] i", "y = Gather (w, i)", {"w": (1000, 768)}),
    Case("Gather of columns", "int64[64] i", "y = Gather <axis = 1> (w, i)", {"w": (256, 1000)}),
    Case("GatherElements", "int64[500,64] i", "y = GatherElements <axis = 0> (w, i)", {"w": (1000, 64)}),
    Case("ScatterND", "int64[500,1] i", "y = ScatterND (w, i, u)", {"w": (1000, 64), "u": (500, 64)}),
    Case(
        "ScatterElements",
        "int64[500,64] i",
        "y = ScatterElements <axis = 0> (w, i, u)",
        {"w": (1000, 64), "u": (500, 64)},
    ),
    Case("NonZero", "float[256,256] x", "c = Greater (x, z) y = NonZero (c)", {"z": np.array(0.5, np.float32)}),
)
IMAGES = (
    *(Case(f"Resize 2x, {mode}", "float[1,64,64,64] x", f'y = Resize <mode = "{mode}"> (x, , s)',
           {"s": np.array([1, 1, 2, 2], np.float32)}) for mode in ("nearest", "linear")),
    Case("Resize 1.7x, cubic", "float[1,16,64,64] x", 'y = Resize <mode = "cubic"> (x, , s)',
         {"s": np.array([1, 1, 1.7, 1.7], np.float32)}),
    Case("GridSample", "float[1,32,64,64] x", "y = GridSample (x, g)", {"g": (1, 64, 64, 2)}),
    Case("RoiAlign", "float[1,64,50,50] x",
         "y = RoiAlign <output_height = 7, output_width = 7, sampling_ratio = 2> (x, r, i)",
         {"r": np.tile(np.array([5, 8, 30, 44], np.float32), (50, 1)), "i": np.zeros(50, np.int64)}),
    Case("DFT 4096", "float[1,4096,1] x", "y = DFT (x, , a)", {"a": np.array(1, np.int64)}),
    Case("STFT 400, step 160", "float[1,16000] x", "y = STFT (x, s, w)",
         {"s": np.array(160, np.int64), "w": np.hanning(400).astype(np.float32)}),
)  # fmt: skip
CASES = (*CONVOLUTIONS, *POOLING, *PRODUCTS, *NORMALISATION, *ELEMENTS, *REDUCTIONS, *MOVES, *IMAGES)
