"""Small models that reach what the official cases are too small for: tiles, tails, blocked layouts, packed weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from deployment.checks import Sample

OPSET = 'ir_version: 9, opset_import: ["" : 20, "com.microsoft" : 1]'
SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 1e-20, 0.5, 1.5, 2.5, -88.8, 104.0]
)


def sample(name: str, text: str, weights: Mapping[str, np.ndarray], *feeds: Mapping[str, Any]) -> Sample:
    """A sample from a graph in ONNX's text form and its weights."""
    model = onnx.parser.parse_model(f"<{OPSET}> {text}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, key) for key, array in weights.items())
    return Sample(name, model, feeds)


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def integers(low: int, high: int, *shape: int, dtype: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape, dtype, endpoint=True)


def numbers(count: int, dtype: str) -> np.ndarray:
    """Ordinary numbers of many magnitudes, and special ones."""
    rng = np.random.default_rng(3)
    drawn = rng.standard_normal(count - SPECIAL.size) * 10.0 ** rng.integers(-4, 4, count - SPECIAL.size)
    with np.errstate(all="ignore"):
        return np.concatenate([SPECIAL, drawn]).astype(dtype)


def convolutions() -> Sample:
    """First layer, 1x1, 3x3 with stride, depthwise, grouped; pooling; residual; classifier."""
    weights = {
        "w1": floats(20, 3, 7, 7, seed=1, scale=0.1),
        "b1": floats(20, seed=2),
        "w2": floats(33, 20, 1, 1, seed=3, scale=0.2),
        "w3": floats(33, 33, 3, 3, seed=4, scale=0.1),
        "b3": floats(33, seed=5),
        "w4": floats(33, 1, 5, 5, seed=6, scale=0.2),
        "w5": floats(36, 11, 3, 3, seed=7, scale=0.1),
        "w6": floats(36, 19, seed=8, scale=0.2),
        "b6": floats(19, seed=9),
    }
    text = """g (float[N,3,37,41] x) => (float[N,19] y, float[N,36,H,W] f) {
        a = Conv<strides=[2,2], pads=[3,3,3,3]>(x, w1, b1)  r = Relu(a)
        m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)
        c = Conv(m, w2)  s = Sigmoid(c)  h = Mul(c, s)
        d = Conv<pads=[1,1,1,1]>(h, w3, b3)  e = Add(d, h)
        p = Conv<pads=[2,2,2,2], group=33>(e, w4)  q = Clip(p)
        f = Conv<strides=[2,1], pads=[1,1,1,1], group=3>(q, w5)
        v = AveragePool<kernel_shape=[2,2], ceil_mode=1>(f)
        t = GlobalAveragePool(v)  u = Flatten(t)  z = Gemm(u, w6, b6)  y = Softmax(z)
    }"""
    x = floats(2, 3, 37, 41, seed=10)
    spoilt = x.copy()
    spoilt[0, 1, 5, 6], spoilt[1, 2, 0, 0] = np.nan, np.inf
    return sample("own_convolutions", text, weights, {"x": x}, {"x": spoilt[:1]}, {"x": spoilt})


def convolutions_in_groups() -> Sample:
    """Groups of 4, 8, 16, 32 and 20 channels, with and without stride; each input channel convolved three times."""
    weights = {
        "w1": floats(32, 4, 3, 3, seed=1, scale=0.2),
        "w2": floats(32, 8, 3, 3, seed=2, scale=0.1),
        "w3": floats(32, 16, 3, 3, seed=3, scale=0.1),
        "w4": floats(64, 32, 3, 3, seed=4, scale=0.05),
        "w5": floats(96, 1, 3, 3, seed=5, scale=0.3),
        "w6": floats(60, 20, 5, 5, seed=6, scale=0.05),
        "w7": floats(32, 8, 2, 4, seed=7, scale=0.1),
    }
    text = """g (float[N,32,19,37] x, float[N,60,19,37] z, float[N,64,19,37] u)
        => (float[N,32,19,37] b, float[N,32,H,W] c, float[N,64,K,L] d, float[N,96,19,37] e, float[N,60,19,37] f,
            float[N,32,I,J] g7) {
        a = Conv<pads=[1,1,1,1], group=8>(x, w1)  r = Relu(a)
        b = Conv<pads=[1,1,1,1], group=4>(r, w2)
        c = Conv<strides=[2,2], pads=[1,1,1,1], group=2>(b, w3)
        d = Conv<strides=[1,2], pads=[1,1,1,1], group=2>(u, w4)
        e = Conv<pads=[1,1,1,1], group=32>(x, w5)
        f = Conv<pads=[2,2,2,2], group=3>(z, w6)
        g7 = Conv<dilations=[1,2], group=4>(b, w7)
    }"""
    feeds = [
        {"x": floats(n, 32, 19, 37, seed=n), "z": floats(n, 60, 19, 37, seed=n), "u": floats(n, 64, 19, 37, seed=n)}
        for n in (1, 3)
    ]
    feeds[1]["x"][0, 5, 3, 4] = np.nan
    return sample("own_convolutions_in_groups", text, weights, *feeds)


def attention() -> Sample:
    """Two layers of a transformer with run-time batch and length: Gelu, LayerNormalization, masks, embedding."""
    weights = {"table": floats(50, 48, seed=1), "gain": floats(48, seed=2), "bias": floats(48, seed=3)}
    weights |= {n: floats(48, 48, seed=10 + i, scale=0.15) for i, n in enumerate(("wq", "wk", "wv", "wo"))}
    weights |= {"w1": floats(48, 130, seed=20, scale=0.1), "w2": floats(130, 48, seed=21, scale=0.1)}
    weights |= {"heads": np.array([0, 0, 3, 16]), "flat": np.array([0, 0, 48]), "scale": np.array(0.25, np.float32)}
    weights |= {"one": np.array(1, np.float32), "low": np.array(-1e9, np.float32), "two": np.array([1, 2])}
    text = """g (int64[B,L] ids, float[B,L] mask) => (float[B,L,48] y) {
        e = Gather(table, ids)  n = LayerNormalization(e, gain, bias)
        q0 = MatMul(n, wq)  q1 = Reshape(q0, heads)  q = Transpose<perm=[0,2,1,3]>(q1)
        k0 = MatMul(n, wk)  k1 = Reshape(k0, heads)  k = Transpose<perm=[0,2,3,1]>(k1)
        v0 = MatMul(n, wv)  v1 = Reshape(v0, heads)  v = Transpose<perm=[0,2,1,3]>(v1)
        s0 = MatMul(q, k)  s1 = Mul(s0, scale)  m0 = Sub(one, mask)  m1 = Mul(m0, low)
        m = Unsqueeze(m1, two)  s = Add(s1, m)  p = Softmax(s)
        o0 = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o0)  o2 = Reshape(o1, flat)  o3 = MatMul(o2, wo)
        r = Add(e, o3)  t = LayerNormalization(r, gain, bias)
        f0 = MatMul(t, w1)  f1 = Gelu(f0)  f2 = MatMul(f1, w2)  z = Add(r, f2)  y = LayerNormalization(z, gain, bias)
    }"""
    feeds = []
    for b, length in ((1, 1), (2, 17), (3, 8)):
        mask = np.ones((b, length), np.float32)
        mask[0, length // 2 + 1 :] = 0
        feeds.append({"ids": integers(0, 49, b, length, dtype="int64", seed=length), "mask": mask})
    feeds.append({"ids": np.array([[3, 50]]), "mask": np.ones((1, 2), np.float32)})  # an index out of range
    return sample("own_attention", text, weights, *feeds)


def quantized() -> Sample:
    """Dynamic and static int8 with odd sizes."""
    weights = {
        "w": integers(-128, 127, 67, 37, dtype="int8", seed=1),
        "u": integers(0, 255, 67, 37, dtype="uint8", seed=2),
        "zu": np.array(131, np.uint8),
        "s": np.array(0.02, np.float32),
        "zx": np.array(120, np.uint8),
        "so": np.array(0.3, np.float32),
        "sw": np.array(0.01, np.float32),
        "zw": np.array(0, np.int8),
    }
    text = """g (float[M,67] x) => (float[M,37] a, int32[M,37] b, uint8[M,37] c) {
        q, scale, zero = DynamicQuantizeLinear(x)  p = MatMulInteger(q, w, zero)  f = Cast<to=1>(p)  a = Mul(f, scale)
        b = MatMulInteger(q, u, zero, zu)
        l = QuantizeLinear(x, s, zx)  c = QLinearMatMul(l, s, zx, w, sw, zw, so, zx)
    }"""
    return sample("own_quantized", text, weights, *({"x": floats(m, 67, seed=m)} for m in (1, 5, 33)))


def recurrent_of_bytes() -> Sample:
    """LSTM whose state is rounded at each step: signed and unsigned weights, directions, lengths; means of bytes."""
    hidden, inputs, columns = 37, 13, 4 * 37
    weights = {
        "w": integers(-127, 127, 2, inputs, columns, dtype="int8", seed=1),
        "r": integers(-127, 127, 2, hidden, columns, dtype="int8", seed=2),
        "s": np.abs(floats(2, columns, seed=3, scale=0.004)),
        "z": np.zeros((2, columns), np.int8),
        "b": floats(2, 8 * hidden, seed=4, scale=0.3),
        "v": integers(0, 255, 1, 2 * hidden, columns, dtype="uint8", seed=5),
        "u": integers(0, 255, 1, hidden, columns, dtype="uint8", seed=6),
        "t": np.array([0.003], np.float32),
        "m": np.array([126], np.uint8),
        "q": np.array(0.01, np.float32),
        "o": np.array(120, np.uint8),
        "one": np.array([1]),
        "minus": np.array([-1]),
        "wide": np.array([2 * hidden]),
        "axis": np.array([1]),
    }
    text = """g (float[T,N,13] x, int32[N] lengths) => (float[T,1,N,37] y, float[1,N,37] h, uint8[T,M,K] p) {
        a = com.microsoft.DynamicQuantizeLSTM<hidden_size=37, direction="bidirectional">(
            x, w, r, b, lengths, , , , s, z, s, z)
        c = Transpose<perm=[0,2,1,3]>(a)  shape = Shape(x)  n = Gather<axis=0>(shape, one)
        e = Concat<axis=0>(minus, n, wide)  f = Reshape(c, e)
        y, h = com.microsoft.DynamicQuantizeLSTM<hidden_size=37>(f, v, u, , , , , , t, m, t, m)
        g = QuantizeLinear(y, q, o)
        p4 = com.microsoft.QLinearAveragePool<kernel_shape=[2,3], pads=[1,1,0,1]>(g, q, o, q, o)  p = Squeeze(p4, axis)
    }"""
    feeds = [{"x": floats(t, n, inputs, seed=t), "lengths": np.resize([t, 1, t - 1], n).astype(np.int32)}
             for t, n in ((5, 3), (3, 1), (4, 17))]  # fmt: skip
    return sample("own_recurrent_of_bytes", text, weights, *feeds)


def convolutions_of_bytes() -> Sample:
    """Layers of uint8 and int8 in NHWC: stem, 1x1, 3x3 with stride, depthwise, grouped; pooling; residual; sums."""
    weights = {
        "w0": integers(-128, 127, 19, 3, 5, 5, dtype="int8", seed=1),
        "w1": integers(-128, 127, 67, 19, 1, 1, dtype="int8", seed=2),
        "w2": integers(-128, 127, 67, 1, 3, 3, dtype="int8", seed=3),
        "w3": integers(-128, 127, 67, 67, 3, 3, dtype="int8", seed=4),
        "w4": integers(-128, 127, 36, 17, 3, 3, dtype="int8", seed=5),
        "b": integers(-3000, 3000, 67, dtype="int32", seed=6),
        "sx": np.array(0.02, np.float32), "s": np.array(0.05, np.float32), "sw": np.full(67, 0.002, np.float32),
        "zx": np.array(120, np.uint8), "z": np.array(13, np.uint8), "zw": np.zeros(67, np.int8),
        "one": np.array(0.002, np.float32), "zero": np.array(0, np.int8), "zs": np.array(-5, np.int8),
    }  # fmt: skip
    text = """g (float[N,3,19,17] x) => (uint8[N,67,5,5] e, uint8[N,67,10,9] f, int8[N,36,9,7] h, int32[N,36,3,3] i) {
        q = QuantizeLinear(x, sx, zx)
        a = QLinearConv<strides=[2,2], pads=[2,2,2,2]>(q, sx, zx, w0, one, zero, s, z)
        c = QLinearConv(a, s, z, w1, sw, zw, s, z, b)
        d = QLinearConv<group=67, pads=[1,1,1,1]>(c, s, z, w2, sw, zw, s, z, b)
        e = QLinearConv<strides=[2,2], pads=[1,1,1,1]>(d, s, z, w3, sw, zw, s, z, b)
        l = DequantizeLinear(d, s, z)  r = DequantizeLinear(c, s, z)  t = Add(l, r)
        f = QuantizeLinear(t, s, zx)
        m = MaxPool<kernel_shape=[2,3]>(c)  n = DequantizeLinear(m, s, z)  o = QuantizeLinear(n, s, zs)
        k = Constant<value_ints=[34]>()  g0 = Constant<value_ints=[0]>()  g1 = Constant<value_ints=[1]>()
        u = Slice(o, g0, k, g1)
        h = QLinearConv<group=2, pads=[1,1,1,1]>(u, s, zs, w4, one, zero, s, zs)
        i = ConvInteger<group=2, strides=[3,3], pads=[1,1,1,1]>(u, w4, zs)
    }"""
    return sample("own_convolutions_of_bytes", text, weights, *({"x": floats(n, 3, 19, 17, seed=n)} for n in (1, 3)))


UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish
    LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt
    Tan Tanh IsNaN IsInf
""".split()
CASTS = {
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    11: "double",
    1: "float",
}


def _elementwise(name: str, dtype: str, operators: list[str], numpy_dtype: Any) -> Sample:
    kinds = {"IsNaN": "bool", "IsInf": "bool"}
    outputs = [f"{kinds.get(op, dtype)}[N] y{op}" for op in operators]
    outputs += [
        f"{dtype}[N] yP",
        f"{dtype}[N] yM",
        f"{dtype}[N] yD",
        *(f"{kind}[N] c{to}" for to, kind in CASTS.items()),
    ]
    body = [f"y{op} = {op}(x)" for op in operators]
    body += ["yP = Pow(x, z)", "yM = Mod<fmod=1>(x, z)", "yD = Div(x, z)"]
    body += [f"c{to} = Cast<to={to}>(x)" for to in CASTS]
    x = numbers(301, "float64").astype(numpy_dtype)
    text = f"g ({dtype}[N] x, {dtype}[N] z) => ({', '.join(outputs)}) {{ {' '.join(body)} }}"
    return sample(name, text, {}, {"x": x, "z": x[::-1].copy()}, {"x": x[:1], "z": x[5:6]}, {"x": x[:0], "z": x[:0]})


def elementwise_f32() -> Sample:
    """All functions of one float, and casts to everything."""
    return _elementwise("own_elementwise_f32", "float", UNARY, np.float32)


def elementwise_f64() -> Sample:
    """The same for double."""
    return _elementwise("own_elementwise_f64", "double", [op for op in UNARY if op != "IsInf"], np.float64)


def elementwise_f16() -> Sample:
    """Half precision, rounded after each operator."""
    operators = ["Exp", "Log", "Sqrt", "Sin", "Tanh", "Sigmoid", "Floor", "Round", "Neg", "Relu", "Erf", "Softplus"]
    return _elementwise("own_elementwise_f16", "float16", operators, np.float16)


def integer_arithmetic() -> Sample:
    """Wrapping, division and its extremes in every width, signed and unsigned."""
    kinds = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    inputs, outputs, body, feed = [], [], [], {}
    for kind in kinds:
        inputs += [f"{kind}[N] a_{kind}", f"{kind}[N] b_{kind}"]
        for op in ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"):
            outputs.append(f"{kind}[N] {op}_{kind}")
            body.append(f"{op}_{kind} = {op}(a_{kind}, b_{kind})")
        outputs.append(f"{kind}[1] Sum_{kind}" if kind[-2:] in ("32", "64") else f"float[N] Sum_{kind}")
        body.append(
            f"Sum_{kind} = " + (f"ReduceSum(a_{kind})" if kind[-2:] in ("32", "64") else f"Cast<to=1>(a_{kind})")
        )
        info = np.iinfo(kind)
        a = integers(info.min, info.max, 77, dtype=kind, seed=1)
        b = integers(info.min, info.max, 77, dtype=kind, seed=2)
        b[b == 0] = 3
        a[:3], b[:3] = info.min, (info.max, info.min or 1, 1)
        if info.min:
            b[3], a[3] = -1, info.min
        feed |= {f"a_{kind}": a, f"b_{kind}": b}
    zero = {**feed, "b_int32": np.zeros(77, np.int32)}
    text = f"g ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(body)} }}"
    return sample("own_integers", text, {}, feed, zero)


def reductions() -> Sample:
    """Sums in their stated order over long, short and inner axes, with special values; scans and normalisations."""
    ops = [
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceSumSquare",
    ]
    weights = {
        "first": np.array([0]),
        "last": np.array([-1]),
        "both": np.array([0, 2]),
        "axis": np.array(1),
        "gain": floats(43, seed=4),
        "bias": floats(43, seed=5),
    }
    outputs, body = [], []
    for op in ops:
        for axes in ("first", "last", "both"):
            outputs.append(f"float[A,B,C] {op}_{axes}")
            body.append(f"{op}_{axes} = {op}(x, {axes})")
    outputs += ["float[A,43,67] c", "float[A,43,67] n", "float[A,43,67] s", "int64[A,1,67] i", "float[A,43,67] l"]
    body += [
        "c = CumSum(x, axis)",
        "n = InstanceNormalization(x, gain, bias)",
        "s = Softmax<axis=1>(x)",
        "i = ArgMax<axis=1>(x)",
        "l = LogSoftmax(x)",
    ]
    x = floats(5, 43, 67, seed=1)
    special = x.copy()
    special[1, 2, 3], special[2, 40, 66], special[3, 0, 0] = np.nan, np.inf, -np.inf
    text = f"g (float[A,43,67] x) => ({', '.join(outputs)}) {{ {' '.join(body)} }}"
    return sample("own_reductions", text, weights, {"x": x}, {"x": special}, {"x": x[:1]})


def activations_of_bytes() -> Sample:
    """Activations between bytes, alone, into an addition and transposed, with tails."""
    weights = {"s": np.array(0.03, np.float32), "t": np.array(0.0039, np.float32), "z": np.array(117, np.uint8)}
    weights |= {"i": np.array(-9, np.int8), "n": np.array(0, np.uint8)}
    text = """g (uint8[N,7,H] x, int8[N,7,H] v) => (uint8[N,7,H] y, int8[N,H,7] w, uint8[N,7,H] r) {
        a = DequantizeLinear(x, s, z)  b = Sigmoid(a)  c = QuantizeLinear(b, t, n)  d = DequantizeLinear(c, t, n)
        e = Mul(a, d)  y = QuantizeLinear(e, s, z)
        f = DequantizeLinear(v, s, i)  h = HardSwish(f)  j = Transpose<perm=[0,2,1]>(h)  w = QuantizeLinear(j, s, i)
        k = Gelu(f)  l = QuantizeLinear(k, s, i)  m = DequantizeLinear(l, s, i)
        o = Add(m, a)  r = QuantizeLinear(o, s, z)
    }"""
    feeds = []
    for n, h in ((1, 61), (2, 1031)):
        x = integers(0, 255, n, 7, h, dtype="uint8", seed=n)
        feeds.append({"x": x, "v": integers(-128, 127, n, 7, h, dtype="int8", seed=h)})
    return sample("own_activations_of_bytes", text, weights, *feeds)


SAMPLES: dict[str, Callable[[], Sample]] = {
    f"own_{make.__name__}": make
    for make in (
        convolutions,
        convolutions_in_groups,
        attention,
        quantized,
        convolutions_of_bytes,
        recurrent_of_bytes,
        activations_of_bytes,
        elementwise_f32,
        elementwise_f64,
        elementwise_f16,
        integer_arithmetic,
        reductions,
    )
}
