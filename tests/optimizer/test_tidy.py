"""Models made ready for steps, and files that say nothing twice."""

from __future__ import annotations

import numpy as np
import onnx

import sardonyx
from sardonyx.model.load import load
from sardonyx.model.save import save
from sardonyx.optimizer.fold import fold_batch_normalization
from sardonyx.optimizer.step import Context, make_step
from sardonyx.optimizer.tidy import slim

TWINS = """<ir_version: 10, opset_import: ["" : 18]> g (float[n,3,9,7] x) => (float[n,6,9,7] y)
    <float[6,3,1,1] w, float three = {3.0}, float again = {3.0}, float other = {4.0}> {
    a = Conv(x, w) b = Add(a, three) c = Mul(b, again) y = Sub(c, other)
}"""


def twins(*values):
    """A Conv and numbers after it, of which two are equal; `values` are said in the file."""
    proto = onnx.parser.parse_model(TWINS)
    array = np.random.default_rng(0).standard_normal((6, 3, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    proto.graph.value_info.extend(values)
    return load(proto)


def test_a_file_has_equal_numbers_once_and_no_types_that_follow(tmp_path):
    model = twins()
    step = make_step("static-int8", {})
    made = step.apply(model, Context()).model
    save(made, tmp_path / "long.onnx")
    slim(made, model)
    save(made, tmp_path / "short.onnx")
    long, short = (onnx.load(tmp_path / name) for name in ("long.onnx", "short.onnx"))
    assert long.graph.value_info
    assert not short.graph.value_info
    values = [onnx.numpy_helper.to_array(each) for each in short.graph.initializer]
    assert sum(array.ndim == 0 and array == 3 for array in values) == 1
    assert sum(array.ndim == 0 and array == 4 for array in values) == 1
    onnx.checker.check_model(short, full_check=True)
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 9, 7)).astype(np.float32)}
    before, after = (sardonyx.Session(str(tmp_path / name)).run(x)[0] for name in ("long.onnx", "short.onnx"))
    np.testing.assert_array_equal(before, after)


def test_what_the_original_says_of_its_values_stays(tmp_path):
    model = twins()
    named = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["n", 6, 9, 7])
    made = make_step("float16", {"smallest": 1}).apply(model, Context()).model
    slim(made, twins(named))
    save(made, tmp_path / "out.onnx")
    assert [each.name for each in onnx.load(tmp_path / "out.onnx").graph.value_info] == ["a"]


def test_batch_normalisation_folds_into_transposed_convolutions_in_groups():
    body = """<ir_version: 10, opset_import: ["" : 18]> g (float[n,4,5,3] x) => (float[n,6,7,5] y)
        <float[4,3,3,3] w, float[6] b, float[6] scale, float[6] shift, float[6] mean, float[6] variance> {
        a = ConvTranspose <group = 2> (x, w, b) y = BatchNormalization(a, scale, shift, mean, variance)
    }"""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(body)
    arrays = {name: rng.uniform(0.5, 2, 6) for name in ("b", "scale", "shift", "mean", "variance")}
    arrays["w"] = rng.standard_normal((4, 3, 3, 3))
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    model = load(proto)
    [(mean, deviation)] = fold_batch_normalization(model).values()
    assert [node.op_type for node in model.graph] == ["ConvTranspose"]
    np.testing.assert_allclose(mean, arrays["shift"], rtol=1e-6)
    np.testing.assert_allclose(deviation, arrays["scale"], rtol=1e-6)
    x = {"x": rng.standard_normal((2, 4, 5, 3)).astype(np.float32)}
    [want], [have] = (sardonyx.Session(each).run(x) for each in (proto, model))
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
