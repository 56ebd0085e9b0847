"""TensorFlow Lite's files read and converted without it; what its interpreter computes was stored (see tflite_models.py)."""

import contextlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from sardonyx import Session
from sardonyx.converters import table
from sardonyx.converters.convert import convert
from sardonyx.converters.recognise import recognise
from sardonyx.converters.source import Request
from sardonyx.converters.tflite import open_source
from sardonyx.converters.tflite_schema import constant, read_model
from sardonyx.errors import ConversionError, InputError, ProviderError, SardonyxError, SourceError
from sardonyx.model.load import load
from sardonyx.runtime.options import SessionOptions
from sardonyx.verifier.compare import FAIL, compare
from sardonyx.verifier.verify import output_tolerances

sys.path.insert(0, str(Path(__file__).parent))

import tflite_models
from tflite_writer import Model

FIXTURES = Path(__file__).with_name("fixtures") / "tflite"


def stored(name):
    """What the interpreter computed."""
    with np.load(FIXTURES / f"{name}.npz") as content:
        return [content[f"out{number}"] for number in range(len(content.files))]


def exported(data, folder, **request):
    path = folder / "model.tflite"
    path.write_bytes(data)
    source = open_source(Request(str(path), "tflite", **request), lambda text: None)
    source.notes = source.export(folder / "model.onnx")
    return source


def operators(folder):
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]


@pytest.mark.parametrize("provider", ["reference", "native"])
@pytest.mark.parametrize("name", tflite_models.MODELS)
def test_operators_compute_what_the_interpreter_does(name, provider, tmp_path):
    data, feeds = tflite_models.made(name)
    exported(data, tmp_path)
    session = Session(str(tmp_path / "model.onnx"), SessionOptions(providers=(provider,)))
    found = session.run({port.name: feeds[port.name] for port in session.inputs})
    expected, allowed = stored(name), output_tolerances(tmp_path / "model.onnx", from_source=True)
    assert len(found) == len(expected) == len(allowed)
    for (output, tolerance), want, got in zip(allowed.items(), expected, found, strict=True):
        difference = compare(want, np.asarray(got), tolerance)
        assert difference.verdict != FAIL, (output, difference, want, got)
        if name == "int8":
            assert difference.absolute <= 1  # a step


def test_a_chain_of_layers_has_no_transpose_inside(tmp_path):
    data, _ = tflite_models.made("float_net")
    exported(data, tmp_path)
    assert operators(tmp_path).count("Transpose") <= 3  # the input, and two outputs from the middle


def test_weights_keep_their_size(tmp_path):
    data, _ = tflite_models.made("half_weights")
    exported(data, tmp_path)
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_integer_models_become_qdq(tmp_path):
    data, _ = tflite_models.made("int8")
    exported(data, tmp_path)
    found = operators(tmp_path)
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "MaxPool"} <= set(found)
    model = onnx.load(tmp_path / "model.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT8
    weight = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and len(node.attribute))
    assert weight.attribute[0].name == "axis"


def test_products_of_integer_weights_are_said_to_differ(tmp_path):
    data, _ = tflite_models.made("hybrid")
    source = exported(data, tmp_path)
    assert any("1 operators with integer weights" in note for note in source.notes)


def test_a_variable_becomes_an_input_and_an_output(tmp_path):
    data, _ = tflite_models.made("streaming")
    exported(data, tmp_path)
    session = Session(str(tmp_path / "model.onnx"))
    assert [port.name for port in session.inputs] == ["x", "ring"]
    assert [port.name for port in session.outputs][1] == "ring_next"
    assert json.loads(load(tmp_path / "model.onnx").metadata_props["initial_state"]) == {"ring": 1.0}
    ring = np.ones((3, 4), np.float32)
    for step in range(4):
        mean, ring = session.run({"x": np.full((1, 4), step, np.float32), "ring": ring})
    np.testing.assert_allclose(mean, np.full(4, 2.0))


def test_an_open_dimension_stays_open_or_is_chosen(tmp_path):
    data, _ = tflite_models.made("open_batch")
    exported(data, tmp_path)
    assert Session(str(tmp_path / "model.onnx")).inputs[0].shape == ("batch", 4, 4, 2)
    exported(data, tmp_path, dims={"x.0": 5})
    assert Session(str(tmp_path / "model.onnx")).inputs[0].shape == (5, 4, 4, 2)
    with pytest.raises(InputError, match="is 4 in the model"):
        exported(data, tmp_path, dims={"x.1": 8})


def test_a_model_in_a_bundle(tmp_path):
    data, _ = tflite_models.made("open_batch")
    with zipfile.ZipFile(tmp_path / "two.task", "w") as archive:
        archive.writestr("a.tflite", data)
        archive.writestr("b.tflite", data)
    assert recognise(str(tmp_path / "two.task")) == "tflite"
    with pytest.raises(SourceError, match=r"a\.tflite, b\.tflite"):
        open_source(Request(str(tmp_path / "two.task"), "tflite"), lambda text: None)
    open_source(Request(str(tmp_path / "two.task"), "tflite", options={"member": "b.tflite"}), lambda text: None)


