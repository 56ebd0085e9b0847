"""LSTM, GRU and RNN against the formulas of the specification, written out step by step in numpy.

`onnx.reference` knows neither sequence lengths nor most attributes, so the oracle is our own.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import Session, errors

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
ACTIVATIONS = {
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "ThresholdedRelu": lambda x, a, b: np.where(x >= a, x, 0),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "Elu": lambda x, a, b: np.where(x < 0, a * np.expm1(x), x),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: np.log1p(np.exp(x)),
}


def one_step(kind, x, h, c, w, r, wb, rb, p, act, attributes):
    """The next h and c of one batch element."""
    split = len(w) // GATES[kind]
    xs, hs, wbs, rbs = (np.split(v, GATES[kind]) for v in (w @ x, r @ h, wb, rb))
    sums = [a + b + d + e for a, b, d, e in zip(xs, hs, wbs, rbs, strict=True)]
    if kind == "RNN":
        return act[0](sums[0]), c
    if kind == "GRU":
        z, reset = act[0](sums[0]), act[0](sums[1])
        if attributes.get("linear_before_reset"):
            g = act[1](xs[2] + wbs[2] + reset * (hs[2] + rbs[2]))
        else:
            g = act[1](xs[2] + wbs[2] + rbs[2] + r[2 * split :] @ (reset * h))
        return (1 - z) * g + z * h, c
    i, o, f, g = sums
    pi, po, pf = np.split(p, 3)
    i = act[0](i + pi * c)
    f = 1 - i if attributes.get("input_forget") else act[0](f + pf * c)
    c = f * c + i * act[1](g)
    return act[0](o + po * c) * act[2](c), c


def oracle(kind, feeds, attributes):
    """Y, Y_h, Y_c in float64, layout 0."""
    x, w, r = (np.asarray(feeds[name], np.float64) for name in ("X", "W", "R"))
    time, batch, _ = x.shape
    directions, _, hidden = r.shape
    count = len(DEFAULTS[kind])
    names = attributes.get("activations", DEFAULTS[kind] * directions)
    alpha = attributes.get("activation_alpha", [0.0] * len(names))
    beta = attributes.get("activation_beta", [0.0] * len(names))
    clip = attributes.get("clip", np.inf)
    bias = feeds.get("B", np.zeros((directions, 2 * GATES[kind] * hidden))).astype(np.float64)
    p = feeds.get("P", np.zeros((directions, 3 * hidden))).astype(np.float64)
    lengths = feeds.get("sequence_lens", np.full(batch, time))
    y = np.zeros((time, directions, batch, hidden))
    last_h = np.array(feeds.get("initial_h", np.zeros((directions, batch, hidden))), np.float64)
    last_c = np.array(feeds.get("initial_c", np.zeros((directions, batch, hidden))), np.float64)
    for d in range(directions):
        own = slice(d * count, (d + 1) * count)
        act = [
            lambda v, n=n, a=a, b=b: ACTIVATIONS[n](np.clip(v, -clip, clip), a, b)
            for n, a, b in zip(names[own], alpha[own], beta[own], strict=True)
        ]
        backwards = d == 1 or attributes.get("direction") == "reverse"
        for b in range(batch):
            steps = range(lengths[b])
            for t in reversed(steps) if backwards else steps:
                last_h[d, b], last_c[d, b] = one_step(
                    kind, x[t, b], last_h[d, b], last_c[d, b], w[d], r[d], *np.split(bias[d], 2), p[d], act, attributes
                )
                y[t, d, b] = last_h[d, b]
    return [y, last_h, last_c][: 3 if kind == "LSTM" else 2]


ORDER = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def sample(kind, *, time=5, batch=3, inputs=7, hidden=19, directions=1, optional=ORDER, dtype=np.float32):
    """Random operands, those of ORDER that `optional` names."""
    rng = np.random.default_rng(hidden + batch)
    gates = GATES[kind] * hidden
    shapes = {
        "X": (time, batch, inputs), "W": (directions, gates, inputs), "R": (directions, gates, hidden),
        "B": (directions, 2 * gates), "initial_h": (directions, batch, hidden),
        "initial_c": (directions, batch, hidden), "P": (directions, 3 * hidden),
    }  # fmt: skip
    if kind != "LSTM":
        optional = [name for name in optional if name not in ("initial_c", "P")]
    feeds = {name: rng.standard_normal(shapes[name]).astype(dtype) / 2 for name in shapes if name in optional}
    if "sequence_lens" in optional:
        feeds["sequence_lens"] = np.resize(np.array([time, 0, max(time - 2, 1)], np.int32), batch)
    return feeds


def transposed(feeds, attributes):
    """Operands for layout 1."""
    if not attributes.get("layout"):
        return feeds
    return {n: np.swapaxes(v, 0, 1).copy() if n in ("X", "initial_h", "initial_c") else v for n, v in feeds.items()}


def session_of(kind, feeds, attributes, *, constant=("W", "R", "B", "P"), symbolic=True):
    feeds = transposed(feeds, attributes)
    names = [name if name in feeds else "" for name in ORDER]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if kind == "LSTM" else 2]
    names = names if kind == "LSTM" else names[:6]
    node = helper.make_node(kind, names, outputs, hidden_size=feeds["R"].shape[-1], **attributes)
    inputs, initializers = [], []
    for name, value in feeds.items():
        if name in constant:
            initializers.append(onnx.numpy_helper.from_array(value, name))
            continue
        dims = [f"{name}{i}" if symbolic and name == "X" and i < 2 else d for i, d in enumerate(value.shape)]
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), dims))
    kind_of = helper.np_dtype_to_tensor_dtype(feeds["X"].dtype)
    made = [helper.make_tensor_value_info(name, kind_of, None) for name in outputs]
    graph = helper.make_graph([node], "layer", inputs, made, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = Session(model)
    assert all(p.provider == "native" for p in session.placement())
    return session, {name: value for name, value in feeds.items() if name not in constant}


def check(kind, feeds, attributes, *, tolerance=2e-6, **options):
    session, given = session_of(kind, feeds, attributes, **options)
    results, expected = session.run(given), oracle(kind, feeds, attributes)
    if attributes.get("layout"):
        expected = [e.transpose(2, 0, 1, 3) if e.ndim == 4 else e.swapaxes(0, 1) for e in expected]
    for number, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        np.testing.assert_allclose(result, wanted, rtol=tolerance, atol=tolerance, err_msg=f"{kind} output {number}")
    return results


CASES = [
    ("RNN", {}, {}),
    ("LSTM", {}, {"directions": 2, "batch": 9}),
    ("GRU", {}, {"directions": 2, "optional": ("X", "W", "R")}),
    ("GRU", {"linear_before_reset": 1}, {"directions": 2, "batch": 1}),
    ("GRU", {"linear_before_reset": 1, "direction": "reverse"}, {"optional": ("X", "W", "R")}),
    ("LSTM", {"direction": "reverse", "layout": 1, "clip": 0.3}, {}),
    ("LSTM", {"input_forget": 1, "layout": 1}, {"directions": 2, "hidden": 16, "batch": 1}),
    ("RNN", {"layout": 1}, {"directions": 2, "hidden": 1, "time": 1}),
]


@pytest.mark.parametrize(("kind", "attributes", "sizes"), CASES)
def test_a_layer_follows_its_formula(kind, attributes, sizes) -> None:
    if sizes.get("directions") == 2:
        attributes = attributes | {"direction": "bidirectional"}
    check(kind, sample(kind, **sizes), attributes)


def test_every_activation_takes_its_alpha_and_beta() -> None:
    names = list(ACTIVATIONS)
    for first in (0, 5):
        chosen = names[first : first + 6]
        alpha, beta = [0.1 + 0.3 * i for i in range(6)], [0.7 - 0.1 * i for i in range(6)]
        attributes = {"direction": "bidirectional", "activations": chosen, "activation_alpha": alpha}
        check("LSTM", sample("LSTM", directions=2, time=2), attributes | {"activation_beta": beta})


def test_weights_may_be_computed_at_run_time() -> None:
    for kind, attributes in (("LSTM", {}), ("GRU", {"linear_before_reset": 1})):
        check(kind, sample(kind), attributes, constant=())


def test_doubles_keep_their_precision_and_halves_compute_in_float() -> None:
    check("LSTM", sample("LSTM", dtype=np.float64), {}, tolerance=1e-13)
    check("GRU", sample("GRU", dtype=np.float16), {}, tolerance=2e-3)


def test_results_do_not_depend_on_the_batch_that_a_sequence_is_in() -> None:
    feeds = sample("LSTM", batch=11, hidden=37, optional=("X", "W", "R", "B"))
    session, given = session_of("LSTM", feeds, {})
    whole = session.run(given)[0]
    alone = np.concatenate([session.run({"X": feeds["X"][:, b : b + 1]})[0] for b in range(11)], axis=2)
    assert (whole == alone).all()


def test_a_length_beyond_the_sequence_is_an_error() -> None:
    feeds = sample("RNN")
    session, given = session_of("RNN", feeds, {})
    for wrong in (6, -1):
        given["sequence_lens"] = np.array([1, wrong, 2], np.int32)
        with pytest.raises(errors.SardonyxError, match="sequence length"):
            session.run(given)


def test_nan_stays_in_its_own_sequence() -> None:
    feeds = sample("GRU", batch=2, optional=("X", "W", "R"))
    feeds["X"][1, 0] = np.nan
    session, given = session_of("GRU", feeds, {})
    y = session.run(given)[0]
    assert np.isnan(y[1:, 0, 0]).all()
    assert np.isfinite(y[:, 0, 1]).all()
    assert np.isfinite(y[0]).all()


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(errors.ModelError, match="activations"):
        session_of("RNN", sample("RNN"), {"activations": ["Sine"]})
