"""Small models of TensorFlow Lite, one for each family of operators, put together by `tflite_writer`.

``python tflite_models.py FOLDER`` (with PYTHONPATH, and LiteRT installed) stores inputs, and the outputs that the
interpreter computes, as NAME.npz; the default tests read what this wrote once into tests/converters/fixtures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from tflite_writer import Graph, Model

RNG = np.random.default_rng(11)
SAME, VALID, RELU, RELU6, TANH = 0, 1, 1, 3, 4
F = np.float32


def normal(*shape):
    return RNG.standard_normal(shape).astype(F)


def built(make: Callable[[Graph], tuple[list[int], list[int]]]) -> bytes:
    model = Model()
    graph = model.graph()
    model.add(graph, *make(graph))
    return model.written()


def float_net():
    def make(g):
        x = g.tensor([1, 9, 11, 3], name="image")
        a = g.op(
            "CONV_2D",
            [x, g.constant(normal(4, 3, 3, 3)), g.constant(normal(4))],
            [g.tensor([1, 5, 6, 4])],
            "Conv2D",
            padding=SAME,
            stride_w=2,
            stride_h=2,
            activation=RELU6,
        )
        b = g.op(
            "DEPTHWISE_CONV_2D",
            [a, g.constant(normal(1, 3, 3, 8)), g.constant(normal(8))],
            [g.tensor([1, 5, 6, 8])],
            "DepthwiseConv2D",
            padding=SAME,
            stride_w=1,
            stride_h=1,
            depth_multiplier=2,
            dilation_w=2,
            dilation_h=1,
        )
        c = g.op("PRELU", [b, g.constant(normal(1, 1, 8))], [g.tensor([1, 5, 6, 8])])
        d = g.op(
            "MAX_POOL_2D",
            [c],
            [g.tensor([1, 3, 3, 8])],
            "Pool2D",
            padding=SAME,
            stride_w=2,
            stride_h=2,
            filter_w=3,
            filter_h=2,
        )
        e = g.op(
            "AVERAGE_POOL_2D",
            [c],
            [g.tensor([1, 3, 3, 8])],
            "Pool2D",
            padding=SAME,
            stride_w=2,
            stride_h=2,
            filter_w=2,
            filter_h=3,
        )
        f = g.op("CONCATENATION", [d, e], [g.tensor([1, 3, 3, 16])], "Concatenation", axis=3)
        h = g.op("ADD", [f, g.constant(normal(16))], [g.tensor([1, 3, 3, 16])], "Add", activation=RELU)
        i = g.op(
            "TRANSPOSE_CONV",
            [g.constant(np.array([1, 6, 6, 5], np.int32)), g.constant(normal(5, 3, 3, 16)), h],
            [g.tensor([1, 6, 6, 5])],
            "TransposeConv",
            padding=SAME,
            stride_w=2,
            stride_h=2,
        )
        j = g.op(
            "RESIZE_BILINEAR",
            [i, g.constant(np.array([9, 7], np.int32))],
            [g.tensor([1, 9, 7, 5])],
            "ResizeBilinear",
            half_pixel_centers=True,
        )
        k = g.op(
            "PAD", [j, g.constant(np.array([[0, 0], [1, 2], [0, 1], [0, 3]], np.int32))], [g.tensor([1, 12, 8, 8])]
        )
        m = g.op("SPACE_TO_DEPTH", [k], [g.tensor([1, 6, 4, 32])], "SpaceToDepth", block_size=2)
        n = g.op("MEAN", [m, g.constant(np.array([1, 2], np.int32))], [g.tensor([1, 32])], "Reducer")
        o = g.op(
            "FULLY_CONNECTED",
            [n, g.constant(normal(6, 32)), g.constant(normal(6))],
            [g.tensor([1, 6])],
            "FullyConnected",
            activation=RELU,
        )
        p = g.op("SOFTMAX", [o], [g.tensor([1, 6])], "Softmax", beta=1.5)
        return [x], [p, k, h]

    return built(make), {"image": normal(1, 9, 11, 3)}


def arithmetic():
    def make(g):
        x, y = g.tensor([2, 3, 5], name="x"), g.tensor([3, 1], name="y")
        outs = [
            g.op(name, [x], [g.tensor([2, 3, 5])])
            for name in (
                "ABS",
                "CEIL",
                "COS",
                "EXP",
                "FLOOR",
                "NEG",
                "RELU",
                "RELU6",
                "RELU_N1_TO_1",
                "ROUND",
                "SIN",
                "SQUARE",
                "TANH",
                "LOGISTIC",
                "HARD_SWISH",
                "ELU",
                "ZEROS_LIKE",
                "LOG_SOFTMAX",
                "L2_NORMALIZATION",
            )
        ]
        p = outs[3]
        outs += [g.op(name, [p], [g.tensor([2, 3, 5])]) for name in ("LOG", "SQRT", "RSQRT")]
        outs += [
            g.op(name, [x, y], [g.tensor([2, 3, 5])], *more)
            for name, *more in (
                ("ADD", "Add"),
                ("SUB", "Sub"),
                ("MUL", "Mul"),
                ("DIV", "Div"),
                ("MAXIMUM",),
                ("MINIMUM",),
                ("SQUARED_DIFFERENCE",),
                ("FLOOR_DIV",),
                ("FLOOR_MOD",),
            )
        ]
        outs += [g.op("POW", [p, y], [g.tensor([2, 3, 5])]), g.op("ATAN2", [x, outs[10]], [g.tensor([2, 3, 5])])]
        outs += [
            g.op("LEAKY_RELU", [x], [g.tensor([2, 3, 5])], "LeakyRelu", alpha=0.3),
            g.op("GELU", [x], [g.tensor([2, 3, 5])], "Gelu"),
            g.op("GELU", [x], [g.tensor([2, 3, 5])], "Gelu", approximate=True),
        ]
        less = g.op("LESS", [x, y], [g.tensor([2, 3, 5], "bool")])
        more = g.op("GREATER_EQUAL", [x, y], [g.tensor([2, 3, 5], "bool")])
        both = g.op(
            "LOGICAL_OR",
            [g.op("LOGICAL_NOT", [less], [g.tensor([2, 3, 5], "bool")]), more],
            [g.tensor([2, 3, 5], "bool")],
        )
        outs += [g.op("SELECT_V2", [less, x, y], [g.tensor([2, 3, 5])]), both]
        cast = g.op(
            "CAST",
            [g.op("MUL", [x, g.constant(F(4))], [g.tensor([2, 3, 5])], "Mul")],
            [g.tensor([2, 3, 5], "int32")],
            "Cast",
            in_type=0,
            out_type=2,
        )
        outs += [
            cast,
            g.op("FLOOR_MOD", [cast, g.constant(np.array(3, np.int32))], [g.tensor([2, 3, 5], "int32")]),
            g.op("FLOOR_DIV", [cast, g.constant(np.array(3, np.int32))], [g.tensor([2, 3, 5], "int32")]),
        ]
        return [x, y], outs

    return built(make), {"x": normal(2, 3, 5), "y": normal(3, 1)}


def movement():
    def make(g):
        def ints(*values, shape=None):
            return g.constant(np.array(values, np.int32).reshape(shape if shape is not None else (len(values),)))

        x = g.tensor([2, 4, 6, 3], name="x")
        t = g.tensor
        outs = [
            g.op("TRANSPOSE", [x, ints(0, 3, 1, 2)], [t([2, 3, 4, 6])]),
            g.op("RESHAPE", [x, ints(8, -1)], [t([8, 18])]),
            g.op("RESHAPE", [x], [t([4, 36])], "Reshape", new_shape=[4, 36]),
            g.op(
                "STRIDED_SLICE",
                [x, ints(0, 1, -1, 0), ints(2, 4, -5, 2), ints(1, 2, -2, 1)],
                [t([2, 2, 2, 2])],
                "StridedSlice",
            ),
            g.op(
                "STRIDED_SLICE",
                [x, ints(0, 1, 0, 1), ints(0, 2, 3, 0), ints(1, 1, 1, 1)],
                [t([2, 3, 2])],
                "StridedSlice",
                begin_mask=1,
                end_mask=9,
                shrink_axis_mask=2,
            ),
            g.op(
                "STRIDED_SLICE",
                [x, ints(0, 0, 1), ints(0, 0, 3), ints(1, 1, 1)],
                [t([2, 1, 2, 6, 3])],
                "StridedSlice",
                begin_mask=1,
                end_mask=1,
                new_axis_mask=2,
            ),
            g.op("SLICE", [x, ints(0, 1, 2, 0), ints(2, -1, 3, 1)], [t([2, 3, 3, 1])]),
            g.op("PACK", [x, x], [t([2, 4, 2, 6, 3])], "Pack", values_count=2, axis=2),
            g.op("TILE", [x, ints(1, 2, 1, 2)], [t([2, 8, 6, 6])]),
            g.op("REVERSE_V2", [x, ints(1, 2)], [t([2, 4, 6, 3])]),
            g.op("MIRROR_PAD", [x, ints(0, 0, 2, 1, 0, 2, 1, 0, shape=(4, 2))], [t([2, 7, 8, 4])], "MirrorPad", mode=0),
            g.op("MIRROR_PAD", [x, ints(0, 0, 2, 1, 0, 2, 1, 0, shape=(4, 2))], [t([2, 7, 8, 4])], "MirrorPad", mode=1),
            g.op("PADV2", [x, ints(0, 0, 2, 1, 0, 2, 0, 0, shape=(4, 2)), g.constant(F(0.5))], [t([2, 7, 8, 3])]),
            g.op("SPACE_TO_BATCH_ND", [x, ints(2, 3), ints(0, 0, 1, 2, shape=(2, 2))], [t([12, 2, 3, 3])]),
            g.op("GATHER", [x, ints(2, 0, 2)], [t([2, 3, 6, 3])], "Gather", axis=1),
            g.op("GATHER_ND", [x, ints(1, 2, 0, 3, shape=(2, 2))], [t([2, 6, 3])]),
            g.op(
                "DEPTH_TO_SPACE",
                [g.op("TILE", [x, ints(1, 1, 1, 4)], [t([2, 4, 6, 12])])],
                [t([2, 8, 12, 3])],
                "DepthToSpace",
                block_size=2,
            ),
            g.op(
                "RESIZE_NEAREST_NEIGHBOR",
                [x, ints(7, 5)],
                [t([2, 7, 5, 3])],
                "ResizeNearestNeighbor",
                half_pixel_centers=True,
            ),
            g.op("RESIZE_NEAREST_NEIGHBOR", [x, ints(3, 13)], [t([2, 3, 13, 3])], "ResizeNearestNeighbor"),
            g.op("RESIZE_BILINEAR", [x, ints(7, 5)], [t([2, 7, 5, 3])], "ResizeBilinear", align_corners=True),
            g.op("EXPAND_DIMS", [x, ints(-1)], [t([2, 4, 6, 3, 1])]),
            g.op("SHAPE", [x], [t([4], "int32")], "Shape", out_type=2),
            g.op("ARG_MAX", [x, ints(2)], [t([2, 4, 3], "int32")], "ArgMax", output_type=2),
            g.op("CUMSUM", [x, ints(1)], [t([2, 4, 6, 3])], "Cumsum", exclusive=True),
            g.op("REDUCE_MAX", [x, ints(1, -1)], [t([2, 6])], "Reducer"),
            g.op("SUM", [x, ints(2)], [t([2, 4, 1, 3])], "Reducer", keep_dims=True),
        ]
        parts = [t([2, 4, 2, 3]) for _ in range(3)]
        g.op("SPLIT", [ints(2), x], parts, "Split", num_splits=3)
        some = [t([2, 1, 6, 3]), t([2, 3, 6, 3])]
        g.op("SPLIT_V", [x, ints(1, -1), ints(1)], some, "SplitV", num_splits=2)
        each = [t([2, 4, 6]) for _ in range(3)]
        g.op("UNPACK", [x], each, "Unpack", num=3, axis=3)
        back = g.op("BATCH_TO_SPACE_ND", [outs[13], ints(2, 3), ints(0, 0, 1, 2, shape=(2, 2))], [t([2, 4, 6, 3])])
        values, places = t([2, 4, 6, 2]), t([2, 4, 6, 2], "int32")
        g.op("TOPK_V2", [x, g.constant(np.array(2, np.int32))], [values, places])
        return [x], [*outs, *parts, *some, *each, back, values, places]

    return built(make), {"x": normal(2, 4, 6, 3)}


def quantised(dtype="int8"):
    """Integers throughout, weights with a scale for each channel."""
    wide = dtype == "int16"
    bits = np.int64 if wide else np.int32
    small, zero = (2e-4, 0) if wide else (0.05, 3)

    def make(g):
        x = g.tensor([1, 7, 9, 3], dtype, name="x", scale=small, zero=zero)
        w_scale = np.array([0.01, 0.02, 0.015, 0.03], F)
        weights = RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
        bias = RNG.integers(-3000, 3000, 4).astype(bits)
        out = dict(scale=small * 2, zero=0 if wide else -5)
        a = g.op(
            "CONV_2D",
            [
                x,
                g.constant(weights, scale=w_scale, zero=[0] * 4),
                g.constant(bias, scale=w_scale * small, zero=[0] * 4),
            ],
            [g.tensor([1, 7, 9, 4], dtype, **out)],
            "Conv2D",
            padding=SAME,
            stride_w=1,
            stride_h=1,
            activation=RELU,
        )
        dw = RNG.integers(-127, 128, (1, 3, 3, 4)).astype(np.int8)
        b = g.op(
            "DEPTHWISE_CONV_2D",
            [
                a,
                g.constant(dw, scale=w_scale, zero=[0] * 4, axis=3),
                g.constant(bias, scale=w_scale * small * 2, zero=[0] * 4),
            ],
            [g.tensor([1, 7, 9, 4], dtype, **out)],
            "DepthwiseConv2D",
            padding=SAME,
            stride_w=1,
            stride_h=1,
            depth_multiplier=1,
        )
        c = g.op("ADD", [a, b], [g.tensor([1, 7, 9, 4], dtype, scale=small * 3, zero=0 if wide else 7)], "Add")
        d = g.op(
            "MAX_POOL_2D",
            [c],
            [g.tensor([1, 3, 4, 4], dtype, scale=small * 3, zero=0 if wide else 7)],
            "Pool2D",
            padding=VALID,
            stride_w=2,
            stride_h=2,
            filter_w=2,
            filter_h=2,
        )
        e = g.op(
            "RESHAPE",
            [d, g.constant(np.array([1, 48], np.int32))],
            [g.tensor([1, 48], dtype, scale=small * 3, zero=0 if wide else 7)],
        )
        fc = RNG.integers(-127, 128, (5, 48)).astype(np.int8)
        f = g.op(
            "FULLY_CONNECTED",
            [e, g.constant(fc, scale=0.01), g.constant(np.zeros(5, bits), scale=small * 3 * 0.01)],
            [g.tensor([1, 5], dtype, scale=small * 8, zero=0 if wide else 10)],
            "FullyConnected",
        )
        last = dict(scale=1 / 32768, zero=0) if wide else dict(scale=1 / 256, zero=-128)
        h = g.op("LOGISTIC", [f], [g.tensor([1, 5], dtype, **last)])
        return [x], [h, c, f]

    limits = (-9000, 9000) if wide else (-128, 128)
    return built(make), {"x": RNG.integers(*limits, (1, 7, 9, 3)).astype(dtype)}


def half_weights():
    def make(g):
        x = g.tensor([1, 5, 5, 2], name="x")
        weights = g.op("DEQUANTIZE", [g.constant(normal(3, 3, 3, 2).astype(np.float16))], [g.tensor([3, 3, 3, 2])])
        bias = g.op("DEQUANTIZE", [g.constant(normal(3).astype(np.float16))], [g.tensor([3])])
        return [x], [
            g.op(
                "CONV_2D", [x, weights, bias], [g.tensor([1, 3, 3, 3])], "Conv2D", padding=VALID, stride_w=1, stride_h=1
            )
        ]

    return built(make), {"x": normal(1, 5, 5, 2)}


def hybrid():
    """Integer weights, real numbers between: the interpreter quantises the input of each product while running."""

    def make(g):
        x = g.tensor([3, 24], name="x")
        w = g.constant(RNG.integers(-127, 128, (7, 24)).astype(np.int8), scale=0.01)
        return [x], [g.op("FULLY_CONNECTED", [x, w, g.constant(normal(7))], [g.tensor([3, 7])], "FullyConnected")]

    return built(make), {"x": normal(3, 24)}


def streaming():
    """A ring of the last three inputs, kept in a variable that begins with ones."""
    model = Model()
    g, init = model.graph(), model.graph()
    x = g.tensor([1, 4], name="x")
    g.op("CALL_ONCE", [], [], "CallOnce", init_subgraph=1)
    handle = g.op("VAR_HANDLE", [], [g.tensor([], "resource")], "VarHandle", shared_name="ring")
    old = g.op("READ_VARIABLE", [handle], [g.tensor([3, 4])])
    kept = g.op(
        "SLICE",
        [old, g.constant(np.array([1, 0], np.int32)), g.constant(np.array([2, 4], np.int32))],
        [g.tensor([2, 4])],
    )
    new = g.op("CONCATENATION", [kept, x], [g.tensor([3, 4])], "Concatenation", axis=0)
    g.op("ASSIGN_VARIABLE", [handle, new], [])
    y = g.op("MEAN", [new, g.constant(np.array([0], np.int32))], [g.tensor([4], name="y")], "Reducer")
    model.add(g, [x], [y])
    there = init.op("VAR_HANDLE", [], [init.tensor([], "resource")], "VarHandle", shared_name="ring")
    init.op("ASSIGN_VARIABLE", [there, init.constant(np.ones((3, 4), F))], [])
    model.add(init, [], [])
    return model.written(), {"x": normal(1, 4), "ring": normal(3, 4)}


def control():
    """x is doubled until it reaches a limit; then one of two branches."""
    model = Model()
    g, test, body, yes, no = (model.graph() for _ in range(5))
    x, limit = g.tensor([3], name="x"), g.tensor([1], name="limit")
    outs = [g.tensor([3]), g.tensor([1])]
    g.op("WHILE", [x, limit], outs, "While", cond_subgraph=1, body_subgraph=2)
    total = g.op("SUM", [outs[0], g.constant(np.array([0], np.int32))], [g.tensor([])], "Reducer")
    chosen = g.op("GREATER", [total, g.constant(F(0))], [g.tensor([], "bool")])
    z = g.op("IF", [chosen, outs[0]], [g.tensor([3])], "If", then_subgraph=3, else_subgraph=4)
    model.add(g, [x, limit], [z, outs[0]])
    a, b = test.tensor([3]), test.tensor([1])
    top = test.op(
        "REDUCE_MAX",
        [test.op("ABS", [a], [test.tensor([3])]), test.constant(np.array([0], np.int32))],
        [test.tensor([1])],
        "Reducer",
        keep_dims=True,
    )
    model.add(test, [a, b], [test.op("LESS", [top, b], [test.tensor([1], "bool")])])
    a, b = body.tensor([3]), body.tensor([1])
    model.add(body, [a, b], [body.op("ADD", [a, a], [body.tensor([3])], "Add"), b])
    a = yes.tensor([3])
    model.add(yes, [a], [yes.op("SQUARE", [a], [yes.tensor([3])])])
    a = no.tensor([3])
    model.add(no, [a], [no.op("NEG", [a], [no.tensor([3])])])
    return model.written(), {"x": np.array([0.3, -0.7, 1.1], F), "limit": np.array([20], F)}


def recurrent():
    """A clipped LSTM with peepholes and projection, a plain one, an RNN and an SVDF, each with its state."""

    def make(g):
        x = g.tensor([2, 5, 4], name="x")
        n, p = 6, 3

        def lstm(units, out, clip, peephole, project):
            weights = [g.constant(normal(units, 4) * F(0.5)) for _ in range(4)] + [
                g.constant(normal(units, out) * F(0.5)) for _ in range(4)
            ]
            peep = [g.constant(normal(units)) if peephole else -1 for _ in range(3)]
            bias = [g.constant(normal(units)) for _ in range(4)]
            proj = [g.constant(normal(out, units)), g.constant(normal(out))] if project else [-1, -1]
            name = f"lstm{units}"
            states = [
                g.tensor([2, out], name=f"{name}_h", variable=True),
                g.tensor([2, units], name=f"{name}_c", variable=True),
            ]
            inputs = [x, *weights, *peep, *bias, *proj, *states, -1, -1, -1, -1]
            return g.op(
                "UNIDIRECTIONAL_SEQUENCE_LSTM",
                inputs,
                [g.tensor([2, 5, out])],
                "UnidirectionalSequenceLSTM",
                activation=TANH,
                cell_clip=clip,
                time_major=False,
            )

        a, b = lstm(n, p, 0.8, True, True), lstm(7, 7, 0.0, False, False)
        h = g.tensor([2, 5], name="rnn_h", variable=True)
        c = g.op(
            "UNIDIRECTIONAL_SEQUENCE_RNN",
            [x, g.constant(normal(5, 4)), g.constant(normal(5, 5) * F(0.3)), g.constant(normal(5)), h],
            [g.tensor([2, 5, 5])],
            "SequenceRNN",
            time_major=False,
            activation=TANH,
        )
        step = g.op(
            "RESHAPE",
            [
                g.op(
                    "SLICE",
                    [x, g.constant(np.array([0, 0, 0], np.int32)), g.constant(np.array([2, 1, 4], np.int32))],
                    [g.tensor([2, 1, 4])],
                ),
                g.constant(np.array([2, 4], np.int32)),
            ],
            [g.tensor([2, 4])],
        )
        memory = g.tensor([2, 18], name="svdf_state", variable=True)
        d = g.op(
            "SVDF",
            [step, g.constant(normal(6, 4)), g.constant(normal(6, 3)), g.constant(normal(3)), memory],
            [g.tensor([2, 3])],
            "SVDF",
            rank=2,
            activation=RELU,
        )
        return [x], [a, b, c, d]

    feeds = {
        "x": normal(2, 5, 4),
        "lstm6_h": normal(2, 3),
        "lstm6_c": normal(2, 6),
        "lstm7_h": normal(2, 7),
        "lstm7_c": normal(2, 7),
        "rnn_h": normal(2, 5),
        "svdf_state": normal(2, 18),
    }
    return built(make), feeds


def open_batch():
    def make(g):
        x = g.tensor([1, 4, 4, 2], name="x", signature=[-1, 4, 4, 2])
        a = g.op(
            "CONV_2D",
            [x, g.constant(normal(3, 3, 3, 2)), g.constant(normal(3))],
            [g.tensor([1, 4, 4, 3], signature=[-1, 4, 4, 3])],
            "Conv2D",
            padding=SAME,
            stride_w=1,
            stride_h=1,
        )
        return [x], [
            g.op("MEAN", [a, g.constant(np.array([1, 2], np.int32))], [g.tensor([1, 3], signature=[-1, 3])], "Reducer")
        ]

    return built(make), {"x": normal(3, 4, 4, 2)}


MODELS = {
    "float_net": float_net, "arithmetic": arithmetic, "movement": movement, "int8": quantised, "int16": lambda: quantised("int16"),
    "half_weights": half_weights, "hybrid": hybrid, "streaming": streaming, "control": control, "recurrent": recurrent,
    "open_batch": open_batch,
}  # fmt: skip


def made(name):
    """A model and inputs: the same at each call."""
    global RNG
    RNG = np.random.default_rng(sum(name.encode()))
    return MODELS[name]()


def store(folder: Path) -> None:
    """Inputs, and what the interpreter makes of them."""
    from sardonyx.converters.source import Request
    from sardonyx.converters.tflite import open_source

    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        data, feeds = made(name)
        path = folder / f"{name}.tflite"
        path.write_bytes(data)
        try:
            source = open_source(Request(str(path), "tflite"), lambda text: None)
            source.export(folder / f"{name}.onnx")
            outputs = source.run(feeds)
        finally:
            (folder / f"{name}.onnx").unlink(missing_ok=True)
            path.unlink()
        np.savez_compressed(folder / f"{name}.npz", **{f"out{n}": value for n, value in enumerate(outputs)})
        print(name, len(outputs), flush=True)


if __name__ == "__main__":
    store(Path(sys.argv[1]))
