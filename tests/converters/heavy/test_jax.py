"""JAX functions and Flax modules, converted and compared with JAX itself."""

import flax
import numpy as np
import onnx
import pytest
from converters.heavy.common import converted

from sardonyx.converters.convert import convert
from sardonyx.errors import ConversionError, InputError

pytestmark = pytest.mark.converters
MODELS = "tests.converters.heavy.jax_models"


def dims(path):
    return [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in onnx.load(path).graph.input
    ]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("vit", ["batch", 32, 32, 3]),
        ("lstm", ["batch", 7]),
        ("linen_conv", ["batch", 32, 32, 3]),
        ("tree", ["batch", 7]),
    ],
)
def test_networks_with_a_dynamic_batch(model, shape):
    result = converted(f"{MODELS}:{model}", f"flax {flax.__version__}, random weights", model, kind="module")
    assert dims(result.path)[0] == shape
    assert any(row.sample == "batch = 3" for row in result.report.rows)


def test_the_lstm_of_linen_which_jax2onnx_cannot_trace_is_refused_with_its_reason():
    """That of NNX converts; the refusal is a row, too, until a newer jax2onnx takes it."""
    with pytest.raises(ConversionError, match="jax2onnx refuses"):
        converted(f"{MODELS}:linen_lstm", f"flax {flax.__version__}, random weights", "linen_lstm", kind="module")


def test_names_come_from_the_trees_of_arguments_and_results(tmp_path):
    model = onnx.load(convert(f"{MODELS}:tree", tmp_path / "tree.onnx").path)
    assert [value.name for value in model.graph.input] == ["state.h", "x"]
    assert [value.name for value in model.graph.output] == ["h", "mean"]


def test_a_size_on_which_the_result_depends_is_fixed_and_said(tmp_path):
    result = convert(f"{MODELS}:fixed", tmp_path / "fixed.onnx")
    assert dims(result.path) == [[4, 3]]
    assert any("fixed sizes" in note for note in result.notes)


def test_a_primitive_without_onnx_form_is_named(tmp_path):
    with pytest.raises(ConversionError, match="callback"):
        convert(f"{MODELS}:unknown", tmp_path / "unknown.onnx")
    assert not list(tmp_path.iterdir())


def test_a_function_with_declared_inputs(tmp_path):
    result = convert(
        f"{MODELS}:scaled", tmp_path / "scaled.onnx", kind="jax", options={"inputs": "x:float32[rows,width]"}
    )
    assert dims(result.path) == [["rows", "width"]]


def test_two_samples_show_what_is_dynamic(tmp_path):
    samples = [{"x": np.ones((5, n), np.float32)} for n in (3, 7)]
    result = convert(f"{MODELS}:scaled", tmp_path / "scaled.onnx", kind="jax", samples=samples)
    assert dims(result.path) == [[5, "x_1"]]


def test_a_function_about_whose_inputs_nothing_is_known(tmp_path):
    with pytest.raises(InputError, match="inputs"):
        convert(lambda x: x, tmp_path / "out.onnx")
