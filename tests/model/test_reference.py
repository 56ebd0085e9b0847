"""`run_node` and `evaluate`: the meaning of operators, where `onnx.reference` needed help above all."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import parser

from sardonyx.errors import InputError, UnsupportedError
from sardonyx.model import load
from sardonyx.runtime.reference import VERSION_KEY, evaluate, run_node

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7


def run(operator: str, *inputs, opset: int = 17, domain: str = "", outputs: int = 1, **attributes):
    """One node's outputs; a single output is returned bare."""
    values = [None if value is None else ir.Value(name=f"i{k}") for k, value in enumerate(inputs)]
    given = [ir.convenience.convert_attribute(name, value) for name, value in attributes.items()]
    node = ir.Node(domain, operator, values, given, num_outputs=outputs)
    results = run_node(node, list(inputs), {domain: opset})
    return results[0] if outputs == 1 else results


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_before_opset_13_normalises_everything_after_its_axis(operator: str) -> None:
    old = run(operator, X, opset=11)
    new = run(operator, X.reshape(2, 12), axis=-1)
    np.testing.assert_allclose(old, new.reshape(X.shape))


def test_log_softmax_does_not_underflow() -> None:
    y = run("LogSoftmax", np.array([[0.0, 1000.0]], np.float32))
    np.testing.assert_array_equal(y, [[-1000.0, 0.0]])


@pytest.mark.parametrize("opset", [7, 9, 15])
def test_batch_normalization_with_one_output_is_inference(opset: int) -> None:
    ones = np.ones(3, np.float32)
    y = run("BatchNormalization", X, ones, ones, 2 * ones, 4 * ones, opset=opset, epsilon=0.0)
    np.testing.assert_allclose(y, (X - 2) / 2 + 1, rtol=1e-6)


def test_lrn_covers_all_channels() -> None:
    x = np.ones((1, 3, 2, 2), np.float32)
    y = run("LRN", x, size=3, alpha=3.0, beta=1.0, bias=0.0)
    np.testing.assert_allclose(y[0, :, 0, 0], [1 / 2, 1 / 3, 1 / 2])


def test_resize_10_and_upsample_9_take_scales_second() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    scales = np.array([1, 1, 2, 2], np.float32)
    doubled = x.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(run("Resize", x, scales, opset=10, mode="nearest"), doubled)
    np.testing.assert_array_equal(run("Upsample", x, scales, opset=9, mode="nearest"), doubled)
    np.testing.assert_array_equal(run("Upsample", x, opset=7, mode="nearest", scales=scales.tolist()), doubled)
    linear = run("Upsample", x, scales, opset=9, mode="linear")
    np.testing.assert_allclose(linear[0, 0, 0], [0, 0.5, 1, 1])


