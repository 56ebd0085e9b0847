"""Reductions, normalisations, softmax, scans and selections against the reference, within tolerance."""

from __future__ import annotations

import numpy as np
import pytest
from close_models import close, random
from onnx import TensorProto, helper
from small_models import FLOAT, INT64, check, model_of, typed, values

import sardonyx

node = helper.make_node

KINDS = ("Sum", "Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp")
SUMS = tuple(f"Reduce{kind}" for kind in KINDS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reductions_over_any_axes_of_symbolic_shapes(dtype):
    nodes, kind = [], helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for op in SUMS:
        nodes += [node(op, ["x", f"axes{i}"], [f"{op}{i}"], keepdims=i % 2) for i in range(4)]
    axes = [("axes0", [1]), ("axes1", [-1]), ("axes2", [0, 2]), ("axes3", [2, 0, 1])]
    axes = [(name, np.array(value)) for name, value in axes]
    model = model_of(nodes, [("x", kind, ["a", "b", "c"])], [n.output[0] for n in nodes], constants=axes)
    shapes = ((2, 3, 37), (1, 1, 1), (3, 70, 2), (5, 2, 130))
    close(model, *({"x": random(*shape, dtype=dtype)} for shape in shapes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_that_only_the_run_knows(keepdims):
    nodes = [node(op, ["x", "axes"], [op], keepdims=keepdims) for op in ("ReduceSum", "ReduceMax", "ReduceMean")]
    nodes.append(node("CumSum", ["x", "axis"], ["c"], reverse=keepdims))
    inputs = [("x", FLOAT, ["a", "b", 5]), ("axes", INT64, [2]), ("axis", INT64, [])]
    model = model_of(nodes, inputs, [n.output[0] for n in nodes])
    x, axis = random(4, 3, 5), np.array(-2)
    close(model, *({"x": x, "axes": np.array(a), "axis": axis} for a in ([0, 1], [-1, 0], [1, 2])), rtol=1e-5)
    session = sardonyx.Session(typed(model))
    with pytest.raises(sardonyx.SardonyxError):
        session.run({"x": x, "axes": np.array([0, 3]), "axis": axis})


def test_empty_sets_give_the_identity_and_special_values_pass():
    ops = [f"Reduce{kind}" for kind in ("Sum", "Prod", "Max", "Min", "L1", "L2", "LogSum", "LogSumExp")]
    nodes = [node(op, ["x", "axes"], [op]) for op in ops]
    model = model_of(nodes, [("x", FLOAT, ["a", "b"])], ops, opset=20, constants=[("axes", np.array([1]))])
    session = sardonyx.Session(typed(model))
    inf = np.inf
    wanted = (0, 1, -inf, inf, 0, 0, -inf, -inf)
    for have, want in zip(session.run({"x": np.zeros((2, 0), np.float32)}), wanted, strict=True):
        np.testing.assert_array_equal(have, np.full((2, 1), want, np.float32))
    nan = np.full((1, 33), 1, np.float32)
    nan[0, 20] = np.nan
    assert all(np.isnan(result).all() for result in session.run({"x": nan}))
    infinite = session.run({"x": np.array([[1, inf, 2]], np.float32)})
    assert [float(v[0, 0]) for v in infinite] == [inf, inf, inf, 1, inf, inf, inf, inf]


def test_integers_and_bool():
    x = np.array([[3, -5, 7], [100, 2, -9]], np.int32)
    ops = [f"Reduce{kind}" for kind in ("Max", "Min", "Mean", "Prod", "L1")]
    nodes = [node(op, ["x"], [op], axes=[1]) for op in ops]
    nodes.append(node("ReduceSum", ["x"], ["ReduceSum"]))
    model = model_of(nodes, [("x", TensorProto.INT32, [2, 3])], [n.output[0] for n in nodes], opset=13)
    check(model, {"x": x})
    nodes = [node("ReduceMax", ["x", "axes"], ["a"]), node("ReduceMin", ["x", "axes"], ["b"])]
    model = model_of(nodes, [("x", TensorProto.BOOL, [2, 3])], "ab", opset=20, constants=[("axes", np.array([1]))])
    check(model, {"x": x > 0})


def test_softmax_and_its_kin_along_every_axis():
    nodes = [node(op, ["x"], [f"{op}{a}"], axis=a) for op in ("Softmax", "LogSoftmax", "Hardmax") for a in (0, 1, -1)]
    model = model_of(nodes, [("x", FLOAT, ["a", "b", "c"])], [n.output[0] for n in nodes])
    close(model, *({"x": random(*shape) * 5} for shape in ((2, 3, 37), (3, 65, 128), (1, 1, 1))), rtol=1e-5)


def test_softmax_before_opset_13_takes_the_last_axes_as_one():
    nodes = [node("Softmax", ["x"], ["a"]), node("LogSoftmax", ["x"], ["b"], axis=2), node("Hardmax", ["x"], ["c"])]
    model = model_of(nodes, [("x", FLOAT, [2, 3, 5, 7])], "abc", opset=11)
    x = random(2, 3, 5, 7)
    a, b, c = sardonyx.Session(typed(model)).run({"x": x})
    rows = np.exp(x.reshape(2, -1) - x.reshape(2, -1).max(1, keepdims=True))
    np.testing.assert_allclose(a.reshape(2, -1), rows / rows.sum(1, keepdims=True), 1e-5)
    rows = x.reshape(6, -1)
    np.testing.assert_allclose(b.reshape(6, -1), rows - np.log(np.exp(rows).sum(1, keepdims=True)), 1e-4, 1e-5)
    np.testing.assert_array_equal(c.reshape(2, -1).argmax(1), x.reshape(2, -1).argmax(1))
    assert c.sum() == 2


def test_positions_with_ties_and_nan():
    nodes = [node("ArgMax", ["x"], ["a"], axis=1), node("ArgMin", ["x"], ["b"], axis=0, keepdims=0)]
    nodes.append(node("ArgMax", ["x"], ["c"], axis=1, select_last_index=1))
    nodes.append(node("ArgMin", ["x"], ["d"], select_last_index=1))
    model = model_of(nodes, [("x", FLOAT, ["n", "m"])], "abcd")
    tied = np.array([[1, 3, 3, 0], [0, 0, -1, -1], [5, 5, 5, 5]], np.float32)
    check(model, {"x": tied}, {"x": random(7, 40)}, {"x": random(1, 1)})
    found = sardonyx.Session(typed(model)).run({"x": np.array([[1, np.nan, 7, np.nan]], np.float32)})
    assert found[0].item() == 1


def _sum_in_lanes(row):
    """Element k goes to lane k % 16; lanes are folded 8, 4, 2, 1."""
    lanes = np.zeros(16, np.float32)
    for k, value in enumerate(row):
        lanes[k % 16] += value
    for width in (8, 4, 2, 1):
        lanes[:width] += lanes[width : 2 * width]
    return lanes[0]


def test_sums_of_rows_of_any_length_have_one_order():
    lengths = [1, 2, 7, 15, 16, 17, 31, 33, 47, 197]
    shapes = [[3, length] for length in lengths] + [["n", "m"]]
    nodes = [node("ReduceSum", [f"x{i}", "last"], [f"y{i}"], keepdims=0) for i in range(len(shapes))]
    inputs = [(f"x{i}", FLOAT, shape) for i, shape in enumerate(shapes)]
    model = model_of(nodes, inputs, [n.output[0] for n in nodes], constants=[("last", np.array([-1]))])
    session = sardonyx.Session(typed(model))
    for length in (3, 16, 37):
        feeds = {f"x{i}": random(3, n) * 1000 for i, n in enumerate([*lengths, length])}
        for have, x in zip(session.run(feeds), feeds.values(), strict=True):
            np.testing.assert_array_equal(have, [_sum_in_lanes(row) for row in x], str(x.shape))


def _positions(x, axis, largest, last):
    """By numpy: NaN beats everything, the first or last of equals."""
    if last:
        return x.shape[axis] - 1 - _positions(np.flip(x, axis), axis, largest, last=False)
    return (np.argmax if largest else np.argmin)(x, axis).astype(np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int64])
def test_positions_along_rows_and_columns_of_every_length(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    forms = [(op, axis, last) for op in ("ArgMax", "ArgMin") for axis in (0, 1) for last in (0, 1)]
    shapes = ((7, 131), (33, 13), ("n", "m"))
    nodes, inputs = [], [(f"x{i}", kind, list(shape)) for i, shape in enumerate(shapes)]
    for i in range(len(shapes)):
        for op, axis, last in forms:
            outputs = [f"{op}{axis}{last}{i}"]
            nodes.append(node(op, [f"x{i}"], outputs, axis=axis, select_last_index=last, keepdims=0))
    session = sardonyx.Session(typed(model_of(nodes, inputs, [n.output[0] for n in nodes])))
    rng = np.random.default_rng(3)
    for wide in (3, 100):  # with ties, and nearly without
        feeds = {}
        for i, shape in enumerate(shapes):
            x = rng.integers(0, wide, (5, 97) if i == 2 else shape).astype(dtype)
            x[3] = x[3, 0]  # a row of equals
            if np.dtype(dtype).kind == "f":
                x[1, 2], x[1, 5], x[2], x[4, :-1] = np.nan, np.nan, -np.inf, np.nan
                x[:, 3] = np.inf
            feeds[f"x{i}"] = x
        found = iter(session.run(feeds))
        for x in feeds.values():
            for op, axis, last in forms:
                wanted = _positions(x, axis, op == "ArgMax", last)
                np.testing.assert_array_equal(next(found), wanted, f"{op} {axis} {last} {x.shape}")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64])
def test_top_k_is_stable(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node("TopK", ["x", "k"], ["a", "b"], axis=1), node("TopK", ["x", "k"], ["c", "d"], axis=0, largest=0)]
    model = model_of(nodes, [("x", kind, ["n", "m"]), ("k", INT64, [1])], "abcd")
    x = np.random.default_rng(1).integers(0, 9, (6, 50)).astype(dtype)
    check(model, *({"x": x, "k": np.array([k])} for k in (0, 1, 4, 6)))
    with pytest.raises(sardonyx.SardonyxError):
        sardonyx.Session(typed(model)).run({"x": x, "k": np.array([7])})


def test_top_k_sorts_nan_as_numpy():
    nodes = [node("TopK", ["x", "k"], ["a", "b"]), node("TopK", ["x", "k"], ["c", "d"], largest=0)]
    model = model_of(nodes, [("x", FLOAT, [9])], "abcd", constants=[("k", np.array([9]))])
    check(model, {"x": values(9)})


def test_scans():
    nodes = [node("CumSum", ["x", "last"], [f"y{e}{r}"], exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)] + [
        node("CumSum", ["x", "first"], ["z"])
    ]
    constants = [("first", np.array(0)), ("last", np.array(-1))]
    model = model_of(nodes, [("x", FLOAT, ["n", "m"])], [n.output[0] for n in nodes], constants=constants)
    close(model, {"x": random(3, 37)}, {"x": random(70, 1)}, {"x": random(0, 3)}, rtol=1e-4, atol=1e-5)


def test_wrong_axes_are_named():
    with pytest.raises(sardonyx.SardonyxError, match="ReduceMax"):
        sardonyx.Session(model_of([node("ReduceMax", ["x"], ["y"], axes=[4])], [("x", FLOAT, [2, 3])], "y", opset=13))
