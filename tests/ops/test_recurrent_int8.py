"""Recurrent layers with weights of bytes.

DynamicQuantizeLSTM against ONNX Runtime, whose rounding it has: what differs is rounding of floats, and borders between
steps. Weights alone in bytes against the same weights as floats: no bit differs.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import Session, SessionOptions, errors

onnxruntime = pytest.importorskip("onnxruntime")

GATES = 4
ORDER = ("X", "W", "R", "B", "lengths", "h", "c", "P", "w_scale", "w_zero", "r_scale", "r_zero")
STEP = 4e-3  # what one number on the other side of a border may change


def rounded(w: np.ndarray, kind: str, per_channel: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [D, K, N] as integers, their scales and zero points, one for each direction or column."""
    axes = (1,) if per_channel else (1, 2)
    most = np.abs(w).max(axis=axes, keepdims=True)
    if kind == "int8":
        scale, zero = most / 127, 0
    else:
        scale, zero = most / 120, 121  # ONNX Runtime takes one zero point
    q = (np.rint(w / scale) + zero).astype(kind)
    shape = (len(w), w.shape[2]) if per_channel else (len(w),)
    return q, scale.reshape(shape).astype(np.float32), np.full(shape, zero, kind)


def model_of(
    kind: str = "int8", *, per_channel: bool = True, hidden: int = 17, batch: int = 3, time: int = 7, inputs: int = 13,
    direction: str = "forward", optional: tuple[str, ...] = ("B",), outputs: int = 3, **attributes,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:  # fmt: skip
    rng = np.random.default_rng(hidden + 100 * batch)
    directions = 1 + (direction == "bidirectional")

    def real(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    w = rounded(real(directions, inputs, GATES * hidden) / np.sqrt(inputs), kind, per_channel)
    r = rounded(real(directions, hidden, GATES * hidden) / np.sqrt(hidden), kind, per_channel)
    known = dict(zip(("W", "w_scale", "w_zero", "R", "r_scale", "r_zero"), (*w, *r), strict=True))
    known |= {"B": real(directions, 2 * GATES * hidden), "P": real(directions, 3 * hidden)}
    feeds = {"X": real(time, batch, inputs), "h": real(directions, batch, hidden), "c": real(directions, batch, hidden)}
    feeds["lengths"] = np.resize(np.array([time, time - 2, 1], np.int32), batch)
    here = [name for name in ORDER if "_" in name or name in ("X", "W", "R", *optional)]
    names = ["Y", "Y_h", "Y_c"][:outputs]
    node = helper.make_node(
        "DynamicQuantizeLSTM", [name if name in here else "" for name in ORDER], names, domain="com.microsoft",
        hidden_size=hidden, direction=direction, **attributes,
    )  # fmt: skip
    feeds = {name: value for name, value in feeds.items() if name in here}
    ports = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
             for name, value in feeds.items()]  # fmt: skip
    made = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in known.items() if name in here]
    graph = helper.make_graph([node], "layer", ports, made, weights)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9), feeds


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], **options) -> list[np.ndarray]:
    session = Session(model, SessionOptions(**options))
    assert all(place.provider == "native" for place in session.placement())
    return session.run(feeds)


def theirs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # with more, each part of the batch has a range of its own
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


STATES = ("B", "h", "c")
CASES = [
    {"hidden": 5, "batch": 1},
    {"hidden": 16, "batch": 3, "direction": "reverse", "optional": (*STATES, "lengths")},
    {"hidden": 64, "batch": 8, "direction": "bidirectional", "optional": (*STATES, "lengths")},
    {"hidden": 131, "batch": 21, "kind": "uint8", "per_channel": False, "direction": "bidirectional", "time": 3},
    {"hidden": 33, "batch": 13, "kind": "uint8", "optional": (*STATES, "P")},
    {"hidden": 17, "optional": ("B", "P"), "input_forget": 1, "per_channel": False},
    {"hidden": 17, "optional": (), "activations": ["HardSigmoid", "Softsign", "Relu"]},
    {"hidden": 17, "optional": ("B",), "clip": 0.4, "time": 2, "batch": 1},
    {"hidden": 17, "optional": ("B", "lengths"), "outputs": 1},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_a_layer_rounds_as_onnx_runtime_does(case) -> None:
    model, feeds = model_of(**case)
    for ours, wanted in zip(run(model, feeds), theirs(model, feeds), strict=True):
        difference = np.abs(ours - wanted)
        assert difference.max() < STEP
        assert np.median(difference) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 2},
        pytest.param({"target": "x86_64_v3"}, marks=pytest.mark.isa("avx2")),
        pytest.param({"target": "skylake_avx512"}, marks=pytest.mark.isa("avx512bw")),
        pytest.param({"target": "icelake_server"}, marks=pytest.mark.isa("avx512_vnni")),
    ],
    ids=str,
)
def test_every_processor_and_number_of_threads_gives_the_same_bits(options) -> None:
    for case in (CASES[2], CASES[3]):
        model, feeds = model_of(**case)
        results = run(model, feeds, threads=1)
        assert all((a == b).all() for a, b in zip(results, run(model, feeds, **options), strict=True))


