"""The whole way: a source becomes a verified file, or nothing under that name."""

import sys

import networks
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from small_models import FLOAT, model_of

from sardonyx.cli import cli
from sardonyx.converters.convert import convert
from sardonyx.converters.process import Worker, read_arrays, write_arrays
from sardonyx.converters.source import Request
from sardonyx.errors import ConversionError, SourceError, VerificationError
from sardonyx.model.load import load
from sardonyx.verifier.verify import verify


@pytest.fixture
def cnn(tmp_path):
    path = tmp_path / "cnn.onnx"
    onnx.save(networks.network("cnn"), path)
    return path


def test_onnx_is_converted_and_verified(cnn, tmp_path):
    result = convert(cnn, tmp_path / "out" / "model.onnx")
    assert result.path == tmp_path / "out" / "model.onnx"
    assert result.report.passed
    assert {row.stage for row in result.report.rows} == {"reference", "sardonyx"}
    assert {"typical", "zeros", "large", "tiny"} <= {row.sample for row in result.report.rows}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]


def test_another_opset(cnn, tmp_path):
    result = convert(cnn, tmp_path / "model.onnx", opset=21)
    assert load(result.path).opset_imports[""] == 21
    assert "opset 18 -> 21" in result.notes


def test_an_opset_that_cannot_be_reached_leaves_nothing(cnn, tmp_path):
    with pytest.raises(ConversionError, match="opset 7"):
        convert(cnn, tmp_path / "model.onnx", opset=7)
    assert not (tmp_path / "model.onnx").exists()


def test_nodes_and_dimensions_without_names_get_some(tmp_path):
    nodes = [onnx.helper.make_node("Relu", ["x"], ["a"]), onnx.helper.make_node("Relu", ["a"], ["y"])]
    onnx.save(model_of(nodes, [("x", FLOAT, [None, 3, None])], ["y"]), tmp_path / "in.onnx")
    model = load(convert(tmp_path / "in.onnx", tmp_path / "out.onnx").path)
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == 2
    assert [str(dim) for dim in model.graph.inputs[0].shape] == ["batch", "3", "x_2"]


def test_without_verification_the_name_says_so(cnn, tmp_path):
    result = convert(cnn, tmp_path / "model.onnx", verify=False)
    assert result.path is None
    assert result.unverified == tmp_path / "model.unverified.onnx"
    assert not (tmp_path / "model.onnx").exists()


def test_a_wrong_conversion_is_kept_under_another_name(cnn, tmp_path, monkeypatch):
    """The exporter's result is spoilt on the way: the first node that differs is named."""
    from sardonyx.converters import convert as module

    def spoil(path):
        model = onnx.load(path)
        networks.weight(model, "conv2", "conv2_w", lambda w: w * np.float32(1.01))
        onnx.save(model, path)

    monkeypatch.setattr(module, "tidy", spoil)
    with pytest.raises(VerificationError, match="off by") as caught:
        convert(cnn, tmp_path / "model.onnx")
    assert not caught.value.report.passed
    assert not (tmp_path / "model.onnx").exists()
    assert (tmp_path / "model.unverified.onnx").exists()


def test_a_child_that_dies_is_an_error_with_its_last_words(cnn, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SourceError, match="ended with code 1"):
        Worker(Request(str(cnn), "onnx"))


def test_half_a_file_is_refused(cnn, tmp_path):
    cnn.write_bytes(cnn.read_bytes()[:500])
    with pytest.raises((SourceError, ValueError)):
        convert(cnn, tmp_path / "model.onnx")
    assert not list(tmp_path.glob("model*"))


def test_arrays_travel_without_pickles(tmp_path):
    import ml_dtypes

    arrays = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1, 2], ml_dtypes.bfloat16),
        "s": np.array(["a", "longer"], object),
        "empty": np.zeros((0, 3), np.int64),
        "strided": np.arange(12).reshape(3, 4)[:, ::2],
    }
    write_arrays(tmp_path / "a.npz", arrays)
    found = read_arrays(tmp_path / "a.npz")
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_the_commands(cnn, tmp_path):
    runner = CliRunner()
    out, page = tmp_path / "out.onnx", tmp_path / "report.html"
    done = runner.invoke(cli, ["convert", str(cnn), "-o", str(out), "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert "<svg" in page.read_text()
    faulty = networks.network("cnn")
    networks.attribute(faulty, "bn2", "epsilon", 1.0)
    onnx.save(faulty, tmp_path / "faulty.onnx")
    failed = runner.invoke(cli, ["verify", str(out), str(tmp_path / "faulty.onnx")])
    assert failed.exit_code == 1
    assert "'bn2'" in failed.output
    assert "another epsilon" in failed.output


def test_one_file_is_compared_under_two_runtimes(cnn):
    report = verify([str(cnn)])
    assert report.passed
    assert report.stages[0] == str(cnn)


def test_a_random_source_is_recognised(tmp_path):
    node = onnx.helper.make_node("RandomNormalLike", ["x"], ["y"])
    onnx.save(model_of([node], [("x", FLOAT, [4])], ["y"]), tmp_path / "random.onnx")
    report = verify([f"onnxruntime:{tmp_path / 'random.onnx'}", str(tmp_path / "random.onnx")])
    assert not report.passed
    assert "random" in report.notes[0]


def test_samples_are_used_first(cnn, tmp_path):
    image = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    report = verify([str(cnn)], [{"image": image}])
    assert report.rows[0].sample == "given 0"
