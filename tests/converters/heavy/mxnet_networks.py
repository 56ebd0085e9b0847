"""Small networks, built and run by MXNet 1.9.1 itself: one for each family of operators.

``python mxnet_networks.py FOLDER NAME...`` writes NAME-symbol.json, NAME-0000.params and NAME.npz (inputs, and the
outputs that MXNet computes) into a folder. The default tests read what this wrote once into tests/converters/fixtures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

for _name, _kind in (("bool", bool), ("object", object), ("int", int), ("float", float)):
    if _name not in np.__dict__:  # names that MXNet asks for and numpy 1.24 dropped
        setattr(np, _name, _kind)
import mxnet as mx

S = mx.sym
RNG = np.random.default_rng(7)


def v(name, shape=None):
    """An input or a parameter of a network."""
    return S.Variable(name, shape=shape)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def unary():
    x = v("x", (2, 3, 5))
    small = S.tanh(x) * 0.9
    positive = S.abs(x) + 0.5
    outs = [S.abs(x), S.sign(x), S.floor(x), S.ceil(x), S.rint(x), S.round(x), S.fix(x), S.trunc(x), S.negative(x),
            S.reciprocal(positive), S.exp(x), S.log(positive), S.log2(positive), S.log10(positive), S.log1p(positive),
            S.expm1(x), S.sqrt(positive), S.rsqrt(positive), S.cbrt(x), S.rcbrt(positive), S.square(x), S.erf(x),
            S.relu(x), S.sigmoid(x), S.tanh(x), S.softsign(x), S.sin(x), S.cos(x), S.tan(small), S.arcsin(small),
            S.arccos(small), S.arctan(x), S.sinh(x), S.cosh(x), S.arcsinh(x), S.arccosh(positive + 1), S.arctanh(small),
            S.degrees(x), S.radians(x), S.logical_not(S.relu(x)), S.zeros_like(x), S.ones_like(x), S.BlockGrad(x),
            S.hard_sigmoid(x), S.smooth_l1(x, scalar=2.0), S.clip(x, -0.5, 0.7), S.Cast(x, dtype="int32"),
            S.Activation(x, act_type="softrelu"), S.Activation(x, act_type="softsign"),
            S.LeakyReLU(x, act_type="leaky", slope=0.1), S.LeakyReLU(x, act_type="elu", slope=0.3),
            S.LeakyReLU(x, act_type="selu"), S.LeakyReLU(x, act_type="gelu"), S.LeakyReLU(x, act_type="rrelu")[0],
            S.LeakyReLU(x, v("slope"), act_type="prelu"), S.contrib.div_sqrt_dim(x)]  # fmt: skip
    return S.Group(outs), {"slope": normal(3)}, {"x": normal(2, 3, 5)}


def binary():
    x, y, z = v("x", (2, 3, 5)), v("y", (1, 3, 1)), v("z", (2, 3, 5))
    p = S.abs(x) + 0.5
    outs = [f(x, y) for f in (S.broadcast_add, S.broadcast_sub, S.broadcast_mul, S.broadcast_maximum,
            S.broadcast_minimum, S.broadcast_hypot, S.broadcast_equal, S.broadcast_not_equal, S.broadcast_greater,
            S.broadcast_greater_equal, S.broadcast_lesser, S.broadcast_lesser_equal, S.broadcast_logical_and,
            S.broadcast_logical_or, S.broadcast_logical_xor)]  # fmt: skip
    outs += [S.broadcast_div(x, y + 3), S.broadcast_power(p, y), S.broadcast_mod(x, y + 2.5), x + z, x - z, x * z,
             S.elemwise_div(x, z), S.add_n(x, z, x), x + 2, 2 - x, x * 3, x / 2, 2 / p, p**2.5, 1.5**x, x % 0.7, 3 % p,
             x > 0.1, x < 0.1, x >= 0.1, x <= 0.1, x == 0.1, x != 0.1, S.maximum(x, 0.2), S.minimum(x, 0.2)]  # fmt: skip
    return S.Group(outs), {}, {"x": normal(2, 3, 5), "y": normal(1, 3, 1), "z": normal(2, 3, 5)}


def shapes():
    x = v("x", (2, 3, 4, 6))
    r = [(-1, 0), (0, -1), (0, 0, -1), (-2,), (0, -3, 0), (-3, -3), (-4, 1, 2, -2), (0, 0, -4, -1, 2, 0), (6, -1), (0, 0, -3),
         (-1, 2, 0, 0)]  # fmt: skip
    outs = [S.reshape(x, shape=each) for each in r]
    outs += [S.reshape(x, shape=(-1, 0, 0), reverse=True), S.reshape(x, shape=(0, -4, 3, -1, -2)), S.Flatten(x),
             S.transpose(x), S.transpose(x, axes=(0, 2, 3, 1)), S.SwapAxis(x, dim1=1, dim2=3), S.expand_dims(x, axis=-1),
             S.squeeze(S.expand_dims(x, axis=1), axis=1), S.Concat(x, x * 2, dim=2), S.stack(x, x * 2, axis=-1),
             S.slice(x, begin=(None, 1, 3), end=(None, 3, 0), step=(1, 1, -1)), S.slice_axis(x, axis=-1, begin=1, end=-1),
             S.slice_axis(x, axis=1, begin=-2, end=None), S.slice_like(x, S.slice_axis(x, axis=3, begin=0, end=2), axes=(3,)),
             *S.split(x, num_outputs=3, axis=1, squeeze_axis=True), *S.split(x, num_outputs=2, axis=3),
             *S.split_v2(x, indices_or_sections=(1, 3), axis=2), S.tile(x, reps=(2, 1, 1, 3)), S.tile(x, reps=(2, 1, 1, 1, 1)),
             S.repeat(x, repeats=2, axis=1), S.repeat(x, repeats=2), S.reverse(x, axis=(1, 3)),
             S.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 2, 1), constant_value=0.5),
             S.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 2, 1)), S.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 2, 1)),
             S.broadcast_to(S.slice_axis(x, axis=0, begin=0, end=1), shape=(5, 0, 0, 0)),
             S.broadcast_axis(S.slice_axis(x, axis=2, begin=0, end=1), axis=2, size=3),
             S.broadcast_like(S.slice_axis(x, axis=2, begin=0, end=1), x), S.depth_to_space(S.tile(x, reps=(1, 4, 1, 1)), block_size=2),
             S.space_to_depth(x, block_size=2), S.shape_array(x), S.size_array(x), S.contrib.arange_like(x, axis=2),
             S.contrib.arange_like(x, start=1, step=2), S.broadcast_add(x, S.arange(6)), S.reshape_like(S.Flatten(x), x),
             S.diag(S.reshape(S.slice_axis(x, axis=0, begin=0, end=1), shape=(8, 9)), k=1), S.zeros((2, 3)), S.ones((2,)),
             S.full((2, 2), 3.5)]  # fmt: skip
    return S.Group(outs), {}, {"x": normal(2, 3, 4, 6)}


def selection():
    x, i = v("x", (3, 4, 5)), v("i", (3, 4))
    table = v("table")
    outs = [S.sum(x), S.sum(x, axis=1), S.sum(x, axis=(0, 2), keepdims=True), S.sum(x, axis=1, exclude=True), S.mean(x, axis=-1),
            S.prod(x, axis=2), S.max(x, axis=0), S.min(x, axis=(1, 2)), S.norm(x), S.norm(x, ord=1, axis=1),
            S.norm(x, axis=2, keepdims=True), S.argmax(x, axis=1), S.argmin(x, axis=2, keepdims=True), S.argmax(x),
            S.argmax_channel(S.slice_axis(x, axis=2, begin=0, end=1)), S.topk(x, k=2, axis=1),
            *S.topk(x, k=3, ret_typ="both", is_ascend=True), S.topk(x, k=2, ret_typ="mask"), S.sort(x, axis=0),
            S.sort(x, axis=2, is_ascend=False), S.argsort(x, axis=1), S.where(x > 0, x, x * 2),
            S.one_hot(i, depth=4, on_value=2, off_value=-1), S.take(x, S.slice_axis(i, axis=1, begin=0, end=1), axis=1),
            S.take(x, i - 7, axis=2, mode="wrap"), S.pick(x, i, axis=2), S.pick(x, i, axis=2, keepdims=True),
            S.batch_take(S.slice_axis(x, axis=2, begin=0, end=1).reshape((3, 4)), S.slice_axis(i, axis=1, begin=0, end=1).reshape((3,)).astype("int32")),
            S.gather_nd(x, S.slice_axis(i, axis=0, begin=0, end=2)), S.Embedding(i, table, input_dim=6, output_dim=5),
            S.cumsum(x, axis=1), S.contrib.index_copy(table, S.arange(2, dtype="int32"), S.slice_axis(x, axis=0, begin=0, end=1).reshape((4, 5)).slice_axis(axis=0, begin=0, end=2)),
            S.scatter_nd(S.slice_axis(x, axis=1, begin=0, end=1).reshape((3, 5)), S.arange(3).reshape((1, 3)), shape=(4, 5))]  # fmt: skip
    return S.Group(outs), {"table": normal(6, 5)}, {
        "x": normal(3, 4, 5), "i": RNG.integers(0, 3, (3, 4)).astype(np.float32)}  # fmt: skip


def layers():
    x = v("x", (2, 6, 9, 11))
    names = {}

    def p(*shape):
        name = f"p{len(names)}"
        names[name] = normal(*shape) * 0.3
        return v(name, shape)

    def norm(data, c, **more):
        kinds = p(c), p(c), p(c), v(f"variance{len(names)}")
        names[kinds[3].name] = np.abs(normal(c)) + 0.5
        return S.BatchNorm(data, *kinds, **more)

    outs = [S.Convolution(x, p(4, 6, 3, 3), p(4), kernel=(3, 3), num_filter=4, pad=(1, 2), stride=(2, 1)),
            S.Convolution(x, p(6, 3, 3, 2), kernel=(3, 2), num_filter=6, num_group=2, dilate=(2, 1), no_bias=True),
            S.Convolution(x.reshape((0, 0, -1)), p(4, 6, 3), p(4), kernel=(3,), num_filter=4),
            S.Convolution(x.expand_dims(2), p(4, 6, 1, 3, 3), p(4), kernel=(1, 3, 3), num_filter=4),
            S.Deconvolution(x, p(6, 4, 3, 3), kernel=(3, 3), num_filter=4, stride=(2, 2), pad=(1, 1), adj=(1, 0)),
            S.Deconvolution(x, p(6, 2, 4, 4), p(4), kernel=(4, 4), num_filter=4, num_group=2, stride=(2, 2), no_bias=False,
                            target_shape=(18, 22)),
            S.FullyConnected(x, p(5, 594), p(5), num_hidden=5),
            S.FullyConnected(x, p(5, 11), num_hidden=5, flatten=False, no_bias=True),
            norm(x, 6), norm(x, 6, fix_gamma=False, eps=1e-5), norm(x, 11, axis=3, fix_gamma=False),
            S.LayerNorm(x, p(11), p(11)), S.LayerNorm(x, p(6), p(6), axis=1), S.InstanceNorm(x, p(6), p(6)),
            S.GroupNorm(x, p(3), p(3), num_groups=3), S.L2Normalization(x), S.L2Normalization(x, mode="channel"),
            S.L2Normalization(x, mode="spatial"), S.LRN(x, nsize=3), S.Dropout(x, p=0.5),
            S.UpSampling(x, scale=2, sample_type="nearest", num_args=1),
            S.UpSampling(x, p(6, 1, 4, 4), scale=2, sample_type="bilinear", num_filter=6, num_args=2),
            S.contrib.BilinearResize2D(x, height=13, width=7), S.contrib.BilinearResize2D(x, height=13, width=7, align_corners=False),
            S.contrib.AdaptiveAvgPooling2D(x, output_size=(4, 5)), S.contrib.AdaptiveAvgPooling2D(x),
            S.Crop(x, num_args=1, offset=(1, 2), h_w=(5, 4)), S.dot(x, p(11, 3)), S.batch_dot(x.reshape((-3, 0, 0)), x.reshape((-3, 0, 0)), transpose_b=True),
            S.linalg.gemm2(x, x, transpose_a=True, alpha=0.5)]  # fmt: skip
    return S.Group(outs), names, {"x": normal(2, 6, 9, 11)}


def pooling():
    x = v("x", (2, 3, 9, 12))
    outs = []
    for kind in ("max", "avg", "sum"):
        for convention in ("valid", "full"):
            for pad in ((0, 0), (1, 1)):
                outs.append(
                    S.Pooling(
                        x, kernel=(3, 2), stride=(2, 2), pad=(pad[0], 0), pool_type=kind, pooling_convention=convention
                    )
                )
        outs.append(S.Pooling(x, global_pool=True, kernel=(1, 1), pool_type=kind))
    outs += [S.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False),
             S.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="avg", count_include_pad=False, pooling_convention="full"),
             S.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="lp", p_value=2),
             S.Pooling(x.reshape((0, 0, -1)), kernel=(4,), stride=(3,), pool_type="max")]  # fmt: skip
    return S.Group(outs), {}, {"x": normal(2, 3, 9, 12)}


def heads():
    x, wide, length = v("x", (3, 5)), v("wide", (3, 4, 5)), v("length", (3, 4))
    label = v("softmax_label")
    outs = [S.SoftmaxOutput(x, label), S.SoftmaxOutput(wide, v("l2"), multi_output=True), S.SoftmaxOutput(wide, v("l3"), preserve_shape=True),
            S.SoftmaxOutput(wide, v("l4")), S.LinearRegressionOutput(x, v("l5")), S.LogisticRegressionOutput(x, v("l6")),
            S.MAERegressionOutput(x, v("l7")), S.SVMOutput(x, v("l8")), S.SoftmaxActivation(x), S.SoftmaxActivation(wide, mode="channel"),
            S.softmax(wide, axis=1, temperature=2.0), S.log_softmax(wide), S.softmin(wide),
            S.softmax(wide, length, axis=2, use_length=True), S.make_loss(x * 2)]  # fmt: skip
    return (
        S.Group(outs),
        {},
        {"x": normal(3, 5), "wide": normal(3, 4, 5), "length": RNG.integers(1, 6, (3, 4)).astype(np.int32)},
    )


def sequence():
    x, n = v("x", (5, 3, 8)), v("n", (3,))
    y, m = v("y", (7, 3, 24)), v("m", (6, 3, 16))
    scores = S.contrib.interleaved_matmul_selfatt_qk(y, heads=2)
    cross = S.contrib.interleaved_matmul_encdec_qk(x, m, heads=2)
    outs = [S.SequenceMask(x, n, use_sequence_length=True, value=-2), S.SequenceMask(x.transpose((1, 0, 2)), n, use_sequence_length=True, axis=1),
            S.SequenceLast(x, n, use_sequence_length=True), S.SequenceLast(x), S.SequenceLast(x.transpose((1, 0, 2)), n, use_sequence_length=True, axis=1),
            S.SequenceReverse(x, n, use_sequence_length=True), S.SequenceReverse(x), scores,
            S.contrib.interleaved_matmul_selfatt_valatt(y, S.softmax(scores), heads=2), cross,
            S.contrib.interleaved_matmul_encdec_valatt(m, S.softmax(cross), heads=2)]  # fmt: skip
    return (
        S.Group(outs),
        {},
        {"x": normal(5, 3, 8), "n": np.array([5, 1, 3], np.float32), "y": normal(7, 3, 24), "m": normal(6, 3, 16)},
    )


def recurrent(mode, layers=1, bidirectional=False, states=True):
    """The fused operator with its packed weights."""
    gates = {"lstm": 4, "gru": 3}.get(mode, 1)
    width, hidden, d = 5, 7, 2 if bidirectional else 1
    size = sum(d * gates * hidden * ((width if n == 0 else d * hidden) + hidden + 2) for n in range(layers))
    x, h, c = v("x", (6, 3, width)), v("h", (layers * d, 3, hidden)), v("c", (layers * d, 3, hidden))
    inputs = [x, v("weights"), h] + ([c] if mode == "lstm" else [])
    net = S.RNN(
        *inputs, mode=mode, state_size=hidden, num_layers=layers, bidirectional=bidirectional, state_outputs=states
    )
    feeds = {"x": normal(6, 3, width), "h": normal(layers * d, 3, hidden)}
    if mode == "lstm":
        feeds["c"] = normal(layers * d, 3, hidden)
    outs = [net[i] for i in range(len(net.list_outputs()))]
    return S.Group(outs), {"weights": normal(size) * 0.4}, feeds


def detection():
    x, probability, offsets = v("x", (2, 4, 5, 7)), v("probability", (2, 4, 30)), v("offsets", (2, 120))
    anchors, rows, rois = v("anchors", (1, 30, 4)), v("rows", (2, 12, 6)), v("rois", (3, 5))
    boxes = S.slice_axis(rows, axis=2, begin=2, end=6)
    outs = [S.contrib.MultiBoxPrior(x, sizes=(0.3, 0.6), ratios=(1, 2, 0.5)), S.contrib.MultiBoxPrior(x, sizes=(0.9,), clip=True, steps=(0.2, 0.1)),
            S.contrib.MultiBoxDetection(probability, offsets, anchors, threshold=0.25, nms_threshold=0.4),
            S.contrib.MultiBoxDetection(probability, offsets, anchors, threshold=0.1, force_suppress=True, nms_topk=9, clip=False),
            S.contrib.box_nms(rows, overlap_thresh=0.3, valid_thresh=0.2, id_index=0)[0], S.contrib.box_nms(rows, overlap_thresh=0.3, topk=5, force_suppress=True, id_index=0)[0],
            S.contrib.box_nms(rows, overlap_thresh=0.3, in_format="center", out_format="corner")[0],
            S.contrib.box_iou(S.slice_axis(boxes, axis=0, begin=0, end=1).reshape((12, 4)), S.slice_axis(boxes, axis=0, begin=1, end=2).reshape((12, 4))),
            S.ROIPooling(x, rois, pooled_size=(2, 3), spatial_scale=0.5), S.contrib.ROIAlign(x, rois, pooled_size=(2, 3), spatial_scale=0.5, sample_ratio=2)]  # fmt: skip

    def boxes_of(*front):
        low, size = RNG.uniform(0, 0.6, (*front, 2)), RNG.uniform(0.1, 0.4, (*front, 2))
        return np.concatenate([low, low + size], -1).astype(np.float32)

    p = np.exp(normal(2, 4, 30) * 2)
    rows_ = np.concatenate([RNG.integers(0, 3, (2, 12, 1)), RNG.uniform(0, 1, (2, 12, 1)), boxes_of(2, 12)], -1).astype(
        np.float32
    )
    return S.Group(outs), {}, {
        "x": normal(2, 4, 5, 7), "probability": p / p.sum(1, keepdims=True), "offsets": normal(2, 120) * 0.3, "anchors": boxes_of(1, 30),
        "rows": rows_, "rois": np.array([[0, 1, 1, 9, 7], [1, 0, 2, 12, 9], [0, 3, 0, 6, 5]], np.float32)}  # fmt: skip


def small_cnn():
    """A residual block of gluon, as `export` writes it."""
    from mxnet.gluon import nn

    class Net(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2D(6, 3, padding=1), nn.Conv2D(6, 3, padding=1, use_bias=False)
            self.norm, self.pool, self.dense = nn.BatchNorm(), nn.MaxPool2D(2, ceil_mode=True), nn.Dense(5)

        def hybrid_forward(self, F, x):
            y = F.relu(self.a(x))
            return F.softmax(self.dense(self.pool(F.relu(self.norm(self.b(y)) + y))))

    return gluon(Net(), (2, 3, 9, 11))


def text():
    """An embedding and a recurrent layer of gluon, whose weights are joined in the graph."""
    from mxnet.gluon import nn, rnn

    net = nn.HybridSequential()
    net.add(
        nn.Embedding(11, 4), rnn.LSTM(6, num_layers=2, bidirectional=True, layout="NTC"), nn.Dense(3, flatten=False)
    )
    return gluon(net, RNG.integers(0, 11, (2, 5)).astype(np.float32))


def ssd():
    """A detector in the manner of SSD (arXiv:1512.02325): boxes and classes from two scales, then suppression."""
    from mxnet.gluon import nn

    classes, sizes, ratios = 3, ((0.2, 0.3), (0.5, 0.7)), (1, 2, 0.5)
    anchors = len(sizes[0]) + len(ratios) - 1

    class Net(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.stem, self.down = nn.Conv2D(8, 3, 4, 1, activation="relu"), nn.Conv2D(13, 3, 2, 1, activation="relu")
            self.classes, self.boxes = nn.HybridSequential(), nn.HybridSequential()
            for _ in sizes:
                self.classes.add(nn.Conv2D(anchors * (classes + 1), 3, padding=1))
                self.boxes.add(nn.Conv2D(anchors * 4, 3, padding=1))

        def hybrid_forward(self, F, x):
            found = []
            for layer, head, box, size in zip((self.stem, self.down), self.classes, self.boxes, sizes):
                x = layer(x)
                scores = F.reshape(F.transpose(head(x), axes=(0, 2, 3, 1)), shape=(0, -1, classes + 1))
                offsets = F.flatten(F.transpose(box(x), axes=(0, 2, 3, 1)))
                found.append((scores, offsets, F.contrib.MultiBoxPrior(x, sizes=size, ratios=ratios)))
            scores, offsets, priors = (F.concat(*each, dim=1) for each in zip(*found))
            probabilities = F.softmax(F.transpose(scores, axes=(0, 2, 1)), axis=1)
            return F.contrib.MultiBoxDetection(probabilities, offsets, priors, threshold=0.3, nms_threshold=0.45)

    return gluon(Net(), (2, 3, 48, 48))


def gluon(net, x):
    """A network of gluon with random weights, its moving averages moved, as symbol and parameters."""
    x = normal(*x) if isinstance(x, tuple) else x
    mx.random.seed(3)
    net.initialize(mx.init.Normal(0.3))
    net.hybridize()
    with mx.autograd.train_mode():
        net(mx.nd.array(x))
    net(mx.nd.array(x))
    symbol = net(S.Variable("data"))
    params = {name: each.data().asnumpy() for name, each in net.collect_params().items()}
    return symbol, params, {"data": x}


NETWORKS = {
    "unary": unary, "binary": binary, "shapes": shapes, "selection": selection, "layers": layers, "pooling": pooling,
    "heads": heads, "sequence": sequence, "detection": detection, "small_cnn": small_cnn, "text": text,
    "ssd": ssd,
    "rnn_lstm": lambda: recurrent("lstm"), "rnn_lstm_2": lambda: recurrent("lstm", 2, True),
    "rnn_gru": lambda: recurrent("gru", 2), "rnn_gru_2": lambda: recurrent("gru", 1, True, False),
    "rnn_relu": lambda: recurrent("rnn_relu", 1, True), "rnn_tanh": lambda: recurrent("rnn_tanh", 2),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """Symbol, parameters, and inputs with the outputs that MXNet computes; returns the symbol's path."""
    symbol, params, feeds = NETWORKS[name]()
    shapes, _, _ = symbol.infer_shape(**{key: value.shape for key, value in feeds.items()})
    values = {**params, **feeds}
    arguments = [mx.nd.array(values.get(key, np.zeros(shape, np.float32)), dtype=getattr(values.get(key), "dtype", None))
                 for key, shape in zip(symbol.list_arguments(), shapes)]  # fmt: skip
    states = [mx.nd.array(params[key]) for key in symbol.list_auxiliary_states()]
    outputs = symbol.bind(mx.cpu(), arguments, grad_req="null", aux_states=states).forward(is_train=False)
    path = folder / f"{name}-symbol.json"
    symbol.save(str(path))
    auxiliary = set(symbol.list_auxiliary_states())
    saved = {f"{'aux' if key in auxiliary else 'arg'}:{key}": mx.nd.array(value) for key, value in params.items()}
    if saved:
        mx.nd.save(str(folder / f"{name}-0000.params"), saved)
    stored = {f"out{number}": output.asnumpy() for number, output in enumerate(outputs)}
    np.savez_compressed(folder / f"{name}.npz", **stored, **{f"in:{key}": value for key, value in feeds.items()})
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[2:] or NETWORKS:
        write(each, target)