def test_nan_and_infinity_do_not_become_numbers() -> None:
    for value in (np.nan, np.inf):
        model, feeds = model_of(batch=2, optional=("B", "h"))
        feeds["h"][0, 1, 3] = value
        y = run(model, feeds)[0]
        assert np.isnan(y).all()


def test_scales_that_do_not_fit_are_an_error() -> None:
    model, _ = model_of()
    for weight in model.graph.initializer:
        if weight.name == "r_scale":
            weight.CopyFrom(onnx.numpy_helper.from_array(np.ones((1, 3), np.float32), "r_scale"))
    with pytest.raises(errors.SardonyxError, match="scales do not fit"):
        Session(model)


WEIGHTS_ALONE = """<ir_version: 9, opset_import: ["" : 20]>
layer (float[time,batch,7] x) => (y, h) {
    r = DequantizeLinear <axis = 1> (rq, rscale, zero)
    w = DequantizeLinear <axis = 1> (wq, wscale, zero)
    y, h = %s <hidden_size = %d, direction = "%s"> (x, w, r, b)
}"""


def weights_alone(operator: str, hidden: int, direction: str, zero: int, kind: str) -> tuple[onnx.ModelProto, ...]:
    """A layer with quantised weights; the same with W as floats; the same with floats for both."""
    rng = np.random.default_rng(hidden)
    columns = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator] * hidden
    directions = 1 + (direction == "bidirectional")
    known = {
        "b": rng.standard_normal((directions, 2 * columns)).astype(np.float32),
        "zero": np.full(columns, zero, kind),
    }
    for name, inputs in (("r", hidden), ("w", 7)):
        q = rng.integers(*((-128, 128) if kind == "int8" else (0, 256)), (directions, columns, inputs), kind)
        scale = (rng.random(columns) / 300 / np.sqrt(inputs)).astype(np.float32)
        known |= {f"{name}q": q, f"{name}scale": scale, name: (q.astype(np.float32) - zero) * scale[:, None]}
    made = []
    for left in (2, 1, 0):
        model = onnx.parser.parse_model(WEIGHTS_ALONE % (operator, hidden, direction))
        for node in list(model.graph.node[left:2]):
            model.graph.node.remove(node)
        read = {name for node in model.graph.node for name in node.input}
        computed = {name for node in model.graph.node for name in node.output}
        weights = [onnx.numpy_helper.from_array(known[name], name) for name in sorted(read - computed - {"x"})]
        model.graph.initializer.extend(weights)
        made.append(model)
    return tuple(made)


@pytest.fixture
def always_bytes(monkeypatch) -> None:
    """Layers of any size keep their weights in bytes."""
    monkeypatch.setattr("sardonyx.optimizer.fuse_weights.LEAST_RECURRENT", 0)


LAYERS = [
    ("LSTM", 33, "bidirectional", 0, "int8"),
    ("GRU", 16, "reverse", 128, "uint8"),
    ("RNN", 5, "forward", 0, "int8"),
]


@pytest.mark.usefixtures("always_bytes")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer[0])
@pytest.mark.parametrize("target", [None, pytest.param("x86_64_v3", marks=pytest.mark.isa("avx2"))])
def test_weights_of_bytes_have_the_bits_of_floats(layer, target) -> None:
    *models, floats = weights_alone(*layer)
    options, other = SessionOptions(cache=False, profile=True, target=target), Session(floats, SessionOptions())
    for ours in (Session(model, options) for model in models):
        for batch in (1, 2, 5, 11):
            feeds = {"x": np.random.default_rng(batch).standard_normal((4, batch, 7)).astype(np.float32)}
            for a, b in zip(ours.run(feeds), other.run(feeds), strict=True):
                np.testing.assert_array_equal(a, b)
        assert any(f"{layer[0]}Dequantized" in step.operator for step in ours.profile().steps)
