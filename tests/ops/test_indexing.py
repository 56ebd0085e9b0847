"""Gather, Scatter and the operators that find things, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import FLOAT, INT64, check, model_of, typed, values

import sardonyx

node = helper.make_node


def test_gathers_with_negative_indices_and_symbolic_dims():
    nodes = [
        node("Gather", ["x", "i"], ["a"], axis=1),
        node("Gather", ["x", "last"], ["b"], axis=-1),
        node("GatherElements", ["x", "e"], ["c"], axis=1),
        node("GatherND", ["x", "p"], ["d"]),
        node("OneHot", ["i", "depth", "pair"], ["h"], axis=0),
        node("Size", ["x"], ["s"]),
        node("Shape", ["x"], ["t"], start=-2),
    ]
    inputs = [("x", FLOAT, ["n", 5, "m"]), ("i", INT64, [2, "k"])]
    inputs += [("e", TensorProto.INT32, ["n", 3, "m"]), ("p", INT64, [4, 2])]
    constants = [("last", np.array(-1)), ("depth", np.array(6)), ("pair", np.array([2.5, -1], np.float32))]
    model = model_of(nodes, inputs, "abcdhst", constants=constants)
    rng = np.random.default_rng(0)

    def feed(n, m, k):
        points = np.stack([rng.integers(-n, n, 4), rng.integers(-5, 5, 4)], 1)
        elements = rng.integers(-5, 5, (n, 3, m)).astype(np.int32)
        return {"x": values(n, 5, m), "i": rng.integers(-5, 5, (2, k)), "e": elements, "p": points}

    session = check(model, feed(2, 3, 4), feed(1, 7, 1), feed(3, 1, 0))
    wrong = feed(2, 3, 4)
    wrong["i"][1, 2] = 5
    with pytest.raises(sardonyx.SardonyxError):
        session.run(wrong)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int64, np.uint32])
def test_scatters_in_order(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    reductions = ("none", "add", "mul", "max", "min")
    nodes = [node("ScatterElements", ["x", "i", "u"], [f"e{r}"], axis=1, reduction=r) for r in reductions]
    nodes += [node("ScatterND", ["x", "p", "v"], [f"n{r}"], reduction=r) for r in reductions]
    inputs = [("x", kind, ["n", 7]), ("i", INT64, [2, 5]), ("u", kind, [2, 5])]
    inputs += [("p", INT64, [4, 1]), ("v", kind, [4, 7])]
    model = model_of(nodes, inputs, [f"{k}{r}" for k in "en" for r in reductions])
    rng = np.random.default_rng(2)
    data = lambda *shape: rng.integers(0, 9, shape).astype(dtype)  # noqa: E731
    feed = {
        "x": data(3, 7), "i": np.array([[0, 0, -1, 3, 0], [6, -7, 6, 2, 2]]), "u": data(2, 5),
        "p": np.array([[0], [2], [0], [-1]]), "v": data(4, 7),
    }  # fmt: skip
    session = check(model, feed)
    for name, place in (("i", (0, 0)), ("p", (1, 0))):
        wrong = feed[name].copy()
        wrong[place] = -8
        with pytest.raises(sardonyx.SardonyxError):
            session.run({**feed, name: wrong})


def _scattered(x, indices, updates, axis, reduction):
    """Element by element, in order."""
    out = x.copy()
    ufunc = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}.get(reduction, lambda _, new: new)
    for place in np.ndindex(indices.shape):
        target = (*place[:axis], indices[place], *place[axis + 1 :])
        out[target] = ufunc(out[target], updates[place])
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64, np.bool_])
def test_scattered_elements_that_meet_come_in_order_along_every_axis(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    reductions = ("none", "add", "mul", "max", "min")
    shapes = [((5, 71), (37, 67), 0), ((7, 23), (5, 61), 1), ((3, 5, 19), (2, 11, 17), 1), ((41,), (97,), 0)]
    nodes, inputs, feed, wanted = [], [], {}, {}
    rng = np.random.default_rng(5)
    for k, (shape, count, axis) in enumerate(shapes):
        feed |= {f"x{k}": rng.integers(-3, 4, shape).astype(dtype), f"u{k}": rng.integers(-3, 4, count).astype(dtype)}
        feed[f"i{k}"] = rng.integers(-shape[axis], shape[axis], count)
        symbolic = ["n", *shape[1:]] if k == 0 else list(shape)
        inputs += [(f"x{k}", kind, symbolic), (f"i{k}", INT64, list(count)), (f"u{k}", kind, list(count))]
        for r in reductions:
            name, operands = f"y{k}{r}", [f"{letter}{k}" for letter in "xiu"]
            nodes.append(node("ScatterElements", operands, [name], axis=axis, reduction=r))
            wanted[name] = _scattered(feed[f"x{k}"], feed[f"i{k}"], feed[f"u{k}"], axis, r)
    model = model_of(nodes, inputs, list(wanted))
    for threads in (1, 2):
        session = sardonyx.Session(typed(model), sardonyx.SessionOptions(threads=threads))
        for (name, want), have in zip(wanted.items(), session.run(feed), strict=True):
            np.testing.assert_array_equal(have, want, name)
    with pytest.raises(sardonyx.SardonyxError):
        session.run({**feed, "i0": np.full((37, 67), 5)})


def test_what_is_found_depends_on_data():
    nodes = [
        node("NonZero", ["x"], ["a"]),
        node("Compress", ["x", "c"], ["b"], axis=0),
        node("Compress", ["x", "f"], ["d"]),
        node("Unique", ["x"], ["u0", "u1", "u2", "u3"]),
        node("Unique", ["x"], ["v0", "v1", "v2", "v3"], axis=0),
        node("Unique", ["flat"], ["w0", "w1", "w2", "w3"], sorted=0),
    ]
    boolean = TensorProto.BOOL
    inputs = [("x", FLOAT, ["n", 3]), ("c", boolean, [2]), ("f", boolean, [5]), ("flat", INT64, ["k"])]
    outputs = ["a", "b", "d", *(f"{k}{i}" for k in "uvw" for i in range(4))]
    model = model_of(nodes, inputs, outputs)
    x = np.array([[0, 2, -1], [-1, 2, 0], [0, 2, -1], [5, -0.0, 0]], np.float32)
    flags = {"c": np.array([False, True]), "f": np.array([True, False, True, True, False])}
    feed = {"x": x, **flags, "flat": np.array([3, -2, 3, 9, -2, -2, 0])}
    session = check(model, feed, {**feed, "x": np.ones((2, 3), np.float32), "flat": np.array([1])})
    with pytest.raises(sardonyx.SardonyxError):
        session.run({**feed, "x": x[:1]})  # the condition names a row that is not there


def test_caches_are_written_from_a_place_of_their_own():
    nodes = [node("TensorScatter", ["x", "u", "s"], [mode], mode=mode) for mode in ("linear", "circular")]
    inputs = [("x", FLOAT, [2, 3, "t", 5]), ("u", FLOAT, [2, 3, 2, 5]), ("s", INT64, [2])]
    model = model_of(nodes, inputs, ["linear", "circular"], opset=24)
    feed = {"x": values(2, 3, 6, 5), "u": -values(2, 3, 2, 5), "s": np.array([4, 1])}
    check(model, feed)
    circular = typed(model_of(nodes[1:], inputs, ["circular"], opset=24))
    (have,) = sardonyx.Session(circular).run({**feed, "s": np.array([5, 0])})
    np.testing.assert_array_equal(have[0, :, 0], feed["u"][0, :, 1])
