"""Reshape, Transpose, Concat, Slice, Pad and their relatives against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from small_models import FLOAT, INT64, check, model_of, typed, values

import sardonyx


def test_reshapes_of_views_with_symbolic_dims():
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        node("Reshape", ["t", "merge"], ["a"]),
        node("Reshape", ["t", "split"], ["b"]),
        node("Reshape", ["x", "other"], ["c"]),
        node("Flatten", ["t"], ["d"], axis=2),
        node("Reshape", ["t", "other"], ["e"]),
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["n"]),
        node("Mul", ["n", "three"], ["n3"]),
        node("Concat", ["n3", "minus"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["f"]),
    ]
    constants = [
        ("merge", np.array([0, -1])),
        ("split", np.array([0, 2, 3, -1])),
        ("other", np.array([3, -1])),
        ("one", np.array([1])),
        ("three", np.array([3])),
        ("minus", np.array([-1])),
    ]
    model = model_of(nodes, [("x", FLOAT, ["n", "m", 6])], "abcdef", constants=constants)
    check(model, {"x": values(2, 5, 6)}, {"x": values(3, 1, 6)}, {"x": values(1, 7, 6)})


def test_shapes_that_only_the_run_knows():
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "shape"], ["a"]),
        node("Expand", ["row", "wide"], ["b"]),
        node("Slice", ["x", "start", "end", "axes", "step"], ["c"]),
        node("Pad", ["x", "pads"], ["d"]),
        node("Unsqueeze", ["x", "axes"], ["e"]),
        node("Tile", ["x", "wide"], ["f"]),
        node("Split", ["x", "parts"], ["g", "h"]),
    ]
    inputs = [("x", FLOAT, [4, 6]), ("row", FLOAT, [1, 6])]
    sizes = {"shape": 3, "wide": 2, "start": 2, "end": 2, "axes": 2, "step": 2, "pads": 4, "parts": 2}
    inputs += [(name, INT64, [size]) for name, size in sizes.items()]

    def feed(**lists):
        arrays = {name: np.array(value, np.int64) for name, value in lists.items()}
        return {"x": values(4, 6), "row": values(1, 6), **arrays}

    model = model_of(nodes, inputs, "abcdefgh")
    first = feed(shape=[2, -1, 3], wide=[3, 6], start=[1, 0], end=[3, 9], axes=[0, 1], step=[1, 2],
                 pads=[1, 0, 0, 2], parts=[1, 3])  # fmt: skip
    second = feed(shape=[-1, 0, 2], wide=[1, 1], start=[-1, 5], end=[-9, 0], axes=[1, 0], step=[-2, -1],
                  pads=[0, 1, 3, 0], parts=[4, 0])  # fmt: skip
    check(model, first, second)
    session = sardonyx.Session(model)
    cut = session.run({**first, "pads": np.array([-1, 2, 0, -3])})[3]  # numpy.pad, so the reference, refuses to cut
    np.testing.assert_array_equal(cut, np.pad(values(4, 6)[1:, :3], ((0, 0), (2, 0))))
    for wrong in ({"shape": [5, 5, 1]}, {"wide": [1, 5]}, {"parts": [1, 1]}, {"pads": [0, -9, 0, 0]}, {"axes": [7, 1]}):
        with pytest.raises(sardonyx.SardonyxError):
            session.run({**first, **{name: np.array(value) for name, value in wrong.items()}})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint64, np.bool_])
def test_movement_of_each_type(dtype):
    node = helper.make_node
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        node("Transpose", ["x"], ["a"]),
        node("Concat", ["x", "x", "y"], ["b"], axis=1),
        node("Slice", ["x", "start", "end", "axes", "step"], ["c"]),
        node("Squeeze", ["y"], ["d"]),
        node("Tile", ["y", "twice"], ["e"]),
    ]
    constants = [("start", np.array([-1])), ("end", np.array([-(2**63)])), ("axes", np.array([1])),
                 ("step", np.array([-3])), ("twice", np.array([1, 2]))]  # fmt: skip
    model = model_of(nodes, [("x", kind, [3, 7]), ("y", kind, [3, 1])], "abcde", constants=constants)
    check(model, {"x": values(3, 7, dtype=dtype), "y": values(3, 1, dtype=dtype)})


def test_pads_of_each_mode():
    node = helper.make_node
    nodes = [node("Pad", ["x", "pads"], [f"y{i}"], mode=mode)
             for i, mode in enumerate(("constant", "reflect", "edge", "wrap"))]  # fmt: skip
    nodes.append(node("Pad", ["x", "far"], ["y4"], mode="reflect"))
    constants = [("pads", np.array([0, 1, 2, 0, 2, 0])), ("far", np.array([0, 0, 7, 0, 0, 9]))]
    model = model_of(nodes, [("x", FLOAT, [1, "n", 5])], [f"y{i}" for i in range(5)], opset=19, constants=constants)
    check(model, {"x": values(1, 3, 5)}, {"x": values(1, 7, 5)})


def test_empty_tensors_and_single_elements():
    node = helper.make_node
    nodes = [
        node("Concat", ["x", "z", "x"], ["a"], axis=0),
        node("Transpose", ["x"], ["b"]),
        node("Slice", ["x", "one", "one"], ["c"]),
        node("Reshape", ["x", "flat"], ["d"]),
        node("Split", ["x"], ["e", "f"], axis=1, num_outputs=2),
    ]
    constants = [("one", np.array([1])), ("flat", np.array([-1]))]
    inputs = [("x", FLOAT, ["n", 3]), ("z", FLOAT, ["m", 3])]
    model = model_of(nodes, inputs, "abcdef", constants=constants)
    feeds = [{"x": values(n, 3), "z": values(m, 3)} for n, m in ((0, 0), (1, 0), (0, 2), (5, 1))]
    check(model, *feeds)


def test_blocks_and_depth():
    node = helper.make_node
    nodes = [
        node("DepthToSpace", ["x"], ["a"], blocksize=2, mode="DCR"),
        node("DepthToSpace", ["x"], ["b"], blocksize=2, mode="CRD"),
        node("SpaceToDepth", ["x"], ["c"], blocksize=2),
        node("CenterCropPad", ["x", "size"], ["d"], axes=[2, 3]),
        node("ReverseSequence", ["x", "lengths"], ["e"], batch_axis=0, time_axis=1),
    ]
    inputs = [("x", FLOAT, [2, 8, "h", 6]), ("lengths", INT64, [2])]
    model = model_of(nodes, inputs, "abcde", constants=[("size", np.array([5, 9]))])
    check(model, *({"x": values(2, 8, h, 6), "lengths": np.array([8, 3])} for h in (4, 6, 8)))


def test_large_transpositions_in_tiles():
    node = helper.make_node
    nodes = [node("Transpose", ["x"], ["a"]), node("Transpose", ["x"], ["t"], perm=[1, 2, 0])]
    nodes.append(node("Neg", ["t"], ["b"]))
    model = model_of(nodes, [("x", FLOAT, ["n", 37, "m"])], "ab")
    check(model, {"x": values(131, 37, 67)}, {"x": values(3, 37, 1030)}, {"x": values(1, 37, 1)})


def test_concatenation_stays_in_channel_blocks():
    """Convolutions joined along channels, among them a number that is no multiple of a block."""
    node = helper.make_node
    rng = np.random.default_rng(1)
    weights = [("w0", rng.standard_normal((32, 16, 3, 3))), ("w1", rng.standard_normal((48, 16, 3, 3))),
               ("w2", rng.standard_normal((7, 16, 3, 3))), ("w3", rng.standard_normal((16, 87, 1, 1)))]  # fmt: skip
    nodes = [node("Conv", ["x", f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]) for i in range(3)]
    nodes += [node("Concat", ["c0", "c1", "c2"], ["j"], axis=1), node("Relu", ["j"], ["r"]),
              node("Conv", ["r", "w3"], ["y"]), node("Concat", ["c2", "c0"], ["z"], axis=1)]  # fmt: skip
    constants = [(name, w.astype(np.float32)) for name, w in weights]
    model = typed(model_of(nodes, [("x", FLOAT, [1, 16, 13, 11])], "yz", constants=constants))
    x = rng.standard_normal((1, 16, 13, 11)).astype(np.float32)
    want = ReferenceEvaluator(model).run(None, {"x": x})
    for expected, have in zip(want, sardonyx.Session(model).run({"x": x}), strict=True):
        np.testing.assert_allclose(have, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([helper.make_node("Reshape", ["x", "c"], ["y"])], [("c", np.array([5, 5]))]),
        ([helper.make_node("Transpose", ["x"], ["y"], perm=[0, 0])], []),
        ([helper.make_node("Concat", ["x", "c"], ["y"], axis=0)], [("c", np.zeros((1, 2), np.float32))]),
        ([helper.make_node("Squeeze", ["x", "c"], ["y"])], [("c", np.array([1]))]),
        ([helper.make_node("Flatten", ["x"], ["y"], axis=9)], []),
    ],
)
def test_wrong_nodes_are_named(nodes, constants):
    model = model_of(nodes, [("x", FLOAT, [3, 4])], ["y"], constants=constants)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, None))
    with pytest.raises(sardonyx.SardonyxError):
        sardonyx.Session(model).run({"x": np.zeros((3, 4), np.float32)})


@pytest.mark.parametrize("width", [16, 17, 23, 31, 32])
def test_short_rows_whose_last_elements_are_stored_twice(width):
    """Slices, tiles and sums of rows around two registers, some of them computed in the place of what they read."""
    nodes = [
        helper.make_node("Slice", ["x", "s", "e", "a"], ["t"]),
        helper.make_node("Add", ["t", "z"], ["u"]),
        helper.make_node("Mul", ["u", "z"], ["v"]),
        helper.make_node("Sub", ["v", "t"], ["y"]),
        helper.make_node("Tile", ["t", "r"], ["w"]),
        helper.make_node("Pad", ["t", "p"], ["q"], mode="reflect"),
    ]
    numbers = {"s": [1], "e": [1 + width], "a": [2], "r": [1, 2, 2], "p": [0, 1, 3, 0, 1, 2]}
    constants = [(name, np.array(value)) for name, value in numbers.items()]
    inputs = [("x", FLOAT, [3, 5, width + 3]), ("z", FLOAT, [5, 1])]
    model = model_of(nodes, inputs, ["y", "w", "q"], constants=constants)
    check(model, {"x": values(3, 5, width + 3), "z": values(5, 1)})