def test_operators_that_the_evaluator_lacks() -> None:
    x = X[:, :, :, None]
    np.testing.assert_allclose(run("GlobalLpPool", x), np.sqrt((x**2).sum((2, 3), keepdims=True)), rtol=1e-6)
    picture = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    pooled = run("MaxRoiPool", picture, np.array([[0, 0, 0, 3, 3]], np.float32), pooled_shape=[2, 2])
    np.testing.assert_array_equal(pooled[0, 0], [[5, 7], [13, 15]])
    index = np.array([[2, 0, 1]])
    y = run("Scatter", np.zeros((3, 3), np.float32), index, np.array([[1, 2, 3]], np.float32), opset=9)
    np.testing.assert_array_equal(y, [[0, 2, 0], [0, 0, 3], [1, 0, 0]])
    assert run("Multinomial", np.zeros((2, 5), np.float32), sample_size=7).shape == (2, 7)
    [scores] = run("ZipMap", np.array([[0.25, 0.75]]), opset=1, domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    assert scores == {"a": 0.25, "b": 0.75}


def test_functions_of_schemas_accept_absent_inputs() -> None:
    np.testing.assert_allclose(run("HardSwish", X), X * np.clip(X / 6 + 0.5, 0, 1), rtol=1e-6)
    np.testing.assert_array_equal(run("Clip", X, None, np.array(1, np.float32)), np.minimum(X, 1))


def test_small_floats_strings_sequences_and_optionals() -> None:
    half = run("Cast", X, opset=19, to=17)
    assert half.dtype == ml_dtypes.float8_e4m3fn
    assert run("StringConcat", np.array(["a"], object), np.array(["b"], object), opset=20).tolist() == ["ab"]
    assert len(run("SequenceConstruct", X, X)) == 2
    assert run("Optional", X) is X
    assert run("OptionalHasElement", None, opset=18) == np.array(False)


def loop(body: str, trips: int) -> list:
    proto = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]>
        g (int64 n, float[2] x) => (float[2] last, float[s, 2] all) {{
            keep = Constant <value = bool {{1}}> ()
            last, all = Loop (n, keep, x) <body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[2] o) {{
                {body}
            }}>
        }}"""
    )
    return evaluate(load(proto), {"n": np.array(trips), "x": np.array([1, 2], np.float32)})


def test_loops_may_run_zero_times_and_use_values_from_outside() -> None:
    body = "d = Identity (c) w = Add (v, x) o = Identity (w)"
    last, every = loop(body, 3)
    np.testing.assert_array_equal(last, [4, 8])
    np.testing.assert_array_equal(every, [[2, 4], [3, 6], [4, 8]])
    last, every = loop(body, 0)
    np.testing.assert_array_equal(last, [1, 2])
    assert every.shape == (0, 2)
    assert every.dtype == np.float32


def test_scan_runs_backwards_and_along_other_axes() -> None:
    proto = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[2] s, float[2, 3] x) => (float[2] total, float[2, 3] sums) {
            total, sums = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                                scan_output_axes = [1], scan_output_directions = [1],
                body = b (float[2] a, float[2] v) => (float[2] t, float[2] o) { t = Add (a, v) o = Identity (t) }>
                (s, x)
        }"""
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    total, sums = evaluate(load(proto), {"s": np.zeros(2, np.float32), "x": x})
    np.testing.assert_array_equal(total, x.sum(1))
    np.testing.assert_array_equal(sums, x[:, ::-1].cumsum(1)[:, ::-1])


def test_a_node_that_changed_is_compiled_again() -> None:
    node = ir.Node("", "Transpose", [ir.Value(name="x")], [ir.AttrInt64s("perm", [0, 1, 2])])
    assert run_node(node, [X], {"": 17})[0].shape == (2, 3, 4)
    node.attributes["perm"] = ir.AttrInt64s("perm", [2, 1, 0])
    assert run_node(node, [X], {"": 17})[0].shape == (4, 3, 2)


def test_failures_name_node_and_operator() -> None:
    with pytest.raises(InputError, match=r"MatMul-13.*\n?.*float32\[2, 3\]"):
        run("MatMul", np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
    with pytest.raises(UnsupportedError, match=r"my\.Magic-3"):
        run("Magic", X, domain="my", opset=3)
    body = "g (float[2] x) => (float[2] y) { y = Neg (x) }"
    proto = parser.parse_model(f'<ir_version: 9, opset_import: ["" : 17]> {body}')
    with pytest.raises(InputError, match="'x' is not fed"):
        evaluate(load(proto), {})


def test_a_saved_node_keeps_its_own_opset() -> None:
    node = ir.Node("", "Softmax", [ir.Value(name="x")], metadata_props={VERSION_KEY: "11"})
    np.testing.assert_allclose(run_node(node, [X], {"": 17})[0].sum(), 2, rtol=1e-6)  # two rows, not six


def test_host_calls_do_not_import_onnx_ir() -> None:
    """It costs a second, and a model from the cache needs it for nothing else."""
    code = "import sys, sardonyx.runtime.reference; sys.exit('onnx_ir' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