def test_without_an_interpreter_it_is_converted_but_not_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(table.Kind, "runnable", property(lambda kind: not kind.runs))
    data, _ = tflite_models.made("open_batch")
    (tmp_path / "m.tflite").write_bytes(data)
    with pytest.raises(ProviderError) as caught:
        convert(tmp_path / "m.tflite", tmp_path / "out.onnx")
    assert "sardonyx[tflite]" in caught.value.hint
    assert "--no-verify" in caught.value.hint
    assert not list(tmp_path.glob("*.onnx"))
    result = convert(tmp_path / "m.tflite", tmp_path / "out.onnx", verify=False)
    assert result.unverified == tmp_path / "out.unverified.onnx"


def one_operator(name, **options):
    model = Model()
    graph = model.graph()
    x = graph.tensor([2, 3], name="x")
    model.add(graph, [x], [graph.op(name, [x], [graph.tensor([2, 3], name="y")], **options)])
    return model.written()


@pytest.mark.parametrize("name", ["CUSTOM:MyOwn", "RFFT2D"])
def test_an_operator_without_an_onnx_form_is_named_with_its_place(name, tmp_path):
    with pytest.raises(ConversionError) as caught:
        exported(one_operator(name), tmp_path)
    assert (caught.value.node, caught.value.operator) == ("0 y", name)
    assert caught.value.hint
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_half_a_file_is_refused(part, tmp_path):
    data, _ = tflite_models.made("float_net")
    with pytest.raises(SardonyxError):
        exported(data[: int(len(data) * part)], tmp_path)


@pytest.mark.parametrize("name", ["movement", "streaming", "control", "int8"])
def test_damaged_files_give_typed_errors(name, tmp_path):
    data, _ = tflite_models.made(name)
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in rng.integers(8, len(data), 4):
            broken[place] = rng.integers(0, 256)
        with contextlib.suppress(SardonyxError):
            exported(bytes(broken), tmp_path)


def test_tables_that_hold_each_other_end():
    """A vector of subgraphs whose entries all lead to one table that holds the vector again."""
    data = bytearray(tflite_models.made("open_batch")[0])
    model = read_model(bytes(data))
    assert model.reader.left > 0
    model.reader.left = 0
    with pytest.raises(SourceError, match="without end"):
        model.reader.table("Buffer", next(at for kind, at in model.reader.known if kind == "Tensor"))


def test_sparse_constants_are_written_out():
    """Compressed columns of a matrix, as TACO's format has them."""
    model = Model()
    graph = model.graph()
    x = graph.tensor([1, 3], name="x")
    w = graph.constant(np.array([1, 2, 3, 4], np.float32))
    indices = lambda values: (1, "Int32Vector", {"values": values})
    graph.tensors[w] |= {
        "shape": [3, 4],
        "sparsity": {
            "traversal_order": [0, 1],
            "dim_metadata": [
                {"format": 0, "dense_size": 3},
                {"format": 1, "array_segments": indices([0, 2, 2, 4]), "array_indices": indices([0, 3, 1, 2])},
            ],
        },
    }
    model.add(graph, [x], [x])
    read = read_model(model.written())
    found = constant(read, read.subgraphs[0].tensors[w])
    np.testing.assert_array_equal(found, [[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 4, 0]])


def test_pooling_of_mediapipe_and_its_reverse(tmp_path):
    """Windows of 2x3 with borders: where each largest value was is found again."""
    options = np.array([1, 3, 2, 3, 2, 0], "<i4").tobytes()  # same padding, strides and sizes of width and height
    model = Model()
    graph = model.graph()
    x, y, index = graph.tensor([1, 4, 9, 2], name="x"), graph.tensor([1, 2, 3, 2]), graph.tensor([1, 2, 3, 2])
    graph.op("CUSTOM:MaxPoolingWithArgmax2D", [x], [y, index], custom=options)
    back = graph.op("CUSTOM:MaxUnpooling2D", [y, index], [graph.tensor([1, 4, 9, 2])], custom=options)
    model.add(graph, [x], [y, index, back])
    exported(model.written(), tmp_path)
    value = np.random.default_rng(0).standard_normal((1, 4, 9, 2)).astype(np.float32)
    windows = value.reshape(2, 2, 3, 3, 2).transpose(0, 2, 4, 1, 3).reshape(2, 3, 2, 6)
    place = windows.argmax(-1)
    spread = np.where(np.arange(6) == place[..., None], windows, 0).reshape(2, 3, 2, 2, 3).transpose(0, 3, 1, 4, 2)
    for provider in ("reference", "native"):
        session = Session(str(tmp_path / "model.onnx"), SessionOptions(providers=(provider,)))
        found = session.run({"x": value})
        np.testing.assert_array_equal(found[0][0], windows.max(-1))
        np.testing.assert_allclose(found[1][0], place + 0.1, rtol=1e-6)
        np.testing.assert_array_equal(found[2][0], spread.reshape(4, 9, 2))


def test_branches_that_double_at_each_step_end(tmp_path):
    """Each subgraph calls the next in both branches of an If: 2 to the power of 40 of them."""
    model = Model()
    for number in range(40):
        graph = model.graph()
        x, y = graph.tensor([], "bool"), graph.tensor([], "bool")
        last = number == 39
        options = {} if last else {"then_subgraph": number + 1, "else_subgraph": number + 1}
        graph.op(*(("LOGICAL_NOT", [x], [y]) if last else ("IF", [x, x], [y], "If")), **options)
        model.add(graph, [x], [y])
    with pytest.raises(ConversionError, match="more than"):
        exported(model.written(), tmp_path)
