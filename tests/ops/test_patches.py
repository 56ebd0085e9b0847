"""Col2Im, DeformConv, Det, TfIdfVectorizer, training steps, and conditions that are known, against the reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import sardonyx

node = helper.make_node
FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
rng = np.random.default_rng(7)
TRAINING = "ai.onnx.preview.training"


def session_of(nodes, inputs, outputs, *, constants=(), domain: str = "") -> tuple[onnx.ModelProto, sardonyx.Session]:
    """A model of opset 22, and its session, all native; `inputs` are ``(name, type, shape)``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )
    imports = [helper.make_opsetid("", 22), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = sardonyx.Session(model)
    assert {p.provider for p in session.placement()} == {"native"}
    return model, session


def compare(model, session, *feeds, rtol=1e-5, atol=1e-5):
    for feed in feeds:
        for want, have in zip(ReferenceEvaluator(model).run(None, feed), session.run(feed), strict=True):
            assert have.dtype == want.dtype
            np.testing.assert_allclose(have, want, rtol, atol)


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return rng.normal(size=shape).astype(dtype)


def test_col2im_with_everything_given_at_run_time():
    attributes = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 2, 1]}
    inputs = [("x", FLOAT, ["n", "c", "l"]), ("image", INT64, [2]), ("block", INT64, [2])]
    model, session = session_of([node("Col2Im", ["x", "image", "block"], ["y"], **attributes)], inputs, [("y", FLOAT)])

    def feed(batch, channels, image, block):
        windows = [(image[0] + 3 - block[0]) // 2 + 1, image[1] + 1 - 2 * (block[1] - 1)]
        x = normal(batch, channels * block[0] * block[1], windows[0] * windows[1])
        return {"x": x, "image": np.array(image), "block": np.array(block)}

    compare(model, session, feed(2, 3, (7, 6), (3, 2)), feed(1, 1, (5, 5), (1, 1)))
    wrong = feed(1, 1, (5, 5), (1, 1))
    wrong["x"] = wrong["x"][..., 1:]
    with pytest.raises(sardonyx.SardonyxError):
        session.run(wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_deformed_convolution_in_groups(dtype):
    kind = FLOAT if dtype == np.float32 else DOUBLE
    attributes = {"group": 2, "offset_group": 2, "strides": [2, 1], "pads": [1, 1, 0, 1], "dilations": [1, 2]}
    shapes = {"x": ["n", 4, 7, 6], "w": [6, 2, 3, 2], "o": ["n", 24, 3, 6], "b": [6], "m": ["n", 12, 3, 6]}
    inputs = [(name, kind, shape) for name, shape in shapes.items()]
    nodes = [node("DeformConv", ["x", "w", "o", "b", "m"], ["y"], **attributes)]
    nodes += [node("DeformConv", ["x", "w", "o"], ["z"], **attributes)]
    model, session = session_of(nodes, inputs, [("y", kind), ("z", kind)])
    feed = {name: normal(*(2 if dim == "n" else dim for dim in shape), dtype=dtype) for name, shape in shapes.items()}
    feed["o"][0, :4] *= 9  # far outside
    compare(model, session, feed, rtol=1e-4, atol=1e-4)


def test_determinants():
    nodes = [node("Det", ["x"], ["a"]), node("Det", ["c"], ["b"]), node("Det", ["empty"], ["d"])]
    inputs = [("x", FLOAT, ["n", 2, "m", "m"]), ("c", DOUBLE, [5, 5]), ("empty", FLOAT, [0, 3, 3])]
    model, session = session_of(nodes, inputs, [("a", FLOAT), ("b", DOUBLE), ("d", FLOAT)])
    x = normal(3, 2, 4, 4)
    x[0, 0, 1] = x[0, 0, 2]  # singular
    x[1, 0, 0, 0], x[2, 1, 3, 3] = 0, np.nan
    empty = np.zeros((0, 3, 3), np.float32)
    square = normal(5, 5, dtype=np.float64)
    others = {"c": square, "empty": empty}
    compare(model, session, {"x": x, **others}, {"x": normal(1, 2, 1, 1), **others})
    with pytest.raises(sardonyx.SardonyxError):
        session.run({"x": normal(1, 2, 3, 2), **others})


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 2])
def test_counts_of_n_grams(mode, skips):
    pool, starts = [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 1, 2, 3, 3, 2, 2], [0, 4, 10]
    columns = [0, 1, 2, 3, 7, 5, 4, 6, 8]
    attributes = {
        "mode": mode, "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": skips, "pool_int64s": pool,
        "ngram_counts": starts, "ngram_indexes": columns, "weights": [0.5 * i + 1 for i in range(9)],
    }  # fmt: skip
    for kind, dtype in ((INT64, np.int64), (TensorProto.INT32, np.int32)):
        nodes = [node("TfIdfVectorizer", ["x"], ["y"], **attributes)]
        nodes += [node("TfIdfVectorizer", ["v"], ["z"], **{**attributes, "min_gram_length": 2})]
        inputs = [("x", kind, ["n", "m"]), ("v", kind, ["k"])]
        model, session = session_of(nodes, inputs, [("y", FLOAT), ("z", FLOAT)])
        feeds = [{"x": rng.integers(1, 9, (n, m)).astype(dtype), "v": rng.integers(1, 9, k).astype(dtype)}
                 for n, m, k in ((3, 12, 7), (1, 1, 30))]  # fmt: skip
        compare(model, session, *feeds)


@pytest.mark.parametrize("step", [0, 3])
def test_training_steps_of_several_tensors(step):
    common = {"norm_coefficient": 0.01}
    momentum = {"alpha": 0.9, "beta": 0.8, **common}
    names = [f"{kind}{i}" for kind in "xgvh" for i in (1, 2)]
    three, four = ["r", "t", *names[:6]], ["r", "t", *names]
    positive = ["r", "t", *names[:4], *names[6:]]
    nodes = [
        node("Momentum", three, ["a", "b", "c", "d"], mode="standard", domain=TRAINING, **momentum),
        node("Momentum", three, ["e", "f", "g", "h"], mode="nesterov", domain=TRAINING, **momentum),
        node("Adagrad", positive, ["i", "j", "k", "l"], decay_factor=0.1, domain=TRAINING, **common),
        node("Adam", four, [*"mnopqs"], norm_coefficient_post=0.1, domain=TRAINING, **common),
    ]
    inputs = [("r", FLOAT, []), ("t", INT64, [])]
    inputs += [(name, FLOAT, ["n", 3] if name.endswith("1") else [4]) for name in names]
    outputs = [(name, FLOAT) for name in "abcdefghijklmnopqs"]
    model, session = session_of(nodes, inputs, outputs, domain=TRAINING)
    feed = {name: np.abs(normal(*((2, 3) if name.endswith("1") else (4,)))) for name in names}
    feed |= {"r": np.array(0.1, np.float32), "t": np.array(step)}
    wanted = ReferenceEvaluator(model).run(None, feed)
    for want, have in zip(wanted, session.run(feed), strict=True):
        np.testing.assert_allclose(have, want, 1e-5, 1e-6)
