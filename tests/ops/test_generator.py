"""Ranges, windows, random values; casts, clips, powers and remainders."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from small_models import FLOAT, INT64, SPECIAL, check, model_of, typed, values

import sardonyx

node = helper.make_node
INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)


def test_sequences_from_run_time_numbers():
    nodes = [
        node("Range", ["a", "b", "c"], ["r"]),
        node("Range", ["x", "y", "z"], ["s"]),
        node("ConstantOfShape", ["shape"], ["t"], value=helper.make_tensor("v", INT64, [1], [7])),
        node("Trilu", ["m", "a"], ["u"]),
        node("Trilu", ["m", "a"], ["l"], upper=0),
        node("EyeLike", ["m"], ["e"], k=-1, dtype=TensorProto.DOUBLE),
    ]
    inputs = [(name, INT64, []) for name in "abc"] + [(name, FLOAT, []) for name in "xyz"]
    inputs += [("shape", INT64, [2]), ("m", FLOAT, ["n", 5])]
    model = model_of(nodes, inputs, "rstule")

    def feed(integers, floats, shape, n):
        found = {name: np.array(v, np.int64) for name, v in zip("abc", integers, strict=True)}
        found |= {name: np.array(v, np.float32) for name, v in zip("xyz", floats, strict=True)}
        return {**found, "shape": np.array(shape), "m": np.arange(5 * n, dtype=np.float32).reshape(n, 5)}

    session = check(model, feed((1, 9, 3), (0, 2, 0.5), (2, 3), 4), feed((2, -9, -4), (1, 1, 1), (0, 3), 7),
                    feed((0, -2, 1), (2, -1.5, -0.5), (1, 1), 1))  # fmt: skip
    for wrong in (feed((1, 2, 0), (0, 1, 1), (1, 1), 1), feed((1, 2, 1), (0, 1, 1), (1, -1), 1)):
        with pytest.raises(sardonyx.SardonyxError):
            session.run(wrong)


def test_random_values_have_the_right_moments_and_can_be_repeated():
    nodes = [
        node("RandomNormal", [], ["n"], shape=[200, 500], mean=2.0, scale=3.0, seed=1.0),
        node("RandomUniformLike", ["x"], ["u"], low=-1.0, high=3.0, seed=2.0),
        node("Bernoulli", ["p"], ["b"], seed=3.0),
        node("Multinomial", ["l"], ["m"], sample_size=20000, seed=4.0),
        node("Dropout", ["x", "ratio", "yes"], ["d", "k"], seed=5),
        node("RandomUniform", [], ["v"], shape=[1000], seed=6.0),
    ]
    constants = [("ratio", np.array(0.25, np.float32)), ("yes", np.array(True))]
    inputs = [("x", FLOAT, [100000]), ("p", FLOAT, [100000]), ("l", FLOAT, [2, 3])]
    model = typed(model_of(nodes, inputs, "nubmdkv", constants=constants))
    odds = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], np.float32)
    feed = {"x": np.ones(100000, np.float32), "p": np.full(100000, 0.3, np.float32), "l": np.log(odds)}
    session = sardonyx.Session(model)
    assert all(p.provider == "native" for p in session.placement())
    n, u, b, m, d, k, v = session.run(feed)
    assert abs(n.mean() - 2) < 0.05
    assert abs(n.std() - 3) < 0.05
    assert abs(((n - 2) ** 4).mean() / 81 - 3) < 0.15
    assert u.min() >= -1
    assert u.max() < 3
    assert abs(u.mean() - 1) < 0.02
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    assert abs(b.mean() - 0.3) < 0.01
    shares = np.stack([np.bincount(row, minlength=3) for row in m]) / 20000
    np.testing.assert_allclose(shares, odds, atol=0.02)
    assert abs(k.mean() - 0.75) < 0.01
    np.testing.assert_allclose(d, np.where(k, 1 / 0.75, 0), rtol=1e-6)
    assert len(np.unique(v)) > 990
    for first, second in zip((n, u, b, m, d, k, v), session.run(feed), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("source", [np.float32, np.float64, np.float16, np.bool_, np.int8, np.uint64])
def test_casts_to_every_native_type(source):
    targets = [*INTEGERS, np.float16, np.float32, np.float64, np.bool_]
    kinds = [helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in targets] + [TensorProto.BFLOAT16]
    nodes = [node("Cast", ["x"], [f"y{i}"], to=kind) for i, kind in enumerate(kinds)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(source))
    model = model_of(nodes, [("x", kind, ["n"])], [f"y{i}" for i in range(len(kinds))])
    numbers = np.array([0, 1, 2.5, 3.5, 100, 0.3], np.float64)
    check(model, {"x": numbers.astype(source)})


def test_casts_of_floats_beyond_an_integer_type_saturate():
    targets = [helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in (np.int8, np.uint8, np.int32, np.int64)]
    nodes = [node("Cast", ["x"], [f"y{i}"], to=kind) for i, kind in enumerate(targets)]
    model = typed(model_of(nodes, [("x", FLOAT, [6])], [f"y{i}" for i in range(4)]))
    x = np.array([1e20, -1e20, np.inf, -np.inf, np.nan, -0.5], np.float32)
    for have in sardonyx.Session(model).run({"x": x}):
        limits = np.iinfo(have.dtype)
        assert have[0] == have[2] == limits.max
        assert have[1] == have[3] == limits.min
        assert have[5] == 0


def test_clips_keep_nan_and_may_lack_a_bound():
    nodes = [
        node("Clip", ["x", "low", "high"], ["a"]),
        node("Clip", ["x", "", "high"], ["b"]),
        node("Clip", ["x", "low"], ["c"]),
        node("Clip", ["x", "high", "low"], ["d"]),
        node("Clip", ["x"], ["e"]),
    ]
    model = model_of(nodes, [("x", FLOAT, ["n"]), ("low", FLOAT, []), ("high", FLOAT, [])], "abcde")
    check(model, {"x": SPECIAL, "low": np.array(-1, np.float32), "high": np.array(2, np.float32)})


def test_powers_and_remainders_of_mixed_types():
    nodes = [
        node("Pow", ["x", "i"], ["a"]),
        node("Pow", ["i", "h"], ["b"]),
        node("Pow", ["i", "i8"], ["c"]),
        node("Mod", ["i", "j"], ["d"]),
        node("Mod", ["i", "j"], ["e"], fmod=1),
        node("Mod", ["x", "h"], ["f"], fmod=1),
        node("BitCast", ["x"], ["g"], to=TensorProto.INT32),
        node("Mean", ["x", "h", "x"], ["k"]),
    ]
    inputs = [("x", FLOAT, [7]), ("h", FLOAT, [7]), ("i", INT64, [7]), ("j", INT64, [7]), ("i8", TensorProto.INT8, [7])]
    model = model_of(nodes, inputs, "abcdefgk", opset=26)
    feed = {
        "x": np.array([2, -3, 0.5, 4, -1.5, 7, 1], np.float32),
        "h": np.array([2, 1, 3, 2, 1, 1, 2.5], np.float32),
        "i": np.array([3, 2, 1, 0, 4, 2, 5]),
        "j": np.array([2, -2, 3, 5, -3, 7, -1]),
        "i8": np.array([2, 3, 1, 0, 4, 5, 1], np.int8),
    }
    session = sardonyx.Session(typed(model))
    assert all(p.provider == "native" for p in session.placement())
    from onnx.reference import ReferenceEvaluator

    for want, have in zip(ReferenceEvaluator(model).run(None, feed), session.run(feed), strict=True):
        assert have.dtype == want.dtype
        np.testing.assert_allclose(have, want, rtol=1e-6)
    with pytest.raises(sardonyx.SardonyxError):
        session.run({**feed, "j": np.zeros(7, np.int64)})


def test_identity_dropout_is_exact():
    model = model_of([node("Dropout", ["x"], ["y", "m"])], [("x", FLOAT, [2, "n"])], "ym")
    check(model, {"x": values(2, 7)})
